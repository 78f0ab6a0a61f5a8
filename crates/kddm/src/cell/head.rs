//! What all holds of one table share.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// Why a table is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The set has been destroyed.
    Destroyed = 1,
    /// The node has been stopped.
    Stopped = 2,
    /// The node may not use what it holds any more.
    Fenced = 3,
    /// The node that lent the objects to this program is gone.
    Detached = 4,
}

/// In the place of an [`Ended`]: what is put must be told to the node that lends the objects.
const BORROWED: u8 = 5;

/// What holds must know of their table. It lives as long as the cells.
#[derive(Debug)]
pub(super) struct Head {
    /// Tells holds of one table from those of another.
    pub number: u64,
    /// Zero, or an [`Ended`].
    pub ended: AtomicU8,
    /// The largest value that may be published, in encoded bytes.
    pub limit_bytes: AtomicUsize,
    /// Changes that were given up with their hold.
    pub discarded: AtomicU64,
}

impl Head {
    /// What is put here must be told to the node that lends the objects, unless the table has ended.
    pub fn set_borrowed(&self) {
        let _ended_already = self.ended.compare_exchange(0, BORROWED, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The node that lends the objects is back.
    pub fn end_detachment(&self) {
        let (from, to) = (Ended::Detached as u8, BORROWED);
        let _ended_for_good = self.ended.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Why nothing that is published can reach anybody, if that is so.
    #[inline(always)]
    pub fn ended(&self) -> Option<Ended> {
        match self.ended.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Ended::Destroyed),
            2 => Some(Ended::Stopped),
            4 => Some(Ended::Detached),
            BORROWED => None,
            _ => Some(Ended::Fenced),
        }
    }

    /// Whether a put is no more than a publish here.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.ended.load(Ordering::Acquire) == 0
    }
}
