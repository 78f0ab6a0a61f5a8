//! How threads begin. Tests say themselves what happens where the system has none.

use std::io;
use std::thread::{Builder, JoinHandle};

use crate::runtime::pool::Work;

/// Begins a thread of that name.
pub(crate) type Spawn<'a> = &'a mut dyn FnMut(&str, Work) -> io::Result<JoinHandle<()>>;

/// One of the system's.
pub(crate) fn spawn(name: &str, work: Work) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.into()).spawn(work)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// So many threads, and then none; and how many of them have not ended.
    pub fn few(mut threads: usize) -> (impl FnMut(&str, Work) -> io::Result<JoinHandle<()>>, Arc<AtomicUsize>) {
        let alive = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&alive);
        let begin = move |name: &str, work: Work| {
            threads = threads.checked_sub(1).ok_or(io::ErrorKind::WouldBlock)?;
            counted.fetch_add(1, Ordering::AcqRel);
            let ends = Arc::clone(&counted);
            spawn(
                name,
                Box::new(move || {
                    work();
                    ends.fetch_sub(1, Ordering::AcqRel);
                }),
            )
        };
        (begin, alive)
    }
}
