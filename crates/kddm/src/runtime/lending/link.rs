//! The node that lends, as an attached program's lane sees it: in the place of the core.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::ErrorKind;
use std::sync::Arc;

use kddm_core::id::{NodeId, ObjectId, SetId};
use kddm_core::io::{Access, Input, Output};

use super::Place;
use super::away::{Away, Begun};
use super::clock::Reading;
use super::failure::Failure;
use super::frame::{Bytes, Ending, Head, Word};
use super::pipe::{Inbox, Outbox};
use super::putting::UnsafePut;
use crate::cell::Ended;
use crate::error::{AccessError, Error, MembershipError, SetError};
use crate::runtime::lane::{Lane, LaneState};
use crate::runtime::notify::Notify;
use crate::runtime::wait::{Op, Outcome};
use crate::system::Wanted;
use crate::transport::{Event, Poller, Stream};

/// The token of the node's socket in the poller: above all nodes and programs.
pub(crate) const LENDER: u64 = 1 << 40;

/// An object that the node has lent.
#[derive(Clone, Copy)]
pub(super) struct Borrowed {
    tenure: u64,
    /// The node has no value of it: the first one must come back with it.
    pub(super) is_first_touch: bool,
}

/// See the module.
pub(crate) struct Link {
    stream: Arc<Stream>,
    /// Hears of the views that the node has installed.
    pub(super) notify: Arc<Notify>,
    /// How the node's deadlines are read here.
    reading: Reading,
    inbox: Inbox,
    pub(super) outbox: Outbox,
    pub(super) borrowed: HashMap<Place, Borrowed>,
    /// Wishes without an answer, by their numbers.
    wants: HashMap<Place, u64>,
    pub(super) numbered: u64,
    /// Puts that the socket has not taken, by the mark of their last byte.
    pub(super) puts: VecDeque<(u64, Arc<Op>)>,
    /// Puts that wait for their replicas, by the version that was put.
    pub(super) unsafe_puts: HashMap<Place, Vec<UnsafePut>>,
    /// Sets that are being destroyed: nothing is begun in them, and what is held may still be put.
    ending: HashSet<SetId>,
    /// Sets that were opened here, and how: they are opened again when the node is back.
    pub(super) opened: HashMap<SetId, Wanted>,
    /// Objects that guards of an earlier attachment still hold: nothing is begun with them.
    pub(super) stale: HashSet<Place>,
    pub(super) is_ended: bool,
    /// Those who ask while the node is gone, or about to go.
    pub(super) away: Away,
    /// This program does not attach again.
    pub(super) is_given_up: bool,
}

impl Link {
    /// # Errors
    /// The system's.
    pub fn new(stream: Stream, poller: &Poller, notify: Arc<Notify>, reading: Reading) -> std::io::Result<Link> {
        stream.set_limit(None)?;
        stream.set_nonblocking(true)?;
        poller.add(&stream, LENDER)?;
        Ok(Link {
            stream: Arc::new(stream),
            notify,
            reading,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            borrowed: HashMap::new(),
            wants: HashMap::new(),
            numbered: 0,
            puts: VecDeque::new(),
            unsafe_puts: HashMap::default(),
            ending: HashSet::new(),
            opened: HashMap::new(),
            stale: HashSet::new(),
            is_ended: false,
            away: Away::default(),
            is_given_up: false,
        })
    }

    /// Why nothing is begun in a set, if that is so.
    pub fn refusal(&self, set: SetId) -> Option<Error> {
        if self.is_ended {
            return Some(self.is_missed().into());
        }
        self.ending.contains(&set).then(|| SetError::Destroyed.into())
    }

    /// Why the node does not answer.
    pub(super) fn is_missed(&self) -> MembershipError {
        if self.is_given_up { MembershipError::Detached } else { MembershipError::Reattaching }
    }

    /// As if the node were gone, and nobody had heard of it.
    #[cfg(test)]
    pub fn cut(&mut self) {
        self.outbox.cut();
    }

    /// The connection ends, and both sides see that.
    #[cfg(test)]
    pub fn hang_up(&self) {
        self.stream.shutdown();
    }

    /// Objects, wishes and puts that this link knows of.
    #[cfg(test)]
    pub fn books(&self) -> usize {
        self.borrowed.len() + self.wants.len() + self.puts.len() + self.unsafe_puts.len()
    }

    /// Sets whose end has begun and is not over.
    #[cfg(test)]
    pub fn sets_ending(&self) -> usize {
        self.ending.len()
    }

    pub(super) fn say(&mut self, (set, object): Place, word: Word, body: &[u8]) {
        self.outbox.push(Head { set, object, word, body_bytes: 0 }, body);
    }

    fn is_done_with(&self, number: u64, place: Place) -> bool {
        self.wants.get(&place) != Some(&number)
    }
}

impl Lane {
    pub fn lender_socket(&self, event: Event) {
        let mut state = self.lock();
        if event.readable {
            state.read_lender(event.ended, &self.poller);
        }
        // Whatever can be written is written at the end of each turn.
        self.finish(state);
    }
}

impl LaneState {
    /// What the core would be told goes to the node.
    pub fn tell_lender(&mut self, set: SetId, object: ObjectId, input: &Input) {
        let place = (set, object);
        let Some(link) = &mut self.link else { return };
        match input {
            Input::Want { kind } => {
                link.numbered += 1;
                let number = link.numbered;
                link.wants.insert(place, number);
                link.say(place, Word::Want { kind: *kind, number }, &[]);
            }
            Input::Cancel => {
                if let Some(number) = link.wants.remove(&place) {
                    link.say(place, Word::Cancel { number }, &[]);
                }
            }
            Input::Revoked { has_value, .. } => self.give_back(place, *has_value),
            Input::Held => link.say(place, Word::Held, &[]),
            // A program puts by the words of its own, and nobody else speaks to it.
            Input::Message { .. } | Input::Put { .. } | Input::AcceptLoss => {}
            // A program evicts nothing.
            Input::RemoveUnused { .. } => {}
        }
    }

    /// No local thread uses more than what is asked back. A first value goes with it.
    fn give_back(&mut self, place: Place, has_value: bool) {
        let (set, object) = place;
        let local = self.local(set, object);
        let asked = if local.is_trying { Access::None } else { local.revoking.unwrap_or(Access::None) };
        let store = self.store(set);
        let cell = store.find_or_insert(object.0);
        // A first touch that was not made yet is given up: there is no copy to keep, and nobody holds it.
        let level = if has_value { asked } else { Access::None };
        if level < asked {
            let _nobody_reads_what_has_no_value = store.revoke(cell, level);
        }
        let Some(link) = &mut self.link else { return };
        let is_first = link.borrowed.get(&place).is_some_and(|borrowed| borrowed.is_first_touch);
        let bytes = match (has_value, is_first) {
            (false, _) => Bytes::NoValue,
            (true, false) => Bytes::Known,
            (true, true) => Bytes::Here,
        };
        let mut encoded = Ok(true);
        let head = Head { set, object, word: Word::Returned { level, bytes }, body_bytes: 0 };
        link.outbox.push_with(head, |body| {
            if bytes == Bytes::Here {
                encoded = store.encode(cell, body);
            }
        });
        if level == Access::None {
            link.borrowed.remove(&place);
            store.discard(cell);
        } else if let Some(borrowed) = link.borrowed.get_mut(&place) {
            borrowed.is_first_touch = false;
        }
        self.statistics.undecodable += u64::from(encoded.is_err());
    }

    pub fn write_lender(&mut self) {
        let Some(link) = &mut self.link else { return };
        if link.outbox.waiting_bytes() == 0 {
            return;
        }
        link.outbox.write(&link.stream);
        let written = link.outbox.written();
        while let Some(link) = &mut self.link
            && link.puts.front().is_some_and(|(mark, _)| *mark <= written)
            && let Some((_, op)) = link.puts.pop_front()
        {
            self.complete(&op, Outcome::Done);
        }
    }

    /// Reads until nothing is left, handling each frame as soon as it is whole.
    fn read_lender(&mut self, ended: bool, poller: &Poller) {
        loop {
            let Some(link) = self.link.as_mut().filter(|link| !link.is_ended) else { return };
            match link.inbox.read(&link.stream) {
                Ok((0, _)) => return self.detach(poller),
                Ok((_, has_more)) => {
                    if !self.handle_lender(poller) || !(has_more || ended) {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.detach(poller),
            }
        }
    }

    /// False: do not read on.
    fn handle_lender(&mut self, poller: &Poller) -> bool {
        let Some(link) = &mut self.link else { return false };
        let mut inbox = std::mem::take(&mut link.inbox);
        // What others have put is always taken.
        let limit_bytes = crate::options::MOST_OBJECT_LIMIT_BYTES;
        let mut goes_on = true;
        while goes_on {
            match inbox.next(limit_bytes) {
                Ok(None) => break,
                Ok(Some((head, body))) => {
                    self.statistics.frames_received += 1;
                    goes_on = self.lender_says(&head, inbox.body(body), poller);
                }
                Err(reason) => {
                    self.statistics.malformed += 1;
                    tracing::warn!(reason, "the daemon says what cannot be meant: detaching");
                    self.detach(poller);
                    goes_on = false;
                }
            }
        }
        if let Some(link) = &mut self.link {
            link.inbox = inbox;
        }
        goes_on
    }

    fn lender_says(&mut self, head: &Head, body: &[u8], poller: &Poller) -> bool {
        let (set, object) = (head.set, head.object);
        let is_of_all = matches!(
            head.word,
            Word::SetEnding | Word::SetEnded | Word::View | Word::Lease { .. } | Word::Ended { .. }
        );
        if !is_of_all && !self.part.has(set, object) {
            self.statistics.malformed += 1;
            tracing::warn!("the daemon says something of an object of another lane: detaching");
            self.detach(poller);
            return false;
        }
        match head.word {
            Word::Granted { level, bytes, number, version, tenure } => {
                self.granted((set, object), level, (bytes, body), number, (version, tenure));
            }
            Word::Answer { number, ending } => self.wish_ended((set, object), number, ending, body),
            Word::GiveBack { to } => self.lender_does(set, Output::Revoke { object, to }),
            Word::TryGiveBack => self.lender_does(set, Output::TryRevoke { object }),
            Word::SetEnding => {
                if let Some(link) = &mut self.link {
                    link.ending.insert(set);
                }
                self.fail_waiters(Some(set), &SetError::Destroyed.into());
            }
            Word::SetEnded => {
                self.end_set(set);
                self.cut_unsafe_puts_short(set);
                if let Some(link) = &mut self.link {
                    link.ending.remove(&set);
                    link.opened.remove(&set);
                    link.borrowed.retain(|(of, _), _| *of != set);
                    link.wants.retain(|(of, _), _| *of != set);
                }
            }
            Word::Safe { version } => self.puts_are_safe((set, object), version),
            Word::View => {
                if let Err(reason) = self.lender_installed(body) {
                    self.statistics.malformed += 1;
                    tracing::warn!(reason, "the daemon says what cannot be meant: detaching");
                    self.detach(poller);
                    return false;
                }
            }
            Word::Lease { until_ns } => {
                let reading = self.link.as_ref().map(|link| link.reading).unwrap_or_default();
                self.lease.set_deadline_unless_ended(reading.here_ns(until_ns));
            }
            Word::Ended { is_fenced } => {
                if is_fenced {
                    self.fence("the node that it is attached to has fenced itself");
                }
                self.detach(poller);
                return false;
            }
            _ => {
                self.statistics.malformed += 1;
                tracing::warn!("the daemon says what only a program says: detaching");
                self.detach(poller);
                return false;
            }
        }
        true
    }

    /// As if the core had said it.
    fn lender_does(&mut self, set: SetId, output: Output) {
        let object = match output {
            Output::Revoke { object, .. } | Output::TryRevoke { object } | Output::Granted { object, .. } => object,
            _ => return,
        };
        if self.destroyed.contains(set) {
            return;
        }
        let mut todo = VecDeque::new();
        self.act(set, output, &mut None, &mut todo);
        let _only_messages_are_refused = self.go_on(set, object, &mut None, &mut todo);
    }

    fn granted(
        &mut self,
        place: Place,
        access: Access,
        (bytes, body): (Bytes, &[u8]),
        number: u64,
        (version, tenure): (u64, u64),
    ) {
        let (set, object) = place;
        if self.destroyed.contains(set) {
            return;
        }
        let store = self.store(set);
        let cell = store.find_or_insert(object.0);
        let Some(link) = &mut self.link else { return };
        let answers = !link.is_done_with(number, place);
        if answers {
            link.wants.remove(&place);
        }
        let was_first_touch = link.borrowed.get(&place).is_some_and(|borrowed| borrowed.is_first_touch);
        let is_first_touch = bytes == Bytes::NoValue || (bytes == Bytes::Known && was_first_touch);
        link.borrowed.insert(place, Borrowed { tenure, is_first_touch });
        let value = match bytes {
            Bytes::Known => None,
            Bytes::Here => Some(Some(Cow::Borrowed(body))),
            Bytes::NoValue => Some(None),
        };
        if let Some(value) = value {
            self.statistics.installs += 1;
            self.statistics.undecodable += u64::from(store.install_bytes(cell, version, value).is_err());
        }
        self.lender_does(set, Output::Granted { object, access, needs_value: is_first_touch, answers });
    }

    fn wish_ended(&mut self, place: Place, number: u64, ending: Ending, body: &[u8]) {
        let (set, object) = place;
        let Some(link) = &mut self.link else { return };
        if link.is_done_with(number, place) {
            return; // Whoever asked has given up meanwhile.
        }
        link.wants.remove(&place);
        let outcome = match ending {
            Ending::Done => Outcome::Done,
            Ending::NotFound => Outcome::Failed(AccessError::NotFound.into()),
            Ending::Busy => Outcome::Failed(AccessError::Busy.into()),
            Ending::Lost => Outcome::Failed(self.is_lost(set, object)),
            Ending::Failed => match Failure::decode(body) {
                Failure::Leaving => return self.lender_leaves(place, Begun::No),
                Failure::Stopped => return self.lender_leaves(place, Begun::Perhaps),
                failure => Outcome::Failed(failure.error()),
            },
        };
        self.answered(set, object, outcome);
        self.run_own(set, object, None);
    }

    /// The node is gone, or has sent this program away: nothing that is here is used any more, in no lane.
    pub fn detach(&mut self, poller: &Poller) {
        if self.let_lender_go(poller) {
            self.signals.links.raise();
        }
    }

    /// As [`Self::detach`], by who does so in all lanes. False if it was done before.
    pub fn let_lender_go(&mut self, poller: &Poller) -> bool {
        let Some(link) = self.link.as_mut().filter(|link| !link.is_ended) else { return false };
        link.is_ended = true;
        poller.remove(&*link.stream);
        link.stream.shutdown();
        link.outbox.cut();
        let puts = std::mem::take(&mut link.puts);
        let taken = std::mem::take(&mut link.unsafe_puts);
        let ended = if self.stopped { MembershipError::Stopped } else { MembershipError::Detached };
        let error: Error = ended.into();
        self.close_stores();
        for store in self.stores.values() {
            if !self.fenced && !self.stopped {
                store.end(Ended::Detached);
            }
        }
        if self.fenced || self.stopped {
            self.fail_waiters(None, &error);
        } else {
            self.end_waits_for_lender(&error);
        }
        for (_, op) in puts {
            self.complete(&op, Outcome::Failed(error.clone()));
        }
        // The node has these, and nobody says any more whether their replicas do.
        self.end_all(taken);
        true
    }

    /// This program ends its attachment: the node sees that, and takes back what it has lent.
    pub fn end_link(&mut self, poller: &Poller) {
        self.write_lender();
        self.detach(poller);
    }

    /// The tenure under which the node has an object that it has lent.
    pub fn borrowed_tenure(&self, set: SetId, object: ObjectId) -> Option<u64> {
        self.link.as_ref()?.borrowed.get(&(set, object)).map(|borrowed| borrowed.tenure)
    }

    /// The node, if it was asked for an object and has not answered.
    pub fn asked_lender(&self, set: SetId, object: ObjectId) -> Option<NodeId> {
        let link = self.link.as_ref()?;
        link.wants.contains_key(&(set, object)).then(|| self.core.id())
    }

    /// Frames to the node so far.
    pub fn frames_to_lender(&self) -> u64 {
        self.link.as_ref().map_or(0, |link| link.outbox.frames)
    }

    /// Bytes that the node has not taken.
    pub fn unsent_bytes(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.outbox.waiting_bytes())
    }
}
