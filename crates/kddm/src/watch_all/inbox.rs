//! Where changes wait for whoever watches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Wake;
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

/// See the module.
pub(crate) struct Inbox {
    pub(super) inside: Mutex<Inside>,
    /// Of the thread that gathers.
    pub(super) news: Condvar,
    /// Of whoever takes.
    pub seat: Seat,
}

impl Inbox {
    pub fn new(set: u64) -> Inbox {
        let inside = Inside {
            is_told: false,
            is_closed: false,
            has_begun: false,
            changes: VecDeque::new(),
            position: Position::begin(set),
            failed: None,
        };
        Inbox { inside: Mutex::new(inside), news: Condvar::new(), seat: Seat::default() }
    }

    /// The thread that gathers is to look again.
    pub fn tell(&self) {
        self.inside.lock().is_told = true;
        self.news.notify_one();
    }

    pub fn push(&self, change: Change) {
        let mut inside = self.inside.lock();
        let changes = &mut inside.changes;
        let count = match change {
            Change::Skipped { count } => count,
            _ if changes.len() >= INBOX_LIMIT => Some(1),
            change => return changes.push_back(Entry { change, marks: Vec::new() }),
        };
        // What is left out is told behind what came before it, once.
        match changes.back_mut().map(|last| &mut last.change) {
            Some(Change::Skipped { count: before }) => *before = before.zip(count).map(|(one, more)| one + more),
            _ => changes.push_back(Entry { change: Change::Skipped { count }, marks: Vec::new() }),
        }
    }

    /// The position of whoever has taken all that is here.
    pub fn mark(&self, mark: Mark) {
        let mut inside = self.inside.lock();
        let Some(last) = inside.changes.back_mut() else { return inside.position.apply(mark) };
        // One of each member, however many changes are left out.
        match &mark {
            Mark::Source(node, _) => last.marks.retain(|other| !matches!(other, Mark::Source(of, _) if of == node)),
            Mark::Members(_) => last.marks.retain(|other| !matches!(other, Mark::Members(_))),
            Mark::All(_) => last.marks.clear(),
        }
        last.marks.push(mark);
    }

    pub fn take(&self) -> Option<Result<Change, Error>> {
        let mut inside = self.inside.lock();
        let Some(Entry { change, marks }) = inside.changes.pop_front() else { return inside.failed.clone().map(Err) };
        marks.into_iter().for_each(|mark| inside.position.apply(mark));
        Some(Ok(change))
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

impl Wake for Inbox {
    fn wake(self: Arc<Self>) {
        self.tell();
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
        let inbox = Inbox::new(7);
        inbox.mark(heard(1, 3));
        assert_eq!(inbox.position().to_string(), "7:0.0:1.1.3");
        inbox.push(put(1));
        inbox.push(put(2));
        inbox.mark(heard(1, 5));
        assert_eq!(next(&inbox), Some(put(1)));
        assert_eq!(inbox.position().to_string(), "7:0.0:1.1.3", "the other one was not taken");
        assert_eq!(next(&inbox), Some(put(2)));
        assert_eq!(inbox.position().to_string(), "7:0.0:1.1.5");
    }

    #[test]
    fn what_does_not_fit_is_counted_and_what_comes_behind_it_is_told() {
        let inbox = Inbox::new(7);
        for object in 0..INBOX_LIMIT as u64 + 7 {
            inbox.push(put(object));
            inbox.mark(heard(1, object));
        }
        assert_eq!(next(&inbox), Some(put(0)));
        assert_eq!(next(&inbox), Some(put(1)));
        inbox.push(put(9));
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
        inbox.push(Change::Skipped { count: Some(3) });
        inbox.push(Change::Skipped { count: None });
        assert_eq!((next(&inbox), next(&inbox)), (Some(Change::Skipped { count: None }), None));
    }
}
