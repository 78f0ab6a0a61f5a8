//! `cargo xtask`: what is to be done to this repository, one command each; `ci` is what every change must pass.

mod chaos;
mod ci;
mod etcd;
mod fuzz;
mod instructions;
mod memory_model;
mod mutations;
mod readme;
mod tidy;

use std::process::{Command, ExitCode};

/// Arguments for cargo.
type Cargo = &'static [&'static str];

const SIM: Cargo = &["run", "--release", "--quiet", "-p", "kddm-sim", "--", "sim"];
const MODEL: Cargo = &["run", "--release", "--quiet", "-p", "kddm-sim", "--", "model"];
const SCALE: Cargo = &["run", "--release", "--quiet", "-p", "kddm-sim", "--", "scale"];
/// It proves the end of nodes that are killed, and lies beside the program that kills them.
const GUARDIAN: Cargo = &["build", "--release", "--quiet", "-p", "kddmd", "--bin", "kddm-guardian"];
const PEERS: Cargo = &["run", "--release", "--quiet", "-p", "kddm-peers", "--"];
const BENCH: Cargo = &["run", "--release", "--quiet", "-p", "kddm", "--example", "bench", "--"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let passed = match arguments.first().map(String::as_str) {
        Some("ci") => ci::run(),
        Some(ci::BESIDE_COMMAND) => ci::beside(),
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
        Some("instructions") => instructions::run(rest),
        Some("bench-peers") => cargo(GUARDIAN, &[]) && cargo(PEERS, rest),
        _ => {
            eprintln!(
                "usage: cargo xtask ci | tidy | readme | etcd | fuzz [--seconds N] | memory-model | sim [--seeds N | --minutes M | --seed S] | model [--full] | scale [--nodes N,…] | mutations [--quick] | bench [--json] [--runs N] [--save] | instructions [--json] [--save] [--check] | bench-peers [--only NAME] | chaos [--minutes M] [--only FAULT,…]\n\
                 Arguments after sim, model, scale, bench, bench-peers and chaos are passed on; try --help there."
            );
            false
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cargo(arguments: &[&str], more: &[String]) -> bool {
    Command::new("cargo").args(arguments).args(more).status().is_ok_and(|status| status.success())
}
