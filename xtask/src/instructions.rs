//! `cargo xtask instructions`: what an operation costs in instructions, counted by callgrind.

use std::process::Command;

const COUNT: &[&str] = &["run", "--release", "--quiet", "-p", "kddm", "--example", "instructions", "--"];

/// System calls by way of the C library: what rustix finds out by itself about the clock of the kernel does not exist
/// where valgrind runs a program. No call is in what is counted.
const FLAGS: &str = "--cfg rustix_use_libc";

/// Runs it, in a build of its own.
pub fn run(arguments: &[String]) -> bool {
    let mut command = Command::new("cargo");
    command.args(COUNT).args(arguments).env("RUSTFLAGS", FLAGS).env("CARGO_TARGET_DIR", "target/instructions");
    command.status().is_ok_and(|status| status.success())
}
