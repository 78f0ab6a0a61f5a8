//! The threads that run operations which have to wait for their objects.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::operations::Runner;
use crate::rpc::Engine;

/// Threads that wait for objects at one time: as many as those of a service.
const WORKERS: usize = 16;

/// How long a thread without work stays, so that calls in a row need not start one each.
const LINGER: Duration = Duration::from_secs(5);

/// Calls wait for that object of that set.
type Job = (Arc<dyn Runner>, u64);

#[derive(Default)]
struct Inside {
    jobs: VecDeque<Job>,
    threads: usize,
    waiting: usize,
    is_closed: bool,
}

#[derive(Default)]
pub(super) struct Workers {
    inside: Mutex<Inside>,
    news: Condvar,
}

impl Workers {
    /// Has a thread run what waits for an object. False if there is none, nor will be.
    pub fn take(self: &Arc<Self>, engine: &Engine, job: Job) -> bool {
        let mut inside = self.inside.lock();
        if inside.is_closed {
            return false;
        }
        inside.jobs.push_back(job);
        if inside.waiting >= inside.jobs.len() || inside.threads >= WORKERS {
            self.news.notify_one();
            return true;
        }
        inside.threads += 1;
        drop(inside);
        let workers = Arc::clone(self);
        let Err(error) = engine.spawn("kddm-invoke", move || workers.work()) else { return true };
        tracing::warn!(%error, "no thread for operations that wait");
        let mut inside = self.inside.lock();
        inside.threads -= 1;
        // Those that run take it; without any, nobody does.
        inside.threads > 0 || inside.jobs.pop_back().is_none()
    }

    fn work(&self) {
        let mut inside = self.inside.lock();
        loop {
            if let Some((runner, object)) = inside.jobs.pop_front() {
                drop(inside);
                runner.drain(object);
                inside = self.inside.lock();
                continue;
            }
            if inside.is_closed {
                break;
            }
            inside.waiting += 1;
            let timed_out = self.news.wait_for(&mut inside, LINGER).timed_out();
            inside.waiting -= 1;
            if timed_out && inside.jobs.is_empty() {
                break;
            }
        }
        inside.threads -= 1;
    }

    /// Nothing is taken any more; what waits is still run, and finds that its node has stopped.
    pub fn close(&self) {
        self.inside.lock().is_closed = true;
        self.news.notify_all();
    }
}
