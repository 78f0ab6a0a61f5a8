//! The command `sim --log-only`: seeds of the log of several voters.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kddm_sim::voters::{Broken, Counts, Summary, run};

/// Seeds after which each fault must have happened: the rarest is in a fifth of them.
const SEEDS_FOR_ALL: u64 = 100;

/// Which seeds.
pub struct Seeds {
    pub first: u64,
    pub count: u64,
    pub limit: Option<Duration>,
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    entries: u64,
    counts: Counts,
    failed: Option<(u64, Broken)>,
}

impl Totals {
    fn add(&mut self, seed: u64, result: Result<Summary, Broken>) {
        self.seeds += 1;
        match result {
            Ok(summary) => {
                self.entries += summary.entries;
                self.counts = self.counts.plus(&summary.counts);
            }
            Err(broken) if self.failed.as_ref().is_none_or(|(first, _)| seed < *first) => {
                self.failed = Some((seed, broken));
            }
            Err(_) => {}
        }
    }
}

/// One seed, twice: it must do the same both times.
fn twice(seed: u64) -> Result<Summary, Broken> {
    let once = || {
        catch_unwind(AssertUnwindSafe(|| run(seed, None)))
            .unwrap_or_else(|_| Err(Broken { what: "it panicked".into(), at_ms: 0 }))
    };
    let first = once()?;
    if once()? == first {
        return Ok(first);
    }
    Err(Broken { what: "the same seed did something else the second time".into(), at_ms: 0 })
}

/// Runs what is asked for, and says how it went.
pub fn main(seeds: &Seeds) -> ExitCode {
    let start = Instant::now();
    let end = if seeds.limit.is_some() { u64::MAX } else { seeds.first.saturating_add(seeds.count) };
    let (next, is_over) = (AtomicU64::new(seeds.first), AtomicBool::new(false));
    let totals = Mutex::new(Totals::default());
    let work = || {
        while !is_over.load(Ordering::Relaxed) && seeds.limit.is_none_or(|limit| start.elapsed() < limit) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let result = twice(seed);
            is_over.fetch_or(result.is_err(), Ordering::Relaxed);
            totals.lock().expect("nobody panics with the totals in hand").add(seed, result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(work);
        }
    });
    let totals = totals.into_inner().expect("nobody panics with the totals in hand");
    let counts: Vec<String> = totals.counts.named().iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!(
        "{} seeds, {} entries, {:.0} s; {}",
        totals.seeds,
        totals.entries,
        start.elapsed().as_secs_f64(),
        counts.join(", ")
    );
    if let Some((seed, Broken { what, at_ms })) = &totals.failed {
        eprintln!("seed {seed}, after {at_ms} ms: {what}\nagain: cargo xtask sim --log-only --seed {seed}");
        return ExitCode::FAILURE;
    }
    let missing = totals.counts.named().iter().find(|(_, count)| *count == 0).map(|(name, _)| *name);
    if let Some(name) = missing.filter(|_| totals.seeds >= SEEDS_FOR_ALL) {
        eprintln!("the runs prove nothing: there were no {name}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
