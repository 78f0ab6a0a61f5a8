//! What is used stays, whoever uses it and wherever; what nobody uses leaves.

use std::time::{Duration, Instant};

use kddm::{Node, Set};

use crate::{LIMIT, TIME, attached, cluster, expired, find, is_empty, put, until};

fn open(node: &Node, time: Duration, replicas: u8) -> Set<u64> {
    let builder = node.set("leaving").expire_idle(time).replicas(replicas).wait_limit(LIMIT);
    builder.open().wait_for(LIMIT).expect("the set opens")
}

/// As long as it is read again within its time it stays, however long that goes on. When it was read last.
fn stays_while_it_is_read(set: &Set<u64>, object: u64, read: impl Fn(&Set<u64>) -> Option<u64>) -> Instant {
    let mut last = put(set, object, 7);
    let mut stayed = Duration::ZERO;
    let deadline = Instant::now() + LIMIT;
    while stayed < 4 * TIME {
        assert!(Instant::now() < deadline, "this machine is too busy to read twice within {TIME:?}");
        let before = std::mem::replace(&mut last, Instant::now());
        if read(set) == Some(7) {
            stayed += last - before;
            continue;
        }
        assert!(before.elapsed() >= TIME, "it left {:?} after it was read", before.elapsed());
        last = put(set, object, 7);
        stayed = Duration::ZERO;
    }
    last
}

#[test]
fn what_is_read_where_it_is_stays() {
    let nodes = cluster(2);
    let sets = [0, 1].map(|at: usize| open(&nodes[at], TIME, 1));
    let begun = put(&sets[0], 2, 7);
    let last = stays_while_it_is_read(&sets[0], 1, |set| find(set, 1));
    assert!(begun.elapsed() >= TIME && expired(&nodes) >= 1, "the other one has left");
    until("it has left", || is_empty(&sets[1]));
    assert!(last.elapsed() >= TIME, "it left {:?} after it was read", last.elapsed());
    assert!(nodes.iter().all(|node| node.statistics().faults == 0));
}

#[test]
fn what_is_read_elsewhere_stays() {
    let nodes = cluster(3);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, TIME, 1)).collect();
    put(&sets[0], 2, 7);
    let last = stays_while_it_is_read(&sets[0], 1, |_| find(&sets[1], 1));
    until("both have left", || is_empty(&sets[2]));
    assert!(last.elapsed() >= TIME, "it left {:?} after it was read", last.elapsed());
    assert_eq!((find(&sets[1], 1), find(&sets[0], 1)), (None, None));
    assert!(nodes.iter().all(|node| node.statistics().faults == 0));
}

#[test]
fn what_a_program_reads_stays() {
    let node = cluster(1).remove(0);
    let program = attached(&node, "idle");
    let (here, there) = (open(&node, TIME, 0), open(&program, TIME, 0));
    let last = stays_while_it_is_read(&here, 1, |_| find(&there, 1));
    until("it has left", || is_empty(&here));
    assert!(last.elapsed() >= TIME, "it left {:?} after it was read", last.elapsed());
    assert_eq!(find(&there, 1), None);
}

/// Its owner only has it to read at first, which is no sign of somebody elsewhere.
#[test]
fn what_was_frozen_has_all_its_time_again() {
    let nodes = cluster(2);
    let sets = [0, 1].map(|at: usize| open(&nodes[at], 2 * TIME, 0));
    put(&sets[0], 1, 7);
    let freeze = sets[1].freeze().wait_for(LIMIT).expect("it is frozen");
    freeze.thaw().wait_for(LIMIT).expect("it is thawed");
    let last = Instant::now();
    let found = find(&sets[0], 1);
    until("it has left", || is_empty(&sets[0]));
    assert!(found.is_none() || last.elapsed() >= 2 * TIME, "it left {:?} after it was read", last.elapsed());
    assert!(nodes.iter().all(|node| node.statistics().faults == 0));
}

#[test]
fn what_is_held_stays() {
    let nodes = cluster(2);
    let sets = [0, 1].map(|at: usize| open(&nodes[at], TIME, 0));
    let guards = [1, 2].map(|object| {
        let set = &sets[object as usize - 1];
        loop {
            put(&sets[0], object, 7);
            let guard = set.get(object).wait_for(LIMIT).expect("it is there, or made");
            // Else it has left before it was held.
            if *guard == 7 {
                break guard;
            }
        }
    });
    let begun = Instant::now();
    until("its time has been over for long", || begun.elapsed() > 4 * TIME);
    assert_eq!(sets[0].len().wait_for(LIMIT).expect("it is counted"), 2);
    assert_eq!((find(&sets[0], 1), find(&sets[0], 2)), (Some(7), Some(7)), "holders are in no reader's way");
    drop(guards);
    until("both have left", || is_empty(&sets[0]));
    assert!(nodes.iter().all(|node| node.statistics().faults == 0));
}
