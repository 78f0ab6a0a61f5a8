//! The daemon `kddmd-etcd` on three real etcd servers.

mod etcd;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use clap::Parser;
use etcd::{Etcd, until};
use kddmd::admin::client::{Client, ClientError};
use kddmd::admin::protocol::{self, Action};
use serde_json::Value as Json;

/// Longer than etcd needs, and for a busy machine.
const LEASE_MS: &str = "8000";

type Case = fn(&mut Scratch);

const CASES: &[(&str, Case)] = &[
    ("daemons_share_lose_one_and_come_back_after_all_ended", daemons_share_lose_one_and_come_back_after_all_ended),
    ("a_leader_that_is_proven_dead_is_followed_at_once", a_leader_that_is_proven_dead_is_followed_at_once),
];

/// `daemons guardian --socket PATH` is a guardian.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "guardian") {
        kddmd::guardian::main(kddmd::guardian::Arguments::parse_from(&arguments));
        return;
    }
    etcd::run(CASES, &arguments, |name, case| case(&mut Scratch::new(name)));
}

/// Etcd, and the data directories.
struct Scratch {
    etcd: Etcd,
    dir: PathBuf,
}

impl Scratch {
    fn new(name: &str) -> Scratch {
        // Paths of sockets are short.
        let name = format!("daemons-{}-{}", std::process::id(), name.len());
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&dir).expect("a folder can be made");
        Scratch { etcd: Etcd::start(3), dir }
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kddmd-etcd"));
        std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("KDDM_")).for_each(
            |name| {
                command.env_remove(name);
            },
        );
        command.args(["--config", "/dev/null", "--log", "warn", "--data-dir"]).arg(self.dir.join(name));
        command.args(["--etcd", &self.etcd.endpoints().join(","), "--lease-ms", LEASE_MS]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    fn start(&self, name: &str, arguments: &[&str]) -> Daemon {
        let mut command = self.command(name, arguments);
        command.args(["--listen", "127.0.0.1:0", "--child", "--keep"]);
        let mut child = command.spawn().expect("it is built");
        let mut news = String::new();
        BufReader::new(child.stdout.as_mut().expect("it is piped")).read_line(&mut news).expect("it says text");
        assert!(news.contains("admin"), "it was not let in: {news:?}");
        Daemon { child, dir: self.dir.join(name) }
    }

    /// What it says when it does not start.
    fn refusal(&self, name: &str, arguments: &[&str]) -> String {
        let mut child = self.command(name, arguments).stderr(Stdio::piped()).spawn().expect("it is built");
        let mut said = String::new();
        child.stderr.take().expect("it is piped").read_to_string(&mut said).expect("it says text");
        assert!(!child.wait().expect("it is a child of this process").success());
        said
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _it_is_only_room = std::fs::remove_dir_all(&self.dir);
    }
}

struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl Daemon {
    fn ask(&self, command: protocol::Command) -> Result<Json, ClientError> {
        Client::new(admin_socket(&self.dir)).ask(command)
    }

    fn status(&self) -> Json {
        self.ask(protocol::Command::Status).expect("it answers")
    }

    fn increment(&self) -> Result<Json, ClientError> {
        let (set, action) = ("numbers".to_string(), Action::Incr { by: 1 });
        self.ask(protocol::Command::Object { set, id: 1, form: None, replicas: None, action })
    }

    fn kill(mut self) {
        self.child.kill().expect("it is a child of this process");
        self.child.wait().expect("it is a child of this process");
    }

    fn end(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().expect("it is a child of this process")
    }
}

fn admin_socket(dir: &Path) -> PathBuf {
    kddmd::data_dir::admin_socket(dir)
}

fn daemons_share_lose_one_and_come_back_after_all_ended(scratch: &mut Scratch) {
    let refused = scratch.refusal("nameless", &[]);
    assert!(refused.contains("node_id is none"), "{refused}");
    let refused = scratch.refusal("new", &["--node-id", "1", "--found"]);
    assert!(refused.contains("leave it out"), "{refused}");
    let first = scratch.start("1", &["--node-id", "1"]);
    let others = ["2", "3"].map(|name| scratch.start(name, &["--node-id", name]));
    let mut daemons: Vec<Daemon> = std::iter::once(first).chain(others).collect();
    let before = daemons[2].status();
    assert_eq!(
        (&before["kept_in"], &before["rule"], &before["stops_with"]),
        (&"etcd".into(), &"elsewhere".into(), &Json::Null)
    );
    assert_eq!(daemons[1].increment().expect("it is put")["value"], 1, "{before}");
    let found = daemons[1].ask(protocol::Command::Doctor).expect("it answers").to_string();
    assert!(!found.contains("one_voter") && !found.contains("no_view_log"), "{found}");
    scratch.etcd.kill_leader();
    assert_eq!(daemons[0].increment().expect("it is put")["value"], 2);
    scratch.etcd.start_killed();
    // The node that leads: its replica becomes the object, once its lease is over.
    let leader = until("one leads", || daemons[1].status()["leader"].as_u64());
    daemons.remove(leader as usize - 1).kill();
    until("it is expelled", || (daemons[0].status()["term"] != before["term"]).then_some(()));
    let third = until("the object is there", || daemons[0].increment().ok());
    assert!(third["value"].as_u64() >= Some(3), "{third}");
    // Its number is in its data directory.
    let again = scratch.start(&leader.to_string(), &[]);
    let fourth = until("the object is there", || again.increment().ok());
    assert!(fourth["value"].as_u64() > third["value"].as_u64(), "{fourth}");
    daemons.push(again);
    let last = daemons[0].status();
    daemons.into_iter().for_each(|daemon| assert!(daemon.end().success()));
    let back = scratch.start("3", &[]);
    let after = back.status();
    assert_eq!(after["cluster"], before["cluster"]);
    assert!(after["epoch"].as_u64() > last["epoch"].as_u64(), "epochs never repeat: {after}");
    until("it shares", || back.increment().ok());
    assert!(back.end().success());
}

/// Nobody waits for a lease, nor until etcd notices.
fn a_leader_that_is_proven_dead_is_followed_at_once(scratch: &mut Scratch) {
    let socket = scratch.dir.join("guardian.sock").display().to_string();
    let mut guardian = Command::new(std::env::current_exe().expect("this very program"));
    let guardian =
        guardian.args(["guardian", "--log", "warn", "--socket", &socket]).spawn().expect("this very program");
    let _it_ends_with_the_test = Ends(guardian);
    let start = |name: &&str| scratch.start(name, &["--node-id", name, "--guardian", &socket]);
    let mut daemons: Vec<Daemon> = ["1", "2", "3"].iter().map(start).collect();
    let is_guarded = |daemon: &Daemon| {
        !daemon.ask(protocol::Command::Doctor).expect("it answers").to_string().contains("\"no_guardian\"")
    };
    until("a guardian watches all", || daemons.iter().all(is_guarded).then_some(()));
    assert_eq!(daemons[1].increment().expect("it is put")["value"], 1);
    let before = daemons[1].status();
    let leader = before["leader"].as_u64().expect("one leads");
    daemons.remove(leader as usize - 1).kill();
    let killed = Instant::now();
    until("another one leads", || (daemons[0].status()["term"] != before["term"]).then_some(()));
    until("the object is there", || daemons[1].increment().ok());
    let took = killed.elapsed();
    // With a lease it takes two seconds of etcd and one lease at least.
    assert!(took.as_millis() * 2 < LEASE_MS.parse().expect("a number"), "it took {took:?}");
    println!("  the object is there {} ms after the daemon that led was killed", took.as_millis());
    daemons.into_iter().for_each(|daemon| assert!(daemon.end().success()));
}

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _already_dead = self.0.kill();
        let _ended = self.0.wait();
    }
}
