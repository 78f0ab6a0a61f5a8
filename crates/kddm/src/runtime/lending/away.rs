//! A program whose node is gone, or about to go, and is expected back: who asks for an object waits for that, up to
//! the limit of the wait, and nothing is said to have failed. What may have happened at the node already is not asked
//! for again.

use std::sync::Arc;

use kddm_core::id::SetId;
use kddm_core::message::RequestKind;

use super::Place;
use super::link::Link;
use crate::error::{Error, MembershipError};
use crate::runtime::lane::LaneState;
use crate::runtime::local::{Asker, Waiter, Wish};
use crate::runtime::wait::{Op, Outcome};

/// How often a wish is sent again at once to a node that is about to leave, while this program holds something: the
/// node has asked that back by then, and grants what its holder needs first.
const REPEATS: u8 = 200;

/// See the module.
#[derive(Default)]
pub(crate) struct Away {
    /// The node has said that it is about to leave.
    is_leaving: bool,
    waiting: Vec<Arc<Op>>,
}

impl Away {
    /// The next attachment goes on with those who wait.
    pub fn is_waited_for_by(&mut self, before: &Away) {
        self.waiting.clone_from(&before.waiting);
    }
}

/// Whether the node may have done something of a wish that it does not answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    No,
    Perhaps,
}

/// How a wish goes on.
#[derive(Clone, Copy)]
enum Later {
    /// It is sent again now.
    AtOnce,
    /// When the node is back.
    WhenBack,
}

impl Link {
    fn is_missing(&self) -> bool {
        !self.is_given_up && (self.is_ended || self.away.is_leaving)
    }
}

impl LaneState {
    /// Why nothing comes of a wait, if the node is expected back.
    pub fn lender_is_away(&self) -> Option<Error> {
        let link = self.link.as_ref().filter(|link| link.is_missing() && !self.fenced && !self.stopped)?;
        Some(if link.is_ended { link.is_missed() } else { MembershipError::Reattaching }.into())
    }

    /// Whether a wish of this program is not even sent now.
    pub fn can_wait_for_lender(&self, set: SetId, wish: Wish) -> bool {
        let Some(link) = self.link.as_ref().filter(|link| link.is_missing()) else { return false };
        let is_alive = !self.fenced && !self.stopped && !self.destroyed.contains(set);
        let has_room = link.away.waiting.len() < self.limits.outstanding;
        is_alive && has_room && !wish.is_try() && (link.is_ended || !self.holds_anything(link))
    }

    /// Whether a guard of this program has anything that the node has lent.
    fn holds_anything(&self, link: &Link) -> bool {
        link.borrowed.keys().any(|(set, object)| {
            let store = self.stores.get(set);
            store.is_some_and(|store| store.find(object.0).is_some_and(|cell| store.is_held(cell)))
        })
    }

    /// Whoever waits is told when the node is back.
    pub fn wait_for_lender(&mut self, op: Arc<Op>) {
        if let Some(link) = &mut self.link {
            link.away.waiting.push(op);
        }
    }

    /// That one has given up.
    pub fn waits_for_lender_no_more(&mut self, op: &Arc<Op>) {
        if let Some(link) = &mut self.link {
            link.away.waiting.retain(|waiting| !Arc::ptr_eq(waiting, op));
        }
    }

    /// Those who wait for the node are told how that has ended.
    pub fn lender_is_back(&mut self, outcome: impl Fn() -> Outcome) {
        let waiting = self.link.as_mut().map(|link| std::mem::take(&mut link.away.waiting)).unwrap_or_default();
        for op in waiting {
            self.complete(&op, outcome());
        }
    }

    /// The node is on its way out and has refused the first wish for that object. A program that holds something may
    /// need this one to give it back.
    pub(super) fn lender_leaves(&mut self, (set, object): Place, begun: Begun) {
        let holds = self.link.as_ref().is_some_and(|link| self.holds_anything(link));
        let local = self.local(set, object);
        local.outstanding = false;
        let first = if std::mem::take(&mut local.is_cancelling) { None } else { local.waiters.pop_front() };
        if let Some(waiter) = first {
            let is_repeated = matches!(&waiter.asker, Asker::Thread(op) if holds && op.repeats() < REPEATS);
            if let Some(link) = &mut self.link {
                link.away.is_leaving |= !is_repeated;
            }
            let later = if is_repeated { Later::AtOnce } else { Later::WhenBack };
            self.ask_later((set, object), waiter, later, (begun, &MembershipError::Detached.into()));
        }
        self.run_own(set, object, None);
    }

    /// The connection is gone: what was wanted is wanted again when the node is back, but what it may have done.
    pub(super) fn end_waits_for_lender(&mut self, error: &Error) {
        self.cut_puts_short(None);
        let mut all = Vec::new();
        for ((set, object), local) in &mut self.locals {
            all.extend(local.waiters.drain(..).map(|waiter| (*set, *object, waiter)));
        }
        for (set, object, waiter) in all {
            self.ask_later((set, object), waiter, Later::WhenBack, (Begun::Perhaps, error));
        }
    }

    /// `error`: what whoever asked hears if the wish may have been done, and cannot be done twice.
    fn ask_later(&mut self, (set, object): Place, waiter: Waiter, later: Later, (begun, error): (Begun, &Error)) {
        let is_remove = waiter.wish.kind() == RequestKind::Remove;
        let outcome = match (&waiter.asker, later) {
            _ if is_remove && begun == Begun::Perhaps => Outcome::Failed(error.clone()),
            // Whoever only tries does not wait.
            _ if waiter.wish.is_try() => Outcome::Failed(MembershipError::Reattaching.into()),
            (Asker::Thread(op), Later::WhenBack) => {
                self.outstanding -= 1;
                return self.wait_for_lender(Arc::clone(op));
            }
            _ => Outcome::Again,
        };
        self.end_wait(set, object, waiter, outcome);
    }
}
