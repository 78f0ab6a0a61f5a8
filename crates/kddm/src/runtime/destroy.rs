//! A set ends on this node, a slice of its objects at a time: whoever uses other sets must not wait
//! for a million objects to go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::SetId;
use kddm_core::io::Access;

use crate::cell::{CellNumber, Ended, RevokeResult, Store};
use crate::error::SetError;
use crate::runtime::Runtime;
use crate::runtime::lane::{Lane, LaneState};
use crate::runtime::wait;

/// Cells looked at before the lane is free for others: some hundred microseconds.
const SLICE: u32 = 4096;

/// How often a destroy looks whether the last holder has put.
const HOLDER_CHECK: Duration = Duration::from_millis(2);

impl LaneState {
    /// New operations on a set are refused from now on, and waiting ones end.
    fn begin_destroy(&mut self, set: SetId) {
        self.destroyed.insert(set);
        self.ask_back_set(set);
        self.fail_waiters(Some(set), &SetError::Destroyed.into());
    }

    /// Takes access back in a slice of cells: whoever holds one keeps it until he puts. Whether somebody
    /// does, and where the next slice begins.
    fn close_slice(&self, set: SetId, first: CellNumber) -> (bool, Option<CellNumber>) {
        let Some(store) = self.stores.get(&set) else { return (false, None) };
        let (cells, next) = store.cells_from(first, SLICE);
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
        self.locals.retain(|(of, _), _| *of != set);
        self.stores.remove(&set)
    }
}

impl LaneState {
    /// The set has ended at the node to which this program is attached. All at once: a program has not
    /// borrowed that much.
    pub fn end_set(&mut self, set: SetId) {
        self.begin_destroy(set);
        if let Some(store) = self.forget_set(set) {
            store.close();
            discard_all(&*store);
        }
    }
}

impl Runtime {
    /// Forgets a set here: new operations are refused at once, holders have `limit` to put. Guards that
    /// are left then keep their value and can publish nothing.
    pub fn destroy_here(&self, set: SetId, limit: Duration) {
        let deadline = wait::deadline_in(limit);
        for lane in &self.lanes {
            let mut state = lane.lock();
            state.begin_destroy(set);
            lane.finish_fair(state);
        }
        for lane in &self.lanes {
            let held = close(lane, set);
            for first in held {
                while lane.lock().close_slice(set, first).0 && Instant::now() < deadline && !self.is_stopping() {
                    let mut membership = self.membership.lock();
                    self.wait_for_change(&mut membership, Instant::now() + HOLDER_CHECK);
                }
            }
            let mut state = lane.lock();
            let store = state.forget_set(set);
            let records = state.core.destroy(set);
            lane.finish(state);
            // Nobody else knows them any more: freeing them keeps nobody waiting.
            drop(records);
            if let Some(store) = store {
                discard_all(&*store);
            }
        }
    }
}

/// Closes all objects of a set, and says in which slices somebody holds one.
fn close(lane: &Lane, set: SetId) -> Vec<CellNumber> {
    let mut held = Vec::new();
    let mut next = Some(0);
    while let Some(first) = next {
        let state = lane.lock();
        let is_held;
        (is_held, next) = state.close_slice(set, first);
        lane.finish_fair(state);
        if is_held {
            held.push(first);
        }
    }
    held
}

fn discard_all(store: &dyn Store) {
    store.end(Ended::Destroyed);
    for (_, cell) in store.cells() {
        if store.revoke(cell, Access::None) != RevokeResult::Held {
            store.discard(cell);
        }
    }
}
