//! From a peer's socket to the protocol. A large body goes straight to where it will stay, and its
//! checksum is computed while it arrives.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::frame::{DecodeError, DecodedHead, Envelope, Head, decode_head};
use kddm_core::id::NodeId;
use kddm_core::io::NoMemory;
use kddm_core::session::Accept;
use rustix::buffer::spare_capacity;

use crate::pages::find_pages;
use crate::runtime::lane::{Lane, LaneState};
use crate::runtime::peer::{APART_BYTES, Peer, checksum_of, write_ack};
use crate::spare::{self, Spare};
use crate::transport::{Poller, Stream};

/// Bytes read at once where no large body is expected.
const READ_BYTES: usize = 64 << 10;

/// Bytes read at once behind a large body: the head of another one, perhaps. What is read of its body is copied, so this is
/// little; all small frames that wait there take one read more.
const HEAD_BYTES: usize = 1 << 10;

/// How long an acknowledgement may wait for a frame to ride on: far below the time in which an
/// unacknowledged buffer fills, far above the time between frames of a busy link.
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(20);

/// For so many bytes of a body pages are found at once: not for more than that beyond what has come.
const PAGES_BYTES: usize = 256 << 10;

/// How long a thread that waits for an answer stays with a large body that is arriving, in all and
/// for more of it.
const FOLLOW_LIMIT: Duration = Duration::from_millis(5);
const MORE_LIMIT: Duration = Duration::from_millis(1);

/// What has arrived from a peer and is not handled yet.
#[derive(Default)]
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    filled: usize,
    body: Option<Arriving>,
    /// The last frame had a large body, and the next one may have.
    expects_large: bool,
}

/// A large body on its way, and what came before it.
struct Arriving {
    head: Head,
    /// Bytes of the whole frame.
    length: usize,
    bytes: Vec<u8>,
    checksum: crc32fast::Hasher,
    /// Up to where pages were found for it.
    paged: usize,
}

impl Arriving {
    /// Room for a body, and its first bytes. What is announced beyond `usual_bytes` gets room as it
    /// arrives, so that nobody makes us reserve what they only announce.
    fn new(head: Head, length: usize, first: &[u8], usual_bytes: usize) -> Result<Arriving, NoMemory> {
        let announced = head.seal.length as usize;
        let Spare { mut bytes, found: paged } =
            spare::take(announced.min(usual_bytes.max(2 * first.len()))).map_err(|_| NoMemory)?;
        bytes.extend_from_slice(first);
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(first);
        Ok(Arriving { head, length, bytes, checksum, paged })
    }

    fn announced_bytes(&self) -> usize {
        self.head.seal.length as usize
    }

    fn is_whole(&self) -> bool {
        self.bytes.len() >= self.announced_bytes()
    }

    /// One read: how much came, and how much there was room for.
    fn read(&mut self, stream: &Stream) -> std::io::Result<(usize, usize)> {
        let before = self.bytes.len();
        if before == self.bytes.capacity() {
            let more = (self.announced_bytes() - before).min(before);
            self.bytes.try_reserve_exact(more).map_err(|_| ErrorKind::OutOfMemory)?;
        }
        if before >= self.paged {
            find_pages(&mut self.bytes, PAGES_BYTES);
            self.paged = before + PAGES_BYTES;
        }
        let room = self.bytes.capacity() - before;
        let count = rustix::io::read(stream, spare_capacity(&mut self.bytes))?;
        let end = self.bytes.len().min(self.announced_bytes());
        self.checksum.update(&self.bytes[before..end]);
        Ok((count, room))
    }
}

impl Inbox {
    /// Forgets what came over a connection that is no more.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.body = None;
        self.make_room(0);
    }

    /// A large body is on its way.
    pub fn is_arriving(&self) -> bool {
        self.body.is_some()
    }

    /// Room for so many bytes in the buffer. More than usual is needed for long lists of nodes only.
    fn make_room(&mut self, needed: usize) {
        let size = needed.max(READ_BYTES);
        if self.buffer.len() < size || (self.buffer.len() > size && self.filled == 0) {
            self.buffer.resize(size, 0);
            self.buffer.shrink_to_fit();
        }
    }

    pub fn read(&mut self, mut stream: &Stream) -> std::io::Result<(usize, usize)> {
        if let Some(body) = &mut self.body {
            return body.read(stream);
        }
        let most = if self.expects_large { self.filled + HEAD_BYTES } else { self.buffer.len() };
        let end = most.min(self.buffer.len());
        let room = &mut self.buffer[self.filled..end];
        let room_bytes = room.len();
        let count = stream.read(room)?;
        self.filled += count;
        Ok((count, room_bytes))
    }

    /// Takes a whole body out; what came behind it goes to the buffer, which was empty.
    fn whole_body(&mut self) -> Option<Arriving> {
        let mut body = self.body.take_if(|body| body.is_whole())?;
        self.expects_large = true;
        let behind = body.bytes.split_off(body.announced_bytes());
        if !behind.is_empty() {
            self.make_room(behind.len());
            self.buffer[..behind.len()].copy_from_slice(&behind);
            self.filled = behind.len();
        }
        Some(body)
    }
}

/// Why receiving does not go on.
pub(crate) enum Trouble {
    /// What came cannot be meant: the connection is of no more use.
    Malformed(&'static str),
    /// Memory was refused, and nothing was changed. What came waits, and the socket is not read, so
    /// that the peer has to wait too.
    NoMemory,
    /// It was sent under a placement that is not installed here yet: it waits for that.
    Early,
}

impl From<NoMemory> for Trouble {
    fn from(_: NoMemory) -> Trouble {
        Trouble::NoMemory
    }
}

impl Lane {
    /// Stays with a large body that is arriving: a thread that waits for an answer would miss the next
    /// part of it while it handles this one, and the lane's thread would have to hand it over.
    pub fn follow(&self, id: NodeId, stream: &Arc<Stream>) {
        self.poller.tell_readable(&**stream, u64::from(id.0), false);
        let until = Instant::now() + FOLLOW_LIMIT;
        let mut arriving = true;
        while arriving && stream.wait_readable(MORE_LIMIT) && Instant::now() < until {
            let mut state = self.lock();
            state.read_peer(id, false, &self.poller);
            arriving = state.peers.get(&id).and_then(Peer::arriving).is_some_and(|same| Arc::ptr_eq(same, stream));
            self.finish(state);
        }
        let state = self.lock();
        if state.peers.get(&id).is_some_and(|peer| peer.is_connected_by(stream)) {
            self.poller.tell_readable(&**stream, u64::from(id.0), true);
        }
    }
}

impl LaneState {
    /// Reads until nothing is left, handling each frame as soon as it is whole. A connection that has
    /// `ended` is read up to its end: nothing tells of that end again.
    pub fn read_peer(&mut self, id: NodeId, ended: bool, poller: &Poller) {
        loop {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            if peer.is_stalled || peer.is_held {
                return;
            }
            let Some(read) = peer.read() else { return };
            match read {
                Ok((0, _)) => return self.disconnect(id, poller),
                Ok((count, room)) => {
                    if !self.handle_received(id, poller) {
                        return;
                    }
                    // A short read means the socket is empty: its next event comes by itself.
                    if count < room && !ended {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::OutOfMemory => return self.stall(id),
                Err(_) => return self.disconnect(id, poller),
            }
        }
    }

    /// Handles what has arrived. False: do not read on.
    pub fn handle_received(&mut self, id: NodeId, poller: &Poller) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let mut inbox = std::mem::take(&mut peer.inbox);
        let result = self.handle_inbox(id, &mut inbox);
        self.serve_relieved();
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        peer.inbox = inbox;
        let must_ack = peer.session.must_ack_now();
        if must_ack {
            write_ack(self.core.id(), peer);
        }
        // In the middle of a frame it is owed still.
        let owes_ack = peer.session.owes_ack();
        if must_ack {
            self.make_dirty(id);
        }
        if owes_ack {
            self.defer(ACK_DELAY);
        }
        match result {
            Ok(()) => true,
            Err(Trouble::NoMemory) => {
                self.stall(id);
                false
            }
            Err(Trouble::Early) => {
                self.hold(id);
                false
            }
            Err(Trouble::Malformed(reason)) => {
                self.statistics.malformed += 1;
                tracing::warn!(peer = id.0, reason, "ending a connection");
                self.disconnect(id, poller);
                false
            }
        }
    }

    /// Handles all whole frames.
    fn handle_inbox(&mut self, id: NodeId, inbox: &mut Inbox) -> Result<(), Trouble> {
        if inbox.body.as_ref().is_some_and(|body| !body.is_whole()) {
            return Ok(());
        }
        if let Some(mut arriving) = inbox.whole_body() {
            let mut body = Some(Cow::Owned(std::mem::take(&mut arriving.bytes)));
            let checksum = arriving.checksum.clone().finalize();
            if let Err(trouble) = self.handle_frame(id, &arriving.head, arriving.length, checksum, &mut body) {
                arriving.bytes = body.map(Cow::into_owned).unwrap_or_default();
                inbox.body = Some(arriving);
                return Err(trouble);
            }
        }
        let mut parsed = 0;
        let result = self.handle_buffer(id, inbox, &mut parsed);
        inbox.buffer.copy_within(parsed..inbox.filled, 0);
        inbox.filled -= parsed;
        inbox.make_room(*result.as_ref().unwrap_or(&0));
        result.map(|_| ())
    }

    /// Handles the whole frames in the buffer, counting what is done with in `parsed`. Says how many
    /// bytes the next one needs there.
    fn handle_buffer(&mut self, id: NodeId, inbox: &mut Inbox, parsed: &mut usize) -> Result<usize, Trouble> {
        while *parsed < inbox.filled {
            let received = &inbox.buffer[*parsed..inbox.filled];
            let (head, start) = match decode_head(received) {
                Ok(DecodedHead::Head(head, start)) => (head, start),
                Ok(DecodedHead::Needs(bytes)) => return Ok(bytes),
                Err(DecodeError::NoMemory) => return Err(Trouble::NoMemory),
                Err(error) => {
                    tracing::debug!(?error, "malformed frame");
                    return Err(Trouble::Malformed("a malformed frame"));
                }
            };
            let length = start + head.seal.length as usize;
            if let Some(body) = received.get(start..length) {
                self.handle_frame(id, &head, length, checksum_of(body), &mut Some(Cow::Borrowed(body)))?;
                *parsed += length;
                inbox.expects_large = false;
            } else if length - start < APART_BYTES {
                return Ok(length);
            } else {
                inbox.body = Some(Arriving::new(head, length, &received[start..], self.limits.object_bytes)?);
                *parsed = inbox.filled;
            }
        }
        Ok(0)
    }

    pub fn handle_frame(
        &mut self,
        id: NodeId,
        head: &Head,
        length: usize,
        checksum: u32,
        body: &mut Option<Cow<'_, [u8]>>,
    ) -> Result<(), Trouble> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        if peer.session.acknowledged(head.numbers.acknowledged).is_err() {
            return Err(Trouble::Malformed("an acknowledgement of what was never sent"));
        }
        if peer.backlog.is_relieved(peer.session.unacknowledged_bytes(), &self.limits) {
            self.full.relieved(id);
        }
        let Some(message) = &head.message else { return Ok(()) };
        if head.envelope.from != id {
            return Err(Trouble::Malformed("a frame that names another sender"));
        }
        if !self.part.may_hear(head.envelope.set, head.envelope.object, message) {
            return Err(Trouble::Malformed("a frame about an object of another lane"));
        }
        // Before it is accepted: what is not received is written again on the next connection.
        if checksum != head.seal.checksum {
            return Err(Trouble::Malformed("a body with a wrong checksum"));
        }
        if head.envelope.placement > self.core.view().placement {
            return Err(Trouble::Early);
        }
        match peer.session.accept(head.numbers.sequence, length) {
            Accept::New => {}
            Accept::Duplicate => return Ok(()),
            Accept::Gap => return Err(Trouble::Malformed("a missing frame")),
        }
        if head.envelope.epoch < self.core.epoch() {
            self.statistics.dropped += 1; // I8: nothing from an older epoch changes any state.
            self.statistics.received[usize::from(message.kind())] += 1;
            return Ok(());
        }
        let Envelope { set, object, epoch, .. } = head.envelope;
        if !self.holds_back(id, epoch, set, object, message) {
            let handled = self.message(id, set, object, message.clone(), body);
            if handled.is_err()
                && let Some(peer) = self.peers.get_mut(&id)
            {
                peer.session.take_back(length);
            }
            // Now it acknowledges what was received, and nothing else has been.
            self.follow_undone();
            handled?;
        }
        self.statistics.received[usize::from(message.kind())] += 1;
        Ok(())
    }
}
