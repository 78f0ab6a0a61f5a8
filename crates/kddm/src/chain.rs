//! Several operations one after the other, as one answer. No thread belongs to it: whoever polls or
//! waits drives it on.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{AccessError, Error};
use crate::pending::{Pending, Reply};
use crate::runtime::lane::Lane;
use crate::runtime::turn::{AlarmKey, Alarmed, wake};
use crate::runtime::wait::{deadline_in, may_block};
use crate::sync::Ordering;

type Steps<O> = Pin<Box<dyn Future<Output = Result<O, Error>> + Send>>;

/// The answer of `steps`. They must not block, and each of their waits has its own limit; `late` says
/// why there is no answer yet to whoever waits for less time than that.
pub(crate) fn chain<O: Send + 'static>(
    steps: impl Future<Output = Result<O, Error>> + Send + 'static,
    late: impl Fn(Duration) -> Error + Send + 'static,
) -> Pending<O> {
    let state = State { steps: Some(Box::pin(steps)), answer: None, waker: None };
    Pending::called(Chain { state: RefCell::new(state), late })
}

struct Chain<O, L> {
    state: RefCell<State<O>>,
    late: L,
}

struct State<O> {
    /// `None` once they have ended: what they hold has been given back.
    steps: Option<Steps<O>>,
    answer: Option<Result<O, Error>>,
    /// Of the task that polled last: a look whether the answer is here must not take its place.
    waker: Option<Waker>,
}

impl<O> State<O> {
    /// Goes on as far as it can. Whether it has ended.
    fn go_on(&mut self, waker: &Waker) -> bool {
        let Some(steps) = &mut self.steps else { return true };
        let Poll::Ready(answer) = steps.as_mut().poll(&mut Context::from_waker(waker)) else { return false };
        (self.steps, self.answer) = (None, Some(answer));
        true
    }

    fn answer(&mut self) -> Result<O, Error> {
        self.answer.take().expect("a chain that has ended is asked for its answer once")
    }
}

impl<O: Send, L: Fn(Duration) -> Error + Send> Reply<O> for Chain<O, L> {
    fn is_ready(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let waker = state.waker.clone().unwrap_or_else(|| Waker::noop().clone());
        state.go_on(&waker)
    }

    fn wait(&mut self, limit: Option<Duration>) -> Result<O, Error> {
        if !may_block() {
            return Err(AccessError::WouldBlock.into());
        }
        let state = self.state.get_mut();
        let deadline = limit.map(|limit| (limit, deadline_in(limit)));
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        while !state.go_on(&waker) {
            let Some((limit, deadline)) = deadline else {
                std::thread::park();
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err((self.late)(limit));
            }
            std::thread::park_timeout(left);
        }
        state.answer()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<O, Error>> {
        let state = self.state.get_mut();
        if state.go_on(context.waker()) {
            return Poll::Ready(state.answer());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Lets a thread go on that waits for a chain.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Is over at that time, or when the lane stops. The lane wakes who waits.
pub(crate) struct Pause {
    lane: Arc<Lane>,
    until: Instant,
    sleeper: Arc<Sleeper>,
    alarm: Option<AlarmKey>,
}

#[derive(Default)]
struct Sleeper(Mutex<Option<Waker>>);

impl Alarmed for Sleeper {
    fn ring(&self) {
        let waker = self.0.lock().take();
        waker.into_iter().for_each(wake);
    }
}

impl Pause {
    pub fn until(lane: &Arc<Lane>, until: Instant) -> Pause {
        Pause { lane: Arc::clone(lane), until, sleeper: Arc::default(), alarm: None }
    }
}

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.until || self.lane.stopping.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        // Neither copied nor dropped under the lock: that is code of whoever waits.
        let mut waker = Some(context.waker().clone());
        std::mem::swap(&mut *self.sleeper.0.lock(), &mut waker);
        if self.alarm.is_none() {
            let whom: std::sync::Weak<Sleeper> = Arc::downgrade(&self.sleeper);
            self.alarm = self.lane.wake_at(self.until, whom);
        }
        Poll::Pending
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        if self.alarm.is_some() {
            self.lane.lock().alarms.take_back(self.alarm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Longer than anybody waits here.
    const NEVER: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_pause_ends_when_its_node_stops_and_is_none_afterwards() {
        let node = crate::Node::local_cluster(1).expect("a cluster").remove(0);
        let pause = || {
            let lane = Arc::clone(&node.runtime().lanes[0]);
            let steps = async move {
                Pause::until(&lane, Instant::now() + NEVER).await;
                Ok(())
            };
            chain(steps, |_| AccessError::NotFound.into())
        };
        let begun = pause();
        assert!(!begun.is_ready(), "it has an alarm from here on");
        std::thread::scope(|scope| {
            let waits = scope.spawn(move || begun.wait_for(LIMIT));
            node.stop();
            waits.join().expect("no panic").expect("the pause is over");
        });
        pause().wait_for(LIMIT).expect("nobody would end it");
    }
}
