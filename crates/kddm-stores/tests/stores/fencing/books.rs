//! What was sent, and what the store has said of it.

use std::collections::BTreeMap;

use fastrand::Rng;
use kddm::linker::{Stamp, Stored, Written};

use super::Found;

/// Lengths of what is written: some of less than a page, one of more.
const LENGTHS: [usize; 4] = [0, 24, 500, 9_000];

#[derive(Default)]
pub struct Books {
    /// The greatest term that was claimed.
    pub claimed: u64,
    sent: BTreeMap<(u64, Stamp), Option<Vec<u8>>>,
    /// The greatest of each object that was kept or read.
    known: BTreeMap<u64, Stamp>,
    /// The greatest that was kept and synced: no crash may lose it.
    lasting: BTreeMap<u64, Stamp>,
    /// The greatest that was kept: that of which nobody heard whether it was is not among them, though it may be read.
    kept: BTreeMap<u64, Stamp>,
}

impl Books {
    pub fn sent(&mut self, object: u64, stamp: Stamp, random: &mut Rng) {
        let length = LENGTHS[random.usize(..LENGTHS.len())];
        let bytes = (random.u8(..8) > 0).then(|| (0..length).map(|_| random.u8(..)).collect());
        self.sent.insert((object, stamp), bytes);
    }

    pub fn bytes(&self, write: (u64, Stamp)) -> Option<Vec<u8>> {
        self.sent[&write].clone()
    }

    pub fn answered(&mut self, object: u64, stamp: Stamp, written: Written) -> Found {
        let known = self.known.get(&object).copied();
        match written {
            Written::Kept if known.is_some_and(|known| stamp < known) => {
                Err(format!("object {object}: {stamp:?} was kept, which is older than {known:?}"))
            }
            Written::Kept if stamp.term < self.claimed && known != Some(stamp) => {
                Err(format!("object {object}: {stamp:?} was kept in term {}", self.claimed))
            }
            Written::Kept => {
                self.known.insert(object, stamp);
                self.kept.insert(object, stamp);
                Ok(())
            }
            Written::Refused { by } => {
                let is_claim = by == Stamp { term: self.claimed, tenure: 0, version: 0 };
                let is_known = is_claim || self.sent.contains_key(&(object, by));
                let is_newest = known.is_none_or(|known| by >= known);
                if by > stamp && is_known && is_newest {
                    return Ok(());
                }
                Err(format!("object {object}: {stamp:?} was refused by {by:?}; known is {known:?}"))
            }
        }
    }

    /// All that was kept lasts from now on.
    pub fn synced(&mut self) {
        self.lasting.extend(self.kept.iter().map(|(object, stamp)| (*object, *stamp)));
    }

    /// What did not last may be gone.
    pub fn machine_ended(&mut self) {
        self.known.clone_from(&self.lasting);
        self.kept.clone_from(&self.lasting);
    }

    pub fn has_claimed(&mut self, claimed: u64) -> Found {
        if claimed <= self.claimed {
            return Err(format!("a claim is {claimed} after {}", self.claimed));
        }
        self.claimed = claimed;
        Ok(())
    }

    pub fn seen(&mut self, object: u64, seen: Option<Stored>) -> Found {
        let known = self.known.get(&object).copied();
        let Some(Stored { stamp, bytes }) = seen else {
            return known
                .map_or(Ok(()), |known| Err(format!("object {object} is older, never written, after {known:?}")));
        };
        if known.is_some_and(|known| stamp < known) {
            return Err(format!("object {object} is older, {stamp:?}, after {known:?}"));
        }
        if self.sent.get(&(object, stamp)) != Some(&bytes) {
            return Err(format!("object {object} has bytes that nobody has written with {stamp:?}"));
        }
        self.known.insert(object, stamp);
        Ok(())
    }
}
