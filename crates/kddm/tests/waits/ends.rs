//! What a wait or a hold comes to at its end.

use std::time::{Duration, Instant};

use kddm::{AccessError, Error, MembershipError, WaitingFor};

use crate::{LIMIT, two};

/// What another node puts after the holder has decided to remove stays.
#[test]
fn nothing_comes_between_a_hold_and_its_remove() {
    let (_nodes, [here, there]) = two("between");
    for object in 0..50 {
        let mut guard = here.grab(object).wait_for(LIMIT).expect("nobody else has it");
        *guard = 100;
        guard.put().wait().expect("it is put");
        let guard = here.grab(object).wait_for(LIMIT).expect("it is here");
        let waits = there.update(object, |count| {
            *count += 1;
            Ok(*count)
        });
        // An answer of the other node says that it has sent that request before.
        drop(there.get(1000 + object).wait_for(LIMIT).expect("nobody else has it"));
        let removed = guard.remove();
        assert_eq!(waits.wait_for(LIMIT).expect("it is granted"), 1, "it has changed what was to be removed");
        removed.wait_for(LIMIT).expect("it is removed");
        assert_eq!(*there.get(object).wait_for(LIMIT).expect("a copy"), 1, "what was put has been removed too");
    }
}

/// Neither does what another thread of the holder's node has asked for before.
#[test]
fn a_waiting_flush_of_the_same_node_does_not_come_before_the_holders_remove() {
    let (_nodes, [here, there]) = two("flushing");
    for object in 0..50 {
        let mut guard = here.grab(object).wait_for(LIMIT).expect("nobody else has it");
        *guard = 100;
        guard.put().wait().expect("it is put");
        let guard = here.grab(object).wait_for(LIMIT).expect("it is here");
        let flushed =
            std::thread::scope(|scope| scope.spawn(|| here.flush(object, None)).join().expect("it has asked"));
        let waits = there.grab(object);
        // An answer of the other node says that it has sent that request before.
        drop(there.get(1000 + object).wait_for(LIMIT).expect("nobody else has it"));
        let removed = guard.remove();
        assert_eq!(*waits.wait_for(LIMIT).expect("it is granted"), 0, "it has what was to be removed");
        removed.wait_for(LIMIT).expect("it is removed");
        flushed.wait_for(LIMIT).expect("it is flushed");
    }
}

/// A wait for threads of this node does not name a node.
#[test]
fn a_wait_for_local_holders_says_so() {
    let (_nodes, [here, _]) = two("local");
    let held = here.grab(1).wait_for(LIMIT).expect("nobody else has it");
    let waited = std::thread::scope(|scope| {
        scope.spawn(|| here.grab(1).wait_for(Duration::from_millis(50)).map(drop)).join().expect("it ends")
    });
    let error = waited.expect_err("it is held");
    let is_local = |waiting_for| waiting_for == WaitingFor::LocalHolders;
    assert!(
        matches!(error, Error::Access(AccessError::TimedOut { waiting_for, .. }) if is_local(waiting_for)),
        "{error}"
    );
    drop(held);
}

/// What was asked for in advance comes, although nobody waits for the answer.
#[test]
fn an_acquire_that_nobody_waits_for_goes_on() {
    let (_nodes, [here, there]) = two("advance");
    let guard = here.grab(1).wait_for(LIMIT).expect("nobody else has it");
    let copy = there.get(1);
    drop(there.acquire(1));
    guard.put().wait().expect("it is put");
    drop(copy.wait_for(LIMIT).expect("a copy"));
    let begin = Instant::now();
    while here.find(1).is_some() {
        assert!(begin.elapsed() < LIMIT, "the object stays where it was");
        std::thread::yield_now();
    }
}

/// A thread that polls for its own answer hears of the stop, even where the node's own thread, which goes
/// too, has taken the wake-up.
#[test]
fn a_blocked_wait_ends_with_its_node() {
    for _ in 0..100 {
        let nodes = kddm::Node::local_cluster(1).expect("a node");
        let set: kddm::Set<u64> = nodes[0].set("stops").open().wait().expect("the set opens");
        let held = set.grab(1).wait().expect("nobody else has it");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let begin = Instant::now();
                (set.grab(1).wait_for(LIMIT).map(drop), begin.elapsed())
            });
            while nodes[0].holdings(10).objects.iter().all(|object| object.waiting_here == 0) {
                std::thread::yield_now();
            }
            nodes[0].stop();
            let (ended, took) = waits.join().expect("it ends");
            assert!(matches!(ended, Err(Error::Membership(MembershipError::Stopped))));
            assert!(took < LIMIT / 2, "{took:?}");
        });
        drop(held);
    }
}
