//! Who is told of a new view, in which order: two chains, run one notifier at a time.
//!
//! Sans-IO like the rest: [`Notifiers`] says which call is due, the node makes it on a thread of its
//! own and says when it is done. Order comes before speed: a notifier that overruns its limit is
//! reported and waited for.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use kddm_core::id::{Epoch, Incarnation, NodeId, Time};
use kddm_core::membership::{Direction, NotifierChains, Priority, Rank, Step, steps};
use kddm_core::view::{NodeState, View};
use thiserror::Error;

/// Notifiers of one node: parts of the system and of an application, some ten in practice.
pub const NOTIFIERS: usize = 256;

/// Longest name of a notifier in bytes: it stands in one line of a log.
pub const NOTIFIER_NAME_BYTES: usize = 64;

/// Views that wait while a notifier runs. Later ones are told of together, still level by level.
pub const VIEWS_WAITING: usize = 1024;

/// Default limit of one call, 1 s: as long as a hold before it is warned about.
pub const NOTIFIER_LIMIT_NS: u64 = 1_000_000_000;

/// Which changes of state a notifier hears of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Chain {
    /// A node comes online, or goes offline.
    Online,
    /// A node becomes possible, or steps back to online.
    Possible,
}

impl Chain {
    /// The chain that hears of a step.
    pub fn of(step: Step) -> Chain {
        if step.from.max(step.to).can_share() { Chain::Possible } else { Chain::Online }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Chain::Online => "online",
            Chain::Possible => "possible",
        })
    }
}

/// What a notifier is told: one node has gone up or down by one level.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Event {
    /// The node and the two states.
    pub step: Step,
    /// The node's life.
    pub incarnation: Incarnation,
    /// The epoch of the view that says so.
    pub epoch: Epoch,
}

/// A notifier. It must not wait for the node that calls it.
pub type Callback = Arc<dyn Fn(&Event) + Send + Sync>;

/// Names a registered notifier, for [`Notifiers::unregister`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Registration {
    chain: Chain,
    rank: Rank,
}

/// Why a notifier was not registered.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Too many already.
    #[error("this node has {NOTIFIERS} notifiers, which is the most it can have: unregister one")]
    TooMany,
    /// The name could not stand in a log.
    #[error("a notifier has a name of 1 to {NOTIFIER_NAME_BYTES} bytes without control characters")]
    Name,
    /// Memory was refused.
    #[error("no memory for one more notifier")]
    NoMemory,
}

/// A call to make: hand [`Call::event`] to [`Call::callback`], then say [`Notifiers::done`].
#[derive(Clone)]
pub struct Call {
    /// The name of the notifier.
    pub name: Arc<str>,
    /// The notifier.
    pub callback: Callback,
    /// What it is told.
    pub event: Event,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("name", &self.name).field("event", &self.event).finish_non_exhaustive()
    }
}

/// A notifier has overrun its limit, and keeps all others waiting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Overrun {
    /// The name of the notifier.
    pub name: Arc<str>,
    /// What it was told.
    pub event: Event,
    /// How long it has run by now.
    pub running_ns: u64,
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Step { node, from, to }, millis) = (self.event.step, self.running_ns / 1_000_000);
        write!(f, "notifier `{}` has run for {millis} ms on node {node} going from {from:?} to {to:?}; ", self.name)?;
        f.write_str("everybody behind it waits: let it return sooner, and do the work elsewhere")
    }
}

/// A notifier at work.
#[derive(Debug)]
struct Running {
    rank: Rank,
    name: Arc<str>,
    since: Time,
    is_reported: bool,
}

/// The event that the chains are being told of, and who has still to hear.
#[derive(Debug)]
struct Telling {
    event: Event,
    left: VecDeque<Rank>,
}

/// The registered notifiers of one node, and what they have been told.
pub struct Notifiers {
    limit_ns: u64,
    registrations: u64,
    online: NotifierChains,
    possible: NotifierChains,
    registered: BTreeMap<(Chain, Rank), (Arc<str>, Callback)>,
    /// Views installed since `seen`, oldest first.
    views: VecDeque<View>,
    /// The view whose events are the last in `events`.
    seen: View,
    events: VecDeque<Event>,
    telling: Option<Telling>,
    running: Option<Running>,
    /// The state of each node that all notifiers have heard of.
    told: BTreeMap<NodeId, (Incarnation, NodeState)>,
}

impl Notifiers {
    /// No notifier, and no view. One call may take `limit_ns` before it is reported.
    pub fn new(limit_ns: u64) -> Notifiers {
        Notifiers {
            limit_ns,
            registrations: 0,
            online: NotifierChains::new(),
            possible: NotifierChains::new(),
            registered: BTreeMap::new(),
            views: VecDeque::new(),
            seen: View::default(),
            events: VecDeque::new(),
            telling: None,
            running: None,
            told: BTreeMap::new(),
        }
    }

    /// Adds a notifier. It hears of every event that no other notifier has been told of yet.
    pub fn register(
        &mut self,
        chain: Chain,
        priority: Priority,
        name: &str,
        callback: Callback,
    ) -> Result<Registration, RegistryError> {
        if !(1..=NOTIFIER_NAME_BYTES).contains(&name.len()) || name.chars().any(char::is_control) {
            return Err(RegistryError::Name);
        }
        if self.registered.len() >= NOTIFIERS {
            return Err(RegistryError::TooMany);
        }
        let rank = Rank { priority, registration: self.registrations };
        let chains = match chain {
            Chain::Online => &mut self.online,
            Chain::Possible => &mut self.possible,
        };
        chains.insert(rank).map_err(|_| RegistryError::NoMemory)?;
        self.registrations += 1;
        self.registered.insert((chain, rank), (name.into(), callback));
        Ok(Registration { chain, rank })
    }

    /// Takes a notifier out: no call of it begins any more. Says whether it was in.
    pub fn unregister(&mut self, registration: Registration) -> bool {
        let Registration { chain, rank } = registration;
        match chain {
            Chain::Online => self.online.remove(rank),
            Chain::Possible => self.possible.remove(rank),
        };
        self.registered.remove(&(chain, rank)).is_some()
    }

    /// A view was installed: its events follow those of the views before it.
    pub fn installed(&mut self, view: View) {
        if self.views.len() >= VIEWS_WAITING {
            self.views.pop_back();
        }
        self.views.push_back(view);
    }

    /// The next call, if one is due and none is running.
    pub fn next_call(&mut self, now: Time) -> Option<Call> {
        if self.running.is_some() {
            return None;
        }
        loop {
            let Telling { event, left } = match &mut self.telling {
                Some(telling) => telling,
                None => {
                    let event = self.next_event()?;
                    self.telling.insert(self.begin(event))
                }
            };
            let event = *event;
            let Some(rank) = left.pop_front() else {
                self.told.insert(event.step.node, (event.incarnation, event.step.to));
                self.told.retain(|_, (_, state)| state.can_talk());
                self.telling = None;
                continue;
            };
            // Somebody may have unregistered since the event began.
            if let Some((name, callback)) = self.registered.get(&(Chain::of(event.step), rank)) {
                let (name, callback) = (Arc::clone(name), Arc::clone(callback));
                self.running = Some(Running { rank, name: Arc::clone(&name), since: now, is_reported: false });
                return Some(Call { name, callback, event });
            }
        }
    }

    /// The call has returned, or panicked: the next one may begin.
    pub fn done(&mut self) {
        self.running = None;
    }

    /// The running notifier, if it has overrun its limit and that has not been reported.
    pub fn overrun(&mut self, now: Time) -> Option<Overrun> {
        let event = self.telling.as_ref()?.event;
        let running = self.running.as_mut()?;
        let running_ns = now.0.saturating_sub(running.since.0);
        if running.is_reported || running_ns < self.limit_ns {
            return None;
        }
        running.is_reported = true;
        Some(Overrun { name: Arc::clone(&running.name), event, running_ns })
    }

    /// When the running notifier overruns its limit, unless that has been reported.
    pub fn overrun_at(&self) -> Option<Time> {
        let running = self.running.as_ref().filter(|running| !running.is_reported)?;
        Some(running.since.after_ns(self.limit_ns))
    }

    /// The name of the notifier that is running.
    pub fn running(&self) -> Option<Arc<str>> {
        self.running.as_ref().map(|running| Arc::clone(&running.name))
    }

    /// Whether that notifier is running now, so that what it uses must stay.
    pub fn is_running(&self, registration: Registration) -> bool {
        let is_its_chain = |telling: &Telling| Chain::of(telling.event.step) == registration.chain;
        self.telling.as_ref().is_some_and(is_its_chain)
            && self.running.as_ref().is_some_and(|running| running.rank == registration.rank)
    }

    /// The state of that life of a node that all notifiers have heard of.
    pub fn told(&self, node: NodeId, incarnation: Incarnation) -> NodeState {
        match self.told.get(&node) {
            Some((life, state)) if *life == incarnation => *state,
            _ => NodeState::Offline,
        }
    }

    /// Whether all notifiers have heard of all views.
    pub fn is_idle(&self) -> bool {
        self.views.is_empty() && self.events.is_empty() && self.telling.is_none()
    }

    fn begin(&self, event: Event) -> Telling {
        let chains = match Chain::of(event.step) {
            Chain::Online => &self.online,
            Chain::Possible => &self.possible,
        };
        Telling { event, left: chains.order(event.step.direction()).collect() }
    }

    fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let view = self.views.front()?;
            let steps = steps(&self.seen, view).ok()?; // Without memory it is tried again later.
            let incarnation = |step: &Step| {
                let side = if step.direction() == Direction::Add { view } else { &self.seen };
                side.member(step.node).map_or(Incarnation(0), |member| member.incarnation)
            };
            let event = |step: Step| Event { incarnation: incarnation(&step), epoch: view.epoch, step };
            self.events = steps.into_iter().map(event).collect();
            self.seen = self.views.pop_front()?;
        }
    }
}

impl fmt::Debug for Notifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.registered.iter().map(|((chain, _), (name, _))| (chain, name)).collect();
        f.debug_struct("Notifiers").field("registered", &names).field("telling", &self.telling).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
