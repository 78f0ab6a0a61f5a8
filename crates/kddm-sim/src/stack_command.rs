//! The command `sim --stack`: seeds of the whole stack.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use kddm_sim::stack::{Broken, Counts, Slip, Summary, run, run_telling};

use crate::voters_command::Seeds;

/// Seeds after which each fault must have happened: the rarest is in a tenth of them.
const SEEDS_FOR_ALL: u64 = 100;

#[derive(Default)]
struct Totals {
    seeds: u64,
    counts: Counts,
    failed: Option<(u64, Broken)>,
}

impl Totals {
    fn add(&mut self, seed: u64, result: Result<Summary, Broken>) {
        self.seeds += 1;
        match result {
            Ok(summary) => self.counts = self.counts.plus(&summary.counts),
            Err(broken) if self.failed.as_ref().is_none_or(|(first, _)| seed < *first) => {
                self.failed = Some((seed, broken));
            }
            Err(_) => {}
        }
    }
}

/// One seed, twice: it must do the same both times.
fn twice(seed: u64, slip: Option<Slip>) -> Result<Summary, Broken> {
    let broken = |what: &str| Broken { what: what.into(), at_ms: 0, told: Vec::new() };
    let once = || catch_unwind(AssertUnwindSafe(|| run(seed, slip))).unwrap_or_else(|_| Err(broken("it panicked")));
    let first = once()?;
    if once()? == first {
        return Ok(first);
    }
    Err(broken("the same seed did something else the second time"))
}

/// Runs what is asked for, and says how it went.
pub fn main(seeds: &Seeds, slip: Option<Slip>) -> ExitCode {
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
            let result = twice(seed, slip);
            is_over.fetch_or(result.is_err(), Ordering::Relaxed);
            totals.lock().expect("nobody panics with the totals in hand").add(seed, result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(work);
        }
    });
    tell(&totals.into_inner().expect("nobody panics with the totals in hand"), start, slip)
}

fn tell(totals: &Totals, start: Instant, slip: Option<Slip>) -> ExitCode {
    let counts: Vec<String> = totals.counts.named().iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("{} seeds, {:.0} s; {}", totals.seeds, start.elapsed().as_secs_f64(), counts.join(", "));
    if totals.counts.known_drops > 0 {
        println!("known: {} entries of the directory were dropped by a new home", totals.counts.known_drops);
    }
    if let Some((seed, Broken { what, at_ms, .. })) = &totals.failed {
        if let Err(Broken { told, .. }) = run_telling(*seed, slip, true) {
            told.iter().for_each(|step| println!("{step}"));
        }
        let with = slip.map(|slip| format!(" --slip {}", slip.name())).unwrap_or_default();
        eprintln!("seed {seed}, after {at_ms} ms: {what}\nagain: cargo xtask sim --stack{with} --seed {seed}");
        return ExitCode::FAILURE;
    }
    let missing = totals.counts.named().iter().find(|(_, count)| *count == 0).map(|(name, _)| *name);
    if let Some(name) = missing.filter(|_| totals.seeds >= SEEDS_FOR_ALL) {
        eprintln!("the runs prove nothing: there were no {name}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
