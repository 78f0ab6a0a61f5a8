//! T26, forward: a handler leaves a call to another node.

use super::*;

/// A service that leaves each call to another one.
fn front(node: &Node, name: &str, to: u16, back: &'static str) -> Service {
    let service = node.rpc().register(name, move |request| Err(request.forward(to, back, request.body())));
    service.expect("the name is free")
}

#[test]
fn t26_a_call_that_is_passed_on_is_answered_from_there() {
    let nodes = Node::local_cluster(4).expect("a cluster");
    let _first = front(&nodes[1], "first", 3, "second");
    let _second = nodes[2].rpc().register_blocking_typed("second", |request, (text, number): (String, u64)| {
        let error = request.forward_typed(4, "third", &(text + " there", number + 1));
        Err::<String, _>(error)
    });
    let third = nodes[3].rpc().register_typed("third", |request, (text, number): (String, u64)| {
        let left = request.deadline().saturating_duration_since(Instant::now());
        Ok((format!("{text} {number} for {} at {}", request.from(), request.node().id()), left.as_millis() as u64))
    });
    let _third = third.expect("the name is free");
    let call = || nodes[0].rpc().call_typed::<_, (String, u64)>(2, "first", &("hello", 1u64), LIMIT);
    for _ in 0..20 {
        let (text, left_ms) = call().wait().expect("an answer");
        assert_eq!(text, "hello there 2 for 1 at 4");
        assert!(left_ms <= LIMIT.as_millis() as u64 && left_ms > LIMIT.as_millis() as u64 / 2, "{left_ms}");
    }
    assert_eq!(nodes[1].rpc().counts().forwarded, 20);
    // A cast, too.
    let (sender, heard) = channel();
    let _back = nodes[2].rpc().register("back", move |request| {
        sender.send((request.from(), request.body().to_vec()))?;
        Ok(Vec::new())
    });
    let _front = front(&nodes[1], "front", 3, "back");
    nodes[3].rpc().cast(2, "front", b"cast").expect("it is sent");
    assert_eq!(heard.recv_timeout(LIMIT), Ok((4, b"cast".to_vec())));
}

/// No thread waits, nor does the service: it can go while others work at what it has passed on.
#[test]
fn t26_nobody_waits_for_what_was_passed_on() {
    let nodes = Node::local_cluster(3).expect("a cluster");
    let (_back, gate) = gate(&nodes[2], "back");
    let front = nodes[1].rpc().register_blocking("front", |request| Err(request.forward(3, "back", request.body())));
    let front = front.expect("the name is free");
    let calls: Vec<_> = (0..100u8).map(|number| nodes[0].rpc().call(2, "front", &[number], LIMIT)).collect();
    gate.until_here(16);
    until("all were passed on", || nodes[1].rpc().counts().forwarded == 100);
    front.unregister();
    gate.open();
    for (number, call) in (0..).zip(calls) {
        assert_eq!(call.wait().expect("it is answered all the same"), [number]);
    }
}

/// More of them than one caller may have in work at one time.
#[test]
fn what_was_passed_on_and_is_cancelled_is_in_work_no_more() {
    let nodes = Node::local_cluster(3).expect("a cluster");
    let _front = front(&nodes[1], "front", 3, "patient");
    let patient = nodes[2].rpc().register_blocking("patient", |request| {
        until("it is cancelled", || request.is_cancelled());
        Ok(Vec::new())
    });
    let _patient = patient.expect("the name is free");
    let _quick = nodes[1].rpc().register("quick", |_| Ok(Vec::new())).expect("the name is free");
    for batch in 1..=10 {
        let calls: Vec<_> = (0..500).map(|_| nodes[0].rpc().call(2, "front", b"", Duration::from_secs(3600))).collect();
        until("all were passed on", || nodes[1].rpc().counts().forwarded == batch * 500);
        drop(calls);
    }
    nodes[0].rpc().call(2, "quick", b"", LIMIT).wait().expect("it is not taken for one too many");
}

#[test]
fn t26_a_cancel_reaches_where_the_call_was_passed_on_to() {
    let nodes = Node::local_cluster(3).expect("a cluster");
    let _front = front(&nodes[1], "front", 3, "patient");
    let ((begun, begins), (cancelled, ends), (go_on, goes_on)) = (channel(), channel(), channel::<()>());
    let goes_on = std::sync::Mutex::new(goes_on);
    let patient = nodes[2].rpc().register_blocking("patient", move |request| {
        begun.send(())?;
        until("it is cancelled", || request.is_cancelled());
        cancelled.send(request.deadline().saturating_duration_since(Instant::now()))?;
        // An answer at the very limit might be there before whoever called looks at its clock.
        goes_on.lock().expect("nobody panics with it").recv()?;
        Ok(Vec::new())
    });
    let _patient = patient.expect("the name is free");
    let call = nodes[0].rpc().call(2, "front", b"", Duration::from_secs(3600));
    begins.recv_timeout(LIMIT).expect("it begins");
    drop(call);
    assert!(ends.recv_timeout(LIMIT).expect("it is told") > LIMIT, "not by its limit");
    go_on.send(()).expect("it waits for that");
    let late = rpc_error(nodes[0].rpc().call(2, "front", b"", SHORT).wait());
    assert_eq!(late, RpcError::TimedOut { node: 2, service: "front".into(), limit_ms: 50 });
    assert!(ends.recv_timeout(LIMIT).expect("its limit came along").is_zero());
    go_on.send(()).expect("it waits for that");
}

/// Whoever called hears of it as of a failure of the service that it called.
#[test]
fn t26_what_goes_wrong_behind_a_handler_names_the_other_node() {
    let nodes = Node::local_cluster(3).expect("a cluster");
    let _services = [
        front(&nodes[1], "nobody", 9, "x"),
        front(&nodes[1], "nothing", 3, "absent"),
        front(&nodes[1], "fails", 3, "broken"),
        front(&nodes[1], "round", 3, "and round"),
        front(&nodes[2], "and round", 2, "round"),
    ];
    let _broken = nodes[2].rpc().register("broken", |_| Err("on purpose".into()));
    let failed = |service: &str| {
        let error = nodes[0].rpc().call(2, service, b"", LIMIT).wait().expect_err("it fails");
        assert_eq!(error.fate(), Fate::Unknown);
        error.to_string()
    };
    assert_eq!(failed("nobody"), "\"nobody\" at node 2: passed on: node 9 is not a member of this cluster");
    let absent = failed("nothing");
    assert!(absent.starts_with("\"nothing\" at node 2: passed on: node 3 has no service \"absent\""), "{absent}");
    assert_eq!(failed("fails"), "\"fails\" at node 2: passed on: \"broken\" at node 3: on purpose");
    assert!(failed("round").ends_with("passed on 8 times, which is a circle"));
    let (_gate, gate) = gate(&nodes[2], "gate");
    let _front = front(&nodes[1], "gone", 3, "gate");
    let call = nodes[0].rpc().call(2, "gone", b"", LIMIT);
    gate.until_here(1);
    let stopping = nodes[2].clone();
    let stop = std::thread::spawn(move || stopping.stop());
    let gone = call.wait().expect_err("node 3 stops").to_string();
    assert!(gone.contains("node 3 went away"), "{gone}");
    gate.open();
    stop.join().expect("it stops");
}
