//! Frozen sets: nobody writes, whoever he is and wherever he comes in; readers notice nothing; and it ends with
//! whoever holds it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kddm::linker::Memory;
use kddm::{AccessError, Config, Error, Freeze, FreezeError, Holding, Node, Set, SetError, WaitingFor};

/// No test takes as long; one that does has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// What is not to happen is waited for so long.
const MOMENT: Duration = Duration::from_millis(50);

/// The death of a node is to be seen soon, and on a busy machine that of nobody else.
const LEASE: Duration = Duration::from_secs(4);

fn open(node: &Node, name: &str, replicas: u8) -> Set<u64> {
    node.set(name).replicas(replicas).wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
}

fn put(set: &Set<u64>, object: u64, value: u64) {
    let mut guard = set.grab(object).wait_for(LIMIT).expect("nobody holds it");
    *guard = value;
    guard.put().wait_for(LIMIT).expect("it is put");
}

fn read(set: &Set<u64>, object: u64) -> u64 {
    *set.get(object).wait_for(LIMIT).expect("reads go on")
}

fn add(more: u64) -> impl FnOnce(&mut u64) -> Result<(), Error> {
    move |value| {
        *value += more;
        Ok(())
    }
}

fn freeze(set: &Set<u64>) -> Freeze {
    set.freeze().wait_for(LIMIT).expect("it is frozen")
}

fn cluster(nodes: u16, lease: Duration) -> Vec<Node> {
    let first = Node::join(Config::new().node_id(1).lease(lease)).wait_for(LIMIT).expect("the first node");
    let mut all = vec![first];
    for id in 2..=nodes {
        all.push(join(&all[0], id));
    }
    all
}

fn join(first: &Node, id: u16) -> Node {
    let config = Config::new().node_id(id).contact(first.address().clone());
    Node::join(config).wait_for(LIMIT).expect("it is let in")
}

fn attached(node: &Node, name: &str) -> Node {
    let socket = std::env::temp_dir().join(format!("kddm-freeze-{}-{name}.sock", std::process::id()));
    node.accept_programs(&socket).expect("programs may come");
    Node::attach(&socket).wait_for(LIMIT).expect("it is let in")
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::yield_now();
    }
}

/// The wait ends at its limit, and says who has frozen the set.
#[track_caller]
fn is_kept_out<T>(by: u16, result: Result<T, Error>) {
    match result.map(drop) {
        Err(Error::Access(AccessError::TimedOut { waiting_for: WaitingFor::Frozen(node), .. })) if node == by => {}
        other => panic!("{other:?} of a set that node {by} has frozen"),
    }
}

/// As [`is_kept_out`], of what others are asked about first: that may take longer than a moment.
#[track_caller]
fn is_kept_out_at_last<T>(by: u16, wait: impl Fn() -> Result<T, Error>) {
    until("it waits for the thaw", || match wait().map(drop) {
        Err(Error::Access(AccessError::TimedOut { waiting_for, .. })) => waiting_for == WaitingFor::Frozen(by),
        other => panic!("{other:?} of a set that node {by} has frozen"),
    });
}

#[test]
fn nobody_writes_makes_or_removes_and_all_read_on() {
    let nodes = Node::local_cluster(3).expect("three nodes");
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "frozen", 1)).collect();
    let other = open(&nodes[0], "other", 1);
    (0..30).for_each(|object| put(&sets[object as usize % 3], object, object));
    let freeze = freeze(&sets[1]);
    assert!(freeze.is_held() && freeze.set() == "frozen");
    for set in &sets {
        for object in 0..30 {
            assert_eq!(read(set, object), object);
        }
        for object in [0, 1, 2] {
            is_kept_out(2, set.grab(object).wait_for(MOMENT));
            is_kept_out(2, set.update(object, add(1)).wait_for(MOMENT));
            is_kept_out(2, set.remove(object).wait_for(MOMENT));
            is_kept_out(2, set.acquire(object).wait_for(MOMENT));
            let tried = set.try_grab(object).wait_for(LIMIT).map(drop);
            assert!(matches!(tried, Err(Error::Access(AccessError::Busy))), "{tried:?}");
            is_kept_out(2, set.grab_many(&[object, object + 3]).wait_for(MOMENT));
            assert_eq!(read(set, object), object, "who waits to write keeps nobody from reading");
        }
        let nothing = set.get_existing(77).wait_for(LIMIT).map(drop);
        assert!(matches!(nothing, Err(Error::Access(AccessError::NotFound))), "{nothing:?}");
        is_kept_out_at_last(2, || set.get(77).wait_for(MOMENT));
        is_kept_out_at_last(2, || set.grab(78).wait_for(MOMENT));
        // One that somebody wants is known, and has no value.
        assert_eq!(set.scan_values().filter(|found| found.is_ok()).count(), 30);
        let wanted: Vec<u64> = set.scan().map(|found| found.expect("it goes on").id).filter(|id| *id >= 30).collect();
        assert!(wanted.iter().all(|id| *id == 77), "{wanted:?}");
        // Another set is none of its business.
        put(&other, 1, 1);
    }
    until("it is known everywhere", || {
        nodes.iter().all(|node| node.set_info("frozen").expect("it is there").frozen_by == [2])
    });
    freeze.thaw().wait_for(LIMIT).expect("it is thawed");
    for set in &sets {
        (0..30).for_each(|object| put(set, object, 100 + object));
        put(set, 77, 1);
        set.remove(77).wait_for(LIMIT).expect("it is removed");
    }
    assert!(nodes.iter().all(|node| node.set_info("frozen").expect("it is there").frozen_by.is_empty()));
    assert!(nodes.iter().all(|node| node.statistics().waits_for_thaw > 0 && node.statistics().faults == 0));
}

#[test]
fn who_waits_goes_on_when_it_is_thawed() {
    let nodes = Node::local_cluster(2).expect("two nodes");
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "waiting", 0)).collect();
    (0..4).for_each(|object| put(&sets[object as usize % 2], object, object));
    let freeze = freeze(&sets[0]);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8u64)
            .map(|at| {
                let set = &sets[at as usize % 2];
                scope.spawn(move || set.update(at, add(10)).wait_for(LIMIT))
            })
            .collect();
        let removing = scope.spawn(|| sets[1].remove(0).wait_for(LIMIT));
        let waits = |node: &Node| node.statistics().waits_for_thaw;
        until("all wait", || waits(&nodes[0]) + waits(&nodes[1]) == 9);
        assert!((0..4).all(|object| sets.iter().all(|set| read(set, object) == object)));
        let waiting: Vec<Holding> = nodes.iter().flat_map(|node| node.holdings(100).objects).collect();
        assert_eq!(waiting.iter().map(|holding| holding.waiting_here).sum::<usize>(), 9, "{waiting:?}");
        let is_said =
            |holding: &Holding| holding.holders.iter().any(|by| &*by.who == "node 1, which has frozen the set");
        assert!(waiting.iter().filter(|holding| holding.waiting_here > 0).all(is_said), "{waiting:?}");
        drop(freeze);
        writers.into_iter().for_each(|writer| writer.join().expect("it ends").expect("it is done"));
        removing.join().expect("it ends").expect("it is removed");
    });
    assert!((1..4).all(|object| sets.iter().all(|set| read(set, object) == object + 10)));
}

#[test]
fn who_holds_an_object_comes_to_an_end_first() {
    let nodes = Node::local_cluster(2).expect("two nodes");
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "held", 1)).collect();
    (0..4).for_each(|object| put(&sets[1], object, 1));
    let mut held = sets[1].grab(1).wait_for(LIMIT).expect("nobody has it");
    // In vain: named is who is in the way, and nothing is frozen.
    let impatient = nodes[0].freeze_set("held", Duration::from_secs(2)).wait_for(LIMIT).map(drop);
    match impatient {
        Err(Error::Freeze(FreezeError::Written { node: 2, reason, .. })) => {
            assert!(reason.starts_with("object 1 is written by thread"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    until("it is given up", || nodes.iter().all(|node| node.set_info("held").expect("there").frozen_by.is_empty()));
    put(&sets[0], 2, 1);
    let unwanted = sets[0].freeze();
    until("it is decided", || nodes.iter().all(|node| node.set_info("held").expect("there").frozen_by == [1]));
    drop(unwanted);
    until("it is given up", || nodes.iter().all(|node| node.set_info("held").expect("there").frozen_by.is_empty()));
    let freezing = sets[0].freeze();
    until("it is decided", || nodes.iter().all(|node| node.set_info("held").expect("there").frozen_by == [1]));
    is_kept_out(1, sets[0].grab(3).wait_for(MOMENT));
    // It needs another one to come to its end; so it gets that.
    let mut another = sets[1].grab(2).wait_for(LIMIT).expect("who holds one is let in");
    (*held, *another) = (5, 6);
    held.put().wait_for(LIMIT).expect("it is put");
    assert!(!freezing.is_ready());
    another.put().wait_for(LIMIT).expect("it is put");
    let freeze = freezing.wait_for(LIMIT).expect("nobody writes any more");
    is_kept_out(1, sets[1].grab(2).wait_for(MOMENT));
    assert_eq!((read(&sets[0], 1), read(&sets[0], 2)), (5, 6));
    drop(freeze);
    put(&sets[1], 2, 7);
}

#[test]
fn several_freeze_a_set_and_the_last_thaws_it() {
    let nodes = Node::local_cluster(2).expect("two nodes");
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "shared", 1)).collect();
    put(&sets[0], 1, 1);
    let (one, two) = (freeze(&sets[0]), freeze(&sets[1]));
    one.thaw().wait_for(LIMIT).expect("it is thawed");
    assert!(two.is_held());
    is_kept_out(2, sets[0].grab(1).wait_for(MOMENT));
    let refused = nodes[0].destroy_set("shared", Duration::ZERO).wait_for(LIMIT);
    assert!(matches!(refused, Err(Error::Freeze(FreezeError::Frozen { node: 2, .. }))), "{refused:?}");
    for accepted in [nodes[0].accept_loss("shared", 1), nodes[1].accept_losses("shared")] {
        let refused = accepted.wait_for(LIMIT);
        assert!(matches!(refused, Err(Error::Freeze(FreezeError::Frozen { node: 2, .. }))), "{refused:?}");
    }
    drop(two);
    put(&sets[0], 1, 2);
    nodes[0].destroy_set("shared", Duration::ZERO).wait_for(LIMIT).expect("nobody has it frozen");
    let gone = sets[1].freeze().wait_for(LIMIT).map(drop);
    assert!(matches!(gone, Err(Error::Set(SetError::Destroyed))), "{gone:?}");
    let unknown = nodes[1].freeze_set("shared", LIMIT).wait_for(LIMIT).map(drop);
    assert!(matches!(unknown, Err(Error::Set(SetError::Unknown { .. }))), "{unknown:?}");
    until("nothing is left of it", || nodes[0].frozen_sets().is_empty());
    // One that is about to end.
    let ending = open(&nodes[1], "ending", 0);
    let held = ending.grab(1).wait_for(LIMIT).expect("nobody has it");
    let destroying = nodes[0].destroy_set("ending", LIMIT);
    until("it ends", || nodes[0].set_info("ending").expect("it is held").is_ending);
    let too_late = nodes[0].freeze_set("ending", LIMIT).wait_for(LIMIT).map(drop);
    assert!(matches!(too_late, Err(Error::Set(SetError::Destroyed))), "{too_late:?}");
    drop(held);
    destroying.wait_for(LIMIT).expect("nobody holds it");
}

#[test]
fn who_waits_for_another_is_not_told_of_the_freeze() {
    let nodes = Node::local_cluster(2).expect("two nodes");
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "crossed", 0)).collect();
    put(&sets[0], 3, 1);
    put(&sets[1], 1, 1);
    let there = sets[0].grab(3).wait_for(LIMIT).expect("nobody has it");
    let here = sets[1].grab(1).wait_for(LIMIT).expect("nobody has it");
    let freezing = sets[0].freeze();
    until("it is decided", || nodes.iter().all(|node| node.set_info("crossed").expect("there").frozen_by == [1]));
    // Somebody else would write the same objects, and waits aside at both nodes.
    let _aside =
        std::thread::scope(|scope| scope.spawn(|| [sets[1].grab(3), sets[0].grab(1)]).join().expect("it asks"));
    let read = std::thread::scope(|scope| {
        let reader = scope.spawn(|| sets[0].get(1).wait_for(MOMENT).map(drop));
        reader.join().expect("it ends")
    });
    let is_of_freeze = |error: &Error| {
        matches!(error, Error::Access(AccessError::TimedOut { waiting_for: WaitingFor::Frozen(_), .. }))
    };
    assert!(read.as_ref().is_err_and(|error| !is_of_freeze(error)), "{read:?}");
    // Who holds one is let in, so that this was begun.
    let removed = sets[1].remove(3).wait_for(MOMENT);
    assert!(matches!(removed, Err(Error::Access(AccessError::RemoveUnconfirmed { .. }))), "{removed:?}");
    drop((there, here));
    freezing.wait_for(LIMIT).expect("nobody writes any more").thaw().wait_for(LIMIT).expect("it is thawed");
}

/// None of the few threads of the owner, which all sets share, waits for the thaw, but the caller.
#[test]
fn an_operation_of_a_frozen_set_waits_at_its_caller() {
    let nodes = Node::local_cluster(2).expect("two nodes");
    let add = |set: &Set<u64>| {
        let code = |count: &mut u64, by: u64| {
            *count += by;
            *count
        };
        set.operation("add", code).expect("the name is free")
    };
    let open_both = |name| -> Vec<Set<u64>> { nodes.iter().map(|node| open(node, name, 1)).collect() };
    let (frozen, other) = (open_both("frozen"), open_both("other"));
    (0..20).for_each(|object| put(&frozen[1], object, 1));
    put(&other[1], 1, 1);
    let adds: Vec<_> = [&frozen, &other].into_iter().flatten().map(add).collect();
    let freeze = freeze(&frozen[0]);
    let calls: Vec<_> = (0..20).map(|object| adds[0].invoke(object, 1)).collect();
    assert_eq!(adds[2].invoke(1, 1).wait_for(LIMIT).expect("another set is none of its business"), 2);
    calls.into_iter().for_each(|call| is_kept_out(1, call.wait_for(MOMENT)));
    is_kept_out(1, adds[1].invoke(1, 1).wait_for(MOMENT));
    drop(freeze);
    assert_eq!(adds[0].invoke(1, 1).wait_for(LIMIT).expect("it is thawed"), 2, "none of those was run");
}

#[test]
fn those_who_wait_aside_are_so_many_and_in_no_readers_way() {
    let node = Node::join(Config::new().node_id(1).lanes(1).outstanding_limit(8)).wait_for(LIMIT).expect("a node");
    let set = open(&node, "crowded", 0);
    put(&set, 1, 1);
    let freeze = freeze(&set);
    // Nobody waits for those: they are over.
    (0..20).for_each(|_| set.acquire(1).cancel());
    let aside: Vec<_> = (0..8).map(|_| set.grab(1)).collect();
    let one_more = set.grab(1).wait_for(LIMIT).map(drop);
    assert!(matches!(one_more, Err(Error::Freeze(FreezeError::Crowded { node: 1, limit: 8 }))), "{one_more:?}");
    for object in 100..200 {
        let nothing = set.get_existing(object).wait_for(LIMIT).map(drop);
        assert!(matches!(nothing, Err(Error::Access(AccessError::NotFound))), "{nothing:?}");
    }
    drop(aside);
    is_kept_out(1, set.grab(1).wait_for(MOMENT));
    drop(freeze);
    put(&set, 1, 2);
}

#[test]
fn a_copy_that_a_program_does_not_use_lets_it_begin_nothing() {
    let nodes = Node::local_cluster(2).expect("two nodes");
    let program = attached(&nodes[0], "idle");
    let (there, here) = (open(&program, "idle", 0), open(&nodes[1], "idle", 0));
    (0..4).for_each(|object| put(&here, object, 1));
    assert_eq!(read(&there, 1), 1);
    let held = here.grab(3).wait_for(LIMIT).expect("nobody has it");
    let freezing = here.freeze();
    until("it is decided", || nodes.iter().all(|node| !node.frozen_sets().is_empty()));
    let kept_out = there.grab(2).wait_for(MOMENT).map(drop);
    assert!(matches!(kept_out, Err(Error::Access(AccessError::TimedOut { .. }))), "{kept_out:?}");
    assert_eq!(nodes[0].statistics().waits_for_thaw, 1);
    drop(held);
    drop(freezing.wait_for(LIMIT).expect("nobody writes any more"));
    put(&there, 2, 2);
}

#[test]
fn so_many_are_frozen_at_one_time_and_no_more() {
    let nodes = Node::local_cluster(1).expect("a node");
    let set = open(&nodes[0], "often", 0);
    let mut all: Vec<Freeze> = (0..64).map(|_| freeze(&set)).collect();
    let one_more = set.freeze().wait_for(LIMIT).map(drop);
    assert!(matches!(one_more, Err(Error::Freeze(FreezeError::TooMany { limit: 64 }))), "{one_more:?}");
    all.pop().expect("there are some").thaw().wait_for(LIMIT).expect("it is thawed");
    all.push(freeze(&set));
    drop(all);
    put(&set, 1, 1);
}

#[test]
fn an_attached_program_waits_too_and_says_what_to_do() {
    let nodes = Node::local_cluster(2).expect("two nodes");
    let program = attached(&nodes[0], "waits");
    let (there, here) = (open(&program, "lent", 1), open(&nodes[1], "lent", 1));
    (0..4).for_each(|object| put(&there, object, 1));
    // What it was lent to write, and does not use, stands in nobody's way.
    let freeze = freeze(&here);
    assert_eq!(read(&here, 0), 1);
    for object in 0..6 {
        let kept_out = there.grab(object).wait_for(MOMENT).map(drop);
        assert!(matches!(kept_out, Err(Error::Access(AccessError::TimedOut { .. }))), "{kept_out:?}");
    }
    assert_eq!(read(&there, 1), 1);
    let refused = there.freeze().wait_for(LIMIT).map(drop);
    assert!(refused.is_err_and(|error| error.to_string().contains("kddmadm set freeze")));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| put(&there, 2, 9));
        drop(freeze);
        writer.join().expect("it goes on");
    });
    assert_eq!(read(&here, 2), 9);
}

/// Whoever was let in waits for what a program only reads; and that one waits for something else before it lets go.
#[test]
fn a_program_in_the_way_of_who_was_let_in_gets_what_it_needs() {
    for lanes in [1, 4] {
        let node = Node::join(Config::new().node_id(1).lanes(lanes)).wait_for(LIMIT).expect("a node");
        let program = attached(&node, &format!("way-{lanes}"));
        let (there, here) = (open(&program, "way", 0), open(&node, "way", 0));
        (0..16).for_each(|object| put(&here, object, 1));
        let held = here.grab(0).wait_for(LIMIT).expect("nobody has it");
        let reads = there.get(1).wait_for(LIMIT).expect("nobody writes it");
        let freezing = here.freeze();
        until("it is decided", || !node.frozen_sets().is_empty());
        let needs: Vec<_> = (2..16).map(|object| there.grab(object)).collect();
        until("they wait for the thaw", || node.statistics().waits_for_thaw == 14);
        let program_goes_on = std::thread::spawn(move || {
            for needed in needs {
                drop(needed.wait_for(LIMIT / 2).expect("who is waited for comes to an end"));
            }
            drop(reads);
        });
        drop(here.grab(1).wait_for(LIMIT).expect("the program has let go"));
        program_goes_on.join().expect("it has all that it needs");
        drop(held);
        drop(freezing.wait_for(LIMIT).expect("nobody writes any more"));
        put(&there, 3, 3);
    }
}

/// Whichever lane has what it holds already, and what it needs beside that.
#[test]
fn a_program_that_holds_an_object_gets_those_of_other_lanes_too() {
    let node = Node::join(Config::new().node_id(1).lanes(4)).wait_for(LIMIT).expect("a node");
    let program = attached(&node, "lanes");
    let (there, here) = (open(&program, "lanes", 0), open(&node, "lanes", 0));
    (0..16).for_each(|object| put(&here, object, 1));
    let mut held = there.grab(0).wait_for(LIMIT).expect("nobody has it");
    let freezing = here.freeze();
    until("it is decided", || !node.frozen_sets().is_empty());
    for object in 1..16 {
        let mut another = there.grab(object).wait_for(LIMIT).expect("who holds one is let in");
        *another = 2;
        another.put().wait_for(LIMIT).expect("it is put");
    }
    *held = 2;
    held.put().wait_for(LIMIT).expect("it is put");
    let freeze = freezing.wait_for(LIMIT).expect("nobody writes any more");
    assert!((0..16).all(|object| read(&here, object) == 2));
    let kept_out = there.grab(3).wait_for(MOMENT).map(drop);
    assert!(matches!(kept_out, Err(Error::Access(AccessError::TimedOut { .. }))), "{kept_out:?}");
    drop(freeze);
    put(&there, 3, 3);
}

/// What stands behind it is read in by nobody, and a scan passes over what somebody wants.
#[test]
fn what_is_only_behind_a_frozen_set_stays_there() {
    let nodes = Node::local_cluster(2).expect("two nodes");
    let store = Memory::default();
    let open = |node: &Node| -> Set<u64> {
        let builder = node.set("linked").linker("store", store.clone()).wait_limit(LIMIT);
        builder.open().wait_for(LIMIT).expect("the set opens")
    };
    let sets: Vec<Set<u64>> = nodes.iter().map(open).collect();
    (0..6).for_each(|object| put(&sets[object as usize % 2], object, 10 + object));
    sets[0].evict(5).wait_for(LIMIT).expect("it is kept");
    let freeze = freeze(&sets[0]);
    for set in &sets {
        is_kept_out(1, set.get(5).wait_for(MOMENT));
        is_kept_out(1, set.get_existing(5).wait_for(MOMENT));
        is_kept_out(1, set.evict(4).wait_for(MOMENT));
        let all: BTreeMap<u64, u64> =
            set.scan_values().map(|found| found.map(|(id, value)| (id, *value)).expect("it is read")).collect();
        assert_eq!(all, (0..5).map(|object| (object, 10 + object)).collect());
    }
    drop(freeze);
    assert_eq!(read(&sets[1], 5), 15);
    sets[1].evict(4).wait_for(LIMIT).expect("it is kept");
}

/// Accounts, and writers at all nodes that take from one and give to another.
struct Bank {
    writers: Vec<JoinHandle<u64>>,
    is_over: &'static AtomicBool,
}

const ACCOUNTS: u64 = 40;
const BALANCE: u64 = 1_000;

impl Bank {
    fn open(sets: &[Set<u64>]) -> Bank {
        (0..ACCOUNTS).for_each(|account| put(&sets[account as usize % sets.len()], account, BALANCE));
        Bank { writers: Vec::new(), is_over: Box::leak(Box::new(AtomicBool::new(false))) }
    }

    fn transfers(&mut self, set: &Set<u64>, seed: u64) {
        let (set, is_over) = (set.clone(), self.is_over);
        self.writers.push(std::thread::spawn(move || {
            let (mut random, mut done) = (seed | 1, 0);
            while !is_over.load(Ordering::Relaxed) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1);
                let from = (random >> 33) % ACCOUNTS;
                let to = (from + 1 + (random >> 45) % (ACCOUNTS - 1)) % ACCOUNTS;
                // What is taken together is put one after the other: a picture between the two would be a wrong one.
                let Ok(mut both) = set.grab_many(&[from, to]).wait_for(LIMIT) else { break };
                let amount = (random >> 20) % 10;
                let (mut to, mut from) = (both.pop().expect("two"), both.pop().expect("two"));
                let amount = amount.min(*from);
                (*from, *to) = (*from - amount, *to + amount);
                if from.put().wait_for(LIMIT).is_err() || to.put().wait_for(LIMIT).is_err() {
                    break;
                }
                done += 1;
            }
            done
        }));
    }

    fn close(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.writers.into_iter().map(|writer| writer.join().expect("it ends")).sum()
    }
}

/// What a scan says while the set is frozen: the same twice, and nothing is missing.
#[track_caller]
fn picture(set: &Set<u64>) -> BTreeMap<u64, u64> {
    let scan = || -> BTreeMap<u64, u64> {
        set.scan_values().map(|found| found.map(|(id, value)| (id, *value)).expect("it is read")).collect()
    };
    let first = scan();
    assert_eq!(first.len() as u64, ACCOUNTS);
    assert_eq!(first.values().sum::<u64>(), ACCOUNTS * BALANCE);
    assert_eq!(scan(), first);
    first
}

#[test]
fn a_scan_of_a_frozen_set_is_a_picture_of_one_moment() {
    for replicas in [0, 1] {
        let nodes = Node::local_cluster(3).expect("three nodes");
        let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "bank", replicas)).collect();
        let mut bank = Bank::open(&sets);
        for (seed, set) in (1..).zip(sets.iter().chain(&sets)) {
            bank.transfers(set, seed);
        }
        for round in 0..6 {
            let freeze = freeze(&sets[round % 3]);
            picture(&sets[(round + 1) % 3]);
            freeze.check().expect("it was frozen all the time");
        }
        assert!(bank.close() > 0);
        assert!(nodes.iter().all(|node| node.statistics().faults == 0));
    }
}

#[test]
fn members_come_and_go_while_a_set_is_frozen() {
    let mut nodes = Node::local_cluster(2).expect("two nodes");
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "bank", 1)).collect();
    let mut bank = Bank::open(&sets);
    (1..).zip(&sets).for_each(|(seed, set)| bank.transfers(set, seed));
    let freeze = freeze(&sets[0]);
    let before = picture(&sets[0]);
    // It knows of it before it has anything.
    let third = join(&nodes[0], 3);
    let there = open(&third, "bank", 1);
    assert_eq!(third.set_info("bank").expect("there").frozen_by, [1]);
    bank.transfers(&there, 7);
    is_kept_out_at_last(1, || there.grab(1).wait_for(MOMENT));
    is_kept_out_at_last(1, || there.get(4_711).wait_for(MOMENT));
    assert_eq!(picture(&there), before);
    until("its homes have moved", || third.recovery().replicas > 0);
    assert_eq!(picture(&sets[1]), before);
    // A clean leave moves all that it has.
    drop((sets, there));
    let second = nodes.remove(1);
    second.stop();
    let set = open(&third, "bank", 1);
    assert_eq!(picture(&set), before);
    freeze.thaw().wait_for(LIMIT).expect("it is thawed");
    bank.close();
    assert_eq!(picture(&set).values().sum::<u64>(), ACCOUNTS * BALANCE);
}

#[test]
fn the_loss_of_a_member_changes_nothing_in_the_picture() {
    let mut nodes = cluster(3, LEASE);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "bank", 1)).collect();
    let mut bank = Bank::open(&sets);
    (1..).zip(&sets[..2]).for_each(|(seed, set)| bank.transfers(set, seed));
    let freeze = freeze(&sets[1]);
    let before = picture(&sets[0]);
    let left = [sets[0].clone(), sets[1].clone()];
    drop(sets);
    nodes.pop().expect("three").stop_within(Duration::ZERO);
    for set in &left {
        assert_eq!(picture(set), before);
    }
    freeze.check().expect("it was frozen all the time");
    drop(freeze);
    until("transfers go on", || left[0].get(0).wait_for(LIMIT).is_ok_and(|balance| *balance != before[&0]));
    bank.close();
    assert_eq!(left[1].scan_values().map(|found| *found.expect("it is read").1).sum::<u64>(), ACCOUNTS * BALANCE);
}

/// A freezer that is killed.
#[test]
fn a_freeze_ends_with_the_member_that_has_it() {
    let mut nodes = cluster(3, LEASE);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, "orphaned", 1)).collect();
    (0..9).for_each(|object| put(&sets[object as usize % 3], object, 1));
    let freeze = freeze(&sets[2]);
    is_kept_out(3, sets[0].grab(1).wait_for(MOMENT));
    let left = [sets[0].clone(), sets[1].clone()];
    drop(sets);
    nodes.pop().expect("three").stop_within(Duration::ZERO);
    // Its replicas are made up for first.
    for object in 0..9 {
        put(&left[object as usize % 2], object, 2);
    }
    assert!(!freeze.is_held());
    drop(freeze);
    assert!(nodes.iter().all(|node| node.frozen_sets().is_empty()));
}
