//! The answer of work that blocks and is rare enough to have a thread of its own.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::{AccessError, ConfigurationError, Error};
use crate::pending::{Pending, Reply};
use crate::runtime::turn::wake;
use crate::runtime::wait::{deadline_in, may_block};

/// Begins `work` on a thread of that name. `late` says why there is no answer yet to whoever waits for
/// less time than it takes. If nobody waits any more, its result is dropped where it ends.
pub(crate) fn promise<O: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<O, Error> + Send + 'static,
    late: impl Fn(Duration) -> Error + Send + 'static,
) -> Pending<O> {
    promise_while(name, |_goes_on_in_any_case| work(), late)
}

/// As [`promise`], of work that can ask whether somebody still waits.
pub(crate) fn promise_while<O: Send + 'static>(
    name: &str,
    work: impl FnOnce(&dyn Fn() -> bool) -> Result<O, Error> + Send + 'static,
    late: impl Fn(Duration) -> Error + Send + 'static,
) -> Pending<O> {
    if !may_block() {
        // Nobody could wait for it here, and who does not hear of it must not have begun it.
        return Pending::ready(Err(AccessError::WouldBlock.into()));
    }
    let kept = Arc::new(Kept { inside: Mutex::new(Inside { result: None, waker: None }), news: Condvar::new() });
    let keeper = Arc::downgrade(&kept);
    let run = move || {
        // What it has to itself, a node for one, is gone before anybody hears of the result.
        let result = work(&|| keeper.strong_count() > 0);
        if let Some(kept) = keeper.upgrade() {
            kept.keep(result);
        }
    };
    match std::thread::Builder::new().name(name.into()).spawn(run) {
        Ok(_goes_on) => Pending::called(Promise { kept, late }),
        Err(error) => {
            let what = "a thread";
            Pending::ready(Err(ConfigurationError::System { what, reason: error.to_string() }.into()))
        }
    }
}

struct Promise<O, L> {
    kept: Arc<Kept<O>>,
    late: L,
}

struct Kept<O> {
    inside: Mutex<Inside<O>>,
    news: Condvar,
}

struct Inside<O> {
    result: Option<Result<O, Error>>,
    waker: Option<Waker>,
}

impl<O> Kept<O> {
    fn keep(&self, result: Result<O, Error>) {
        let waker = {
            let mut inside = self.inside.lock();
            inside.result = Some(result);
            inside.waker.take()
        };
        self.news.notify_all();
        if let Some(waker) = waker {
            wake(waker);
        }
    }
}

impl<O: Send, L: Fn(Duration) -> Error + Send> Reply<O> for Promise<O, L> {
    fn is_ready(&self) -> bool {
        self.kept.inside.lock().result.is_some()
    }

    fn wait(&mut self, limit: Option<Duration>) -> Result<O, Error> {
        if !may_block() {
            return Err(AccessError::WouldBlock.into());
        }
        let deadline = limit.map(|limit| (limit, deadline_in(limit)));
        let mut inside = self.kept.inside.lock();
        loop {
            if let Some(result) = inside.result.take() {
                return result;
            }
            match deadline {
                None => self.kept.news.wait(&mut inside),
                Some((limit, deadline)) => {
                    let timed_out = self.kept.news.wait_until(&mut inside, deadline).timed_out();
                    if timed_out && inside.result.is_none() {
                        return Err((self.late)(limit));
                    }
                }
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<O, Error>> {
        // Neither copied nor dropped under the lock: that is code of whoever waits.
        let mut waker = Some(context.waker().clone());
        let mut inside = self.kept.inside.lock();
        if let Some(result) = inside.result.take() {
            return Poll::Ready(result);
        }
        std::mem::swap(&mut inside.waker, &mut waker);
        drop(inside);
        Poll::Pending
    }
}
