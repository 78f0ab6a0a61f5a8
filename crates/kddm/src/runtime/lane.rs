//! A lane: one data-plane thread's part of the node. Whoever has news for it (the thread that reads
//! a socket, a thread that asks) takes its lock, runs the protocol, and writes the answers itself.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{Mixer, NodeId, ObjectId, Placement, SetId};
use kddm_core::io::{Input, Outputs};
use kddm_core::node::Node as Core;

use crate::cell::{CellNumber, Ended, Lease, Store};
use crate::error::{Error, MembershipError, WaitingFor};
use crate::runtime::acceptance::LostAndSettled;
use crate::runtime::backlog::FullPeers;
use crate::runtime::candidates::Candidates;
use crate::runtime::destroy::Destroyed;
use crate::runtime::frozen::FrozenSets;
use crate::runtime::hooked::Hooks;
use crate::runtime::lending::{Desk, LENDER, Link, program_of};
use crate::runtime::local::{Local, Waiter};
use crate::runtime::memory::Lent;
use crate::runtime::overdue::Overdue;
use crate::runtime::part::Part;
use crate::runtime::peer::Peer;
use crate::runtime::placing::Signals;
use crate::runtime::refusals::Refusals;
use crate::runtime::silence::Silence;
use crate::runtime::statistics::Statistics;
use crate::runtime::turn::{Alarms, ToWake, Turn, ring};
use crate::runtime::untaken::Untaken;
use crate::runtime::wait::{Op, Outcome, is_guest};
use crate::runtime::watching::Watchers;
use crate::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering, Slip, now, slips};
use crate::transport::poll::{TIMER, WAKE};
use crate::transport::{Event, Poller};

/// Limits of a lane, from the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub outstanding: usize,
    pub object_bytes: usize,
    pub peer_buffer_bytes: usize,
    /// How long a program may take nothing of what waits for it.
    pub program_takes_nothing: Duration,
}

/// What the lock of a lane protects.
pub(crate) struct LaneState {
    pub core: Core,
    pub part: Part,
    pub outputs: Outputs,
    /// Of a message for which there was no memory: taking its shard to a new epoch may have been done before. It is told when
    /// nobody takes the message for received any more, and before anything else is handed in.
    pub undone: Option<(SetId, Outputs)>,
    /// Inputs that follow from one input; empty between two.
    pub todo: VecDeque<Input>,
    pub stores: HashMap<SetId, Arc<dyn Store>, Mixer>,
    pub destroyed: Destroyed,
    pub frozen: FrozenSets,
    pub locals: HashMap<(SetId, ObjectId), Local, Mixer>,
    /// The queue of the last one that went, for the next: most are there for one waiter, and for one turn.
    pub spare_waiters: VecDeque<Waiter>,
    /// What this node keeps so that objects of others survive these.
    pub replicas: HashMap<(SetId, ObjectId), Vec<u8>, Mixer>,
    pub peers: HashMap<NodeId, Peer, Mixer>,
    /// Peers with frames that have not been offered to the socket.
    pub dirty: Vec<NodeId>,
    /// Peers that have more to take first; their requests wait.
    pub full: FullPeers,
    /// What waits for memory.
    pub refusals: Refusals,
    /// Deferred frames or acks wait for company until then.
    pub deferred_until: Option<Instant>,
    pub alarms: Alarms,
    pub overdue: Overdue,
    pub untaken: Untaken,
    pub watchers: Watchers,
    /// Those who hear of the copies that are here.
    pub hooked: HashMap<SetId, Arc<dyn Hooks>, Mixer>,
    /// Woken when this turn is over.
    pub to_wake: ToWake,
    pub outstanding: usize,
    pub limits: Limits,
    pub stopped: bool,
    /// Nothing that is here may be used any more, see [`Self::fence`].
    pub fenced: bool,
    /// What programs had to write then.
    pub lent_at_the_end: Lent,
    pub candidates: Candidates,
    pub lease: Arc<Lease>,
    pub statistics: Statistics,
    pub scratch: Vec<u8>,
    /// This node is a home: it may hold objects, and begins operations.
    pub shares: bool,
    pub signals: Signals,
    /// The last placement in which all was whole here, if somebody asked.
    pub whole_in: Option<Placement>,
    /// What sets have had done by themselves about what was lost, until somebody is told.
    pub newly_settled: HashMap<SetId, LostAndSettled, Mixer>,
    /// What was missing when that was said last.
    pub missing: Option<&'static str>,
    /// What this node has lent to programs.
    pub desk: Desk,
    /// This process is such a program: in the place of the core there is the node that lends to it.
    pub link: Option<Box<Link>>,
    /// Each so many inputs one is refused, as if there were no memory.
    #[cfg(test)]
    pub refuse_each: Option<u64>,
    #[cfg(test)]
    pub inputs: u64,
    /// The next connection to the node that lends cannot be used, as if the system had no memory for it.
    #[cfg(test)]
    pub fails_to_attach: Option<Box<dyn FnOnce() -> std::io::Error + Send>>,
}

impl LaneState {
    pub fn new(core: Core, part: Part, limits: Limits, signals: Signals, lease: Arc<Lease>) -> LaneState {
        LaneState {
            core,
            part,
            outputs: Outputs::new(),
            undone: None,
            todo: VecDeque::new(),
            stores: HashMap::default(),
            destroyed: Destroyed::default(),
            frozen: FrozenSets::default(),
            locals: HashMap::default(),
            spare_waiters: VecDeque::new(),
            replicas: HashMap::default(),
            peers: HashMap::default(),
            dirty: Vec::new(),
            full: FullPeers::default(),
            refusals: Refusals::default(),
            deferred_until: None,
            alarms: Alarms::default(),
            overdue: Overdue::default(),
            untaken: Untaken::default(),
            watchers: Watchers::default(),
            hooked: HashMap::default(),
            to_wake: ToWake::default(),
            outstanding: 0,
            limits,
            stopped: false,
            fenced: false,
            lent_at_the_end: Lent::default(),
            candidates: Candidates::default(),
            lease,
            statistics: Statistics::default(),
            scratch: Vec::new(),
            shares: false,
            whole_in: None,
            newly_settled: HashMap::default(),
            missing: None,
            desk: Desk::default(),
            signals,
            link: None,
            #[cfg(test)]
            refuse_each: None,
            #[cfg(test)]
            inputs: 0,
            #[cfg(test)]
            fails_to_attach: None,
        }
    }

    /// Who is waited for by whoever wants an object here.
    pub fn waiting_for(&self, set: SetId, object: ObjectId, silence: &Silence) -> WaitingFor {
        if let Some(lender) = self.asked_lender(set, object) {
            return WaitingFor::Node(lender.0);
        }
        let Some(seen) = self.core.inspect(set, object) else { return WaitingFor::LocalHolders };
        let me = self.core.id();
        let asked = if seen.asked == me { seen.owed.first().copied().unwrap_or(me) } else { seen.asked };
        let home = self.core.home(set, object).unwrap_or(me);
        let answers =
            |node: NodeId| node == me || self.peers.get(&node).is_some_and(|peer| peer.answers(node, silence));
        let silent = |node: &NodeId| node.is_somebody() && !answers(*node);
        let silent = [asked, home].into_iter().chain(seen.owed.iter().copied()).find(silent);
        if let Some(node) = silent {
            return WaitingFor::Unreachable(node.0);
        }
        if !seen.wanting || asked == me || !asked.is_somebody() {
            return WaitingFor::LocalHolders;
        }
        // Whoever was asked has sent the request on, perhaps to a node that is not there.
        match self.peers.iter().filter(|(node, peer)| !peer.answers(**node, silence)).map(|(node, _)| node.0).min() {
            Some(unreachable) => WaitingFor::Behind { asked: asked.0, unreachable },
            None => WaitingFor::Node(asked.0),
        }
    }

    /// Everything that waits here ends; connections close.
    pub fn stop(&mut self, poller: &Poller) {
        self.stopped = true;
        self.end_hooks();
        self.close_stores();
        for store in self.stores.values() {
            // What is fenced stays so.
            if !self.fenced {
                store.end(Ended::Stopped);
            }
        }
        self.fail_waiters(None, &MembershipError::Stopped.into());
        self.end_programs(poller);
        self.end_link(poller);
        let peers: Vec<NodeId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.disconnect(peer, poller);
        }
    }

    /// This node is not to hold anything any more: new operations are refused, waiting ones end. What
    /// they had asked for may still come, and is given away.
    pub fn stop_sharing(&mut self) {
        self.shares = false;
        let asked = |local: &Local| local.outstanding && !local.is_cancelling && !local.waiters.is_empty();
        let asked: Vec<_> = self.locals.iter().filter(|(_, local)| asked(local)).map(|(place, _)| *place).collect();
        // What is being put is put: it goes where the rest goes.
        self.fail_those_who_ask(None, &MembershipError::NotSharing { node: self.core.id().0 }.into());
        for (set, object) in asked {
            self.local(set, object).is_cancelling = true;
            self.run_own(set, object, Some(Input::Cancel));
        }
    }

    pub fn fail_waiters(&mut self, set: Option<SetId>, error: &Error) {
        self.cut_puts_short(set);
        if set.is_none() {
            self.lender_is_back(|| Outcome::Failed(error.clone()));
        }
        self.fail_those_who_ask(set, error);
    }

    fn fail_those_who_ask(&mut self, set: Option<SetId>, error: &Error) {
        self.fail_watchers(set, error);
        let mut failed = self.frozen.take_aside(set);
        self.outstanding += failed.len();
        for ((of, object), local) in &mut self.locals {
            if set.is_none_or(|set| set == *of) {
                failed.extend(local.waiters.drain(..).map(|waiter| (*of, *object, waiter)));
            }
        }
        for (set, object, waiter) in failed {
            self.end_wait(set, object, waiter, Outcome::Failed(error.clone()));
        }
    }

    /// A wait is over. Its task is woken when this turn is. Whether it is a task.
    pub fn complete(&mut self, op: &Op, outcome: Outcome) -> bool {
        let (waker, alarm) = op.complete(outcome);
        // Its waker may be gone: it was woken at the end of its limit, and has not come back.
        let is_task = waker.is_some() || op.is_of_task();
        self.to_wake.add(waker);
        self.alarms.take_back(alarm);
        is_task
    }

    pub fn local(&mut self, set: SetId, object: ObjectId) -> &mut Local {
        let make = || Local { waiters: std::mem::take(&mut self.spare_waiters), ..Local::default() };
        self.locals.entry((set, object)).or_insert_with(make)
    }
}

/// One lane of a node.
pub(crate) struct Lane {
    pub poller: Poller,
    state: Mutex<LaneState>,
    /// An application thread sits in the poller besides the lane's own thread.
    guest: AtomicBool,
    guest_left: Condvar,
    guest_gate: Mutex<()>,
    pub stopping: AtomicBool,
}

impl Lane {
    pub fn new(poller: Poller, state: LaneState) -> Lane {
        Lane {
            poller,
            state: Mutex::new(state),
            guest: AtomicBool::new(false),
            guest_left: Condvar::new(),
            guest_gate: Mutex::new(()),
            stopping: AtomicBool::new(false),
        }
    }

    /// Takes the lane: run the protocol, and call [`Self::finish`] with the guard.
    pub fn lock(&self) -> Turn<'_> {
        Lane::begin(self.state.lock())
    }

    /// As [`Self::lock`], unless somebody has the lane.
    pub fn try_lock(&self) -> Option<Turn<'_>> {
        self.state.try_lock().map(Lane::begin)
    }

    fn begin(state: MutexGuard<'_, LaneState>) -> Turn<'_> {
        let mut turn = Turn::new(state);
        turn.fence_if_lease_has_ended();
        turn
    }

    /// Writes what the turn has produced, and arms the timer where something was deferred.
    pub fn finish(&self, mut state: Turn<'_>) {
        self.wind_up(&mut state);
    }

    /// As [`Self::finish`]; whoever waits for the lane gets it before this thread does again.
    pub fn finish_fair(&self, mut state: Turn<'_>) {
        self.wind_up(&mut state);
        state.yield_fairly();
    }

    /// Goes through the cells of a set, and gives the lane up between some and the next: `some` looks at those from that
    /// number on, and says where the rest begins, if there is one.
    pub fn in_slices(&self, mut some: impl FnMut(&mut LaneState, CellNumber) -> Option<CellNumber>) {
        let mut next = Some(0);
        while let Some(first) = next {
            let mut state = self.lock();
            next = some(&mut state, first);
            self.finish_fair(state);
        }
    }

    /// As [`Self::finish`], for who has all lanes: nobody is woken before he has given up the last one.
    pub fn finish_in_silence(&self, mut state: Turn<'_>) -> ToWake {
        self.wind_up(&mut state);
        state.give_up()
    }

    fn wind_up(&self, state: &mut LaneState) {
        state.follow_undone();
        state.cut_off_if_fenced(&self.poller);
        // First what may have more to say to others.
        state.write_programs(&self.poller);
        state.write_dirty(&self.poller);
        state.write_lender();
        self.arm(state);
    }

    fn arm(&self, state: &LaneState) {
        let next = [state.alarms.next(), state.deferred_until, state.refusals.retry_at];
        let next = next.into_iter().chain([state.overdue.next, state.desk.look_again]);
        if let Some(at) = next.flatten().min() {
            self.poller.arm_at(at);
        }
    }

    /// One application thread at a time may poll as a guest.
    pub fn enter_poll(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed) && !self.guest.swap(true, Ordering::Acquire)
    }

    pub fn leave_poll(&self) {
        self.guest.store(false, Ordering::Release);
        drop(self.guest_gate.lock());
        self.guest_left.notify_one();
    }

    /// Wakes the guest out of the poller.
    pub fn wake_poller(&self) {
        self.poller.wake();
    }

    /// Waits for events and handles them.
    pub fn poll(&self, limit: Option<Duration>) -> bool {
        let mut woken = false;
        let polled = self.poller.wait(limit, |event| match event.token {
            WAKE => woken = true,
            TIMER => self.timer(),
            LENDER => self.lender_socket(event),
            token => match program_of(token) {
                Some(session) => self.program_socket(session, event),
                None => self.socket(NodeId(token as u16), event),
            },
        });
        if let Err(error) = polled {
            tracing::error!(%error, "polling failed");
        }
        woken
    }

    /// The lane's own thread: polls whenever no guest gets there first.
    pub fn drive(&self) {
        crate::runtime::wait::mark_part_of_node();
        while !self.stopping.load(Ordering::Acquire) {
            // A panic in a turn has fenced the node, which goes on to tell everybody so.
            let woken = catch_unwind(AssertUnwindSafe(|| self.poll(None))).unwrap_or(false);
            if woken && self.guest.load(Ordering::Acquire) && !self.stopping.load(Ordering::Acquire) {
                // The wake-up was meant for the guest. It is the only one in the poller now: pass it
                // on, and stay out until the guest has left, so that it cannot come here again.
                let mut gate = self.guest_gate.lock();
                if !slips(Slip::KeepWakeUp) {
                    self.poller.wake();
                }
                if self.guest.load(Ordering::Acquire) {
                    self.guest_left.wait_for(&mut gate, GUEST_LIMIT);
                }
            }
        }
        // A guest may be left, and the last wake-up was meant for it.
        self.poller.wake();
    }

    fn socket(&self, peer: NodeId, event: Event) {
        let mut state = self.lock();
        if event.readable {
            state.read_peer(peer, event.ended, &self.poller);
        }
        if event.writable {
            state.write_peer(peer, &self.poller);
        }
        let arriving = state.peers.get(&peer).and_then(Peer::arriving).filter(|_| is_guest()).cloned();
        self.finish(state);
        if let Some(stream) = arriving {
            self.follow(peer, &stream);
        }
    }

    fn timer(&self) {
        let now = now();
        let mut state = self.lock();
        if state.deferred_until.is_some_and(|at| at <= now) {
            state.deferred_until = None;
            state.flush_deferred();
        }
        if state.refusals.retry_at.is_some_and(|at| at <= now) {
            state.retry_refused(&self.poller);
        }
        if state.desk.look_again.is_some_and(|at| at <= now) {
            state.end_programs_that_take_nothing(now, &self.poller);
        }
        let is_overdue = state.overdue.next.is_some_and(|at| at <= now);
        let warning = if is_overdue { state.look_for_overdue(now) } else { None };
        let due = state.alarms.due(now);
        self.finish(state);
        if let Some(warning) = warning {
            warning.say();
        }
        ring(due);
    }
}

/// How long the lane's thread leaves the poller to a guest that was woken: longer than any guest
/// needs to leave, short enough that a guest that is not scheduled does not stop the lane.
const GUEST_LIMIT: Duration = Duration::from_millis(1);
