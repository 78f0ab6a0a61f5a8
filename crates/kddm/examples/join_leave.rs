//! What those who stay notice of a node that joins and leaves, and how fast a node hands over what it
//! has. Nodes in one process, over TCP on loopback.
//!
//! `cargo run --release -p kddm --example join_leave [-- OBJECTS]` prints a JSON object; OBJECTS is how
//! many are handed over (default 1,000,000 of 64 bytes).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kddm::{Config, Error, Node, Pod, Set};

type Value = Pod<[u64; 8]>;

/// Objects that the nodes read and write meanwhile.
const SHARED: u64 = 10_000;
/// How long each of the two measurements takes.
const LIMIT: Duration = Duration::from_secs(8);

fn join(contact: Option<&Node>) -> Result<Node, Error> {
    Node::join(contact.map_or_else(Config::new, |node| Config::new().contact(node.address().clone()))).wait()
}

/// Reads nine times and writes once, again and again; the time of each operation in nanoseconds.
fn work(set: &Set<Value>, mut seed: u64, stop: &AtomicBool) -> Vec<u64> {
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let object = (seed >> 33) % SHARED;
        let begin = Instant::now();
        if seed >> 60 == 0 {
            let add = |value: &mut Value| {
                value.0[0] += 1;
                Ok(())
            };
            set.update(object, add).wait().expect("nobody who stays notices a join or a leave");
        } else {
            drop(set.get(object).wait().expect("nobody who stays notices a join or a leave"));
        }
        times.push(begin.elapsed().as_nanos() as u64);
    }
    times
}

/// The workers' times, sorted, while `meanwhile` runs on this thread.
fn measured(sets: &[Set<Value>], meanwhile: impl FnOnce()) -> Vec<u64> {
    let stop = &AtomicBool::new(false);
    let mut times: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..).zip(sets).map(|(seed, set)| scope.spawn(move || work(set, seed, stop))).collect();
        meanwhile();
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    times.sort_unstable();
    times
}

fn told(name: &str, times: &[u64]) -> String {
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize] as f64 / 1e3;
    format!(
        "\"{name}\": {{\"operations\": {}, \"p50_us\": {:.1}, \"p99_us\": {:.1}, \"p999_us\": {:.1}, \"longest_us\": {:.1}}}",
        times.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    )
}

fn main() -> Result<(), Error> {
    let objects: u64 = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(1_000_000);
    let first = join(None)?;
    let nodes = [first.clone(), join(Some(&first))?, join(Some(&first))?];
    let sets: Vec<Set<Value>> =
        nodes.iter().map(|node| node.set("shared").replicas(0).open().wait()).collect::<Result<_, _>>()?;
    let steady = measured(&sets, || std::thread::sleep(LIMIT));
    let mut rounds = 0;
    let moving = measured(&sets, || {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            let fourth = join(Some(&first)).expect("the others agree");
            let set: Set<Value> = fourth.set("shared").replicas(0).open().wait().expect("it is there");
            let short = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let works = scope.spawn(|| work(&set, 4, &short));
                std::thread::sleep(LIMIT / 16);
                short.store(true, Ordering::Relaxed);
                works.join().expect("no panic");
            });
            fourth.stop();
            rounds += 1;
        }
    });
    drop((sets, nodes));
    let other = join(Some(&first))?;
    let filled: Set<Value> = other.set("filled").replicas(0).open().wait()?;
    for object in 0..objects {
        drop(filled.get(object).wait()?);
    }
    let begin = Instant::now();
    other.stop_sharing(Duration::from_secs(60)).wait()?;
    let seconds = begin.elapsed().as_secs_f64();
    let rate = objects as f64 / seconds;
    println!(
        "{{{}, {}, \"joins_and_leaves\": {rounds}, \"handed_over\": {{\"objects\": {objects}, \"seconds\": {seconds:.2}, \"per_second\": {rate:.0}}}}}",
        told("steady", &steady),
        told("joins_and_leaves_under_way", &moving)
    );
    Ok(())
}
