//! Hits: no other process takes part.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, Barrier, Mutex, RwLock};
use std::time::Instant;

use dashmap::DashMap;
use kddm::{Node, Pod, Set};

use crate::Failure;
use crate::report::{Row, Samples, row};

type Words = [u64; 8];
const BATCH: u32 = 2_000;
const ROUNDS: u32 = 200;

/// What a reader makes of a value, so that all of it is read, on both sides alike.
#[inline(always)]
fn sum(words: &Words) -> u64 {
    words.iter().fold(0, |sum, word| sum ^ word)
}

/// Times `work` and `floor` in turn and returns nanoseconds per operation of each.
fn interleaved(mut work: impl FnMut(u32), mut floor: impl FnMut(u32)) -> (Samples, Samples) {
    let (mut work_samples, mut floor_samples) = (Samples::default(), Samples::default());
    for round in 0..ROUNDS + 10 {
        let start = Instant::now();
        (0..BATCH).for_each(&mut work);
        let work_ns = start.elapsed().as_nanos() as f64 / f64::from(BATCH);
        let start = Instant::now();
        (0..BATCH).for_each(&mut floor);
        let floor_ns = start.elapsed().as_nanos() as f64 / f64::from(BATCH);
        if round >= 10 {
            work_samples.push(work_ns);
            floor_samples.push(floor_ns);
        }
    }
    (work_samples, floor_samples)
}

pub fn run() -> Result<Vec<Row>, Failure> {
    let node = Node::local_cluster(1)?.remove(0);
    let pods: Set<Pod<Words>> = node.set("bench/pods").replicas(0).open().wait()?;
    let strings: Set<String> = node.set("bench/strings").replicas(0).open().wait()?;
    let mut rows = vec![two_threads(&pods)?];
    crate::pin(0);
    rows.push(read_handle(&pods)?);
    rows.push(get_guard(&strings)?);
    rows.push(grab_put(&pods)?);
    rows.push(read_key("read_key_10k", &pods, 10_000)?);
    rows.push(read_key("read_key_1m", &pods, 1_000_000)?);
    Ok(rows)
}

fn read_handle(pods: &Set<Pod<Words>>) -> Result<Row, Failure> {
    let object = pods.object(1);
    object.read().wait()?;
    let lock = RwLock::new([1u64; 8]);
    let (work, floor) = interleaved(
        |_| {
            black_box(object.try_read().map(|words| sum(&words)));
        },
        |_| {
            black_box(sum(&black_box(&lock).read().expect("nobody panics with it")));
        },
    );
    Ok(row("read_handle_64", "ns", 1.0, work, floor))
}

/// The same object by two threads at once. A hit writes no shared cache line.
fn two_threads(pods: &Set<Pod<Words>>) -> Result<Row, Failure> {
    let object = pods.object(1);
    object.read().wait()?;
    let map: Arc<DashMap<u64, Words, rustc_hash::FxBuildHasher>> = Arc::new(DashMap::default());
    map.insert(1, [1; 8]);
    let barrier = Arc::new(Barrier::new(2));
    let other = {
        let (object, map, barrier) = (object.clone(), Arc::clone(&map), Arc::clone(&barrier));
        std::thread::spawn(move || timed_pair(&object, &map, &barrier))
    };
    let (work, floor) = timed_pair(&object, &map, &barrier);
    let _other = other.join();
    Ok(row("read_handle_64_2t", "ns", 1.0, work, floor))
}

fn timed_pair(
    object: &kddm::ObjectRef<Pod<Words>>,
    map: &DashMap<u64, Words, rustc_hash::FxBuildHasher>,
    barrier: &Barrier,
) -> (Samples, Samples) {
    let (mut work, mut floor) = (Samples::default(), Samples::default());
    let batch = BATCH * 20;
    for _ in 0..50 {
        barrier.wait();
        let start = Instant::now();
        for _ in 0..batch {
            black_box(object.try_read().map(|words| sum(&words)));
        }
        work.push(start.elapsed().as_nanos() as f64 / f64::from(batch));
        barrier.wait();
        let start = Instant::now();
        for _ in 0..batch {
            black_box(map.get(&black_box(1)).map(|words| sum(&words)));
        }
        floor.push(start.elapsed().as_nanos() as f64 / f64::from(batch));
    }
    (work, floor)
}

fn get_guard(strings: &Set<String>) -> Result<Row, Failure> {
    strings
        .update(1, |text| {
            text.push_str("a string of moderate length");
            Ok(())
        })
        .wait()?;
    let map = RwLock::new(HashMap::from([(1u64, String::from("a string of moderate length"))]));
    let (work, floor) = interleaved(
        |_| {
            let guard = strings.get(black_box(1)).wait().expect("it is here");
            black_box(guard.len());
        },
        |_| {
            let map = map.read().expect("nobody panics with it");
            black_box(map.get(&black_box(1)).map(String::len));
        },
    );
    Ok(row("get_guard", "ns", 1.0, work, floor))
}

fn grab_put(pods: &Set<Pod<Words>>) -> Result<Row, Failure> {
    let object = pods.object(2);
    object.grab().wait()?.put().wait()?;
    let mutex = Mutex::new([0u64; 8]);
    let (work, floor) = interleaved(
        |round| {
            let mut guard = object.grab().wait().expect("it is here");
            guard.0[0] = u64::from(round);
            guard.put().wait().expect("nothing to wait for");
        },
        |round| {
            let mut words = mutex.lock().expect("nobody panics with it");
            words[0] = u64::from(round);
            black_box(&mut words);
        },
    );
    Ok(row("grab_put_local", "ns", 1.0, work, floor))
}

fn read_key(name: &str, pods: &Set<Pod<Words>>, keys: u64) -> Result<Row, Failure> {
    let map: DashMap<u64, Words, rustc_hash::FxBuildHasher> = DashMap::default();
    for key in 0..keys {
        map.insert(key, [key; 8]);
        pods.grab(key).wait()?.put().wait()?;
    }
    // A fixed pseudo-random walk over the keys, the same for both.
    let mut at = 1u64;
    let mut next = move || {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (at >> 33) % keys
    };
    let mut floor_next = next;
    let (work, floor) = interleaved(
        |_| {
            black_box(pods.try_read_pod(next()).map(|words| sum(&words)));
        },
        |_| {
            black_box(map.get(&floor_next()).map(|words| sum(&words)));
        },
    );
    Ok(row(name, "ns", 1.0, work, floor))
}
