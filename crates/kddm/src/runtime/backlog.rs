//! More for a peer than it takes. First its own requests wait here, so that what it has asked for
//! goes out as fast as it reads; then requests *to* it are refused, where they come from; and memory
//! is bounded all the time.
//!
//! A request may wait without holding up other messages: it could as well have come by a longer way.

use std::borrow::Cow;
use std::collections::VecDeque;

use kddm_core::id::{Epoch, NodeId, ObjectId, SetId};
use kddm_core::message::{Message, Request, RequestKind};

use crate::error::{AccessError, Error};
use crate::runtime::lane::{LaneState, Limits};
use crate::runtime::local::Wish;

/// A request of a peer that has more to take first.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    from: NodeId,
    epoch: Epoch,
    set: SetId,
    object: ObjectId,
    request: Request,
}

/// The peers of a lane that have more to take first.
#[derive(Default)]
pub(crate) struct FullPeers {
    full: Vec<NodeId>,
    /// Those that were full: their requests are served when the frames at hand have been handled.
    relieved: Vec<NodeId>,
}

impl FullPeers {
    pub fn is_empty(&self) -> bool {
        self.full.is_empty()
    }

    pub fn filled(&mut self, peer: NodeId) {
        self.full.push(peer);
    }

    pub fn relieved(&mut self, peer: NodeId) {
        self.full.retain(|full| *full != peer);
        self.relieved.push(peer);
    }
}

/// What waits for one peer.
#[derive(Default)]
pub(crate) struct Backlog {
    /// Its requests wait until it has taken half of what was too much.
    is_full: bool,
    held: VecDeque<Held>,
}

impl Limits {
    /// Requests to a peer are refused when it has left this much: its own requests have waited long
    /// before, so it takes nothing any more.
    fn refuse_bytes(&self) -> usize {
        (2 * self.peer_buffer_bytes).saturating_add(self.object_bytes)
    }

    /// Beyond this a node fences itself. Only what must not be refused can get here.
    pub fn fence_bytes(&self) -> usize {
        2 * self.refuse_bytes()
    }
}

impl Backlog {
    /// So many bytes wait for the peer now: true if that has just become too much.
    pub fn fills(&mut self, bytes: usize, limits: &Limits) -> bool {
        let filled = !self.is_full && bytes > limits.peer_buffer_bytes;
        self.is_full |= filled;
        filled
    }

    /// So many bytes are left: true if that was too much until now.
    pub fn is_relieved(&mut self, bytes: usize, limits: &Limits) -> bool {
        let relieved = self.is_full && bytes <= limits.peer_buffer_bytes / 2;
        self.is_full &= !relieved;
        relieved
    }
}

impl LaneState {
    /// Whether a request has to wait because its sender has more to take first. It is kept then.
    pub fn holds_back(&mut self, from: NodeId, epoch: Epoch, set: SetId, object: ObjectId, message: &Message) -> bool {
        let Message::Request(request) = message else { return false };
        let most = self.limits.outstanding;
        let Some(asker) = self.peers.get_mut(&request.id.node) else { return false };
        let backlog = &mut asker.backlog;
        if !backlog.is_full && backlog.held.is_empty() {
            return false;
        }
        if backlog.held.len() >= most {
            self.statistics.dropped += 1; // Its wait ends at its limit.
        } else {
            backlog.held.push_back(Held { from, epoch, set, object, request: *request });
        }
        true
    }

    /// Whether some peer has more to take before it is to get more.
    pub fn is_a_peer_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// Serves what waited for peers that have taken enough meanwhile.
    pub fn serve_relieved(&mut self) {
        while let Some(id) = self.full.relieved.pop() {
            while let Some(held) = self.next_held(id) {
                let Held { from, epoch, set, object, request } = held; // Copied: it may have to wait on.
                if epoch < self.core.epoch() {
                    self.statistics.dropped += 1; // I8, as at its arrival.
                    continue;
                }
                let message = Message::Request(request);
                if self.message(from, set, object, message, &mut Some(Cow::Borrowed(&[]))).is_err() {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        peer.backlog.held.push_front(held);
                    }
                    self.follow_undone();
                    return self.relieve_later(id);
                }
            }
        }
    }

    fn next_held(&mut self, id: NodeId) -> Option<Held> {
        let backlog = &mut self.peers.get_mut(&id)?.backlog;
        if backlog.is_full { None } else { backlog.held.pop_front() }
    }

    /// Whether a message of somebody else for this peer is better not sent: it takes nothing any more,
    /// and whoever waits for the answer gives up at the limit.
    pub fn is_wasted(&self, to: NodeId, message: &Message) -> bool {
        let Message::Request(request) = message else { return false };
        !self.full.full.is_empty() && request.id.node != self.core.id() && self.takes_nothing(to).is_some()
    }

    /// Why that wish is not begun here now, if that is so.
    pub fn refusal_of(&self, set: SetId, object: ObjectId, wish: Wish) -> Option<Error> {
        self.refusal(set).or_else(|| self.refused_by_backlog(set, object, wish))
    }

    /// The peer that takes nothing any more and that this wish would be sent to first.
    pub fn refused_by_backlog(&self, set: SetId, object: ObjectId, wish: Wish) -> Option<Error> {
        if self.full.full.is_empty() {
            return None;
        }
        let to = match wish.kind() {
            // The last copy may go to any of several.
            RequestKind::Flush { .. } => {
                self.full.full.iter().copied().find(|peer| self.takes_nothing(*peer).is_some())
            }
            _ => self.first_asked(set, object, wish),
        }?;
        let (bytes, limit_bytes) = (self.takes_nothing(to)?, self.limits.refuse_bytes());
        Some(AccessError::PeerFull { node: to.0, bytes, limit_bytes }.into())
    }

    fn takes_nothing(&self, peer: NodeId) -> Option<usize> {
        let bytes = self.peers.get(&peer)?.session.unacknowledged_bytes();
        (bytes > self.limits.refuse_bytes()).then_some(bytes)
    }

    fn first_asked(&self, set: SetId, object: ObjectId, wish: Wish) -> Option<NodeId> {
        let me = self.core.id();
        let home = self.core.home(set, object)?;
        let somebody = |node: &NodeId| node.is_somebody() && *node != me;
        let Some(seen) = self.core.inspect(set, object) else { return Some(home).filter(somebody) };
        let is_here = wish.level().is_some_and(|level| seen.access >= level);
        if is_here || seen.hint == me {
            return None;
        }
        let entry = seen.entry.map_or(NodeId::NOBODY, |entry| entry.node);
        [seen.hint, home, entry].into_iter().find(somebody)
    }
}
