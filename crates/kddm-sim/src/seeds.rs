//! Seeds on all processors, each of them twice, until one fails: what `sim --log-only` and `sim --stack` share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Which seeds.
pub struct Seeds {
    pub first: u64,
    pub count: u64,
    pub limit: Option<Duration>,
}

/// What they came to.
pub struct Totals<T, B> {
    pub seeds: u64,
    /// All that went well, added up.
    pub sum: T,
    /// The first of those that failed, and why.
    pub failed: Option<(u64, B)>,
}

/// One seed, twice: it must do the same both times.
fn twice<S: PartialEq, B>(run: impl Fn() -> Result<S, B>, broken: impl Fn(&str) -> B) -> Result<S, B> {
    let once = || catch_unwind(AssertUnwindSafe(&run)).unwrap_or_else(|_| Err(broken("it panicked")));
    let first = once()?;
    if once()? == first {
        return Ok(first);
    }
    Err(broken("the same seed did something else the second time"))
}

impl Seeds {
    /// Runs them. `broken` says in the words of a run what is wrong with it from outside; `add` adds up what
    /// went well.
    pub fn run<S: PartialEq, T: Default + Send, B: Send>(
        &self,
        run: impl Fn(u64) -> Result<S, B> + Sync,
        broken: impl Fn(&str) -> B + Sync,
        add: impl Fn(&mut T, S) + Sync,
    ) -> Totals<T, B> {
        let start = Instant::now();
        let end = if self.limit.is_some() { u64::MAX } else { self.first.saturating_add(self.count) };
        let (next, is_over) = (AtomicU64::new(self.first), AtomicBool::new(false));
        let totals = Mutex::new(Totals { seeds: 0, sum: T::default(), failed: None::<(u64, B)> });
        let work = || {
            while !is_over.load(Ordering::Relaxed) && self.limit.is_none_or(|limit| start.elapsed() < limit) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return;
                }
                let result = twice(|| run(seed), &broken);
                is_over.fetch_or(result.is_err(), Ordering::Relaxed);
                let mut totals = totals.lock().expect("nobody panics with the totals in hand");
                totals.seeds += 1;
                match result {
                    Ok(summary) => add(&mut totals.sum, summary),
                    Err(broken) if totals.failed.as_ref().is_none_or(|(first, _)| seed < *first) => {
                        totals.failed = Some((seed, broken));
                    }
                    Err(_) => {}
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
                scope.spawn(work);
            }
        });
        totals.into_inner().expect("nobody panics with the totals in hand")
    }
}
