//! One attached program, as its node sees it: what it says, what it may take, and its end.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use kddm_core::id::{ObjectId, SetId};
use kddm_core::io::Access;
use kddm_core::message::RequestKind;

use super::Place;
use super::desk::Asked;
use super::frame::{Bytes, Head, Word};
use super::pipe::{Inbox, Outbox};
use crate::cell::Hold;
use crate::error::{AccessError, Error, MembershipError, WhyUnreachable};
use crate::inspect::ProgramInfo;
use crate::runtime::errands::Errand;
use crate::runtime::lane::{Lane, LaneState};
use crate::runtime::local::{Asker, Waiter, Wish};
use crate::runtime::not_a_member;
use crate::runtime::peer::Peer;
use crate::runtime::replicas::By;
use crate::runtime::wait::Outcome;
use crate::transport::{Event, Poller, Stream};

/// Tokens of programs in the poller are their numbers above this; below are nodes.
const PROGRAMS: u64 = 1 << 32;

/// Programs of a node at one time: each read copy is counted in its cell once a program.
pub(super) const SESSIONS: usize = 256;

/// Objects that one program may have: some hundred MiB of books here.
const LOANS: usize = 1 << 20;

/// Wishes of one program at one time, as many as of a node.
const WANTS: usize = 65_536;

/// A program that has so many bytes to take first is granted nothing and not read: some of the usual
/// objects, and far more than a socket's buffer.
const ROOM_BYTES: usize = 4 << 20;

/// Bytes read of one program before it is the others' turn.
const TURN_BYTES: usize = 256 << 10;

/// See the module.
pub(crate) struct Session {
    pub name: String,
    pub pid: u32,
    /// What its questions have to name.
    pub secret: u64,
    /// Sets that it has opened.
    pub sets: HashSet<SetId>,
    pub borrowed: HashSet<Place>,
    pub waits: HashMap<Place, u64>,
    pub outbox: Outbox,
    pub is_dirty: bool,
    pub stream: Arc<Stream>,
    inbox: Inbox,
    /// It has something to take first, and is not read meanwhile.
    is_paused: bool,
    /// Objects of which it was not granted anything because it had something to take first.
    stalled: HashSet<Place>,
    /// Since when it has taken nothing of what waits for it, and how much it had taken then.
    pub takes_nothing: Option<(Instant, u64)>,
}

impl Session {
    pub fn new(stream: Stream, name: String, pid: u32, secret: u64) -> Session {
        Session {
            name,
            pid,
            secret,
            sets: HashSet::new(),
            borrowed: HashSet::new(),
            waits: HashMap::new(),
            outbox: Outbox::default(),
            is_dirty: false,
            stream: Arc::new(stream),
            inbox: Inbox::default(),
            is_paused: false,
            stalled: HashSet::new(),
            takes_nothing: None,
        }
    }

    /// Whether more may be granted to it; if not, that place is looked at again.
    pub fn has_room_for(&mut self, place: Place) -> bool {
        let has_room = self.outbox.waiting_bytes() <= ROOM_BYTES;
        if !has_room {
            self.stalled.insert(place);
        }
        has_room
    }
}

/// The token of a program's socket.
fn token_of(session: u32) -> u64 {
    PROGRAMS | u64::from(session)
}

/// The program of a token, if it is one's.
pub(crate) fn program_of(token: u64) -> Option<u32> {
    (token & PROGRAMS != 0).then_some(token as u32)
}

impl Lane {
    pub fn program_socket(&self, session: u32, event: Event) {
        let mut state = self.lock();
        if event.writable {
            state.desk.make_dirty(session);
        }
        if event.readable {
            state.read_program(session, event.ended, &self.poller);
        }
        self.finish(state);
    }
}

impl LaneState {
    /// A program is attached from now on.
    pub fn connect_program(&mut self, number: u32, session: Session, poller: &Poller) -> std::io::Result<()> {
        session.stream.set_limit(None)?;
        session.stream.set_nonblocking(true)?;
        poller.add(&*session.stream, token_of(number))?;
        self.desk.sessions.insert(number, session);
        self.read_program(number, false, poller);
        Ok(())
    }

    /// Reads until nothing is left, or it is the others' turn. One whose connection has `ended` is read up
    /// to its end: what it had put before it died is in there.
    pub(super) fn read_program(&mut self, number: u32, ended: bool, poller: &Poller) {
        let mut read_bytes = 0;
        loop {
            let Some(session) = self.desk.sessions.get_mut(&number) else { return };
            if ended {
                session.outbox.cut();
            }
            if session.outbox.waiting_bytes() > ROOM_BYTES {
                session.is_paused = true;
                return;
            }
            if read_bytes >= TURN_BYTES {
                // What is left to read is told again.
                return poller.tell_readable(&*session.stream, token_of(number), true);
            }
            match session.inbox.read(&session.stream) {
                Ok((0, _)) => return self.end_program(number, poller),
                Ok((count, has_more)) => {
                    read_bytes += count;
                    if !self.handle_program(number, poller) || !(has_more || ended) {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.end_program(number, poller),
            }
        }
    }

    /// Handles what has arrived. False: it has no session any more.
    fn handle_program(&mut self, number: u32, poller: &Poller) -> bool {
        let Some(session) = self.desk.sessions.get_mut(&number) else { return false };
        let mut inbox = std::mem::take(&mut session.inbox);
        let limit_bytes = self.limits.object_bytes;
        let handled = loop {
            match inbox.next(limit_bytes) {
                Ok(None) => break Ok(()),
                Ok(Some((head, body))) => {
                    self.statistics.frames_received += 1;
                    if let Err(reason) = self.program_says(number, &head, inbox.body(body)) {
                        break Err(reason);
                    }
                }
                Err(reason) => break Err(reason),
            }
        };
        if let Some(session) = self.desk.sessions.get_mut(&number) {
            session.inbox = inbox;
        }
        if let Err(reason) = handled {
            self.statistics.malformed += 1;
            tracing::warn!(program = number, reason, "ending the session of an attached program");
            self.end_program(number, poller);
        }
        self.desk.sessions.contains_key(&number)
    }

    fn program_says(&mut self, session: u32, head: &Head, body: &[u8]) -> Result<(), &'static str> {
        let place = (head.set, head.object);
        if !self.part.has(head.set, head.object) {
            return Err("a word about an object of another lane");
        }
        match head.word {
            Word::Want { kind, number } => self.program_wants(session, place, kind, number),
            Word::Cancel { number } => {
                self.program_cancels(session, place, number);
                Ok(())
            }
            Word::Put { version } => self.program_puts(session, place, version, body),
            Word::Returned { level, bytes } => self.program_returns(session, place, level, bytes, body),
            Word::Held => self.program_declines(session, place),
            _ => Err("a word that only a node says"),
        }
    }

    fn program_wants(
        &mut self,
        number: u32,
        place: Place,
        kind: RequestKind,
        wish_number: u64,
    ) -> Result<(), &'static str> {
        let (set, object) = place;
        let Some(session) = self.desk.sessions.get_mut(&number) else { return Ok(()) };
        // One that it had opened may be gone, and it has not heard of that yet: it is answered so.
        if !session.sets.contains(&set) && !self.destroyed.contains(set) {
            return Err("a wish for an object of a set that it has not opened");
        }
        if session.waits.contains_key(&place) {
            return Err("two wishes for one object");
        }
        let (outstanding, limit) = (session.waits.len(), WANTS);
        let overloaded = (outstanding >= limit || session.borrowed.len() >= LOANS)
            .then(|| AccessError::Overloaded { outstanding, limit }.into());
        let wish = Wish::Request(kind);
        let is_leaving = self.is_leaving();
        let leaves = is_leaving && self.owes_nothing(number);
        // What it needs to give back what it holds it is granted to the last.
        let is_in_force =
            |error: &Error| !is_leaving || !matches!(error, Error::Membership(MembershipError::NotSharing { .. }));
        let error = overloaded
            .or_else(|| leaves.then(|| MembershipError::Reattaching.into()))
            .or_else(|| self.refusal(set).filter(is_in_force))
            .or_else(|| self.refused_by_backlog(set, object, wish))
            .or_else(|| self.not_to_be_flushed_to(kind));
        if let Some(error) = error {
            self.answer_program(number, set, object, wish_number, Outcome::Failed(error));
            return Ok(());
        }
        // It had not heard of an earlier grant when it asked.
        if wish.level().is_some_and(|level| self.has_enough(number, place, level)) {
            self.grant_again(number, place, wish_number);
            return Ok(());
        }
        if let Some(session) = self.desk.sessions.get_mut(&number) {
            session.waits.insert(place, wish_number);
        }
        // One that has it to write, and removes it, does so before anybody else has it.
        let is_first = kind == RequestKind::Remove
            && self.desk.loan(number, place).is_some_and(|loan| loan.level == Access::Write);
        let waiter = Waiter { wish, asker: Asker::Program(number, wish_number) };
        if is_first {
            self.queue_first(set, object, waiter)
        } else {
            self.queue(set, object, waiter)
        }
        Ok(())
    }

    fn not_to_be_flushed_to(&self, kind: RequestKind) -> Option<Error> {
        let RequestKind::Flush { to } = kind else { return None };
        if !to.is_somebody() || to == self.core.id() {
            return None;
        }
        if !self.core.view().member(to).is_some_and(|member| member.state.can_share()) {
            return Some(not_a_member(to.0));
        }
        let is_reached = self.peers.get(&to).is_some_and(Peer::is_connected);
        (!is_reached).then(|| AccessError::Unreachable { node: to.0, limit_ms: 0, why: WhyUnreachable::Silent }.into())
    }

    fn program_cancels(&mut self, number: u32, place: Place, wish_number: u64) {
        let Some(session) = self.desk.sessions.get_mut(&number) else { return };
        // Otherwise the answer is on its way.
        if session.waits.get(&place) == Some(&wish_number) {
            session.waits.remove(&place);
            self.withdraw_program(number, place);
        }
    }

    fn withdraw_program(&mut self, number: u32, (set, object): Place) {
        self.program_waits_no_more_aside(number, set, object);
        let Some(local) = self.locals.get(&(set, object)) else { return };
        let is_its = |waiter: &Waiter| waiter.asker.session() == Some(number);
        if let Some(at) = local.waiters.iter().position(is_its) {
            self.withdraw(set, object, at);
        }
    }

    fn program_puts(
        &mut self,
        number: u32,
        (set, object): Place,
        version: u64,
        body: &[u8],
    ) -> Result<(), &'static str> {
        let store = self.stores.get(&set).cloned();
        let Some(loan) = self.desk.loan(number, (set, object)) else {
            // The set has been destroyed, and it has not heard of that yet.
            return if self.destroyed.contains(set) { Ok(()) } else { Err("a put of what it does not have") };
        };
        let (Some(hold), Some(store), Access::Write) = (&loan.hold, store, loan.level) else {
            return Err("a put of what it has not been lent to write");
        };
        let Some(cell) = store.find(object.0) else { return Err("a put of what is not here") };
        if version != store.version(cell).wrapping_add(1) {
            return Err("a put of a version that does not follow");
        }
        loan.is_first_touch = false;
        let is_undecodable = store.put_held(hold, version, body).is_err();
        self.statistics.undecodable += u64::from(is_undecodable);
        if set.replicas() == 0 {
            self.look_at_watchers(set, object);
            return Ok(());
        }
        // In a set that ends nobody else will have it.
        if self.destroyed.contains(set) {
            self.desk.say_safe(number, (set, object), version);
        } else {
            self.put_replicated(set, object, (version, body.to_vec()), By::Program(number));
        }
        Ok(())
    }

    fn program_returns(
        &mut self,
        number: u32,
        place: Place,
        level: Access,
        bytes: Bytes,
        body: &[u8],
    ) -> Result<(), &'static str> {
        let (set, object) = place;
        let store = self.stores.get(&set).cloned();
        let Some(loan) = self.desk.loan(number, place) else {
            return if self.destroyed.contains(set) { Ok(()) } else { Err("a return of what it does not have") };
        };
        let (asked, Some(store)) = (loan.asked, store) else { return Err("a return of what is not here") };
        let to = match asked {
            Some(Asked::GiveBack(to)) => to,
            Some(Asked::Try) => Access::None,
            None => return Err("a return of what it was not asked for"),
        };
        if level > to || level >= loan.level {
            return Err("a return that leaves more than it was asked for");
        }
        let cell = store.find_or_insert(object.0);
        let mut is_undecodable = false;
        if bytes == Bytes::Here {
            let Some(hold) = loan.hold.as_ref().filter(|_| loan.is_first_touch) else {
                return Err("a first value where there was one");
            };
            is_undecodable = store.put_held(hold, store.version(cell), body).is_err();
        }
        if level > Access::None && !store.has_value(cell) {
            return Err("a copy kept of what has no value");
        }
        self.statistics.undecodable += u64::from(is_undecodable);
        if !self.returns_later(number, place, level) {
            self.lower_loan(number, place, level);
            self.returned(set, object);
        }
        Ok(())
    }

    /// A program has no more of an object than that.
    pub fn lower_loan(&mut self, number: u32, place: Place, level: Access) {
        if level == Access::None {
            let loan = self.desk.take_loan(number, place);
            let _driver_is_here = loan.and_then(|loan| loan.hold).map(Hold::release);
        } else if let Some(loan) = self.desk.loan(number, place) {
            (loan.level, loan.is_first_touch, loan.asked) = (level, false, None);
            loan.hold = loan.hold.take().map(Hold::downgraded);
            self.note_use(number, place);
        }
    }

    fn program_declines(&mut self, number: u32, place: Place) -> Result<(), &'static str> {
        let Some(loan) = self.desk.loan(number, place) else {
            return if self.destroyed.contains(place.0) { Ok(()) } else { Err("it declines what it does not have") };
        };
        if loan.asked.take() != Some(Asked::Try) {
            return Err("it declines what it was not asked for");
        }
        loan.is_declined = true;
        self.returned(place.0, place.1);
        self.desk.end_trial(number, place);
        Ok(())
    }

    /// A program is gone, or is sent away: what it held is free, what it had put stays.
    fn end_program(&mut self, number: u32, poller: &Poller) {
        let Some(session) = self.desk.sessions.remove(&number) else { return };
        poller.remove(&*session.stream);
        session.stream.shutdown();
        self.statistics.detached += u64::from(self.part.is_first());
        self.statistics.frames_sent += session.outbox.frames;
        tracing::debug!(program = number, pid = session.pid, name = session.name, "a program is not attached any more");
        // One that has opened no set took part in nothing.
        if self.signals.parted.add(number, !session.sets.is_empty()) {
            self.send_on(Errand::HearOut { program: number });
        }
        for place in session.waits.into_keys() {
            self.withdraw_program(number, place);
        }
        for place in session.borrowed {
            let loan = self.desk.take_loan(number, place);
            self.release_after_put(number, place, loan.and_then(|loan| loan.hold));
            self.returned(place.0, place.1);
        }
    }

    /// All programs hear for how long they may use what they were lent.
    pub fn tell_programs_of_lease(&mut self, until_ns: u64) {
        let word = Word::Lease { until_ns };
        let all: Vec<u32> = self.desk.sessions.keys().copied().collect();
        for number in all {
            self.desk.say(number, (SetId::SYSTEM, ObjectId(0)), word);
        }
    }

    /// All programs hear that it is over, as far as their sockets take it.
    pub fn end_programs(&mut self, poller: &Poller) {
        let word = Word::Ended { is_fenced: self.fenced };
        let all: Vec<u32> = self.desk.sessions.keys().copied().collect();
        for number in all {
            self.desk.say(number, (SetId::SYSTEM, ObjectId(0)), word);
            if let Some(session) = self.desk.sessions.get_mut(&number) {
                session.outbox.write(&session.stream);
            }
            self.end_program(number, poller);
        }
    }

    /// Writes what programs are to hear; those that have taken enough are read and served again.
    pub fn write_programs(&mut self, poller: &Poller) {
        while let Some(number) = self.desk.dirty.pop() {
            let Some(session) = self.desk.sessions.get_mut(&number) else { continue };
            session.is_dirty = false;
            let ends_at = session.write(self.limits.program_takes_nothing);
            self.desk.look_again = self.desk.look_again.into_iter().chain(ends_at).min();
            if session.outbox.waiting_bytes() > ROOM_BYTES / 2 {
                continue;
            }
            if std::mem::take(&mut session.is_paused) {
                poller.tell_readable(&*session.stream, token_of(number), true);
            }
            for (set, object) in std::mem::take(&mut session.stalled) {
                self.run_own(set, object, None);
            }
        }
    }

    /// The name of a program that knows its secret.
    pub fn program_name(&self, number: u32, secret: u64) -> Option<String> {
        self.desk.sessions.get(&number).filter(|session| session.secret == secret).map(|session| session.name.clone())
    }

    /// A program has opened a set.
    pub fn program_opens(&mut self, number: u32, set: SetId) -> bool {
        self.desk.sessions.get_mut(&number).map(|session| session.sets.insert(set)).is_some()
    }

    /// Frames to programs that are attached now.
    pub fn frames_to_programs(&self) -> u64 {
        self.desk.sessions.values().map(|session| session.outbox.frames).sum()
    }

    /// The programs that are attached here.
    pub fn programs(&self) -> Vec<ProgramInfo> {
        let mut written: HashMap<u32, usize> = HashMap::new();
        let mut asked: HashMap<u32, usize> = HashMap::new();
        for loan in self.desk.loans.values().flatten() {
            *written.entry(loan.session).or_default() += usize::from(loan.level == Access::Write);
            *asked.entry(loan.session).or_default() += usize::from(loan.asked.is_some());
        }
        let info = |(number, session): (&u32, &Session)| ProgramInfo {
            session: *number,
            pid: session.pid,
            name: session.name.clone(),
            lent: session.borrowed.len(),
            lent_to_write: written.get(number).copied().unwrap_or(0),
            asked_back: asked.get(number).copied().unwrap_or(0),
            waiting: session.waits.len(),
        };
        self.desk.sessions.iter().map(info).collect()
    }
}
