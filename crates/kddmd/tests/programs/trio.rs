//! Three daemons that decide together who is a member.

use serde_json::Value as Json;

use crate::harness::{Daemon, Scratch, eventually};

pub const NAMES: [&str; 3] = ["first", "second", "third"];

pub fn status(daemon: &Daemon, scratch: &Scratch) -> Json {
    daemon.json(scratch, &["cluster", "status"])
}

pub fn voters(status: &Json) -> Vec<u64> {
    status["voters"].as_array().into_iter().flatten().filter_map(Json::as_u64).collect()
}

/// Three daemons that decide together, and where they listen. The first is told more.
pub fn three(scratch: &Scratch, more: &[&str]) -> (Vec<Daemon>, Vec<String>) {
    let first = Daemon::first(scratch, &[&["--lease-ms", "4000"], more].concat());
    let contact = first.address(scratch);
    let other = |name: &str| Daemon::start(scratch, name, &["--listen", "127.0.0.1:0", "--contact", &contact]);
    let all = vec![first, other("second"), other("third")];
    for daemon in &all {
        eventually("three decide", || voters(&status(daemon, scratch)) == [1, 2, 3]);
    }
    let nodes = status(&all[0], scratch)["nodes"].clone();
    let addresses = nodes.as_array().expect("a list").iter().map(|node| node["address"].as_str().map(String::from));
    (all, addresses.map(|address| address.expect("a text")).collect())
}

/// All three at once, where they were.
pub fn start_all(scratch: &Scratch, addresses: &[String]) -> Vec<Daemon> {
    std::thread::scope(|scope| {
        let start = |at: usize| {
            let arguments = ["--listen", &addresses[at], "--contact", &addresses[0]];
            Daemon::start(scratch, NAMES[at], &arguments)
        };
        let starts: Vec<_> = (0..3).map(|at| scope.spawn(move || start(at))).collect();
        starts.into_iter().map(|start| start.join().expect("it is back")).collect()
    })
}
