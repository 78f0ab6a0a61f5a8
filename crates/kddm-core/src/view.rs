//! A view: who is in, in which state, and which members answer for shards.

use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::id::{Epoch, Incarnation, NodeId, Placement, PlacementPolicy, SHARDS_PER_SET, SetId, ShardIndex, Zone, mix};
use crate::io::NoMemory;
use crate::replicas::MOST_REPLICAS;

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
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Its state.
    pub state: NodeState,
    /// What fails together with it.
    pub zone: Zone,
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

    /// The best home that may keep one more copy of the objects of a shard: in a zone with the fewest of those
    /// that have one, and among these by the same weights as the home itself, so that who answers for an object
    /// is often who has a copy.
    pub fn next_replica(&self, set: SetId, shard: ShardIndex, taken: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        // Those that have a copy are few: with their zones at hand not every member is looked at for every home.
        let mut zones = [Zone::NONE; MOST_REPLICAS + 1];
        let mut count = 0;
        for member in self.members.iter().filter(|member| member.zone != Zone::NONE && taken(member.id)) {
            if let Some(zone) = zones.get_mut(count) {
                *zone = member.zone;
            }
            count += 1;
        }
        let crowd = |node: NodeId| match zones.get(..count) {
            Some([]) => 0,
            Some(of) => of.iter().filter(|zone| zone.meets(self.zone(node))).count(),
            None => self.crowd(node, &taken),
        };
        let free = self.homes.iter().copied().filter(|node| !taken(*node));
        free.max_by_key(|node| (Reverse(crowd(*node)), weight(set, shard, *node), node.0))
    }

    /// What fails together with that node.
    pub fn zone(&self, node: NodeId) -> Zone {
        self.member(node).map_or(Zone::NONE, |member| member.zone)
    }

    /// How many of these nodes, that one apart, fail together with it.
    pub fn crowd(&self, node: NodeId, of: impl Fn(NodeId) -> bool) -> usize {
        let zone = self.zone(node);
        if zone == Zone::NONE {
            return 0;
        }
        let others = self.members.iter().filter(|member| member.id != node && member.zone.meets(zone));
        others.filter(|member| of(member.id)).count()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn view(zones: &[u16]) -> View {
        let member = |(id, zone): (u16, &u16)| Member {
            id: NodeId(id),
            state: NodeState::Possible,
            zone: Zone(*zone),
            ..Member::default()
        };
        let members: Vec<Member> = (1..).zip(zones).map(member).collect();
        let homes = members.iter().map(|member| member.id).collect();
        View { members, homes, ..View::default() }
    }

    /// Who gets the replicas of an owner, one after the other.
    fn chosen(view: &View, set: SetId, owner: NodeId, count: usize) -> Vec<NodeId> {
        let mut chosen = Vec::new();
        for _ in 0..count {
            let taken = |node| node == owner || chosen.contains(&node);
            chosen.extend(view.next_replica(set, ShardIndex(7), taken));
        }
        chosen
    }

    #[test]
    fn replicas_keep_to_other_zones_first() {
        let view = view(&[1, 1, 1, 2, 2, 3]);
        for counter in 20..220 {
            let set = SetId::new(PlacementPolicy::Hash, counter);
            let two: Vec<u16> = chosen(&view, set, NodeId(1), 2).iter().map(|node| view.zone(*node).0).collect();
            assert!(two == [2, 3] || two == [3, 2], "{two:?}");
            // Then those with the fewest beside them: one more in zone 2, before the third in zone 1.
            let all = chosen(&view, set, NodeId(1), 5);
            assert_eq!(all.len(), 5);
        }
    }

    #[test]
    fn however_many_have_a_copy_it_is_the_zone_with_the_fewest() {
        let view = view(&[1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 3, 0]);
        for taken in 1..20 {
            let has = |node: NodeId| node.0 <= taken;
            let next = view.next_replica(SetId::new(PlacementPolicy::Hash, 20), ShardIndex(7), has);
            assert!(next == Some(NodeId(21)) || next == Some(NodeId(22)), "{taken}: nobody is beside these two");
        }
        // None of the two: the two zones in turns.
        for taken in 1..20 {
            let has = |node: NodeId| node.0 <= taken || node.0 > 20;
            let next = view.next_replica(SetId::new(PlacementPolicy::Hash, 20), ShardIndex(7), has);
            let fewer = if taken % 2 == 1 { Some(Zone(2)) } else { None };
            let zone = next.map(|node| view.zone(node));
            assert!(fewer.is_none() || zone == fewer, "{taken}: {zone:?}");
        }
    }

    #[test]
    fn without_zones_the_weights_alone_choose() {
        let (with, without) = (view(&[1, 2, 3, 4]), view(&[0, 0, 0, 0]));
        for counter in 20..220 {
            let set = SetId::new(PlacementPolicy::Hash, counter);
            assert_eq!(chosen(&with, set, NodeId(2), 3), chosen(&without, set, NodeId(2), 3), "each fails alone");
        }
    }

    #[test]
    fn a_replica_is_in_the_owners_zone_only_where_there_is_no_other() {
        let view = view(&[1, 1, 1]);
        let set = SetId::new(PlacementPolicy::Hash, 20);
        assert_eq!(chosen(&view, set, NodeId(3), 2).len(), 2);
    }
}
