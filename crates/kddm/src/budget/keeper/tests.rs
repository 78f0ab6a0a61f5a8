//! Steps of a budget's hand, made one by one: what they spare, give back, and refuse.

use kddm_core::id::ObjectId;
use kddm_core::io::Access;

use super::*;
use crate::cell::{Aged, CellNumber, Marks, Swept};
use crate::error::AccessError;
use crate::eventually::eventually;
use crate::linker::{Linker, LinkerError, Stamp, WritePolicy, Written};
use crate::{Node, Set};

mod frozen;

const LIMIT: Duration = Duration::from_secs(30);
const OBJECTS: u64 = 200;

/// A KiB of each, and writes that never end before this says so.
#[derive(Default)]
struct Slow {
    may_end: Mutex<bool>,
    news: Condvar,
}

impl Slow {
    fn let_writes_end(&self, may_end: bool) {
        *self.may_end.lock() = may_end;
        self.news.notify_all();
    }
}

impl Linker<String> for Arc<Slow> {
    fn first_touch(&self, _: u64) -> Result<Option<String>, LinkerError> {
        Ok(Some("x".repeat(1 << 10)))
    }

    fn write_back(&self, _: u64, _: Stamp, _: &String) -> Result<Written, LinkerError> {
        let mut may_end = self.may_end.lock();
        while !*may_end {
            self.news.wait(&mut may_end);
        }
        Ok(Written::Kept)
    }
}

struct Kept {
    nodes: Vec<Node>,
    slow: Arc<Slow>,
    set: Set<String>,
    budget: Arc<Budget<String>>,
}

impl Kept {
    /// A set of one node, with a budget.
    fn of(policy: WritePolicy, limit_bytes: usize) -> Kept {
        Kept::of_many(1, policy, limit_bytes)
    }

    /// The same, of the first one of several nodes.
    fn of_many(nodes: usize, policy: WritePolicy, limit_bytes: usize) -> Kept {
        let (nodes, slow) = (Node::local_cluster(nodes).expect("a cluster"), Arc::<Slow>::default());
        let builder = nodes[0].set("rows").linker("slow", Arc::clone(&slow)).write_policy(policy).linker_limit(LIMIT);
        let set: Set<String> = builder.replicas(0).wait_limit(LIMIT).open().wait_for(LIMIT).expect("a set");
        let budget = Budget::of(&set.0, limit_bytes);
        let _same = set.0.here.runtime.budgets.keep(set.0.here.set, || Arc::clone(&budget) as Arc<dyn AnyBudget>);
        let kept = Kept { nodes, slow, set, budget };
        kept.until_at_rest();
        kept
    }

    fn read(&self, object: u64) {
        drop(self.set.get(object).wait_for(LIMIT).expect("it is made"));
    }

    fn read_all(&self) {
        (0..OBJECTS).for_each(|object| self.read(object));
    }

    fn cell(&self, object: u64) -> CellNumber {
        self.budget.table.find_cell(object).expect("it is here")
    }

    fn pass(&self, object: u64) -> Swept {
        self.budget.table.sweep(self.cell(object), object)
    }

    fn until_at_rest(&self) {
        eventually(LIMIT, "its thread has nothing to do", || !self.budget.is_awake.load(Ordering::Acquire));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.slow.let_writes_end(true);
        self.budget.close();
    }
}

#[test]
fn a_look_of_the_thread_takes_nothing_from_what_was_used_where_there_is_room() {
    let kept = Kept::of(WritePolicy::Through, 1 << 20);
    kept.read_all();
    for _ in 0..5 {
        kept.read_all();
        (0..OBJECTS).for_each(|object| _ = kept.pass(object));
    }
    assert!(!kept.budget.is_over(), "it is woken as after a moment in which there was too much");
    kept.budget.begin();
    kept.until_at_rest();
    let is_spared = |object: &u64| (0..3).all(|_| kept.pass(*object) == Swept::Spared);
    assert_eq!((0..OBJECTS).filter(is_spared).count() as u64, OBJECTS, "each has its three rounds");
}

#[test]
fn a_read_that_had_to_wait_for_a_writer_is_a_use_and_takes_no_other_away() {
    let kept = Kept::of(WritePolicy::Through, 1 << 20);
    kept.slow.let_writes_end(true);
    kept.read_all();
    let forget_all = || {
        (0..OBJECTS).for_each(|object| while kept.pass(object) != Swept::Unused {});
        (0..2).for_each(|_| _ = kept.budget.table.look(0, u32::MAX, Marks::Yes));
    };
    forget_all();
    for object in 0..OBJECTS {
        assert!(!kept.budget.table.is_used(kept.cell(object)), "{object}");
        let guard = kept.set.grab(object).wait_for(LIMIT).expect("it is here");
        let asked = kept.set.get(object);
        drop(guard);
        drop(asked.wait_for(LIMIT).expect("it is free"));
        assert!(kept.budget.table.is_used(kept.cell(object)), "ages hear of it: {object}");
        assert_eq!(kept.pass(object), Swept::Used, "and the budget: {object}");
    }
    forget_all();
    for object in 0..OBJECTS {
        kept.read(object);
        kept.budget.table.was_missed(object);
        assert!(kept.budget.table.is_used(kept.cell(object)), "whoever waited takes nothing away: {object}");
        assert_eq!(kept.pass(object), Swept::Used, "{object}");
    }
}

#[test]
fn what_cannot_go_is_as_it_was() {
    let kept = Kept::of(WritePolicy::Through, 1 << 20);
    kept.read_all();
    let here = kept.budget.here().expect("the node is there");
    let set_limit = |outstanding| {
        for lane in &here.runtime.lanes {
            let mut state = lane.lock();
            state.limits.outstanding = outstanding;
            lane.finish(state);
        }
    };
    let allowed = here.lane(0).lock().limits.outstanding;
    set_limit(0);
    kept.budget.account.set_limit_bytes(64 << 10);
    // Each is brought, and passed, once: it goes where nobody has read it again.
    let mut sweep = kept.budget.sweep.lock();
    (0..OBJECTS.div_ceil(64)).for_each(|_| _ = sweep.step(&kept.budget, &here, By::Keeper));
    drop(sweep);
    let failed = kept.budget.counts.failed.load(Ordering::Relaxed);
    assert!(failed > 0, "the lane takes no wishes");
    for object in 0..OBJECTS {
        assert_eq!(kept.budget.table.access(kept.cell(object)), Access::Write, "{object} of {failed}");
    }
    set_limit(allowed);
    let mut sweep = kept.budget.sweep.lock();
    while kept.budget.is_over() {
        _ = sweep.step(&kept.budget, &here, By::Keeper);
    }
    assert!(kept.budget.counts.evicted.load(Ordering::Relaxed) > OBJECTS / 2);
}

/// What is removed is counted no more at once, though its home has not heard of it.
#[test]
fn as_much_goes_where_homes_hear_of_it_later() {
    let kept = Kept::of_many(2, WritePolicy::Through, 1 << 20);
    kept.read_all();
    let here = kept.budget.here().expect("the node is there");
    // Somewhat less than may be under way.
    kept.budget.account.set_limit_bytes(kept.budget.account.bytes() - (32 << 10));
    let deaf: Vec<_> = kept.nodes[1].runtime().lanes.iter().map(|lane| lane.lock()).collect();
    let mut sweep = kept.budget.sweep.lock();
    (0..4 * OBJECTS.div_ceil(64)).for_each(|_| _ = sweep.step(&kept.budget, &here, By::Keeper));
    let gone = kept.budget.counts.evicted.load(Ordering::Relaxed);
    assert!(gone + (kept.set.local_count() as u64) < OBJECTS, "all homes have heard of all {gone}");
    assert!(kept.budget.account.bytes() <= kept.budget.enough(), "{:?}", kept.budget.account);
    drop(deaf);
    drop(sweep);
}

#[test]
fn nothing_is_evicted_that_somebody_waits_for_or_of_a_frozen_set() {
    let kept = Kept::of(WritePolicy::Through, 1 << 20);
    kept.read_all();
    let here = kept.budget.here().expect("the node is there");
    let go_round = || {
        let mut sweep = kept.budget.sweep.lock();
        // Also those that are spared, and those that go only when nothing else does.
        (0..8 * OBJECTS.div_ceil(64)).for_each(|_| _ = sweep.step(&kept.budget, &here, By::Keeper));
    };
    let frozen = kept.set.freeze().wait_for(LIMIT).expect("nobody holds anything");
    kept.budget.account.set_limit_bytes(64 << 10);
    go_round();
    assert_eq!((kept.budget.counts.evicted.load(Ordering::Relaxed), kept.set.local_count() as u64), (0, OBJECTS));
    frozen.thaw().wait_for(LIMIT).expect("it is thawed");
    let lane = here.lane(7);
    let mut state = lane.lock();
    state.local(kept.budget.set, ObjectId(7)).is_trying = true;
    lane.finish(state);
    go_round();
    assert!(kept.budget.counts.evicted.load(Ordering::Relaxed) > OBJECTS / 2);
    assert!(kept.budget.table.has_value(kept.cell(7)), "something is to be done for it still");
    let mut state = lane.lock();
    state.locals.remove(&(kept.budget.set, ObjectId(7)));
    lane.finish(state);
}

#[test]
fn whoever_is_refused_hears_so_at_once_where_what_is_written_never_ends() {
    let never = WritePolicy::Behind { lag: Duration::from_secs(3600), bytes: 64 << 20 };
    let kept = Kept::of(never, 1 << 20);
    for object in 0..OBJECTS {
        let mut guard = kept.set.grab(object).wait_for(LIMIT).expect("it is made");
        guard.push('y');
        guard.put().wait_for(LIMIT).expect("it is put");
    }
    kept.budget.set_limit_bytes(64 << 10);
    // All that may be under way is, and its patience is over.
    eventually(LIMIT, "its thread gives up", || kept.budget.counts.stuck.load(Ordering::Relaxed) > 0);
    let here = kept.budget.here().expect("the node is there");
    let begin = Instant::now();
    let steps = (0..100_000).find(|_| kept.budget.sweep.lock().step(&kept.budget, &here, By::Caller).is_stuck());
    assert!(steps.is_some(), "steps of whoever brings more find out that nothing can go: {:?}", begin.elapsed());
    let refused = kept.budget.wanted(OBJECTS);
    assert!(matches!(refused, Err(Error::Access(AccessError::OverBudget { .. }))), "{refused:?}");
}

/// As a task does that is woken by the step.
#[test]
fn whoever_asks_in_the_middle_of_his_own_step_is_not_waited_for() {
    let kept = Kept::of(WritePolicy::Through, 1 << 20);
    kept.read_all();
    for limit_bytes in [170 << 10, 100 << 10] {
        let budget = Arc::clone(&kept.budget);
        let (says, hears) = std::sync::mpsc::channel();
        let asks = std::thread::spawn(move || {
            let sweep = budget.sweep.lock();
            budget.account.set_limit_bytes(limit_bytes);
            says.send(budget.wanted(OBJECTS)).expect("the test listens");
            drop(sweep);
        });
        let asked = hears.recv_timeout(LIMIT).expect("he waits for himself");
        let is_twice = kept.budget.account.bytes() > 2 * limit_bytes;
        assert_eq!(asked.is_err(), is_twice, "{asked:?}");
        asks.join().expect("no panic");
        kept.budget.account.set_limit_bytes(1 << 20);
    }
}
