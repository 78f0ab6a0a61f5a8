//! What programs hear of sets that they watch.

use std::time::Duration;

use kddm::{AccessError, Change, Error, MembershipError, Position, RpcError, Set, SetError, WatchAll};

use crate::seat::{LIMIT, until};
use crate::{House, add_one, open};

/// Watches of all programs of a node.
const WATCHES: usize = 64;

#[track_caller]
fn next(changes: &mut WatchAll) -> Change {
    changes.receive().wait_for(LIMIT).expect("it is told")
}

/// Takes changes until the object is said to be there in that version, or a later one; none may be skipped.
#[track_caller]
fn until_put(changes: &mut WatchAll, object: u64, version: u64) {
    loop {
        match next(changes) {
            Change::Put { object: of, seen } if of == object && seen.version >= version => return,
            Change::Put { .. } | Change::Removed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

fn version(set: &Set<u64>, object: u64) -> u64 {
    set.get(object).wait_for(LIMIT).expect("a copy").version()
}

#[test]
fn programs_hear_of_puts_wherever_they_are() {
    let house = House::new();
    let programs = [house.program(), house.program()];
    let sets: Vec<Set<u64>> = programs.iter().chain(&house.nodes).map(open).collect();
    let mut all = sets[0].watch_all().wait_for(LIMIT).expect("it begins");
    let mut one = sets[1].watch_object(7).wait_for(LIMIT).expect("it begins");
    for _ in 0..3 {
        for writer in &sets {
            for object in [6, 7] {
                add_one(writer, object);
                until_put(&mut all, object, version(writer, object));
            }
            until_put(&mut one, 7, version(writer, 7));
        }
    }
    sets[3].remove(7).wait_for(LIMIT).expect("it is removed");
    while !matches!(next(&mut one), Change::Removed { object: 7, .. }) {}
    let idle = one.receive().wait_for(Duration::from_millis(50)).expect_err("nothing else was put there");
    assert!(matches!(idle, Error::Rpc(RpcError::Idle { .. })), "{idle}");
    house.check();
}

/// A position means the same to programs and nodes.
#[test]
fn a_watch_of_a_program_goes_on_anywhere() {
    let house = House::new();
    let program = house.program();
    let (here, there): (Set<u64>, Set<u64>) = (open(&program), open(&house.nodes[1]));
    add_one(&there, 1);
    let mut changes = here.watch_all().wait_for(LIMIT).expect("it begins");
    for round in 0..6u64 {
        add_one(&here, 2);
        until_put(&mut changes, 2, version(&here, 2));
        while changes.receive().wait_for(Duration::from_millis(200)).is_ok() {}
        let position: Position = changes.position().to_string().parse().expect("it is written to be read");
        drop(changes);
        add_one(if round % 3 == 0 { &here } else { &there }, 100 + round);
        let next = if round % 2 == 0 { &there } else { &here };
        changes = next.watch_from(None, &position).wait_for(LIMIT).expect("it goes on");
        until_put(&mut changes, 100 + round, 1);
    }
    house.check();
}

#[test]
fn a_watch_of_a_program_ends_with_its_set_and_with_the_program() {
    let house = House::new();
    let program = house.program();
    let here: Set<u64> = open(&program);
    let mut of_set = here.watch_all().wait_for(LIMIT).expect("it begins");
    let other: Set<u64> = program.set("other").open().wait_for(LIMIT).expect("the set opens");
    let mut of_other = other.watch_all().wait_for(LIMIT).expect("it begins");
    house.nodes[1].destroy_set(here.name(), Duration::ZERO).wait_for(LIMIT).expect("it is destroyed");
    let ended = loop {
        match of_set.receive().wait_for(LIMIT) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, Error::Set(SetError::Destroyed)), "{ended}");
    program.stop();
    let ended = of_other.receive().wait_for(LIMIT).expect_err("the program has stopped");
    assert!(matches!(ended, Error::Membership(MembershipError::Stopped)), "{ended}");
}

/// There are so many, and those that are dropped, or end with their program, make room.
#[test]
fn a_node_serves_so_many_watches_of_programs() {
    let house = House::new();
    let programs = [house.program(), house.program()];
    let sets: Vec<Set<u64>> = programs.iter().map(open).collect();
    let watches: Vec<WatchAll> =
        (0..WATCHES).map(|at| sets[at % 2].watch_object(7).wait_for(LIMIT).expect("there is room")).collect();
    let refused = sets[0].watch_all().wait_for(LIMIT).err().expect("one more");
    assert!(matches!(refused, Error::Access(AccessError::Overloaded { limit: WATCHES, .. })), "{refused}");
    drop(watches);
    until("their places are free", || sets[1].watch_all().wait_for(LIMIT).is_ok());
    house.check();
}
