//! T26, as far as it is built: several nodes at once.

use super::*;

/// The original skipped the answer of the neighbour with the next number.
#[test]
fn t26_multicast_to_adjacent_ids_has_every_reply() {
    let nodes = Node::local_cluster(6).expect("a cluster");
    let services: Vec<_> = nodes
        .iter()
        .map(|node| {
            let answer = |request: &kddm::rpc::Request, number: u64| Ok((request.node().id(), request.from(), number));
            node.rpc().register_typed("who", answer).expect("the name is free")
        })
        .collect();
    let all: Vec<u16> = nodes.iter().map(Node::id).collect();
    assert_eq!(all, [1, 2, 3, 4, 5, 6]);
    for round in 0..50u64 {
        for caller in &nodes {
            let replies = caller.rpc().call_all_typed::<_, (u16, u16, u64)>(&all, "who", &round, LIMIT);
            let replies = replies.wait().expect("waiting is allowed");
            let expected: Vec<_> = all.iter().map(|node| (*node, (*node, caller.id(), round))).collect();
            let replies: Vec<_> = replies.into_iter().map(|(node, reply)| (node, reply.expect("all answer"))).collect();
            assert_eq!(replies, expected);
        }
    }
    drop(services);
}

/// Each node has an answer or an error of its own, in the order in which they were named.
#[test]
fn t26_multicast_has_a_reply_or_an_error_for_each_node() {
    let nodes = Node::local_cluster(4).expect("a cluster");
    let _echo = echo(&nodes[1]);
    let failing = nodes[2].rpc().register("echo", |_| Err("out of order".into()));
    let _failing = failing.expect("the name is free");
    let replies = nodes[0].rpc().call_all(&[4, 2, 77, 3, 2], "echo", b"x", LIMIT).wait().expect("waiting is allowed");
    let (order, mut replies): (Vec<u16>, Vec<_>) = replies.into_iter().unzip();
    assert_eq!(order, [4, 2, 77, 3, 2]);
    assert_eq!(replies.pop().expect("five").expect("node 2 answers each time"), b"x");
    let failed = rpc_error(replies.pop().expect("four"));
    assert_eq!(failed, RpcError::Failed { node: 3, service: "echo".into(), reason: "out of order".into() });
    assert_eq!(rpc_error(replies.pop().expect("three")), RpcError::NotAMember { node: 77 });
    assert_eq!(replies.pop().expect("two").expect("node 2 answers"), b"x");
    let none = rpc_error(replies.pop().expect("one"));
    assert_eq!(none, RpcError::NoService { node: 4, service: "echo".into() });
    let nobody = nodes[0].rpc().call_all(&[], "echo", b"x", LIMIT).wait();
    assert!(nobody.expect("nothing to wait for").is_empty());
}

/// At the limit the answers that are there count, and the error names who is missing.
#[test]
fn t26_multicast_ends_at_its_limit_with_what_is_there() {
    let nodes = Node::local_cluster(3).expect("a cluster");
    let _quick = nodes[1].rpc().register("mixed", |_| Ok(b"quick".to_vec()));
    let (_slow, gate) = gate(&nodes[2], "mixed");
    let mut replies = nodes[0].rpc().call_all(&[2, 3], "mixed", b"", SHORT).wait().expect("waiting is allowed");
    let late = rpc_error(replies.pop().expect("two").1);
    assert_eq!(late, RpcError::TimedOut { node: 3, service: "mixed".into(), limit_ms: 50 });
    assert_eq!(replies.pop().expect("one").1.expect("it was quick"), b"quick");
    gate.open();
}
