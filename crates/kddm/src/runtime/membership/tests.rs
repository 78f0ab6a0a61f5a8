use super::*;
use kddm_view::{Nowhere, ViewLog, Voters};

use crate::runtime::deciding::NotAdmitted;
use crate::{Config, Node};

const LIMIT: Duration = Duration::from_secs(20);

/// Nobody is taken for lost because the machine is busy.
const UNHURRIED: Duration = Duration::from_secs(60);

fn pair() -> [Node; 2] {
    let first = Node::join(Config::new().lease(UNHURRIED)).wait().expect("a free port");
    let second = Node::join(Config::new().contact(first.address().clone())).wait().expect("a live contact");
    [first, second]
}

/// Entries that nobody keeps any more: the state comes whole, and the log goes on behind it.
#[test]
fn a_node_that_lacks_forgotten_entries_takes_the_whole_state() {
    let [first, second] = pair();
    let runtime = second.runtime();
    let old = runtime.membership.lock().state.clone();
    let join = || Node::join(Config::new().contact(first.address().clone())).wait().expect("a live contact");
    let _third = join();
    second.wait_for_members(3, LIMIT).expect("the log tells");
    {
        let mut membership = runtime.membership.lock();
        let (id, nonce) = (runtime.identity.id, runtime.identity.nonce);
        // A log that begins with the third node, of a later life, so that its proposals are not taken for repetitions.
        let (state, asked) = (membership.state.clone(), Time(crate::cell::Lease::now_ns()));
        let follows = Membership::follow(state, id, nonce + 1, asked, Box::new(Nowhere)).expect("nothing is kept");
        *membership = Membership { state: old, ..follows };
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
    let join =
        Change::Join { node: Some(NodeId(2)), address: "127.0.0.1:1".into(), nonce: 1, site: Default::default() };
    let replaced = || {
        voter.lanes.iter().for_each(|lane| lane.lock().disconnect(NodeId(2), &lane.poller));
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
    let join =
        Change::Join { node: Some(NodeId(2)), address: "127.0.0.1:1".into(), nonce: 1, site: Default::default() };
    let refused = voter.let_in(&mut voter.membership.lock(), &join, 1).expect_err("it is alive");
    assert!(matches!(&refused, NotAdmitted::Ever(reason) if reason.contains("is taken")), "{refused:?}");
    second.stop();
    assert_eq!(voter.let_in(&mut voter.membership.lock(), &join, 1), Ok(NodeId(2)));
}

/// Followers that take every connection and answer nothing: each is given two seconds, and a view
/// reaches the others at once all the same.
#[test]
fn silent_followers_keep_no_view_from_the_others() {
    let join = |config: Config| Node::join(config.drain_limit(Duration::ZERO)).wait().expect("it joins");
    let first = join(Config::new().lease(UNHURRIED));
    let voter = first.runtime();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("bound").to_string();
    let admit = |node: u16, address: &str| {
        let nonce = u64::from(node);
        let join = Change::Join { node: Some(NodeId(node)), address: address.into(), nonce, site: Default::default() };
        voter.let_in(&mut voter.membership.lock(), &join, nonce).expect("the number is free")
    };
    // The voter tells in the order of the numbers: the silent ones come first.
    let last = join(Config::new().contact(first.address().clone()).node_id(200).without_autostart());
    for number in [101, 102] {
        let node = admit(number, &address);
        let state = voter.membership.lock().state.clone();
        let mut log = Voters::follow(node, u64::from(node.0), state, Box::new(Nowhere)).expect("nothing is kept");
        log.tick(Time(1));
        for ask in log.take_outgoing() {
            voter.step_and_answer(node, &ask.message);
        }
    }
    let start = Instant::now();
    for number in 300..330 {
        let node = admit(number, "127.0.0.1:1");
        let follower = last.runtime();
        let mut membership = follower.membership.lock();
        while membership.state.member(node).is_none() {
            assert!(follower.wait_for_change(&mut membership, start + LIMIT), "the log tells");
        }
    }
    // By itself it would ask once a second, for each of them.
    assert!(start.elapsed() < LIMIT / 2, "took {:?}", start.elapsed());
}
