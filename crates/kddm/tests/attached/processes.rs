//! Programs in processes of their own, and what is left when one is killed.

use std::time::{Duration, Instant};

use crate::House;
use crate::seat::engine::Op;
use crate::seat::process::Start;
use crate::seat::{SET, Seat, until};

fn program(house: &House) -> Seat {
    let start = Start { attach: Some(house.socket.clone()), ..Start::default() };
    let seat = Seat::there(&start, house.nodes[0].id()).expect("it attaches");
    seat.hand(0).open(None).expect("the set opens");
    seat
}

#[test]
fn processes_lose_no_increment() {
    const TIMES: u64 = 300;
    let house = House::new();
    let programs: Vec<Seat> = (0..3).map(|_| program(&house)).collect();
    let nodes: Vec<Seat> = house.nodes.iter().map(|node| Seat::here(node.clone())).collect();
    nodes.iter().for_each(|node| node.hand(0).open(None).expect("the set opens"));
    let all = || programs.iter().chain(&nodes);
    let added: Vec<_> = all().map(|seat| seat.hand(1).ask(Op::Add { object: 1, times: TIMES })).collect();
    for ticket in added {
        ticket.done().expect("the others give it back");
    }
    for seat in all() {
        assert_eq!(seat.hand(0).read(1).note.number, 5 * TIMES);
    }
    house.check();
}

/// kill -9 of a program that holds guards of both kinds and waits: the others go on at once, what it had
/// put stays, what it had not put is gone.
#[test]
fn a_killed_program_holds_nothing_and_loses_no_put() {
    let house = House::new();
    let (victim, other) = (program(&house), program(&house));
    let node = Seat::here(house.nodes[1].clone());
    node.hand(0).open(None).expect("the set opens");
    // Put, and put again, with guards in between; and a change that is not put.
    victim.hand(0).write(1, 41);
    victim.hand(0).write(1, 42);
    victim.hand(0).grab(1);
    victim.hand(0).change(1, 1_000);
    victim.hand(0).write(2, 7);
    victim.hand(0).get(2);
    // It waits for what the other one holds.
    other.hand(0).grab(3);
    let _waits = victim.hand(1).ask_grab(3);
    until("it waits", || house.nodes[0].programs().iter().any(|program| program.waiting == 1));
    // Others wait for it.
    let reads = other.hand(2).ask(Op::Read { object: 1 });
    let adds = node.hand(2).ask(Op::Add { object: 2, times: 1 });
    until("it is asked", || house.nodes[0].programs().iter().any(|program| program.asked_back == 2));
    assert!(!reads.is_answered() && !adds.is_answered());
    let killed = Instant::now();
    victim.process().kill();
    assert_eq!(reads.seen().expect("free").note.number, 42);
    adds.done().expect("free");
    let took = killed.elapsed();
    assert!(took < crate::seat::LIMIT / 2, "{took:?}");
    assert_eq!(other.hand(2).read(2).note.number, 8);
    other.hand(0).put(3);
    node.hand(0).write(3, 1);
    assert_eq!(house.nodes[0].programs().len(), 1);
    house.check();
}

/// Killed in the middle of putting as fast as it can: what it said was put is there, and no half of
/// anything.
#[test]
fn every_put_that_was_complete_survives() {
    let house = House::new();
    let node = Seat::here(house.nodes[1].clone());
    node.hand(0).open(None).expect("the set opens");
    for round in 0..5 {
        let victim = program(&house);
        for number in 1..=20 {
            victim.hand(0).write(round, number);
        }
        let before = house.nodes[0].statistics().frames_received;
        let _never_ends = victim.hand(1).ask(Op::Add { object: 100 + round, times: u64::MAX });
        until("it works", || house.nodes[0].statistics().frames_received > before + 100);
        victim.process().kill();
        assert_eq!(node.hand(0).read(round).note.number, 20);
        assert!(node.hand(0).read(100 + round).note.number > 0);
    }
    house.check();
}

/// A program that is stopped keeps what it has, as a thread that sleeps would; when it goes on it gives
/// it back.
#[test]
fn a_stopped_program_gives_back_when_it_goes_on() {
    let house = House::new();
    let (first, second) = (program(&house), program(&house));
    first.hand(0).write(1, 5);
    first.process().stop();
    let waits = second.hand(0).ask(Op::Read { object: 1 });
    let limited = second.hand(1).within(Duration::from_millis(200)).ask(Op::Add { object: 1, times: 1 });
    let failure = limited.done().expect_err("the other one is asked and says nothing");
    assert!(failure.text.contains("no access after 200 ms"), "{failure:?}");
    // Whoever looks for the reason finds it.
    let holding = house.nodes[0].holdings(100).objects.into_iter().find(|holding| holding.object == 1);
    let holders = holding.expect("somebody waits for it").holders;
    let named = |pid: u32| holders.iter().any(|holder| holder.who.starts_with(&format!("program {pid} (")));
    assert!(
        house.nodes[0].programs().iter().any(|program| program.asked_back == 1 && named(program.pid)),
        "{holders:?}"
    );
    first.process().go_on();
    assert_eq!(waits.seen().expect("given back").note.number, 5);
    assert_eq!(second.hand(0).in_set(SET).read(1).note.number, 5);
    house.check();
}
