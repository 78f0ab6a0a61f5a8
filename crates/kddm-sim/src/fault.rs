//! What goes wrong in a run: each fault has a name, a rate in the scenario, and a count of how often it
//! happened. One that was asked for and did not happen proves nothing.

use std::collections::BTreeMap;

use serde::Serialize;

/// Something that can go wrong, or that changes the ground under what is going on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A frame never arrives; the connection is ended once somebody notices.
    Loss,
    /// A frame arrives twice.
    Duplicate,
    /// A connection is cut, with what is under way on it, and made anew later.
    Cut,
    /// A message takes many times as long as others of its pair.
    Tail,
    /// A node is slow: whatever reaches it waits.
    Slow,
    /// A message overtakes one of another node to the same receiver.
    Reorder,
    /// A client gives up while it waits.
    Cancel,
    /// A writer puts nothing.
    Discard,
    /// A first touch fails.
    FailedTouch,
    /// A node joins.
    Join,
    /// A node leaves.
    Leave,
    /// A set is destroyed and another takes its place.
    Destroy,
    /// A node crashes, with all it has.
    Crash,
    /// A node is expelled, and comes back with what it owned.
    Return,
    /// Failures are counted anew, because all is whole again.
    Heal,
    /// What is lost is accepted.
    Accept,
}

impl Fault {
    /// All of them, each with its name.
    pub const ALL: [(Fault, &'static str); 16] = [
        (Fault::Loss, "loss"),
        (Fault::Duplicate, "duplicate"),
        (Fault::Cut, "cut"),
        (Fault::Tail, "tail"),
        (Fault::Slow, "slow"),
        (Fault::Reorder, "reorder"),
        (Fault::Cancel, "cancel"),
        (Fault::Discard, "discard"),
        (Fault::FailedTouch, "failed_touch"),
        (Fault::Join, "join"),
        (Fault::Leave, "leave"),
        (Fault::Destroy, "destroy"),
        (Fault::Crash, "crash"),
        (Fault::Return, "return"),
        (Fault::Heal, "heal"),
        (Fault::Accept, "accept"),
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        Fault::ALL.iter().find(|(fault, _)| *fault == self).map_or("", |(_, name)| name)
    }

    /// The fault of that name.
    pub fn named(name: &str) -> Option<Fault> {
        Fault::ALL.iter().find(|(_, known)| *known == name).map(|(fault, _)| *fault)
    }
}

/// Rates of what goes wrong below the sessions; zero is never.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rates {
    /// Of a million frames, so many are lost.
    pub loss_ppm: u32,
    /// Of a million frames, so many arrive twice.
    pub duplicate_ppm: u32,
    /// Of a million writes, so many find the connection cut.
    pub cut_ppm: u32,
    /// Of a million writes, so many take long.
    pub tail_ppm: u32,
}

/// How often each fault happened.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Counts(BTreeMap<Fault, u64>);

impl Counts {
    /// Counts one.
    pub fn add(&mut self, fault: Fault) {
        *self.0.entry(fault).or_insert(0) += 1;
    }

    /// How often this one happened.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    /// All that happened at least once.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> + '_ {
        self.0.iter().map(|(fault, count)| (*fault, *count))
    }

    /// Adds the counts of another run.
    pub fn absorb(&mut self, other: &Counts) {
        for (fault, count) in &other.0 {
            *self.0.entry(*fault).or_insert(0) += count;
        }
    }
}

/// Chances after which a fault that did not happen cannot be bad luck any more: it would be so once in
/// 10^13 runs.
const EXPECTED: u64 = 30;

/// The faults of a scenario that had to happen, of so many chances each, and did not.
pub fn missing(counts: &Counts, frames: u64, writes: u64, rates: &Rates) -> Option<Fault> {
    let chances = [
        (Fault::Loss, frames, rates.loss_ppm),
        (Fault::Duplicate, frames, rates.duplicate_ppm),
        (Fault::Cut, writes, rates.cut_ppm),
        (Fault::Tail, writes, rates.tail_ppm),
    ];
    let had_to = |(_, chances, ppm): &&(Fault, u64, u32)| chances * u64::from(*ppm) / 1_000_000 >= EXPECTED;
    chances.iter().filter(had_to).map(|(fault, ..)| *fault).find(|fault| counts.of(*fault) == 0)
}
