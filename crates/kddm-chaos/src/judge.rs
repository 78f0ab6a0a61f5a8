//! What became of the objects: completed puts that are lost, and reads of what was not the value any more.
//! Whether all of it is linearizable is for `kddm_history` to say; these two are told apart because they
//! say what is wrong.

use std::collections::HashMap;
use std::time::Duration;

use kddm_history::{Kind, Operation, Outcome, Seen, Word};

use crate::fault::Fault;
use crate::report::Happened;

/// The value of an object after the run, none if nobody could read it.
pub type Last = Option<u64>;

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Completed puts that are newer than what is left.
    pub lost: u64,
    /// Objects that nobody could read at the end; the last put of each is counted as lost.
    pub unreadable: u64,
    /// Reads of a value that a put had replaced which was complete before the read began.
    pub stale: u64,
}

/// When the clients of a host could work again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Return {
    /// After which fault.
    pub fault: Fault,
    /// Of which host.
    pub host: u16,
    /// When it was over, in nanoseconds of the run.
    pub to_ns: u64,
    /// When the host had its next fault, if it had one.
    pub next_ns: Option<u64>,
    /// How long after that; none if they could not before the host had the next fault, or the run was over.
    pub after: Option<Duration>,
}

/// How long a host may take to be back by itself after a split. One that has not had so long is not judged.
const BACK_LIMIT: Duration = Duration::from_secs(10);

impl Return {
    /// What is to be said of a host that did not come back after it was cut off.
    pub fn is_missed(&self, end_ns: u64) -> Option<String> {
        let end_ns = self.next_ns.map_or(end_ns, |next_ns| next_ns.min(end_ns));
        let had_time = end_ns.saturating_sub(self.to_ns) > BACK_LIMIT.as_nanos() as u64;
        let is_missed = self.fault == Fault::Split && self.after.is_none() && had_time;
        is_missed.then(|| format!("host {} did not come back by itself after a split", self.host))
    }
}

/// When the first operation of a client of its host was done that began after each fault.
pub fn returns(history: &[Operation], faults: &[Happened], host_of: impl Fn(u64) -> Option<u16>) -> Vec<Return> {
    let of = |happened: &Happened| {
        let (fault, host, to_ns) = (happened.fault, happened.host, happened.to_ns);
        let next_ns = faults.iter().filter(|next| next.host == host).map(|next| next.from_ns);
        let next_ns = next_ns.filter(|from_ns| *from_ns > to_ns).min();
        let is_its = |done: &&Operation| done.invoke_ns >= to_ns && host_of(done.client) == Some(host);
        let done = history.iter().filter(is_its).filter(|done| done.outcome == Outcome::Ok);
        let first_ns = done
            .filter_map(|done| done.return_ns)
            .filter(|done_ns| next_ns.is_none_or(|next_ns| *done_ns < next_ns))
            .min();
        Return { fault, host, to_ns, next_ns, after: first_ns.map(|first_ns| Duration::from_nanos(first_ns - to_ns)) }
    };
    faults.iter().map(of).collect()
}

/// Operations of clients on the smaller side of a split that began when no lease of before it could last any more,
/// and were answered while it lasted: whoever has a lease counts it from when he asked for it.
pub fn answered_alone(
    history: &[Operation],
    faults: &[Happened],
    lease: Duration,
    host_of: impl Fn(u64) -> Option<u16>,
) -> u64 {
    let is_alone = |done: &&Operation| {
        faults.iter().any(|split| {
            let is_cut_off = host_of(done.client).is_some_and(|host| split.cut_off.contains(&host));
            let from_ns = split.whole_ns.start + lease.as_nanos() as u64;
            let is_within = |done_ns: u64| done.invoke_ns > from_ns && done_ns < split.whole_ns.end;
            let is_within = done.return_ns.is_some_and(is_within);
            is_cut_off && is_within
        })
    };
    history.iter().filter(|done| done.outcome == Outcome::Ok).filter(is_alone).count() as u64
}

/// A put that may have happened.
#[derive(Clone, Copy)]
struct Put {
    invoke_ns: u64,
    /// By when it has happened; one of unknown outcome may happen at any time.
    until_ns: u64,
    is_certain: bool,
}

impl Put {
    /// Whether it began after a value was given by then. One that nobody gave is older than all.
    fn is_after(&self, given_ns: Option<u64>) -> bool {
        given_ns.is_none_or(|given_ns| self.invoke_ns > given_ns)
    }
}

/// Judges all operations, with the last value of each object.
pub fn judge(operations: &[Operation], last: &HashMap<u64, Last>) -> Found {
    let mut of_object: HashMap<u64, Vec<&Operation>> = HashMap::new();
    for operation in operations {
        if let Word::Number(object) = operation.object {
            of_object.entry(object).or_default().push(operation);
        }
    }
    let mut found = Found::default();
    for (object, operations) in of_object {
        let puts = puts(&operations);
        let certain = newest_first(&puts);
        let ended_ns = first_end_ns(&certain);
        match last.get(&object).copied().flatten() {
            None => {
                let had_value = u64::from(!certain.is_empty());
                found.unreadable += had_value;
                found.lost += had_value;
            }
            Some(value) => {
                let given_ns = puts.get(&value).map(|put| put.until_ns);
                found.lost += certain.iter().take_while(|put| put.is_after(given_ns)).count() as u64;
            }
        }
        found.stale += operations.iter().filter(|read| is_stale(read, &puts, &certain, &ended_ns)).count() as u64;
    }
    found
}

/// By value.
fn puts(operations: &[&Operation]) -> HashMap<u64, Put> {
    let put = |operation: &&Operation| match (&operation.value, operation.kind, operation.outcome) {
        (_, Kind::Read, _) | (_, _, Outcome::Failed) | (None | Some(Word::Text(_)), ..) => None,
        (Some(Word::Number(value)), _, outcome) => {
            let is_certain = outcome == Outcome::Ok;
            let until_ns = operation.return_ns.filter(|_| is_certain).unwrap_or(u64::MAX);
            Some((*value, Put { invoke_ns: operation.invoke_ns, until_ns, is_certain }))
        }
    };
    operations.iter().filter_map(put).collect()
}

/// The certain ones.
fn newest_first(puts: &HashMap<u64, Put>) -> Vec<Put> {
    let mut certain: Vec<Put> = puts.values().filter(|put| put.is_certain).copied().collect();
    certain.sort_by_key(|put| std::cmp::Reverse(put.invoke_ns));
    certain
}

/// Whether a put began after the one that is seen had ended, and had ended before the look began.
fn is_stale(read: &Operation, puts: &HashMap<u64, Put>, certain: &[Put], ended_ns: &[u64]) -> bool {
    let value = match read.seen {
        Seen::Value(Word::Number(value)) => value,
        // Of an object that was made anew.
        Seen::Absent => 0,
        Seen::Value(Word::Text(_)) | Seen::Nothing => return false,
    };
    let given_ns = puts.get(&value).map(|put| put.until_ns);
    let newer = certain.partition_point(|put| put.is_after(given_ns));
    newer.checked_sub(1).and_then(|last| ended_ns.get(last)).is_some_and(|ended_ns| *ended_ns < read.invoke_ns)
}

/// For each of the puts, newest first, when the first one had ended of it and of all that are newer.
fn first_end_ns(newest_first: &[Put]) -> Vec<u64> {
    let first = |first_ns: &mut u64, put: &Put| {
        *first_ns = put.until_ns.min(*first_ns);
        Some(*first_ns)
    };
    newest_first.iter().scan(u64::MAX, first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(kind: Kind, times: (u64, u64), seen: u64, value: Option<u64>, outcome: Outcome) -> Operation {
        Operation {
            client: 1,
            object: Word::Number(1),
            invoke_ns: times.0,
            return_ns: Some(times.1),
            kind,
            value: value.map(Word::Number),
            seen: if seen == 0 { Seen::Absent } else { Seen::Value(Word::Number(seen)) },
            outcome,
        }
    }

    fn put(times: (u64, u64), seen: u64, value: u64) -> Operation {
        operation(Kind::Update, times, seen, Some(value), Outcome::Ok)
    }

    fn read(times: (u64, u64), seen: u64) -> Operation {
        operation(Kind::Read, times, seen, None, Outcome::Ok)
    }

    #[test]
    fn a_minority_is_not_to_answer_and_comes_back() {
        const MS: u64 = 1_000_000;
        let whole_ns = 300 * MS..2000 * MS;
        let (from_ns, to_ns, cut_off) = (0, 2300 * MS, vec![2]);
        let split = Happened { fault: Fault::Split, led: false, host: 2, from_ns, to_ns, whole_ns, cut_off };
        let here = |number: u64| Some(number as u16 + 1);
        let lease = Duration::from_millis(1000);
        let at = |from: u64, to: u64| [read((from * MS, to * MS), 0)];
        let alone = |history: &[Operation]| answered_alone(history, std::slice::from_ref(&split), lease, here);
        assert_eq!((alone(&at(900, 950)), alone(&at(1400, 1500)), alone(&at(1400, 2100))), (0, 1, 0));
        assert_eq!(alone(&at(1250, 1260)), 0, "until 300 ms not all were cut off");
        let back = |history: &[Operation]| returns(history, std::slice::from_ref(&split), here)[0];
        assert_eq!(back(&at(2400, 2600)).after, Some(Duration::from_millis(300)));
        assert_eq!(back(&at(1900, 2300)).after, None);
        assert!(back(&[]).is_missed(2400 * MS).is_none() && back(&[]).is_missed(20_000 * MS).is_some());
        let next = Happened { fault: Fault::DiskFull, from_ns: 2500 * MS, to_ns: 3000 * MS, ..split.clone() };
        let back = returns(&[], &[split.clone(), next], here)[0];
        assert!(back.is_missed(20_000 * MS).is_none(), "it had half a second until its next fault");
    }

    fn judged(operations: &[Operation], last: Last) -> Found {
        judge(operations, &HashMap::from([(1, last)]))
    }

    #[test]
    fn nothing_is_lost_where_the_last_put_is_left() {
        let all = [put((0, 1), 0, 1), put((2, 3), 1, 2), read((4, 5), 2)];
        assert_eq!(judged(&all, Some(2)), Found::default());
    }

    #[test]
    fn puts_that_are_newer_than_what_is_left_are_lost() {
        let all = [put((0, 1), 0, 1), put((2, 3), 1, 2), put((4, 5), 2, 3)];
        assert_eq!(judged(&all, Some(1)).lost, 2);
        assert_eq!(judged(&all, Some(0)).lost, 3, "an object that was made anew");
        assert_eq!(judged(&all, None), Found { lost: 1, unreadable: 1, stale: 0 });
        assert_eq!(judged(&[read((0, 1), 0)], None), Found::default(), "nothing was ever put");
        let overlapping = [put((0, 10), 0, 1), put((5, 8), 1, 2)];
        assert_eq!(judged(&overlapping, Some(1)).lost, 0, "either may have been the last");
    }

    #[test]
    fn what_may_have_happened_at_any_time_explains_what_is_left() {
        let unknown = operation(Kind::Update, (0, 1), 0, Some(1), Outcome::Unknown);
        assert_eq!(judged(&[unknown, put((2, 3), 0, 2)], Some(1)).lost, 0);
        let failed = operation(Kind::Update, (2, 3), 1, Some(2), Outcome::Failed);
        assert_eq!(judged(&[put((0, 1), 0, 1), failed], Some(1)).lost, 0);
    }

    #[test]
    fn a_read_of_what_was_replaced_is_stale() {
        let puts = [put((0, 1), 0, 1), put((2, 3), 1, 2)];
        let stale = |read: Operation| judged(&[&puts[..], &[read]].concat(), Some(2)).stale;
        assert_eq!(stale(read((4, 5), 1)), 1);
        assert_eq!(stale(read((4, 5), 2)), 0);
        assert_eq!(stale(read((2, 5), 1)), 0, "they overlap");
        assert_eq!(stale(read((4, 5), 0)), 1, "of an object that was made anew");
        assert_eq!(stale(put((4, 5), 1, 9)), 1, "a put that saw it");
    }
}
