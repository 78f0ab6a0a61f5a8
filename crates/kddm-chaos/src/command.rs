//! Programs of the system that do one thing and end.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs a program to its end.
///
/// # Errors
/// One sentence with what it said.
pub fn run(words: &[&str]) -> Result<String, String> {
    run_with(words, "")
}

/// The same, with a text on its standard input.
///
/// # Errors
/// One sentence with what it said.
pub fn run_with(words: &[&str], input: &str) -> Result<String, String> {
    let line = words.join(" ");
    let failed = |error: std::io::Error| format!("cannot run `{line}`: {error}");
    let [program, arguments @ ..] = words else { return Err("there is no command without a program".into()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
