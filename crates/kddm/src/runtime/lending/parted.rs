//! Programs that are not attached any more: whoever waits for them at barriers and latches hears of it.

use std::collections::BTreeSet;
use std::sync::Weak;

use parking_lot::{Condvar, Mutex};

use crate::coordination::programs_have_ended;
use crate::node::{Node, Owner};
use crate::runtime::Runtime;

/// How often it is tried: members may be lost meanwhile. After that the waits for such a program end at their limits.
const ATTEMPTS: u32 = 3;

/// The programs whose attachments have ended, of which nobody has been told yet.
#[derive(Default)]
pub(crate) struct Parted {
    kept: Mutex<Kept>,
    news: Condvar,
}

#[derive(Default)]
struct Kept {
    sessions: BTreeSet<u32>,
    is_closed: bool,
}

impl Parted {
    pub fn add(&self, session: u32) {
        self.kept.lock().sessions.insert(session);
        self.news.notify_all();
    }

    /// The node stops.
    pub fn close(&self) {
        self.kept.lock().is_closed = true;
        self.news.notify_all();
    }

    /// Waits for some. `None` when the node stops.
    fn wait(&self) -> Option<BTreeSet<u32>> {
        let mut kept = self.kept.lock();
        while kept.sessions.is_empty() && !kept.is_closed {
            self.news.wait(&mut kept);
        }
        if kept.is_closed { None } else { Some(std::mem::take(&mut kept.sessions)) }
    }
}

/// The thread that tells of them.
pub(super) fn tell_of(parted: &Parted, runtime: &Weak<Runtime>) {
    while let Some(sessions) = parted.wait() {
        let Some(runtime) = runtime.upgrade().filter(|runtime| !runtime.is_stopping()) else { return };
        let node = Node(Owner::guest(runtime));
        for attempt in 1..=ATTEMPTS {
            match programs_have_ended(&node, &sessions) {
                Ok(()) => break,
                Err(error) => {
                    tracing::debug!(attempt, %error, "those who wait for a program that has ended are not told")
                }
            }
        }
    }
}
