//! All daemons of a cluster are restarted, one after the other, while programs work: none of them meets an error, and
//! nothing that they have put is missing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kddm::{Config, Node, Set};
use rustix::process::Signal;
use serde_json::Value as Json;

use super::harness::{Daemon, LIMIT, Scratch, eventually, text};
use super::trio::{NAMES, status};

const OBJECTS: u64 = 50;

fn listed(status: &Json, node: usize) -> &Json {
    let is_it = |listed: &&Json| listed["id"] == node;
    status["nodes"].as_array().expect("a list").iter().find(is_it).expect("it is known")
}

/// Counts objects up and reads them until it is told to stop.
fn count_up(set: &Set<u64>, from: u64, stop: &AtomicBool, done: &AtomicU64) {
    let mut at = from;
    while !stop.load(Ordering::Relaxed) {
        at = (at + 7) % OBJECTS;
        let add = |count: &mut u64| {
            *count += 1;
            Ok(())
        };
        set.update(at, add).wait_for(LIMIT).expect("no client notices");
        done.fetch_add(1, Ordering::Relaxed);
        drop(set.get((at + 1) % OBJECTS).wait_for(LIMIT).expect("no client notices"));
        // Two at once, one of them while the other one is held.
        let held = set.get(at).wait_for(LIMIT).expect("no client notices");
        let other = OBJECTS + (at + from) % 3;
        set.update(other, add).wait_for(LIMIT).expect("no client notices");
        done.fetch_add(1, Ordering::Relaxed);
        drop(held);
    }
}

#[test]
fn daemons_are_restarted_one_after_the_other_and_no_client_notices() {
    let scratch = Scratch::new();
    let first = Daemon::first(&scratch, &["--lease-ms", "4000"]);
    let contact = first.address(&scratch);
    let other = |name: &str| Daemon::start(&scratch, name, &["--listen", "127.0.0.1:0", "--contact", &contact]);
    let mut all = [first, other(NAMES[1]), other(NAMES[2])];
    let before = status(&all[0], &scratch);
    let addresses: Vec<String> =
        (1..=3).map(|node| listed(&before, node)["address"].as_str().expect("a text").into()).collect();
    let attach = |daemon: &Daemon| Node::attach(daemon.dir.join("attach.sock")).wait_for(LIMIT).expect("it accepts");
    let mut nodes: Vec<Node> = all.iter().map(attach).collect();
    let member = Node::join(Config::new().contact(contact.parse().expect("an address")));
    nodes.push(member.wait_for(LIMIT).expect("it is let in"));
    let open = |node: &Node| node.set("numbers").open().wait_for(LIMIT).expect("the set opens");
    let sets: Vec<Set<u64>> = nodes.iter().map(open).collect();
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for (set, from) in sets.iter().flat_map(|set| [(set, 1), (set, 2)]) {
            let (stop, done) = (&stop, &done);
            scope.spawn(move || count_up(set, from, stop, done));
        }
        for node in 0..3 {
            let (counted, begun) = (done.load(Ordering::Relaxed), std::time::Instant::now());
            all[node].signal(Signal::TERM);
            let ended = all[node].wait();
            let said = all[node].said();
            assert!(ended.success() && !said.contains("ERROR") && said.contains("stopped"), "{said}");
            // Longer than its lease, which is nobody's any more.
            let lease_ms = if node == 2 { 4_500 } else { 0 };
            eventually("time passes", || begun.elapsed().as_millis() >= lease_ms);
            let contact = &addresses[(node + 1) % 3];
            all[node] = Daemon::start(&scratch, NAMES[node], &["--listen", &addresses[node], "--contact", contact]);
            let is_attached = || !status(&all[node], &scratch)["programs"].to_string().eq("[]");
            eventually("its program is attached again", is_attached);
            eventually("work goes on", || done.load(Ordering::Relaxed) > counted + 100);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let sum =
        |set: &Set<u64>| (0..OBJECTS + 3).map(|object| *set.get(object).wait_for(LIMIT).expect("there")).sum::<u64>();
    assert!(sets.iter().all(|set| sum(set) == done.load(Ordering::Relaxed)), "every put is there, once");
    let after = status(&all[2], &scratch);
    for node in 1..=3 {
        let life = |status: &Json| listed(status, node)["incarnation"].as_u64();
        assert!(life(&after) > life(&before), "node {node} is new");
    }
    assert_eq!((&after["failures"], &after["epoch"]), (&0.into(), &before["epoch"]), "nobody was lost");
    let examined = text(&all[0].tool(&scratch, &["doctor"]).stdout);
    assert!(!examined.contains("error:"), "{examined}");
}
