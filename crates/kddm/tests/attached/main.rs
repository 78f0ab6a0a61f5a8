//! Programs without a node of their own, in this process and in processes of their own: they share
//! objects with each other, with their node, and with the rest of the cluster.

#[path = "../seat/mod.rs"]
#[allow(dead_code, reason = "shared with other tests, which use other parts of it")]
mod seat;

mod calls;
mod ends;
mod hostile;
mod invoke;
mod notifiers;
mod processes;
mod sharing;
mod storm;
mod streams;
mod watches;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use kddm::{Node, Set};

/// In a process that a test has started, this is the program; else it is an empty test.
#[test]
fn seat_process() {
    seat::process::serve_if_asked();
}

/// A socket of this test's own. Its file goes with the node that listens.
pub(crate) fn socket() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("kddm-attached-{}-{number}.sock", std::process::id()))
}

/// Two nodes, the first of which accepts programs.
pub(crate) struct House {
    nodes: Vec<Node>,
    socket: PathBuf,
}

impl House {
    fn new() -> House {
        let (nodes, socket) = (Node::local_cluster(2).expect("two nodes"), socket());
        nodes[0].accept_programs(&socket).expect("the path is free");
        House { nodes, socket }
    }

    fn program(&self) -> Node {
        Node::attach(&self.socket).wait().expect("it accepts programs")
    }

    /// Nothing went wrong behind the scenes.
    fn check(&self) {
        for node in &self.nodes {
            let seen = node.statistics();
            assert_eq!((seen.faults, seen.malformed, seen.undecodable, seen.dropped), (0, 0, 0, 0));
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.nodes.iter().for_each(|node| eprintln!("node {}: {:?}", node.id(), node.statistics()));
        }
    }
}

pub(crate) fn open(node: &Node) -> Set<u64> {
    node.set("shared").open().wait().expect("the set opens")
}

pub(crate) fn add_one(set: &Set<u64>, object: u64) {
    let add = |count: &mut u64| {
        *count += 1;
        Ok(())
    };
    set.update(object, add).wait_for(seat::LIMIT).expect("others give it back");
}
