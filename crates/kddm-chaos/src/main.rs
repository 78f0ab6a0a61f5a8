//! `cargo xtask chaos`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Parser;
use kddm_chaos::fault::Fault;
use kddm_chaos::report::Report;
use kddm_chaos::run::{Options, run};
use kddm_chaos::{plot, reads, world};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The longest run, a week: longer than anybody waits.
const MOST_MINUTES: f64 = 7.0 * 24.0 * 60.0;

/// The status of a run that this machine does not allow.
const NOT_HERE: u8 = 3;

/// Real daemons, each on a host of its own in network namespaces; faults; and whether anything is lost.
///
/// The status is 0 if the run is clean, 1 if not, 2 if it could not be run, 3 if this machine lacks
/// something for it.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask chaos", version)]
struct Arguments {
    /// How long faults are made.
    #[arg(long, default_value_t = 1.0, value_name = "MINUTES")]
    minutes: f64,
    /// End after so many kills; then --minutes is the longest it may take.
    #[arg(long, value_name = "COUNT")]
    kills: Option<u64>,
    /// Hosts, each with a daemon.
    #[arg(long, default_value_t = 4, value_name = "COUNT")]
    nodes: u16,
    /// Decides which faults come when, and what clients do [default: drawn].
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Only these faults, with commas between: kill, restart, pause-short, pause, cut-short, cut, one-way-short,
    /// one-way, split, random-loss, clock-jump, disk-full.
    #[arg(long, value_delimiter = ',', value_name = "FAULT")]
    only: Vec<String>,
    /// The shortest lease that this host allows, and blips that outlast it: pause-short, cut-short and one-way-short
    /// from 200 ms on.
    #[arg(long)]
    short_lease: bool,
    /// The daemon of host 1 lives through the run, and it, the guardians and this program must have as much memory (but
    /// this program) and as many descriptors and threads at the end as at the begin: judged from ten minutes on.
    #[arg(long)]
    soak: bool,
    /// No faults: instead so many reads by processes that are stopped for longer than their lease, 40 times, while others
    /// write; is anything stale read?
    #[arg(long, value_name = "COUNT")]
    reads: Option<u64>,
    /// Print each fault, too.
    #[arg(long)]
    report: bool,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
    /// Where logs, history, picture and report go.
    #[arg(long, default_value = "target/chaos", value_name = "DIR")]
    output: PathBuf,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [reader, contact, file] = &words[..]
        && reader == reads::READER
    {
        return status(reads::reader(contact, file).map(|()| true));
    }
    let arguments = Arguments::parse();
    if let Some(count) = arguments.reads {
        return status(read(&arguments, count));
    }
    if !world::is_inside() {
        if let Some(missing) = world::missing() {
            eprintln!("chaos {missing}");
            return ExitCode::from(NOT_HERE);
        }
        eprintln!("chaos: {}", world::enter(std::env::args_os().skip(1)));
        return ExitCode::from(2);
    }
    let options = match options(&arguments) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::from(2);
        }
    };
    status(chaos(&arguments, &options).map(|report| report.is_clean()))
}

fn status(is_clean: Result<bool, String>) -> ExitCode {
    match is_clean {
        Ok(is_clean) => ExitCode::from(u8::from(!is_clean)),
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::from(2)
        }
    }
}

/// It needs no network of its own.
fn read(arguments: &Arguments, count: u64) -> Result<bool, String> {
    let output = &arguments.output;
    std::fs::create_dir_all(output).map_err(|error| format!("cannot make {}: {error}", output.display()))?;
    let found = reads::run(count, output, &*interrupted()?)?;
    if arguments.json {
        println!("{}", found.json())
    } else {
        println!("{found}")
    }
    Ok(found.is_clean())
}

/// Raised by the signals that are to end this program.
fn interrupted() -> Result<Arc<AtomicBool>, String> {
    let is_interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&is_interrupted))
            .map_err(|error| format!("cannot watch for signals: {error}"))?;
    }
    Ok(is_interrupted)
}

fn options(arguments: &Arguments) -> Result<Options, String> {
    let minutes = arguments.minutes;
    if !(0.0..=MOST_MINUTES).contains(&minutes) {
        return Err(format!("--minutes is {minutes}; it must be from 0 to {MOST_MINUTES}"));
    }
    let all = || Ok(Fault::ALL.iter().map(|(fault, _)| *fault).collect());
    let blips = || Ok(vec![Fault::PauseShort, Fault::CutShort, Fault::OneWayShort]);
    let named = || arguments.only.iter().map(|name| Fault::of_name(name)).collect();
    let faults = match (arguments.only.is_empty(), arguments.short_lease) {
        (true, false) => all(),
        (true, true) => blips(),
        (false, _) => named(),
    }?;
    let lease = if arguments.short_lease { kddm::least_lease() } else { kddm::Config::new().lease };
    let program = std::env::current_exe().map_err(|error| format!("this program does not find itself: {error}"))?;
    let programs = program.parent().map(PathBuf::from).unwrap_or_default();
    for name in ["kddmd", "kddm-guardian"] {
        if !programs.join(name).exists() {
            return Err(format!("{name} is not beside this program: cargo build -p kddmd --bins"));
        }
    }
    std::fs::create_dir_all(&arguments.output)
        .map_err(|error| format!("cannot make {}: {error}", arguments.output.display()))?;
    // Logs of an earlier run would be gone on with.
    for entry in std::fs::read_dir(&arguments.output).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == "log") || path.ends_with("faults.jsonl") {
            let _already_gone = std::fs::remove_file(path);
        }
    }
    Ok(Options {
        nodes: arguments.nodes,
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000)),
        length: Duration::from_secs_f64(minutes * 60.0),
        kills: arguments.kills,
        lease,
        faults,
        spared: arguments.soak.then_some(1),
        programs,
        output: arguments.output.clone(),
    })
}

fn chaos(arguments: &Arguments, options: &Options) -> Result<Report, String> {
    let report = run(options, &*interrupted()?)?;
    let title = format!("{} nodes, seed {}, {} operations", report.nodes, report.seed, report.operations);
    let files = [
        ("throughput.svg", plot::svg(&report.throughput, &report.faults, &title)),
        ("report.json", format!("{}\n", report.json())),
    ];
    for (name, content) in files {
        let path = options.output.join(name);
        std::fs::write(&path, content).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    if arguments.json {
        println!("{}", report.json());
    } else {
        if arguments.report {
            print!("{}", report.each_fault());
        }
        println!("{report}");
        println!("logs, history, picture and report are in {}", options.output.display());
    }
    Ok(report)
}
