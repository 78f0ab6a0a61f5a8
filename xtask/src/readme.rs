//! The README's main command, run as it stands there, and its answer checked.

use std::process::Command;

/// What the README tells a newcomer to run first.
const COMMAND: &str = "cargo run --release --bin kddmadm -- demo";

/// Runs it and looks whether all processes agreed with the plain count.
pub fn check() -> bool {
    let readme = std::fs::read_to_string("README.md").unwrap_or_default();
    for command in [COMMAND, "cargo test --workspace"] {
        if !readme.contains(command) {
            eprintln!("README.md: the command `{command}` is missing");
            return false;
        }
    }
    let mut words = COMMAND.split(' ');
    let program = words.next().unwrap_or("cargo");
    match Command::new(program).args(words).arg("--json").stderr(std::process::Stdio::inherit()).output() {
        Ok(output) if output.status.success() => {
            let answer: String = String::from_utf8_lossy(&output.stdout).split_whitespace().collect();
            let equal = answer.contains("\"totals_equal\":true");
            if !equal {
                eprintln!("README.md: `{COMMAND}` did not count right: {answer}");
            }
            equal
        }
        Ok(output) => {
            eprintln!("README.md: `{COMMAND}` ended with {}", output.status);
            false
        }
        Err(error) => {
            eprintln!("README.md: `{COMMAND}` did not start: {error}");
            false
        }
    }
}
