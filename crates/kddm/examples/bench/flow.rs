//! Many objects on their way at one time: ownership of small ones, and the bytes of large ones.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use kddm::{Node, Pending, PlacedBy, Raw, Set};

use crate::Failure;
use crate::peer::echo_request;
use crate::remote::Peer;
use crate::replicas::{WINDOW, messages};
use crate::report::{Row, Samples, rate};

/// Small objects that move there and back in a round.
const MOVED: u64 = 20_000;
/// Rounds, after those that only make them ready.
const ROUNDS: u64 = 10;
const WARM_UP_ROUNDS: u64 = 2;

/// Large objects: the figure and its bytes. The last one is as large as objects are by default, with its length before it.
const LARGE: [(&str, usize); 3] = [("stream_64k", 64 << 10), ("stream_1m", 1 << 20), ("stream_16m", (16 << 20) - 16)];
/// Bytes of a round, and of what is under way at one time.
const BYTES: usize = 64 << 20;
const BYTES_UNDER_WAY: usize = 32 << 20;

/// All figures, or the one named `only` with so many rounds of it.
pub fn run(pinning: &str, peer_processor: usize, only: Option<(&str, u64)>) -> Result<Vec<Row>, Failure> {
    crate::pin(0);
    let node = Node::join(crate::settings()).wait()?;
    let mut peer = Peer::start(&node, Some(peer_processor))?;
    let connect = |address: &str| {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true).map(|()| stream)
    };
    let (mut echo, mut pipe) = (connect(&peer.echo)?, connect(&peer.pipe)?);
    let rounds = |figure: &str| only.map_or(Some(ROUNDS), |(named, rounds)| (named == figure).then_some(rounds));
    let mut rows = Vec::new();
    if let Some(rounds) = rounds("moves_per_s") {
        let set: Set<Raw> = node.set("bench/moves").placement(PlacedBy::Fixed(peer.id)).replicas(0).open().wait()?;
        rows.push(moves(&set, &mut peer, &mut pipe, &format!("moves_per_s@{pinning}"), rounds)?);
    }
    let set: Set<Raw> = node.set("bench/stream").placement(PlacedBy::Fixed(peer.id)).replicas(0).open().wait()?;
    for (name, size) in LARGE {
        if let Some(rounds) = rounds(name) {
            rows.extend(streams(&set, &mut peer, &mut echo, (name, size, pinning), rounds)?);
        }
    }
    Ok(rows)
}

/// So many objects change their owner from the peer to here, and back.
fn moves(set: &Set<Raw>, peer: &mut Peer, pipe: &mut TcpStream, name: &str, rounds: u64) -> Result<Row, Failure> {
    let (mut work, mut floor) = (Samples::default(), Samples::default());
    peer.tell(&format!("own bench/moves 0 {MOVED} 64"))?;
    for round in 0..rounds + WARM_UP_ROUNDS {
        let (here_ns, floor_ns) = (take(set, 0, MOVED)?, messages(pipe)?);
        let back_ns = peer.number(&format!("take bench/moves 0 {MOVED}"))?;
        if round >= WARM_UP_ROUNDS {
            work.push(here_ns);
            work.push(back_ns);
            floor.push(floor_ns);
        }
    }
    Ok(rate(name, "k/s", 1e6, work, floor))
}

/// Becomes owner of so many objects. The nanoseconds for each.
pub fn take(set: &Set<Raw>, from: u64, count: u64) -> Result<f64, Failure> {
    let start = Instant::now();
    windowed(from..from + count, WINDOW as usize, |object| set.acquire(object))?;
    Ok(start.elapsed().as_nanos() as f64 / count as f64)
}

fn windowed(objects: std::ops::Range<u64>, window: usize, ask: impl Fn(u64) -> Pending<()>) -> Result<(), Failure> {
    let mut under_way = VecDeque::new();
    for object in objects {
        if under_way.len() == window
            && let Some(first) = under_way.pop_front()
        {
            Pending::wait(first)?;
        }
        under_way.push_back(ask(object));
    }
    under_way.into_iter().try_for_each(Pending::wait)?;
    Ok(())
}

/// The bytes of large objects that the peer has written anew come here. The floor: as many answers of that size over a
/// bare connection, asked for as far ahead, sent from one buffer and read into one. The other floor: each from one of its own, and
/// into one where it stays until the next round, as objects do.
fn streams(
    set: &Set<Raw>,
    peer: &mut Peer,
    echo: &mut TcpStream,
    (name, size, pinning): (&str, usize, &str),
    rounds: u64,
) -> Result<[Row; 2], Failure> {
    let (mut work, mut floor, mut floor_kept) = (Samples::default(), Samples::default(), Samples::default());
    let (count, window) = ((BYTES / size) as u64, BYTES_UNDER_WAY / size);
    let (mut one, mut all) = ([vec![0; size]], vec![vec![0; size]; count as usize]);
    for round in 0..rounds + WARM_UP_ROUNDS {
        peer.tell(&format!("own bench/stream 0 {count} {size}"))?;
        let start = Instant::now();
        windowed(0..count, window, |object| set.fetch(object))?;
        let work_ns = start.elapsed().as_nanos() as f64;
        let floor_ns = answers(echo, count, window as u64, &mut one)?;
        // All are made anew before they are asked for, as those of the peer are.
        echo.write_all(&echo_request(size, 1, count))?;
        echo.read_exact(&mut all[0])?;
        let kept_ns = answers(echo, count, window as u64, &mut all)?;
        if round >= WARM_UP_ROUNDS {
            // Nanoseconds for each MiB.
            let mebibytes = (count as usize * size) as f64 / (1 << 20) as f64;
            work.push(work_ns / mebibytes);
            floor.push(floor_ns / mebibytes);
            floor_kept.push(kept_ns / mebibytes);
        }
    }
    let row = |name: String, floor| rate(&name, "MiB/s", 1e9, work.clone(), floor);
    Ok([row(format!("{name}@{pinning}"), floor), row(format!("{name}_kept@{pinning}"), floor_kept)])
}

/// So many answers into these, by turns: of as many values, or of one.
fn answers(echo: &mut TcpStream, count: u64, window: u64, into: &mut [Vec<u8>]) -> Result<f64, Failure> {
    let (size, start) = (into.first().map_or(0, Vec::len), Instant::now());
    let (mut asked, places) = (0, into.len());
    for answered in 0..count {
        while asked < count && asked - answered < window {
            // The first one would have all made anew.
            let which = if places == 1 { 0 } else { 1 + asked.max(1) };
            echo.write_all(&echo_request(size, which, count))?;
            asked += 1;
        }
        echo.read_exact(&mut into[answered as usize % places])?;
    }
    Ok(start.elapsed().as_nanos() as f64)
}
