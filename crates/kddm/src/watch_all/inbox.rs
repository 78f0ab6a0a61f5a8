//! Where changes wait for whoever watches.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::Change;
use super::position::{Mark, Position};
use crate::error::Error;
use crate::rpc::Seat;
use crate::runtime::turn::Alarmed;

/// Changes that may wait for whoever watches; of more it is told how many were skipped.
const INBOX_LIMIT: usize = 4096;

struct Entry {
    change: Change,
    /// Of the position, once it was taken.
    marks: Vec<Mark>,
}

pub(super) struct Inside {
    pub is_told: bool,
    pub is_closed: bool,
    pub has_begun: bool,
    changes: VecDeque<Entry>,
    /// What was taken.
    position: Position,
    failed: Option<Error>,
}

impl Inside {
    fn mark(&mut self, mark: Mark) {
        let Some(last) = self.changes.back_mut() else { return self.position.apply(mark) };
        // One of each member, however many changes are left out.
        match &mark {
            Mark::Source(node, _) => last.marks.retain(|other| !matches!(other, Mark::Source(of, _) if of == node)),
            Mark::Members(_) => last.marks.retain(|other| !matches!(other, Mark::Members(_))),
            Mark::All(_) => last.marks.clear(),
        }
        last.marks.push(mark);
    }
}

/// See the module.
pub(crate) struct Inbox {
    pub(super) inside: Mutex<Inside>,
    /// Of the thread that gathers.
    pub(super) news: Condvar,
    /// Of whoever takes.
    pub seat: Seat,
}

impl Inbox {
    /// One that goes on is there until more was taken.
    pub fn new(set: u64, from: Option<&Position>) -> Inbox {
        let from = from.filter(|from| from.set == set).cloned();
        let inside = Inside {
            is_told: false,
            is_closed: false,
            has_begun: false,
            changes: VecDeque::new(),
            position: from.unwrap_or_else(|| Position::begin(set)),
            failed: None,
        };
        Inbox { inside: Mutex::new(inside), news: Condvar::new(), seat: Seat::default() }
    }

    /// The thread that gathers is to look again.
    pub fn tell(&self) {
        self.inside.lock().is_told = true;
        self.news.notify_one();
    }

    /// A change, and the position of whoever has taken it.
    pub fn push(&self, change: Change, mark: Option<Mark>) {
        let mut inside = self.inside.lock();
        let changes = &mut inside.changes;
        let left_out = match change {
            Change::Skipped { count } => Some(count),
            _ if changes.len() >= INBOX_LIMIT => Some(Some(1)),
            _ => None,
        };
        // What is left out is told behind what came before it, once.
        match (left_out, changes.back_mut().map(|last| &mut last.change)) {
            (Some(count), Some(Change::Skipped { count: before })) => {
                *before = before.zip(count).map(|(one, more)| one.saturating_add(more));
            }
            (Some(count), _) => changes.push_back(Entry { change: Change::Skipped { count }, marks: Vec::new() }),
            (None, _) => changes.push_back(Entry { change, marks: Vec::new() }),
        }
        mark.into_iter().for_each(|mark| inside.mark(mark));
    }

    /// The position of whoever has taken all that is here.
    pub fn mark(&self, mark: Mark) {
        self.inside.lock().mark(mark);
    }

    pub fn take(&self) -> Option<Result<Change, Error>> {
        self.take_marked().map(|taken| taken.map(|(change, _)| change))
    }

    /// With it, how the position has gone on.
    pub fn take_marked(&self) -> Option<Result<(Change, Vec<Mark>), Error>> {
        let mut inside = self.inside.lock();
        let Some(Entry { change, marks }) = inside.changes.pop_front() else { return inside.failed.clone().map(Err) };
        marks.iter().for_each(|mark| inside.position.apply(mark.clone()));
        Some(Ok((change, marks)))
    }

    pub fn has_news(&self) -> bool {
        let inside = self.inside.lock();
        !inside.changes.is_empty() || inside.failed.is_some()
    }

    pub fn position(&self) -> Position {
        self.inside.lock().position.clone()
    }

    pub fn begun(&self) -> Option<Result<(), Error>> {
        let inside = self.inside.lock();
        match &inside.failed {
            Some(error) => Some(Err(error.clone())),
            None => inside.has_begun.then_some(Ok(())),
        }
    }

    pub fn begins(&self) {
        self.inside.lock().has_begun = true;
        self.seat.tell();
    }

    /// From there; what is here was told behind that. Nobody has taken anything yet: whoever hears first that something may be
    /// missing, and reads what there is, need not be told so again when it comes back. The seat is to be told.
    pub fn begins_at(&self, marks: Vec<Mark>, is_gap: bool) {
        let mut inside = self.inside.lock();
        if is_gap {
            inside.changes.push_front(Entry { change: Change::Skipped { count: None }, marks });
        } else {
            marks.into_iter().for_each(|mark| inside.position.apply(mark));
        }
        inside.has_begun = true;
    }

    /// Nobody takes anything any more.
    pub fn is_closed(&self) -> bool {
        self.inside.lock().is_closed
    }

    /// The thread that gathers looks again then, or when it is told to.
    pub fn rest(&self, pause: Duration) {
        let mut inside = self.inside.lock();
        if !inside.is_told {
            self.news.wait_for(&mut inside, pause);
        }
        inside.is_told = false;
    }

    pub fn fail(&self, error: Error) {
        self.inside.lock().failed.get_or_insert(error);
        self.seat.tell();
    }
}

impl Alarmed for Inbox {
    fn ring(&self) {
        self.seat.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::super::position::Heard;
    use super::*;
    use crate::watch::Seen;

    fn put(object: u64) -> Change {
        Change::Put { object, seen: Seen { tenure: 1, version: 1 } }
    }

    fn heard(node: u16, upto: u64) -> Mark {
        Mark::Source(node, Heard { incarnation: 1, upto })
    }

    fn next(inbox: &Inbox) -> Option<Change> {
        inbox.take().map(|taken| taken.expect("nothing has failed"))
    }

    #[test]
    fn a_position_follows_what_was_taken() {
        let inbox = Inbox::new(7, None);
        inbox.mark(heard(1, 3));
        assert_eq!(inbox.position().to_string(), "7:0.0:1.1.3");
        inbox.push(put(1), None);
        inbox.push(put(2), Some(heard(1, 5)));
        assert_eq!(next(&inbox), Some(put(1)));
        assert_eq!(inbox.position().to_string(), "7:0.0:1.1.3", "the other one was not taken");
        assert_eq!(next(&inbox), Some(put(2)));
        assert_eq!(inbox.position().to_string(), "7:0.0:1.1.5");
    }

    /// One that goes on is where it was until it has taken something; what may be missing is told first, with the beginning.
    #[test]
    fn a_watch_that_goes_on_begins_where_it_was() {
        let from: Position = "7:2.3:1.1.4,2.1.9".parse().expect("a position");
        assert_eq!(Inbox::new(8, Some(&from)).position().to_string(), "8:0.0:");
        for is_gap in [false, true] {
            let inbox = Inbox::new(7, Some(&from));
            inbox.push(put(1), Some(heard(1, 6)));
            inbox.push(put(2), Some(heard(1, 7)));
            inbox.begins_at(vec![heard(1, 5)], is_gap);
            if is_gap {
                assert_eq!(inbox.position(), from);
                assert_eq!(next(&inbox), Some(Change::Skipped { count: None }));
            }
            assert_eq!(inbox.position().to_string(), "7:2.3:1.1.5,2.1.9");
            assert_eq!(next(&inbox), Some(put(1)));
            assert_eq!(inbox.position().to_string(), "7:2.3:1.1.6,2.1.9");
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_what_comes_behind_it_is_told() {
        let inbox = Inbox::new(7, None);
        for object in 0..INBOX_LIMIT as u64 + 7 {
            inbox.push(put(object), Some(heard(1, object)));
        }
        assert_eq!(next(&inbox), Some(put(0)));
        assert_eq!(next(&inbox), Some(put(1)));
        inbox.push(put(9), None);
        for object in 2..INBOX_LIMIT as u64 {
            assert_eq!(next(&inbox), Some(put(object)));
        }
        assert_eq!(
            inbox.position().to_string(),
            format!("7:0.0:1.1.{}", INBOX_LIMIT - 1),
            "not beyond what is missing"
        );
        assert_eq!(next(&inbox), Some(Change::Skipped { count: Some(7) }));
        assert_eq!(inbox.position().to_string(), format!("7:0.0:1.1.{}", INBOX_LIMIT + 6));
        assert_eq!((next(&inbox), next(&inbox)), (Some(put(9)), None));
        inbox.push(Change::Skipped { count: Some(u64::MAX) }, None);
        inbox.push(Change::Skipped { count: Some(3) }, None);
        assert_eq!(next(&inbox), Some(Change::Skipped { count: Some(u64::MAX) }));
        inbox.push(Change::Skipped { count: Some(3) }, None);
        inbox.push(Change::Skipped { count: None }, None);
        assert_eq!((next(&inbox), next(&inbox)), (Some(Change::Skipped { count: None }), None));
    }
}
