//! One counting process: takes files from a shared list, counts their words into shared objects.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use kddm::{Address, Config, Node, Set};
use serde::{Deserialize, Serialize};

use super::DemoError;
use super::count::{Counts, count_words, object_of, read_list, read_text};

/// The set of counted words.
pub const WORDS: &str = "demo/words";
/// The set with the position in the list of files, object 0.
pub const NEXT_FILE: &str = "demo/next-file";
/// Words whose objects are asked for ahead of their turn.
const WINDOW: usize = 64;
/// How long a process waits for the others to join.
const JOIN_LIMIT: Duration = Duration::from_secs(20);
/// How long a process that fails waits for the end of its input, which says that its parent is gone:
/// the connections of a killed process end a moment before or behind its pipes.
const ORPHAN_LIMIT: Duration = Duration::from_millis(500);

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
    let line = serde_json::to_string(report).expect("a report is plain data") + "\n";
    let mut output = std::io::stdout().lock();
    // If the parent is gone, the end of standard input ends this process.
    let _parent_may_be_gone = output.write_all(line.as_bytes()).and_then(|()| output.flush());
}

/// Ends this process, without a word, as soon as its standard input ends: the parent has read all that
/// it wants, or was killed. Whatever this process waits for then would never come.
fn end_with_input(files: &SyncSender<Vec<PathBuf>>) {
    let mut input = std::io::stdin().lock();
    if let Ok(list) = read_list(&mut input) {
        let _still_joining = files.send(list);
        let _until_it_ends = std::io::copy(&mut input, &mut std::io::sink());
    }
    std::process::exit(0);
}

/// Runs a counting process. The list of files comes on standard input; the process ends when that does.
///
/// # Errors
/// What the cluster or a file says.
pub fn run(contact: &str, session: u16) -> Result<bool, DemoError> {
    let contact = contact.parse().map_err(|error: kddm::transport::AddressError| DemoError::File {
        path: contact.into(),
        reason: error.to_string(),
    })?;
    let (sender, list) = sync_channel(1);
    std::thread::spawn(move || end_with_input(&sender));
    let failed = count_until_the_end(contact, session, &list);
    // If the parent was killed, that is why this failed: the input ends, and with it this process.
    while list.recv_timeout(ORPHAN_LIMIT).is_ok() {}
    failed.map(|()| true)
}

fn count_until_the_end(contact: Address, session: u16, list: &Receiver<Vec<PathBuf>>) -> Result<(), DemoError> {
    let config = Config::new().contact(contact).session(session).join_limit(JOIN_LIMIT);
    // Nobody is left to hand anything over to when this process ends.
    let node = Node::join(config.drain_limit(Duration::ZERO)).wait()?;
    let Ok(files) = list.recv() else { return Ok(()) };
    let words: Set<Counts> = node.set(WORDS).open().wait()?;
    let next: Set<u64> = node.set(NEXT_FILE).open().wait()?;
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
    // The objects live here: stay until the parent has read them, and ends the input.
    loop {
        std::thread::park();
    }
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
