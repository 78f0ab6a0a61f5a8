use std::collections::HashSet;

use kddm::{Config, Node, UniqueIds};

use crate::{LIMIT, attached, cluster};

fn open(node: &Node, name: &str) -> UniqueIds {
    node.unique_ids(name).wait_for(LIMIT).expect("it opens")
}

fn take(ids: &UniqueIds, count: usize) -> Vec<u64> {
    (0..count).map(|_| ids.next().wait_for(LIMIT).expect("there are some")).collect()
}

/// The ids of several blocks, of all threads of all nodes, and of a program.
#[test]
fn t27_no_id_is_given_twice() {
    const EACH: usize = 40_000;
    let nodes = cluster(2);
    let program = attached(&nodes[0], "ids");
    let all: Vec<UniqueIds> = nodes.iter().chain([&program]).map(|node| open(node, "ids")).collect();
    let taken: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let takers: Vec<_> = all.iter().chain(&all).map(|ids| scope.spawn(|| take(ids, EACH))).collect();
        takers.into_iter().map(|taker| taker.join().expect("it ends")).collect()
    });
    assert!(taken.iter().all(|ids| ids.is_sorted()), "they grow");
    let different: HashSet<u64> = taken.iter().flatten().copied().collect();
    assert_eq!(different.len(), 6 * EACH);
    assert!(!different.contains(&0));
    // Handles to one name share their block.
    let one = take(&open(&nodes[0], "ids"), 1)[0];
    assert_eq!(take(&all[0], 1), [one + 1]);
    let shown = nodes[1].id_sources().expect("a list");
    assert_eq!((shown[0].name.as_str(), shown[0].epoch), ("ids", nodes[1].epoch()));
    assert!(different.iter().all(|id| id >> 40 == u64::from(shown[0].epoch)), "that is what begins an id");
}

/// An id that is here costs no message.
#[test]
fn an_id_of_the_block_costs_no_message() {
    let nodes = cluster(2);
    let ids = open(&nodes[0], "cheap");
    take(&ids, 1);
    let messages = || nodes.iter().map(|node| node.statistics().messages()).sum::<u64>();
    let before = messages();
    take(&ids, 10_000);
    assert_eq!(messages(), before);
}

/// A node that leaves and joins again, under the same number and without a log of its own.
#[test]
fn t23_ids_go_on_when_the_same_node_joins_again() {
    let first = Node::join(crate::unhurried()).wait_for(LIMIT).expect("a cluster");
    let mut all = take(&open(&first, "again"), 3);
    for round in 0..3 {
        let config = Config::new().node_id(7).contact(first.address().clone());
        let node = Node::join(config).wait_for(LIMIT).expect("it is let in");
        assert_eq!(node.id(), 7);
        all.extend(take(&open(&node, "again"), 3));
        all.extend(take(&open(&first, "again"), 3));
        node.stop();
        assert!(node.unique_ids("again").wait_for(LIMIT).is_err(), "round {round}: it is no member");
    }
    let different: HashSet<u64> = all.iter().copied().collect();
    assert_eq!(different.len(), all.len());
}
