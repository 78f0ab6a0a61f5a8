//! Threads for work that may block: there are some while there is something to do, and a while longer.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long a thread without work stays, so that jobs in a row need not start one each.
const LINGER: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// What a thread of a pool does from its begin to its end.
pub(crate) type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Inside {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// Threads of others that do work of their own here.
    guests: usize,
    is_closed: bool,
}

/// Why a job was not taken.
#[derive(Debug)]
pub(crate) enum NotTaken {
    Closed,
    /// So many wait already.
    Full(usize),
    /// The system has no thread.
    NoThread(String),
}

/// See the module.
pub(crate) struct Pool {
    inside: Mutex<Inside>,
    news: Condvar,
    threads: usize,
    queue_limit: usize,
}

impl Pool {
    /// Of so many threads at most, for which so many jobs may wait.
    pub fn new(threads: usize, queue_limit: usize) -> Pool {
        Pool { inside: Mutex::default(), news: Condvar::new(), threads, queue_limit }
    }

    /// Has a thread run that; `start` begins one where that is needed.
    pub fn take(
        self: &Arc<Self>,
        start: impl FnOnce(Work) -> std::io::Result<()>,
        job: impl FnOnce() + Send + 'static,
    ) -> Result<(), NotTaken> {
        let mut inside = self.inside.lock();
        if inside.is_closed {
            return Err(NotTaken::Closed);
        }
        if inside.jobs.len() >= self.queue_limit {
            return Err(NotTaken::Full(inside.jobs.len()));
        }
        inside.jobs.push_back(Box::new(job));
        if inside.idle >= inside.jobs.len() || inside.threads >= self.threads {
            self.news.notify_one();
            return Ok(());
        }
        inside.threads += 1;
        drop(inside);
        let pool = Arc::clone(self);
        let Err(error) = start(Box::new(move || pool.work())) else { return Ok(()) };
        let mut inside = self.inside.lock();
        inside.threads -= 1;
        // Those that run take it; without any, nobody does, nor any that was left to one that did not come up either.
        let left = if inside.threads > 0 { VecDeque::new() } else { std::mem::take(&mut inside.jobs) };
        drop(inside);
        if left.is_empty() { Ok(()) } else { Err(NotTaken::NoThread(error.to_string())) }
    }

    /// Does that on this thread; the end of the pool waits for it as for a thread of its own.
    pub fn run_here(&self, job: impl FnOnce()) -> Result<(), NotTaken> {
        let mut inside = self.inside.lock();
        if inside.is_closed {
            return Err(NotTaken::Closed);
        }
        inside.guests += 1;
        drop(inside);
        let ended = catch_unwind(AssertUnwindSafe(job));
        let mut inside = self.inside.lock();
        inside.guests -= 1;
        if inside.is_closed {
            self.news.notify_all();
        }
        drop(inside);
        ended.unwrap_or_else(|panic| resume_unwind(panic));
        Ok(())
    }

    /// Jobs that wait for a thread.
    pub fn waiting(&self) -> usize {
        self.inside.lock().jobs.len()
    }

    fn work(&self) {
        let mut inside = self.inside.lock();
        loop {
            if let Some(job) = inside.jobs.pop_front() {
                drop(inside);
                // It may run code of the user's, and this thread has others to run.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    let thread = std::thread::current();
                    let thread = thread.name().unwrap_or_default();
                    tracing::error!(thread, "an operation panicked; whoever waits for it hears of its limit");
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
        while inside.threads + inside.guests > 0 {
            if self.news.wait_until(&mut inside, deadline).timed_out() {
                break;
            }
        }
        inside.threads + inside.guests == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    const THREADS: usize = 4;

    fn start(work: Work) -> std::io::Result<()> {
        std::thread::Builder::new().spawn(work).map(drop)
    }

    #[test]
    fn no_more_threads_than_the_limit_and_none_after_the_end() {
        let pool = Arc::new(Pool::new(THREADS, 2));
        let (runs, began) = channel();
        let (go, gate) = channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let job = |number: usize| {
            let (runs, gate) = (runs.clone(), Arc::clone(&gate));
            move || {
                runs.send(number).expect("the test listens");
                gate.lock().recv().expect("the test says go");
            }
        };
        let mut first = Vec::new();
        for number in 0..THREADS {
            assert!(pool.take(start, job(number)).is_ok());
            first.push(began.recv_timeout(LIMIT).expect("it runs"));
        }
        assert_eq!(first, [0, 1, 2, 3]);
        assert!(pool.take(start, job(4)).is_ok() && pool.take(start, job(5)).is_ok());
        assert!(matches!(pool.take(start, || ()), Err(NotTaken::Full(2))), "no more may wait");
        assert_eq!(pool.inside.lock().threads, THREADS);
        assert_eq!(pool.waiting(), 2);
        (0..THREADS + 2).for_each(|_| go.send(()).expect("somebody waits"));
        assert!(pool.close(Instant::now() + LIMIT), "threads without work end");
        assert!(matches!(pool.take(start, || ()), Err(NotTaken::Closed)));
        assert_eq!(began.iter().take(2).count(), 2, "what waited was run");
    }

    #[test]
    fn what_was_left_to_a_thread_that_does_not_come_up_goes_with_the_last_of_them() {
        let pool = Arc::new(Pool::new(THREADS, 10));
        let refuse = |_work| Err(std::io::Error::other("the test has none"));
        let (says, goes) = channel();
        let ends = says.clone();
        let inner = Arc::clone(&pool);
        // While one is being started another one is refused, which leaves its job to that one.
        let meanwhile = move |_work| {
            let ended = Ended(ends);
            assert!(inner.take(refuse, move || drop(ended)).is_ok());
            Err(std::io::Error::other("nor this one"))
        };
        let refused = pool.take(meanwhile, || ());
        assert!(matches!(refused, Err(NotTaken::NoThread(_))) && pool.waiting() == 0, "{refused:?}");
        goes.recv_timeout(LIMIT).expect("whoever waits for the other one hears that it is not run");
        drop(says);
    }

    struct Ended(std::sync::mpsc::Sender<()>);

    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.send(()).expect("the test listens");
        }
    }

    #[test]
    fn a_panic_ends_no_thread_and_without_a_thread_nothing_is_taken() {
        let pool = Arc::new(Pool::new(1, 10));
        let refuse = |_work| Err(std::io::Error::other("the test has none"));
        let refused = pool.take(refuse, || ());
        assert!(matches!(refused, Err(NotTaken::NoThread(_))) && pool.waiting() == 0, "{refused:?}");
        let (runs, ran) = channel();
        pool.take(start, || panic!("the test has it panic")).expect("it is taken");
        pool.take(start, move || runs.send(()).expect("the test listens")).expect("it is taken");
        ran.recv_timeout(LIMIT).expect("the thread goes on");
    }
}
