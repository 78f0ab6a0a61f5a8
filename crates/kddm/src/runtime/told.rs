//! Who hears that a hold has ended while somebody waited for that.
//!
//! A guard carries no reference to its set or node: counting it would write a line that all its users
//! write. It carries the number of its table instead; only what is rare, a release that must be told
//! or a guard that removes its object, looks the number up here.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use kddm_core::id::{NodeId, ObjectId, SetId};
use parking_lot::RwLock;

use super::Runtime;
use super::lane::{Lane, LaneState};
use super::lending::{EndOfHold, UnsafePut};
use super::local::Wish;
use super::replicas::By;
use super::wait::{Op, Outcome, Tell};
use crate::cell::Teller;
use crate::error::{Error, WaitingFor};

/// A set on a node: what it takes to ask the lanes of its objects.
#[derive(Clone)]
pub(crate) struct SetHere {
    pub runtime: Arc<Runtime>,
    pub set: SetId,
}

impl SetHere {
    #[inline]
    pub fn lane(&self, object: u64) -> &Arc<Lane> {
        self.runtime.lane(self.set, ObjectId(object))
    }

    /// Sends a request on its way. `claimed`: somebody already waits for it. `holds`: whether who asks holds another object
    /// of the set, if that is not this thread.
    pub fn ask(&self, object: u64, wish: Wish, claimed: bool, holds: impl FnOnce() -> bool) -> Arc<Op> {
        let lane = self.lane(object);
        let op = Arc::new(Op::new(Arc::clone(lane)));
        if claimed {
            op.claim();
        } else if wish.level().is_some()
            && let Err(error) = self.runtime.budgets.wanted(self.set, object)
        {
            let _nobody_waits_yet = op.complete(Outcome::Failed(error));
            return op;
        }
        let mut state = lane.lock();
        if state.is_frozen(self.set) && !state.is_used_by_this_thread(self.set) && !holds() {
            op.note_newcomer(true);
        }
        state.ask(self.set, ObjectId(object), wish, Arc::clone(&op));
        lane.finish(state);
        op
    }

    /// Whoever waits there may hold another object of the set, which he may have had only after he had asked: one that was
    /// here, or in a lane that had not heard yet that the set is frozen. `holds`: whether he does, if that is not this thread.
    pub fn let_in(&self, object: u64, op: &Arc<Op>, holds: impl FnOnce() -> bool) {
        if !op.is_newcomer() {
            return;
        }
        let lane = self.lane(object);
        let mut state = lane.lock();
        if state.is_used_by_this_thread(self.set) || holds() {
            op.note_newcomer(false);
            state.let_in(self.set, op);
        }
        lane.finish(state);
    }

    /// Asks for nothing yet: whoever waits looks whether the object is here, and asks if it is not.
    pub fn unsent(&self, object: u64) -> Arc<Op> {
        self.ended(object, Outcome::Available)
    }

    /// An answer that is here already.
    pub fn ended(&self, object: u64, outcome: Outcome) -> Arc<Op> {
        let op = Arc::new(Op::new(Arc::clone(self.lane(object))));
        let _nobody_waits_yet = op.complete(outcome);
        op
    }

    /// Nobody waits for that request any more. Who has frozen the set, if it has waited for the thaw.
    pub fn cancel(&self, object: u64, op: &Arc<Op>) -> Option<NodeId> {
        let lane = self.lane(object);
        let mut state = lane.lock();
        let frozen_by = state.cancel(self.set, ObjectId(object), op);
        lane.finish(state);
        frozen_by
    }

    /// That request goes on, and nobody is told how it ends; for a thaw it does not wait.
    pub fn detach(&self, object: u64, op: &Arc<Op>) {
        if op.is_done() {
            return;
        }
        let lane = self.lane(object);
        let mut state = lane.lock();
        let (waker, alarm) = op.take_waker();
        state.alarms.take_back(alarm);
        state.is_left(self.set, op);
        lane.finish(state);
        // Without the lane: it may be the last that knows its task.
        drop(waker);
    }

    /// Ends the hold for which a thread of this node has the object to write, and removes the object
    /// before anybody else has it.
    pub fn remove_held(&self, object: u64, release: impl FnOnce()) -> Arc<Op> {
        let op = Arc::new(Op::new(Arc::clone(self.lane(object))));
        self.remove_held_as(Arc::clone(&op), object, release, &|error| error);
        op
    }

    /// As [`Self::remove_held`], for whoever waits already, and is told of an error like that.
    pub fn remove_held_as(&self, op: Arc<Op>, object: u64, release: impl FnOnce(), tell: Tell<'_>) {
        let lane = self.lane(object);
        let mut state = lane.lock();
        state.remove_held(self.set, ObjectId(object), op, release, tell);
        lane.finish(state);
    }

    /// The value of an object that is lent to this program goes to the node that lends it; `publish` says how the hold
    /// ends under which it was made: at once, or when its replicas have it, so that nobody sees what may be lost still.
    /// `Some`: the node's socket has not taken it yet, or it waits for its replicas.
    pub fn put_at_lender(
        &self,
        object: u64,
        version: u64,
        value: &[u8],
        publish: impl FnOnce() -> EndOfHold,
    ) -> Result<Option<Arc<Op>>, Error> {
        let lane = self.lane(object);
        let mut state = lane.lock();
        let mark = state.put_at_lender(self.set, ObjectId(object), version, value)?;
        let end = publish();
        let op = || Arc::new(Op::new(Arc::clone(lane)));
        let waits = if self.set.replicas() > 0 {
            let op = op();
            let put = UnsafePut { version, op: Arc::clone(&op), end };
            state.waits_for_replicas(self.set, ObjectId(object), put);
            Some(op)
        } else {
            if end() {
                state.released(self.set, ObjectId(object));
            }
            state.has_put(mark, op)
        };
        lane.finish(state);
        Ok(waits)
    }

    /// Whether a put of an object of this set is done only when its replicas have it.
    pub fn has_replicas(&self) -> bool {
        self.set.replicas() > 0 && self.runtime.lender.is_none()
    }

    /// Publishes a value of which replicas are kept: `publish` says its version, and how its hold ends.
    pub fn put_replicated(
        &self,
        object: u64,
        bytes: Vec<u8>,
        publish: impl FnOnce() -> (u64, Box<dyn FnOnce() + Send>),
    ) -> Result<Arc<Op>, Error> {
        let op = Arc::new(Op::new(Arc::clone(self.lane(object))));
        self.put_replicated_as(&op, object, bytes, publish)?;
        Ok(op)
    }

    /// As [`Self::put_replicated`], for whoever waits already. He is told nothing of an error.
    pub fn put_replicated_as(
        &self,
        op: &Arc<Op>,
        object: u64,
        bytes: Vec<u8>,
        publish: impl FnOnce() -> (u64, Box<dyn FnOnce() + Send>),
    ) -> Result<(), Error> {
        let lane = self.lane(object);
        let mut state = lane.lock();
        if let Some(error) = state.refusal_to_put() {
            return Err(error);
        }
        let (version, release) = publish();
        if state.destroyed.contains(self.set) {
            // It was held when the end of its set began: it is put, and nobody else will have it.
            release();
            state.complete(op, Outcome::Done);
        } else {
            state.put_replicated(self.set, ObjectId(object), (version, bytes), By::Thread(Arc::clone(op), release));
        }
        lane.finish(state);
        Ok(())
    }

    /// An error if the object was lent by a node that has been gone meanwhile.
    pub fn is_held_still(&self, object: u64) -> Result<(), Error> {
        if self.runtime.lender.is_none() {
            return Ok(());
        }
        let lost = self.lane(object).lock().hold_is_of_before(self.set, ObjectId(object));
        lost.map_or(Ok(()), Err)
    }

    /// Why a wait of an attached program has come to the end of its limit, if that is because its node is not there.
    pub fn is_away(&self, object: u64) -> Option<Error> {
        self.runtime.lender.as_ref()?;
        self.lane(object).lock().lender_is_away()
    }

    /// A hold has ended, and its release said that somebody waits.
    #[cold]
    pub fn released(&self, object: u64) {
        let lane = self.lane(object);
        let mut state = lane.lock();
        state.released(self.set, ObjectId(object));
        lane.finish(state);
    }

    /// Who is waited for by whoever wants the object.
    pub fn waiting_for(&self, object: u64) -> WaitingFor {
        self.lane(object).lock().waiting_for(self.set, ObjectId(object), &self.runtime.silence)
    }

    /// The greatest tenure known here.
    pub fn tenure(&self, object: u64) -> u64 {
        self.lane(object).lock().tenure_here(self.set, ObjectId(object))
    }
}

impl LaneState {
    /// The tenure of the copy that is here.
    pub fn tenure_here(&self, set: SetId, object: ObjectId) -> u64 {
        if let Some(tenure) = self.borrowed_tenure(set, object) {
            return tenure;
        }
        self.core.inspect(set, object).map_or(0, |seen| seen.seen.0)
    }
}

struct Registered {
    runtime: Weak<Runtime>,
    set: SetId,
    wait_limit: Duration,
}

static TABLES: RwLock<BTreeMap<u64, Registered>> = RwLock::new(BTreeMap::new());

/// Holds of that table belong to that set of that node, and waits that begin at a guard have that
/// limit. Forgets nodes that are gone.
pub(crate) fn register(table: u64, here: &SetHere, wait_limit: Duration) {
    let mut tables = TABLES.write();
    tables.retain(|_, registered| registered.runtime.strong_count() > 0);
    tables.insert(table, Registered { runtime: Arc::downgrade(&here.runtime), set: here.set, wait_limit });
}

/// The set of that table is no more.
pub(crate) fn forget(table: u64) {
    TABLES.write().remove(&table);
}

/// The set of that table, if neither it nor its node is gone.
pub(crate) fn find(table: u64) -> Option<(SetHere, Duration)> {
    let tables = TABLES.read();
    let registered = tables.get(&table)?;
    let runtime = registered.runtime.upgrade()?;
    Some((SetHere { runtime, set: registered.set }, registered.wait_limit))
}

/// Guards tell the lanes.
pub(crate) struct Lanes;

impl Teller for Lanes {
    #[cold]
    #[inline(never)]
    fn tell(table: u64, object: u64) {
        if let Some((here, _)) = find(table) {
            here.released(object);
        }
    }
}
