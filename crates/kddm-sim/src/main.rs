//! `kddm-sim sim`: seeded runs of whole clusters. `kddm-sim model`: every interleaving of small ones.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use kddm_sim::model;

mod sim;

#[derive(Parser)]
#[command(about = "Searches the KDDM protocol for broken invariants, on the real core")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Seeded runs; each seed runs twice and must give the same trace.
    Sim(sim::Arguments),
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
        Command::Sim(arguments) => sim::main(&arguments),
        Command::Model { cases, full, limit_s, json } => search(&cases, full, Duration::from_secs(limit_s), json),
    }
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
