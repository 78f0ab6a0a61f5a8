//! What a seat can do: commands as plain data, done by real operations on the seat's own node.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kddm::{Error, Fate, Node, Pending, PlacedBy, ReadGuard, Set, WriteGuard};
use serde::{Deserialize, Serialize};

/// The shared value of all cases.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Note {
    /// The node whose first touch made it.
    pub maker: u16,
    /// Which first touch of that node's process.
    pub serial: u64,
    pub number: u64,
    pub items: Vec<u64>,
}

/// A command: which thread of the seat's node does what in which set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Command {
    pub ticket: u64,
    pub hand: u32,
    pub set: String,
    pub op: Op,
    /// A limit of its own for what the operation waits for.
    pub limit_ms: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum How {
    Plain,
    Existing,
    Try,
    /// `grab_or_insert_with` of a note with that number.
    Insert(u64),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Op {
    Open {
        placed_by: Option<PlacedBy>,
        existing: bool,
        wait_limit_ms: Option<u64>,
        replicas: Option<u8>,
    },
    /// Opens the set with another type than all others do.
    OpenAsText,
    /// Keeps the guard, by the object's id.
    Get {
        object: u64,
        existing: bool,
    },
    /// Keeps the guard, by the object's id.
    Grab {
        object: u64,
        how: How,
    },
    /// Changes the number in a guard that is kept.
    Change {
        object: u64,
        number: u64,
    },
    /// Makes the value in a guard that is kept that many items long.
    Grow {
        object: u64,
        items: u64,
    },
    Put {
        object: u64,
    },
    Release {
        object: u64,
    },
    RemoveHeld {
        object: u64,
    },
    /// Gets, and keeps nothing.
    Read {
        object: u64,
    },
    /// Adds one to the number, so many times.
    Add {
        object: u64,
        times: u64,
    },
    Find {
        object: u64,
    },
    /// Looks for the local copy again and again, until it is gone.
    FindUntilGone {
        object: u64,
    },
    Snapshot {
        object: u64,
    },
    Fetch {
        object: u64,
    },
    Prefetch {
        from: u64,
        to: u64,
    },
    Acquire {
        object: u64,
    },
    Remove {
        object: u64,
    },
    Flush {
        object: u64,
        to: Option<u16>,
    },
    /// Puts the numbers of a range into a queue of at most that length.
    Produce {
        object: u64,
        from: u64,
        to: u64,
        most: usize,
    },
    /// Takes items until so many have been taken by all together.
    Consume {
        object: u64,
        all: u64,
    },
    Destroy {
        limit_ms: u64,
    },
    LocalCount,
    Counters,
    WaitForMembers {
        count: usize,
    },
    Address,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub code: u16,
    pub text: String,
    pub nothing_happened: bool,
}

/// What a guard shows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    pub note: Note,
    pub version: u64,
    /// Zero for a read guard.
    pub tenure: u64,
}

/// The statistics of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counters {
    pub misses: u64,
    pub sent: Vec<u64>,
    pub received: Vec<u64>,
    pub installs: u64,
    pub dropped: u64,
    pub malformed: u64,
    pub undecodable: u64,
    pub faults: u64,
    pub reconnects: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Seen(Seen),
    Absent,
    Count(u64),
    Items(Vec<u64>),
    Counters(Counters),
    Text(String),
    Failed(Failure),
}

/// A reply on its way to the case that asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    pub ticket: u64,
    pub reply: Reply,
}

type Answers = Arc<dyn Fn(Answer) + Send + Sync>;

/// One node and its threads.
pub struct Engine {
    shared: Arc<Shared>,
    hands: Mutex<HashMap<u32, Sender<Command>>>,
}

struct Shared {
    node: Node,
    sets: Mutex<HashMap<String, Set<Note>>>,
    answers: Answers,
}

/// First touches of this process.
static TOUCHES: AtomicU64 = AtomicU64::new(0);

impl Engine {
    pub fn new(node: Node, answers: impl Fn(Answer) + Send + Sync + 'static) -> Engine {
        let shared = Shared { node, sets: Mutex::default(), answers: Arc::new(answers) };
        Engine { shared: Arc::new(shared), hands: Mutex::default() }
    }

    /// Hands a command to its thread, which does one after the other.
    pub fn command(&self, command: Command) {
        let mut hands = self.hands.lock().expect("no panic under this lock");
        let hand = hands.entry(command.hand).or_insert_with(|| {
            let (sender, commands) = channel::<Command>();
            let shared = Arc::clone(&self.shared);
            std::thread::spawn(move || {
                let mut hand = Hand { shared, guards: HashMap::new(), limit: None };
                for command in commands {
                    let ticket = command.ticket;
                    let reply = hand.command(command).unwrap_or_else(|error| Reply::Failed(failure(&error)));
                    (hand.shared.answers)(Answer { ticket, reply });
                }
            });
            sender
        });
        hand.send(command).expect("a hand lives as long as its engine");
    }
}

pub fn failure(error: &Error) -> Failure {
    Failure { code: error.code(), text: error.to_string(), nothing_happened: error.fate() == Fate::NothingHappened }
}

enum Guard {
    Read(ReadGuard<Note>),
    Write(WriteGuard<Note>),
}

impl Guard {
    fn seen(&self) -> Reply {
        Reply::Seen(match self {
            Guard::Read(guard) => Seen { note: Note::clone(guard), version: guard.version(), tenure: 0 },
            Guard::Write(guard) => Seen { note: Note::clone(guard), version: guard.version(), tenure: guard.tenure() },
        })
    }
}

/// One thread, and the guards that it keeps.
struct Hand {
    shared: Arc<Shared>,
    guards: HashMap<(String, u64), Guard>,
    limit: Option<Duration>,
}

impl Hand {
    fn set(&self, name: &str) -> Set<Note> {
        let sets = self.shared.sets.lock().expect("no panic under this lock");
        sets.get(name).unwrap_or_else(|| panic!("set {name} is not open at this seat")).clone()
    }

    fn wait<O>(&self, pending: Pending<O>) -> Result<O, Error> {
        match self.limit {
            Some(limit) => pending.wait_for(limit),
            None => pending.wait(),
        }
    }

    fn command(&mut self, Command { set: name, op, limit_ms, .. }: Command) -> Result<Reply, Error> {
        self.limit = limit_ms.map(Duration::from_millis);
        match op {
            Op::Open { placed_by, existing, wait_limit_ms, replicas } => {
                self.open(name, (placed_by, replicas), existing, wait_limit_ms)
            }
            Op::OpenAsText => self.shared.node.set::<String>(&name).open().wait().map(|_| Reply::Done),
            Op::Get { object, existing: false } => {
                let guard = Guard::Read(self.wait(self.set(&name).get(object))?);
                Ok(self.keep(name, object, guard))
            }
            Op::Get { object, existing: true } => {
                let guard = Guard::Read(self.wait(self.set(&name).get_existing(object))?);
                Ok(self.keep(name, object, guard))
            }
            Op::Grab { object, how } => {
                let set = self.set(&name);
                let pending = match how {
                    How::Plain => set.grab(object),
                    How::Existing => set.grab_existing(object),
                    How::Try => set.try_grab(object),
                    How::Insert(number) => set.grab_or_insert_with(object, move || Note { number, ..Note::default() }),
                };
                let guard = Guard::Write(self.wait(pending)?);
                Ok(self.keep(name, object, guard))
            }
            Op::Change { object, number } => {
                self.written(name, object, |note| note.number = number);
                Ok(Reply::Done)
            }
            Op::Grow { object, items } => {
                self.written(name, object, |note| note.items = vec![u64::MAX; items as usize]);
                Ok(Reply::Done)
            }
            Op::Put { object } => self.write_guard(name, object).put().wait().map(|()| Reply::Done),
            Op::RemoveHeld { object } => self.write_guard(name, object).remove().wait().map(|()| Reply::Done),
            Op::Release { object } => {
                drop(self.guards.remove(&(name, object)).expect("the guard was kept"));
                Ok(Reply::Done)
            }
            op => self.without_guard(&name, op),
        }
    }

    fn without_guard(&self, name: &str, op: Op) -> Result<Reply, Error> {
        let done = |()| Reply::Done;
        match op {
            Op::Read { object } => self.wait(self.set(name).get(object)).map(|guard| Guard::Read(guard).seen()),
            Op::Add { object, times } => self.add(&self.set(name), object, times).map(done),
            Op::Find { object } => {
                Ok(self.set(name).find(object).map_or(Reply::Absent, |guard| Guard::Read(guard).seen()))
            }
            Op::FindUntilGone { object } => {
                let set = self.set(name);
                while set.find(object).is_some() {}
                Ok(Reply::Done)
            }
            Op::Snapshot { object } => {
                let note = Note::clone(&*self.set(name).snapshot(object).wait()?);
                Ok(Reply::Seen(Seen { note, version: 0, tenure: 0 }))
            }
            Op::Fetch { object } => self.wait(self.set(name).fetch(object)).map(done),
            Op::Prefetch { from, to } => {
                self.set(name).prefetch(from..to).into_iter().try_for_each(Pending::wait).map(done)
            }
            Op::Acquire { object } => self.wait(self.set(name).acquire(object)).map(done),
            Op::Remove { object } => self.wait(self.set(name).remove(object)).map(done),
            Op::Flush { object, to } => self.wait(self.set(name).flush(object, to)).map(done),
            Op::Produce { object, from, to, most } => produce(&self.set(name), object, from..to, most).map(done),
            Op::Consume { object, all } => consume(&self.set(name), object, all).map(Reply::Items),
            Op::Destroy { limit_ms } => {
                self.shared.node.destroy_set(name, Duration::from_millis(limit_ms)).wait().map(done)
            }
            Op::LocalCount => Ok(Reply::Count(self.set(name).local_count() as u64)),
            Op::Counters => Ok(Reply::Counters(counters(&self.shared.node))),
            Op::WaitForMembers { count } => self.shared.node.wait_for_members(count, super::LIMIT).map(done),
            Op::Address => Ok(Reply::Text(self.shared.node.address().to_string())),
            op => panic!("{op:?} needs a guard"),
        }
    }

    fn open(
        &self,
        name: String,
        (placed_by, replicas): (Option<PlacedBy>, Option<u8>),
        existing: bool,
        wait_limit_ms: Option<u64>,
    ) -> Result<Reply, Error> {
        let maker = self.shared.node.id();
        let mut builder = self.shared.node.set::<Note>(&name).first_touch(move |_| {
            let serial = TOUCHES.fetch_add(1, Ordering::Relaxed) + 1;
            Note { maker, serial, ..Note::default() }
        });
        if let Some(placed_by) = placed_by {
            builder = builder.placement(placed_by);
        }
        if let Some(replicas) = replicas {
            builder = builder.replicas(replicas);
        }
        if let Some(limit_ms) = wait_limit_ms {
            builder = builder.wait_limit(Duration::from_millis(limit_ms));
        }
        let set = if existing { builder.open_existing().wait()? } else { builder.open().wait()? };
        self.shared.sets.lock().expect("no panic under this lock").insert(name, set);
        Ok(Reply::Done)
    }

    fn add(&self, set: &Set<Note>, object: u64, times: u64) -> Result<(), Error> {
        for _ in 0..times {
            self.wait(set.update(object, |note| {
                note.number += 1;
                Ok(())
            }))?;
        }
        Ok(())
    }

    fn keep(&mut self, name: String, object: u64, guard: Guard) -> Reply {
        let seen = guard.seen();
        match self.guards.entry((name, object)) {
            Entry::Vacant(place) => place.insert(guard),
            Entry::Occupied(_) => panic!("this hand keeps a guard of object {object} already"),
        };
        seen
    }

    fn written(&mut self, name: String, object: u64, change: impl FnOnce(&mut Note)) {
        match self.guards.get_mut(&(name, object)) {
            Some(Guard::Write(guard)) => change(guard),
            _ => panic!("this hand keeps no write guard of object {object}"),
        }
    }

    fn write_guard(&mut self, name: String, object: u64) -> WriteGuard<Note> {
        match self.guards.remove(&(name, object)) {
            Some(Guard::Write(guard)) => guard,
            _ => panic!("this hand keeps no write guard of object {object}"),
        }
    }
}

fn counters(node: &Node) -> Counters {
    let of = node.statistics();
    Counters {
        misses: of.misses,
        sent: of.sent.to_vec(),
        received: of.received.to_vec(),
        installs: of.installs,
        dropped: of.dropped,
        malformed: of.malformed,
        undecodable: of.undecodable,
        faults: of.faults,
        reconnects: of.reconnects,
    }
}

/// A full queue is tried again until a consumer has made room.
fn produce(set: &Set<Note>, object: u64, range: std::ops::Range<u64>, most: usize) -> Result<(), Error> {
    for item in range {
        while !set
            .update(object, move |note| {
                let room = note.items.len() < most;
                if room {
                    note.items.push(item);
                }
                Ok(room)
            })
            .wait()?
        {
            std::thread::yield_now();
        }
    }
    Ok(())
}

fn consume(set: &Set<Note>, object: u64, all: u64) -> Result<Vec<u64>, Error> {
    let mut mine = Vec::new();
    loop {
        let (taken, over) = set
            .update(object, move |note| {
                let taken = std::mem::take(&mut note.items);
                note.number += taken.len() as u64;
                Ok((taken, note.number >= all))
            })
            .wait()?;
        mine.extend(taken);
        if over {
            return Ok(mine);
        }
        std::thread::yield_now();
    }
}
