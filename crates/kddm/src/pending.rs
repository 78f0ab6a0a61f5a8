//! The answer to a request that is already on its way.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::error::{AccessError, Error};
use crate::runtime::wait::{Op, WaitResult, may_block};

/// One kind of operation: how it finishes once its [`Op`] has news.
pub(crate) trait Operation<O>: Send {
    /// The answer, if it is there. Asks (again) where that is needed.
    fn finish(&mut self) -> Option<Result<O, Error>>;
    /// What to wait on while `finish` has no answer.
    fn op(&self) -> &Op;
    /// Loses interest; says why the wait ended.
    fn give_up(&mut self, limit: Duration) -> Error;
    /// The limit where the caller gives none.
    fn limit(&self) -> Duration;
}

/// How a request is waited for, whatever it is for: an object, or calls to other nodes.
pub(crate) trait Reply<O>: Send {
    /// Whether the answer is here.
    fn is_ready(&self) -> bool;
    /// Waits, at most for this limit, or for its own.
    fn wait(&mut self, limit: Option<Duration>) -> Result<O, Error>;
    /// As of a future.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<O, Error>>;
}

// Two variants only: whoever hits looks at which one it is.
enum State<O> {
    Ready(Option<Result<O, Error>>),
    Asked(Box<dyn Reply<O>>),
}

/// An operation on an object, and when a task that polls it stops to wait.
struct Asking<P> {
    operation: P,
    deadline: Option<Instant>,
}

/// A request on its way: `.await` it, or [`wait`](Pending::wait) for it. Dropping it loses interest
/// and breaks nothing.
///
/// A grant that nobody waits for is revocable: an unpolled `Pending` blocks no one.
///
/// ```
/// # let nodes = kddm::Node::local_cluster(2)?;
/// # let set: kddm::Set<u64> = nodes[0].set("pending").open()?;
/// let first = set.grab(1); // both requests are on their way
/// let second = set.grab(2);
/// first.wait()?.put().wait()?;
/// second.wait()?.put().wait()?;
/// # Ok::<(), kddm::Error>(())
/// ```
#[must_use = "a pending answer that is dropped is lost; `.await` it or call `wait()`"]
pub struct Pending<O>(State<O>);

impl<O> Pending<O> {
    pub(crate) fn ready(result: Result<O, Error>) -> Pending<O> {
        Pending(State::Ready(Some(result)))
    }

    pub(crate) fn asked(operation: impl Operation<O> + 'static) -> Pending<O> {
        Pending(State::Asked(Box::new(Asking { operation, deadline: None })))
    }

    pub(crate) fn called(reply: impl Reply<O> + 'static) -> Pending<O> {
        Pending(State::Asked(Box::new(reply)))
    }

    /// Whether the answer is here: `wait` would return at once.
    pub fn is_ready(&self) -> bool {
        match &self.0 {
            State::Ready(_) => true,
            State::Asked(reply) => reply.is_ready(),
        }
    }

    /// Waits, at most for the limit of the set or node. The thread that waits polls the network
    /// itself when nobody else does, so an answer costs no hand-off between threads.
    ///
    /// # Errors
    /// What the operation says, `TimedOut` or `Unreachable` after the limit, `WouldBlock` inside a
    /// thread of the node.
    pub fn wait(self) -> Result<O, Error> {
        match self.0 {
            State::Ready(result) => result.expect("a pending answer is taken once"),
            State::Asked(mut reply) => reply.wait(None),
        }
    }

    /// Waits at most `limit`.
    ///
    /// # Errors
    /// As [`wait`](Pending::wait).
    pub fn wait_for(self, limit: Duration) -> Result<O, Error> {
        match self.0 {
            State::Ready(result) => result.expect("a pending answer is taken once"),
            State::Asked(mut reply) => reply.wait(Some(limit)),
        }
    }

    /// Loses interest. What is granted all the same stays with this node, held by nobody.
    pub fn cancel(self) {}
}

impl<O, P: Operation<O>> Reply<O> for Asking<P> {
    fn is_ready(&self) -> bool {
        self.operation.op().is_done()
    }

    fn wait(&mut self, limit: Option<Duration>) -> Result<O, Error> {
        let operation = &mut self.operation;
        if !may_block() {
            return Err(AccessError::WouldBlock.into());
        }
        let limit = limit.unwrap_or_else(|| operation.limit());
        let deadline = Instant::now() + limit;
        loop {
            operation.op().claim();
            if let Some(result) = operation.finish() {
                return result;
            }
            operation.op().claim();
            if operation.op().wait(deadline) == WaitResult::TimedOut {
                return operation.finish().unwrap_or_else(|| Err(operation.give_up(limit)));
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<O, Error>> {
        let operation = &mut self.operation;
        let limit = operation.limit();
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + limit);
        loop {
            operation.op().claim();
            if let Some(result) = operation.finish() {
                return Poll::Ready(result);
            }
            operation.op().claim();
            if Instant::now() >= deadline {
                return Poll::Ready(Err(operation.give_up(limit)));
            }
            if operation.op().wake_by(context.waker(), deadline) {
                return Poll::Pending;
            }
        }
    }
}

impl<O: Unpin> Future for Pending<O> {
    type Output = Result<O, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(result) => Poll::Ready(result.take().expect("a finished future is not polled again")),
            State::Asked(reply) => reply.poll(context),
        }
    }
}
