//! `cargo xtask bench-peers`: KDDM beside Redis, memcached and others, on this machine, in turns.
//!
//! Each peer is the program that Debian packages, started here with nothing but memory behind it, and asked over
//! loopback by a client that is as thin as can be: plain sockets, one request at a time. KDDM is a library: its
//! clients are nodes, over TCP on loopback. So each client is what a user's program would be.

mod case;
mod loss;
mod plot;
mod report;
mod run;
mod servers;
mod store;
mod system;
mod worker;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Whatever ends this program before its end.
type Failure = Box<dyn std::error::Error>;

/// Slices may be so long, an hour: longer than anybody waits.
const MOST_SECONDS: f64 = 3600.0;

/// The same work by KDDM and by what one would take instead, in turns, on this machine.
///
/// What is not installed is skipped by name, with the package to install.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench-peers", version)]
struct Arguments {
    /// How long each system works at a time.
    #[arg(long, default_value_t = 0.3, value_name = "SECONDS")]
    seconds: f64,
    /// How often each system has its turn.
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    rounds: u32,
    /// Only systems whose name contains this, or, if there is none, only such groups of systems, or such cases.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// All processes on one processor: what it costs in instructions, without wake-ups of another one.
    #[arg(long)]
    one_processor: bool,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
    /// Where tables, picture and report go.
    #[arg(long, default_value = "target/peers", value_name = "DIR")]
    output: PathBuf,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.first().map(String::as_str) {
        Some(worker::WORKER) => worker::main(&words[1..]),
        _ => peers(&Arguments::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn peers(arguments: &Arguments) -> Result<(), Failure> {
    if !(arguments.seconds > 0.0 && arguments.seconds <= MOST_SECONDS) || arguments.rounds == 0 {
        return Err(format!("--seconds is more than 0 and at most {MOST_SECONDS}, --rounds at least 1").into());
    }
    if arguments.one_processor {
        let mut set = rustix::thread::CpuSet::new();
        set.set(0);
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    let slice = Duration::from_secs_f64(arguments.seconds);
    let options = run::Options { slice, rounds: arguments.rounds, only: arguments.only.clone() };
    let mut report = run::run(&options, case::GROUPS)?;
    report.one_processor = arguments.one_processor;
    let (json, text) = (serde_json::to_string_pretty(&report)?, report.markdown());
    std::fs::create_dir_all(&arguments.output)?;
    std::fs::write(arguments.output.join("report.json"), &json)?;
    std::fs::write(arguments.output.join("report.md"), &text)?;
    std::fs::write(arguments.output.join("report.svg"), plot::svg(&report))?;
    println!("{}", if arguments.json { &json } else { &text });
    Ok(())
}
