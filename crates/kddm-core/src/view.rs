//! A view: who is in, in which state, and which members answer for shards.

use alloc::vec::Vec;

use crate::id::{Epoch, Incarnation, NodeId, Placement, PlacementPolicy, SHARDS_PER_SET, SetId, ShardIndex, mix};
use crate::io::NoMemory;

/// The state of a node, in ascending order. **"Possible" is the highest state here**, other than in
/// Linux CPU hotplug, where it is the lowest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum NodeState {
    /// Known by address at most: no messages.
    #[default]
    Offline,
    /// Messages work, and all online nodes see each other. Holds no shared objects.
    Online,
    /// A full member: shares the objects of all sets.
    Possible,
}

impl NodeState {
    /// Messages may be exchanged with it.
    pub fn can_talk(self) -> bool {
        self >= NodeState::Online
    }

    /// It shares objects.
    pub fn can_share(self) -> bool {
        self == NodeState::Possible
    }
}

/// One member as the view knows it; the address is kept by the layer above.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Its state.
    pub state: NodeState,
}

/// One agreed membership. All members see the same sequence of views (`I7`).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct View {
    /// Grows when a member leaves or fails: fences.
    pub epoch: Epoch,
    /// Grows with every other change, a join for example: orders, never fences.
    pub placement: Placement,
    /// The members, by ascending id.
    pub members: Vec<Member>,
    /// Those that answer for shards, by ascending id.
    pub homes: Vec<NodeId>,
    /// Members lost without a clean leave since all objects were last known to be whole.
    pub failures: u32,
    /// The fewest homes since then of any view before this one.
    pub fewest_homes: u16,
}

impl View {
    /// With so many replicas, every object that was ever put still has a copy somewhere: it had one more, or
    /// one at each home if there were fewer, and each failure has taken one at most. Asked in a view in which
    /// members are lost.
    pub fn covers(&self, replicas: usize) -> bool {
        let copies = usize::from(self.fewest_homes).min(replicas + 1);
        replicas > 0 && (self.failures as usize) < copies
    }

    /// All members that messages can be exchanged with, but `me`.
    pub(crate) fn others_online(&self, me: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().filter(move |member| member.id != me && member.state.can_talk()).map(|member| member.id)
    }

    /// The member with that id.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&id, |member| member.id).ok()?;
        self.members.get(at)
    }

    /// The home of a shard: `Fixed` and `Embedded` where that node is a home, else the highest
    /// rendezvous weight. `None` while the view has no home at all.
    pub fn home(&self, set: SetId, shard: ShardIndex) -> Option<NodeId> {
        match set.policy() {
            Some(PlacementPolicy::Fixed(node)) if self.homes.binary_search(&node).is_ok() => return Some(node),
            Some(PlacementPolicy::Embedded) => {
                let named = self.homes.iter().find(|node| node.0 % SHARDS_PER_SET == shard.0);
                if let Some(node) = named {
                    return Some(*node);
                }
            }
            _ => {}
        }
        self.homes.iter().copied().max_by_key(|node| (weight(set, shard, *node), node.0))
    }

    /// The best home that may keep one more copy of the objects of a shard: by the same weights as the
    /// home itself, so that who answers for an object is often who has a copy.
    pub fn next_replica(&self, set: SetId, shard: ShardIndex, taken: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let free = self.homes.iter().copied().filter(|node| !taken(*node));
        free.max_by_key(|node| (weight(set, shard, *node), node.0))
    }

    /// A copy, or `NoMemory`.
    pub fn try_clone(&self) -> Result<View, NoMemory> {
        let mut members = Vec::new();
        members.try_reserve_exact(self.members.len()).map_err(|_| NoMemory)?;
        members.extend_from_slice(&self.members);
        let mut homes = Vec::new();
        homes.try_reserve_exact(self.homes.len()).map_err(|_| NoMemory)?;
        homes.extend_from_slice(&self.homes);
        Ok(View { members, homes, ..View { members: Vec::new(), homes: Vec::new(), ..*self } })
    }
}

/// Rendezvous hashing: the home with the greatest weight answers for the shard.
fn weight(set: SetId, shard: ShardIndex, node: NodeId) -> u64 {
    mix(mix(set.0 ^ (u64::from(shard.0) << 44)) ^ u64::from(node.0))
}
