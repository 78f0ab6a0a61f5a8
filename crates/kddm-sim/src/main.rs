//! `kddm-sim sim`: seeded runs of whole clusters. `kddm-sim model`: every interleaving of small ones.
//! `kddm-sim mutations`: whether these two find what is done wrongly on purpose.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use kddm_core::id::ObjectId;
use kddm_sim::run;

mod model_command;
mod mutations_command;

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
    Model(model_command::Arguments),
    /// Whether the searches find what is done wrongly on purpose.
    Mutations(mutations_command::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Sim { seed: Some(seed), json, object, .. } => sim(seed..seed + 1, None, json, object.map(ObjectId)),
        Command::Sim { first, minutes: Some(minutes), json, .. } => {
            sim(first..u64::MAX, Some(Duration::from_secs(60 * minutes)), json, None)
        }
        Command::Sim { seeds, first, json, .. } => sim(first..first.saturating_add(seeds), None, json, None),
        Command::Model(arguments) => model_command::run(&arguments),
        Command::Mutations(arguments) => mutations_command::run(&arguments),
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
