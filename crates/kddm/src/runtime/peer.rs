//! The link to one peer on one lane: frames in, frames out, reconnects in between.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use kddm_core::frame::{BodySeal, Decoded, Envelope, Frame, Numbers, decode, encode, encode_ack};
use kddm_core::id::{Incarnation, NodeId, ObjectId, SetId};
use kddm_core::io::DEFERRED_NS;
use kddm_core::message::Message;
use kddm_core::session::{Accept, Session};

use crate::runtime::backlog::Backlog;
use crate::runtime::lane::LaneState;
use crate::transport::{Poller, Stream};

/// Bytes read at once where no larger frame is expected.
const READ_BYTES: usize = 64 << 10;

/// How long an acknowledgement may wait for a frame to ride on: far below the time in which an
/// unacknowledged buffer fills, far above the time between frames of a busy link.
const ACK_DELAY: Duration = Duration::from_millis(20);

/// A peer, connected or not.
#[derive(Default)]
pub(crate) struct Peer {
    /// The life that the installed view gives it.
    pub incarnation: Incarnation,
    pub session: Session,
    since: Option<Instant>,
    was_connected: bool,
    stream: Option<Stream>,
    /// Bytes received; from `parsed` on they are not handled yet.
    received: Vec<u8>,
    filled: usize,
    is_dirty: bool,
    /// Its next frame was sent under a placement that is not installed here yet: it waits, and with
    /// it all that follows.
    is_held: bool,
    /// A bare acknowledgement that the socket did not take whole.
    rest_of_ack: Vec<u8>,
    pub backlog: Backlog,
}

impl Peer {
    pub fn unconnected(incarnation: Incarnation) -> Peer {
        Peer { incarnation, since: Some(Instant::now()), session: Session::new(), ..Peer::default() }
    }

    /// Whether its connection has ended, or has not come for that long.
    pub fn is_gone(&self, first_connection: Duration) -> bool {
        let has_waited = self.since.is_none_or(|since| since.elapsed() >= first_connection);
        self.stream.is_none() && (self.was_connected || has_waited)
    }

    pub fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Room for a frame of `needed` bytes. One beyond `usual_bytes` gets room as its bytes arrive, so
    /// that nobody makes us reserve what they only announce.
    fn make_room(&mut self, needed: usize, usual_bytes: usize) {
        let at_once = needed.min(usual_bytes.max(2 * self.filled));
        let size = at_once.max(READ_BYTES);
        if self.received.len() < size {
            self.received.resize(size, 0);
        } else if self.received.len() > 16 * READ_BYTES && needed <= READ_BYTES && self.filled == 0 {
            self.received = vec![0; READ_BYTES];
        }
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
        if with_object {
            let store = self.store(set);
            let cell = store.find_or_insert(object.0);
            if store.encode(cell, &mut self.scratch).is_err() {
                self.statistics.undecodable += 1;
                self.scratch.clear();
            }
        }
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
            tracing::error!(peer = to.0, "the buffer for this peer is beyond its hard limit: fencing this node");
            self.faulted = true;
            return;
        }
        let seal = BodySeal { length: self.scratch.len() as u32, checksum: crc32fast::hash(&self.scratch) };
        let numbers = Numbers { sequence: peer.session.next_sequence(), acknowledged: peer.session.received() };
        let body = &self.scratch;
        let pushed = peer.session.push(!deferred, |out| {
            encode(&envelope, message, numbers, seal, out)?;
            out.extend_from_slice(body);
            Ok(())
        });
        if pushed.is_err() {
            self.faulted = true;
            return;
        }
        self.statistics.sent[usize::from(message.kind())] += 1;
        if peer.backlog.fills(peer.session.unacknowledged_bytes(), &self.limits) {
            self.full.filled(to);
        }
        if deferred {
            self.defer(Duration::from_nanos(DEFERRED_NS));
        } else if !peer.is_dirty {
            peer.is_dirty = true;
            self.dirty.push(to);
        }
        if self.scratch.capacity() > 1 << 20 {
            self.scratch = Vec::new();
        }
    }

    fn defer(&mut self, delay: Duration) {
        if self.deferred_until.is_none() {
            self.deferred_until = Some(Instant::now() + delay);
        }
    }

    /// Deferred frames and acknowledgements have waited long enough.
    pub fn flush_deferred(&mut self) {
        let mut waiting = Vec::new();
        for (id, peer) in &mut self.peers {
            if peer.session.has_deferred() {
                peer.session.flush_deferred();
                waiting.push(*id);
            } else if peer.session.owes_ack() {
                write_ack(self.core.id(), peer);
            }
            if !peer.rest_of_ack.is_empty() || (!peer.is_dirty && waiting.last() == Some(id)) {
                peer.is_dirty = true;
                self.dirty.push(*id);
            }
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
            let bytes: &[u8] = if ack_first { &peer.rest_of_ack } else { peer.session.to_write() };
            if bytes.is_empty() {
                break;
            }
            match (&mut &*stream).write(bytes) {
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

    /// Reads until nothing is left, handling each frame as soon as it is whole. A connection that has
    /// `ended` is read up to its end: nothing tells of that end again.
    pub fn read_peer(&mut self, id: NodeId, ended: bool, poller: &Poller) {
        loop {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            let Some(stream) = peer.stream.as_ref().filter(|_| !peer.is_held) else { return };
            let room = &mut peer.received[peer.filled..];
            let room_bytes = room.len();
            match (&mut &*stream).read(room) {
                Ok(0) => return self.disconnect(id, poller),
                Ok(count) => {
                    peer.filled += count;
                    if let Err(reason) = self.handle_received(id) {
                        self.statistics.malformed += 1;
                        tracing::warn!(peer = id.0, reason, "ending a connection");
                        return self.disconnect(id, poller);
                    }
                    // A short read means the socket is empty: its next event comes by itself.
                    if count < room_bytes && !ended {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.disconnect(id, poller),
            }
        }
    }

    /// Whether a frame was sent under a placement that is not installed here yet.
    fn is_early(&self, frame: &Frame<'_>) -> bool {
        frame.message.is_some() && frame.envelope.placement > self.core.view().placement
    }

    /// Nothing more is read from that peer until the next view is installed here.
    fn hold(&mut self, id: NodeId) {
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
            if let Err(reason) = self.handle_received(id) {
                self.statistics.malformed += 1;
                tracing::warn!(peer = id.0, reason, "ending a connection");
                self.disconnect(id, poller);
            }
            self.read_peer(id, true, poller);
        }
    }

    /// Handles all whole frames in the receive buffer.
    fn handle_received(&mut self, id: NodeId) -> Result<(), &'static str> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let buffer = std::mem::take(&mut peer.received);
        let filled = std::mem::take(&mut peer.filled);
        let mut parsed = 0;
        let mut needed = 0;
        let mut result = Ok(());
        while parsed < filled {
            match decode(&buffer[parsed..filled]) {
                Ok(Decoded::Frame(frame, length)) if self.is_early(&frame) => {
                    self.hold(id);
                    needed = length;
                    break;
                }
                Ok(Decoded::Frame(frame, length)) => {
                    parsed += length;
                    result = self.handle_frame(id, &frame, length);
                    if result.is_err() {
                        break;
                    }
                }
                Ok(Decoded::Needs(bytes)) => {
                    needed = bytes;
                    break;
                }
                Err(error) => {
                    tracing::debug!(?error, "malformed frame");
                    result = Err("a malformed frame");
                    break;
                }
            }
        }
        self.serve_relieved();
        let Some(peer) = self.peers.get_mut(&id) else { return result };
        peer.received = buffer;
        peer.received.copy_within(parsed..filled, 0);
        peer.filled = filled - parsed;
        peer.make_room(needed, self.limits.object_bytes);
        if peer.session.must_ack_now() {
            write_ack(self.core.id(), peer);
            if !peer.is_dirty {
                peer.is_dirty = true;
                self.dirty.push(id);
            }
        } else if peer.session.owes_ack() {
            self.defer(ACK_DELAY);
        }
        result
    }

    fn handle_frame(&mut self, id: NodeId, frame: &Frame<'_>, length: usize) -> Result<(), &'static str> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        if peer.session.acknowledged(frame.numbers.acknowledged).is_err() {
            return Err("an acknowledgement of what was never sent");
        }
        if peer.backlog.is_relieved(peer.session.unacknowledged_bytes(), &self.limits) {
            self.full.relieved(id);
        }
        let Some(message) = &frame.message else { return Ok(()) };
        if frame.envelope.from != id {
            return Err("a frame that names another sender");
        }
        // Before it is accepted: what is not received is written again on the next connection.
        if crc32fast::hash(frame.body) != frame.seal.checksum {
            return Err("a body with a wrong checksum");
        }
        match peer.session.accept(frame.numbers.sequence, length) {
            Accept::New => {}
            Accept::Duplicate => return Ok(()),
            Accept::Gap => return Err("a missing frame"),
        }
        self.statistics.received[usize::from(message.kind())] += 1;
        if frame.envelope.epoch < self.core.epoch() {
            self.statistics.dropped += 1; // I8: nothing from an older epoch changes any state.
            return Ok(());
        }
        let Envelope { set, object, epoch, .. } = frame.envelope;
        if self.holds_back(id, epoch, set, object, message) {
            return Ok(());
        }
        self.message(id, set, object, message.clone(), frame.body);
        Ok(())
    }

    /// A new connection: what the peer has not received is written again.
    pub fn connect(&mut self, id: NodeId, stream: Stream, received: u64, poller: &Poller) -> std::io::Result<()> {
        self.disconnect(id, poller);
        let left = || std::io::Error::other("the peer has left meanwhile");
        let peer = self.peers.get_mut(&id).ok_or_else(left)?;
        peer.was_connected = true;
        let invalid = |_| std::io::Error::other("the peer acknowledges what was never sent");
        peer.session.resume(received).map_err(invalid)?;
        stream.set_limit(None)?;
        stream.set_nonblocking(true)?;
        peer.filled = 0;
        peer.is_held = false;
        peer.make_room(0, 0);
        peer.rest_of_ack.clear();
        poller.add(&stream, u64::from(id.0))?;
        self.statistics.reconnects += 1;
        if peer.backlog.is_relieved(peer.session.unacknowledged_bytes(), &self.limits) {
            self.full.relieved(id);
        }
        peer.stream = Some(stream);
        self.serve_relieved();
        self.write_peer(id, poller);
        self.read_peer(id, false, poller);
        Ok(())
    }

    pub fn disconnect(&mut self, id: NodeId, poller: &Poller) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(stream) = peer.stream.take() {
            poller.remove(&stream);
            stream.shutdown();
            self.lost_links = true;
        }
    }
}

/// Writes a bare acknowledgement, unless a frame is half written: then the next frame carries it.
fn write_ack(me: NodeId, peer: &mut Peer) {
    if peer.session.is_between_frames() && peer.rest_of_ack.is_empty() {
        let received = peer.session.received();
        if encode_ack(me, received, &mut peer.rest_of_ack).is_ok() {
            peer.session.sent_ack();
        }
    }
}
