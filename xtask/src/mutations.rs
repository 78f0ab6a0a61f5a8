//! `cargo xtask mutations`: a build in which the protocol can be broken on purpose, and whether the
//! stories, the simulator and the exhaustive search find each way of it.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

/// Such a build has a folder of its own: nothing of it gets among the others.
const FOLDER: &str = "target/mutations";
const FLAGS: &str = "--cfg kddm_mutation";
/// What reads the stories.
const STORIES: &str = "every_story_goes_as_it_is_written";

const PAGE: &str = "docs/testing.md";
const BEGIN: &str = "<!-- mutations:begin -->";
const END: &str = "<!-- mutations:end -->";

const USAGE: &str = "usage: cargo xtask mutations [--quick] [--json] [--check] [NAME ...]
    all of them, and the table in docs/testing.md is written anew
    --quick   fewer seeds, and nothing is written: what ci runs
    --check   only looks whether the table is of the mutations that exist
    --json    one object with the findings on the standard output, and nothing is written";

/// Runs what the arguments ask for; false if a mutation survives.
pub fn run(arguments: &[String]) -> bool {
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let known = ["--quick", "--json", "--check"];
    if arguments.iter().any(|argument| argument.starts_with('-') && !known.contains(&argument.as_str())) {
        eprintln!("{USAGE}");
        return false;
    }
    if !build() {
        return false;
    }
    let Some(list) = searches(&["--list"]) else { return false };
    let all: Vec<&str> = list.lines().collect();
    if has("--check") {
        return check(&all);
    }
    let names: Vec<&str> = arguments.iter().map(String::as_str).filter(|name| !name.starts_with('-')).collect();
    let wanted = if names.is_empty() { all.clone() } else { names.clone() };
    let Some(told) = told_by_stories(&wanted) else { return false };
    let stories = format!("--stories={}", told.join(","));
    let mut asked = vec![stories.as_str()];
    asked.extend(&names);
    if has("--quick") {
        asked.push("--quick");
    }
    if has("--json") {
        asked.push("--json");
    }
    let writes = asked.len() == 1;
    if writes {
        asked.push("--table");
    }
    let Some(output) = searches(&asked) else { return false };
    if writes {
        return write(&output);
    }
    print!("{output}");
    // At every change: the table has a row for each.
    !names.is_empty() || has("--json") || check(&all)
}

fn build() -> bool {
    let status = cargo(&["build", "--release", "--quiet", "-p", "kddm-sim"]).status();
    status.is_ok_and(|status| status.success())
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments).env("CARGO_TARGET_DIR", FOLDER).env("RUSTFLAGS", FLAGS);
    command
}

/// What `kddm-sim mutations` says, if it is content.
fn searches(arguments: &[&str]) -> Option<String> {
    let program = format!("{FOLDER}/release/kddm-sim");
    let output = Command::new(program).arg("mutations").args(arguments).stderr(Stdio::inherit()).output().ok()?;
    if !output.status.success() {
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The mutations with which a story goes otherwise. None if one does without any.
fn told_by_stories<'a>(names: &[&'a str]) -> Option<Vec<&'a str>> {
    if !stories_pass("none") {
        eprintln!("mutations: the stories do not pass without any");
        return None;
    }
    Some(names.iter().copied().filter(|name| !stories_pass(name)).collect())
}

fn stories_pass(mutation: &str) -> bool {
    let mut command = cargo(&["test", "--quiet", "-p", "kddm-core", "--test", "script", "--", "--exact", STORIES]);
    command.env("KDDM_MUTATION", mutation).env_remove("UPDATE");
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Puts the table into the page.
fn write(table: &str) -> bool {
    let page = std::fs::read_to_string(PAGE).unwrap_or_default();
    let Some((before, _, after)) = parts(&page) else { return false };
    std::fs::write(PAGE, format!("{before}{BEGIN}\n{}\n{END}{after}", table.trim_end())).is_ok()
}

/// Whether the table has a row for each mutation and no other.
fn check(names: &[&str]) -> bool {
    let page = std::fs::read_to_string(PAGE).unwrap_or_default();
    let Some((_, table, _)) = parts(&page) else { return false };
    let (rows, names) = (rows(table), names.iter().copied().collect::<BTreeSet<&str>>());
    for name in names.symmetric_difference(&rows) {
        eprintln!("{PAGE}: `{name}` is in one of list and table; run `cargo xtask mutations`");
    }
    names == rows
}

/// What is before, between and behind the marks.
fn parts(page: &str) -> Option<(&str, &str, &str)> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (table, after) = rest.split_once(END)?;
        Some((before, table, after))
    });
    if parts.is_none() {
        eprintln!("{PAGE}: the marks {BEGIN} and {END} are not there");
    }
    parts
}

/// The names in the first column.
fn rows(table: &str) -> BTreeSet<&str> {
    table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lies_between_the_marks_and_its_rows_are_names() {
        let page = format!("text\n{BEGIN}\n| mutation |\n|---|\n| `a_b` | it |\n| `c` | it |\n{END}\nmore\n");
        let (before, table, after) = parts(&page).expect("the marks are there");
        assert_eq!((before, after), ("text\n", "\nmore\n"));
        assert_eq!(rows(table).into_iter().collect::<Vec<_>>(), ["a_b", "c"]);
        assert_eq!(parts("text"), None);
        assert_eq!(parts(&format!("{END}{BEGIN}")), None);
    }
}
