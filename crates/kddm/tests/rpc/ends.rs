//! How calls end without an answer: by their limit, by being dropped, with a node.

use std::future::Future;
use std::io::BufRead;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use super::*;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn calls_are_awaited_too() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _echo = echo(&nodes[1]);
    let (_slow, gate) = gate(&nodes[1], "slow");
    assert_eq!(block_on(nodes[0].rpc().call(2, "echo", b"awaited", LIMIT)).expect("an answer"), b"awaited");
    let late = rpc_error(block_on(nodes[0].rpc().call(2, "slow", b"", SHORT)));
    assert_eq!(late, RpcError::TimedOut { node: 2, service: "slow".into(), limit_ms: 50 });
    gate.open();
}

/// An answer that comes too late is nobody's: above all not the next caller's.
#[test]
fn a_late_answer_is_dropped() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let (_slow, gate) = gate(&nodes[1], "slow");
    let error = nodes[0].rpc().call(2, "slow", b"late", SHORT).wait().expect_err("the gate is closed");
    assert_eq!(error.to_string(), "node 2 did not answer a call of \"slow\" within 50 ms");
    assert_eq!(error.fate(), Fate::Unknown);
    let within = nodes[0].rpc().call(2, "slow", b"late", LIMIT).wait_for(SHORT);
    assert!(matches!(rpc_error(within), RpcError::TimedOut { limit_ms: 50, .. }));
    gate.open();
    for _ in 0..20 {
        assert_eq!(nodes[0].rpc().call(2, "slow", b"next", LIMIT).wait().expect("an answer"), b"next");
    }
}

#[test]
fn the_limit_travels_with_the_call() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let left = nodes[1].rpc().register_typed("left", |request, ()| {
        assert!(!request.is_cancelled());
        Ok(request.deadline().saturating_duration_since(Instant::now()).as_millis() as u64)
    });
    let _left = left.expect("the name is free");
    for limit_ms in [5_000, 20_000] {
        let limit = Duration::from_millis(limit_ms);
        let left_ms: u64 = nodes[0].rpc().call_typed(2, "left", &(), limit).wait().expect("an answer");
        assert!(left_ms <= limit_ms && left_ms > limit_ms - 5_000, "{left_ms} of {limit_ms} ms are left");
    }
}

/// A call whose limit is over while it waits for a thread does not run any more.
#[test]
fn what_waited_too_long_does_not_run() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _echo = echo(&nodes[1]);
    let (sender, ran) = channel();
    let gate = Arc::new(Gate::default());
    let behind = Arc::clone(&gate);
    let service = nodes[1].rpc().register_blocking("gate", move |request| {
        let _listened_to = sender.send(request.body().to_vec());
        behind.pass();
        Ok(Vec::new())
    });
    let _service = service.expect("the name is free");
    let taken: Vec<_> = (0..16).map(|_| nodes[0].rpc().call(2, "gate", b"first", LIMIT)).collect();
    gate.until_here(16);
    let late = nodes[0].rpc().call(2, "gate", b"late", SHORT).wait();
    assert!(matches!(rpc_error(late), RpcError::TimedOut { .. }));
    drop(nodes[0].rpc().call(2, "gate", b"dropped", LIMIT));
    // Behind this answer node 2 has heard that nobody waits any more.
    nodes[0].rpc().call(2, "echo", b"", LIMIT).wait().expect("an answer");
    gate.open();
    for call in taken {
        call.wait().expect("the gate is open");
    }
    nodes[0].rpc().call(2, "gate", b"last", LIMIT).wait().expect("the gate is open");
    let ran: Vec<Vec<u8>> = ran.try_iter().collect();
    assert_eq!(ran.iter().filter(|body| *body == b"first").count(), 16);
    assert_eq!(ran[16..], [b"last".to_vec()]);
}

/// T26, cancel: whoever drops a call is not waited for, and the handler can see it.
#[test]
fn t26_a_dropped_call_is_cancelled_at_the_other_side() {
    let nodes = Node::local_cluster(3).expect("a cluster");
    let (begun, begins) = channel();
    let (cancelled, ends) = channel();
    let _services: Vec<_> = nodes[1..]
        .iter()
        .map(|node| {
            let (begun, cancelled) = (begun.clone(), cancelled.clone());
            let service = node.rpc().register_blocking("patient", move |request| {
                begun.send(request.node().id())?;
                while !request.is_cancelled() {
                    std::thread::yield_now();
                }
                cancelled.send(request.node().id())?;
                Ok(Vec::new())
            });
            service.expect("the name is free")
        })
        .collect();
    let call = nodes[0].rpc().call_all(&[2, 3], "patient", b"", Duration::from_secs(3600));
    let both = |receiver: &Receiver<u16>| {
        let mut both = [(); 2].map(|()| receiver.recv_timeout(LIMIT).expect("it tells"));
        both.sort_unstable();
        both
    };
    assert_eq!(both(&begins), [2, 3]);
    assert!(!call.is_ready() && ends.try_recv().is_err());
    call.cancel();
    assert_eq!(both(&ends), [2, 3]);
}

/// A node that stops ends the calls to it at once, with an error that names it.
#[test]
fn a_node_that_goes_away_ends_its_calls() {
    let nodes = Node::local_cluster(3).expect("a cluster");
    let (_service, gate) = gate(&nodes[2], "gate");
    let call = nodes[0].rpc().call(3, "gate", b"", Duration::from_secs(3600));
    let others = nodes[1].rpc().call_all(&[3, 3], "gate", b"", Duration::from_secs(3600));
    gate.until_here(3);
    let stopping = nodes[2].clone();
    let stop = std::thread::spawn(move || stopping.stop());
    let gone = call.wait().expect_err("node 3 stops");
    assert!(matches!(&gone, Error::Rpc(RpcError::Gone { node: 3, .. })), "{gone}");
    assert_eq!(gone.fate(), Fate::Unknown);
    for (node, result) in others.wait().expect("waiting is allowed") {
        assert!(matches!(rpc_error(result), RpcError::Gone { node: 3, .. }), "node {node}");
    }
    gate.open();
    stop.join().expect("it stops");
    let after = rpc_error(nodes[0].rpc().call(3, "gate", b"", LIMIT).wait());
    assert!(matches!(after, RpcError::NotAMember { node: 3 } | RpcError::Unreachable { node: 3, .. }), "{after}");
}

/// The variable that makes this test binary the peer of `a_killed_process_ends_its_calls`: whom to join.
const CONTACT: &str = "KDDM_TEST_RPC_CONTACT";

/// In a process that was started as a peer: a node that takes calls and never answers.
#[test]
fn peer_process() {
    let Ok(contact) = std::env::var(CONTACT) else { return };
    let config = crate::unhurried().contact(contact.parse().expect("an address"));
    let node = Node::join(config).wait().expect("it joins");
    let service = node.rpc().register_blocking("silent", |_| {
        println!("\ncalled");
        loop {
            std::thread::park();
        }
    });
    let _service = service.expect("the name is free");
    let flood = node.rpc().register_stream::<u64, u64>("flood", |_, _, to| {
        for number in 0.. {
            to.send(&number).wait()?;
        }
        Ok(())
    });
    let _flood = flood.expect("the name is free");
    println!("\nready {}", node.id());
    for _line in std::io::stdin().lines() {}
    std::process::exit(0);
}

/// kill -9 of the process that was called.
#[test]
fn a_killed_process_ends_its_calls() {
    let node = Node::join(crate::unhurried()).wait().expect("it begins");
    let program = std::env::current_exe().expect("this test has a path");
    let mut peer = std::process::Command::new(program)
        .args(["ends::peer_process", "--exact", "--nocapture", "--test-threads=1"])
        .env(CONTACT, node.address().to_string())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("this test can be started again");
    let mut lines = std::io::BufReader::new(peer.stdout.take().expect("it was asked for")).lines();
    let mut says = |word: &str| {
        let line = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with(word));
        line.expect("it lives")
    };
    let id: u16 = says("ready")[6..].parse().expect("a number");
    let call = node.rpc().call(id, "silent", b"", Duration::from_secs(3600));
    says("called");
    let (mut to, mut flood) =
        node.rpc().open_stream::<u64, u64>(id, "flood", Duration::from_secs(3600)).expect("it is opened");
    for number in 0..1000 {
        assert_eq!(flood.receive().wait().expect("it lives"), Some(number));
    }
    peer.kill().expect("it is ours");
    peer.wait().expect("it ends");
    let gone = rpc_error(call.wait());
    assert!(matches!(gone, RpcError::Gone { node, .. } if node == id), "{gone}");
    let mut next = 1000;
    let gone = loop {
        match flood.receive().wait() {
            Ok(number) => assert_eq!(number, Some(next), "what had come is not lost"),
            Err(error) => break rpc_error::<()>(Err(error)),
        }
        next += 1;
    };
    assert!(matches!(gone, RpcError::Gone { node, .. } if node == id), "{gone}");
    assert!(matches!(rpc_error(to.send(&1).wait()), RpcError::Gone { node, .. } if node == id));
    let after = rpc_error(node.rpc().call(id, "silent", b"", LIMIT).wait());
    assert!(matches!(after, RpcError::Unreachable { node, .. } if node == id), "{after}");
}

/// A stop waits neither for calls nor for handlers that wait for objects.
#[test]
fn a_stop_ends_calls_and_handlers() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let held: Set<u64> = nodes[0].set("held").open().wait().expect("the set opens");
    let guard = held.grab(1).wait().expect("it is granted");
    let (begun, begins) = channel();
    let service = nodes[1].rpc().register_blocking("grab", move |request| {
        let held: Set<u64> = request.node().set("held").open().wait()?;
        let grab = held.grab(1);
        begun.send(())?;
        drop(grab.wait_for(Duration::from_secs(3600))?);
        Ok(Vec::new())
    });
    let service = service.expect("the name is free");
    let call = nodes[0].rpc().call(2, "grab", b"", Duration::from_secs(3600));
    let own = nodes[1].rpc().call(1, "nowhere", b"", LIMIT).wait();
    assert!(matches!(rpc_error(own), RpcError::NoService { node: 1, .. }));
    begins.recv_timeout(LIMIT).expect("it begins");
    let begin = Instant::now();
    nodes[1].stop();
    assert!(begin.elapsed() < LIMIT, "the handler was told");
    // The handler is told first that its node shares no more; its word may still come through.
    let ended = rpc_error(call.wait());
    assert!(matches!(ended, RpcError::Gone { node: 2, .. } | RpcError::Failed { .. }), "{ended}");
    let stopped = nodes[1].rpc().call(1, "nowhere", b"", LIMIT).wait().expect_err("the node has stopped");
    assert!(stopped.to_string().contains("stopped"), "{stopped}");
    assert!(nodes[1].rpc().register("late", |_| Ok(Vec::new())).is_err());
    drop((service, guard));
}

/// A handler has the node from its request; that does not keep a node alive that nobody holds.
#[test]
fn a_service_does_not_keep_its_node_alive() {
    let first = Node::join(crate::unhurried()).wait().expect("it begins");
    let second = Node::join(crate::unhurried().contact(first.address().clone())).wait().expect("it joins");
    let service = second.rpc().register_blocking("id", |request| Ok(request.node().id().to_le_bytes().to_vec()));
    let service = service.expect("the name is free");
    assert_eq!(first.rpc().call(2, "id", b"", LIMIT).wait().expect("an answer"), 2u16.to_le_bytes());
    drop(second);
    let gone = rpc_error(first.rpc().call(2, "id", b"", LIMIT).wait());
    let is_named = matches!(
        gone,
        RpcError::NotAMember { node: 2 } | RpcError::Unreachable { node: 2, .. } | RpcError::Gone { node: 2, .. }
    );
    assert!(is_named, "{gone}");
    drop(service);
}
