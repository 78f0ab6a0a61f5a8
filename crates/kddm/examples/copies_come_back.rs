//! What it costs a node that lost its lease to keep the read copies that it had, beside fetching them.
//!
//!     cargo run --release -p kddm --example copies_come_back -- [OBJECTS [LEASE_MS]]
//!
//! This process owns all objects of a set without replicas, 64 B each; another one reads all of them, some hundred
//! requests under way at a time, is stopped (SIGSTOP) until it is expelled, and goes on (SIGCONT). Told is the processor
//! time of both processes, of all their threads, for each of these parts.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use kddm::{Config, Error, Node, Pod, Set};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

/// In it the process finds whom it is to ask, and how many objects it is to read.
const CHILD: &str = "KDDM_EXAMPLE_COPIES_COME_BACK";
/// Nobody waits longer for anything here.
const LIMIT: Duration = Duration::from_secs(120);
/// Requests under way at a time.
const WINDOW: usize = 256;
/// Between two looks at whether all is answered: far below what is measured.
const LOOK: Duration = Duration::from_millis(2);

type Words = Pod<[u64; 8]>;
type Failure = Box<dyn std::error::Error>;

/// Processor time of this process so far.
fn processor_ms() -> u64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

fn main() -> Result<(), Failure> {
    if let Ok(told) = std::env::var(CHILD) {
        return Ok(reader(&told)?);
    }
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let objects = numbers.next().unwrap_or(Ok(1_000_000))?;
    let lease = Duration::from_millis(numbers.next().unwrap_or(Ok(3_000))?);
    let node = Node::join(Config::new().listen("127.0.0.1:0".parse()?).lease(lease)).wait()?;
    let set: Set<Words> = node.set("copies").replicas(0).open().wait()?;
    for object in 0..objects {
        let mut value = set.grab(object).wait()?;
        value.0 = [object + 1; 8];
        value.put().wait()?;
    }
    let mut child = Command::new(std::env::current_exe()?)
        .env(CHILD, format!("{} {objects}", node.address()))
        .stdout(Stdio::piped())
        .spawn()?;
    let done = measure(&node, &mut child);
    let _ended_already = child.kill();
    let _ended = child.wait();
    done
}

/// What one part took: as the other process says, and here.
fn part(lines: &mut Lines<BufReader<ChildStdout>>, what: &str) -> Result<(), Failure> {
    let (begin, before) = (Instant::now(), processor_ms());
    let told = lines.next().ok_or("it has ended")??;
    println!("{what}: owner {} ms, {told}; {} ms by the clock", processor_ms() - before, begin.elapsed().as_millis());
    Ok(())
}

fn measure(node: &Node, child: &mut Child) -> Result<(), Failure> {
    let mut lines = BufReader::new(child.stdout.take().ok_or("its output is piped")?).lines();
    lines.next().ok_or("it has ended")??;
    part(&mut lines, "fetched")?;
    let process = Pid::from_raw(i32::try_from(child.id())?).ok_or("a process has a number")?;
    let (before, frames) = (processor_ms(), sent(node));
    kill_process(process, Signal::STOP)?;
    let begin = Instant::now();
    while node.lease().counts.expulsions == 0 || node.members().len() > 1 {
        if begin.elapsed() > LIMIT {
            return Err("it is not expelled".into());
        }
        std::thread::park_timeout(LOOK);
    }
    kill_process(process, Signal::CONT)?;
    println!("expelled: owner {} ms", processor_ms() - before);
    part(&mut lines, "joined again")?;
    part(&mut lines, "revalidated")?;
    let after = sent(node);
    println!("answers {}, copies sent {}", after.0 - frames.0, after.1 - frames.1);
    part(&mut lines, "all read")?;
    println!("copies sent {}", sent(node).1 - frames.1);
    Ok(())
}

/// Answers about copies, and copies, that this node has sent.
fn sent(node: &Node) -> (u64, u64) {
    let seen = node.statistics();
    let of = |name: &str| seen.by_kind().find(|(kind, ..)| *kind == name).map_or(0, |(_, sent, _)| sent);
    (of("revalidated"), of("data"))
}

/// Reads all objects, and does so again when it has been fenced.
fn reader(told: &str) -> Result<(), Error> {
    let (contact, objects) = told.split_once(' ').expect("an address and a number");
    let objects = objects.parse().expect("a number");
    let mut node = Node::join(Config::new().contact(contact.parse().expect("an address"))).wait()?;
    println!("ready");
    read_all(&node, objects)?;
    while node.wait_until_fenced() {
        let before = processor_ms();
        node = node.rejoin(LIMIT).wait()?;
        println!("reader {} ms", processor_ms() - before);
        let (before, begin) = (processor_ms(), Instant::now());
        let heard = |node: &Node| {
            let seen = node.statistics();
            (seen.revalidated, seen.forgotten_copies)
        };
        while heard(&node).0 + heard(&node).1 < objects && begin.elapsed() < LIMIT {
            std::thread::park_timeout(LOOK);
        }
        let (revalidated, forgotten) = heard(&node);
        println!("reader {} ms, {revalidated} are the newest, {forgotten} not", processor_ms() - before);
        read_all(&node, objects)?;
    }
    Ok(())
}

fn read_all(node: &Node, objects: u64) -> Result<(), Error> {
    let before = processor_ms();
    let set: Set<Words> = node.set("copies").replicas(0).open().wait()?;
    let mut window = VecDeque::with_capacity(WINDOW);
    for object in 0..objects + WINDOW as u64 {
        if object < objects {
            window.push_back((object, set.get(object)));
        }
        if object >= WINDOW as u64
            && let Some((object, pending)) = window.pop_front()
        {
            assert_eq!(pending.wait_for(LIMIT)?.0[0], object + 1, "a value that nobody has put");
        }
    }
    println!("reader {} ms", processor_ms() - before);
    Ok(())
}
