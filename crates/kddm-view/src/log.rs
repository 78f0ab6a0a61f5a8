//! The agreed sequence of changes, whoever agrees on it and how.

use kddm_core::id::{NodeId, Time};
use thiserror::Error;

use crate::change::{Change, MalformedChange};
use crate::state::State;
use crate::voters::storage::StorageError;

/// One decided entry. Indices begin at 1 and have no gaps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decided {
    /// Its place in the log.
    pub index: u64,
    /// What was decided. [`State`](crate::State) may still refuse it, on every
    /// member alike.
    pub change: Change,
}

/// Bytes for the log of another node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// The receiver.
    pub to: NodeId,
    /// What its [`ViewLog::step`] is to be given.
    pub message: Vec<u8>,
}

/// Why the log did not do what it was asked. It has not changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The change cannot be meant.
    #[error(transparent)]
    Malformed(#[from] MalformedChange),
    /// Too many changes of this node wait to be decided.
    #[error("{waiting} changes of this node wait to be decided already: try again when one is")]
    TooManyProposals {
        /// How many.
        waiting: usize,
    },
    /// A message that no log sends. Count it and go on.
    #[error("a message of node {from} for the view log was dropped: {what}")]
    BadMessage {
        /// The sender.
        from: NodeId,
        /// What was wrong with it.
        what: &'static str,
    },
    /// The entries asked for are not kept any more: the whole state is needed.
    #[error("the view log begins with entry {first}: start from a state that is at least that new")]
    Forgotten {
        /// The oldest entry that is still there.
        first: u64,
    },
    /// A follower has decided entries that the voter has not: the voter came back without its log.
    #[error(
        "node {follower} has seen entry {seen} of the view log, and its voter only entry {last}: \
         the voter has lost its log, stop all nodes and start the cluster again"
    )]
    FollowerAhead {
        /// The follower.
        follower: NodeId,
        /// The last entry that it has.
        seen: u64,
        /// The last entry of the voter.
        last: u64,
    },
    /// The log cannot be kept. This node decides and follows no more, so that nobody counts on it.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Something else than members keeps the log, and does not answer: it may do later.
    #[error("{reason}")]
    Unreachable {
        /// What is wrong, and what to do.
        reason: String,
    },
    /// What something else than members keeps is no log that this node can have.
    #[error("{reason}")]
    Elsewhere {
        /// What is wrong, and what to do.
        reason: String,
    },
    /// More nodes want to follow than a cluster can have.
    #[error("node {from} cannot follow the view log: {limit} nodes do already")]
    TooManyFollowers {
        /// Who wants to.
        from: NodeId,
        /// How many may.
        limit: usize,
    },
    /// This kind of log cannot have those voters.
    #[error("this view log has one voter, node {voter}: name just one")]
    OneVoter {
        /// The voter.
        voter: NodeId,
    },
}

/// A replicated log of view changes, sans-IO.
///
/// Give it every message that arrives and the time now and then; after each call send what
/// [`take_outgoing`](Self::take_outgoing) returns. Messages may be lost, repeated or reordered.
pub trait ViewLog: Send {
    /// Asks for a change to be decided. Success means that it was noted, and that this node asks
    /// until it is decided.
    fn propose(&mut self, change: Change) -> Result<(), LogError>;

    /// Takes in a message of another node's log. Any bytes are allowed.
    fn step(&mut self, from: NodeId, message: &[u8]) -> Result<(), LogError>;

    /// Takes in the time, so that what was lost is asked for again.
    fn tick(&mut self, now: Time);

    /// The messages to send, oldest first. They are handed out once.
    fn take_outgoing(&mut self) -> Vec<Outgoing>;

    /// The decided entries after `index`, as far as they are known here, in order.
    fn decided_since(&self, index: u64) -> Result<Vec<Decided>, LogError>;

    /// The last entry that `node` is known to have: all of them only where this node decides.
    fn known_by(&self, node: NodeId) -> u64;

    /// That state was taken in whole, with the entries that it has applied: goes on behind them.
    fn skip_to(&mut self, state: &State);

    /// A state to go on from where entries are [forgotten](LogError::Forgotten), if this log keeps one.
    fn state(&self) -> Option<&State>;

    /// Asks for other voters.
    fn reconfigure(&mut self, voters: &[NodeId]) -> Result<(), LogError>;

    /// Says who decides in the state up to the last entry applied. Call it after every application:
    /// the state may have refused what the log has decided.
    fn voters_are(&mut self, voters: &[NodeId]);
}
