//! The hand of the clock: it passes cells, a few at a time, and what was not used since it was there last goes.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use kddm_core::Main;
use kddm_core::id::ObjectId;
use kddm_core::io::Access;

use super::here::{Counts, count};
use super::keeper::Budget;
use crate::cell::{CellNumber, RevokeResult, Slow, Store, Swept, Told};
use crate::linker::{Linked, WritePolicy};
use crate::runtime::lane::{Lane, LaneState};
use crate::runtime::local::Wish;
use crate::runtime::told::{Lanes, SetHere};
use crate::runtime::wait::{Op, Outcome};
use crate::value::Value;

/// Cells that are passed before the lane is free for others: some ten microseconds, a hundred where all of them go.
const CELLS: u32 = 64;

/// As many by whoever brings more: the lane is taken for about as long as he needs it for his own object. Where it is taken
/// for longer, all that want an object meanwhile end up in a queue for it, each of them woken by the one before.
const OWN_CELLS: u32 = 4;

/// Objects that may be on their way to what stands behind the set, or to other nodes.
const UNDER_WAY: usize = 64;

/// When whole rounds in a row have freed nothing: objects go from then on that were used meanwhile.
const PRESSED: u32 = 2;

/// So many rounds after the last one that has freed something may only spare what they find: what is not used has been spared
/// often enough then, and those after them are fruitless.
const SPARING: u32 = 4;

/// What is under way for longer, and nothing of it ends, is not waited for: rounds are fruitless then.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long what is under way is left alone before it is looked at again: half as long as it was waited for, from, to.
const LOOKS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];

/// Where the hand is.
#[derive(Default)]
pub(super) struct Sweep {
    next: CellNumber,
    /// Something went in this round; copies did.
    freed: bool,
    dropped_copies: bool,
    /// So did copies in the last one: what is owned stays as long as there are some.
    has_copies: bool,
    /// Some were spared in this round that are nearer to going now; so many rounds in a row had nothing better.
    spared: bool,
    sparing: u32,
    fruitless: u32,
    /// What was to go in this round and stays.
    failures: usize,
    /// Lately all that were to go have failed: whoever brings more does not try it, the thread does.
    is_failing: bool,
    /// What goes once it is written, or once another node has it; what there will be less then; and since when nothing of it has
    /// ended.
    under_way: Vec<Leaving>,
    leaving_bytes: usize,
    waits_since: Option<Instant>,
}

/// An object that is about to go.
struct Leaving {
    object: u64,
    bytes: usize,
    counted: fn(&Counts) -> &AtomicU64,
    /// It is being written; else other nodes are told.
    op: Option<Arc<Op>>,
}

#[derive(PartialEq, Eq)]
enum Fate {
    UnderWay,
    Gone,
    Stays,
}

impl Leaving {
    fn fate<T: Value>(&self, budget: &Budget<T>, here: &SetHere) -> Fate {
        let Some(op) = &self.op else {
            let state = here.lane(self.object).lock();
            return Leaving::fate_of_flush(budget, &state, self.object);
        };
        Leaving::fate_of(budget, op)
    }

    /// What there will be less. Of a removal the value goes first, and is counted no more while others have yet to hear of it.
    fn bytes_to_go<T: Value>(&self, budget: &Budget<T>) -> usize {
        if is_here(budget, self.object) { self.bytes } else { 0 }
    }

    fn fate_of<T: Value>(budget: &Budget<T>, op: &Op) -> Fate {
        if !op.is_done() {
            return Fate::UnderWay;
        }
        let Some(Outcome::Failed(error)) = op.take() else { return Fate::Gone };
        count(&budget.counts.failed, 1);
        tracing::debug!(set = budget.name, %error, "an object was to go and stays");
        Fate::Stays
    }

    fn fate_of_flush<T: Value>(budget: &Budget<T>, state: &LaneState, object: u64) -> Fate {
        if !is_here(budget, object) {
            return Fate::Gone;
        }
        let local = state.locals.get(&(budget.set, ObjectId(object)));
        if local.is_some_and(|local| local.outstanding) { Fate::UnderWay } else { Fate::Stays }
    }
}

fn is_here<T: Value>(budget: &Budget<T>, object: u64) -> bool {
    budget.table.find_cell(object).is_some_and(|cell| budget.table.has_value(cell))
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    GoesOn,
    /// It is over, and all that it has come to is that some are nearer to going.
    Spared,
    /// Something has gone in it.
    Freed,
    /// Nothing has yet, but something is about to: it is to be looked at after that time.
    Waits(Duration),
    /// Nothing has, in so many rounds.
    Fruitless(u32),
}

impl Round {
    /// Whether nothing can go.
    pub fn is_stuck(self) -> bool {
        matches!(self, Round::Fruitless(rounds) if rounds > PRESSED)
    }
}

/// Who makes a step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The thread, which tries it also where all have failed lately that were to be written.
    Keeper,
    /// Whoever brings more.
    Caller,
    /// The same while there is room still: while somebody is busy with the lane, if there is only one, he leaves it to another.
    Passer,
}

impl Sweep {
    fn end_of_round(&mut self) -> Round {
        let (freed, spared) = (std::mem::take(&mut self.freed), std::mem::take(&mut self.spared));
        let failures = std::mem::take(&mut self.failures);
        self.is_failing |= failures > 0 && !freed;
        self.has_copies = std::mem::take(&mut self.dropped_copies);
        if freed {
            (self.fruitless, self.sparing) = (0, 0);
            return Round::Freed;
        }
        if spared && self.sparing < SPARING {
            self.sparing += 1;
            return Round::Spared;
        }
        match self.waits() {
            Some(limit) if failures == 0 => Round::Waits(limit),
            _ => {
                self.fruitless = self.fruitless.saturating_add(1);
                Round::Fruitless(self.fruitless)
            }
        }
    }

    /// How long to wait for what is under way, if it may end soon.
    fn waits(&self) -> Option<Duration> {
        let waited = self.waits_since?.elapsed();
        (waited < PATIENCE).then(|| (waited / 2).clamp(LOOKS[0], LOOKS[1]))
    }

    /// One step: a few cells, and what goes of them, as long as there is too much.
    pub fn step<T: Value>(&mut self, budget: &Budget<T>, here: &SetHere, by: By) -> Round {
        let has_news = self.look_what_has_gone(budget, here);
        // The hand rests while enough is about to go: it would only make cold what had no time to be used.
        if !self.under_way.is_empty()
            && !self.is_too_much(budget)
            && let Some(limit) = self.waits()
        {
            return Round::Waits(limit);
        }
        let is_keeper = by == By::Keeper;
        let most = if is_keeper { CELLS } else { OWN_CELLS };
        let (cells, next) = budget.table.cells_from(self.next, most);
        let (mut owned, mut rest) = (Vec::new(), None);
        // Not before all is counted, nor where each lane passes some of these.
        let may_rest = budget.has_counted_all() && here.runtime.lanes.len() == 1;
        for lane in &here.runtime.lanes {
            let state = if by == By::Passer && may_rest { lane.try_lock() } else { Some(lane.lock()) };
            let Some(mut state) = state else {
                rest = cells.first().map(|(_, cell)| *cell);
                break;
            };
            for (object, cell) in cells.iter().filter(|(object, _)| Arc::ptr_eq(here.lane(*object), lane)) {
                // Once enough has gone the others keep their marks: whoever comes next begins there.
                if may_rest && budget.account.bytes() <= budget.enough() {
                    rest = Some(*cell);
                    break;
                }
                self.pass(budget, by, (lane, &mut state), (*object, *cell), &mut owned);
            }
            // Whoever wants an object has one step or a few, and is not to wait for all the others between.
            if is_keeper { lane.finish_fair(state) } else { lane.finish(state) }
        }
        for (object, cell) in owned {
            self.evict(budget, here, object, cell);
        }
        let next = rest.or(next);
        self.next = next.unwrap_or(0);
        // A round ends where it fails again and again, too, and the next one goes on there.
        if next.is_some() && (self.freed || self.failures < UNDER_WAY) {
            let is_full = self.under_way.len() >= UNDER_WAY && !has_news;
            return self.waits().filter(|_| is_full).map_or(Round::GoesOn, Round::Waits);
        }
        if self.freed {
            budget.account.resample();
        }
        self.end_of_round()
    }

    /// Looks what has gone, and passes nothing. How long to wait for the rest, if it may go soon.
    pub fn settle<T: Value>(&mut self, budget: &Budget<T>, here: &SetHere) -> Option<Duration> {
        self.look_what_has_gone(budget, here);
        self.waits()
    }

    /// What was to go has gone, or has not. Whether there is any news.
    fn look_what_has_gone<T: Value>(&mut self, budget: &Budget<T>, here: &SetHere) -> bool {
        let before = self.under_way.len();
        for leaving in std::mem::take(&mut self.under_way) {
            match leaving.fate(budget, here) {
                Fate::UnderWay => self.under_way.push(leaving),
                Fate::Gone => self.has_gone(budget, &leaving),
                Fate::Stays => self.failures += 1,
            }
        }
        self.leaving_bytes = self.under_way.iter().map(|leaving| leaving.bytes_to_go(budget)).sum();
        let has_news = self.under_way.len() < before;
        if has_news {
            self.waits_since = (!self.under_way.is_empty()).then(Instant::now);
        }
        has_news
    }

    fn has_gone<T: Value>(&mut self, budget: &Budget<T>, leaving: &Leaving) {
        (self.freed, self.is_failing, self.fruitless) = (true, false, 0);
        count((leaving.counted)(&budget.counts), 1);
        count(&budget.counts.freed_bytes, leaving.bytes as u64);
    }

    fn is_under_way<T: Value>(&mut self, budget: &Budget<T>, leaving: Leaving) {
        self.leaving_bytes += leaving.bytes_to_go(budget);
        self.under_way.push(leaving);
        self.waits_since.get_or_insert_with(Instant::now);
    }

    /// Whether steps lead to something, as far as the last rounds say.
    pub fn is_fruitful(&self) -> bool {
        self.fruitless <= PRESSED && !self.is_failing && self.under_way.len() < UNDER_WAY
    }

    fn is_pressed(&self) -> bool {
        self.fruitless >= PRESSED
    }

    /// Whether more is to go than is about to.
    fn is_too_much<T: Value>(&self, budget: &Budget<T>) -> bool {
        let leaving_bytes = if self.is_pressed() { 0 } else { self.leaving_bytes };
        budget.account.bytes().saturating_sub(leaving_bytes) > budget.enough() && self.under_way.len() < UNDER_WAY
    }

    fn pass<T: Value>(
        &mut self,
        budget: &Budget<T>,
        by: By,
        (lane, state): (&Arc<Lane>, &mut LaneState),
        (object, cell): (u64, CellNumber),
        owned: &mut Vec<(u64, CellNumber)>,
    ) {
        if budget.account.keeps(cell) {
            return;
        }
        let is_pressed = self.is_pressed();
        let swept = budget.table.sweep(cell, object);
        self.spared |= swept == Swept::Spared;
        if swept == Swept::Nothing || (swept != Swept::Unused && !is_pressed) {
            return;
        }
        let is_time = self.is_too_much(budget) && !state.fenced && !state.is_a_peer_full();
        if !is_time || budget.table.is_held(cell) {
            return;
        }
        let Some(seen) = state.core.standing(budget.set, ObjectId(object)) else { return };
        let counted: fn(&Counts) -> &AtomicU64 = match seen.main {
            _ if seen.wanting => return,
            Main::Sharer { .. } => |counts| &counts.dropped_copies,
            Main::Owner { .. } if budget.linked.is_none() => return budget.account.keep(cell),
            Main::Owner { .. } if self.has_copies && !is_pressed => return,
            Main::Owner { .. } if !seen.is_shared => {
                return self.is_owned_alone(budget, by, (lane, state), (object, cell), owned);
            }
            Main::Owner { .. } => |counts| &counts.passed_on,
            _ => return,
        };
        let leaving = Leaving { object, bytes: budget.account.bytes_of(cell), counted, op: None };
        if state.begin_flush(budget.set, ObjectId(object)) {
            self.dropped_copies |= matches!(seen.main, Main::Sharer { .. });
            let fate = Leaving::fate_of_flush(budget, state, object);
            self.leaves(budget, leaving, fate);
        }
    }

    /// It can be evicted, or can be the next time that the hand is here, or never.
    fn is_owned_alone<T: Value>(
        &mut self,
        budget: &Budget<T>,
        by: By,
        (lane, state): (&Arc<Lane>, &mut LaneState),
        (object, cell): (u64, CellNumber),
        owned: &mut Vec<(u64, CellNumber)>,
    ) {
        if self.is_failing && by != By::Keeper {
            return;
        }
        if budget.table.is_undecoded(cell) {
            // Nobody can hold it as it came; whoever takes it to read decodes it.
            let Some(hold) = budget.table.take_read(cell) else { return };
            if hold.release() {
                state.released(budget.set, ObjectId(object));
            }
            if budget.table.is_undecoded(cell) {
                return budget.account.keep(cell); // It does not fit the type.
            }
        }
        // Of a frozen set nothing is removed, nor held to be: whoever closes it would wait for one after the other.
        if state.is_frozen(budget.set) {
            return;
        }
        if budget.table.access(cell) == Access::Write {
            return match budget.linked.as_ref().filter(|linked| linked.leaves_unwritten()) {
                Some(linked) => self.evict_here(budget, linked, (lane, state), (object, cell)),
                None => owned.push((object, cell)),
            };
        }
        // Others read it once, and do not any more. Under its lane it is known that it is still this node's: elsewhere
        // this wish could take it from whoever has it by now, or make it anew.
        state.ask(budget.set, ObjectId(object), Wish::Acquire, Arc::new(Op::new(Arc::clone(lane))));
    }

    /// What this node owns, and nobody else has, leaves the cluster in this turn of its lane: what stands behind the set has
    /// it, if it ever does. All access is taken back at once or not at all, so that nobody changes it in between.
    fn evict_here<T: Value>(
        &mut self,
        budget: &Budget<T>,
        linked: &Linked<T>,
        (lane, state): (&Arc<Lane>, &mut LaneState),
        (object, cell): (u64, CellNumber),
    ) {
        // Whoever waits for it has it first.
        if state.locals.contains_key(&(budget.set, ObjectId(object))) {
            return;
        }
        let bytes = budget.account.bytes_of(cell);
        let RevokeResult::Done { version, has_value } = budget.table.try_revoke(cell) else { return };
        let is_nowhere_else = linked.write_policy() == WritePolicy::Around && version > 0;
        if is_nowhere_else || !has_value {
            if is_nowhere_else {
                budget.account.keep(cell);
            }
            return budget.table.grant(cell, Access::Write);
        }
        let op = Arc::new(Op::new(Arc::clone(lane)));
        linked.count_evicted();
        state.remove_unused(budget.set, ObjectId(object), Arc::clone(&op), (version, has_value));
        let fate = Leaving::fate_of(budget, &op);
        if fate == Fate::Stays && state.core.standing(budget.set, ObjectId(object)).is_some_and(|seen| seen.may_write) {
            budget.table.grant(cell, Access::Write); // The core has not heard of it.
            state.look_at_hooks(budget.set, ObjectId(object));
        }
        let leaving = Leaving { object, bytes, counted: |counts| &counts.evicted, op: Some(op) };
        self.leaves(budget, leaving, fate);
    }

    /// The same where it is written first (`Behind`), which takes until later.
    fn evict<T: Value>(&mut self, budget: &Budget<T>, here: &SetHere, object: u64, cell: CellNumber) {
        let Some(linked) = budget.linked.as_ref().filter(|_| self.is_too_much(budget)) else { return };
        let hold = match budget.table.try_write_at(cell, object) {
            Ok(hold) => Told::<_, Lanes>::new(hold),
            Err(Slow::Interrupted(object)) => return here.released(object),
            Err(_) => return, // Somebody was faster.
        };
        if !hold.has_value() {
            return;
        }
        let bytes = budget.account.bytes_of(cell);
        let op = Some(linked.evict(here, hold));
        let leaving = Leaving { object, bytes, counted: |counts| &counts.evicted, op };
        let fate = leaving.fate(budget, here);
        self.leaves(budget, leaving, fate);
    }

    fn leaves<T: Value>(&mut self, budget: &Budget<T>, leaving: Leaving, fate: Fate) {
        match fate {
            Fate::Gone => self.has_gone(budget, &leaving),
            Fate::UnderWay => self.is_under_way(budget, leaving),
            Fate::Stays => self.failures += 1,
        }
    }
}
