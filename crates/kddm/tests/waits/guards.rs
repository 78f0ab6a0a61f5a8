//! What a guard says of itself, and what can be said of it later.

use std::time::Duration;

use kddm::{Error, Fate, MembershipError, Node, Set, SetError};

use crate::{LIMIT, two};

#[test]
fn a_guard_says_whether_it_is_still_good() {
    let (nodes, [here, there]) = two("good");
    let read = here.get(1).wait_for(LIMIT).expect("it is free");
    let write = here.grab(2).wait_for(LIMIT).expect("it is free");
    let elsewhere = there.get(3).wait_for(LIMIT).expect("it is free");
    read.check().expect("nothing has happened");
    write.check().expect("nothing has happened");
    nodes[1].destroy_set("good", Duration::ZERO).wait().expect("all are told");
    for checked in [read.check(), write.check(), elsewhere.check()] {
        let error = checked.expect_err("the set is no more");
        assert!(matches!(error, Error::Set(SetError::Destroyed)), "{error:?}");
    }
    let node = Node::local_cluster(1).expect("a node").remove(0);
    let set: Set<u64> = node.set("stopped").open().wait().expect("the set opens");
    let read = set.get(1).wait_for(LIMIT).expect("it is free");
    let write = set.grab(2).wait_for(LIMIT).expect("it is free");
    assert!(read.tenure() > 0 && write.tenure() > 0);
    node.stop_within(Duration::ZERO);
    drop((node, set));
    for checked in [read.check(), write.check()] {
        let error = checked.expect_err("the node is stopped");
        assert!(matches!(error, Error::Membership(MembershipError::Stopped)), "{error:?}");
    }
}

#[test]
fn a_copy_has_the_tenure_of_its_owner_and_each_owner_a_greater_one() {
    let (nodes, [here, there]) = two("tenures");
    let mut last = 0;
    let moved = nodes[0].statistics().moves() + nodes[1].statistics().moves();
    for turn in 0..6 {
        let (owner, other) = if turn % 2 == 0 { (&here, &there) } else { (&there, &here) };
        let guard = owner.grab(1).wait_for(LIMIT).expect("it is free");
        let tenure = guard.tenure();
        assert!(tenure > last, "{tenure} after {last}");
        guard.put().wait().expect("it is put");
        let copies = [owner.get(1), other.get(1)].map(|copy| copy.wait_for(LIMIT).expect("it is free"));
        assert_eq!(copies.map(|copy| copy.tenure()), [tenure; 2]);
        last = tenure;
    }
    assert_eq!(nodes[0].statistics().moves() + nodes[1].statistics().moves(), moved + 5);
}

#[test]
fn that_a_put_did_not_happen_is_certain_until_the_owner_changes() {
    let (_nodes, [here, there]) = two("outcomes");
    let mut guard = here.grab(1).wait_for(LIMIT).expect("it is free");
    let (tenure, version) = (guard.tenure(), guard.version() + 1);
    *guard += 1;
    drop(guard);
    for set in [&here, &there] {
        let fate = set.outcome(1, tenure, version).wait_for(LIMIT).expect("it can be read");
        assert_eq!(fate, Fate::NothingHappened, "it was discarded");
    }
    here.update(1, |_| Ok(())).wait_for(LIMIT).expect("it is free");
    for set in [&here, &there] {
        // Somebody has made that version: whoever asks cannot know that it was not him.
        assert_eq!(set.outcome(1, tenure, version).wait_for(LIMIT).expect("it can be read"), Fate::Unknown);
        let later = set.outcome(1, tenure, version + 1).wait_for(LIMIT).expect("it can be read");
        assert_eq!(later, Fate::NothingHappened);
    }
    there.update(1, |_| Ok(())).wait_for(LIMIT).expect("it is free");
    assert_eq!(here.outcome(1, tenure, version).wait_for(LIMIT).expect("it can be read"), Fate::Unknown);
    assert_eq!(here.outcome(2, tenure, version).wait_for(LIMIT).expect("nothing is created"), Fate::Unknown);
    here.get_existing(2).wait_for(LIMIT).map(drop).expect_err("nothing was created");
}
