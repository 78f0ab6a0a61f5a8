//! Atomics and the pair of barriers of which only the rare side pays.
//!
//! A reader stores into its slot, then loads the access word; a revoker stores into the access word,
//! then loads the slots. Each needs a full barrier between the two (Dekker). [`light_barrier`] only
//! stops the compiler, because [`heavy_barrier`] makes the kernel run a full barrier on every
//! processor that runs a thread of this process (`membarrier`, `PRIVATE_EXPEDITED`).

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(shuttle)]
pub(super) use shuttle::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(not(any(loom, shuttle)))]
pub(super) use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

/// A word of a value that lies in its cell, where a guard looks at it in place.
#[cfg(not(shuttle))]
pub(super) type ValueWord = AtomicU64;
#[cfg(shuttle)]
pub(super) type ValueWord = std::sync::atomic::AtomicU64;

#[cfg(not(any(loom, miri, shuttle)))]
mod barrier {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};

    use rustix::thread::{MembarrierCommand, membarrier};

    /// Readers may leave their fence out: every heavy barrier from now on uses `membarrier`.
    static READERS_ARE_LIGHT: AtomicBool = AtomicBool::new(false);
    static REGISTERED: OnceLock<bool> = OnceLock::new();

    /// Registers the process once. Before that, and where the kernel refuses, both sides fence.
    pub fn prepare() -> bool {
        *REGISTERED.get_or_init(|| {
            let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
                && membarrier(MembarrierCommand::PrivateExpedited).is_ok();
            READERS_ARE_LIGHT.store(registered, Ordering::SeqCst);
            registered
        })
    }

    #[inline(always)]
    pub fn light_barrier() {
        if READERS_ARE_LIGHT.load(Ordering::Relaxed) {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    pub fn heavy_barrier() {
        // Waits for a registration that is under way: a reader may have seen its end already.
        if prepare() {
            fence(Ordering::SeqCst);
            membarrier(MembarrierCommand::PrivateExpedited)
                .expect("a command that the kernel accepted at registration cannot fail later");
        }
        fence(Ordering::SeqCst);
    }
}

#[cfg(any(loom, miri, shuttle))]
mod barrier {
    use super::{Ordering, fence};

    pub fn prepare() -> bool {
        false
    }

    pub fn light_barrier() {
        fence(Ordering::SeqCst);
    }

    pub fn heavy_barrier() {
        fence(Ordering::SeqCst);
    }
}

/// A static that begins with its default; in the model each schedule has its own.
macro_rules! of_this_run {
    (fn $name:ident() -> $type:ty) => {
        fn $name() -> &'static $type {
            #[cfg(not(shuttle))]
            static IT: $type = <$type>::new();
            #[cfg(shuttle)]
            shuttle::lazy_static! {
                static ref IT: $type = <$type>::new();
            }
            &IT
        }
    };
}

pub(super) use of_this_run;

pub(super) use barrier::{heavy_barrier, light_barrier, prepare};
