//! The figures of `docs/numbers.md`: each a ratio to a floor measured in the same run, interleaved.
//!
//! `cargo xtask bench [--json] [--runs N] [--save]` runs it. Two processes on loopback TCP, pinned to one processor
//! (`@same`: the cost in instructions) or to two (`@split`: the hand-offs between threads show).

#[allow(dead_code, reason = "the other program that has a baseline uses the rest")]
mod baseline;
mod contended;
mod flow;
mod local;
mod memory;
mod peer;
mod remote;
mod replicas;
mod report;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::time::Duration;

use baseline::{Baseline, Judged, Range, Ratios};
use kddm::Config;
use report::Row;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let runs = arguments.iter().position(|argument| argument == "--runs");
    let runs = runs.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(1);
    let result = match arguments.first().map(String::as_str) {
        Some("peer") => peer::run(&arguments),
        Some("inner") => inner(&arguments),
        _ => outer(has("--json"), runs, has("--save")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error>;

/// So many runs: the rows of the last one, and what has changed since the baseline by more than runs differ.
fn outer(json: bool, runs: usize, save: bool) -> Result<(), Failure> {
    let mut figures: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut rows = Vec::new();
    for run in 0..runs.max(1) {
        eprintln!("bench: run {} of {}", run + 1, runs.max(1));
        rows = one_run()?;
        for row in &rows {
            figures.entry(row.name.clone()).or_default().extend(report::cost(row));
        }
    }
    report::print(&rows, json);
    let figures = figures.iter().filter(|(_, figures)| !figures.is_empty());
    let figures = figures.map(|(name, figures)| (name.clone(), Range::of(figures))).collect();
    let now = Ratios { runs: runs.max(1), figures };
    let mut stored = Baseline::load()?;
    let judged = Judged::ratios(&stored.ratios, &now);
    // With `--json` the rows alone are on the standard output, as ever.
    if json {
        eprint!("{}", judged.table("cost"));
    } else {
        print!("\n{}", judged.table("cost"));
    }
    if save {
        stored.ratios = now;
        stored.save()?;
    }
    Ok(())
}

/// Runs each pinning as a process of its own.
fn one_run() -> Result<Vec<Row>, Failure> {
    let mut rows: Vec<Row> = Vec::new();
    for part in [
        "local",
        "memory",
        "remote-same",
        "remote-split",
        "replicas-same",
        "replicas-split",
        "flow-same",
        "flow-split",
        "contended",
    ] {
        eprintln!("bench: {part}");
        let output = Command::new(std::env::current_exe()?)
            .args(["inner", part])
            .stderr(std::process::Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(format!("part {part} failed").into());
        }
        rows.extend(serde_json::from_slice::<Vec<Row>>(&output.stdout)?);
    }
    Ok(rows)
}

fn inner(arguments: &[String]) -> Result<(), Failure> {
    // To count instructions or system calls of one: `inner remote-split get_miss_64 30`.
    let rounds = arguments.get(3).map(|rounds| rounds.parse()).transpose()?;
    let only = arguments.get(2).map(|figure| (figure.as_str(), rounds.unwrap_or(1)));
    let rows = match arguments.get(1).map(String::as_str) {
        Some("local") => local::run()?,
        // `inner memory objects 10`: ten million of them.
        Some("memory") => memory::run(only.map_or(1, |(_, millions)| millions.max(1)))?,
        Some("remote-same") => remote::run("same", 0, only)?,
        Some("remote-split") => remote::run("split", 1, only)?,
        Some("replicas-same") => replicas::run("same", 0, only)?,
        Some("replicas-split") => replicas::run("split", 1, only)?,
        Some("flow-same") => flow::run("same", 0, only)?,
        Some("flow-split") => flow::run("split", 1, only)?,
        // On whichever processors there are: nine processes take part.
        Some("contended") => contended::run(only.map(|(figure, _)| figure))?,
        _ => return Err("inner needs a part".into()),
    };
    println!("{}", serde_json::to_string(&rows)?);
    Ok(())
}

/// The defaults, but whoever stops hands nothing over: nobody needs it any more, and what one figure
/// costs could not be told from that.
fn settings() -> Config {
    Config::new().drain_limit(Duration::ZERO)
}

/// Pins this process, and the threads it will start, to one processor.
fn pin(processor: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        eprintln!("bench: cannot pin to processor {processor}: {error}");
    }
}
