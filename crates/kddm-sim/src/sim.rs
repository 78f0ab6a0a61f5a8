//! The command `sim`: many seeds on all cores, and what they came to.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use kddm_core::id::ObjectId;
use kddm_sim::fault::{Counts, Fault};
use kddm_sim::run::{Report, run_scenario};
use kddm_sim::scenario::{Cut, Scenario, parse_keep, parse_without};
use kddm_sim::shrink::shrink;
use kddm_sim::stack::Slip;

/// What `sim` is asked for.
#[derive(Args)]
pub struct Arguments {
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: only so many nodes.
    #[arg(long, requires = "seed", value_parser = clap::value_parser!(u16).range(1..))]
    nodes: Option<u16>,
    /// With --seed: only these operations, each as CLIENT.NUMBER.
    #[arg(long, requires = "seed", value_name = "LIST")]
    keep: Option<String>,
    /// With --seed: without these faults.
    #[arg(long, requires = "seed", value_name = "LIST")]
    without: Option<String>,
    /// With --seed: tell the steps of this object, not of the one at which it broke.
    #[arg(long, requires = "seed")]
    object: Option<u64>,
    /// With --seed: write what the clients saw to this file (`kddmadm history check` reads it).
    #[arg(long, requires = "seed", value_name = "FILE")]
    history: Option<PathBuf>,
    /// Make the first scenario that fails smaller before it is told.
    #[arg(long)]
    shrink: bool,
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Run for so long instead.
    #[arg(long, conflicts_with = "seeds")]
    minutes: Option<u64>,
    /// Only the log of several voters, whose faults are its own.
    #[arg(long, conflicts_with_all = ["nodes", "keep", "without", "object", "history", "shrink", "json"])]
    log_only: bool,
    /// The whole stack: views that the log decides, leases on clocks that drift, partitions, pauses, kills.
    #[arg(long, conflicts_with_all = ["nodes", "keep", "without", "object", "history", "shrink", "json", "log_only"])]
    stack: bool,
    /// With --stack: one thing is done wrongly on purpose.
    #[arg(long, requires = "stack", value_name = "NAME", value_parser = slip)]
    slip: Option<Slip>,
    /// One JSON object with the totals.
    #[arg(long)]
    json: bool,
}

fn slip(name: &str) -> Result<Slip, String> {
    let known = || Slip::ALL.map(|(_, name)| name).join(", ");
    Slip::named(name).ok_or_else(|| format!("{name:?} is none of {}", known()))
}

/// Seeds after which each fault and each kind of operation must have happened: half of the seeds have
/// it.
const SEEDS_FOR_ALL: u64 = 100;

/// The sum of all runs.
#[derive(Default)]
struct Totals {
    seeds: u64,
    operations: u64,
    messages: u64,
    revalidated: u64,
    faults: Counts,
    asked: BTreeSet<Fault>,
    kinds: BTreeMap<&'static str, u64>,
    failed: Vec<Report>,
}

impl Totals {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.operations += report.operations;
        self.messages += report.messages;
        self.revalidated += report.revalidated;
        self.faults.absorb(&report.faults);
        self.asked.extend(&report.asked);
        for (kind, count) in &report.kinds {
            *self.kinds.entry(kind).or_insert(0) += count;
        }
        if report.broken.is_some() {
            self.failed.push(report);
        }
    }

    /// What was asked for all along and never happened: such runs prove nothing of it.
    fn missing(&self) -> Option<Fault> {
        let never = |fault: &&Fault| self.faults.of(**fault) == 0;
        self.asked.iter().filter(|_| self.seeds >= SEEDS_FOR_ALL).find(never).copied()
    }
}

/// Runs what is asked for, and says how it went.
pub fn main(arguments: &Arguments) -> ExitCode {
    if arguments.log_only || arguments.stack {
        let (first, count) = arguments.seed.map_or((arguments.first, arguments.seeds), |seed| (seed, 1));
        let limit = arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes));
        let seeds = crate::seeds::Seeds { first, count, limit };
        return if arguments.stack {
            crate::stack_command::main(&seeds, arguments.slip)
        } else {
            crate::voters_command::main(&seeds)
        };
    }
    if let Some(seed) = arguments.seed {
        return match cut(arguments) {
            Ok(cut) => one(seed, &cut, arguments),
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(2)
            }
        };
    }
    let start = Instant::now();
    let limit = arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let last = if limit.is_some() { u64::MAX } else { arguments.first.saturating_add(arguments.seeds) };
    let cut = Cut::default();
    let mut totals = all(arguments.first..last, limit, &cut);
    totals.failed.sort_by_key(|report| report.seed);
    if let Some(report) = totals.failed.first() {
        tell(report, &cut, arguments.shrink);
    }
    let missing = totals.missing();
    if let Some(fault) = missing {
        eprintln!("the runs prove nothing: the fault {} was asked for and never happened", fault.name());
    }
    print(&totals, start.elapsed().as_secs_f64(), arguments.json);
    if totals.failed.is_empty() && missing.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cut(arguments: &Arguments) -> Result<Cut, String> {
    Ok(Cut {
        nodes: arguments.nodes,
        keep: arguments.keep.as_deref().map(parse_keep).transpose()?,
        without: arguments.without.as_deref().map_or(Ok(BTreeSet::new()), parse_without)?,
    })
}

/// All seeds, on all cores, until one has failed. What each seed gives depends on nothing else.
fn all(seeds: std::ops::Range<u64>, limit: Option<Duration>, cut: &Cut) -> Totals {
    let start = Instant::now();
    let (next, totals) = (AtomicU64::new(seeds.start), Mutex::new(Totals::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || limit.is_some_and(|limit| start.elapsed() > limit) {
                        return;
                    }
                    let report = twice(&Scenario::of(seed, cut), None);
                    let mut totals = totals.lock().expect("no thread panics while it adds");
                    if !totals.failed.is_empty() {
                        return;
                    }
                    totals.add(report);
                }
            });
        }
    });
    totals.into_inner().expect("no thread panics while it adds")
}

/// A panic ends the search; it must not end without saying where.
fn run_or_say(scenario: &Scenario, object: Option<ObjectId>) -> Report {
    catch_unwind(AssertUnwindSafe(|| run_scenario(scenario, object))).unwrap_or_else(|panic| {
        eprintln!("a panic; replay: cargo run --release -p kddm-sim -- sim --seed {}", scenario.seed);
        resume_unwind(panic)
    })
}

/// A run whose repetition gave the same trace.
fn twice(scenario: &Scenario, object: Option<ObjectId>) -> Report {
    let mut report = run_or_say(scenario, object);
    if report.broken.is_none() && run_scenario(scenario, object).trace_hash != report.trace_hash {
        report.broken = Some("the same scenario gave another trace".into());
    }
    report
}

fn one(seed: u64, cut: &Cut, arguments: &Arguments) -> ExitCode {
    let start = Instant::now();
    let report = twice(&Scenario::of(seed, cut), arguments.object.map(ObjectId));
    if let Some(path) = &arguments.history
        && let Err(error) = write_history(&report, path)
    {
        eprintln!("cannot write {}: {error}", path.display());
        return ExitCode::from(2);
    }
    if report.broken.is_some() {
        tell(&report, cut, arguments.shrink && cut.is_whole());
    }
    let is_broken = report.broken.is_some();
    let mut totals = Totals::default();
    totals.add(report);
    print(&totals, start.elapsed().as_secs_f64(), arguments.json);
    if is_broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn write_history(report: &Report, path: &Path) -> std::io::Result<()> {
    kddm_history::write(&report.history, std::io::BufWriter::new(std::fs::File::create(path)?))
}

/// A failure: its steps, what is broken, and the command that does it again.
fn tell(report: &Report, cut: &Cut, shrinks: bool) {
    let seed = report.seed;
    let smaller = if shrinks { shrink(seed) } else { None };
    let shrunk = smaller.as_ref().map(|cut| run_scenario(&Scenario::of(seed, cut), None));
    let (report, cut) = (shrunk.as_ref().unwrap_or(report), smaller.as_ref().unwrap_or(cut));
    if smaller.is_some() {
        eprintln!("{}", Scenario::of(seed, cut));
    }
    for step in &report.trace {
        eprintln!("{step}");
    }
    eprintln!("{}", report.broken.as_deref().unwrap_or("it did not fail again"));
    eprintln!("replay: cargo xtask sim --seed {seed}{cut}");
    if smaller.is_none() && cut.is_whole() {
        eprintln!("make it smaller: cargo xtask sim --seed {seed} --shrink");
    }
}

fn print(totals: &Totals, seconds: f64, json: bool) {
    let Totals { seeds, operations, messages, revalidated, faults, kinds, failed, .. } = totals;
    let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    if json {
        let total = serde_json::json!({ "seeds": seeds, "failed": failed.len(), "operations": operations,
            "faults": faults, "seconds": seconds, "seeds_per_second": per_second(*seeds),
            "operations_per_second": per_second(*operations), "messages": messages, "kinds": kinds, "revalidated": revalidated,
            "failed_seeds": failed.iter().map(|report| report.seed).collect::<Vec<_>>() });
        return println!("{total}");
    }
    let happened: Vec<String> = faults.iter().map(|(fault, count)| format!("{count} {}", fault.name())).collect();
    println!("{seeds} seeds, {} failed: {operations} operations, {messages} messages, {seconds:.1} s", failed.len());
    println!("faults: {}; {revalidated} read copies of former lives kept", happened.join(", "));
}
