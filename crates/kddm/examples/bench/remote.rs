//! Misses: two processes, and a plain TCP ping-pong between the same two as the floor.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use kddm::{Node, PlacedBy, Raw, Set};

use crate::Failure;
use crate::peer::{CALLED, clock_ns, echo_request, take_turn};
use crate::report::{Row, Samples, row};

/// Another process with a node of the same cluster.
pub struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub id: u16,
    /// Where it answers pings, and where many at once.
    pub echo: String,
    pub pipe: String,
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ended = self.child.wait();
    }
}

impl Peer {
    pub fn start(node: &Node, processor: Option<usize>) -> Result<Peer, Failure> {
        let processor = processor.map_or("-".into(), |processor| processor.to_string());
        let mut child = Command::new(std::env::current_exe()?)
            .args(["peer", &node.address().to_string(), &processor])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut peer = Peer { child, input, output, id: 0, echo: String::new(), pipe: String::new() };
        let line = peer.line()?;
        let mut words = line.split_whitespace();
        let (Some(id), Some(echo), Some(pipe)) = (words.next(), words.next(), words.next()) else {
            return Err("the peer did not start".into());
        };
        peer.id = id.parse()?;
        (peer.echo, peer.pipe) = (echo.into(), pipe.into());
        Ok(peer)
    }

    pub fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("the peer has ended".into());
        }
        Ok(line.trim().into())
    }

    /// Its answer is the next line.
    pub fn say(&mut self, line: &str) -> Result<(), Failure> {
        let input = self.input.as_mut().ok_or("the peer is gone")?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    pub fn tell(&mut self, line: &str) -> Result<String, Failure> {
        self.say(line)?;
        self.line()
    }

    pub fn number(&mut self, line: &str) -> Result<f64, Failure> {
        Ok(self.tell(line)?.parse()?)
    }
}

pub const BATCH: u64 = 100;

/// Large objects that are written again together: copies of so many fit what a process keeps memory for.
const BATCH_AGAIN: u64 = 10;

/// Figures, the bytes of their values, rounds of a batch each, and what is measured.
type Figure = (&'static str, usize, u64, Miss);

const FIGURES: [Figure; 6] = [
    ("get_miss_64", 64, 60, Miss::Get),
    ("get_miss_4096", 4096, 40, Miss::Get),
    ("get_miss_1m", 1 << 20, 2, Miss::Get),
    ("get_again_1m", 1 << 20, 20, Miss::GetAgain),
    ("grab_remote", 64, 60, Miss::Grab),
    ("grab_remote_2", 64, 40, Miss::GrabWithTwoSharers),
];

/// Turns of each of two writers, after those that only make them ready.
const TURNS: u64 = 4_000;
const WARM_UP_TURNS: u64 = 200;

/// Calls of a quick service.
const CALLS: u64 = 6_000;

/// Puts that a watcher hears of.
const PUTS: u64 = 4_000;

/// No call takes as long.
const CALL_LIMIT: Duration = Duration::from_secs(20);

struct Bench {
    peer: Peer,
    other: Peer,
    echo: TcpStream,
    set: Set<Raw>,
    name: &'static str,
    next: u64,
}

/// All figures, or the one named `only` with so many rounds of it, to count what one costs.
pub fn run(pinning: &str, peer_processor: usize, only: Option<(&str, u64)>) -> Result<Vec<Row>, Failure> {
    crate::pin(0);
    let node = Node::join(crate::settings()).wait()?;
    let peer = Peer::start(&node, Some(peer_processor))?;
    let other = Peer::start(&node, Some(peer_processor))?;
    let echo = TcpStream::connect(&peer.echo)?;
    echo.set_nodelay(true)?;
    let name = "bench/remote";
    // The peer is the home of all objects, so the first hint is right.
    let set: Set<Raw> = node.set(name).placement(PlacedBy::Fixed(peer.id)).replicas(0).open().wait()?;
    let mut bench = Bench { peer, other, echo, set, name, next: 1 };
    let mut rows = Vec::new();
    for figure in FIGURES {
        let rounds = only.map_or(Some(figure.2), |(named, rounds)| (named == figure.0).then_some(rounds));
        if let Some(rounds) = rounds {
            rows.extend(bench.misses(pinning, figure, rounds)?);
        }
    }
    let turns = only.map_or(Some(TURNS), |(named, rounds)| (named == "ping_pong").then_some(rounds * BATCH));
    if let Some(turns) = turns {
        rows.push(bench.ping_pong(&node, &format!("ping_pong@{pinning}"), turns)?);
    }
    let calls = only.map_or(Some(CALLS), |(named, rounds)| (named == "rpc_call").then_some(rounds * BATCH));
    if let Some(calls) = calls {
        rows.push(bench.calls(&node, &format!("rpc_call@{pinning}"), calls)?);
    }
    let puts = only.map_or(Some(PUTS), |(named, rounds)| (named == "watch").then_some(rounds * BATCH));
    if let Some(puts) = puts {
        rows.push(bench.watch(&node, &format!("watch@{pinning}"), puts)?);
    }
    Ok(rows)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Miss {
    Get,
    /// Of objects that were here before, and have been written elsewhere since.
    GetAgain,
    Grab,
    GrabWithTwoSharers,
}

/// The floor: nanoseconds of a request of 64 bytes and an answer of that size.
pub fn ping(echo: &mut TcpStream, size: usize, reply: &mut Vec<u8>) -> Result<f64, Failure> {
    reply.resize(size, 0);
    let start = Instant::now();
    echo.write_all(&echo_request(size, 0, 0))?;
    echo.read_exact(reply)?;
    Ok(start.elapsed().as_nanos() as f64)
}

/// The floor of what is kept: each answer is another value, and has come to stay.
fn ping_to_keep(echo: &mut TcpStream, size: usize, which: u64) -> Result<(f64, Vec<u8>), Failure> {
    let start = Instant::now();
    echo.write_all(&echo_request(size, 1 + which, 1 + BATCH))?;
    let mut reply = Vec::with_capacity(size);
    while reply.len() < size {
        if rustix::io::read(&*echo, rustix::buffer::spare_capacity(&mut reply))? == 0 {
            return Err("the peer has ended".into());
        }
    }
    Ok((start.elapsed().as_nanos() as f64, reply))
}

/// How often the threads of this process have given their processor up to wait.
fn switches() -> u64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let status = threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    let count = |status: String| -> Option<u64> {
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
    };
    status.filter_map(count).sum()
}

impl Bench {
    /// Where copies come to stay there are two floors: the second one does just that.
    fn misses(&mut self, pinning: &str, figure: Figure, rounds: u64) -> Result<Vec<Row>, Failure> {
        let (name, size, _, miss) = figure;
        let (mut work, mut floor, mut floor_kept) = (Samples::default(), Samples::default(), Samples::default());
        let (mut reply, mut kept) = (Vec::new(), Vec::new());
        let batch = if miss == Miss::GetAgain { BATCH_AGAIN } else { BATCH };
        for round in 0..rounds + 2 {
            let from = self.next;
            if miss == Miss::Get {
                kept.push(ping_to_keep(&mut self.echo, size, 0)?.1);
            }
            if miss != Miss::GetAgain {
                self.next += batch;
            }
            self.peer.tell(&format!("own {} {from} {batch} {size}", self.name))?;
            if miss == Miss::GrabWithTwoSharers {
                self.other.tell(&format!("copy {} {from} {batch}", self.name))?;
            }
            for object in from..from + batch {
                if miss == Miss::GrabWithTwoSharers {
                    drop(self.set.get(object).wait()?);
                }
                let start = Instant::now();
                match miss {
                    Miss::Get | Miss::GetAgain => drop(self.set.get(object).wait()?),
                    _ => drop(self.set.grab(object).wait()?),
                }
                let work_ns = start.elapsed().as_nanos() as f64;
                let floor_ns = ping(&mut self.echo, size, &mut reply)?;
                let (kept_ns, value) = match miss {
                    Miss::Get => ping_to_keep(&mut self.echo, size, 1 + (object - from))?,
                    _ => (floor_ns, Vec::new()),
                };
                kept.push(value);
                if round >= 2 {
                    work.push(work_ns);
                    floor.push(floor_ns);
                    floor_kept.push(kept_ns);
                }
            }
        }
        self.next += BATCH;
        let mut rows = vec![row(&format!("{name}@{pinning}"), "us", 1e3, work.clone(), floor)];
        if miss == Miss::Get {
            rows.push(row(&format!("{name}_kept@{pinning}"), "us", 1e3, work, floor_kept));
        }
        Ok(rows)
    }

    /// A call with a question and an answer of 64 bytes.
    fn calls(&mut self, node: &Node, name: &str, calls: u64) -> Result<Row, Failure> {
        let (mut work, mut floor) = (Samples::default(), Samples::default());
        let (mut reply, question) = (Vec::new(), [7; 64]);
        let rpc = node.rpc();
        let switched = switches();
        for round in 0..calls + WARM_UP_TURNS {
            let start = Instant::now();
            let answer = rpc.call(self.peer.id, CALLED, &question, CALL_LIMIT).wait()?;
            let work_ns = start.elapsed().as_nanos() as f64;
            if answer != question {
                return Err("that is not what was asked".into());
            }
            let floor_ns = ping(&mut self.echo, 64, &mut reply)?;
            if round >= WARM_UP_TURNS {
                work.push(work_ns);
                floor.push(floor_ns);
            }
        }
        let each = (switches() - switched) as f64 / (calls + WARM_UP_TURNS) as f64;
        eprintln!("bench: {name}: this process gave its processor up {each:.2} times for a call and a ping");
        Ok(row(name, "us", 1e3, work, floor))
    }

    /// An object that is put elsewhere: from the put until whoever watches its set knows. One way; the floor is half a ping.
    fn watch(&mut self, node: &Node, name: &str, puts: u64) -> Result<Row, Failure> {
        let (mut work, mut floor, mut reply) = (Samples::default(), Samples::default(), Vec::new());
        let set: Set<u64> =
            node.set("bench/watched").placement(PlacedBy::Fixed(self.peer.id)).replicas(0).open().wait()?;
        let mut changes = set.watch_all().wait()?;
        for round in 0..puts + WARM_UP_TURNS {
            self.peer.say(&format!("put bench/watched {}", round % BATCH))?;
            let change = changes.receive().wait_for(CALL_LIMIT)?;
            let heard = clock_ns();
            if !matches!(change, kddm::Change::Put { object, .. } if object == round % BATCH) {
                return Err(format!("that was not put: {change:?}").into());
            }
            let began: u64 = self.peer.line()?.parse()?;
            let floor_ns = ping(&mut self.echo, 64, &mut reply)? / 2.0;
            if round >= WARM_UP_TURNS {
                work.push(heard.saturating_sub(began) as f64);
                floor.push(floor_ns);
            }
        }
        Ok(row(name, "us", 1e3, work, floor))
    }

    /// One object written by two nodes in turn: the time until the one whose turn it is may write.
    fn ping_pong(&mut self, node: &Node, name: &str, turns: u64) -> Result<Row, Failure> {
        let (mut work, mut floor) = (Samples::default(), Samples::default());
        let mut reply = Vec::new();
        let counter: Set<u64> =
            node.set("bench/counter").placement(PlacedBy::Fixed(self.peer.id)).replicas(0).open().wait()?;
        for round in 0..turns + WARM_UP_TURNS {
            let mine_ns = take_turn(&counter)?;
            let floor_ns = ping(&mut self.echo, 64, &mut reply)?;
            let theirs_ns = self.peer.number("turn bench/counter")?;
            if round >= WARM_UP_TURNS {
                work.push(mine_ns);
                work.push(theirs_ns);
                floor.push(floor_ns);
            }
        }
        let count = *counter.get(0).wait()?;
        if count != 2 * (turns + WARM_UP_TURNS) {
            return Err(format!("{count} is not what both have counted").into());
        }
        Ok(row(name, "us", 1e3, work, floor))
    }
}
