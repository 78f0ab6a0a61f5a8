//! What a log keeps, and what it asks of whoever keeps it.

use kddm_core::id::NodeId;
use thiserror::Error;

/// Whom this node has promised not to hinder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Promise {
    /// The highest term that it has heard of.
    pub term: u64,
    /// The node that it has voted for in that term; 0 for none.
    pub vote: u16,
}

/// What changes at once: all of it, or nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// Whose log it is: said once, when it is new.
    pub node: Option<NodeId>,
    /// The new promise.
    pub promise: Option<Promise>,
    /// The first entry that can make this node a voter.
    pub votes_from: Option<u64>,
    /// First: entries after this one go.
    pub cut_after: Option<u64>,
    /// Then: a state that has taken in all entries up to that number, which go.
    pub base: Option<(u64, Vec<u8>)>,
    /// Then: entries that come, with their numbers.
    pub append: Vec<(u64, Vec<u8>)>,
    /// How far all is decided.
    pub decided: Option<u64>,
    /// It must be kept, although it is only how far all is decided.
    pub is_urgent: bool,
}

impl Batch {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Batch::default()
    }

    /// Whether it must survive a power failure from the moment at which it is written. The rest is
    /// told again by others.
    pub fn must_last(&self) -> bool {
        let Batch { node, promise, votes_from, cut_after, base, append, decided: _, is_urgent } = self;
        *is_urgent
            || node.is_some()
            || promise.is_some()
            || votes_from.is_some()
            || cut_after.is_some()
            || base.is_some()
            || !append.is_empty()
    }
}

/// What was kept over a restart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// Whose log it is: it may vote for nobody else.
    pub node: NodeId,
    /// The last promise.
    pub promise: Promise,
    /// The first entry that can make this node a voter.
    pub votes_from: u64,
    /// The last state.
    pub base: Vec<u8>,
    /// The entries after it, in order.
    pub entries: Vec<(u64, Vec<u8>)>,
    /// How far all is decided.
    pub decided: u64,
}

/// Why a log cannot be kept, or what was kept cannot be used. The node must not vote any more.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Reading or writing failed.
    #[error("the view log cannot be kept: {reason}; this node votes no more: see to the disk, then start it again")]
    Failed {
        /// What the system said.
        reason: String,
    },
    /// What is there was damaged.
    #[error(
        "the kept view log is damaged ({what}): move its file away and start the node again, it then takes the log \
         from the other voters; if it was the only voter, restore the file from a copy or start a new cluster"
    )]
    Damaged {
        /// What is wrong with it.
        what: String,
    },
    /// It would vote twice: with its own log and with this one.
    #[error(
        "the kept view log is that of node {kept}, and this is node {wanted}: give each node a file of its own (with \
         kddmd a data directory), or start this one as node {kept} if no other process is; if this log is needed no \
         more, move its file away"
    )]
    OtherNode {
        /// Whose it is.
        kept: NodeId,
        /// Who wants it.
        wanted: NodeId,
    },
}

/// Where a log is kept.
pub trait Storage: Send {
    /// What was kept; nothing for a new log.
    ///
    /// # Errors
    /// If it cannot be read, or was damaged.
    fn load(&mut self) -> Result<Option<Kept>, StorageError>;

    /// Keeps a batch whole or not at all, and if it [must last](Batch::must_last), until the disk has it.
    ///
    /// # Errors
    /// If it cannot be. The log says nothing more from then on, so that nobody counts on it.
    fn write(&mut self, batch: &Batch) -> Result<(), StorageError>;
}

impl Kept {
    /// What is kept after a batch.
    pub(crate) fn apply(&mut self, batch: &Batch) {
        self.node = batch.node.unwrap_or(self.node);
        self.promise = batch.promise.unwrap_or(self.promise);
        self.votes_from = batch.votes_from.unwrap_or(self.votes_from);
        if let Some(cut) = batch.cut_after {
            self.entries.retain(|(index, _)| *index <= cut);
        }
        if let Some((index, base)) = &batch.base {
            self.base.clone_from(base);
            self.entries.retain(|(at, _)| at > index);
        }
        self.entries.extend(batch.append.iter().cloned());
        self.decided = batch.decided.unwrap_or(self.decided);
    }
}

/// Keeps nothing: for a node that has no data directory. It must not come back as the voter it was.
#[derive(Debug, Default)]
pub struct Nowhere;

impl Storage for Nowhere {
    fn load(&mut self) -> Result<Option<Kept>, StorageError> {
        Ok(None)
    }

    fn write(&mut self, _batch: &Batch) -> Result<(), StorageError> {
        Ok(())
    }
}

/// FNV-1a: enough for a disk that tears and does not scheme.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
