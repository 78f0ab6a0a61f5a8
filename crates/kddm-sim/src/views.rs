//! How the membership of a world changes: joins and clean leaves, decided one after the other, each
//! step as soon as its condition holds. Every node installs the views in order, in its own time.

use std::collections::VecDeque;
use std::sync::Arc;

use kddm_core::id::{Epoch, Incarnation, NodeId, Placement, Zone};
use kddm_core::view::{Member, NodeState, View};

/// A change of the membership.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    /// A node that was not there comes in, and then shares objects.
    Join(NodeId),
    /// A node hands over all it has, stops sharing, and goes.
    Leave(NodeId),
    /// A member that shared no objects begins to.
    Share(NodeId),
    /// A node hands over all it has and stops sharing. It stays a member.
    Unshare(NodeId),
}

/// A step of a change: an entry of the view log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// A new member, online.
    Join(NodeId),
    /// It shares objects, and is a home.
    Share(NodeId),
    /// It is no home any more.
    Drain(NodeId),
    /// It shares no objects any more.
    Unshare(NodeId),
    /// It is no member any more.
    Leave(NodeId),
    /// It has crashed: it is no member any more.
    Expel(NodeId),
    /// A member was one before, and remembers what it owned: all say again what they have.
    Recall(NodeId),
}

impl Step {
    /// Whose step it is.
    pub fn node(self) -> NodeId {
        match self {
            Step::Join(node)
            | Step::Share(node)
            | Step::Drain(node)
            | Step::Unshare(node)
            | Step::Leave(node)
            | Step::Expel(node)
            | Step::Recall(node) => node,
        }
    }
}

/// The decided views, and the steps to come.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Views {
    decided: Arc<Vec<View>>,
    steps: VecDeque<Step>,
    heals: bool,
    /// Of those that are not in their first one.
    lives: Vec<(NodeId, Incarnation)>,
}

impl Views {
    /// All nodes share objects but those that join or begin to share later.
    pub fn new(nodes: u16, changes: &[Change], heals: bool) -> Views {
        let joins = |node: &NodeId| changes.contains(&Change::Join(*node));
        let first: Vec<NodeId> = (1..=nodes).map(NodeId).filter(|node| !joins(node)).collect();
        let shares = |node: &NodeId| !changes.contains(&Change::Share(*node));
        let state = |node: &NodeId| if shares(node) { NodeState::Possible } else { NodeState::Online };
        let members = first.iter().map(|node| member(*node, state(node))).collect();
        let homes = first.iter().copied().filter(shares).collect();
        let fewest_homes = first.len() as u16;
        let view = View { epoch: Epoch(1), placement: Placement(1), members, homes, failures: 0, fewest_homes };
        let steps = changes.iter().flat_map(|change| match *change {
            Change::Join(node) => vec![Step::Join(node), Step::Share(node)],
            Change::Leave(node) => vec![Step::Drain(node), Step::Unshare(node), Step::Leave(node)],
            Change::Share(node) => vec![Step::Share(node)],
            Change::Unshare(node) => vec![Step::Drain(node), Step::Unshare(node)],
        });
        Views { decided: Arc::new(vec![view]), steps: steps.collect(), heals, lives: Vec::new() }
    }

    /// The view with that number, from 0.
    pub fn get(&self, number: usize) -> Option<&View> {
        self.decided.get(number)
    }

    /// The newest one.
    pub fn last(&self) -> &View {
        self.decided.last().expect("there is a view from the beginning")
    }

    /// The number of the newest one.
    pub fn newest(&self) -> usize {
        self.decided.len() - 1
    }

    /// The step that comes next.
    pub fn next(&self) -> Option<Step> {
        self.steps.front().copied()
    }

    /// Failures are to be counted anew as soon as all is whole again.
    pub fn is_to_heal(&self) -> bool {
        self.heals && self.last().failures > 0
    }

    /// All members have said that all is whole again.
    pub fn heal(&mut self) {
        let mut view = self.last().clone();
        view.placement = Placement(view.placement.0 + 1);
        (view.failures, view.fewest_homes) = (0, view.homes.len() as u16);
        Arc::make_mut(&mut self.decided).push(view);
    }

    /// A node has crashed: that it is no member any more comes next, and nothing else of it.
    pub fn expel(&mut self, node: NodeId) {
        self.steps.retain(|step| step.node() != node);
        if self.last().member(node).is_some() {
            self.steps.push_front(Step::Expel(node));
        }
    }

    /// A node that is being expelled will be a member again, in its next life.
    pub fn take_in_again(&mut self, node: NodeId, life: Incarnation) {
        self.lives.retain(|(of, _)| *of != node);
        self.lives.push((node, life));
        self.steps.extend([Step::Join(node), Step::Share(node), Step::Recall(node)]);
    }

    /// Decides the next step. Says who is a member by it.
    pub fn decide(&mut self) -> Option<NodeId> {
        let step = self.steps.pop_front()?;
        if let Step::Drain(node) = step
            && self.last().homes.iter().all(|home| *home == node)
        {
            // All others are gone: it stays.
            self.steps.retain(|step| step.node() != node);
            return None;
        }
        let mut view = self.last().clone();
        view.placement = Placement(view.placement.0 + 1);
        view.fewest_homes = view.fewest_homes.min(view.homes.len() as u16);
        match step {
            Step::Join(node) => {
                let of = self.lives.iter().find(|(of, _)| *of == node);
                let incarnation = of.map_or(life(node), |(_, life)| *life);
                view.members.push(Member { incarnation, ..member(node, NodeState::Online) });
                view.members.sort_by_key(|member| member.id);
            }
            Step::Share(node) => {
                set_state(&mut view, node, NodeState::Possible);
                view.homes.push(node);
                view.homes.sort_unstable();
            }
            Step::Drain(node) => view.homes.retain(|home| *home != node),
            Step::Unshare(node) => set_state(&mut view, node, NodeState::Online),
            Step::Leave(node) => view.members.retain(|member| member.id != node),
            Step::Recall(_) => view.epoch = Epoch(view.epoch.0 + 1),
            Step::Expel(node) => {
                view.epoch = Epoch(view.epoch.0 + 1);
                view.failures += 1;
                view.members.retain(|member| member.id != node);
                view.homes.retain(|home| *home != node);
            }
        }
        Arc::make_mut(&mut self.decided).push(view);
        if let Step::Join(node) = step { Some(node) } else { None }
    }
}

/// The first life of a node of a world has the node's number.
pub fn life(node: NodeId) -> Incarnation {
    Incarnation(node.0.into())
}

fn member(id: NodeId, state: NodeState) -> Member {
    Member { id, incarnation: life(id), state, zone: Zone(id.0 % 3) }
}

fn set_state(view: &mut View, node: NodeId, state: NodeState) {
    if let Some(member) = view.members.iter_mut().find(|member| member.id == node) {
        member.state = state;
    }
}
