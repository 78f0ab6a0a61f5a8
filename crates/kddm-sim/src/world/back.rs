//! Nodes that are expelled and come back, with the memory of their process.

use std::collections::BTreeSet;

use kddm_core::id::{Incarnation, NodeId, ObjectId};
use kddm_core::shard::Main;

use super::{Truth, World};
use crate::agent::{Agent, Effects, Generation, generation};

/// Between the lives of a node: no other node has such a life.
const NEXT_LIFE: u32 = 1_000;

impl World {
    /// A node uses nothing any more and is expelled. It will be back with what it owned.
    pub(super) fn freeze(&mut self, node: NodeId) {
        self.returns = self.returns.saturating_sub(1);
        let life = Incarnation(self.node(node).life().0 + NEXT_LIFE);
        let owns = |object: &ObjectId| {
            let is_idle = self.node(node).cell(*object).is_some_and(|cell| cell.writer.is_none());
            is_idle && matches!(self.node(node).inspect(*object).main, Main::Owner { .. })
        };
        let owned: Vec<ObjectId> = self.truth.keys().copied().filter(owns).collect();
        let mut next = Agent::reborn(node, life).with_memories(self.node(node).keeps());
        // Which sets there are it hears when it comes back.
        let untold: Vec<Generation> = self.untold.iter().filter(|of| of.0 == node).map(|of| of.1).collect();
        let told = self.truth.keys().map(|object| generation(*object)).filter(|of| self.node(node).is_destroyed(*of));
        let ended: BTreeSet<Generation> = told.chain(untold.iter().copied()).collect();
        ended.into_iter().for_each(|of| next.destroy(of, &mut Effects::default()));
        for (object, truth) in &mut self.truth {
            truth.is_given_up |= untold.contains(&generation(*object));
        }
        self.fail(node, next, true);
        if self.failed == 1 {
            // It was there before, and nobody was about to remove it.
            let exists = |truth: &Truth| truth.value.is_some() && !truth.maybe.contains(&None);
            let is_owed = |object: &ObjectId| self.truth.get(object).is_some_and(exists);
            self.owed = owned.into_iter().filter(is_owed).collect();
        }
        self.views.expel(node);
        self.views.take_in_again(node, life);
        self.vanish();
    }

    /// Nothing else has gone wrong: the object will be there again.
    pub fn is_owed(&self, object: ObjectId) -> bool {
        self.owed.contains(&object)
    }

    /// It is decided that a node is a member again: nobody says anything more of its former life, or to it.
    pub(super) fn is_taken_in(&mut self, node: NodeId) {
        let of = self.dead.iter().position(|dead| *dead == node);
        if let Some(at) = of {
            self.dead.remove(at);
            self.links.retain(|(from, to), _| *from != node && *to != node);
            self.reborn.push(node);
        }
    }

    /// A node shares objects again: it remembers what it owned.
    pub(super) fn remember(&mut self, node: NodeId, effects: &mut Effects) {
        let shares = self.node(node).view().member(node).is_some_and(|member| member.state.can_share());
        if shares && self.node(node).has_memories() {
            self.node_mut(node).remember(effects);
        }
    }
}
