//! Streams of attached programs: to nodes and to each other, through their node.

use std::sync::mpsc::channel;
use std::time::Duration;

use kddm::rpc::{Service, StreamReceiver, StreamSender};
use kddm::{Error, Fate, Node, RpcError};

use crate::House;
use crate::seat::{LIMIT, until};

/// Long enough that what is on its way arrives, short enough to be waited for in vain.
const SHORT: Duration = Duration::from_millis(200);

/// Says of each number the sum so far.
fn sums(node: &Node, name: &str) -> Service {
    let service = node.rpc().register_stream::<u64, u64>(name, |_, numbers, sums| {
        let mut sum = 0;
        while let Some(number) = numbers.receive().wait()? {
            sum += number;
            sums.send(&sum).wait()?;
        }
        Ok(())
    });
    service.expect("the name is free")
}

type Ends = (StreamSender<u64>, StreamReceiver<u64>);

fn open(from: &Node, node: u16, service: &str) -> Ends {
    from.rpc().open_stream(node, service, LIMIT).expect("it is sent")
}

#[test]
fn a_program_has_streams_to_nodes_and_programs_and_they_to_it() {
    let house = House::new();
    let (one, other) = (house.program(), house.program());
    let _at_nodes = [sums(&house.nodes[0], "sums"), sums(&house.nodes[1], "sums")];
    let _at_programs = [sums(&one, "of one"), sums(&other, "of the other")];
    let pairs = [
        (&one, 1, "sums"),
        (&one, 2, "sums"),
        (&one, 1, "of the other"),
        (&one, 1, "of one"),
        (&other, 1, "of one"),
        (&house.nodes[0], 1, "of one"),
        (&house.nodes[1], 1, "of the other"),
    ];
    for (from, to, service) in pairs {
        let (mut numbers, mut sums) = open(from, to, service);
        for number in 1..=100 {
            numbers.send(&number).wait().expect("it is taken");
            assert_eq!(sums.receive().wait().expect("it answers"), Some(number * (number + 1) / 2), "{service}");
        }
        numbers.finish().expect("it takes all");
        assert_eq!(sums.receive().wait().expect("it ends"), None, "{service}");
    }
    until("nothing of them is left", || house.nodes.iter().all(|node| node.rpc().counts().open_streams == 0));
    house.check();
}

#[test]
fn who_sends_too_fast_waits_and_nothing_is_lost() {
    const ITEM: usize = 16 << 10;
    let house = House::new();
    let program = house.program();
    let (hand, handed) = channel();
    let _service = house.nodes[1]
        .rpc()
        .register_stream_owned::<Vec<u8>, u64>("slow", move |_, from, to| _ = hand.send((from, to)))
        .expect("free");
    let (mut items, mut answers) = program.rpc().open_stream::<Vec<u8>, u64>(2, "slow", LIMIT).expect("it is sent");
    let mut sent = 0u64;
    let full = loop {
        match items.send(&vec![sent as u8; ITEM]).wait_for(SHORT) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 1_000, "nobody takes anything");
    };
    assert!(matches!(full, Error::Rpc(RpcError::Idle { node: 2, .. })), "{full:?}");
    // A window of 256 KiB each from the program to its node, and on to the other one; and one item beyond each.
    assert!((16..=40).contains(&sent), "{sent} items of 16 KiB");
    let (mut taken, mut back) = handed.recv_timeout(LIMIT).expect("it was opened");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in sent..sent + 200 {
                items.send(&vec![number as u8; ITEM]).wait().expect("there is room again");
            }
            items.finish().expect("it takes all");
        });
        let mut number = 0u64;
        while let Some(item) = taken.receive().wait().expect("it goes on") {
            assert!(item.len() == ITEM && item[0] == number as u8, "{number}");
            number += 1;
        }
        assert_eq!(number, sent + 200);
        back.send(&number).wait().expect("the other direction is there still");
    });
    assert_eq!(answers.receive().wait().expect("it answers"), Some(sent + 200));
    house.check();
}

#[test]
fn each_end_is_told_what_the_other_one_did() {
    let house = House::new();
    let program = house.program();
    let (mut numbers, mut nothing) = open(&program, 2, "nowhere");
    let error = nothing.receive().wait().expect_err("nobody serves it");
    assert!(matches!(&error, Error::Rpc(RpcError::NoService { node: 2, .. })), "{error}");
    let refused = numbers.send(&1).wait().expect_err("nobody takes it");
    assert_eq!(refused.fate(), Fate::NothingHappened, "{refused}");
    let (_numbers, mut nothing) = open(&program, 9, "sums");
    let error = nothing.receive().wait().expect_err("there is no such node");
    assert!(matches!(&error, Error::Rpc(RpcError::NotAMember { node: 9 })), "{error}");
    let _fails = house.nodes[1].rpc().register_stream::<u64, u64>("fails", |_, numbers, _| {
        numbers.receive().wait()?;
        Err("on purpose".into())
    });
    let (mut numbers, mut nothing) = open(&program, 2, "fails");
    numbers.send(&1).wait().expect("it is taken");
    let error = nothing.receive().wait().expect_err("it fails").to_string();
    assert!(error.contains("on purpose"), "{error}");
    // The ends of a program that is gone, of those that it opened and of those that it serves.
    let (hand, handed) = channel();
    let _owned = house.nodes[1]
        .rpc()
        .register_stream_owned::<u64, u64>("owned", move |_, from, to| _ = hand.send((from, to)))
        .expect("free");
    let (mut numbers, _sums) = open(&program, 2, "owned");
    numbers.send(&7).wait().expect("it is taken");
    let (mut taken, mut back) = handed.recv_timeout(LIMIT).expect("it was opened");
    assert_eq!(taken.receive().wait().expect("it is here"), Some(7));
    let served = sums(&program, "served");
    let (mut to, mut from) = open(&house.nodes[1], 1, "served");
    to.send(&1).wait().expect("it is taken");
    assert_eq!(from.receive().wait().expect("it answers"), Some(1));
    program.stop();
    let error = taken.receive().wait().expect_err("the program is gone");
    assert!(matches!(&error, Error::Rpc(RpcError::Gone { .. } | RpcError::Dropped { .. })), "{error}");
    until("nothing is taken any more", || back.send(&1).wait().is_err());
    let error = from.receive().wait().expect_err("the program is gone");
    assert!(matches!(&error, Error::Rpc(RpcError::Gone { .. } | RpcError::Dropped { .. })), "{error}");
    drop((served, taken, back, to, from));
    until("nothing of them is left", || house.nodes.iter().all(|node| node.rpc().counts().open_streams == 0));
    house.check();
}

#[test]
fn what_is_the_nodes_own_is_asked_by_no_program() {
    let house = House::new();
    let program = house.program();
    for service in ["kddm.watch", "kddm.scan", "kddm.invoke"] {
        let (_to, mut from) = program.rpc().open_stream::<u64, u64>(2, service, LIMIT).expect("it is sent");
        let error = from.receive().wait().expect_err("it is refused");
        assert!(matches!(&error, Error::Rpc(RpcError::NoService { .. })), "{service}: {error}");
    }
    house.check();
}
