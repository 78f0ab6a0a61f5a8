//! One connection: bytes in, frames out, and the other way round. Never blocks.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::frame::{Decoded, Frame, Sort, decode};
use super::relay::{Whom, program};
use super::state::Todo;
use super::stream::flow::Flow;
use crate::error::Error;
use crate::transport::Stream;

/// Bytes read at once where no larger frame is expected.
const READ_BYTES: usize = 16 << 10;

/// Reads of one connection before the others have their turn.
const READS: usize = 16;

/// Frames of one connection that are done before more of it are looked at: fewer than may be in work, so that none is
/// refused that could have been done before the next came.
const FRAMES: usize = RUNNING_LIMIT / 4;

/// Bytes that may wait for the other side to take them: some of the largest frames.
pub(crate) const UNSENT_LIMIT_BYTES: usize = 64 << 20;

/// Calls of one connection that may be queued or running here.
pub(crate) const RUNNING_LIMIT: usize = 4096;

/// Bytes of questions of one connection that may be queued or running here.
pub(crate) const RUNNING_LIMIT_BYTES: usize = 64 << 20;

/// How a read ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing is left for now.
    Waits,
    /// There may be more; others have their turn first.
    More,
    /// The connection is of no use any more, and why.
    Ended(String),
    /// As `Ended`: what came cannot be meant.
    Malformed(&'static str),
}

/// A call of the other side that is queued or running here.
struct Running {
    sort: Sort,
    cancelled: Arc<AtomicBool>,
    bytes: usize,
}

/// Who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// A node that is called here. For a program its own node, which passes the calls on.
    Callee,
    /// A node that calls.
    Caller,
    /// The program of that session, with calls for the node that is named.
    CallsOf(u32),
    /// The program of that session, which serves.
    Served(u32),
    /// The node of this program, with calls for it.
    Lender,
}

impl Side {
    /// Calls go out and answers come in; or the other way round.
    pub fn is_asked(self) -> bool {
        matches!(self, Side::Callee | Side::Served(_))
    }

    /// It lasts as long as the node is a member.
    pub fn is_of_node(self) -> bool {
        matches!(self, Side::Callee | Side::Caller)
    }

    /// The program, zero for none.
    pub fn session(self) -> u32 {
        match self {
            Side::CallsOf(session) | Side::Served(session) => session,
            Side::Callee | Side::Caller | Side::Lender => 0,
        }
    }

    /// Who is asked there.
    pub fn whom(self, node: u16) -> Whom {
        match self {
            Side::Served(session) => program(session),
            _ => node.into(),
        }
    }
}

/// See the module. On one where the other side is asked calls go out and answers come in; on the others it is
/// the other way round.
pub(crate) struct Connection {
    pub node: u16,
    pub incarnation: u32,
    pub side: Side,
    stream: Stream,
    received: Vec<u8>,
    filled: usize,
    unsent: Vec<u8>,
    sent: usize,
    running: HashMap<u64, Running>,
    running_bytes: usize,
    /// Streams that are open on it.
    pub flows: HashMap<u64, Arc<Flow>>,
    /// An item found no room: who has it is told when there is some.
    pub has_refused: bool,
    /// Why this side has ended it.
    why: Option<&'static str>,
}

impl Connection {
    pub fn new(stream: Stream, node: u16, incarnation: u32, side: Side) -> Connection {
        let (running, running_bytes) = Default::default();
        let (received, filled, unsent, sent) = Default::default();
        let (flows, why) = Default::default();
        Connection {
            node,
            incarnation,
            side,
            stream,
            received,
            filled,
            unsent,
            sent,
            running,
            running_bytes,
            flows,
            has_refused: false,
            why,
        }
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whoever polls sees its end next, and cleans up.
    pub fn end(&mut self, why: &'static str) {
        self.why = self.why.or(Some(why));
        self.stream.shutdown();
    }

    /// The end of the unsent bytes, to put a frame there; `None` if the other side takes too little.
    pub fn room(&mut self) -> Option<&mut Vec<u8>> {
        // On a busy connection there is never nothing left, and what was sent must not pile up.
        if self.sent > READ_BYTES && self.sent > self.unsent.len() / 2 {
            self.unsent.drain(..self.sent);
            self.sent = 0;
        }
        (self.unsent.len() - self.sent <= UNSENT_LIMIT_BYTES).then_some(&mut self.unsent)
    }

    /// Whether nothing waits for the other side to take it.
    pub fn is_idle(&self) -> bool {
        self.sent == self.unsent.len()
    }

    /// Whether there is room again for what was refused.
    pub fn is_relieved(&mut self) -> bool {
        let is_relieved = self.has_refused && self.room().is_some();
        self.has_refused &= !is_relieved;
        is_relieved
    }

    /// Writes until all is written or the socket is full; then its next event goes on.
    pub fn write(&mut self) {
        while self.sent < self.unsent.len() {
            match (&self.stream).write(&self.unsent[self.sent..]) {
                Ok(0) => return self.end("it takes nothing any more"),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.end("its connection is broken"),
            }
        }
        self.sent = 0;
        if self.unsent.capacity() > 4 * READ_BYTES {
            self.unsent = Vec::new();
        } else {
            self.unsent.clear();
        }
    }

    /// Reads what there is, up to a limit, into whole frames. Until nothing is left, if the other side has `ended` it;
    /// else less than there is room for is all that there is, and what comes later is told.
    pub fn read(&mut self, frames: &mut Vec<Frame>, ended: bool) -> Progress {
        for round in 0..=READS {
            if let Err(reason) = self.take_frames(frames) {
                return Progress::Malformed(reason);
            }
            if frames.len() >= FRAMES || round == READS {
                return Progress::More;
            }
            if self.received.len() == self.filled {
                self.received.resize((2 * self.filled).max(READ_BYTES), 0);
            }
            let room = self.received.len() - self.filled;
            let count = match (&self.stream).read(&mut self.received[self.filled..]) {
                Ok(0) => return Progress::Ended(self.why.unwrap_or("it has closed its connection").into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Waits,
                Err(error) => return Progress::Ended(error.to_string()),
            };
            self.filled += count;
            if count < room && !ended {
                return match self.take_frames(frames) {
                    Err(reason) => Progress::Malformed(reason),
                    Ok(()) if frames.len() >= FRAMES => Progress::More,
                    Ok(()) => Progress::Waits,
                };
            }
        }
        Progress::More
    }

    /// Room is made as bytes arrive, never because more of them are announced.
    fn take_frames(&mut self, frames: &mut Vec<Frame>) -> Result<(), &'static str> {
        let mut taken = 0;
        while frames.len() < FRAMES
            && let Decoded::Frame(frame, length) = decode(&self.received[taken..self.filled])?
        {
            let is_said_by_callers = match frame {
                Frame::Call { .. } | Frame::Cancel { .. } => Some(true),
                Frame::Done { .. } | Frame::Failed { .. } => Some(false),
                Frame::Item { .. } | Frame::Credit { .. } | Frame::End { .. } | Frame::Stop { .. } => None,
            };
            if is_said_by_callers == Some(self.side.is_asked()) {
                return Err("what only the other side may say");
            }
            frames.push(frame);
            taken += length;
        }
        self.received.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        if self.filled <= READ_BYTES && self.received.len() > 4 * READ_BYTES {
            self.received.truncate(READ_BYTES);
            self.received.shrink_to_fit();
        }
        Ok(())
    }

    /// A call begins here; the flag says that nobody waits for it any more. An error says what is full.
    pub fn begin(&mut self, id: u64, sort: Sort, bytes: usize) -> Result<Arc<AtomicBool>, String> {
        if self.running.len() >= RUNNING_LIMIT || self.running_bytes + bytes > RUNNING_LIMIT_BYTES {
            let (calls, held) = (self.running.len(), self.running_bytes);
            return Err(format!("{calls} calls with {held} bytes of this caller are in work"));
        }
        if self.running.contains_key(&id) {
            return Err("a call with that number is in work".into());
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        self.running.insert(id, Running { sort, cancelled: Arc::clone(&cancelled), bytes });
        self.running_bytes += bytes;
        Ok(cancelled)
    }

    /// A call has ended here, or was refused. What it was, unless nobody waits for it any more. The other side of a stream
    /// may wait for its items though it sends no more.
    pub fn finish(&mut self, id: u64) -> Option<Sort> {
        let running = self.running.remove(&id)?;
        self.running_bytes -= running.bytes;
        self.flows.remove(&id);
        let is_awaited = running.sort == Sort::Stream || !running.cancelled.load(Ordering::Acquire);
        is_awaited.then_some(running.sort)
    }

    /// A stream is open on this connection, which has that number, from now on: what was to be said before goes out.
    pub fn open(&mut self, number: u64, flow: &Arc<Flow>) {
        let said = flow.connected(number);
        if let Some(room) = self.room() {
            room.extend_from_slice(&said);
        }
        if !flow.is_over() {
            self.flows.insert(flow.id(), Arc::clone(flow));
        }
    }

    /// A stream that has ended in both directions is not known any more.
    pub fn forget_if_over(&mut self, id: u64, flow: &Flow) {
        if flow.is_over() {
            self.flows.remove(&id);
            self.finish(id);
        }
    }

    /// All streams end with an error, which is made of the service.
    pub fn end_flows(&mut self, error: impl Fn(&Arc<str>) -> Error) -> Vec<Todo> {
        let mut todo = Vec::new();
        for flow in std::mem::take(&mut self.flows).into_values() {
            flow.ended(&error(flow.service()));
            todo.extend([Todo::Reads(Arc::clone(&flow)), Todo::Writes(flow)]);
        }
        todo
    }

    pub fn cancel(&mut self, id: u64) {
        if let Some(running) = self.running.get(&id) {
            running.cancelled.store(true, Ordering::Release);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stream.shutdown();
        for running in self.running.values() {
            running.cancelled.store(true, Ordering::Release);
        }
    }
}
