//! Crashes of nodes: what goes with a node, and what its clients had under way.

use kddm_core::id::{NodeId, ObjectId};
use kddm_core::message::Message;
use kddm_core::shard::Main;

use super::{Client, Doing, Note, World};
use crate::agent::{Agent, ClientNumber, Effects, Generation, Packet, generation, replicas_of};
use crate::check;

impl World {
    /// The node has crashed.
    pub fn is_dead(&self, node: NodeId) -> bool {
        self.dead.contains(&node)
    }

    /// A member may crash as long as another home is left: without any there is nothing to look at.
    pub fn may_crash(&self, node: NodeId) -> bool {
        let newest = self.views.last();
        let is_left = |home: &NodeId| *home != node && !self.is_dead(*home);
        newest.member(node).is_some() && !self.is_dead(node) && newest.homes.iter().any(is_left)
    }

    /// More nodes have crashed than the object has replicas, or there have been too few homes to have so
    /// many: then nobody can tell what the dead had.
    pub fn may_be_lost(&self, object: ObjectId) -> bool {
        let replicas = usize::from(replicas_of(generation(object)));
        let newest = self.views.last();
        let living = newest.homes.iter().filter(|home| !self.is_dead(**home)).count();
        let fewest = living.min(usize::from(newest.fewest_homes));
        let dead = self.failed - self.healed;
        self.truth.get(&object).is_some_and(|truth| truth.is_lost)
            || (dead > 0 && (dead > replicas || fewest <= replicas))
    }

    /// A home that is lost later takes its word with it that other objects were lost before: of those that do not
    /// exist nobody can tell then.
    pub fn may_be_doubted(&self, object: ObjectId) -> bool {
        let exists = self.truth.get(&object).is_some_and(|truth| truth.value.is_some());
        self.may_be_lost(object) || (!exists && self.tainted >> replicas_of(generation(object)) & 1 == 1)
    }

    /// Whoever is responsible accepts at that node that the object is gone, if it is lost.
    pub(super) fn accept(&mut self, node: NodeId, object: ObjectId, effects: &mut Effects) {
        self.may_be_gone(|of| of == object);
        self.node_mut(node).accept_loss(object, effects);
    }

    /// The same of all objects of a set.
    pub(super) fn accept_set(&mut self, node: NodeId, of: Generation, effects: &mut Effects) {
        self.acceptances = self.acceptances.saturating_sub(1);
        self.may_be_gone(|object| generation(object) == of);
        self.node_mut(node).accept_set_loss(of, effects);
    }

    /// Somebody accepts that these objects are gone, if they are lost.
    fn may_be_gone(&mut self, is_meant: impl Fn(ObjectId) -> bool) {
        for object in self.truth.keys().copied().filter(|object| is_meant(*object)).collect::<Vec<_>>() {
            if !self.may_be_lost(object) {
                continue;
            }
            self.owed.retain(|owed| *owed != object);
            let truth = self.truth.entry(object).or_default();
            if truth.value.is_some() && !truth.maybe.contains(&None) {
                truth.maybe.push(None);
            }
            let asks = |client: &&mut Client| client.plan.front().is_some_and(|(of, _)| *of == object);
            self.clients.iter_mut().filter(asks).for_each(|client| client.existed = false);
        }
    }

    /// All is whole again but what is lost.
    pub(super) fn heal(&mut self) {
        for object in self.truth.keys().copied().collect::<Vec<_>>() {
            let living = self.nodes.iter().filter(|node| !self.is_dead(node.id()));
            let is_owned = living.into_iter().any(|node| matches!(node.inspect(object).main, Main::Owner { .. }));
            // Somebody is about to hear that it is lost, and somebody else has created it anew.
            let is_told = |packet: &Packet| packet.object == object && matches!(packet.message, Message::Lost { .. });
            let was_lost = !is_owned || self.links.values().flatten().any(is_told);
            if self.may_be_lost(object) && was_lost {
                self.truth.entry(object).or_default().is_lost = true;
            }
        }
        for replicas in (0..8).filter(|replicas| !self.views.last().covers(*replicas)) {
            self.tainted |= 1 << replicas;
        }
        self.healed = self.failed;
        self.views.heal();
    }

    /// A node crashes. What its clients had under way may be done, or not.
    pub(super) fn crash(&mut self, node: NodeId) {
        self.crashes = self.crashes.saturating_sub(1);
        // Nobody sees any more what it had: worlds that differ in that alone are equal.
        self.fail(node, Agent::new(node), false);
        self.views.expel(node);
        self.vanish();
    }

    /// A node does nothing any more, and `next` stands in its place.
    pub(super) fn fail(&mut self, node: NodeId, next: Agent, comes_back: bool) {
        for object in self.truth.keys().copied().collect::<Vec<_>>() {
            if check::is_being_removed_at(self, node, object) {
                self.truth.entry(object).or_default().maybe.push(None);
                // It may have ended at any time from now on.
                let asks = |client: &&mut Client| client.plan.front().is_some_and(|(of, _)| *of == object);
                self.clients.iter_mut().filter(asks).for_each(|client| client.existed = false);
            }
        }
        self.dead.push(node);
        self.failed += 1;
        self.owed.clear();
        self.nodes[usize::from(node.0) - 1] = next;
        self.untold.retain(|(untold, _)| *untold != node);
        for number in 0..self.clients.len() {
            let client = &mut self.clients[number];
            if client.node != node {
                continue;
            }
            let front = client.plan.front().map(|(object, _)| *object);
            let (was, kept) = (std::mem::replace(&mut client.doing, Doing::Nothing), std::mem::take(&mut client.kept));
            let open = front.filter(|_| was != Doing::Nothing);
            if !comes_back {
                client.plan.clear();
            } else if open.is_some() {
                client.plan.pop_front();
            }
            self.notes.extend(open.into_iter().chain(kept).map(|object| Note::GaveUp(number as ClientNumber, object)));
        }
    }

    /// What is under way to the dead is gone, and what comes from them counts only in the epoch in which
    /// it was said: how much of it arrives before is a matter of the network.
    pub(super) fn vanish(&mut self) {
        if self.dead.is_empty() {
            return;
        }
        let mut links = std::mem::take(&mut self.links);
        links.retain(|(from, to), packets| {
            let newest = packets.back().map(|packet| packet.epoch);
            let is_stale = newest.is_none_or(|epoch| epoch < self.node(*to).view().epoch) || self.has_left(*to);
            !(self.is_dead(*to) || self.is_dead(*from) && is_stale)
        });
        self.links = links;
    }
}
