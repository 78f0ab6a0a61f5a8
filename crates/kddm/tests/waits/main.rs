//! How waits begin and end: by tasks and by threads, and what they leave behind.

mod changes;
mod ends;
mod guards;
mod holders;
mod late;
mod overdue;
mod readers;
mod tasks;
mod together;
mod wakers;
mod whole_sets;

use std::time::Duration;

use kddm::{Config, Node, Set};

/// Longer than anything here takes.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Longer than any test: nobody is taken for lost because the machine is busy.
const UNHURRIED: Duration = Duration::from_secs(60);

/// The configuration of a node in a cluster from which nobody is to be expelled.
fn unhurried() -> Config {
    Config::new().lease(UNHURRIED)
}

/// Two nodes and their handles to one set.
pub fn two(name: &str) -> (Vec<Node>, [Set<u64>; 2]) {
    let nodes = Node::local_cluster(2).expect("two nodes");
    let sets = [0, 1].map(|at: usize| nodes[at].set(name).open().wait().expect("the set opens"));
    (nodes, sets)
}
