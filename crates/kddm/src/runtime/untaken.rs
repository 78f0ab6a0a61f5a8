//! Holds that were handed to tasks, and that those have not taken yet.
//!
//! A thread that waits takes its hold at once. A task is woken, and polls when its executor likes; a
//! program may even have forgotten it. If such a hold is in somebody's way it is taken back after a
//! while, and the task asks again when it is polled. So a task that is forgotten stops nobody for long.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kddm_core::id::{ObjectId, SetId};

use crate::runtime::lane::LaneState;
use crate::runtime::wait::{Op, Outcome};

/// How long a hold that nobody has taken may be in somebody's way: longer than an executor needs to poll
/// a task that was woken, and short enough that it is hardly noticed.
const UNTAKEN_LIMIT: Duration = Duration::from_millis(20);

/// Up to some ten seconds, as long as a wait lasts unless it is told otherwise.
const MOST_DOUBLINGS: u8 = 9;

/// From so many on, those that have been taken are forgotten first.
const LEAST_SWEPT: usize = 64;

/// The holds of one lane that tasks were handed.
#[derive(Default)]
pub(crate) struct Untaken {
    handed: Vec<Handed>,
    sweep_at: usize,
}

struct Handed {
    set: SetId,
    object: ObjectId,
    op: Weak<Op>,
}

impl Untaken {
    fn add(&mut self, handed: Handed) {
        if self.handed.len() >= self.sweep_at.max(LEAST_SWEPT) {
            self.handed.retain(Handed::is_untaken);
            self.sweep_at = 2 * self.handed.len();
        }
        self.handed.push(handed);
    }
}

impl Handed {
    fn is_untaken(&self) -> bool {
        self.op.upgrade().is_some_and(|op| op.has_hold())
    }

    /// How long it may be in the way: twice as long each time that its task was too late for it, so that
    /// the slowest gets there some time.
    fn limit(&self) -> Duration {
        let repeats = self.op.upgrade().map_or(0, |op| op.repeats());
        UNTAKEN_LIMIT * (1 << repeats.min(MOST_DOUBLINGS))
    }

    fn is_of(&self, set: SetId, object: ObjectId) -> bool {
        (self.set, self.object) == (set, object)
    }
}

impl LaneState {
    /// The wait of a local thread or task ends with that outcome.
    pub fn hand_over(&mut self, set: SetId, object: ObjectId, op: &Arc<Op>, outcome: Outcome) {
        let is_hold = matches!(outcome, Outcome::Read(_) | Outcome::Write(_));
        let is_task = self.complete(op, outcome);
        if is_hold && is_task {
            self.untaken.add(Handed { set, object, op: Arc::downgrade(op) });
        }
    }

    /// When a hold of the object is to be taken back that has been in the way since then.
    pub fn take_back_at(&self, set: SetId, object: ObjectId, since: Instant) -> Option<Instant> {
        let untaken = |handed: &Handed| handed.is_of(set, object) && handed.is_untaken();
        self.untaken.handed.iter().filter(|handed| untaken(handed)).map(|handed| since + handed.limit()).min()
    }

    /// Takes back what has been in the way for too long; whoever waits for it goes on. When to look again.
    pub fn take_back_untaken(&mut self, now: Instant) -> Option<Instant> {
        let due_at = |handed: &Handed| {
            let local = self.locals.get(&(handed.set, handed.object))?;
            Some(local.held_up.as_ref()?.since + handed.limit())
        };
        let is_due = |handed: &mut Handed| due_at(handed).is_some_and(|at| at <= now);
        let due: Vec<Handed> = self.untaken.handed.extract_if(.., is_due).collect();
        let later = self.untaken.handed.iter().filter(|handed| handed.is_untaken()).filter_map(due_at).min();
        for Handed { set, object, op } in due {
            // The task may be taking it at this moment: then it has it.
            if let Some(hold) = op.upgrade().and_then(|op| op.take_back()) {
                let _the_driver_looks_by_itself = hold.release();
                self.released(set, object);
            }
        }
        later
    }
}
