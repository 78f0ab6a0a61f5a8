//! How long objects are away that only one node has, when that node is held up for longer than its lease.
//!
//!     cargo run --release -p kddm --example comes_back -- [OBJECTS [HELD_UP_MS [LEASE_MS]]]
//!
//! A process owns all objects of a set without replicas. It is stopped (SIGSTOP), expelled, and goes on (SIGCONT). Told
//! is how long after that another node has read all of them again.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kddm::{Config, Error, Node, Pod, Set};
use rustix::process::{Pid, Signal, kill_process};

/// In it the process finds whom it is to ask, and how many objects it is to own.
const CHILD: &str = "KDDM_EXAMPLE_COMES_BACK";

/// Nobody waits longer for anything here.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Ok(told) = std::env::var(CHILD) {
        return Ok(owner(&told)?);
    }
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let objects = numbers.next().unwrap_or(Ok(10_000))?;
    let held_up = Duration::from_millis(numbers.next().unwrap_or(Ok(500))?);
    let lease = Duration::from_millis(numbers.next().unwrap_or(Ok(200))?);
    let config = Config::new().listen("127.0.0.1:0".parse()?).lease(lease);
    let node = Node::join(config).wait()?;
    let set: Set<Pod<u64>> = node.set("kept").replicas(0).open().wait()?;
    let mut child = Command::new(std::env::current_exe()?)
        .env(CHILD, format!("{} {objects}", node.address()))
        .stdout(Stdio::piped())
        .spawn()?;
    let done = measure(&node, &set, &mut child, (objects, held_up));
    let _ended_already = child.kill();
    let _ended = child.wait();
    done
}

fn measure(
    node: &Node,
    set: &Set<Pod<u64>>,
    child: &mut Child,
    (objects, held_up): (u64, Duration),
) -> Result<(), Box<dyn std::error::Error>> {
    let mut lines = BufReader::new(child.stdout.take().ok_or("its output is piped")?).lines();
    lines.next().ok_or("it has ended")??;
    let process = Pid::from_raw(i32::try_from(child.id())?).ok_or("a process has a number")?;
    kill_process(process, Signal::STOP)?;
    std::thread::sleep(held_up);
    let was_expelled = node.lease().counts.expulsions > 0;
    kill_process(process, Signal::CONT)?;
    let begin = Instant::now();
    let is_there = |object: u64| matches!(set.get(object).wait_for(LIMIT), Ok(value) if value.0 == object + 1);
    // The last one that is there again.
    for object in 0..objects {
        while !is_there(object) {
            if begin.elapsed() > LIMIT {
                return Err(format!("object {object} is not there after {LIMIT:?}").into());
            }
        }
    }
    let read = begin.elapsed();
    let told = lines.next().ok_or("it has ended")??;
    println!("{objects} objects, held up for {held_up:?}, expelled meanwhile: {was_expelled}");
    println!("the process was back after {told} ms; all objects were read {read:?} after SIGCONT");
    Ok(())
}

/// Owns all objects, and comes back whenever it is fenced.
fn owner(told: &str) -> Result<(), Error> {
    let (contact, objects) = told.split_once(' ').expect("an address and a number");
    let config = Config::new().contact(contact.parse().expect("an address"));
    let mut node = Node::join(config).wait()?;
    let set: Set<Pod<u64>> = node.set("kept").replicas(0).open().wait()?;
    for object in 0..objects.parse().expect("a number") {
        let mut value = set.grab(object).wait()?;
        value.0 = object + 1;
        value.put().wait()?;
    }
    println!("ready");
    while node.wait_until_fenced() {
        let begin = Instant::now();
        node = node.rejoin(LIMIT).wait()?;
        println!("{}", begin.elapsed().as_millis());
    }
    Ok(())
}
