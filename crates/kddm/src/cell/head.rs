//! What all holds of one table share.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::account::Account;
use super::lease::Lease;
use crate::error::{AccessError, Error, MembershipError, SetError};

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

impl From<Ended> for Error {
    fn from(ended: Ended) -> Error {
        match ended {
            Ended::Destroyed => SetError::Destroyed.into(),
            Ended::Stopped => MembershipError::Stopped.into(),
            Ended::Fenced => AccessError::Fenced.into(),
            Ended::Detached => MembershipError::Detached.into(),
        }
    }
}

/// In the place of an [`Ended`]: what is put must be told to the node that lends the objects.
const BORROWED: u8 = 5;

/// In the place of an [`Ended`]: what is put is done when its replicas have it.
pub(super) const REPLICATED: u8 = 6;

/// In the place of an [`Ended`]: what is put is done when it is kept by what stands behind the set, and by its replicas.
pub(super) const LINKED: u8 = 7;

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
    /// Of the node, once it uses this table.
    pub lease: OnceLock<Arc<Lease>>,
    /// Where what is here counts, if the set has a budget.
    pub account: OnceLock<Arc<Account>>,
}

impl Head {
    /// What is put here must be told to the node that lends the objects, unless the table has ended.
    pub fn set_borrowed(&self) {
        let _ended_already = self.ended.compare_exchange(0, BORROWED, Ordering::AcqRel, Ordering::Acquire);
    }

    /// What is put here is done when its replicas have it, unless the table has ended.
    pub fn set_replicated(&self) {
        let _ended_already = self.ended.compare_exchange(0, REPLICATED, Ordering::AcqRel, Ordering::Acquire);
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
            BORROWED | REPLICATED | LINKED => None,
            _ => Some(Ended::Fenced),
        }
    }

    /// Whether a put is no more than a publish here, whatever the time is.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.ended.load(Ordering::Acquire) == 0 && self.lease.get().is_none_or(|lease| lease.is_not_needed())
    }

    /// The same, now. What is published after this is seen by nobody before its hold ends, and by nobody at
    /// all once the lease is over: the put has happened now.
    pub fn is_plain_now(&self) -> bool {
        self.ended.load(Ordering::Acquire) == 0 && self.lease_is_valid()
    }

    /// Whether the node's lease, if it needs one, is not over.
    pub fn lease_is_valid(&self) -> bool {
        self.lease.get().is_none_or(|lease| lease.is_valid())
    }
}
