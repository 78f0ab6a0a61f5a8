//! What a hit costs, in nanoseconds and against the standard library's locks, interleaved.
//!
//! `cargo run --release -p kddm --example cell_floor`

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Mutex, RwLock};
use std::time::Instant;

use kddm::Pod;
use kddm::cell::{Lease, Store, Table};
use kddm_core::io::Access;

type Words = Pod<[u64; 8]>;

const BATCH: u32 = 10_000;
const ROUNDS: usize = 301;
/// Counted reads after which a cell is surely biased.
const WARM_READS: usize = 100;

fn batch_ns(work: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..BATCH {
        work();
    }
    start.elapsed().as_nanos() as f64 / f64::from(BATCH)
}

/// Prints medians of both, measured in turn.
fn compare(name: &str, goal: f64, mut work: impl FnMut(), mut floor: impl FnMut()) {
    let (mut works, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        works.push(batch_ns(&mut work));
        floors.push(batch_ns(&mut floor));
    }
    works.sort_by(f64::total_cmp);
    floors.sort_by(f64::total_cmp);
    let (work, floor) = (works[ROUNDS / 2], floors[ROUNDS / 2]);
    println!("{name:<44} {work:7.1} ns   floor {floor:6.1} ns   {:5.2} x   (goal {goal} x)", work / floor);
}

fn table_of_words() -> (Table<Words>, u32) {
    let table = Table::new();
    let cell = table.find_or_insert(1);
    table.install(cell, 1, Some(&[0; 64])).expect("64 bytes fit");
    table.grant(cell, Access::Write);
    (table, cell)
}

fn main() {
    let lease = Lease::default();
    lease.set_deadline_ns(Lease::now_ns() + 3_600_000_000_000);
    let clock = || {
        black_box(Lease::now_ns());
    };
    compare("coarse clock / Instant::now", 1.0, clock, || {
        black_box(Instant::now());
    });

    let (words, cell) = table_of_words();
    let lock = RwLock::new([0u64; 8]);
    let read_lock = || {
        black_box(*lock.read().expect("nobody panics with it"));
    };
    compare(
        "64 B read by handle, lease / RwLock read",
        0.7,
        || {
            let value = words.pod_read_at(black_box(cell), 1).expect("it is here");
            black_box((value, lease.is_valid()));
        },
        read_lock,
    );
    compare(
        "64 B read by key, lease / RwLock read",
        1.0,
        || {
            let value = words.pod_read(black_box(1)).expect("it is here");
            black_box((value, lease.is_valid()));
        },
        read_lock,
    );

    let mutex = Mutex::new([0u64; 8]);
    let mut count = 0;
    compare(
        "64 B hold, publish, release / Mutex",
        4.0,
        || {
            count += 1;
            let mut hold = words.try_write_at(black_box(cell), 1).expect("nobody holds it");
            hold.publish(Pod([count; 8]));
            black_box((hold.release(), lease.is_valid()));
        },
        || {
            let mut words = mutex.lock().expect("nobody panics with it");
            words[0] += 1;
            black_box(&mut *words);
        },
    );

    let text = String::from("a string of moderate length");
    let strings: Table<String> = Table::new();
    let cell = strings.find_or_insert(1);
    strings.grant(cell, Access::Write);
    let mut hold = strings.try_write(1).expect("nobody holds it");
    hold.initialize(text.clone());
    assert!(!hold.release());
    for _ in 0..WARM_READS {
        assert!(!strings.try_read(1).expect("it is here").release());
    }
    let map = RwLock::new(HashMap::from([(1u64, text)]));
    compare(
        "String hold by key, lease / RwLock<HashMap>",
        1.5,
        || {
            let hold = strings.try_read(black_box(1)).expect("it is here");
            black_box((hold.value().len(), lease.is_valid()));
            black_box(hold.release());
        },
        || {
            let map = map.read().expect("nobody panics with it");
            black_box(map.get(&black_box(1)).map(String::len));
        },
    );
}
