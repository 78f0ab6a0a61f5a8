//! Ownership on the move, and storms.

use crate::cases;
use crate::seat::engine::{Op, Reply};
use crate::seat::{Cluster, Place};

cases! {
    t17 => t17_a_write_request_overtaken_by_an_invalidation_local,
        t17_a_write_request_overtaken_by_an_invalidation_processes;
    t18 => t18_the_oldest_hint_leads_on_in_bounded_steps_local,
        t18_the_oldest_hint_leads_on_in_bounded_steps_processes;
    t29_writers => t29_sixteen_writers_of_every_node_local, t29_sixteen_writers_of_every_node_processes, t29_sixteen_writers_of_every_node_attached;
    t29_queue => t29_producers_and_consumers_local, t29_producers_and_consumers_processes, t29_producers_and_consumers_attached;
}

/// Two sharers ask to write. The one whose request is second loses its copy while its request is
/// under way, and writes what the first has put.
fn t17(place: Place) {
    let cluster = Cluster::with_home(place, 3, 1);
    let [owner, second, first] = &cluster[..] else { panic!("three seats") };
    owner.hand(0).write(1, 1);
    owner.hand(0).get(1);
    second.hand(0).read(1);
    first.hand(0).read(1);
    let requests = owner.received("request");
    let first_grab = first.hand(0).ask_grab(1);
    owner.until_received("request", requests + 1);
    let second_grab = second.hand(0).ask_grab(1);
    owner.until_received("request", requests + 2);
    assert!(!first_grab.is_answered() && !second_grab.is_answered(), "the owner still reads");
    owner.hand(0).release(1);
    assert_eq!(first_grab.seen().expect("the reader has left").note.number, 1);
    second.until_received("invalidate", 1);
    assert!(!second_grab.is_answered(), "it waits for the first writer");
    first.hand(0).change(1, 2);
    first.hand(0).put(1);
    assert_eq!(second_grab.seen().expect("the first has put").note.number, 2, "not its own old copy");
    second.hand(0).change(1, 3);
    second.hand(0).put(1);
    for seat in cluster.iter() {
        assert_eq!(seat.hand(0).read(1).note.number, 3);
    }
    cluster.check();
}

/// Ownership moves along all nodes; then the first, with the oldest hint, asks again: at most one
/// step for each move that it has missed.
fn t18(place: Place) {
    const NODES: u64 = 5;
    let cluster = Cluster::with_home(place, NODES as usize, 5);
    for round in 0..3 {
        for seat in cluster.iter() {
            let before = cluster.sent("request");
            seat.hand(0).done(Op::Add { object: 1, times: 1 });
            let steps = cluster.sent("request") - before;
            assert!(steps < NODES, "round {round}, node {}: {steps} steps", seat.id);
        }
        let before = cluster.sent("request");
        let seen = cluster[0].hand(0).read(1);
        assert_eq!(seen.note.number, (round + 1) * NODES);
        let steps = cluster.sent("request") - before;
        assert!((1..NODES).contains(&steps), "round {round}: {steps} steps along the oldest hint");
    }
    cluster.check();
}

/// Sixteen writers of every node on one object: no increment is lost, and all come to an end.
fn t29_writers(place: Place) {
    const TIMES: u64 = 10;
    let cluster = Cluster::with_home(place, 3, 1);
    let adds: Vec<_> = cluster
        .iter()
        .flat_map(|seat| (0..16).map(|hand| seat.hand(hand).ask(Op::Add { object: 1, times: TIMES })))
        .collect();
    let hands = adds.len() as u64;
    adds.into_iter().for_each(|ticket| ticket.done().expect("nobody starves"));
    assert_eq!(cluster[1].hand(0).read(1).note.number, hands * TIMES);
    cluster.check();
}

/// A bounded queue in one object, two producers and two consumers on different nodes: every item
/// arrives once, and those of one producer in order.
fn t29_queue(place: Place) {
    const ITEMS: u64 = 200;
    let cluster = Cluster::with_home(place, 3, 1);
    let produce = |from| Op::Produce { object: 1, from, to: from + ITEMS, most: 16 };
    let producers = [cluster[0].hand(0).ask(produce(0)), cluster[1].hand(0).ask(produce(ITEMS))];
    let consumers = [1, 2].map(|seat| cluster[seat].hand(1).ask(Op::Consume { object: 1, all: 2 * ITEMS }));
    producers.into_iter().for_each(|ticket| ticket.done().expect("the queue gets room"));
    let mut all = Vec::new();
    for consumer in consumers {
        let Reply::Items(items) = consumer.wait() else { panic!("a consumer failed") };
        for first in [true, false] {
            let of_one: Vec<u64> = items.iter().copied().filter(|item| (*item < ITEMS) == first).collect();
            assert!(of_one.is_sorted(), "the items of one producer come in order");
        }
        all.extend(items);
    }
    all.sort_unstable();
    assert_eq!(all, (0..2 * ITEMS).collect::<Vec<u64>>(), "every item arrives once");
    cluster.check();
}
