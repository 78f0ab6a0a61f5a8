//! What runs a node: its lanes, its links, its part in the membership.

pub(crate) mod acceptance;
pub(crate) mod backlog;
pub(crate) mod candidates;
pub(crate) mod changes;
pub(crate) mod control;
pub(crate) mod couriers;
pub(crate) mod deciding;
pub(crate) mod delivery;
pub(crate) mod destroy;
pub(crate) mod drain;
pub(crate) mod elsewhere;
pub(crate) mod errands;
pub(crate) mod feed;
pub(crate) mod fence;
pub(crate) mod freezing;
pub(crate) mod frozen;
pub(crate) mod granting;
pub(crate) mod guarded;
pub(crate) mod healing;
pub(crate) mod hooked;
pub(crate) mod incidents;
pub(crate) mod join;
pub(crate) mod lane;
pub(crate) mod leasing;
pub(crate) mod lending;
pub(crate) mod links;
pub(crate) mod local;
pub(crate) mod membership;
pub(crate) mod memory;
pub(crate) mod notify;
pub(crate) mod numbers;
pub(crate) mod objects;
pub(crate) mod outbox;
pub(crate) mod overdue;
pub(crate) mod part;
pub(crate) mod peer;
pub(crate) mod per_kind;
pub(crate) mod places;
pub(crate) mod placing;
pub(crate) mod pool;
pub(crate) mod proof;
pub(crate) mod quiet;
pub(crate) mod receive;
pub(crate) mod refusals;
mod rejoin;
pub(crate) mod remembered;
pub(crate) mod replicas;
pub(crate) mod reviving;
pub(crate) mod serving;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
pub(crate) mod silence;
pub(crate) mod statistics;
pub(crate) mod telling;
pub(crate) mod threads;
pub(crate) mod told;
pub(crate) mod turn;
pub(crate) mod untaken;
pub(crate) mod wait;
pub(crate) mod watching;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kddm_core::id::{Incarnation, NodeId, ObjectId, SetId, ShardIndex};
use kddm_core::view::View;
use parking_lot::{Condvar, Mutex};

use crate::budget::Budgets;
use crate::cell::{Lease, Table};
use crate::coordination::Here;
use crate::error::{AccessError, ConfigurationError, Error, MembershipError};
use crate::guardian::Secret;
use crate::invoke::Invoking;
use crate::linker::Linkers;
use crate::options::Config;
use crate::rpc::Engine;
use crate::runtime::lane::{Lane, Limits};
use crate::runtime::lending::attach::Lender;
use crate::runtime::membership::{Guard, Membership};
use crate::runtime::notify::Notify;
use crate::runtime::part::lane_of;
use crate::runtime::placing::Signals;
use crate::runtime::quiet::QuietMutex;
use crate::runtime::silence::Silence;
use crate::runtime::statistics::Statistics;
use crate::runtime::turn::{ToWake, Turn};
use crate::system::typed_store;
use crate::transport::{Address, Listener};
use crate::value::Value;

/// Who this node is, once admitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub id: NodeId,
    pub incarnation: Incarnation,
    pub cluster: kddm_view::Identity,
    /// Tells two processes with one node id apart.
    pub nonce: u64,
}

/// One running node.
pub(crate) struct Runtime {
    pub config: Config,
    pub identity: Identity,
    pub address: Address,
    pub limits: Limits,
    pub lanes: Vec<Arc<Lane>>,
    pub lease: Arc<Lease>,
    pub started: Instant,
    pub membership: QuietMutex<Membership>,
    /// Told at every change of the membership, of a link, and at the stop.
    pub changed: Condvar,
    pub notify: Arc<Notify>,
    pub signals: Signals,
    /// Objects that a drain still has to give away.
    pub draining_left: AtomicUsize,
    pub rpc: Arc<Engine>,
    /// Operations that this node runs for others, and has run by others.
    pub invoking: Invoking,
    /// Pages of sets that it gets for programs.
    pub scanning: crate::scan::Scanning,
    /// What stands behind the sets that were opened here.
    pub linkers: Linkers,
    /// How much of some sets may be here.
    pub budgets: Budgets,
    /// Those who watch sets of which this node owns something.
    pub feeds: changes::Feeds,
    /// Those of programs that are attached here.
    pub program_watches: lending::watches::Watches,
    /// What this life proves itself by, to whom its guardian tells of its end.
    pub secret: Option<Secret>,
    /// Which members owe something.
    pub silence: Silence,
    /// A guardian watches this process.
    pub is_guarded: AtomicBool,
    /// The numbers of sets that it was told of.
    pub numbers: numbers::Numbers,
    /// Why a member has refused a link last.
    pub link_refused: Mutex<Option<String>>,
    /// A stop has begun.
    leaving: AtomicBool,
    /// Everything is being taken down.
    stopping: AtomicBool,
    /// Where other nodes connect, until this node has stopped; a program that is attached to a node has none.
    pub listener: Mutex<Option<Arc<Listener>>>,
    /// Where programs attach.
    pub door: Mutex<Option<Arc<Listener>>>,
    /// What is kept here for barriers, latches and ids.
    pub coordination: Here,
    /// The node that this program is attached to.
    pub lender: Option<Lender>,
    pub threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What a runtime is made of.
pub(crate) struct Parts {
    /// None for a program without a node, which is no member.
    pub secret: Option<Secret>,
    pub config: Config,
    pub identity: Identity,
    pub address: Address,
    pub listener: Option<Arc<Listener>>,
    pub lender: Option<Lender>,
    pub lanes: Vec<Arc<Lane>>,
    pub limits: Limits,
    pub membership: Membership,
    pub notify: Arc<Notify>,
    pub signals: Signals,
    pub lease: Arc<Lease>,
}

impl Runtime {
    pub fn new(parts: Parts) -> Runtime {
        parts.signals.errands.are_of(&parts.lanes);
        Runtime {
            address: parts.address,
            config: parts.config,
            identity: parts.identity,
            limits: parts.limits,
            lanes: parts.lanes,
            lease: parts.lease,
            started: parts.membership.since,
            membership: QuietMutex::new(parts.membership),
            changed: Condvar::new(),
            notify: parts.notify,
            signals: parts.signals,
            draining_left: AtomicUsize::new(0),
            rpc: Arc::default(),
            invoking: Invoking::default(),
            scanning: crate::scan::Scanning::default(),
            linkers: Linkers::default(),
            budgets: Budgets::default(),
            feeds: changes::Feeds::default(),
            program_watches: lending::watches::Watches::default(),
            secret: parts.secret,
            silence: Silence::default(),
            is_guarded: AtomicBool::new(false),
            numbers: numbers::Numbers::default(),
            link_refused: Mutex::default(),
            leaving: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            listener: Mutex::new(parts.listener),
            door: Mutex::default(),
            coordination: Here::default(),
            lender: parts.lender,
            threads: Mutex::default(),
        }
    }

    /// The lane that handles an object: by its shard, so that all messages of an object keep one order.
    pub fn lane(&self, set: SetId, object: ObjectId) -> &Arc<Lane> {
        self.lane_of_shard(object.shard(set.policy().unwrap_or_default()))
    }

    /// The lane of a shard.
    pub fn lane_of_shard(&self, shard: ShardIndex) -> &Arc<Lane> {
        &self.lanes[lane_of(shard, self.lanes.len())]
    }

    /// The table of a set with values of type `T`.
    pub fn table<T: Value>(&self, set: SetId) -> Result<Arc<Table<T>>, Error> {
        // All lanes are taken in order: none may hand an object to the old table meanwhile.
        let mut states: Vec<_> = self.lanes.iter().map(|lane| lane.lock()).collect();
        let table = table_in(&mut states, set);
        self.finish_all(states);
        table
    }

    /// Ends the turn of who has all lanes.
    fn finish_all(&self, states: Vec<Turn<'_>>) {
        // A task that is woken may take any lane at once.
        let mut to_wake = ToWake::default();
        for (lane, state) in self.lanes.iter().zip(states) {
            to_wake.append(lane.finish_in_silence(state));
        }
    }

    fn close_listeners(&self) {
        for listener in [&self.listener, &self.door] {
            let listener = listener.lock().clone();
            listener.inspect(|listener| listener.close());
        }
    }

    /// The view that is installed here.
    pub fn view(&self) -> View {
        self.membership.lock().state.view()
    }

    /// An error if `node` names one that shares no objects, or that cannot be reached: what is sent
    /// there could not come back. Nobody is always allowed.
    pub fn not_to_be_reached(&self, node: NodeId) -> Option<Error> {
        // The node that lends to this program looks for itself.
        if !node.is_somebody() || self.lender.is_some() {
            return None;
        }
        let view = self.view();
        let member = view.member(node).is_some_and(|member| member.state.can_share());
        if !member {
            return Some(not_a_member(node.0));
        }
        let answers = |peer: &peer::Peer| peer.answers(node, &self.silence);
        let reached = |lane: &&Arc<Lane>| lane.lock().peers.get(&node).is_some_and(answers);
        let missed = self.lanes.iter().find(|lane| !reached(lane)).filter(|_| node != self.identity.id)?;
        let why = missed.lock().why_unreachable(node);
        Some(AccessError::Unreachable { node: node.0, limit_ms: 0, why }.into())
    }

    pub fn statistics(&self) -> Statistics {
        let mut sum = Statistics::default();
        for lane in &self.lanes {
            let state = lane.lock();
            sum.add(&state.statistics);
            sum.frames_sent += state.frames_to_programs() + state.frames_to_lender();
        }
        // All lanes fence themselves then, and it is one node.
        sum.fences = sum.fences.min(1);
        sum.malformed += self.rpc.malformed();
        sum.invoking = self.invoking.counted();
        sum.names = self.coordination.names.counted();
        sum.notifier_overruns = self.notify.overruns();
        sum.notifier_panics = self.notify.panics();
        sum
    }

    pub fn core_memory_bytes(&self, set: SetId) -> usize {
        self.lanes.iter().map(|lane| lane.lock().core.memory_bytes(set)).sum()
    }

    /// Whether it is on its way out, or about to be.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits until something changes, at most until `deadline`.
    pub fn wait_for_change(&self, membership: &mut Guard<'_>, deadline: Instant) -> bool {
        membership.wait_until(&self.changed, deadline)
    }

    /// Hands over all that this node holds and leaves, tells the notifiers, and ends everything:
    /// waiting operations with an error, threads, links, the listener.
    pub fn stop(self: &Arc<Self>) {
        self.stop_within(self.config.drain_limit, notify::DRAIN_LIMIT);
    }

    /// The same with other limits: for what is handed over, and for the notifiers that have to hear.
    pub fn stop_within(self: &Arc<Self>, drain: Duration, limit: Duration) {
        if self.leaving.swap(true, Ordering::AcqRel) {
            return;
        }
        if self.lender.is_some() {
            self.wait_for_puts(limit);
            self.close_notifiers(limit);
        } else {
            // A fenced node does not leave: it would say that nothing of what it held is lost.
            let is_fenced = self.lanes.iter().any(|lane| lane.lock().fenced);
            if wait::may_block() && !is_fenced {
                self.drain_and_leave(drain);
            }
            // They find all of the system in place, and hear of the way down before it is taken down.
            self.close_notifiers(limit);
        }
        self.stopping.store(true, Ordering::Release);
        // Its file is free for the next life, whoever keeps this one in memory still.
        self.membership.lock().log.close();
        self.close_listeners();
        self.rpc.close();
        self.invoking.close();
        self.changed.notify_all();
        self.signals.links.raise();
        self.signals.news.raise();
        self.signals.parted.close();
        for lane in &self.lanes {
            self.signals.settled.raise();
            lane.stop();
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        let current = std::thread::current().id();
        for thread in threads {
            while !thread.is_finished() && thread.thread().id() != current {
                self.lanes.iter().for_each(|lane| lane.poller.wake());
                self.close_listeners();
                self.changed.notify_all();
                self.signals.settled.raise();
                self.signals.links.raise();
                self.signals.news.raise();
                std::thread::park_timeout(STOP_CHECK);
            }
            if thread.thread().id() != current {
                let _ended = thread.join();
            }
        }
        self.signals.expiries.close();
        self.budgets.close();
        self.linkers.close(drain);
        // The sockets go, so that nobody waits for an answer there, and the next life can listen: whoever keeps this one
        // in memory still.
        *self.door.lock() = None;
        *self.listener.lock() = None;
        // Handlers that waited for objects have been told by the lanes.
        self.rpc.join();
    }
}

/// The table of a set, by whoever has all lanes.
fn table_in<T: Value>(states: &mut [Turn<'_>], set: SetId) -> Result<Arc<Table<T>>, Error> {
    if states.iter().any(|state| state.fenced) {
        return Err(AccessError::Fenced.into());
    }
    if states.iter().any(|state| state.stopped) {
        return Err(MembershipError::Stopped.into());
    }
    if states.iter().any(|state| state.destroyed.contains(set)) {
        return Err(crate::error::SetError::Destroyed.into());
    }
    let known = states.first().and_then(|state| state.part.known(set));
    // What programs have been lent is no reason not to give the set a type.
    let is_typed = known.as_ref().is_some_and(|old| Table::<T>::from_store(old).is_some());
    if !is_typed {
        states.iter_mut().for_each(|state| state.park_loans(set));
    }
    let table = typed_store::<T>(known.as_ref());
    for state in states {
        if let Ok(table) = &table {
            state.part.replace(set, Arc::clone(table) as _);
            state.stores.insert(set, Arc::clone(table) as _);
        }
        state.unpark_loans(set);
    }
    table
}

/// A node was named to which nothing can be moved.
pub(crate) fn not_a_member(node: u16) -> Error {
    let rule = "it must be the number of a member that is `possible`";
    ConfigurationError::OutOfRange { setting: "to", value: node.to_string(), rule }.into()
}

/// How often a stop wakes threads that have not noticed it yet.
const STOP_CHECK: Duration = Duration::from_millis(1);
