//! The linker of one set on one node: what it takes to call it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Linker;
use super::absent::Absent;
use super::behind::Behind;
use super::elsewhere::{Answer, Asked};
use super::error::LinkerError;
use super::here::{Counts, LinkerInfo, count};
use super::hooks::{Hears, Telling};
use super::placing::OnlyHere;
use super::policy::{LinkerOf, WritePolicy};
use super::pool::pool;
use super::store::Stamp;
use crate::cell::{Hold, Store, Table, Told, WriteHold};
use crate::error::{Error, MembershipError};
use crate::expiry::OnExpiry;
use crate::operation::Make;
use crate::runtime::Runtime;
use crate::runtime::pool::{NotTaken, Pool};
use crate::runtime::told::SetHere;
use crate::runtime::wait::Op;
use crate::value::Value;

/// Writes of this process, in whichever life of its node: each has a number of its own, greater than those before, so that
/// what is tried again after a failure is newer than the failed one, which may come late.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// See the module.
pub(crate) struct Linked<T: Value> {
    /// Itself, for what is to be done later.
    pub(super) me: Weak<Linked<T>>,
    pub(super) of: LinkerOf,
    pub(super) linker: Arc<dyn Linker<T>>,
    pub(super) limit: Duration,
    /// Whoever wants an object reads it himself.
    pub(super) is_quick: bool,
    pub(super) pool: Arc<Pool>,
    pub(super) absent: Mutex<Absent>,
    pub(super) counts: Counts,
    /// What is written later.
    pub(super) behind: Behind<T>,
    /// What it hears of the copies that are here.
    pub(super) telling: Telling<T>,
    /// What makes a first value where nothing stands behind an object.
    pub(super) first_touch: Make<T>,
    pub(super) only_here: OnlyHere,
}

/// The same, whatever the type of the set.
pub(crate) trait AnyLinked: Send + Sync {
    fn info(&self, set: String, set_id: u64) -> LinkerInfo;
    /// Takes nothing any more, writes what waits, at most for that long, and ends. Whether no method runs by then.
    fn close(&self, rest: Duration, patience: Duration) -> bool;
    /// How long a method may take.
    fn limit(&self) -> Duration;
    /// The time of an object is over, which is held: it leaves the cluster, and with [`OnExpiry::Remove`] what stands behind it.
    /// `None`: it stays.
    fn expire(
        self: Arc<Self>,
        here: &SetHere,
        store: &Arc<dyn Store>,
        of: (u64, Hold),
        to: OnExpiry,
    ) -> Option<Arc<Op>>;
    /// Another node asks.
    fn asked_for(self: Arc<Self>, runtime: &Arc<Runtime>, name: String, asked: Asked, answer: Answer);
    fn as_any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync>;
}

impl<T: Value> Linked<T> {
    /// It is to be at the place that `me` names.
    pub fn new(
        me: Weak<Linked<T>>,
        of: LinkerOf,
        given: (Arc<dyn Linker<T>>, Duration, bool),
        first_touch: Make<T>,
    ) -> Linked<T> {
        let (linker, limit, is_quick) = given;
        let (absent, counts, only_here) = Default::default();
        let behind = match of.policy {
            WritePolicy::Behind { lag, bytes } => Behind::new(lag, bytes),
            _ => Behind::new(Duration::ZERO, 0),
        };
        let hears = catch_unwind(AssertUnwindSafe(|| linker.hears())).unwrap_or_else(|_panic| {
            tracing::error!(linker = of.name, "a linker panicked that was to say what it hears: it hears nothing");
            Hears::default()
        });
        let telling = Telling::new(hears);
        let pool = pool();
        Linked { me, of, linker, limit, is_quick, pool, absent, counts, behind, telling, first_touch, only_here }
    }

    pub(super) fn name(&self) -> String {
        self.of.name.clone()
    }

    /// Whether a put has more to do than to be published.
    pub fn is_written(&self) -> bool {
        self.of.policy != WritePolicy::Around
    }

    /// When what is put goes there.
    pub fn write_policy(&self) -> WritePolicy {
        self.of.policy
    }

    /// A value is here now, or will be in a moment.
    pub(super) fn is_here(here: &SetHere, object: u64, version: u64, value: &T) {
        here.runtime.budgets.note(here.set, object, version, || crate::cell::encoded_len(value));
    }

    pub(super) fn limit_ms(&self) -> u64 {
        self.limit.as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// All writes of this process so far have lower numbers than the next.
    pub(super) fn last_write() -> u64 {
        WRITES.load(Ordering::Relaxed)
    }

    /// The stamp of a write that is to be made under that hold.
    pub(super) fn stamp(&self, here: &SetHere, hold: &WriteHold<T>) -> Stamp {
        let version = hold.version();
        WRITES.fetch_max(version, Ordering::Relaxed);
        let version = WRITES.fetch_add(1, Ordering::Relaxed) + 1;
        Stamp { term: self.of.term, tenure: here.tenure(hold.id()), version }
    }

    /// Runs code of whoever wrote the linker.
    pub(super) fn call<R>(
        &self,
        object: u64,
        was_writing: bool,
        method: impl FnOnce(&dyn Linker<T>) -> Result<R, LinkerError>,
    ) -> Result<R, LinkerError> {
        let result = catch_unwind(AssertUnwindSafe(|| method(&*self.linker)));
        let result = result.unwrap_or_else(|panic| {
            let what = panic.downcast_ref::<&str>().copied();
            let what = what.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
            tracing::error!(linker = self.of.name, object, what, "a linker panicked");
            Err(LinkerError::Panicked { linker: self.name(), object, was_writing })
        });
        if result.is_err() {
            count(&self.counts.errors, 1);
        }
        result
    }

    /// Why a job does not run.
    pub(super) fn not_taken(&self, why: NotTaken) -> Error {
        let linker = self.name();
        match why {
            NotTaken::Closed => MembershipError::Stopped.into(),
            NotTaken::Full(waiting) => LinkerError::Overloaded { linker, waiting: waiting as u64 }.into(),
            NotTaken::NoThread(reason) => LinkerError::NoThread { linker, reason }.into(),
        }
    }
}

impl<T: Value> AnyLinked for Linked<T> {
    fn info(&self, set: String, set_id: u64) -> LinkerInfo {
        LinkerInfo {
            set,
            set_id,
            linker: self.name(),
            write_policy: self.of.policy,
            term: self.of.term,
            is_quick: self.is_quick,
            counts: self.counts.now(self.behind.waits(), self.behind.oldest(), self.pool.waiting()),
        }
    }

    fn close(&self, rest: Duration, patience: Duration) -> bool {
        self.telling.copies.end();
        self.write_the_rest(rest);
        let deadline = Instant::now() + patience;
        let has_returned = self.pool.close(deadline);
        self.telling.copies.wait_for_end(deadline) && has_returned
    }

    fn limit(&self) -> Duration {
        self.limit
    }

    fn expire(
        self: Arc<Self>,
        here: &SetHere,
        store: &Arc<dyn Store>,
        of: (u64, Hold),
        to: OnExpiry,
    ) -> Option<Arc<Op>> {
        let (object, hold) = of;
        let hold = Table::<T>::from_store(store).and_then(|table| table.adopt_write(hold).ok());
        let Some(hold) = hold else {
            // It does not fit the type, and has ended.
            here.released(object);
            return None;
        };
        Some(match to {
            OnExpiry::Evict => self.evict(here, Told::new(hold)),
            OnExpiry::Remove => self.remove(here, Told::new(hold)),
        })
    }

    fn asked_for(self: Arc<Self>, runtime: &Arc<Runtime>, name: String, asked: Asked, answer: Answer) {
        self.answer_for(runtime, name, asked, answer);
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync> {
        self
    }
}
