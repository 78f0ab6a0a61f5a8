//! Stores that do not keep their word.

use std::collections::BTreeMap;
use std::sync::Mutex;

use kddm::linker::{LinkerError, Stamp, Store, Stored, Verdict, Written};

/// What they do wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slip {
    /// Whoever writes last wins.
    IgnoreStamps,
    /// What was removed is as if it had never been.
    ForgetRemoved,
    /// Nobody is told that another life has begun.
    IgnoreTerms,
    /// What is refused is written all the same.
    RefuseAndKeep,
    /// What is kept is not written.
    KeepNothing,
    /// Two lives have one term.
    ClaimTwice,
}

pub struct Wrong {
    slip: Slip,
    kept: Mutex<(u64, BTreeMap<u64, Stored>)>,
}

impl Wrong {
    pub fn new(slip: Slip) -> Wrong {
        Wrong { slip, kept: Mutex::default() }
    }
}

impl Store for Wrong {
    fn kind(&self) -> &'static str {
        "wrong"
    }

    fn claim(&self) -> Result<u64, LinkerError> {
        let mut kept = self.kept.lock().expect("nobody panicked");
        if self.slip != Slip::ClaimTwice || kept.0 == 0 {
            kept.0 += 1;
        }
        Ok(kept.0)
    }

    fn read(&self, object: u64) -> Result<Option<Stored>, LinkerError> {
        Ok(self.kept.lock().expect("nobody panicked").1.get(&object).cloned())
    }

    fn write(&self, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> Result<Written, LinkerError> {
        let mut kept = self.kept.lock().expect("nobody panicked");
        let there = kept.1.get(&object).filter(|there| self.slip != Slip::ForgetRemoved || there.bytes.is_some());
        let term = if self.slip == Slip::IgnoreTerms { 0 } else { kept.0 };
        let verdict = Verdict::of(stamp, term, there.map(|there| there.stamp));
        let is_written = match self.slip {
            Slip::IgnoreStamps | Slip::RefuseAndKeep => true,
            Slip::KeepNothing => false,
            _ => !matches!(verdict, Verdict::Older { .. }),
        };
        if is_written {
            kept.1.insert(object, Stored { stamp, bytes: bytes.map(<[u8]>::to_vec) });
        }
        match verdict {
            Verdict::Older { by } if self.slip != Slip::IgnoreStamps => Ok(Written::Refused { by }),
            _ => Ok(Written::Kept),
        }
    }

    fn objects(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Stamp)>, LinkerError> {
        let kept = self.kept.lock().expect("nobody panicked");
        let there = kept
            .1
            .iter()
            .filter(|(object, stored)| after.is_none_or(|after| **object > after) && stored.bytes.is_some());
        Ok(there.take(limit).map(|(object, stored)| (*object, stored.stamp)).collect())
    }
}
