//! The threads on which the methods of one linker run: they may block.

use std::sync::Arc;

use super::THREADS;
use crate::runtime::pool::{Pool, Work};
use crate::runtime::wait::mark_part_of_node;

/// Operations that wait for a thread. Each of them keeps a hold.
const QUEUE_LIMIT: usize = 4096;

pub(super) fn pool() -> Arc<Pool> {
    Arc::new(Pool::new(THREADS, QUEUE_LIMIT))
}

/// One that hangs in a method is not waited for: nobody could end it.
pub(super) fn start(work: Work) -> std::io::Result<()> {
    let work = move || {
        mark_part_of_node();
        work();
    };
    std::thread::Builder::new().name("kddm-linker".into()).spawn(work).map(drop)
}
