//! What is put is written later, and is not forgotten.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm::linker::{Linker, Stamp, WritePolicy, Written};
use kddm::{Error, LinkerError, Node, Set};

use crate::memory::{Memory, Trouble};
use crate::{LIMIT, append, counts, is_not_found, linker_error, read, write};

/// Nobody waits that long: only what hurries is written.
const NEVER: WritePolicy = WritePolicy::Behind { lag: Duration::from_secs(3600), bytes: 1 << 20 };

/// Long enough for a busy machine, short enough to be waited for in vain.
const SHORT: Duration = Duration::from_millis(200);

fn open(node: &Node, store: &Arc<Memory>, policy: WritePolicy, replicas: u8) -> Set<String> {
    let builder = node.set("rows").linker("memory", Arc::clone(store)).linker_limit(LIMIT).write_policy(policy);
    builder.replicas(replicas).wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
}

fn two(policy: WritePolicy, replicas: u8) -> (Vec<Node>, Arc<Memory>, [Set<String>; 2]) {
    let (nodes, store) = (crate::cluster(2), Arc::<Memory>::default());
    let sets = [0, 1].map(|at: usize| open(&nodes[at], &store, policy, replicas));
    (nodes, store, sets)
}

fn sync(set: &Set<String>) {
    set.sync().wait_for(LIMIT).expect("all is written");
}

#[test]
fn what_was_put_is_seen_at_once_and_written_when_somebody_waits_for_it() {
    for replicas in [0, 1] {
        let (nodes, store, sets) = two(NEVER, replicas);
        write(&sets[0], 7, "first").expect("it is put");
        (0..50).for_each(|_| sets[0].update(7, append('x')).wait_for(LIMIT).expect("it is put"));
        write(&sets[0], 8, "other").expect("it is put");
        assert_eq!(read(&sets[1], 7).len(), 55);
        assert_eq!((store.text(7), store.text(8)), (None, None));
        let before = counts(&nodes[0]);
        assert_eq!((before.queued, before.queued_bytes, before.coalesced, before.writes), (2, 56 + 6, 50, 0));
        sync(&sets[0]);
        assert_eq!(store.text(7).map(|text| text.len()), Some(55));
        assert_eq!(store.text(8).as_deref(), Some("other"));
        let after = counts(&nodes[0]);
        assert_eq!((after.queued, after.queued_bytes, after.writes), (0, 0, 2), "the last of each");
    }
}

#[test]
fn without_anybody_who_waits_it_is_written_after_its_lag() {
    let (nodes, store, sets) = two(WritePolicy::Behind { lag: Duration::from_millis(20), bytes: 1 << 20 }, 1);
    write(&sets[1], 7, "later").expect("it is put");
    let deadline = Instant::now() + LIMIT;
    while store.text(7).is_none() {
        assert!(Instant::now() < deadline, "nobody writes it");
        std::thread::yield_now();
    }
    sync(&sets[1]);
    assert_eq!(counts(&nodes[1]).queued, 0);
}

#[test]
fn when_too_much_waits_puts_fail_and_publish_nothing() {
    let (nodes, store, sets) = two(WritePolicy::Behind { lag: Duration::ZERO, bytes: 1000 }, 0);
    write(&sets[0], 1, "old").expect("it is put");
    sync(&sets[0]);
    let gate = store.stop_writes();
    let text = "x".repeat(99);
    (11..=20).for_each(|object| write(&sets[0], object, &text).expect("there is room"));
    let full = linker_error(write(&sets[0], 1, "new"));
    assert!(matches!(full, LinkerError::Behind { waiting: 10, waiting_bytes: 1000, .. }), "{full:?}");
    assert_eq!((read(&sets[0], 1), read(&sets[1], 1)), ("old".into(), "old".into()));
    assert_eq!(counts(&nodes[0]).full, 1);
    gate.open();
    sync(&sets[0]);
    write(&sets[0], 1, "new").expect("there is room again");
    sync(&sets[0]);
    assert_eq!(store.text(1).as_deref(), Some("new"));
    assert!((11..=20).all(|object| store.text(object).as_ref() == Some(&text)));
}

#[test]
fn what_would_never_fit_is_refused_at_once() {
    let (nodes, store, sets) = two(WritePolicy::Behind { lag: Duration::ZERO, bytes: 100 }, 0);
    write(&sets[0], 7, "old").expect("it is put");
    let error = write(&sets[0], 7, &"x".repeat(100)).expect_err("its length takes a byte");
    assert_eq!(error.fate(), kddm::Fate::NothingHappened);
    let large = linker_error::<()>(Err(error));
    assert!(matches!(large, LinkerError::TooLarge { object: 7, bytes: 101, limit_bytes: 100, .. }), "{large:?}");
    assert_eq!(read(&sets[1], 7), "old");
    write(&sets[0], 7, &"x".repeat(99)).expect("this one fits");
    sync(&sets[0]);
    assert_eq!((store.text(7).map(|text| text.len()), counts(&nodes[0]).full), (Some(99), 0));
}

#[test]
fn a_store_that_is_broken_for_a_while_loses_nothing() {
    let (nodes, store, sets) = two(WritePolicy::Behind { lag: Duration::ZERO, bytes: 1 << 20 }, 0);
    for trouble in [Trouble::Fails, Trouble::Panics] {
        store.trouble(Trouble::None, trouble);
        (1..=20).for_each(|object| write(&sets[0], object, "kept").expect("it is put"));
        let late = linker_error(sets[0].sync().wait_for(SHORT));
        assert!(matches!(late, LinkerError::NotSynced { waiting: 1.., .. }), "{late:?}");
        assert!(counts(&nodes[0]).retries > 0);
        store.trouble(Trouble::None, Trouble::None);
        sync(&sets[0]);
        assert!((1..=20).all(|object| store.text(object).as_deref() == Some("kept")));
        assert_eq!(counts(&nodes[0]).queued, 0);
    }
}

#[test]
fn what_cannot_be_written_stands_in_nobodys_way() {
    #[derive(Clone, Default)]
    struct But13(Arc<Memory>);
    impl Linker<String> for But13 {
        fn first_touch(&self, object: u64) -> Result<Option<String>, LinkerError> {
            Linker::<String>::first_touch(&self.0, object)
        }
        fn write_back(&self, object: u64, stamp: Stamp, text: &String) -> Result<Written, LinkerError> {
            if object == 13 {
                return Err(LinkerError::Store { kind: "but 13", reason: "it does not like it".into() });
            }
            self.0.write_back(object, stamp, text)
        }
    }
    let (node, but) = (crate::cluster(1).remove(0), But13::default());
    let builder = node.set("rows").linker("but 13", but.clone()).write_policy(NEVER);
    let set: Set<String> = builder.open().wait_for(LIMIT).expect("the set opens");
    (10..20).for_each(|object| write(&set, object, "kept").expect("it is put"));
    let waits = std::thread::spawn({
        let set = set.clone();
        move || set.sync().wait_for(LIMIT)
    });
    let deadline = Instant::now() + LIMIT;
    while counts(&node).queued > 1 {
        assert!(Instant::now() < deadline, "{:?}", counts(&node));
        std::thread::yield_now();
    }
    assert!((10..20).all(|object| but.0.text(object).is_some() == (object != 13)));
    set.remove(13).wait_for(LIMIT).expect("then it is not to be written any more");
    waits.join().expect("no panic").expect("nothing waits");
}

#[test]
fn a_late_write_of_the_last_owner_is_refused_and_the_newest_stays() {
    let (nodes, store, sets) = two(WritePolicy::Behind { lag: Duration::ZERO, bytes: 1 << 20 }, 1);
    let gate = store.stop_writes();
    write(&sets[0], 7, "of the first").expect("it is put");
    gate.wait_until_stopped();
    store.stop_nobody();
    write(&sets[1], 7, "of the second").expect("it is put");
    sync(&sets[1]);
    gate.open();
    sync(&sets[0]);
    assert_eq!(store.text(7).as_deref(), Some("of the second"));
    assert_eq!((counts(&nodes[0]).refused, counts(&nodes[0]).queued), (1, 0));
}

#[test]
fn what_is_removed_does_not_come_back() {
    let (_nodes, store, sets) = two(NEVER, 0);
    for object in [7, 8] {
        write(&sets[0], object, "a").expect("it is put");
    }
    sets[0].remove(7).wait_for(LIMIT).expect("it is removed");
    sets[1].remove(8).wait_for(LIMIT).expect("it is removed by another");
    assert!(is_not_found(&sets[0].get_existing(8).wait_for(LIMIT)), "though what was put before waits here still");
    sync(&sets[0]);
    sync(&sets[1]);
    for object in [7, 8] {
        assert!(store.stamp(object).is_some_and(|stamp| stamp.tenure > 0), "a removal is written at once");
        assert_eq!(store.text(object), None);
        assert!(is_not_found(&sets[0].get_existing(object).wait_for(LIMIT)));
    }
}

#[test]
fn a_node_that_stops_and_a_set_that_is_destroyed_write_what_is_left() {
    let (nodes, store, sets) = two(NEVER, 1);
    (0..20).for_each(|object| write(&sets[object as usize % 2], object, "kept").expect("it is put"));
    assert_eq!(store.text(1), None);
    nodes[1].stop();
    let written = |store: &Memory, odd: u64| {
        (0..20).filter(|object| object % 2 == odd).all(|object| store.text(object).is_some())
    };
    assert!(written(&store, 1) && !written(&store, 0));
    nodes[0].destroy_set("rows", LIMIT).wait_for(LIMIT).expect("it goes");
    assert!(written(&store, 0));
}

#[test]
fn a_node_stops_though_what_is_left_cannot_be_written() {
    let (nodes, store, sets) = two(NEVER, 0);
    store.trouble(Trouble::None, Trouble::Fails);
    write(&sets[1], 7, "never written").expect("it is put");
    nodes[1].stop_within(SHORT);
    assert_eq!(store.text(7), None);
    assert!(matches!(sets[1].sync().wait_for(LIMIT), Ok(()) | Err(Error::Linker(_))), "nobody waits for it");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let node = crate::cluster(1).remove(0);
    for policy in [
        WritePolicy::Behind { lag: Duration::ZERO, bytes: 0 },
        WritePolicy::Behind { lag: Duration::from_secs(3601), bytes: 1 },
    ] {
        let builder = node.set::<String>("rows").linker("memory", Arc::<Memory>::default()).write_policy(policy);
        let error = builder.open().wait_for(LIMIT).expect_err("it makes no sense");
        assert!(error.to_string().contains("write_policy"), "{error}");
    }
    let behind = node.set::<String>("rows").linker("memory", Arc::<Memory>::default()).write_policy(NEVER);
    let error = behind.on_loss(kddm::OnLoss::Linker).open().wait_for(LIMIT).expect_err("the store may be older");
    assert!(error.to_string().contains("on_loss"), "{error}");
}

#[test]
fn a_set_without_a_linker_has_nothing_to_wait_for() {
    let node = crate::cluster(1).remove(0);
    let set: Set<String> = node.set("plain").open().wait_for(LIMIT).expect("it opens");
    sync(&set);
    let through = crate::open(&node, &Arc::default(), 0);
    write(&through, 7, "kept").expect("it is put");
    sync(&through);
}
