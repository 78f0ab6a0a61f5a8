//! Members that are connected and say nothing: a process that was stopped keeps its connections, and
//! its kernel goes on acknowledging. Such a member owes us words of its own: the acknowledgement of a
//! frame, or, between the voter and a follower, the questions and answers of the view log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kddm_core::id::{Incarnation, NodeId};
use kddm_view::{FOLLOW_INTERVAL_NS, State};
use parking_lot::Mutex;

use crate::runtime::Runtime;
use crate::runtime::peer::Peer;

/// How long a member may owe something before it is reported as not reachable: five questions of the
/// view log, and some hundred times what an acknowledgement waits for company.
const SILENCE: Duration = Duration::from_nanos(5 * FOLLOW_INTERVAL_NS);

/// How often is looked whether something has come.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A look that comes later than this was kept from coming: this node itself has been stopped, and
/// knows nothing about the others.
const LATE: Duration = Duration::from_millis(1500);

#[derive(Default)]
pub(crate) struct Silence {
    seen: Mutex<HashMap<NodeId, Seen>>,
    /// Members whose processes are proven to have ended: at most one life each.
    dead: Mutex<HashMap<NodeId, Incarnation>>,
}

/// What is known of a member's words.
#[derive(Default)]
struct Seen {
    life: Incarnation,
    /// What had been received and acknowledged, of all lanes, when it was looked last.
    progress: u64,
    /// Frames have waited for their acknowledgement since then, and nothing has come.
    owes_since: Option<Instant>,
    /// When it last said something about the view log, if it is to do so regularly.
    heard: Option<Instant>,
}

impl Silence {
    /// A member has said something about the view log.
    pub fn heard(&self, node: NodeId) {
        if let Some(seen) = self.seen.lock().get_mut(&node) {
            seen.heard = Some(Instant::now());
        }
    }

    /// The process of that life of a member has ended. True if that is news.
    pub fn bury(&self, node: NodeId, life: Incarnation) -> bool {
        let mut dead = self.dead.lock();
        let is_news = dead.get(&node).is_none_or(|known| *known < life);
        if is_news {
            dead.insert(node, life);
        }
        is_news
    }

    /// Whether the process of that life is proven to have ended.
    pub fn is_dead(&self, node: NodeId, life: Incarnation) -> bool {
        self.dead.lock().get(&node) == Some(&life)
    }

    /// Whether that life has owed something for too long.
    pub fn is_silent(&self, node: NodeId, life: Incarnation) -> bool {
        let seen = self.seen.lock();
        let since = seen.get(&node).filter(|seen| seen.life == life).map(|seen| [seen.owes_since, seen.heard]);
        since.is_some_and(|since| since.into_iter().flatten().any(|since| since.elapsed() >= SILENCE))
    }
}

impl Runtime {
    /// Looks who has said something since the last look, unless that was just now.
    pub fn listen_for_silence(&self, state: &State, looked: &mut Instant) {
        let (now, since) = (Instant::now(), looked.elapsed());
        if since < LOOK_INTERVAL {
            return;
        }
        *looked = now;
        let me = self.identity.id;
        // Before the lock is taken: whoever has a lane may ask who is silent.
        let others = state.members().filter(|(node, _)| *node != me);
        let owed: Vec<_> = others.map(|(node, member)| (node, member, self.owed_by(node))).collect();
        let has_life = |node: &NodeId, life: Incarnation| state.member(*node).is_some_and(|m| m.incarnation == life);
        // One that is news here may be a member by the next look.
        self.silence.dead.lock().retain(|node, life| has_life(node, *life) || *life > state.last_life());
        let mut all = self.silence.seen.lock();
        all.retain(|node, seen| has_life(node, seen.life));
        for (node, member, (owes, progress)) in owed {
            let seen = all.entry(node).or_insert_with(|| Seen { life: member.incarnation, ..Seen::default() });
            let is_late = since >= LATE;
            let goes_on = progress != seen.progress || is_late;
            seen.progress = progress;
            seen.owes_since = if owes && !goes_on { seen.owes_since.or(Some(now)) } else { owes.then_some(now) };
            let is_to_speak = state.voter() == me || state.voter() == node;
            let heard = seen.heard.filter(|_| !is_late).unwrap_or(now);
            seen.heard = is_to_speak.then_some(heard);
        }
    }

    /// Whether frames wait for a connected member's acknowledgement, and a number that grows with all
    /// that comes from it.
    fn owed_by(&self, node: NodeId) -> (bool, u64) {
        let mut sum = (false, 0);
        for lane in &self.lanes {
            let state = lane.lock();
            if let Some(peer) = state.peers.get(&node).filter(|peer| Peer::is_connected(peer)) {
                sum.0 |= peer.session.unacknowledged_bytes() > 0;
                sum.1 += peer.session.received() + peer.session.acknowledged_sequence();
            }
        }
        sum
    }
}
