//! `cargo xtask memory-model`: the handshakes of the hit path under every interleaving (loom), and the
//! unsafe code under Miri where that is installed.

use std::process::{Command, Stdio};

/// Builds with other flags have folders of their own, so that nothing else is built anew.
const LOOM: &str = "target/loom";
const MIRI: &str = "target/miri";

/// Runs both; without Miri it says what was skipped.
pub fn run() -> bool {
    loom() && miri()
}

fn loom() -> bool {
    let mut command = Command::new("cargo");
    command.args(["test", "--quiet", "-p", "kddm", "--lib", "loom_tests"]);
    // Most of the cells is of no use there.
    command.env("RUSTFLAGS", "--cfg loom -A dead_code -A unused_imports").env("CARGO_TARGET_DIR", LOOM);
    command.status().is_ok_and(|status| status.success())
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
