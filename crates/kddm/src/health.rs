//! What is wrong at a node, for an operator: looked for when somebody asks, and never on the path of an operation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use kddm_core::id::{SHARDS_PER_SET, SetId, ShardIndex};

use crate::node::Node;
use crate::runtime::Runtime;

/// What is wrong with a set, as far as one node answers for its objects or owns them. The sums over all members are
/// those of the set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct SetHealth {
    /// Objects that exist or have existed, of which this node is the home.
    pub objects: usize,
    /// Objects of which this node is the home, and that could not be proven present after a loss.
    pub lost: usize,
    /// Shards, 1,024 in a set, that this node answers for and in which more may be lost: names that nobody can say of
    /// whether they existed. Only [`Node::accept_losses`] ends that.
    pub in_doubt: usize,
    /// Objects with fewer replicas than their set is to have: those that this node owns, while replicas are being
    /// made; those of which it is the home, where too few members share objects.
    pub short: usize,
}

/// What is wrong at a node; see [`Node::health`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Health {
    /// A guardian watches this process, and would tell the others of its end.
    pub is_guarded: bool,
    /// What is decided about members is kept on disk here, or where no member keeps it.
    pub keeps_view_log: bool,
    /// This node uses nothing any more: its lease has ended, or its own state was broken.
    pub is_fenced: bool,
    /// Members that were lost, as far as this node remembers, and have not come back.
    pub lost_members: Vec<u16>,
    /// Members that share objects, without those about to leave: so many can keep them.
    pub homes: usize,
    /// What all is not whole for here, in words.
    pub missing: Option<String>,
    /// By number of the set; all of which this node knows something.
    pub sets: BTreeMap<u64, SetHealth>,
}

impl Node {
    /// What is wrong here. Objects are looked at only while replicas are being made, or where some may be lost.
    /// Nothing, in a program that is attached.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let notes: kddm::Set<String> = nodes[0].set("notes").open().wait()?;
    /// notes.grab(1).wait()?.put().wait()?;
    /// let here = nodes[0].health().sets[&nodes[0].set_info("notes")?.id];
    /// assert_eq!((here.lost, here.in_doubt), (0, 0));
    /// assert_eq!((here.objects, here.short), (1, 1)); // There is no other node that could keep a replica.
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn health(&self) -> Health {
        let runtime = self.runtime();
        let mut health = Health { is_guarded: runtime.is_guarded.load(Ordering::Relaxed), ..Health::default() };
        if runtime.lender.is_some() {
            return health;
        }
        health.keeps_view_log = runtime.config.view_log.is_some() || runtime.config.view_log_in.is_some();
        {
            let membership = runtime.membership.lock();
            let was_lost = membership.departed.iter().filter(|(_, entry)| entry.state.can_share());
            health.lost_members = was_lost.map(|(node, _)| node.0).collect();
            health.homes = membership.state.view().homes.len();
        }
        for lane in &runtime.lanes {
            let state = lane.lock();
            health.is_fenced |= state.fenced;
            health.missing = health.missing.or_else(|| state.core.what_is_missing().map(Into::into));
        }
        health.sets = runtime.sets_health().into_iter().map(|(set, health)| (set.0, health)).collect();
        health
    }
}

impl Runtime {
    /// What is wrong with each set of which this node knows something.
    pub(crate) fn sets_health(&self) -> BTreeMap<SetId, SetHealth> {
        let homes = self.membership.lock().state.view().homes.len();
        let (mut sets, mut is_made) = (BTreeSet::new(), false);
        for lane in &self.lanes {
            let state = lane.lock();
            sets.extend(state.core.sets());
            is_made |= state.core.what_is_missing().is_some();
        }
        sets.into_iter().map(|set| (set, self.set_health(set, homes, is_made))).collect()
    }

    /// A lane is let go between shards while objects are looked at: this is in nobody's way.
    fn set_health(&self, set: SetId, homes: usize, is_made: bool) -> SetHealth {
        let mut health = SetHealth::default();
        let mut may_have_lost = false;
        for lane in &self.lanes {
            let state = lane.lock();
            health.objects += state.core.counts(set).1;
            if state.core.may_have_lost(set) {
                may_have_lost = true;
                health.lost += state.core.lost_count(set);
            }
        }
        let shards = || (0..SHARDS_PER_SET).map(|at| (self.lane_of_shard(ShardIndex(at)), ShardIndex(at)));
        if may_have_lost {
            health.in_doubt = shards().filter(|(lane, at)| lane.lock().core.is_in_doubt(set, *at)).count();
        }
        // The list of sets has as many replicas as there are nodes for, and nobody has asked for them.
        if set.replicas() >= homes && set != SetId::SYSTEM {
            health.short = health.objects - health.lost;
        } else if is_made && set.replicas() > 0 {
            health.short = shards().map(|(lane, at)| lane.lock().core.short_count(set, at)).sum();
        }
        health
    }
}
