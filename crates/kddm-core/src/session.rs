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

/// The session with one peer on one lane.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Frames that are not acknowledged, in order.
    bytes: Vec<u8>,
    /// Position of `bytes[0]` since the session began.
    base: u64,
    /// Positions behind each frame in `bytes`, by sequence from `first`.
    ends: VecDeque<u64>,
    /// Sequence of the first frame that is not acknowledged.
    first: u64,
    written: u64,
    /// Nothing before this position may wait any longer.
    urgent: u64,
    received: u64,
    /// Acknowledged up to this position, whether or not the memory is free already.
    freed_to: u64,
    owed_frames: u32,
    owed_bytes: usize,
}

impl Session {
    /// A session that has not begun.
    pub fn new() -> Session {
        Session { first: 1, ..Session::default() }
    }

    /// The sequence that the next frame gets.
    pub fn next_sequence(&self) -> u64 {
        self.first + self.ends.len() as u64
    }

    /// The greatest sequence received without a gap: goes into every frame that is sent.
    pub fn received(&self) -> u64 {
        self.received
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
        let end = self.base + self.bytes.len() as u64;
        self.ends.push_back(end);
        if urgent {
            self.urgent = end;
        }
        self.owed_frames = 0;
        self.owed_bytes = 0;
        Ok(())
    }

    /// Bytes that wait for the peer's acknowledgement.
    pub fn unacknowledged_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Frames were deferred and nothing urgent has come after them.
    pub fn has_deferred(&self) -> bool {
        self.urgent.max(self.written) < self.base + self.bytes.len() as u64
    }

    /// Deferred frames have waited long enough.
    pub fn flush_deferred(&mut self) {
        self.urgent = self.base + self.bytes.len() as u64;
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
        self.written = (self.written + count as u64).min(self.base + self.bytes.len() as u64);
    }

    /// The peer has everything up to this sequence: frees the memory.
    pub fn acknowledged(&mut self, sequence: u64) -> Result<(), ImpossibleAck> {
        if sequence >= self.next_sequence() {
            return Err(ImpossibleAck);
        }
        let mut free_to = self.base;
        while self.first <= sequence {
            let Some(end) = self.ends.pop_front() else { break };
            self.first += 1;
            free_to = end;
        }
        self.release(free_to);
        Ok(())
    }

    /// Forgets bytes up to a position. Moves the rest only when that is cheap for what it frees.
    fn release(&mut self, position: u64) {
        self.freed_to = self.freed_to.max(position);
        let dead = (self.freed_to.min(self.written) - self.base) as usize;
        if dead == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(IDLE_BYTES);
        } else if dead >= IDLE_BYTES && dead >= self.bytes.len() / 2 {
            self.bytes.drain(..dead);
        } else {
            return;
        }
        self.base += dead as u64;
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
        let end = self.base + self.bytes.len() as u64;
        self.written == end || self.written == self.base || self.ends.contains(&self.written)
    }

    /// A new connection, and the peer has received up to `sequence`: what it has not is written again.
    pub fn resume(&mut self, sequence: u64) -> Result<(), ImpossibleAck> {
        self.acknowledged(sequence)?;
        self.written = self.freed_to.max(self.base);
        self.urgent = self.base + self.bytes.len() as u64;
        Ok(())
    }
}
