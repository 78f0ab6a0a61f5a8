//! The thread that looks at the objects of all such sets of a node. It is there while there is such a set.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::SetId;

use super::here::{Expiries, Expiring, Known};
use super::sweep::{Step, Todo};
use crate::node::{Node, Owner};
use crate::runtime::Runtime;
use crate::runtime::told::SetHere;
use crate::runtime::wait::as_part_of_node;
use crate::system::described;

/// Looks take at most this part of a processor: with more objects than it can pass in time they go later.
const SHARE: u32 = 10;

/// Steps of one set before the next set has its turn.
const STEPS: usize = 16;

/// When what a set says cannot be learnt it is asked for again after that.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// So long each thing may take that it is asked for: no look comes meanwhile.
const ASK_LIMIT: Duration = Duration::from_millis(500);

/// Sets of which nothing could be learnt are looked for again after that, as long as something of them is here.
const COLLECT_AGAIN: Duration = Duration::from_secs(60);

/// How long the thread waits for what is about to go, when as much is as may be.
const WAIT: Duration = Duration::from_millis(1);

/// How long the end waits for the thread, whose steps take less than a millisecond.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// When sets may be asked for again that are not known.
struct Asking {
    at: Instant,
    collect_at: Instant,
}

/// What that says; a moment later if it panics, because the thread is needed.
fn unless_it_panics(work: impl FnOnce() -> Option<Instant>) -> Option<Instant> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_panic| {
        tracing::error!("a panic while objects were looked at that leave by themselves: it goes on in a second");
        Some(Instant::now() + ASK_AGAIN)
    })
}

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
        let mut asking = Asking { at: Instant::now(), collect_at: Instant::now() };
        while let Some(sets) = self.next_sets() {
            let Some(runtime) = self.runtime.get().and_then(|runtime| runtime.upgrade()) else {
                let mut known = self.known.lock();
                known.is_there = false;
                self.news.notify_all();
                return;
            };
            let began = Instant::now();
            // It runs code of whoever wrote a type or a linker, which must not wait for what this thread does.
            let next = unless_it_panics(|| as_part_of_node(|| self.look(&sets, &runtime)));
            let now = Instant::now();
            // The rest of the time is for others.
            let next = next.map(|next| next.max(now + (now - began) * (SHARE - 1)));
            let learns_at = unless_it_panics(|| self.learn(&runtime, &mut asking));
            drop(runtime);
            self.pause([next, learns_at].into_iter().flatten().min());
        }
    }

    /// A few steps for each set whose time it is. When there is more to do.
    fn look(&self, sets: &[Arc<Expiring>], runtime: &Arc<Runtime>) -> Option<Instant> {
        let looked = sets.iter().filter_map(|set| {
            let here = SetHere { runtime: Arc::clone(runtime), set: set.set };
            for _ in 0..STEPS {
                let mut todo = Todo::default();
                let step = set.sweep.lock().step(set, &here, &mut todo);
                todo.begin(&here);
                match step {
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
        let ends = known.is_closed || (known.sets.is_empty() && known.unknown.is_empty() && !known.is_incomplete);
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

    /// Learns what is said of sets that nobody has opened here. When there is more to be learnt.
    fn learn(self: &Arc<Self>, runtime: &Arc<Runtime>, asking: &mut Asking) -> Option<Instant> {
        let now = Instant::now();
        if self.known.lock().is_incomplete && now >= asking.collect_at {
            asking.collect_at = now + COLLECT_AGAIN;
            self.collect(runtime);
        }
        if now >= asking.at {
            // Before: it may panic.
            asking.at = now + ASK_AGAIN;
            asking.at = if self.ask(runtime) { now } else { Instant::now() + ASK_AGAIN };
        }
        let known = self.known.lock();
        let ask_at = (!known.unknown.is_empty()).then_some(asking.at);
        let collect_at = known.is_incomplete.then_some(asking.collect_at);
        ask_at.into_iter().chain(collect_at).min()
    }

    /// All sets are asked for of which something is here and nothing is known.
    fn collect(self: &Arc<Self>, runtime: &Runtime) {
        self.known.lock().is_incomplete = false;
        for lane in &runtime.lanes {
            let sets: Vec<SetId> = lane.lock().stores.keys().copied().filter(|set| set.expires()).collect();
            sets.into_iter().for_each(|set| self.hear_of(set));
        }
    }

    /// False: it could not be learnt yet.
    fn ask(self: &Arc<Self>, runtime: &Arc<Runtime>) -> bool {
        let unknown = self.known.lock().unknown.clone();
        if unknown.is_empty() {
            return true;
        }
        let node = Node(Owner::guest(Arc::clone(runtime)));
        let all = match node.system_within(ASK_LIMIT).and_then(|system| described(&system)) {
            Ok(all) => all,
            Err(error) => {
                tracing::debug!(%error, "when objects of a set leave cannot be learnt yet");
                return false;
            }
        };
        for set in unknown {
            match all.iter().find(|description| description.set == set) {
                Some(description) => self.know(description),
                // It has ended, or there never was one, or it is just being made.
                None => {
                    let mut known = self.known.lock();
                    known.is_incomplete |= known.unknown.remove(&set);
                }
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
                tracing::warn!("the thread of objects that leave by themselves has not ended");
                break;
            }
        }
        drop(known);
        if !self.works.close(Instant::now() + CLOSE_LIMIT) {
            tracing::warn!("a thread that looks for times of single objects has not ended");
        }
    }
}
