//! One direction each way between two nodes: frames numbered, kept until acknowledged, written again
//! after a reconnect. So the protocol above sees every message once and in order.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::io::NoMemory;

/// Frames received after which an acknowledgement is owed even if nothing else is sent back.
pub const ACK_EVERY_FRAMES: u32 = 256;

/// Bytes received after which an acknowledgement is owed: keeps the peer's buffer small.
pub const ACK_EVERY_BYTES: usize = 256 << 10;

/// Memory that an idle session keeps.
const IDLE_BYTES: usize = 64 << 10;

/// What to do with a frame that has arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accept {
    /// The next one: handle it.
    New,
    /// Seen before a reconnect: drop it.
    Duplicate,
    /// One is missing, which one ordered stream cannot do: end the connection.
    Gap,
}

/// The peer acknowledged what was never sent: end the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImpossibleAck;

/// A body that is kept where it is, instead of among the bytes of the frames.
#[derive(Clone, Debug)]
struct Apart<B> {
    /// Position of its first byte.
    at: u64,
    /// How many bytes that are not in such bodies come before it.
    inline_at: u64,
    /// Bytes of its frame before it.
    head_bytes: u64,
    body: B,
}

impl<B: AsRef<[u8]>> Apart<B> {
    fn end(&self) -> u64 {
        self.at + self.body.as_ref().len() as u64
    }
}

/// The session with one peer on one lane. A position is a count of bytes since the session began.
///
/// Large bodies may be of a type `B` of the home's: kept by reference, they are not copied.
#[derive(Clone, Debug)]
pub struct Session<B = Vec<u8>> {
    /// Frames that may have to be written again, in order, without the bodies that are kept apart.
    bytes: Vec<u8>,
    /// How many such bytes came before `bytes[0]`.
    base: u64,
    /// Bodies that are kept apart, in order.
    apart: VecDeque<Apart<B>>,
    /// How many of them, the last ones, have heads that are not sealed yet.
    unsealed: usize,
    /// Position behind everything.
    end: u64,
    /// Positions behind each frame that is kept.
    ends: VecDeque<u64>,
    /// Sequence of the last frame that need not be kept any more: acknowledged, and not half written.
    freed: u64,
    /// Position behind it; its bytes may still be in memory.
    freed_to: u64,
    /// The greatest sequence that the peer has acknowledged.
    acknowledged: u64,
    /// Position up to which this connection has got the bytes.
    written: u64,
    /// Position up to which any connection has: the peer cannot have more.
    sent: u64,
    /// Nothing before this position may wait any longer.
    urgent: u64,
    received: u64,
    owed_frames: u32,
    owed_bytes: usize,
}

impl<B> Default for Session<B> {
    fn default() -> Session<B> {
        Session {
            bytes: Vec::new(),
            base: 0,
            apart: VecDeque::new(),
            unsealed: 0,
            end: 0,
            ends: VecDeque::new(),
            freed: 0,
            freed_to: 0,
            acknowledged: 0,
            written: 0,
            sent: 0,
            urgent: 0,
            received: 0,
            owed_frames: 0,
            owed_bytes: 0,
        }
    }
}

impl Session {
    /// A session that has not begun, whose bodies apart are vectors.
    pub fn new() -> Session {
        Session::default()
    }
}

impl<B: AsRef<[u8]>> Session<B> {
    /// The sequence that the next frame gets; the first one has 1.
    pub fn next_sequence(&self) -> u64 {
        self.freed + self.ends.len() as u64 + 1
    }

    /// The greatest sequence received without a gap: goes into every frame that is sent.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The greatest sequence that the peer has acknowledged: grows while it takes what it is sent.
    pub fn acknowledged_sequence(&self) -> u64 {
        self.acknowledged
    }

    /// Appends a frame by `write`, which must append just that frame. A frame that fails to be
    /// written leaves no trace.
    pub fn push(
        &mut self,
        urgent: bool,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), NoMemory>,
    ) -> Result<(), NoMemory> {
        self.push_apart(urgent, None, write)
    }

    /// As [`push`](Self::push), with a body that is kept as it is: `write` appends what comes before
    /// it. Its bytes must not change while it is kept. It waits until it is [sealed](Self::seal_next).
    pub fn push_apart(
        &mut self,
        urgent: bool,
        body: Option<B>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), NoMemory>,
    ) -> Result<(), NoMemory> {
        self.ends.try_reserve(1).map_err(|_| NoMemory)?;
        self.apart.try_reserve(usize::from(body.is_some())).map_err(|_| NoMemory)?;
        let before = self.bytes.len();
        if let Err(refused) = write(&mut self.bytes) {
            self.bytes.truncate(before);
            return Err(refused);
        }
        let head_bytes = (self.bytes.len() - before) as u64;
        self.end += head_bytes;
        if let Some(body) = body {
            let apart = Apart { at: self.end, inline_at: self.base + self.bytes.len() as u64, head_bytes, body };
            self.end = apart.end();
            self.apart.push_back(apart);
            self.unsealed += 1;
        }
        self.ends.push_back(self.end);
        if urgent {
            self.urgent = self.end;
        }
        self.owed_frames = 0;
        self.owed_bytes = 0;
        Ok(())
    }

    /// Bytes that wait for the peer's acknowledgement.
    pub fn unacknowledged_bytes(&self) -> usize {
        (self.end - self.freed_to) as usize
    }

    /// Bytes of memory held, by bodies that are kept apart too.
    pub fn memory_bytes(&self) -> usize {
        let bodies: usize = self.apart.iter().map(|apart| apart.body.as_ref().len()).sum();
        let lists = self.ends.capacity() * size_of::<u64>() + self.apart.capacity() * size_of::<Apart<B>>();
        size_of::<Session<B>>() + self.bytes.capacity() + lists + bodies
    }

    /// Frames were deferred and nothing urgent has come after them.
    pub fn has_deferred(&self) -> bool {
        self.urgent.max(self.written) < self.end
    }

    /// Deferred frames have waited long enough.
    pub fn flush_deferred(&mut self) {
        self.urgent = self.end;
    }

    /// Has `seal` complete the heads of bodies that are kept apart, of which it gets both, until so many bytes are ready to
    /// be written. A body is looked at just before it is written, so that it is in a cache then.
    pub fn seal_next(&mut self, bytes: u64, mut seal: impl FnMut(&mut [u8], &[u8])) {
        while self.urgent > self.written && self.ready() < self.written.saturating_add(bytes) && self.unsealed > 0 {
            let first = self.apart.len() - self.unsealed;
            if let Some(apart) = self.apart.get(first) {
                let end = (apart.inline_at - self.base) as usize;
                let start = end - apart.head_bytes as usize;
                if let Some(head) = self.bytes.get_mut(start..end) {
                    seal(head, apart.body.as_ref());
                }
            }
            self.unsealed -= 1;
        }
    }

    /// Position up to which all heads are sealed.
    fn ready(&self) -> u64 {
        let first = self.apart.get(self.apart.len() - self.unsealed);
        first.map_or(self.end, |apart| apart.at - apart.head_bytes)
    }

    /// What to write first; deferred frames go along with the first urgent one behind them. Empty if
    /// nothing is to be written now.
    pub fn to_write(&self) -> &[u8] {
        self.pieces_to_write().next().unwrap_or_default()
    }

    /// All that is to be written now and is sealed, in order and in several pieces, none of them empty.
    pub fn pieces_to_write(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = if self.urgent <= self.written { self.end } else { self.written };
        let ready = self.ready();
        core::iter::from_fn(move || {
            let piece = self.piece_at(at)?;
            let left = usize::try_from(ready.saturating_sub(at)).unwrap_or(usize::MAX);
            let piece = piece.get(..piece.len().min(left)).filter(|piece| !piece.is_empty())?;
            at += piece.len() as u64;
            Some(piece)
        })
    }

    /// The bytes from a position on that lie in one piece.
    fn piece_at(&self, at: u64) -> Option<&[u8]> {
        let next = self.apart.partition_point(|apart| apart.end() <= at);
        let inline = self.inline_before(at, next);
        let piece = match self.apart.get(next) {
            Some(apart) if apart.at <= at => apart.body.as_ref().get((at - apart.at) as usize..),
            Some(apart) => self.bytes.get((inline - self.base) as usize..(apart.inline_at - self.base) as usize),
            None => self.bytes.get((inline - self.base) as usize..),
        };
        piece.filter(|piece| !piece.is_empty())
    }

    /// How many bytes before a position are not in bodies that are kept apart. `next` is the first of
    /// these that ends behind it.
    fn inline_before(&self, at: u64, next: usize) -> u64 {
        match self.apart.get(next) {
            Some(apart) => apart.inline_at - apart.at.saturating_sub(at),
            None => self.base + self.bytes.len() as u64 - (self.end - at),
        }
    }

    /// So many bytes of [`pieces_to_write`](Self::pieces_to_write) have been written.
    pub fn wrote(&mut self, count: usize) {
        self.written = (self.written + count as u64).min(self.ready());
        self.sent = self.sent.max(self.written);
        self.release();
    }

    /// The peer has everything up to this sequence: frees the memory.
    pub fn acknowledged(&mut self, sequence: u64) -> Result<(), ImpossibleAck> {
        if let Some(kept) = sequence.checked_sub(self.freed + 1) {
            let kept = usize::try_from(kept).map_err(|_| ImpossibleAck)?;
            let end = self.ends.get(kept).ok_or(ImpossibleAck)?;
            if *end > self.sent {
                return Err(ImpossibleAck);
            }
        }
        self.acknowledged = self.acknowledged.max(sequence);
        self.release();
        Ok(())
    }

    /// Forgets frames that are acknowledged. One that is being written is kept to its end: the peer
    /// may have it from an earlier connection, and yet this stream must not break off inside it.
    fn release(&mut self) {
        while self.freed < self.acknowledged && self.ends.front().is_some_and(|end| *end <= self.written) {
            let Some(end) = self.ends.pop_front() else { break };
            self.freed += 1;
            self.freed_to = end;
        }
        while self.apart.front().is_some_and(|apart| apart.end() <= self.freed_to) {
            self.apart.pop_front();
        }
        let dead = (self.inline_before(self.freed_to, 0) - self.base) as usize;
        if self.freed_to == self.end {
            self.clear();
        } else if dead >= IDLE_BYTES && dead >= self.bytes.len() / 2 {
            // Moves the rest only when that is cheap for what it frees.
            self.bytes.drain(..dead);
        } else {
            return;
        }
        self.base += dead as u64;
    }

    /// Empties the buffers, bodies are gone already. Memory is given back whole: to make it smaller
    /// may need memory.
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        if self.bytes.capacity() > IDLE_BYTES {
            self.bytes = Vec::new();
        }
        if self.ends.capacity() > IDLE_BYTES / size_of::<u64>() {
            self.ends = VecDeque::new();
        }
        if self.apart.capacity() > IDLE_BYTES / size_of::<Apart<B>>() {
            self.apart = VecDeque::new();
        }
    }

    /// Whether an arrived frame is the next one.
    pub fn accept(&mut self, sequence: u64, bytes: usize) -> Accept {
        if sequence <= self.received {
            return Accept::Duplicate;
        }
        if sequence != self.received + 1 {
            return Accept::Gap;
        }
        self.received = sequence;
        self.owed_frames += 1;
        self.owed_bytes += bytes;
        Accept::New
    }

    /// The frame that was accepted just now could not be handled and changed nothing: it is the next one
    /// again. Nothing may have been pushed meanwhile.
    pub fn take_back(&mut self, bytes: usize) {
        self.received = self.received.saturating_sub(1);
        self.owed_frames = self.owed_frames.saturating_sub(1);
        self.owed_bytes = self.owed_bytes.saturating_sub(bytes);
    }

    /// An acknowledgement is owed, and soon a frame of its own must carry it.
    pub fn owes_ack(&self) -> bool {
        self.owed_frames > 0
    }

    /// An acknowledgement must not wait for other frames any more.
    pub fn must_ack_now(&self) -> bool {
        self.owed_frames >= ACK_EVERY_FRAMES || self.owed_bytes >= ACK_EVERY_BYTES
    }

    /// A bare acknowledgement was sent.
    pub fn sent_ack(&mut self) {
        self.owed_frames = 0;
        self.owed_bytes = 0;
    }

    /// Whether a bare acknowledgement may be written now: not in the middle of a frame.
    pub fn is_between_frames(&self) -> bool {
        self.written == self.freed_to || self.ends.binary_search(&self.written).is_ok()
    }

    /// A new connection, and the peer has received up to `sequence`: what it has not is written
    /// again. It may say less than it has acknowledged since: then that counts.
    pub fn resume(&mut self, sequence: u64) -> Result<(), ImpossibleAck> {
        self.acknowledged(sequence)?;
        // No frame is half written any more, so all that are acknowledged can go.
        self.written = self.sent;
        self.release();
        self.written = self.freed_to;
        self.urgent = self.end;
        Ok(())
    }
}
