//! The word count: several processes count the words of a folder into shared objects, and a node
//! that wrote none of them reads the result back and compares it with a plain count.

use std::collections::HashMap;
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
use super::worker::{Report, WORDS};
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
}

/// Words shown at the end.
const TOP: usize = 10;
/// How long nothing may be heard from any counting process: three times the limit of a wait, after
/// which one that misses an object of another gives up.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Objects fetched ahead while the result is read back.
const WINDOW: usize = 256;

/// The result, as it is printed with `--json`.
#[derive(Debug, Serialize)]
struct Summary {
    nodes: u16,
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
    let Files { paths: files, left_out } = text_files(&options.dir)?;
    if let Some(sentence) = left_out.sentence() {
        eprintln!("{sentence}");
    }
    if files.is_empty() {
        return Err(DemoError::NoFiles(options.dir.display().to_string()));
    }
    let files = Arc::new(files);
    let session = 1 + (std::process::id() % 9999) as u16;
    // The whole cluster ends with the demonstration: nothing is to be handed over.
    let node = Node::join(Config::new().session(session).drain_limit(Duration::ZERO)).wait()?;
    let words: Set<Counts> = node.set(WORDS).open().wait()?;
    let (sender, events) = channel();
    let mut workers = Workers::default();
    for _ in 0..options.nodes {
        workers.start(&node, session, &files, &sender)?;
    }
    let bar = progress(files.len() as u64, options.json);
    let mut totals = collect(&events, &mut workers, &bar, options.nodes)?;
    let count_seconds = start.elapsed().as_secs_f64();
    let plain = Arc::new(plain_count(&files)?);
    let reading = Instant::now();
    let (expected, total) = (Arc::clone(&plain), totals.words);
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
        files: files.len(),
        left_out,
        words: totals.words,
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
    drop(workers);
    print(&summary, options.json).map_err(DemoError::Output)?;
    Ok(totals_equal)
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
    words: u64,
    operations: u64,
    misses: u64,
    moves: u64,
    messages: u64,
}

/// Listens until every counting process is done.
fn collect(
    events: &Receiver<Event>,
    workers: &mut Workers,
    bar: &ProgressBar,
    nodes: u16,
) -> Result<Totals, DemoError> {
    let mut totals = Totals::default();
    let mut running = nodes;
    while running > 0 {
        match next(events, workers)? {
            Event::Report(Report::File { words }) => {
                totals.words += words;
                bar.inc(1);
                bar.set_message(format!("{} words", totals.words));
            }
            Event::Report(Report::Done { operations, misses, moves, messages }) => {
                totals.operations += operations;
                totals.misses += misses;
                totals.moves += moves;
                totals.messages += messages;
                running -= 1;
            }
            Event::ReadBack(_) | Event::Ended(_) => {}
        }
    }
    bar.finish_and_clear();
    Ok(totals)
}

/// What happens next; the end of a counting process is an error.
fn next(events: &Receiver<Event>, workers: &mut Workers) -> Result<Event, DemoError> {
    match events.recv_timeout(SILENCE_LIMIT) {
        Ok(Event::Ended(number)) => Err(workers.blame(number)),
        Ok(event) => Ok(event),
        Err(_) => Err(DemoError::Silent(SILENCE_LIMIT.as_secs())),
    }
}

/// Listens until all has been read back.
fn await_read_back(events: &Receiver<Event>, workers: &mut Workers) -> Result<bool, DemoError> {
    loop {
        match events.recv() {
            Ok(Event::ReadBack(equal)) => return equal,
            Ok(Event::Ended(number)) => return Err(workers.blame(number)),
            Ok(Event::Report(_)) => {}
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
    let verdict = if summary.totals_equal { "equal" } else { "DIFFER from" };
    writeln!(output, "totals {verdict} a plain count by one process")?;
    output.flush()
}
