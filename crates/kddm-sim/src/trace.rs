//! A path through a world, told so that a person can follow one object.

use std::fmt::Write as _;

use kddm_core::id::ObjectId;

use crate::scenario::Scenario;
use crate::world::{Action, Plan, World};

/// The steps of a path, each with what it changed.
pub fn steps(plan: &Plan, actions: Vec<Action>) -> Vec<String> {
    let mut world = World::new(plan);
    actions.into_iter().map(|action| step(&mut world, action)).collect()
}

/// What a step would do, before it is done.
pub fn foretell(world: &World, action: Action) -> String {
    let mut told = String::new();
    match action {
        Action::Deliver(from, to) => {
            let packet = world.links.get(&(from, to)).and_then(|link| link.front());
            let _ = match packet {
                Some(packet) => write!(told, "{from} -> {to}  {:?} body {:?}", packet.message, packet.body),
                None => write!(told, "{from} -> {to}  nothing"),
            };
        }
        Action::Begin(client) | Action::Cancel(client) => {
            let client = world.clients.get(usize::from(client));
            let _ = write!(told, "{action:?} {:?}", client.map(|client| (client.node, client.plan.front())));
        }
        _ => {
            let _ = write!(told, "{action:?}");
        }
    }
    told
}

/// Does one step and tells it in a line or a few.
pub fn step(world: &mut World, action: Action) -> String {
    let mut told = foretell(world, action);
    let concerns = world.concerns(action);
    world.apply(action);
    if let Some((node, object)) = concerns {
        let seen = world.node(node).inspect(object);
        let cell = world.node(node).cell(object);
        let _ = write!(
            told,
            "\n      object {} at {node}: {:?} access {:?} sharers {:?} owed {:?} queue {} seen {} at {} entry {:?} parked {} cell {:?}",
            object.0,
            seen.main,
            seen.access,
            seen.sharers,
            seen.owed,
            seen.queue,
            seen.seen,
            seen.hint,
            seen.entry.map(|entry| (entry.node, entry.tenure, entry.state)),
            seen.parked,
            cell
        );
    }
    told
}

/// Steps kept of a failing run.
const TRACE_STEPS: usize = 80;

/// The object that a broken invariant is about.
pub fn object_in(broken: &str) -> Option<ObjectId> {
    let (_, rest) = broken.split_once("object ")?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok().map(ObjectId)
}

/// The last steps that concern an object; without one, the object of the last step.
pub fn told(scenario: &Scenario, actions: &[(u64, Action)], wanted: Option<ObjectId>) -> Vec<String> {
    let mut world = scenario.world();
    let mut steps = Vec::new();
    for (now, action) in actions {
        let object = world.concerns(*action).map(|(_, object)| object);
        steps.push((object, format!("{now:>12} ns  {}", step(&mut world, *action))));
    }
    let last = wanted.or(steps.last().and_then(|(object, _)| *object));
    let mut told: Vec<String> = steps.into_iter().filter(|(of, _)| *of == last).map(|(_, step)| step).collect();
    told.split_off(told.len().saturating_sub(TRACE_STEPS))
}
