//! Threads of a node besides its lanes: one accepts, one keeps the links and tells of new views.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kddm_core::id::NodeId;

use crate::runtime::Runtime;
use crate::runtime::control::{Answer, CONTROL_LIMIT, Entry, Question};
use crate::transport::greeting::{Purpose, call, greet};
use crate::transport::{Address, Stream};

/// How often the links are looked after when nothing changes.
const ROUND: Duration = Duration::from_millis(50);

/// Connections that may be greeted at one time: what strangers can make us hold.
const GREETINGS: usize = 64;

impl Runtime {
    pub fn start_threads(self: &Arc<Self>) -> std::io::Result<()> {
        let mut threads = self.threads.lock();
        let named = |name: &str| std::thread::Builder::new().name(format!("kddm-{name}"));
        for lane in &self.lanes {
            let lane = Arc::clone(lane);
            threads.push(named("lane").spawn(move || lane.drive())?);
        }
        let runtime = Arc::clone(self);
        threads.push(named("accept").spawn(move || runtime.accept_all())?);
        let runtime = Arc::clone(self);
        threads.push(named("links").spawn(move || runtime.keep_links())?);
        Ok(())
    }

    fn accept_all(self: &Arc<Self>) {
        static GREETED: AtomicUsize = AtomicUsize::new(0);
        while !self.is_stopping() {
            let stream: Stream = match self.listener.accept() {
                Ok(Some(stream)) => stream,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    continue;
                }
            };
            if GREETED.fetch_add(1, Ordering::Relaxed) >= GREETINGS * MANY_NODES {
                GREETED.fetch_sub(1, Ordering::Relaxed);
                stream.shutdown();
                continue;
            }
            let runtime = Arc::clone(self);
            // A thread of its own, so that a silent stranger keeps nobody waiting.
            let served = std::thread::Builder::new().name("kddm-greet".into()).spawn(move || {
                if let Err(error) = runtime.serve(stream) {
                    if error.kind() == std::io::ErrorKind::InvalidData {
                        runtime.lanes[0].lock().statistics.malformed += 1;
                    }
                    tracing::debug!(%error, "a connection ended before it was of use");
                }
                GREETED.fetch_sub(1, Ordering::Relaxed);
            });
            if served.is_err() {
                GREETED.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn keep_links(self: &Arc<Self>) {
        let mut told: HashMap<u16, u32> = HashMap::new();
        while !self.is_stopping() {
            let cluster = self.cluster.lock().clone();
            let me = cluster.entry(self.identity.id.0).map_or(0, |entry| entry.incarnation);
            for member in cluster.members.iter().filter(|member| member.id != self.identity.id.0) {
                // The later life dials, so that two nodes never dial each other.
                if member.incarnation < me {
                    self.connect_to(member);
                }
                if self.is_voter(&cluster) && told.get(&member.id) != Some(&cluster.placement) {
                    let hello = self.hello(Purpose::Control);
                    let question = Question::Learn(cluster.clone());
                    let Ok(address) = member.address.parse::<Address>() else { continue };
                    if call::<_, Answer>(&address, &hello, &question, CONTROL_LIMIT).is_ok() {
                        told.insert(member.id, cluster.placement);
                    }
                }
            }
            let mut now = self.cluster.lock();
            if now.placement == cluster.placement && !self.is_stopping() {
                self.wait_for_change(&mut now, Instant::now() + ROUND);
            }
        }
    }

    fn connect_to(self: &Arc<Self>, member: &Entry) {
        let id = NodeId(member.id);
        let Ok(address) = member.address.parse::<Address>() else { return };
        for (number, lane) in self.lanes.iter().enumerate() {
            let received = {
                let state = lane.lock();
                match state.peers.get(&id) {
                    Some(peer) if peer.is_connected() => continue,
                    Some(peer) => peer.session.received(),
                    None => 0,
                }
            };
            let purpose = Purpose::Link { lane: number as u8, lanes: self.lanes.len() as u8, received };
            match greet(&address, &self.hello(purpose), CONTROL_LIMIT) {
                Ok((stream, _, received)) => {
                    let mut state = lane.lock();
                    if let Err(error) = state.connect(id, stream, received, &lane.poller) {
                        tracing::warn!(peer = id.0, %error, "a link could not be resumed");
                    }
                    lane.finish(state);
                    self.changed.notify_all();
                }
                Err(error) => tracing::debug!(peer = id.0, %error, "no link yet"),
            }
        }
    }

    /// Members with which this node has no link now.
    pub fn unlinked(&self) -> Vec<u16> {
        self.members().iter().filter(|member| !member.reachable).map(|member| member.id).collect()
    }
}

/// The bound on greetings is for the process; tests run many nodes in one.
const MANY_NODES: usize = 16;
