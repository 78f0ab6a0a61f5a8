//! An object that is held while its linker works on it, at most up to a limit.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::error::LinkerError;
use super::here::count;
use super::linked::Linked;
use super::pool::start;
use crate::cell::{Told, WriteHold};
use crate::error::{Error, MembershipError};
use crate::runtime::told::{Lanes, SetHere};
use crate::runtime::turn::{AlarmKey, Alarmed};
use crate::runtime::wait::{Op, Outcome, as_part_of_node, deadline_in, may_block};
use crate::sync::now;
use crate::value::Value;

pub(super) type Hold<T> = Told<WriteHold<T>, Lanes>;

/// What is to be done, for the error if it is not done in time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Read,
    Write,
}

/// See the module. Whoever takes the hold out says how the operation ends: the job that has done its work, or the alarm at
/// the limit, after which the job finds that it is late.
pub(super) struct Held<T: Value> {
    pub linked: Arc<Linked<T>>,
    pub here: SetHere,
    pub object: u64,
    /// Whoever waits for the end waits on that.
    pub op: Arc<Op>,
    what: What,
    hold: Mutex<Option<Hold<T>>>,
    deadline: Instant,
    alarm: Mutex<Option<AlarmKey>>,
}

impl<T: Value> Held<T> {
    /// Has a thread of the linker do that, or this one where the linker is quick. What it answers is waited for at `op`; no
    /// thread but this one is noted for the hold.
    pub fn begin(
        (linked, here): (&Arc<Linked<T>>, &SetHere),
        mut hold: Hold<T>,
        what: What,
        work: impl FnOnce(&Arc<Held<T>>) + Send + 'static,
    ) -> Arc<Op> {
        let object = hold.id();
        // What waits to be written is written first, which may take long.
        let is_quick =
            what == What::Read && linked.is_quick && may_block() && linked.behind.waiting_of(object).is_none();
        if !is_quick {
            hold.forget_note();
        }
        let op = Arc::new(Op::new(Arc::clone(here.lane(object))));
        let held = Arc::new(Held {
            linked: Arc::clone(linked),
            here: here.clone(),
            object,
            op: Arc::clone(&op),
            what,
            hold: Mutex::new(Some(hold)),
            deadline: deadline_in(linked.limit),
            alarm: Mutex::default(),
        });
        if is_quick {
            if let Err(why) = linked.pool.run_here(|| as_part_of_node(|| work(&held))) {
                held.fail(linked.not_taken(why));
            }
            return op;
        }
        let whom = Arc::downgrade(&held);
        // At once where the lane has stopped.
        *held.alarm.lock() = here.lane(object).wake_at(held.deadline, whom);
        let job = {
            let held = Arc::clone(&held);
            move || {
                if !held.is_over() {
                    work(&held);
                }
            }
        };
        if let Err(why) = linked.pool.take(start, job) {
            held.fail(linked.not_taken(why));
        }
        op
    }

    /// Nobody waits for it any more.
    fn is_over(&self) -> bool {
        self.hold.lock().is_none()
    }

    /// The hold, unless the limit was over first.
    pub fn take(&self) -> Option<Hold<T>> {
        let taken = self.hold.lock().take();
        if taken.is_none() {
            count(&self.linked.counts.late, 1);
        }
        taken
    }

    /// The operation has ended. The hold has been taken out before. The lane is needed only for whom somebody else would
    /// have to wake, or not to: a quick linker's reads end before anybody waits for them.
    pub fn end(&self, outcome: Outcome) {
        let (waker, of_wait) = self.op.complete(outcome);
        let of_limit = self.alarm.lock().take();
        if waker.is_some() || of_wait.is_some() || of_limit.is_some() {
            let lane = self.here.lane(self.object);
            let mut state = lane.lock();
            state.alarms.take_back(of_wait);
            state.alarms.take_back(of_limit);
            state.to_wake.add(waker);
            lane.finish(state);
        }
    }

    /// Nothing is changed, and the object is free. Not counted as late: that was.
    pub fn fail(&self, error: impl Into<Error>) {
        // Not under the lock: it tells the lane.
        let hold = self.hold.lock().take();
        if let Some(hold) = hold {
            drop(hold);
            self.end(Outcome::Failed(error.into()));
        }
    }

    /// Another alarm is not needed: from here on somebody else sees to the end.
    pub fn forget_alarm(&self) {
        let alarm = self.alarm.lock().take();
        self.here.lane(self.object).lock().alarms.take_back(alarm);
    }

    fn late(&self) -> Error {
        let (linker, object, limit_ms) = (self.linked.name(), self.object, self.linked.limit_ms());
        let has_stopped = now() < self.deadline;
        match self.what {
            What::Read if has_stopped => MembershipError::Stopped.into(),
            What::Read => LinkerError::TimedOut { linker, object, limit_ms }.into(),
            What::Write => {
                let reason =
                    if has_stopped { "the node has stopped".into() } else { format!("no answer within {limit_ms} ms") };
                LinkerError::Unconfirmed { linker, object, reason }.into()
            }
        }
    }
}

impl<T: Value> Alarmed for Held<T> {
    /// The limit is over, or the lane has stopped.
    fn ring(&self) {
        if !self.is_over() {
            count(&self.linked.counts.timed_out, 1);
            self.fail(self.late());
        }
    }
}
