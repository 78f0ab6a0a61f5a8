//! One input to the core and all that follows: outputs done in order, waiting threads served.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use kddm_core::id::{NodeId, ObjectId, SetId, Version};
use kddm_core::io::{Answer, Body, Input, NoMemory, Output, Outputs};
use kddm_core::message::{Message, RequestKind};
use kddm_core::node::Refused;

use crate::error::{AccessError, Error, MembershipError, SetError};
use crate::runtime::lane::LaneState;
use crate::runtime::local::{Asker, Waiter, Wish};
use crate::runtime::placing::Follows;
use crate::runtime::wait::{Op, Outcome, Tell};
use crate::sync::{Slip, slips};

impl LaneState {
    /// A local thread asks. The request is on its way when this returns.
    pub fn ask(&mut self, set: SetId, object: ObjectId, wish: Wish, op: Arc<Op>) {
        if self.can_wait_for_lender(set, wish) {
            return self.wait_for_lender(op);
        }
        if let Some(error) = self.refusal_of(set, object, wish) {
            self.complete(&op, Outcome::Failed(error));
            return;
        }
        self.queue(set, object, Waiter { wish, asker: Asker::Thread(op) });
    }

    /// Somebody waits from now on, and is served when it is his turn.
    pub fn queue(&mut self, set: SetId, object: ObjectId, waiter: Waiter) {
        let store = self.store(set);
        let cell = store.find_or_insert(object.0);
        store.set_waiters(cell, true);
        self.outstanding += 1;
        self.local(set, object).waiters.push_back(waiter);
        self.run_own(set, object, None);
    }

    /// A local thread that holds an object to write removes it. The core hears of that before the hold
    /// ends, and whoever waits for the object comes after it, here or elsewhere.
    pub fn remove_held(&mut self, set: SetId, object: ObjectId, op: Arc<Op>, release: impl FnOnce(), tell: Tell<'_>) {
        let wish = Wish::Request(RequestKind::Remove);
        if let Some(error) = self.refusal_of(set, object, wish).or_else(|| self.hold_is_of_before(set, object)) {
            release();
            self.released(set, object);
            self.complete(&op, Outcome::Failed(tell(error)));
            return;
        }
        self.queue_first(set, object, Waiter { wish, asker: Asker::Thread(op) });
        release();
        self.run_own(set, object, None);
    }

    /// Removes an object that this node owns and nobody waits for, all access to which has been taken back in this turn: the
    /// core need not ask for it. Not where somebody hears first that there is less.
    pub fn remove_unused(&mut self, set: SetId, object: ObjectId, op: Arc<Op>, (version, has_value): (u64, bool)) {
        let wish = Wish::Request(RequestKind::Remove);
        if self.hooked.contains_key(&set) {
            return self.ask(set, object, wish, op);
        }
        if let Some(error) = self.refusal_of(set, object, wish) {
            self.complete(&op, Outcome::Failed(error));
            return;
        }
        self.outstanding += 1;
        self.statistics.misses += 1;
        let local = self.local(set, object);
        local.waiters.push_back(Waiter { wish, asker: Asker::Thread(op) });
        local.outstanding = true;
        self.run_own(set, object, Some(Input::RemoveUnused { version: Version(version), has_value }));
    }

    /// As [`Self::queue`], before all others that wait here.
    pub fn queue_first(&mut self, set: SetId, object: ObjectId, waiter: Waiter) {
        self.outstanding += 1;
        let local = self.local(set, object);
        // What the core was asked for before would come between: it is asked for it again afterwards.
        let withdraw = local.outstanding && !local.is_cancelling;
        local.is_cancelling |= withdraw;
        local.waiters.push_front(waiter);
        self.run_own(set, object, withdraw.then_some(Input::Cancel));
    }

    pub fn run_own(&mut self, set: SetId, object: ObjectId, input: Option<Input>) {
        let _only_messages_are_refused = self.run(set, object, input, &mut None);
    }

    /// Why nothing is begun here now, if that is so.
    pub fn refusal(&self, set: SetId) -> Option<Error> {
        if self.fenced {
            return Some(AccessError::Fenced.into());
        }
        if self.stopped {
            return Some(MembershipError::Stopped.into());
        }
        if let Some(error) = self.link.as_ref().and_then(|link| link.refusal(set)) {
            return Some(error);
        }
        if self.destroyed.contains(set) {
            return Some(SetError::Destroyed.into());
        }
        if !self.shares {
            return Some(MembershipError::NotSharing { node: self.core.id().0 }.into());
        }
        let (outstanding, limit) = (self.outstanding, self.limits.outstanding);
        (outstanding >= limit).then(|| AccessError::Overloaded { outstanding, limit }.into())
    }

    /// A local thread gives up. Who has frozen the set, if it has waited for the thaw: it was not begun then.
    pub fn cancel(&mut self, set: SetId, object: ObjectId, op: &Arc<Op>) -> Option<NodeId> {
        let frozen_by = self.waits_no_more_aside(set, op);
        let local = self.locals.get_mut(&(set, object));
        let at = local.and_then(|local| local.waiters.iter().position(|waiter| waiter.asker.is(op)));
        if let Some(at) = at {
            self.alarms.take_back(op.take_alarm());
            self.withdraw(set, object, at);
        }
        frozen_by
    }

    /// Whoever waits at that place gives up.
    pub fn withdraw(&mut self, set: SetId, object: ObjectId, at: usize) {
        let Some(local) = self.locals.get_mut(&(set, object)) else { return };
        local.waiters.remove(at);
        self.outstanding -= 1;
        let withdraw = at == 0 && local.outstanding && !local.is_cancelling;
        local.is_cancelling |= withdraw;
        self.run_own(set, object, withdraw.then_some(Input::Cancel));
    }

    /// A hold was released while somebody waited or access was being taken back.
    pub fn released(&mut self, set: SetId, object: ObjectId) {
        if self.stopped || self.fenced || self.destroyed.contains(set) || slips(Slip::ReleaseInSilence) {
            return; // Nobody waits any more, and the core knows the object no more.
        }
        self.run_own(set, object, None);
    }

    /// A message of another node. On `NoMemory` it has changed nothing, and `body` is as it was.
    pub fn message(
        &mut self,
        from: NodeId,
        set: SetId,
        object: ObjectId,
        message: Message,
        body: &mut Option<Cow<'_, [u8]>>,
    ) -> Result<(), NoMemory> {
        // Who asks about copies of a set that is gone is to hear that they are of no use.
        let is_of_use = matches!(message, Message::Revalidate { .. }) || !self.destroyed.contains(set);
        if self.fenced || !is_of_use {
            self.statistics.dropped += 1;
            return Ok(());
        }
        self.run(set, object, Some(Input::Message { from, message }), body)
    }

    /// Hands an input to the core and does all that follows from it. `NoMemory` is for a message only,
    /// and nothing has changed.
    pub fn run(
        &mut self,
        set: SetId,
        object: ObjectId,
        input: Option<Input>,
        body: &mut Option<Cow<'_, [u8]>>,
    ) -> Result<(), NoMemory> {
        let mut todo = std::mem::take(&mut self.todo);
        todo.extend(input);
        let result = self.go_on(set, object, body, &mut todo);
        todo.clear();
        self.todo = todo;
        result
    }

    /// Does what is to be done for an object, and all that follows from it.
    pub fn go_on(
        &mut self,
        set: SetId,
        object: ObjectId,
        body: &mut Option<Cow<'_, [u8]>>,
        todo: &mut VecDeque<Input>,
    ) -> Result<(), NoMemory> {
        let (mut touched, mut is_first) = (todo.is_empty(), true);
        loop {
            while let Some(input) = todo.pop_front() {
                match self.step(set, object, input, body, todo) {
                    Ok(done) => touched |= done,
                    Err(refused) if is_first => return Err(refused),
                    // It has followed from another one, which is done: nobody hands it in again.
                    Err(NoMemory) => self.refused(set, object, Refused::NoMemory),
                }
                is_first = false;
            }
            self.serve_local(set, object, todo);
            if todo.is_empty() {
                break;
            }
        }
        self.tidy(set, object, touched);
        Ok(())
    }

    /// Hands one input in. Says whether anything was done with the object's cell, which most news for a
    /// home is not.
    fn step(
        &mut self,
        set: SetId,
        object: ObjectId,
        input: Input,
        body: &mut Option<Cow<'_, [u8]>>,
        todo: &mut VecDeque<Input>,
    ) -> Result<bool, NoMemory> {
        self.follow_undone();
        if self.fenced {
            return Ok(false); // What the core knows is not to be relied on.
        }
        let mut outputs = std::mem::take(&mut self.outputs);
        let is_word = matches!(&input, Input::Message { message: Message::Placed { .. }, .. });
        let is_message = matches!(&input, Input::Message { .. });
        let told = Told::of(&input);
        let question = question_of(&input);
        match self.hand_in(set, object, input, &mut outputs) {
            Ok(()) => self.was_told(set, object, told),
            Err(Refused::NoMemory) => {
                self.statistics.refused_memory += 1;
                if let Err(refused) = self.lacks_memory(set, object, told) {
                    self.undone = Some((set, outputs));
                    return Err(refused);
                }
            }
            Err(refused) => self.refused(set, object, refused),
        }
        let mut touched = told != Told::Message;
        // The first input to a shard in a new epoch takes all its objects there, also if there is no memory for the input then.
        let mut others = Follows::default();
        for output in outputs.drain() {
            if output.object() == object {
                touched |= changes_what_is_here(&output);
                self.act(set, output, body, todo);
            } else {
                others.act(self, set, output);
            }
        }
        self.outputs = outputs;
        others.go_on(self, set);
        question.into_iter().for_each(|question| self.is_answered(question));
        if is_word || (is_message && self.core.is_handing_over()) {
            self.look_whether_settled();
        }
        Ok(touched)
    }

    fn hand_in(&mut self, set: SetId, object: ObjectId, input: Input, outputs: &mut Outputs) -> Result<(), Refused> {
        #[cfg(test)]
        {
            self.inputs += 1;
            if self.refuse_each.is_some_and(|nth| self.inputs.is_multiple_of(nth)) {
                return Err(Refused::NoMemory);
            }
        }
        if self.link.is_some() {
            self.tell_lender(set, object, &input);
            return Ok(());
        }
        self.core.handle(set, object, input, outputs)
    }

    /// The core has heard it: it need not be said again.
    fn was_told(&mut self, set: SetId, object: ObjectId, told: Told) {
        if matches!(told, Told::Message | Told::Want | Told::Acceptance) {
            return;
        }
        let Some(local) = self.locals.get_mut(&(set, object)) else { return };
        match told {
            Told::Cancel => (local.is_cancelling, local.outstanding) = (false, false),
            Told::Put => local.putting.iter_mut().for_each(|putting| putting.is_told = true),
            Told::Answer if local.is_trying => local.is_trying = false,
            _ => local.revoking = None,
        }
    }

    /// The core has no memory for an input, which has changed nothing. A peer's message is left to the
    /// caller; a wish is refused to whoever has it; what the core must know is said later.
    fn lacks_memory(&mut self, set: SetId, object: ObjectId, told: Told) -> Result<(), NoMemory> {
        match told {
            // Whoever accepts a loss asks again as long as there is one.
            Told::Message | Told::Acceptance => return Err(NoMemory),
            Told::Want => self.refused(set, object, Refused::NoMemory),
            Told::Cancel | Told::Answer | Told::Put => self.tell_later(set, object),
        }
        Ok(())
    }

    /// The core does not take an input. Whoever waits here hears of it.
    pub fn refused(&mut self, set: SetId, object: ObjectId, refused: Refused) {
        let error: Error = match refused {
            Refused::UnknownSet => SetError::Destroyed.into(),
            Refused::NoHome | Refused::Settling => MembershipError::NotSharing { node: self.core.id().0 }.into(),
            Refused::NoMemory | Refused::TooManySets => {
                AccessError::Overloaded { outstanding: self.outstanding, limit: self.limits.outstanding }.into()
            }
        };
        if refused != Refused::NoMemory {
            self.statistics.dropped += 1;
        }
        let Some(local) = self.locals.get_mut(&(set, object)) else { return };
        local.outstanding = false;
        for waiter in std::mem::take(&mut local.waiters) {
            self.end_wait(set, object, waiter, Outcome::Failed(error.clone()));
        }
    }

    /// Somebody who waited has been taken out of the queue: this is how his wait ends.
    pub fn end_wait(&mut self, set: SetId, object: ObjectId, waiter: Waiter, outcome: Outcome) {
        self.outstanding -= 1;
        match waiter.asker {
            Asker::Thread(op) => self.hand_over(set, object, &op, outcome),
            Asker::Program(session, number) => self.answer_program(session, set, object, number, outcome),
        }
    }

    pub fn act(&mut self, set: SetId, output: Output, body: &mut Option<Cow<'_, [u8]>>, todo: &mut VecDeque<Input>) {
        if self.fenced {
            return;
        }
        match output {
            Output::Send { to, object, message, body, deferred } => {
                self.send(set, object, to, &message, body == Body::Object, deferred);
            }
            Output::Install { object, version, has_value } => {
                let store = self.store(set);
                let cell = store.find_or_insert(object.0);
                let bytes = if has_value { body.take() } else { None };
                if store.install_bytes(cell, version.0, bytes).is_err() {
                    self.statistics.undecodable += 1;
                }
                self.statistics.installs += 1;
            }
            Output::Granted { object, access, answers, .. } => {
                self.grant(set, object, access);
                if answers {
                    let local = self.local(set, object);
                    (local.outstanding, local.is_cancelling) = (false, false);
                }
                self.serve_local(set, object, todo);
            }
            Output::Revoke { object, to } => {
                self.local(set, object).revoking = Some(to);
                self.try_to_lower(set, object, todo);
            }
            Output::TryRevoke { object } => {
                self.local(set, object).is_trying = true;
                if let Some(input) = self.try_to_take_all_back(set, object) {
                    todo.push_back(input);
                }
            }
            Output::Answer { object, answer: Answer::Lost } if self.forgets_loss(set, object, todo) => {}
            Output::Answer { object, answer } => self.answered(set, object, self.outcome_of(set, object, answer)),
            Output::Discard { object } => {
                let store = self.store(set);
                if let Some(cell) = store.find(object.0) {
                    self.note_end(set, object, store.has_value(cell));
                    store.discard(cell);
                }
            }
            Output::RolledBack { .. } => self.rolled_back(set),
            Output::PutDone { object, version } => self.put_is_done(set, object, version, todo),
            Output::StoreReplica { object } => self.store_replica(set, object, body),
            Output::KeepReplica { object } => self.keep_replica(set, object),
            Output::DropReplica { object } => {
                self.replicas.remove(&(set, object));
            }
            Output::UseReplica { object, version } => self.use_replica(set, object, version),
            Output::UseCopy { object, version, question } => self.use_copy(set, object, version, question),
            Output::Dropped { object, what } => {
                self.statistics.dropped += 1;
                tracing::debug!(?set, ?object, what, "dropped a message that cannot be meant");
            }
            Output::Fault { object, what } => {
                self.statistics.faults += 1;
                tracing::error!(?set, ?object, what, "broken invariant");
                self.fence("a broken invariant");
            }
        }
    }

    /// The first waiter's request ended without access.
    pub fn answered(&mut self, set: SetId, object: ObjectId, outcome: Outcome) {
        let local = self.local(set, object);
        local.outstanding = false;
        if std::mem::take(&mut local.is_cancelling) {
            return; // Whoever asked has given up, and the core has not heard of it yet.
        }
        let Some(waiter) = local.waiters.pop_front() else { return };
        self.end_wait(set, object, waiter, outcome);
    }

    /// Nothing is left behind of an object for which nobody waits here (`I9`).
    fn tidy(&mut self, set: SetId, object: ObjectId, touched: bool) {
        if touched && !self.hooked.is_empty() {
            self.look_at_hooks(set, object);
        }
        if touched && self.is_watched(set, object) {
            self.look_at_watchers(set, object);
        }
        let waits = match self.locals.get(&(set, object)) {
            Some(local) if local.is_idle() => {
                if let Some(local) = self.locals.remove(&(set, object))
                    && (1..=FEW_WAITERS).contains(&local.waiters.capacity())
                {
                    self.spare_waiters = local.waiters;
                }
                false
            }
            Some(local) => !local.waiters.is_empty(),
            // Its cell, if it has one, is as it was left.
            None if !touched => return,
            None => false,
        };
        // A peer that names sets which do not exist makes nothing here.
        let Some(store) = self.stores.get(&set) else { return };
        if let Some(cell) = store.find(object.0) {
            store.set_waiters(cell, waits);
            if !waits && !self.locals.contains_key(&(set, object)) {
                store.release_cell_if_empty(cell);
            }
        }
    }
}

/// A queue for more of them does not stay for the next object.
const FEW_WAITERS: usize = 16;

/// Whether somebody here may have something to do after it: not after a message that carries nothing, nor after a
/// copy that nobody has asked for.
pub(crate) fn changes_what_is_here(output: &Output) -> bool {
    !matches!(output, Output::Send { body: Body::None, .. } | Output::Dropped { .. } | Output::UseCopy { .. })
}

/// The question about read copies that it answers.
fn question_of(input: &Input) -> Option<u64> {
    match input {
        Input::Message { message: Message::Revalidated { id, .. }, .. } => Some(id.counter),
        _ => None,
    }
}

/// What an input says, for when it has to be said again.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    Message,
    Want,
    Cancel,
    /// To a revocation, tried or not.
    Answer,
    Put,
    Acceptance,
}

impl Told {
    fn of(input: &Input) -> Told {
        match input {
            Input::Message { .. } => Told::Message,
            Input::Want { .. } | Input::RemoveUnused { .. } => Told::Want,
            Input::Cancel => Told::Cancel,
            Input::Revoked { .. } | Input::Held => Told::Answer,
            Input::Put { .. } => Told::Put,
            Input::AcceptLoss => Told::Acceptance,
        }
    }
}

impl LaneState {
    fn outcome_of(&self, set: SetId, object: ObjectId, answer: Answer) -> Outcome {
        match answer {
            Answer::Removed | Answer::Flushed => Outcome::Done,
            Answer::NotFound => Outcome::Failed(AccessError::NotFound.into()),
            Answer::Busy => Outcome::Failed(AccessError::Busy.into()),
            Answer::Lost => Outcome::Failed(self.is_lost(set, object)),
            Answer::Unknown => Outcome::Failed(AccessError::CutShort.into()),
        }
    }
}
