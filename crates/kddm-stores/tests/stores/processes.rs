//! Real processes with one store: they are killed while they write, and one is stopped before it does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use kddm::linker::{Durability, Stored, Written};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::{Kind, Scratch, stamp};

/// What tells a process of this test that it is one: what it does, with which store, where, in which tenure.
const PART: &str = "KDDM_TEST_STORES_PART";

/// Objects that are written by turns.
const OBJECTS: u64 = 16;

fn bytes(object: u64, tenure: u64, version: u64) -> Vec<u8> {
    format!("{object} {tenure} {version} ").repeat(1 + object as usize * 20).into_bytes()
}

/// In a process that was started as one of these tests. In any other there is nothing to do.
#[test]
fn process() {
    let Ok(part) = std::env::var(PART) else { return };
    let mut words = part.splitn(4, ' ');
    let mut word = || words.next().expect("all are told");
    let (what, kind, tenure, folder) = (word(), word(), word(), word());
    let kind = Kind::ALL.into_iter().find(|each| format!("{each:?}") == kind).expect("a kind");
    let tenure: u64 = tenure.parse().expect("a number");
    let store = kind.open(Path::new(folder), Durability::EachWrite);
    println!("\nready");
    let write = |object: u64, version: u64| {
        let written = store.write(object, stamp(tenure, version), Some(&bytes(object, tenure, version)));
        println!(
            "\n{} {object} {version}",
            if written == Ok(Written::Kept) { "kept".into() } else { format!("{written:?}") }
        );
    };
    match what {
        // One when it is told to.
        "told" => {
            for (version, _line) in std::io::stdin().lines().enumerate() {
                write(7, 1 + version as u64);
            }
        }
        // One after the other, until it is killed.
        "all" => {
            for version in 1.. {
                write(version % OBJECTS, version);
            }
        }
        _ => {
            for version in 1..=100 {
                write(7, version);
            }
            println!("\ndone");
        }
    }
}

struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(what: &str, kind: Kind, tenure: u64, scratch: &Scratch) -> Process {
        let mut child = Command::new(std::env::current_exe().expect("this test has a path"))
            .args(["processes::process", "--exact", "--nocapture", "--test-threads=1"])
            .env(PART, format!("{what} {kind:?} {tenure} {}", scratch.0.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test can be started again");
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Process { child, input, output }
    }

    /// The next line that begins with one of our words; `None` after its end.
    fn says(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).expect("it writes text") == 0 {
                return None;
            }
            // What was cut off by its end was not said.
            let is_whole = line.ends_with('\n');
            let line = line.trim().to_owned();
            if is_whole && ["ready", "kept", "Ok", "Err", "done"].iter().any(|word| line.starts_with(word)) {
                return Some(line);
            }
        }
    }

    fn told(&mut self) {
        self.input.write_all(b"write\n").expect("it reads");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is our child, and not waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[test]
fn a_process_that_was_stopped_before_its_write_is_refused_when_it_goes_on() {
    for kind in Kind::SHARED {
        let scratch = Scratch::new("stopped");
        let mut first = Process::start("told", kind, 1, &scratch);
        assert_eq!(first.says().as_deref(), Some("ready"));
        first.told();
        assert_eq!(first.says().as_deref(), Some("kept 7 1"), "{kind:?}");
        first.signal(Signal::STOP);
        let stopped = waitpid(Some(Pid::from_child(&first.child)), WaitOptions::UNTRACED).expect("it is our child");
        assert!(stopped.is_some_and(|(_, status)| status.stopped()), "{stopped:?}");
        // It has been told, and is about to write.
        first.told();
        let mut second = Process::start("told", kind, 2, &scratch);
        assert_eq!(second.says().as_deref(), Some("ready"));
        second.told();
        assert_eq!(second.says().as_deref(), Some("kept 7 1"), "{kind:?}");
        first.signal(Signal::CONT);
        let late = first.says().expect("it goes on");
        assert!(late.contains("Refused") && late.contains("tenure: 2"), "{kind:?}: {late}");
        let kept = Stored { stamp: stamp(2, 1), bytes: Some(bytes(7, 2, 1)) };
        assert_eq!(kind.open(&scratch.0, Durability::EachWrite).read(7), Ok(Some(kept)), "{kind:?}");
    }
}

/// Killed again and again, each time by a successor that knows what was acknowledged.
#[test]
fn what_was_acknowledged_to_a_process_that_was_killed_is_there() {
    for kind in Kind::ALL {
        let scratch = Scratch::new("killed");
        let mut kept: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for tenure in 1..=6 {
            let mut process = Process::start("all", kind, tenure, &scratch);
            let mut most = 10 * tenure + 7;
            while let Some(line) = process.says() {
                if let Some(numbers) = line.strip_prefix("kept ") {
                    let mut numbers = numbers.split(' ').map(|number| number.parse::<u64>().expect("a number"));
                    let (object, version) = (numbers.next().expect("two"), numbers.next().expect("two"));
                    kept.insert(object, (tenure, version));
                    most = most.saturating_sub(1);
                } else {
                    assert_eq!(line, "ready", "{kind:?}, tenure {tenure}");
                }
                if most == 0 {
                    // What it says until then is read to the end.
                    process.signal(Signal::KILL);
                }
            }
            drop(process);
            let store = kind.open(&scratch.0, Durability::EachWrite);
            for (object, (tenure, version)) in &kept {
                let there = store.read(*object).expect("it is whole").expect("it was kept");
                assert!(there.stamp >= stamp(*tenure, *version), "{kind:?}: {object} is {there:?}");
                let meant = bytes(*object, there.stamp.tenure, there.stamp.version);
                assert_eq!(there.bytes, Some(meant), "{kind:?}: {object}");
            }
        }
        assert_eq!(kept.len(), OBJECTS as usize, "{kind:?}");
    }
}

#[test]
fn of_two_processes_that_write_one_object_the_later_owner_is_left() {
    for kind in Kind::SHARED {
        let scratch = Scratch::new("both");
        let mut both = [3, 4].map(|tenure| Process::start("both", kind, tenure, &scratch));
        for process in &mut both {
            let mut lines = std::iter::from_fn(|| process.says());
            let wrong = lines.find(|line| line.starts_with("Err") || line == "done");
            assert_eq!(wrong.as_deref(), Some("done"), "{kind:?}");
        }
        let kept = Stored { stamp: stamp(4, 100), bytes: Some(bytes(7, 4, 100)) };
        assert_eq!(kind.open(&scratch.0, Durability::EachWrite).read(7), Ok(Some(kept)), "{kind:?}");
    }
}
