//! Admission, and what a refusal says.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use kddm::transport::greeting::{GreetError, Hello, PROTOCOL, Purpose, greet};
use kddm::{Address, ConfigurationError, Error, MembershipError, Node, Set};

use crate::{LIMIT, POSSIBLE, refusal, states};

#[test]
fn a_local_cluster_is_possible_at_once() {
    let nodes = Node::local_cluster(3).expect("no ports");
    assert_eq!(states(&nodes[2]), [(1, POSSIBLE), (2, POSSIBLE), (3, POSSIBLE)]);
    nodes[0].wait_for_members(3, LIMIT).expect("they are");
    let lives: Vec<u32> = nodes[2].members().iter().map(|member| member.incarnation).collect();
    assert_eq!(lives, [1, 2, 3]);
}

/// Many join and open a set at the same time: all agree on the homes, and no increment is lost.
#[test]
fn joins_and_first_sets_at_the_same_time_agree() {
    const NODES: u64 = 4;
    const OBJECTS: u64 = 32;
    let first = Node::join(crate::unhurried()).wait().expect("a free port");
    let add = |number: &mut u64| {
        *number += 1;
        Ok(())
    };
    let join_and_add = || {
        let node = Node::join(crate::unhurried().contact(first.address().clone())).wait().expect("a live contact");
        let set: Set<u64> = node.set("numbers").open().wait().expect("the set opens");
        for object in 0..OBJECTS {
            set.update(object, add).wait().expect("the owner is alive");
        }
        node
    };
    std::thread::scope(|scope| {
        let joining: Vec<_> = (0..NODES).map(|_| scope.spawn(join_and_add)).collect();
        let nodes: Vec<Node> = joining.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        let set: Set<u64> = first.set("numbers").open().wait().expect("the set opens");
        for object in 0..OBJECTS {
            assert_eq!(*set.get(object).wait().expect("a copy"), NODES);
        }
        assert!(nodes.iter().chain([&first]).all(|node| node.statistics().faults == 0));
    });
}

/// Who comes when sets exist shares objects, and is a home like any other.
#[test]
fn a_late_joiner_shares_what_is_there() {
    let first = Node::join(crate::unhurried()).wait().expect("a free port");
    let set: Set<u64> = first.set("numbers").open().wait().expect("the set opens");
    set.grab(1).wait().expect("the first touch").put().wait().expect("put");
    let second = Node::join(crate::unhurried().contact(first.address().clone())).wait().expect("a live contact");
    let there: Set<u64> = second.set("numbers").open().wait().expect("the set opens");
    let add = |number: &mut u64| {
        *number += 1;
        Ok(())
    };
    there.update(1, add).wait().expect("the owner is alive");
    assert_eq!(*set.get(1).wait().expect("a copy"), 1);
}

#[test]
fn another_session_is_refused_by_name() {
    let first = Node::join(crate::unhurried()).wait().expect("a free port");
    let error = refusal(crate::unhurried().contact(first.address().clone()).session(4712));
    assert!(matches!(error, Error::Membership(MembershipError::Refused { .. })), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("in session 4711") && text.contains("session 4712"), "{text}");
}

#[test]
fn another_protocol_and_another_cluster_are_refused_by_name() {
    let first = Node::join(crate::unhurried()).wait().expect("a free port");
    let purpose = Purpose::Control;
    let hello = Hello { protocol: PROTOCOL, session: 4711, cluster: 0, node: 0, incarnation: 0, nonce: 1, purpose };
    let refused = |hello: Hello| match greet(first.address(), &hello, LIMIT) {
        Err(GreetError::Refused(reason)) => reason,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was admitted"),
    };
    let text = refused(Hello { protocol: PROTOCOL + 1, ..hello.clone() });
    assert!(text.contains(&format!("speaks protocol {PROTOCOL}, not {}", PROTOCOL + 1)), "{text}");
    let text = refused(Hello { cluster: 7, ..hello.clone() });
    assert!(text.contains("cluster 0000000000000007"), "{text}");
    let text = refused(Hello { session: 0, ..hello });
    assert!(text.contains("session 0"), "{text}");
}

#[test]
fn the_second_process_with_an_id_is_refused_and_told_of_the_first() {
    let first = Node::join(crate::unhurried()).wait().expect("a free port");
    let contact = first.address().clone();
    let second = Node::join(crate::unhurried().contact(contact.clone()).node_id(9)).wait().expect("the id is free");
    for (id, owner) in [(1, &first), (9, &second)] {
        let error = refusal(crate::unhurried().contact(second.address().clone()).node_id(id));
        assert!(matches!(error, Error::Membership(MembershipError::Refused { .. })), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("node id {id} is taken by the process at {}", owner.address())), "{text}");
    }
    let third = Node::join(crate::unhurried().contact(contact)).wait().expect("without an id one is given");
    assert_eq!(third.id(), 2);
}

#[test]
fn an_absent_contact_is_named_within_the_limit() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent_address = silent.local_addr().expect("bound");
    for (address, reason) in [(free, "nobody listens"), (silent_address, "no answer in time")] {
        let took = || {
            let start = Instant::now();
            let config = crate::unhurried().contact(Address::of_socket(address)).join_limit(Duration::from_millis(100));
            let error = refusal(config);
            assert!(matches!(error, Error::Membership(MembershipError::NoContact { .. })), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(&address.to_string()) && text.contains(reason), "{text}");
            start.elapsed()
        };
        // Each of them would take as long as a question without that limit; a busy machine may hold up some.
        assert!((0..10).any(|_| took() < Duration::from_secs(2)), "the limit of the join counts");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let first = Node::join(crate::unhurried()).wait().expect("a free port");
    let error = refusal(crate::unhurried().listen(first.address().clone()));
    assert!(matches!(error, Error::Configuration(ConfigurationError::Listen { .. })), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&first.address().to_string()) && text.contains("in use"), "{text}");
}

/// A node with another number of lanes could not talk to all of each other one: it is not let in, and hears why.
#[test]
fn nodes_with_other_lanes_are_not_let_in() {
    let first = Node::join(crate::unhurried().lanes(2)).wait().expect("a free port");
    for (lanes, said) in [(1, "has 2 lanes, not 1"), (16, "has 2 lanes, not 16")] {
        let other = crate::unhurried().contact(first.address().clone()).lanes(lanes);
        match Node::join(other).wait() {
            Err(Error::Membership(MembershipError::Refused { reason })) => {
                assert!(reason.contains(said) && reason.contains("set `lanes` to 2"), "{reason}");
            }
            other => panic!("{:?}", other.map(|node| node.id())),
        }
    }
    assert_eq!(first.members().len(), 1, "it was no member for a moment either");
    let second = crate::unhurried().contact(first.address().clone()).lanes(2);
    let second = Node::join(second).wait().expect("it has as many");
    assert!(second.members().iter().all(|member| member.reachable));
    for wrong in [0, 17, usize::MAX] {
        let refused = Node::join(crate::unhurried().lanes(wrong)).wait().map(|node| node.id());
        let is_named = matches!(
            &refused,
            Err(Error::Configuration(ConfigurationError::OutOfRange { setting: "lanes", value, .. }))
                if *value == wrong.to_string()
        );
        assert!(is_named, "{refused:?}");
    }
}

/// One that comes by itself, by a log that says nothing of lanes: its links are refused, and it is told so.
#[test]
fn a_link_for_another_number_of_lanes_is_refused() {
    let first = Node::join(crate::unhurried().lanes(3)).wait().expect("a free port");
    let purpose = Purpose::Link { lane: 0, lanes: 2, received: 0 };
    let hello = Hello { protocol: PROTOCOL, session: 4711, cluster: 0, node: 9, incarnation: 9, nonce: 9, purpose };
    match greet(first.address(), &hello, LIMIT) {
        Err(GreetError::Refused(reason)) => assert!(reason.contains("has 3 lanes, not 2"), "{reason}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

/// Objects of every lane at once, by two nodes and all their threads.
#[test]
fn many_lanes_lose_no_increment() {
    const OBJECTS: u64 = 48;
    const ROUNDS: u64 = 10;
    let first = Node::join(crate::unhurried().lanes(5)).wait().expect("a free port");
    let second = Node::join(crate::unhurried().contact(first.address().clone()).lanes(5)).wait().expect("it is let in");
    let sets = [&first, &second].map(|node| -> Set<u64> { node.set("lanes").open().wait().expect("the set opens") });
    let add = |number: &mut u64| {
        *number += 1;
        Ok(())
    };
    std::thread::scope(|scope| {
        for set in sets.iter().chain(&sets) {
            scope.spawn(move || {
                for object in (0..ROUNDS).flat_map(|_| 0..OBJECTS) {
                    set.update(object, add).wait_for(LIMIT).expect("the owner is alive");
                }
            });
        }
    });
    for object in 0..OBJECTS {
        assert_eq!(*sets[1].get(object).wait_for(LIMIT).expect("a copy"), 4 * ROUNDS);
    }
    second.stop();
    for object in 0..OBJECTS {
        assert_eq!(*sets[0].get(object).wait_for(LIMIT).expect("it was handed over"), 4 * ROUNDS);
    }
    assert_eq!(first.statistics().faults, 0);
}
