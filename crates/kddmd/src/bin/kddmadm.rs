//! `kddmadm`: look at a cluster, change it, show what it does.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use kddmd::bench::{self, Options};
use kddmd::demo::{words, worker};

/// Administers and demonstrates KDDM clusters.
#[derive(Parser)]
#[command(name = "kddmadm", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Real processes share objects before your eyes.
    Demo(DemoArguments),
    /// Measures what objects cost, in time beside a bare round trip and in messages.
    Bench(BenchArguments),
    /// One process of a benchmark's own cluster; started by it.
    #[command(hide = true)]
    BenchNode {
        /// The node to join by.
        #[arg(long)]
        contact: kddm::Address,
    },
    /// One process of the demo; started by it.
    #[command(hide = true)]
    DemoWorker {
        /// The node to join by.
        #[arg(long)]
        contact: String,
        /// The session of the demo's cluster.
        #[arg(long)]
        session: u16,
    },
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
struct DemoArguments {
    #[command(subcommand)]
    which: Option<Demo>,
    #[command(flatten)]
    words: WordsArguments,
}

#[derive(Subcommand)]
enum Demo {
    /// Count the words of all text files below a folder, in several processes at once.
    Words(WordsArguments),
}

#[derive(Args)]
struct WordsArguments {
    /// The folder [default: the current one].
    dir: Option<PathBuf>,
    /// Processes that count, each with a node of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct BenchArguments {
    /// Measure on a cluster of its own: so many processes on this host, gone afterwards.
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u16).range(2..=64))]
    local: u16,
    /// Operations of each case.
    #[arg(long, default_value_t = 10_000)]
    operations: usize,
    /// A case ends after so many milliseconds, however many operations there were.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    case_limit_ms: u64,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl BenchArguments {
    fn run(&self) -> Result<bool, Failure> {
        let case_limit = Duration::from_millis(self.case_limit_ms);
        let options = Options { operations: self.operations, case_limit, ..Options::default() };
        let report = bench::local::run(self.local, &options)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            println!("{}", report.table());
        }
        Ok(report.off_budget().next().is_none())
    }
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let result: Result<bool, Failure> = match Cli::parse().command {
        Command::Bench(arguments) => arguments.run(),
        Command::BenchNode { contact } => bench::local::serve(&contact).map(|()| true).map_err(Failure::from),
        Command::Demo(demo) => {
            let words = match demo.which {
                Some(Demo::Words(words)) => words,
                None => demo.words,
            };
            let dir = words.dir.unwrap_or_else(|| PathBuf::from("."));
            let options = words::Options { dir, nodes: words.nodes, json: words.json };
            words::run(&options).map_err(Failure::from)
        }
        Command::DemoWorker { contact, session } => worker::run(&contact, session).map_err(Failure::from),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kddmadm: {error}");
            ExitCode::FAILURE
        }
    }
}
