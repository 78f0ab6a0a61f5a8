//! A node in a process of its own: it proposes all the time, and expels as long as it believes that it leads.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kddm_core::id::{Incarnation, NodeId};
use kddm_view::{Cause, Change, ClusterId, Identity, SessionId, ViewLog};
use kddm_view_etcd::{EtcdLog, Settings};

/// What a node has said until it ended.
#[derive(Default)]
pub struct Said {
    pub proposed: Vec<u64>,
    pub decided: Vec<(u64, String)>,
}

pub struct Member {
    child: Child,
    reader: std::thread::JoinHandle<Said>,
}

impl Member {
    pub fn start(settings: &Settings, node: u16, origin: u64) -> Member {
        let mut command = Command::new(std::env::current_exe().expect("this very program"));
        command.arg("member").args([node.to_string(), origin.to_string()]).args(&settings.endpoints);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this very program");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        let reader = std::thread::spawn(move || {
            let mut said = Said::default();
            // The last line of one that was killed may be torn.
            for line in lines.split(b'\n').map_while(Result::ok).filter_map(|line| String::from_utf8(line).ok()) {
                match line.split_once(' ') {
                    Some(("proposed", rest)) if rest.ends_with('.') => {
                        said.proposed.extend(rest.trim_end_matches('.').parse::<u64>().ok());
                    }
                    Some(("decided", rest)) if rest.ends_with('.') => {
                        let (index, change) = rest.trim_end_matches('.').split_once(' ').expect("two words");
                        said.decided.push((index.parse().expect("a number"), change.to_owned()));
                    }
                    _ => {}
                }
            }
            said
        });
        Member { child, reader }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {name}");
    }

    pub fn stop(&self) {
        self.signal("-STOP");
    }

    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    /// kill -9.
    pub fn kill(&mut self) -> Said {
        self.child.kill().expect("it is a child of this process");
        self.child.wait().expect("it is a child of this process");
        std::mem::replace(&mut self.reader, std::thread::spawn(Said::default)).join().expect("it has read all")
    }

    /// Has it propose nothing more, and go when all is decided.
    pub fn end(mut self) -> Said {
        drop(self.child.stdin.take());
        self.child.wait().expect("it is a child of this process");
        self.reader.join().expect("it has read all")
    }
}

/// Which proposal a change is.
pub fn nonce_of(change: &Change) -> Option<u64> {
    if let Change::Join { nonce, .. } = change { Some(*nonce) } else { None }
}

/// `servers member NODE ORIGIN ENDPOINT ...`
pub fn run(arguments: &[String]) {
    let [node, origin, endpoints @ ..] = arguments else { panic!("a node, a number and endpoints") };
    let (node, origin) = (NodeId(node.parse().expect("a node")), origin.parse::<u64>().expect("a number"));
    let identity = Identity { cluster: ClusterId(5), session: SessionId::DEFAULT };
    let settings = Settings::new(endpoints, identity);
    let mut log = crate::etcd::until("a log", || EtcdLog::open(&settings, node, origin).ok());
    log.stand();
    let is_ending = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ending = std::sync::Arc::clone(&is_ending);
    std::thread::spawn(move || {
        let _closed = std::io::stdin().read(&mut [0]);
        ending.store(true, std::sync::atomic::Ordering::Release);
    });
    let mut seen = log.state().map_or(0, kddm_view::State::applied);
    let (mut next, mut open, mut judges) = (origin << 32, Vec::new(), true);
    let mut out = std::io::stdout().lock();
    loop {
        let is_ending = is_ending.load(std::sync::atomic::Ordering::Acquire);
        for entry in log.decided_since(seen).expect("it is kept") {
            seen = entry.index;
            open.retain(|nonce| nonce_of(&entry.change) != Some(*nonce));
            judges |= !matches!(entry.change, Change::Join { .. });
            writeln!(out, "decided {} {:?}.", entry.index, entry.change).expect("it is read");
        }
        if is_ending && open.is_empty() {
            return log.close();
        }
        if !is_ending && open.len() < 2 {
            let change = Change::Join { node: None, address: "there:1".into(), nonce: next, site: Default::default() };
            log.propose(change).expect("there is room");
            writeln!(out, "proposed {next}.").expect("it is read");
            open.push(next);
            next += 1;
        }
        // Nothing is written where another one leads, or this node anew.
        let term = log.term();
        if judges && log.is_leader() {
            let incarnation = Incarnation(term as u32);
            let judged = Change::Expel { node, incarnation, cause: Cause::Lease };
            judges = !log.write_as_leader(term, judged).expect("the log works");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
