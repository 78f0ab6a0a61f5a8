//! The message budget of `docs/protocol.md`: what each operation costs, in messages, with nothing
//! else going on.

use std::collections::BTreeMap;

use kddm_core::id::{NodeId, ObjectId};
use kddm_core::message::RequestKind;
use kddm_sim::agent::Wish;
use kddm_sim::world::{Action, Plan, World};

const GET: Wish = Wish::Request(RequestKind::Get { existing: false });
const GRAB: Wish = Wish::Request(RequestKind::Grab { existing: false });
const REMOVE: Wish = Wish::Request(RequestKind::Remove);
const FLUSH: Wish = Wish::Request(RequestKind::Flush { to: NodeId::NOBODY });

/// Does the steps one after the other, each to its end, and counts the messages of the last one.
fn messages_of_last(home: u16, steps: &[(u16, Wish)]) -> (usize, BTreeMap<&'static str, usize>) {
    let plan = Plan {
        nodes: 5,
        homes: vec![NodeId(home)],
        clients: steps.iter().map(|(node, wish)| (NodeId(*node), vec![(ObjectId(0), *wish)])).collect(),
        cancels: 0,
        discards: 0,
        failed_touches: 0,
        changes: Vec::new(),
        crashes: 0,
        returns: 0,
        replicas: 0,
        acceptances: 0,
        heals: false,
    };
    let mut world = World::new(&plan);
    let mut counted = BTreeMap::new();
    for client in 0..steps.len() as u16 {
        counted.clear();
        world.apply(Action::Begin(client));
        loop {
            let mut actions = Vec::new();
            world.actions(&mut actions);
            let own = |action: &&Action| !matches!(action, Action::Begin(other) if *other != client);
            let Some(action) = actions.iter().find(own).copied() else { break };
            if let Action::Deliver(from, to) = action {
                let kind = world.links[&(from, to)][0].message.kind();
                *counted.entry(kddm_core::message::Message::NAMES[usize::from(kind)]).or_insert(0) += 1;
            }
            world.apply(action);
        }
        assert_eq!(world.broken, None);
    }
    (counted.values().sum(), counted)
}

#[track_caller]
fn costs(home: u16, steps: &[(u16, Wish)], expected: usize) {
    let (messages, by_kind) = messages_of_last(home, steps);
    assert_eq!(messages, expected, "{by_kind:?}");
}

#[test]
fn what_is_here_costs_nothing() {
    costs(1, &[(1, GRAB)], 0);
    costs(3, &[(1, GRAB), (1, GRAB)], 0);
    costs(3, &[(1, GRAB), (2, GET), (2, GET)], 0);
}

#[test]
fn a_first_touch_elsewhere_costs_two_and_an_announcement() {
    costs(3, &[(1, GRAB)], 3);
}

#[test]
fn a_get_costs_two_where_the_home_owns_and_three_where_another_does() {
    costs(1, &[(1, GRAB), (2, GET)], 2);
    costs(3, &[(1, GRAB), (2, GET)], 3);
}

#[test]
fn a_get_by_a_right_hint_costs_two() {
    // Node 2 knows the owner by the copy that it gave up: its request goes there directly.
    costs(3, &[(1, GRAB), (2, GET), (2, FLUSH), (2, GET)], 2);
}

#[test]
fn a_grab_costs_two_for_each_sharer_more_and_two_off_the_path() {
    costs(1, &[(1, GRAB), (2, GRAB)], 2 + 2);
    // By the home: one forward more.
    costs(3, &[(1, GRAB), (2, GRAB)], 3 + 2);
    costs(1, &[(1, GRAB), (3, GET), (2, GRAB)], 2 + 2 + 2);
    costs(1, &[(1, GRAB), (3, GET), (4, GET), (5, GET), (2, GRAB)], 2 + 6 + 2);
}

#[test]
fn an_upgrade_costs_two_for_each_sharer() {
    costs(1, &[(1, GRAB), (2, GET), (1, GRAB)], 2);
    costs(1, &[(1, GRAB), (2, GET), (3, GET), (4, GET), (1, GRAB)], 6);
}

#[test]
fn a_remove_costs_two_for_each_holder_and_three() {
    costs(5, &[(1, GRAB), (1, REMOVE)], 3);
    costs(5, &[(1, GRAB), (2, GET), (3, GET), (1, REMOVE)], 2 * 2 + 3);
    costs(5, &[(1, GRAB), (2, GET), (3, GET), (4, REMOVE)], 2 * 2 + 3 + 3);
    // A home that shares is told and struck by one message.
    costs(2, &[(1, GRAB), (2, GET), (3, GET), (1, REMOVE)], 2 + 3);
}

#[test]
fn a_flush_costs_one_or_moves_the_last_copy() {
    costs(1, &[(1, GRAB), (2, GET), (2, FLUSH)], 1);
    costs(1, &[(1, GRAB), (1, FLUSH)], 0);
    costs(3, &[(1, GRAB), (1, FLUSH)], 2);
}
