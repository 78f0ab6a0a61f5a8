//! Which steps of a world can change places: then one order of the two is enough to see every world.
//!
//! Two steps at different nodes do not disturb each other. Each changes its own node, takes the first
//! message of a link that only it takes from, and puts others behind what is there already. What all
//! share makes the exceptions: the membership, the budgets of a plan, and whether an object exists when
//! a client asks for what exists.

use std::collections::BTreeMap;

use kddm_core::id::NodeId;

use crate::agent::ClientNumber;
use crate::world::{Action, Plan};

/// Steps, one bit for each that a plan can have; a step is known by what it is and where.
pub type Steps = u128;

/// What a plan can have and still fit into [`Steps`]; larger ones are searched without leaving out any.
const MAX_NODES: u16 = 4;
const MAX_CLIENTS: usize = 12;

/// The kinds of steps of a client.
const CLIENT_KINDS: u32 = 5;

/// For each step of a plan, those that can change places with it.
pub struct Independence(BTreeMap<u32, Steps>);

impl Independence {
    /// That of a plan.
    pub fn of(plan: &Plan) -> Independence {
        let mut independence = Independence(BTreeMap::new());
        if plan.nodes > MAX_NODES || plan.clients.len() > MAX_CLIENTS {
            return independence;
        }
        let steps: Vec<(u32, NodeId, Shared)> = steps(plan);
        for (bit, node, shared) in &steps {
            let apart = |(_, other, theirs): &&(u32, NodeId, Shared)| other != node && !shared.meets(*theirs);
            let mask = steps.iter().filter(apart).fold(0, |mask, (other, ..)| mask | 1 << other);
            independence.0.insert(*bit, mask);
        }
        independence
    }

    /// The bit of a step, if it can change places with any.
    pub fn bit(&self, action: Action) -> Option<u32> {
        number(action).filter(|bit| self.0.contains_key(bit))
    }

    /// The steps that can change places with that one.
    pub fn with(&self, bit: Option<u32>) -> Steps {
        bit.and_then(|bit| self.0.get(&bit)).copied().unwrap_or_default()
    }
}

/// The bit of a step, whatever the plan.
fn number(action: Action) -> Option<u32> {
    let at = |node: NodeId| u32::from(node.0) - 1;
    let pair = |from: NodeId, to: NodeId| at(from) * u32::from(MAX_NODES) + at(to);
    let client = |kind: u32, number: ClientNumber| 32 + CLIENT_KINDS * u32::from(number) + kind;
    match action {
        Action::Deliver(from, to) => Some(pair(from, to)),
        Action::Ahead(from, to) => Some(16 + pair(from, to)),
        Action::Begin(number) => Some(client(0, number)),
        Action::Finish(number) => Some(client(1, number)),
        Action::Discard(number) => Some(client(2, number)),
        Action::Abandon(number) => Some(client(3, number)),
        Action::Cancel(number) => Some(client(4, number)),
        Action::Install(node) => Some(92 + at(node)),
        Action::HandOver(node) => Some(96 + at(node)),
        Action::Drain(node, _) => Some(100 + at(node)),
        // These look at all nodes or concern all.
        Action::Decide
        | Action::Heal
        | Action::Destroy(..)
        | Action::Crash(_)
        | Action::Freeze(_)
        | Action::Accept(..)
        | Action::AcceptSet(..) => None,
    }
}

/// All that a plan can have, each with its node.
fn steps(plan: &Plan) -> Vec<(u32, NodeId, Shared)> {
    let nodes = || (1..=plan.nodes).map(NodeId);
    let mut actions: Vec<(Action, NodeId, Shared)> = Vec::new();
    for to in nodes() {
        for from in nodes() {
            actions.push((Action::Deliver(from, to), to, Shared::Nothing));
            actions.push((Action::Ahead(from, to), to, Shared::Nothing));
        }
        actions.push((Action::Install(to), to, Shared::Nothing));
        actions.push((Action::HandOver(to), to, Shared::Nothing));
        actions.push((Action::Drain(to, kddm_core::id::ObjectId(0)), to, Shared::Nothing));
    }
    for (number, (node, operations)) in (0..).zip(&plan.clients) {
        // Whether the object exists when such a client begins is a matter of all nodes.
        if !operations.iter().any(|(_, wish)| wish.is_existing()) {
            actions.push((Action::Begin(number), *node, Shared::Nothing));
        }
        actions.push((Action::Finish(number), *node, Shared::Nothing));
        actions.push((Action::Discard(number), *node, Shared::Discards));
        actions.push((Action::Abandon(number), *node, Shared::Failures));
        actions.push((Action::Cancel(number), *node, Shared::Cancels));
    }
    actions.into_iter().filter_map(|(action, node, shared)| Some((number(action)?, node, shared))).collect()
}

/// The budget that a step takes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shared {
    Nothing,
    Cancels,
    Discards,
    Failures,
}

impl Shared {
    fn meets(self, other: Shared) -> bool {
        self != Shared::Nothing && self == other
    }
}
