//! Serving those who wait for an object, one after the other, with the access that is here.

use std::collections::VecDeque;

use kddm_core::id::{ObjectId, SetId};
use kddm_core::io::{Access, Input};
use kddm_core::message::RequestKind;

use crate::cell::{CellNumber, Hold, Store};
use crate::error::AccessError;
use crate::runtime::lane::LaneState;
use crate::runtime::local::{Asker, Wish};
use crate::runtime::wait::Outcome;

/// What came of serving a waiter.
pub(crate) enum Served {
    Yes(Outcome),
    Ask(RequestKind),
    Waits,
}

impl LaneState {
    /// A read hold of the copy that is here, decoded, if nobody writes it or waits to.
    pub fn take_read(&mut self, set: SetId, object: ObjectId) -> Option<Hold> {
        if self.locals.contains_key(&(set, object)) {
            return None;
        }
        let store = self.stores.get(&set)?;
        let cell = store.find(object.0)?;
        store.take_read(cell).inspect(|_| store.uses(cell))
    }

    /// Serves waiting local threads in order of arrival, and asks the core for what is missing.
    pub fn serve_local(&mut self, set: SetId, object: ObjectId, todo: &mut VecDeque<Input>) {
        if self.fenced {
            return;
        }
        if !self.frozen.is_empty() {
            self.close_cell(set, object);
        }
        let Some(local) = self.locals.get(&(set, object)) else { return };
        if local.waits_for_memory {
            return;
        }
        if local.revoking.is_some() && todo.is_empty() {
            self.try_to_lower(set, object, todo);
        }
        if self.is_held_from_before(set, object) {
            return self.is_held_up(set, object);
        }
        while let Some(local) = self.locals.get_mut(&(set, object)) {
            let Some(head) = local.waiters.front() else { return };
            if local.outstanding || !todo.is_empty() {
                return;
            }
            let (wish, asker) = (head.wish, head.asker.clone());
            if !self.frozen.is_empty() && self.waits_for_thaw(set, object, wish, &asker) {
                self.set_aside(set, object);
                continue;
            }
            match self.serve_head(set, object, wish, &asker) {
                Served::Yes(outcome) => {
                    let local = self.local(set, object);
                    local.held_up = None;
                    let waiter = local.waiters.pop_front().expect("the head was just looked at");
                    self.end_wait(set, object, waiter, outcome);
                    if !self.frozen.is_empty() {
                        self.close_cell(set, object);
                    }
                }
                Served::Ask(kind) => {
                    let local = self.local(set, object);
                    if local.revoking.is_none() || wish.level().is_none() {
                        local.outstanding = true;
                        self.statistics.misses += 1;
                        todo.push_back(Input::Want { kind });
                    }
                    return;
                }
                Served::Waits => return self.is_held_up(set, object),
            }
        }
    }

    /// What can be done for the first waiter. What programs have been lent stands in nobody's way for
    /// long: it is asked back.
    fn serve_head(&mut self, set: SetId, object: ObjectId, wish: Wish, asker: &Asker) -> Served {
        let store = self.store(set);
        let cell = store.find_or_insert(object.0);
        let session = asker.session();
        if session.is_none() && self.desk.has_lent_nothing() {
            return serve_one(&*store, cell, wish, asker.is_claimed());
        }
        if session.is_some_and(|session| !self.may_lend_now(session, set, object)) {
            return Served::Waits;
        }
        if wish.is_try()
            && let Some(served) = self.try_other_programs(set, object, session)
        {
            return served;
        }
        // What it has itself is not in the way of what it wants.
        let parked = session.filter(|session| wish.level().is_some() && self.desk.park(*session, set, object));
        let served = serve_one(&*store, cell, wish, asker.is_claimed());
        if let Some(session) = parked
            && !matches!(served, Served::Yes(Outcome::Read(_) | Outcome::Write(_)))
        {
            self.unpark(session, set, object);
        }
        if matches!(served, Served::Waits) {
            let to = if wish.level() == Some(Access::Read) { Access::Read } else { Access::None };
            self.ask_back(set, object, to, session);
        }
        served
    }
}

/// What can be done for the first waiter with the access that is here.
fn serve_one(store: &dyn Store, cell: CellNumber, wish: Wish, claimed: bool) -> Served {
    let Some(level) = wish.level() else { return Served::Ask(wish.kind()) };
    if wish.is_try() && store.is_held(cell) {
        return Served::Yes(Outcome::Failed(AccessError::Busy.into()));
    }
    if store.access(cell) < level {
        return Served::Ask(wish.kind());
    }
    if store.access(cell) == Access::Write && !store.has_value(cell) {
        return first_touch(store, cell, wish, claimed);
    }
    if !claimed || wish.holds_nothing() {
        return Served::Yes(Outcome::Available);
    }
    let outcome = match level {
        Access::Write => store.take_write(cell).map(Outcome::Write),
        _ => store.take_read(cell).inspect(|_| store.uses(cell)).map(Outcome::Read),
    };
    outcome.map_or(Served::Waits, Served::Yes)
}

/// The object has no value: the waiting thread makes one, in its own time, under the write hold.
fn first_touch(store: &dyn Store, cell: CellNumber, wish: Wish, claimed: bool) -> Served {
    if store.is_held(cell) {
        return Served::Waits;
    }
    if wish.is_existing() {
        return Served::Yes(Outcome::Failed(AccessError::NotFound.into()));
    }
    if !claimed || wish.holds_nothing() {
        return Served::Yes(Outcome::Available);
    }
    store.take_write(cell).map_or(Served::Waits, |hold| Served::Yes(Outcome::Write(hold)))
}
