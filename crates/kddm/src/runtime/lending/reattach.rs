//! A program whose node is gone attaches again when it is back. Its handles and sets work again then, if the
//! sets still exist: all copies are gone, and guards from before keep what they show and can put nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{NodeId, ObjectId, SetId};
use kddm_core::io::Access;
use kddm_core::node::Node as Core;
use kddm_view::State;

use super::Place;
use super::attach::{Lender, Pass, be_let_in, known};
use super::clock::Reading;
use super::door::{Question, Told};
use super::link::Link;
use super::views;
use crate::cell::{Lease, RevokeResult};
use crate::error::{Error, MembershipError, SetError};
use crate::runtime::Runtime;
use crate::runtime::join::identity_of;
use crate::runtime::lane::LaneState;
use crate::runtime::wait::Outcome;
use crate::system::Wanted;
use crate::transport::{Poller, Stream};

/// How long a program tries to attach again: some times what a daemon takes to hand over all that it has
/// (60 s), to start, and to join its cluster.
const REATTACH_LIMIT: Duration = Duration::from_secs(180);

/// Pauses between two attempts: twice as long each time, so that a daemon that is late is not kept busy.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long the node may take to find one of the sets again.
const REOPEN_LIMIT: Duration = Duration::from_secs(5);

/// Why this program is not attached again.
enum Trouble {
    /// It may be later.
    NotYet(Error),
    /// What is there now is not what it was attached to.
    ForGood(&'static str),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::NotYet(error)
    }
}

impl Runtime {
    /// That set was opened here.
    pub fn note_opened(&self, set: SetId, wanted: &Wanted) {
        if let Some(link) = &mut self.lanes[0].lock().link {
            link.opened.insert(set, wanted.clone());
        }
    }

    /// The thread that attaches this program again, until it stops or that is of no use.
    pub(super) fn keep_attached(self: &Arc<Self>) {
        let Some(lender) = &self.lender else { return };
        // Looked at before each wait, too: the signal of a stop may have ended a pause between two attempts.
        while !self.is_stopping() {
            self.signals.links.wait();
            if self.is_stopping() {
                return;
            }
            if self.lanes.iter().any(|lane| lane.lock().fenced) {
                return self.lease_is_over("another of its lanes has fenced itself");
            }
            if !self.lanes.iter().any(|lane| lane.lock().is_detached()) {
                continue;
            }
            tracing::info!(socket = %lender.socket.display(), "the daemon is gone: attaching again");
            self.let_lender_go();
            self.rpc.end_connections("the daemon of this program is gone");
            if !self.attach_again(lender) {
                return self.give_up();
            }
            self.offer_again(lender);
        }
    }

    /// All or nothing: what one lane knows of the node is worth nothing without the others.
    fn let_lender_go(&self) {
        for lane in &self.lanes {
            let mut state = lane.lock();
            state.let_lender_go(&lane.poller);
            lane.finish(state);
        }
        // Nothing that the node had lent is used any more, so that its lease may end.
        self.lease.set_deadline_unless_ended(Lease::NOT_NEEDED);
    }

    /// Tries until it succeeds, or the limit is over. False: it is of no use.
    fn attach_again(&self, lender: &Lender) -> bool {
        let deadline = Instant::now() + REATTACH_LIMIT;
        let mut pause = FIRST_PAUSE;
        while !self.is_stopping() {
            match self.try_to_attach(lender) {
                Ok(()) => return true,
                Err(Trouble::ForGood(reason)) => {
                    tracing::warn!(reason, "this program does not attach again");
                    return false;
                }
                Err(Trouble::NotYet(error)) if Instant::now() >= deadline => {
                    tracing::warn!(%error, limit = ?REATTACH_LIMIT, "this program has tried in vain to attach again");
                    return false;
                }
                Err(Trouble::NotYet(error)) => tracing::debug!(%error, "not attached again yet"),
            }
            self.signals.links.wait_for(pause);
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
        true
    }

    fn try_to_attach(&self, lender: &Lender) -> Result<(), Trouble> {
        let (welcome, reading, streams) = be_let_in(&lender.socket)?;
        let Ok(state) = State::decode(&welcome.state) else {
            return Err(Trouble::ForGood("it speaks another language"));
        };
        let identity = identity_of(&state, NodeId(welcome.node))?;
        if state.identity() != self.identity.cluster {
            return Err(Trouble::ForGood("the daemon is in another cluster now"));
        }
        if identity.id != self.identity.id {
            return Err(Trouble::ForGood("it is another node of the cluster now"));
        }
        if streams.len() != self.lanes.len() {
            return Err(Trouble::ForGood("the daemon has another number of lanes now: start this program again"));
        }
        let Ok(view) = views::decode(&welcome.view) else { return Err(Trouble::ForGood("it speaks another language")) };
        // Before what its new life says.
        self.notify.installed(view);
        let incarnation = identity.incarnation;
        *lender.pass.lock() = Pass { session: welcome.session, secret: welcome.secret, incarnation };
        *lender.members.lock() = known(&state, identity.id);
        let opened = self.lanes[0].lock().link.as_ref().map(|link| link.opened.clone()).unwrap_or_default();
        let living = still_there(lender, opened)?;
        self.lease.set_deadline_unless_ended(reading.here_ns(welcome.lease_until_ns));
        for ((number, lane), stream) in (0..).zip(&self.lanes).zip(streams) {
            let mut state = lane.lock();
            let core = Core::new(identity.id, incarnation, number);
            let attached = state.attach_again(stream, reading, core, &living, &lane.poller);
            lane.finish(state);
            if let Err(error) = attached {
                // Also those lanes that are attached again: whoever asked there would be forgotten by the next attempt.
                self.let_lender_go();
                tracing::warn!(%error, lane = number, "a connection to the daemon could not be used: trying again");
                return Err(Trouble::NotYet(MembershipError::Reattaching.into()));
            }
        }
        for lane in &self.lanes {
            let mut state = lane.lock();
            state.lender_is_back(|| Outcome::Again);
            lane.finish(state);
        }
        tracing::info!(sets = living.len(), "attached again");
        Ok(())
    }

    /// What this program serves is served again. The node may not know yet that its earlier connection has ended.
    fn offer_again(self: &Arc<Self>, lender: &Lender) {
        let deadline = Instant::now() + REOPEN_LIMIT;
        for name in self.rpc.service_names() {
            loop {
                match self.offer(&name) {
                    Ok(()) => break,
                    Err(error) if self.is_stopping() || Instant::now() >= deadline => {
                        let socket = lender.socket.display();
                        tracing::warn!(%error, service = &*name, %socket, "a service is not offered again");
                        break;
                    }
                    // Not by the signal: it may tell that the daemon is gone again.
                    Err(_) => std::thread::park_timeout(FIRST_PAUSE),
                }
            }
        }
    }

    fn give_up(&self) {
        for lane in &self.lanes {
            let mut state = lane.lock();
            if let Some(link) = &mut state.link {
                link.is_given_up = true;
            }
            state.lender_is_back(|| Outcome::Failed(MembershipError::Detached.into()));
            lane.finish(state);
        }
    }
}

/// The sets that are still the same at the node.
fn still_there(lender: &Lender, opened: HashMap<SetId, Wanted>) -> Result<HashMap<SetId, Wanted>, Error> {
    let mut living = HashMap::new();
    for (set, wanted) in opened {
        let question = Question::Open(Wanted { create: false, ..wanted.clone() });
        match lender.ask_within(question, REOPEN_LIMIT) {
            Ok(Told::Set(found)) if SetId(found.set) == set => _ = living.insert(set, wanted),
            // Another one has its name now, or it is gone.
            Ok(_)
            | Err(Error::Set(SetError::Unknown { .. } | SetError::Destroyed | SetError::SettingsDiffer { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(living)
}

impl Link {
    /// Whether the node still lends what a guard of that object had.
    pub(super) fn still_lends(&self, place: Place) -> bool {
        self.borrowed.contains_key(&place) && !self.stale.contains(&place)
    }
}

impl LaneState {
    /// The node has ended the connection, or is gone.
    fn is_detached(&self) -> bool {
        !self.stopped && self.link.as_ref().is_some_and(|link| link.is_ended)
    }

    /// The node is back. Nothing of what it had lent before is known to it: only guards keep that.
    fn attach_again(
        &mut self,
        stream: Stream,
        reading: Reading,
        core: Core,
        living: &HashMap<SetId, Wanted>,
        poller: &Poller,
    ) -> std::io::Result<()> {
        let Some(old) = self.link.as_ref().filter(|_| !self.stopped && !self.fenced) else { return Ok(()) };
        #[cfg(test)]
        self.fails_to_attach.take().map_or(Ok(()), |fail| Err(fail()))?;
        let mut link = Box::new(Link::new(stream, poller, Arc::clone(&old.notify), reading)?);
        link.numbered = old.numbered;
        link.opened.clone_from(living);
        link.away.is_waited_for_by(&old.away);
        let sets: Vec<SetId> = self.stores.keys().copied().collect();
        // What they were asked for, and what they waited for, went with the connection.
        self.locals.clear();
        for set in sets {
            if living.contains_key(&set) {
                link.stale.extend(self.let_go(set));
            } else {
                self.end_set(set);
            }
        }
        (self.link, self.core) = (Some(link), core);
        self.statistics.reconnects += u64::from(self.part.is_first());
        Ok(())
    }

    /// Forgets all copies of a set but those that guards hold; these are told.
    fn let_go(&self, set: SetId) -> HashSet<Place> {
        let Some(store) = self.stores.get(&set) else { return HashSet::new() };
        let mut held = HashSet::new();
        for (object, cell) in self.own_cells(set) {
            store.set_waiters(cell, false);
            match store.revoke(cell, Access::None) {
                RevokeResult::Held => _ = held.insert((set, ObjectId(object))),
                RevokeResult::Done { .. } => _ = store.discard(cell),
            }
        }
        store.end_detachment();
        held
    }

    /// Whether a guard from before still holds the object: nothing is begun with it until that one has gone.
    pub fn is_held_from_before(&mut self, set: SetId, object: ObjectId) -> bool {
        let Some(link) = self.link.as_mut().filter(|link| link.stale.contains(&(set, object))) else { return false };
        let found = self.stores.get(&set).and_then(|store| Some((store, store.find(object.0)?)));
        if let Some((store, cell)) = found {
            if store.revoke(cell, Access::None) == RevokeResult::Held {
                return true;
            }
            store.discard(cell);
        }
        link.stale.remove(&(set, object));
        false
    }

    /// What is wrong with the hold of a guard whose object the node does not lend any more.
    pub fn hold_is_of_before(&self, set: SetId, object: ObjectId) -> Option<Error> {
        let link = self.link.as_ref()?;
        (link.is_ended || !link.still_lends((set, object))).then(|| MembershipError::Detached.into())
    }
}
