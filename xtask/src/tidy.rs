//! House rules that a compiler does not know. Each finding says where, and what to do.

use std::path::{Path, PathBuf};

/// Lines of a source file without its tests. Longer files have two concepts in them.
const MAX_FILE_LINES: usize = 500;
/// Lines of a function: what fits on a screen.
const MAX_FUNCTION_LINES: usize = 70;
/// Lines of ARCHITECTURE.md: a map, not a book.
const MAX_ARCHITECTURE_LINES: usize = 300;

/// Files that may contain `unsafe`, by the end of their path. The rest of the code is safe.
const UNSAFE_ALLOWED: &[&str] = &[
    "crates/kddm/src/cell/arena.rs",
    "crates/kddm/src/cell/changed.rs",
    "crates/kddm/src/cell/content.rs",
    "crates/kddm/src/cell/handle.rs",
    "crates/kddm/src/cell/hold.rs",
    "crates/kddm/src/cell/lent.rs",
    "crates/kddm/src/cell/store.rs",
    "crates/kddm/src/cell/sync.rs",
    "crates/kddm/src/cell/table.rs",
    "crates/kddm/src/cell/told.rs",
    "crates/kddm/src/cell/word.rs",
    "crates/kddm/src/cell/loom_tests.rs",
    "crates/kddm/src/cell/stress_tests.rs",
    "crates/kddm/src/pages.rs",
    "crates/kddmd/src/guardian/peer.rs",
];

/// Words that are not left in a tree, split so that this file does not contain them.
const BANNED: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "do it, or say in docs/ what is missing"),
    (concat!("FIX", "ME"), "mend it"),
    (concat!("todo", "!("), "write the code"),
    (concat!("unimplemented", "!("), "write the code"),
    (concat!("dbg", "!("), "use tracing"),
    (concat!("#[", "ignore"), "a test that does not run is no test"),
    (concat!("/wo", "rk/"), "no path of one machine belongs into the project"),
];

/// Checks the tree below the current directory.
pub fn check() -> bool {
    let mut findings = Vec::new();
    let mut files = Vec::new();
    for root in ["crates", "xtask", "docs"] {
        collect(Path::new(root), &mut files);
    }
    files.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from));
    files.sort();
    for file in &files {
        match std::fs::read_to_string(file) {
            Ok(text) => look_at(file, &text, &mut findings),
            Err(error) => findings.push(format!("{}: cannot be read: {error}", file.display())),
        }
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    eprintln!("tidy: {} files, {} findings", files.len(), findings.len());
    findings.is_empty()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs" || ending == "md") {
            files.push(path);
        }
    }
}

fn look_at(file: &Path, text: &str, findings: &mut Vec<String>) {
    let name = file.display().to_string();
    for (word, advice) in BANNED {
        if let Some(line) = text.lines().position(|line| line.contains(word)) {
            findings.push(format!("{name}:{}: `{word}`: {advice}", line + 1));
        }
    }
    if name == "ARCHITECTURE.md" && text.lines().count() >= MAX_ARCHITECTURE_LINES {
        findings.push(format!("{name}: {MAX_ARCHITECTURE_LINES} lines or more; it is a map, shorten it"));
    }
    if file.extension().is_some_and(|ending| ending == "md") {
        return links(file, text, findings);
    }
    let is_test = name.contains("/tests/") || name.ends_with("tests.rs") || name.contains("/examples/");
    let code: Vec<&str> = text.lines().take_while(|line| *line != "#[cfg(test)]").collect();
    if !is_test && code.len() >= MAX_FILE_LINES {
        findings.push(format!("{name}: {} lines; split it by concept, below {MAX_FILE_LINES}", code.len()));
    }
    if !is_test && !UNSAFE_ALLOWED.contains(&name.as_str()) {
        let uses = |line: &str| line.contains(concat!("unsafe", " {")) || line.contains(concat!("unsafe", " impl"));
        if let Some(line) = code.iter().position(|line| uses(line)) {
            findings.push(format!("{name}:{}: unsafe outside the files that may have it", line + 1));
        }
    }
    if !is_test {
        functions(&name, &code, findings);
    }
}

/// A function ends at the first line that closes at the indentation at which it began.
fn functions(name: &str, code: &[&str], findings: &mut Vec<String>) {
    for (start, line) in code.iter().enumerate() {
        let trimmed = line.trim_start();
        let is_function = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn ", "pub const fn "]
            .iter()
            .any(|prefix| trimmed.starts_with(prefix));
        if !is_function || line.trim_end().ends_with(';') {
            continue;
        }
        let indent = line.len() - trimmed.len();
        let closes = |line: &str| line.len() - line.trim_start().len() == indent && line.trim_start().starts_with('}');
        let lines = code[start..].iter().position(|line| closes(line)).unwrap_or(0);
        if lines > MAX_FUNCTION_LINES {
            findings.push(format!("{name}:{}: a function of {lines} lines; at most {MAX_FUNCTION_LINES}", start + 1));
        }
    }
}

/// Links between documents lead to files that exist.
fn links(file: &Path, text: &str, findings: &mut Vec<String>) {
    for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let path = target.split('#').next().unwrap_or_default();
        if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
            continue;
        }
        let folder = file.parent().unwrap_or(Path::new(""));
        if !folder.join(path).exists() {
            findings.push(format!("{}: the link to {target} leads nowhere", file.display()));
        }
    }
}
