//! Why an operation was not invoked, or nobody knows whether it was.

use crate::error::Fate;

/// Why an invoked operation has no result. Each variant says what became of the object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvokeError {
    /// This node has an operation of that name for the set already.
    #[error("this node has an operation {operation:?} for the set already; drop its handle first")]
    AlreadyRegistered {
        /// The name.
        operation: String,
    },
    /// A name is 1 to 64 bytes without control characters.
    #[error("an operation's name has 1 to 64 bytes without control characters, {operation:?} has not")]
    BadName {
        /// The name.
        operation: String,
    },
    /// A set has no room for more operations on this node.
    #[error("a set has at most {limit} operations on a node")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The arguments, or the result, are larger than they may be. Nothing was changed.
    #[error("{what} of {operation:?} has {bytes} bytes, at most {limit_bytes} are allowed; grab the object instead")]
    TooLarge {
        /// The operation.
        operation: String,
        /// "the arguments" or "the result".
        what: &'static str,
        /// Their size.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The arguments do not encode here, or do not decode at the owner as what the operation takes there.
    #[error("the arguments of {operation:?}: {reason}")]
    Arguments {
        /// The operation.
        operation: String,
        /// What the codec says.
        reason: String,
    },
    /// The result does not encode at the owner, and nothing was changed.
    #[error("the result of {operation:?} does not encode: {reason}")]
    ResultEncode {
        /// The operation.
        operation: String,
        /// What the codec says.
        reason: String,
    },
    /// The operation ran and its change is in force, but its result does not decode as what this node expects.
    #[error("the result of {operation:?} at node {node}: {reason}; the change is in force")]
    Result {
        /// The operation.
        operation: String,
        /// Where it ran.
        node: u16,
        /// What the codec says.
        reason: String,
    },
    /// The operation panicked. Nothing was changed.
    #[error("{operation:?} panicked at node {node}; nothing was changed")]
    Panicked {
        /// The operation.
        operation: String,
        /// Where it ran.
        node: u16,
    },
    /// The owner could not run or publish it. Nothing was changed.
    #[error("{operation:?} at node {node}: {reason}; nothing was changed")]
    Refused {
        /// The operation.
        operation: String,
        /// Where it was to run.
        node: u16,
        /// What the owner says.
        reason: String,
    },
    /// Too many calls wait for objects of the set at the owner. Nothing was changed; wait for some to end.
    #[error("{operation:?} at node {node}: {waiting} calls wait there for objects of the set; wait for some to end")]
    Overloaded {
        /// The operation.
        operation: String,
        /// Where it was to run.
        node: u16,
        /// How many.
        waiting: u64,
    },
    /// The owner did not answer. The operation ran once, or not at all, or will run yet before its limit.
    #[error("{operation:?} at node {node} was not confirmed: {reason}; it ran once, or not at all")]
    Unconfirmed {
        /// The operation.
        operation: String,
        /// Where it was to run.
        node: u16,
        /// What stood in the way.
        reason: String,
    },
}

impl InvokeError {
    pub(crate) fn fate(&self) -> Fate {
        match self {
            InvokeError::Unconfirmed { .. } => Fate::Unknown,
            InvokeError::Result { .. } => Fate::Happened,
            _ => Fate::NothingHappened,
        }
    }

    pub(crate) fn number(&self) -> u16 {
        match self {
            InvokeError::AlreadyRegistered { .. } => 1,
            InvokeError::BadName { .. } => 2,
            InvokeError::TooMany { .. } => 3,
            InvokeError::TooLarge { .. } => 4,
            InvokeError::Arguments { .. } => 5,
            InvokeError::ResultEncode { .. } => 6,
            InvokeError::Result { .. } => 7,
            InvokeError::Panicked { .. } => 8,
            InvokeError::Refused { .. } => 9,
            InvokeError::Overloaded { .. } => 10,
            InvokeError::Unconfirmed { .. } => 11,
        }
    }
}
