//! A process that is killed and started again with its number.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use kddm::{Address, Config, Error, Node, Set};

use crate::notifiers::{down, listening, take, up};
use crate::{Heard, LIMIT};

const CONTACT: &str = "KDDM_TEST_CONTACT";

/// In a process that a test has started: node 2, until it is killed. Else an empty test.
#[test]
fn node_in_a_process_of_its_own() {
    let Ok(contact) = std::env::var(CONTACT) else { return };
    let contact = contact.parse().expect("an address");
    let node = Node::join(Config::new().contact(contact).node_id(2)).wait().expect("a live contact");
    println!("possible as node {}", node.id());
    let _the_parent_ends = std::io::stdin().lines().next();
}

/// A process that is killed when this is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _already_dead = self.0.kill();
        let _its_status = self.0.wait();
    }
}

fn start_process(contact: &Address) -> Killed {
    let program = std::env::current_exe().expect("this test");
    let mut command = Command::new(program);
    command.args(["--exact", "lives::node_in_a_process_of_its_own", "--nocapture"]).env(CONTACT, contact.to_string());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let child = Killed(child);
    assert!(output.any(|line| line.expect("text").contains("possible as node 2")), "the process joins");
    child
}

/// Joins as node 2 as soon as the voter has seen the end of the earlier life.
fn join_as_second(contact: &Address) -> Result<Node, Error> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match Node::join(Config::new().contact(contact.clone()).node_id(2)).wait() {
            Err(error) if error.to_string().contains("is taken") && Instant::now() < deadline => {}
            result => return result,
        }
    }
}

#[test]
fn a_restart_with_the_same_id_is_a_new_life() {
    let (config, ear) = listening(crate::unhurried());
    let first = Node::join(config).wait().expect("a free port");
    let process = start_process(first.address());
    let old = first.members().remove(1);
    drop(process);
    let second = join_as_second(first.address()).expect("the first life is over");
    assert!(second.members()[1].incarnation > old.incarnation);
    let expected: Vec<Heard> = [up(1), up(2), down(2), up(2)].concat();
    assert_eq!(take(&ear, 16), expected);
    let sets = [&first, &second].map(|node| node.set::<u64>("numbers").open().wait().expect("the set opens"));
    let add = |number: &mut u64| {
        *number += 1;
        Ok(())
    };
    sets[1].update(1, add).wait().expect("members share");
    assert_eq!(*sets[0].get(1).wait().expect("a copy"), 1);
}

/// With sets in use nobody takes its place before it has been expelled: what it had is lost, and known to be.
#[test]
fn a_restart_of_a_node_that_shared_objects_waits_until_that_is_expelled() {
    // Long enough that it has not run out when that is looked at.
    let config = Config::new().lease(std::time::Duration::from_secs(5));
    let first = Node::join(config).wait().expect("a free port");
    let process = start_process(first.address());
    let _set: Set<u64> = first.set("numbers").open().wait().expect("the set opens");
    let epoch = first.epoch();
    drop(process);
    let short = Config::new().contact(first.address().clone()).node_id(2);
    let short = short.join_limit(std::time::Duration::from_millis(200));
    let error = Node::join(short).wait().err().expect("its lease has not run out");
    assert!(error.to_string().contains("node id 2"), "{error}");
    let _second = join_as_second(first.address()).expect("it is expelled in time");
    assert_eq!(first.lease().counts.expulsions, 1);
    assert!(first.epoch() > epoch);
}
