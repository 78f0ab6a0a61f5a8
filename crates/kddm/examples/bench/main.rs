//! The figures of `docs/numbers.md`: each a ratio to a floor measured in the same run, interleaved.
//!
//! `cargo xtask bench [--json]` runs it. Two processes on loopback TCP, pinned to one processor
//! (`@same`: the cost in instructions) or to two (`@split`: the hand-offs between threads show).

mod contended;
mod local;
mod memory;
mod peer;
mod remote;
mod replicas;
mod report;

use std::process::{Command, ExitCode};
use std::time::Duration;

use kddm::Config;
use report::Row;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let result = match arguments.first().map(String::as_str) {
        Some("peer") => peer::run(&arguments),
        Some("inner") => inner(&arguments),
        _ => outer(json),
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

/// Runs each pinning as a process of its own and prints all rows.
fn outer(json: bool) -> Result<(), Failure> {
    let mut rows: Vec<Row> = Vec::new();
    for part in ["local", "memory", "remote-same", "remote-split", "replicas-same", "replicas-split", "contended"] {
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
    report::print(&rows, json);
    Ok(())
}

fn inner(arguments: &[String]) -> Result<(), Failure> {
    // To count instructions or system calls of one: `inner remote-split get_miss_64 30`.
    let rounds = arguments.get(3).map(|rounds| rounds.parse()).transpose()?;
    let only = arguments.get(2).map(|figure| (figure.as_str(), rounds.unwrap_or(1)));
    let rows = match arguments.get(1).map(String::as_str) {
        Some("local") => local::run()?,
        Some("memory") => memory::run()?,
        Some("remote-same") => remote::run("same", 0, only)?,
        Some("remote-split") => remote::run("split", 1, only)?,
        Some("replicas-same") => replicas::run("same", 0, only)?,
        Some("replicas-split") => replicas::run("split", 1, only)?,
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
