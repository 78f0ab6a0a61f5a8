//! T26, a service that is not registered yet: what comes for it waits for a while.

use super::*;

fn queued(node: &Node) -> u64 {
    node.rpc().counts().queued
}

#[test]
fn t26_a_call_waits_for_its_service() {
    let nodes = Node::local_cluster(3).expect("a cluster");
    let _there = echo(&nodes[2]);
    let calls = nodes[0].rpc().call_all(&[2, 3], "echo", b"early", LIMIT);
    until("it waits", || queued(&nodes[1]) == 1);
    assert!(!calls.is_ready());
    let _now = echo(&nodes[1]);
    for (node, answer) in calls.wait().expect("waiting is allowed") {
        assert_eq!(answer.unwrap_or_else(|error| panic!("node {node}: {error}")), b"early");
    }
    let refused: u64 = nodes.iter().map(|node| node.rpc().counts().refused).sum();
    assert_eq!(refused, 0);
}

/// At most for a second, and for half of its limit: whoever called hears why.
#[test]
fn t26_the_wait_for_a_service_ends() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let none = RpcError::NoService { node: 2, service: "none".into() };
    for (limit, least) in [(LIMIT, Duration::from_secs(1)), (Duration::from_millis(1_800), Duration::from_millis(900))]
    {
        let begin = Instant::now();
        assert_eq!(rpc_error(nodes[0].rpc().call(2, "none", b"", limit).wait()), none);
        assert!(begin.elapsed() >= least, "{:?}", begin.elapsed());
    }
    assert_eq!(queued(&nodes[1]), 2);
    assert_eq!(rpc_error(nodes[0].rpc().at_once().call(2, "none", b"", LIMIT).wait()), none);
    assert_eq!(queued(&nodes[1]), 2, "it was asked not to wait");
    assert_eq!(nodes[1].rpc().counts().refused, 3);
}

/// 1,024 wait, whoever waits no more makes room, and what is refused says so.
#[test]
fn a_full_queue_for_services_refuses() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let call = || nodes[0].rpc().call(2, "echo", b"x", LIMIT);
    let waiting: Vec<_> = (0..1024).map(|_| call()).collect();
    let full = rpc_error(call().wait());
    // On a machine that is so slow that the first have waited long enough there is room.
    let is_full = matches!(&full, RpcError::Overloaded { node: 2, .. });
    assert!(is_full || full == RpcError::NoService { node: 2, service: "echo".into() }, "{full}");
    drop(waiting);
    let before = queued(&nodes[1]);
    let after = call();
    until("there is room for it", || queued(&nodes[1]) == before + 1);
    let _service = echo(&nodes[1]);
    assert_eq!(after.wait().expect("the service is there"), b"x");
}
