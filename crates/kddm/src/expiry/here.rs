//! The sets of a node whose objects leave by themselves, and what it has counted of each.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use kddm_core::id::SetId;
use parking_lot::{Condvar, Mutex};

use super::once::Works;
use super::rule::{Expiry, OnExpiry};
use super::sweep::Sweep;
use super::times::Times;
use crate::linker::WritePolicy;
use crate::node::Node;
use crate::runtime::Runtime;
use crate::system::Description;

/// A set whose objects leave by themselves, as one node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ExpiryInfo {
    /// The name of the set.
    pub set: String,
    /// Its number, the same on every node.
    pub set_id: u64,
    /// How long after its last put an object leaves.
    pub after: Option<Duration>,
    /// How long after its last use.
    pub idle: Option<Duration>,
    /// Objects may have times of their own.
    pub each: bool,
    /// What becomes of it behind the set.
    pub on_expiry: OnExpiry,
    /// Objects that have left because their time was over, while this node owned them.
    pub expired: u64,
    /// Those that were to go and stayed, because they were held, or what stands behind the set did not take them: they are
    /// tried again.
    pub failed: u64,
    /// Objects that this node keeps the time of.
    pub watched: u64,
    /// Of 1,024 parts of the times of single objects, those that this node could not read when it wanted them last, because they
    /// are lost or on their way. Their objects stay.
    pub unread: u64,
}

/// Such a set here.
pub(super) struct Expiring {
    pub set: SetId,
    pub name: String,
    pub rule: Expiry,
    /// When what is put goes to its linker, if it has one.
    pub write_policy: Option<WritePolicy>,
    pub expired: AtomicU64,
    pub failed: AtomicU64,
    pub watched: AtomicU64,
    /// Objects that are about to go.
    pub under_way: AtomicUsize,
    pub sweep: Mutex<Sweep>,
    pub times: Times,
}

impl Expiring {
    fn info(&self) -> ExpiryInfo {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Expiry { after, idle, on_expiry, each } = self.rule;
        let (expired, failed, watched) = (of(&self.expired), of(&self.failed), of(&self.watched));
        ExpiryInfo {
            set: self.name.clone(),
            set_id: self.set.0,
            after,
            idle,
            each,
            on_expiry,
            expired,
            failed,
            watched,
            unread: self.times.unread(),
        }
    }
}

/// Sets of which the rule is asked for at one time: more are there only where somebody makes numbers up.
const UNKNOWN_LIMIT: usize = 1024;

/// How long whoever asks when an object leaves waits for a look that is just going on.
const LOOK_LIMIT: Duration = Duration::from_millis(1);

/// See the module. Lanes know it, too: they are the first to hear of a set.
#[derive(Default)]
pub(crate) struct Expiries {
    pub(super) runtime: OnceLock<Weak<Runtime>>,
    pub(super) known: Mutex<Known>,
    pub(super) news: Condvar,
    pub(super) works: Works,
}

#[derive(Default)]
pub(super) struct Known {
    pub sets: HashMap<u64, Arc<Expiring>>,
    /// Sets that nobody has opened here, and of which something is here all the same.
    pub unknown: BTreeSet<u64>,
    /// Of some more something may be here: they are too many, or nothing was said of them.
    pub is_incomplete: bool,
    /// The thread.
    pub is_there: bool,
    /// There is something new for it.
    pub is_news: bool,
    pub is_closed: bool,
}

impl Expiries {
    /// Whose they are. A program that is attached has none: its node sees to it.
    pub fn belong_to(&self, runtime: &Arc<Runtime>) {
        let _once = self.runtime.set(Arc::downgrade(runtime));
    }

    /// A set is here, and what is said of it.
    pub fn know(self: &Arc<Self>, description: &Description) {
        let mut known = self.known.lock();
        known.unknown.remove(&description.set);
        let Some(rule) = description.expiry else { return };
        known.sets.entry(description.set).or_insert_with(|| {
            let write_policy = description.linker.as_ref().map(|linker| linker.policy);
            let (expired, failed, watched, under_way, sweep, times) = Default::default();
            let (set, name) = (SetId(description.set), description.name.clone());
            Arc::new(Expiring { set, name, rule, write_policy, expired, failed, watched, under_way, sweep, times })
        });
        self.begin(&mut known);
    }

    /// Something of a set is here that nobody has opened here. Perhaps under the lock of a lane.
    pub fn hear_of(self: &Arc<Self>, set: SetId) {
        if !set.expires() {
            return;
        }
        let mut known = self.known.lock();
        if known.sets.contains_key(&set.0) {
            return;
        }
        if known.unknown.len() >= UNKNOWN_LIMIT {
            known.is_incomplete = true;
        } else {
            known.unknown.insert(set.0);
        }
        self.begin(&mut known);
    }

    /// The set is no more.
    pub fn forget(&self, set: SetId) {
        let mut known = self.known.lock();
        known.unknown.remove(&set.0);
        let gone = known.sets.remove(&set.0);
        drop(known);
        // Without the lock: it remembers each of its objects.
        drop(gone);
    }

    /// When an object of which something is here leaves, at the soonest. Not under the lock of a lane. `None` also where a look
    /// goes on, which may be one that has called whoever asks.
    pub fn leaves_in(&self, set: SetId, object: u64) -> Option<Duration> {
        let known = self.known.lock().sets.get(&set.0).cloned()?;
        let (rule, _own) = known.rule_of(object)?;
        known.sweep.try_lock_for(LOOK_LIMIT)?.leaves_in(rule, object)
    }

    fn infos(&self) -> Vec<ExpiryInfo> {
        let mut infos: Vec<ExpiryInfo> = self.known.lock().sets.values().map(|set| set.info()).collect();
        infos.sort_by(|one, other| one.set.cmp(&other.set));
        infos
    }
}

impl Node {
    /// The sets that this node knows whose objects leave by themselves, by their names.
    ///
    /// ```
    /// let minute = std::time::Duration::from_secs(60);
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let sessions: kddm::Set<String> = nodes[0].set("sessions").expire_after(minute).open().wait()?;
    /// assert_eq!((nodes[0].expiries()[0].after, nodes[0].expiries()[0].expired), (Some(minute), 0));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn expiries(&self) -> Vec<ExpiryInfo> {
        self.runtime().signals.expiries.infos()
    }
}
