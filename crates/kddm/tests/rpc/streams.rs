//! Streams in both directions: order, room, ends.

use kddm::rpc::{StreamReceiver, StreamSender};

use super::ends::block_on;
use super::*;

/// A service that sends back what it gets.
fn mirror(node: &Node) -> Service {
    let service = node.rpc().register_stream::<Vec<u8>, Vec<u8>>("mirror", |_, from, to| {
        while let Some(item) = from.receive().wait()? {
            to.send(&item).wait()?;
        }
        Ok(())
    });
    service.expect("the name is free")
}

type Ends<S, R> = (StreamSender<S>, StreamReceiver<R>);

fn open<S: serde::Serialize, R: serde::de::DeserializeOwned>(from: &Node, node: u16, name: &str) -> Ends<S, R> {
    from.rpc().open_stream(node, name, LIMIT).expect("it is opened")
}

#[test]
fn items_arrive_once_in_order_and_then_the_end() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _mirror = mirror(&nodes[1]);
    for from in &nodes {
        let (mut to, mut back) = open::<Vec<u8>, Vec<u8>>(from, 2, "mirror");
        let body = |number: usize| vec![number as u8; number * 31 % 5000];
        let sends = std::thread::spawn(move || {
            for number in 0..2000 {
                to.send(&body(number)).wait().expect("it is taken");
            }
            to.finish().expect("all was taken");
        });
        for number in 0..2000 {
            assert!(back.receive().wait().expect("an item") == Some(body(number)), "item {number}");
        }
        assert_eq!(back.receive().wait().expect("the end"), None);
        assert_eq!(back.receive().wait().expect("it stays the end"), None);
        sends.join().expect("it ends");
    }
    until("nothing is left", || nodes.iter().all(|node| node.rpc().counts().open_streams == 0));
    assert_eq!(nodes[1].rpc().counts().streams, 3, "one came, and one to itself is both");
}

#[test]
fn streams_are_awaited_too() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let service = nodes[1].rpc().register_stream_owned::<u64, u64>("sum", |_, mut from, to| {
        std::thread::spawn(move || {
            block_on(async move {
                let (mut to, mut sum) = (to, 0);
                while let Some(number) = from.receive().await? {
                    sum += number;
                    to.send(&sum).await?;
                }
                to.finish()
            })
        });
    });
    let _service = service.expect("the name is free");
    let sums = block_on(async {
        let (mut to, mut from) = open::<u64, u64>(&nodes[0], 2, "sum");
        let mut sums = Vec::new();
        for number in 1..=100 {
            to.send(&number).await?;
            sums.push(from.receive().await?);
        }
        from.limit(SHORT);
        let idle = rpc_error(from.receive().await);
        let service = "sum".into();
        assert_eq!(idle, RpcError::Idle { node: 2, service, limit_ms: 50, what: "said" });
        from.limit(LIMIT);
        to.finish()?;
        assert_eq!(from.receive().await?, None);
        Ok::<_, Error>(sums)
    });
    assert_eq!(sums.expect("all is well").last(), Some(&Some(5050)));
}

/// Who sends and is not listened to comes to the end of the window, and loses nothing by it.
#[test]
fn whoever_sends_too_much_waits() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let gate = Arc::new(Gate::default());
    let behind = Arc::clone(&gate);
    let service = nodes[1].rpc().register_stream::<Vec<u8>, usize>("slow", move |_, from, to| {
        behind.pass();
        let mut items = 0;
        while from.receive().wait()?.is_some() {
            items += 1;
        }
        Ok(to.send(&items).wait()?)
    });
    let (_service, _echo) = (service.expect("the name is free"), echo(&nodes[1]));
    let (mut to, mut from) = open::<Vec<u8>, usize>(&nodes[0], 2, "slow");
    gate.until_here(1);
    let item = vec![7; 1000];
    let mut sent = 0;
    loop {
        let pending = to.send(&item);
        if !pending.is_ready() {
            break;
        }
        pending.wait().expect("there was room");
        sent += 1;
        assert!(sent * item.len() <= (256 << 10) + item.len(), "{sent} items are on their way");
    }
    assert!(sent > 200, "{sent} items were taken at once");
    let full = rpc_error(to.send(&item).wait_for(SHORT));
    let service = "slow".into();
    assert_eq!(full, RpcError::Idle { node: 2, service, limit_ms: 50, what: "taken" });
    // Nobody else waits for it.
    assert_eq!(nodes[0].rpc().call(2, "echo", b"others", LIMIT).wait().expect("an answer"), b"others");
    gate.open();
    let large = vec![1; (1 << 20) - 8];
    to.send(&large).wait().expect("one item may be larger than the window");
    let too_large = rpc_error(to.send(&vec![1; 1 << 20]).wait());
    assert!(matches!(too_large, RpcError::TooLarge { limit_bytes: 1_048_576, .. }));
    to.finish().expect("it is taken");
    assert_eq!(from.receive().wait().expect("the count"), Some(sent + 1));
    assert_eq!(from.receive().wait().expect("the end"), None);
}

/// T26, cancel in mid-stream: whoever drops its ends is not waited for.
#[test]
fn t26_a_stream_that_is_dropped_ends_at_the_other_side() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let (sender, told) = channel();
    let service = nodes[1].rpc().register_stream::<u64, Vec<u8>>("flood", move |request, from, to| {
        let first = from.receive().wait()?;
        let mut sends = 0u64;
        let stopped = loop {
            match to.send(&vec![0; 10_000]).wait() {
                Ok(()) => sends += 1,
                Err(error) => break error,
            }
        };
        let ended = from.receive().wait();
        sender.send((first, sends, stopped, ended, request.is_cancelled()))?;
        Ok(())
    });
    let _service = service.expect("the name is free");
    let (mut to, mut from) = open::<u64, Vec<u8>>(&nodes[0], 2, "flood");
    to.send(&5).wait().expect("there is room");
    for _ in 0..100 {
        assert_eq!(from.receive().wait().expect("an item").map(|item| item.len()), Some(10_000));
    }
    drop((to, from));
    let (first, sends, stopped, ended, is_cancelled) = told.recv_timeout(LIMIT).expect("it ends");
    assert_eq!(first, Some(5));
    assert!((100..130).contains(&sends), "{sends}");
    let dropped = RpcError::Dropped { node: 1, service: "flood".into() };
    assert_eq!(rpc_error::<()>(Err(stopped)), dropped);
    assert_eq!(rpc_error(ended), dropped);
    assert!(is_cancelled);
    until("nothing is left", || nodes.iter().all(|node| node.rpc().counts().open_streams == 0));
}

#[test]
fn a_handler_ends_its_stream_with_its_error() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let fails = nodes[1].rpc().register_stream::<u8, u8>("fails", |_, from, to| {
        to.send(&1).wait()?;
        match from.receive().wait()? {
            Some(0) => panic!("on purpose"),
            _ => Err("enough".into()),
        }
    });
    let _fails = fails.expect("the name is free");
    for (what, reason) in [(1u8, "enough"), (0, "the handler panicked")] {
        let (mut to, mut from) = open::<u8, u8>(&nodes[0], 2, "fails");
        to.send(&what).wait().expect("there is room");
        assert_eq!(from.receive().wait().expect("what was sent before counts"), Some(1));
        let failed = RpcError::Failed { node: 2, service: "fails".into(), reason: reason.into() };
        assert_eq!(rpc_error(from.receive().wait()), failed);
        until("it is told that nobody takes it", || to.send(&2).wait().is_err());
    }
}

#[test]
fn a_stream_needs_a_service_for_streams() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let (_echo, _mirror) = (echo(&nodes[1]), mirror(&nodes[1]));
    let (_to, mut from) = open::<u8, u8>(&nodes[0], 2, "echo");
    assert!(matches!(rpc_error(from.receive().wait()), RpcError::Failed { node: 2, .. }));
    let call = rpc_error(nodes[0].rpc().call(2, "mirror", b"", LIMIT).wait());
    assert!(matches!(call, RpcError::Failed { node: 2, .. }));
    let (mut to, mut from) = nodes[0].rpc().at_once().open_stream::<u8, u8>(2, "none", LIMIT).expect("it is sent");
    let none = RpcError::NoService { node: 2, service: "none".into() };
    assert_eq!(rpc_error(from.receive().wait()), none);
    until("nobody takes it", || to.send(&1).wait().is_err());
    assert_eq!(rpc_error(to.send(&1).wait()), none);
    let nobody = nodes[0].rpc().open_stream::<u8, u8>(9, "mirror", LIMIT);
    assert_eq!(rpc_error(nobody.map(drop)), RpcError::NotAMember { node: 9 });
    // One that is registered later has what was sent meanwhile.
    let (mut to, mut from) = open::<u64, u64>(&nodes[0], 2, "late");
    for number in 0..10 {
        to.send(&number).wait().expect("there is room");
    }
    until("it waits", || nodes[1].rpc().counts().queued == 1);
    let late = nodes[1].rpc().register_stream::<u64, u64>("late", |_, from, to| {
        while let Some(number) = from.receive().wait()? {
            to.send(&number).wait()?;
        }
        Ok(())
    });
    let _late = late.expect("the name is free");
    to.finish().expect("it is sent");
    for number in 0..10 {
        assert_eq!(from.receive().wait().expect("it waited"), Some(number));
    }
    assert_eq!(from.receive().wait().expect("the end"), None);
}

#[test]
fn items_of_another_type_are_an_error_and_not_the_end() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _mirror = mirror(&nodes[1]);
    let (mut to, mut from) = open::<Vec<u8>, (String, u64)>(&nodes[0], 2, "mirror");
    to.send(&vec![200, 1]).wait().expect("there is room");
    assert!(matches!(rpc_error(from.receive().wait()), RpcError::Codec { what: "an item", .. }));
    to.send(&vec![]).wait().expect("it goes on");
}

/// 256 to one node; each that ends makes room.
#[test]
fn there_are_only_so_many_streams() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let (sender, kept) = channel();
    let service = nodes[1].rpc().register_stream_owned::<u8, u8>("keep", move |_, from, to| {
        let _listened_to = sender.send((from, to));
    });
    let _service = service.expect("the name is free");
    let mut opened: Vec<Ends<u8, u8>> = (0..256).map(|_| open(&nodes[0], 2, "keep")).collect();
    let full = nodes[0].rpc().open_stream::<u8, u8>(2, "keep", LIMIT);
    assert!(matches!(rpc_error(full.map(drop)), RpcError::Overloaded { node: 2, .. }));
    let theirs: Vec<_> = (0..256).map(|_| kept.recv_timeout(LIMIT).expect("it is handed over")).collect();
    drop(opened.pop());
    let _again: Ends<u8, u8> = open(&nodes[0], 2, "keep");
    drop(theirs);
    until("all end", || opened.iter_mut().all(|(to, _)| to.send(&1).wait().is_err()));
}

/// A node that goes away ends its streams, with an error that names it; what came before counts.
#[test]
fn a_node_that_stops_ends_its_streams() {
    let nodes = Node::local_cluster(3).expect("a cluster");
    let service = nodes[2].rpc().register_stream::<u8, u8>("waits", |_, from, to| {
        to.send(&1).wait()?;
        from.receive().wait()?;
        Ok(())
    });
    let _service = service.expect("the name is free");
    let (mut to, mut from) = open::<u8, u8>(&nodes[0], 3, "waits");
    assert_eq!(from.receive().wait().expect("it is there"), Some(1));
    let next = from.receive();
    nodes[2].stop();
    let gone = rpc_error(next.wait());
    // The handler is told first that its node stops; its word may still come through.
    assert!(matches!(gone, RpcError::Gone { node: 3, .. } | RpcError::Failed { node: 3, .. }), "{gone}");
    until("nothing can be sent", || to.send(&1).wait().is_err());
    let (mut to, mut from) = match nodes[0].rpc().open_stream::<u8, u8>(1, "none", LIMIT) {
        Ok(ends) => ends,
        Err(error) => panic!("{error}"),
    };
    nodes[0].stop();
    assert!(from.receive().wait().is_err() && to.send(&1).wait().is_err());
    assert!(nodes[0].rpc().open_stream::<u8, u8>(1, "none", LIMIT).is_err());
}
