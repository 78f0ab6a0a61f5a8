//! What can happen next in a world, and what each of that concerns.

use kddm_core::id::{NodeId, ObjectId};
use kddm_core::message::Message;

use super::{Action, Doing, World};
use crate::agent::{Agent, ClientNumber, Generation, generation};

impl World {
    /// All that can happen next.
    pub fn actions(&self, actions: &mut Vec<Action>) {
        if self.broken.is_some() {
            return;
        }
        actions.extend(self.links.keys().filter_map(|(from, to)| self.next_delivery(*from, *to)));
        self.view_actions(actions);
        if self.crashes > 0 {
            let members = self.views.last().members.iter().map(|member| member.id);
            actions.extend(members.filter(|node| self.may_crash(*node)).map(Action::Crash));
        }
        if self.returns > 0 {
            let members = self.views.last().members.iter().map(|member| member.id);
            actions.extend(members.filter(|node| self.may_crash(*node)).map(Action::Freeze));
        }
        actions.extend(self.untold.iter().map(|(node, generation)| Action::Destroy(*node, *generation)));
        if self.acceptances > 0 && self.failed > 0 {
            actions.extend(self.set_acceptance(self.truth.keys().next().map_or(0, |object| generation(*object))));
        }
        for (number, client) in self.clients.iter().enumerate() {
            let number = number as ClientNumber;
            match (client.doing, client.plan.front()) {
                (_, None) => {}
                (Doing::Nothing, Some(_)) if self.shares(client.node) => actions.push(Action::Begin(number)),
                (Doing::Nothing, Some(_)) => {}
                (Doing::Waiting, Some(_)) if self.cancels > 0 => actions.push(Action::Cancel(number)),
                (Doing::Waiting | Doing::Putting, Some(_)) => {}
                (Doing::Reading, Some(_)) => actions.push(Action::Finish(number)),
                (Doing::Writing, Some((object, wish))) => {
                    actions.push(Action::Finish(number));
                    let empty = self.value_at(client.node, *object).is_none();
                    if self.discards > 0 && !wish.reads() {
                        actions.push(Action::Discard(number));
                    }
                    if self.failed_touches > 0 && empty {
                        actions.push(Action::Abandon(number));
                    }
                }
            }
        }
        if actions.iter().all(Action::is_by_chance) {
            actions.extend(self.acceptance());
        }
    }

    /// Somebody accepts what is lost of a set, at the first node that lives.
    pub fn set_acceptance(&self, of: Generation) -> Option<Action> {
        let knows = |node: &&Agent| {
            let (id, view) = (node.id(), node.view());
            !self.is_dead(id) && !self.has_left(id) && !node.is_destroyed(of) && view.member(id).is_some()
        };
        self.nodes.iter().find(knows).map(|node| Action::AcceptSet(node.id(), of))
    }

    /// At rest: what is lost is accepted, one object after the other.
    pub fn acceptance(&self) -> Option<Action> {
        let is_lost = |node: &Agent, object| node.inspect(object).entry.is_some_and(|entry| entry.lost);
        let lives = |node: &&Agent| !self.is_dead(node.id()) && !self.has_left(node.id());
        let home_of = |object: &ObjectId| self.nodes.iter().filter(lives).find(|node| is_lost(node, *object));
        let promised = self.truth.iter().filter(|(_, truth)| !truth.is_given_up).map(|(object, _)| *object);
        let lost = promised.into_iter().find(|object| home_of(object).is_some())?;
        let first = self.nodes.iter().find(|node| lives(node) && node.view().member(node.id()).is_some())?;
        Some(Action::Accept(first.id(), lost))
    }

    /// What the next message from one node to another may do.
    pub fn next_delivery(&self, from: NodeId, to: NodeId) -> Option<Action> {
        let packet = self.links.get(&(from, to))?.front()?;
        let epoch = self.node(to).view().epoch;
        if packet.epoch < epoch {
            return Some(Action::Deliver(from, to)); // It is dropped.
        }
        if packet.epoch > epoch {
            return None; // It waits until the receiver is in that epoch, too.
        }
        if packet.placement <= self.node(to).view().placement || self.has_left(to) {
            return Some(Action::Deliver(from, to));
        }
        self.node(to).awaits(from).then_some(Action::Ahead(from, to))
    }

    /// The object, if the action changes nothing of any other.
    pub(super) fn changes_alone(&self, action: Action, object: ObjectId) -> Option<ObjectId> {
        let is_alone = match action {
            Action::Deliver(from, to) => {
                let first = self.links.get(&(from, to)).and_then(|link| link.front());
                let is_of_many =
                    |message: &Message| matches!(message, Message::Revalidate { .. } | Message::Revalidated { .. });
                first.is_none_or(|packet| !is_of_many(&packet.message))
            }
            Action::Ahead(..) | Action::Drain(..) | Action::Begin(_) => true,
            Action::Finish(number) | Action::Discard(number) | Action::Abandon(number) | Action::Cancel(number) => {
                self.clients.get(usize::from(number)).is_some_and(|client| client.kept.is_empty())
            }
            Action::Accept(..) => true,
            Action::Decide
            | Action::Heal
            | Action::Install(_)
            | Action::HandOver(_)
            | Action::Destroy(..)
            | Action::Crash(_)
            | Action::Freeze(_)
            | Action::AcceptSet(..) => false,
        };
        (is_alone && self.truth.contains_key(&object)).then_some(object)
    }

    /// The node at which an action happens, and the object.
    pub fn concerns(&self, action: Action) -> Option<(NodeId, ObjectId)> {
        match action {
            Action::Deliver(from, to) | Action::Ahead(from, to) => {
                Some((to, self.links.get(&(from, to))?.front()?.object))
            }
            Action::Decide | Action::Heal => Some((NodeId(1), ObjectId(0))),
            Action::Install(node) | Action::HandOver(node) | Action::Destroy(node, _) => Some((node, ObjectId(0))),
            Action::Crash(node) | Action::Freeze(node) => Some((node, ObjectId(0))),
            Action::Drain(node, object) | Action::Accept(node, object) => Some((node, object)),
            Action::AcceptSet(node, _) => Some((node, ObjectId(0))),
            Action::Begin(number)
            | Action::Finish(number)
            | Action::Discard(number)
            | Action::Abandon(number)
            | Action::Cancel(number) => {
                let client = self.clients.get(usize::from(number))?;
                Some((client.node, client.plan.front()?.0))
            }
        }
    }

    /// The node shares objects as far as it knows: its clients may begin.
    pub fn shares(&self, node: NodeId) -> bool {
        self.node(node).view().member(node).is_some_and(|member| member.state.can_share())
    }

    /// Nothing can happen any more but cancels and crashes.
    pub fn is_stuck_or_done(&self) -> bool {
        let mut actions = Vec::new();
        self.actions(&mut actions);
        actions.iter().all(Action::is_by_chance)
    }
}

impl Action {
    /// It need never happen.
    pub fn is_by_chance(&self) -> bool {
        matches!(self, Action::Cancel(_) | Action::Crash(_) | Action::Freeze(_) | Action::AcceptSet(..))
    }
}
