//! Holds that are in somebody's way for too long are reported, with who holds.

use std::time::{Duration, Instant};

use kddm::{HeldBy, Holder, Holding, Node, Set};

use crate::LIMIT;

const HOLD_LIMIT: Duration = Duration::from_millis(20);

/// A node, and its handle to a set with a short limit of holds.
fn opened(node: &Node, name: &str) -> Set<u64> {
    node.set(name).hold_limit(HOLD_LIMIT).open().wait().expect("the set opens")
}

fn holding(node: &Node, object: u64) -> Holding {
    let mut found = node.holdings(1000).objects;
    found.retain(|holding| holding.object == object);
    found.pop().expect("it is held")
}

fn wait_until(node: &Node, overdue: u64) {
    let begin = Instant::now();
    while node.statistics().overdue_holds < overdue {
        assert!(begin.elapsed() < LIMIT, "{:?}", node.holdings(1000));
        std::thread::yield_now();
    }
}

#[test]
fn a_hold_that_another_node_waits_for_is_counted_once_and_named() {
    let nodes = Node::local_cluster(2).expect("two nodes");
    let [here, there] = [0, 1].map(|at: usize| opened(&nodes[at], "overdue"));
    let holder = Holder::new("checkout 17");
    let in_nobodys_way = here.grab(1).wait_for(LIMIT).expect("it is free");
    let held = here.by(&holder).grab(2).wait_for(LIMIT).expect("it is free");
    std::thread::scope(|threads| {
        let waits = threads.spawn(|| there.get(2).wait_for(LIMIT).map(|guard| *guard));
        wait_until(&nodes[0], 1);
        let seen = holding(&nodes[0], 2);
        assert!(seen.is_held && seen.wanted_elsewhere, "{seen:?}");
        assert!(seen.in_the_way_for.expect("somebody waits") >= HOLD_LIMIT, "{seen:?}");
        assert_eq!(seen.holders, [HeldBy { who: "checkout 17".into(), is_write: true }]);
        let other = holding(&nodes[0], 1);
        assert!(other.is_held && other.in_the_way_for.is_none(), "{other:?}");
        // Before anybody else holds it or waits, for whom a busy machine may make that long, too.
        let overdue = nodes[0].statistics().overdue_holds;
        assert_eq!(overdue, 1, "nobody has waited for the other, which was held for longer");
        // The next one waits behind it; then it ends, and all go on.
        let behind = threads.spawn(|| here.get(2).wait_for(LIMIT).map(|guard| *guard));
        held.put().wait().expect("it is put");
        for waits in [waits, behind] {
            assert_eq!(waits.join().expect("no panic").expect("the hold has ended"), 0);
        }
    });
    drop(in_nobodys_way);
    assert_eq!(nodes[0].holdings(1000).objects, []);
}

#[test]
fn a_hold_of_a_thread_that_another_thread_waits_for_is_named_by_the_thread() {
    let node = Node::local_cluster(1).expect("a node").remove(0);
    let set = opened(&node, "threads");
    let readers: Vec<_> = (0..20).map(|object| set.get(object).wait_for(LIMIT).expect("it is free")).collect();
    std::thread::scope(|threads| {
        // One that has a slot of the thread, and one for which there is no room there.
        let waits = [3, 19].map(|object| {
            let set = &set;
            threads.spawn(move || set.grab(object).wait_for(LIMIT).map(|guard| *guard))
        });
        wait_until(&node, 2);
        for object in [3, 19] {
            let seen = holding(&node, object);
            assert_eq!((seen.waiting_here, seen.holders.len()), (1, 1), "{seen:?}");
            let name = std::thread::current().name().expect("tests have names").to_string();
            let by = &seen.holders[0];
            assert!(by.who.starts_with("thread ") && by.who.contains(&name) && !by.is_write, "{seen:?}");
        }
        drop(readers);
        for waits in waits {
            assert_eq!(waits.join().expect("no panic").expect("the hold has ended"), 0);
        }
    });
}

#[test]
fn a_limit_beyond_the_end_of_time_is_none() {
    let node = Node::local_cluster(1).expect("a node").remove(0);
    let set: Set<u64> = node.set("never").hold_limit(Duration::MAX).open().wait().expect("the set opens");
    let short = opened(&node, "short");
    let (held, other) = (set.grab(1).wait_for(LIMIT).expect("free"), short.grab(1).wait_for(LIMIT).expect("free"));
    std::thread::scope(|threads| {
        let waits = threads.spawn(|| set.get(1).wait_for(LIMIT).map(|guard| *guard));
        let short_waits = threads.spawn(|| short.get(1).wait_for(LIMIT).map(|guard| *guard));
        let begin = Instant::now();
        let waiting = || node.holdings(1000).objects.iter().filter(|seen| seen.in_the_way_for.is_some()).count();
        while waiting() < 2 {
            assert!(begin.elapsed() < LIMIT, "both are in the way");
            std::thread::yield_now();
        }
        wait_until(&node, 1);
        assert_eq!(node.statistics().overdue_holds, 1);
        drop((held, other));
        for waits in [waits, short_waits] {
            waits.join().expect("no panic").expect("the hold has ended");
        }
    });
}
