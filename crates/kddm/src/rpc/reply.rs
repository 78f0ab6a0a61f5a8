//! The waiting side of calls: where answers meet whoever waits for them.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Replies;
use super::engine::Engine;
use super::error::RpcError;
use super::seat::Seat;
use crate::error::{AccessError, Error};
use crate::pending::Reply;
use crate::runtime::Runtime;
use crate::runtime::turn::{AlarmKey, Alarmed};
use crate::runtime::wait::may_block;

/// What one call came to.
pub(crate) type CallResult = Result<Vec<u8>, Error>;

#[derive(Default)]
struct Inside {
    results: Vec<Option<CallResult>>,
    missing: usize,
}

/// The answers of one call, or of one to several nodes.
#[derive(Default)]
pub(crate) struct Answers {
    inside: Mutex<Inside>,
    seat: Seat,
}

impl Answers {
    pub fn new(count: usize) -> Answers {
        let results = (0..count).map(|_| None).collect();
        Answers { inside: Mutex::new(Inside { results, missing: count }), seat: Seat::default() }
    }

    /// The first result counts, and none that comes when they were taken. Wakes whoever waits once all are there, so no
    /// lock may be held.
    pub fn complete(&self, index: usize, result: CallResult) {
        let mut inside = self.inside.lock();
        if !matches!(inside.results.get(index), Some(None)) {
            return;
        }
        inside.results[index] = Some(result);
        inside.missing -= 1;
        if inside.missing > 0 {
            return;
        }
        drop(inside);
        self.seat.tell();
    }

    pub fn are_there(&self) -> bool {
        self.inside.lock().missing == 0
    }

    fn is_there(&self, index: usize) -> bool {
        !matches!(self.inside.lock().results.get(index), Some(None))
    }

    fn wait_until(&self, engine: &Arc<Engine>, deadline: Instant) {
        self.seat.wait(engine, deadline, || self.are_there());
    }

    /// Leaves a waker behind. False if all answers are there already.
    pub fn wake_by(&self, waker: &Waker) -> bool {
        self.seat.wake_by(waker);
        !self.are_there()
    }

    /// Nobody is woken any more.
    pub fn forget(&self) {
        self.seat.forget();
    }

    pub fn take(&self) -> Vec<Option<CallResult>> {
        std::mem::take(&mut self.inside.lock().results)
    }
}

impl Alarmed for Answers {
    fn ring(&self) {
        self.seat.ring();
    }
}

/// A node that was called, and the number of the call if it was sent.
pub(crate) struct Called {
    pub node: u16,
    pub id: Option<u64>,
}

/// What is made of the answers once they are there, in the order in which the nodes were named.
pub(crate) type Finish<O> = Box<dyn FnOnce(Replies<Vec<u8>>) -> Result<O, Error> + Send>;

/// A call on its way. Dropping it tells the other side that nobody waits any more.
pub(crate) struct Call<O> {
    pub runtime: Arc<Runtime>,
    pub answers: Arc<Answers>,
    pub service: Arc<str>,
    pub called: Vec<Called>,
    pub limit: Duration,
    pub deadline: Instant,
    /// A task was promised to be woken at the deadline.
    pub alarm: Option<AlarmKey>,
    pub finish: Option<Finish<O>>,
}

impl<O> Call<O> {
    /// The result, with an error for each answer that has not come within the limit.
    fn take(&mut self, limit: Duration) -> Result<O, Error> {
        self.cancel();
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let late = |node| RpcError::TimedOut { node, service: self.service.to_string(), limit_ms }.into();
        let results = self.called.iter().map(|called| called.node).zip(self.answers.take());
        let results = results.map(|(node, result)| (node, result.unwrap_or_else(|| Err(late(node))))).collect();
        let finish = self.finish.take().expect("a call is finished once");
        finish(results)
    }

    /// Whatever has not been answered is of no interest any more.
    fn cancel(&mut self) {
        for (index, called) in self.called.iter().enumerate() {
            if let Some(id) = called.id
                && !self.answers.is_there(index)
            {
                self.runtime.rpc.cancel(called.node.into(), id);
            }
        }
    }
}

impl<O> Drop for Call<O> {
    fn drop(&mut self) {
        if self.finish.is_some() {
            self.cancel();
        }
        if self.alarm.is_some() {
            self.runtime.lanes[0].lock().alarms.take_back(self.alarm);
        }
    }
}

impl<O> Reply<O> for Call<O> {
    fn is_ready(&self) -> bool {
        self.answers.are_there()
    }

    fn wait(&mut self, limit: Option<Duration>) -> Result<O, Error> {
        if !may_block() {
            return Err(AccessError::WouldBlock.into());
        }
        let (limit, deadline) = match limit.map(|limit| (limit, crate::runtime::wait::deadline_in(limit))) {
            Some((limit, deadline)) if deadline < self.deadline => (limit, deadline),
            _ => (self.limit, self.deadline),
        };
        self.answers.wait_until(&self.runtime.rpc, deadline);
        self.take(limit)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<O, Error>> {
        if Instant::now() < self.deadline && self.answers.wake_by(context.waker()) {
            if self.alarm.is_none() {
                let whom: Weak<Answers> = Arc::downgrade(&self.answers);
                self.alarm = self.runtime.lanes[0].wake_at(self.deadline, whom);
            }
            return Poll::Pending;
        }
        Poll::Ready(self.take(self.limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_comes_when_they_were_taken_changes_nothing() {
        let answers = Answers::new(1);
        assert_eq!(answers.take().len(), 1);
        answers.complete(0, Ok(Vec::new()));
        answers.complete(7, Ok(Vec::new()));
        assert!(answers.is_there(0), "nobody waits for it");
    }
}
