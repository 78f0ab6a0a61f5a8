//! `cargo xtask fuzz`: each target of `fuzz/` for a while, where the tools for it are installed.

use std::process::{Command, Stdio};

const TARGETS: &[&str] = &["decode_frame", "node_inputs"];

/// Seconds for each target unless said otherwise: long enough to get past what the tests reach.
const SECONDS: &str = "120";

/// Runs all targets; without cargo-fuzz or a nightly compiler it says what was skipped.
pub fn run(arguments: &[String]) -> bool {
    let seconds = match arguments {
        [] => SECONDS,
        [flag, seconds] if flag == "--seconds" && seconds.parse::<u32>().is_ok() => seconds,
        _ => {
            eprintln!("usage: cargo xtask fuzz [--seconds N]");
            return false;
        }
    };
    if !cargo_fuzz().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {
        eprintln!("fuzz: skipped {TARGETS:?}: needs a nightly compiler and `cargo install cargo-fuzz`");
        return true;
    }
    let limit = format!("-max_total_time={seconds}");
    TARGETS.iter().all(|target| {
        let mut command = cargo_fuzz();
        command.args(["run", "--fuzz-dir", "fuzz", target, "--", &limit, "-max_len=4096"]);
        command.status().is_ok_and(|status| status.success())
    })
}

fn cargo_fuzz() -> Command {
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz"]).env_remove("CARGO");
    command
}
