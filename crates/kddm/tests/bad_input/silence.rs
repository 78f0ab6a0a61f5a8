//! Members that are connected and say nothing: they are noticed, they keep nobody else waiting, and
//! they are taken back when they speak again.

use std::time::{Duration, Instant};

use kddm::{Address, Config, Node};

use crate::proxy::{Proxy, Sockets};
use crate::seat::until;

fn reaches(node: &Node, other: u16) -> bool {
    node.members().iter().any(|member| member.id == other && member.reachable)
}

/// Two members take connections and answer nothing: the link to a third comes back as if they were not
/// there, although each of them is given two seconds.
#[test]
fn silent_members_delay_no_other_link() {
    let sockets = Sockets::new();
    let mut nodes: Vec<Node> = Vec::new();
    let mut proxies = Vec::new();
    for name in ["1", "2", "3", "4"] {
        let mut config = Config::new().listen(Address::Unix(sockets.path(name)));
        if let Some(first) = nodes.first() {
            config = config.contact(first.address().clone());
        }
        nodes.push(Node::join(config).expect("a free socket and a live contact"));
        proxies.push(Proxy::before(&sockets.path(name)));
    }
    let last = &nodes[3];
    for silent in &proxies[..2] {
        silent.keep_silent();
        silent.cut();
    }
    until("the silent ones are missed", || !reaches(last, 1) && !reaches(last, 2));
    proxies[2].cut();
    let start = Instant::now();
    until("the loss is noticed", || last.statistics().reconnects > 3 || !reaches(last, 3));
    until("the third is back", || reaches(last, 3));
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
}
