//! What a unique id costs beside an increment of an atomic number: `cargo run --release -p kddm --example unique_ids`.
//! One line a round, nanoseconds each; the last one has the least of all rounds.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const ROUNDS: usize = 9;

/// Many blocks, so that their cost is in it.
const IDS: u64 = 2_000_000;

fn nanoseconds(mut each: impl FnMut() -> Result<u64, kddm::Error>) -> Result<f64, kddm::Error> {
    let begin = Instant::now();
    for _ in 0..IDS {
        black_box(each()?);
    }
    Ok(begin.elapsed().as_secs_f64() * 1e9 / IDS as f64)
}

fn main() -> Result<(), kddm::Error> {
    let nodes = kddm::Node::local_cluster(2)?;
    let ids = nodes[0].unique_ids("cost").wait()?;
    let counter = AtomicU64::new(0);
    let (mut least_atomic, mut least_id) = (f64::MAX, f64::MAX);
    let say = |atomic: f64, id: f64| println!("atomic {atomic:6.2} ns   id {id:6.2} ns   {:4.1} times", id / atomic);
    for _ in 0..ROUNDS {
        let atomic = nanoseconds(|| Ok(counter.fetch_add(1, Ordering::Relaxed)))?;
        let id = nanoseconds(|| ids.next().wait())?;
        say(atomic, id);
        (least_atomic, least_id) = (least_atomic.min(atomic), least_id.min(id));
    }
    say(least_atomic, least_id);
    Ok(())
}
