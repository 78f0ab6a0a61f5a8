//! The threads that run operations which have to wait for their objects.

use std::sync::Arc;
use std::time::Instant;

use super::operations::Runner;
use crate::rpc::Engine;
use crate::runtime::pool::{NotTaken, Pool};

/// Threads that wait for objects at one time: as many as those of a service.
const WORKERS: usize = 16;

/// Calls wait for that object of that set.
type Job = (Arc<dyn Runner>, u64);

pub(super) struct Workers(Arc<Pool>);

impl Default for Workers {
    fn default() -> Workers {
        // One for each object at most for which calls wait, of which there are so many in each set.
        Workers(Arc::new(Pool::new(WORKERS, usize::MAX)))
    }
}

impl Workers {
    /// Has a thread run what waits for an object. False if there is none, nor will be.
    pub fn take(&self, engine: &Engine, (runner, object): Job) -> bool {
        let start = |work| engine.spawn("kddm-invoke", work);
        match self.0.take(start, move || runner.drain(object)) {
            Ok(()) => true,
            Err(NotTaken::NoThread(error)) => {
                tracing::warn!(%error, "no thread for operations that wait");
                false
            }
            Err(NotTaken::Closed | NotTaken::Full(_)) => false,
        }
    }

    /// Nothing is taken any more; what waits is still run, and finds that its node has stopped.
    pub fn close(&self) {
        let _whoever_joins_the_threads_waits_for_them = self.0.close(Instant::now());
    }
}
