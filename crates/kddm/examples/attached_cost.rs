//! What an attached program pays: a hit, a put of what it has, a miss at its node, and a turn with another
//! program, beside a bare ping-pong over a Unix socket between the same two processes.
//!
//! `cargo run --release -p kddm --example attached_cost` prints a line of JSON for each figure. With all
//! threads on one processor (`taskset -c 0`) it shows what the work costs, on two what the wake-ups cost.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use kddm::{Error, Node, Pod, Set};

type Value = Pod<[u64; 8]>;

/// Objects that are missed once each.
const MISSES: u64 = 5_000;
/// Hits in one measurement.
const HITS: u32 = 1_000_000;
/// Puts of an object that is here.
const PUTS: u32 = 100_000;
/// Bytes of a ping and of a pong: those of a small frame and of the answer with its value.
const PING_BYTES: usize = 48;
const PONG_BYTES: usize = 112;

fn main() -> Result<(), Error> {
    match std::env::args_os().nth(1) {
        None => lender(),
        Some(socket) => program(Path::new(&socket)),
    }
}

fn ping_socket(socket: &Path) -> PathBuf {
    socket.with_extension("ping")
}

/// The node, and the other end of the ping-pong.
fn lender() -> Result<(), Error> {
    let socket = std::env::temp_dir().join(format!("kddm-cost-{}.sock", std::process::id()));
    let nodes = Node::local_cluster(1)?;
    nodes[0].accept_programs(&socket)?;
    let set: Set<Value> = nodes[0].set("cost").replicas(0).open().wait()?;
    for object in 0..2 * MISSES {
        set.grab(object).wait()?.put().wait()?;
    }
    let listener = UnixListener::bind(ping_socket(&socket)).expect("the path is free");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a program dials");
        let mut ping = [0; PING_BYTES];
        while stream.read_exact(&mut ping).is_ok() && stream.write_all(&[0; PONG_BYTES]).is_ok() {}
    });
    let own = std::env::current_exe().expect("this program has a path");
    let status = Command::new(own).arg(&socket).stdin(Stdio::null()).status().expect("it can be started again");
    let _already_gone = std::fs::remove_file(ping_socket(&socket));
    assert!(status.success(), "the program failed");
    Ok(())
}

fn median_us(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Times of an operation and of a ping-pong, in turns.
fn beside(mut ping: impl FnMut(), count: u64, mut operation: impl FnMut(u64)) -> (f64, f64) {
    let (mut own, mut floor) = (Vec::new(), Vec::new());
    let timed = |times: &mut Vec<f64>, work: &mut dyn FnMut()| {
        let begin = Instant::now();
        work();
        times.push(begin.elapsed().as_nanos() as f64 / 1_000.0);
    };
    for object in 0..count {
        timed(&mut own, &mut || operation(object));
        timed(&mut floor, &mut ping);
    }
    (median_us(&mut own), median_us(&mut floor))
}

fn say(name: &str, us: f64, floor_us: f64) {
    println!("{{\"name\": \"{name}\", \"us\": {us:.4}, \"floor_us\": {floor_us:.2}, \"ratio\": {:.3}}}", us / floor_us);
}

fn program(socket: &Path) -> Result<(), Error> {
    let mut pings = UnixStream::connect(ping_socket(socket)).expect("the node listens");
    let mut ping = || {
        pings.write_all(&[0; PING_BYTES]).expect("the node reads");
        pings.read_exact(&mut [0; PONG_BYTES]).expect("the node answers");
    };
    let (node, other) = (Node::attach(socket).wait()?, Node::attach(socket).wait()?);
    let set: Set<Value> = node.set("cost").replicas(0).open().wait()?;
    let others: Set<Value> = other.set("cost").replicas(0).open().wait()?;
    const GRANTED: &str = "nobody keeps it";
    let (us, floor_us) = beside(&mut ping, MISSES, |object| drop(set.get(object).wait().expect(GRANTED)));
    say("get_miss", us, floor_us);
    let (us, floor_us) = beside(&mut ping, MISSES, |object| drop(set.grab(MISSES + object).wait().expect(GRANTED)));
    say("grab_miss", us, floor_us);
    let (us, floor_us) = beside(&mut ping, MISSES, |object| drop(set.grab(object).wait().expect(GRANTED)));
    say("upgrade", us, floor_us);
    let (us, floor_us) = beside(&mut ping, MISSES, |object| drop(others.get(object).wait().expect(GRANTED)));
    say("get_from_another_program", us, floor_us);

    let begin = Instant::now();
    for _ in 0..PUTS {
        set.grab(2 * MISSES - 1).wait()?.put().wait()?;
    }
    say("grab_put_here", begin.elapsed().as_secs_f64() * 1e6 / f64::from(PUTS), floor_us);
    let frames = node.statistics().frames_sent;
    let begin = Instant::now();
    for _ in 0..HITS {
        drop(set.get(1).wait()?);
    }
    say("get_hit", begin.elapsed().as_secs_f64() * 1e6 / f64::from(HITS), floor_us);
    let object = set.object(1);
    let begin = Instant::now();
    for _ in 0..HITS {
        std::hint::black_box(object.read().wait()?);
    }
    say("read_hit", begin.elapsed().as_secs_f64() * 1e6 / f64::from(HITS), floor_us);
    assert_eq!(node.statistics().frames_sent, frames, "a hit says nothing");
    Ok(())
}
