//! Readers, writers, and who waits for whom.

use crate::cases;
use crate::seat::engine::Op;
use crate::seat::{Cluster, Place};

const BUSY: u16 = 102;
const HELD_BY_THIS_THREAD: u16 = 106;

cases! {
    t04 => t04_increments_of_all_nodes_add_up_local, t04_increments_of_all_nodes_add_up_processes, t04_increments_of_all_nodes_add_up_attached;
    t05 => t05_no_copy_is_left_when_a_grab_returns_local, t05_no_copy_is_left_when_a_grab_returns_processes;
    t06 => t06_readers_see_the_latest_value_local, t06_readers_see_the_latest_value_processes, t06_readers_see_the_latest_value_attached;
    t07 => t07_a_get_held_on_the_owner_lets_remote_gets_through_local, t07_a_get_held_on_the_owner_lets_remote_gets_through_processes, t07_a_get_held_on_the_owner_lets_remote_gets_through_attached;
    t08 => t08_threads_of_one_node_exclude_each_other_local, t08_threads_of_one_node_exclude_each_other_processes, t08_threads_of_one_node_exclude_each_other_attached;
    t09 => t09_get_then_grab_by_one_thread_is_an_error_local, t09_get_then_grab_by_one_thread_is_an_error_processes;
    t10 => t10_try_grab_makes_no_second_owner_local, t10_try_grab_makes_no_second_owner_processes, t10_try_grab_makes_no_second_owner_attached;
    t11 => t11_what_was_prefetched_needs_no_wait_local, t11_what_was_prefetched_needs_no_wait_processes, t11_what_was_prefetched_needs_no_wait_attached;
    looks => looking_for_copies_keeps_no_writer_waiting_local, looking_for_copies_keeps_no_writer_waiting_processes, looking_for_copies_keeps_no_writer_waiting_attached;
}

/// N nodes add one M times each: N·M, wherever the home is.
fn t04(place: Place) {
    const TIMES: u64 = 50;
    let cluster = Cluster::with_home(place, 3, 2);
    let asked: Vec<_> = cluster
        .iter()
        .flat_map(|seat| [0, 1].map(|hand| seat.hand(hand).ask(Op::Add { object: 1, times: TIMES })))
        .collect();
    let hands = asked.len() as u64;
    asked.into_iter().for_each(|ticket| ticket.done().expect("every increment succeeds"));
    for seat in cluster.iter() {
        let seen = seat.hand(0).read(1);
        assert_eq!(seen.note.number, hands * TIMES);
        assert_eq!(seen.version, hands * TIMES, "each put is one version");
    }
    cluster.check();
}

/// Readers on all nodes, then a writer: it waits for a reader that holds its copy, and when it has
/// the object no node has a copy any more.
fn t05(place: Place) {
    let cluster = Cluster::with_home(place, 4, 1);
    cluster[0].hand(0).write(1, 10);
    for seat in cluster.iter() {
        assert_eq!(seat.hand(0).read(1).note.number, 10);
    }
    cluster[3].hand(0).get(1);
    let acks = cluster[3].sent("ack");
    let grab = cluster[1].hand(0).ask_grab(1);
    cluster[3].until_received("invalidate", 1);
    assert_eq!(cluster[3].sent("ack"), acks, "a held copy is not given up");
    assert!(!grab.is_answered(), "the writer waits for the last reader");
    assert_eq!(cluster[3].hand(1).find(1), None, "no new reader gets in before the writer");
    cluster[3].hand(0).release(1);
    grab.seen().expect("the last reader has left");
    for seat in [0, 2, 3] {
        assert_eq!(cluster[seat].hand(1).find(1), None, "node {} still has a copy", cluster[seat].id);
    }
    cluster[1].hand(0).change(1, 11);
    cluster[1].hand(0).put(1);
    for seat in cluster.iter() {
        assert_eq!(seat.hand(0).read(1).note.number, 11);
    }
    cluster.check();
}

/// A writer, then readers, round after round with the writer on each node: always the latest value.
fn t06(place: Place) {
    let cluster = Cluster::with_home(place, 3, 1);
    for round in 1..=12 {
        let writer = &cluster[round as usize % 3];
        writer.hand(0).write(1, round);
        let asked: Vec<_> = cluster.iter().map(|seat| seat.hand(1).ask(Op::Read { object: 1 })).collect();
        for ticket in asked {
            assert_eq!(ticket.seen().expect("a copy").note.number, round);
        }
    }
    cluster.check();
}

/// A get that is held on the owner keeps no remote reader waiting (it did in the original).
fn t07(place: Place) {
    let cluster = Cluster::with_home(place, 3, 1);
    cluster[1].hand(0).write(1, 3);
    cluster[1].hand(0).get(1);
    for seat in [0, 2] {
        assert_eq!(cluster[seat].hand(0).get(1).note.number, 3);
    }
    for seat in cluster.iter() {
        seat.hand(0).release(1);
    }
    cluster.check();
}

/// Two threads of one node: one grab at a time, and a get waits for it too.
fn t08(place: Place) {
    let cluster = Cluster::with_home(place, 2, 1);
    for seat in cluster.iter() {
        let (first, second, third) = (seat.hand(0), seat.hand(1), seat.hand(2));
        first.grab(1);
        let misses = seat.counters().misses;
        let grab = second.ask_grab(1);
        let read = third.ask(Op::Read { object: 1 });
        assert_eq!(seat.hand(3).find(1), None, "no other thread sees what is being written");
        assert!(!grab.is_answered() && !read.is_answered());
        first.change(1, u64::from(seat.id));
        first.put(1);
        assert_eq!(grab.seen().expect("after the first").note.number, u64::from(seat.id));
        second.put(1);
        assert_eq!(read.seen().expect("after the writers").note.number, u64::from(seat.id));
        assert_eq!(seat.counters().misses, misses, "threads of one node need no message for each other");
    }
    cluster.check();
}

/// Get then grab by the same thread would wait for itself: an error that says so, on the owner, on a
/// sharer and on the home, with the read guard intact.
fn t09(place: Place) {
    let cluster = Cluster::with_home(place, 3, 1);
    cluster[1].hand(0).write(1, 5);
    for seat in cluster.iter() {
        let hand = seat.hand(0);
        assert_eq!(hand.get(1).note.number, 5);
        let grab = hand.ask_grab(1).seen();
        let failure = grab.expect_err("it holds the object itself");
        assert_eq!(failure.code, HELD_BY_THIS_THREAD, "{failure:?}");
        assert!(failure.text.contains("object 1 (read)"), "{failure:?}");
        let again = hand.read(1);
        assert_eq!(again.note.number, 5, "another get by the same thread is no conflict");
        hand.release(1);
        hand.grab(1);
        let failure = hand.ask(Op::Read { object: 1 }).seen().expect_err("it holds the object itself");
        assert!(failure.text.contains("object 1 (write)"), "{failure:?}");
        hand.put(1);
    }
    cluster.check();
}

/// `try_grab` while another node holds the object, asked at the home and elsewhere: `Busy` without a
/// trace (the original made a second owner); then a grab works, and there is one owner.
fn t10(place: Place) {
    let cluster = Cluster::with_home(place, 3, 1);
    let holder = cluster[1].hand(0);
    holder.grab(1);
    for seat in [0, 2] {
        let failure = cluster[seat].hand(0).try_grab(1).expect_err("somebody holds it");
        assert_eq!(failure.code, BUSY, "{failure:?}");
    }
    assert_eq!(cluster[1].hand(1).try_grab(1).expect_err("another thread holds it").code, BUSY);
    holder.change(1, 1);
    holder.put(1);
    // A reader on a third node makes it busy too, and keeps its copy.
    cluster[2].hand(0).get(1);
    let failure = cluster[0].hand(0).try_grab(1).expect_err("a reader holds it");
    assert_eq!(failure.code, BUSY, "{failure:?}");
    assert_eq!(cluster[2].hand(0).find(1).map(|seen| seen.note.number), Some(1));
    cluster[2].hand(0).release(1);
    let seen = cluster[0].hand(0).try_grab(1).expect("nobody holds it");
    assert_eq!(seen.note.number, 1);
    cluster[0].hand(0).put(1);
    let adds: Vec<_> = cluster.iter().map(|seat| seat.hand(0).ask(Op::Add { object: 1, times: 20 })).collect();
    adds.into_iter().for_each(|ticket| ticket.done().expect("one owner at a time"));
    assert_eq!(cluster[2].hand(0).read(1).note.number, 61, "two owners would lose increments");
    cluster.check();
}

/// Prefetch, then get: neither a wait nor a message. Acquire, then grab: the same.
fn t11(place: Place) {
    const OBJECTS: u64 = 100;
    let cluster = Cluster::with_home(place, 2, 1);
    for object in 0..OBJECTS {
        cluster[0].hand(0).write(object, object);
    }
    let here = cluster[1].hand(0);
    here.done(Op::Prefetch { from: 0, to: OBJECTS });
    let before = cluster[1].counters();
    for object in 0..OBJECTS {
        assert_eq!(here.find(object).expect("it is here").note.number, object);
        assert_eq!(here.read(object).note.number, object);
    }
    let after = cluster[1].counters();
    assert_eq!(after.misses, before.misses, "no get had to wait");
    assert_eq!(after.sent[0], before.sent[0], "no get sent a request");
    here.done(Op::Acquire { object: 7 });
    let before = cluster[1].counters();
    here.write(7, 70);
    assert_eq!(cluster[1].counters().misses, before.misses, "no grab had to wait");
    cluster.check();
}

/// Threads that only look for a local copy, in a race with every revocation: the writer never waits
/// for more than they hold.
fn looks(place: Place) {
    const ROUNDS: u64 = 300;
    let cluster = Cluster::with_home(place, 2, 1);
    for round in 1..=ROUNDS {
        cluster[1].hand(0).done(Op::Fetch { object: 1 });
        cluster[1].hand(0).read(1);
        let looking = [0, 1].map(|hand| cluster[1].hand(hand).ask(Op::FindUntilGone { object: 1 }));
        cluster[0].hand(0).write(1, round);
        looking.into_iter().for_each(|ticket| ticket.done().expect("the copy goes"));
    }
    cluster.check();
}
