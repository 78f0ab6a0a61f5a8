//! Objects that do not exist: who creates them, and who must not.

use crate::cases;
use crate::seat::engine::{How, Op};
use crate::seat::{Cluster, Place};

const NOT_FOUND: u16 = 101;

cases! {
    t01 => t01_a_get_creates_the_object_once_local, t01_a_get_creates_the_object_once_processes, t01_a_get_creates_the_object_once_attached;
    t02 => t02_an_absent_object_is_not_found_local, t02_an_absent_object_is_not_found_processes, t02_an_absent_object_is_not_found_attached;
    t03 => t03_insert_from_a_node_that_is_not_home_local, t03_insert_from_a_node_that_is_not_home_processes, t03_insert_from_a_node_that_is_not_home_attached;
}

/// A get of a never-created object by all nodes at once: one first touch, and all see its value.
fn t01(place: Place) {
    let cluster = Cluster::with_home(place, 3, 1);
    for object in 0..20 {
        let asked: Vec<_> = cluster.iter().map(|seat| seat.hand(0).ask(Op::Read { object })).collect();
        let seen: Vec<_> = asked.into_iter().map(|ticket| ticket.seen().expect("a first touch")).collect();
        assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
        assert!((1..=3).contains(&seen[0].note.maker), "some node's first touch made it: {seen:?}");
    }
    cluster.check();
}

/// `get_existing` and `grab_existing` of an absent object, at its home and elsewhere: `NotFound`, and
/// nothing has been created.
fn t02(place: Place) {
    let cluster = Cluster::with_home(place, 2, 1);
    for (object, seat) in [(1, 0), (2, 1)] {
        let hand = cluster[seat].hand(0);
        for round in 0..2 {
            let got = hand.ask(Op::Get { object, existing: true }).seen().expect_err("absent");
            assert_eq!(got.code, NOT_FOUND, "round {round}: {got:?}");
            assert!(got.nothing_happened);
            let grabbed = hand.ask(Op::Grab { object, how: How::Existing }).seen().expect_err("absent");
            assert_eq!(grabbed.code, NOT_FOUND, "round {round}: {grabbed:?}");
        }
        for other in cluster.iter() {
            let got = other.hand(0).ask(Op::Get { object, existing: true }).seen().expect_err("still absent");
            assert_eq!(got.code, NOT_FOUND);
            assert_eq!(other.hand(0).find(object), None);
        }
    }
    // What exists is found, from everywhere.
    cluster[1].hand(0).write(1, 7);
    for seat in cluster.iter() {
        let seen = seat.hand(0).ask(Op::Get { object: 1, existing: true }).seen().expect("it exists");
        assert_eq!(seen.note.number, 7);
        seat.hand(0).release(1);
    }
    cluster.check();
}

/// `grab_or_insert_with` from a node that is not the home: the caller's value is the first one, seen
/// everywhere, and made only if there is none.
fn t03(place: Place) {
    let cluster = Cluster::with_home(place, 3, 1);
    let writer = cluster[1].hand(0);
    let seen = writer.ask(Op::Grab { object: 5, how: How::Insert(55) }).seen().expect("inserted");
    assert_eq!((seen.note.number, seen.note.maker), (55, 0), "no linker's first touch ran");
    writer.put(5);
    for seat in cluster.iter() {
        assert_eq!(seat.hand(0).read(5).note.number, 55, "node {}", seat.id);
    }
    let other = cluster[2].hand(0);
    let seen = other.ask(Op::Grab { object: 5, how: How::Insert(66) }).seen().expect("it exists");
    assert_eq!(seen.note.number, 55, "an object that exists keeps its value");
    other.put(5);
    cluster.check();
}
