//! What runs a node: its lanes, its links, its part in the membership.

pub(crate) mod backlog;
pub(crate) mod control;
pub(crate) mod join;
pub(crate) mod lane;
pub(crate) mod links;
pub(crate) mod local;
pub(crate) mod objects;
pub(crate) mod peer;
pub(crate) mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kddm_core::id::{Incarnation, NodeId, ObjectId, SetId};
use kddm_core::view::View;
use parking_lot::{Condvar, Mutex};

use crate::cell::{Lease, Table};
use crate::error::{AccessError, ConfigurationError, Error, MembershipError};
use crate::options::Config;
use crate::runtime::control::Cluster;
use crate::runtime::lane::{Lane, Limits, Statistics};
use crate::system::typed_store;
use crate::transport::{Address, Listener};
use crate::value::Value;

/// Who this node is, once admitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub id: NodeId,
    pub incarnation: Incarnation,
    pub cluster: u64,
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
    pub lease: Lease,
    pub cluster: Mutex<Cluster>,
    /// Told at every change of the cluster, of a link, and at the stop.
    pub changed: Condvar,
    pub stopping: AtomicBool,
    pub listener: Arc<Listener>,
    pub threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Runtime {
    pub fn new(
        config: Config,
        identity: Identity,
        listener: Arc<Listener>,
        lanes: Vec<Arc<Lane>>,
        limits: Limits,
        lease: Lease,
        cluster: Cluster,
    ) -> Runtime {
        Runtime {
            address: listener.address().clone(),
            config,
            identity,
            limits,
            lanes,
            lease,
            cluster: Mutex::new(cluster),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            listener,
            threads: Mutex::default(),
        }
    }

    /// The lane that handles an object: by its shard, so that all messages of an object keep one order.
    pub fn lane(&self, set: SetId, object: ObjectId) -> &Arc<Lane> {
        let shard = object.shard(set.policy().unwrap_or_default());
        &self.lanes[usize::from(shard.0) % self.lanes.len()]
    }

    /// The table of a set with values of type `T`.
    pub fn table<T: Value>(&self, set: SetId) -> Result<Arc<Table<T>>, Error> {
        // All lanes are taken in order: none may hand an object to the old table meanwhile.
        let mut states: Vec<_> = self.lanes.iter().map(|lane| lane.lock()).collect();
        if states[0].stopped {
            return Err(MembershipError::Stopped.into());
        }
        if states[0].destroyed.contains(&set) {
            return Err(crate::error::SetError::Destroyed.into());
        }
        let table = typed_store::<T>(states[0].stores.get(&set))?;
        for state in &mut states {
            state.stores.insert(set, Arc::clone(&table) as _);
        }
        Ok(table)
    }

    /// The view that is installed here.
    pub fn view(&self) -> View {
        self.cluster.lock().view()
    }

    /// An error if `node` names one that shares no objects, or that cannot be reached: what is sent
    /// there could not come back. Nobody is always allowed.
    pub fn not_to_be_reached(&self, node: NodeId) -> Option<Error> {
        if !node.is_somebody() {
            return None;
        }
        let view = self.view();
        let member = view.member(node).is_some_and(|member| member.state.can_share());
        let rule = "it must be the number of a member that is `possible`";
        let error = ConfigurationError::OutOfRange { setting: "to", value: node.0.to_string(), rule };
        if !member {
            return Some(error.into());
        }
        let reached = |lane: &Arc<Lane>| lane.lock().peers.get(&node).is_some_and(peer::Peer::is_connected);
        let reached = node == self.identity.id || self.lanes.iter().all(reached);
        (!reached).then(|| AccessError::Unreachable { node: node.0, limit_ms: 0 }.into())
    }

    pub fn statistics(&self) -> Statistics {
        let mut sum = Statistics::default();
        for lane in &self.lanes {
            sum.add(&lane.lock().statistics);
        }
        sum
    }

    pub fn core_memory_bytes(&self, set: SetId) -> usize {
        self.lanes.iter().map(|lane| lane.lock().core.memory_bytes(set)).sum()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits until something changes, at most until `deadline`.
    pub fn wait_for_change(&self, cluster: &mut parking_lot::MutexGuard<'_, Cluster>, deadline: Instant) -> bool {
        !self.changed.wait_until(cluster, deadline).timed_out()
    }

    /// Forgets a set here: new operations are refused at once, holders have `limit` to put.
    pub fn destroy_here(&self, set: SetId, limit: Duration) {
        let deadline = Instant::now() + limit;
        for lane in &self.lanes {
            let mut state = lane.lock();
            state.begin_destroy(set);
            lane.finish(state);
        }
        for lane in &self.lanes {
            let mut state = lane.lock();
            while state.is_set_held(set) && Instant::now() < deadline {
                drop(state);
                let mut cluster = self.cluster.lock();
                self.wait_for_change(&mut cluster, Instant::now() + HOLDER_CHECK);
                drop(cluster);
                state = lane.lock();
            }
            state.end_destroy(set);
        }
    }

    /// Ends everything: waiting operations with an error, threads, links, the listener.
    pub fn stop(&self) {
        if self.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        self.listener.close();
        self.changed.notify_all();
        for lane in &self.lanes {
            lane.stopping.store(true, Ordering::Release);
            let mut state = lane.lock();
            state.stop(&lane.poller);
            drop(state);
            lane.poller.wake();
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        let current = std::thread::current().id();
        for thread in threads {
            while !thread.is_finished() && thread.thread().id() != current {
                self.lanes.iter().for_each(|lane| lane.poller.wake());
                self.listener.close();
                self.changed.notify_all();
                std::thread::park_timeout(STOP_CHECK);
            }
            if thread.thread().id() != current {
                let _ended = thread.join();
            }
        }
    }
}

/// How often a destroy looks whether the last holder has put.
const HOLDER_CHECK: Duration = Duration::from_millis(2);

/// How often a stop wakes threads that have not noticed it yet.
const STOP_CHECK: Duration = Duration::from_millis(1);
