//! Everything at once: programs that come and go, threads of nodes, all kinds of operations on few
//! objects. No increment that was put is lost, and nobody waits for ever.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kddm::{Fate, Node, Pod, Set, WriteGuard};

use crate::House;
use crate::seat::{LIMIT, until};

const OBJECTS: u64 = 4;

/// How often each worker does something.
const TURNS: u64 = 400;

/// As good as chance: the same in each run.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

fn open(node: &Node) -> Set<Pod<u64>> {
    node.set("storm").open().wait().expect("the set opens")
}

/// Adds one, and notes that it did. An error that does not say that nothing happened is noted apart.
fn add(mut guard: WriteGuard<Pod<u64>>, object: u64, sure: &[AtomicU64], unsure: &AtomicU64) {
    guard.0 += 1;
    match guard.put().wait_for(LIMIT) {
        Ok(()) => _ = sure[object as usize].fetch_add(1, Ordering::Relaxed),
        Err(error) if error.fate() == Fate::NothingHappened => {}
        Err(_) => _ = unsure.fetch_add(1, Ordering::Relaxed),
    }
}

fn one_turn(set: &Set<Pod<u64>>, seed: &mut u64, sure: &[AtomicU64], unsure: &AtomicU64) {
    let object = next(seed) % OBJECTS;
    match next(seed) % 12 {
        0..=3 => {
            if let Ok(guard) = set.grab(object).wait_for(LIMIT) {
                add(guard, object, sure, unsure);
            }
        }
        4 => _ = set.get(object).wait_for(LIMIT),
        5 => _ = set.object(object).read().wait_for(LIMIT),
        6 => {
            if let Ok(mut guard) = set.grab(object).wait_for(LIMIT) {
                guard.0 += 1_000_000; // Discarded with its guard.
            }
        }
        7 => {
            if let Ok(guard) = set.try_grab(object).wait_for(LIMIT) {
                add(guard, object, sure, unsure);
            }
        }
        8 => set.grab(object).cancel(),
        9 => _ = set.get(object).wait_for(Duration::from_micros(50)),
        10 => drop((set.fetch(object), set.acquire((object + 1) % OBJECTS))),
        _ => _ = set.flush(object, None).wait_for(LIMIT),
    }
}

#[test]
fn in_a_storm_nothing_is_lost_and_nobody_waits_for_ever() {
    let house = House::new();
    let sure: Vec<AtomicU64> = (0..OBJECTS).map(|_| AtomicU64::new(0)).collect();
    let (unsure, calm) = (AtomicU64::new(0), AtomicBool::new(false));
    let programs: Vec<Node> = (0..2).map(|_| house.program()).collect();
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for (number, node) in (1u64..).zip(programs.iter().chain(&house.nodes)) {
            for thread in 0..2 {
                let (set, sure, unsure) = (open(node), &sure, &unsure);
                let mut seed = number * 31 + thread;
                workers.push(scope.spawn(move || (0..TURNS).for_each(|_| one_turn(&set, &mut seed, sure, unsure))));
            }
        }
        // One after the other, and each goes in the middle of its work.
        scope.spawn(|| {
            let mut seed = 7;
            while !calm.load(Ordering::Relaxed) {
                let program = house.program();
                let set = open(&program);
                std::thread::scope(|scope| {
                    let (set, mut of_worker) = (&set, next(&mut seed));
                    let (sure, unsure) = (&sure, &unsure);
                    scope.spawn(move || (0..50).for_each(|_| one_turn(set, &mut of_worker, sure, unsure)));
                    (0..next(&mut seed) % 20).for_each(|_| one_turn(set, &mut seed, sure, unsure));
                    program.stop();
                });
            }
        });
        workers.into_iter().for_each(|worker| worker.join().expect("it does its turns"));
        calm.store(true, Ordering::Relaxed);
    });
    let sets: Vec<_> = programs.iter().chain(&house.nodes).map(open).collect();
    for object in 0..OBJECTS {
        let is: Vec<u64> = sets.iter().map(|set| set.get(object).wait_for(LIMIT).expect("a copy").0).collect();
        let put = sure[object as usize].load(Ordering::Relaxed);
        assert!(is.windows(2).all(|pair| pair[0] == pair[1]), "{is:?}");
        assert!((put..=put + unsure.load(Ordering::Relaxed)).contains(&is[0]), "{is:?} and {put} were put");
    }
    until("the others are gone", || house.nodes[0].programs().len() == programs.len());
    house.check();
}
