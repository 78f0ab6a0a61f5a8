//! Large cases from a seed: one number decides everything, and the same number gives the same run.

use std::hash::{DefaultHasher, Hash, Hasher};

use kddm_core::id::{NodeId, ObjectId};
use kddm_core::message::RequestKind;
use serde::Serialize;

use crate::agent::Wish;
use crate::trace;
use crate::views::Change;
use crate::world::{Action, Operation, Plan, World};

/// What a run came to.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: u16,
    /// Operations begun.
    pub operations: u64,
    /// Waits that were given up.
    pub cancels: u64,
    /// Steps of joins and leaves decided.
    pub view_steps: u64,
    /// Messages delivered.
    pub messages: u64,
    /// A hash of all steps and of the world at the end: equal for equal seeds.
    pub trace_hash: u64,
    /// The first broken invariant.
    pub broken: Option<String>,
    /// The last steps that concern the object at which it broke.
    pub trace: Vec<String>,
}

/// How likely each kind of step is; drawn from the seed.
struct Weights {
    begin: u32,
    finish: u32,
    cancel: u32,
    decide: u32,
    install: u32,
    hand_over: u32,
    drain: u32,
    /// For each pair of nodes, sender first.
    links: Vec<u32>,
}

/// Limits of a run, so that a failing one stays readable.
const MAX_NODES: u16 = 6;
const MAX_CLIENTS_PER_NODE: u16 = 4;
const MAX_OBJECTS: u64 = 6;
const MAX_OPERATIONS_PER_CLIENT: usize = 40;
/// Steps kept of a failing run.
const TRACE_STEPS: usize = 60;
/// Many times what any of these plans needs to come to rest: none was seen to need 3,000.
const STEP_LIMIT: u64 = 100_000;

/// Runs one seed to its end.
pub fn run(seed: u64) -> Report {
    run_telling(seed, None)
}

/// Only what a seed breaks, without how it came to that.
pub fn broken(seed: u64) -> Option<String> {
    run_telling(seed, None).broken
}

/// The same; if it fails, the trace is that of the given object.
pub fn run_telling(seed: u64, object: Option<ObjectId>) -> Report {
    let mut random = fastrand::Rng::with_seed(seed);
    let plan = plan(&mut random);
    let weights = weights(&mut random, plan.nodes);
    let mut world = World::new(&plan);
    let mut report = Report {
        seed,
        nodes: plan.nodes,
        operations: 0,
        cancels: 0,
        view_steps: 0,
        messages: 0,
        trace_hash: 0,
        broken: None,
        trace: Vec::new(),
    };
    let mut hasher = DefaultHasher::new();
    let mut actions = Vec::new();
    let mut history = Vec::new();
    for steps in 0.. {
        actions.clear();
        world.actions(&mut actions);
        let Some(action) = choose(&mut random, &actions, &weights, plan.nodes) else { break };
        match action {
            Action::Begin(_) => report.operations += 1,
            Action::Cancel(_) => report.cancels += 1,
            Action::Deliver(..) => report.messages += 1,
            Action::Decide => report.view_steps += 1,
            _ => {}
        }
        action.hash(&mut hasher);
        history.push(action);
        world.apply(action);
        if steps > STEP_LIMIT {
            world.breaks("I6: the run does not come to rest");
        }
    }
    world.hash(&mut hasher);
    report.trace_hash = hasher.finish();
    if world.broken.is_some() {
        report.trace = told(&plan, &history, object);
    }
    report.broken = world.broken;
    report
}

/// The last steps that concern the object of the last one.
fn told(plan: &Plan, history: &[Action], wanted: Option<ObjectId>) -> Vec<String> {
    let mut world = World::new(plan);
    let mut steps = Vec::new();
    for action in history {
        let object = world.concerns(*action).map(|(_, object)| object);
        steps.push((object, trace::step(&mut world, *action)));
    }
    let last = wanted.or(steps.last().and_then(|(object, _)| *object));
    let mut told: Vec<String> = steps.into_iter().filter(|(of, _)| *of == last).map(|(_, step)| step).collect();
    told.split_off(told.len().saturating_sub(TRACE_STEPS))
}

fn plan(random: &mut fastrand::Rng) -> Plan {
    let nodes = random.u16(2..=MAX_NODES);
    let shards = random.usize(1..=3);
    let objects = random.u64(1..=MAX_OBJECTS);
    let kinds: Vec<u32> = (0..KIND_COUNT).map(|_| if random.bool() { random.u32(1..=20) } else { 0 }).collect();
    let mut clients = Vec::new();
    for node in 1..=nodes {
        for _ in 0..random.u16(1..=MAX_CLIENTS_PER_NODE) {
            let count = random.usize(1..=MAX_OPERATIONS_PER_CLIENT);
            let one = |_| operation(random, objects, nodes, &kinds);
            clients.push((NodeId(node), (0..count).map(one).collect()));
        }
    }
    Plan {
        nodes,
        homes: (0..shards).map(|_| NodeId(random.u16(1..=nodes))).collect(),
        clients,
        cancels: if random.bool() { random.u8(0..=50) } else { 0 },
        discards: random.u8(0..=20),
        failed_touches: random.u8(0..=10),
        changes: changes(random, nodes),
    }
}

/// Joins and leaves in any order; one node stays.
fn changes(random: &mut fastrand::Rng, nodes: u16) -> Vec<Change> {
    let mut changes = Vec::new();
    if random.bool() {
        return changes;
    }
    let stays = random.u16(1..=nodes);
    for node in (1..=nodes).filter(|node| *node != stays).map(NodeId) {
        let at = random.usize(0..=changes.len());
        match random.u8(0..5) {
            0 => changes.insert(at, Change::Join(node)),
            1 => changes.insert(at, Change::Leave(node)),
            2 => {
                changes.insert(at, Change::Join(node));
                let later = random.usize(at + 1..=changes.len());
                changes.insert(later, Change::Leave(node));
            }
            _ => {}
        }
    }
    changes
}

const KIND_COUNT: usize = 9;

fn operation(random: &mut fastrand::Rng, objects: u64, nodes: u16, kinds: &[u32]) -> Operation {
    let object = ObjectId(random.u64(0..objects));
    let total: u32 = kinds.iter().sum();
    let mut at = if total == 0 { 0 } else { random.u32(0..total) };
    let mut kind = 0;
    while kinds.get(kind).is_some_and(|weight| at >= *weight) && total > 0 {
        at -= kinds[kind];
        kind += 1;
    }
    let wish = match kind {
        0 => Wish::Request(RequestKind::Grab { existing: false }),
        1 => Wish::Request(RequestKind::Get { existing: false }),
        2 => Wish::Request(RequestKind::Get { existing: true }),
        3 => Wish::Request(RequestKind::Grab { existing: true }),
        4 => Wish::Request(RequestKind::TryGrab),
        5 => Wish::Request(RequestKind::Remove),
        6 => Wish::Request(RequestKind::Flush { to: NodeId(random.u16(0..=nodes)) }),
        7 => Wish::Fetch,
        _ => Wish::Acquire,
    };
    (object, wish)
}

fn weights(random: &mut fastrand::Rng, nodes: u16) -> Weights {
    let mut one = || [1, 1, 3, 10, 30][random.usize(0..5)];
    Weights {
        begin: one(),
        finish: one(),
        cancel: one().min(3),
        decide: one().min(3),
        install: one(),
        hand_over: one(),
        drain: one(),
        links: (0..nodes * nodes).map(|_| one()).collect(),
    }
}

fn choose(random: &mut fastrand::Rng, actions: &[Action], weights: &Weights, nodes: u16) -> Option<Action> {
    let weight = |action: &Action| match action {
        Action::Begin(_) => weights.begin,
        Action::Finish(_) | Action::Discard(_) | Action::Abandon(_) => weights.finish,
        Action::Cancel(_) => weights.cancel,
        Action::Decide => weights.decide,
        Action::Install(_) => weights.install,
        Action::HandOver(_) => weights.hand_over,
        Action::Drain(..) => weights.drain,
        Action::Ahead(from, to) | Action::Deliver(from, to) => {
            weights.links[usize::from((from.0 - 1) * nodes + to.0 - 1)]
        }
    };
    let total: u32 = actions.iter().map(weight).sum();
    // Cancels alone are no progress: a wait that only a cancel could end is a broken promise.
    if total == 0 {
        return None;
    }
    let mut at = random.u32(0..total);
    for action in actions {
        let weight = weight(action);
        if at < weight {
            return Some(*action);
        }
        at -= weight;
    }
    None
}
