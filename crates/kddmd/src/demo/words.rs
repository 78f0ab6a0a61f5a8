//! The word count: several processes count the words of a folder into shared objects, and a node
//! that wrote none of them reads the result back and compares it with a plain count.

use std::collections::{BTreeSet, HashMap};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use kddm::{Config, Node, Set};
use serde::Serialize;

use super::DemoError;
use super::count::{Counts, Files, LeftOut, count_words, object_of, read_text, text_files};
use super::watched::Guardian;
use super::worker::{JOIN_LIMIT, Part, Report, WORDS, replicas};
use super::workers::{Event, Workers};

/// What to count, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder.
    pub dir: PathBuf,
    /// Counting processes.
    pub nodes: u16,
    /// Print JSON.
    pub json: bool,
    /// Kill one of the counting processes on the way.
    pub kill: bool,
}

/// Nodes with this number or a greater one may be killed. The first is that of this process: it decides alone
/// who is a member, and reads the result back.
const FIRST_TO_BE_KILLED: u16 = 2;

/// The lease where a process is killed: the guardian proves its end, so that nobody has to wait for a lease,
/// and on a busy host nobody loses a long one.
const LEASE: Duration = Duration::from_secs(5);

/// Words shown at the end.
const TOP: usize = 10;
/// How long nothing may be heard from any counting process: three times the limit of a wait, after
/// which one that misses an object of another gives up.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// How often is looked whether all is whole again.
const LOOK: Duration = Duration::from_millis(10);
/// Objects fetched ahead while the result is read back.
const WINDOW: usize = 256;

/// The result, as it is printed with `--json`.
#[derive(Debug, Serialize)]
struct Summary {
    nodes: u16,
    killed: u16,
    files: usize,
    left_out: LeftOut,
    words: u64,
    distinct_words: usize,
    totals_equal: bool,
    hits: u64,
    misses: u64,
    moves: u64,
    messages: u64,
    seconds: f64,
    count_seconds: f64,
    read_back_seconds: f64,
    most_frequent: Vec<(String, u64)>,
}

/// Runs the demonstration. True if the shared totals equal the plain ones.
///
/// # Errors
/// What went wrong, and where.
pub fn run(options: &Options) -> Result<bool, DemoError> {
    let start = Instant::now();
    let (files, left_out) = list(options)?;
    // Gone after the counting processes, which are no deaths to tell of.
    let guardian = if options.kill { Some(Guardian::start()?) } else { None };
    let node = join(options)?;
    let (sender, events) = channel();
    let part = |share| Part::new(&node, share, guardian.as_ref().map(Guardian::socket));
    let mut workers = Workers::default();
    for share in 0..options.nodes {
        workers.start(&part(share), &sender)?;
    }
    if options.kill {
        // Nothing is put before there is somebody to have a replica.
        node.wait_for_members(1 + usize::from(options.nodes), JOIN_LIMIT)?;
    }
    let words: Set<Counts> = node.set(WORDS).replicas(replicas(options.kill)).open().wait()?;
    workers.begin(&files);
    let mut counting = Counting {
        events: &events,
        workers: &mut workers,
        running: (0..options.nodes).collect(),
        files: files.len(),
        began: 0,
    };
    let bar = progress(files.len() as u64, options.json);
    let mut totals = Totals::default();
    if options.kill {
        let (share, killed) = counting.kill_one(&mut totals, &bar)?;
        totals.killed += 1;
        counting.until_taken_over(&node, killed, &mut totals, &bar)?;
        counting.workers.start(&part(share), &sender)?;
        counting.workers.begin(&files);
    }
    counting.collect(&mut totals, &bar)?;
    bar.finish_and_clear();
    let count_seconds = start.elapsed().as_secs_f64();
    let plain = Arc::new(plain_count(&files)?);
    let reading = Instant::now();
    let (expected, total) = (Arc::clone(&plain), totals.words());
    // In a thread of its own: the death of a process is heard of at once, not at the limit of a wait.
    std::thread::spawn(move || {
        let _given_up = sender.send(Event::ReadBack(read_back(&words, &expected, total)));
    });
    let totals_equal = await_read_back(&events, &mut workers)?;
    let statistics = node.statistics();
    totals.operations += plain.len() as u64;
    totals.misses += statistics.misses;
    let summary = Summary {
        nodes: options.nodes,
        killed: totals.killed,
        files: files.len(),
        left_out,
        words: totals.words(),
        distinct_words: plain.len(),
        totals_equal,
        hits: totals.operations.saturating_sub(totals.misses),
        misses: totals.misses,
        moves: totals.moves + statistics.moves(),
        messages: totals.messages + statistics.messages(),
        seconds: start.elapsed().as_secs_f64(),
        count_seconds,
        read_back_seconds: reading.elapsed().as_secs_f64(),
        most_frequent: plain.iter().take(TOP).cloned().collect(),
    };
    drop((workers, guardian));
    print(&summary, options.json).map_err(DemoError::Output)?;
    Ok(totals_equal)
}

/// What is counted, and what is not.
fn list(options: &Options) -> Result<(Arc<Vec<PathBuf>>, LeftOut), DemoError> {
    let Files { paths: files, left_out } = text_files(&options.dir)?;
    if let Some(sentence) = left_out.sentence() {
        eprintln!("{sentence}");
    }
    if files.is_empty() {
        return Err(DemoError::NoFiles(options.dir.display().to_string()));
    }
    Ok((Arc::new(files), left_out))
}

/// The node that reads back.
fn join(options: &Options) -> Result<Node, DemoError> {
    let session = 1 + (std::process::id() % 9999) as u16;
    // The whole cluster ends with the demonstration: nothing is to be handed over.
    let mut config = Config::new().session(session).drain_limit(Duration::ZERO);
    if options.kill {
        config = config.lease(LEASE);
    }
    Ok(Node::join(config).wait()?)
}

fn progress(files: u64, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} files, {msg}").expect("a constant template");
    ProgressBar::new(files).with_style(style)
}

#[derive(Default)]
struct Totals {
    /// Of each file.
    words: HashMap<u32, u64>,
    killed: u16,
    operations: u64,
    misses: u64,
    moves: u64,
    messages: u64,
}

impl Totals {
    fn words(&self) -> u64 {
        self.words.values().sum()
    }
}

/// The counting processes at work.
struct Counting<'a> {
    events: &'a Receiver<Event>,
    workers: &'a mut Workers,
    /// The shares that are not done.
    running: BTreeSet<u16>,
    files: usize,
    /// Files that were begun, some of them twice.
    began: usize,
}

impl Counting<'_> {
    /// Listens until every counting process is done.
    fn collect(&mut self, totals: &mut Totals, bar: &ProgressBar) -> Result<(), DemoError> {
        while !self.running.is_empty() {
            let event = next(self.events, self.workers)?;
            self.note(&event, totals, bar);
        }
        Ok(())
    }

    /// Kills the process that begins a file when half of them were begun: in the middle of its own. Says whose
    /// share is left, and which node it was.
    fn kill_one(&mut self, totals: &mut Totals, bar: &ProgressBar) -> Result<(u16, u16), DemoError> {
        loop {
            let event = next(self.events, self.workers)?;
            self.note(&event, totals, bar);
            if let Event::Report(number, Report::Began { share, node }) = event
                && self.began * 2 > self.files
                && node >= FIRST_TO_BE_KILLED
            {
                self.workers.kill(number);
                bar.println(format!("process {number}, which is node {node}, was killed"));
                return Ok((share, node));
            }
        }
    }

    /// Listens until the others have taken over what that node had: who comes in its place has one loss to fear
    /// again, and not two. Meanwhile they count on.
    fn until_taken_over(
        &mut self,
        node: &Node,
        killed: u16,
        totals: &mut Totals,
        bar: &ProgressBar,
    ) -> Result<(), DemoError> {
        let deadline = Instant::now() + SILENCE_LIMIT;
        while node.members().iter().any(|member| member.id == killed) || !node.recovery().is_whole {
            match self.events.recv_timeout(LOOK) {
                Ok(Event::Ended(number)) if !self.workers.is_killed(number) => return Err(self.workers.blame(number)),
                Ok(event) => self.note(&event, totals, bar),
                Err(_) if Instant::now() >= deadline => return Err(DemoError::NotWhole(SILENCE_LIMIT.as_secs())),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn note(&mut self, event: &Event, totals: &mut Totals, bar: &ProgressBar) {
        match event {
            Event::Report(_, Report::Began { .. }) => self.began += 1,
            Event::Report(_, Report::File { file, words }) => {
                // One that was killed right behind it is counted again, and added to nothing.
                if totals.words.insert(*file, *words).is_none() {
                    bar.inc(1);
                }
                bar.set_message(format!("{} words", totals.words()));
            }
            // One that was killed right behind it is done, and so is who took its place.
            Event::Report(_, Report::Done { share, operations, misses, moves, messages }) => {
                totals.operations += operations;
                totals.misses += misses;
                totals.moves += moves;
                totals.messages += messages;
                self.running.remove(share);
            }
            Event::ReadBack(_) | Event::Ended(_) => {}
        }
    }
}

/// What happens next; the end of a counting process is an error.
fn next(events: &Receiver<Event>, workers: &mut Workers) -> Result<Event, DemoError> {
    match events.recv_timeout(SILENCE_LIMIT) {
        Ok(Event::Ended(number)) if !workers.is_killed(number) => Err(workers.blame(number)),
        Ok(event) => Ok(event),
        Err(_) => Err(DemoError::Silent(SILENCE_LIMIT.as_secs())),
    }
}

/// Listens until all has been read back.
fn await_read_back(events: &Receiver<Event>, workers: &mut Workers) -> Result<bool, DemoError> {
    loop {
        match events.recv() {
            Ok(Event::ReadBack(equal)) => return equal,
            Ok(Event::Ended(number)) if !workers.is_killed(number) => return Err(workers.blame(number)),
            Ok(Event::Report(..) | Event::Ended(_)) => {}
            Err(_) => return Err(DemoError::Silent(0)),
        }
    }
}

fn plain_count(files: &[PathBuf]) -> Result<Vec<(String, u64)>, DemoError> {
    let mut counts = HashMap::new();
    for file in files {
        count_words(&read_text(file)?, &mut counts);
    }
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(counts)
}

/// Reads every word's object here, where none was written, and compares.
fn read_back(words: &Set<Counts>, plain: &[(String, u64)], total: u64) -> Result<bool, DemoError> {
    let mut equal = plain.iter().map(|(_, count)| count).sum::<u64>() == total;
    for window in plain.chunks(WINDOW) {
        for pending in words.prefetch(window.iter().map(|(word, _)| object_of(word))) {
            pending.wait()?;
        }
        for (word, count) in window {
            let shared = words.get(object_of(word)).wait()?.of(word);
            if shared != *count {
                eprintln!("{word:?}: counted {count} times here, {shared} times in the cluster");
                equal = false;
            }
        }
    }
    Ok(equal)
}

fn print(summary: &Summary, json: bool) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    if json {
        writeln!(output, "{}", serde_json::to_string(summary).expect("a summary is plain data"))?;
        return output.flush();
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_FULL_CONDENSED).set_header(["word", "count"]);
    for (word, count) in &summary.most_frequent {
        table.add_row([word.clone(), count.to_string()]);
    }
    writeln!(output, "{table}")?;
    writeln!(
        output,
        "{} words ({} distinct) in {} files, counted by {} processes in {:.1} s, read back by another in {:.1} s",
        summary.words,
        summary.distinct_words,
        summary.files,
        summary.nodes,
        summary.count_seconds,
        summary.read_back_seconds
    )?;
    writeln!(
        output,
        "hits {}  misses {}  moves {}  messages {}",
        summary.hits, summary.misses, summary.moves, summary.messages
    )?;
    if summary.killed > 0 {
        writeln!(output, "{} of the processes was killed on the way, and another did its work", summary.killed)?;
    }
    let verdict = if summary.totals_equal { "equal" } else { "DIFFER from" };
    writeln!(output, "totals {verdict} a plain count by one process")?;
    output.flush()
}
