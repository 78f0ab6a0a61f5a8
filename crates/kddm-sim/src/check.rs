//! The checkers. They stand outside, see every node at once, and know the invariants of
//! `docs/protocol.md` by their names.

use kddm_core::home::EntryState;
use kddm_core::id::{NodeId, ObjectId};
use kddm_core::io::Access;
use kddm_core::shard::Main;

use crate::agent::{Agent, Value, generation};
use crate::world::{Doing, World};

/// The objects whose sets nobody destroys.
fn promised(world: &World) -> impl Iterator<Item = ObjectId> {
    world.truth.iter().filter(|(_, truth)| !truth.is_given_up).map(|(object, _)| *object)
}

/// What must hold after each step, which has changed this object alone, if one is given.
pub fn each_step(world: &mut World, changed: Option<ObjectId>) {
    let objects: Vec<ObjectId> = promised(world).filter(|object| changed.is_none_or(|it| it == *object)).collect();
    for object in objects {
        one_writer(world, object);
        owners(world, object);
        value_survives(world, object);
        home_names_it(world, object);
    }
}

/// What exists is found by a scan: whoever says that it answers for an object of which a put is complete names it.
fn home_names_it(world: &mut World, object: ObjectId) {
    let exists = world.truth.get(&object).is_some_and(|truth| truth.value.is_some() && !truth.maybe.contains(&None));
    if !exists || world.may_be_lost(object) {
        return;
    }
    let denies = |node: &&Agent| !world.is_dead(node.id()) && node.names(object) == Some(false);
    let Some(denier) = world.nodes.iter().find(denies).map(Agent::id) else { return };
    if !(1..=world.nodes.len() as u16).any(|node| is_being_removed_at(world, NodeId(node), object)) {
        world.breaks(format!("node {denier} answers for object {}, and a scan would not find it there", object.0));
    }
}

/// `I1`: nobody uses an object while another may write it. `I2`: whoever may read it reads the last
/// completed put.
fn one_writer(world: &mut World, object: ObjectId) {
    let using: Vec<(NodeId, Access)> = world
        .nodes
        .iter()
        .filter(|node| !world.is_dead(node.id()))
        .filter_map(|node| Some((node.id(), node.cell(object)?.in_use())))
        .filter(|(_, access)| *access != Access::None)
        .collect();
    if using.len() > 1 && using.iter().any(|(_, access)| *access == Access::Write) {
        world.breaks(format!("I1: object {} is used at once: {using:?}", object.0));
    }
    let Some(known) = world.truth.get(&object) else { return };
    let (truth, maybe) = (known.value, known.maybe.clone());
    for (node, _) in using {
        let value = world.node(node).cell(object).and_then(|cell| cell.value);
        if value.is_some() && value != truth && truth.is_some() && !maybe.contains(&value) {
            world.breaks(format!("I2: node {node} may use {value:?} of object {}, the truth is {truth:?}", object.0));
        }
    }
}

/// `I3`: one owner at a time, each with a greater tenure than any before; `I9`: an owner knows all
/// who have a valid copy.
fn owners(world: &mut World, object: ObjectId) {
    let mut owner = None;
    for node in 0..world.nodes.len() {
        let (id, seen) = (world.nodes[node].id(), world.nodes[node].inspect(object));
        if world.is_dead(id) {
            continue;
        }
        if let Main::Owner { tenure, .. } = seen.main {
            if let Some((other, _)) = owner {
                return world.breaks(format!("I3: object {} has two owners, {other} and {id}", object.0));
            }
            let greatest = world.truth.entry(object).or_default().greatest;
            if tenure < greatest.0 || (tenure == greatest.0 && greatest.1 != id) {
                let was = format!("after node {} had {}", greatest.1, greatest.0);
                world.breaks(format!("I3: node {id} owns object {} with tenure {tenure} {was}", object.0));
            }
            world.truth.entry(object).or_default().greatest = (tenure, id);
            owner = Some((id, seen));
        }
    }
    let Some((owner, seen)) = owner else { return };
    for node in 0..world.nodes.len() {
        let id = world.nodes[node].id();
        let shares = !world.is_dead(id) && matches!(world.nodes[node].inspect(object).main, Main::Sharer { .. });
        if shares && !seen.sharers.contains(&id) && !seen.owed.contains(&id) {
            world.breaks(format!("I9: owner {owner} does not know that node {id} shares object {}", object.0));
        }
    }
}

/// Nothing is lost: the last completed put is at some node, or under way.
fn value_survives(world: &mut World, object: ObjectId) {
    let Some(value) = world.truth.get(&object).and_then(|truth| truth.value) else { return };
    let removing = (1..=world.nodes.len() as u16).any(|node| is_being_removed_at(world, NodeId(node), object));
    if (world.may_be_lost(object) && !world.is_owed(object))
        || world.truth.get(&object).is_some_and(|truth| truth.maybe.contains(&None))
    {
        return;
    }
    // A put under way stands for what it replaces.
    let mut possible = world.truth.get(&object).map(|truth| truth.maybe.clone()).unwrap_or_default();
    possible.push(Some(value));
    let has_it = |node: &Agent| {
        let kept = [node.cell(object).and_then(|cell| cell.value), node.replica(object)];
        kept.iter().any(|value| value.is_some() && possible.contains(value))
    };
    let will_bring_it = |node: &Agent| node.offer(object).is_some_and(|offer| possible.contains(&Some(offer)));
    let here = |node: &Agent| (!world.is_dead(node.id()) && has_it(node)) || will_bring_it(node);
    let mut under_way = world.links.values().flatten().filter(|packet| packet.object == object);
    if !removing && !world.nodes.iter().any(here) && !under_way.any(|packet| packet.body == Some(value)) {
        world.breaks(format!("I4: value {value} of object {} is nowhere", object.0));
    }
}

/// A removal is in progress at that node.
pub fn is_being_removed_at(world: &World, node: NodeId, object: ObjectId) -> bool {
    matches!(world.node(node).inspect(object).main, Main::Tombstone { .. })
}

/// Whether an owner has, in one step, finished the removal of the object.
pub fn ended_its_life(before: Main, after: Main) -> bool {
    match (before, after) {
        (Main::Owner { born, .. }, Main::Owner { born: now, .. }) => born != now,
        (Main::Owner { .. } | Main::Tombstone { .. }, Main::None | Main::Sharer { .. }) => true,
        // Removed, created again, and given away: the tenure that ended is not the one it had.
        (Main::Owner { tenure, .. }, Main::Ghost { tenure: ended, .. }) => tenure != ended,
        (Main::Tombstone { .. }, Main::Owner { .. } | Main::Ghost { .. }) => true,
        _ => false,
    }
}

/// `I10`: when its owner has finished a removal, no other node can use the object.
pub fn nobody_holds(world: &mut World, object: ObjectId, owner: NodeId) {
    let using = |node: &&Agent| {
        !world.is_dead(node.id())
            && node.id() != owner
            && node.cell(object).is_some_and(|cell| cell.in_use() != Access::None)
    };
    if let Some(node) = world.nodes.iter().find(using) {
        let what = format!("I10: object {} was removed, and node {} still uses it", object.0, node.id());
        world.breaks(what);
    }
}

/// `I6`: every wish has ended. `I9`: nothing is outstanding. And what exists has one owner with it.
pub fn at_the_end(world: &mut World) {
    let waiting = world.clients.iter().position(|client| matches!(client.doing, Doing::Waiting | Doing::Putting));
    if let Some(client) = waiting {
        let living = world.nodes.iter().filter(|node| !world.is_dead(node.id()));
        let missing: Vec<_> = living.filter_map(|node| Some((node.id(), node.what_is_missing()?))).collect();
        let what = format!("waits for ever ({missing:?}): {:?}", world.clients[client]);
        return world.breaks(format!("I6: client {client} {what}"));
    }
    if let Some(link) = world.links.keys().next() {
        let (from, to) = *link;
        let what = world.node(to).what_is_missing().unwrap_or_default();
        let told = told(world, world.node(to));
        return world.breaks(format!("I6: what is under way from {from} to {to} never arrives: {what}: {told}"));
    }
    let newest = world.views.last();
    let behind =
        |node: &&Agent| !world.is_dead(node.id()) && newest.member(node.id()).is_some() && node.view() != newest;
    if let Some(node) = world.nodes.iter().find(behind) {
        let (id, view) = (node.id(), node.view().placement.0);
        let awaits: Vec<NodeId> = world.nodes.iter().map(Agent::id).filter(|other| node.awaits(*other)).collect();
        let what =
            format!("I7: node {id} is at placement {view} and waits for {awaits:?}; the newest view is {newest:?}");
        return world.breaks(what);
    }
    let rests = |node: &&Agent| world.is_dead(node.id()) || node.is_at_rest();
    if let Some(node) = world.nodes.iter().find(|node| !rests(node)) {
        let what = format!("I9: node {} has something outstanding at rest: {}", node.id(), told(world, node));
        return world.breaks(what);
    }
    if let Some(step) = world.views.next() {
        let node = world.node(step.node());
        return world.breaks(format!("I6: {step:?} is never decided: {}", told(world, node)));
    }
    if let Some(client) = world.clients.iter().position(|client| !client.plan.is_empty()) {
        return world.breaks(format!("I6: client {client} never began: {:?}", world.clients[client]));
    }
    let objects: Vec<ObjectId> = promised(world).collect();
    for object in objects {
        owner_has_it(world, object);
    }
    for object in world.truth.keys().copied().collect::<Vec<_>>() {
        nothing_of_a_destroyed_set(world, object);
    }
}

/// What a node has of each object that is not at rest.
fn told(world: &World, node: &Agent) -> String {
    let of = |object: &ObjectId| {
        format!("{object:?} {:?} {:?} replica {:?}", node.inspect(*object), node.cell(*object), node.replica(*object))
    };
    let objects: Vec<String> = world.truth.keys().map(of).collect();
    objects.join("; ")
}

/// `I9`: of a destroyed set nothing stays where anybody has heard of it.
fn nothing_of_a_destroyed_set(world: &mut World, object: ObjectId) {
    let has = |node: &&Agent| node.cell(object).is_some() || node.inspect(object).main != Main::None;
    let knows = |node: &&Agent| node.is_destroyed(generation(object)) && has(node);
    if let Some(node) = world.nodes.iter().find(knows) {
        let what = format!("I9: node {} still has object {}, whose set was destroyed", node.id(), object.0);
        world.breaks(what);
    }
}

fn owner_has_it(world: &mut World, object: ObjectId) {
    let living = || world.nodes.iter().filter(|node| !world.is_dead(node.id()));
    let truth = world.truth.get(&object).and_then(|truth| truth.value);
    let maybe = world.truth.get(&object).map(|truth| truth.maybe.clone()).unwrap_or_default();
    let owner = living().find(|node| matches!(node.inspect(object).main, Main::Owner { .. }));
    let value = owner.and_then(|node| node.cell(object)).and_then(|cell| cell.value);
    let owner_replicas = owner.map(|node| node.inspect(object).replicas);
    let owner = owner.map(Agent::id);
    // The directory says that it is lost, or that there may be what it does not know.
    let entry = living().find_map(|node| node.inspect(object).entry);
    let is_lost =
        world.may_be_lost(object) && !world.is_owed(object) && owner.is_none() && entry.is_none_or(|entry| entry.lost);
    if value != truth && !maybe.contains(&value) && !is_lost {
        world.breaks(format!("I4: at rest the owner has {value:?} of object {}, the truth is {truth:?}", object.0));
        return;
    }
    if let Some(node) = living().find(|node| node.offer(object).is_some()) {
        return world.breaks(format!("I9: at rest node {} still offers object {}", node.id(), object.0));
    }
    let kept: Vec<NodeId> = living().filter(|node| node.replica(object).is_some()).map(Agent::id).collect();
    if owner_replicas.is_some_and(|replicas| value.is_some() && replicas.as_slice() != kept) {
        let what = format!("its owner names {owner_replicas:?}, and {kept:?} have one");
        return world.breaks(format!("I9: at rest, replicas of object {}: {what}", object.0));
    }
    if is_lost {
        return;
    }
    let stale: Vec<(NodeId, Option<Value>)> = living()
        .filter(|node| node.replica(object).is_some_and(|kept| Some(kept) != value))
        .map(|node| (node.id(), node.replica(object)))
        .collect();
    if !stale.is_empty() {
        return world
            .breaks(format!("I4: at rest object {} has the value {value:?}, and replicas {stale:?}", object.0));
    }
    // That it does not exist is said, too, where an entry that is missing would be no proof.
    let entry = |node: &Agent| node.inspect(object).entry.filter(|entry| entry.state != EntryState::Absent);
    let knows = |node: &Agent| Some((node.id(), entry(node)?.node));
    let known: Vec<(NodeId, NodeId)> = living().filter_map(knows).collect();
    let home = living().find(|node| !world.has_left(node.id())).and_then(|node| node.home(object));
    let expected: Vec<(NodeId, NodeId)> = home.zip(owner).into_iter().collect();
    if known != expected {
        let what = format!("(home, owner) should be {expected:?}, and the directories say {known:?}");
        world.breaks(format!("I9: at rest, object {}: {what}", object.0));
    }
}
