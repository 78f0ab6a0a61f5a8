//! `cargo xtask chaos`: real daemons in network namespaces, and what goes wrong with them.

use std::process::Command;

use crate::cargo;

/// The daemon and the guardian have to lie beside the program that runs them.
const PROGRAMS: &[&str] =
    &["build", "--quiet", "-p", "kddmd", "--bin", "kddmd", "--bin", "kddmadm", "--bin", "kddm-guardian"];

const CHAOS: &[&str] = &["run", "--quiet", "-p", "kddm-chaos"];

/// What ci runs: short, and with faults that no lease outlasts, so that it must be clean as things are.
const SHORT: &[&str] = &[
    "--",
    "--seed",
    "1",
    "--minutes",
    "0.33",
    "--only",
    "pause-short,random-loss,one-way-short",
    "--output",
    "target/chaos-ci",
];

/// The status that says that this machine lacks something.
const NOT_HERE: i32 = 3;

/// Runs what the arguments ask for, as it is released; `--short` is what ci runs.
pub fn run(arguments: &[String]) -> bool {
    if arguments == ["--short"] {
        return short();
    }
    let release = |words: &[&'static str]| [words, &["--release"]].concat();
    cargo(&release(PROGRAMS), &[]) && cargo(&[&release(CHAOS)[..], &["--"]].concat(), arguments)
}

/// The part of ci. Where it cannot be it is skipped by name, unless all is required.
pub fn short() -> bool {
    // With the checks of a build for tests, most of which is there already.
    if !cargo(PROGRAMS, &[]) {
        return false;
    }
    match Command::new("cargo").args(CHAOS).args(SHORT).status().ok().and_then(|status| status.code()) {
        Some(NOT_HERE) => {
            eprintln!("skipped: chaos, for the reason above");
            std::env::var_os("KDDM_REQUIRE_ALL").is_none()
        }
        code => code == Some(0),
    }
}
