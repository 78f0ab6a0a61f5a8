//! Guardians: a node whose process ends is proven dead to the others, and nothing else is proof.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use kddm::guardian::{Heard, Life, Said, Secret, Told, VERSION, tell_of_death};
use kddm::transport::{Stream, greeting};
use kddm::{AccessError, Config, Error, Node, Pod, Set, WhyUnreachable};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A program of this package, with what it says on one of its outputs.
struct Program {
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    fn start(command: &mut Command) -> Program {
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KDDM_")) {
            command.env_remove(name);
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("it is built");
        let (sender, lines) = channel();
        let outputs: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|out| Box::new(out) as _), child.stderr.take().map(|out| Box::new(out) as _)];
        for output in outputs.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _the_test_may_be_over = sender.send(line);
                }
            });
        }
        Program { child, lines }
    }

    /// Waits for a line with these words.
    fn says(&self, words: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|error| panic!("it does not say `{words}`: {error}"));
            if line.contains(words) {
                return line;
            }
        }
    }

    fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// A directory of a test's own.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("kddm-guardian-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("made");
        Folder(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("guardian.sock")
    }

    fn guardian(&self) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kddm-guardian"));
        let guardian = Program::start(command.arg("--socket").arg(self.socket()));
        guardian.says("watching the nodes that register here");
        guardian
    }

    /// A daemon of that node's cluster, watched by the guardian. A program that is attached to it, so that
    /// it owns what that grabs.
    fn daemon(&self, first: &Node) -> (Program, Node) {
        let (daemon, _) = self.start_daemon(&["--contact", &first.address().to_string()], 2);
        let program = Node::attach(kddm::attach_socket(&self.data())).wait().expect("it accepts programs");
        (daemon, program)
    }

    fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// A daemon that becomes that node, and what it says when it has.
    fn start_daemon(&self, arguments: &[&str], id: u16) -> (Program, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kddmd"));
        command.args(["--child", "--config", "/dev/null", "--listen", "127.0.0.1:0", "--guardian"]);
        command.arg(self.socket()).arg("--data-dir").arg(self.data()).args(arguments);
        let daemon = Program::start(&mut command);
        let said = daemon.says(&format!("\"node\":{id}"));
        (daemon, said)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _already_gone = std::fs::remove_dir_all(&self.0);
    }
}

fn first() -> Node {
    // Deaths are proven; no lease runs out meanwhile.
    let mut config = Config::new().wait_limit(LIMIT).lease(LIMIT);
    config.guardian = None;
    Node::join(config).wait().expect("it begins a cluster")
}

/// Nobody had a replica of what the dead node had.
fn is_lost<O: std::fmt::Debug>(result: Result<O, Error>) {
    assert!(matches!(result, Err(Error::Access(AccessError::Lost { .. }))), "{result:?}");
}

/// The owner is killed while others wait for what it holds to write: they get what it had put last, under
/// whatever kind of wait, and so do those who begin to wait later.
#[test]
fn a_wait_for_what_a_killed_daemon_had_goes_on_and_ends_with_the_value() {
    let folder = Folder::new("goes-on");
    let guardian = folder.guardian();
    let first = first();
    let (mut daemon, program) = folder.daemon(&first);
    guardian.says("watching a node");
    let mut config = Config::new().wait_limit(LIMIT).contact(first.address().clone());
    config.guardian = None;
    let third = Node::join(config).wait().expect("it joins");
    let open = |node: &Node| -> Set<Pod<u64>> { node.set("kept").open().wait().expect("the set opens") };
    let (theirs, ours, others) = (open(&program), open(&first), open(&third));
    for object in 1..=20 {
        let mut guard = theirs.grab(object).wait().expect("nobody else has it");
        guard.0 = object * 7;
        guard.put().wait().expect("its replica has it");
    }
    let mut held = theirs.grab(1).wait().expect("it is there");
    held.0 = 1; // Nobody ever sees this.
    let (writes, reads, elsewhere) = (ours.grab(1), ours.get(1), others.get(1));
    daemon.kill();
    let guard = writes.wait().expect("the wait goes on");
    assert_eq!(guard.0, 7);
    guard.put().wait().expect("there are two nodes");
    assert_eq!(reads.wait().expect("the wait goes on").0, 7);
    assert_eq!(elsewhere.wait().expect("the wait goes on").0, 7);
    for object in 2..=20 {
        let set = if object % 2 == 0 { &ours } else { &others };
        assert_eq!(set.grab(object).wait().expect("it survives").0, object * 7);
    }
    assert_eq!(first.statistics().proven_dead, 1);
    drop(held);
    third.stop_within(Duration::ZERO);
    first.stop_within(Duration::ZERO);
}

/// Nobody is there to expel the one that decides: a wait for it ends at its limit, and says what is known.
#[test]
fn a_wait_for_who_decides_ends_at_its_limit_and_says_why() {
    let folder = Folder::new("decides");
    let guardian = folder.guardian();
    let lease_ms = LIMIT.as_millis().to_string();
    let (mut daemon, said) = folder.start_daemon(&["--found", "--lease-ms", &lease_ms], 1);
    guardian.says("watching a node");
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let contact = said["address"].as_str().expect("its address").parse().expect("an address");
    let mut config = Config::new().contact(contact);
    config.guardian = None;
    let second = Node::join(config).wait().expect("it joins");
    let program = Node::attach(kddm::attach_socket(&folder.data())).wait().expect("it accepts programs");
    let theirs: Set<Pod<u64>> = program.set("theirs").open().wait().expect("the set opens");
    let ours: Set<Pod<u64>> = second.set("theirs").open().wait().expect("the set opens");
    drop(theirs.grab(1).wait().expect("nobody else has it"));
    daemon.kill();
    guardian.says("all members have been told");
    let error = ours.grab(1).wait_for(Duration::from_millis(50)).expect_err("nobody goes on");
    let is_said =
        |why| matches!(error, Error::Access(AccessError::Unreachable { node: 1, why: seen, .. }) if seen == why);
    assert!(is_said(WhyUnreachable::ProcessEnded), "{error:?}");
    second.stop_within(Duration::ZERO);
}

/// Without replicas waits that have begun and waits that begin end at once, and say that it is lost.
#[test]
fn waits_for_what_a_killed_daemon_alone_had_end_at_once() {
    let folder = Folder::new("killed");
    let guardian = folder.guardian();
    let first = first();
    let (mut daemon, program) = folder.daemon(&first);
    guardian.says("watching a node");
    let theirs: Set<Pod<u64>> = program.set("guarded").replicas(0).open().wait().expect("the set opens");
    let ours: Set<Pod<u64>> = first.set("guarded").replicas(0).open().wait().expect("the set opens");
    let held = theirs.grab(1).wait().expect("nobody else has it");
    drop(theirs.get(2).wait().expect("nobody else has it"));
    drop(ours.grab(3).wait().expect("nobody else has it"));
    drop(theirs.get(3).wait().expect("it gets a copy"));
    let (writes, reads) = (ours.grab(1), ours.get(1));
    daemon.kill();
    is_lost(writes.wait());
    is_lost(reads.wait());
    is_lost(ours.grab(2).wait());
    is_lost(ours.get(2).wait());
    assert!(ours.get(3).wait().is_ok(), "what is here goes on");
    guardian.says("all members have been told");
    // It is expelled: its copy is in nobody's way any more.
    drop(ours.grab(3).wait().expect("it is here"));
    ours.remove(3).wait().expect("it is here");
    assert_eq!(first.statistics().proven_dead, 1);
    assert!(first.departed().iter().any(|member| member.id == 2));
    drop(held);
    first.stop_within(Duration::ZERO);
}

/// One that was started anew knows nothing, and the nodes find it.
#[test]
fn a_guardian_that_is_started_anew_watches_again() {
    let folder = Folder::new("anew");
    let mut guardian = folder.guardian();
    let first = first();
    let (mut daemon, program) = folder.daemon(&first);
    guardian.says("watching a node");
    guardian.kill();
    let guardian = folder.guardian();
    guardian.says("watching a node");
    let theirs: Set<Pod<u64>> = program.set("anew").replicas(0).open().wait().expect("the set opens");
    let ours: Set<Pod<u64>> = first.set("anew").replicas(0).open().wait().expect("the set opens");
    drop(theirs.grab(1).wait().expect("nobody else has it"));
    daemon.kill();
    is_lost(ours.grab(1).wait());
    first.stop_within(Duration::ZERO);
}

/// Who has left is not told about.
#[test]
fn a_clean_stop_is_no_death() {
    let folder = Folder::new("clean");
    let guardian = folder.guardian();
    let first = first();
    let (daemon, program) = folder.daemon(&first);
    guardian.says("watching a node");
    drop(program);
    kill_process(Pid::from_child(&daemon.child), Signal::TERM).expect("it is our child");
    guardian.says("a node has left its cluster");
    daemon.says("stopped");
    let after: Vec<String> = guardian.lines.try_iter().collect();
    assert!(!after.iter().any(|line| line.contains("has ended")), "{after:?}");
    assert_eq!(first.members().len(), 1);
}

fn any_secret() -> Secret {
    serde_json::from_value(json!([7_u8; 32].as_slice())).expect("a secret is 32 bytes")
}

fn life_of(node: &Node, id: u16) -> Life {
    let member = node.members().into_iter().find(|member| member.id == id);
    let incarnation = member.map_or(99, |member| member.incarnation);
    Life { session: 4711, cluster: 0, node: id, incarnation, secret: any_secret() }
}

/// Who does not know the secret proves nothing, whatever else it knows.
#[test]
fn a_stranger_cannot_declare_a_node_dead() {
    let first = first();
    let mut config = Config::new().contact(first.address().clone());
    config.guardian = None;
    let second = Node::join(config).wait().expect("it joins");
    for node in [1, 2] {
        let told = tell_of_death(first.address(), &life_of(&first, node), LIMIT).expect("it answers");
        assert!(matches!(&told, Told::Refused(reason) if reason.contains("secret")), "{told:?}");
    }
    assert_eq!(tell_of_death(first.address(), &life_of(&first, 9), LIMIT).expect("it answers"), Told::NotYet);
    let over = Life { incarnation: 1, ..life_of(&first, 2) };
    assert_eq!(tell_of_death(first.address(), &over, LIMIT).expect("it answers"), Told::NoMember);
    assert_eq!((first.statistics().refused_greetings, first.statistics().proven_dead), (2, 0));
    assert!(first.members().iter().all(|member| member.reachable));
    let set: Set<Pod<u64>> = second.set("alive").open().wait().expect("the set opens");
    drop(set.grab(1).wait().expect("nobody else has it"));
    let ours: Set<Pod<u64>> = first.set("alive").open().wait().expect("the set opens");
    assert!(ours.grab(1).wait().is_ok());
    second.stop();
}

fn ask(socket: &Path, word: &Said) -> Heard {
    let stream = Stream::Unix(UnixStream::connect(socket).expect("it listens"));
    greeting::send(&stream, word).expect("sent");
    greeting::receive(&stream).expect("it answers")
}

/// Whatever strangers say to a guardian, it goes on, and says what was wrong.
#[test]
fn a_guardian_refuses_what_cannot_be_meant() {
    let folder = Folder::new("hostile");
    let guardian = folder.guardian();
    let socket = folder.socket();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"KDDM\xff\xff\xff\xff", b"KDDM\x02\x00\x00\x00\xff\xff"] {
        let mut stream = UnixStream::connect(&socket).expect("it listens");
        stream.write_all(bytes).expect("written");
        let mut answer = Vec::new();
        let _reset_or_end = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{answer:?}");
    }
    let life = Life { session: 1, cluster: 2, node: 3, incarnation: 4, secret: any_secret() };
    let register = |version, members: &[&str]| Said::Register {
        version,
        life: life.clone(),
        members: members.iter().map(ToString::to_string).collect(),
    };
    for (word, reason) in [
        (Said::Left, "registration"),
        (register(VERSION + 1, &[]), "version"),
        (register(VERSION, &["local:a"]), "inside a process"),
        (register(VERSION, &["nowhere"]), "port"),
    ] {
        let Heard::No(said) = ask(&socket, &word) else { panic!("{word:?} was taken") };
        assert!(said.contains(reason), "{said}");
    }
    assert_eq!(ask(&socket, &register(VERSION, &["127.0.0.1:1"])), Heard::Yes);
    // That socket has ended, and its process, which is this one, has not.
    assert_eq!(ask(&socket, &register(VERSION, &["127.0.0.1:1"])), Heard::Yes, "the same life again");
    guardian.says("watching a node");
    guardian.says("watching a node");
    let after: Vec<String> = guardian.lines.try_iter().collect();
    assert!(!after.iter().any(|line| line.contains("has ended")), "{after:?}");
}

/// A node that lost its lease goes on in the same process as another life: only that one is watched.
#[test]
fn a_later_life_of_the_same_process_takes_the_place_of_the_former() {
    let folder = Folder::new("lives");
    let _guardian = folder.guardian();
    let register = |incarnation, node| {
        let life = Life { session: 1, cluster: 2, node, incarnation, secret: any_secret() };
        let stream = Stream::Unix(UnixStream::connect(folder.socket()).expect("it listens"));
        greeting::send(&stream, &Said::Register { version: VERSION, life, members: Vec::new() }).expect("sent");
        assert_eq!(greeting::receive::<Heard>(&stream).expect("it answers"), Heard::Yes);
        stream
    };
    let (former, other) = (register(4, 3), register(4, 5));
    let _later = register(6, 3);
    let has_ended = |stream: &Stream| stream.wait_readable(LIMIT) && greeting::receive::<Heard>(stream).is_err();
    assert!(has_ended(&former), "it is watched still");
    greeting::send(&other, &Said::Members(Vec::new())).expect("another node of this process is watched");
    assert_eq!(greeting::receive::<Heard>(&other).expect("it answers"), Heard::Yes);
}
