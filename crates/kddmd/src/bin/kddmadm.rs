//! `kddmadm`: look at a cluster, change it, show what it does.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use kddmd::demo::words::{self, Options};
use kddmd::demo::worker;

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

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(demo) => {
            let words = match demo.which {
                Some(Demo::Words(words)) => words,
                None => demo.words,
            };
            let dir = words.dir.unwrap_or_else(|| PathBuf::from("."));
            words::run(&Options { dir, nodes: words.nodes, json: words.json })
        }
        Command::DemoWorker { contact, session } => worker::run(&contact, session),
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
