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

/// The session with one peer on one lane. A position is a count of bytes since the session began.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Frames that may have to be written again, in order.
    bytes: Vec<u8>,
    /// Position of `bytes[0]`.
    base: u64,
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

impl Session {
    /// A session that has not begun.
    pub fn new() -> Session {
        Session::default()
    }

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
        self.ends.try_reserve(1).map_err(|_| NoMemory)?;
        let before = self.bytes.len();
        if let Err(refused) = write(&mut self.bytes) {
            self.bytes.truncate(before);
            return Err(refused);
        }
        let end = self.end();
        self.ends.push_back(end);
        if urgent {
            self.urgent = end;
        }
        self.owed_frames = 0;
        self.owed_bytes = 0;
        Ok(())
    }

    /// Position behind everything.
    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Bytes that wait for the peer's acknowledgement.
    pub fn unacknowledged_bytes(&self) -> usize {
        (self.end() - self.freed_to) as usize
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Session>() + self.bytes.capacity() + self.ends.capacity() * size_of::<u64>()
    }

    /// Frames were deferred and nothing urgent has come after them.
    pub fn has_deferred(&self) -> bool {
        self.urgent.max(self.written) < self.end()
    }

    /// Deferred frames have waited long enough.
    pub fn flush_deferred(&mut self) {
        self.urgent = self.end();
    }

    /// What to write now; deferred frames go along with the first urgent one behind them.
    pub fn to_write(&self) -> &[u8] {
        if self.urgent <= self.written {
            return &[];
        }
        self.bytes.get((self.written - self.base) as usize..).unwrap_or_default()
    }

    /// So many bytes of [`to_write`](Self::to_write) have been written.
    pub fn wrote(&mut self, count: usize) {
        self.written = (self.written + count as u64).min(self.end());
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
        let dead = (self.freed_to - self.base) as usize;
        if dead == self.bytes.len() {
            self.clear();
        } else if dead >= IDLE_BYTES && dead >= self.bytes.len() / 2 {
            // Moves the rest only when that is cheap for what it frees.
            self.bytes.drain(..dead);
        } else {
            return;
        }
        self.base += dead as u64;
    }

    /// Empties the buffers. Memory is given back whole: to make it smaller may need memory.
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        if self.bytes.capacity() > IDLE_BYTES {
            self.bytes = Vec::new();
        }
        if self.ends.capacity() > IDLE_BYTES / size_of::<u64>() {
            self.ends = VecDeque::new();
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
        self.urgent = self.end();
        Ok(())
    }
}
