//! How long it takes from kill -9 of a node until another one can write an object that the dead node owned,
//! beside as many objects as are asked for: three nodes over TCP on loopback, one replica, a guardian.
//!
//! `cargo run --release -p kddmd --example recovery [-- OBJECTS [KILLS]]` prints a JSON object. Each node owns a
//! third of the objects; each kill is in a cluster of its own. `first_grab_ms` is one object, from the kill on;
//! `later_grabs_ms` are grabs of others of its objects, one after the other, while all is made whole again.

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use kddm::{Config, Node, Pending, Pod, Set};
use serde_json::json;

/// Objects and kills, unless said otherwise.
const OBJECTS: u64 = 1_000_000;
const KILLS: usize = 3;

/// Puts of one thread that are under way at once.
const AT_ONCE: usize = 128;

/// Threads that fill one node's part.
const THREADS: u64 = 4;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Grabs of others of the dead node's objects.
const LATER: u64 = 1000;

/// What an object holds.
type Value = Pod<[u64; 8]>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match arguments[..] {
        ["guardian", socket] => {
            kddmd::guardian::main(kddmd::guardian::Arguments { socket: Some(socket.into()), log: "warn".into() })
        }
        ["node", socket, contact, first, end] => node(socket, contact, number(first)..number(end)),
        [] => measure(OBJECTS, KILLS),
        [objects] => measure(number(objects), KILLS),
        [objects, kills, ..] => measure(number(objects), number(kills) as usize),
    }
}

fn open(node: &Node) -> Set<Value> {
    node.set("recovered").replicas(1).open().wait().expect("the set opens")
}

/// Writes each of these objects once, so that this node owns them.
fn fill(set: &Set<Value>, objects: Range<u64>) {
    let part = |thread: u64| {
        let mut puts: Vec<Pending<()>> = Vec::new();
        let ids: Vec<u64> = objects.clone().filter(|id| id % THREADS == thread).collect();
        for ids in ids.chunks(AT_ONCE) {
            let grabs: Vec<_> = ids.iter().map(|id| (*id, set.grab(*id))).collect();
            for (id, grab) in grabs {
                let mut value = grab.wait_for(LIMIT).expect("nobody else wants it");
                *value = Pod([id; 8]);
                puts.push(value.put());
            }
            puts.drain(..).for_each(|put| put.wait_for(LIMIT).expect("it has its replica"));
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || part(thread));
        }
    });
}

/// A member that owns a part, until it is killed or told to go.
fn node(socket: &str, contact: &str, objects: Range<u64>) -> ExitCode {
    let _logs_once = tracing_subscriber::fmt().with_writer(std::io::stderr).try_init();
    let mut config = Config::new().contact(contact.parse().expect("an address"));
    config.guardian = Some(socket.into());
    let node = Node::join(config).wait().expect("it joins");
    let set = open(&node);
    println!("joined");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).expect("a word");
    fill(&set, objects);
    println!("filled");
    let _until_it_is_killed = std::io::stdin().lock().read_to_end(&mut Vec::new());
    node.stop_within(Duration::ZERO);
    ExitCode::SUCCESS
}

type Lines = Box<dyn Iterator<Item = String>>;

/// This program in another part, with what it says.
fn part(arguments: &[&str]) -> (Child, Lines) {
    let program = std::env::current_exe().expect("it has a name");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it is the same program");
    let output = child.stdout.take();
    let output = output.into_iter().flat_map(|output| BufReader::new(output).lines()).map_while(Result::ok);
    (child, Box::new(output))
}

fn until(lines: &mut Lines, words: &str) {
    assert!(lines.any(|line| line.contains(words)), "a part of this program ended without `{words}`");
}

fn say(child: &mut Child) {
    writeln!(child.stdin.as_mut().expect("it is piped"), "go").expect("it listens");
}

/// Grabs until it succeeds: what a program does that is told that somebody is unreachable.
fn grab(set: &Set<Value>, id: u64, since: Instant) -> Duration {
    loop {
        match set.grab(id).wait_for(LIMIT) {
            Ok(value) => {
                assert_eq!(*value, Pod([id; 8]), "a completed put is lost");
                return since.elapsed();
            }
            Err(error) if since.elapsed() > LIMIT => panic!("object {id}: {error}"),
            Err(_) => {}
        }
    }
}

/// Waits until all has as many replicas as it is to have, and all members have said so.
fn until_whole(node: &Node, since: Instant) {
    while !node.recovery().is_whole {
        assert!(since.elapsed() < LIMIT, "not whole after {LIMIT:?}: {:?}", node.recovery());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One kill: the first grab, the later ones, and until all was whole again.
fn kill(socket: &str, objects: u64) -> (f64, Vec<f64>, f64) {
    let mut config = Config::new();
    config.guardian = None;
    let first = Node::join(config).wait().expect("it begins a cluster");
    let set = open(&first);
    let contact = first.address().to_string();
    let bounds = [0, objects / 3, 2 * objects / 3, objects].map(|bound| bound.to_string());
    let (mut victim, mut victim_says) = part(&["node", socket, &contact, &bounds[1], &bounds[2]]);
    let (mut other, mut other_says) = part(&["node", socket, &contact, &bounds[2], &bounds[3]]);
    until(&mut victim_says, "joined");
    until(&mut other_says, "joined");
    say(&mut victim);
    say(&mut other);
    fill(&set, 0..objects / 3);
    until(&mut victim_says, "filled");
    until(&mut other_says, "filled");
    until_whole(&first, Instant::now());
    let theirs = objects / 3..2 * objects / 3;
    let middle = (theirs.start + theirs.end) / 2;
    let killed = Instant::now();
    victim.kill().expect("it is our child");
    let first_grab = grab(&set, middle, killed).as_secs_f64() * 1e3;
    let step = ((theirs.end - theirs.start) / LATER).max(1);
    let later = theirs.step_by(step as usize).filter(|id| *id != middle);
    let later = later.map(|id| grab(&set, id, Instant::now()).as_secs_f64() * 1e3).collect();
    until_whole(&first, killed);
    let whole = killed.elapsed().as_secs_f64() * 1e3;
    victim.wait().expect("it has ended");
    other.kill().expect("it is our child");
    other.wait().expect("it has ended");
    first.stop_within(Duration::ZERO);
    (first_grab, later, whole)
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

fn measure(objects: u64, kills: usize) -> ExitCode {
    let _logs_once = tracing_subscriber::fmt().with_writer(std::io::stderr).try_init();
    let path = std::env::temp_dir().join(format!("kddm-recovery-{}.sock", std::process::id()));
    let socket = path.display().to_string();
    let (mut guardian, _) = part(&["guardian", &socket]);
    let (mut firsts, mut laters, mut wholes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..kills.max(1) {
        let (first, later, whole) = kill(&socket, objects);
        firsts.push(first);
        laters.extend(later);
        wholes.push(whole);
    }
    guardian.kill().expect("it is our child");
    guardian.wait().expect("it has ended");
    let _the_socket_stays = std::fs::remove_file(&path);
    laters.sort_by(f64::total_cmp);
    let later = json!({"p50": at(&laters, 0.5), "p99": at(&laters, 0.99), "longest": at(&laters, 1.0)});
    let report = json!({
        "objects": objects, "kills": kills, "first_grab_ms": firsts, "later_grabs_ms": later, "whole_ms": wholes,
    });
    println!("{report}");
    ExitCode::SUCCESS
}
