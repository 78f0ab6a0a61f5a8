//! What should not come, and what a node does when it comes: a clear error, a counter, and everybody
//! else goes on.

#[path = "../seat/mod.rs"]
#[allow(dead_code, reason = "shared with other tests, which use other parts of it")]
mod seat;

mod death;
mod descriptors;
mod leases;
mod links;
mod overload;
mod proxy;
mod silence;
mod sockets;
mod strangers;
mod values;

use std::time::Duration;

use kddm::Config;

/// Longer than any test: nobody is taken for lost because the machine is busy.
const UNHURRIED: Duration = Duration::from_secs(60);

/// The configuration of a node in a cluster from which nobody is to be expelled.
fn unhurried() -> Config {
    Config::new().lease(UNHURRIED)
}

/// In a process that a test has started, this is the seat; else it is an empty test.
#[test]
fn seat_process() {
    seat::process::serve_if_asked();
}
