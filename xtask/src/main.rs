//! `cargo xtask ci`: what every change must pass, with the time that each step took.

use std::process::{Command, ExitCode};
use std::time::Instant;

/// A step: its name, and the arguments for cargo.
type Step = (&'static str, &'static [&'static str]);

const CI: &[Step] = &[
    ("format", &["fmt", "--all", "--check"]),
    ("clippy", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
    ("tests", &["test", "--workspace"]),
];

const BENCH: &[Step] = &[("bench", &["run", "--release", "--quiet", "-p", "kddm", "--example", "bench", "--"])];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    match arguments.first().map(String::as_str) {
        Some("ci") => run(CI, &[]),
        Some("bench") => run(BENCH, rest),
        _ => {
            eprintln!("usage: cargo xtask ci | bench [--json]");
            ExitCode::FAILURE
        }
    }
}

fn run(steps: &[Step], more: &[String]) -> ExitCode {
    for (name, arguments) in steps {
        eprintln!("== {name}");
        let start = Instant::now();
        let passed = Command::new("cargo").args(*arguments).args(more).status().is_ok_and(|status| status.success());
        eprintln!(
            "== {name}: {} after {:.0} s",
            if passed { "passed" } else { "FAILED" },
            start.elapsed().as_secs_f64()
        );
        if !passed {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
