//! Threads of a node besides its lanes: one accepts, one keeps the links.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use kddm_core::id::NodeId;
use kddm_view::MemberEntry;
use parking_lot::Mutex;

use crate::cell::Lease;
use crate::runtime::Runtime;
use crate::runtime::control::CONTROL_LIMIT;
use crate::runtime::lane::Lane;
use crate::runtime::peer::Peer;
use crate::runtime::places::Places;
use crate::runtime::silence::LOOK_INTERVAL;
use crate::runtime::threads::Spawn;
use crate::transport::greeting::{GreetError, Purpose, greet};
use crate::transport::{Address, Stream};

/// How often a link that is missing is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// How long no connection is accepted after one could not be: the system is out of something, mostly
/// descriptors, and says so again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Connections that may be greeted at one time: what strangers can make us hold.
const GREETINGS: usize = 64;

impl Runtime {
    /// Has the threads of a node begin. Where one does not, those before it are there still, until the node stops.
    pub fn start_threads(self: &Arc<Self>, spawn: Spawn<'_>) -> std::io::Result<()> {
        for lane in &self.lanes {
            let lane = Arc::clone(lane);
            let thread = spawn("kddm-lane", Box::new(move || lane.drive()))?;
            self.threads.lock().push(thread);
        }
        let mut begin = |name: &str, work: fn(&Arc<Runtime>)| {
            let runtime = Arc::clone(self);
            spawn(name, Box::new(move || work(&runtime)))
        };
        let mut keep = |name: &str, work: fn(&Arc<Runtime>)| {
            let thread = begin(name, work)?;
            self.threads.lock().push(thread);
            Ok::<(), std::io::Error>(())
        };
        keep("kddm-accept", |runtime| runtime.accept_all())?;
        keep("kddm-links", |runtime| runtime.keep_links())?;
        keep("kddm-views", |runtime| runtime.keep_views())?;
        keep("kddm-lease", |runtime| runtime.keep_lease())?;
        keep("kddm-placing", |runtime| runtime.keep_placement())?;
        if self.membership.lock().is_kept_elsewhere() {
            keep("kddm-news", |runtime| runtime.keep_news())?;
        }
        if self.config.guardian.is_some() && !matches!(self.address, Address::Local(_)) {
            keep("kddm-guarded", |runtime| runtime.keep_guarded())?;
        }
        // Not among those that a stop waits for: it waits for the notifiers, up to a limit.
        begin("kddm-notify", |runtime| runtime.run_notifiers()).map(drop)
    }

    fn accept_all(self: &Arc<Self>) {
        static GREETED: LazyLock<Places> = LazyLock::new(Places::default);
        let Some(listener) = self.listener.lock().clone() else { return };
        while !self.is_stopping() {
            let stream: Stream = match listener.accept() {
                Ok(Some(stream)) => stream,
                Ok(None) => return,
                Err(_) => {
                    self.pause(ACCEPT_PAUSE);
                    continue;
                }
            };
            let place = GREETED.take();
            if GREETED.taken() > GREETINGS * MANY_NODES {
                stream.shutdown();
                continue;
            }
            let runtime = Arc::clone(self);
            // A thread of its own, so that a silent stranger keeps nobody waiting.
            let _without_a_thread_it_is_closed =
                std::thread::Builder::new().name("kddm-greet".into()).spawn(move || {
                    if let Err(error) = runtime.serve(stream) {
                        if error.kind() == std::io::ErrorKind::InvalidData {
                            runtime.lanes[0].lock().statistics.malformed += 1;
                        }
                        tracing::debug!(%error, "a connection ended before it was of use");
                    }
                    drop(place);
                });
        }
    }

    /// Waits that long, or until the node stops.
    pub fn pause(&self, length: Duration) {
        let until = Instant::now() + length;
        let mut membership = self.membership.lock();
        while !self.is_stopping() && self.wait_for_change(&mut membership, until) {}
    }

    fn keep_links(self: &Arc<Self>) {
        let dialling = Mutex::new(HashSet::new());
        let mut looked = Instant::now();
        // Each dial has a thread of its own, so that a silent member keeps no other waiting.
        std::thread::scope(|scope| {
            while !self.is_stopping() {
                if self.lease.deadline_ns() == Lease::ENDED {
                    // One lane may have found out by itself.
                    self.lease_is_over("its lease has ended, or another of its lanes has fenced itself");
                }
                let state = self.membership.lock().state.clone();
                self.listen_for_silence(&state, &mut looked);
                let mut is_missing_one = false;
                let my_life = self.identity.incarnation;
                // The later life dials, so that two nodes never dial each other.
                for (id, member) in state.members().filter(|(_, member)| member.incarnation < my_life) {
                    let is_linked = self.is_linked(id);
                    is_missing_one |= !is_linked;
                    if is_linked || !dialling.lock().insert(id) {
                        continue;
                    }
                    let (member, dialling) = (member.clone(), &dialling);
                    let dial = move || {
                        self.connect_to(id, &member);
                        dialling.lock().remove(&id);
                    };
                    if let Err(error) = std::thread::Builder::new().name("kddm-dial".into()).spawn_scoped(scope, dial) {
                        tracing::warn!(%error, "no thread to make a link with");
                        dialling.lock().remove(&id);
                    }
                }
                // Whatever changes raises the signal: a node that is at rest wakes for the silent only.
                self.signals.links.wait_for(if is_missing_one { RETRY } else { LOOK_INTERVAL });
            }
        });
    }

    /// Whether no lane misses its link to a member that is in the installed view. One that is fenced wants none.
    fn is_linked(&self, id: NodeId) -> bool {
        self.lanes.iter().all(|lane| {
            let state = lane.lock();
            state.fenced || state.peers.get(&id).is_none_or(Peer::is_connected)
        })
    }

    fn connect_to(self: &Arc<Self>, id: NodeId, member: &MemberEntry) {
        let Ok(address) = member.address.parse::<Address>() else { return };
        for (number, lane) in self.lanes.iter().enumerate() {
            let wants = |peer: &&Peer| peer.incarnation == member.incarnation && !peer.is_connected();
            let received = lane.lock().peers.get(&id).filter(wants).map(|peer| peer.session.received());
            let Some(received) = received else { continue };
            let purpose = Purpose::Link { lane: number as u8, lanes: self.lanes.len() as u8, received };
            match greet(&address, &self.hello(purpose), CONTROL_LIMIT) {
                Ok((stream, _, received)) => {
                    let mut state = lane.lock();
                    if state.stopped || state.peers.get(&id).filter(wants).is_none() {
                        continue; // It was for a life that has ended meanwhile, here or there.
                    }
                    if let Err(error) = state.connect(id, stream, received, &lane.poller) {
                        tracing::warn!(peer = id.0, %error, "a link could not be resumed");
                    }
                    lane.finish(state);
                    self.changed.notify_all();
                }
                Err(error) => {
                    tracing::debug!(peer = id.0, %error, "no link yet");
                    if let GreetError::Refused(reason) = error {
                        *self.link_refused.lock() = Some(reason);
                    }
                }
            }
        }
    }

    /// Members with which this node has no link now.
    pub fn unlinked(&self) -> Vec<u16> {
        let members = self.membership.lock().state.clone();
        let is_linked = |lane: &Arc<Lane>, id| lane.lock().peers.get(&id).is_some_and(Peer::is_connected);
        let linked = |id: &NodeId| *id == self.identity.id || self.lanes.iter().all(|lane| is_linked(lane, *id));
        members.members().map(|(id, _)| id).filter(|id| !linked(id)).map(|id| id.0).collect()
    }
}

/// The bound on greetings is for the process; tests run many nodes in one.
const MANY_NODES: usize = 16;
