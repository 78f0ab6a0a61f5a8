//! The budgets of a node: which sets have one here, and what they have counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kddm_core::id::SetId;
use parking_lot::RwLock;

use super::LEAST_BUDGET_BYTES;
use super::keeper::Budget;
use crate::cell::SAMPLED;
use crate::error::{ConfigurationError, Error, MembershipError};
use crate::node::Node;
use crate::set::Set;
use crate::system::SetBuilder;
use crate::value::Value;

/// The budget of a set, as one node sees it.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct BudgetInfo {
    /// The name of the set.
    pub set: String,
    /// Its number, the same on every node.
    pub set_id: u64,
    /// How much may be here.
    pub limit_bytes: u64,
    /// How much is here: values and 120 bytes for each.
    pub bytes: u64,
    /// Objects that were wanted here and were not here.
    pub misses: u64,
    /// Reads that found their object here: 64 times what was counted of one object in 64, for all others hits are counted by
    /// nobody. Copies of plain old data are counted among them.
    pub hits: u64,
    /// How many of all were hits, from 0 to 1, among those of these samples; `None` before the first.
    pub hit_ratio: Option<f64>,
    /// Copies to read that went.
    pub dropped_copies: u64,
    /// Objects that this node owned and that others read: one of them owns them now.
    pub passed_on: u64,
    /// Objects that this node owned, and that are only behind the set now.
    pub evicted: u64,
    /// What all of these counted.
    pub freed_bytes: u64,
    /// Objects that were to go and stayed, because what stands behind the set did not take them.
    pub failed: u64,
    /// How often nothing could go.
    pub stuck: u64,
    /// Operations that were refused, because twice the budget was here and nothing could go.
    pub refused: u64,
}

/// What a node counts of one budget.
#[derive(Default)]
pub(super) struct Counts {
    pub dropped_copies: AtomicU64,
    pub passed_on: AtomicU64,
    pub evicted: AtomicU64,
    pub freed_bytes: AtomicU64,
    pub failed: AtomicU64,
    pub stuck: AtomicU64,
    pub refused: AtomicU64,
}

pub(super) fn count(what: &AtomicU64, how_many: u64) {
    what.fetch_add(how_many, Ordering::Relaxed);
}

/// A budget, whatever the type of its set.
pub(super) trait AnyBudget: Send + Sync {
    fn info(&self) -> BudgetInfo;
    /// Somebody wants an object and sends for it, unless that is too much.
    fn wanted(&self, object: u64) -> Result<(), Error>;
    /// An object that is held has a value, or is about to, of so many bytes.
    fn note(&self, object: u64, bytes: usize, version: u64);
    fn set_limit_bytes(&self, limit_bytes: usize);
    /// The set or the node is no more.
    fn close(&self);
}

/// See the module.
#[derive(Default)]
pub(crate) struct Budgets {
    sets: RwLock<HashMap<u64, Arc<dyn AnyBudget>>>,
    /// There is one, so that whoever has none is asked nothing more.
    any: AtomicBool,
}

impl Budgets {
    fn of(&self, set: SetId) -> Option<Arc<dyn AnyBudget>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.sets.read().get(&set.0).cloned()
    }

    /// The budget of a set from now on, unless it has one.
    pub(super) fn keep(&self, set: SetId, make: impl FnOnce() -> Arc<dyn AnyBudget>) -> Arc<dyn AnyBudget> {
        let budget = Arc::clone(self.sets.write().entry(set.0).or_insert_with(make));
        self.any.store(true, Ordering::Release);
        budget
    }

    /// Somebody wants an object and sends for it, unless that is too much.
    pub fn wanted(&self, set: SetId, object: u64) -> Result<(), Error> {
        self.of(set).map_or(Ok(()), |budget| budget.wanted(object))
    }

    /// An object that is held has a value, or is about to, whose bytes `measure` says.
    pub fn note(&self, set: SetId, object: u64, version: u64, measure: impl FnOnce() -> Option<usize>) {
        if let Some(budget) = self.of(set)
            && let Some(bytes) = measure()
        {
            budget.note(object, bytes, version);
        }
    }

    /// The set is no more.
    pub fn forget(&self, set: SetId) {
        let known = self.sets.write().remove(&set.0);
        if let Some(budget) = known {
            budget.close();
        }
    }

    /// The node is no more.
    pub fn close(&self) {
        let all: Vec<_> = self.sets.read().values().cloned().collect();
        all.iter().for_each(|budget| budget.close());
    }

    fn infos(&self) -> Vec<BudgetInfo> {
        let all: Vec<_> = self.sets.read().values().cloned().collect();
        let mut infos: Vec<BudgetInfo> = all.iter().map(|budget| budget.info()).collect();
        infos.sort_by(|one, other| one.set.cmp(&other.set));
        infos
    }
}

impl<T: Value> SetBuilder<T> {
    /// What cannot be.
    pub(crate) fn check_budget(&self) -> Result<(), Error> {
        let Some(bytes) = self.memory_budget else { return Ok(()) };
        if self.node.runtime().lender.is_some() {
            // It has what it was lent, and the node says how much that is.
            let (what, instead) = ("have a budget", "name it where the set is opened in a node (`Node::join`) instead");
            return Err(MembershipError::Attached { what, instead }.into());
        }
        if bytes < LEAST_BUDGET_BYTES {
            let rule = "a budget is at least 65536 bytes, so that what is on its way has room";
            let (setting, value) = ("memory_budget", bytes.to_string());
            return Err(ConfigurationError::OutOfRange { setting, value, rule }.into());
        }
        Ok(())
    }
}

impl<T: Value> Set<T> {
    /// Has the set on this node keep to that many bytes from now on.
    pub(crate) fn keep_to(&self, bytes: usize) {
        let make = || Budget::of(&self.0, bytes) as Arc<dyn AnyBudget>;
        let budget = self.0.here.runtime.budgets.keep(self.0.here.set, make);
        budget.set_limit_bytes(bytes);
    }

    /// What this node keeps of the set, if it was opened here with a [budget](crate::SetBuilder::memory_budget).
    pub fn budget(&self) -> Option<BudgetInfo> {
        self.0.here.runtime.budgets.of(self.0.here.set).map(|budget| budget.info())
    }
}

impl Node {
    /// The budgets of the sets that were opened here with one, by the names of the sets.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let words: kddm::Set<String> = nodes[0].set("words").memory_budget(1 << 20).open().wait()?;
    /// let budgets = nodes[0].budgets();
    /// assert_eq!((&*budgets[0].set, budgets[0].limit_bytes), ("words", 1 << 20));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn budgets(&self) -> Vec<BudgetInfo> {
        self.runtime().budgets.infos()
    }
}

impl BudgetInfo {
    pub(super) fn of(set: String, set_id: u64, account: &crate::cell::Account, counts: &Counts) -> BudgetInfo {
        let of = |what: &AtomicU64| what.load(Ordering::Relaxed);
        let (misses, hits, misses_of_samples) = account.found();
        let of_samples = hits + misses_of_samples;
        BudgetInfo {
            set,
            set_id,
            limit_bytes: account.limit_bytes() as u64,
            bytes: account.bytes() as u64,
            misses,
            hits: hits.saturating_mul(SAMPLED),
            hit_ratio: (of_samples > 0).then(|| hits as f64 / of_samples as f64),
            dropped_copies: of(&counts.dropped_copies),
            passed_on: of(&counts.passed_on),
            evicted: of(&counts.evicted),
            freed_bytes: of(&counts.freed_bytes),
            failed: of(&counts.failed),
            stuck: of(&counts.stuck),
            refused: of(&counts.refused),
        }
    }
}
