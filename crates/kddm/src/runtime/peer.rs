//! The link to one peer on one lane: frames in, frames out, reconnects in between.

use std::io::{ErrorKind, IoSlice, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::frame::{BodySeal, Envelope, Numbers, encode, encode_ack, encode_head, seal_body};
use kddm_core::id::{Incarnation, NodeId, ObjectId, SetId};
use kddm_core::io::DEFERRED_NS;
use kddm_core::message::Message;
use kddm_core::session::Session;

use crate::cell::SharedBytes;
use crate::runtime::backlog::Backlog;
use crate::runtime::lane::LaneState;
use crate::runtime::receive::{ACK_DELAY, Inbox};
use crate::runtime::silence::Silence;
use crate::sync::now;
use crate::transport::{Poller, Stream};

/// Bodies from this size on are kept where they lie until they are acknowledged, and go from the
/// socket straight to where they will stay: a copy would cost more than what it saves.
pub(crate) const APART_BYTES: usize = 16 << 10;

/// So much is made ready to be written at a time: what has just been read for its checksum is in a near cache when the
/// system copies it.
const READY_BYTES: u64 = 512 << 10;

/// Pieces written at once.
const PIECES: usize = 16;

/// A peer, connected or not.
#[derive(Default)]
pub(crate) struct Peer {
    /// The life that the installed view gives it.
    pub incarnation: Incarnation,
    pub session: Session<SharedBytes>,
    since: Option<Instant>,
    was_connected: bool,
    stream: Option<Arc<Stream>>,
    pub inbox: Inbox,
    is_dirty: bool,
    /// Its next frame was sent under a placement that is not installed here yet: it waits, and with
    /// it all that follows.
    pub is_held: bool,
    /// What is in the inbox waits for memory.
    pub is_stalled: bool,
    /// A bare acknowledgement that the socket did not take whole.
    rest_of_ack: Vec<u8>,
    /// Its process has ended, see `proof.rs`.
    pub is_proven_dead: bool,
    pub backlog: Backlog,
}

impl Peer {
    pub fn unconnected(incarnation: Incarnation) -> Peer {
        Peer { incarnation, since: Some(Instant::now()), ..Peer::default() }
    }

    /// Whether its connection has ended, or has not come for that long.
    pub fn is_gone(&self, first_connection: Duration) -> bool {
        if self.is_proven_dead {
            return true;
        }
        let has_waited = self.since.is_none_or(|since| since.elapsed() >= first_connection);
        self.stream.is_none() && (self.was_connected || has_waited)
    }

    pub fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether it is connected, and has not owed an answer for seconds.
    pub fn answers(&self, node: NodeId, silence: &Silence) -> bool {
        self.is_connected() && !self.is_proven_dead && !silence.is_silent(node, self.incarnation)
    }

    pub fn is_connected_by(&self, stream: &Arc<Stream>) -> bool {
        self.stream.as_ref().is_some_and(|own| Arc::ptr_eq(own, stream))
    }

    /// The connection, if a large body is arriving by it.
    pub fn arriving(&self) -> Option<&Arc<Stream>> {
        self.stream.as_ref().filter(|_| self.inbox.is_arriving() && !self.is_stalled)
    }

    /// One read into the inbox: how much came, and how much there was room for. `None` without a
    /// connection.
    pub fn read(&mut self) -> Option<std::io::Result<(usize, usize)>> {
        self.stream.as_ref().map(|stream| self.inbox.read(stream))
    }
}

impl LaneState {
    /// Puts a message on its way; it is written when the turn ends.
    pub fn send(
        &mut self,
        set: SetId,
        object: ObjectId,
        to: NodeId,
        message: &Message,
        with_object: bool,
        deferred: bool,
    ) {
        if self.is_wasted(to, message) {
            self.statistics.dropped += 1;
            return;
        }
        self.scratch.clear();
        let apart = if with_object { self.body_of(set, object) } else { None };
        let view = self.core.view();
        let envelope = Envelope {
            epoch: view.epoch,
            placement: view.placement,
            from: self.core.id(),
            incarnation: self.core.incarnation(),
            set,
            object,
        };
        let Some(peer) = self.peers.get_mut(&to) else {
            self.statistics.dropped += 1;
            return;
        };
        if peer.session.unacknowledged_bytes() > self.limits.fence_bytes() {
            // Sources are limited (see `backlog`), so only a peer that never reads can get here.
            tracing::error!(peer = to.0, "the buffer for this peer is beyond its hard limit");
            return self.fence("a peer takes nothing any more");
        }
        let body = apart.as_ref().map_or(&*self.scratch, SharedBytes::as_ref);
        // One that is kept apart gets its checksum when it is written.
        let checksum = if apart.is_some() { 0 } else { checksum_of(body) };
        let seal = BodySeal { length: body.len() as u32, checksum };
        let numbers = Numbers { sequence: peer.session.next_sequence(), acknowledged: peer.session.received() };
        let pushed = if apart.is_some() {
            peer.session.push_apart(!deferred, apart, |out| encode_head(&envelope, message, numbers, seal, out))
        } else {
            peer.session.push(!deferred, |out| {
                encode(&envelope, message, numbers, seal, out)?;
                out.extend_from_slice(&self.scratch);
                Ok(())
            })
        };
        if pushed.is_err() {
            return self.fence("a message could not be put on its way");
        }
        self.statistics.sent[usize::from(message.kind())] += 1;
        if peer.backlog.fills(peer.session.unacknowledged_bytes(), &self.limits) {
            self.full.filled(to);
        }
        if deferred {
            self.defer(Duration::from_nanos(DEFERRED_NS));
        } else {
            self.make_dirty(to);
        }
    }

    /// The bytes of an object as they are now: a small one in `scratch`, a large one as it is.
    fn body_of(&mut self, set: SetId, object: ObjectId) -> Option<SharedBytes> {
        if let Some(putting) = self.locals.get(&(set, object)).and_then(|local| local.putting.as_ref()) {
            if putting.bytes.len() < APART_BYTES {
                self.scratch.extend_from_slice(&putting.bytes);
                return None;
            }
            return Some(putting.bytes.clone().into());
        }
        let store = self.store(set);
        let cell = store.find_or_insert(object.0);
        let shared = store.share(cell, APART_BYTES);
        if shared.is_some() {
            return shared;
        }
        if let Err(error) = store.encode(cell, &mut self.scratch) {
            // It was encoded when it was put: only a type that changes its mind gets here. Whoever
            // reads the object is told that it does not decode.
            tracing::error!(?set, ?object, type_name = store.type_name(), %error, "a value that was put does not encode");
            self.statistics.undecodable += 1;
            self.scratch.clear();
        }
        if self.scratch.len() < APART_BYTES {
            return None;
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.shrink_to_fit();
        Some(bytes.into())
    }

    /// Something is to be written to that peer when the turn ends.
    pub fn make_dirty(&mut self, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !peer.is_dirty {
            peer.is_dirty = true;
            self.dirty.push(id);
        }
    }

    pub fn defer(&mut self, delay: Duration) {
        if self.deferred_until.is_none() {
            self.deferred_until = Some(now() + delay);
        }
    }

    /// Deferred frames and acknowledgements have waited long enough.
    pub fn flush_deferred(&mut self) {
        let (me, mut owes_ack) = (self.core.id(), false);
        for (id, peer) in &mut self.peers {
            let has_deferred = peer.flush(me);
            owes_ack |= peer.session.owes_ack();
            if !peer.rest_of_ack.is_empty() || (!peer.is_dirty && has_deferred) {
                peer.is_dirty = true;
                self.dirty.push(*id);
            }
        }
        if owes_ack {
            self.defer(ACK_DELAY); // A frame is half written: its end may be the last for long.
        }
    }

    pub fn write_dirty(&mut self, poller: &Poller) {
        while let Some(id) = self.dirty.pop() {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.is_dirty = false;
            }
            self.write_peer(id, poller);
        }
    }

    /// Writes until all is written or the socket is full; then its next event goes on.
    pub fn write_peer(&mut self, id: NodeId, poller: &Poller) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(stream) = &peer.stream else { return };
        let mut broken = false;
        loop {
            let ack_first = !peer.rest_of_ack.is_empty();
            let written = if ack_first {
                (&mut &**stream).write(&peer.rest_of_ack)
            } else {
                peer.session.seal_next(READY_BYTES, |head, body| seal_body(head, checksum_of(body)));
                let mut pieces = [IoSlice::new(&[]); PIECES];
                let mut count = 0;
                for (to, piece) in pieces.iter_mut().zip(peer.session.pieces_to_write()) {
                    *to = IoSlice::new(piece);
                    count += 1;
                }
                if count == 0 {
                    break;
                }
                (&mut &**stream).write_vectored(&pieces[..count])
            };
            match written {
                Ok(0) => broken = true,
                Ok(count) if ack_first => {
                    peer.rest_of_ack.drain(..count);
                    continue;
                }
                Ok(count) => {
                    peer.session.wrote(count);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => broken = true,
            }
            break;
        }
        if broken {
            self.disconnect(id, poller);
        }
    }

    /// Nothing more is read from that peer until the next view is installed here.
    pub fn hold(&mut self, id: NodeId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.is_held = true;
        }
        self.core.is_ahead(id);
        self.look_whether_settled();
    }

    /// A view was installed: what waited for it goes on.
    pub fn release_held(&mut self, poller: &Poller) {
        let held: Vec<NodeId> = self.peers.iter().filter(|(_, peer)| peer.is_held).map(|(id, _)| *id).collect();
        for id in held {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.is_held = false;
            }
            // What came meanwhile is told by nobody again, nor is an end.
            if self.handle_received(id, poller) {
                self.read_peer(id, true, poller);
            }
        }
    }

    /// A new connection: what the peer has not received is written again.
    pub fn connect(&mut self, id: NodeId, stream: Stream, received: u64, poller: &Poller) -> std::io::Result<()> {
        if self.fenced {
            return Err(std::io::Error::other("this node is fenced"));
        }
        self.disconnect(id, poller);
        let left = || std::io::Error::other("the peer has left meanwhile");
        let peer = self.peers.get_mut(&id).ok_or_else(left)?;
        let is_again = std::mem::replace(&mut peer.was_connected, true);
        let invalid = |_| std::io::Error::other("the peer acknowledges what was never sent");
        peer.session.resume(received).map_err(invalid)?;
        stream.set_limit(None)?;
        stream.set_nonblocking(true)?;
        // The session goes on with the next one.
        stream.end_soon_in_silence()?;
        peer.inbox.clear();
        peer.is_held = false;
        peer.rest_of_ack.clear();
        poller.add(&stream, u64::from(id.0))?;
        self.statistics.reconnects += u64::from(is_again);
        if peer.backlog.is_relieved(peer.session.unacknowledged_bytes(), &self.limits) {
            self.full.relieved(id);
        }
        peer.stream = Some(Arc::new(stream));
        self.serve_relieved();
        self.write_peer(id, poller);
        self.read_peer(id, false, poller);
        Ok(())
    }

    pub fn disconnect(&mut self, id: NodeId, poller: &Poller) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.is_stalled = false;
        if let Some(stream) = peer.stream.take() {
            poller.remove(&*stream);
            stream.shutdown();
            self.signals.links.raise();
        }
    }
}

impl Peer {
    /// What was deferred is to be written now, and what came since it was made is acknowledged, too: it says only what had come
    /// by then. Whether anything was deferred.
    fn flush(&mut self, me: NodeId) -> bool {
        let has_deferred = self.session.has_deferred();
        if has_deferred {
            self.session.flush_deferred();
        }
        if self.session.owes_ack() {
            write_ack(me, self);
        }
        has_deferred
    }
}

/// The checksum of a body. Most messages have none, and that one is known.
pub(crate) fn checksum_of(body: &[u8]) -> u32 {
    if body.is_empty() { 0 } else { crc32fast::hash(body) }
}

/// Writes a bare acknowledgement, unless a frame is half written: then the next frame carries it.
pub(crate) fn write_ack(me: NodeId, peer: &mut Peer) {
    if peer.session.is_between_frames() && peer.rest_of_ack.is_empty() {
        let received = peer.session.received();
        if encode_ack(me, received, &mut peer.rest_of_ack).is_ok() {
            peer.session.sent_ack();
        }
    }
}

#[cfg(test)]
mod tests {
    use kddm_core::session::Accept;

    use super::*;

    #[test]
    fn what_came_after_a_deferred_frame_was_made_is_acknowledged_beside_it() {
        let mut peer = Peer::unconnected(Incarnation(1));
        let frame = |bytes: &mut Vec<u8>| {
            bytes.extend([7; 64]);
            Ok(())
        };
        peer.session.push(false, frame).expect("there is memory");
        for sequence in 1..=3 {
            assert_eq!(peer.session.accept(sequence, 64), Accept::New);
        }
        assert!(peer.session.owes_ack() && peer.session.has_deferred());
        assert!(peer.flush(NodeId(1)));
        assert!(!peer.session.owes_ack() && !peer.session.has_deferred() && !peer.rest_of_ack.is_empty());
        assert!(!peer.flush(NodeId(1)), "that was all");
    }

    #[test]
    fn no_body_has_the_checksum_that_is_known_of_it() {
        assert_eq!(checksum_of(&[]), crc32fast::hash(&[]));
        assert_eq!(checksum_of(&[7]), crc32fast::hash(&[7]));
    }
}
