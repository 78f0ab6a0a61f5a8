//! A set ends on this node, a slice of its objects at a time: whoever uses other sets must not wait
//! for a million objects to go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{ObjectId, SetId};
use kddm_core::io::Access;

use crate::cell::{CellNumber, Ended, RevokeResult, Store};
use crate::error::SetError;
use crate::runtime::Runtime;
use crate::runtime::lane::{Lane, LaneState};
use crate::runtime::{told, wait};

/// Cells looked at before the lane is free for others: some hundred microseconds.
pub(crate) const SLICE: u32 = 4096;

/// Stretches of sets that are remembered as gone. Their numbers are given out one after the other and never
/// again, and all nodes hear of all ends, so that there are hardly more than sets that live; only a program
/// that is attached hears of no others than its own. Then the oldest are forgotten.
const STRETCHES: usize = 65_536;

/// Sets that are no more: nothing that is said of them makes anything.
#[derive(Default)]
pub(crate) struct Destroyed {
    /// The last number of each stretch, by its first.
    stretches: BTreeMap<u64, u64>,
}

impl Destroyed {
    pub fn contains(&self, set: SetId) -> bool {
        let number = set.counter();
        self.stretches.range(..=number).next_back().is_some_and(|(_, last)| number <= *last)
    }

    /// How many stretches there are.
    #[cfg(test)]
    pub fn stretches(&self) -> usize {
        self.stretches.len()
    }

    pub fn insert(&mut self, set: SetId) {
        if self.contains(set) {
            return;
        }
        let number = set.counter();
        let before = self.stretches.range(..number).next_back().filter(|(_, last)| **last + 1 == number);
        let first = before.map_or(number, |(first, _)| *first);
        let last = self.stretches.remove(&(number + 1)).unwrap_or(number);
        self.stretches.insert(first, last);
        if self.stretches.len() > STRETCHES {
            self.stretches.pop_first();
        }
    }
}

/// How often a destroy looks whether the last holder has put.
pub(crate) const HOLDER_CHECK: Duration = Duration::from_millis(2);

impl LaneState {
    /// New operations on a set are refused from now on, and waiting ones end.
    fn begin_destroy(&mut self, set: SetId) {
        self.destroyed.insert(set);
        self.cut_puts_short(Some(set));
        self.ask_back_set(set);
        self.fail_waiters(Some(set), &SetError::Destroyed.into());
    }

    /// Takes access back in a slice of cells: whoever holds one keeps it until he puts. Whether somebody
    /// does, and where the next slice begins.
    fn close_slice(&self, set: SetId, first: CellNumber) -> (bool, Option<CellNumber>) {
        let Some(store) = self.stores.get(&set) else { return (false, None) };
        let (cells, next) = self.own_cells_from(set, first, SLICE);
        let mut is_held = false;
        for (_, cell) in cells {
            is_held |= store.revoke(cell, Access::None) == RevokeResult::Held;
        }
        (is_held, next)
    }

    /// Forgets a set. What is left of it belongs to the caller alone.
    fn forget_set(&mut self, set: SetId) -> Option<Arc<dyn Store>> {
        self.end_loans_of(set);
        self.overdue.forget(set);
        self.frozen.forget(set);
        self.signals.names.forget(set);
        self.locals.retain(|(of, _), _| *of != set);
        self.replicas.retain(|(of, _), _| *of != set);
        if let Some(hooks) = self.hooked.remove(&set) {
            hooks.end();
        }
        let store = self.stores.remove(&set)?;
        self.part.forget(set);
        // Whoever holds one of its objects still asks its table first.
        told::forget(store.table());
        Some(store)
    }
}

impl LaneState {
    /// The set has ended at the node to which this program is attached. All at once: a program has not
    /// borrowed that much.
    pub fn end_set(&mut self, set: SetId) {
        self.begin_destroy(set);
        if let Some(store) = self.forget_set(set) {
            let is_own = |object| self.part.has(set, ObjectId(object));
            store.close(&is_own);
            discard_all(&*store, &is_own);
        }
    }
}

impl Runtime {
    /// Forgets a set here: new operations are refused at once, holders have `limit` to put. Guards that
    /// are left then keep their value and can publish nothing.
    pub fn destroy_here(&self, set: SetId, limit: Duration) {
        self.numbers.note(set.counter());
        let deadline = wait::deadline_in(limit);
        let mut is_first = true;
        for lane in &self.lanes {
            let mut state = lane.lock();
            // One that was cut short is begun again.
            is_first &= !state.destroyed.contains(set);
            state.begin_destroy(set);
            lane.finish_fair(state);
        }
        // All before anybody is waited for: nothing is begun in one lane while another's holders come to their end.
        let held: Vec<_> = self.lanes.iter().map(|lane| (lane, close(lane, set))).collect();
        for (lane, slices) in held {
            for first in slices {
                while lane.lock().close_slice(set, first).0 && Instant::now() < deadline && !self.is_stopping() {
                    let mut membership = self.membership.lock();
                    self.wait_for_change(&mut membership, Instant::now() + HOLDER_CHECK);
                }
            }
        }
        // All lanes have one memory of it, and each has ended with its objects.
        let mut left = None;
        for lane in &self.lanes {
            let mut state = lane.lock();
            left = state.forget_set(set).or(left);
            let records = (state.core.destroy(set), state.forget_candidates(set));
            lane.finish(state);
            // Nobody else knows them any more: freeing them keeps nobody waiting.
            drop(records);
        }
        if let Some(store) = left {
            discard_all(&*store, &|_| true);
        }
        if is_first {
            self.lanes[0].lock().statistics.sets_destroyed += 1;
        }
        self.budgets.forget(set);
        self.signals.expiries.forget(set);
        self.linkers.forget(set);
    }
}

/// Closes all objects of a set, and says in which slices somebody holds one.
fn close(lane: &Lane, set: SetId) -> Vec<CellNumber> {
    let mut held = Vec::new();
    lane.in_slices(|state, first| {
        let (is_held, next) = state.close_slice(set, first);
        held.extend(is_held.then_some(first));
        next
    });
    held
}

fn discard_all(store: &dyn Store, is_meant: &dyn Fn(u64) -> bool) {
    store.end(Ended::Destroyed);
    for (_, cell) in store.cells().into_iter().filter(|(object, _)| is_meant(*object)) {
        if store.revoke(cell, Access::None) != RevokeResult::Held {
            store.discard(cell);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use kddm_core::id::{ObjectId, PlacementPolicy, SetId};

    use super::Destroyed;
    use crate::{Node, Set};

    const LIMIT: Duration = Duration::from_secs(60);

    /// Who holds an object of one lane has his time, and nobody begins anything with one of another lane meanwhile.
    #[test]
    fn all_lanes_close_before_any_holder_is_waited_for() {
        let node = Node::local_cluster_with(1, |config| config.lanes(2)).expect("a node").remove(0);
        let open: Set<u64> = node.set("ends").open().wait_for(LIMIT).expect("the set opens");
        let id = SetId(node.set_info("ends").expect("it is there").id);
        let runtime = node.runtime();
        let of_lane = |number: usize| {
            let is_its =
                |object: &u64| std::sync::Arc::ptr_eq(runtime.lane(id, ObjectId(*object)), &runtime.lanes[number]);
            (0..1000).find(is_its).expect("each lane has some")
        };
        let (first, second) = (of_lane(0), of_lane(1));
        drop(open.grab(second).wait_for(LIMIT).expect("it is made"));
        let guard = open.grab(first).wait_for(LIMIT).expect("it is made");
        std::thread::scope(|scope| {
            let ends = scope.spawn(|| runtime.destroy_here(id, 10 * LIMIT));
            let begin = Instant::now();
            while open.get(second).wait_for(LIMIT).is_ok() {
                assert!(begin.elapsed() < LIMIT, "hits go on");
                std::thread::yield_now();
            }
            assert!(!ends.is_finished(), "the holder has time");
            drop(guard);
            ends.join().expect("it ends");
        });
    }

    fn set(number: u64) -> SetId {
        SetId::new(PlacementPolicy::Hash, number)
    }

    #[test]
    fn sets_that_end_in_any_order_are_one_stretch() {
        let mut destroyed = Destroyed::default();
        for number in [20, 18, 16, 17, 19, 19, 22] {
            destroyed.insert(set(number));
        }
        assert_eq!(destroyed.stretches.iter().collect::<Vec<_>>(), [(&16, &20), (&22, &22)]);
        for number in 0..30 {
            assert_eq!(destroyed.contains(set(number)), (16..=20).contains(&number) || number == 22, "{number}");
        }
    }
}
