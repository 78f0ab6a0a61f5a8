//! Members that are connected and say nothing: they are noticed, they keep nobody else waiting, and
//! they are taken back when they speak again.

use std::time::{Duration, Instant};

use kddm::{AccessError, Address, Config, Error, Node, PlacedBy, Set};

use crate::proxy::{Proxy, Sockets};
use crate::seat::process::Start;
use crate::seat::{LIMIT, Seat, until};

fn contact(address: &str) -> Config {
    Config::new().contact(address.parse().expect("an address"))
}

fn reaches(node: &Node, other: u16) -> bool {
    node.members().iter().any(|member| member.id == other && member.reachable)
}

/// A follower is stopped. The voter misses its questions; another follower misses it as soon as it
/// wants something of it.
#[test]
fn a_stopped_follower_is_not_reachable_until_it_goes_on() {
    let voter = Node::join(Config::new().lease(2 * LIMIT)).wait().expect("a free port");
    let address = voter.address().to_string();
    let stopped = Seat::there(&Start { contact: Some(address.clone()), ..Start::default() }, 2).expect("it joins");
    let third = Node::join(contact(&address)).wait().expect("a live contact");
    until("all are linked", || [&voter, &third].iter().all(|node| reaches(node, 2)));
    let at_second = third.set("at the second").placement(PlacedBy::Fixed(2)).wait_limit(2 * LIMIT);
    let set: Set<u64> = at_second.open().wait().expect("the set opens");
    stopped.process().stop();
    until("the voter notices it", || !reaches(&voter, 2));
    let asked = set.get(1);
    until("the third notices it", || !reaches(&third, 2));
    let error = set.get(2).wait_for(Duration::from_millis(50)).expect_err("its home says nothing");
    assert!(matches!(error, Error::Access(AccessError::Unreachable { node: 2, .. })), "{error:?}");
    stopped.process().go_on();
    assert_eq!(*asked.wait().expect("nothing is lost"), 0);
    until("it is taken back", || [&voter, &third].iter().all(|node| reaches(node, 2)));
}

/// The voter is stopped: all followers miss its answers.
#[test]
fn a_stopped_voter_is_not_reachable_until_it_goes_on() {
    let voter = Seat::there(&Start::default(), 1).expect("a free port");
    // They share nothing: the voter may not be stopped while homes move, for which they would have to wait.
    let join = || Node::join(contact(&voter.address).without_autostart()).wait().expect("a live contact");
    let nodes = [join(), join()];
    voter.process().stop();
    until("all notice it", || !nodes.iter().any(|node| reaches(node, 1)));
    assert!(reaches(&nodes[0], 3) && reaches(&nodes[1], 2), "nobody else is meant");
    voter.process().go_on();
    until("it is taken back", || nodes.iter().all(|node| reaches(node, 1)));
}

/// Two members take connections and answer nothing: the link to a third comes back as if they were not
/// there, although each of them is given two seconds.
#[test]
fn silent_members_delay_no_other_link() {
    let sockets = Sockets::new();
    let mut nodes: Vec<Node> = Vec::new();
    let mut proxies = Vec::new();
    for name in ["1", "2", "3", "4"] {
        let mut config = Config::new().lease(2 * LIMIT).listen(Address::Unix(sockets.path(name)));
        if let Some(first) = nodes.first() {
            config = config.contact(first.address().clone());
        }
        nodes.push(Node::join(config).wait().expect("a free socket and a live contact"));
        proxies.push(Proxy::before(&sockets.path(name)));
    }
    let last = &nodes[3];
    for silent in &proxies[..2] {
        silent.keep_silent();
        silent.cut();
    }
    until("the silent ones are missed", || !reaches(last, 1) && !reaches(last, 2));
    let reconnects = last.statistics().reconnects;
    proxies[2].cut();
    let start = Instant::now();
    until("the loss is noticed", || last.statistics().reconnects > reconnects || !reaches(last, 3));
    until("the third is back", || reaches(last, 3));
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
}
