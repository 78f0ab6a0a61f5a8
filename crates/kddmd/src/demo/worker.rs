//! One counting process: takes files from a shared list, counts their words into shared objects.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use kddm::{Address, Config, Error, Fate, Node, Pending, Set};
use serde::{Deserialize, Serialize};

use super::DemoError;
use super::count::{Counts, count_words, object_of, read_list, read_text};
use super::dealt::Dealt;

/// The set of counted words.
pub const WORDS: &str = "demo/words";
/// The set with what has been dealt out of the list of files, object 0.
pub const DEALT: &str = "demo/dealt";
/// Words whose objects are asked for ahead of their turn.
const WINDOW: usize = 64;
/// How often an update is asked for anew of which nobody can say whether it happened. More than one process is
/// killed by nobody.
const ATTEMPTS: usize = 5;
/// How long a process waits for the others to join.
pub const JOIN_LIMIT: Duration = Duration::from_secs(20);
/// How long a process that fails waits for the end of its input, which says that its parent is gone:
/// the connections of a killed process end a moment before or behind its pipes.
const ORPHAN_LIMIT: Duration = Duration::from_millis(500);

/// What a counting process tells its parent, a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// Some words of a file are counted, or all of them.
    Began {
        /// The share of the process.
        share: u16,
        /// Its node.
        node: u16,
    },
    /// A file is counted, perhaps once more.
    File {
        /// Its place in the list.
        file: u32,
        /// Its words.
        words: u64,
    },
    /// All files are counted.
    Done {
        /// The share that is counted.
        share: u16,
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

/// Who a counting process is, and how it counts.
#[derive(Clone, Debug, clap::Args)]
pub struct Part {
    /// The node to join by.
    #[arg(long)]
    contact: Address,
    /// The session of the demo's cluster.
    #[arg(long)]
    session: u16,
    /// Which share of the files it counts. One that takes the place of another has the share of that.
    #[arg(long)]
    share: u16,
    /// The guardian that tells the others of its end: it may be killed, and what it has counted survives it.
    #[arg(long)]
    guardian: Option<PathBuf>,
}

impl Part {
    /// As arguments of the process.
    pub fn arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments: Vec<std::ffi::OsString> = vec!["--contact".into(), self.contact.to_string().into()];
        arguments.extend(["--session".into(), self.session.to_string().into()]);
        arguments.extend(["--share".into(), self.share.to_string().into()]);
        if let Some(guardian) = &self.guardian {
            arguments.extend(["--guardian".into(), guardian.into()]);
        }
        arguments
    }

    /// A part of the demonstration around that node.
    pub fn new(node: &Node, share: u16, guardian: Option<PathBuf>) -> Part {
        Part { contact: node.address().clone(), session: node.session(), share, guardian }
    }
}

/// Replicas of what is counted: without somebody who may be killed nobody needs one.
pub fn replicas(may_be_killed: bool) -> u8 {
    if may_be_killed { kddm::DEFAULT_REPLICAS } else { 0 }
}

/// Runs a counting process. The list of files comes on standard input; the process ends when that does.
///
/// # Errors
/// What the cluster or a file says.
pub fn run(part: &Part) -> Result<bool, DemoError> {
    let (sender, list) = sync_channel(1);
    std::thread::spawn(move || end_with_input(&sender));
    let failed = count_until_the_end(part, &list);
    // If the parent was killed, that is why this failed: the input ends, and with it this process.
    while list.recv_timeout(ORPHAN_LIMIT).is_ok() {}
    failed.map(|()| true)
}

fn count_until_the_end(part: &Part, list: &Receiver<Vec<PathBuf>>) -> Result<(), DemoError> {
    let mut config = Config::new().contact(part.contact.clone()).session(part.session).join_limit(JOIN_LIMIT);
    config.guardian.clone_from(&part.guardian);
    // Nobody is left to hand anything over to when this process ends.
    let node = Node::join(config.drain_limit(Duration::ZERO)).wait()?;
    let Ok(files) = list.recv() else { return Ok(()) };
    let replicas = replicas(part.guardian.is_some());
    let words: Set<Counts> = node.set(WORDS).replicas(replicas).open().wait()?;
    let dealt: Set<Dealt> = node.set(DEALT).replicas(replicas).open().wait()?;
    let counting = Counting { words, share: part.share, node: node.id(), records: part.guardian.is_some() };
    let (mut operations, mut finished) = (0, None);
    loop {
        let (share, count) = (part.share, files.len() as u32);
        let next = insist(|| dealt.update(0, move |dealt| Ok(dealt.deal(share, finished, count))))?;
        operations += 1;
        let Some(number) = next else { break };
        // A list that has become shorter is no list of this demonstration.
        let Some(file) = files.get(number as usize) else { break };
        let counted = counting.file(number, file)?;
        operations += counted.0;
        tell(&Report::File { file: number, words: counted.1 });
        finished = Some(number);
    }
    let statistics = node.statistics();
    let (misses, moves, messages) = (statistics.misses, statistics.moves(), statistics.messages());
    tell(&Report::Done { share: part.share, operations, misses, moves, messages });
    // The objects live here: stay until the parent has read them, and ends the input.
    loop {
        std::thread::park();
    }
}

/// Asks again if nobody can say whether it happened: what is asked for here can be done twice.
fn insist<R: Send + 'static>(ask: impl Fn() -> Pending<R>) -> Result<R, Error> {
    let is_in_doubt = |answer: &Result<R, Error>| answer.as_ref().is_err_and(|error| error.fate() == Fate::Unknown);
    let mut answers = (1..ATTEMPTS).map(|_| ask().wait());
    answers.find(|answer| !is_in_doubt(answer)).unwrap_or_else(|| ask().wait())
}

struct Counting {
    words: Set<Counts>,
    share: u16,
    node: u16,
    /// Which file has been counted is kept with each word.
    records: bool,
}

impl Counting {
    /// Adds the words of a file to the shared counts; returns operations and words.
    fn file(&self, number: u32, file: &Path) -> Result<(u64, u64), DemoError> {
        let mut counts = HashMap::new();
        count_words(&read_text(file)?, &mut counts);
        let counts: Vec<(String, u64)> = counts.into_iter().collect();
        for (at, window) in counts.chunks(WINDOW).enumerate() {
            // All requests of the window are on their way before the first is waited for.
            let asked: Vec<_> = window.iter().map(|(word, _)| self.words.acquire(object_of(word))).collect();
            for pending in asked {
                pending.wait()?;
            }
            for (word, count) in window {
                self.add(number, word, *count)?;
            }
            if at == 0 {
                tell(&Report::Began { share: self.share, node: self.node });
            }
        }
        Ok((counts.len() as u64, counts.iter().map(|(_, count)| count).sum()))
    }

    fn add(&self, file: u32, word: &str, count: u64) -> Result<(), Error> {
        let records = self.records;
        let add = |word: String| {
            self.words.update(object_of(&word), move |counts| {
                if records {
                    counts.add_of_file(file, &word, count)
                } else {
                    counts.add(&word, count)
                }
                Ok(())
            })
        };
        // Without a record it must not be done twice.
        if records { insist(|| add(word.to_string())) } else { add(word.to_string()).wait() }
    }
}
