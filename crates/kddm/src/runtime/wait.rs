//! One wait for one object: the meeting point of the thread or task that waits and the lane that
//! answers.

use std::cell::Cell;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::cell::Hold;
use crate::error::Error;
use crate::runtime::lane::Lane;
use crate::runtime::turn::{AlarmKey, Alarmed, wake};
use crate::sync::{AtomicBool, AtomicU8, Condvar, Mutex, Ordering, Slip, now, slips, thread_local};

/// When a wait that begins now ends. A limit beyond the end of time is as good as some years.
pub(crate) fn deadline_in(limit: Duration) -> Instant {
    let now = now();
    now.checked_add(limit).unwrap_or_else(|| now + FOREVER)
}

/// Longer than any process waits, and no clock overflows by it: a year.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How an error is said to whoever waits.
pub(crate) type Tell<'a> = &'a dyn Fn(Error) -> Error;

/// How a wait ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A read hold, handed over.
    Read(Hold),
    /// The write hold, handed over. Without a value in the cell it is the first touch.
    Write(Hold),
    /// Access is here, held by nobody: look again.
    Available,
    /// The object was removed, or flushed.
    Done,
    /// The node that lends is not there, or is again: ask once more.
    Again,
    /// No access.
    Failed(Error),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WaitResult {
    News,
    TimedOut,
}

#[derive(Default)]
struct Shared {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
    /// Set at the lane for the limit of the wait.
    alarm: Option<AlarmKey>,
    /// The waiting thread sits in the lane's poller, not on the condition variable.
    polling: bool,
}

/// See the module.
pub(crate) struct Op {
    lane: Arc<Lane>,
    shared: Mutex<Shared>,
    woken: Condvar,
    done: AtomicBool,
    claimed: AtomicBool,
    /// A task waits, which may never come back, not a thread.
    by_task: AtomicBool,
    /// How often the wait was begun anew.
    repeats: AtomicU8,
    /// It began in a set that was frozen, by somebody who held nothing of it: no freeze waits for it.
    newcomer: AtomicBool,
    /// Nobody will take its outcome: it goes on, but waits for no thaw.
    left: AtomicBool,
}

impl Op {
    pub fn new(lane: Arc<Lane>) -> Op {
        Op {
            lane,
            shared: Mutex::default(),
            woken: Condvar::new(),
            done: AtomicBool::new(false),
            claimed: AtomicBool::new(false),
            by_task: AtomicBool::new(false),
            repeats: AtomicU8::new(0),
            newcomer: AtomicBool::new(false),
            left: AtomicBool::new(false),
        }
    }

    /// Somebody really waits: a grant may be handed over as a hold.
    pub fn claim(&self) {
        self.claimed.store(true, Ordering::Release);
    }

    /// Whether a task is who waits.
    pub fn is_of_task(&self) -> bool {
        self.by_task.load(Ordering::Acquire)
    }

    /// How often the same wait was begun anew.
    pub fn repeats(&self) -> u8 {
        self.repeats.load(Ordering::Relaxed)
    }

    /// It goes on for a wait that was begun so often before.
    pub fn repeat(&self, times: u8) {
        self.repeats.store(times, Ordering::Relaxed);
    }

    /// Under the lock of its lane.
    pub fn note_newcomer(&self, is_newcomer: bool) {
        self.newcomer.store(is_newcomer, Ordering::Relaxed);
    }

    /// Whether it may not begin to write while its set is being frozen.
    pub fn is_newcomer(&self) -> bool {
        self.newcomer.load(Ordering::Relaxed)
    }

    /// Under the lock of its lane.
    pub fn note_left(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Whether nobody will take its outcome.
    pub fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    pub fn is_claimed(&self) -> bool {
        self.claimed.load(Ordering::Acquire)
    }

    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// The lane's side: the wait is over. Who is to be woken once the lane has been given up, and the
    /// alarm that is of no use any more: see [`LaneState::complete`](super::lane::LaneState::complete).
    #[must_use]
    pub fn complete(&self, outcome: Outcome) -> (Option<Waker>, Option<AlarmKey>) {
        let (left_behind, polling) = {
            let mut shared = self.shared.lock();
            shared.outcome = Some(outcome);
            self.done.store(true, Ordering::Release);
            ((shared.waker.take(), shared.alarm.take()), shared.polling)
        };
        if polling && !on_own_poll(self) && !slips(Slip::LeavePollerAsleep) {
            self.lane.wake_poller();
        }
        if !slips(Slip::NotifyNobody) {
            self.woken.notify_all();
        }
        left_behind
    }

    /// Nobody is to be woken any more.
    pub fn take_waker(&self) -> (Option<Waker>, Option<AlarmKey>) {
        let mut shared = self.shared.lock();
        (shared.waker.take(), shared.alarm.take())
    }

    /// The lane's side: nobody waits any more.
    pub fn take_alarm(&self) -> Option<AlarmKey> {
        self.shared.lock().alarm.take()
    }

    /// The waiting side takes the outcome; the wait is then as if it had never begun.
    pub fn take(&self) -> Option<Outcome> {
        if !self.is_done() {
            return None;
        }
        self.shared.lock().outcome.take()
    }

    /// Whether a hold has been handed over and not been taken.
    pub fn has_hold(&self) -> bool {
        matches!(self.shared.lock().outcome, Some(Outcome::Read(_) | Outcome::Write(_)))
    }

    /// The lane's side: the hold that was handed over, if it has not been taken. The waiting side is to
    /// look again.
    pub fn take_back(&self) -> Option<Hold> {
        let mut shared = self.shared.lock();
        match shared.outcome.take() {
            Some(Outcome::Read(hold) | Outcome::Write(hold)) => {
                shared.outcome = Some(Outcome::Available);
                Some(hold)
            }
            other => {
                shared.outcome = other;
                None
            }
        }
    }

    /// Blocks until there is news or the deadline has passed. Polls the lane if nobody else does.
    pub fn wait(&self, deadline: Instant) -> WaitResult {
        self.by_task.store(false, Ordering::Release);
        loop {
            if self.is_done() {
                return WaitResult::News;
            }
            if now() >= deadline {
                return WaitResult::TimedOut;
            }
            if self.lane.enter_poll() {
                self.poll_lane(deadline);
                self.lane.leave_poll();
                continue;
            }
            let mut shared = self.shared.lock();
            if !self.is_done() || slips(Slip::LookNotAgain) {
                self.woken.wait_until(&mut shared, deadline);
            }
        }
    }

    fn poll_lane(&self, deadline: Instant) {
        self.shared.lock().polling = true;
        POLLING_FOR.with(|polling| polling.set(std::ptr::from_ref(self).addr()));
        while !self.is_done() {
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                break;
            }
            self.lane.poll(Some(left));
        }
        POLLING_FOR.with(|polling| polling.set(0));
        self.shared.lock().polling = false;
    }

    /// Leaves a waker behind, in the place of an earlier one. False if there is news already.
    pub fn wake_by(self: &Arc<Self>, waker: &Waker, deadline: Instant) -> bool {
        self.by_task.store(true, Ordering::Release);
        // Neither copied nor dropped under a lock: that is code of whoever waits.
        let mut waker = Some(waker.clone());
        let mut shared = self.shared.lock();
        if self.is_done() {
            return false;
        }
        std::mem::swap(&mut shared.waker, &mut waker);
        let has_alarm = shared.alarm.is_some();
        drop(shared);
        if !has_alarm {
            self.set_alarm(deadline);
        }
        true
    }

    /// The lane wakes whoever waits then. Under its lock, so that a wait that ends meanwhile leaves no
    /// alarm behind.
    fn set_alarm(self: &Arc<Self>, deadline: Instant) {
        let mut state = self.lane.lock();
        let mut shared = self.shared.lock();
        if !self.is_done() {
            let whom: Weak<Op> = Arc::downgrade(self);
            shared.alarm = Some(state.alarms.set(deadline, whom));
        }
        drop(shared);
        self.lane.finish(state);
    }
}

impl Alarmed for Op {
    fn ring(&self) {
        let waker = self.shared.lock().waker.take();
        waker.into_iter().for_each(wake);
    }
}

thread_local! {
    /// The address of the op for which this thread polls: it need not wake itself.
    static POLLING_FOR: Cell<usize> = const { Cell::new(0) };
    /// This thread must never wait for the node: it is part of it.
    static PART_OF_NODE: Cell<bool> = const { Cell::new(false) };
}

fn on_own_poll(op: &Op) -> bool {
    POLLING_FOR.with(Cell::get) == std::ptr::from_ref(op).addr()
}

/// Whether this thread polls for an op of its own, while the lane's thread can do so for the rest.
pub(crate) fn is_guest() -> bool {
    POLLING_FOR.with(Cell::get) != 0
}

/// Marks this thread as one that the node itself needs.
pub(crate) fn mark_part_of_node() {
    PART_OF_NODE.with(|part| part.set(true));
}

/// Does something that the node itself needs: nothing in it waits.
pub(crate) fn as_part_of_node<R>(work: impl FnOnce() -> R) -> R {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            PART_OF_NODE.with(|part| part.set(self.0));
        }
    }
    // Also if it panics: the thread may be one of the user's, which waits again afterwards.
    let _before = Before(PART_OF_NODE.with(|part| part.replace(true)));
    work()
}

/// Whether a wait on this thread cannot stop the node or an async executor.
pub(crate) fn may_block() -> bool {
    !PART_OF_NODE.with(Cell::get)
}
