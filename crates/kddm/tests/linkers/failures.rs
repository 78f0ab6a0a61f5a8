//! What goes wrong behind a set: whoever asked hears of it, the object is as it was, and nobody is kept waiting.

use std::sync::Arc;
use std::time::Duration;

use kddm::{AccessError, Error, Fate, LinkerError, Node, Set};

use crate::memory::{Memory, Trouble};
use crate::{LIMIT, append, counts, is_not_found, linker_error, read, two, write};

/// Long enough for a busy machine, short enough to be waited for in vain.
const SHORT: Duration = Duration::from_millis(200);

/// A set whose linker has little time.
fn hurried(node: &Node, store: &Arc<Memory>) -> Set<String> {
    let builder = node.set("rows").linker("memory", Arc::clone(store)).linker_limit(SHORT);
    builder.replicas(0).wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
}

fn hurried_one() -> (Node, Arc<Memory>, Set<String>) {
    let (node, store) = (crate::cluster(1).remove(0), Arc::<Memory>::default());
    let set = hurried(&node, &store);
    (node, store, set)
}

#[test]
fn a_read_that_fails_leaves_the_object_absent_and_is_tried_again() {
    let (nodes, store, sets) = two(0);
    store.insert(7, "stored");
    for trouble in [Trouble::Fails, Trouble::Panics] {
        store.trouble(trouble, Trouble::None);
        let error = sets[0].get(7).wait_for(LIMIT).expect_err("it cannot be read");
        assert_eq!((error.fate(), error.code() / 100), (Fate::NothingHappened, 8), "{error}");
        let error = linker_error(sets[1].grab_existing(7).wait_for(LIMIT));
        let is_meant = match trouble {
            Trouble::Panics => matches!(error, LinkerError::Panicked { object: 7, was_writing: false, .. }),
            _ => matches!(error, LinkerError::Store { kind: "memory", .. }),
        };
        assert!(is_meant, "{error:?}");
    }
    store.trouble(Trouble::None, Trouble::None);
    assert_eq!(read(&sets[0], 7), "stored");
    assert_eq!((counts(&nodes[0]).errors, counts(&nodes[1]).errors), (2, 2));
}

#[test]
fn what_is_kept_with_another_shape_or_too_large_is_an_error() {
    let (_nodes, store, sets) = two(0);
    store.insert_bytes(7, &[9, 1, 2]);
    let error = linker_error(sets[0].get(7).wait_for(LIMIT));
    assert!(matches!(error, LinkerError::Damaged { object: 7, .. }), "{error:?}");
    let node = Node::join(kddm::Config::new().object_limit_bytes(1 << 16)).wait_for(LIMIT).expect("a node");
    let small = hurried(&node, &store);
    store.insert(8, &"x".repeat(1 << 17));
    let error = small.get(8).wait_for(LIMIT).expect_err("it is too large for this node");
    assert!(matches!(error, Error::Access(AccessError::TooLarge { .. })), "{error:?}");
}

#[test]
fn what_makes_a_first_value_may_panic() {
    let (_nodes, store, sets) = two(0);
    let made = sets[0].grab_or_insert_with(7, || panic!("the test has it panic"));
    let error = linker_error(made.wait_for(LIMIT));
    assert!(matches!(error, LinkerError::Panicked { object: 7, .. }), "{error:?}");
    assert!(is_not_found(&sets[1].get_existing(7).wait_for(LIMIT)));
    assert_eq!(store.text(7), None);
}

#[test]
fn a_put_that_is_not_kept_publishes_nothing() {
    for replicas in [0, 1] {
        let (_nodes, store, sets) = two(replicas);
        write(&sets[0], 7, "old").expect("it is stored");
        for trouble in [Trouble::Fails, Trouble::Panics] {
            store.trouble(Trouble::None, trouble);
            let error = write(&sets[0], 7, "new").expect_err("it is not stored");
            assert_eq!(error.fate(), Fate::Unknown, "the store may have it: {error}");
            assert_eq!((read(&sets[0], 7), read(&sets[1], 7)), ("old".into(), "old".into()));
            let update = sets[1].update(7, append('x'));
            update.wait_for(LIMIT).expect_err("it is not stored");
            linker_error(sets[1].remove(7).wait_for(LIMIT));
            assert_eq!((read(&sets[0], 7), read(&sets[1], 7)), ("old".into(), "old".into()));
        }
        store.trouble(Trouble::None, Trouble::None);
        write(&sets[0], 7, "new").expect("it is stored");
        assert_eq!((read(&sets[1], 7), store.text(7)), ("new".into(), Some("new".into())));
    }
}

#[test]
fn an_operation_at_the_owner_that_is_not_kept_is_not_confirmed() {
    let (_nodes, store, sets) = two(0);
    let add = |text: &mut String, more: String| text.push_str(&more);
    let operations = [&sets[0], &sets[1]].map(|set| set.operation("add", add).expect("the name is free"));
    write(&sets[0], 7, "old").expect("it is stored");
    store.trouble(Trouble::None, Trouble::Fails);
    let error = operations[1].invoke(7, "x".into()).wait_for(LIMIT).expect_err("it is not stored");
    assert_eq!(error.fate(), Fate::Unknown, "{error}");
    assert_eq!(read(&sets[0], 7), "old");
}

#[test]
fn a_read_that_takes_too_long_ends_and_holds_nothing() {
    let (node, store, set) = hurried_one();
    store.insert(7, "stored");
    let gate = store.stop_reads();
    let error = linker_error(set.get(7).wait_for(LIMIT));
    assert!(matches!(error, LinkerError::TimedOut { object: 7, .. }), "{error:?}");
    store.stop_nobody();
    assert_eq!(read(&set, 7), "stored", "nobody holds it");
    gate.open();
    while counts(&node).late == 0 {
        std::thread::yield_now();
    }
    assert_eq!((read(&set, 7), counts(&node).timed_out), ("stored".into(), 1));
}

#[test]
fn a_late_write_is_older_than_what_was_put_after_it() {
    let (node, store, set) = hurried_one();
    write(&set, 7, "old").expect("it is stored");
    let gate = store.stop_writes();
    let error = write(&set, 7, "late").expect_err("the store does not answer");
    assert_eq!(error.fate(), Fate::Unknown);
    assert!(matches!(linker_error::<()>(Err(error)), LinkerError::Unconfirmed { object: 7, .. }));
    assert_eq!(read(&set, 7), "old");
    store.stop_nobody();
    write(&set, 7, "newer").expect("it is stored");
    gate.open();
    while counts(&node).refused == 0 {
        std::thread::yield_now();
    }
    assert_eq!(store.text(7).as_deref(), Some("newer"), "the late one was refused");
    assert_eq!(read(&set, 7), "newer");
}

#[test]
fn nothing_of_the_cluster_may_be_waited_for_in_a_linker() {
    struct Asks(Set<u64>);
    impl kddm::linker::Linker<u64> for Asks {
        fn first_touch(&self, object: u64) -> Result<Option<u64>, LinkerError> {
            match self.0.get(object).wait() {
                Err(Error::Access(AccessError::WouldBlock)) => Ok(Some(1)),
                _ => Ok(None),
            }
        }
    }
    let node = crate::cluster(1).remove(0);
    let other: Set<u64> = node.set("other").open().wait_for(LIMIT).expect("it opens");
    let set: Set<u64> = node.set("asks").linker("asks", Asks(other)).open().wait_for(LIMIT).expect("it opens");
    assert_eq!(*set.get(7).wait_for(LIMIT).expect("it answers"), 1);
}

#[test]
fn whoever_gives_up_keeps_nobody_waiting() {
    let (_nodes, store, sets) = two(0);
    store.insert(7, "stored");
    let gate = store.stop_reads();
    let asked = sets[0].get(7);
    asked.wait_for(SHORT).expect_err("the store does not answer");
    gate.wait_until_stopped();
    let other = sets[1].get(7);
    gate.open();
    assert_eq!(*other.wait_for(LIMIT).expect("it was read for the one who gave up"), "stored");
}

#[test]
fn a_put_that_nobody_waits_for_is_kept_all_the_same() {
    let (_nodes, store, sets) = two(0);
    let mut guard = sets[0].grab(7).wait_for(LIMIT).expect("it can be had");
    *guard = "kept".into();
    drop(guard.put());
    assert_eq!(read(&sets[1], 7), "kept");
    assert_eq!(store.text(7).as_deref(), Some("kept"));
}

#[test]
fn a_node_stops_though_its_store_does_not_answer() {
    let (node, store, set) = hurried_one();
    let gates = (store.stop_reads(), store.stop_writes());
    let waits = std::thread::spawn({
        let set = set.clone();
        move || set.get(7).wait_for(LIMIT)
    });
    gates.0.wait_until_stopped();
    node.stop_within(Duration::ZERO);
    let ended = waits.join().expect("no panic");
    assert!(ended.is_err(), "{ended:?}");
    gates.0.open();
    assert!(matches!(set.get(8).wait_for(LIMIT), Err(Error::Membership(_))));
}

#[test]
fn a_set_is_destroyed_while_it_is_written() {
    let (nodes, store, sets) = two(0);
    let gate = store.stop_writes();
    let mut guard = sets[0].grab(7).wait_for(LIMIT).expect("it can be had");
    *guard = "too late".into();
    let put = guard.put();
    gate.wait_until_stopped();
    nodes[1].destroy_set("rows", Duration::ZERO).wait_for(LIMIT).expect("it goes");
    gate.open();
    let error = put.wait_for(LIMIT).expect_err("its set is gone");
    assert_eq!(error.fate(), Fate::Unknown, "the store has it: {error}");
    assert!(nodes[0].linkers().is_empty() && nodes[1].linkers().is_empty());
    let again = crate::open(&nodes[0], &store, 0);
    assert_eq!(read(&again, 7), "too late", "what the store has is not destroyed with the set");
}
