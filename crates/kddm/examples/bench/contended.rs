//! One counter that several processes increment at one time: the object goes to each of them in turn, or the increments go
//! to the object. The floor is a ping-pong between two of the processes: what one client could do without any work.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use kddm::{Node, Operation, PlacedBy, Set};

use crate::Failure;
use crate::remote::{Peer, ping};
use crate::report::{Row, Samples, rate, row};

/// Clients of the largest figure, each a process with a node.
const CLIENTS: usize = 8;

/// Figures: their clients, and the replicas of the counter.
const FIGURES: [(&str, usize, u8); 3] = [("counter_2", 2, 0), ("counter_8", 8, 0), ("counter_8_replica", 8, 1)];

/// What clients do between two increments of the figures that are paced: so another client has had the object meanwhile, as
/// where it is one of many objects that they use.
const PAUSE: Duration = Duration::from_millis(1);

/// Rounds of a figure, after those that only make ready; each is one of its samples.
const ROUNDS: u64 = 9;
const WARM_UP_ROUNDS: u64 = 2;

/// How long all clients of a round count: far longer than they take to begin, or the first would be through before the last
/// has begun, and nothing was contended.
const ROUND: Duration = Duration::from_millis(200);

/// Pings that are one sample of the floor.
const PINGS: u64 = 300;

/// A counter, and how it is incremented from elsewhere.
pub struct Counter {
    pub set: Set<u64>,
    pub add: Operation<u64, u64, u64>,
}

impl Counter {
    pub fn open(node: &Node, replicas: u8, home: u16) -> Result<Counter, Failure> {
        let name = format!("bench/counter-{replicas}");
        let set: Set<u64> = node.set(&name).placement(PlacedBy::Fixed(home)).replicas(replicas).open().wait()?;
        let code = |count: &mut u64, by: u64| {
            *count += by;
            *count
        };
        let add = set.operation("add", code)?;
        Ok(Counter { set, add })
    }

    /// Counts for a round. How often that was, and the median of what one took, in nanoseconds.
    pub fn count(&self, is_delegated: bool, is_paced: bool) -> Result<(u64, f64), Failure> {
        let (start, mut times, mut took) = (Instant::now(), 0, Samples::default());
        while start.elapsed() < ROUND {
            if is_paced {
                std::thread::sleep(PAUSE);
            }
            let begun = is_paced.then(Instant::now);
            if is_delegated {
                self.add.invoke(0, 1).wait()?;
            } else {
                let add = |count: &mut u64| {
                    *count += 1;
                    Ok(*count)
                };
                self.set.update(0, add).wait()?;
            }
            times += 1;
            begun.into_iter().for_each(|begun| took.push(begun.elapsed().as_nanos() as f64));
        }
        Ok((times, took.quantile(0.5)))
    }
}

/// All figures, or the one named `only`.
pub fn run(only: Option<&str>) -> Result<Vec<Row>, Failure> {
    let node = Node::join(crate::settings()).wait()?;
    let mut peers = Vec::new();
    for _ in 0..CLIENTS {
        peers.push(Peer::start(&node, None)?);
    }
    let mut echo = TcpStream::connect(&peers[0].echo)?;
    echo.set_nodelay(true)?;
    let counters = [Counter::open(&node, 0, node.id())?, Counter::open(&node, 1, node.id())?];
    let mut rows = Vec::new();
    for (name, clients, replicas) in FIGURES.into_iter().filter(|figure| only.is_none_or(|only| only == figure.0)) {
        let counter = &counters[usize::from(replicas)];
        let (before, mut said) = (*counter.set.get(0).wait()?, 0);
        let (mut floor, mut rates, mut times) =
            (Samples::default(), <[Samples; 2]>::default(), <[Samples; 2]>::default());
        let mut least = <[Samples; 2]>::default();
        for round in 0..ROUNDS + WARM_UP_ROUNDS {
            let floor_ns = pings(&mut echo)?;
            for (at, how) in HOW.into_iter().enumerate() {
                for pace in ["hurried", "paced"] {
                    // It is here again, where no client is.
                    counter.set.acquire(0).wait()?;
                    let peers = &mut peers[..clients];
                    let order = format!("count {replicas} {} {how} {pace}", node.id());
                    let Counted { counted, least_share, medians } = together(peers, &order)?;
                    said += counted;
                    match (round >= WARM_UP_ROUNDS, pace) {
                        (true, "paced") => medians.into_iter().for_each(|median_ns| times[at].push(median_ns)),
                        (true, _) => {
                            rates[at].push(ROUND.as_nanos() as f64 / counted as f64);
                            least[at].push(least_share);
                        }
                        _ => {}
                    }
                }
            }
            if round >= WARM_UP_ROUNDS {
                floor.push(floor_ns);
            }
        }
        let counted = *counter.set.get(0).wait()? - before;
        if counted != said {
            return Err(format!("{counted} is not {said}, which {clients} clients have counted").into());
        }
        for (how, mut least) in HOW.into_iter().zip(least) {
            let (name, value) = (format!("{name}_{how}_least"), least.quantile(0.5));
            rows.push(Row { name, value, unit: "share".into(), floor: None, ratio: None, p99_ratio: None });
        }
        for (how, (rates, times)) in HOW.into_iter().zip(rates.into_iter().zip(times)) {
            rows.push(rate(&format!("{name}_{how}"), "k/s", 1e6, rates, floor.clone()));
            rows.push(row(&format!("{name}_{how}_paced"), "us", 1e3, times, floor.clone()));
        }
    }
    let seen = node.statistics().invoking;
    eprintln!("bench: served {}, combined {}", seen.served, seen.combined);
    Ok(rows)
}

/// How the counter is incremented: it is grabbed, or the increment goes to it.
pub const HOW: [&str; 2] = ["moving", "delegated"];

/// What all clients have counted in a round.
struct Counted {
    counted: u64,
    /// What the one has counted that came least to its turn, of a client's part of all: 1 is as fair as can be.
    least_share: f64,
    medians: Vec<f64>,
}

/// All clients count at one time.
fn together(peers: &mut [Peer], order: &str) -> Result<Counted, Failure> {
    peers.iter_mut().try_for_each(|peer| peer.say(order))?;
    let (mut times, mut medians) = (Vec::new(), Vec::new());
    for peer in peers {
        let line = peer.line()?;
        let (of_one, median_ns) = line.split_once(' ').ok_or("a client says what it has not counted")?;
        times.push(of_one.parse::<u64>()?);
        medians.push(median_ns.parse()?);
    }
    let counted: u64 = times.iter().sum();
    let least = times.iter().min().copied().unwrap_or_default();
    let least_share = least as f64 * times.len() as f64 / counted.max(1) as f64;
    Ok(Counted { counted, least_share, medians })
}

fn pings(echo: &mut TcpStream) -> Result<f64, Failure> {
    let (mut sum_ns, mut reply) = (0.0, Vec::new());
    for _ in 0..PINGS {
        sum_ns += ping(echo, 64, &mut reply)?;
    }
    Ok(sum_ns / PINGS as f64)
}
