//! What this node has lent to programs, and how it comes back. To the rest of the node a loan is a hold
//! by a local thread: it keeps others out, and the last release tells the lane.
//!
//! While a program has been asked for an object, it is granted nothing of it: so its answer can be about
//! one loan only, and a loan needs no number.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kddm_core::id::{ObjectId, SetId};
use kddm_core::io::{Access, Input};

use super::Place;
use super::frame::{Bytes, Ending, Head, Word};
use super::session::Session;
use super::uses::Use;
use crate::cell::{HeldBy, Hold};
use crate::error::{AccessError, Error, MembershipError};
use crate::runtime::errands::{Errand, Errands};
use crate::runtime::lane::LaneState;
use crate::runtime::lending::failure::Failure;
use crate::runtime::serving::Served;
use crate::runtime::turn::Alarmed;
use crate::runtime::wait::Outcome;
use crate::sync::now;

/// How often a hold is taken again that a reader on the fast path may hide for some nanoseconds.
const SLIPS: u32 = 1_000;

/// See the module.
#[derive(Default)]
pub(crate) struct Desk {
    pub(super) sessions: HashMap<u32, Session>,
    pub(super) loans: HashMap<Place, Vec<Loan>>,
    /// Sessions with frames that have not been offered to the socket.
    pub(super) dirty: Vec<u32>,
    /// When to look again for programs that take nothing any more.
    pub look_again: Option<Instant>,
    /// All sessions are to end with the turn.
    pub is_to_end: bool,
}

/// An object that a program has.
pub(super) struct Loan {
    pub session: u32,
    pub level: Access,
    /// None only while the same program is granted more.
    pub hold: Option<Hold>,
    pub asked: Option<Asked>,
    /// It was lent without a value: the program makes the first one.
    pub is_first_touch: bool,
    /// A local thread of the program holds it, says the answer that is being handled.
    pub is_declined: bool,
    /// See [`Loan::is_used`].
    used: Option<Use>,
    /// It is a copy that is used for longer, as it seems.
    keeps: Option<Arc<Keeps>>,
}

/// A copy that nobody uses is back at once when it is asked for: only who keeps it for longer may wait for something else first.
const KEEPS_FOR: Duration = Duration::from_millis(20);

/// A program that keeps a copy which is asked back is let in where it waits for the thaw.
struct Keeps {
    errands: Arc<Errands>,
    errand: Errand,
}

impl Alarmed for Keeps {
    fn ring(&self) {
        Arc::clone(&self.errands).send(self.errand);
    }
}

impl Loan {
    /// The program may be in the middle of something: it has the object to write, or somebody waits until it has given it
    /// back. A copy that nobody there may use is none, nor one that is asked for on trial: whoever uses it there says so at
    /// once, and nobody waits for him.
    fn is_used(&self) -> bool {
        self.level == Access::Write || matches!(self.asked, Some(Asked::GiveBack(_)))
    }
}

/// What a program was asked and has not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    GiveBack(Access),
    Try,
}

impl Desk {
    /// What a program has declined was said about this one trial only.
    pub(super) fn end_trial(&mut self, session: u32, place: Place) {
        if let Some(loan) = self.loan(session, place) {
            loan.is_declined = false;
        }
    }

    pub fn has_lent_nothing(&self) -> bool {
        self.loans.is_empty()
    }

    pub(super) fn loan(&mut self, session: u32, place: Place) -> Option<&mut Loan> {
        self.loans.get_mut(&place)?.iter_mut().find(|loan| loan.session == session)
    }

    /// Takes a loan off the books.
    pub(super) fn take_loan(&mut self, session: u32, place: Place) -> Option<Loan> {
        let loans = self.loans.get_mut(&place)?;
        let at = loans.iter().position(|loan| loan.session == session)?;
        let loan = loans.swap_remove(at);
        if loans.is_empty() {
            self.loans.remove(&place);
        }
        if let Some(session) = self.sessions.get_mut(&session) {
            session.borrowed.remove(&place);
        }
        Some(loan)
    }

    /// What a program has put, up to that version, has its replicas.
    pub fn say_safe(&mut self, session: u32, place: Place, version: u64) {
        self.say(session, place, Word::Safe { version });
    }

    pub(super) fn say(&mut self, session: u32, place: Place, word: Word) {
        self.say_with(session, place, word, |_| {});
    }

    pub(super) fn say_with(&mut self, session: u32, place: Place, word: Word, body: impl FnOnce(&mut Vec<u8>)) {
        let Some(to) = self.sessions.get_mut(&session) else { return };
        let (set, object) = place;
        to.outbox.push_with(Head { set, object, word, body_bytes: 0 }, body);
        self.make_dirty(session);
    }

    pub(super) fn make_dirty(&mut self, number: u32) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        if !std::mem::replace(&mut session.is_dirty, true) {
            self.dirty.push(number);
        }
    }

    /// The programs that have an object, as people know them.
    pub fn borrowers(&self, set: SetId, object: ObjectId) -> impl Iterator<Item = HeldBy> + '_ {
        self.loans.get(&(set, object)).into_iter().flatten().filter_map(|loan| {
            let session = self.sessions.get(&loan.session)?;
            let who = format!("program {} ({})", session.pid, session.name).into();
            Some(HeldBy { who, is_write: loan.level == Access::Write })
        })
    }

    /// What programs have to write.
    pub fn lent_to_write(&self) -> impl Iterator<Item = (SetId, ObjectId)> + '_ {
        let is_written = |loans: &[Loan]| loans.iter().any(|loan| loan.level == Access::Write);
        self.loans.iter().filter(move |(_, loans)| is_written(loans)).map(|(place, _)| *place)
    }

    /// Programs that are attached.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// The hold by which a program has an object to read ends for a moment, because it is to be granted
    /// more. One to write is never in the way of what its program wants, and could not be had again for
    /// sure: a reader that tries the fast path can be seen for a moment.
    pub fn park(&mut self, session: u32, set: SetId, object: ObjectId) -> bool {
        let loan = self.loan(session, (set, object)).filter(|loan| loan.level == Access::Read);
        let hold = loan.and_then(|loan| loan.hold.take());
        // The driver is at work already.
        hold.map(Hold::release).is_some()
    }
}

impl LaneState {
    /// A loan has changed. A program that begins to use something of a set is let in where it waits for the thaw: else it
    /// would keep what a freeze waits for.
    pub(super) fn note_use(&mut self, program: u32, place: Place) {
        let (set, uses) = (place.0, Arc::clone(&self.signals.uses));
        let Some(loan) = self.desk.loan(program, place) else { return };
        let is_used = loan.is_used();
        if is_used == loan.used.is_some() {
            return;
        }
        let (begun, waits_aside) = is_used.then(|| uses.begin(program, set)).unzip();
        (loan.used, loan.keeps) = (begun, None);
        let errand = Errand::LetIn { program, set };
        match (waits_aside, loan.level) {
            (Some(true), Access::Write) => self.send_on(errand),
            (Some(true), _) => {
                // Not at once: that would let in all that it wants each time that an idle copy is asked back, and a freeze
                // would come to no end where programs write.
                let keeps = Arc::new(Keeps { errands: Arc::clone(&self.signals.errands), errand });
                let whom = Arc::downgrade(&keeps);
                loan.keeps = Some(keeps);
                self.alarms.set(now() + KEEPS_FOR, whom);
            }
            _ => {}
        }
    }

    /// Whether a program may be granted anything of an object now: not while it is asked for it, and not
    /// while it has much to take first. It is served again then.
    pub fn may_lend_now(&mut self, session: u32, set: SetId, object: ObjectId) -> bool {
        let place = (set, object);
        if self.desk.loan(session, place).is_some_and(|loan| loan.asked.is_some()) {
            return false;
        }
        self.desk.sessions.get_mut(&session).is_none_or(|session| session.has_room_for(place))
    }

    /// Takes the hold again that [`Desk::park`] has ended: no writer can have come between, because whoever
    /// waits is in the way of the fast path, and this is the driver.
    pub fn unpark(&mut self, session: u32, set: SetId, object: ObjectId) {
        let store = self.store(set);
        let cell = store.find_or_insert(object.0);
        let access = store.access(cell);
        let Some(loan) = self.desk.loan(session, (set, object)) else { return };
        // Access may be on its way down: then this hold is what is waited for.
        store.grant(cell, loan.level);
        let take = || if loan.level == Access::Write { store.take_write(cell) } else { store.take_read(cell) };
        loan.hold = (0..SLIPS).find_map(|_| take());
        if access < loan.level {
            let _held_by_this_loan = store.revoke(cell, access);
        }
        if loan.hold.is_none() {
            tracing::error!(?set, ?object, session, "a loan has lost its hold");
            self.statistics.faults += 1;
            self.fence("a loan has lost its hold");
        }
    }

    pub fn is_lent(&self, set: SetId, object: ObjectId) -> bool {
        self.desk.loans.contains_key(&(set, object))
    }

    /// How the wish of a program ends.
    pub fn answer_program(&mut self, session: u32, set: SetId, object: ObjectId, number: u64, outcome: Outcome) {
        let place = (set, object);
        if let Some(session) = self.desk.sessions.get_mut(&session) {
            session.waits.remove(&place);
        }
        let error = match outcome {
            Outcome::Read(hold) => return self.lend(session, place, number, Access::Read, hold),
            Outcome::Write(hold) => return self.lend(session, place, number, Access::Write, hold),
            Outcome::Done | Outcome::Available | Outcome::Again => {
                return self.desk.say(session, place, Word::Answer { number, ending: Ending::Done });
            }
            // It is expected back, and what the program wants can wait for that.
            Outcome::Failed(Error::Membership(MembershipError::NotSharing { .. })) if self.is_leaving() => {
                MembershipError::Stopped.into()
            }
            Outcome::Failed(error) => error,
        };
        let ending = match &error {
            Error::Access(AccessError::NotFound) => Ending::NotFound,
            Error::Access(AccessError::Busy) => Ending::Busy,
            Error::Access(AccessError::Lost { .. }) => Ending::Lost,
            _ => Ending::Failed,
        };
        self.desk.say_with(session, place, Word::Answer { number, ending }, |body| {
            if ending == Ending::Failed {
                body.extend(Failure::of(&error).encode());
            }
        });
    }

    fn lend(&mut self, session: u32, place: Place, number: u64, level: Access, hold: Hold) {
        let (set, object) = place;
        if !self.desk.sessions.contains_key(&session) {
            let _driver_is_here = hold.release();
            return;
        }
        let store = self.store(set);
        let cell = store.find_or_insert(object.0);
        let (has_value, version) = (store.has_value(cell), store.version(cell));
        let tenure = self.core.inspect(set, object).map_or(0, |seen| seen.seen.0);
        // One that has it already, and is granted more, has the value too.
        let is_known = self.desk.loan(session, place).is_some();
        let bytes = match (has_value, is_known) {
            (false, _) => Bytes::NoValue,
            (true, true) => Bytes::Known,
            (true, false) => Bytes::Here,
        };
        let mut encoded = Ok(true);
        let word = Word::Granted { level, bytes, number, version, tenure };
        self.desk.say_with(session, place, word, |body| {
            if bytes == Bytes::Here {
                encoded = store.encode_held(&hold, body);
            }
        });
        self.statistics.undecodable += u64::from(encoded.is_err());
        let is_first_touch = !has_value;
        let (hold, asked, is_declined) = (Some(hold), None, false);
        match self.desk.loan(session, place) {
            Some(loan) => (loan.level, loan.hold) = (level, hold),
            None => {
                let loan = Loan { session, level, hold, asked, is_first_touch, is_declined, used: None, keeps: None };
                self.desk.loans.entry(place).or_default().push(loan);
                if let Some(session) = self.desk.sessions.get_mut(&session) {
                    session.borrowed.insert(place);
                }
            }
        }
        self.note_use(session, place);
    }

    /// Whether a program has that much of an object, and was not asked to give it back.
    pub(super) fn has_enough(&mut self, session: u32, place: Place, level: Access) -> bool {
        self.desk.loan(session, place).is_some_and(|loan| loan.level >= level && loan.asked.is_none())
    }

    /// Says to a program once more what it has. What it has is never lowered but by its own answer.
    pub(super) fn grant_again(&mut self, session: u32, place: Place, number: u64) {
        let Some(loan) = self.desk.loan(session, place) else { return };
        let (level, bytes) = (loan.level, Bytes::Known);
        let tenure = self.core.inspect(place.0, place.1).map_or(0, |seen| seen.seen.0);
        self.desk.say(session, place, Word::Granted { level, bytes, number, version: 0, tenure });
    }

    /// Whether this node is on its way out, and hands over. Programs that hold nothing are granted nothing any more.
    pub fn is_leaving(&self) -> bool {
        self.signals.is_leaving.load(Ordering::Relaxed)
    }

    /// Whether a program has given back what it was asked for. If it has not, it may need something else first. What it
    /// was not asked for yet it is asked for now: if it holds that, it will not owe nothing when it asks again.
    pub(super) fn owes_nothing(&mut self, number: u32) -> bool {
        let Some(session) = self.desk.sessions.get(&number) else { return true };
        let lent: Vec<Place> = session.borrowed.iter().copied().collect();
        if lent.iter().any(|place| self.desk.loan(number, *place).is_some_and(|loan| loan.asked.is_some())) {
            return false;
        }
        for (set, object) in lent {
            self.ask_back(set, object, Access::None, None);
        }
        true
    }

    /// Asks all programs that have more of an object than `to`, but one, to give that back. One that has
    /// been asked already is asked again when it has answered.
    pub fn ask_back(&mut self, set: SetId, object: ObjectId, to: Access, except: Option<u32>) {
        let place = (set, object);
        let Some(loans) = self.desk.loans.get_mut(&place) else { return };
        let mut whom = Vec::new();
        for loan in loans.iter_mut().filter(|loan| loan.level > to && Some(loan.session) != except) {
            if loan.asked.is_none() {
                loan.asked = Some(Asked::GiveBack(to));
                whom.push(loan.session);
            }
        }
        for session in whom {
            self.note_use(session, place);
            self.desk.say(session, place, Word::GiveBack { to });
        }
    }

    /// As [`Self::ask_back`], for all objects of a set that ends.
    pub fn ask_back_set(&mut self, set: SetId) {
        self.say_of_set(set, Word::SetEnding);
        let places: Vec<Place> = self.desk.loans.keys().copied().filter(|(of, _)| *of == set).collect();
        for (set, object) in places {
            self.ask_back(set, object, Access::None, None);
        }
    }

    /// Asks those programs to give an object back if nobody there holds it. False if one of them is
    /// asked for it already, because others wait.
    fn ask_to_try(&mut self, place: Place, except: Option<u32>) -> bool {
        let Some(loans) = self.desk.loans.get_mut(&place) else { return true };
        let others = |loan: &&mut Loan| Some(loan.session) != except;
        if loans.iter_mut().filter(others).any(|loan| matches!(loan.asked, Some(Asked::GiveBack(_)))) {
            return false;
        }
        let mut whom = Vec::new();
        for loan in loans.iter_mut().filter(others).filter(|loan| loan.asked.is_none()) {
            loan.asked = Some(Asked::Try);
            whom.push(loan.session);
        }
        for session in whom {
            self.desk.say(session, place, Word::TryGiveBack);
        }
        true
    }

    /// What a try_grab here has to do about programs that have the object: a copy that nobody there
    /// holds does not make it busy. `None`: no other program has it.
    pub fn try_other_programs(&mut self, set: SetId, object: ObjectId, session: Option<u32>) -> Option<Served> {
        let busy = || Some(Served::Yes(Outcome::Failed(AccessError::Busy.into())));
        let place = (set, object);
        let mut others = self.desk.loans.get(&place)?.iter().filter(|loan| Some(loan.session) != session).peekable();
        others.peek()?;
        if others.any(|loan| loan.is_declined) || !self.ask_to_try(place, session) {
            return busy();
        }
        Some(Served::Waits)
    }

    /// Takes all access back if nobody holds the object, here or in a program. `None`: the programs have
    /// been asked, and [`Self::returned`] goes on.
    pub fn try_to_take_all_back(&mut self, set: SetId, object: ObjectId) -> Option<Input> {
        if !self.desk.loans.contains_key(&(set, object)) {
            return self.try_to_take_back(set, object);
        }
        if self.ask_to_try((set, object), None) { None } else { Some(Input::Held) }
    }

    /// A program has given something back, or has refused to, or is gone.
    pub(super) fn returned(&mut self, set: SetId, object: ObjectId) {
        if self.stopped || self.fenced {
            return; // As when a local thread releases.
        }
        if self.destroyed.contains(set) {
            // It may have been asked for less than all, before.
            return self.ask_back(set, object, Access::None, None);
        }
        let input = self.end_of_trial_if_tried(set, object);
        self.run_own(set, object, input);
    }

    /// As [`Self::end_of_trial`], if the core tries at all.
    pub fn end_of_trial_if_tried(&mut self, set: SetId, object: ObjectId) -> Option<Input> {
        let is_tried = self.locals.get(&(set, object)).is_some_and(|local| local.is_trying && !local.waits_for_memory);
        if is_tried { self.end_of_trial(set, object) } else { None }
    }

    /// What the core is to hear about its try, if that is known by now.
    fn end_of_trial(&mut self, set: SetId, object: ObjectId) -> Option<Input> {
        let Some(loans) = self.desk.loans.get(&(set, object)) else {
            return self.try_to_take_back(set, object);
        };
        let is_awaited = loans.iter().any(|loan| loan.asked == Some(Asked::Try));
        let is_declined = loans.iter().any(|loan| loan.is_declined);
        (is_declined || !is_awaited).then_some(Input::Held)
    }

    /// A set is gone: what programs have of it is of no more use to them.
    pub fn end_loans_of(&mut self, set: SetId) {
        let places: Vec<Place> = self.desk.loans.keys().copied().filter(|(of, _)| *of == set).collect();
        for place in places {
            for loan in self.desk.loans.remove(&place).unwrap_or_default() {
                let _nobody_waits = loan.hold.map(Hold::release);
                if let Some(session) = self.desk.sessions.get_mut(&loan.session) {
                    session.borrowed.remove(&place);
                }
            }
        }
        self.say_of_set(set, Word::SetEnded);
        self.desk.sessions.values_mut().for_each(|session| _ = session.sets.remove(&set));
    }

    /// To all programs that have opened a set.
    fn say_of_set(&mut self, set: SetId, word: Word) {
        let knows = |session: &Session| session.sets.contains(&set);
        let whom: Vec<u32> =
            self.desk.sessions.iter().filter(|(_, session)| knows(session)).map(|(number, _)| *number).collect();
        for session in whom {
            self.desk.say(session, (set, ObjectId(0)), word);
        }
    }

    /// The memory of a set is about to be replaced by one with a type: holds of it end for a moment. As if
    /// somebody waited, so that the fast path does not come between.
    pub fn park_loans(&mut self, set: SetId) {
        let Some(store) = self.stores.get(&set) else { return };
        for ((_, object), loans) in self.desk.loans.iter_mut().filter(|((of, _), _)| *of == set) {
            if let Some(cell) = store.find(object.0) {
                store.set_waiters(cell, true);
            }
            loans.iter_mut().filter_map(|loan| loan.hold.take()).for_each(|hold| _ = hold.release());
        }
    }

    /// It has been, or not: the holds are taken again.
    pub fn unpark_loans(&mut self, set: SetId) {
        let of_set = self.desk.loans.iter().filter(|((of, _), _)| *of == set);
        let parked: Vec<(u32, ObjectId)> = of_set
            .flat_map(|((_, object), loans)| loans.iter().map(|loan| (loan, *object)))
            .filter(|(loan, _)| loan.hold.is_none())
            .map(|(loan, object)| (loan.session, object))
            .collect();
        for (session, object) in &parked {
            self.unpark(*session, set, *object);
        }
        // Only when all are back: else one who waits would be served as if the others had given back.
        for (_, object) in parked {
            self.run_own(set, object, None);
        }
    }
}
