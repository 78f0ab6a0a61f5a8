//! The README cannot rot: its commands exist and are run, and its program is a test of the library.

use std::process::{Command, Stdio};

/// What the README tells a newcomer to run first.
const DEMO: &str = "cargo run --release --bin kddmadm -- demo";

/// Looks whether all commands exist and the program is the library's, then runs what is to be run.
pub fn check() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let readme = read("README.md");
    let findings = findings(&readme, &read("crates/kddm/src/lib.rs"), &metadata());
    for finding in &findings {
        eprintln!("README.md: {finding}");
    }
    findings.is_empty() && commands(&readme).into_iter().all(run)
}

fn findings(readme: &str, library: &str, metadata: &str) -> Vec<String> {
    let mut findings: Vec<String> =
        commands(readme).into_iter().filter_map(|command| why_it_does_not_exist(command, metadata)).collect();
    for command in [DEMO, "cargo test --workspace"] {
        if !commands(readme).contains(&command) {
            findings.push(format!("the command `{command}` is missing"));
        }
    }
    let (shown, tested) = (program(readme.lines(), "```rust"), doctest(library));
    if shown.is_empty() || shown != tested {
        findings.push("its Rust program is not the first doctest of crates/kddm/src/lib.rs, line by line".into());
    }
    findings
}

/// The cargo commands in indented and fenced blocks, without their comments.
fn commands(readme: &str) -> Vec<&str> {
    let mut commands = Vec::new();
    let mut is_fenced = false;
    for line in readme.lines() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        }
        if (is_fenced || line.starts_with("    ")) && line.trim_start().starts_with("cargo ") {
            commands.push(line.split(" #").next().unwrap_or(line).trim());
        }
    }
    commands
}

/// Why cargo would not know a command: a subcommand, a package or a target that is not there.
fn why_it_does_not_exist(command: &str, metadata: &str) -> Option<String> {
    const KNOWN: &[&str] = &["build", "clippy", "doc", "fmt", "install", "run", "test", "xtask"];
    let missing = |what: &str| Some(format!("`{command}`: there is no {what}"));
    let words: Vec<&str> = command.split_whitespace().collect();
    let verb = words.get(1).copied().unwrap_or_default();
    if !KNOWN.contains(&verb) {
        return missing(&format!("cargo {verb}"));
    }
    let task = words.get(2).copied().unwrap_or_default();
    if verb == "xtask" && !include_str!("main.rs").contains(&format!("Some(\"{task}\") =>")) {
        return missing(&format!("task {task}"));
    }
    let ours = words.split(|word| *word == "--").next().unwrap_or_default();
    let kinds = ["-p", "--package", "--bin", "--example", "--test", "--bench"];
    let named = ours.windows(2).filter(|pair| kinds.contains(&pair[0])).map(|pair| pair[1]);
    named.filter(|name| !metadata.contains(&format!("\"name\":\"{name}\""))).find_map(missing)
}

/// All packages and targets of the workspace, as cargo sees them.
fn metadata() -> String {
    let output = Command::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// The first program behind such a fence.
fn program<'a>(lines: impl Iterator<Item = &'a str>, fence: &str) -> Vec<&'a str> {
    lines.skip_while(|line| *line != fence).skip(1).take_while(|line| *line != "```").collect()
}

/// The first doctest of a crate, without the lines that its documentation hides.
fn doctest(library: &str) -> Vec<&str> {
    let docs = library.lines().map_while(|line| line.strip_prefix("//!"));
    let lines = docs.map(|line| line.strip_prefix(' ').unwrap_or(line));
    program(lines, "```").into_iter().filter(|line| !line.starts_with("# ")).collect()
}

/// Runs a command that runs something; the others are the work of other steps.
fn run(command: &str) -> bool {
    if !command.starts_with("cargo run ") {
        return true;
    }
    let mut process = Command::new("cargo");
    process.args(command.split_whitespace().skip(1)).stderr(Stdio::inherit());
    if command == DEMO {
        process.arg("--json");
    }
    match process.output() {
        Ok(output) if output.status.success() => {
            let answer: String = String::from_utf8_lossy(&output.stdout).split_whitespace().collect();
            let is_right = command != DEMO || answer.contains("\"totals_equal\":true");
            if !is_right {
                eprintln!("README.md: `{command}` did not count right: {answer}");
            }
            is_right
        }
        Ok(output) => {
            eprintln!("README.md: `{command}` ended with {}", output.status);
            false
        }
        Err(error) => {
            eprintln!("README.md: `{command}` did not start: {error}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "Text\n\n    \
        cargo run --release --bin kddmadm -- demo # all\n    \
        cargo test --workspace\n\n\
        ```rust\nlet one = 1;\n\nassert_eq!(one, 1);\n```\n";
    const LIBRARY: &str =
        "//! Text.\n//!\n//! ```\n//! let one = 1;\n//!\n//! assert_eq!(one, 1);\n//! # Ok(())\n//! ```\n";
    const METADATA: &str = r#"{"packages":[{"name":"kddm"},{"name":"kddmadm"}]}"#;

    #[track_caller]
    fn finds(readme: &str, library: &str, word: &str) {
        let findings = findings(readme, library, METADATA);
        assert!(findings.len() == 1 && findings[0].contains(word), "{findings:?}");
    }

    #[test]
    fn a_readme_that_is_right_gives_no_findings() {
        assert_eq!(findings(README, LIBRARY, METADATA), Vec::<String>::new());
    }

    #[test]
    fn a_command_that_does_not_exist_is_found() {
        for (command, word) in [
            ("cargo run --bin gone", "no gone"),
            ("cargo run -p kddm --example gone -- demo", "no gone"),
            ("cargo shine", "cargo shine"),
            ("cargo xtask gone", "task gone"),
        ] {
            finds(&format!("{README}\n    {command} # why\n"), LIBRARY, word);
            finds(&format!("{README}\n```sh\n{command}\n```\n"), LIBRARY, word);
        }
        finds(&README.replace("cargo test", "rustc"), LIBRARY, "cargo test");
    }

    #[test]
    fn a_program_that_is_not_the_doctest_is_found() {
        finds(&README.replace("one = 1", "one = 2"), LIBRARY, "doctest");
        finds(README, &LIBRARY.replace("one = 1", "one = 2"), "doctest");
        finds(README, "", "doctest");
    }
}
