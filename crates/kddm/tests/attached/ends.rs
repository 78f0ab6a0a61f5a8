//! How an attachment ends, and what becomes of what was held.

use std::time::Duration;

use kddm::{Error, MembershipError, Node, Set};

use crate::seat::{LIMIT, until};
use crate::{House, add_one, open, socket};

/// As short as a wait can be that must not come true.
const SHORT: Duration = Duration::from_millis(30);

#[test]
fn a_program_that_stops_gives_everything_back() {
    let house = House::new();
    let (program, other) = (house.program(), house.program());
    let (here, there) = (open(&program), open(&other));
    let mut guard = here.grab(1).wait().expect("granted");
    *guard = 5;
    let reads = here.get(2).wait().expect("made here");
    let held = open(&house.nodes[1]).grab(3).wait_for(LIMIT).expect("granted");
    let waits = here.grab(3);
    assert!(there.get(1).wait_for(SHORT).is_err(), "it is held");
    program.stop();
    assert_eq!(*there.get(1).wait_for(LIMIT).expect("free"), 0, "it was not put");
    add_one(&there, 2);
    drop(held);
    add_one(&there, 3);
    assert!(matches!(waits.wait(), Err(Error::Membership(MembershipError::Stopped))));
    assert!(matches!(guard.put().wait(), Err(Error::Membership(MembershipError::Stopped))));
    assert!(matches!(here.get(1).wait(), Err(Error::Membership(MembershipError::Stopped))));
    assert_eq!(*reads, 0, "a guard keeps its value");
    assert_eq!(house.nodes[0].programs().len(), 1);
    house.check();
}

#[test]
fn the_last_handle_ends_the_attachment() {
    let house = House::new();
    drop(house.program());
    until("nobody is attached", || house.nodes[0].programs().is_empty());
    assert_eq!(house.nodes[0].statistics().detached, 1);
}

/// The node stops while a program holds guards and waits: everything in the program ends.
#[test]
fn a_node_that_stops_ends_its_programs() {
    let house = House::new();
    let program = house.program();
    let here = open(&program);
    add_one(&here, 9);
    let mut guard = here.grab(1).wait().expect("granted");
    let held = open(&house.nodes[1]).grab(2).wait_for(LIMIT).expect("granted");
    let waits = here.grab(2);
    house.nodes[0].stop_within(SHORT);
    // One that is refused by a node on its way down, or whose attachment has ended.
    assert!(waits.wait_for(SHORT).is_err());
    *guard = 1;
    until("a put is refused", || here.grab(1).wait_for(SHORT).is_err());
    assert!(matches!(guard.put().wait(), Err(Error::Membership(MembershipError::Detached))));
    assert!(matches!(here.get(9).wait_for(SHORT), Err(Error::Membership(MembershipError::Reattaching))));
    let error = program.set::<u64>("another").open().wait().expect_err("nobody is there");
    assert!(matches!(error, Error::Membership(MembershipError::Reattaching)), "{error}");
    assert_eq!(error.fate(), kddm::Fate::NothingHappened);
    drop(held);
}

/// Within its drain limit a node waits for guards of its programs, and hands over what they had put.
#[test]
fn a_node_that_stops_waits_for_guards_and_hands_over_what_was_put() {
    let house = House::new();
    let program = house.program();
    let (here, there) = (open(&program), open(&house.nodes[1]));
    (1..50).for_each(|object| add_one(&here, object));
    let mut guard = here.grab(1).wait().expect("a hit");
    let node = house.nodes[0].clone();
    let stops = std::thread::spawn(move || node.stop_within(LIMIT));
    *guard = 7;
    until("it is asked back", || house.nodes[0].programs().first().is_none_or(|program| program.asked_back > 0));
    guard.put().wait().expect("it is still there");
    stops.join().expect("it stops");
    assert_eq!(*there.get(1).wait_for(LIMIT).expect("handed over"), 7);
    assert!((2..50).all(|object| *there.get(object).wait_for(LIMIT).expect("handed over") == 1));
}

#[test]
fn a_destroyed_set_ends_in_programs_too() {
    let house = House::new();
    let (program, other) = (house.program(), house.program());
    let sets: Vec<Set<u64>> =
        [&program, &other].map(|node| node.set("ends").open().wait().expect("the set opens")).into();
    add_one(&sets[0], 1);
    let guard = sets[0].grab(1).wait().expect("a hit");
    house.nodes[1].destroy_set("ends", SHORT).wait().expect("destroyed");
    // What the node has granted after that, it has said after that.
    add_one(&open(&program), 1);
    assert!(matches!(guard.put().wait(), Err(Error::Set(kddm::SetError::Destroyed))));
    assert!(matches!(sets[1].get(1).wait(), Err(Error::Set(kddm::SetError::Destroyed))));
    house.check();
}

#[test]
fn a_node_that_stops_sharing_refuses_its_programs_until_it_shares_again() {
    let house = House::new();
    let program = house.program();
    let (here, there) = (open(&program), open(&house.nodes[1]));
    add_one(&here, 1);
    house.nodes[0].stop_sharing(LIMIT).wait().expect("nobody holds anything");
    assert_eq!(*there.get(1).wait_for(LIMIT).expect("handed over"), 1);
    assert!(matches!(here.get(1).wait(), Err(Error::Membership(MembershipError::NotSharing { node: 1 }))));
    house.nodes[0].start_sharing(LIMIT).wait().expect("it shares again");
    add_one(&here, 1);
    assert_eq!(*there.get(1).wait_for(LIMIT).expect("a copy"), 2);
    house.check();
}

#[test]
fn without_a_daemon_the_error_says_what_to_do() {
    let Err(error) = Node::attach(socket()).wait() else { panic!("nobody is there") };
    let text = error.to_string();
    assert!(text.contains("no daemon is there") && text.contains("KDDM_ATTACH"), "{text}");
}

/// What it had to write was asked down to a copy when the end of the set began: it is asked for the rest,
/// and nobody waits for the limit.
#[test]
fn a_destroy_does_not_wait_for_a_copy_that_nobody_holds() {
    let house = House::new();
    let program = house.program();
    let (theirs, here) = (open(&program), open(&house.nodes[0]));
    let guard = theirs.grab(1).wait().expect("it is free");
    let reader = here.get(1);
    until("it is asked for", || house.nodes[0].programs()[0].asked_back > 0);
    let start = std::time::Instant::now();
    let destroyed = house.nodes[0].destroy_set("shared", LIMIT);
    until("the end has begun", || reader.is_ready());
    guard.put().wait().expect("it was held before");
    destroyed.wait_for(LIMIT).expect("it is destroyed");
    assert!(start.elapsed() < LIMIT / 2, "took {:?}", start.elapsed());
}

/// Questions that are open, and strangers that say nothing, keep no node that nobody wants any more.
#[test]
fn whoever_asks_or_says_nothing_keeps_no_node() {
    let mut house = House::new();
    let program = house.program();
    let silent = std::os::unix::net::UnixStream::connect(&house.socket).expect("it listens");
    let asks = std::thread::spawn({
        let program = program.clone();
        move || program.wait_for_members(99, LIMIT * 10)
    });
    until("it is attached", || house.nodes[0].programs().len() == 1);
    let begun = std::time::Instant::now();
    drop(house.nodes.remove(0));
    until("it is no member any more", || house.nodes[0].members().len() == 1);
    let error = asks.join().expect("it ends").expect_err("there never were so many");
    assert!(matches!(error, Error::Membership(MembershipError::Detached)), "{error}");
    assert!(begun.elapsed() < LIMIT, "took {:?}", begun.elapsed());
    drop(silent);
}
