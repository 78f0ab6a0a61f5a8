//! Processes that die or stop, without a word.

use std::time::{Duration, Instant};

use kddm::PlacedBy;

use crate::seat::engine::{Failure, Op};
use crate::seat::{Cluster, Hand, LIMIT, Place};

const TIMED_OUT: u16 = 103;
const UNREACHABLE: u16 = 104;
const REMOVE_UNCONFIRMED: u16 = 105;

/// The limit of the waits that must end.
const WAIT: Duration = Duration::from_millis(400);

/// Three processes. One set has its home at the first, the other at the third.
fn cluster() -> Cluster {
    let cluster = Cluster::new(Place::Processes, 3);
    for seat in cluster.iter() {
        for (set, home) in [(crate::seat::SET, 1), (AT_THIRD, 3)] {
            let opened = seat.hand(0).in_set(set).open_without_replicas(Some(PlacedBy::Fixed(home)));
            opened.expect("the set opens");
        }
    }
    cluster
}

const AT_THIRD: &str = "at the third";

/// An operation that needs node 3: it ends at its limit.
fn ends_at_its_limit(hand: Hand<'_>, op: Op) -> Failure {
    let start = Instant::now();
    let text = format!("{op:?}");
    let failure = match hand.within(WAIT).ask(op).wait() {
        crate::seat::engine::Reply::Failed(failure) => failure,
        other => panic!("{text}: {other:?}"),
    };
    let took = start.elapsed();
    assert!(took < WAIT + LIMIT / 2, "{text}: took {took:?}");
    failure
}

/// What nodes 1 and 2 have between them goes on.
fn the_others_go_on(cluster: &Cluster, object: u64) {
    let before = cluster[0].hand(5).read(object).note.number;
    for _ in 0..3 {
        for seat in [0, 1] {
            cluster[seat].hand(5).done(Op::Add { object, times: 5 });
        }
    }
    for seat in [0, 1] {
        assert_eq!(cluster[seat].hand(5).read(object).note.number, before + 30);
    }
}

/// kill -9 of a node that owns an object, has a copy of another, and is a home: whoever needs it gets
/// an error at the limit that names it, waits that had begun end too, and all else goes on.
#[test]
fn a_killed_process_is_named_and_the_others_go_on() {
    let cluster = cluster();
    let [first, second, third] = &cluster[..] else { panic!("three seats") };
    second.hand(0).write(2, 2);
    third.hand(0).read(2);
    first.hand(0).write(4, 4);
    for seat in [first, second] {
        seat.hand(6).in_set("another set").open_without_replicas(Some(PlacedBy::Fixed(2))).expect("all are alive");
    }
    third.hand(0).grab(1);
    let requests = third.received("request");
    let waits = [first, second].map(|seat| seat.hand(1).within(WAIT).ask_grab(1));
    third.until_received("request", requests + 1);
    third.process().kill();
    for ticket in waits {
        let failure = ticket.seen().expect_err("its owner is dead");
        assert!(failure.text.contains("node 3"), "{failure:?}");
        assert!(failure.nothing_happened);
    }
    for seat in [first, second] {
        // The home knows who has it; another node knows only whom it has asked, and who is not there.
        let code = if seat.id == 1 { UNREACHABLE } else { TIMED_OUT };
        for op in [Op::Read { object: 1 }, Op::Fetch { object: 1 }, Op::Acquire { object: 1 }] {
            let failure = ends_at_its_limit(seat.hand(0), op);
            assert_eq!(failure.code, code, "{failure:?}");
            assert!(failure.text.contains("node 3 is unreachable"), "{failure:?}");
        }
        let remove = ends_at_its_limit(seat.hand(0), Op::Remove { object: 1 });
        assert_eq!(remove.code, REMOVE_UNCONFIRMED);
        assert!(remove.text.contains("node 3 is unreachable"), "{remove:?}");
        assert!(!remove.nothing_happened, "it may still happen");
        let home = ends_at_its_limit(seat.hand(0).in_set(AT_THIRD), Op::Read { object: 9 });
        assert_eq!(home.code, UNREACHABLE);
        let flush = seat.hand(0).try_done(Op::Flush { object: 4, to: Some(3) }).expect_err("nobody is there");
        assert!(flush.text.contains("node 3"), "{flush:?}");
        the_others_go_on(&cluster, 4);
    }
    // Its copy cannot be taken back: the writer waits, and ends; the owner goes on reading.
    let grab = ends_at_its_limit(second.hand(0), Op::Add { object: 2, times: 1 });
    assert_eq!(grab.code, UNREACHABLE);
    assert!(grab.text.contains("node 3"), "{grab:?}");
    assert_eq!(second.hand(0).read(2).note.number, 2);
    the_others_go_on_in(&cluster, "another set");
    for seat in [first, second] {
        let counters = seat.counters();
        assert_eq!((counters.faults, counters.malformed, counters.dropped), (0, 0, 0));
    }
}

/// A set whose home is alive.
fn the_others_go_on_in(cluster: &Cluster, set: &str) {
    for seat in [0, 1] {
        let hand = cluster[seat].hand(6).in_set(set);
        hand.done(Op::Add { object: 1, times: 5 });
    }
    assert_eq!(cluster[0].hand(6).in_set(set).read(1).note.number, 10);
}

/// A process that is stopped is connected but silent: waits end and say who was asked; when it goes
/// on, nothing is lost.
#[test]
fn a_stopped_process_is_named_and_comes_back() {
    let cluster = cluster();
    let [first, second, third] = &cluster[..] else { panic!("three seats") };
    third.hand(0).write(1, 7);
    third.process().stop();
    for seat in [first, second] {
        let failure = ends_at_its_limit(seat.hand(0), Op::Add { object: 1, times: 1 });
        assert_eq!(failure.code, TIMED_OUT, "{failure:?}");
        let asked = if seat.id == 1 { "node 3 was asked" } else { "node 1 was asked" };
        assert!(failure.text.contains(asked), "{failure:?}");
        the_others_go_on(&cluster, 4);
    }
    third.process().go_on();
    first.hand(0).done(Op::Add { object: 1, times: 1 });
    for seat in cluster.iter() {
        assert_eq!(seat.hand(0).read(1).note.number, 8, "what was given up has not happened");
    }
    cluster.check();
}
