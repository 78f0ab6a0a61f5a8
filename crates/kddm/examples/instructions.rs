//! Instructions of one operation, counted by callgrind: what does not depend on who else uses the machine.
//!
//! `cargo xtask instructions [--json] [--save] [--check]`. Only the measured loop is counted, on its own thread, once
//! with so many rounds and once with twice as many; the difference is theirs. Each figure is held against
//! `benches/baseline.json`; `--save` writes it there, `--check` fails where one is dearer than in the baseline by
//! more than noise.

#[allow(dead_code, reason = "the other program that has a baseline uses the rest")]
#[path = "bench/baseline.rs"]
mod baseline;

use std::collections::HashMap;
use std::hint::black_box;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, RwLock};

use baseline::{Baseline, Counts, Judged};
use kddm::budget::LEAST_BUDGET_BYTES;
use kddm::linker::{Linker, LinkerError};
use kddm::{Node, Pod, Set};

type Words = Pod<[u64; 8]>;
type Failure = Box<dyn std::error::Error>;

/// Rounds of the shorter of both runs. The longer has as many more, so that what is there once does not count.
const ROUNDS: u64 = 2000;

/// Rounds before, so that everything is where it will stay.
const WARM_UP: u64 = 200;

/// What is counted, floors last.
const FIGURES: &[&str] = &[
    "read_handle_64",
    "get_pod_64",
    "get_guard",
    "try_read_pod_64",
    "grab_put_local",
    "grab_put_by_key",
    "update_local",
    "miss_in_budget",
    "rwlock_map_get_floor",
    "mutex_floor",
];

/// What is counted and has no baseline: other threads of the node take part in it, now more and now less.
const UNSTEADY: &[&str] = &["miss_in_budget"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let done = match arguments.first().map(String::as_str) {
        Some("inner") => inner(&arguments).map(|()| true),
        _ => outer(has("--json"), has("--save"), has("--check")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Counts all figures and says what has changed.
fn outer(json: bool, save: bool, check: bool) -> Result<bool, Failure> {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        return Err("valgrind is not here; apt-get install valgrind".into());
    }
    let mut counts = Counts { compiler: baseline::compiler(), figures: Default::default() };
    for figure in FIGURES {
        eprintln!("instructions: {figure}");
        let (short, long) = (count(figure, ROUNDS)?, count(figure, 2 * ROUNDS)?);
        counts.figures.insert((*figure).to_owned(), long.saturating_sub(short) as f64 / ROUNDS as f64);
    }
    let mut stored = Baseline::load()?;
    let judged = Judged::counts(&stored.instructions, &counts);
    if json {
        println!("{}", serde_json::to_string_pretty(&judged)?);
    } else {
        print!("{}", judged.table("instructions"));
    }
    if save {
        counts.figures.retain(|figure, _| !UNSTEADY.contains(&figure.as_str()));
        stored.instructions = counts;
        stored.save()?;
    }
    Ok(!check || !judged.is_dearer())
}

/// Instructions of that many rounds of one figure, and of what is there once.
fn count(figure: &str, rounds: u64) -> Result<u64, Failure> {
    let file = std::env::temp_dir().join(format!("kddm-instructions-{}-{figure}-{rounds}", std::process::id()));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured_rounds*"]);
    command.arg(format!("--callgrind-out-file={}", file.display()));
    command.arg(std::env::current_exe()?).args(["inner", figure, &rounds.to_string()]);
    let output = command.stdout(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(format!("{figure}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = std::fs::read_to_string(&file);
    let _it_has_been_read = std::fs::remove_file(&file);
    let text = text?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    let total = total.and_then(|total| total.trim().parse().ok()).filter(|total| *total > 0);
    total.ok_or_else(|| format!("{figure}: callgrind has counted nothing").into())
}

/// What callgrind looks at: it begins to count where this begins, on this thread alone, and ends where it ends.
#[inline(never)]
fn measured_rounds(rounds: u64, mut operation: impl FnMut(u64)) {
    for round in 0..black_box(rounds) {
        operation(round);
    }
}

fn measure(rounds: u64, mut operation: impl FnMut(u64)) {
    (0..WARM_UP).for_each(&mut operation);
    measured_rounds(rounds, operation);
}

/// What costs nothing to read, so that only the rest of a miss counts: an object comes, and another one goes.
struct Squares;

impl Linker<u64> for Squares {
    fn first_touch(&self, object: u64) -> Result<Option<u64>, LinkerError> {
        Ok(Some(object.wrapping_mul(object)))
    }
}

fn sum(words: &[u64; 8]) -> u64 {
    words.iter().fold(0, |sum, word| sum ^ word)
}

fn inner(arguments: &[String]) -> Result<(), Failure> {
    let [_, figure, rounds] = arguments else { return Err("inner needs a figure and a number of rounds".into()) };
    let rounds = rounds.parse()?;
    let node = Node::local_cluster(1)?.remove(0);
    let pods: Set<Words> = node.set("instructions/pods").replicas(0).open().wait()?;
    let texts: Set<String> = node.set("instructions/texts").replicas(0).open().wait()?;
    let text = String::from("a string of moderate length");
    let mut first = texts.grab(1).wait()?;
    first.push_str(&text);
    first.put().wait()?;
    pods.grab(1).wait()?.put().wait()?;
    let handle = pods.object(1);
    handle.read().wait()?;
    let (map, mutex) = (RwLock::new(HashMap::from([(1_u64, text)])), Mutex::new([0_u64; 8]));
    match figure.as_str() {
        "read_handle_64" => measure(rounds, |_| {
            black_box(handle.try_read().map(|words| sum(&words)));
        }),
        "get_pod_64" => measure(rounds, |_| {
            black_box(sum(&pods.get(black_box(1)).wait().expect("it is here").0));
        }),
        "get_guard" => measure(rounds, |_| {
            black_box(texts.get(black_box(1)).wait().expect("it is here").len());
        }),
        "try_read_pod_64" => measure(rounds, |_| {
            black_box(pods.try_read_pod(black_box(1)).map(|words| sum(&words)));
        }),
        "grab_put_local" => measure(rounds, |round| {
            let mut guard = handle.grab().wait().expect("it is here");
            guard.0[0] = round;
            guard.put().wait().expect("nothing to wait for");
        }),
        "grab_put_by_key" => measure(rounds, |round| {
            let mut guard = pods.grab(black_box(1)).wait().expect("it is here");
            guard.0[0] = round;
            guard.put().wait().expect("nothing to wait for");
        }),
        "update_local" => measure(rounds, |round| {
            let change = move |words: &mut Words| {
                words.0[0] = round;
                Ok(())
            };
            pods.update(black_box(1), change).wait().expect("it is here");
        }),
        "miss_in_budget" => {
            let builder = node.set("instructions/few").linker("squares", Squares).quick_linker();
            let few: Set<u64> = builder.replicas(0).memory_budget(LEAST_BUDGET_BYTES).open().wait()?;
            let mut next = 0;
            let mut miss = |_| {
                next += 1;
                black_box(*few.get(black_box(next)).wait().expect("it is made"));
            };
            // As many as fit, and the last round of those that may stay.
            (0..2000).for_each(&mut miss);
            measure(rounds, miss);
        }
        "rwlock_map_get_floor" => measure(rounds, |_| {
            let map = map.read().expect("nobody panics with it");
            black_box(map.get(&black_box(1)).map(String::len));
        }),
        "mutex_floor" => measure(rounds, |round| {
            let mut words = mutex.lock().expect("nobody panics with it");
            words[0] = round;
            black_box(&mut words);
        }),
        _ => return Err(format!("no figure is called {figure}").into()),
    }
    Ok(())
}
