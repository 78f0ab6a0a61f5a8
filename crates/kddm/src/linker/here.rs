//! The linkers of a node: which sets have one here, and what they have counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kddm_core::id::SetId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::behind::Waiting;
use super::linked::{AnyLinked, Linked};
use super::policy::WritePolicy;
use crate::cell::{Hold, Store};
use crate::expiry::OnExpiry;
use crate::node::Node;
use crate::runtime::told::SetHere;
use crate::runtime::wait::{Op, deadline_in};
use crate::value::Value;

/// How long the end of a node waits for methods of linkers that have not returned.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The linker of a set, as one node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LinkerInfo {
    /// The name of the set.
    pub set: String,
    /// Its number, the same on every node.
    pub set_id: u64,
    /// The name of the linker.
    pub linker: String,
    /// When what is put goes there.
    pub write_policy: WritePolicy,
    /// What [`Linker::claim`](super::Linker::claim) answered when the set was made.
    pub term: u64,
    /// Whoever wants an object reads it himself: see [`SetBuilder::quick_linker`](crate::SetBuilder::quick_linker).
    pub is_quick: bool,
    /// What has happened here.
    pub counts: LinkerCounts,
}

/// What a node counts of one linker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LinkerCounts {
    /// First touches that it was asked for.
    pub reads: u64,
    /// Those of them for which there was nothing.
    pub absent: u64,
    /// First touches for which it was not asked, because there was nothing a moment before.
    pub known_absent: u64,
    /// Values and removals that it was to write.
    pub writes: u64,
    /// Those that were refused, because a newer one was there.
    pub refused: u64,
    /// Errors and panics of its methods.
    pub errors: u64,
    /// Methods that did not return within their limit.
    pub timed_out: u64,
    /// Methods that returned after it.
    pub late: u64,
    /// Puts that took the place of one of the same object that was still to be written.
    pub coalesced: u64,
    /// Writes that failed after their put was done, and are tried again.
    pub retries: u64,
    /// Puts that were refused because too much was to be written.
    pub full: u64,
    /// Objects that left the cluster, and are kept behind it.
    pub evicted: u64,
    /// Objects that are to be written now.
    pub queued: u64,
    /// Their encoded bytes.
    pub queued_bytes: u64,
    /// Hooks that were run: see [`Linker::hears`](super::Linker::hears).
    pub hooks: u64,
    /// Those that failed or panicked.
    pub hooks_failed: u64,
    /// Copies that others did not wait for any longer: a hook took too long.
    pub hooks_late: u64,
    /// First touches that another node was to have: see [`Linker::default_owner`](super::Linker::default_owner).
    pub elsewhere: u64,
    /// First touches that this node has had for others.
    pub for_others: u64,
    /// For how long the oldest of what is to be written has waited, in milliseconds.
    pub oldest_ms: u64,
    /// Operations that wait for a thread of the linker now.
    pub waiting: u64,
}

/// The same, while it is counted.
#[derive(Default)]
pub(super) struct Counts {
    pub reads: AtomicU64,
    pub absent: AtomicU64,
    pub known_absent: AtomicU64,
    pub writes: AtomicU64,
    pub refused: AtomicU64,
    pub errors: AtomicU64,
    pub timed_out: AtomicU64,
    pub late: AtomicU64,
    pub coalesced: AtomicU64,
    pub retries: AtomicU64,
    pub full: AtomicU64,
    pub evicted: AtomicU64,
    pub hooks: AtomicU64,
    pub hooks_failed: AtomicU64,
    pub hooks_late: AtomicU64,
    pub elsewhere: AtomicU64,
    pub for_others: AtomicU64,
}

pub(super) fn count(what: &AtomicU64, how_many: u64) {
    what.fetch_add(how_many, Ordering::Relaxed);
}

impl Counts {
    pub fn now(&self, waiting: Waiting, oldest: Duration, operations: usize) -> LinkerCounts {
        let of = |what: &AtomicU64| what.load(Ordering::Relaxed);
        LinkerCounts {
            reads: of(&self.reads),
            absent: of(&self.absent),
            known_absent: of(&self.known_absent),
            writes: of(&self.writes),
            refused: of(&self.refused),
            errors: of(&self.errors),
            timed_out: of(&self.timed_out),
            late: of(&self.late),
            coalesced: of(&self.coalesced),
            retries: of(&self.retries),
            full: of(&self.full),
            evicted: of(&self.evicted),
            queued: waiting.objects as u64,
            queued_bytes: waiting.bytes as u64,
            hooks: of(&self.hooks),
            hooks_failed: of(&self.hooks_failed),
            hooks_late: of(&self.hooks_late),
            elsewhere: of(&self.elsewhere),
            for_others: of(&self.for_others),
            oldest_ms: oldest.as_millis().try_into().unwrap_or(u64::MAX),
            waiting: operations as u64,
        }
    }
}

/// The name of a set, and its linker.
pub(super) type Named = (String, Arc<dyn AnyLinked>);

/// See the module.
#[derive(Default)]
pub(crate) struct Linkers(Mutex<HashMap<u64, Named>>);

impl Linkers {
    /// That of a set here, made if there is none. `None`: there is one, and the set has another type here.
    pub fn of_or<T: Value>(
        &self,
        set: SetId,
        name: &str,
        make: impl FnOnce(Weak<Linked<T>>) -> Linked<T>,
    ) -> Option<Arc<Linked<T>>> {
        let mut sets = self.0.lock();
        let made = || (name.into(), Arc::new_cyclic(|me| make(Weak::clone(me))) as Arc<dyn AnyLinked>);
        let (_, known) = sets.entry(set.0).or_insert_with(made);
        Arc::clone(known).as_any().downcast().ok()
    }

    pub fn of<T: Value>(&self, set: SetId) -> Option<Arc<Linked<T>>> {
        let known = Arc::clone(&self.0.lock().get(&set.0)?.1);
        known.as_any().downcast().ok()
    }

    pub fn has(&self, set: SetId) -> bool {
        self.0.lock().contains_key(&set.0)
    }

    /// The set is no more: what was put and is to be written is written.
    pub fn forget(&self, set: SetId) {
        let known = self.0.lock().remove(&set.0);
        if let Some((_, linked)) = known {
            // What still runs is not waited for: it finds that its set has ended.
            let _all_has_returned = linked.close(linked.limit(), Duration::ZERO);
        }
    }

    /// The node is no more. What was put and is to be written is written, if that takes no longer than `limit`.
    pub fn close(&self, limit: Duration) {
        let all: Vec<_> = self.0.lock().values().cloned().collect();
        let deadline = deadline_in(limit);
        let close = |(set, linked): &Named| {
            let left = deadline.saturating_duration_since(Instant::now());
            if !linked.close(left, CLOSE_LIMIT) {
                tracing::warn!(set, "a method of its linker has not returned at the end of the node");
            }
        };
        // All at one time: one whose store hangs must not use up the time of the others.
        std::thread::scope(|scope| {
            let left: Vec<&Named> = all
                .iter()
                .filter(|named| std::thread::Builder::new().spawn_scoped(scope, || close(named)).is_err())
                .collect();
            left.into_iter().for_each(close);
        });
    }

    /// The time of an object is over, which is held: it leaves the cluster, and with [`OnExpiry::Remove`] what stands behind
    /// it. `None`: it stays.
    ///
    /// # Errors
    /// The hold, if the set has no linker here.
    pub fn expire(
        &self,
        here: &SetHere,
        store: &Arc<dyn Store>,
        (object, hold): (u64, Hold),
        to: OnExpiry,
    ) -> Result<Option<Arc<Op>>, Hold> {
        match self.named(here.set) {
            Some((_, linked)) => Ok(linked.expire(here, store, (object, hold), to)),
            None => Err(hold),
        }
    }

    /// That of a set here, whatever its type, and the name of the set.
    pub(super) fn named(&self, set: SetId) -> Option<Named> {
        self.0.lock().get(&set.0).cloned()
    }

    pub(super) fn infos(&self) -> Vec<LinkerInfo> {
        let all: Vec<(u64, Named)> = self.0.lock().iter().map(|(id, named)| (*id, named.clone())).collect();
        let mut infos: Vec<LinkerInfo> = all.into_iter().map(|(id, (set, linked))| linked.info(set, id)).collect();
        infos.sort_by(|one, other| one.set.cmp(&other.set));
        infos
    }
}

impl SetHere {
    /// The linker of the set, if it was opened here with one.
    pub fn linked<T: Value>(&self) -> Option<Arc<Linked<T>>> {
        self.runtime.linkers.of(self.set)
    }
}

impl Node {
    /// The linkers of the sets that were opened here with one, by the names of the sets.
    ///
    /// ```
    /// # use kddm::linker::{Linker, LinkerError};
    /// # struct Squares;
    /// # impl Linker<u64> for Squares {
    /// #     fn first_touch(&self, object: u64) -> Result<Option<u64>, LinkerError> { Ok(object.checked_mul(object)) }
    /// # }
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let squares: kddm::Set<u64> = nodes[0].set("squares").linker("squares", Squares).open().wait()?;
    /// squares.get(12).wait()?;
    /// let linkers = nodes[0].linkers();
    /// assert_eq!((&*linkers[0].linker, linkers[0].counts.reads), ("squares", 1));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn linkers(&self) -> Vec<LinkerInfo> {
        self.runtime().linkers.infos()
    }
}
