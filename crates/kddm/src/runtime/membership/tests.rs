use super::*;
use crate::runtime::Identity;
use crate::{Config, Node};

const LIMIT: Duration = Duration::from_secs(20);

fn pair() -> [Node; 2] {
    let first = Node::join(Config::new()).expect("a free port");
    let second = Node::join(Config::new().contact(first.address().clone())).expect("a live contact");
    [first, second]
}

/// Entries that nobody keeps any more: the state comes whole, and the log goes on behind it.
#[test]
fn a_node_that_lacks_forgotten_entries_takes_the_whole_state() {
    let [first, second] = pair();
    let runtime = second.runtime();
    let old = runtime.membership.lock().state.clone();
    let join = || Node::join(Config::new().contact(first.address().clone())).expect("a live contact");
    let _third = join();
    second.wait_for_members(3, LIMIT).expect("the log tells");
    {
        let mut membership = runtime.membership.lock();
        let Identity { id, incarnation, .. } = runtime.identity;
        // A log of a later life, so that its proposals are not taken for repetitions.
        let later = Incarnation(incarnation.0 + 1);
        let log = SingleVoter::follower(id, later, old.voter(), membership.state.applied());
        *membership = Membership { state: old, ..Membership::new(membership.state.clone(), log) };
    }
    second.wait_for_members(3, LIMIT).expect("the voter has the state");
    let _fourth = join();
    second.wait_for_members(4, LIMIT).expect("the log goes on");
}

/// A node whose number was given to another process, because it could not be reached, stops.
#[test]
fn a_node_that_was_replaced_stops() {
    let [first, second] = pair();
    let voter = first.runtime();
    let join = Change::Join { node: Some(NodeId(2)), address: "127.0.0.1:1".into(), nonce: 1 };
    let replaced = || {
        let lane = &voter.lanes[0];
        lane.lock().disconnect(NodeId(2), &lane.poller);
        // It may have come back already.
        voter.let_in(&mut voter.membership.lock(), &join, 1).is_ok()
    };
    while !replaced() {}
    let error = second.wait_for_members(99, LIMIT).expect_err("there are not as many");
    assert!(matches!(error, Error::Membership(MembershipError::Stopped)), "{error:?}");
}

/// One that says "I am gone" is believed; one that is connected is not replaced.
#[test]
fn a_node_that_is_connected_is_not_replaced() {
    let [first, second] = pair();
    let voter = first.runtime();
    let join = Change::Join { node: Some(NodeId(2)), address: "127.0.0.1:1".into(), nonce: 1 };
    let refused = voter.let_in(&mut voter.membership.lock(), &join, 1).expect_err("it is alive");
    assert!(refused.contains("is taken"), "{refused}");
    second.stop();
    assert_eq!(voter.let_in(&mut voter.membership.lock(), &join, 1), Ok(NodeId(2)));
}
