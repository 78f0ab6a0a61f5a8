//! `cargo xtask etcd`: the view log on etcd, a crate that nobody else has to build.

use std::process::Command;

/// Where it is. Its own settings for cargo hold only there.
const FOLDER: &str = "crates/kddm-view-etcd";

/// What needs no etcd.
const BUILD: &[&[&str]] = &[
    &["fmt", "--check"],
    // Without the daemon, as a program that embeds a node has it, and with it.
    &["clippy", "--locked", "--all-targets", "--quiet", "--", "-D", "warnings"],
    &["clippy", "--locked", "--all-targets", "--all-features", "--quiet", "--", "-D", "warnings"],
    &["test", "--locked", "--all-features", "--no-run", "--quiet"],
];

/// Checks it, and builds its tests.
pub fn build() -> bool {
    BUILD.iter().all(|step| cargo(step))
}

/// Checks and tests it. What needs etcd is skipped by name where there is none, unless all is required.
pub fn check() -> bool {
    build() && test()
}

/// The tests alone.
pub fn test() -> bool {
    cargo(&["test", "--locked", "--all-features"])
}

fn cargo(step: &[&str]) -> bool {
    let mut command = Command::new("cargo");
    command.args(step).current_dir(FOLDER).status().is_ok_and(|status| status.success())
}
