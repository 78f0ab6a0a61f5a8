//! What needs a look inside.

use std::time::Duration;

use crate::error::{AccessError, Error};
use crate::{Node, Set};

const LIMIT: Duration = Duration::from_secs(30);

fn house(programs: usize) -> Vec<Node> {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let socket = std::env::temp_dir().join(format!("kddm-lending-{}-{number}.sock", std::process::id()));
    let mut all = Node::local_cluster(2).expect("two nodes");
    all[0].accept_programs(&socket).expect("the path is free");
    all.extend((0..programs).map(|_| Node::attach(&socket).expect("it accepts programs")));
    all
}

fn insist<O>(mut work: impl FnMut() -> Result<O, Error>) -> O {
    loop {
        match work() {
            Err(Error::Access(AccessError::Overloaded { .. })) => std::thread::yield_now(),
            other => return other.expect("only memory is refused"),
        }
    }
}

/// Each n-th input of the protocol is refused in the nodes: programs are told, and no loan is lost.
#[test]
fn programs_survive_that_their_node_lacks_memory() {
    const TURNS: u64 = 40;
    let all = house(2);
    let sets: Vec<Set<u64>> = all.iter().map(|node| node.set("refused").open().expect("a set")).collect();
    for node in &all[..2] {
        node.runtime().lanes.iter().for_each(|lane| lane.lock().refuse_each = Some(3));
    }
    std::thread::scope(|scope| {
        for set in &sets {
            scope.spawn(move || {
                for turn in 0..TURNS {
                    insist(|| {
                        let add = |count: &mut u64| {
                            *count += 1;
                            Ok(())
                        };
                        set.update(turn % 2, add).wait_for(LIMIT)
                    });
                    insist(|| set.get(2).wait_for(LIMIT).map(drop));
                    set.grab(2).cancel();
                    match set.try_grab(3).wait_for(LIMIT) {
                        Ok(guard) => drop(guard),
                        Err(Error::Access(AccessError::Busy | AccessError::Overloaded { .. })) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    for node in &all[..2] {
        node.runtime().lanes.iter().for_each(|lane| lane.lock().refuse_each = None);
    }
    let total: u64 = (0..2).map(|object| *sets[2].get(object).wait_for(LIMIT).expect("a copy")).sum();
    assert_eq!(total, 4 * TURNS);
    for node in &all[..2] {
        let seen = node.statistics();
        assert!(seen.refused_memory > 0, "it has shown nothing");
        assert_eq!((seen.dropped, seen.faults, seen.malformed), (0, 0, 0));
    }
    assert_eq!(all[0].programs().len(), 2);
}

/// When nobody has anything any more, nothing is left in the books of the node, nor in the programs.
#[test]
fn no_book_is_kept_of_what_came_back() {
    let all = house(2);
    let sets: Vec<Set<u64>> = all.iter().map(|node| node.set("books").open().expect("a set")).collect();
    for object in 0..100 {
        for set in &sets {
            set.update(object, |count| {
                *count += 1;
                Ok(())
            })
            .wait_for(LIMIT)
            .expect("granted");
        }
        sets[1].remove(object).wait_for(LIMIT).expect("removed");
    }
    for node in &all {
        for lane in &node.runtime().lanes {
            let state = lane.lock();
            assert!(state.desk.has_lent_nothing());
            assert!(state.locals.is_empty(), "node {}", node.id());
            assert_eq!(state.link.as_ref().map_or(0, |link| link.books()), 0);
            assert_eq!(state.outstanding, 0);
        }
    }
    assert!(all[0].programs().iter().all(|program| (program.lent, program.waiting) == (0, 0)));
}

/// A fenced node takes back what it has lent, with its own right to it.
#[test]
fn programs_of_a_fenced_node_use_nothing_any_more() {
    let all = house(1);
    let set: Set<u64> = all[2].set("fenced").open().expect("a set");
    let guard = set.grab(1).wait().expect("granted");
    drop(set.get(2).wait().expect("made here"));
    for lane in &all[0].runtime().lanes {
        let mut state = lane.lock();
        state.fence("a test says so");
        lane.finish(state);
    }
    let is_fenced = |error: Error| matches!(error, Error::Access(AccessError::Fenced));
    let begin = std::time::Instant::now();
    while set.find(2).is_some() {
        assert!(begin.elapsed() < LIMIT, "a copy is still read");
        std::thread::yield_now();
    }
    assert!(set.get(2).wait().is_err_and(is_fenced));
    assert!(guard.put().wait().is_err_and(is_fenced));
}
