//! A node whose process was stopped beyond its lease comes back in that process.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use kddm::{AccessError, Chain, Config, Error, Incident, MembershipError, Node, OnLoss, Priority, Set, WriteGuard};
use rustix::process::{Pid, Signal, kill_process};

use crate::{LIMIT, POSSIBLE, states};

/// Longer than what the others wait for, also where processors are shared.
const REJOIN_LIMIT: Duration = Duration::from_secs(60);

fn is_fenced<O>(result: &Result<O, Error>) -> bool {
    matches!(result, Err(Error::Access(AccessError::Fenced)))
}

/// In a process that a test has started, a node that comes back whenever it is fenced. A line tells of each
/// life, then one of each question; else it is an empty test.
#[test]
fn process_that_comes_back() {
    let Ok(contact) = std::env::var("KDDM_TEST_COMES_BACK") else { return };
    let config = Config::new().contact(contact.parse().expect("an address"));
    let heard = |event: &kddm::MemberEvent| {
        if event.is_this_node {
            println!("told {:?}", event.to);
        }
    };
    let config = config.notifier(Chain::Possible, Priority::APPLICATION, "told", heard);
    let mut node = Node::join(config).wait().expect("it is let in");
    let mut old: Option<Set<u64>> = None;
    loop {
        // Where processors are shared a life may be over before it has begun.
        let (set, mut guard) = match begun(&node, old.is_none()) {
            Ok(begun) => begun,
            Err(error) => {
                assert!(node.wait_until_fenced(), "{error}");
                node = node.rejoin(REJOIN_LIMIT).wait().expect("it comes back");
                continue;
            }
        };
        let was_fenced = old.as_ref().is_none_or(|old| {
            is_fenced(&old.get(1).wait()) && is_fenced(&old.grab(9).wait()) && old.find(u64::from(node.id())).is_none()
        });
        println!("lives as {} and old handles are fenced: {was_fenced}", node.id());
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).expect("the test speaks");
        *guard += 1;
        let put = guard.put().wait();
        println!("put {}", if is_fenced(&put) { "fenced" } else { "other" });
        if put.is_ok() || !node.wait_until_fenced() {
            return;
        }
        node = node.rejoin(REJOIN_LIMIT).wait().expect("it comes back");
        assert!(node.lease().remaining.is_some_and(|left| left > Duration::ZERO));
        old = Some(set);
    }
}

/// What such a process does first in each life: an object of its own that it holds, and, in the first one, objects without
/// replicas.
fn begun(node: &Node, is_first: bool) -> Result<(Set<u64>, WriteGuard<u64>), Error> {
    let set: Set<u64> = node.set("rejoin").open().wait()?;
    let kept: Set<u64> = node.set("kept").replicas(0).open().wait()?;
    let rolls: Set<u64> = node.set("rolls").replicas(0).on_loss(OnLoss::Rollback).open().wait()?;
    for (set, object) in [&kept, &rolls].into_iter().flat_map(|set| (0..KEPT).map(move |object| (set, object))) {
        if is_first {
            let mut value = set.grab(object).wait()?;
            *value = object + 1;
            value.put().wait()?;
        }
    }
    // Done once another node has it, too.
    let add = |count: &mut u64| {
        *count += 1;
        Ok(())
    };
    set.update(u64::from(node.id()), add).wait()?;
    let guard = set.grab(u64::from(node.id())).wait()?;
    Ok((set, guard))
}

/// A set without replicas, in which what is left is better than nothing.
fn rolls_back(node: &Node) -> Set<u64> {
    node.set("rolls").replicas(0).on_loss(OnLoss::Rollback).open().wait().expect("the set opens")
}

/// Objects without replicas that it owns, in each set of that kind.
const KEPT: u64 = 200;

struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(contact: &Node) -> Process {
        let mut child = Command::new(std::env::current_exe().expect("it runs"))
            .args(["rejoin::process_that_comes_back", "--exact", "--nocapture"])
            .env("KDDM_TEST_COMES_BACK", contact.address().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Process { child, input, output }
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id() as i32).expect("a process has a number");
        kill_process(id, signal).expect("it is our child, and not waited for");
    }

    /// Reads up to a line that begins so.
    fn line(&mut self, begins: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).expect("it writes") > 0, "it has ended before {begins:?}");
            if let Some(at) = line.find(begins) {
                return line[at..].trim().into();
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < REJOIN_LIMIT, "still not: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_node_that_slept_beyond_its_lease_comes_back_as_a_new_life() {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let first = Node::join(Config::new().listen(listen).lease(Duration::from_secs(2))).wait().expect("it begins");
    let set: Set<u64> = first.set("rejoin").replicas(1).open().wait().expect("the set opens");
    let kept: Set<u64> = first.set("kept").replicas(0).open().wait().expect("the set opens");
    let mut process = Process::start(&first);
    assert_eq!(process.line("lives as"), "lives as 2 and old handles are fenced: true");
    let life = |node: &Node| node.members().iter().find(|member| member.id == 2).map(|member| member.incarnation);
    let before = life(&first).expect("it is a member");
    process.signal(Signal::STOP);
    until("it is expelled", || first.lease().counts.expulsions == 1 && life(&first).is_none());
    let is_lost = |object| matches!(kept.get(object).wait_for(LIMIT), Err(Error::Access(AccessError::Lost { .. })));
    assert!((0..KEPT).all(is_lost), "only that process has them");
    process.signal(Signal::CONT);
    writeln!(process.input, "put").expect("it reads");
    assert_eq!(process.line("put"), "put fenced");
    assert_eq!(process.line("told Online"), "told Online", "its former life goes down");
    assert_eq!(
        process.line("told Possible"),
        "told Possible",
        "a notifier of the configuration is in the new one, too"
    );
    assert_eq!(process.line("lives as"), "lives as 2 and old handles are fenced: true");
    assert!(life(&first).expect("it is back") > before);
    assert_eq!(states(&first), [(1, POSSIBLE), (2, POSSIBLE)]);
    for object in 0..KEPT {
        let value = kept.get(object).wait_for(LIMIT).expect("it has come back with what it owned");
        assert_eq!(*value, object + 1);
    }
    // Its guard in the new life is good.
    assert!(set.grab(2).wait_for(Duration::from_millis(50)).is_err(), "it holds it");
    writeln!(process.input, "put").expect("it reads");
    process.line("put other");
    until("what was put in each life is there", || set.get(2).wait_for(LIMIT).is_ok_and(|value| *value >= 3));
}

/// The home of some of it was expelled after it, and is back after it: what that home had decided meanwhile it knows still.
#[test]
fn a_home_that_comes_back_says_what_it_had_decided() {
    let mut nodes = vec![Node::join(Config::new().lease(Duration::from_secs(2))).wait().expect("it begins")];
    for _ in 0..2 {
        let contact = nodes[0].address().clone();
        nodes.push(Node::join(Config::new().contact(contact)).wait().expect("it is let in"));
    }
    until("three decide", || nodes[0].voting().voters == [1, 2, 3]);
    let kept: Set<u64> = nodes[0].set("kept").replicas(0).open().wait().expect("the set opens");
    let mut home = Process::start(&nodes[0]);
    assert_eq!(home.line("lives as"), "lives as 4 and old handles are fenced: true");
    let mut owner = Process::start(&nodes[0]);
    assert_eq!(owner.line("lives as"), "lives as 5 and old handles are fenced: true");
    let is_lost = |object| matches!(kept.get(object).wait_for(LIMIT), Err(Error::Access(AccessError::Lost { .. })));
    for (process, number) in [(&owner, 5), (&home, 4)] {
        process.signal(Signal::STOP);
        until("it is expelled", || nodes[0].members().iter().all(|member| member.id != number));
        assert!((0..KEPT).all(is_lost), "the last that was stopped had nothing of it");
    }
    let comes_back = |process: &mut Process, as_whom: &str| {
        process.signal(Signal::CONT);
        writeln!(process.input, "put").expect("it reads");
        assert_eq!(process.line("lives as"), as_whom);
        (0..KEPT).filter(|object| is_lost(*object)).count()
    };
    let lost = comes_back(&mut owner, "lives as 5 and old handles are fenced: true");
    assert!((1..KEPT as usize / 2).contains(&lost), "{lost} were at the other home");
    comes_back(&mut home, "lives as 4 and old handles are fenced: true");
    until("the last that was missing is there", || (0..KEPT).all(|object| !is_lost(object)));
    for object in 0..KEPT {
        assert_eq!(*kept.get(object).wait_for(LIMIT).expect("it has come back"), object + 1);
    }
    drop((owner, home));
    until("they are gone", || nodes[0].members().len() == 3);
}

/// Nobody can tell any more whether what it owned is the newest.
#[test]
fn what_comes_back_after_its_home_was_lost_is_taken_where_a_set_rolls_back() {
    let mut nodes = vec![Node::join(Config::new().lease(Duration::from_secs(2))).wait().expect("it begins")];
    for _ in 0..2 {
        let contact = nodes[0].address().clone();
        nodes.push(Node::join(Config::new().contact(contact)).wait().expect("it is let in"));
    }
    until("three decide", || nodes[0].voting().voters == [1, 2, 3]);
    let kept: Set<u64> = nodes[0].set("kept").replicas(0).open().wait().expect("the set opens");
    let rolls = rolls_back(&nodes[0]);
    let (sender, told) = std::sync::mpsc::channel();
    for node in [&nodes[0], &nodes[2]] {
        let sender = sender.clone();
        let watch = move |incident: &Incident| _ = sender.send(incident.clone());
        node.on_incident(watch).expect("there is room");
    }
    let mut process = Process::start(&nodes[0]);
    assert_eq!(process.line("lives as"), "lives as 4 and old handles are fenced: true");
    process.signal(Signal::STOP);
    until("it is expelled", || nodes[0].members().iter().all(|member| member.id != 4));
    let is_lost = |set: &Set<u64>, object| {
        matches!(set.get(object).wait_for(LIMIT), Err(Error::Access(AccessError::Lost { .. })))
    };
    assert!((0..KEPT).all(|object| is_lost(&kept, object) && is_lost(&rolls, object)), "nothing of it is left");
    nodes.remove(1).stop_within(Duration::ZERO);
    until("its home is lost, too", || nodes[0].members().iter().all(|member| member.id != 2));
    process.signal(Signal::CONT);
    writeln!(process.input, "put").expect("it reads");
    assert_eq!(process.line("lives as"), "lives as 4 and old handles are fenced: true");
    until("all homes have decided on what it has", || rolls.get(0).wait_for(LIMIT).is_ok());
    let mut left_lost = 0;
    for object in 0..KEPT {
        assert_eq!(*rolls.get(object).wait_for(LIMIT).expect("it is what is left"), object + 1);
        match kept.get(object).wait_for(LIMIT) {
            Ok(value) => assert_eq!(*value, object + 1),
            Err(_) if is_lost(&kept, object) => left_lost += 1,
            Err(error) => panic!("object {object}: {error}"),
        }
    }
    let rolled_back: u64 = nodes.iter().map(|node| node.statistics().rolled_back).sum();
    assert!(left_lost > 0 && rolled_back > 0 && rolled_back < KEPT, "{left_lost} {rolled_back}");
    let is_told =
        |incident: Incident| matches!(incident, Incident::RolledBack { set, objects } if set == "rolls" && objects > 0);
    assert!(std::iter::from_fn(|| told.recv_timeout(LIMIT).ok()).any(is_told), "nobody is told");
    // Who decides with the others is not to be missing when these stop.
    drop(process);
    until("it is gone", || nodes[0].members().iter().all(|member| member.id != 4));
}

#[test]
fn only_a_node_that_is_fenced_and_does_not_decide_rejoins() {
    let nodes = Node::local_cluster(2).expect("two nodes");
    for node in &nodes {
        let refused = node.rejoin(LIMIT).wait().err().expect("it is refused");
        assert!(
            matches!(&refused, Error::Membership(MembershipError::Refused { reason }) if reason.contains("not fenced"))
        );
        let set: Set<u64> = node.set("stays").open().wait().expect("nothing has changed");
        drop(set.get(1).wait().expect("nothing has changed"));
    }
}
