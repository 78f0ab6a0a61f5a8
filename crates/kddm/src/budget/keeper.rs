//! Who keeps a set to its budget: whoever brings more, a little each, and a thread while there is too much all the same.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kddm_core::id::SetId;
use parking_lot::{Condvar, Mutex};

use super::here::{AnyBudget, BudgetInfo, Counts, count};
use super::sweep::{By, Round, Sweep};
use crate::cell::{Account, Store, Table};
use crate::error::{AccessError, Error};
use crate::linker::Linked;
use crate::runtime::Runtime;
use crate::runtime::told::SetHere;
use crate::runtime::wait::{mark_part_of_node, may_block};
use crate::set::Shared;
use crate::value::Value;

/// How long the thread stays when there is not too much any more.
const LINGER: Duration = Duration::from_secs(5);

/// When nothing can go it is tried again after that, and then after twice as long each time, at most.
const RETRY: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// Steps that whoever brings more makes, once it is a fourth more than the budget; before it is one.
const OWN_STEPS: usize = 4;

/// How long he waits for his turn to make one: longer than several of the thread's take.
const OWN_STEP_WAIT: Duration = Duration::from_millis(20);

/// How long he waits at twice the budget, at most, while something is about to go.
const OWN_WAIT: Duration = Duration::from_millis(250);

/// See the module.
pub(crate) struct Budget<T: Value> {
    pub(super) runtime: Weak<Runtime>,
    pub(super) set: SetId,
    pub(super) name: String,
    pub(super) table: Arc<Table<T>>,
    pub(super) linked: Option<Arc<Linked<T>>>,
    pub(super) account: Arc<Account>,
    pub(super) counts: Counts,
    wait_limit: Duration,
    sweep: Mutex<Sweep>,
    /// Somebody sees to it that there is less.
    is_awake: AtomicBool,
    /// The hand has been at everything that was here before.
    has_counted_all: AtomicBool,
    thread: Mutex<Thread>,
    news: Condvar,
}

#[derive(Default)]
struct Thread {
    is_there: bool,
    is_wanted: bool,
    is_closed: bool,
}

impl<T: Value> Budget<T> {
    pub fn of(shared: &Shared<T>, limit_bytes: usize) -> Arc<Budget<T>> {
        let budget = Arc::new_cyclic(|whole: &Weak<Budget<T>>| {
            let whole = whole.clone();
            let over = move || {
                if let Some(budget) = whole.upgrade() {
                    budget.begin();
                }
            };
            let account = Arc::clone(shared.table.set_account(Arc::new(Account::new(limit_bytes, over))));
            Budget {
                runtime: Arc::downgrade(&shared.here.runtime),
                set: shared.here.set,
                name: shared.name.clone(),
                table: Arc::clone(&shared.table),
                linked: shared.linked.clone(),
                account,
                counts: Counts::default(),
                wait_limit: shared.wait_limit,
                sweep: Mutex::default(),
                is_awake: AtomicBool::new(false),
                has_counted_all: AtomicBool::new(false),
                thread: Mutex::default(),
                news: Condvar::new(),
            }
        });
        // What was here before is counted as the hand passes it.
        budget.begin();
        budget
    }

    fn here(&self) -> Option<SetHere> {
        let runtime = self.runtime.upgrade().filter(|runtime| !runtime.is_stopping())?;
        Some(SetHere { runtime, set: self.set })
    }

    /// Has a thread look whether something is to go. Perhaps under the lock of a lane.
    fn begin(self: &Arc<Self>) {
        if self.is_awake.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut thread = self.thread.lock();
        thread.is_wanted = true;
        self.news.notify_all();
        if thread.is_closed || std::mem::replace(&mut thread.is_there, true) {
            return;
        }
        let budget = Arc::clone(self);
        if let Err(error) = std::thread::Builder::new().name("kddm-budget".into()).spawn(move || budget.work()) {
            tracing::warn!(set = self.name, %error, "no thread to keep the set to its budget; whoever brings more does");
            thread.is_there = false;
            self.is_awake.store(false, Ordering::Release);
        }
    }

    fn work(&self) {
        mark_part_of_node();
        while self.is_wanted() {
            // It runs code of whoever wrote the type. What is brought next has it go on.
            let kept = catch_unwind(AssertUnwindSafe(|| self.keep()));
            if kept.is_err() {
                tracing::error!(
                    set = self.name,
                    "a panic while the set was kept to its budget: it goes on when more comes"
                );
            }
            let goes_on = kept.as_ref().copied().unwrap_or(true);
            self.is_awake.store(false, Ordering::Release);
            // What came meanwhile may not have woken it.
            let is_again = kept.is_ok() && self.is_over() && !self.is_awake.swap(true, Ordering::AcqRel);
            let mut thread = self.thread.lock();
            thread.is_wanted |= is_again;
            thread.is_closed |= !goes_on;
        }
    }

    /// Waits until something is to be done. False: the thread ends.
    fn is_wanted(&self) -> bool {
        let mut thread = self.thread.lock();
        while !thread.is_wanted && !thread.is_closed {
            if self.news.wait_for(&mut thread, LINGER).timed_out() && !thread.is_wanted {
                break;
            }
        }
        let goes_on = thread.is_wanted && !thread.is_closed;
        (thread.is_wanted, thread.is_there) = (false, goes_on);
        if !goes_on {
            self.news.notify_all();
        }
        goes_on
    }

    /// Until there is somewhat less than the budget: the first time a whole round at least, so that all is counted. False: the
    /// node has stopped, or the set has ended.
    fn keep(&self) -> bool {
        let (mut retry, mut was_stuck) = (RETRY[0], false);
        while !self.has_counted_all() || self.account.bytes() > self.enough() {
            let Some(here) = self.here() else { return false };
            let round = self.sweep.lock().step(self, &here, By::Keeper);
            if !matches!(round, Round::GoesOn | Round::Waits(_)) {
                self.has_counted_all.store(true, Ordering::Relaxed);
            }
            if round == Round::Freed {
                (retry, was_stuck) = (RETRY[0], false);
            }
            drop(here);
            if let Round::Waits(limit) = round
                && self.pause(limit)
            {
                return false;
            }
            if !round.is_stuck() {
                continue;
            }
            if !self.is_over() {
                return true;
            }
            if !std::mem::replace(&mut was_stuck, true) {
                self.is_stuck();
            }
            if self.pause(retry) {
                return false;
            }
            retry = (retry * 2).min(RETRY[1]);
        }
        self.settle()
    }

    /// Until what was to go is counted, or there is too much again. False as for [`Self::keep`].
    fn settle(&self) -> bool {
        while !self.is_over() {
            let Some(here) = self.here() else { return false };
            let Some(limit) = self.sweep.lock().settle(self, &here) else { break };
            drop(here);
            if self.pause(limit) {
                return false;
            }
        }
        true
    }

    fn is_stuck(&self) {
        count(&self.counts.stuck, 1);
        let (set, bytes, limit_bytes) = (&*self.name, self.account.bytes(), self.account.limit_bytes());
        tracing::warn!(set, bytes, limit_bytes, "nothing of the set can go: it is held, or not kept behind it yet");
    }

    /// Whether it was closed meanwhile.
    fn pause(&self, limit: Duration) -> bool {
        let mut thread = self.thread.lock();
        if !thread.is_closed {
            self.news.wait_for(&mut thread, limit);
        }
        thread.is_closed
    }

    /// Whether there is no more than twice the budget, now or once what is about to go has gone. A task is not made to wait.
    fn makes_room(&self, here: &SetHere) -> bool {
        let deadline = Instant::now() + self.wait_limit.min(OWN_WAIT);
        while self.account.bytes() > self.account.limit_bytes().saturating_mul(2) {
            let round = self.own_step(here);
            if round.is_some_and(Round::is_stuck) || Instant::now() >= deadline {
                return self.account.bytes() <= self.account.limit_bytes().saturating_mul(2);
            }
            if let Some(Round::Waits(limit)) = round
                && (!may_block() || self.pause(limit))
            {
                return false;
            }
        }
        true
    }

    /// A step of whoever brings more, unless others make theirs for so long. It may be this thread that does: a task that is
    /// woken when a turn of its step is over asks at once, perhaps for another object of the set.
    fn own_step(&self, here: &SetHere) -> Option<Round> {
        self.sweep.try_lock_for(OWN_STEP_WAIT).map(|mut sweep| sweep.step(self, here, By::Caller))
    }

    pub(super) fn is_over(&self) -> bool {
        self.account.bytes() > self.account.limit_bytes()
    }

    /// Whether the hand has been at everything that was here before.
    pub(super) fn has_counted_all(&self) -> bool {
        self.has_counted_all.load(Ordering::Relaxed)
    }

    /// A sixteenth less than the budget, so that the next object does not begin it all anew.
    pub(super) fn enough(&self) -> usize {
        let limit_bytes = self.account.limit_bytes();
        limit_bytes - limit_bytes / 16
    }

    /// From there on whoever brings more makes a step: there is room again before the thread has to be woken for that.
    fn is_full_at(&self) -> usize {
        let limit_bytes = self.account.limit_bytes();
        limit_bytes - limit_bytes / 32
    }

    /// From there on whoever brings more waits for the lanes.
    fn is_nearly_over_at(&self) -> usize {
        let limit_bytes = self.account.limit_bytes();
        limit_bytes - limit_bytes / 64
    }
}

impl<T: Value> AnyBudget for Budget<T> {
    fn info(&self) -> BudgetInfo {
        BudgetInfo::of(self.name.clone(), self.set.0, &self.account, &self.counts)
    }

    fn wanted(&self, object: u64) -> Result<(), Error> {
        if self.table.find_cell(object).is_some_and(|cell| self.table.has_value(cell)) {
            return Ok(()); // It is only to be held otherwise.
        }
        self.account.missed(object);
        if self.account.bytes() <= self.is_full_at() {
            return Ok(());
        }
        let Some(here) = self.here() else { return Ok(()) };
        if self.account.bytes() <= self.account.limit_bytes().saturating_add(self.account.limit_bytes() / 4) {
            // Nobody waits for others who do so, and what is stuck is left to the thread.
            if let Some(mut sweep) = self.sweep.try_lock()
                && sweep.is_fruitful()
            {
                let by = if self.account.bytes() > self.is_nearly_over_at() { By::Caller } else { By::Passer };
                let _whatever_round = sweep.step(self, &here, by);
            }
            return Ok(());
        }
        for _ in 0..OWN_STEPS {
            if !self.is_over() {
                return Ok(());
            }
            let _whatever_round = self.own_step(&here);
        }
        if self.makes_room(&here) {
            return Ok(());
        }
        let (bytes, limit_bytes) = (self.account.bytes(), self.account.limit_bytes());
        count(&self.counts.refused, 1);
        Err(AccessError::OverBudget { set: self.name.clone(), bytes, limit_bytes }.into())
    }

    fn note(&self, object: u64, bytes: usize, version: u64) {
        if let Some(cell) = self.table.find_cell(object) {
            let comes = self.account.bytes_of(cell) == 0;
            self.account.note(cell, bytes, version);
            // What comes is used first by whoever has it brought: that is still to be.
            if !comes && !self.table.is_brought(cell, object) {
                self.table.is_in_use(cell, object);
            }
        }
    }

    fn set_limit_bytes(&self, limit_bytes: usize) {
        self.account.set_limit_bytes(limit_bytes);
        if self.is_over() {
            self.account.is_too_much();
        }
    }

    fn close(&self) {
        let mut thread = self.thread.lock();
        thread.is_closed = true;
        self.news.notify_all();
        // It makes one step more at most, and never waits for others.
        while thread.is_there {
            if self.news.wait_for(&mut thread, CLOSE_LIMIT).timed_out() {
                return tracing::warn!(set = self.name, "the thread that keeps its budget has not ended");
            }
        }
    }
}

/// How long the end waits for the thread, whose steps take less than a millisecond.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
