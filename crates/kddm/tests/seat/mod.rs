//! Seats: nodes at which a case does its operations. One source for nodes of this process and for
//! nodes in processes of their own.

pub mod engine;
pub mod process;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kddm::{Node, PlacedBy};
use kddm_core::message::Message;

use engine::{Command, Counters, Engine, Failure, How, Op, Reply, Seen};
use process::{Process, Start};

/// No condition of a test may take longer; far above what a busy machine needs.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The set in which cases work unless they say otherwise.
pub const SET: &str = "case";

/// How soon a condition is looked at again.
const NEXT_LOOK: Duration = Duration::from_millis(1);

/// Where the nodes of a case are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Local,
    Processes,
    /// Programs of this process, each attached to a node of its own.
    Attached,
}

/// Waits until a condition holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "still not after {LIMIT:?}: {what}");
        std::thread::park_timeout(NEXT_LOOK);
    }
}

type Waiting = Arc<Mutex<HashMap<u64, Sender<Reply>>>>;

enum Link {
    Here(Engine),
    There(Process),
}

/// One node and its threads. Node ids are given in the order of the seats, from 1.
pub struct Seat {
    pub id: u16,
    /// Where it listens.
    pub address: String,
    link: Link,
    waiting: Waiting,
    tickets: AtomicU64,
}

/// The nodes of a case.
pub struct Cluster {
    seats: Vec<Seat>,
    /// Those that lend to the seats, if these are attached programs.
    lenders: Vec<Node>,
}

impl std::ops::Deref for Cluster {
    type Target = [Seat];
    fn deref(&self) -> &[Seat] {
        &self.seats
    }
}

impl Cluster {
    /// So many members that know each other.
    pub fn new(place: Place, count: usize) -> Cluster {
        match place {
            Place::Local => {
                let nodes = Node::local_cluster(count).expect("nodes of one process find each other");
                Cluster::of(nodes.into_iter().map(Seat::here).collect())
            }
            Place::Processes => Cluster::of_processes(count, &Start::default()),
            Place::Attached => Cluster::attached(count),
        }
    }

    /// So many processes; all but the first join it, and start like `start` else.
    pub fn of_processes(count: usize, start: &Start) -> Cluster {
        let mut seats: Vec<Seat> = Vec::new();
        for id in 1..=count as u16 {
            let contact = seats.first().map(|seat| seat.address.clone());
            let seat = Seat::there(&Start { contact, ..start.clone() }, id);
            seats.push(seat.expect("a free port and a live contact"));
        }
        Cluster::of(seats)
    }

    fn attached(count: usize) -> Cluster {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let lenders = Node::local_cluster(count).expect("nodes of one process find each other");
        let attached = |node: &Node| {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let socket = std::env::temp_dir().join(format!("kddm-seat-{}-{number}.sock", std::process::id()));
            node.accept_programs(&socket).expect("the path is free");
            Seat::here(Node::attach(&socket).wait().expect("it accepts programs"))
        };
        let seats = lenders.iter().map(attached).collect();
        Cluster { lenders, ..Cluster::of(seats) }
    }

    fn of(seats: Vec<Seat>) -> Cluster {
        let cluster = Cluster { seats, lenders: Vec::new() };
        for seat in cluster.iter() {
            seat.hand(0).done(Op::WaitForMembers { count: cluster.len() });
        }
        cluster
    }

    /// A cluster of which every seat has opened [`SET`], with all homes at one node.
    pub fn with_home(place: Place, count: usize, home: u16) -> Cluster {
        let cluster = Cluster::new(place, count);
        for seat in cluster.iter() {
            seat.hand(0).open(Some(PlacedBy::Fixed(home))).expect("the set opens");
        }
        cluster
    }

    /// So many messages of a kind have been sent by all nodes together.
    pub fn sent(&self, kind: &str) -> u64 {
        self.iter().map(|seat| seat.sent(kind)).sum()
    }

    /// Nothing went wrong behind the scenes.
    pub fn check(&self) {
        for seat in self.iter() {
            let counters = seat.counters();
            let wrong = (counters.faults, counters.malformed, counters.undecodable, counters.dropped);
            assert_eq!(wrong, (0, 0, 0, 0), "node {} counts faults, malformed, undecodable, dropped", seat.id);
        }
    }
}

impl Seat {
    pub fn here(node: Node) -> Seat {
        let waiting = Waiting::default();
        let (id, address) = (node.id(), node.address().to_string());
        let answers = Arc::clone(&waiting);
        let engine = Engine::new(node, move |answer| {
            let waits = answers.lock().expect("no panic under this lock").remove(&answer.ticket);
            if let Some(waits) = waits {
                let _nobody_waits_any_more = waits.send(answer.reply);
            }
        });
        Seat { id, address, link: Link::Here(engine), waiting, tickets: AtomicU64::new(1) }
    }

    /// A seat in a process of its own, or why its node could not start.
    pub fn there(start: &Start, id: u16) -> Result<Seat, Failure> {
        let waiting = Waiting::default();
        let (sender, first) = channel();
        waiting.lock().expect("no panic under this lock").insert(process::FIRST, sender);
        let process = Process::start(start, Arc::clone(&waiting));
        let first = Ticket { reply: first, early: OnceCell::new(), seat: id, op: "start".into() };
        let address = match first.wait() {
            Reply::Text(address) => address,
            Reply::Failed(failure) => return Err(failure),
            other => panic!("a seat began with {other:?}"),
        };
        Ok(Seat { id, address, link: Link::There(process), waiting, tickets: AtomicU64::new(1) })
    }

    /// One thread of the node: it does one command after the other.
    pub fn hand(&self, number: u32) -> Hand<'_> {
        Hand { seat: self, number, set: SET, limit: None }
    }

    /// Its process, of which it must have one of its own.
    pub fn process(&self) -> &Process {
        match &self.link {
            Link::There(process) => process,
            Link::Here(_) => panic!("node {} is in this process", self.id),
        }
    }

    pub fn counters(&self) -> Counters {
        match self.hand(LOOKER).ask(Op::Counters).wait() {
            Reply::Counters(counters) => counters,
            other => panic!("{other:?} instead of counters"),
        }
    }

    pub fn sent(&self, kind: &str) -> u64 {
        self.counters().sent[number(kind)]
    }

    pub fn received(&self, kind: &str) -> u64 {
        self.counters().received[number(kind)]
    }

    /// Waits until the node has received and handled so many messages of a kind.
    pub fn until_received(&self, kind: &str, count: u64) {
        until(&format!("node {} has {count} messages {kind}", self.id), || self.received(kind) >= count);
    }
}

/// The hand that looks at counters while the others are busy.
const LOOKER: u32 = u32::MAX;

fn number(kind: &str) -> usize {
    Message::NAMES.iter().position(|name| *name == kind).expect("a kind of message")
}

/// One thread of a seat's node, in one set.
#[derive(Clone, Copy)]
pub struct Hand<'a> {
    seat: &'a Seat,
    number: u32,
    set: &'a str,
    limit: Option<Duration>,
}

/// A command on its way.
pub struct Ticket {
    reply: Receiver<Reply>,
    early: OnceCell<Reply>,
    seat: u16,
    op: String,
}

impl Ticket {
    /// Whether the answer is here already.
    pub fn is_answered(&self) -> bool {
        if self.early.get().is_none()
            && let Ok(reply) = self.reply.try_recv()
        {
            let _it_was_empty = self.early.set(reply);
        }
        self.early.get().is_some()
    }

    pub fn wait(self) -> Reply {
        if let Some(reply) = self.early.into_inner() {
            return reply;
        }
        match self.reply.recv_timeout(LIMIT) {
            Ok(reply) => reply,
            Err(RecvTimeoutError::Timeout) => panic!("node {}: no answer after {LIMIT:?}: {}", self.seat, self.op),
            Err(RecvTimeoutError::Disconnected) => panic!("node {} ended during {}", self.seat, self.op),
        }
    }

    pub fn seen(self) -> Result<Seen, Failure> {
        let op = self.op.clone();
        match self.wait() {
            Reply::Seen(seen) => Ok(seen),
            Reply::Failed(failure) => Err(failure),
            other => panic!("{op}: {other:?} instead of a value"),
        }
    }

    pub fn done(self) -> Result<(), Failure> {
        let op = self.op.clone();
        match self.wait() {
            Reply::Done => Ok(()),
            Reply::Failed(failure) => Err(failure),
            other => panic!("{op}: {other:?} instead of done"),
        }
    }
}

impl<'a> Hand<'a> {
    pub fn in_set(self, set: &'a str) -> Hand<'a> {
        Hand { set, ..self }
    }

    /// With that limit for what its operations wait for.
    pub fn within(self, limit: Duration) -> Hand<'a> {
        Hand { limit: Some(limit), ..self }
    }

    /// Sends a command on its way.
    pub fn ask(self, op: Op) -> Ticket {
        let ticket = self.seat.tickets.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = channel();
        self.seat.waiting.lock().expect("no panic under this lock").insert(ticket, sender);
        let text = format!("{op:?}");
        let limit_ms = self.limit.map(|limit| limit.as_millis() as u64);
        let command = Command { ticket, hand: self.number, set: self.set.into(), op, limit_ms };
        match &self.seat.link {
            Link::Here(engine) => engine.command(command),
            Link::There(process) => process.command(&command),
        }
        Ticket { reply, early: OnceCell::new(), seat: self.seat.id, op: text }
    }

    pub fn try_done(self, op: Op) -> Result<(), Failure> {
        self.ask(op).done()
    }

    pub fn done(self, op: Op) {
        let text = format!("{op:?}");
        self.ask(op).done().unwrap_or_else(|failure| panic!("node {}: {text}: {failure:?}", self.seat.id));
    }

    fn seen(self, op: Op) -> Seen {
        let text = format!("{op:?}");
        self.ask(op).seen().unwrap_or_else(|failure| panic!("node {}: {text}: {failure:?}", self.seat.id))
    }

    pub fn open(self, placed_by: Option<PlacedBy>) -> Result<(), Failure> {
        self.try_done(Op::Open { placed_by, existing: false, wait_limit_ms: None, replicas: None })
    }

    /// As [`Self::open`]: nobody else has a copy, and a put waits for nobody.
    pub fn open_without_replicas(self, placed_by: Option<PlacedBy>) -> Result<(), Failure> {
        self.try_done(Op::Open { placed_by, existing: false, wait_limit_ms: None, replicas: Some(0) })
    }

    /// Gets and keeps the guard.
    pub fn get(self, object: u64) -> Seen {
        self.seen(Op::Get { object, existing: false })
    }

    /// Grabs and keeps the guard.
    pub fn grab(self, object: u64) -> Seen {
        self.seen(Op::Grab { object, how: How::Plain })
    }

    pub fn try_grab(self, object: u64) -> Result<Seen, Failure> {
        self.ask(Op::Grab { object, how: How::Try }).seen()
    }

    /// Sends a grab on its way that keeps the guard.
    pub fn ask_grab(self, object: u64) -> Ticket {
        self.ask(Op::Grab { object, how: How::Plain })
    }

    /// Gets and keeps nothing.
    pub fn read(self, object: u64) -> Seen {
        self.seen(Op::Read { object })
    }

    pub fn find(self, object: u64) -> Option<Seen> {
        match self.ask(Op::Find { object }).wait() {
            Reply::Seen(seen) => Some(seen),
            Reply::Absent => None,
            other => panic!("{other:?} instead of a value or nothing"),
        }
    }

    pub fn change(self, object: u64, number: u64) {
        self.done(Op::Change { object, number });
    }

    pub fn put(self, object: u64) {
        self.done(Op::Put { object });
    }

    pub fn release(self, object: u64) {
        self.done(Op::Release { object });
    }

    /// Grab, change the number, put.
    pub fn write(self, object: u64, number: u64) {
        self.grab(object);
        self.change(object, number);
        self.put(object);
    }
}
