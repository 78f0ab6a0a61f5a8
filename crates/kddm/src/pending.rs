//! The answer to a request that is already on its way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::error::{AccessError, Error};
use crate::runtime::wait::{Op, WaitResult, deadline_in, may_block};
use crate::sync::now;

/// One kind of operation: how it finishes once its [`Op`] has news.
pub(crate) trait Operation<O>: Send {
    /// The answer, if it is there. Asks (again) where that is needed.
    fn finish(&mut self) -> Option<Result<O, Error>>;
    /// What to wait on while `finish` has no answer.
    fn op(&self) -> &Arc<Op>;
    /// Somebody really waits from now on.
    fn claim(&self) {
        self.op().claim();
    }
    /// Whether `finish` would have an answer.
    fn is_ready(&self) -> bool {
        self.op().is_done()
    }
    /// Why a thread that blocked on this would wait for itself. A task may wait, because another one on
    /// the same thread can end the hold.
    fn conflict(&self) -> Option<Error> {
        None
    }
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

/// An answer that is here is whole in it, because each hit comes through here. The rest is two words:
/// what makes it can hand it over in registers, so that the hit need not lie in memory either.
enum State<O> {
    Ready(O),
    Late(Late<O>),
    Taken,
}

/// What is not a hit.
pub(crate) enum Late<O> {
    Settled(Box<Result<O, Error>>),
    Asked(Box<dyn Reply<O>>),
}

impl<O> Late<O> {
    pub fn settled(result: Result<O, Error>) -> Late<O> {
        Late::Settled(Box::new(result))
    }

    /// What is late in another answer.
    pub fn of(pending: Pending<O>) -> Late<O> {
        match pending.0 {
            State::Ready(answer) => Late::settled(Ok(answer)),
            State::Late(late) => late,
            State::Taken => unreachable!("{TAKEN}"),
        }
    }

    pub fn failed(error: impl Into<Error>) -> Late<O> {
        Late::settled(Err(error.into()))
    }

    pub fn asked(operation: impl Operation<O> + 'static) -> Late<O> {
        Late::Asked(Box::new(Waiting { deadline: None, operation }))
    }

    pub fn is_ready(&self) -> bool {
        match self {
            Late::Asked(reply) => reply.is_ready(),
            Late::Settled(_) => true,
        }
    }

    /// As of a future; gives back what has no answer yet.
    pub fn polled(self, context: &mut Context<'_>) -> Result<Box<Result<O, Error>>, Late<O>> {
        match self {
            Late::Settled(result) => Ok(result),
            Late::Asked(mut reply) => match reply.poll(context) {
                Poll::Ready(result) => Ok(Box::new(result)),
                Poll::Pending => Err(Late::Asked(reply)),
            },
        }
    }
}

/// An operation on an object, and when a task that polls it stops to wait.
struct Waiting<P> {
    deadline: Option<Instant>,
    operation: P,
}

/// A request on its way: `.await` it, or [`wait`](Pending::wait) for it. Dropping it loses interest
/// and breaks nothing; `fetch` and `acquire` go on.
///
/// A grant that nobody waits for is revocable: an unpolled `Pending` blocks no one, unless the object was
/// here already, and the guard is in it. One that was polled is waited for: the object is held for it when
/// it comes. If it is not polled then, it stops others for some 20 ms; the hold is taken back, and asked
/// for again when it is polled. What it holds of several objects, or on the way to a set, it keeps: do not
/// keep one of those that was polled and is not wanted any more.
///
/// ```
/// # let nodes = kddm::Node::local_cluster(2)?;
/// # let set: kddm::Set<u64> = nodes[0].set("pending").open().wait()?;
/// let first = set.grab(1); // both requests are on their way
/// let second = set.grab(2);
/// first.wait()?.put().wait()?;
/// second.wait()?.put().wait()?;
/// # Ok::<(), kddm::Error>(())
/// ```
#[must_use = "a pending answer that is dropped is lost; `.await` it or call `wait()`"]
pub struct Pending<O>(State<O>);

impl<O> Pending<O> {
    /// A hit.
    #[inline(always)]
    pub(crate) fn hit(answer: O) -> Pending<O> {
        Pending(State::Ready(answer))
    }

    #[inline(always)]
    pub(crate) fn late(late: Late<O>) -> Pending<O> {
        Pending(State::Late(late))
    }

    pub(crate) fn ready(result: Result<O, Error>) -> Pending<O> {
        Pending::late(Late::settled(result))
    }

    pub(crate) fn asked(operation: impl Operation<O> + 'static) -> Pending<O> {
        Pending::late(Late::asked(operation))
    }

    pub(crate) fn called(reply: impl Reply<O> + 'static) -> Pending<O> {
        Pending::late(Late::Asked(Box::new(reply)))
    }

    /// Whether the answer is here: `wait` would return at once.
    pub fn is_ready(&self) -> bool {
        match &self.0 {
            State::Late(late) => late.is_ready(),
            _ => true,
        }
    }

    /// Waits, at most for the limit of the set or node. The thread that waits polls the network
    /// itself when nobody else does, so an answer costs no hand-off between threads.
    ///
    /// # Errors
    /// What the operation says, `TimedOut` or `Unreachable` after the limit, `WouldBlock` inside a
    /// thread of the node.
    #[inline(always)]
    pub fn wait(self) -> Result<O, Error> {
        match self.0 {
            State::Ready(answer) => Ok(answer),
            State::Late(late) => *wait_at_most(late, None),
            State::Taken => unreachable!("{TAKEN}"),
        }
    }

    /// Waits at most `limit`.
    ///
    /// # Errors
    /// As [`wait`](Pending::wait).
    pub fn wait_for(self, limit: Duration) -> Result<O, Error> {
        match self.0 {
            State::Ready(answer) => Ok(answer),
            State::Late(late) => *wait_at_most(late, Some(limit)),
            State::Taken => unreachable!("{TAKEN}"),
        }
    }

    /// Loses interest. What is granted all the same stays with this node, held by nobody.
    pub fn cancel(self) {}
}

const TAKEN: &str = "a finished future is not polled again, nor waited for";

#[cold]
pub(crate) fn wait_at_most<O>(late: Late<O>, limit: Option<Duration>) -> Box<Result<O, Error>> {
    match late {
        Late::Settled(result) => result,
        Late::Asked(mut reply) => Box::new(reply.wait(limit)),
    }
}

impl<O, P: Operation<O>> Reply<O> for Waiting<P> {
    fn is_ready(&self) -> bool {
        self.operation.is_ready() || self.operation.conflict().is_some()
    }

    fn wait(&mut self, limit: Option<Duration>) -> Result<O, Error> {
        let operation = &mut self.operation;
        if !may_block() {
            return Err(AccessError::WouldBlock.into());
        }
        if let Some(conflict) = operation.conflict() {
            return Err(conflict);
        }
        let limit = limit.unwrap_or_else(|| operation.limit());
        let deadline = deadline_in(limit);
        loop {
            operation.claim();
            if let Some(result) = operation.finish() {
                return result;
            }
            operation.claim();
            if operation.op().wait(deadline) == WaitResult::TimedOut {
                return operation.finish().unwrap_or_else(|| Err(operation.give_up(limit)));
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<O, Error>> {
        let operation = &mut self.operation;
        let limit = operation.limit();
        let deadline = *self.deadline.get_or_insert_with(|| deadline_in(limit));
        loop {
            operation.claim();
            if let Some(result) = operation.finish() {
                return Poll::Ready(result);
            }
            operation.claim();
            if now() >= deadline {
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
        if let State::Late(Late::Asked(reply)) = &mut self.0 {
            return reply.poll(context);
        }
        match std::mem::replace(&mut self.0, State::Taken) {
            State::Ready(answer) => Poll::Ready(Ok(answer)),
            State::Late(Late::Settled(result)) => Poll::Ready(*result),
            State::Late(Late::Asked(_)) | State::Taken => unreachable!("{TAKEN}"),
        }
    }
}
