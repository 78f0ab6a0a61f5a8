//! `kddm-sim sim`: seeded runs of whole clusters. `kddm-sim model`: every interleaving of small ones.
//! `kddm-sim mutations`: whether these two find what is done wrongly on purpose. `kddm-sim scale`: what a
//! membership costs as it grows.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod model_command;
mod mutations_command;
mod scale_command;
mod seeds;
mod sim;
mod stack_command;
mod voters_command;

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
    Model(model_command::Arguments),
    /// Whether the searches find what is done wrongly on purpose.
    Mutations(mutations_command::Arguments),
    /// What joins, leaves and losses cost in clusters of up to a thousand nodes.
    Scale(scale_command::Arguments),
}

/// In a build with mutations one of them may be chosen for any command: `KDDM_MUTATION=NAME`.
#[cfg(kddm_mutation)]
fn choose_mutation() {
    use kddm_core::mutation::{Mutation, choose};
    let wanted = std::env::var("KDDM_MUTATION").unwrap_or_default();
    choose(Mutation::ALL.iter().find(|(_, name, _)| *name == wanted).map(|(mutation, ..)| *mutation));
}

fn main() -> ExitCode {
    #[cfg(kddm_mutation)]
    choose_mutation();
    match Arguments::parse().command {
        Command::Sim(arguments) => sim::main(&arguments),
        Command::Model(arguments) => model_command::run(&arguments),
        Command::Mutations(arguments) => mutations_command::run(&arguments),
        Command::Scale(arguments) => scale_command::main(&arguments),
    }
}
