//! A node that has stopped leaves nothing behind in its process. A test of its own, so that no other
//! one opens and starts things meanwhile.

use std::time::{Duration, Instant};

use kddm::{Node, Set};

/// Threads that a stop does not wait for need so long to end.
const LIMIT: Duration = Duration::from_secs(20);

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).expect("it is of this process").count()
}

fn threads_and_files() -> (usize, usize) {
    (entries("/proc/self/task"), entries("/proc/self/fd"))
}

/// Resident memory in KiB.
fn memory_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("it is of this process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it is there");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

/// Two nodes that use objects and calls, and stop.
fn live_and_stop(round: usize) {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let limit = Duration::from_secs(10);
    let service = nodes[1].rpc().register_blocking("add", |request| {
        let counts: Set<u64> = request.node().set("counts").open().wait()?;
        let count = counts.update(1, |count| {
            *count += 1;
            Ok(*count)
        });
        Ok(count.wait()?.to_le_bytes().to_vec())
    });
    let service = service.expect("the name is free");
    let answer = nodes[0].rpc().call(2, "add", b"", limit).wait().expect("an answer");
    assert_eq!(answer, 1u64.to_le_bytes());
    if round.is_multiple_of(5) {
        attach_and_go(&nodes[0], round);
    }
    // Stopped while the service is there, or after it; by hand, or by the last handle.
    if round.is_multiple_of(2) {
        drop(service);
    }
    if round.is_multiple_of(3) {
        nodes.iter().for_each(Node::stop);
    }
}

/// A program that uses objects, and goes before its node or after it.
fn attach_and_go(node: &Node, round: usize) {
    let socket = std::env::temp_dir().join(format!("kddm-leaks-{}-{round}.sock", std::process::id()));
    node.accept_programs(&socket).expect("the path is free");
    let program = Node::attach(&socket).wait().expect("it accepts programs");
    let counts: Set<u64> = program.set("counts").open().wait().expect("the set opens");
    let limit = Duration::from_secs(10);
    let serves = program.rpc().register("attached", |_| Ok(Vec::new())).expect("the name is free");
    program.rpc().call(node.id(), "attached", b"", limit).wait().expect("it calls itself");
    if round.is_multiple_of(2) {
        drop(serves);
    }
    let guard = counts.grab(2).wait().expect("nobody has it");
    guard.put().wait().expect("it is put");
    if round.is_multiple_of(2) {
        program.stop();
    }
}

#[test]
fn a_thousand_starts_and_stops_leak_nothing() {
    let settled = |wanted: (usize, usize)| {
        let begin = Instant::now();
        while threads_and_files() != wanted {
            assert!(begin.elapsed() < LIMIT, "{:?} threads and files instead of {wanted:?}", threads_and_files());
            std::thread::yield_now();
        }
    };
    let before = threads_and_files();
    (0..100).for_each(live_and_stop);
    settled(before);
    let memory_kib_before = memory_kib();
    (100..500).for_each(live_and_stop);
    settled(before);
    let grown_kib = memory_kib().saturating_sub(memory_kib_before);
    // 800 lives; a kilobyte of each would be less than what an allocator keeps for itself.
    assert!(grown_kib < 8 << 10, "{grown_kib} KiB more than after the first lives");
}
