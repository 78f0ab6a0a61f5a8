//! Members that use what they hold no longer than their lease, and are expelled when it is over.

use std::time::{Duration, Instant};

use kddm::{AccessError, Config, Error, Node, NodeState, Set};

use crate::seat::engine::Op;
use crate::seat::process::Start;
use crate::seat::{Seat, until};

const FENCED: u16 = 113;

/// Short for a test, and long beside what a busy machine holds a process up.
const LEASE: Duration = Duration::from_secs(2);

fn voter() -> Node {
    Node::join(Config::new().lease(LEASE)).wait().expect("a free port")
}

fn contact(node: &Node) -> Config {
    Config::new().contact(node.address().clone())
}

fn is_member(node: &Node, other: u16) -> bool {
    node.members().iter().any(|member| member.id == other)
}

/// Stopped for longer than its lease: when it goes on it believes nothing of what it has, from the first
/// read on, although nobody has told it anything yet.
#[test]
fn a_process_that_was_stopped_past_its_lease_reads_and_writes_nothing_any_more() {
    let voter = voter();
    let start = Start { contact: Some(voter.address().to_string()), ..Start::default() };
    let stopped = Seat::there(&start, 2).expect("it joins");
    stopped.hand(0).open(None).expect("the set opens");
    for object in 1..=20 {
        stopped.hand(0).write(object, object);
    }
    stopped.hand(1).grab(3);
    let before = Instant::now();
    stopped.process().stop();
    until("it is expelled", || !is_member(&voter, 2));
    assert!(before.elapsed() >= LEASE / 2, "what it was granted last was not over");
    // Its failure counts only until all is whole again, which may be by now.
    assert_eq!(voter.lease().counts.expulsions, 1);
    assert!(voter.lease().counts.suspicions >= 1, "nobody wondered before");
    stopped.process().go_on();
    for object in 1..=20 {
        let failure = stopped.hand(2).try_done(Op::Read { object }).expect_err("it may be elsewhere by now");
        assert_eq!(failure.code, FENCED, "{failure:?}");
    }
    let put = stopped.hand(1).try_done(Op::Put { object: 3 }).expect_err("it publishes nothing");
    assert_eq!(put.code, FENCED, "{put:?}");
    let grab = stopped.hand(2).try_done(Op::Add { object: 4, times: 1 }).expect_err("it writes nothing");
    assert_eq!(grab.code, FENCED, "{grab:?}");
}

/// Stopped for less: nothing has happened.
#[test]
fn a_process_that_was_stopped_for_less_than_its_lease_goes_on() {
    let voter = Node::join(Config::new().lease(20 * LEASE)).wait().expect("a free port");
    let start = Start { contact: Some(voter.address().to_string()), ..Start::default() };
    let stopped = Seat::there(&start, 2).expect("it joins");
    stopped.hand(0).open(None).expect("the set opens");
    stopped.hand(0).write(1, 7);
    let granted = voter.lease().counts.granted;
    stopped.process().stop();
    std::thread::park_timeout(LEASE);
    stopped.process().go_on();
    assert_eq!(stopped.hand(0).read(1).note.number, 7);
    until("it asks for time again", || voter.lease().counts.granted > granted);
    assert!(is_member(&voter, 2) && voter.lease().failures == 0);
}

/// Members that are only there renew their leases, and their number can be used again after they died.
#[test]
fn a_killed_process_is_expelled_and_another_may_take_its_number() {
    let voter = voter();
    let living = Node::join(contact(&voter)).wait().expect("a live contact");
    let start = Start { contact: Some(voter.address().to_string()), ..Start::default() };
    let killed = Seat::there(&start, 3).expect("it joins");
    killed.process().kill();
    until("it is expelled", || !is_member(&voter, 3) && !is_member(&living, 3));
    let gone = voter.departed();
    assert!(gone.iter().any(|member| member.id == 3 && member.state == NodeState::Offline), "{gone:?}");
    let renewals = living.lease().counts.renewals;
    until("the living one has more time", || living.lease().counts.renewals > renewals + 2);
    let left = living.lease().remaining.expect("it does not decide");
    assert!(left > Duration::ZERO && left <= LEASE, "{left:?}");
    assert_eq!(voter.lease().remaining, None);
    let again = Node::join(contact(&voter).node_id(3)).wait().expect("the number is free");
    assert_eq!(again.id(), 3);
    let set: Set<u64> = again.set("after").open().wait().expect("the set opens");
    assert_eq!(*set.get(1).wait().expect("nobody else has it"), 0);
}

/// The connection to the one that decides breaks in one direction or both: a node stops by itself.
#[test]
fn a_node_that_hears_nothing_stops_by_itself() {
    let voter =
        Seat::there(&Start { lease_ms: Some(LEASE.as_millis() as u64), ..Start::default() }, 1).expect("a port");
    let config = Config::new().contact(voter.address.parse().expect("an address"));
    let node = Node::join(config).wait().expect("a live contact");
    let set: Set<u64> = node.set("alone").open().wait().expect("the set opens");
    let mut first = set.grab(1).wait().expect("nobody else has it");
    *first = 7;
    first.put().wait().expect("it is ours");
    let held = set.get(1).wait().expect("it is here");
    voter.process().stop();
    until("its lease is over", || node.lease().remaining == Some(Duration::ZERO));
    let is_fenced = |error: Error| matches!(error, Error::Access(AccessError::Fenced));
    assert!(held.check().is_err_and(is_fenced));
    drop(held);
    assert!(set.get(1).wait().is_err_and(is_fenced) && set.grab(1).wait().is_err_and(is_fenced));
    voter.process().go_on();
}

/// The node that decides leaves: the next one gives everybody time, and needs none itself.
#[test]
fn leases_go_on_when_another_node_decides() {
    let first = voter();
    let others = [(); 2].map(|()| Node::join(contact(&first)).wait().expect("a live contact"));
    first.stop();
    until("another one decides", || others.iter().any(|node| node.lease().remaining.is_none()));
    let [decides, follows] = match &others {
        [a, b] if a.lease().remaining.is_none() => [a, b],
        [a, b] => [b, a],
    };
    let renewals = follows.lease().counts.renewals;
    // More than a lease lasts.
    until("it has more time", || follows.lease().counts.renewals > renewals + 6);
    assert!(decides.lease().counts.granted > 6);
    assert!(is_member(decides, follows.id()) && decides.lease().failures == 0);
}
