//! More than a node can take: it says so, and memory does not grow without bound.

use std::time::Duration;

use kddm::{AccessError, Config, Error, Node, Raw, Set, Value};

use crate::seat::until;

/// Two nodes, with the limits that `limits` sets.
fn pair(limits: impl Fn(Config) -> Config) -> [Node; 2] {
    let first = Node::join(limits(crate::unhurried())).wait().expect("a free port");
    let second =
        Node::join(limits(crate::unhurried().contact(first.address().clone()))).wait().expect("a live contact");
    [first, second]
}

fn sets<T: Value + Default>(nodes: &[Node; 2]) -> [Set<T>; 2] {
    [0, 1].map(|at| nodes[at].set("shared").open().wait().expect("the set opens"))
}

/// As many requests as may be outstanding, for objects that somebody holds: one more is refused with
/// both numbers, and works as soon as there is room. What is here needs no room.
#[test]
fn one_request_too_many_is_refused_and_works_later() {
    const LIMIT: usize = 8;
    // Lanes have their shares, and these objects are all one's.
    let nodes = pair(|config| config.outstanding_limit(LIMIT).lanes(1));
    let [here, there] = sets::<u64>(&nodes);
    let held: Vec<_> = (0..LIMIT as u64 + 1).map(|object| there.grab(object).wait().expect("the object")).collect();
    let asked: Vec<_> = (0..LIMIT as u64).map(|object| here.grab(object)).collect();
    assert!(asked.iter().all(|pending| !pending.is_ready()), "all of them are held over there");
    for _ in 0..3 {
        for error in [
            here.get(LIMIT as u64).wait().map(drop).expect_err("one too many"),
            here.fetch(LIMIT as u64).wait().expect_err("one too many"),
            here.remove(LIMIT as u64).wait().expect_err("one too many"),
        ] {
            let overloaded =
                matches!(error, Error::Access(AccessError::Overloaded { outstanding: LIMIT, limit: LIMIT }));
            assert!(overloaded, "{error:?}");
        }
    }
    drop(held);
    for pending in asked {
        pending.wait().expect("it is free now").put().wait().expect("it fits");
    }
    *here.grab(LIMIT as u64).wait().expect("there is room again") = 1;
    // What nobody waits for any more makes room too.
    let held: Vec<_> = (0..LIMIT as u64).map(|object| there.grab(object).wait().expect("the object")).collect();
    let asked: Vec<_> = (0..LIMIT as u64).map(|object| here.grab(object)).collect();
    drop(asked);
    here.get(100).wait().map(drop).expect("there is room");
    drop(held);
}

/// A node that asks for far more at one time than may wait for it at the other: it gets all of it, and
/// neither has to fence itself.
#[test]
fn a_burst_of_large_objects_is_served_as_fast_as_it_is_taken() {
    const OBJECTS: u64 = 200;
    const BYTES: usize = 64 << 10;
    let nodes = pair(|mut config| {
        config.peer_buffer_limit_bytes = 256 << 10;
        config.object_limit_bytes(BYTES)
    });
    let [here, there] = sets::<Raw>(&nodes);
    for (set, first) in [(&here, 0), (&there, OBJECTS)] {
        for object in first..first + OBJECTS {
            let mut guard = set.grab(object).wait().expect("the object");
            *guard = Raw(vec![object as u8; BYTES]);
            guard.put().wait().expect("it fits");
        }
    }
    // Both at the same time, so that each has to send while it takes.
    std::thread::scope(|scope| {
        for (set, first) in [(&there, 0), (&here, OBJECTS)] {
            scope.spawn(move || {
                for pending in set.prefetch(first..first + OBJECTS) {
                    pending.wait().expect("a copy");
                }
                for object in first..first + OBJECTS {
                    let value = set.get(object).wait().expect("a copy");
                    assert!(value.0.len() == BYTES && value.0.iter().all(|byte| *byte == object as u8));
                }
            });
        }
    });
    for node in &nodes {
        let statistics = node.statistics();
        assert_eq!((statistics.faults, statistics.dropped, statistics.malformed), (0, 0, 0));
    }
}

/// A peer that takes nothing any more: requests for it are refused once its share of memory is used
/// up, with an error that names it, and this node goes on.
#[test]
fn a_peer_that_takes_nothing_costs_no_more_than_its_share() {
    let nodes = pair(|mut config| {
        config.peer_buffer_limit_bytes = 64 << 10;
        config.drain_limit = std::time::Duration::ZERO;
        config.object_limit_bytes(1000)
    });
    let [here, there] = sets::<u64>(&nodes);
    let other = nodes[1].id();
    let objects: Vec<u64> = (0..2000).collect();
    for object in &objects {
        there.get(*object).wait().map(drop).expect("the object");
    }
    nodes[1].stop();
    until("it is noticed", || nodes[0].members().iter().any(|member| member.id == other && !member.reachable));
    let mut refused = None;
    for object in &objects {
        let error = here.get(*object).wait_for(Duration::ZERO).map(drop).expect_err("it is over there");
        if let Error::Access(AccessError::PeerFull { .. }) = error {
            refused = Some(error);
            break;
        }
        assert!(matches!(error, Error::Access(AccessError::Unreachable { .. })), "{error:?}");
    }
    let error = refused.expect("its share is used up");
    assert!(error.to_string().contains(&format!("node {other}")), "{error}");
    let mine: Set<u64> = nodes[0].set("shared").open().wait().expect("this node goes on");
    assert_eq!(mine.local_count(), 0);
    assert_eq!(nodes[0].statistics().faults, 0);
}
