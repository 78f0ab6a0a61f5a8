//! Notifiers of attached programs: who comes and goes, in the order of both chains.

use std::sync::mpsc::{Receiver, channel};

use kddm::{Chain, Config, MemberEvent, Node, NodeState, Notifier, Priority};

use crate::House;
use crate::seat::{LIMIT, until};

/// Registers a notifier that sends what it is told, with its name.
fn register(
    program: &Node,
    chain: Chain,
    priority: u16,
    name: &'static str,
    to: &std::sync::mpsc::Sender<(&'static str, MemberEvent)>,
) -> Notifier {
    let to = to.clone();
    let tell = move |event: &MemberEvent| to.send((name, *event)).expect("the test listens");
    program.notifier(chain, Priority(priority), name, tell).expect("the name is right")
}

fn next(told: &Receiver<(&'static str, MemberEvent)>) -> (&'static str, u16, NodeState, NodeState) {
    let (name, event) = told.recv_timeout(LIMIT).expect("something is told");
    (name, event.node, event.from, event.to)
}

fn has_no_fault(house: &House) {
    for node in &house.nodes {
        let seen = node.statistics();
        assert_eq!((seen.faults, seen.malformed, seen.undecodable), (0, 0, 0));
    }
}

/// A node joins the cluster of a house.
fn join(house: &House) -> Node {
    let listen = kddm::Address::local(&format!("notified-{}", house.socket.display()).replace('/', "-"));
    let config = Config::new().listen(listen).contact(house.nodes[0].address().clone());
    Node::join(config).wait().expect("it may join")
}

#[test]
fn a_program_hears_who_comes_and_goes_in_the_order_of_both_chains() {
    use NodeState::{Offline, Online, Possible};
    let house = House::new();
    let program = house.program();
    let (to, told) = channel();
    let _late = register(&program, Chain::Possible, 2000, "late", &to);
    let _early = register(&program, Chain::Possible, 1000, "early", &to);
    let online = register(&program, Chain::Online, 1500, "online", &to);
    let third = join(&house);
    assert_eq!(next(&told), ("online", 3, Offline, Online), "nothing of those that were there before");
    assert_eq!(next(&told), ("early", 3, Online, Possible));
    assert_eq!(next(&told), ("late", 3, Online, Possible));
    third.stop();
    assert_eq!(next(&told), ("late", 3, Possible, Online));
    assert_eq!(next(&told), ("early", 3, Possible, Online));
    assert_eq!(next(&told), ("online", 3, Online, Offline));
    online.remove();
    // The node to which it is attached, too.
    house.nodes[0].stop_sharing(LIMIT).wait().expect("the other node shares");
    assert_eq!(next(&told), ("late", 1, Possible, Online));
    assert_eq!(next(&told), ("early", 1, Possible, Online));
    program.stop();
    assert!(told.try_recv().is_err(), "that a program goes is no change of the membership");
    has_no_fault(&house);
}

#[test]
fn a_notifier_of_a_program_keeps_no_node_waiting_and_its_panic_nobody() {
    let house = House::new();
    let program = house.program();
    let (to, told) = channel();
    let (go, may_go) = channel::<()>();
    let may_go = std::sync::Mutex::new(may_go);
    let slow = move |_: &MemberEvent| {
        let _the_test_has_gone = may_go.lock().map(|may_go| may_go.recv());
    };
    let slow = program.notifier(Chain::Online, Priority(1), "slow", slow).expect("registered");
    let broken = program.notifier(Chain::Online, Priority(2), "broken", |_| panic!("a broken notifier"));
    let _last = register(&program, Chain::Online, 3, "last", &to);
    join(&house).stop();
    assert!(told.try_recv().is_err(), "the first one still runs");
    drop(go);
    assert_eq!(next(&told).0, "last");
    assert_eq!(next(&told).0, "last", "in the opposite order, and the first one is not awaited");
    until("the panics are counted", || program.statistics().notifier_panics == 2);
    slow.remove();
    broken.expect("registered").remove();
    has_no_fault(&house);
}

/// A handle waits in vain for the node in a notifier, as in one of a node.
#[test]
fn a_wait_in_a_notifier_of_a_program_is_refused() {
    let house = House::new();
    let program = house.program();
    let (to, told) = channel();
    let set = crate::open(&program);
    let asks = move |_: &MemberEvent| to.send(set.grab(1).wait().map(drop)).expect("the test listens");
    let _asks = program.notifier(Chain::Possible, Priority::APPLICATION, "asks", asks).expect("registered");
    join(&house).stop();
    let answer = told.recv_timeout(LIMIT).expect("it ran");
    assert!(matches!(answer, Err(kddm::Error::Access(kddm::AccessError::WouldBlock))), "{answer:?}");
}
