//! Sets: unknown ones, first opens at the same time, and their end.

use kddm::PlacedBy;

use crate::cases;
use crate::seat::engine::Op;
use crate::seat::{Cluster, Place, until};

const UNKNOWN: u16 = 201;
const SETTINGS_DIFFER: u16 = 202;
const DESTROYED: u16 = 203;

cases! {
    t19 => t19_an_unknown_set_is_an_error_local, t19_an_unknown_set_is_an_error_processes, t19_an_unknown_set_is_an_error_attached;
    t19_opens => t19_concurrent_first_opens_make_one_set_local, t19_concurrent_first_opens_make_one_set_processes, t19_concurrent_first_opens_make_one_set_attached;
    t19_differs => t19_settings_that_differ_are_named_local, t19_settings_that_differ_are_named_processes, t19_settings_that_differ_are_named_attached;
    t20 => t20_a_destroy_waits_for_holders_local, t20_a_destroy_waits_for_holders_processes, t20_a_destroy_waits_for_holders_attached;
    t20_breaks => t20_a_destroy_breaks_holders_at_its_limit_local, t20_a_destroy_breaks_holders_at_its_limit_processes;
}

const EXISTING: Op = Op::Open { placed_by: None, existing: true, wait_limit_ms: None, replicas: None };

/// A set that nobody has created: an error that names it, from everywhere, and nothing is created.
fn t19(place: Place) {
    let cluster = Cluster::new(place, 2);
    for _ in 0..2 {
        for seat in cluster.iter() {
            let hand = seat.hand(0).in_set("nobody/made/this");
            for op in [EXISTING, Op::Destroy { limit_ms: 10 }] {
                let failure = hand.try_done(op).expect_err("no such set");
                assert_eq!(failure.code, UNKNOWN, "{failure:?}");
                assert!(failure.text.contains("nobody/made/this"), "{failure:?}");
                assert!(failure.nothing_happened);
            }
        }
    }
    cluster.check();
}

/// All nodes open a set that does not exist yet, at once, with two threads each: one set.
fn t19_opens(place: Place) {
    let cluster = Cluster::new(place, 3);
    for name in ["a", "b", "c/d", "e"] {
        let opens: Vec<_> = cluster
            .iter()
            .flat_map(|seat| [0, 1].map(|hand| seat.hand(hand).in_set(name)))
            .map(|hand| hand.ask(Op::Open { placed_by: None, existing: false, wait_limit_ms: None, replicas: None }))
            .collect();
        opens.into_iter().for_each(|ticket| ticket.done().expect("the set opens"));
        for seat in cluster.iter() {
            seat.hand(0).in_set(name).done(Op::Add { object: 1, times: 2 });
        }
        let seen = cluster[0].hand(0).in_set(name).read(1);
        assert_eq!(seen.note.number, 6, "all nodes mean the same set");
    }
    cluster.check();
}

/// Another type, or another placement that was asked for: refused by name. What was not asked for is
/// not compared.
fn t19_differs(place: Place) {
    let cluster = Cluster::with_home(place, 2, 1);
    let hand = cluster[1].hand(0);
    let failure = hand.open(Some(PlacedBy::Hash)).expect_err("another placement");
    assert_eq!(failure.code, SETTINGS_DIFFER, "{failure:?}");
    assert!(failure.text.contains("placement") && failure.text.contains("Fixed(1)"), "{failure:?}");
    for seat in cluster.iter() {
        let failure = seat.hand(0).try_done(Op::OpenAsText).expect_err("another type");
        assert_eq!(failure.code, SETTINGS_DIFFER, "{failure:?}");
        assert!(failure.text.contains("type") && failure.text.contains("Note"), "{failure:?}");
        seat.hand(0).open(None).expect("nothing differs");
    }
    hand.write(1, 1);
    assert_eq!(cluster[0].hand(0).read(1).note.number, 1, "the set is as it was");
    cluster.check();
}

/// A destroy lets holders finish and refuses everything new at once; then the set is gone, on all
/// nodes, and its name is free for another.
fn t20(place: Place) {
    let cluster = Cluster::with_home(place, 2, 1);
    let [here, there] = &cluster[..] else { panic!("two seats") };
    here.hand(0).write(1, 1);
    there.hand(0).write(2, 2);
    here.hand(0).grab(1);
    let destroy = here.hand(1).ask(Op::Destroy { limit_ms: 20_000 });
    until("new operations are refused", || match here.hand(2).ask(Op::Read { object: 3 }).seen() {
        Ok(_) => false,
        Err(failure) => failure.code == DESTROYED,
    });
    let waits = here.hand(2).try_done(Op::Add { object: 1, times: 1 }).expect_err("refused, not queued");
    assert_eq!(waits.code, DESTROYED, "{waits:?}");
    assert!(!destroy.is_answered(), "a holder is left");
    here.hand(0).change(1, 3);
    here.hand(0).put(1);
    destroy.done().expect("the holder has put");
    for seat in cluster.iter() {
        let failure = seat.hand(0).ask(Op::Read { object: 2 }).seen().expect_err("the set is gone");
        assert_eq!(failure.code, DESTROYED, "node {}: {failure:?}", seat.id);
        assert_eq!(seat.hand(0).find(2), None);
        let failure = seat.hand(0).try_done(EXISTING).expect_err("the set is gone");
        assert_eq!(failure.code, UNKNOWN, "{failure:?}");
    }
    for seat in cluster.iter() {
        seat.hand(0).open(None).expect("the name is free");
        assert_eq!(seat.hand(0).read(2).note.number, 0, "nothing is left of the old set");
    }
    cluster.check();
}

/// Holders that do not finish: the destroy ends at its limit, their puts say why they failed, and
/// what they read stays readable.
fn t20_breaks(place: Place) {
    let cluster = Cluster::with_home(place, 2, 1);
    let [here, there] = &cluster[..] else { panic!("two seats") };
    there.hand(0).write(2, 2);
    here.hand(0).grab(1);
    there.hand(0).get(2);
    there.hand(1).grab(3);
    let waits = here.hand(2).ask_grab(3);
    there.until_received("request", 1);
    here.hand(1).done(Op::Destroy { limit_ms: 20 });
    let failure = waits.seen().expect_err("it waited for an object of the set");
    assert_eq!(failure.code, DESTROYED, "{failure:?}");
    for (seat, hand, object) in [(here, 0, 1), (there, 1, 3)] {
        seat.hand(hand).change(object, 9);
        let failure = seat.hand(hand).try_done(Op::Put { object }).expect_err("the set is gone");
        assert_eq!(failure.code, DESTROYED, "{failure:?}");
        assert!(failure.nothing_happened);
    }
    there.hand(0).release(2);
    for seat in cluster.iter() {
        seat.hand(0).open(None).expect("the name is free");
        for object in 1..=3 {
            assert_eq!(seat.hand(0).read(object).note.number, 0);
        }
    }
    cluster.check();
}
