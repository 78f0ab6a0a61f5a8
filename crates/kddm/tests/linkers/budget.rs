//! Sets of which a node keeps no more than its budget: what goes, what stays, and who is told.

use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use kddm::budget::LEAST_BUDGET_BYTES;
use kddm::linker::{LinkerError, WritePolicy};
use kddm::{AccessError, BudgetInfo, Error, Node, ReadGuard, Set};
use serde::{Deserialize, Serialize};

use crate::memory::{Memory, Trouble};
use crate::{LIMIT, cluster, counts, read, write};

const BUDGET: u64 = LEAST_BUDGET_BYTES as u64;
/// Several times as many, of a KiB each, as fit the budget.
const OBJECTS: u64 = 300;

fn text(object: u64) -> String {
    format!("{object:4}").repeat(256)
}

fn budget(set: &Set<String>) -> BudgetInfo {
    set.budget().expect("it was opened with one")
}

/// Waits until it is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn until_within(set: &Set<String>) {
    until("it keeps to its budget", || budget(set).bytes <= BUDGET);
}

/// A set behind which the store stands, with a budget if it is to have one.
fn open(node: &Node, store: &Arc<Memory>, policy: WritePolicy, budget: Option<u64>) -> Set<String> {
    let builder = node.set("rows").linker("memory", Arc::clone(store)).write_policy(policy).linker_limit(LIMIT);
    let builder = builder.replicas(0).wait_limit(LIMIT);
    let builder = match budget {
        Some(bytes) => builder.memory_budget(bytes as usize),
        None => builder,
    };
    builder.open().wait_for(LIMIT).expect("the set opens")
}

fn one(policy: WritePolicy) -> (Node, Arc<Memory>, Set<String>) {
    let (node, store) = (cluster(1).remove(0), Arc::<Memory>::default());
    let set = open(&node, &store, policy, Some(BUDGET));
    (node, store, set)
}

#[test]
fn copies_go_and_their_owner_hears_of_it() {
    let nodes = cluster(2);
    let open = |node: &Node| node.set::<String>("texts").replicas(0).wait_limit(LIMIT);
    let owner: Set<String> = open(&nodes[0]).open().wait_for(LIMIT).expect("it opens");
    let reader = open(&nodes[1]).memory_budget(BUDGET as usize).open().wait_for(LIMIT).expect("it opens");
    (0..OBJECTS).for_each(|object| write(&owner, object, &text(object)).expect("it is put"));
    for round in 1..=2 {
        (0..OBJECTS).for_each(|object| assert_eq!(read(&reader, object), text(object)));
        until_within(&reader);
        let seen = budget(&reader);
        assert!(seen.dropped_copies > round * (OBJECTS - 2 * BUDGET / 1024), "{seen:?}");
        assert!(reader.local_count() < BUDGET as usize / 1024, "{}", reader.local_count());
        assert_eq!((seen.evicted, seen.passed_on, seen.stuck, seen.refused), (0, 0, 0, 0));
    }
    assert_eq!(owner.local_count() as u64, OBJECTS, "the last copy never goes");
    let heard = || nodes[0].statistics().by_kind().find(|(kind, ..)| *kind == "flushed").map(|(_, _, heard)| heard);
    until("the owner hears of each", || heard() == Some(budget(&reader).dropped_copies));
    write(&owner, 7, "newer").expect("it is put");
    assert_eq!(read(&reader, 7), "newer");
}

#[test]
fn what_a_node_owns_stays_where_nothing_stands_behind_it() {
    let node = cluster(1).remove(0);
    let builder = node.set("texts").memory_budget(BUDGET as usize);
    let set: Set<String> = builder.open().wait_for(LIMIT).expect("it opens");
    (0..OBJECTS).for_each(|object| write(&set, object, &text(object)).expect("it is put"));
    // Again, with a budget that is told anew: the hand goes round.
    let builder = node.set::<String>("texts").memory_budget(BUDGET as usize + 1);
    drop(builder.open().wait_for(LIMIT).expect("it opens"));
    assert_eq!(budget(&set).limit_bytes, BUDGET + 1, "the last handle that names one decides");
    (0..OBJECTS).for_each(|object| assert_eq!(read(&set, object), text(object)));
    let seen = budget(&set);
    assert_eq!((set.local_count() as u64, seen.evicted, seen.dropped_copies, seen.refused), (OBJECTS, 0, 0, 0));
}

#[test]
fn what_is_kept_behind_the_set_goes_and_is_read_again() {
    let (node, store, set) = one(WritePolicy::Through);
    for round in 0..2 {
        for object in 0..OBJECTS {
            if round == 0 {
                write(&set, object, &text(object)).expect("it is stored");
            } else {
                assert_eq!(read(&set, object), text(object));
            }
        }
        until_within(&set);
    }
    until("all are counted", || budget(&set).evicted == counts(&node).evicted);
    let seen = budget(&set);
    assert!(seen.evicted > OBJECTS, "{seen:?}");
    assert!(seen.freed_bytes > seen.evicted * 1024);
    assert!(set.local_count() < BUDGET as usize / 1024);
    assert_eq!(counts(&node).writes, OBJECTS, "each was there already");
    assert_eq!(store.text(7), Some(text(7)));
    assert_eq!((seen.failed, seen.stuck, seen.refused), (0, 0, 0));
}

/// Says which threads dropped one.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Dropped(Vec<u8>);

static DROPPED_BY: Mutex<Vec<ThreadId>> = Mutex::new(Vec::new());

impl Drop for Dropped {
    fn drop(&mut self) {
        DROPPED_BY.lock().expect("nobody panics here").push(std::thread::current().id());
    }
}

#[test]
fn whoever_wants_one_more_has_others_go_before_there_is_too_much() {
    struct Makes;
    impl kddm::linker::Linker<Dropped> for Makes {
        fn first_touch(&self, _: u64) -> Result<Option<Dropped>, LinkerError> {
            Ok(Some(Dropped(vec![7; 1024])))
        }
    }
    let node = cluster(1).remove(0);
    let builder = node.set("rows").linker("makes", Makes).quick_linker().replicas(0).wait_limit(LIMIT);
    let set: Set<Dropped> = builder.memory_budget(BUDGET as usize).open().wait_for(LIMIT).expect("the set opens");
    for object in 0..OBJECTS {
        assert_eq!(set.get(object).wait_for(LIMIT).expect("it is read").0.len(), 1024);
        // There is never so much that he must.
        until("it keeps to its budget", || set.budget().is_some_and(|budget| budget.bytes <= BUDGET));
    }
    let me = std::thread::current().id();
    let by_me = DROPPED_BY.lock().expect("nobody panics here").iter().filter(|by| **by == me).count();
    assert!(by_me > 0, "all have gone by the thread that keeps the budget");
    let seen = set.budget().expect("it has one");
    assert_eq!((seen.misses, seen.failed, seen.stuck, seen.refused), (OBJECTS, 0, 0, 0));
}

#[test]
fn what_is_used_again_and_again_stays() {
    const HOT: u64 = 8;
    let (node, store, set) = one(WritePolicy::Through);
    (0..2 * OBJECTS).for_each(|object| store.insert(object, &text(object)));
    for object in HOT..2 * OBJECTS {
        assert_eq!(read(&set, object), text(object));
        (0..HOT).for_each(|hot| assert_eq!(read(&set, hot), text(hot)));
    }
    let again = counts(&node).reads - 2 * OBJECTS;
    // By turns or by chance, each of them would have gone once for each time that the budget was filled: ten times.
    assert!(again < 3 * HOT, "{again} reads of what was used all the time");
}

#[test]
fn a_walk_through_what_is_read_once_leaves_what_was_used_before() {
    const HOT: u64 = 8;
    /// Twice as many as rounds of the hand.
    const WALKS: u64 = 12;
    let fit = BUDGET / (text(0).len() as u64 + 120);
    let (node, store, set) = one(WritePolicy::Through);
    let mut all = 0..HOT + (WALKS / 2 + 2) * fit;
    all.clone().for_each(|object| store.insert(object, &text(object)));
    let mut walk = |count: u64| all.by_ref().take(count as usize).for_each(|at| assert_eq!(read(&set, at), text(at)));
    walk(HOT);
    for _ in 0..WALKS {
        (0..HOT).for_each(|hot| assert_eq!(read(&set, hot), text(hot)));
        walk(fit / 2);
    }
    let before = counts(&node).reads;
    walk(2 * fit);
    assert_eq!(counts(&node).reads, before + 2 * fit, "each was read once, and is new");
    (0..HOT).for_each(|hot| assert_eq!(read(&set, hot), text(hot)));
    let again = counts(&node).reads - before - 2 * fit;
    assert!(again <= 1, "{again} of {HOT} have gone for what nobody has read twice");
}

#[test]
fn what_is_put_again_and_again_stays() {
    const HOT: u64 = 8;
    let (node, _store, set) = one(WritePolicy::Through);
    (0..HOT).for_each(|hot| write(&set, hot, &text(hot)).expect("it is stored"));
    for object in HOT..2 * OBJECTS {
        write(&set, object, &text(object)).expect("it is stored");
        (0..HOT).for_each(|hot| write(&set, hot, &text(hot)).expect("it is stored"));
    }
    until("most have gone", || budget(&set).evicted > OBJECTS);
    let again = counts(&node).reads - 2 * OBJECTS;
    assert!(again < 3 * HOT, "{again} reads of what was put all the time");
}

#[test]
fn a_store_that_fails_is_left_alone_between_tries() {
    let never = WritePolicy::Behind { lag: Duration::from_secs(3600), bytes: 64 << 20 };
    let (_node, store, set) = one(never);
    store.trouble(Trouble::None, Trouble::Fails);
    let few = 2 * BUDGET / 1024 - 20;
    (0..few).for_each(|object| write(&set, object, &text(object)).expect("it is put"));
    let tried = std::cell::Cell::new(0);
    until("the thread gives up for a while", || {
        let seen = budget(&set);
        tried.set(seen.failed);
        seen.stuck > 0
    });
    // Rounds that fail end after 64 of them and as many that were under way, and four of them are enough; whoever puts
    // makes some, too.
    assert!((1..16 * 64).contains(&tried.get()), "{} writes were tried", tried.get());
    assert_eq!(set.local_count() as u64, few, "nothing is dropped");
    store.trouble(Trouble::None, Trouble::None);
    until_within(&set);
}

#[test]
fn what_is_not_written_yet_is_written_before_it_goes() {
    let never = WritePolicy::Behind { lag: Duration::from_secs(3600), bytes: 64 << 20 };
    let (_node, store, set) = one(never);
    store.trouble(Trouble::None, Trouble::Fails);
    let few = 2 * BUDGET / 1024 - 20;
    (0..few).for_each(|object| write(&set, object, &text(object)).expect("it is put"));
    until("it cannot go", || budget(&set).failed > 0);
    assert_eq!(set.local_count() as u64, few, "nothing is dropped");
    store.trouble(Trouble::None, Trouble::None);
    until_within(&set);
    assert!(set.local_count() < BUDGET as usize / 1024);
    for object in 0..few {
        until("it is here or there", || set.find(object).is_some() || store.text(object) == Some(text(object)));
    }
    assert!((0..few).filter(|object| store.text(*object).is_some()).count() as u64 > few - BUDGET / 1024);
    (0..few).for_each(|object| assert_eq!(read(&set, object), text(object)));
}

#[test]
fn what_is_put_around_the_store_stays_and_what_came_from_there_goes() {
    let (_node, store, set) = one(WritePolicy::Around);
    (0..OBJECTS).for_each(|object| store.insert(object, &text(object)));
    write(&set, 7, "nowhere else").expect("it is put");
    (0..OBJECTS).filter(|object| *object != 7).for_each(|object| assert_eq!(read(&set, object), text(object)));
    until_within(&set);
    until("most have gone", || budget(&set).evicted > OBJECTS / 2);
    assert_eq!(read(&set, 7), "nowhere else");
    assert_eq!(store.text(7), Some(text(7)));
}

#[test]
fn what_others_read_is_theirs_from_then_on() {
    let (nodes, store) = (cluster(2), Arc::<Memory>::default());
    let other = open(&nodes[1], &store, WritePolicy::Through, None);
    let set = open(&nodes[0], &store, WritePolicy::Through, Some(BUDGET));
    for object in 0..OBJECTS {
        write(&set, object, &text(object)).expect("it is stored");
        assert_eq!(read(&other, object), text(object));
    }
    until_within(&set);
    let gone = |seen: BudgetInfo| seen.passed_on + seen.evicted;
    until("most have gone", || gone(budget(&set)) > OBJECTS / 2);
    (0..OBJECTS).for_each(|object| assert_eq!(read(&other, object), text(object)));
    (0..OBJECTS).for_each(|object| write(&other, object, "changed").expect("it is stored"));
    (0..OBJECTS).for_each(|object| assert_eq!(read(&set, object), "changed"));
}

#[test]
fn nothing_that_is_held_goes_and_more_is_refused_at_twice_the_budget() {
    let (_node, store, set) = one(WritePolicy::Through);
    (0..OBJECTS).for_each(|object| store.insert(object, &text(object)));
    let mut held: Vec<ReadGuard<String>> = Vec::new();
    let refused = loop {
        match set.get(held.len() as u64).wait_for(LIMIT) {
            Ok(guard) => held.push(guard),
            Err(error) => break error,
        }
    };
    let Error::Access(AccessError::OverBudget { set: name, bytes, limit_bytes }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((&*name, limit_bytes as u64), ("rows", BUDGET));
    assert!((2 * BUDGET..2 * BUDGET + 2048).contains(&(bytes as u64)), "{bytes}");
    until("the thread gives up for a while", || budget(&set).stuck > 0);
    assert_eq!(budget(&set).refused, 1);
    assert!(held.iter().enumerate().all(|(object, guard)| **guard == text(object as u64)));
    assert_eq!(read(&set, 3), text(3), "what is here is not refused");
    drop(held);
    assert_eq!(read(&set, OBJECTS - 1), text(OBJECTS - 1), "whoever wants more makes room");
    until_within(&set);
}

#[test]
fn hits_are_counted_of_one_object_in_64() {
    const MANY: u64 = 2_000;
    let (node, store) = (cluster(1).remove(0), Arc::<Memory>::default());
    let set = open(&node, &store, WritePolicy::Through, Some(1 << 30));
    assert_eq!(budget(&set).hit_ratio, None);
    for _ in 0..4 {
        (0..MANY).for_each(|object| assert_eq!(read(&set, object), ""));
    }
    let seen = budget(&set);
    assert_eq!((seen.misses, seen.hit_ratio), (MANY, Some(0.75)), "{seen:?}");
    assert!((MANY..6 * MANY).contains(&seen.hits), "{seen:?}: 3 times as many, but for chance");
    assert!(seen.bytes > MANY * 120 && seen.bytes < MANY * 130);
}

#[test]
fn a_budget_that_is_too_small_is_refused_and_one_ends_with_its_set_and_node() {
    let (node, _store, set) = one(WritePolicy::Through);
    let small = node.set::<String>("small").memory_budget(LEAST_BUDGET_BYTES - 1).open().wait_for(LIMIT);
    assert!(matches!(small, Err(Error::Configuration(_))), "{small:?}");
    assert!(node.set_info("small").is_err(), "it was not made");
    (0..OBJECTS).for_each(|object| write(&set, object, &text(object)).expect("it is stored"));
    assert_eq!(node.budgets().len(), 1);
    node.destroy_set("rows", LIMIT).wait_for(LIMIT).expect("it ends");
    assert_eq!((node.budgets().len(), set.budget()), (0, None));
    let again = open(&node, &Arc::default(), WritePolicy::Through, Some(BUDGET));
    let held: Vec<_> = (0..70).map(|object| again.get(object).wait_for(LIMIT).expect("it is made")).collect();
    node.stop();
    drop(held);
}
