//! Why a call has no answer, and whether its handler may have run.

use crate::error::Fate;
use crate::rpc::engine::{STREAMS_OF, STREAMS_TO};

/// Why a call to another node has no answer. Each variant says whether the handler may have run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// Nothing was sent.
    #[error("node {node} is not a member of this cluster")]
    NotAMember {
        /// The number that was given.
        node: u16,
    },
    /// The node has no service of that name. No handler ran.
    #[error("node {node} has no service {service:?}; it is there once the node has registered it")]
    NoService {
        /// The node.
        node: u16,
        /// The name.
        service: String,
    },
    /// No connection came about. No handler ran.
    #[error("node {node} cannot be called: {reason}")]
    Unreachable {
        /// The node.
        node: u16,
        /// What stood in the way.
        reason: String,
    },
    /// The node went away during the call. The handler may have run.
    #[error("node {node} went away during a call of {service:?}: {reason}")]
    Gone {
        /// The node.
        node: u16,
        /// The name.
        service: String,
        /// How its connection ended.
        reason: String,
    },
    /// The limit of the call is over. The handler may have run, or run still.
    #[error("node {node} did not answer a call of {service:?} within {limit_ms} ms")]
    TimedOut {
        /// The node.
        node: u16,
        /// The name.
        service: String,
        /// The limit that was in force.
        limit_ms: u64,
    },
    /// A queue on the way is full. No handler ran; wait for some calls to end.
    #[error("the call of {service:?} at node {node} was refused: {what}; wait for some calls to end")]
    Overloaded {
        /// The node that was to be called.
        node: u16,
        /// The name.
        service: String,
        /// Which limit was met.
        what: String,
    },
    /// The handler ran and failed, or panicked.
    #[error("{service:?} at node {node}: {reason}")]
    Failed {
        /// The node.
        node: u16,
        /// The name.
        service: String,
        /// What the handler says.
        reason: String,
    },
    /// The question is larger than a call may be. Nothing was sent.
    #[error("{bytes} bytes in one call or item; at most {limit_bytes} are allowed, share objects instead")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The other side of a stream takes nothing any more, or has given it up. What was sent last may have arrived, or not.
    #[error("node {node} has dropped its end of a stream of {service:?}")]
    Dropped {
        /// The node.
        node: u16,
        /// The name.
        service: String,
    },
    /// A wait for the other side of a stream has come to its limit. Nothing was lost, and the stream goes on.
    #[error("node {node} has {what} nothing in a stream of {service:?} within {limit_ms} ms; the stream goes on")]
    Idle {
        /// The node.
        node: u16,
        /// The name.
        service: String,
        /// The limit that was in force.
        limit_ms: u64,
        /// "said" or "taken".
        what: &'static str,
    },
    /// A program that is attached to a node does not watch whole sets.
    #[error("a program that is attached to a node watches no whole sets; watch objects, or join the cluster as a node")]
    NoStreams,
    /// A typed question or answer does not encode or decode. The handler of an answer ran.
    #[error("{what} of {service:?} at node {node}: {reason}")]
    Codec {
        /// The node.
        node: u16,
        /// The name.
        service: String,
        /// "the question", "the answer" or "an item".
        what: &'static str,
        /// What the codec says.
        reason: String,
    },
    /// This node has that service already.
    #[error("this node has a service {service:?} already; unregister it first")]
    AlreadyRegistered {
        /// The name.
        service: String,
    },
    /// A name is 1 to 64 bytes without control characters.
    #[error("a service's name has 1 to 64 bytes without control characters, {service:?} has not")]
    BadName {
        /// The name.
        service: String,
    },
}

impl RpcError {
    /// Whether as many streams are open as may be: that ends with one of them, and not by itself.
    pub(crate) fn has_no_stream_left(&self) -> bool {
        matches!(self, RpcError::Overloaded { what, .. } if what == STREAMS_TO || what == STREAMS_OF)
    }

    pub(crate) fn fate(&self) -> Fate {
        match self {
            RpcError::Gone { .. } | RpcError::TimedOut { .. } | RpcError::Failed { .. } => Fate::Unknown,
            RpcError::Dropped { .. } => Fate::Unknown,
            RpcError::Codec { what, .. } if *what == ANSWER => Fate::Happened,
            _ => Fate::NothingHappened,
        }
    }

    pub(crate) fn number(&self) -> u16 {
        match self {
            RpcError::NotAMember { .. } => 1,
            RpcError::NoService { .. } => 2,
            RpcError::Unreachable { .. } => 3,
            RpcError::Gone { .. } => 4,
            RpcError::TimedOut { .. } => 5,
            RpcError::Overloaded { .. } => 6,
            RpcError::Failed { .. } => 7,
            RpcError::TooLarge { .. } => 8,
            RpcError::Codec { .. } => 9,
            RpcError::AlreadyRegistered { .. } => 10,
            RpcError::BadName { .. } => 11,
            RpcError::Dropped { .. } => 12,
            RpcError::Idle { .. } => 13,
            RpcError::NoStreams => 14,
        }
    }
}

/// What a [`RpcError::Codec`] calls a question.
pub(crate) const QUESTION: &str = "the question";
/// What a [`RpcError::Codec`] calls an answer.
pub(crate) const ANSWER: &str = "the answer";
/// What a [`RpcError::Codec`] calls an item of a stream.
pub(crate) const ITEM: &str = "an item";
