//! One turn of a lane: from its lock to its release, and what has to wait until then.
//!
//! A waker runs code of whoever waits: it may poll at once, or drop a task, whose requests take the
//! lane to lose interest. So wakers are only collected during a turn, and woken when it is over.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Weak;
use std::task::Waker;
use std::time::Instant;

use crate::runtime::lane::{Lane, LaneState};
use crate::sync::{MutexGuard, Ordering};

/// Wakers to wake. Dropping it wakes them.
#[derive(Default)]
pub(crate) struct ToWake(Vec<Waker>);

impl ToWake {
    pub fn add(&mut self, waker: Option<Waker>) {
        self.0.extend(waker);
    }

    /// As [`add`](ToWake::add), unless it is among the last `few` already.
    pub fn add_once(&mut self, waker: &Waker, few: usize) {
        if !self.0.iter().rev().take(few).any(|known| known.will_wake(waker)) {
            self.0.push(waker.clone());
        }
    }
}

impl Drop for ToWake {
    fn drop(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}

/// The lane, taken. What the turn wants woken is woken when it has been given up again.
pub(crate) struct Turn<'a> {
    // In this order: the lane is given up first.
    state: MutexGuard<'a, LaneState>,
    to_wake: ToWake,
    /// The thread unwinds already, for a reason of its own.
    was_panicking: bool,
}

impl<'a> Turn<'a> {
    pub fn new(state: MutexGuard<'a, LaneState>) -> Turn<'a> {
        Turn { state, to_wake: ToWake::default(), was_panicking: std::thread::panicking() }
    }

    /// Gives up the lane; what was to be woken is woken when that is dropped.
    pub fn give_up(mut self) -> ToWake {
        std::mem::take(&mut self.state.to_wake)
    }

    /// Whoever waits for the lane gets it before this thread does again.
    pub fn yield_fairly(&mut self) {
        MutexGuard::bump(&mut self.state);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.was_panicking {
            // It came from within the turn: what the lane knows may be half changed.
            self.state.fence("a panic in a turn of the lane");
        }
        self.to_wake = std::mem::take(&mut self.state.to_wake);
    }
}

impl Deref for Turn<'_> {
    type Target = LaneState;
    fn deref(&self) -> &LaneState {
        &self.state
    }
}

impl DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut LaneState {
        &mut self.state
    }
}

/// Whoever is to hear that the limit of a wait is over.
pub(crate) trait Alarmed: Send + Sync {
    /// Wakes the task that waits now. Called without any lock.
    fn ring(&self);
}

/// Which alarm: it is taken back by this when the wait is over before its limit.
pub(crate) type AlarmKey = (Instant, u64);

/// Tasks to wake at the limits of their waits.
#[derive(Default)]
pub(crate) struct Alarms {
    set: BTreeMap<AlarmKey, Weak<dyn Alarmed>>,
    numbered: u64,
}

impl Alarms {
    pub fn set(&mut self, at: Instant, whom: Weak<dyn Alarmed>) -> AlarmKey {
        self.numbered += 1;
        let key = (at, self.numbered);
        self.set.insert(key, whom);
        key
    }

    pub fn take_back(&mut self, key: Option<AlarmKey>) {
        if let Some(key) = key {
            self.set.remove(&key);
        }
    }

    pub fn next(&self) -> Option<Instant> {
        self.set.first_key_value().map(|((at, _), _)| *at)
    }

    /// Those whose limit is over by now.
    pub fn due(&mut self, now: Instant) -> Vec<Weak<dyn Alarmed>> {
        let mut due = Vec::new();
        while let Some(first) = self.set.first_entry().filter(|first| first.key().0 <= now) {
            due.push(first.remove());
        }
        due
    }

    /// All of them, for who sets none any more.
    pub fn take_all(&mut self) -> Vec<Weak<dyn Alarmed>> {
        std::mem::take(&mut self.set).into_values().collect()
    }
}

impl Lane {
    /// Wakes a task at its limit; at once where nobody would do so at its time any more.
    pub fn wake_at(&self, at: Instant, whom: Weak<dyn Alarmed>) -> Option<AlarmKey> {
        let mut state = self.lock();
        if state.stopped {
            drop(state);
            ring([whom]);
            return None;
        }
        let alarm = state.alarms.set(at, whom);
        self.finish(state);
        Some(alarm)
    }

    /// Everything that waits here ends, pauses too: no alarm rings once the lane's thread has ended.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let mut state = self.lock();
        state.stop(&self.poller);
        let pauses = state.alarms.take_all();
        drop(state);
        ring(pauses);
        self.poller.wake();
    }
}

/// Without the lane: whoever is woken may come back at once.
pub(crate) fn ring(alarms: impl IntoIterator<Item = Weak<dyn Alarmed>>) {
    for whom in alarms.into_iter().filter_map(|whom| whom.upgrade()) {
        whom.ring();
    }
}
