//! A node in a process of its own, whose log is in etcd: it counts in objects that all share, and says what it has put.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kddm::{Config, Error, MembershipError, Node, Set};
use kddm_view_etcd::Etcd;

use crate::etcd::{LIMIT, until};

/// Objects in which all count.
pub const SHARED: u64 = 4;

/// Long enough for a busy machine, and longer than etcd needs.
pub const LEASE: Duration = Duration::from_secs(8);

/// What a process has said.
#[derive(Clone, Default, Debug)]
pub struct Said {
    /// Cluster, epoch and life of each time that it was let in.
    pub joined: Vec<(u64, u64, u32)>,
    /// The values that it has put, of each object.
    pub put: BTreeMap<u64, Vec<u64>>,
    /// Who leads, as it knows it.
    pub leader: Option<u16>,
    pub members: usize,
    pub is_fenced: bool,
    pub has_stopped: bool,
    pub errors: Vec<String>,
}

impl Said {
    pub fn puts(&self) -> usize {
        self.put.values().map(Vec::len).sum()
    }
}

pub struct Sharer {
    child: Child,
    said: Arc<Mutex<Said>>,
    reader: std::thread::JoinHandle<()>,
}

impl Sharer {
    pub fn start(endpoints: &[String], node: u16) -> Sharer {
        let mut command = Command::new(std::env::current_exe().expect("this very program"));
        command.arg("sharer").arg(node.to_string()).args(endpoints);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this very program");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        let said = Arc::new(Mutex::new(Said::default()));
        let into = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            // The last line of one that was killed may be torn.
            for line in lines.lines().map_while(Result::ok) {
                if let Some(line) = line.strip_suffix('.') {
                    note(&mut into.lock().expect("nobody panics with it"), line);
                }
            }
        });
        Sharer { child, said, reader }
    }

    pub fn said(&self) -> Said {
        self.said.lock().expect("nobody panics with it").clone()
    }

    /// Waits for so many more puts.
    pub fn puts_more(&self, count: usize) {
        let before = self.said().puts();
        until("it puts", || (self.said().puts() >= before + count).then_some(()));
    }

    pub fn joined(&self) -> (u64, u64, u32) {
        until("it is let in", || {
            let said = self.said();
            assert!(said.errors.is_empty(), "{:?}", said.errors);
            said.joined.last().copied()
        })
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {name}");
    }

    /// kill -9.
    pub fn kill(mut self) -> Said {
        self.child.kill().expect("it is a child of this process");
        self.child.wait().expect("it is a child of this process");
        self.reader.join().expect("it has read all");
        self.said.lock().expect("nobody panics with it").clone()
    }

    /// Asks it to hand over what it has and to leave.
    pub fn ask_to_end(&mut self) {
        drop(self.child.stdin.take());
    }

    pub fn end(mut self) -> Said {
        self.ask_to_end();
        self.child.wait().expect("it is a child of this process");
        self.reader.join().expect("it has read all");
        self.said.lock().expect("nobody panics with it").clone()
    }
}

fn note(said: &mut Said, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let number = |at: usize| words[at].parse::<u64>().expect("a number");
    match words[0] {
        "joined" => {
            said.joined.push((number(1), number(2), number(3) as u32));
            said.is_fenced = false;
        }
        "put" => said.put.entry(number(1)).or_default().push(number(2)),
        "knows" => {
            (said.leader, said.members) = (Some(number(1) as u16).filter(|leader| *leader != 0), number(2) as usize)
        }
        "fenced" => said.is_fenced = true,
        "stopped" => said.has_stopped = true,
        _ => said.errors.push(line.to_owned()),
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever started it may be gone.
    let _unread = writeln!(out, "{line}.").and_then(|()| out.flush());
}

/// `nodes sharer NODE ENDPOINT ...`
pub fn run(arguments: &[String]) {
    let [node, endpoints @ ..] = arguments else { panic!("a node and endpoints") };
    let number: u16 = node.parse().expect("a node");
    let mut config = Config::new().node_id(number).lease(LEASE).join_limit(LIMIT).view_log_in(Etcd::new(endpoints));
    config.guardian = None;
    let mut node = until("etcd answers", || match Node::join(config.clone()).wait_for(2 * LIMIT) {
        Err(Error::Membership(MembershipError::NoContact { .. })) => None,
        Err(error) => {
            say(&format!("not let in: {error}"));
            std::process::exit(1)
        }
        Ok(node) => Some(node),
    });
    let is_ending = Arc::new(AtomicBool::new(false));
    let ending = Arc::clone(&is_ending);
    std::thread::spawn(move || {
        let _closed = std::io::stdin().read(&mut [0]);
        ending.store(true, Ordering::Release);
    });
    loop {
        let life = node.members().iter().find(|member| member.id == number).map_or(0, |member| member.incarnation);
        say(&format!("joined {} {} {life}", node.cluster_id(), node.epoch()));
        match share(&node, &is_ending) {
            Ok(()) => break,
            Err(error) if node.lease().remaining.is_some_and(|left| left.is_zero()) => {
                say("fenced");
                eprintln!("  node {number} is fenced: {error}");
                node = until("it is back", || node.rejoin(LIMIT).wait_for(2 * LIMIT).ok());
            }
            Err(error) => {
                say(&format!("it cannot go on: {error}"));
                std::process::exit(1);
            }
        }
    }
    node.stop();
    say("stopped");
}

/// Counts until it is to end, or cannot.
fn share(node: &Node, is_ending: &AtomicBool) -> Result<(), Error> {
    let set: Set<u64> = node.set("counters").replicas(1).open().wait_for(LIMIT)?;
    let mut at = u64::from(node.id());
    while !is_ending.load(Ordering::Acquire) {
        at += 1;
        let object = at % SHARED;
        let mut guard = set.grab(object).wait_for(LIMIT)?;
        *guard += 1;
        let value = *guard;
        guard.put().wait_for(LIMIT)?;
        say(&format!("put {object} {value}"));
        if at.is_multiple_of(8) {
            say(&format!("knows {} {}", node.voting().leader.unwrap_or(0), node.members().len()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
