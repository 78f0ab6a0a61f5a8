//! How an object goes whose time is over: its owner grabs it as any writer does, looks once more whether it is still the same
//! put, and removes it before anybody else has it. So no put is lost that comes between, and nobody sees it come back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kddm_core::Main;
use kddm_core::id::{ObjectId, SetId};
use kddm_core::message::RequestKind;

use super::each::Own;
use super::here::Expiring;
use super::rule::OnExpiry;
use crate::cell::{Hold, Store};
use crate::error::{AccessError, Error};
use crate::linker::{WritePolicy, drive};
use crate::operation::{Plain, Request};
use crate::pending::{Operation, Pending};
use crate::runtime::lane::{Lane, LaneState};
use crate::runtime::local::Wish;
use crate::runtime::told::SetHere;
use crate::runtime::wait::{Op, Outcome};

/// It is not made if it does not exist by then.
const GRAB: Wish = Wish::Request(RequestKind::Grab { existing: true });

/// How often an object is asked for in a row whose time was not here when it was held.
const ATTEMPTS: usize = 4;

const REMOVE: Wish = Wish::Request(RequestKind::Remove);

/// Which put it was whose time is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Put {
    pub version: u64,
    /// An ownership in which it was there.
    pub tenure: u64,
    /// It goes because nobody has used it, in that very ownership.
    pub is_unused: bool,
    /// The time of its own that was over, if it had one.
    pub own: Option<Own>,
}

/// Counts among those that are about to go.
pub(super) struct UnderWay(Arc<Expiring>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The object is asked for, under the lock of its lane. Whoever had asked for it before has it first. To be gone on with
/// once the lane has been given up. What goes because nobody uses it waits for nobody: `None` if it would.
pub(super) fn ask(lane: &Arc<Lane>, state: &mut LaneState, set: SetId, object: u64, put: Put) -> Option<Arc<Op>> {
    let op = Arc::new(Op::new(Arc::clone(lane)));
    op.claim();
    let object = ObjectId(object);
    state.ask(set, object, GRAB, Arc::clone(&op));
    if put.is_unused && !op.is_done() {
        state.cancel(set, object, &op);
        return None;
    }
    Some(op)
}

/// Takes an object back from nodes that have copies of it, and from programs, if nobody holds it: whoever uses it there
/// asks for it again.
pub(super) fn recall(lane: &Arc<Lane>, state: &mut LaneState, set: SetId, object: u64) {
    let op = Arc::new(Op::new(Arc::clone(lane)));
    state.ask(set, ObjectId(object), Wish::Request(RequestKind::TryGrab), op);
}

/// An object that was asked for, to be removed.
pub(super) struct Going {
    under_way: Arc<UnderWay>,
    object: u64,
    put: Put,
    op: Arc<Op>,
}

impl Going {
    pub fn new(of: &Arc<Expiring>, object: u64, put: Put, op: Arc<Op>) -> Going {
        of.under_way.fetch_add(1, Ordering::AcqRel);
        Going { under_way: Arc::new(UnderWay(Arc::clone(of))), object, put, op }
    }

    /// What is there until it has gone, or not.
    pub fn under_way(&self) -> Weak<UnderWay> {
        Arc::downgrade(&self.under_way)
    }

    /// It goes when it is held.
    pub fn begin(self, here: &SetHere) {
        drive(go(self, here.clone()));
    }
}

async fn go(going: Going, here: SetHere) {
    let Going { under_way, object, put, op } = going;
    let (of, limit) = (&under_way.0, here.runtime.config.wait_limit);
    let Some(hold) = hold_that_may_go(of, &here, (object, put, op)).await else { return };
    let Some(op) = of.remove(&here, object, put, hold) else { return };
    let request = Request::under_way(here.clone(), object, REMOVE, op, limit);
    match Pending::asked(Plain(request)).await {
        Ok(()) => count(&of.expired),
        Err(error) => return of.stays(object, &error),
    }
    if let Some(own) = put.own {
        of.times.has_left(object, own);
        of.times.forget(of).into_iter().for_each(|forgetting| forgetting.begin(&here));
    }
}

/// The object, held, if its time is what it was. Where that takes a question nobody is kept waiting by the object meanwhile.
async fn hold_that_may_go(
    of: &Arc<Expiring>,
    here: &SetHere,
    (object, put, mut op): (u64, Put, Arc<Op>),
) -> Option<Hold> {
    let limit = here.runtime.config.wait_limit;
    for _ in 0..ATTEMPTS {
        let request = Request::under_way(here.clone(), object, GRAB, op, limit);
        let hold = match Pending::asked(Granted(request)).await {
            Ok(hold) => hold?,
            // Somebody else has removed it.
            Err(Error::Access(AccessError::NotFound)) => return None,
            Err(error) => {
                of.stays(object, &error);
                return None;
            }
        };
        let is_own = of.is_own(here, object, put.own);
        if is_own == Some(true) {
            return Some(hold);
        }
        if hold.release() {
            here.released(object);
        }
        if is_own == Some(false) {
            return None;
        }
        if let Err(error) = of.fetch_own(here, object).await {
            of.stays(object, &error);
            return None;
        }
        op = ask_again(here, object, put)?;
    }
    of.stays(object, &"others give times in its part all the while");
    None
}

/// As [`ask`], if the object is owned here still and may go.
fn ask_again(here: &SetHere, object: u64, put: Put) -> Option<Arc<Op>> {
    let lane = here.lane(object);
    let mut state = lane.lock();
    let is_kept = state.is_frozen(here.set) || state.fenced || state.stopped;
    let is_owner = |state: &LaneState| {
        let seen = state.core.inspect(here.set, ObjectId(object));
        seen.is_some_and(|seen| matches!(seen.main, Main::Owner { .. }))
    };
    let op = if is_kept || !is_owner(&state) { None } else { ask(lane, &mut state, here.set, object, put) };
    lane.finish(state);
    op
}

impl Expiring {
    fn stays(&self, object: u64, error: &dyn std::fmt::Display) {
        count(&self.failed);
        tracing::debug!(set = self.name, object, %error, "the time of an object is over, and it stays for now");
    }

    /// Removes what is held, if it is still that put. `None`: it is not, or must stay.
    fn remove(&self, here: &SetHere, object: u64, put: Put, hold: Hold) -> Option<Arc<Op>> {
        let store = here.lane(object).lock().store_of(here.set, object, put);
        let Some(store) = store else {
            if hold.release() {
                here.released(object);
            }
            return None;
        };
        if !self.needs_linker() {
            return Some(here.remove_held(object, || _ = hold.release()));
        }
        let goes = match here.runtime.linkers.expire(here, &store, (object, hold), self.rule.on_expiry) {
            Ok(goes) => goes,
            Err(hold) => {
                if hold.release() {
                    here.released(object);
                }
                None
            }
        };
        if goes.is_none() {
            count(&self.failed);
        }
        goes
    }

    /// Only a node that has the linker can write what waits, and remove there.
    pub fn needs_linker(&self) -> bool {
        match (self.write_policy, self.rule.on_expiry) {
            (None | Some(WritePolicy::Around), _) | (Some(WritePolicy::Through), OnExpiry::Evict) => false,
            (Some(WritePolicy::Through), OnExpiry::Remove) | (Some(WritePolicy::Behind { .. }), _) => true,
        }
    }
}

fn count(what: &AtomicU64) {
    what.fetch_add(1, Ordering::Relaxed);
}

impl LaneState {
    /// Where the object is, which is held, if it is still that put.
    fn store_of(&self, set: SetId, object: u64, put: Put) -> Option<Arc<dyn Store>> {
        let store = self.stores.get(&set)?;
        let cell = store.find(object)?;
        let Main::Owner { tenure, born, .. } = self.core.inspect(set, ObjectId(object))?.main else { return None };
        let is_it = store.has_value(cell) && store.version(cell) == put.version && put.is(set, tenure.0, born.0);
        // Who waits for it uses it, too.
        let is_wanted = self.locals.get(&(set, ObjectId(object))).is_some_and(|local| !local.waiters.is_empty());
        let is_unused = tenure.0 == put.tenure && !is_wanted && !store.is_used(cell);
        (is_it && (!put.is_unused || is_unused)).then(|| Arc::clone(store))
    }
}

/// A grab that ends with the bare hold, whatever type the set has here.
struct Granted(Request);

impl Operation<Option<Hold>> for Granted {
    fn finish(&mut self) -> Option<Result<Option<Hold>, Error>> {
        match self.0.op.take()? {
            Outcome::Write(hold) => Some(Ok(Some(hold))),
            Outcome::Failed(error) => Some(Err(error)),
            // It was taken back meanwhile: the next look finds the object again.
            _ => Some(Ok(None)),
        }
    }

    fn op(&self) -> &Arc<Op> {
        &self.0.op
    }

    fn give_up(&mut self, limit: Duration) -> Error {
        self.0.timed_out(limit)
    }

    fn limit(&self) -> Duration {
        self.0.limit
    }
}

#[cfg(test)]
mod tests;
