//! Joins and leaves while others work (T21, T22).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kddm::{Error, MembershipError, Node, Raw, Set};

use crate::{LIMIT, OFFLINE, states};

fn join(contact: Option<&Node>) -> Node {
    let mut config = contact.map_or_else(crate::unhurried, |node| crate::unhurried().contact(node.address().clone()));
    config.peer_buffer_limit_bytes = 256 << 10;
    let config = config.object_limit_bytes(64 << 10);
    Node::join(config).wait().expect("a live contact")
}

fn add(number: &mut u64) -> Result<(), Error> {
    *number += 1;
    Ok(())
}

/// Large values that the other node has copies of, and some that only the leaving node has.
#[test]
fn large_objects_are_handed_over_at_a_leave() {
    const OBJECTS: u64 = 200;
    const BYTES: usize = 64 << 10;
    let first = join(None);
    let second = join(Some(&first));
    let here: Set<Raw> = first.set("large").open().wait().expect("the set opens");
    let there: Set<Raw> = second.set("large").open().wait().expect("the set opens");
    for object in 0..OBJECTS {
        let mut guard = here.grab(object).wait().expect("the object");
        *guard = Raw(vec![object as u8; BYTES]);
        guard.put().wait().expect("it fits");
    }
    for object in 0..OBJECTS / 2 {
        there.get(object).wait().map(drop).expect("a copy");
    }
    if let Err(error) = first.stop_sharing(LIMIT).wait() {
        panic!("{error}; there: {:?}", second.statistics());
    }
    for object in 0..OBJECTS {
        let value = there.get_existing(object).wait().expect("it was handed over");
        assert!(value.0.len() == BYTES && value.0.iter().all(|byte| *byte == object as u8));
    }
}

/// Counts up objects until it is told to stop; how often, and how many operations failed.
fn count_up(set: &Set<u64>, objects: u64, stop: &AtomicBool, done: &AtomicU64) -> u64 {
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        at = (at + 7) % objects;
        set.update(at, add).wait().expect("nobody who stays notices a join or a leave");
        done.fetch_add(1, Ordering::Relaxed);
        let _read = *set.get(at).wait().expect("nobody who stays notices a join or a leave");
    }
    at
}

/// T21, T22: nodes come and go while others count; no increment is lost or made twice, no operation
/// fails, and at the end all objects are there.
#[test]
fn t21_t22_nodes_join_and_leave_while_others_work() {
    const OBJECTS: u64 = 64;
    const ROUNDS: usize = 6;
    let nodes = [join(None), join(None)];
    drop(nodes);
    let first = join(None);
    let second = join(Some(&first));
    let sets: Vec<Set<u64>> = [&first, &second].map(|node| node.set("numbers").open().wait().expect("it opens")).into();
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for set in &sets {
            scope.spawn(|| count_up(set, OBJECTS, &stop, &done));
        }
        for _ in 0..ROUNDS {
            let third = join(Some(&second));
            let there: Set<u64> = third.set("numbers").open().wait().expect("it opens");
            for object in 0..OBJECTS {
                there.update(object, add).wait().expect("it shares");
                done.fetch_add(1, Ordering::Relaxed);
            }
            third.stop();
            assert!(matches!(there.get(1).wait(), Err(Error::Membership(MembershipError::Stopped))));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let sum: u64 = (0..OBJECTS).map(|object| *sets[0].get(object).wait().expect("it is there")).sum();
    assert_eq!(sum, done.load(Ordering::Relaxed));
    for node in [&first, &second] {
        let statistics = node.statistics();
        assert_eq!((statistics.faults, statistics.malformed), (0, 0));
    }
    assert_eq!(states(&second), [(1, crate::POSSIBLE), (2, crate::POSSIBLE)]);
}

/// The node that decides who is a member leaves too, and the others go on: also with joins.
#[test]
fn the_first_node_leaves_and_another_decides() {
    let first = join(None);
    let second = join(Some(&first));
    let set: Set<u64> = first.set("numbers").open().wait().expect("it opens");
    for object in 0..100 {
        set.update(object, add).wait().expect("it is here");
    }
    first.stop();
    assert_eq!(states(&second), [(2, crate::POSSIBLE)]);
    let third = join(Some(&second));
    let there: Set<u64> = third.set("numbers").open().wait().expect("it opens");
    assert_eq!((0..100).map(|object| *there.get_existing(object).wait().expect("it is there")).sum::<u64>(), 100);
}

/// From possible to online and back; who is online is refused by name, and the last one does not go.
#[test]
fn a_node_stops_sharing_and_starts_again() {
    let first = join(None);
    let second = join(Some(&first));
    let [here, there] = [&first, &second].map(|node| node.set::<u64>("numbers").open().wait().expect("it opens"));
    there.update(1, add).wait().expect("it is free");
    second.stop_sharing(LIMIT).wait().expect("nobody holds anything");
    assert_eq!(states(&first), [(1, crate::POSSIBLE), (2, crate::ONLINE)]);
    let refused = there.get(1).wait().expect_err("it is online");
    assert!(matches!(refused, Error::Membership(MembershipError::NotSharing { node: 2 })), "{refused:?}");
    let last = first.stop_sharing(LIMIT).wait().expect_err("nobody could take over");
    assert!(last.to_string().contains("node 1 is the last one"), "{last}");
    assert_eq!(*here.get_existing(1).wait().expect("it was handed over"), 1);
    second.start_sharing(LIMIT).wait().expect("the first agrees");
    there.update(1, add).wait().expect("it shares again");
    assert_eq!(*here.get(1).wait().expect("a copy"), 2);
}

/// Whoever asks to go, and becomes the last one meanwhile, hears that at once, and not at its limit.
#[test]
fn all_who_stop_sharing_at_one_time_are_answered() {
    let first = join(None);
    let nodes = [first.clone(), join(Some(&first)), join(Some(&first))];
    let set = first.set::<u64>("numbers").open().wait().expect("it opens");
    for _ in 0..20 {
        set.update(1, add).wait().expect("it is free");
        let mut refused = 0;
        std::thread::scope(|scope| {
            let stop = |node: &Node| node.stop_sharing(LIMIT).wait_for(LIMIT);
            let stops: Vec<_> = nodes.iter().map(|node| scope.spawn(move || stop(node))).collect();
            for stopped in stops {
                if let Err(error) = stopped.join().expect("it ends") {
                    assert!(error.to_string().contains("is the last one"), "{error}");
                    refused += 1;
                }
            }
        });
        assert_eq!(refused, 1);
        nodes.iter().for_each(|node| node.start_sharing(LIMIT).wait().expect("it shares again"));
    }
    assert_eq!(*set.get_existing(1).wait().expect("it was handed over"), 20);
}

/// What a local thread holds is waited for, and if it holds it too long the node stays.
#[test]
fn a_held_object_keeps_its_node_until_it_is_put() {
    let first = join(None);
    let second = join(Some(&first));
    let set: Set<u64> = second.set("numbers").open().wait().expect("it opens");
    let mut held = set.grab(1).wait().expect("it is free");
    let error = second.stop_sharing(Duration::from_millis(200)).wait().expect_err("it is held");
    assert!(error.to_string().contains("1 objects are still here"), "{error}");
    *held = 5;
    held.put().wait().expect("the node shares as before");
    let held = set.get(1).wait().expect("the node shares as before");
    std::thread::scope(|scope| {
        let leaving = scope.spawn(|| second.stop_sharing(LIMIT).wait());
        while second.members().iter().all(|member| member.id != 2) || set.get(2).wait().is_ok() {}
        drop(held);
        leaving.join().expect("no panic").expect("it is free now");
    });
    let here: Set<u64> = first.set("numbers").open().wait().expect("it opens");
    assert_eq!(*here.get_existing(1).wait().expect("it was handed over"), 5);
}

/// Two stop at once, and a thread still holds something: whoever cannot hand it over any more does not wait until it
/// shares objects again.
#[test]
fn a_node_that_stops_does_not_wait_for_one_that_has_gone_meanwhile() {
    const LONGER_THAN_ANY_TEST: Duration = Duration::from_secs(3_600);
    let first = join(None);
    let config = crate::unhurried().contact(first.address().clone()).join_limit(LONGER_THAN_ANY_TEST);
    let second = Node::join(config).wait_for(LIMIT).expect("a live contact");
    let set: Set<u64> = second.set("numbers").open().wait().expect("it opens");
    let held = set.grab(1).wait().expect("it is free");
    let (ended, ends) = std::sync::mpsc::channel();
    let stopping = second.clone();
    std::thread::spawn(move || {
        stopping.stop();
        ended.send(()).expect("the test waits");
    });
    let until = Instant::now() + LIMIT;
    while second.left_to_hand_over() == 0 {
        assert!(Instant::now() < until, "it does not begin to hand over");
        std::thread::yield_now();
    }
    first.stop_within(Duration::ZERO);
    ends.recv_timeout(2 * LIMIT).expect("it gives up when the other one cannot be reached");
    drop(held);
}

/// A set is enough to keep its node going.
#[test]
fn a_node_goes_on_as_long_as_one_of_its_sets_is_in_use() {
    let mut nodes = Node::local_cluster(2).expect("two nodes");
    let there: Set<u64> = nodes[1].set("kept").open().wait().expect("the set opens");
    let here: Set<u64> = nodes[0].set("kept").open().wait().expect("the set opens");
    drop(nodes.pop());
    for object in 0..20 {
        there.grab(object).wait().expect("its node runs").put().wait().expect("its node runs");
        assert_eq!(*here.get(object).wait().expect("members share"), 0);
    }
    assert_eq!(nodes[0].members().len(), 2);
    drop(there);
    let deadline = Instant::now() + LIMIT;
    while nodes[0].members().len() > 1 {
        assert!(Instant::now() < deadline, "it has not left");
        std::thread::yield_now();
    }
    assert_eq!(*here.get(7).wait().expect("what it had was handed over"), 0);
}

/// Who has left is told apart from who has never been there, until he comes back.
#[test]
fn who_has_left_is_offline_until_it_comes_back() {
    let first = join(None);
    let second = Node::join(crate::unhurried().contact(first.address().clone()).node_id(7)).wait().expect("it joins");
    let life = second.incarnation();
    assert!(first.departed().is_empty());
    second.stop();
    let gone = first.departed();
    assert_eq!(
        gone.iter().map(|node| (node.id, node.incarnation, node.state)).collect::<Vec<_>>(),
        [(7, life, OFFLINE)]
    );
    let again =
        Node::join(crate::unhurried().contact(first.address().clone()).node_id(7)).wait().expect("it comes back");
    assert!(first.departed().is_empty() && again.departed().is_empty());
}

/// There are no objects to hand over yet, but somebody has to decide.
#[test]
fn a_voter_that_leaves_before_there_are_sets_leaves_another_behind() {
    let mut nodes = Node::local_cluster(2).expect("two nodes");
    nodes.remove(0).stop();
    let set: Set<u64> = nodes[0].set("after").open().wait_for(LIMIT).expect("it decides alone");
    set.update(1, add).wait().expect("its own");
    assert_eq!(nodes[0].members().len(), 1);
}
