//! Frozen sets, as a lane sees them. Nobody new begins to write an object of one here; who writes, or had asked before,
//! gets to an end; then it is *closed*, and stays so until it is thawed.
//!
//! What local threads may write by the fast path is lowered to be read, in their cells alone: the core knows
//! nothing of it, and goes on to move objects. Who would write waits aside, in no object's queue, so that readers
//! find nobody in front of them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use kddm_core::id::{Mixer, NodeId, ObjectId, SetId};
use kddm_core::io::Access;
use kddm_core::message::RequestKind;

use crate::cell::{CellNumber, RevokeResult, Store};
use crate::error::AccessError;
use crate::freeze::FreezeError;
use crate::runtime::lane::LaneState;
use crate::runtime::lending::Aside;
use crate::runtime::local::{Asker, Local, Waiter, Wish};
use crate::runtime::wait::{Op, Outcome};

/// One such set.
#[derive(Default)]
struct Frozen {
    /// Who has frozen it. Nobody: it is over, and cells are left that have to be looked at once more.
    by: Vec<NodeId>,
    /// Nobody here writes, or will.
    is_closed: bool,
    /// Objects whose cells may allow more than to read: somebody writes, or was let in.
    open: BTreeSet<ObjectId>,
    /// Who would write.
    aside: VecDeque<Kept>,
}

/// Somebody who waits for a thaw.
struct Kept {
    object: ObjectId,
    waiter: Waiter,
    /// Of a program: that it is told if it begins to use something of the set. None where nobody is let in any more.
    _of_program: Option<Aside>,
}

/// The frozen sets of a lane.
#[derive(Default)]
pub(crate) struct FrozenSets(HashMap<SetId, Frozen, Mixer>);

impl FrozenSets {
    /// No set is frozen: what all misses ask.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who waits for a thaw of that set, or of any: they are taken out.
    pub fn take_aside(&mut self, set: Option<SetId>) -> Vec<(SetId, ObjectId, Waiter)> {
        let mut taken = Vec::new();
        for (of, frozen) in self.0.iter_mut().filter(|(of, _)| set.is_none_or(|set| set == **of)) {
            taken.extend(frozen.aside.drain(..).map(|kept| (*of, kept.object, kept.waiter)));
        }
        taken
    }

    /// How many wait for a thaw.
    fn aside(&self) -> usize {
        self.0.values().map(|frozen| frozen.aside.len()).sum()
    }

    /// The set is no more.
    pub fn forget(&mut self, set: SetId) {
        self.0.remove(&set);
    }

    /// Who would write an object, each by the set, the object, and who has frozen it.
    pub fn waiting(&self) -> impl Iterator<Item = (SetId, ObjectId, NodeId)> + '_ {
        self.0.iter().flat_map(|(set, frozen)| {
            let by = frozen.by.first().copied().unwrap_or_default();
            frozen.aside.iter().map(move |kept| (*set, kept.object, by))
        })
    }

    fn in_force(&self, set: SetId) -> Option<&Frozen> {
        self.0.get(&set).filter(|frozen| !frozen.by.is_empty())
    }
}

/// As much as may be done with an object of a frozen set: one without a value is neither read nor made.
fn most(store: &dyn Store, cell: CellNumber) -> Access {
    if store.has_value(cell) { Access::Read } else { Access::None }
}

impl LaneState {
    /// Those have frozen a set; nobody: it is thawed.
    pub fn freeze(&mut self, set: SetId, by: Vec<NodeId>) {
        if by.is_empty() {
            self.thaw(set);
        } else if !self.destroyed.contains(set) {
            self.frozen.0.entry(set).or_default().by = by;
        }
    }

    fn thaw(&mut self, set: SetId) {
        let Some(frozen) = self.frozen.0.get_mut(&set) else { return };
        (frozen.by, frozen.is_closed) = (Vec::new(), false);
        let aside = std::mem::take(&mut frozen.aside);
        let open: Vec<ObjectId> = frozen.open.iter().copied().collect();
        // A cell that is on its way down, and written, is looked at once more when that ends.
        open.into_iter().for_each(|object| self.lower_cell(set, object));
        self.forget_if_over(set);
        self.wait_no_more(set, aside);
    }

    /// Those go on to wait for their objects.
    fn wait_no_more(&mut self, set: SetId, aside: impl IntoIterator<Item = Kept>) {
        let mut objects = BTreeSet::new();
        for Kept { object, waiter, .. } in aside {
            self.outstanding += 1;
            self.local(set, object).waiters.push_back(waiter);
            objects.insert(object);
        }
        for object in objects {
            let store = self.store(set);
            store.set_waiters(store.find_or_insert(object.0), true);
            self.run_own(set, object, None);
        }
    }

    /// Who waits aside holds something of the set by now, so that he is let in after all.
    pub fn let_in(&mut self, set: SetId, op: &Arc<Op>) {
        let Some(frozen) = self.frozen.0.get_mut(&set) else { return };
        let Some(at) = frozen.aside.iter().position(|kept| kept.waiter.asker.is(op)) else { return };
        let kept = frozen.aside.remove(at);
        self.wait_no_more(set, kept);
    }

    /// A program that waits aside uses something of the set by now, here or in another lane, so that it is let in after all.
    pub fn let_program_in(&mut self, program: u32, set: SetId) {
        if !self.signals.uses.are_there(program, set) {
            return; // Not any more: there will be another errand.
        }
        let Some(frozen) = self.frozen.0.get_mut(&set).filter(|frozen| !frozen.is_closed) else { return };
        let is_its = |kept: &Kept| kept.waiter.asker.session() == Some(program);
        let (its, others) = std::mem::take(&mut frozen.aside).into_iter().partition(is_its);
        frozen.aside = others;
        let its: VecDeque<Kept> = its;
        self.wait_no_more(set, its);
    }

    /// Whether a set is frozen here.
    pub fn is_frozen(&self, set: SetId) -> bool {
        !self.frozen.is_empty() && self.frozen.in_force(set).is_some()
    }

    /// Whether this thread holds an object of the set.
    pub fn is_used_by_this_thread(&self, set: SetId) -> bool {
        self.stores.get(&set).is_some_and(|store| store.is_used_by_this_thread())
    }

    /// Local threads may use an object up to `access`; of a frozen set no more than to read it, but for who was let in.
    pub fn grant_here(&mut self, set: SetId, object: ObjectId, cell: CellNumber, access: Access) {
        let store = self.store(set);
        if !self.is_frozen(set) {
            return store.grant(cell, access);
        }
        let head = self.locals.get(&(set, object)).and_then(|local| local.waiters.front());
        let is_let_in = head.is_some_and(|head| !self.is_kept_out(set, &head.asker));
        let most = most(&*store, cell);
        if access <= most || !is_let_in {
            return store.grant(cell, access.min(most));
        }
        store.grant(cell, access);
        if let Some(frozen) = self.frozen.0.get_mut(&set) {
            frozen.open.insert(object);
        }
    }

    /// Whether somebody may begin nothing in a frozen set: not if he holds something of it, nor if he came before.
    fn is_kept_out(&self, set: SetId, asker: &Asker) -> bool {
        if self.frozen.in_force(set).is_some_and(|frozen| frozen.is_closed) {
            return true;
        }
        match asker {
            Asker::Thread(op) => op.is_newcomer(),
            Asker::Program(session, _) => !self.signals.uses.are_there(*session, set),
        }
    }

    /// Whether the first who waits for an object would write it, and may not now.
    pub fn waits_for_thaw(&self, set: SetId, object: ObjectId, wish: Wish, asker: &Asker) -> bool {
        if !self.is_frozen(set) || !self.is_kept_out(set, asker) {
            return false;
        }
        let found = self.stores.get(&set).and_then(|store| Some((store, store.find(object.0)?)));
        let has_value = found.is_some_and(|(store, cell)| store.has_value(cell));
        let is_written = found.is_some_and(|(store, cell)| store.is_written(cell));
        match wish.level() {
            Some(Access::Write) => true,
            // What nobody has made yet nobody makes now.
            Some(_) if wish.is_existing() || has_value || is_written => false,
            Some(_) => self.core.inspect(set, object).is_some_and(|seen| seen.access == Access::Write),
            // By whoever has it to write, who goes on to the end.
            None if wish.kind() == RequestKind::Remove => !is_written,
            None => false,
        }
    }

    /// The first who waits for an object steps aside until its set is thawed.
    pub fn set_aside(&mut self, set: SetId, object: ObjectId) {
        let is_closed = self.frozen.in_force(set).is_some_and(|frozen| frozen.is_closed);
        let Some(local) = self.locals.get_mut(&(set, object)) else { return };
        let program = local.waiters.front().and_then(|waiter| waiter.asker.session()).filter(|_| !is_closed);
        let of_program = program.map(|program| self.signals.uses.step_aside(program, set));
        // It uses something by now, in another lane: it stays where it is, and is served.
        if matches!(of_program, Some(None)) {
            return;
        }
        local.held_up = None;
        let Some(waiter) = local.waiters.pop_front() else { return };
        if waiter.wish.is_try() {
            return self.end_wait(set, object, waiter, Outcome::Failed(AccessError::Busy.into()));
        }
        if waiter.asker.is_left() {
            return self.end_wait(set, object, waiter, Outcome::Done);
        }
        let limit = self.limits.outstanding;
        if self.frozen.aside() >= limit {
            let node = self.frozen.in_force(set).and_then(|frozen| frozen.by.first()).copied().unwrap_or_default().0;
            return self.end_wait(set, object, waiter, Outcome::Failed(FreezeError::Crowded { node, limit }.into()));
        }
        self.statistics.waits_for_thaw += 1;
        // It is none of those that readers have to wait for.
        self.outstanding -= 1;
        let kept = Kept { object, waiter, _of_program: of_program.flatten() };
        self.frozen.0.entry(set).or_default().aside.push_back(kept);
    }

    /// Somebody who waits gives up, if he waits elsewhere than for the object itself. Who has frozen the set, if it was for
    /// the thaw.
    pub fn waits_no_more_aside(&mut self, set: SetId, op: &Arc<Op>) -> Option<NodeId> {
        self.waits_for_lender_no_more(op);
        let by = self.withdraw_from_aside(set, |_, waiter| waiter.asker.is(op))?;
        self.alarms.take_back(op.take_alarm());
        Some(by)
    }

    /// Nobody will take what that wish is for. What waits for a thaw ends.
    pub fn is_left(&mut self, set: SetId, op: &Arc<Op>) {
        op.note_left();
        let _nobody_is_told = self.withdraw_from_aside(set, |_, waiter| waiter.asker.is(op));
    }

    /// The wish of a program is over, if it waits for a thaw.
    pub fn program_waits_no_more_aside(&mut self, session: u32, set: SetId, object: ObjectId) {
        let is_its = |of: ObjectId, waiter: &Waiter| of == object && waiter.asker.session() == Some(session);
        let _or_it_waits_for_the_object = self.withdraw_from_aside(set, is_its);
    }

    fn withdraw_from_aside(&mut self, set: SetId, is_it: impl Fn(ObjectId, &Waiter) -> bool) -> Option<NodeId> {
        let frozen = self.frozen.0.get_mut(&set)?;
        let at = frozen.aside.iter().position(|kept| is_it(kept.object, &kept.waiter))?;
        frozen.aside.remove(at);
        frozen.by.first().copied()
    }

    /// Looks once more at an object of a frozen set whose cell may allow too much.
    pub fn close_cell(&mut self, set: SetId, object: ObjectId) {
        let Some(frozen) = self.frozen.0.get(&set).filter(|frozen| frozen.open.contains(&object)) else { return };
        let is_over = frozen.by.is_empty();
        let head = self.locals.get(&(set, object)).and_then(|local| local.waiters.front());
        // Who was let in is served first.
        if !is_over && head.is_some_and(|head| !self.is_kept_out(set, &head.asker)) {
            return;
        }
        self.lower_cell(set, object);
        self.forget_if_over(set);
    }

    fn forget_if_over(&mut self, set: SetId) {
        if self.frozen.0.get(&set).is_some_and(|frozen| frozen.by.is_empty() && frozen.open.is_empty()) {
            self.frozen.forget(set);
        }
    }

    fn lower_cell(&mut self, set: SetId, object: ObjectId) {
        let Some(store) = self.stores.get(&set).cloned() else { return };
        let Some(frozen) = self.frozen.0.get_mut(&set) else { return };
        let lower = |cell| store.revoke(cell, most(&*store, cell)) == RevokeResult::Held;
        let is_low = |cell| {
            !frozen.open.contains(&object) && store.access(cell) <= most(&*store, cell) && !store.is_written(cell)
        };
        let is_written = store.find(object.0).is_some_and(|cell| {
            // Who releases it meanwhile leaves what is on its way to this thread. If it is held still, and nobody writes,
            // it is on its way further down, for somebody else.
            !is_low(cell) && lower(cell) && (store.is_written(cell) || (lower(cell) && store.is_written(cell)))
        });
        if !is_written {
            frozen.open.remove(&object);
            return;
        }
        let is_over = frozen.by.is_empty();
        frozen.open.insert(object);
        if is_over {
            // It stands in nobody's way any more, but for those who wait for the object itself.
            if self.locals.get(&(set, object)).is_some_and(|local| local.waiters.is_empty() && local.revoking.is_none())
            {
                self.goes_on(set, object);
            }
            return;
        }
        self.is_held_up(set, object);
        self.ask_back(set, object, Access::Read, None);
    }

    /// Lowers what local threads may do with a slice of the objects of a frozen set, from that cell on. Where the rest
    /// begins.
    pub fn close_cells(&mut self, set: SetId, first: CellNumber, most: u32) -> Option<CellNumber> {
        // What is closed was looked at, and opens nothing.
        if self.frozen.in_force(set).is_none_or(|frozen| frozen.is_closed) {
            return None;
        }
        let (cells, next) = self.own_cells_from(set, first, most);
        for (object, _) in cells {
            let object = ObjectId(object);
            self.lower_cell(set, object);
            if self.locals.contains_key(&(set, object)) {
                self.run_own(set, object, None);
            }
        }
        next
    }

    /// Has those come to an end who write a set of which no cell is left that has not been looked at.
    pub fn end_writers(&mut self, set: SetId) {
        let Some(frozen) = self.to_close(set).filter(|frozen| !frozen.is_closed) else { return };
        let open: Vec<ObjectId> = frozen.open.iter().copied().collect();
        for object in open {
            self.run_own(set, object, None);
        }
    }

    /// Who is in the way of closing a set, after [`Self::end_writers`].
    pub fn is_closable(&self, set: SetId) -> Result<(), String> {
        let Some(frozen) = self.to_close(set) else { return Ok(()) };
        if frozen.is_closed {
            return self.removes_nothing(set);
        }
        if let Some(object) = frozen.open.first().copied() {
            let holders: Vec<Arc<str>> = self.holders(set, object).into_iter().map(|holder| holder.who).collect();
            return Err(format!("object {} is written by {}", object.0, holders.join(", ")));
        }
        let is_let_in = |local: &Local| {
            local.putting.is_some() || local.waiters.iter().any(|waiter| !self.is_kept_out(set, &waiter.asker))
        };
        let waits = self.locals.iter().find(|((of, _), local)| *of == set && is_let_in(local));
        if let Some(((_, object), _)) = waits {
            return Err(format!("somebody waits for object {} who had asked for it before", object.0));
        }
        self.removes_nothing(set)
    }

    /// Closes a set: nobody is in the way in any lane.
    pub fn close(&mut self, set: SetId) {
        if self.to_close(set).is_some()
            && let Some(frozen) = self.frozen.0.get_mut(&set)
        {
            frozen.is_closed = true;
            // Programs that wait aside are not let in any more, so that nobody need be told of what they use meanwhile: neither
            // all lanes at each such use, nor an alarm. They wait on, until the thaw.
            frozen.aside.iter_mut().for_each(|kept| kept._of_program = None);
        }
    }

    /// A set that is frozen, at a node that may do something still.
    fn to_close(&self, set: SetId) -> Option<&Frozen> {
        self.frozen.in_force(set).filter(|_| !self.fenced && !self.stopped)
    }

    /// Also of who removes nothing any more, something may come: of a node that was told later.
    fn removes_nothing(&self, set: SetId) -> Result<(), String> {
        if self.core.is_removing(set) { Err("an object is being removed".into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
