//! Puts that another process has to have before they are done: one at a time, and many in flight.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use kddm::{Node, Raw, Set};

use crate::Failure;
use crate::remote::{Peer, ping};
use crate::report::{Row, Samples, rate, row};

/// Bytes of a value.
const SIZE: usize = 64;
/// Bytes of a message of the bare connection: a frame with a value, and one without.
const REQUEST_BYTES: usize = 112 + SIZE;
const ANSWER_BYTES: usize = 112;
/// Puts in flight, each of an object of its own; and requests of the bare connection.
pub const WINDOW: u64 = 256;
/// Rounds of both, taken in turns, after those that only make them ready.
const ROUNDS: u64 = 20;
const WARM_UP_ROUNDS: u64 = 2;
/// Puts of a round, one after the other, and with a window.
const SINGLE: u64 = 200;
const MANY: u64 = 20_000;

/// Both figures, or the one named `only` with so many rounds of it.
pub fn run(pinning: &str, peer_processor: usize, only: Option<(&str, u64)>) -> Result<Vec<Row>, Failure> {
    crate::pin(0);
    let node = Node::join(crate::settings()).wait()?;
    let peer = Peer::start(&node, Some(peer_processor))?;
    let connect = |address: &str| {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true).map(|()| stream)
    };
    let (mut echo, mut pipe) = (connect(&peer.echo)?, connect(&peer.pipe)?);
    let set: Set<Raw> = node.set("bench/replicas").replicas(1).open().wait()?;
    for object in 0..WINDOW {
        put(&set, object)?;
    }
    let rounds = |figure: &str| only.map_or(Some(ROUNDS), |(named, rounds)| (named == figure).then_some(rounds));
    let mut rows = Vec::new();
    if let Some(rounds) = rounds("put_replica_1") {
        rows.push(one_at_a_time(&set, &mut echo, &format!("put_replica_1@{pinning}"), rounds)?);
    }
    if let Some(rounds) = rounds("replicated_puts_per_s") {
        rows.push(many_in_flight(&set, &mut pipe, &format!("replicated_puts_per_s@{pinning}"), rounds)?);
    }
    Ok(rows)
}

fn put(set: &Set<Raw>, object: u64) -> Result<f64, Failure> {
    let mut guard = set.grab(object).wait()?;
    guard.0.resize(SIZE, 7);
    let start = Instant::now();
    guard.put().wait()?;
    Ok(start.elapsed().as_nanos() as f64)
}

fn one_at_a_time(set: &Set<Raw>, echo: &mut TcpStream, name: &str, rounds: u64) -> Result<Row, Failure> {
    let (mut work, mut floor, mut reply) = (Samples::default(), Samples::default(), Vec::new());
    for round in 0..rounds + WARM_UP_ROUNDS {
        for object in 0..SINGLE {
            let (work_ns, floor_ns) = (put(set, object % WINDOW)?, ping(echo, SIZE, &mut reply)?);
            if round >= WARM_UP_ROUNDS {
                work.push(work_ns);
                floor.push(floor_ns);
            }
        }
    }
    Ok(row(name, "us", 1e3, work, floor))
}

fn many_in_flight(set: &Set<Raw>, pipe: &mut TcpStream, name: &str, rounds: u64) -> Result<Row, Failure> {
    let (mut work, mut floor) = (Samples::default(), Samples::default());
    for round in 0..rounds + WARM_UP_ROUNDS {
        let (work_ns, floor_ns) = (puts(set)?, messages(pipe)?);
        if round >= WARM_UP_ROUNDS {
            work.push(work_ns);
            floor.push(floor_ns);
        }
    }
    Ok(rate(name, "k/s", 1e6, work, floor))
}

/// Nanoseconds for each of many puts.
fn puts(set: &Set<Raw>) -> Result<f64, Failure> {
    let mut in_flight = VecDeque::new();
    let start = Instant::now();
    for number in 0..MANY {
        if in_flight.len() as u64 == WINDOW
            && let Some(put) = in_flight.pop_front()
        {
            kddm::Pending::wait(put)?;
        }
        let change = move |value: &mut Raw| {
            value.0[..8].copy_from_slice(&number.to_le_bytes());
            Ok(())
        };
        in_flight.push_back(set.update(number % WINDOW, change));
    }
    in_flight.into_iter().try_for_each(kddm::Pending::wait)?;
    Ok(start.elapsed().as_nanos() as f64 / MANY as f64)
}

/// Nanoseconds for each message of a bare connection with as many requests in flight, each request written by itself,
/// as they come up; answers are read as many as there are. An answer is a message, too.
pub fn messages(pipe: &mut TcpStream) -> Result<f64, Failure> {
    let (request, mut answers) = ([7_u8; REQUEST_BYTES], vec![0_u8; WINDOW as usize * ANSWER_BYTES]);
    let start = Instant::now();
    let (mut sent, mut answered, mut rest) = (0, 0, 0);
    while answered < MANY {
        while sent < MANY && sent - answered < WINDOW {
            pipe.write_all(&request)?;
            sent += 1;
        }
        let read = pipe.read(&mut answers)?;
        if read == 0 {
            return Err("the peer has ended".into());
        }
        rest += read;
        answered += (rest / ANSWER_BYTES) as u64;
        rest %= ANSWER_BYTES;
    }
    Ok(start.elapsed().as_nanos() as f64 / (2 * MANY) as f64)
}

/// The other end: answers at once all that has arrived.
pub fn serve_pipe(listener: &TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        let _without_delay = stream.set_nodelay(true);
        let mut requests = vec![0_u8; WINDOW as usize * REQUEST_BYTES];
        let answers = vec![7_u8; (WINDOW as usize + 1) * ANSWER_BYTES];
        let mut rest = 0;
        while let Ok(count @ 1..) = stream.read(&mut requests) {
            rest += count;
            let whole = rest / REQUEST_BYTES;
            rest %= REQUEST_BYTES;
            if stream.write_all(&answers[..whole * ANSWER_BYTES]).is_err() {
                break;
            }
        }
    }
}
