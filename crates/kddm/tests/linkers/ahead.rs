//! What is fetched in advance is read from behind the set, too.

use std::time::Duration;

use kddm::{Error, LinkerError};

use crate::memory::Trouble;
use crate::{LIMIT, counts, is_not_found, linker_error, two};

#[test]
fn what_is_fetched_is_read_and_found_without_a_wait() {
    let (nodes, store, sets) = two(0);
    (0..40).for_each(|object| store.insert(object, "stored"));
    for fetched in sets[0].prefetch(0..20) {
        fetched.wait_for(LIMIT).expect("it is read");
    }
    assert_eq!(counts(&nodes[0]).reads, 20);
    for object in 0..20 {
        assert_eq!(*sets[0].find(object).expect("it is here"), "stored");
        sets[1].fetch(object).wait_for(LIMIT).expect("a copy");
        assert_eq!(*sets[1].find(object).expect("it is here"), "stored");
    }
    for object in 20..30 {
        sets[1].acquire(object).wait_for(LIMIT).expect("it is read");
        assert_eq!(*sets[1].find(object).expect("it is here"), "stored");
    }
    assert_eq!(counts(&nodes[1]).reads, 10, "the others it had from the first");
    // Nobody waits for it, and it goes on.
    drop(sets[0].prefetch(30..40));
    for object in 30..40 {
        while sets[0].find(object).is_none() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_is_nowhere_is_not_made_by_a_fetch() {
    let (_nodes, _store, sets) = two(0);
    sets[0].fetch(7).wait_for(LIMIT).expect("there is nothing to fetch");
    sets[0].acquire(8).wait_for(LIMIT).expect("nor here");
    for object in [7, 8] {
        assert!(sets[0].find(object).is_none());
        assert!(is_not_found(&sets[1].get_existing(object).wait_for(LIMIT)));
    }
}

#[test]
fn a_fetch_that_cannot_be_read_says_why_and_ends_at_its_limit() {
    let (_nodes, store, sets) = two(0);
    store.insert(7, "stored");
    store.trouble(Trouble::Fails, Trouble::None);
    let error = linker_error(sets[0].fetch(7).wait_for(LIMIT));
    assert!(matches!(error, LinkerError::Store { kind: "memory", .. }), "{error:?}");
    store.trouble(Trouble::None, Trouble::None);
    let gate = store.stop_reads();
    let fetched = sets[0].fetch(7);
    gate.wait_until_stopped();
    let late = fetched.wait_for(Duration::from_millis(50)).expect_err("the store does not answer");
    assert!(matches!(late, Error::Access(_)), "{late:?}");
    gate.open();
    sets[0].fetch(7).wait_for(LIMIT).expect("it is read");
}
