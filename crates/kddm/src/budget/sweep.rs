//! The hand of the clock: it passes cells, a few at a time, and what was not used since it was there last goes.

use std::sync::Arc;

use kddm_core::Main;
use kddm_core::id::ObjectId;

use super::here::count;
use super::keeper::Budget;
use crate::cell::{CellNumber, Slow, Store, Swept, Told};
use crate::linker::WritePolicy;
use crate::runtime::lane::LaneState;
use crate::runtime::local::Wish;
use crate::runtime::told::{Lanes, SetHere};
use crate::runtime::wait::{Op, Outcome};
use crate::value::Value;

/// Cells that are passed before the lane is free for others: some ten microseconds, a hundred where all of them go.
const CELLS: u32 = 64;

/// Objects that may be on their way to what stands behind the set.
const UNDER_WAY: usize = 64;

/// When whole rounds in a row have freed nothing: objects go from then on that were used meanwhile.
const PRESSED: u32 = 2;

/// Where the hand is.
#[derive(Default)]
pub(super) struct Sweep {
    next: CellNumber,
    /// Something went in this round; copies did.
    freed: bool,
    dropped_copies: bool,
    /// So did copies in the last one: what is owned stays as long as there are some.
    has_copies: bool,
    fruitless: u32,
    /// What is being written, and goes then.
    under_way: Vec<Arc<Op>>,
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    GoesOn,
    /// Something has gone in it, or is about to.
    Freed,
    /// Nothing has, in so many rounds.
    Fruitless(u32),
}

impl Round {
    /// Whether nothing can go.
    pub fn is_stuck(self) -> bool {
        matches!(self, Round::Fruitless(rounds) if rounds > PRESSED)
    }
}

impl Sweep {
    fn end_of_round(&mut self) -> Round {
        let freed = std::mem::take(&mut self.freed);
        self.has_copies = std::mem::take(&mut self.dropped_copies);
        if freed || !self.under_way.is_empty() {
            self.fruitless = 0;
            return Round::Freed;
        }
        self.fruitless = self.fruitless.saturating_add(1);
        Round::Fruitless(self.fruitless)
    }

    /// One step: a few cells, and what goes of them, as long as there is too much.
    pub fn step<T: Value>(&mut self, budget: &Budget<T>, here: &SetHere) -> Round {
        self.look_what_has_gone(budget);
        let (cells, next) = budget.table.cells_from(self.next, CELLS);
        let mut owned = Vec::new();
        for lane in &here.runtime.lanes {
            let mut state = lane.lock();
            for (object, cell) in cells.iter().filter(|(object, _)| Arc::ptr_eq(here.lane(*object), lane)) {
                self.pass(budget, &mut state, (*object, *cell), &mut owned);
            }
            lane.finish_fair(state);
        }
        for (object, cell) in owned {
            self.evict(budget, here, object, cell);
        }
        self.next = next.unwrap_or(0);
        if next.is_some() {
            return Round::GoesOn;
        }
        if self.freed {
            budget.account.resample();
        }
        self.end_of_round()
    }

    /// What was to be written has been, or has not.
    fn look_what_has_gone<T: Value>(&mut self, budget: &Budget<T>) {
        self.under_way.retain(|op| {
            if let Some(Outcome::Failed(error)) = op.take() {
                count(&budget.counts.failed, 1);
                tracing::debug!(set = budget.name, %error, "an object was to go and stays");
            }
            !op.is_done()
        });
    }

    fn pass<T: Value>(
        &mut self,
        budget: &Budget<T>,
        state: &mut LaneState,
        (object, cell): (u64, CellNumber),
        owned: &mut Vec<(u64, CellNumber)>,
    ) {
        let is_pressed = self.fruitless >= PRESSED;
        match budget.table.sweep(cell, object) {
            Swept::Nothing => return,
            Swept::Used if !is_pressed => return,
            Swept::Used | Swept::Unused => {}
        }
        let is_time = budget.account.bytes() > budget.enough() && !state.fenced && !state.is_a_peer_full();
        if !is_time || budget.table.is_held(cell) {
            return;
        }
        let Some(seen) = state.core.inspect(budget.set, ObjectId(object)) else { return };
        let bytes = budget.account.bytes_of(cell);
        let counted = match seen.main {
            _ if seen.wanting => return,
            Main::Sharer { .. } => &budget.counts.dropped_copies,
            Main::Owner { .. } if budget.linked.is_none() => return budget.account.keep(cell),
            Main::Owner { .. } if self.has_copies && !is_pressed => return,
            Main::Owner { .. } if seen.sharers.is_empty() => return owned.push((object, cell)),
            Main::Owner { .. } => &budget.counts.passed_on,
            _ => return,
        };
        if state.begin_flush(budget.set, ObjectId(object)) {
            self.freed = true;
            self.dropped_copies |= matches!(seen.main, Main::Sharer { .. });
            count(counted, 1);
            count(&budget.counts.freed_bytes, bytes as u64);
        }
    }

    /// What this node owns, and nobody else has, leaves the cluster, if what stands behind the set has it.
    fn evict<T: Value>(&mut self, budget: &Budget<T>, here: &SetHere, object: u64, cell: CellNumber) {
        let Some(linked) = budget.linked.as_ref().filter(|_| self.under_way.len() < UNDER_WAY) else { return };
        if budget.account.bytes() <= budget.enough() {
            return;
        }
        let hold = match budget.table.try_write_at(cell, object) {
            Ok(hold) => Told::<_, Lanes>::new(hold),
            Err(Slow::Interrupted(object)) => return here.released(object),
            // Others read it once, and do not any more: it is all this node's again, and goes next time.
            Err(Slow::NoAccess) => {
                let _whenever_it_is = here.ask(object, Wish::Acquire, false, || false);
                return;
            }
            Err(_) => return,
        };
        if !hold.has_value() {
            return;
        }
        if linked.write_policy() == WritePolicy::Around && hold.version() > 0 {
            return budget.account.keep(cell); // It is nowhere else.
        }
        let bytes = budget.account.bytes_of(cell);
        self.under_way.push(linked.evict(here, hold));
        self.freed = true;
        count(&budget.counts.evicted, 1);
        count(&budget.counts.freed_bytes, bytes as u64);
    }
}
