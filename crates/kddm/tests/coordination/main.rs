//! Barriers, latches, unique ids and names: among nodes of this process, and programs that are attached to them.

mod barriers;
mod ids;
mod latches;
mod names;

use std::time::{Duration, Instant};

use kddm::{Config, CoordinationError, Error, Node};

/// No test takes as long; one that does has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Longer than any test: nobody is taken for lost because the machine is busy.
const UNHURRIED: Duration = Duration::from_secs(60);

/// The configuration of a node in a cluster from which nobody is to be expelled.
fn unhurried() -> Config {
    Config::new().lease(UNHURRIED)
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn cluster(count: usize) -> Vec<Node> {
    Node::local_cluster(count).expect("nodes")
}

/// A program that is attached to that node, as one in another process would be.
pub(crate) fn attached(node: &Node, name: &str) -> Node {
    let socket = std::env::temp_dir().join(format!("kddm-coordination-{}-{name}.sock", std::process::id()));
    node.accept_programs(&socket).expect("programs may come");
    Node::attach(&socket).wait_for(LIMIT).expect("it is let in")
}

#[track_caller]
pub(crate) fn refusal<O>(result: Result<O, Error>) -> CoordinationError {
    match result {
        Err(Error::Coordination(error)) => error,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("no error"),
    }
}
