//! Work of several steps that goes on by itself: whoever has an answer for it takes it to the next one. No thread belongs to
//! it, so its steps must be short and must not run code of whoever wrote a linker.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

use crate::runtime::wait::as_part_of_node;

type Steps = Pin<Box<dyn Future<Output = ()> + Send>>;

const IDLE: u8 = 0;
const RUNS: u8 = 1;
/// It runs, and there is more for it.
const RUNS_AGAIN: u8 = 2;

struct Task {
    /// `None` when they have ended.
    steps: Mutex<Option<Steps>>,
    state: AtomicU8,
}

/// Goes through the steps, now as far as it can, then whenever something is there for them. Each of their waits must end.
pub(crate) fn drive(steps: impl Future<Output = ()> + Send + 'static) {
    Arc::new(Task { steps: Mutex::new(Some(Box::pin(steps))), state: AtomicU8::new(IDLE) }).wake();
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        // Whoever runs it goes on, this thread too if it is within.
        let is_idle = |state| Some(if state == IDLE { RUNS } else { RUNS_AGAIN });
        if self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, is_idle) != Ok(IDLE) {
            return;
        }
        let waker = Waker::from(Arc::clone(&self));
        loop {
            let ended = as_part_of_node(|| {
                let mut steps = self.steps.lock();
                let polled = steps.as_mut().map(|steps| steps.as_mut().poll(&mut Context::from_waker(&waker)));
                if polled == Some(Poll::Pending) { None } else { Some(steps.take()) }
            });
            if let Some(ended) = ended {
                // It stays one that runs: nobody takes it up again.
                return drop(ended);
            }
            if self.state.compare_exchange(RUNS, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return;
            }
            self.state.store(RUNS, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn it_goes_on_whenever_it_is_woken_and_ends_once() {
        let (sender, polled) = channel();
        let (wakers, woken) = channel::<Waker>();
        let mut left = 3;
        let steps = std::future::poll_fn(move |context| {
            left -= 1;
            sender.send(left).expect("the test listens");
            // Woken while it runs: it runs once more.
            if left == 1 {
                context.waker().wake_by_ref();
            }
            wakers.send(context.waker().clone()).expect("the test listens");
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        drive(steps);
        assert_eq!(polled.try_iter().collect::<Vec<_>>(), [2]);
        let waker = woken.try_recv().expect("it was polled");
        waker.wake_by_ref();
        assert_eq!(polled.try_iter().collect::<Vec<_>>(), [1, 0]);
        waker.wake();
        assert!(polled.try_recv().is_err(), "it has ended");
    }
}
