//! `cargo xtask ci`: what every change must pass, with the time that each step took. Tests wait for most of their
//! time, so what only computes goes on beside them, in a process of its own that gives way to them.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Instant;

use crate::{MODEL, cargo, chaos, etcd, memory_model, mutations, readme, tidy};

/// What [`beside`] says goes there until it has ended.
const SAID: &str = "target/ci-beside.log";

/// The command of this program that takes the steps beside the tests.
pub const BESIDE_COMMAND: &str = "ci-beside";

/// What changes must pass, one after the other.
enum Work {
    Cargo(&'static [&'static str]),
    /// Some tests once more, of nodes with two lanes, and those of the log on etcd beside them: both wait most of their time.
    LanesAndEtcd,
    /// What the latter need.
    BuildEtcd,
    /// Documentation, where a warning is an error.
    Docs,
    Tidy,
    MemoryModel,
    Readme,
    Mutations,
    Chaos,
    /// From here on [`BESIDE`] goes on.
    Begin,
    /// Until it has ended.
    Join,
}

/// Cheap steps first: most mistakes show in seconds. Chaos has deadlines, and no neighbours.
const CI: &[(&str, Work)] = &[
    ("format", Work::Cargo(&["fmt", "--all", "--check"])),
    ("tidy", Work::Tidy),
    ("clippy", Work::Cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])),
    ("docs", Work::Docs),
    ("compile", Work::Cargo(&["test", "--workspace", "--no-run", "--quiet"])),
    ("begin", Work::Begin),
    ("tests", Work::Cargo(&["test", "--workspace"])),
    ("lanes", Work::LanesAndEtcd),
    ("beside", Work::Join),
    ("chaos", Work::Chaos),
    ("readme", Work::Readme),
];

/// What computes, and waits for nothing.
const BESIDE: &[(&str, Work)] = &[
    ("etcd", Work::BuildEtcd),
    ("model", Work::Cargo(MODEL)),
    ("sim", Work::Cargo(&["run", "--release", "--quiet", "-p", "kddm-sim", "--", "sim", "--seeds", "2000"])),
    ("memory", Work::MemoryModel),
    ("mutations", Work::Mutations),
    ("release", Work::Cargo(&["build", "--release", "--quiet", "-p", "kddmd"])),
];

/// How programs are built here: nobody measures the released ones, and what is optimized across crates takes minutes; nobody
/// looks at the others with a debugger, or builds them twice.
const QUICKLY: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    ("CARGO_PROFILE_DEV_DEBUG", "line-tables-only"),
    ("CARGO_INCREMENTAL", "0"),
];

/// All steps, in a process that builds like that. True if the change passes.
pub fn run() -> bool {
    if QUICKLY.iter().all(|(name, value)| std::env::var(name).is_ok_and(|is| is == *value)) {
        return steps();
    }
    let again = std::env::current_exe().map(|program| Command::new(program).arg("ci").envs(QUICKLY).status());
    again
        .and_then(|status| status)
        .inspect_err(|error| eprintln!("ci does not start: {error}"))
        .is_ok_and(|status| status.success())
}

fn steps() -> bool {
    let mut neighbour = None;
    let passed = take(CI, &mut neighbour);
    if let Some(mut neighbour) = neighbour {
        // A step has failed: nobody waits for the rest. The group has the number of its first process.
        let group = format!("-{}", neighbour.id());
        let _it_may_have_ended = Command::new("kill").args(["-TERM", "--", &group]).status();
        let _ended = neighbour.wait();
    }
    passed
}

/// The steps that are taken beside the tests.
pub fn beside() -> bool {
    take(BESIDE, &mut None)
}

fn take(steps: &[(&str, Work)], neighbour: &mut Option<Child>) -> bool {
    let mut times = Vec::new();
    for (name, work) in steps {
        eprintln!("== {name}");
        let start = Instant::now();
        let passed = match work {
            Work::Cargo(arguments) => cargo(arguments, &[]),
            Work::LanesAndEtcd => std::thread::scope(|scope| {
                let etcd = scope.spawn(etcd::test);
                let passed = lanes();
                etcd.join().is_ok_and(|etcd| etcd && passed)
            }),
            Work::BuildEtcd => etcd::build(),
            Work::Docs => docs(),
            Work::Tidy => tidy::check(),
            Work::MemoryModel => memory_model::run(),
            Work::Readme => readme::check(),
            Work::Chaos => chaos::short(),
            Work::Mutations => mutations::run(&["--quick".to_owned()]),
            Work::Begin => begin().map(|child| *neighbour = Some(child)).is_some(),
            Work::Join => neighbour.take().is_some_and(join),
        };
        times.push((name, start.elapsed().as_secs_f64()));
        if !passed {
            eprintln!("== {name}: FAILED");
            return false;
        }
    }
    for (name, seconds) in times {
        eprintln!("{name:<9} {seconds:>6.0} s");
    }
    true
}

fn begin() -> Option<Child> {
    let said = File::create(SAID).ok()?;
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(std::env::current_exe().ok()?).arg(BESIDE_COMMAND);
    command.stdout(said.try_clone().ok()?).stderr(said).process_group(0);
    command.spawn().inspect_err(|error| eprintln!("cannot start `nice`: {error}")).ok()
}

fn join(mut neighbour: Child) -> bool {
    let passed = neighbour.wait().is_ok_and(|status| status.success());
    match std::fs::read(SAID) {
        Ok(said) => eprint!("{}", String::from_utf8_lossy(&said)),
        Err(error) => eprintln!("{SAID}: {error}"),
    }
    passed
}

/// What says most about lanes, and what stands beside the code: all of it would take as long as with one.
fn lanes() -> bool {
    let tests = ["attached", "freeze", "membership", "recovery"].iter().flat_map(|name| ["--test", *name]);
    let mut command = Command::new("cargo");
    command.args(["test", "--quiet", "-p", "kddm", "--lib"]).args(tests).env("KDDM_LANES", "2");
    command.status().is_ok_and(|status| status.success())
}

fn docs() -> bool {
    let mut command = Command::new("cargo");
    command.args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings");
    command.status().is_ok_and(|status| status.success())
}
