//! Holds that are in somebody's way for longer than their set wants.
//!
//! The clock begins when somebody waits for the hold, here or on another node: a hold that is in
//! nobody's way is nobody's business, and a hit need not look at a clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{ObjectId, SetId};

use crate::cell::HeldBy;
use crate::options::DEFAULT_HOLD_LIMIT;
use crate::runtime::Runtime;
use crate::runtime::lane::LaneState;
use crate::sync::now;

/// At most one warning of a lane in so much time: who looks into the log wants to see the rest too.
const WARN_INTERVAL: Duration = Duration::from_secs(1);

/// Local holders are in the way of somebody.
pub(crate) struct HeldUp {
    pub since: Instant,
    is_counted: bool,
}

/// What a lane knows of holds that last too long.
#[derive(Default)]
pub(crate) struct Overdue {
    /// Of the sets that have another one than the default.
    limits: HashMap<SetId, Duration>,
    /// When there may be one more.
    pub next: Option<Instant>,
    warned: Option<Instant>,
    /// Counted since the last warning, and not named in it.
    unnamed: u64,
}

/// To be said once the lane has been given up: a log may be slow.
pub(crate) struct Warning {
    set: SetId,
    object: ObjectId,
    held_up: Duration,
    limit: Duration,
    holders: Vec<Arc<str>>,
    unnamed: u64,
}

impl Warning {
    pub fn say(&self) {
        let (set, object, others) = (self.set.0, self.object.0, self.unnamed);
        let (waited, limit, holders) = (self.held_up, self.limit, self.holders.join(", "));
        tracing::warn!(set, object, ?waited, ?limit, %holders, others, "a hold is in the way of others for too long");
    }
}

impl Overdue {
    fn limit(&self, set: SetId) -> Duration {
        self.limits.get(&set).copied().unwrap_or(DEFAULT_HOLD_LIMIT)
    }

    fn look_at(&mut self, at: Option<Instant>) {
        // A limit beyond the end of time never ends.
        self.next = self.next.into_iter().chain(at).min();
    }

    /// The set is no more.
    pub fn forget(&mut self, set: SetId) {
        self.limits.remove(&set);
    }
}

impl LaneState {
    /// Local holders are in the way of whoever wants an object.
    pub fn is_held_up(&mut self, set: SetId, object: ObjectId) {
        let local = self.local(set, object);
        if local.held_up.is_some() {
            return;
        }
        let since = now();
        local.held_up = Some(HeldUp { since, is_counted: false });
        let limit = self.overdue.limit(set);
        self.overdue.look_at(since.checked_add(limit));
        self.overdue.look_at(self.take_back_at(set, object, since));
    }

    /// Those that were in the way are so no more.
    pub fn goes_on(&mut self, set: SetId, object: ObjectId) {
        if let Some(local) = self.locals.get_mut(&(set, object)) {
            local.held_up = None;
        }
    }

    /// Counts holds that are overdue by now, once each. What is to be said of one of them.
    pub fn look_for_overdue(&mut self, now: Instant) -> Option<Warning> {
        self.overdue.next = None;
        let later = self.take_back_untaken(now);
        self.overdue.look_at(later);
        let mut first = None;
        for ((set, object), local) in &mut self.locals {
            let Some(held_up) = local.held_up.as_mut().filter(|held_up| !held_up.is_counted) else { continue };
            let limit = self.overdue.limit(*set);
            let at = held_up.since.checked_add(limit);
            if at.is_none_or(|at| at > now) {
                self.overdue.look_at(at);
                continue;
            }
            held_up.is_counted = true;
            self.statistics.overdue_holds += 1;
            self.overdue.unnamed += 1;
            first = first.or(Some((*set, *object, now - held_up.since, limit)));
        }
        let (set, object, held_up, limit) = first?;
        if self.overdue.warned.is_some_and(|warned| now - warned < WARN_INTERVAL) {
            return None;
        }
        self.overdue.warned = Some(now);
        let unnamed = std::mem::take(&mut self.overdue.unnamed) - 1;
        let holders = self.holders(set, object).into_iter().map(|holder| holder.who).collect();
        Some(Warning { set, object, held_up, limit, holders, unnamed })
    }
}

impl LaneState {
    /// Who has an object here: threads, holders, the programs to which it is lent, and a linker that takes it for here still.
    pub fn holders(&self, set: SetId, object: ObjectId) -> Vec<HeldBy> {
        let found = self.stores.get(&set).and_then(|store| Some(store.holders(store.find(object.0)?)));
        let mut holders = found.unwrap_or_default();
        holders.extend(self.desk.borrowers(set, object));
        holders.extend(self.awaited_hook(set, object).map(|(linker, _)| linker));
        holders
    }

    /// For how long they have been in the way of somebody.
    pub fn in_the_way_for(&self, set: SetId, object: ObjectId) -> Option<Duration> {
        let held_up = self.locals.get(&(set, object)).and_then(|local| local.held_up.as_ref());
        let since = held_up.map(|held_up| held_up.since);
        since.or_else(|| Some(self.awaited_hook(set, object)?.1)).map(|since| since.elapsed())
    }
}

impl Runtime {
    /// How long holds of that set may be in somebody's way before they are reported.
    pub fn set_hold_limit(&self, set: SetId, limit: Duration) {
        for lane in &self.lanes {
            lane.lock().overdue.limits.insert(set, limit);
        }
    }
}
