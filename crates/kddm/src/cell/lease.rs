//! How long this node may use what it holds.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Instant;

use kddm_core::id::Time;
use rustix::time::{ClockId, clock_getres, clock_gettime};

/// The end of this node's lease on the coarse monotonic clock. Looked at after every local use of a
/// value, so that a value is returned only if it was valid when it was read (`I1`).
///
/// ```
/// use kddm::cell::Lease;
/// let lease = Lease::default();
/// assert!(lease.is_valid(), "no lease is needed until one is set");
/// lease.set_deadline_ns(Lease::now_ns());
/// assert!(!lease.is_valid());
/// ```
#[derive(Debug)]
pub struct Lease {
    deadline_ns: AtomicU64,
}

impl Default for Lease {
    fn default() -> Lease {
        Lease { deadline_ns: AtomicU64::new(Lease::NOT_NEEDED) }
    }
}

impl Lease {
    /// The deadline of a node that needs no lease: the only one that decides.
    pub const NOT_NEEDED: u64 = u64::MAX;

    /// The deadline of a node that has fenced itself: it is never prolonged.
    pub const ENDED: u64 = 0;

    /// The clock of deadlines: `CLOCK_MONOTONIC_COARSE`, which costs a few ns and is at most one
    /// tick (1 to 10 ms) behind. The granter of a deadline allows for that.
    #[inline]
    pub fn now_ns() -> u64 {
        let now = clock_gettime(ClockId::MonotonicCoarse);
        (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
    }

    /// A moment by the clock of deadlines, or a little before it: that clock is never ahead of the other one.
    pub(crate) fn time_of(moment: Instant) -> Time {
        Time(Lease::now_ns().saturating_sub(moment.elapsed().as_nanos() as u64))
    }

    /// How far that clock may be behind: one tick.
    pub fn tick_ns() -> u64 {
        let tick = clock_getres(ClockId::MonotonicCoarse);
        (tick.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(tick.tv_nsec as u64)
    }

    /// Whether local copies may be used now. Ask after reading the value.
    #[inline(always)]
    pub fn is_valid(&self) -> bool {
        self.is_not_needed() || self.has_not_ended()
    }

    /// Whether local copies may be used whatever the time is. Ask after reading the value.
    #[inline(always)]
    pub fn is_not_needed(&self) -> bool {
        fence(Ordering::Acquire);
        self.deadline_ns.load(Ordering::Relaxed) == Lease::NOT_NEEDED
    }

    /// Apart, so that whoever needs no lease does not make room for a call of the clock.
    #[inline(never)]
    fn has_not_ended(&self) -> bool {
        let deadline_ns = self.deadline_ns.load(Ordering::Relaxed);
        deadline_ns == Lease::NOT_NEEDED || Lease::now_ns() < deadline_ns
    }

    /// Sets the deadline: later at a renewal, 0 to end all use at once.
    pub fn set_deadline_ns(&self, deadline_ns: u64) {
        self.deadline_ns.store(deadline_ns, Ordering::Release);
    }

    /// The same for another lease, which may be shorter, unless all use has been ended.
    pub fn set_deadline_unless_ended(&self, deadline_ns: u64) {
        let change = |old| (old != Lease::ENDED).then_some(deadline_ns);
        let _is_over = self.deadline_ns.fetch_update(Ordering::Release, Ordering::Relaxed, change);
    }

    /// A later deadline. An earlier one, and one that comes after all use was ended, changes nothing.
    pub fn prolong_to_ns(&self, deadline_ns: u64) {
        let change = |old| (old != Lease::ENDED && old < deadline_ns).then_some(deadline_ns);
        let _is_over = self.deadline_ns.fetch_update(Ordering::Release, Ordering::Relaxed, change);
    }

    /// The deadline.
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns.load(Ordering::Acquire)
    }
}
