//! `cargo xtask ci`: what every change must pass, with the time that each step took.

mod chaos;
mod etcd;
mod fuzz;
mod memory_model;
mod mutations;
mod readme;
mod tidy;

use std::process::{Command, ExitCode};
use std::time::Instant;

/// Arguments for cargo.
type Cargo = &'static [&'static str];

enum Work {
    Cargo(Cargo),
    /// Documentation, where a warning is an error.
    Docs,
    Tidy,
    MemoryModel,
    Readme,
    Mutations,
    Chaos,
    Etcd,
}

const SIM: Cargo = &["run", "--release", "--quiet", "-p", "kddm-sim", "--", "sim"];
const MODEL: Cargo = &["run", "--release", "--quiet", "-p", "kddm-sim", "--", "model"];
const SCALE: Cargo = &["run", "--release", "--quiet", "-p", "kddm-sim", "--", "scale"];
const BENCH: Cargo = &["run", "--release", "--quiet", "-p", "kddm", "--example", "bench", "--"];

/// Cheap steps first: most mistakes show in seconds.
const CI: &[(&str, Work)] = &[
    ("format", Work::Cargo(&["fmt", "--all", "--check"])),
    ("tidy", Work::Tidy),
    ("clippy", Work::Cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])),
    ("docs", Work::Docs),
    ("tests", Work::Cargo(&["test", "--workspace"])),
    ("chaos", Work::Chaos),
    ("etcd", Work::Etcd),
    ("memory", Work::MemoryModel),
    ("model", Work::Cargo(MODEL)),
    ("sim", Work::Cargo(&["run", "--release", "--quiet", "-p", "kddm-sim", "--", "sim", "--seeds", "2000"])),
    ("mutations", Work::Mutations),
    ("readme", Work::Readme),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let passed = match arguments.first().map(String::as_str) {
        Some("ci") => ci(),
        Some("tidy") => tidy::check(),
        Some("readme") => readme::check(),
        Some("chaos") => chaos::run(rest),
        Some("etcd") => etcd::check(),
        Some("fuzz") => fuzz::run(rest),
        Some("memory-model") => memory_model::run(),
        Some("sim") => cargo(SIM, rest),
        Some("model") => cargo(MODEL, rest),
        Some("scale") => cargo(SCALE, rest),
        Some("mutations") => mutations::run(rest),
        Some("bench") => cargo(BENCH, rest),
        _ => {
            eprintln!(
                "usage: cargo xtask ci | tidy | readme | etcd | fuzz [--seconds N] | memory-model | sim [--seeds N | --minutes M | --seed S] | model [--full] | scale [--nodes N,…] | mutations [--quick] | bench [--json] | chaos [--minutes M] [--only FAULT,…]\n\
                 Arguments after sim, model, scale, bench and chaos are passed on; try --help there."
            );
            false
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cargo(arguments: &[&str], more: &[String]) -> bool {
    Command::new("cargo").args(arguments).args(more).status().is_ok_and(|status| status.success())
}

fn ci() -> bool {
    let mut times = Vec::new();
    for (name, work) in CI {
        eprintln!("== {name}");
        let start = Instant::now();
        let passed = match work {
            Work::Cargo(arguments) => cargo(arguments, &[]),
            Work::Docs => docs(),
            Work::Tidy => tidy::check(),
            Work::MemoryModel => memory_model::run(),
            Work::Readme => readme::check(),
            Work::Chaos => chaos::short(),
            Work::Etcd => etcd::check(),
            Work::Mutations => mutations::run(&["--quick".to_owned()]),
        };
        times.push((name, start.elapsed().as_secs_f64()));
        if !passed {
            eprintln!("== {name}: FAILED");
            return false;
        }
    }
    for (name, seconds) in times {
        eprintln!("{name:<9} {seconds:>6.0} s");
    }
    true
}

fn docs() -> bool {
    let mut command = Command::new("cargo");
    command.args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings");
    command.status().is_ok_and(|status| status.success())
}
