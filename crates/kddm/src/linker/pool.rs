//! The threads on which the methods of one linker run: they may block.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::THREADS;
use crate::runtime::wait::mark_part_of_node;

/// How long a thread without work stays, so that operations in a row need not start one each.
const LINGER: Duration = Duration::from_secs(5);

/// Operations that wait for a thread. Each of them keeps a hold.
pub(super) const QUEUE_LIMIT: usize = 4096;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Inside {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    is_closed: bool,
}

/// Why a job was not taken.
pub(super) enum NotTaken {
    Closed,
    /// So many wait already.
    Full(usize),
    /// The system has no thread.
    NoThread(String),
}

#[derive(Default)]
pub(super) struct Pool {
    inside: Mutex<Inside>,
    news: Condvar,
}

impl Pool {
    /// Has a thread run that.
    pub fn take(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) -> Result<(), NotTaken> {
        let mut inside = self.inside.lock();
        if inside.is_closed {
            return Err(NotTaken::Closed);
        }
        if inside.jobs.len() >= QUEUE_LIMIT {
            return Err(NotTaken::Full(inside.jobs.len()));
        }
        inside.jobs.push_back(Box::new(job));
        if inside.idle >= inside.jobs.len() || inside.threads >= THREADS {
            self.news.notify_one();
            return Ok(());
        }
        inside.threads += 1;
        drop(inside);
        let pool = Arc::clone(self);
        // One that hangs in a method is not waited for: nobody could end it.
        let started = std::thread::Builder::new().name("kddm-linker".into()).spawn(move || pool.work());
        let Err(error) = started else { return Ok(()) };
        let mut inside = self.inside.lock();
        inside.threads -= 1;
        // Those that run take it; without any, nobody does.
        let left = if inside.threads > 0 { None } else { inside.jobs.pop_back() };
        drop(inside);
        left.map_or(Ok(()), |_not_run| Err(NotTaken::NoThread(error.to_string())))
    }

    /// Jobs that wait for a thread.
    pub fn waiting(&self) -> usize {
        self.inside.lock().jobs.len()
    }

    fn work(&self) {
        mark_part_of_node();
        let mut inside = self.inside.lock();
        loop {
            if let Some(job) = inside.jobs.pop_front() {
                drop(inside);
                // What a value of the user's does, as it is encoded, may panic: the thread has others to run.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!(
                        "an operation on a set with a linker panicked; whoever waits for it hears of its limit"
                    );
                }
                inside = self.inside.lock();
                continue;
            }
            if inside.is_closed {
                break;
            }
            inside.idle += 1;
            let timed_out = self.news.wait_for(&mut inside, LINGER).timed_out();
            inside.idle -= 1;
            if timed_out && inside.jobs.is_empty() {
                break;
            }
        }
        inside.threads -= 1;
        drop(inside);
        self.news.notify_all();
    }

    /// Nothing is taken any more; what waits is still run. Whether all threads have ended by then.
    pub fn close(&self, deadline: Instant) -> bool {
        let mut inside = self.inside.lock();
        inside.is_closed = true;
        self.news.notify_all();
        while inside.threads > 0 {
            if self.news.wait_until(&mut inside, deadline).timed_out() {
                break;
            }
        }
        inside.threads == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn no_more_threads_than_the_limit_and_none_after_the_end() {
        let pool = Arc::<Pool>::default();
        let (runs, began) = channel();
        let (go, gate) = channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for number in 0..THREADS + 2 {
            let (runs, gate) = (runs.clone(), Arc::clone(&gate));
            let job = move || {
                runs.send(number).expect("the test listens");
                gate.lock().recv().expect("the test says go");
            };
            assert!(pool.take(job).is_ok());
        }
        let first: Vec<usize> = (0..THREADS).map(|_| began.recv_timeout(LIMIT).expect("it runs")).collect();
        assert!(first.iter().all(|number| *number < THREADS), "{first:?}: the others wait for a thread");
        assert_eq!(pool.inside.lock().threads, THREADS);
        assert_eq!(pool.inside.lock().jobs.len(), 2);
        (0..THREADS + 2).for_each(|_| go.send(()).expect("somebody waits"));
        assert!(pool.close(Instant::now() + LIMIT), "threads without work end");
        assert!(matches!(pool.take(|| ()), Err(NotTaken::Closed)));
        assert_eq!(began.iter().take(2).count(), 2, "what waited was run");
    }
}
