//! Reads by a process that was stopped for longer than its lease, while others wrote: from its first instruction on
//! it must not believe what it has. A reader in a process of its own reads all the time; it is stopped and goes on,
//! again and again, each time when puts that it cannot have heard of are complete.
//!
//! What is complete stands in a file that the writer writes after each put and the reader reads before each look: a
//! look that sees less is stale.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kddm::{AccessError, Address, Config, Error, MembershipError, Node, Pod, Set};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value as Json, json};

/// The first argument that makes this program the reader.
pub const READER: &str = "stopped-reader";

/// Clusters, one after the other.
const CLUSTERS: u64 = 5;

/// Times that the reader of one is stopped. Each is a loss, and the memory of losses is short.
const STOPS: u64 = 8;

/// Objects that are read, and written one after the other.
const OBJECTS: u64 = 4;

/// Puts that are complete before the reader goes on: of each object one at least, and one in the copy's place.
const PUTS: u64 = 3 * OBJECTS;

/// How long anything that must happen may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked at what there is to wait for.
const LOOK: Duration = Duration::from_millis(1);

/// The limit of one operation: those of a node without a lease end at once.
const OPERATION_LIMIT: Duration = Duration::from_secs(10);

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reads {
    /// How often the reader was stopped.
    pub stops: u64,
    /// Looks after it went on that were answered.
    pub reads: u64,
    /// Looks that saw less than what was complete before.
    pub stale: u64,
    /// Looks that were refused, because the lease was over.
    pub refused: u64,
    /// Lives of the reader's node that ended so.
    pub fenced: u64,
    /// Puts meanwhile.
    pub puts: u64,
}

impl Reads {
    /// Whether all is as it must be, and something was tried.
    pub fn is_clean(&self) -> bool {
        self.stale == 0 && self.reads > 0 && self.fenced > 0
    }

    /// As `--json` prints it.
    pub fn json(&self) -> Json {
        let Reads { stops, reads, stale, refused, fenced, puts } = self;
        json!({"stops": stops, "reads": reads, "stale": stale, "refused": refused, "fenced": fenced, "puts": puts})
    }
}

impl std::fmt::Display for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Reads { stops, reads, stale, refused, fenced, puts } = self;
        writeln!(f, "{reads} reads after {stops} × SIGCONT, {puts} puts meanwhile: {stale} stale")?;
        write!(f, "{refused} looks were refused, {fenced} lives of the reader lost their lease: ")?;
        write!(f, "{}", if self.is_clean() { "clean" } else { "NOT clean" })
    }
}

fn explain(what: &str) -> impl Fn(Error) -> String + '_ {
    move |error| format!("{what}: {error}")
}

fn open(node: &Node) -> Result<Set<Pod<u64>>, Error> {
    node.set("reads").open().wait_for(OPERATION_LIMIT)
}

/// Stops readers 40 times, and has them read so often in all.
///
/// # Errors
/// It could not be tried.
pub fn run(reads: u64, folder: &Path, is_interrupted: &AtomicBool) -> Result<Reads, String> {
    let mut sum = Reads::default();
    for _ in 0..CLUSTERS {
        let found = in_one_cluster(reads.div_ceil(CLUSTERS), folder, is_interrupted)?;
        sum = Reads {
            stops: sum.stops + found.stops,
            reads: sum.reads + found.reads,
            stale: sum.stale + found.stale,
            refused: sum.refused + found.refused,
            fenced: sum.fenced + found.fenced,
            puts: sum.puts + found.puts,
        };
    }
    Ok(sum)
}

fn in_one_cluster(reads: u64, folder: &Path, is_interrupted: &AtomicBool) -> Result<Reads, String> {
    let lease = kddm::least_lease();
    let mut config = Config::new().lease(lease).wait_limit(LIMIT);
    config.guardian = None;
    let node = Node::join(config).wait().map_err(explain("no cluster"))?;
    let set = open(&node).map_err(explain("no set"))?;
    let path = folder.join("complete");
    let file = File::options().create(true).truncate(true).read(true).write(true).open(&path);
    let file = file.and_then(|file| file.write_all_at(&[0; 8 * OBJECTS as usize], 0).map(|()| file));
    let file = file.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let mut reader = Reader::start(node.address(), &path)?;
    let (puts, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let went = std::thread::scope(|scope| {
        let writing = scope.spawn(|| write(&set, &file, &puts, &is_over));
        let went = reader.stop_often(&node, reads, &puts, is_interrupted);
        is_over.store(true, Ordering::Release);
        let wrote = writing.join().map_err(|_| "the writer has panicked".to_string())?;
        wrote.and(went)
    });
    // The reader's node holds nothing that anybody wants.
    drop(reader);
    node.stop_within(Duration::ZERO);
    went.map(|found| Reads { puts: puts.into_inner(), stops: STOPS, ..found })
}

/// Puts one object after the other, and writes down what is complete.
fn write(set: &Set<Pod<u64>>, file: &File, puts: &AtomicU64, is_over: &AtomicBool) -> Result<(), String> {
    let mut number = 0;
    while !is_over.load(Ordering::Acquire) {
        number += 1;
        let object = number % OBJECTS;
        let change = move |value: &mut Pod<u64>| {
            value.0 = number;
            Ok(())
        };
        set.update(object, change).wait_for(LIMIT).map_err(explain("a put"))?;
        file.write_all_at(&number.to_ne_bytes(), 8 * object).map_err(|error| format!("the file: {error}"))?;
        puts.fetch_add(1, Ordering::Release);
        // The reader is to have a copy for most of the time.
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// The process that is stopped. It dies with this one's end of its input.
struct Reader {
    child: Child,
    input: Option<ChildStdin>,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Reader {
    fn start(contact: &Address, file: &Path) -> Result<Reader, String> {
        let cannot = |error: std::io::Error| format!("cannot start the reader: {error}");
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.arg(READER).arg(contact.to_string()).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        let (input, output) = (child.stdin.take(), child.stdout.take().ok_or("the reader has no output")?);
        let mut reader = Reader { child, input, lines: BufReader::new(output).lines() };
        reader.says("reads")?;
        Ok(reader)
    }

    fn says(&mut self, word: &str) -> Result<String, String> {
        let line = self.lines.next().and_then(Result::ok).ok_or("the reader has ended; its reason stands above")?;
        if line.starts_with(word) { Ok(line) } else { Err(format!("the reader says {line:?} instead of {word}")) }
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        kill_process(Pid::from_child(&self.child), signal).map_err(|error| format!("cannot signal the reader: {error}"))
    }

    fn tell(&mut self, line: &str) -> Result<(), String> {
        let input = self.input.as_mut().ok_or("the reader has no input")?;
        writeln!(input, "{line}").and_then(|()| input.flush()).map_err(|error| format!("the reader: {error}"))
    }

    fn stop_often(
        &mut self,
        node: &Node,
        reads: u64,
        puts: &AtomicU64,
        is_interrupted: &AtomicBool,
    ) -> Result<Reads, String> {
        let lease = node.lease().length;
        for number in 1..=STOPS {
            // What the reader has may be lost with it only where all has its replicas.
            let begun = Instant::now();
            while !node.recovery().is_whole || node.members().len() < 2 {
                if is_interrupted.load(Ordering::Acquire) {
                    return Err("interrupted".into());
                }
                if begun.elapsed() > LIMIT {
                    let (members, recovery) = (node.members().len(), node.recovery());
                    return Err(format!("before stop {number}: {members} members, and not all is whole: {recovery:?}"));
                }
                std::thread::sleep(LOOK);
            }
            self.signal(Signal::STOP)?;
            let (begun, before) = (Instant::now(), puts.load(Ordering::Acquire));
            // Longer than its lease, until others have written what it has a copy of, and until nothing is left to
            // be done about its loss.
            while begun.elapsed() < lease + lease / 4
                || puts.load(Ordering::Acquire) < before + PUTS
                || node.members().len() > 1
                || !node.recovery().is_whole
            {
                if begun.elapsed() > LIMIT {
                    return Err("the reader was stopped, and nothing could be put, or not all became whole".into());
                }
                std::thread::sleep(LOOK);
            }
            self.signal(Signal::CONT)?;
            self.tell(&format!("read {}", reads.div_ceil(STOPS)))?;
            self.says("has read")?;
        }
        self.tell("end")?;
        let line = self.says("found")?;
        let numbers: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        let [reads, stale, refused, fenced] = numbers[..] else { return Err(format!("the reader found {line:?}")) };
        Ok(Reads { reads, stale, refused, fenced, ..Reads::default() })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.input.take());
        let _already_dead = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// What the reader is asked for, from its input.
#[derive(Default)]
struct Asked {
    /// Looks that are still to be counted.
    left: AtomicU64,
    is_over: AtomicBool,
}

/// The reader: `stopped-reader CONTACT FILE`.
///
/// # Errors
/// It cannot read.
pub fn reader(contact: &str, file: &str) -> Result<(), String> {
    let contact: Address = contact.parse().map_err(|error| format!("{contact}: {error}"))?;
    let file = File::open(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let asked = Arc::new(Asked::default());
    let listens = Arc::clone(&asked);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match line.strip_prefix("read ").and_then(|count| count.parse().ok()) {
                Some(count) => listens.left.store(count, Ordering::Release),
                None => listens.is_over.store(true, Ordering::Release),
            }
        }
        listens.is_over.store(true, Ordering::Release);
    });
    let mut found = Reads::default();
    let mut is_first = true;
    while !asked.is_over.load(Ordering::Acquire) {
        let mut config = Config::new().contact(contact.clone());
        config.guardian = None;
        match Node::join(config).wait() {
            Ok(node) => {
                live(&node, &file, &asked, &mut found, &mut is_first)?;
                node.stop_within(Duration::ZERO);
            }
            // It was stopped while it joined.
            Err(Error::Access(AccessError::Fenced) | Error::Membership(_)) => {}
            Err(error) => return Err(format!("it cannot join: {error}")),
        }
    }
    println!("found {} {} {} {}", found.reads, found.stale, found.refused, found.fenced);
    Ok(())
}

/// Reads as long as the node has its lease.
fn live(node: &Node, file: &File, asked: &Asked, found: &mut Reads, is_first: &mut bool) -> Result<(), String> {
    let set = match open(node) {
        Ok(set) => set,
        Err(Error::Access(_) | Error::Membership(_)) => return Ok(()),
        Err(error) => return Err(format!("no set: {error}")),
    };
    let handles: Vec<_> = (0..OBJECTS).map(|object| set.object(object)).collect();
    for number in 0.. {
        if asked.is_over.load(Ordering::Acquire) {
            break;
        }
        let object = number % OBJECTS;
        let mut complete = [0; 8];
        file.read_exact_at(&mut complete, 8 * object).map_err(|error| format!("the file: {error}"))?;
        // By all ways to look at a copy.
        let seen = match number % 3 {
            0 => handles[object as usize].read().wait_for(OPERATION_LIMIT),
            1 => set.get(object).wait_for(OPERATION_LIMIT).map(|guard| guard.0),
            _ => set.snapshot(object).wait_for(OPERATION_LIMIT).map(|value| value.0),
        };
        match &seen {
            Ok(value) => found.stale += u64::from(*value < u64::from_ne_bytes(complete)),
            Err(Error::Access(AccessError::Fenced) | Error::Membership(MembershipError::Stopped)) => {
                found.refused += 1;
                found.fenced += 1;
                break;
            }
            Err(_) => found.refused += 1,
        }
        if std::mem::take(is_first) {
            println!("reads");
        }
        let left = asked.left.load(Ordering::Acquire);
        if left > 0 && seen.is_ok() {
            found.reads += 1;
            asked.left.store(left - 1, Ordering::Release);
            if left == 1 {
                println!("has read");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_tried_and_never_stale_is_clean() {
        let reads = Reads { stops: 1, reads: 5, stale: 0, refused: 1, fenced: 1, puts: 9 };
        assert!(reads.is_clean() && reads.to_string().ends_with(": clean"));
        for broken in [Reads { stale: 1, ..reads }, Reads { reads: 0, ..reads }, Reads { fenced: 0, ..reads }] {
            assert!(!broken.is_clean() && broken.to_string().ends_with("NOT clean"));
        }
        assert_eq!(reads.json()["reads"], 5);
    }
}
