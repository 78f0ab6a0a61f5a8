//! Threads of a node besides its lanes: one accepts, one keeps the links.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kddm_core::id::NodeId;
use kddm_view::MemberEntry;

use crate::runtime::Runtime;
use crate::runtime::control::CONTROL_LIMIT;
use crate::transport::greeting::{Purpose, greet};
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
        let runtime = Arc::clone(self);
        threads.push(named("views").spawn(move || runtime.keep_views())?);
        let runtime = Arc::clone(self);
        threads.push(named("placing").spawn(move || runtime.keep_placement())?);
        let runtime = Arc::clone(self);
        // Not among those that a stop waits for: it waits for the notifiers, up to a limit.
        named("notify").spawn(move || runtime.run_notifiers())?;
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
        while !self.is_stopping() {
            let state = self.membership.lock().state.clone();
            let my_life = self.identity.incarnation;
            // The later life dials, so that two nodes never dial each other.
            for (id, member) in state.members().filter(|(_, member)| member.incarnation < my_life) {
                self.connect_to(id, member);
            }
            let mut membership = self.membership.lock();
            if membership.state.applied() == state.applied() && !self.is_stopping() {
                self.wait_for_change(&mut membership, Instant::now() + ROUND);
            }
        }
    }

    fn connect_to(self: &Arc<Self>, id: NodeId, member: &MemberEntry) {
        let Ok(address) = member.address.parse::<Address>() else { return };
        for (number, lane) in self.lanes.iter().enumerate() {
            let received = {
                let state = lane.lock();
                match state.peers.get(&id) {
                    Some(peer) if !peer.is_connected() => peer.session.received(),
                    _ => continue,
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
