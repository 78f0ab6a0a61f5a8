//! The command `sim --log-only`: seeds of the log of several voters.

use std::process::ExitCode;
use std::time::Instant;

use kddm_sim::voters::{Broken, Counts, Summary, run};

use crate::seeds::Seeds;

/// Seeds after which each fault must have happened: the rarest is in a fifth of them.
const SEEDS_FOR_ALL: u64 = 100;

/// Runs what is asked for, and says how it went.
pub fn main(seeds: &Seeds) -> ExitCode {
    let start = Instant::now();
    let broken = |what: &str| Broken { what: what.into(), at_ms: 0 };
    let add = |(entries, counts): &mut (u64, Counts), summary: Summary| {
        *entries += summary.entries;
        *counts = counts.plus(&summary.counts);
    };
    let totals = seeds.run(|seed| run(seed, None), broken, add);
    let (entries, sum) = &totals.sum;
    let counts: Vec<String> = sum.named().iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!(
        "{} seeds, {} entries, {:.0} s; {}",
        totals.seeds,
        entries,
        start.elapsed().as_secs_f64(),
        counts.join(", ")
    );
    if let Some((seed, Broken { what, at_ms })) = &totals.failed {
        eprintln!("seed {seed}, after {at_ms} ms: {what}\nagain: cargo xtask sim --log-only --seed {seed}");
        return ExitCode::FAILURE;
    }
    let missing = sum.named().iter().find(|(_, count)| *count == 0).map(|(name, _)| *name);
    if let Some(name) = missing.filter(|_| totals.seeds >= SEEDS_FOR_ALL) {
        eprintln!("the runs prove nothing: there were no {name}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
