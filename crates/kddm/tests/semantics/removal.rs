//! Objects that are removed: when, for whom, and what comes after.

use crate::cases;
use crate::seat::engine::{How, Op};
use crate::seat::{Cluster, Place};

const NOT_FOUND: u16 = 101;
const HELD_BY_THIS_THREAD: u16 = 106;

cases! {
    t12 => t12_a_remove_waits_for_holders_local, t12_a_remove_waits_for_holders_processes;
    t12_together => t12_concurrent_removes_agree_local, t12_concurrent_removes_agree_processes, t12_concurrent_removes_agree_attached;
    t13 => t13_a_get_after_a_remove_is_fresh_local, t13_a_get_after_a_remove_is_fresh_processes, t13_a_get_after_a_remove_is_fresh_attached;
    t13_parked => t13_a_get_during_a_remove_is_fresh_local, t13_a_get_during_a_remove_is_fresh_processes;
}

fn assert_absent(cluster: &Cluster, object: u64) {
    for seat in cluster.iter() {
        assert_eq!(seat.hand(7).find(object), None, "node {}", seat.id);
        let got = seat.hand(7).ask(Op::Get { object, existing: true }).seen().expect_err("it was removed");
        assert_eq!(got.code, NOT_FOUND, "node {}: {got:?}", seat.id);
    }
}

/// A remove waits for a writer on the owner and for a reader elsewhere, and the holder's own thread
/// is refused instead of waiting for itself.
fn t12(place: Place) {
    let cluster = Cluster::with_home(place, 3, 1);
    // A writer on the owner.
    cluster[1].hand(0).grab(1);
    let own = cluster[1].hand(0).try_done(Op::Remove { object: 1 }).expect_err("it holds the object itself");
    assert_eq!(own.code, HELD_BY_THIS_THREAD, "{own:?}");
    let requests = cluster[1].received("request");
    let remove = cluster[2].hand(0).ask(Op::Remove { object: 1 });
    cluster[1].until_received("request", requests + 1);
    assert_eq!(cluster[1].sent("removing"), 0, "the remove waits for the writer");
    cluster[1].hand(0).change(1, 1);
    cluster[1].hand(0).put(1);
    remove.done().expect("the writer has put");
    assert_absent(&cluster, 1);
    // A reader that is not the owner.
    cluster[1].hand(0).write(2, 2);
    cluster[2].hand(0).get(2);
    let remove = cluster[0].hand(0).ask(Op::Remove { object: 2 });
    cluster[2].until_received("invalidate", 1);
    assert_eq!(cluster[1].sent("removed"), 1, "the remove waits for the reader");
    assert!(!remove.is_answered());
    cluster[2].hand(0).release(2);
    remove.done().expect("the reader has left");
    assert_absent(&cluster, 2);
    // Through the guard itself.
    cluster[2].hand(0).grab(3);
    cluster[2].hand(0).done(Op::RemoveHeld { object: 3 });
    assert_absent(&cluster, 3);
    // What does not exist is removed at once.
    cluster[1].hand(0).done(Op::Remove { object: 4 });
    cluster.check();
}

/// All nodes remove at once, while copies are everywhere: all succeed, and the object is gone.
fn t12_together(place: Place) {
    let cluster = Cluster::with_home(place, 3, 2);
    for round in 0..20 {
        let object = round % 4;
        cluster[round as usize % 3].hand(0).write(object, round + 1);
        for seat in cluster.iter() {
            assert_eq!(seat.hand(0).read(object).note.number, round + 1);
        }
        let removes: Vec<_> = cluster.iter().map(|seat| seat.hand(0).ask(Op::Remove { object })).collect();
        removes.into_iter().for_each(|ticket| ticket.done().expect("all agree"));
        assert_absent(&cluster, object);
    }
    cluster.check();
}

/// Remove, then get on each node: a new first touch, seen by all.
fn t13(place: Place) {
    let cluster = Cluster::with_home(place, 3, 1);
    for round in 0..6 {
        cluster[round % 3].hand(0).write(1, 100);
        let old = cluster[(round + 1) % 3].hand(0).read(1);
        cluster[(round + 2) % 3].hand(0).done(Op::Remove { object: 1 });
        let new = cluster[round / 2].hand(0).read(1);
        assert_eq!(new.note.number, 0, "nothing of the old value is left");
        assert_ne!((new.note.maker, new.note.serial), (old.note.maker, old.note.serial), "a new first touch");
        for seat in cluster.iter() {
            assert_eq!(seat.hand(0).read(1).note, new.note);
        }
    }
    cluster.check();
}

/// Requests that come while a remove is under way wait for its end and find a fresh object.
fn t13_parked(place: Place) {
    let cluster = Cluster::with_home(place, 3, 1);
    cluster[1].hand(0).write(1, 9);
    cluster[2].hand(0).get(1);
    let remove = cluster[1].hand(0).ask(Op::Remove { object: 1 });
    cluster[2].until_received("invalidate", 1);
    let get = cluster[0].hand(0).ask(Op::Read { object: 1 });
    let grab = cluster[1].hand(1).ask(Op::Grab { object: 1, how: How::Plain });
    cluster[2].hand(0).release(1);
    remove.done().expect("the reader has left");
    assert_eq!(grab.seen().expect("a fresh object").note.number, 0);
    cluster[1].hand(1).put(1);
    assert_eq!(get.seen().expect("a fresh object").note.number, 0);
    cluster.check();
}
