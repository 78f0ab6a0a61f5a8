//! `cargo xtask memory-model`: the handshakes of the hit path under every interleaving (loom), threads
//! against the driver under many (shuttle), and the unsafe code under Miri where that is installed.

use std::process::{Command, Stdio};

/// Builds with other flags have folders of their own, so that nothing else is built anew.
const LOOM: &str = "target/loom";
const SHUTTLE: &str = "target/shuttle";
const MIRI: &str = "target/miri";

/// Runs all three; without Miri it says what was skipped.
pub fn run() -> bool {
    modelled("loom", LOOM).status().is_ok_and(|status| status.success()) && shuttle() && miri()
}

/// Optimised: a schedule has thousands of steps.
fn shuttle() -> bool {
    let mut command = modelled("shuttle", SHUTTLE);
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "2");
    command.status().is_ok_and(|status| status.success())
}

/// The tests of the library that are there for one model of the memory and of the threads.
fn modelled(by: &str, target: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args(["test", "--quiet", "-p", "kddm", "--lib", &format!("{by}_tests")]);
    // Most of the library is of no use there.
    command.env("RUSTFLAGS", format!("--cfg {by} -A dead_code -A unused_imports")).env("CARGO_TARGET_DIR", target);
    command
}

fn miri() -> bool {
    let is_there = cargo_miri().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !is_there.is_ok_and(|status| status.success()) {
        eprintln!("memory-model: skipped the cells under Miri: needs a nightly compiler with the component miri");
        return true;
    }
    let mut command = cargo_miri();
    command.args(["test", "-p", "kddm", "--lib", "cell::tests"]).env("CARGO_TARGET_DIR", MIRI);
    command.status().is_ok_and(|status| status.success())
}

fn cargo_miri() -> Command {
    let mut command = Command::new("cargo");
    command.args(["+nightly", "miri"]).env_remove("CARGO");
    command
}
