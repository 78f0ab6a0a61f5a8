//! The node that measures: prepares objects through the participants, times operations on them one by
//! one, and counts what all nodes have sent meanwhile.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use kddm::rpc::Replies;
use kddm::{Node, Pending, PlacedBy, Raw, Set, Statistics};

use super::case::{CASES, Case, Operation, Roles, SETS, SetKind};
use super::participant::{Answer, Order, SERVICE, SetName, own};
use super::report::{CaseReport, Report, Samples, Skipped};
use super::round_trip::{RoundTrip, SIZES};
use super::{Error, ORDER_LIMIT, Options, Progress};

/// Operations for each round trip that is measured between them.
const OPERATIONS_A_TRIP: usize = 10;

/// How long the end of a set waits for holders: this node is the only one, and holds nothing then.
const DESTROY_LIMIT: Duration = Duration::from_secs(5);

/// A temporary set.
struct Temporary {
    kind: SetKind,
    name: SetName,
    set: Set<Raw>,
}

/// What one case has given.
#[derive(Default)]
struct Measured {
    operations: Samples,
    puts: Samples,
    trips: [Samples; SIZES.len()],
    sent: Vec<u64>,
}

impl Measured {
    fn add(&mut self, batch: &Measured) {
        self.operations.append(&batch.operations);
        self.puts.append(&batch.puts);
        self.trips.iter_mut().zip(&batch.trips).for_each(|(all, batch)| all.append(batch));
        self.sent.resize(batch.sent.len(), 0);
        self.sent.iter_mut().zip(&batch.sent).for_each(|(all, batch)| *all += batch);
    }
}

/// See the module.
pub(super) struct Bench<'a> {
    node: &'a Node,
    options: &'a Options,
    /// All others that serve; the first ones take part.
    others: Vec<u16>,
    sets: Vec<Temporary>,
}

impl<'a> Bench<'a> {
    /// Creates the temporary sets.
    pub fn new(node: &'a Node, options: &'a Options, others: Vec<u16>) -> Result<Bench<'a>, Error> {
        let name = options.name.clone().unwrap_or_else(|| format!("bench/{}-{:x}", node.id(), token()));
        // From here on it removes what it has created, also when it fails.
        let mut bench = Bench { node, options, others, sets: Vec::new() };
        for kind in SETS {
            let home = if kind.is_home_here { node.id() } else { bench.others[0] };
            let name = SetName { name: format!("{name}/{}", kind.name), object_bytes: kind.bytes as u32 };
            let set = node.set::<Raw>(&name.name).placement(PlacedBy::Fixed(home));
            let set = set.replicas(0).first_touch(move |_| Raw(vec![0; kind.bytes])).open().wait()?;
            bench.sets.push(Temporary { kind, name, set });
        }
        Ok(bench)
    }

    /// Removes them. The first error, after all were tried.
    pub fn remove_sets(mut self) -> Result<(), Error> {
        self.remove()
    }

    fn remove(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        let names: Vec<String> = self.sets.drain(..).map(|temporary| temporary.name.name).collect();
        for set in &names {
            if let Err(error) = self.node.destroy_set(set, DESTROY_LIMIT).wait() {
                result = result.and(Err(Error::LeftBehind { set: set.clone(), reason: error.to_string() }));
            }
        }
        if !names.is_empty() {
            // Of those that cannot be told it is known why, or it does not matter any more.
            let _forgotten = self.tell(&self.others, &Order::Forget { sets: names });
        }
        result
    }

    /// Gives participants an order and waits until all have done it.
    fn tell(&self, nodes: &[u16], order: &Order) -> Result<Vec<(u16, Answer)>, Error> {
        let replies: Replies<Answer> = self.node.rpc().call_all_typed(nodes, SERVICE, order, ORDER_LIMIT).wait()?;
        replies.into_iter().map(|(node, reply)| Ok((node, reply?))).collect()
    }

    /// Messages that all nodes together have sent, by kind.
    fn sent(&self) -> Result<Vec<u64>, Error> {
        let mut sum = self.node.statistics().sent.to_vec();
        for (node, done) in self.tell(&self.others, &Order::Count)? {
            match done {
                Answer::Sent(sent) if sent.len() == sum.len() => {
                    sum.iter_mut().zip(sent).for_each(|(all, one)| *all += one)
                }
                _ => return Err(Error::Answer(node)),
            }
        }
        Ok(sum)
    }

    /// Runs all cases in all sets.
    pub fn measure(&self, progress: &mut dyn FnMut(&Progress)) -> Result<Report, Error> {
        let mut trip = RoundTrip::new(self.node, self.others[0], token())?;
        let (mut cases, mut skipped, mut trips) = (Vec::new(), Vec::new(), <[Samples; SIZES.len()]>::default());
        let all = self.sets.iter().flat_map(|set| CASES.map(|case| (set, case)));
        for (number, (set, case)) in all.enumerate() {
            let roles = match Roles::of(case, set.kind, self.node.id(), &self.others) {
                Ok(roles) => roles,
                Err(reason) => {
                    skipped.push(Skipped { set: set.kind.name.into(), case: case.name.into(), reason });
                    continue;
                }
            };
            let work = Work { bench: self, set, case, roles };
            let mut at = Progress {
                set: set.kind.name,
                case: case.name,
                number: number + 1,
                of: SETS.len() * CASES.len(),
                operations: 0,
                of_operations: self.options.operations,
            };
            let measured = work.run(&mut trip, &mut |operations| {
                at.operations = operations;
                progress(&at);
            })?;
            trips.iter_mut().zip(&measured.trips).for_each(|(all, case)| all.append(case));
            cases.push(work.report(&measured));
        }
        Ok(Report {
            nodes: self.others.len() + 1,
            node: self.node.id(),
            participants: self.others.iter().copied().take(MOST_PARTICIPANTS).collect(),
            not_asked: Vec::new(),
            rtt_by: trip.by().into(),
            rtt_us: SIZES.map(|bytes| bytes.to_string()).into_iter().zip(trips.map(|trips| trips.times())).collect(),
            cases,
            skipped,
        })
    }
}

/// No case needs more nodes besides the one that measures.
const MOST_PARTICIPANTS: usize = 3;

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::error!("{error}");
        }
    }
}

/// One case in one set.
struct Work<'a> {
    bench: &'a Bench<'a>,
    set: &'a Temporary,
    case: Case,
    roles: Roles,
}

impl Work<'_> {
    fn run(&self, trip: &mut RoundTrip, progress: &mut dyn FnMut(usize)) -> Result<Measured, Error> {
        let options = self.bench.options;
        let mut all = Measured::default();
        // Every operation has an object of its own, and no case meets one that another has used.
        let case = CASES.iter().position(|case| *case == self.case).unwrap_or(0) as u64;
        let mut next = case << 32;
        let begin = Instant::now();
        let mut warm_up = options.warm_up;
        progress(0);
        while all.operations.len() < options.operations {
            if warm_up == 0 && all.operations.len() > 0 && begin.elapsed() >= options.case_limit {
                break;
            }
            let left = if warm_up > 0 { warm_up } else { options.operations - all.operations.len() };
            let objects = next..next + left.min(options.batch) as u64;
            next = objects.end;
            let batch = self.batch(objects, trip)?;
            if warm_up > 0 {
                warm_up -= batch.operations.len().min(warm_up);
                if begin.elapsed() >= options.case_limit / 2 {
                    warm_up = 0;
                }
            } else {
                all.add(&batch);
                progress(all.operations.len());
            }
        }
        Ok(all)
    }

    /// Prepares objects, times an operation on each, and removes them.
    fn batch(&self, objects: Range<u64>, trip: &mut RoundTrip) -> Result<Measured, Error> {
        let mut batch = Measured::default();
        self.prepare(&objects)?;
        let before = self.bench.sent()?;
        for (number, object) in objects.clone().enumerate() {
            self.bench.options.is_cancelled()?;
            self.operate(object, &mut batch)?;
            if number % OPERATIONS_A_TRIP == 0 {
                trip.measure(&mut batch.trips)?;
            }
        }
        let after = self.bench.sent()?;
        batch.sent = after.iter().zip(before).map(|(after, before)| after - before).collect();
        if self.case.operation != Operation::Remove {
            let removes: Vec<_> = objects.map(|object| self.set.set.remove(object)).collect();
            removes.into_iter().try_for_each(Pending::wait)?;
        }
        Ok(batch)
    }

    fn prepare(&self, objects: &Range<u64>) -> Result<(), Error> {
        let (set, from, count) = (self.set.name.clone(), objects.start, objects.end - objects.start);
        match self.roles.owner {
            None => {}
            Some(owner) if owner == self.roles.here => own(&self.set.set, objects.clone())?,
            Some(owner) => {
                self.bench.tell(&[owner], &Order::Own { set: set.clone(), from, count })?;
            }
        }
        if !self.roles.sharers.is_empty() {
            self.bench.tell(&self.roles.sharers, &Order::Copy { set, from, count })?;
        }
        Ok(())
    }

    fn operate(&self, object: u64, batch: &mut Measured) -> Result<(), Error> {
        let set = &self.set.set;
        let begin = Instant::now();
        match self.case.operation {
            Operation::Get => {
                let guard = set.get(object).wait()?;
                batch.operations.push(begin.elapsed());
                let put = Instant::now();
                drop(guard);
                batch.puts.push(put.elapsed());
            }
            Operation::Grab => {
                let mut guard = set.grab(object).wait()?;
                batch.operations.push(begin.elapsed());
                // A put of what was changed: it has something to publish.
                guard.0[0] = guard.0[0].wrapping_add(1);
                let put = Instant::now();
                guard.put().wait()?;
                batch.puts.push(put.elapsed());
            }
            Operation::Remove => {
                set.remove(object).wait()?;
                batch.operations.push(begin.elapsed());
            }
        }
        Ok(())
    }

    fn report(&self, measured: &Measured) -> CaseReport {
        let (times, puts) = (measured.operations.times(), measured.puts.times());
        let count = times.count;
        // The answer to a request for an object carries about as many bytes as its floor.
        let floor = &measured.trips[usize::from(self.set.kind.bytes > SIZES[0])];
        let budget = self.roles.budget(self.case.operation);
        let a_piece = |sent: u64| sent as f64 / count.max(1) as f64;
        let by_kind = Statistics::kinds().zip(&measured.sent).filter(|(_, sent)| **sent > 0);
        let by_kind: BTreeMap<String, f64> = by_kind.map(|(kind, sent)| (kind.into(), a_piece(*sent))).collect();
        let has_put = puts.count > 0;
        CaseReport {
            set: self.set.kind.name.into(),
            case: self.case.name.into(),
            count,
            p50_us: times.p50,
            p99_us: times.p99,
            p999_us: times.p999,
            mean_us: times.mean,
            put_p50_us: has_put.then_some(puts.p50),
            put_p99_us: has_put.then_some(puts.p99),
            rtt_ratio: times.p50 / floor.times().p50.max(f64::MIN_POSITIVE),
            messages: a_piece(measured.sent.iter().sum()),
            budget: budget.values().sum(),
            messages_by_kind: by_kind,
            budget_by_kind: budget.into_iter().map(|(kind, count)| (kind.into(), count)).collect(),
        }
    }
}

/// A number that no other run has: from the standard library's random hasher.
fn token() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}
