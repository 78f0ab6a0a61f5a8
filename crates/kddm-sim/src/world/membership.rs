//! Joins and leaves of a world: what may be decided, who installs which view, and what that ends.

use kddm_core::id::NodeId;
use kddm_core::view::View;

use super::clients::Ending;
use super::{Action, Client, Doing, Note, World};
use crate::agent::{ClientNumber, Effects};
use crate::views::Step;

impl World {
    /// What can happen next to the membership.
    pub fn view_actions(&self, actions: &mut Vec<Action>) {
        if self.views.newest() == 0 && self.views.next().is_none() {
            return;
        }
        if self.views.next().is_some_and(|step| self.may_decide(step)) {
            actions.push(Action::Decide);
        }
        if self.views.is_to_heal() && self.is_whole() {
            actions.push(Action::Heal);
        }
        for node in self.nodes.iter().filter(|node| !self.has_left(node.id()) && !self.is_dead(node.id())) {
            let id = node.id();
            if self.next_view(id).is_some() {
                actions.push(Action::Install(id));
            }
            if node.is_handing_over() {
                actions.push(Action::HandOver(id));
            }
            if node.is_leaving() {
                actions.extend(node.to_drain().min().map(|object| Action::Drain(id, object)));
            }
        }
    }

    /// All members say so of themselves, in the newest view.
    fn is_whole(&self) -> bool {
        let newest = self.views.last();
        newest.members.iter().all(|member| {
            let agent = self.node(member.id);
            agent.view() == newest && agent.what_is_missing().is_none()
        })
    }

    fn may_decide(&self, step: Step) -> bool {
        match step {
            Step::Join(_) | Step::Drain(_) | Step::Expel(_) => true,
            Step::Recall(node) => self.shares(node) && self.node(node).is_settled(),
            Step::Share(node) => self.node(node).view().member(node).is_some(),
            Step::Unshare(node) => self.has_finished(node),
            Step::Leave(node) => self.has_finished(node) && !self.links.keys().any(|(from, _)| *from == node),
        }
    }

    /// A leaving node has nothing any more, in the newest view.
    fn has_finished(&self, node: NodeId) -> bool {
        let idle = |client: &Client| client.node != node || client.doing == Doing::Nothing;
        let agent = self.node(node);
        agent.view() == self.views.last() && agent.is_settled() && agent.is_empty() && self.clients.iter().all(idle)
    }

    /// The node was a member, and is none any more.
    pub fn has_left(&self, node: NodeId) -> bool {
        self.node(node).view().member(node).is_some() && self.views.last().member(node).is_none()
    }

    /// The number of the view that the node installs next. A new node begins with the first view that
    /// has it. While one is on its way only a view in which members are lost comes between.
    fn next_view(&self, node: NodeId) -> Option<usize> {
        let from = self.installed[usize::from(node.0) - 1];
        let agent = self.node(node);
        let may_come = |view: &View| agent.is_settled() || view.epoch > agent.view().epoch;
        let is_in = |view: &View| view.member(node).is_some_and(|member| member.incarnation == agent.life());
        let comes = |number: &usize| self.views.get(*number).is_some_and(|view| is_in(view) && may_come(view));
        (from..=self.views.newest()).find(comes)
    }

    pub(super) fn install(&mut self, node: NodeId, effects: &mut Effects) {
        let Some(number) = self.next_view(node) else { return };
        let Some(view) = self.views.get(number).cloned() else { return };
        self.installed[usize::from(node.0) - 1] = number + 1;
        self.node_mut(node).install(&view, effects);
        self.remember(node, effects);
        self.vanish();
        if !self.node(node).is_leaving() || !self.node(node).view().member(node).is_some_and(|m| m.state.can_share()) {
            return;
        }
        self.node_mut(node).dismiss(effects);
        let numbers = (0..).zip(&self.clients).filter(|(_, client)| client.node == node).map(|(number, _)| number);
        for number in numbers.collect::<Vec<ClientNumber>>() {
            let client = &mut self.clients[usize::from(number)];
            let front = client.plan.front().map(|(object, _)| *object);
            match client.doing {
                Doing::Nothing | Doing::Waiting => client.plan.clear(),
                Doing::Reading | Doing::Writing | Doing::Putting => client.plan.truncate(1),
            }
            if client.doing == Doing::Waiting {
                client.doing = Doing::Nothing;
                self.notes.extend(front.map(|object| Note::GaveUp(number, object)));
            }
            if self.clients[usize::from(number)].doing == Doing::Nothing {
                self.let_go(number, Ending::Keep, effects);
            }
        }
    }
}
