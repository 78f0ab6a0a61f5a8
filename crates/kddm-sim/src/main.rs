//! `kddm-sim sim`: seeded runs of whole clusters. `kddm-sim model`: every interleaving of small ones.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use kddm_core::id::ObjectId;
use kddm_sim::{model, run};

#[derive(Parser)]
#[command(about = "Searches the KDDM protocol for broken invariants, on the real core")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Seeded runs; each seed runs twice and must give the same trace.
    Sim {
        /// Run this seed alone.
        #[arg(long)]
        seed: Option<u64>,
        /// With a seed that fails: tell the steps of this object, not of the one at which it broke.
        #[arg(long)]
        object: Option<u64>,
        /// How many seeds to run.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Run for so long instead.
        #[arg(long)]
        minutes: Option<u64>,
        /// One JSON object with the totals.
        #[arg(long)]
        json: bool,
    },
    /// Every interleaving of small cases.
    Model {
        /// Cases by name (see `kddm_sim::model::case`); without any, the quick ones.
        cases: Vec<String>,
        /// All pairs and all named cases.
        #[arg(long)]
        full: bool,
        /// Limit for each case, in seconds.
        #[arg(long, default_value_t = 3_600)]
        limit_s: u64,
        /// One JSON array with a report for each case.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Sim { seed: Some(seed), json, object, .. } => sim(seed..seed + 1, None, json, object.map(ObjectId)),
        Command::Sim { first, minutes: Some(minutes), json, .. } => {
            sim(first..u64::MAX, Some(Duration::from_secs(60 * minutes)), json, None)
        }
        Command::Sim { seeds, first, json, .. } => sim(first..first.saturating_add(seeds), None, json, None),
        Command::Model { cases, full, limit_s, json } => search(&cases, full, Duration::from_secs(limit_s), json),
    }
}

fn sim(seeds: std::ops::Range<u64>, limit: Option<Duration>, json: bool, told: Option<ObjectId>) -> ExitCode {
    let start = Instant::now();
    let (mut runs, mut operations, mut messages, mut cancels) = (0_u64, 0, 0, 0);
    for seed in seeds {
        if limit.is_some_and(|limit| start.elapsed() > limit) {
            break;
        }
        let mut report = run::run_telling(seed, told);
        if report.broken.is_none() && run::run(seed).trace_hash != report.trace_hash {
            report.broken = Some("the same seed gave another trace".into());
        }
        runs += 1;
        operations += report.operations;
        messages += report.messages;
        cancels += report.cancels;
        if let Some(broken) = &report.broken {
            for step in &report.trace {
                eprintln!("{step}");
            }
            eprintln!("{broken}");
            eprintln!("replay: cargo run --release -p kddm-sim -- sim --seed {seed}");
            if json {
                println!("{}", serde_json::json!({ "clean": false, "seed": seed, "broken": broken }));
            }
            return ExitCode::FAILURE;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    if json {
        let total = serde_json::json!({ "clean": true, "runs": runs, "operations": operations,
            "messages": messages, "cancels": cancels, "seconds": seconds });
        println!("{total}");
    } else {
        println!("{runs} seeds clean: {operations} operations, {messages} messages, {cancels} cancels, {seconds:.1} s");
    }
    ExitCode::SUCCESS
}

fn search(names: &[String], full: bool, limit: Duration, json: bool) -> ExitCode {
    let mut cases = if full { [model::pairs(), model::named()].concat() } else { model::quick() };
    if !names.is_empty() {
        cases.clear();
        for name in names {
            let Some(case) = model::case(name) else {
                eprintln!("{name} is not a case; a case is like 3:wr,r,x+c (see the documentation of kddm_sim::model)");
                return ExitCode::FAILURE;
            };
            cases.push(case);
        }
    }
    let mut reports = Vec::new();
    for case in &cases {
        let report = model::search(case, limit);
        let word = if report.clean { "clean" } else { "NOT CLEAN" };
        eprintln!(
            "{:<20} {:>10} states, depth {:>3}, {:>6.1} s  {word}",
            case.name, report.states, report.depth, report.seconds
        );
        if !report.clean {
            for step in &report.trace {
                eprintln!("  {step}");
            }
            eprintln!("{}", report.broken.as_deref().unwrap_or("the limit was over before all was seen"));
        }
        let clean = report.clean;
        reports.push(report);
        if !clean {
            break;
        }
    }
    let clean = reports.iter().all(|report| report.clean);
    let states: usize = reports.iter().map(|report| report.states).sum();
    let seconds: f64 = reports.iter().map(|report| report.seconds).sum();
    if json {
        println!("{}", serde_json::to_string(&reports).unwrap_or_default());
    } else {
        println!("{} cases, {states} states, {seconds:.1} s", reports.len());
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
