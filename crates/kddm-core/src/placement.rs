//! From one placement to the next: shards go from their old home to the new one, one after the other,
//! while all goes on. `docs/protocol.md` has the rules ("Homes that move").

use crate::id::{NodeId, SetId, ShardIndex};
use crate::io::NoMemory;
use crate::mutation::{Mutation, mutated};
use crate::nodeset::NodeSet;
use crate::view::{Member, View};

/// What is left to do until the installed placement holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Moving {
    /// The view before.
    before: View,
    /// Members that have not said yet that they have handed over all they had to.
    awaited: NodeSet,
    /// This node has said so.
    announced: bool,
    /// Where to look next for a shard to hand over: no shard before this one has to be, unless it was
    /// touched meanwhile.
    pub cursor: (SetId, u16),
    /// The last set of which the other homes have been told what of it is accepted as gone.
    pub told: SetId,
    /// Nothing can be done before something happens: shards stay until what was decided of them is certain.
    pub is_idle: bool,
}

impl Moving {
    /// What the step from one view to the next asks of this node, if anything.
    pub fn between(before: View, after: &View, me: NodeId) -> Result<Option<Moving>, NoMemory> {
        let stops_sharing = |old: &Member| old.state.can_share() && !shares(after, old);
        let is_first = before.members.is_empty();
        // At its first view a node has nothing to hand over, and others may wait to hear so.
        let is_alone = is_first && !after.members.iter().any(|member| member.id != me);
        let is_same = !is_first && before.homes == after.homes && !before.members.iter().any(stops_sharing);
        if is_alone || is_same {
            return Ok(None);
        }
        let mut awaited = NodeSet::new();
        awaited.reserve(before.members.len())?;
        for old in &before.members {
            let talks = |new: &Member| new.incarnation == old.incarnation && new.state.can_talk();
            if old.id != me && old.state.can_talk() && after.member(old.id).is_some_and(talks) {
                awaited.insert(old.id);
            }
        }
        Ok(Some(Moving { before, awaited, announced: false, cursor: (SetId(0), 0), told: SetId(0), is_idle: false }))
    }

    /// Who answers for a shard of a set that this node has not met before.
    pub fn in_charge(&self, me: NodeId, set: SetId, shard: ShardIndex, new: NodeId) -> NodeId {
        let old = self.before.home(set, shard).unwrap_or(new);
        let still_mine = old == me && !self.announced;
        if still_mine || (new == me && self.awaited.contains(old)) { old } else { new }
    }

    /// That member has handed over all it had to.
    pub fn heard(&mut self, from: NodeId) -> bool {
        self.awaited.remove(from)
    }

    /// This node has handed over all it had to, and says so.
    pub fn announce(&mut self) {
        self.announced = true;
    }

    pub fn is_announced(&self) -> bool {
        self.announced
    }

    pub fn is_done(&self) -> bool {
        self.announced && (self.awaited.is_empty() || mutated(Mutation::HoldTooEarly))
    }

    /// The view before.
    pub fn before(&self) -> &View {
        &self.before
    }

    /// The members that are waited for.
    pub fn awaited(&self) -> &NodeSet {
        &self.awaited
    }
}

fn shares(view: &View, life: &Member) -> bool {
    let same = |member: &Member| member.incarnation == life.incarnation && member.state.can_share();
    view.member(life.id).is_some_and(same)
}
