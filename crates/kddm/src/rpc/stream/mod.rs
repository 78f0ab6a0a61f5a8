//! Streams between nodes: items of any type in both directions, as many as there are.
//!
//! Each direction ends by itself: with [`finish`](StreamSender::finish), after which the other side has all items and
//! then `None`; or with an error, when a sender is dropped or fails. A receiver that is dropped stops whoever sends. Who sends
//! faster than the other side takes waits: at most 256 KiB of a direction are on their way, and one item.

pub(crate) mod flow;
mod serving;

use std::marker::PhantomData;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use serde::{Serialize, de::DeserializeOwned};

use super::Rpc;
use super::engine::Engine;
use super::error::{ITEM, RpcError};
use super::frame::{Fault, ITEM_LIMIT_BYTES, Manner, Sort};
use super::seat::Seat;
use super::state::{Asks, Question};
use crate::error::{AccessError, Error};
use crate::pending::{Pending, Reply};
use crate::runtime::Runtime;
use crate::runtime::turn::AlarmKey;
use crate::runtime::wait::{deadline_in, may_block};
use flow::Flow;

/// What both ends of a direction have.
struct End {
    engine: Arc<Engine>,
    flow: Arc<Flow>,
    runtime: Weak<Runtime>,
    limit: Duration,
}

/// The end of a stream at which items go in; see [`Rpc::open_stream`](crate::rpc::Rpc::open_stream). Dropping it without
/// [`finish`](StreamSender::finish) is an error at the other side.
pub struct StreamSender<T> {
    end: End,
    items: PhantomData<fn(&T)>,
}

/// The end of a stream at which items come out; see [`Rpc::open_stream`](crate::rpc::Rpc::open_stream). Dropping it stops the other side.
pub struct StreamReceiver<T> {
    end: End,
    items: PhantomData<fn() -> T>,
}

pub(super) fn ends<S, R>(
    engine: &Arc<Engine>,
    runtime: &Weak<Runtime>,
    flow: &Arc<Flow>,
) -> (StreamSender<S>, StreamReceiver<R>) {
    let end = || {
        let (engine, flow, runtime) = (Arc::clone(engine), Arc::clone(flow), Weak::clone(runtime));
        End { engine, runtime, limit: flow.limit, flow }
    };
    (StreamSender { end: end(), items: PhantomData }, StreamReceiver { end: end(), items: PhantomData })
}

impl Rpc {
    /// Opens a stream to a service of one node. Nothing is waited for: that there is no such service, or that the node
    /// goes away, is said by what is sent or received next. The limit is that of each wait for the other side, at
    /// both ends; the stream itself may last for ever.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(2)?;
    /// # let limit = std::time::Duration::from_secs(5);
    /// let _service = nodes[1].rpc().register_stream::<u64, u64>("double", |_, numbers, doubles| {
    ///     while let Some(number) = numbers.receive().wait()? {
    ///         doubles.send(&(2 * number)).wait()?;
    ///     }
    ///     Ok(()) // all was sent; an error would end the stream with it
    /// })?;
    /// let (mut numbers, mut doubles) = nodes[0].rpc().open_stream::<u64, u64>(2, "double", limit)?;
    /// for number in 1..=3 {
    ///     numbers.send(&number).wait()?; // or `.await`
    /// }
    /// numbers.finish()?;
    /// while let Some(double) = doubles.receive().wait()? {
    ///     println!("{double}");
    /// }
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotAMember`, `BadName`, `Overloaded` beyond 256 streams to that node, `Stopped`.
    pub fn open_stream<S: Serialize, R: DeserializeOwned>(
        &self,
        node: u16,
        service: &str,
        limit: Duration,
    ) -> Result<(StreamSender<S>, StreamReceiver<R>), Error> {
        let manner = Manner { sort: Sort::Stream, at_once: self.at_once, ..Manner::default() };
        self.node.runtime().open_stream(node, service, &[], limit, manner)
    }
}

impl Runtime {
    /// As [`Rpc::open_stream`], with something that the service is told first.
    pub(crate) fn open_stream<S, R>(
        self: &Arc<Self>,
        node: u16,
        service: &str,
        body: &[u8],
        limit: Duration,
        manner: Manner,
    ) -> Result<(StreamSender<S>, StreamReceiver<R>), Error> {
        let service = Arc::from(service);
        let flow = Arc::new(Flow::opened(node, &service, limit));
        let asks = Asks::Stream(&flow);
        let question = Question { node, whom: node.into(), manner, service: &service, body, limit, asks };
        self.put_question(&question)?;
        Ok(ends(&self.rpc, &Arc::downgrade(self), &flow))
    }
}

impl<T: Serialize> StreamSender<T> {
    /// Sends an item: at once where there is room, else when the other side has taken some. Dropped before, it is not
    /// sent. Items arrive in the order in which they were sent, each once, as long as the stream lives.
    ///
    /// # Errors
    /// `Codec` or `TooLarge`, for an item of more than 1 MiB; `Idle` at the limit: it was not sent, and the stream goes on.
    /// `Dropped` if the other side takes nothing any more, `Gone` if it went away, `Failed` if its handler did,
    /// `NoService`, and whatever ends the node.
    pub fn send(&mut self, item: &T) -> Pending<()> {
        let flow = &self.end.flow;
        let (node, service) = (flow.node(), flow.service());
        let body = match postcard::to_stdvec(item) {
            Ok(body) if body.len() <= ITEM_LIMIT_BYTES => body,
            Ok(body) => {
                let (bytes, limit_bytes) = (body.len(), ITEM_LIMIT_BYTES);
                return Pending::ready(Err(RpcError::TooLarge { bytes, limit_bytes }.into()));
            }
            Err(error) => {
                let (service, reason) = (service.to_string(), error.to_string());
                return Pending::ready(Err(RpcError::Codec { node, service, what: ITEM, reason }.into()));
            }
        };
        match flow.send(&self.end.engine, &body) {
            Some(sent) => Pending::ready(sent),
            None => self.end.wait(true, move |engine, flow| flow.send(engine, &body)),
        }
    }

    /// Sends an item if that can be done now, and without waiting for anybody: there is room for it, and the connection has
    /// nothing else to send. Whether it was sent; why not is said by [`send`](StreamSender::send).
    pub(crate) fn send_if_idle(&mut self, item: &T) -> bool {
        let body = postcard::to_stdvec(item).ok().filter(|body| body.len() <= ITEM_LIMIT_BYTES);
        body.is_some_and(|body| self.end.flow.send_if_idle(&self.end.engine, &body))
    }
}

impl<T> StreamSender<T> {
    /// All was sent: the other side has `None` behind the last item. It does not say whether that took all: an answer in
    /// the other direction would.
    ///
    /// # Errors
    /// Why the other side takes nothing, if it has said so by now.
    pub fn finish(self) -> Result<(), Error> {
        self.end.flow.finish(&self.end.engine, None)
    }

    /// Something went wrong: the other side has this as [`Failed`](RpcError::Failed) behind the last item.
    pub fn fail(self, reason: &str) {
        let _it_may_be_gone = self.end.flow.finish(&self.end.engine, Some((Fault::Failed, reason)));
    }

    /// How long a wait for the other side may take, in place of what the stream was opened with.
    pub fn limit(&mut self, limit: Duration) {
        self.end.limit = limit;
    }
}

impl<T> Drop for StreamSender<T> {
    fn drop(&mut self) {
        let _finished_or_gone = self.end.flow.finish(&self.end.engine, Some((Fault::Dropped, "")));
    }
}

impl<T: DeserializeOwned + 'static> StreamReceiver<T> {
    /// The next item; `None` if all were taken and the other side has finished. Dropped before it is there, nothing is
    /// lost.
    ///
    /// # Errors
    /// `Codec` for what is no item of this type; `Idle` at the limit: the stream goes on. `Dropped` if the other side gave up, `Gone` if
    /// it went away, `Failed` with what it says, `NoService`, and whatever ends the node.
    pub fn receive(&mut self) -> Pending<Option<T>> {
        self.end.wait(false, next)
    }

    /// The next item if it is here, or the end; otherwise that waker is woken by whoever has read one, and nothing else does:
    /// there is no limit to that wait.
    pub(crate) fn take_or_wake(&mut self, waker: &Waker) -> Option<Result<Option<T>, Error>> {
        let End { engine, flow, .. } = &self.end;
        next(engine, flow).or_else(|| {
            flow.reads.wake_by(waker);
            next(engine, flow)
        })
    }
}

fn next<T: DeserializeOwned>(engine: &Engine, flow: &Arc<Flow>) -> Option<Result<Option<T>, Error>> {
    let item = match flow.next(engine)? {
        Ok(Some(body)) => body,
        Ok(None) => return Some(Ok(None)),
        Err(error) => return Some(Err(error)),
    };
    let wrong = |error: postcard::Error| {
        let (node, service, reason) = (flow.node(), flow.service().to_string(), error.to_string());
        Error::from(RpcError::Codec { node, service, what: ITEM, reason })
    };
    Some(postcard::from_bytes(&item).map(Some).map_err(wrong))
}

impl<T> StreamReceiver<T> {
    /// How long a wait for the other side may take, in place of what the stream was opened with.
    pub fn limit(&mut self, limit: Duration) {
        self.end.limit = limit;
    }
}

impl<T> Drop for StreamReceiver<T> {
    fn drop(&mut self) {
        self.end.flow.stop(&self.end.engine);
    }
}

impl End {
    fn wait<O: 'static, A>(&self, writes: bool, attempt: A) -> Pending<O>
    where
        A: FnMut(&Engine, &Arc<Flow>) -> Option<Result<O, Error>> + Send + 'static,
    {
        let (engine, flow, runtime) = (Arc::clone(&self.engine), Arc::clone(&self.flow), Weak::clone(&self.runtime));
        let (limit, deadline) = (self.limit, deadline_in(self.limit));
        Pending::called(Turn { engine, flow, runtime, writes, attempt, limit, deadline, alarm: None })
    }
}

/// A wait for the other side of a stream.
struct Turn<A> {
    engine: Arc<Engine>,
    flow: Arc<Flow>,
    runtime: Weak<Runtime>,
    /// For room to write, not for something to read.
    writes: bool,
    attempt: A,
    limit: Duration,
    deadline: Instant,
    alarm: Option<AlarmKey>,
}

impl<A> Turn<A> {
    fn seat(&self) -> &Seat {
        if self.writes { &self.flow.writes } else { &self.flow.reads }
    }

    fn is_due(&self) -> bool {
        if self.writes { self.flow.has_room() } else { self.flow.has_news() }
    }

    fn idle(&self, limit: Duration) -> Error {
        let (node, service) = (self.flow.node(), self.flow.service().to_string());
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        RpcError::Idle { node, service, limit_ms, what: if self.writes { "taken" } else { "said" } }.into()
    }
}

impl<O, A> Reply<O> for Turn<A>
where
    A: FnMut(&Engine, &Arc<Flow>) -> Option<Result<O, Error>> + Send,
{
    fn is_ready(&self) -> bool {
        self.is_due()
    }

    fn wait(&mut self, limit: Option<Duration>) -> Result<O, Error> {
        let (limit, deadline) = match limit {
            Some(limit) => (limit, deadline_in(limit)),
            None => (self.limit, self.deadline),
        };
        loop {
            if let Some(result) = (self.attempt)(&self.engine, &self.flow) {
                return result;
            }
            if !may_block() {
                return Err(AccessError::WouldBlock.into());
            }
            if Instant::now() >= deadline {
                return Err(self.idle(limit));
            }
            self.seat().wait(&self.engine, deadline, || self.is_due());
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<O, Error>> {
        loop {
            if let Some(result) = (self.attempt)(&self.engine, &self.flow) {
                return Poll::Ready(result);
            }
            if Instant::now() >= self.deadline {
                return Poll::Ready(Err(self.idle(self.limit)));
            }
            self.seat().wake_by(context.waker());
            if self.is_due() {
                continue;
            }
            if self.alarm.is_none()
                && let Some(runtime) = self.runtime.upgrade()
            {
                let whom = Arc::downgrade(&self.flow);
                self.alarm = runtime.lanes[0].wake_at(self.deadline, whom);
            }
            return Poll::Pending;
        }
    }
}

impl crate::runtime::turn::Alarmed for Flow {
    /// Whoever waits in either direction looks again.
    fn ring(&self) {
        self.reads.ring();
        self.writes.ring();
    }
}

impl<A> Drop for Turn<A> {
    fn drop(&mut self) {
        if let (Some(_), Some(runtime)) = (self.alarm, self.runtime.upgrade()) {
            runtime.lanes[0].lock().alarms.take_back(self.alarm);
        }
    }
}
