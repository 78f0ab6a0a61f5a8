//! However a run ends, nothing of it is left; and where it cannot be, that is said.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use kddm_chaos::world;
use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Whether this machine lacks something; then the test is skipped by name, unless all is required.
fn is_skipped(test: &str) -> bool {
    let Some(missing) = world::missing() else { return false };
    assert!(std::env::var_os("KDDM_REQUIRE_ALL").is_none(), "{test} {missing}");
    eprintln!("skipped: {test} {missing}");
    true
}

/// A run in which faults have begun, with the rest of what it says.
fn begun(name: &str) -> (Child, Lines<BufReader<ChildStderr>>) {
    let cargo = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "kddmd", "--bin", "kddmd", "--bin", "kddm-guardian"])
        .status();
    assert!(cargo.is_ok_and(|status| status.success()), "the daemon is not built");
    let output = std::env::temp_dir().join(format!("kddm-chaos-test-{}-{name}", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_kddm-chaos"));
    command.args(["--nodes", "3", "--minutes", "10", "--only", "pause", "--output"]).arg(output);
    let mut run = command.stderr(Stdio::piped()).spawn().expect("it is built");
    let mut log = BufReader::new(run.stderr.take().expect("it is piped")).lines();
    let line = log.next().expect("it says something").expect("it can be read");
    assert!(line.contains("faults begin"), "{line}");
    (run, log)
}

/// Processes that have the name of that run among their arguments.
fn processes(run: u32) -> Vec<String> {
    let name = format!("kddm-chaos-{run}");
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let command = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    command.filter(|command| command.contains(&name)).collect()
}

fn leaves_nothing(run: u32) {
    let begun = Instant::now();
    loop {
        let left = processes(run);
        if left.is_empty() {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "still there: {left:?}");
        std::thread::yield_now();
    }
    let names: Vec<_> = std::fs::read_dir("/run/netns").into_iter().flatten().flatten().collect();
    let is_ours = |name: &std::ffi::OsStr| name.to_string_lossy().contains(&format!("kddm-chaos-{run}"));
    assert!(!names.iter().any(|entry| is_ours(&entry.file_name())), "{names:?}");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("it can be read");
    assert!(!mounts.contains(&format!("kddm-chaos-{run}")), "{mounts}");
}

fn remove_output(name: &str) {
    let output = std::env::temp_dir().join(format!("kddm-chaos-test-{}-{name}", std::process::id()));
    let _already_gone = std::fs::remove_dir_all(output);
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    if is_skipped("an interrupted run") {
        return;
    }
    let (mut run, mut log) = begun("interrupted");
    let id = run.id();
    assert!(!processes(id).is_empty(), "there are daemons");
    kill_process(Pid::from_child(&run), Signal::INT).expect("it is our child");
    assert_eq!(run.wait().expect("it ends").code(), Some(2));
    assert!(log.any(|line| line.is_ok_and(|line| line.contains("interrupted"))));
    leaves_nothing(id);
    assert!(!std::env::temp_dir().join(format!("kddm-chaos-{id}")).exists());
    remove_output("interrupted");
}

#[test]
fn a_killed_run_leaves_nothing_but_an_empty_directory() {
    if is_skipped("a killed run") {
        return;
    }
    let (mut run, _log) = begun("killed");
    let id = run.id();
    run.kill().expect("it is our child");
    run.wait().expect("it ends");
    leaves_nothing(id);
    std::fs::remove_dir(std::env::temp_dir().join(format!("kddm-chaos-{id}"))).expect("it is empty");
    remove_output("killed");
}

#[test]
fn where_it_cannot_be_it_says_so() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kddm-chaos"));
    let output = command.env("PATH", "").output().expect("it is built");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("needs"), "{said}");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    if is_skipped("a run") {
        return;
    }
    for (arguments, words) in [
        (["--only", "flood"], "one-way-short"),
        (["--nodes", "1"], "from 2"),
        (["--minutes", "-1"], "from 0"),
        (["--minutes", "x"], "invalid"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kddm-chaos"));
        let output = command.arg(arguments.join("=")).output().expect("it is built");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
}
