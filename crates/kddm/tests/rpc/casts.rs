//! Casts: nobody answers.

use super::*;

/// The first one makes the connection, and more follow than may be in work at one time.
#[test]
fn casts_arrive_once_and_in_order() {
    let nodes = Node::local_cluster(3).expect("a cluster");
    let (sender, heard) = channel();
    let services: Vec<_> = nodes
        .iter()
        .map(|node| {
            let sender = sender.clone();
            let hear = move |request: &kddm::rpc::Request, number: u32| {
                sender.send((request.node().id(), request.from(), number))?;
                if number.is_multiple_of(2) { Err("nobody hears of it".into()) } else { Ok(()) }
            };
            node.rpc().register_typed("hear", hear).expect("the name is free")
        })
        .collect();
    for number in 0..10_000u32 {
        nodes[0].rpc().cast_typed(2, "hear", &number).expect("it is sent");
    }
    for number in 0..10_000 {
        assert_eq!(heard.recv_timeout(LIMIT), Ok((2, 1, number)));
    }
    let sent = nodes[1].rpc().cast_all(&[1, 9, 2, 3], "hear", &[7]);
    let not_sent: Vec<u16> = sent.iter().filter(|(_, sent)| sent.is_err()).map(|(node, _)| *node).collect();
    assert_eq!(not_sent, [9]);
    let mut at = [(); 3].map(|()| heard.recv_timeout(LIMIT).expect("it arrives"));
    at.sort_unstable();
    assert_eq!(at, [(1, 2, 7), (2, 2, 7), (3, 2, 7)]);
    assert_eq!(nodes[0].rpc().counts().cast, 10_000);
    drop(services);
}

#[test]
fn a_cast_says_what_is_known_here() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let cast = |node: u16, name: &str, body: &[u8]| rpc_error(nodes[0].rpc().cast(node, name, body));
    assert_eq!(cast(9, "hear", b""), RpcError::NotAMember { node: 9 });
    assert_eq!(cast(2, "", b""), RpcError::BadName { service: String::new() });
    assert!(matches!(cast(2, "hear", &vec![0; (16 << 20) + 1]), RpcError::TooLarge { .. }));
    nodes[0].stop();
    assert!(nodes[0].rpc().cast(2, "hear", b"").is_err());
}

/// As a call does; nobody hears that it was in vain.
#[test]
fn a_cast_waits_for_its_service() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    nodes[0].rpc().cast(2, "hear", b"early").expect("it is sent");
    nodes[0].rpc().at_once().cast(2, "hear", b"in vain").expect("it is sent");
    until("both have arrived", || {
        let counted = nodes[1].rpc().counts();
        (counted.queued, counted.refused) == (1, 1)
    });
    let (sender, heard) = channel();
    let hear = nodes[1].rpc().register("hear", move |request| {
        sender.send(request.body().to_vec())?;
        Ok(Vec::new())
    });
    let _hear = hear.expect("the name is free");
    assert_eq!(heard.recv_timeout(LIMIT).expect("it waited"), b"early");
    let _echo = echo(&nodes[1]);
    nodes[0].rpc().call(2, "echo", b"", LIMIT).wait().expect("all before it has arrived");
    assert!(heard.try_recv().is_err());
}
