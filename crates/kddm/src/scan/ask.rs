//! Whoever scans: whom to ask, and what to do where nobody can say anything yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{ObjectId, SHARDS_PER_SET, ShardIndex};

use super::wire::{Count, Part, Question, Told, Told1};
use super::{Cursor, Found, MOST_WIDTH, PAGE_LIMIT, SERVICE, ScanPage};
use crate::error::{AccessError, Error, MembershipError, SetError, WaitingFor};
use crate::node::{Node, Owner};
use crate::pending::Pending;
use crate::rpc::RpcError;
use crate::runtime::Runtime;
use crate::runtime::told::SetHere;
use crate::runtime::wait::{deadline_in, may_block};

/// The first pause before nodes are asked again that could not say anything, and the longest. It ends early when the
/// membership changes.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// How often in a row whoever is named is asked at once: two nodes that hand over shards may name each other meanwhile.
const SENT_ON: u32 = 8;

/// What exists in so many shards nobody can say any more.
pub(super) fn in_doubt(name: &str, shards: u64) -> Error {
    SetError::InDoubt { name: name.into(), shards }.into()
}

/// A page of a set. Blocks.
pub(super) fn page(here: &SetHere, from: Cursor, most: usize, limit: Duration) -> Result<ScanPage, Error> {
    let most = most.clamp(1, PAGE_LIMIT);
    if here.runtime.lender.is_some() {
        let question = Question::Page { set: here.set.0, from, most: most as u32 };
        return match ask_lender(here, &question, limit)? {
            Told::Page(page) if page.next.is_none_or(|next| next.is_good()) => Ok(page),
            other => Err(unfit(here.runtime.identity.id.0, &other)),
        };
    }
    let last = from.shard.saturating_add(from.width).min(SHARDS_PER_SET);
    let question = |shards: &[u16]| {
        let after = from.after.filter(|_| shards.first() == Some(&from.shard));
        Question::Shards { set: here.set.0, shards: shards.to_vec(), after, most: most as u32 }
    };
    let parts = |told| if let Told::Shards(parts) = told { Ok(parts) } else { Err(told) };
    let mut asking = Asking::new(here, from.shard..last, limit, question, parts);
    // As soon as the first of them is known, there is something to say.
    let known = asking.until(|known: &BTreeMap<u16, Part>| known.contains_key(&from.shard))?;
    let policy = here.set.policy().unwrap_or_default();
    let is_of = |shard: u16| move |found: &Found| ObjectId(found.id).shard(policy).0 == shard;
    for (shard, part) in &known {
        let after = from.after.filter(|_| *shard == from.shard);
        if !is_good(part, after, most) || !part.found.iter().all(is_of(*shard)) {
            let (service, what, reason) = (SERVICE.into(), "the answer", format!("shard {shard} cannot have that"));
            return Err(RpcError::Codec {
                node: part.found.first().map_or(0, |found| found.home),
                service,
                what,
                reason,
            }
            .into());
        }
    }
    Ok(assemble(from, last, most, known))
}

/// Whether a home may have said that: a scan must come to an end, whatever others say.
fn is_good(part: &Part, after: Option<u64>, most: usize) -> bool {
    let ids = || after.into_iter().chain(part.found.iter().map(|found| found.id));
    let grows = ids().zip(ids().skip(1)).all(|(one, next)| one < next);
    grows && part.found.len() <= most && !(part.has_more && part.found.is_empty())
}

/// What is known of the shards from the first on, without a gap.
fn assemble(from: Cursor, last: u16, most: usize, mut known: BTreeMap<u16, Part>) -> ScanPage {
    let mut page = ScanPage::default();
    let mut shard = from.shard;
    let mut after = None;
    while let Some(part) = known.remove(&shard) {
        // The first shard is a page at most.
        if page.found.len() + part.found.len() > most && shard > from.shard {
            break;
        }
        page.found.extend(part.found);
        page.in_doubt += u16::from(part.in_doubt && !part.has_more);
        if part.has_more {
            after = page.found.last().map(|found| found.id);
            break;
        }
        shard += 1;
    }
    let done = shard - from.shard;
    let width = match done {
        // There was room for more.
        _ if shard == last && page.found.len() < most / 4 => from.width.saturating_mul(2),
        _ if shard == last => from.width,
        _ => done,
    };
    let width = width.clamp(1, MOST_WIDTH);
    page.next = (shard < SHARDS_PER_SET).then_some(Cursor { shard, after, width });
    page
}

/// How many objects a set has. Blocks.
pub(super) fn census(here: &SetHere, limit: Duration) -> Result<Count, Error> {
    if here.runtime.lender.is_some() {
        return match ask_lender(here, &Question::All { set: here.set.0 }, limit)? {
            Told::All(count) => Ok(count),
            other => Err(unfit(here.runtime.identity.id.0, &other)),
        };
    }
    let question = |shards: &[u16]| Question::Census { set: here.set.0, shards: shards.to_vec() };
    let counts = |told| if let Told::Census(counts) = told { Ok(counts) } else { Err(told) };
    let mut asking = Asking::new(here, 0..SHARDS_PER_SET, limit, question, counts);
    let known = asking.until(|known: &BTreeMap<u16, Count>| known.len() == usize::from(SHARDS_PER_SET))?;
    Ok(known.into_values().fold(Count::default(), |sum, one| Count {
        objects: sum.objects.saturating_add(one.objects),
        lost: sum.lost.saturating_add(one.lost),
        in_doubt: sum.in_doubt + one.in_doubt.min(1),
    }))
}

fn ask_lender(here: &SetHere, question: &Question, limit: Duration) -> Result<Told, Error> {
    let runtime = &here.runtime;
    decoded(runtime.identity.id.0, call(runtime, runtime.identity.id.0, question, limit).wait()?)
}

/// Asks another node, or that of this program.
pub(super) fn call(runtime: &Arc<Runtime>, node: u16, question: &Question, limit: Duration) -> Pending<Vec<u8>> {
    // Writing to memory does not fail.
    let body = postcard::to_stdvec(question).unwrap_or_default();
    Node(Owner::guest(Arc::clone(runtime))).rpc().call(node, SERVICE, &body, limit)
}

pub(super) fn decoded(node: u16, body: Vec<u8>) -> Result<Told, Error> {
    postcard::from_bytes(&body).map_err(|error| {
        let (service, what, reason) = (SERVICE.into(), "the answer", error.to_string());
        RpcError::Codec { node, service, what, reason }.into()
    })
}

/// That was no answer to this question.
pub(super) fn unfit(node: u16, told: &Told) -> Error {
    match told {
        Told::Away => AccessError::Fenced.into(),
        other => {
            let reason = format!("it is another one: {other:.100?}");
            RpcError::Codec { node, service: SERVICE.into(), what: "the answer", reason }.into()
        }
    }
}

/// Shards that homes are asked about, until enough of them have said something.
struct Asking<'a, A, Q, P> {
    here: &'a SetHere,
    /// Those of which nothing is known yet, and who is asked about each.
    whom: BTreeMap<u16, u16>,
    known: BTreeMap<u16, A>,
    question: Q,
    parts: P,
    limit: Duration,
    deadline: Instant,
    pause: Duration,
}

impl<'a, A, Q, P> Asking<'a, A, Q, P>
where
    Q: Fn(&[u16]) -> Question,
    P: Fn(Told) -> Result<Vec<Told1<A>>, Told>,
{
    fn new(
        here: &'a SetHere,
        shards: std::ops::Range<u16>,
        limit: Duration,
        question: Q,
        parts: P,
    ) -> Asking<'a, A, Q, P> {
        let whom = shards.map(|shard| (shard, 0)).collect();
        let (known, deadline, pause) = (BTreeMap::new(), deadline_in(limit), FIRST_PAUSE);
        let mut asking = Asking { here, whom, known, question, parts, limit, deadline, pause };
        asking.look_for_homes(|_| true);
        asking
    }

    /// Asks whoever answers for them, as far as this node knows.
    fn look_for_homes(&mut self, which: impl Fn(u16) -> bool) {
        for (shard, whom) in self.whom.iter_mut().filter(|(shard, _)| which(**shard)) {
            let shard = ShardIndex(*shard);
            *whom = self.here.runtime.lane_of_shard(shard).lock().core.answers_for(self.here.set, shard).0;
        }
    }

    /// Asks again and again. What is known when it is enough.
    fn until(&mut self, is_enough: impl Fn(&BTreeMap<u16, A>) -> bool) -> Result<BTreeMap<u16, A>, Error> {
        if !may_block() {
            return Err(AccessError::WouldBlock.into());
        }
        let mut sent_on = 0;
        loop {
            let before = self.whom.clone();
            let has_learned = self.ask_all()?;
            if is_enough(&self.known) {
                return Ok(std::mem::take(&mut self.known));
            }
            if Instant::now() >= self.deadline {
                return Err(self.late());
            }
            // This node's own view may be the older one: who is named knows more, or knows who does.
            let is_sent_on = self.whom.iter().any(|(shard, whom)| before.get(shard) != Some(whom));
            sent_on = if is_sent_on { sent_on + 1 } else { 0 };
            if !has_learned && (!is_sent_on || sent_on > SENT_ON) {
                self.rest()?;
                sent_on = 0;
            }
        }
    }

    /// Asks each home once, all at one time. Whether it was told anything of which more comes at once.
    fn ask_all(&mut self) -> Result<bool, Error> {
        let mut by_home: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
        for (shard, whom) in &self.whom {
            by_home.entry(*whom).or_default().push(*shard);
        }
        let runtime = Arc::clone(&self.here.runtime);
        let me = runtime.identity.id.0;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let mut asked = Vec::new();
        for (home, shards) in by_home.iter().filter(|(home, _)| **home != me && **home != 0) {
            asked.push((*home, shards, call(&runtime, *home, &(self.question)(shards), left)));
        }
        let mut has_learned = false;
        if let Some(shards) = by_home.get(&me) {
            let told = runtime.scanned(&(self.question)(shards));
            has_learned |= self.heard(me, shards, told)?;
        }
        for (home, shards, asked) in asked {
            match asked.wait() {
                Ok(body) => {
                    let told = decoded(home, body)?;
                    has_learned |= self.heard(home, shards, told)?;
                }
                Err(error) if is_the_end(&error) => return Err(error),
                // It may be gone: then others answer for its shards soon.
                Err(error) => tracing::debug!(home, %error, "a home does not say what it has"),
            }
        }
        Ok(has_learned)
    }

    /// What a home has said of the first of these shards.
    fn heard(&mut self, home: u16, shards: &[u16], told: Told) -> Result<bool, Error> {
        let parts = match (self.parts)(told) {
            Ok(parts) => parts,
            Err(Told::Away) if home == self.here.runtime.identity.id.0 => return Err(self.away()),
            Err(Told::Away) => return Ok(false),
            Err(other) => return Err(unfit(home, &other)),
        };
        let mut has_learned = false;
        for (shard, part) in shards.iter().zip(parts) {
            match part {
                Told1::Here(part) => {
                    has_learned = true;
                    self.whom.remove(shard);
                    self.known.insert(*shard, part);
                }
                Told1::Elsewhere(node) if node != 0 && node != home => _ = self.whom.insert(*shard, node),
                Told1::Elsewhere(_) | Told1::NotYet => {}
            }
        }
        Ok(has_learned)
    }

    /// This node answers for nothing: it stops, or has lost its lease.
    fn away(&self) -> Error {
        let runtime = &self.here.runtime;
        let is_fenced = runtime.lanes.iter().any(|lane| lane.lock().fenced) || !runtime.lease.is_valid();
        if is_fenced { AccessError::Fenced.into() } else { MembershipError::Stopped.into() }
    }

    /// A moment later more may be known: homes have moved, or have heard what others have.
    fn rest(&mut self) -> Result<(), Error> {
        let runtime = &self.here.runtime;
        let until = (Instant::now() + self.pause).min(self.deadline);
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        let mut membership = runtime.membership.lock();
        runtime.wait_for_change(&mut membership, until);
        drop(membership);
        if runtime.is_stopping() {
            return Err(MembershipError::Stopped.into());
        }
        // Whom others have named may be gone by now.
        self.look_for_homes(|_| true);
        Ok(())
    }

    fn late(&self) -> Error {
        let limit_ms = self.limit.as_millis().try_into().unwrap_or(u64::MAX);
        let home = self.whom.values().copied().next().unwrap_or_default();
        AccessError::TimedOut { limit_ms, waiting_for: WaitingFor::Node(home) }.into()
    }
}

/// Asking again does not help.
fn is_the_end(error: &Error) -> bool {
    matches!(error, Error::Membership(MembershipError::Stopped) | Error::Access(AccessError::WouldBlock))
}

#[cfg(test)]
mod tests {
    use super::super::{ObjectState, WIDTH};
    use super::*;

    fn part(ids: &[u64], has_more: bool) -> Part {
        let found = |id: &u64| Found { id: *id, home: 1, owner: Some(1), state: ObjectState::Owned };
        Part { found: ids.iter().map(found).collect(), has_more, in_doubt: false }
    }

    #[test]
    fn a_page_ends_where_something_is_missing_or_it_is_full() {
        let from = Cursor::default();
        let ids = |page: &ScanPage| page.found.iter().map(|found| found.id).collect::<Vec<_>>();
        let known = BTreeMap::from([(0, part(&[1, 2], false)), (1, part(&[3], false)), (3, part(&[9], false))]);
        let page = assemble(from, 64, 10, known.clone());
        assert_eq!((ids(&page), page.next.map(|next| next.to_string())), (vec![1, 2, 3], Some("2".into())));
        let page = assemble(from, 64, 2, known);
        assert_eq!((ids(&page), page.next.map(|next| next.to_string())), (vec![1, 2], Some("1".into())));
        let known = BTreeMap::from([(0, part(&[], false)), (1, part(&[3, 4], true)), (2, part(&[5], false))]);
        let page = assemble(from, 64, 10, known);
        assert_eq!((ids(&page), page.next.map(|next| next.to_string())), (vec![3, 4], Some("1:4".into())));
        let all: BTreeMap<u16, Part> = (1_000..1_024).map(|shard| (shard, part(&[shard.into()], false))).collect();
        let page = assemble("1000".parse().expect("a place"), SHARDS_PER_SET, 100, all);
        assert_eq!((page.found.len(), page.next), (24, None));
    }

    /// Its home has moved, and this node has not heard of it: it asks whom the old one names, and does not rest before.
    #[test]
    fn whoever_is_named_is_asked_at_once() {
        let nodes = Node::local_cluster(3).expect("three nodes");
        let set: crate::Set<u64> = nodes[0].set("named").open().wait().expect("it opens");
        let here = &set.0.here;
        // A home that has yet to hear what it has would let it rest.
        census(here, Duration::from_secs(60)).expect("all have settled");
        let parts = |told| if let Told::Census(counts) = told { Ok(counts) } else { Err(told) };
        let question = |shards: &[u16]| Question::Census { set: here.set.0, shards: shards.to_vec() };
        let mut asking = Asking::new(here, 0..SHARDS_PER_SET, Duration::from_secs(20), question, parts);
        // In a ring, so that nobody is asked who answers.
        asking.whom.values_mut().for_each(|whom| *whom = *whom % 3 + 1);
        let known = asking.until(|known: &BTreeMap<u16, Count>| known.len() == usize::from(SHARDS_PER_SET));
        assert_eq!(known.expect("all answer").len(), usize::from(SHARDS_PER_SET));
        assert_eq!(asking.pause, FIRST_PAUSE, "it has rested");
    }

    #[test]
    fn little_in_many_shards_is_asked_for_in_fewer_questions() {
        let empty: BTreeMap<u16, Part> = (0..WIDTH).map(|shard| (shard, part(&[], false))).collect();
        let page = assemble(Cursor::default(), WIDTH, 100, empty);
        assert_eq!(page.next.map(|next| (next.shard, next.width)), Some((WIDTH, 2 * WIDTH)));
        let first = BTreeMap::from([(0, part(&[1], false))]);
        let page = assemble(Cursor::default(), WIDTH, 100, first);
        assert_eq!(page.next.map(|next| (next.shard, next.width)), Some((1, 1)));
    }
}
