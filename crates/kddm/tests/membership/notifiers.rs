//! Who is told, in which order, and what a notifier may not do.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use kddm::{
    AccessError, Address, Chain, Config, ConfigurationError, Error, MemberEvent, MembershipError, Node, Priority,
};

use crate::{Heard, LIMIT, OFFLINE, ONLINE, POSSIBLE, refusal, states};

/// An early and a late notifier in both chains, registered in the wrong order.
pub fn listening(mut config: Config) -> (Config, Receiver<Heard>) {
    let (sender, receiver) = channel();
    for (priority, name) in [(Priority::APPLICATION, "late"), (Priority::NAMES, "early")] {
        for chain in [Chain::Possible, Chain::Online] {
            let sender = sender.clone();
            config = config.notifier(chain, priority, name, move |event| {
                let _the_test_is_over = sender.send((name, event.node, event.to));
            });
        }
    }
    (config, receiver)
}

pub fn take(receiver: &Receiver<Heard>, count: usize) -> Vec<Heard> {
    (0..count).map(|_| receiver.recv_timeout(LIMIT).expect("a notifier is told")).collect()
}

pub fn up(node: u16) -> [Heard; 4] {
    [("early", node, ONLINE), ("late", node, ONLINE), ("early", node, POSSIBLE), ("late", node, POSSIBLE)]
}

pub fn down(node: u16) -> [Heard; 4] {
    [("late", node, ONLINE), ("early", node, ONLINE), ("late", node, OFFLINE), ("early", node, OFFLINE)]
}

/// Two notifiers in each chain of three nodes: all hear of all nodes, in one order, level by level.
fn three_nodes_come_up_in_order(listen: impl Fn(u16) -> Config) {
    let mut nodes: Vec<Node> = Vec::new();
    let mut ears = Vec::new();
    for number in 1..=3 {
        let mut config = listen(number);
        if let Some(contact) = nodes.last() {
            config = config.contact(contact.address().clone());
        }
        let (config, ear) = listening(config);
        nodes.push(Node::join(config).wait().expect("a live contact"));
        let heard: Vec<Heard> = ear.try_iter().collect();
        assert_eq!(heard, (1..=number).flat_map(up).collect::<Vec<_>>(), "a join returns when all have heard");
        for earlier in &ears {
            assert_eq!(take(earlier, 4), up(number));
        }
        ears.push(ear);
    }
    for node in &nodes {
        assert_eq!(states(node), [(1, POSSIBLE), (2, POSSIBLE), (3, POSSIBLE)]);
    }
    // No set is in use, so that a node can leave.
    let epoch = nodes[0].epoch();
    nodes[1].stop();
    for ear in &ears {
        assert_eq!(take(ear, 4), down(2));
        assert!(ear.try_recv().is_err());
    }
    assert!(nodes[0].epoch() > epoch);
    assert_eq!(states(&nodes[2]), [(1, POSSIBLE), (3, POSSIBLE)]);
}

#[test]
fn three_nodes_come_up_in_order_over_tcp() {
    three_nodes_come_up_in_order(|_| crate::unhurried());
}

#[test]
fn three_nodes_come_up_in_order_inside_a_process() {
    three_nodes_come_up_in_order(|number| crate::unhurried().listen(Address::local(&format!("membership-{number}"))));
}

/// A node that stops while sets are in use cannot leave; its own notifiers hear of its way down.
#[test]
fn a_stop_is_told_in_reverse_order() {
    let (config, ear) = listening(crate::unhurried());
    let first = Node::join(config).wait().expect("a free port");
    let _set: kddm::Set<u64> = first.set("numbers").open().wait().expect("the set opens");
    first.stop();
    assert_eq!(take(&ear, 8), [up(1), down(1)].concat());
}

/// A notifier is part of its node: it is told at once that it must not wait for it.
#[test]
fn a_notifier_must_not_wait() {
    let first = Node::join(crate::unhurried()).wait().expect("a free port");
    let (sender, receiver) = channel::<Vec<Error>>();
    let inside = first.clone();
    let waits = move |event: &MemberEvent| {
        assert!(!event.is_this_node);
        let errors = [
            inside.set::<u64>("numbers").open().wait().err(),
            inside.wait_for_members(99, LIMIT).err(),
            Node::join(crate::unhurried()).wait().err(),
        ];
        let _the_test_is_over = sender.send(errors.into_iter().flatten().collect());
    };
    let notifier = first.notifier(Chain::Possible, Priority::APPLICATION, "waits", waits).expect("a fine name");
    let _second = Node::join(crate::unhurried().contact(first.address().clone())).wait().expect("a live contact");
    let errors = receiver.recv_timeout(LIMIT).expect("the notifier returns");
    let would_block = |error: &Error| matches!(error, Error::Access(AccessError::WouldBlock));
    assert!(errors.len() == 3 && errors.iter().all(would_block), "{errors:?}");
    notifier.remove();
}

#[test]
fn a_notifier_that_panics_does_not_stop_the_chain() {
    let config = crate::unhurried().notifier(Chain::Online, Priority::LINK, "panics", |_| panic!("as the test wants"));
    let (config, ear) = listening(config);
    let node = Node::join(config).wait().expect("a free port");
    assert_eq!(take(&ear, 4), up(1));
    assert_eq!(node.statistics().notifier_panics, 1);
}

/// Order comes before speed: one that overruns is reported, and those behind it wait.
#[test]
fn a_notifier_that_overruns_is_reported_and_waited_for() {
    let first = Node::join(crate::unhurried().notifier_limit(Duration::from_millis(5))).wait().expect("a free port");
    let (release, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let slow = move |_: &MemberEvent| {
        let _released = gate.lock().expect("one at a time").recv_timeout(LIMIT);
    };
    first.notifier(Chain::Online, Priority::SETS, "slow", slow).expect("a fine name");
    let (sender, receiver) = channel();
    let next = move |_: &MemberEvent| {
        let _the_test_is_over = sender.send(());
    };
    first.notifier(Chain::Online, Priority::NAMES, "next", next).expect("a fine name");
    let _second =
        Node::join(crate::unhurried().contact(first.address().clone())).wait().expect("others do not wait for it");
    let deadline = Instant::now() + LIMIT;
    while first.statistics().notifier_overruns == 0 {
        assert!(Instant::now() < deadline, "the overrun is reported");
        std::thread::yield_now();
    }
    assert!(receiver.try_recv().is_err(), "the next one waits");
    drop(release);
    receiver.recv_timeout(LIMIT).expect("the chain goes on");
}

#[test]
fn a_join_that_a_notifier_keeps_ends_at_its_limit_and_names_it() {
    let (release, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let config = crate::unhurried().join_limit(Duration::from_millis(50));
    let config = config.notifier(Chain::Online, Priority::SETS, "slow", move |_| {
        let _released = gate.lock().expect("one at a time").recv_timeout(LIMIT);
    });
    let error = refusal(config);
    assert!(matches!(error, Error::Membership(MembershipError::JoinTimedOut { .. })), "{error:?}");
    assert!(error.to_string().contains("`slow`"), "{error}");
    drop(release);
}

#[test]
fn a_notifier_that_was_removed_hears_no_more() {
    let (config, ear) = listening(crate::unhurried());
    let first = Node::join(config).wait().expect("a free port");
    let (sender, receiver) = channel();
    let heard = move |event: &MemberEvent| {
        let _the_test_is_over = sender.send(event.node);
    };
    let notifier = first.notifier(Chain::Online, Priority::LINK, "removed", heard).expect("a fine name");
    let contact = first.address().clone();
    let _second = Node::join(crate::unhurried().contact(contact.clone())).wait().expect("a live contact");
    assert_eq!(receiver.recv_timeout(LIMIT), Ok(2));
    notifier.remove();
    let _third = Node::join(crate::unhurried().contact(contact)).wait().expect("a live contact");
    assert_eq!(take(&ear, 12), (1..=3).flat_map(up).collect::<Vec<_>>());
    assert!(receiver.try_recv().is_err());
}

#[test]
fn names_that_could_not_stand_in_a_log_are_refused() {
    let error = refusal(crate::unhurried().notifier(Chain::Online, Priority::SETS, "two\nlines", |_| {}));
    assert!(matches!(error, Error::Configuration(ConfigurationError::OutOfRange { .. })), "{error:?}");
    assert!(error.to_string().contains("1 to 64 bytes"), "{error}");
}
