//! Locks, atomics and the time, as lanes and cells use them. In a build with `--cfg shuttle` they are
//! modelled: a test then decides which thread takes the next step, and when time passes. Sockets and
//! pollers stay real there; only the wait for them is a modelled one.

#[cfg(not(shuttle))]
mod real {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
    pub(crate) use std::thread_local;
    use std::time::Instant;

    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};

    /// What time it is.
    #[inline(always)]
    pub(crate) fn now() -> Instant {
        Instant::now()
    }
}

#[cfg(shuttle)]
pub(crate) mod modelled;

#[cfg(shuttle)]
pub(crate) use modelled::{AtomicBool, AtomicU8, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, now, thread_local};
#[cfg(not(shuttle))]
pub(crate) use real::{AtomicBool, AtomicU8, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, now, thread_local};

/// A socket has more to read, or more room, or has ended: whoever waits for such a thing looks again.
#[inline(always)]
pub(crate) fn something_has_happened() {
    #[cfg(shuttle)]
    modelled::something_has_happened();
}

/// What the lanes do wrongly on purpose, to see that the schedules find it. `docs/testing.md` has the list.
#[cfg_attr(not(shuttle), allow(dead_code, reason = "asked about in the model only"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Slip {
    /// A wait ends, and the thread on the condition variable is not told.
    NotifyNobody,
    /// A thread lies down without a last look whether there is news.
    LookNotAgain,
    /// A wait ends, and the thread that polls for it is not woken.
    LeavePollerAsleep,
    /// The lane's own thread takes the wake-up that was meant for a guest.
    KeepWakeUp,
    /// A release is not told to the lane.
    ReleaseInSilence,
    /// Whoever gives up lets go of a hold that he was handed meanwhile, and does not tell the lane.
    GiveUpInSilence,
    /// Access counts as taken back though threads hold the object.
    TakeFromHolders,
}

#[cfg(shuttle)]
impl Slip {
    /// All of them.
    pub const ALL: [Slip; 7] = [
        Slip::NotifyNobody,
        Slip::LookNotAgain,
        Slip::LeavePollerAsleep,
        Slip::KeepWakeUp,
        Slip::ReleaseInSilence,
        Slip::GiveUpInSilence,
        Slip::TakeFromHolders,
    ];
}

/// Whether that is done wrongly: never but in the model.
#[inline(always)]
pub(crate) fn slips(what: Slip) -> bool {
    #[cfg(shuttle)]
    return modelled::slips(what);
    #[cfg(not(shuttle))]
    {
        let _ = what;
        false
    }
}
