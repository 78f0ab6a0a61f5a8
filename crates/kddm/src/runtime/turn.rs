//! One turn of a lane: from its lock to its release, and what has to wait until then.
//!
//! A waker runs code of whoever waits: it may poll at once, or drop a task, whose requests take the
//! lane to lose interest. So wakers are only collected during a turn, and woken when it is over.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Weak;
use std::task::Waker;
use std::time::Instant;

use crate::runtime::lane::{Lane, LaneState};
use crate::runtime::quiet;
use crate::sync::{MutexGuard, Ordering};

/// Wakes, and comes back whatever that does: it is code of whoever waits, and others are to be woken after it.
pub(crate) fn wake(waker: Waker) {
    if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
        tracing::error!("the waker of a task panicked, which may sleep on; the next one is woken");
    }
}

/// Whom to wake. Dropping it does so, when this thread has no [quiet](quiet) lock any more.
#[derive(Default)]
pub(crate) struct ToWake {
    /// Those that send something to watchers, and errands in all lanes: first, because nobody knows how long all others take.
    senders: Vec<Waker>,
    /// Those of whoever waits.
    waiting: Vec<Waker>,
}

impl ToWake {
    pub fn add(&mut self, waker: Option<Waker>) {
        self.waiting.extend(waker);
    }

    /// Has something sent, unless that is among the last `few` already.
    pub fn add_sender(&mut self, sender: &Waker, few: usize) {
        if !self.senders.iter().rev().take(few).any(|known| known.will_wake(sender)) {
            self.senders.push(sender.clone());
        }
    }

    pub fn is_empty(&self) -> bool {
        self.senders.is_empty() && self.waiting.is_empty()
    }

    fn wake(mut self) {
        std::mem::take(&mut self.senders).into_iter().for_each(wake);
        std::mem::take(&mut self.waiting).into_iter().for_each(wake);
    }

    /// All of another one, too.
    pub fn append(&mut self, mut other: ToWake) {
        self.senders.append(&mut other.senders);
        self.waiting.append(&mut other.waiting);
    }
}

impl Drop for ToWake {
    fn drop(&mut self) {
        if !self.is_empty()
            && let Some(now) = quiet::keep(std::mem::take(self))
        {
            now.wake();
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel};
    use std::task::Wake;

    use parking_lot::Mutex;

    use super::*;
    use crate::rpc::Seat;

    /// Says its number, and panics if there is none.
    struct Says(Option<u64>, Mutex<Sender<u64>>);

    impl Wake for Says {
        fn wake(self: Arc<Self>) {
            let number = self.0.expect("the test has it panic");
            self.1.lock().send(number).expect("the test listens");
        }
    }

    fn all() -> (impl Fn(Option<u64>) -> Arc<Says>, impl Fn() -> Vec<u64>) {
        let (sender, woken) = channel();
        let says = move |number| Arc::new(Says(number, Mutex::new(sender.clone())));
        (says, move || woken.try_iter().collect())
    }

    #[test]
    fn each_is_woken_whatever_another_does_and_what_is_sent_goes_first() {
        let (says, woken) = all();
        let waker = |number| Waker::from(says(number));
        let sender = waker(Some(3));
        let mut to_wake = ToWake::default();
        to_wake.add(Some(waker(Some(1))));
        to_wake.add(Some(waker(None)));
        to_wake.add_sender(&waker(None), 4);
        to_wake.add(None);
        to_wake.add_sender(&sender, 4);
        to_wake.add(Some(waker(Some(2))));
        to_wake.add_sender(&sender, 4);
        let mut of_another_lane = ToWake::default();
        of_another_lane.add(Some(waker(None)));
        of_another_lane.add_sender(&waker(Some(4)), 4);
        of_another_lane.add(Some(waker(Some(5))));
        to_wake.append(of_another_lane);
        assert!(woken().is_empty(), "not before it is dropped");
        drop(to_wake);
        assert_eq!(woken(), [3, 4, 1, 2, 5]);
    }

    /// As those who wait at one connection, when something has come for all of them, or their limits are over.
    #[test]
    fn a_waker_that_panics_keeps_nothing_from_those_who_wait_beside_it() {
        let (says, woken) = all();
        let seats: Vec<Arc<Seat>> = (0..3).map(|_| Arc::default()).collect();
        let sit = || {
            let numbers = [Some(1), None, Some(2)];
            seats.iter().zip(numbers).for_each(|(seat, number)| seat.wake_by(&Waker::from(says(number))));
        };
        sit();
        seats.iter().for_each(|seat| seat.tell());
        assert_eq!(woken(), [1, 2]);
        sit();
        let alarms = seats.iter().map(|seat| {
            let whom: Weak<Seat> = Arc::downgrade(seat);
            whom as Weak<dyn Alarmed>
        });
        ring(alarms);
        assert_eq!(woken(), [1, 2]);
    }
}
