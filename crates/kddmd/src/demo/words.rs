//! The word count: several processes count the words of a folder into shared objects, and a node
//! that wrote none of them reads the result back and compares it with a plain count.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use kddm::{Config, Node, Set};
use serde::Serialize;

use super::DemoError;
use super::count::{Counts, count_words, object_of, read_text, text_files};
use super::worker::{Report, WORDS};

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
/// Objects fetched ahead while the result is read back.
const WINDOW: usize = 256;

/// The result, as it is printed with `--json`.
#[derive(Debug, Serialize)]
struct Summary {
    nodes: u16,
    files: usize,
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

/// Counting processes; none outlives the demonstration: their standard input ends with it.
struct Workers(Vec<Child>);

impl Drop for Workers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
        }
        for child in &mut self.0 {
            let _ended = child.wait();
        }
    }
}

/// Runs the demonstration. True if the shared totals equal the plain ones.
///
/// # Errors
/// What went wrong, and where.
pub fn run(options: &Options) -> Result<bool, DemoError> {
    let start = Instant::now();
    let files = text_files(&options.dir)?;
    let session = 1 + (std::process::id() % 9999) as u16;
    let node = Node::join(Config::new().session(session))?;
    let words: Set<Counts> = node.set(WORDS).open()?;
    let (sender, receiver) = channel();
    let mut workers = Workers(Vec::new());
    for number in 1..=usize::from(options.nodes) {
        workers.0.push(start_worker(&node, session, &files, number, &sender)?);
    }
    drop(sender);
    let bar = progress(files.len() as u64, options.json);
    let mut totals = collect(&receiver, &bar, options.nodes)?;
    let count_seconds = start.elapsed().as_secs_f64();
    let plain = plain_count(&files)?;
    let reading = Instant::now();
    let totals_equal = read_back(&words, &plain, totals.words)?;
    let statistics = node.statistics();
    totals.operations += plain.len() as u64;
    totals.misses += statistics.misses;
    let summary = Summary {
        nodes: options.nodes,
        files: files.len(),
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
        most_frequent: most_frequent(plain),
    };
    drop(workers);
    print(&summary, options.json);
    Ok(totals_equal)
}

fn start_worker(
    node: &Node,
    session: u16,
    files: &[PathBuf],
    number: usize,
    reports: &Sender<(usize, Option<Report>)>,
) -> Result<Child, DemoError> {
    let failed = |reason: String| DemoError::Worker { number, reason };
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut child = Command::new(program)
        .args(["demo-worker", "--contact", &node.address().to_string(), "--session", &session.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let mut list: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    list.push('\n');
    if let Some(input) = &mut child.stdin {
        input.write_all(list.as_bytes()).map_err(|error| failed(error.to_string()))?;
    }
    let output = child.stdout.take().ok_or_else(|| failed("no standard output".into()))?;
    let reports = reports.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let Ok(report) = serde_json::from_str(&line) else { continue };
            if reports.send((number, Some(report))).is_err() {
                return;
            }
        }
        let _parent_may_be_gone = reports.send((number, None));
    });
    Ok(child)
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
fn collect(reports: &Receiver<(usize, Option<Report>)>, bar: &ProgressBar, nodes: u16) -> Result<Totals, DemoError> {
    let mut totals = Totals::default();
    let mut running = nodes;
    while running > 0 {
        let Ok((number, report)) = reports.recv() else {
            return Err(DemoError::Worker { number: 0, reason: "all of them are gone".into() });
        };
        match report {
            Some(Report::File { words }) => {
                totals.words += words;
                bar.inc(1);
                bar.set_message(format!("{} words", totals.words));
            }
            Some(Report::Done { operations, misses, moves, messages }) => {
                totals.operations += operations;
                totals.misses += misses;
                totals.moves += moves;
                totals.messages += messages;
                running -= 1;
            }
            None => return Err(DemoError::Worker { number, reason: "see its message above".into() }),
        }
    }
    bar.finish_and_clear();
    Ok(totals)
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

fn most_frequent(plain: Vec<(String, u64)>) -> Vec<(String, u64)> {
    plain.into_iter().take(TOP).collect()
}

fn print(summary: &Summary, json: bool) {
    if json {
        println!("{}", serde_json::to_string(summary).expect("a summary is plain data"));
        return;
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_FULL_CONDENSED).set_header(["word", "count"]);
    for (word, count) in &summary.most_frequent {
        table.add_row([word.clone(), count.to_string()]);
    }
    println!("{table}");
    println!(
        "{} words ({} distinct) in {} files, counted by {} processes in {:.1} s, read back by another in {:.1} s",
        summary.words,
        summary.distinct_words,
        summary.files,
        summary.nodes,
        summary.count_seconds,
        summary.read_back_seconds
    );
    println!(
        "hits {}  misses {}  moves {}  messages {}",
        summary.hits, summary.misses, summary.moves, summary.messages
    );
    let verdict = if summary.totals_equal { "equal" } else { "DIFFER from" };
    println!("totals {verdict} a plain count by one process");
}
