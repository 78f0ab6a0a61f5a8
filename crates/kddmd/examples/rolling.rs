//! How long operations of programs take while all daemons of their cluster are restarted, one after the other, beside
//! how long they take while nothing happens: three daemons over TCP on loopback, one replica, two attached programs of
//! each daemon.
//!
//! `cargo run --release -p kddmd --example rolling [-- ROUNDS]` prints a JSON object: quantiles of an update and of the
//! read behind it, in µs, steady and in ROUNDS restarts of all daemons; how many operations were longer than 10 ms; and
//! errors, of which there should be none.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use kddm::{Node, Set};
use kddmd::admin::client::Client;
use kddmd::admin::protocol;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value as Json, json};

/// Restarts of all daemons, unless said otherwise.
const ROUNDS: usize = 3;

/// How long it is measured while nothing happens, and after each restart before the next one.
const STEADY: Duration = Duration::from_secs(10);
const BETWEEN: Duration = Duration::from_secs(2);

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(120);

/// What is counted up; programs meet at each.
const OBJECTS: u64 = 1000;

/// An operation that took longer has waited for a daemon.
const LONG_US: u64 = 10_000;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|word| word == "daemon") {
        let all = std::iter::once("kddmd".into()).chain(arguments);
        return kddmd::daemon::main(kddmd::daemon::Arguments::parse_from(all));
    }
    let rounds = std::env::args().nth(1).map_or(ROUNDS, |text| text.parse().expect("a number"));
    let dir = std::env::temp_dir().join(format!("kddm-rolling-{}", std::process::id()));
    println!("{}", measure(&dir, rounds));
    let _leave_it_then = std::fs::remove_dir_all(&dir);
    ExitCode::SUCCESS
}

fn start(dir: &Path, at: usize, ports: &[u16; 3]) -> Child {
    let contacts = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    let mut daemon = Command::new(std::env::current_exe().expect("this program"));
    daemon.arg("daemon").arg("--data-dir").arg(folder(dir, at)).args(["--config", "/dev/null", "--log", "error"]);
    daemon.args(["--contact", &contacts, "--listen", &ports[at].to_string()]).stdin(Stdio::null());
    let child = daemon.spawn().expect("it starts");
    let client = Client::new(folder(dir, at).join("admin.sock"));
    let shares = |status: Json| {
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().any(|node| node["id"] == status["answered_by"] && node["state"] == "possible")
    };
    let begun = Instant::now();
    while !client.ask(protocol::Command::Status).is_ok_and(shares) {
        assert!(begun.elapsed() < LIMIT, "a daemon does not start");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    child
}

fn folder(dir: &Path, at: usize) -> PathBuf {
    dir.join(at.to_string())
}

/// What operations have taken, in µs.
#[derive(Default)]
struct Taken {
    us: Mutex<Vec<u64>>,
    errors: AtomicU64,
}

impl Taken {
    fn quantiles(&self) -> Json {
        let mut us = std::mem::take(&mut *self.us.lock().expect("no panic"));
        us.sort_unstable();
        let quantile = |of: f64| us.get(((us.len() as f64 * of) as usize).min(us.len().saturating_sub(1))).copied();
        let long = us.iter().filter(|us| **us > LONG_US).count();
        json!({"operations": us.len(), "p50_us": quantile(0.5), "p99_us": quantile(0.99), "p999_us": quantile(0.999),
               "most_us": us.last(), "above_10_ms": long, "errors": self.errors.load(Ordering::Relaxed)})
    }
}

fn work(set: &Set<u64>, from: u64, stop: &AtomicBool, steady: &AtomicBool, taken: &[Taken; 2]) {
    let mut at = from;
    let mut own: [Vec<u64>; 2] = Default::default();
    while !stop.load(Ordering::Relaxed) {
        at = (at + 7) % OBJECTS;
        let which = usize::from(!steady.load(Ordering::Relaxed));
        let mut note = |begun: Instant, is_good: bool| {
            own[which].push(begun.elapsed().as_micros() as u64);
            taken[which].errors.fetch_add(u64::from(!is_good), Ordering::Relaxed);
        };
        let begun = Instant::now();
        let updated = set.update(at, |count| {
            *count += 1;
            Ok(())
        });
        note(begun, updated.wait_for(LIMIT).is_ok());
        let begun = Instant::now();
        note(begun, set.get((at + 1) % OBJECTS).wait_for(LIMIT).is_ok());
    }
    for (own, taken) in own.into_iter().zip(taken) {
        taken.us.lock().expect("no panic").extend(own);
    }
}

fn measure(dir: &Path, rounds: usize) -> Json {
    let listeners = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let ports = listeners.map(|listener| listener.local_addr().expect("bound").port());
    let mut daemons = [0, 1, 2].map(|at| start(dir, at, &ports));
    let attach = |at: usize| Node::attach(folder(dir, at).join("attach.sock")).wait_for(LIMIT).expect("it accepts");
    let programs: Vec<Node> = [0, 0, 1, 1, 2, 2].map(attach).into();
    let open = |node: &Node| node.set("rolling").open().wait_for(LIMIT).expect("the set opens");
    let sets: Vec<Set<u64>> = programs.iter().map(open).collect();
    let (stop, steady, taken) = (AtomicBool::new(false), AtomicBool::new(true), <[Taken; 2]>::default());
    let mut away_ms = Vec::new();
    std::thread::scope(|scope| {
        for (set, from) in sets.iter().zip(0..) {
            let (stop, steady, taken) = (&stop, &steady, &taken);
            scope.spawn(move || work(set, from * 31, stop, steady, taken));
        }
        std::thread::park_timeout(STEADY);
        steady.store(false, Ordering::Relaxed);
        for at in (0..rounds).flat_map(|_| 0..3) {
            let begun = Instant::now();
            kill_process(Pid::from_child(&daemons[at]), Signal::TERM).expect("it is our child");
            assert!(daemons[at].wait().expect("it is our child").success(), "a clean stop");
            daemons[at] = start(dir, at, &ports);
            away_ms.push(begun.elapsed().as_millis() as u64);
            std::thread::park_timeout(BETWEEN);
        }
        stop.store(true, Ordering::Relaxed);
    });
    for daemon in &mut daemons {
        let _already_dead = daemon.kill();
        let _ended = daemon.wait();
    }
    let [steady, rolling] = taken;
    json!({"rounds": rounds, "restart_ms": away_ms, "steady": steady.quantiles(), "rolling": rolling.quantiles()})
}
