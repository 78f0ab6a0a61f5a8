//! The rules of `docs/protocol.md`, row by row, as stories that anyone can read: `tests/script/*.txt`.
//! `UPDATE=1 cargo test -p kddm-core --test script` writes what follows from each line anew.

mod script_runner;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use script_runner::{Replay, is_row, replay};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/script")
}

fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).expect("the folder of scripts is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "txt"));
    files.sort();
    files
}

fn replay_file(file: &Path) -> Replay {
    let text = std::fs::read_to_string(file).expect("a script can be read");
    replay(&file.file_name().expect("it has a name").to_string_lossy(), &text)
}

/// A build with mutations does the one that the environment names: then a story must go otherwise.
#[cfg(kddm_mutation)]
fn choose_mutation() {
    use kddm_core::mutation::{Mutation, choose};
    let wanted = std::env::var("KDDM_MUTATION").unwrap_or_default();
    choose(Mutation::ALL.iter().find(|(_, name, _)| *name == wanted).map(|(mutation, ..)| *mutation));
}

#[test]
fn every_story_goes_as_it_is_written() {
    #[cfg(kddm_mutation)]
    choose_mutation();
    let update = std::env::var_os("UPDATE").is_some_and(|value| value == "1");
    let mut findings = Vec::new();
    for file in files() {
        let mut replay = replay_file(&file);
        if update {
            // Renamed into its place, since other tests read the file at the same time.
            let written = file.with_extension("new");
            std::fs::write(&written, &replay.text).expect("a script can be written");
            std::fs::rename(&written, &file).expect("a script can be replaced");
            replay = replay_file(&file); // What cannot be put right is found again.
        }
        findings.extend(replay.findings);
    }
    let count = findings.len();
    assert!(findings.is_empty(), "{count} differences, - written, + found:\n\n{}", findings.join("\n\n"));
}

/// The rows of the rules: table rows of `docs/protocol.md` whose first cell is a letter and a number.
fn rows_of_the_rules() -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md");
    let page = std::fs::read_to_string(page).expect("the page of the protocol can be read");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let mut rows = BTreeSet::new();
    for row in cells.filter(|cell| is_row(cell)) {
        assert!(rows.insert(row.to_owned()), "docs/protocol.md has two rows {row}");
    }
    rows
}

#[test]
fn every_row_of_the_rules_has_a_story_and_every_story_a_row() {
    let rows = rows_of_the_rules();
    let told: BTreeSet<String> = files().iter().flat_map(|file| replay_file(file).rows).collect();
    let without: Vec<_> = rows.difference(&told).collect();
    assert!(without.is_empty(), "rows of docs/protocol.md without a story in tests/script: {without:?}");
    let unknown: Vec<_> = told.difference(&rows).collect();
    assert!(unknown.is_empty(), "stories of rows that docs/protocol.md does not have: {unknown:?}");
    assert!(rows.len() > 60, "only {} rows were found: is the table still one?", rows.len());
}

/// A story that is written otherwise than it goes must be found, or the scripts show nothing.
#[test]
fn a_wrong_story_is_noticed_and_put_right() {
    let right =
        "# Q9: nothing is there\nnode 1 home 1\nfrom 2: get existing 2/1\n  send 2: not_found for 2/1\n  = none\n";
    let replayed = replay("right", right);
    assert!(replayed.findings.is_empty(), "{:?}", replayed.findings);
    assert_eq!(replayed.text, right);
    assert_eq!(replayed.rows.into_iter().collect::<Vec<_>>(), ["Q9"]);
    let wrongs = [
        right.replace("not_found", "busy"),
        right.replace("  send 2: not_found for 2/1\n", ""),
        right.replace("= none", "= owner 1.1 v0 born 1.1"),
        right.replace("  = none\n", "  = none\n  dropped: nothing\n"),
    ];
    for wrong in wrongs {
        let replayed = replay("wrong", &wrong);
        assert_eq!(replayed.findings.len(), 1, "{wrong}");
        assert_eq!(replayed.text, right, "what UPDATE=1 writes");
    }
}

#[test]
fn a_line_that_nobody_understands_is_named() {
    for line in [
        "want",
        "want all",
        "want flush to",
        "from 2 get 2/1",
        "from 2: get",
        "from 2: get 2/1 first inherited",
        "from 2: get 2/x",
        "from 2: ack 7 v0",
        "from 2: ack 1.1 0",
        "from 2: transfer 1.1 v0",
        "from 2: try_answer for 2/1",
        "revoked 1",
        "cancel it",
        "node 1 home 1",
        "given from 2: owner_is 40 1.1",
        "say hello",
        "put 1",
        "lost 2",
        "from 2: have much",
        "from 2: have ghost 1.1 v1 seen 1.2",
        "from 2: promote 1.1 v1 owner",
        "from 2: entry 1.1 owner 2 perhaps",
    ] {
        let text = format!("node 1 home 1\n{line}\n");
        let replayed = replay("story", &text);
        assert_eq!(replayed.findings.len(), 1, "{line}");
        assert!(replayed.findings[0].starts_with("story:2: "), "{:?}", replayed.findings);
        assert_eq!(replayed.text, text, "nothing is made of it");
    }
    assert_eq!(replay("story", "want get\n").findings.len(), 1, "there is no node yet");
}
