//! How waits begin and end: by tasks and by threads, and what they leave behind.

mod changes;
mod ends;
mod guards;
mod holders;
mod late;
mod overdue;
mod tasks;
mod together;
mod wakers;

use std::time::Duration;

use kddm::{Node, Set};

/// Longer than anything here takes.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Two nodes and their handles to one set.
pub fn two(name: &str) -> (Vec<Node>, [Set<u64>; 2]) {
    let nodes = Node::local_cluster(2).expect("two nodes");
    let sets = [0, 1].map(|at: usize| nodes[at].set(name).open().wait().expect("the set opens"));
    (nodes, sets)
}
