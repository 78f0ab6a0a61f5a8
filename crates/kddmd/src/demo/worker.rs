//! One counting process: takes files from a shared list, counts their words into shared objects.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use kddm::{Config, Node, Set};
use serde::{Deserialize, Serialize};

use super::DemoError;
use super::count::{Counts, count_words, object_of, read_text};

/// The set of counted words.
pub const WORDS: &str = "demo/words";
/// The set with the position in the list of files, object 0.
pub const NEXT_FILE: &str = "demo/next-file";
/// Words whose objects are asked for ahead of their turn.
const WINDOW: usize = 64;
/// How long a process waits for the others to join.
const JOIN_LIMIT: Duration = Duration::from_secs(20);

/// What a counting process tells its parent, a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// A file is counted.
    File {
        /// Its words.
        words: u64,
    },
    /// All files are counted.
    Done {
        /// Operations on shared objects.
        operations: u64,
        /// Those for which a thread had to wait.
        misses: u64,
        /// Ownerships that moved away.
        moves: u64,
        /// Messages sent.
        messages: u64,
    },
}

fn tell(report: &Report) {
    let line = serde_json::to_string(report).expect("a report is plain data");
    println!("{line}");
    let _parent_may_be_gone = std::io::stdout().flush();
}

/// Runs a counting process. The list of files comes on standard input, a line each, and an empty
/// line; the process ends when its standard input does.
///
/// # Errors
/// What the cluster or a file says.
pub fn run(contact: &str, session: u16) -> Result<bool, DemoError> {
    let contact = contact.parse().map_err(|error: kddm::transport::AddressError| DemoError::File {
        path: contact.into(),
        reason: error.to_string(),
    })?;
    let node = Node::join(Config::new().contact(contact).session(session).join_limit(JOIN_LIMIT))?;
    let mut input = std::io::stdin().lock().lines();
    let files: Vec<PathBuf> =
        input.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).map(PathBuf::from).collect();
    let words: Set<Counts> = node.set(WORDS).open()?;
    let next: Set<u64> = node.set(NEXT_FILE).open()?;
    let mut operations = 0;
    loop {
        let turn = next.update(0, |next| {
            *next += 1;
            Ok(*next - 1)
        });
        let Some(file) = files.get(turn.wait()? as usize) else { break };
        let counted = count_file(&words, file)?;
        operations += 1 + counted.0;
        tell(&Report::File { words: counted.1 });
    }
    let statistics = node.statistics();
    let (misses, moves, messages) = (statistics.misses, statistics.moves(), statistics.messages());
    tell(&Report::Done { operations, misses, moves, messages });
    // The objects live here: stay until the parent has read them.
    for _line in input {}
    Ok(true)
}

/// Adds the words of a file to the shared counts; returns operations and words.
fn count_file(words: &Set<Counts>, file: &std::path::Path) -> Result<(u64, u64), DemoError> {
    let mut counts = HashMap::new();
    count_words(&read_text(file)?, &mut counts);
    let counts: Vec<(String, u64)> = counts.into_iter().collect();
    for window in counts.chunks(WINDOW) {
        // All requests of the window are on their way before the first is waited for.
        let asked: Vec<_> = window.iter().map(|(word, _)| words.acquire(object_of(word))).collect();
        for pending in asked {
            pending.wait()?;
        }
        for (word, count) in window {
            let (word, count) = (word.clone(), *count);
            words
                .update(object_of(&word), move |counts| {
                    counts.add(&word, count);
                    Ok(())
                })
                .wait()?;
        }
    }
    Ok((counts.len() as u64, counts.iter().map(|(_, count)| count).sum()))
}
