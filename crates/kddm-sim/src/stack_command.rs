//! The command `sim --stack`: seeds of the whole stack.

use std::process::ExitCode;
use std::time::Instant;

use kddm_sim::stack::{Broken, Counts, Slip, Summary, run, run_telling};

use crate::seeds::{Seeds, Totals};

/// Seeds after which each fault must have happened: the rarest is in a tenth of them.
const SEEDS_FOR_ALL: u64 = 100;

/// Runs what is asked for, and says how it went.
pub fn main(seeds: &Seeds, slip: Option<Slip>) -> ExitCode {
    let start = Instant::now();
    let broken = |what: &str| Broken { what: what.into(), at_ms: 0, told: Vec::new() };
    let add = |counts: &mut Counts, summary: Summary| *counts = counts.plus(&summary.counts);
    tell(&seeds.run(|seed| run(seed, slip), broken, add), start, slip)
}

fn tell(totals: &Totals<Counts, Broken>, start: Instant, slip: Option<Slip>) -> ExitCode {
    let counts: Vec<String> = totals.sum.named().iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("{} seeds, {:.0} s; {}", totals.seeds, start.elapsed().as_secs_f64(), counts.join(", "));
    println!("{} read copies of former lives were the newest", totals.sum.revalidated);
    if totals.sum.known_drops > 0 {
        println!("known: {} entries of the directory were dropped by a new home", totals.sum.known_drops);
    }
    if let Some((seed, Broken { what, at_ms, .. })) = &totals.failed {
        if let Err(Broken { told, .. }) = run_telling(*seed, slip, true) {
            told.iter().for_each(|step| println!("{step}"));
        }
        let with = slip.map(|slip| format!(" --slip {}", slip.name())).unwrap_or_default();
        eprintln!("seed {seed}, after {at_ms} ms: {what}\nagain: cargo xtask sim --stack{with} --seed {seed}");
        return ExitCode::FAILURE;
    }
    let missing = totals.sum.named().iter().find(|(_, count)| *count == 0).map(|(name, _)| *name);
    if let Some(name) = missing.filter(|_| totals.seeds >= SEEDS_FOR_ALL) {
        eprintln!("the runs prove nothing: there were no {name}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
