//! Many objects at once: all or nothing, and no two callers wait for each other.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use kddm::{AccessError, Error, Node, Set, together};

use crate::{LIMIT, two};

const SHORT: Duration = Duration::from_millis(50);

/// How often each thread moves something.
const ROUNDS: u64 = 100;

#[test]
fn callers_of_overlapping_lists_on_all_nodes_never_wait_for_each_other() {
    let nodes = Node::local_cluster(3).expect("three nodes");
    std::thread::scope(|threads| {
        for number in 0..6u64 {
            let node = &nodes[(number % 3) as usize];
            threads.spawn(move || {
                let accounts: Set<i64> = node.set("accounts").open().wait().expect("the set opens");
                let counts: Set<u64> = node.set("counts").open().wait().expect("the set opens");
                for round in 0..ROUNDS {
                    let (from, to) = ((number + round) % 4, (number * 3 + round * 2 + 1) % 4);
                    if from == to {
                        continue;
                    }
                    // Named in all orders, of both sets.
                    let wanted = (counts.to_grab(from), [accounts.to_grab(from), accounts.to_grab(to)]);
                    let (mut count, [mut giver, mut taker]) = together(wanted).wait_for(LIMIT).expect("no deadlock");
                    *giver -= 5;
                    *taker += 5;
                    *count += 1;
                    giver.put().wait().expect("it is put");
                    taker.put().wait().expect("it is put");
                    count.put().wait().expect("it is put");
                    let guards = accounts.get_many(&[3, 0, 2, 1]).wait_for(LIMIT).expect("no deadlock");
                    assert_eq!(guards.iter().map(|guard| **guard).sum::<i64>(), 0, "a transfer is seen whole");
                }
            });
        }
    });
    let moved = |number: u64| (0..ROUNDS).filter(move |round| (number + round) % 4 != (number * 3 + round * 2 + 1) % 4);
    let wanted: u64 = (0..6).map(|number| moved(number).count() as u64).sum();
    let counts: Set<u64> = nodes[2].set("counts").open().wait().expect("the set opens");
    let all = counts.get_many(&[0, 1, 2, 3]).wait_for(LIMIT).expect("nobody is left");
    assert_eq!(all.iter().map(|count| **count).sum::<u64>(), wanted);
}

#[test]
fn all_are_asked_for_at_once_and_none_is_held_before_somebody_waits() {
    let (nodes, [here, there]) = two("at_once");
    for guard in here.grab_many(&[1, 2, 3, 4]).wait_for(LIMIT).expect("they are free") {
        guard.put().wait().expect("it is put");
    }
    let before = nodes[1].statistics().misses;
    let all = there.grab_many(&[4, 2, 3, 1]);
    assert_eq!(nodes[1].statistics().misses, before + 4, "nobody has waited yet");
    drop(here.grab_many(&[1, 2, 3, 4]).wait_for(LIMIT).expect("an answer that is not waited for holds nothing"));
    let ids: Vec<u64> = all.wait_for(LIMIT).expect("they are asked for again").iter().map(|guard| guard.id()).collect();
    assert_eq!(ids, [4, 2, 3, 1], "in the order in which they were named");
}

#[test]
fn what_cannot_be_had_whole_within_its_limit_gives_all_back() {
    let (_nodes, [here, there]) = two("limit");
    let held = here.grab(3).wait_for(LIMIT).expect("it is free");
    let error = there.grab_many(&[1, 2, 3, 4]).wait_for(SHORT).expect_err("one is held");
    assert!(matches!(error, Error::Access(AccessError::TimedOut { limit_ms: 50, .. })), "{error:?}");
    drop(here.get_many(&[1, 2, 4]).wait_for(LIMIT).expect("the others came back"));
    drop(held);
    drop(there.grab_many(&[1, 2, 3, 4]).wait_for(LIMIT).expect("nothing is left of the first attempt"));
}

#[test]
fn a_task_that_is_dropped_gives_all_back() {
    let (_nodes, [here, there]) = two("dropped");
    let held = here.grab(3).wait_for(LIMIT).expect("it is free");
    let (one, two) = (there.to_grab(1), there.to_get(2));
    let mut all = together((one, two, vec![there.to_grab(3)]));
    // The first two come by themselves; the third is waited for.
    let begin = std::time::Instant::now();
    while here.try_grab(1).wait_for(LIMIT).is_ok() {
        assert!(Pin::new(&mut all).poll(&mut Context::from_waker(Waker::noop())).is_pending(), "one is held");
        assert!(begin.elapsed() < LIMIT, "the task never holds the first");
    }
    drop(all);
    drop(here.grab(1).wait_for(LIMIT).expect("it was given back"));
    drop(held);
}

#[test]
fn a_list_with_the_same_object_twice_is_refused_whatever_its_shape() {
    let (_nodes, [here, there]) = two("twice");
    let error = together((here.to_get(1), [here.to_get(2), here.to_get(1)])).wait().map(drop).expect_err("it is twice");
    assert!(matches!(error, Error::Access(AccessError::NamedTwice { object: 1 })), "{error:?}");
    let error = together((here.to_get(1), there.to_grab(1))).wait().map(drop).expect_err("by two nodes, but twice");
    assert!(matches!(error, Error::Access(AccessError::NamedTwice { object: 1 })), "{error:?}");
    let none: Vec<kddm::ReadGuard<u64>> = here.get_many(&[]).wait().expect("nothing is had at once");
    assert!(none.is_empty());
}

#[test]
fn a_thread_that_holds_one_of_them_is_told_so() {
    let (_nodes, [here, _]) = two("held");
    let held = here.get(2).wait_for(LIMIT).expect("it is free");
    drop(here.get_many(&[1, 2, 3]).wait_for(LIMIT).expect("readers do not exclude each other"));
    let error = here.grab_many(&[1, 2, 3]).wait().map(drop).expect_err("this thread would wait for itself");
    assert!(matches!(error, Error::Access(AccessError::HeldByThisThread { object: 2, hold: "read" })), "{error:?}");
    drop(held);
}
