//! Budgets of sets whose linkers hear of copies: of each that goes once, before it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use kddm::budget::LEAST_BUDGET_BYTES;
use kddm::linker::{Hears, Linker, LinkerError, Stamp, WritePolicy, Written};
use kddm::{BudgetInfo, Node, Pending, ReadGuard, Set};

use crate::{LIMIT, append, cluster, counts};

const BUDGET: u64 = LEAST_BUDGET_BYTES as u64;
/// Several times as many, of a KiB each, as fit the budget.
const OBJECTS: u64 = 300;

fn text(object: u64) -> String {
    format!("{object:4}").repeat(256)
}

/// What the linkers of all nodes have heard, and what stands behind them.
#[derive(Default)]
struct Heard {
    /// Which nodes have a copy, as far as was told.
    mapped: BTreeMap<u64, BTreeSet<usize>>,
    came: u64,
    gone: u64,
    kept: BTreeMap<u64, (Stamp, String)>,
    reads: BTreeMap<u64, u64>,
    wrong: Vec<String>,
    /// The end of a copy is not taken in meanwhile; of which object it is.
    stops: bool,
    stopped: Option<u64>,
}

#[derive(Clone)]
struct Rows {
    node: usize,
    heard: Arc<(Mutex<Heard>, Condvar)>,
}

impl Rows {
    fn look<R>(&self, look: impl FnOnce(&mut Heard) -> R) -> R {
        let seen = look(&mut self.heard.0.lock().expect("no panic"));
        self.heard.1.notify_all();
        seen
    }

    /// The objects of which its node has a copy, as it was told.
    fn mapped(&self) -> Vec<u64> {
        let is_its = |(object, nodes): (&u64, &BTreeSet<usize>)| nodes.contains(&self.node).then_some(*object);
        self.look(|heard| heard.mapped.iter().filter_map(is_its).collect())
    }
}

impl Linker<String> for Rows {
    fn first_touch(&self, object: u64) -> Result<Option<String>, LinkerError> {
        self.look(|heard| {
            *heard.reads.entry(object).or_default() += 1;
            let mapped = heard.mapped.get(&object).filter(|nodes| !nodes.is_empty());
            let wrong = mapped.map(|nodes| format!("{object} is read anew, and mapped at {nodes:?}"));
            heard.wrong.extend(wrong);
            Ok(Some(heard.kept.get(&object).map_or_else(|| text(object), |(_, text)| text.clone())))
        })
    }

    fn write_back(&self, object: u64, stamp: Stamp, value: &String) -> Result<Written, LinkerError> {
        self.look(|heard| {
            let kept = heard.kept.entry(object).or_default();
            if kept.0 < stamp {
                *kept = (stamp, value.clone());
            }
            Ok(Written::Kept)
        })
    }

    fn hears(&self) -> Hears {
        Hears::Copies
    }

    fn insert(&self, object: u64, _: u64, _: &String) -> Result<(), LinkerError> {
        self.look(|heard| {
            heard.came += 1;
            let is_new = heard.mapped.entry(object).or_default().insert(self.node);
            heard.wrong.extend((!is_new).then(|| format!("{object} comes twice to {}", self.node)));
            Ok(())
        })
    }

    fn invalidate(&self, object: u64) -> Result<(), LinkerError> {
        let mut heard = self.heard.0.lock().expect("no panic");
        heard.stopped = Some(object);
        self.heard.1.notify_all();
        while heard.stops {
            heard = self.heard.1.wait(heard).expect("no panic");
        }
        heard.stopped = None;
        heard.gone += 1;
        let was_there = heard.mapped.entry(object).or_default().remove(&self.node);
        heard.wrong.extend((!was_there).then(|| format!("{object} goes twice from {}", self.node)));
        Ok(())
    }
}

struct World {
    nodes: Vec<Node>,
    rows: Vec<Rows>,
    sets: Vec<Set<String>>,
}

impl World {
    /// Each node has a budget, if that is one.
    fn new(policy: WritePolicy, budgets: &[Option<u64>]) -> World {
        let (nodes, heard) = (cluster(budgets.len()), Arc::default());
        let rows: Vec<_> = (0..nodes.len()).map(|node| Rows { node, heard: Arc::clone(&heard) }).collect();
        let open = |(node, budget): (usize, &Option<u64>)| {
            let builder = nodes[node].set("rows").linker("rows", rows[node].clone()).write_policy(policy);
            let builder = builder.linker_limit(LIMIT).replicas(0).wait_limit(LIMIT);
            let builder = match budget {
                Some(bytes) => builder.memory_budget(*bytes as usize),
                None => builder,
            };
            builder.open().wait_for(LIMIT).expect("the set opens")
        };
        let sets = budgets.iter().enumerate().map(open).collect();
        World { nodes, rows, sets }
    }

    fn budget(&self, at: usize) -> BudgetInfo {
        self.sets[at].budget().expect("it was opened with one")
    }

    /// Everything that was to go has gone, and each linker has heard what is here.
    fn has_come_to_rest(&self) {
        for (at, set) in self.sets.iter().enumerate() {
            until("it keeps to its budget", || set.budget().is_none_or(|budget| budget.bytes <= BUDGET));
            let here = || -> Vec<u64> { (0..OBJECTS).filter(|object| set.find(*object).is_some()).collect() };
            until("its linker knows what is here", || here() == self.rows[at].mapped());
        }
        let (wrong, came, gone) = self.rows[0].look(|heard| (heard.wrong.clone(), heard.came, heard.gone));
        assert!(wrong.is_empty(), "{wrong:?}");
        let mapped: usize = self.rows.iter().map(|rows| rows.mapped().len()).sum();
        assert_eq!(came, gone + mapped as u64, "each that came goes once, or is here");
        let counts = self.nodes.iter().map(counts);
        assert!(counts.into_iter().all(|counts| (counts.hooks_failed, counts.hooks_late) == (0, 0)));
    }
}

/// Waits until it is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn read(set: &Set<String>, object: u64) -> String {
    set.get(object).wait_for(LIMIT).expect("it is there").clone()
}

#[test]
fn what_leaves_for_the_store_is_told_once_each_time() {
    let behind = WritePolicy::Behind { lag: Duration::from_millis(1), bytes: 64 << 20 };
    for policy in [WritePolicy::Through, behind, WritePolicy::Around] {
        let world = World::new(policy, &[Some(BUDGET)]);
        let set = &world.sets[0];
        let is_put = |object: u64| policy != WritePolicy::Around && object.is_multiple_of(3);
        (0..OBJECTS).filter(|object| is_put(*object)).for_each(|object| {
            set.update(object, append('!')).wait_for(LIMIT).expect("it is put");
        });
        std::thread::scope(|scope| {
            for begin in [0, OBJECTS / 2] {
                scope.spawn(move || {
                    for object in (0..2 * OBJECTS).map(|at| (begin + at) % OBJECTS) {
                        let more = if is_put(object) { "!" } else { "" };
                        assert_eq!(read(set, object), text(object) + more);
                    }
                });
            }
        });
        world.has_come_to_rest();
        assert!(world.budget(0).evicted > OBJECTS, "{policy:?}: {:?}", world.budget(0));
        let gone = world.rows[0].look(|heard| heard.gone);
        assert!(gone > OBJECTS / 2, "{policy:?}: {gone}");
        world.nodes[0].stop();
        until("nothing is here any more", || world.rows[0].mapped().is_empty());
        assert!(world.rows[0].look(|heard| heard.wrong.is_empty() && heard.came == heard.gone));
    }
}

/// At the node that keeps to its budget all that fits is here, and its linker takes in no end of a copy from then on. Which is the
/// first to go, of so many, and who waits for it again.
fn one_is_to_go(rows: &Rows, set: &Set<String>) -> (u64, u64, Pending<ReadGuard<String>>) {
    let fit = BUDGET * 15 / 16 / (text(0).len() as u64 + 120);
    (0..fit).for_each(|object| assert_eq!(read(set, object), text(object)));
    until("it has heard of all that fit", || rows.mapped().len() as u64 == fit);
    rows.look(|heard| heard.stops = true);
    // Less than a fourth too much: nobody is kept waiting for room. Of these some may go before anything was said of them.
    (fit..fit * 6 / 5).for_each(|object| assert_eq!(read(set, object), text(object)));
    until("one is to go", || rows.look(|heard| heard.stopped).is_some());
    let first = rows.look(|heard| heard.stopped).expect("it is told that it goes");
    let again = set.get(first);
    assert!(!again.is_ready() && set.find(first).is_none(), "nobody uses it any more");
    (fit, first, again)
}

#[test]
fn nothing_has_left_before_its_linker_has_heard_of_it() {
    let world = World::new(WritePolicy::Through, &[Some(BUDGET)]);
    let (rows, set) = (&world.rows[0], &world.sets[0]);
    let (fit, first, again) = one_is_to_go(rows, set);
    for object in 0..fit {
        let is_there = world.nodes[0].object_of("rows", object).is_ok_and(|seen| seen.at_owner.is_some());
        assert!(is_there, "{object} has gone, and all that was heard is that {first} goes");
    }
    rows.look(|heard| heard.stops = false);
    assert_eq!(*again.wait_for(LIMIT).expect("it is read anew"), text(first));
    assert_eq!(rows.look(|heard| heard.reads[&first]), 2);
    world.has_come_to_rest();
}

#[test]
fn the_owner_hears_of_no_copy_that_goes_before_its_linker_does() {
    let world = World::new(WritePolicy::Through, &[None, Some(BUDGET)]);
    (0..OBJECTS).for_each(|object| assert_eq!(read(&world.sets[0], object), text(object)));
    let (fit, first, again) = one_is_to_go(&world.rows[1], &world.sets[1]);
    for object in 0..fit {
        let seen = world.nodes[0].object_of("rows", object).expect("its owner is here");
        let is_noted = seen.info.sharers.contains(&world.nodes[1].id());
        assert!(is_noted, "{object} has gone, and all that was heard is that {first} goes");
    }
    world.rows[1].look(|heard| heard.stops = false);
    assert_eq!(*again.wait_for(LIMIT).expect("a copy"), text(first));
    world.has_come_to_rest();
}

#[test]
fn copies_that_are_dropped_or_passed_on_are_told_once_each_time() {
    let world = World::new(WritePolicy::Through, &[None, Some(BUDGET)]);
    (0..OBJECTS).for_each(|object| assert_eq!(read(&world.sets[0], object), text(object)));
    (0..2 * OBJECTS).for_each(|at| assert_eq!(read(&world.sets[1], at % OBJECTS), text(at % OBJECTS)));
    world.has_come_to_rest();
    assert!(world.budget(1).dropped_copies > OBJECTS, "{:?}", world.budget(1));
    // What it owns, and the other one reads.
    for object in 0..OBJECTS {
        world.sets[1].update(object, append('!')).wait_for(LIMIT).expect("it is put");
        assert_eq!(read(&world.sets[0], object), text(object) + "!");
    }
    world.has_come_to_rest();
    assert!(world.budget(1).passed_on > OBJECTS / 2, "{:?}", world.budget(1));
    assert_eq!(world.sets[0].local_count() as u64, OBJECTS);
    // What goes before the other one reads it leaves for the store.
    let read_anew = world.rows[0].look(|heard| heard.reads.values().sum::<u64>()) - OBJECTS;
    assert_eq!(read_anew, world.budget(1).evicted, "none was lost");
}
