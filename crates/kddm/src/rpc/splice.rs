//! A stream of a program, which its node passes on: two streams, and what comes on one goes out on the other. No thread
//! belongs to it: whoever reads the connections moves what they bring.
//!
//! An item is taken from one side only when the other has room for it, so that who sends too fast waits, however many
//! nodes are between.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use parking_lot::Mutex;

use super::engine::Engine;
use super::error::RpcError;
use super::frame::Fault;
use super::relay::fault_of;
use super::stream::flow::Flow;
use crate::error::Error;

/// One direction.
struct Direction {
    from: Arc<Flow>,
    to: Arc<Flow>,
    /// Taken, and not sent: its connection has ended, and that is about to be told, or has much to write first.
    held: Option<Vec<u8>>,
    is_over: bool,
}

impl Direction {
    fn new(from: &Arc<Flow>, to: &Arc<Flow>) -> Direction {
        Direction { from: Arc::clone(from), to: Arc::clone(to), held: None, is_over: false }
    }

    /// Moves what there is, as far as there is room.
    fn go_on(&mut self, engine: &Engine) {
        while !self.is_over {
            if let Some(error) = self.to.takes_nothing() {
                let (fault, reason) = fault_of(error);
                self.from.stop_with(engine, fault, &reason);
                return self.end();
            }
            if !self.to.has_room() && (self.held.is_some() || !self.from.is_at_end()) {
                return;
            }
            let next = match self.held.take() {
                Some(body) => Ok(Some(body)),
                None => match self.from.next(engine) {
                    Some(next) => next,
                    None => return,
                },
            };
            let end = match next {
                Ok(None) => None,
                Err(error) => Some(fault_of(error)),
                Ok(Some(body)) => match self.to.send(engine, &body) {
                    Some(Ok(())) => continue,
                    // Whoever sends is innocent of what others have sent there: it is told when that is written.
                    None | Some(Err(Error::Rpc(RpcError::Overloaded { .. }))) => return self.held = Some(body),
                    Some(Err(error)) => {
                        let (fault, reason) = fault_of(error);
                        self.from.stop_with(engine, fault, &reason);
                        Some((fault, reason))
                    }
                },
            };
            let fault: Option<(Fault, &str)> = end.as_ref().map(|(fault, reason)| (*fault, &**reason));
            let _it_takes_nothing = self.to.finish(engine, fault);
            self.end();
        }
    }

    fn end(&mut self) {
        (self.is_over, self.held) = (true, None);
    }
}

/// See the module.
pub(super) struct Splice {
    engine: Weak<Engine>,
    flows: [Arc<Flow>; 2],
    directions: Mutex<[Direction; 2]>,
    /// Something has come since the directions were looked at.
    has_news: AtomicBool,
}

impl Splice {
    /// From now on what comes on one of them goes out on the other.
    pub fn begin(engine: &Arc<Engine>, one: &Arc<Flow>, other: &Arc<Flow>) {
        let splice = Arc::new(Splice {
            engine: Arc::downgrade(engine),
            flows: [Arc::clone(one), Arc::clone(other)],
            directions: Mutex::new([Direction::new(one, other), Direction::new(other, one)]),
            has_news: AtomicBool::new(false),
        });
        splice.go_on();
    }

    /// One thread at a time; what comes meanwhile is left to it.
    fn go_on(self: &Arc<Self>) {
        self.has_news.store(true, Ordering::SeqCst);
        while self.has_news.load(Ordering::SeqCst) {
            let Some(mut directions) = self.directions.try_lock() else { return };
            // The node is gone; nothing moves any more.
            let Some(engine) = self.engine.upgrade() else { return self.forget() };
            self.has_news.store(false, Ordering::SeqCst);
            // Before they are looked at, so that nothing is missed.
            let waker = Waker::from(Arc::clone(self));
            for seat in self.flows.iter().flat_map(|flow| [&flow.reads, &flow.writes]) {
                seat.wake_by(&waker);
            }
            directions.iter_mut().for_each(|direction| direction.go_on(&engine));
            if directions.iter().all(|direction| direction.is_over) {
                return self.forget();
            }
        }
    }

    /// With the wakers the last that knows this is gone.
    fn forget(&self) {
        self.flows.iter().flat_map(|flow| [&flow.reads, &flow.writes]).for_each(|seat| seat.forget());
    }
}

impl Wake for Splice {
    fn wake(self: Arc<Self>) {
        self.go_on();
    }
}
