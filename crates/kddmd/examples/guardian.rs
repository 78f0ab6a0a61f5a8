//! How long it takes from kill -9 of a node to the end of a wait for it in another process, where a
//! guardian watches: one cluster of two nodes after the other, over TCP on loopback.
//!
//! `cargo run --release -p kddmd --example guardian [-- KILLS [MIB]]` prints a JSON object; MIB is what the
//! killed node has allocated, which the kernel has to free first (default 0).

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use kddm::{Config, Node, Pod, Set};
use serde_json::json;

/// Kills, unless said otherwise.
const KILLS: usize = 200;
/// Longer than anything here takes: a wait that ends by it was not ended by proof.
const LIMIT: Duration = Duration::from_secs(20);
const OBJECT: u64 = 1;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["guardian", socket] => {
            kddmd::guardian::main(kddmd::guardian::Arguments { socket: Some(socket.into()), log: "info".into() })
        }
        ["node", socket, contact, mib] => node(socket, contact, mib.parse().expect("a number")),
        [] => measure(KILLS, "0"),
        [kills] => measure(kills.parse().expect("a number of kills"), "0"),
        [kills, mib, ..] => measure(kills.parse().expect("a number of kills"), mib),
    }
}

fn open(node: &Node) -> Set<Pod<u64>> {
    node.set("killed").open().wait().expect("the set opens")
}

/// The one that is killed: it holds the object.
fn node(socket: &str, contact: &str, mib: usize) -> ExitCode {
    let memory = vec![1_u8; mib << 20];
    let mut config = Config::new().contact(contact.parse().expect("an address"));
    config.guardian = Some(socket.into());
    let node = Node::join(config).wait().expect("it joins");
    let set = open(&node);
    let mut put = set.grab(OBJECT).wait().expect("nobody else has it");
    put.0 = OBJECT;
    put.put().wait().expect("the other node has a copy");
    let held = set.grab(OBJECT).wait().expect("nobody else has it");
    println!("holds");
    let _until_it_is_killed = std::io::stdin().lock().read_to_end(&mut Vec::new());
    drop((held, memory));
    ExitCode::SUCCESS
}

type Lines = Box<dyn Iterator<Item = String>>;

/// This program in another part, with what it says and what it logs.
fn part(arguments: &[&str]) -> (Child, Lines, Lines) {
    let program = std::env::current_exe().expect("it has a name");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it is the same program");
    let (output, log) = (child.stdout.take(), child.stderr.take());
    let output = output.into_iter().flat_map(|output| BufReader::new(output).lines()).map_while(Result::ok);
    let log = log.into_iter().flat_map(|log| BufReader::new(log).lines()).map_while(Result::ok);
    (child, Box::new(output), Box::new(log))
}

fn until(lines: &mut Lines, words: &str) {
    assert!(lines.any(|line| line.contains(words)), "a part of this program ended without `{words}`");
}

/// The time of one kill.
fn kill(socket: &str, guardian: &mut Lines, mib: &str) -> Duration {
    let mut config = Config::new();
    config.guardian = None;
    let first = Node::join(config).wait().expect("it begins a cluster");
    let set = open(&first);
    let (mut child, mut output, _log) = part(&["node", socket, &first.address().to_string(), mib]);
    until(&mut output, "holds");
    until(guardian, "watching a node");
    let waits = set.grab(OBJECT);
    let killed = Instant::now();
    child.kill().expect("it is our child");
    let guard = waits.wait_for(LIMIT).expect("the wait goes on with the copy that is here");
    let took = killed.elapsed();
    assert_eq!(guard.0, OBJECT);
    drop(guard);
    child.wait().expect("it has ended");
    first.stop_within(Duration::ZERO);
    took
}

fn measure(kills: usize, mib: &str) -> ExitCode {
    let path = std::env::temp_dir().join(format!("kddm-guardian-{}.sock", std::process::id()));
    let socket = path.display().to_string();
    let (mut guardian, _, mut log) = part(&["guardian", &socket]);
    until(&mut log, "watching the nodes");
    let mut times: Vec<f64> = (0..kills.max(1)).map(|_| kill(&socket, &mut log, mib).as_secs_f64() * 1e3).collect();
    guardian.kill().expect("it is our child");
    guardian.wait().expect("it has ended");
    let _the_socket_stays = std::fs::remove_file(&path);
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    println!("{}", json!({"kills": kills, "mib": mib, "p50_ms": at(0.5), "p99_ms": at(0.99), "longest_ms": at(1.0)}));
    ExitCode::SUCCESS
}
