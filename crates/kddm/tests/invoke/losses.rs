//! The owner goes away in the middle: who was answered is counted, who was not at most once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kddm::{Fate, Set};

use crate::{Add, LIMIT, add, cluster_with, open, owned_by, value};

/// It has to end here, and for nobody who lives: long beside what a busy machine holds up a thread.
const LEASE: Duration = Duration::from_secs(3);

/// Calls after which the owner vanishes, while each thread goes on to that many.
const BEFORE: u64 = 100;
const CALLS: u64 = 200;

#[test]
fn whoever_was_answered_is_counted_when_the_owner_vanishes() {
    let mut nodes = cluster_with(3, LEASE);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, 1)).collect();
    owned_by(&sets[2], 7);
    let adds: Vec<Add> = sets.iter().map(add).collect();
    let (done, unknown) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..6usize)
        .map(|number| {
            let add = adds[number % 2].clone();
            let (done, unknown) = (Arc::clone(&done), Arc::clone(&unknown));
            std::thread::spawn(move || {
                for _ in 0..CALLS {
                    match add.invoke(7, 1).wait() {
                        Ok(_) => done.fetch_add(1, Ordering::SeqCst),
                        Err(error) if error.fate() == Fate::Unknown => unknown.fetch_add(1, Ordering::SeqCst),
                        Err(error) => panic!("{error}"),
                    };
                }
            })
        })
        .collect();
    while done.load(Ordering::SeqCst) < BEFORE {
        std::thread::yield_now();
    }
    drop(adds);
    let (others, last) = (sets[..2].to_vec(), nodes.remove(2));
    drop(sets);
    last.stop_within(Duration::ZERO);
    threads.into_iter().for_each(|thread| thread.join().expect("nothing is refused"));
    let (done, unknown) = (done.load(Ordering::SeqCst), unknown.load(Ordering::SeqCst));
    assert_eq!(done + unknown, 6 * CALLS);
    assert!(unknown <= 6, "only what was under way can be unknown: {unknown}");
    let counted = value(&others[0], 7) - 1;
    assert!((done..=done + unknown).contains(&counted), "{done} done, {unknown} unknown, {counted} counted");
    let _waits = others[1].get(7).wait_for(LIMIT).expect("it is there");
}
