//! The other process: does what the first one says, a line at a time.

use std::io::{BufRead, Read, Write};
use std::net::TcpListener;
use std::time::Instant;

use kddm::{Node, PlacedBy, Raw, Set};

use crate::Failure;
use crate::contended::{Counter, HOW};
use crate::memory::Fields;

/// The service that answers what it was asked.
pub const CALLED: &str = "bench/echo";

/// `bench peer CONTACT PROCESSOR|-`.
pub fn run(arguments: &[String]) -> Result<(), Failure> {
    let contact = arguments.get(1).ok_or("peer needs a contact")?.parse()?;
    if let Some(processor) = arguments.get(2).and_then(|text| text.parse().ok()) {
        crate::pin(processor);
    }
    let node = Node::join(crate::settings().contact(contact)).wait()?;
    let echo = TcpListener::bind("127.0.0.1:0")?;
    let pipe = TcpListener::bind("127.0.0.1:0")?;
    answer(&format!("{} {} {}", node.id(), echo.local_addr()?, pipe.local_addr()?))?;
    let _calls = node.rpc().register(CALLED, |request| Ok(request.body().to_vec()))?;
    std::thread::spawn(move || serve_echo(&echo));
    std::thread::spawn(move || crate::replicas::serve_pipe(&pipe));
    let (mut turns, mut watched): (Option<Set<u64>>, Option<Set<u64>>) = (None, None);
    let mut counters: [Option<Counter>; 2] = [None, None];
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        match words.first().copied() {
            Some("own") => own(&node, words[1], number(2), number(3), number(4) as usize)?,
            Some("copy") => copy(&node, words[1], number(2), number(3))?,
            Some("turn") => {
                let set = match &turns {
                    Some(set) => set,
                    None => turns.insert(node.set(words[1]).replicas(0).open().wait()?),
                };
                answer(&take_turn(set)?.to_string())?;
                continue;
            }
            Some("take") => {
                let set: Set<Raw> = node.set(words[1]).replicas(0).open().wait()?;
                answer(&crate::flow::take(&set, number(2), number(3))?.to_string())?;
                continue;
            }
            Some("count") => {
                let counter = counters.get_mut(number(1) as usize).ok_or("there is no such counter")?;
                let counter = match counter {
                    Some(counter) => counter,
                    None => counter.insert(Counter::open(&node, number(1) as u8, number(2) as u16)?),
                };
                let is = |at: usize, what: &str| words.get(at) == Some(&what);
                let (times, median_ns) = counter.count(is(3, HOW[1]), is(4, "paced"))?;
                answer(&format!("{times} {median_ns}"))?;
                continue;
            }
            Some("put") => {
                let set = match &watched {
                    Some(set) => set,
                    // Once: what that has the node do beside goes on when it is done.
                    None => watched
                        .insert(node.set(words[1]).placement(PlacedBy::Fixed(node.id())).replicas(0).open().wait()?),
                };
                // Whoever watches knows by it when that began.
                answer(&put_one(set, number(2))?.to_string())?;
                continue;
            }
            Some("fetch") => {
                let bytes = fetch(&node, number(1))?;
                answer(&bytes.to_string())?;
                continue;
            }
            Some("metadata") => {
                let set: Set<Fields> = node.set("bench/fields").replicas(0).open().wait()?;
                answer(&set.metadata_bytes().to_string())?;
                continue;
            }
            _ => return Err(format!("unknown line {line:?}").into()),
        }
        answer("done")?;
    }
    Ok(())
}

fn answer(text: &str) -> Result<(), Failure> {
    println!("{text}");
    Ok(std::io::stdout().flush()?)
}

/// Becomes owner of objects of that size.
fn own(node: &Node, set: &str, from: u64, count: u64, size: usize) -> Result<(), Failure> {
    let set: Set<Raw> = node.set(set).replicas(0).open().wait()?;
    for object in from..from + count {
        let mut guard = set.grab(object).wait()?;
        guard.0.resize(size, 7);
        guard.put().wait()?;
    }
    Ok(())
}

fn copy(node: &Node, set: &str, from: u64, count: u64) -> Result<(), Failure> {
    let set: Set<Raw> = node.set(set).replicas(0).open().wait()?;
    for object in from..from + count {
        drop(set.get(object).wait()?);
    }
    Ok(())
}

/// Nanoseconds by a clock that all processes of this host have.
pub fn clock_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Puts an object that is here, and says when.
fn put_one(set: &Set<u64>, object: u64) -> Result<u64, Failure> {
    let mut guard = set.grab(object).wait()?;
    *guard += 1;
    let began = clock_ns();
    guard.put().wait()?;
    Ok(began)
}

/// Takes object 0 from whoever wrote it last, and adds one. The nanoseconds until it could.
pub fn take_turn(set: &Set<u64>) -> Result<f64, Failure> {
    let start = Instant::now();
    let mut count = set.grab(0).wait()?;
    let elapsed_ns = start.elapsed().as_nanos() as f64;
    *count += 1;
    count.put().wait()?;
    Ok(elapsed_ns)
}

/// Reads all objects of the memory measurement and returns what the copies cost.
fn fetch(node: &Node, count: u64) -> Result<usize, Failure> {
    let set: Set<Fields> = node.set("bench/fields").replicas(0).open().wait()?;
    let before = set.metadata_bytes();
    let ids: Vec<u64> = (0..count).collect();
    for window in ids.chunks(1024) {
        for pending in set.prefetch(window.iter().copied()) {
            pending.wait()?;
        }
    }
    Ok(set.metadata_bytes() - before)
}

/// What the floor asks for: an answer of that size, always the same one (0), or one of `of` values.
pub fn echo_request(size: usize, which: u64, of: u64) -> [u8; 64] {
    let mut request = [0u8; 64];
    for (word, number) in request.chunks_exact_mut(8).zip([size as u64, which, of]) {
        word.copy_from_slice(&number.to_le_bytes());
    }
    request
}

/// The floor.
fn serve_echo(listener: &TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        let _without_delay = stream.set_nodelay(true);
        let mut request = [0u8; 64];
        let (mut same, mut values) = (Vec::new(), Vec::new());
        while stream.read_exact(&mut request).is_ok() {
            let number = |at: usize| u64::from_le_bytes(request[at..at + 8].try_into().expect("eight bytes")) as usize;
            let size = number(0);
            let reply = match number(8).checked_sub(1) {
                None => {
                    same.resize(size, 7);
                    &same
                }
                Some(which) => {
                    // The first one makes all anew, as those of the set are, and is not timed.
                    if which == 0 {
                        values = (0..number(16)).map(|_| vec![7u8; size]).collect();
                    }
                    &values[which % values.len()]
                }
            };
            if stream.write_all(reply).is_err() {
                break;
            }
        }
    }
}
