//! Seats in processes of their own: this test binary, executed again, with its node on TCP.
//! Commands come on its standard input and answers go to its standard output, a line of JSON each.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command as Program, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kddm::{Config, Error, Node};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde::{Deserialize, Serialize};

use super::engine::{Answer, Command, Engine, Reply};

/// The variable that makes a test binary a seat, with a [`Start`] as its value.
const START: &str = "KDDM_TEST_SEAT";

/// How a seat's node starts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Start {
    pub contact: Option<String>,
    pub node_id: Option<u16>,
    pub session: Option<u16>,
    /// It is a program without a node, attached to the one that accepts programs there.
    pub attach: Option<PathBuf>,
    /// The lease of the cluster that it begins. Else nobody is expelled while a test looks at what comes
    /// before.
    pub lease_ms: Option<u64>,
}

/// Longer than any test.
const NO_EXPULSION_MS: u64 = 60_000;

impl Start {
    fn node(&self) -> Result<Node, Error> {
        match &self.attach {
            Some(socket) => Node::attach(socket).wait(),
            None => Node::join(self.config()).wait(),
        }
    }

    fn config(&self) -> Config {
        let mut config = Config::new().lease(Duration::from_millis(self.lease_ms.unwrap_or(NO_EXPULSION_MS)));
        if let Some(contact) = &self.contact {
            config = config.contact(contact.parse().expect("an address"));
        }
        if let Some(node_id) = self.node_id {
            config = config.node_id(node_id);
        }
        if let Some(session) = self.session {
            config = config.session(session);
        }
        config
    }
}

/// The ticket of what a seat says first: where it listens, or why it could not start.
pub const FIRST: u64 = 0;

/// In a process that was started as a seat: serves until standard input ends, and does not return.
pub fn serve_if_asked() {
    let Ok(start) = std::env::var(START) else { return };
    let start: Start = serde_json::from_str(&start).expect("the parent wrote it");
    // The harness may have left a line unfinished on standard output.
    println!();
    match start.node() {
        Ok(node) => {
            say(&Answer { ticket: FIRST, reply: Reply::Text(node.address().to_string()) });
            let engine = Engine::new(node, |answer| say(&answer));
            for line in std::io::stdin().lines().map_while(Result::ok) {
                engine.command(serde_json::from_str(&line).expect("the parent wrote it"));
            }
        }
        Err(error) => say(&Answer { ticket: FIRST, reply: Reply::Failed(super::engine::failure(&error)) }),
    }
    // Hands may be waiting: the process ends as it is.
    std::process::exit(0);
}

fn say(answer: &Answer) {
    let mut line = serde_json::to_string(answer).expect("an answer is plain data");
    line.push('\n');
    let mut output = std::io::stdout().lock();
    let _parent_may_be_gone = output.write_all(line.as_bytes()).and_then(|()| output.flush());
}

type Waiting = Arc<Mutex<HashMap<u64, Sender<Reply>>>>;

/// A seat's process, from outside.
pub struct Process {
    child: Mutex<Child>,
    input: Mutex<Option<ChildStdin>>,
}

impl Process {
    /// Starts it. Answers go to whoever waits by their ticket; when it ends, nobody waits any more.
    pub fn start(start: &Start, waiting: Waiting) -> Process {
        let program = std::env::current_exe().expect("this test has a path");
        let start = serde_json::to_string(start).expect("plain data");
        let mut child = Program::new(program)
            .args(["seat_process", "--exact", "--nocapture", "--test-threads=1"])
            .env(START, start)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test can be started again");
        let output = child.stdout.take().expect("it was asked for");
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(Answer { ticket, reply }) = serde_json::from_str(&line) else { continue };
                let waits = waiting.lock().expect("no panic under this lock").remove(&ticket);
                if let Some(waits) = waits {
                    let _nobody_waits_any_more = waits.send(reply);
                }
            }
            waiting.lock().expect("no panic under this lock").clear();
        });
        let input = Mutex::new(child.stdin.take());
        Process { child: Mutex::new(child), input }
    }

    pub fn command(&self, command: &Command) {
        let mut line = serde_json::to_string(command).expect("a command is plain data");
        line.push('\n');
        if let Some(input) = &mut *self.input.lock().expect("no panic under this lock") {
            let _it_may_be_dead = input.write_all(line.as_bytes());
        }
    }

    /// Stops it; returns when it does nothing any more.
    pub fn stop(&self) {
        let child = self.child.lock().expect("no panic under this lock");
        let id = Pid::from_child(&child);
        kill_process(id, Signal::STOP).expect("it is our child, and not waited for");
        let waited = waitpid(Some(id), WaitOptions::UNTRACED).expect("it is our child");
        assert!(waited.is_some_and(|(_, status)| status.stopped()), "it has ended instead");
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        let child = self.child.lock().expect("no panic under this lock");
        kill_process(Pid::from_child(&child), Signal::CONT).expect("it is our child, and not waited for");
    }

    /// kill -9.
    pub fn kill(&self) {
        let mut child = self.child.lock().expect("no panic under this lock");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.input.lock().expect("no panic under this lock").take());
        let mut child = self.child.lock().expect("no panic under this lock");
        if std::thread::panicking() {
            // It may be stopped, and would not end by itself.
            let _already_dead = child.kill();
        }
        let _ended = child.wait();
    }
}
