//! Calls of attached programs, and services that they offer.

use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use kddm::rpc::Service;
use kddm::{Error, Fate, Node, RpcError};

use crate::House;
use crate::seat::{LIMIT, until};

/// Long enough that what is on its way arrives, short enough to be waited for in vain.
const SHORT: Duration = Duration::from_millis(100);

/// A service that says who asks whom, and what.
fn tell(node: &Node, name: &str) -> Service {
    let said = node.rpc().register(name, |request| {
        let (from, here) = (request.from(), request.node().id());
        Ok(format!("{from} {here} {}", String::from_utf8_lossy(request.body())).into_bytes())
    });
    said.expect("the name is free")
}

fn ask(from: &Node, node: u16, service: &str) -> Result<String, Error> {
    let answer = from.rpc().call(node, service, b"hello", LIMIT).wait()?;
    Ok(String::from_utf8(answer).expect("a text"))
}

#[test]
fn a_program_calls_each_node_and_is_told_why_not() {
    let house = House::new();
    let program = house.program();
    let _services: Vec<Service> = house.nodes.iter().map(|node| tell(node, "tell")).collect();
    assert_eq!(ask(&program, 2, "tell").expect("it answers"), "1 2 hello", "its node asks for it");
    assert_eq!(ask(&program, 1, "tell").expect("it answers"), "1 1 hello");
    let all = program.rpc().call_all(&[2, 9, 1], "tell", b"all", LIMIT).wait().expect("one each");
    assert_eq!(
        all.iter().map(|(node, answer)| (*node, answer.is_ok())).collect::<Vec<_>>(),
        [(2, true), (9, false), (1, true)]
    );
    assert!(matches!(ask(&program, 9, "tell"), Err(Error::Rpc(RpcError::NotAMember { node: 9 }))));
    let absent = ask(&program, 2, "absent").expect_err("nobody serves it");
    assert!(matches!(&absent, Error::Rpc(RpcError::NoService { node: 2, .. })), "{absent}");
    assert!(matches!(ask(&program, 2, ""), Err(Error::Rpc(RpcError::BadName { .. }))));
    let _fails = house.nodes[1].rpc().register("fails", |_| Err("on purpose".into())).expect("free");
    let failed = ask(&program, 2, "fails").expect_err("it fails");
    assert_eq!((failed.to_string(), failed.fate()), ("\"fails\" at node 2: on purpose".into(), Fate::Unknown));
    let large = vec![7; 4 << 20];
    let _echo = house.nodes[1].rpc().register("echo", |request| Ok(request.body().to_vec())).expect("free");
    assert_eq!(program.rpc().call(2, "echo", &large, LIMIT).wait().expect("it comes back"), large);
    house.check();
}

#[test]
fn a_limit_travels_along_and_a_dropped_call_is_cancelled() {
    let house = House::new();
    let program = house.program();
    let ((seen, cancelled), (begins, begun)) = (channel(), channel());
    let _waits = house.nodes[1].rpc().register_blocking("waits", move |request| {
        begins.send(()).expect("the test listens");
        let left = request.deadline().saturating_duration_since(std::time::Instant::now());
        until("it is cancelled", || request.is_cancelled());
        seen.send(left).expect("the test listens");
        Ok(Vec::new())
    });
    let _waits = _waits.expect("free");
    let begun = || begun.recv_timeout(LIMIT).expect("it begins");
    let late = program.rpc().call(2, "waits", b"", SHORT).wait();
    assert!(matches!(late, Err(Error::Rpc(RpcError::TimedOut { node: 2, limit_ms: 100, .. }))), "{late:?}");
    begun();
    assert!(cancelled.recv_timeout(LIMIT).expect("it is told") <= SHORT);
    let call = program.rpc().call(2, "waits", b"", Duration::from_secs(3600));
    begun();
    drop(call);
    let left = cancelled.recv_timeout(LIMIT).expect("it is told");
    assert!(left > LIMIT && left <= Duration::from_secs(3600), "{left:?}");
    // One that goes cancels what it has asked for, too.
    let other = house.program();
    let call = other.rpc().call(2, "waits", b"", LIMIT);
    begun();
    other.stop();
    assert!(call.wait().is_err());
    cancelled.recv_timeout(LIMIT).expect("it is told");
    house.check();
}

#[test]
fn a_program_serves_nodes_and_programs_under_the_number_of_its_node() {
    let house = House::new();
    let (program, other) = (house.program(), house.program());
    let service = tell(&program, "tell");
    assert_eq!(ask(&house.nodes[1], 1, "tell").expect("it answers"), "2 1 hello");
    assert_eq!(ask(&house.nodes[0], 1, "tell").expect("it answers"), "1 1 hello");
    assert_eq!(ask(&other, 1, "tell").expect("it answers"), "1 1 hello");
    assert_eq!(ask(&program, 1, "tell").expect("it answers itself"), "1 1 hello");
    for taken in [&program, &other, &house.nodes[0]] {
        let taken = taken.rpc().register("tell", |_| Ok(Vec::new())).err().expect("one a node");
        assert!(matches!(taken, Error::Rpc(RpcError::AlreadyRegistered { .. })), "{taken}");
    }
    assert_eq!(ask(&house.nodes[1], 1, "tell").expect("it is there still"), "2 1 hello");
    let counts = other.rpc().register_blocking_typed("add", |request, by: u64| {
        let set = crate::open(request.node());
        let add = move |count: &mut u64| {
            *count += by;
            Ok(*count)
        };
        Ok(set.update(1, add).wait()?)
    });
    let counts = counts.expect("free");
    let sum: u64 = house.nodes[1].rpc().call_typed(1, "add", &5u64, LIMIT).wait().expect("it answers");
    assert_eq!(sum, 5, "a service uses objects in its own program");
    drop(counts);
    service.unregister();
    assert!(matches!(ask(&house.nodes[1], 1, "tell"), Err(Error::Rpc(RpcError::NoService { node: 1, .. }))));
    let _again = tell(&other, "tell");
    assert_eq!(ask(&house.nodes[1], 1, "tell").expect("another one serves"), "2 1 hello");
    house.check();
}

/// In a process that a test has started, this serves until it is killed; else it is an empty test.
#[test]
fn serving_process() {
    let Some(socket) = std::env::var_os("KDDM_TEST_SERVES") else { return };
    let program = Node::attach(socket).wait().expect("it accepts programs");
    let _serves = program.rpc().register_blocking("dies", |request| {
        if request.body() == b"hello" {
            return Ok(b"here".to_vec());
        }
        let set = crate::open(request.node());
        let _held = set.grab(7).wait()?;
        loop {
            std::thread::park();
        }
    });
    _serves.as_ref().expect("the name is free");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_program_that_is_killed_while_it_serves_ends_its_calls_and_its_service() {
    let house = House::new();
    let mut child = Command::new(std::env::current_exe().expect("it runs"))
        .args(["calls::serving_process", "--exact"])
        .env("KDDM_TEST_SERVES", &house.socket)
        .stdout(Stdio::null())
        .spawn()
        .expect("a process");
    until("it serves", || ask(&house.nodes[1], 1, "dies").is_ok());
    let call = house.nodes[1].rpc().call(1, "dies", b"and hold something", LIMIT);
    until("it holds something", || house.nodes[0].programs().first().is_some_and(|program| program.lent_to_write > 0));
    child.kill().expect("it lives");
    child.wait().expect("it ends");
    let error = call.wait().expect_err("it is dead");
    assert!(matches!(&error, Error::Rpc(RpcError::Gone { node: 1, .. })), "{error}");
    assert_eq!(error.fate(), Fate::Unknown);
    until("its service is gone", || {
        matches!(ask(&house.nodes[1], 1, "dies"), Err(Error::Rpc(RpcError::NoService { .. })))
    });
    crate::add_one(&crate::open(&house.nodes[1]), 7);
    let _free = tell(&house.nodes[0], "dies");
    assert_eq!(ask(&house.nodes[1], 1, "dies").expect("the name is free"), "2 1 hello");
}

/// What is called waits for a service of a program as for one of a node, and a program passes calls on, in the name
/// of its node; what it casts arrives.
#[test]
fn programs_serve_late_pass_calls_on_and_cast() {
    let house = House::new();
    let program = house.program();
    let _back = tell(&house.nodes[1], "back");
    let early = house.nodes[1].rpc().call(1, "front", b"hello", LIMIT);
    until("it waits", || house.nodes[0].rpc().counts().queued == 1);
    let front = program.rpc().register("front", |request| Err(request.forward(2, "back", request.body())));
    let _front = front.expect("free");
    assert_eq!(early.wait().expect("it waited"), b"1 2 hello");
    assert_eq!(ask(&house.nodes[0], 1, "front").expect("it answers"), "1 2 hello");
    assert_eq!(ask(&program, 1, "front").expect("it answers itself"), "1 2 hello");
    let _round = program.rpc().register("round", |request| Err(request.forward(1, "round", request.body())));
    let circle = ask(&house.nodes[1], 1, "round").expect_err("it has no end").to_string();
    assert!(circle.contains("which is a circle"), "{circle}");
    let (heard, hears) = channel();
    let hear = house.nodes[1].rpc().register("hear", move |request| {
        heard.send((request.from(), request.body().to_vec()))?;
        Ok(Vec::new())
    });
    let _hear = hear.expect("free");
    for number in 0..100 {
        program.rpc().cast(2, "hear", &[number]).expect("it is sent");
    }
    for number in 0..100 {
        assert_eq!(hears.recv_timeout(LIMIT), Ok((1, vec![number])));
    }
    let (heard, hears) = channel();
    let _served = program.rpc().register("served", move |request| {
        heard.send(request.body().to_vec())?;
        Ok(Vec::new())
    });
    house.nodes[1].rpc().cast(1, "served", b"cast").expect("it is sent");
    assert_eq!(hears.recv_timeout(LIMIT).expect("it arrives"), b"cast");
    house.check();
}
