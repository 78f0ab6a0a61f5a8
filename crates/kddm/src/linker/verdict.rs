//! Which of two writes a store keeps: one rule for all stores.

use super::store::Stamp;

/// What a store does with a write.
///
/// ```
/// use kddm::linker::{Stamp, Verdict};
/// let there = Stamp { term: 1, tenure: 7, version: 3 };
/// assert_eq!(Verdict::of(Stamp { version: 4, ..there }, 1, Some(there)), Verdict::Newer);
/// assert_eq!(Verdict::of(there, 1, Some(there)), Verdict::Same);
/// assert_eq!(Verdict::of(Stamp { tenure: 6, ..there }, 1, Some(there)), Verdict::Older { by: there });
/// // Another cluster has begun on this store since.
/// let claimed = Stamp { term: 2, tenure: 0, version: 0 };
/// assert_eq!(Verdict::of(Stamp { version: 4, ..there }, 2, Some(there)), Verdict::Older { by: claimed });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Keep it.
    Newer,
    /// This very write is there. It is kept if the bytes are the same, else refused by its own stamp.
    Same,
    /// Refuse it.
    Older {
        /// What refuses it.
        by: Stamp,
    },
}

impl Verdict {
    /// On a write with that stamp, in a store where `term` was claimed last and `there` is what is kept of the object. What
    /// is looked at must not change until the write is done.
    pub fn of(stamp: Stamp, term: u64, there: Option<Stamp>) -> Verdict {
        // An owner of an older term may ask about what it has written: the truth is that it is there.
        if there == Some(stamp) {
            return Verdict::Same;
        }
        let claimed = Stamp { term, tenure: 0, version: 0 };
        let by = there.map_or(claimed, |there| there.max(claimed));
        let is_old = stamp.term < term || there.is_some_and(|there| stamp < there);
        if is_old { Verdict::Older { by } } else { Verdict::Newer }
    }
}
