//! How long an object is away whose owner has trouble: just before a fault the host that is to have it
//! takes an object of its own; then another host tries to, until it does.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kddm::Error;
use kddm_history::Operation;

use crate::client::{Client, Clock, OBJECTS};
use crate::fault::Fault;

/// The limit of one attempt: short beside what is measured.
const ATTEMPT: Duration = Duration::from_millis(100);

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(2);

/// How long the host may take to get the object before the fault.
const TAKE_LIMIT: Duration = Duration::from_secs(2);

/// What came of one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Recovery {
    /// After which fault.
    pub fault: Fault,
    /// Its host led those who decide who is a member.
    pub led: bool,
    /// How long it took; none if it was never had again.
    pub took: Option<Duration>,
}

/// An object that one host has.
pub struct Probe {
    object: u64,
    number: u64,
}

impl Probe {
    /// Has the host of that client take the object of the probe with that number.
    ///
    /// # Errors
    /// It could not be taken.
    pub fn prepare(number: u64, owner: &mut Client<'_>) -> Result<Probe, Error> {
        let object = OBJECTS + number;
        owner.update(object, TAKE_LIMIT).map(|()| Probe { object, number })
    }

    /// Tries to have it at another host until it does, or until the run is over.
    pub fn run(self, of: Recovery, begun: Instant, clock: &Clock, elsewhere: PathBuf) -> (Recovery, Vec<Operation>) {
        let mut client = Client::new(PROBES + self.number, clock, &elsewhere);
        let mut took = None;
        while took.is_none() && !clock.is_over.load(Ordering::Acquire) {
            match client.update(self.object, ATTEMPT) {
                Ok(()) => took = Some(begun.elapsed()),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
        (Recovery { took, ..of }, client.history)
    }
}

/// Clients with greater numbers are probes.
pub const PROBES: u64 = 1_000_000;
