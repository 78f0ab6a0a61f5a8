//! What came for a service that is not registered yet: it waits for it here, for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::frame::Fault;
use super::relay::Forward;
use super::service::{Incoming, ReplyTo};
use super::state::{Offered, State, Todo};

/// How long a call waits for its service: nodes that start together register within that. At most for half of its
/// limit, so that its caller hears why.
pub(crate) const SERVICE_WAIT: Duration = Duration::from_secs(1);

/// Calls, casts and streams that may wait for services.
pub(crate) const EARLY_LIMIT: usize = 1024;

/// Bytes of their questions.
pub(crate) const EARLY_LIMIT_BYTES: usize = 64 << 20;

/// What waits for its service.
pub(super) struct Early {
    service: Arc<str>,
    incoming: Incoming,
    /// As which node it is asked, if a program of this one serves.
    node: u16,
    until: Instant,
}

impl State {
    /// It waits, or is refused.
    pub(super) fn take_early(&mut self, service: Arc<str>, incoming: Incoming, node: u16, todo: &mut Vec<Todo>) {
        let held: usize = self.early.iter().map(|early| early.incoming.body.len()).sum();
        if incoming.manner.at_once {
            return todo.push(Todo::Answer(incoming.reply_to, Err((Fault::NoService, String::new()))));
        }
        if self.early.len() >= EARLY_LIMIT || held + incoming.body.len() > EARLY_LIMIT_BYTES {
            let what = format!("{} calls with {held} bytes wait for services there", self.early.len());
            return todo.push(Todo::Answer(incoming.reply_to, Err((Fault::Overloaded, what))));
        }
        let now = Instant::now();
        let until = now + SERVICE_WAIT.min(incoming.deadline.saturating_duration_since(now) / 2);
        if let Some(poller) = &self.poller {
            poller.arm_at(until);
        }
        self.counts.queued += 1;
        self.early.push_back(Early { service, incoming, node, until });
    }

    /// Those that have waited for a service that is there now.
    pub(super) fn no_longer_early(&mut self, service: &str) -> Vec<Todo> {
        let is_served = |early: &Early| *early.service == *service;
        let (served, left): (Vec<_>, Vec<_>) = self.early.drain(..).partition(is_served);
        self.early = left.into();
        let serve = |early: Early| {
            let Early { service, incoming, node, .. } = early;
            match self.services.get(&service)? {
                Offered::Here(registered) => Some(Todo::Serve(Arc::clone(registered), incoming)),
                Offered::By(session) => {
                    Some(Todo::Forward(Forward { incoming, service, program: Some(*session), node, passed: None }))
                }
            }
        };
        served.into_iter().filter_map(serve).collect()
    }

    /// Nobody waits for those any more. Whether there were any.
    pub(super) fn forget_early(&mut self, is_of: impl Fn(&ReplyTo) -> bool) -> bool {
        let before = self.early.len();
        self.early.retain(|early| !is_of(&early.incoming.reply_to));
        before != self.early.len()
    }
}

impl Engine {
    /// Those that have waited long enough are told that there is no such service.
    pub(super) fn end_waits_for_services(&self) {
        let mut state = self.state.lock();
        let now = Instant::now();
        let (late, left): (Vec<_>, Vec<_>) = state.early.drain(..).partition(|early| early.until <= now);
        state.early = left.into();
        if let (Some(next), Some(poller)) = (state.early.iter().map(|early| early.until).min(), &state.poller) {
            poller.arm_at(next);
        }
        drop(state);
        for early in late {
            self.answer(early.incoming.reply_to, Err((Fault::NoService, String::new())));
        }
    }
}
