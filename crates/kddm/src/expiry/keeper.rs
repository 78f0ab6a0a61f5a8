//! The thread that looks at the objects of all such sets of a node. It is there while there is such a set.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::here::{Expiries, Expiring, Known};
use super::sweep::Step;
use crate::node::{Node, Owner};
use crate::runtime::Runtime;
use crate::runtime::told::SetHere;
use crate::system::described;

/// Looks take at most this part of a processor: with more objects than it can pass in time they go later.
const SHARE: u32 = 10;

/// Steps of one set before the next set has its turn.
const STEPS: usize = 16;

/// When what a set says cannot be learnt it is asked for again after that.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long the thread waits for what is about to go, when as much is as may be.
const WAIT: Duration = Duration::from_millis(1);

/// How long the end waits for the thread, whose steps take less than a millisecond.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

impl Expiries {
    /// Has the thread look. Perhaps under the lock of a lane.
    pub(super) fn begin(self: &Arc<Self>, known: &mut Known) {
        known.is_news = true;
        self.news.notify_all();
        if known.is_closed || self.runtime.get().is_none() || std::mem::replace(&mut known.is_there, true) {
            return;
        }
        let expiries = Arc::clone(self);
        if let Err(error) = std::thread::Builder::new().name("kddm-expiry".into()).spawn(move || expiries.work()) {
            tracing::warn!(%error, "no thread for objects that leave by themselves: it is tried when a set is opened");
            known.is_there = false;
        }
    }

    fn work(self: Arc<Self>) {
        let mut ask_at = Instant::now();
        while let Some(sets) = self.next_sets() {
            let Some(runtime) = self.runtime.get().and_then(|runtime| runtime.upgrade()) else { break };
            let began = Instant::now();
            // It runs code of whoever wrote a type or a linker.
            let next = catch_unwind(AssertUnwindSafe(|| self.look(&sets, &runtime)));
            let now = Instant::now();
            let mut next = next.unwrap_or_else(|_panic| {
                tracing::error!(
                    "a panic while objects were looked at that leave by themselves: it goes on in a second"
                );
                Some(now + ASK_AGAIN)
            });
            // The rest of the time is for others.
            next = next.map(|next| next.max(now + (now - began) * (SHARE - 1)));
            if now >= ask_at {
                ask_at = if self.ask(&runtime) { now } else { Instant::now() + ASK_AGAIN };
            }
            drop(runtime);
            self.pause(next);
        }
        let mut known = self.known.lock();
        known.is_there = false;
        self.news.notify_all();
    }

    /// A few steps for each set whose time it is. When there is more to do.
    fn look(&self, sets: &[Arc<Expiring>], runtime: &Arc<Runtime>) -> Option<Instant> {
        let looked = sets.iter().filter_map(|set| {
            let here = SetHere { runtime: Arc::clone(runtime), set: set.set };
            let mut sweep = set.sweep.lock();
            for _ in 0..STEPS {
                match sweep.step(set, &here) {
                    Step::GoesOn => {}
                    Step::Waits => return Some(Instant::now() + WAIT),
                    Step::At(next) => return Some(next),
                    Step::Ended => {
                        self.forget(set.set);
                        return None;
                    }
                }
            }
            Some(Instant::now())
        });
        looked.min()
    }

    /// The sets that are there. `None`: the thread ends.
    fn next_sets(&self) -> Option<Vec<Arc<Expiring>>> {
        let mut known = self.known.lock();
        known.is_news = false;
        let ends = known.is_closed || (known.sets.is_empty() && known.unknown.is_empty());
        if ends {
            // Under the lock: whoever brings a set from here on begins another one.
            known.is_there = false;
            self.news.notify_all();
            return None;
        }
        Some(known.sets.values().cloned().collect())
    }

    fn pause(&self, until: Option<Instant>) {
        let mut known = self.known.lock();
        let until = until.unwrap_or_else(|| Instant::now() + ASK_AGAIN);
        while !known.is_closed && !known.is_news {
            if self.news.wait_until(&mut known, until).timed_out() {
                return;
            }
        }
    }

    /// Learns what is said of sets that nobody has opened here. False: it could not be learnt yet.
    fn ask(self: &Arc<Self>, runtime: &Arc<Runtime>) -> bool {
        let unknown = self.known.lock().unknown.clone();
        if unknown.is_empty() {
            return true;
        }
        let node = Node(Owner::guest(Arc::clone(runtime)));
        let all = match node.system().and_then(|system| described(&system)) {
            Ok(all) => all,
            Err(error) => {
                tracing::debug!(%error, "when objects of a set leave cannot be learnt yet");
                return false;
            }
        };
        for set in unknown {
            match all.iter().find(|description| description.set == set) {
                Some(description) => self.know(description),
                // It has ended, or there never was one.
                None => _ = self.known.lock().unknown.remove(&set),
            }
        }
        true
    }

    /// The node is no more.
    pub fn close(&self) {
        let mut known = self.known.lock();
        known.is_closed = true;
        self.news.notify_all();
        while known.is_there {
            if self.news.wait_for(&mut known, CLOSE_LIMIT).timed_out() {
                return tracing::warn!("the thread of objects that leave by themselves has not ended");
            }
        }
    }
}
