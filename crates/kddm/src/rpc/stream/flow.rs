//! One stream as one side sees it: what came and was not taken yet, what may be sent, and how each direction ends.
//!
//! The lock of the engine is taken before that of a stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::Error;
use crate::rpc::connection::Connection;
use crate::rpc::engine::Engine;
use crate::rpc::error::RpcError;
use crate::rpc::frame::{self, Fault, HEADER_BYTES};
use crate::rpc::seat::Seat;
use crate::rpc::service::ReplyTo;
use crate::rpc::state::State;

/// Bytes of each direction that may be on their way, or wait to be taken: what a network of 1 GB/s has under way in a
/// quarter of a millisecond. One item may go beyond it.
pub(crate) const WINDOW_BYTES: i64 = 256 << 10;

#[derive(Default)]
struct Inside {
    /// Zero before there is one.
    connection: u64,
    items: VecDeque<Vec<u8>>,
    /// Bytes that the other side may still send.
    allowed: i64,
    /// Bytes that were taken, and that it has not been told of.
    owed: i64,
    /// How what comes in ends, behind the items.
    in_end: Option<Result<(), Error>>,
    /// This side has said that it takes nothing any more.
    has_stopped: bool,
    /// Bytes that may be sent.
    credit: i64,
    /// Why nothing can be sent any more.
    out_end: Option<Error>,
    /// This side has said that nothing follows.
    has_finished: bool,
    /// What is to be said first once there is a connection.
    unsaid: Vec<u8>,
}

/// See the module.
pub(crate) struct Flow {
    id: AtomicU64,
    node: u16,
    service: Arc<str>,
    /// The longest wait for the other side.
    pub limit: Duration,
    /// What its handler can look at, if it was opened elsewhere.
    cancelled: Option<Arc<AtomicBool>>,
    inside: Mutex<Inside>,
    pub reads: Seat,
    pub writes: Seat,
}

/// What an item takes of a window.
fn cost(body: &[u8]) -> i64 {
    (body.len() + HEADER_BYTES) as i64
}

impl Flow {
    /// One that is opened here.
    pub fn opened(node: u16, service: &Arc<str>, limit: Duration) -> Flow {
        let (id, inside) = (AtomicU64::new(0), Mutex::new(Inside { allowed: WINDOW_BYTES, ..Inside::default() }));
        let (reads, writes) = Default::default();
        Flow { id, node, service: Arc::clone(service), limit, cancelled: None, inside, reads, writes }
    }

    /// One that was opened elsewhere.
    pub fn accepted(at: ReplyTo, node: u16, service: &Arc<str>, limit: Duration, cancelled: &Arc<AtomicBool>) -> Flow {
        let flow = Flow::opened(node, service, limit);
        flow.sent_as(at.id);
        Flow { cancelled: Some(Arc::clone(cancelled)), ..flow }
    }

    pub fn id(&self) -> u64 {
        self.id.load(Ordering::Acquire)
    }

    /// It has that number, on its connection.
    pub fn sent_as(&self, id: u64) {
        self.id.store(id, Ordering::Release);
    }

    pub fn node(&self) -> u16 {
        self.node
    }

    pub fn service(&self) -> &Arc<str> {
        &self.service
    }

    pub fn limit_ms(&self) -> u64 {
        u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX)
    }

    /// It has a connection from now on. What is to be said there first.
    pub fn connected(&self, number: u64) -> Vec<u8> {
        let mut inside = self.inside.lock();
        inside.connection = number;
        inside.credit = WINDOW_BYTES;
        std::mem::take(&mut inside.unsaid)
    }

    /// Nothing comes any more, and nothing can be said.
    pub fn is_over(&self) -> bool {
        let inside = self.inside.lock();
        (inside.in_end.is_some() || inside.has_stopped) && (inside.has_finished || inside.out_end.is_some())
    }

    /// An item has come. False if there is no room for it, which whoever sent it knew.
    pub fn take(&self, body: Vec<u8>) -> bool {
        let mut inside = self.inside.lock();
        if inside.has_stopped || inside.in_end.is_some() {
            return true;
        }
        if inside.allowed <= 0 {
            return false;
        }
        inside.allowed -= cost(&body);
        inside.items.push_back(body);
        true
    }

    /// The other side has taken so much, of what is under way at most.
    pub fn may_send(&self, bytes: u64) {
        let mut inside = self.inside.lock();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        inside.credit = inside.credit.saturating_add(bytes).min(WINDOW_BYTES);
    }

    /// No item follows those that have come.
    pub fn no_more(&self, how: Result<(), Error>) {
        if let (Err(_), Some(cancelled)) = (&how, &self.cancelled) {
            cancelled.store(true, Ordering::Release);
        }
        self.inside.lock().in_end.get_or_insert(how);
    }

    /// The other side takes nothing any more.
    pub fn nobody_takes(&self, error: &Error) {
        self.inside.lock().out_end.get_or_insert_with(|| error.clone());
    }

    /// Both directions end here.
    pub fn ended(&self, error: &Error) {
        self.no_more(Err(error.clone()));
        self.nobody_takes(error);
    }

    /// Whether there is something to read, or the end.
    pub fn has_news(&self) -> bool {
        let inside = self.inside.lock();
        !inside.items.is_empty() || inside.in_end.is_some()
    }

    /// Whether something can be sent, or never can.
    pub fn has_room(&self) -> bool {
        let inside = self.inside.lock();
        inside.credit > 0 || inside.out_end.is_some()
    }

    /// Whether all that came was taken, and nothing follows.
    pub fn is_at_end(&self) -> bool {
        let inside = self.inside.lock();
        inside.items.is_empty() && inside.in_end.is_some()
    }

    /// Why nothing can be sent any more, if that is so.
    pub fn takes_nothing(&self) -> Option<Error> {
        self.inside.lock().out_end.clone()
    }

    /// The next item, `None` in it at the end; or nothing yet.
    pub fn next(&self, engine: &Engine) -> Option<Result<Option<Vec<u8>>, Error>> {
        let mut inside = self.inside.lock();
        let Some(body) = inside.items.pop_front() else {
            return inside.in_end.clone().map(|ended| ended.map(|()| None));
        };
        inside.owed += cost(&body);
        let is_due = inside.owed >= WINDOW_BYTES / 2 && inside.in_end.is_none();
        if is_due {
            let bytes = std::mem::take(&mut inside.owed);
            inside.allowed += bytes;
            drop(inside);
            self.say(engine, |id, out| frame::put_credit(id, bytes as u64, out));
        }
        Some(Ok(Some(body)))
    }

    /// Sends an item; nothing if there is no room for it yet.
    pub fn send(&self, engine: &Engine, body: &[u8]) -> Option<Result<(), Error>> {
        self.send_in(&mut engine.state.lock(), body)
    }

    /// Whether it was sent: only where there is room for it and nothing else to send, and nobody else is at the connections.
    pub fn send_if_idle(&self, engine: &Engine, body: &[u8]) -> bool {
        let Some(mut state) = engine.state.try_lock() else { return false };
        let number = self.inside.lock().connection;
        let is_idle = state.connections.get(&number).is_some_and(Connection::is_idle);
        is_idle && matches!(self.send_in(&mut state, body), Some(Ok(())))
    }

    fn send_in(&self, state: &mut State, body: &[u8]) -> Option<Result<(), Error>> {
        let mut inside = self.inside.lock();
        if let Some(error) = &inside.out_end {
            return Some(Err(error.clone()));
        }
        if inside.has_finished {
            return Some(Err(self.dropped()));
        }
        if inside.credit <= 0 {
            return None;
        }
        // One that has ended is about to be told.
        let connection = state.connections.get_mut(&inside.connection)?;
        let Some(room) = connection.room() else {
            connection.has_refused = true;
            let what = "that node has yet to take what was sent before".to_string();
            let (node, service) = (self.node, self.service.to_string());
            return Some(Err(RpcError::Overloaded { node, service, what }.into()));
        };
        inside.credit -= cost(body);
        drop(inside);
        frame::put_item(self.id(), body, room);
        connection.write();
        Some(Ok(()))
    }

    /// Nothing follows: all was sent, or something went wrong.
    pub fn finish(&self, engine: &Engine, fault: Option<(Fault, &str)>) -> Result<(), Error> {
        let mut inside = self.inside.lock();
        if let Some(error) = &inside.out_end {
            return Err(error.clone());
        }
        if !std::mem::replace(&mut inside.has_finished, true) {
            drop(inside);
            self.say(engine, |id, out| frame::put_end(id, fault, out));
        }
        Ok(())
    }

    /// This side takes nothing any more.
    pub fn stop(&self, engine: &Engine) {
        self.stop_with(engine, Fault::Dropped, "");
    }

    /// As [`Self::stop`], and why.
    pub fn stop_with(&self, engine: &Engine, fault: Fault, reason: &str) {
        let mut inside = self.inside.lock();
        inside.items.clear();
        let is_said = std::mem::replace(&mut inside.has_stopped, true) || inside.in_end.is_some();
        drop(inside);
        if !is_said {
            self.say(engine, |id, out| frame::put_stop(id, fault, reason, out));
        }
    }

    /// Says something, now or once there is a connection.
    fn say(&self, engine: &Engine, put: impl FnOnce(u64, &mut Vec<u8>)) {
        let mut state = engine.state.lock();
        let mut inside = self.inside.lock();
        if inside.connection == 0 {
            return put(self.id(), &mut inside.unsaid);
        }
        let number = inside.connection;
        drop(inside);
        let Some(connection) = state.connections.get_mut(&number) else { return };
        match connection.room() {
            Some(room) => put(self.id(), room),
            None => connection.end("it does not take what it is told"),
        }
        connection.write();
        connection.forget_if_over(self.id(), self);
    }

    fn dropped(&self) -> Error {
        RpcError::Dropped { node: self.node, service: self.service.to_string() }.into()
    }
}
