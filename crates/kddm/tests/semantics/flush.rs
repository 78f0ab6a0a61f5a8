//! Copies that are given up: the object never goes with the last one.

use crate::cases;
use crate::seat::engine::{Op, Reply};
use crate::seat::{Cluster, Place, Seat, until};

const OUT_OF_RANGE: u16 = 402;
const HELD_BY_THIS_THREAD: u16 = 106;

cases! {
    t14 => t14_a_flush_never_drops_the_last_copy_local, t14_a_flush_never_drops_the_last_copy_processes;
    t14_refused => t14_a_flush_that_cannot_be_is_refused_local, t14_a_flush_that_cannot_be_is_refused_processes, t14_a_flush_that_cannot_be_is_refused_attached;
    t15 => t15_two_holders_flush_at_once_local, t15_two_holders_flush_at_once_processes, t15_two_holders_flush_at_once_attached;
    t16 => t16_flush_against_grab_local, t16_flush_against_grab_processes, t16_flush_against_grab_attached;
    t16_remove => t16_remove_against_flush_local, t16_remove_against_flush_processes, t16_remove_against_flush_attached;
}

fn flush(seat: &Seat, object: u64) {
    seat.hand(0).done(Op::Flush { object, to: None });
    assert_eq!(seat.hand(0).find(object), None, "node {} has given its copy up", seat.id);
}

/// Whether the node owns the object: a grab needs no message.
fn assert_owns(seat: &Seat, object: u64) {
    let before = seat.sent("request");
    seat.hand(0).grab(object);
    seat.hand(0).release(object);
    assert_eq!(seat.sent("request"), before, "node {} owns the object", seat.id);
}

/// Of a read copy: the owner need not invalidate it any more. Of an owner with copies: a sharer owns
/// the object. Of the last copy: the home does, and there it stays. To a node that is named: there.
fn t14(place: Place) {
    let cluster = Cluster::with_home(place, 4, 1);
    let [home, owner, sharer, other] = &cluster[..] else { panic!("four seats") };
    owner.hand(0).write(1, 14);
    sharer.hand(0).read(1);
    flush(sharer, 1);
    owner.until_received("flushed", 1);
    owner.hand(0).write(1, 15);
    assert_eq!(owner.sent("invalidate"), 0, "nobody is left to invalidate");

    assert_eq!(sharer.hand(0).read(1).note.number, 15);
    flush(owner, 1);
    assert_eq!(sharer.hand(0).find(1).expect("a sharer keeps its copy").note.number, 15);
    assert_owns(sharer, 1);

    flush(sharer, 1);
    assert_owns(home, 1);
    home.hand(0).done(Op::Flush { object: 1, to: None });
    assert_owns(home, 1);
    assert_eq!(home.hand(0).read(1).note.number, 15, "the only copy at its home stays");

    home.hand(0).done(Op::Flush { object: 1, to: Some(4) });
    assert_eq!(home.hand(0).find(1), None);
    assert_owns(other, 1);
    assert_eq!(owner.hand(0).read(1).note.number, 15);
    // Of what is not here: nothing.
    sharer.hand(0).done(Op::Flush { object: 1, to: None });
    sharer.hand(0).done(Op::Flush { object: 99, to: None });
    assert_eq!(sharer.hand(0).ask(Op::LocalCount).wait(), Reply::Count(0));
    cluster.check();
}

/// A destination that is no member, and an object that the thread itself holds: refused by name. A
/// flush of what another thread holds waits for it.
fn t14_refused(place: Place) {
    let cluster = Cluster::with_home(place, 2, 1);
    let seat = &cluster[1];
    seat.hand(0).write(1, 1);
    let failure = seat.hand(0).try_done(Op::Flush { object: 1, to: Some(77) }).expect_err("no such member");
    assert_eq!(failure.code, OUT_OF_RANGE, "{failure:?}");
    assert!(failure.text.contains("77"), "{failure:?}");
    seat.hand(0).get(1);
    let failure = seat.hand(0).try_done(Op::Flush { object: 1, to: None }).expect_err("it holds it itself");
    assert_eq!(failure.code, HELD_BY_THIS_THREAD, "{failure:?}");
    let misses = seat.counters().misses;
    let waits = seat.hand(1).ask(Op::Flush { object: 1, to: None });
    until("the flush is under way", || seat.counters().misses > misses);
    assert!(!waits.is_answered(), "a reader keeps its copy");
    seat.hand(0).release(1);
    waits.done().expect("the reader has left");
    assert_eq!(seat.hand(0).find(1), None);
    cluster.check();
}

/// Owner and sharers flush at the same time: the object survives, with the latest value.
fn t15(place: Place) {
    let cluster = Cluster::with_home(place, 3, 1);
    for round in 1..=40 {
        cluster[round as usize % 3].hand(0).write(1, round);
        for seat in cluster.iter() {
            seat.hand(0).read(1);
        }
        let all = round % 2 == 0;
        let flushes: Vec<_> = cluster
            .iter()
            .filter(|seat| all || seat.id != 1)
            .map(|seat| seat.hand(0).ask(Op::Flush { object: 1, to: None }))
            .collect();
        flushes.into_iter().for_each(|ticket| ticket.done().expect("every flush ends"));
        let seen = cluster[round as usize % 2].hand(1).read(1);
        assert_eq!(seen.note.number, round, "the object survives");
    }
    cluster.check();
}

/// Flushes against grabs of all nodes: no increment is lost.
fn t16(place: Place) {
    const ROUNDS: u64 = 25;
    let cluster = Cluster::with_home(place, 3, 1);
    for round in 0..ROUNDS {
        let adds: Vec<_> = cluster.iter().map(|seat| seat.hand(0).ask(Op::Add { object: 1, times: 4 })).collect();
        let to = |seat: &Seat| (round % 2 == 1).then_some(seat.id % 3 + 1);
        let flushes: Vec<_> =
            cluster.iter().map(|seat| seat.hand(1).ask(Op::Flush { object: 1, to: to(seat) })).collect();
        adds.into_iter().chain(flushes).for_each(|ticket| ticket.done().expect("all ends"));
    }
    assert_eq!(cluster[2].hand(0).read(1).note.number, ROUNDS * 3 * 4);
    cluster.check();
}

/// A remove against flushes: afterwards the object is gone, wherever it was moving to.
fn t16_remove(place: Place) {
    let cluster = Cluster::with_home(place, 3, 1);
    for round in 0..40 {
        let object = round % 3;
        cluster[1].hand(0).write(object, 5);
        cluster[2].hand(0).read(object);
        let remove = cluster[round as usize % 3].hand(0).ask(Op::Remove { object });
        let flushes = [1, 2].map(|seat| cluster[seat].hand(1).ask(Op::Flush { object, to: None }));
        remove.done().expect("the remove ends");
        flushes.into_iter().for_each(|ticket| ticket.done().expect("every flush ends"));
        for seat in cluster.iter() {
            let got = seat.hand(2).ask(Op::Get { object, existing: true }).seen();
            assert!(got.is_err(), "round {round}, node {}: {got:?}", seat.id);
        }
    }
    cluster.check();
}
