//! Services: who runs them where, what they may do, how they come and go.

use super::*;

/// The same on all transports.
#[test]
fn calls_go_over_tcp_and_unix_sockets() {
    let folder = std::env::temp_dir().join(format!("kddm-rpc-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let unix = |name: &str| Address::Unix(folder.join(name));
    for [first, second] in [[Address::loopback(), Address::loopback()], [unix("a"), unix("b")]] {
        let one = Node::join(crate::unhurried().listen(first).node_id(40)).wait().expect("it begins");
        let two = Node::join(crate::unhurried().listen(second).node_id(7).contact(one.address().clone()))
            .wait()
            .expect("it joins");
        let (_one, _two) = (echo(&one), echo(&two));
        assert_eq!(one.rpc().call(7, "echo", b"there", LIMIT).wait().expect("an answer"), b"there");
        assert_eq!(two.rpc().call(40, "echo", b"and back", LIMIT).wait().expect("an answer"), b"and back");
        assert_eq!(two.rpc().call(7, "echo", b"to itself", LIMIT).wait().expect("an answer"), b"to itself");
    }
    std::fs::remove_dir_all(&folder).expect("it was ours");
}

#[test]
fn a_service_that_is_not_registered_is_named() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let error = nodes[0].rpc().call(2, "nothing", b"", LIMIT).wait().expect_err("nobody registered it");
    assert_eq!(error.to_string(), "node 2 has no service \"nothing\"; it is there once the node has registered it");
    assert_eq!((error.fate(), error.code()), (Fate::NothingHappened, 502));
    let service = echo(&nodes[1]);
    assert_eq!(service.name(), "echo");
    let again = nodes[1].rpc().register("echo", |_| Ok(Vec::new()));
    assert_eq!(rpc_error(again.map(drop)), RpcError::AlreadyRegistered { service: "echo".into() });
    service.unregister();
    let gone = nodes[0].rpc().call(2, "echo", b"", LIMIT).wait();
    assert_eq!(rpc_error(gone), RpcError::NoService { node: 2, service: "echo".into() });
    let _again = echo(&nodes[1]);
    for name in ["", "a\nb", &"x".repeat(65)] {
        let bad = RpcError::BadName { service: name.into() };
        assert_eq!(rpc_error(nodes[1].rpc().register(name, |_| Ok(Vec::new())).map(drop)), bad);
        assert_eq!(rpc_error(nodes[0].rpc().call(2, name, b"", LIMIT).wait()), bad);
    }
}

#[test]
fn bodies_up_to_the_limit_arrive_whole() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _echo = echo(&nodes[1]);
    let _large = nodes[1].rpc().register("large", |_| Ok(vec![1; (16 << 20) + 1]));
    for bytes in [0, 1, 4096, (16 << 10) - 28, 16 << 20] {
        let body: Vec<u8> = (0..bytes).map(|at| (at * 31 % 251) as u8).collect();
        let answer = nodes[0].rpc().call(2, "echo", &body, LIMIT).wait().expect("an answer");
        assert!(answer == body, "{bytes} bytes");
    }
    let too_large = nodes[0].rpc().call(2, "echo", &vec![0; (16 << 20) + 1], LIMIT).wait();
    assert!(matches!(rpc_error(too_large), RpcError::TooLarge { .. }));
    let failed = nodes[0].rpc().call(2, "large", b"", LIMIT).wait().expect_err("its answer is too large");
    assert!(failed.to_string().contains("at most 16777216"), "{failed}");
    assert_eq!(nodes[0].rpc().call(2, "echo", b"on", LIMIT).wait().expect("the connection is whole"), b"on");
}

/// What a quick handler must not do is refused; a blocking one waits for objects that others hold.
#[test]
fn only_blocking_handlers_may_wait() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let counts: Set<u64> = nodes[0].set("counts").open().wait().expect("the set opens");
    let add = |request: &kddm::rpc::Request| -> Result<Vec<u8>, kddm::rpc::HandlerError> {
        let counts: Set<u64> = request.node().set("counts").open().wait()?;
        let mut count = counts.grab(1).wait()?;
        *count += 1;
        let value = *count;
        count.put().wait()?;
        Ok(value.to_le_bytes().to_vec())
    };
    let _quick = nodes[1].rpc().register("quick", add);
    let _blocking = nodes[1].rpc().register_blocking("blocking", add);
    let refused = rpc_error(nodes[0].rpc().call(2, "quick", b"", LIMIT).wait());
    let reason = Error::from(AccessError::WouldBlock).to_string();
    assert_eq!(refused, RpcError::Failed { node: 2, service: "quick".into(), reason });
    let held = counts.grab(1).wait().expect("it is granted");
    let waiting = nodes[0].rpc().call(2, "blocking", b"", LIMIT);
    assert!(!waiting.is_ready(), "the object is held here");
    drop(held);
    assert_eq!(waiting.wait().expect("it was put back"), 1u64.to_le_bytes());
}

/// A call inside a handler, back to the caller: nobody waits for a thread that is taken.
#[test]
fn blocking_handlers_may_call_back() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _echo = echo(&nodes[0]);
    let _back = nodes[1].rpc().register_blocking("back", |request| {
        Ok(request.node().rpc().call(request.from(), "echo", request.body(), LIMIT).wait()?)
    });
    assert_eq!(nodes[0].rpc().call(2, "back", b"ball", LIMIT).wait().expect("an answer"), b"ball");
}

#[test]
fn a_slow_handler_holds_up_nobody_else() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let (_slow, gate) = gate(&nodes[1], "slow");
    let _echo = echo(&nodes[1]);
    let _other = nodes[1].rpc().register_blocking("other", |_| Ok(b"other".to_vec()));
    let slow = nodes[0].rpc().call(2, "slow", b"slow", LIMIT);
    gate.until_here(1);
    assert_eq!(nodes[0].rpc().call(2, "echo", b"quick", LIMIT).wait().expect("an answer"), b"quick");
    assert_eq!(nodes[0].rpc().call(2, "other", b"", LIMIT).wait().expect("an answer"), b"other");
    let second = nodes[0].rpc().call(2, "slow", b"second", LIMIT);
    gate.until_here(2);
    assert!(!slow.is_ready() && !second.is_ready());
    gate.open();
    assert_eq!(second.wait().expect("the gate is open"), b"second");
    assert_eq!(slow.wait().expect("the gate is open"), b"slow");
}

/// 16 threads and 1,024 in the queue; what is refused did not run, and all others are answered.
#[test]
fn a_full_queue_refuses() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let (_service, gate) = gate(&nodes[1], "gate");
    let taken: Vec<_> = (0..16).map(|_| nodes[0].rpc().call(2, "gate", b"", LIMIT)).collect();
    gate.until_here(16);
    let queued: Vec<_> = (0..1024).map(|_| nodes[0].rpc().call(2, "gate", b"", LIMIT)).collect();
    let refused = nodes[0].rpc().call(2, "gate", b"", LIMIT).wait().expect_err("the queue is full");
    assert!(matches!(&refused, Error::Rpc(RpcError::Overloaded { node: 2, .. })), "{refused}");
    assert_eq!(refused.fate(), Fate::NothingHappened);
    gate.open();
    for call in taken.into_iter().chain(queued) {
        call.wait().expect("it had its turn");
    }
}

#[test]
fn unregister_waits_for_handlers_that_run() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let (service, gate) = gate(&nodes[1], "gate");
    let call = nodes[0].rpc().call(2, "gate", b"x", LIMIT);
    gate.until_here(1);
    let (sender, ended): (Sender<()>, Receiver<()>) = channel();
    let thread = std::thread::spawn(move || {
        service.unregister();
        let _listened_to = sender.send(());
    });
    // New calls are refused while the old one still runs.
    let begin = Instant::now();
    while !matches!(rpc_error(nodes[0].rpc().call(2, "gate", b"", SHORT).wait()), RpcError::NoService { .. }) {
        assert!(begin.elapsed() < LIMIT, "calls are still taken");
    }
    assert!(ended.try_recv().is_err(), "a handler runs");
    gate.open();
    ended.recv_timeout(LIMIT).expect("no handler runs any more");
    assert_eq!(call.wait().expect("it was answered all the same"), b"x");
    thread.join().expect("it ends");
}

#[test]
fn a_panic_is_an_answer() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _quick = nodes[1].rpc().register("quick", |_| panic!("on purpose"));
    let _blocking = nodes[1].rpc().register_blocking("blocking", |_| panic!("on purpose"));
    for name in ["quick", "blocking", "quick", "blocking"] {
        let failed = rpc_error(nodes[0].rpc().call(2, name, b"", LIMIT).wait());
        let reason = "the handler panicked".into();
        assert_eq!(failed, RpcError::Failed { node: 2, service: name.into(), reason });
    }
}

/// A service takes another type than the caller sends.
#[test]
fn a_question_of_another_type_is_an_error() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _typed =
        nodes[1].rpc().register_typed("typed", |_, (first, second): (u64, String)| Ok(first + second.len() as u64));
    let sum = nodes[0].rpc().call_typed::<_, u64>(2, "typed", &(3u64, "four"), LIMIT).wait();
    assert_eq!(sum.expect("an answer"), 7);
    let failed = nodes[0].rpc().call_typed::<_, u64>(2, "typed", &1u8, LIMIT).wait().expect_err("it is no pair");
    assert!(failed.to_string().contains("not of the type"), "{failed}");
    let failed = nodes[0].rpc().call_typed::<_, String>(2, "typed", &(300u64, "four"), LIMIT).wait();
    assert!(matches!(rpc_error(failed), RpcError::Codec { what: "the answer", .. }));
}

/// More answers are on their way than a socket takes, again and again: nothing is lost or mixed up.
#[test]
fn many_calls_at_once_are_answered_each() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _echo = echo(&nodes[1]);
    let body = |number: usize| vec![number as u8; 1 + number * 977 % 20_000];
    for round in 0..4 {
        let calls: Vec<_> = (0..500)
            .map(|number| (number, nodes[0].rpc().call(2, "echo", &body(round * 500 + number), LIMIT)))
            .collect();
        for (number, call) in calls {
            assert!(call.wait().expect("an answer") == body(round * 500 + number), "call {number}");
        }
    }
}
