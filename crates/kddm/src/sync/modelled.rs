//! Locks and time of shuttle, with the interface of those that the library has otherwise.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
pub(crate) use shuttle::thread_local;

use super::Slip;

/// Time passes by itself up to what is nearer than this. A wait for longer than that is one for ever: if
/// nothing else goes on, it has lost its wake-up, and the time must not hide it.
const HORIZON: Duration = Duration::from_secs(10);

/// As `parking_lot`'s.
#[derive(Default, Debug)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(MutexGuard(Some(guard))),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(MutexGuard(Some(poisoned.into_inner()))),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// As `parking_lot`'s. Empty only while its thread waits on a condition variable.
pub(crate) struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

impl<T> MutexGuard<'_, T> {
    /// Lets others have the lock, if they want it. Here they may have it at each step in any case.
    pub fn bump(_guard: &mut Self) {}
}

const HELD: &str = "a guard has the lock while its thread runs";

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(HELD)
    }
}

/// As `parking_lot`'s.
#[derive(Clone, Default)]
pub(crate) struct Condvar(Arc<shuttle::sync::Condvar>);

impl Condvar {
    pub fn new() -> Condvar {
        Condvar::default()
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) {
        let sleeper = World::lie_down(self, deadline);
        let held = guard.0.take().expect(HELD);
        guard.0 = Some(self.0.wait(held).unwrap_or_else(std::sync::PoisonError::into_inner));
        World::get_up(sleeper);
    }

    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, limit: Duration) {
        self.wait_until(guard, now() + limit);
    }
}

/// Whoever waits with a limit, until when.
struct Sleeper {
    number: u64,
    until: Duration,
    on: Condvar,
}

/// What all nodes of a schedule share: the time, and that something has happened to a socket.
#[derive(Default)]
struct World {
    sleepers: Vec<Sleeper>,
    numbered: u64,
    happened: u64,
    is_over: bool,
}

#[derive(Default)]
struct Shared {
    world: Mutex<World>,
    /// Looked at without a step.
    elapsed_ns: std::sync::atomic::AtomicU64,
    something: Condvar,
    /// Somebody has lain down, or the schedule is over.
    for_time: Condvar,
}

shuttle::lazy_static! {
    static ref SHARED: Shared = Shared::default();
}

fn began() -> Instant {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    *BEGAN.get_or_init(Instant::now)
}

fn elapsed() -> Duration {
    Duration::from_nanos(SHARED.elapsed_ns.load(Ordering::SeqCst))
}

/// What time it is in this schedule.
pub(crate) fn now() -> Instant {
    began() + elapsed()
}

/// See [`super::something_has_happened`].
pub(crate) fn something_has_happened() {
    SHARED.world.lock().happened += 1;
    SHARED.something.notify_all();
}

/// How often something has happened.
pub(crate) fn happened() -> u64 {
    SHARED.world.lock().happened
}

/// Waits until more has happened than that, at most until `deadline`.
pub(crate) fn wait_for_more(seen: u64, deadline: Option<Instant>) {
    let sleeper = deadline.and_then(|deadline| World::lie_down(&SHARED.something, deadline));
    let mut world = SHARED.world.lock();
    while world.happened == seen && deadline.is_none_or(|deadline| now() < deadline) {
        let held = world.0.take().expect(HELD);
        let again = SHARED.something.0.wait(held).unwrap_or_else(std::sync::PoisonError::into_inner);
        world = MutexGuard(Some(again));
    }
    drop(world);
    World::get_up(sleeper);
}

impl World {
    fn lie_down(on: &Condvar, deadline: Instant) -> Option<u64> {
        let mut world = SHARED.world.lock();
        let until = deadline.saturating_duration_since(began());
        if until > elapsed() + HORIZON {
            return None;
        }
        world.numbered += 1;
        let number = world.numbered;
        world.sleepers.push(Sleeper { number, until, on: on.clone() });
        SHARED.for_time.notify_all();
        Some(number)
    }

    fn get_up(sleeper: Option<u64>) {
        if let Some(sleeper) = sleeper {
            SHARED.world.lock().sleepers.retain(|other| other.number != sleeper);
        }
    }
}

/// The thread that lets time pass, in steps to the next limit, until [`end`].
pub(crate) fn let_time_pass() {
    let mut world = SHARED.world.lock();
    while !world.is_over {
        let next = world.sleepers.iter().min_by_key(|sleeper| sleeper.until);
        let Some((until, on)) = next.map(|sleeper| (sleeper.until, sleeper.on.clone())) else {
            let held = world.0.take().expect(HELD);
            let again = SHARED.for_time.0.wait(held).unwrap_or_else(std::sync::PoisonError::into_inner);
            world = MutexGuard(Some(again));
            continue;
        };
        SHARED.elapsed_ns.fetch_max(until.as_nanos() as u64, Ordering::SeqCst);
        drop(world);
        on.notify_all();
        // A scheduler that knows priorities must not let time pass for ever.
        shuttle::thread::yield_now();
        world = SHARED.world.lock();
    }
}

/// The schedule is over.
pub(crate) fn end() {
    SHARED.world.lock().is_over = true;
    SHARED.for_time.notify_all();
}

std::thread_local! {
    /// Of the thread that runs all those of a schedule.
    static SLIP: Cell<Option<Slip>> = const { Cell::new(None) };
}

/// From now on that is done wrongly in this test.
pub(crate) fn slip(what: Option<Slip>) {
    SLIP.set(what);
}

/// See [`super::slips`].
pub(crate) fn slips(what: Slip) -> bool {
    SLIP.get() == Some(what)
}
