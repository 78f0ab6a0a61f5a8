//! Clients: threads with a program's attachment to one daemon each, which do operations one after the
//! other and write down what they did and saw.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kddm::{AccessError, Error, Fate, MembershipError, Node, Pod, Set};
use kddm_history::{Kind, Operation, Outcome, Seen, Word};

/// Objects that the clients share: few enough that they get into each other's way.
pub const OBJECTS: u64 = 24;

/// The set.
const SET: &str = "chaos";

/// The limit of one operation of a client.
pub const OPERATION_LIMIT: Duration = Duration::from_secs(1);

/// How long a client waits before it attaches again.
const ATTACH_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause of a client between two operations, in microseconds: histories stay short enough to
/// be judged.
const MOST_PAUSE_US: u64 = 4_000;

/// What all clients of a run have in common.
pub struct Clock {
    started: Instant,
    /// Values that have been given out; zero is what a first touch leaves.
    values: AtomicU64,
    /// The end of the run.
    pub is_over: AtomicBool,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock { started: Instant::now(), values: AtomicU64::new(0), is_over: AtomicBool::new(false) }
    }
}

impl Clock {
    /// Nanoseconds since the run began.
    pub fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn next_value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// One client.
pub struct Client<'a> {
    number: u64,
    clock: &'a Clock,
    socket: PathBuf,
    attached: Option<(Node, Set<Pod<u64>>)>,
    /// What it did and saw.
    pub history: Vec<Operation>,
    /// Operations that ended with an error.
    pub errors: u64,
}

impl<'a> Client<'a> {
    /// A client of the daemon whose socket that is.
    pub fn new(number: u64, clock: &'a Clock, socket: &Path) -> Client<'a> {
        Client { number, clock, socket: socket.into(), attached: None, history: Vec::new(), errors: 0 }
    }

    /// The set, attached to within a limit.
    fn set(&mut self, limit: Duration) -> Result<Set<Pod<u64>>, Error> {
        if let Some((_, set)) = &self.attached {
            return Ok(set.clone());
        }
        let node = Node::attach(&self.socket).wait_for(limit)?;
        let set = node.set(SET).replicas(1).open().wait_for(limit)?;
        self.attached = Some((node, set.clone()));
        Ok(set)
    }

    /// An attachment that is of no use any more goes.
    fn note(&mut self, error: &Error) {
        self.errors += 1;
        let is_over = |error: &MembershipError| {
            matches!(error, MembershipError::Detached | MembershipError::Stopped | MembershipError::NotAttached { .. })
        };
        let is_over = match error {
            Error::Membership(error) => is_over(error),
            // Its daemon's lease was over: it comes back as another life, to which one has to attach anew.
            Error::Access(AccessError::Fenced) => true,
            _ => false,
        };
        if is_over {
            self.attached = None;
        }
    }

    fn write_down(&mut self, object: u64, invoke_ns: u64, kind: Kind, value: Option<u64>, end: (Seen, Outcome)) {
        let (seen, outcome) = end;
        self.history.push(Operation {
            client: self.number,
            object: Word::Number(object),
            invoke_ns,
            return_ns: Some(self.clock.now_ns()),
            kind,
            value: value.map(Word::Number),
            seen,
            outcome,
        });
    }

    /// Looks at an object, with a read hold or the write hold.
    ///
    /// # Errors
    /// It was not seen.
    pub fn read(&mut self, object: u64, by: By, limit: Duration) -> Result<u64, Error> {
        let invoke_ns = self.clock.now_ns();
        let read = self.set(limit).and_then(|set| match by {
            By::Get => set.get(object).wait_for(limit).map(|held| held.0),
            By::Grab => set.grab(object).wait_for(limit).map(|held| held.0),
        });
        match read {
            Ok(seen) => {
                let end = (saw(seen), Outcome::Ok);
                self.write_down(object, invoke_ns, Kind::Read, None, end);
            }
            Err(ref error) => self.note(error),
        }
        read
    }

    /// Gives an object a value that no other operation gives.
    ///
    /// # Errors
    /// It is not certain that it has it.
    pub fn update(&mut self, object: u64, limit: Duration) -> Result<(), Error> {
        let invoke_ns = self.clock.now_ns();
        let held = self.set(limit).and_then(|set| set.grab(object).wait_for(limit));
        let mut held = match held {
            Ok(held) => held,
            Err(error) => {
                // Nothing was put: whatever became of the grab, no value is in the world.
                self.note(&error);
                return Err(error);
            }
        };
        let (before, value) = (held.0, self.clock.next_value());
        held.0 = value;
        let put = held.put().wait_for(limit);
        let outcome = match &put {
            Ok(_) => Outcome::Ok,
            Err(error) => match error.fate() {
                Fate::NothingHappened => Outcome::Failed,
                Fate::Happened => Outcome::Ok,
                Fate::Unknown => Outcome::Unknown,
            },
        };
        self.write_down(object, invoke_ns, Kind::Update, Some(value), (saw(before), outcome));
        put.map(|_| ()).inspect_err(|error| self.note(error))
    }

    /// Works until the run is over.
    pub fn work(&mut self, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        while !self.clock.is_over.load(Ordering::Acquire) {
            let object = random.u64(..OBJECTS);
            let done = match random.u8(..10) {
                0..5 => self.read(object, By::Get, OPERATION_LIMIT).map(|_| ()),
                5 => self.read(object, By::Grab, OPERATION_LIMIT).map(|_| ()),
                _ => self.update(object, OPERATION_LIMIT),
            };
            let pause = if done.is_err() && self.attached.is_none() {
                ATTACH_PAUSE
            } else {
                Duration::from_micros(random.u64(..MOST_PAUSE_US))
            };
            std::thread::sleep(pause);
        }
        self.attached = None;
    }
}

/// Zero is what a first touch finds, of an object that nobody has ever put.
fn saw(value: u64) -> Seen {
    if value == 0 { Seen::Absent } else { Seen::Value(Word::Number(value)) }
}

/// How an object is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// With a read hold.
    Get,
    /// With the write hold, and nothing is put.
    Grab,
}
