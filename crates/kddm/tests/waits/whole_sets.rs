//! Watches of whole sets.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kddm::{Change, Error, MembershipError, Node, RpcError, Seen, Set, SetError, WatchAll};

use crate::{LIMIT, two};

fn put(set: &Set<u64>, object: u64, value: u64) {
    let mut guard = set.grab(object).wait_for(LIMIT).expect("nobody keeps it");
    *guard = value;
    guard.put().wait_for(LIMIT).expect("it is put");
}

fn seen(set: &Set<u64>, object: u64) -> Seen {
    set.get(object).wait_for(LIMIT).expect("a copy").seen()
}

fn watch(set: &Set<u64>) -> WatchAll {
    set.watch_all().wait_for(LIMIT).expect("all answer")
}

/// Takes changes until that one, or a newer one, of the object was told; what else there was.
#[track_caller]
fn until_heard(changes: &mut WatchAll, object: u64, newest: Seen) -> Vec<Change> {
    let mut heard = Vec::new();
    loop {
        let change = changes.receive().wait_for(LIMIT).unwrap_or_else(|error| panic!("{error} after {heard:?}"));
        if matches!(change, Change::Put { object: of, seen } if of == object && seen.version >= newest.version) {
            return heard;
        }
        heard.push(change);
    }
}

#[test]
fn puts_are_heard_wherever_they_are() {
    let (_nodes, [here, there]) = two("heard");
    put(&there, 1, 1);
    let mut changes = watch(&here);
    for round in 0..20 {
        for (object, writer) in [(1, &here), (1, &there), (2, &there), (3, &here)] {
            put(writer, object, round);
            let newest = seen(writer, object);
            let others = until_heard(&mut changes, object, newest);
            assert!(!others.iter().any(|other| matches!(other, Change::Skipped { .. })), "{others:?}");
        }
    }
    there.remove(2).wait_for(LIMIT).expect("it is removed");
    loop {
        match changes.receive().wait_for(LIMIT).expect("it is told") {
            Change::Removed { object: 2, tenure } => break assert!(tenure > 0),
            Change::Put { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    put(&here, 2, 7);
    until_heard(&mut changes, 2, seen(&here, 2));
    let idle = changes.receive().wait_for(Duration::from_millis(20));
    assert!(matches!(idle, Ok(Change::Put { .. }) | Err(Error::Rpc(RpcError::Idle { .. }))), "{idle:?}");
}

/// Writers everywhere, with and without replicas: in the end the newest version of each object was told.
#[test]
fn the_newest_version_of_each_object_is_heard_in_the_end() {
    for replicas in [0, 1] {
        let nodes = Node::local_cluster(3).expect("a cluster");
        let open = |node: &Node| -> Set<u64> {
            node.set("storm").replicas(replicas).open().wait_for(LIMIT).expect("the set opens")
        };
        let sets: Vec<Set<u64>> = nodes.iter().map(open).collect();
        (0..40).for_each(|object| put(&sets[object as usize % 3], object, 0));
        let mut watches: Vec<WatchAll> = sets[..2].iter().map(watch).collect();
        std::thread::scope(|scope| {
            for (number, set) in (0u64..).zip(&sets) {
                scope.spawn(move || {
                    for round in 0..400u64 {
                        put(set, (round * (7 + number) + number) % 40, round);
                    }
                });
            }
        });
        let newest: HashMap<u64, Seen> = (0..40).map(|object| (object, seen(&sets[2], object))).collect();
        for changes in &mut watches {
            let mut told: HashMap<u64, Seen> = HashMap::new();
            while newest.iter().any(|(object, seen)| told.get(object).is_none_or(|told| told.version < seen.version)) {
                match changes.receive().wait_for(LIMIT).expect("there is more") {
                    Change::Put { object, seen } => {
                        let known = told.entry(object).or_insert(seen);
                        *known = if seen.tenure >= known.tenure { seen } else { *known };
                        assert!(seen.version <= newest[&object].version, "{object}: {seen:?}");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

/// It holds nobody up, and hears how much it has missed.
#[test]
fn a_slow_watcher_has_skipped_something() {
    let (_nodes, [here, there]) = two("slow");
    let mut changes = watch(&here);
    for object in 0..20_000 {
        put(&there, object, 1);
    }
    let (mut told, mut skipped) = (0, 0);
    while told + skipped < 20_000 {
        match changes.receive().wait_for(LIMIT).expect("there is more") {
            Change::Put { .. } => told += 1,
            Change::Skipped { count: Some(count) } => skipped += count,
            other => panic!("{other:?}"),
        }
    }
    assert!(skipped > 0, "{told} were told");
    put(&there, 5, 2);
    until_heard(&mut changes, 5, seen(&there, 5));
}

#[test]
fn members_that_come_are_watched_and_those_that_go_are_missed() {
    let first = Node::join(crate::unhurried()).wait_for(LIMIT).expect("it begins");
    let join = || Node::join(crate::unhurried().contact(first.address().clone())).wait_for(LIMIT).expect("it joins");
    let open = |node: &Node| -> Set<u64> { node.set("members").open().wait_for(LIMIT).expect("the set opens") };
    let here = open(&first);
    let mut changes = watch(&here);
    for object in 1..4 {
        let other = join();
        let there = open(&other);
        put(&there, object, 1);
        until_heard(&mut changes, object, seen(&there, object));
        put(&there, object, 2);
        until_heard(&mut changes, object, seen(&there, object));
        drop(there);
        other.stop();
        let begin = Instant::now();
        loop {
            match changes.receive().wait_for(LIMIT).expect("it is told") {
                Change::Skipped { count: None } => break,
                _ => assert!(begin.elapsed() < LIMIT, "it is gone"),
            }
        }
    }
    put(&here, 9, 1);
    until_heard(&mut changes, 9, seen(&here, 9));
}

#[test]
fn a_watch_ends_with_its_set_or_node() {
    let (nodes, [here, there]) = two("ends");
    let open = |name: &str| -> Set<u64> { nodes[0].set(name).open().wait_for(LIMIT).expect("the set opens") };
    let (mut first, mut second) = (watch(&here), watch(&open("other")));
    drop((here, there));
    nodes[1].destroy_set("ends", LIMIT).wait_for(LIMIT).expect("it is destroyed");
    let ended = loop {
        match first.receive().wait_for(LIMIT) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, Error::Set(SetError::Destroyed)), "{ended}");
    nodes[0].stop();
    let ended = loop {
        match second.receive().wait_for(LIMIT) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, Error::Membership(MembershipError::Stopped)), "{ended}");
}

/// Whoever watches no more leaves nothing behind.
#[test]
fn a_watch_that_is_dropped_is_gone_everywhere() {
    let (nodes, [here, there]) = two("dropped");
    let open = || nodes.iter().map(|node| node.rpc().counts().open_streams).sum::<u64>();
    for round in 0..3 {
        let mut changes = watch(&here);
        put(&there, 1, round);
        until_heard(&mut changes, 1, seen(&there, 1));
        assert!(open() > 0);
        drop(changes);
        let begin = Instant::now();
        while open() > 0 {
            assert!(begin.elapsed() < LIMIT, "streams are left");
            std::thread::yield_now();
        }
        put(&there, 1, round);
    }
}
