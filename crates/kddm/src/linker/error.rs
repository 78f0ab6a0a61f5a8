//! Why what stands behind a set could not be read or written.

use super::store::Stamp;
use crate::error::Fate;

/// Why a linker or its store has no answer, and what became of the object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkerError {
    /// The store cannot be reached, or answers with an error of its own. Where that was for a first touch, the object is not
    /// there still.
    #[error("the {kind} store: {reason}")]
    Store {
        /// What kind of store.
        kind: &'static str,
        /// What it says, and what to do, if that is known.
        reason: String,
    },
    /// What is kept of an object is not what was written: its checksum differs, or it has no shape.
    #[error("what the {kind} store keeps of object {object} is damaged: {reason}; restore it, or remove the object")]
    Damaged {
        /// What kind of store.
        kind: &'static str,
        /// Which object.
        object: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The set has a linker, and this node was not given one of that name. Nothing was opened.
    #[error("set {set:?} has linker {linker:?}, which this node lacks; open it with `.linker({linker:?}, ..)`")]
    Missing {
        /// The set.
        set: String,
        /// The name of its linker.
        linker: String,
    },
    /// The linker did not answer a first touch in time. The object is not there still.
    #[error("linker {linker:?} did not read object {object} within {limit_ms} ms")]
    TimedOut {
        /// Its name.
        linker: String,
        /// The object.
        object: u64,
        /// The limit that was in force.
        limit_ms: u64,
    },
    /// The linker panicked, or what makes a first value did. Nothing was made; of a write nobody knows what is kept, and
    /// nothing was published.
    #[error("linker {linker:?} panicked at object {object}; what it said is in the log")]
    Panicked {
        /// Its name.
        linker: String,
        /// The object.
        object: u64,
        /// It was to write: something may be kept.
        was_writing: bool,
    },
    /// A newer write is kept already, and nothing was published: another cluster has claimed the store, or this node was
    /// expelled and has not heard of it. Look which, before anything is put again.
    #[error(
        "linker {linker:?} has a newer write of object {object} ({by:?}), and nothing was published; has another cluster \
         taken the store over?"
    )]
    Refused {
        /// Its name.
        linker: String,
        /// The object.
        object: u64,
        /// The stamp of what is kept.
        by: Stamp,
    },
    /// The linker could not write. Nothing was published, the old value stays; it may be kept all the same, until the next
    /// put: grab the object and put again.
    #[error("linker {linker:?} could not write object {object}: {reason}; nothing was published")]
    NotWritten {
        /// Its name.
        linker: String,
        /// The object.
        object: u64,
        /// What it says.
        reason: String,
    },
    /// It was or will be kept, and nobody has seen it: the linker did not answer in time, or the set, the node or its lease
    /// ended meanwhile.
    #[error("linker {linker:?} and object {object}: {reason}; it may have happened, or not")]
    Unconfirmed {
        /// Its name.
        linker: String,
        /// The object.
        object: u64,
        /// What stood in the way.
        reason: String,
    },
    /// Too many operations wait for threads of the linker. Nothing was begun; wait for some to end.
    #[error("{waiting} operations wait for linker {linker:?}, no more are taken; wait for some to end")]
    Overloaded {
        /// Its name.
        linker: String,
        /// How many.
        waiting: u64,
    },
    /// Too much of what was put before is still to be written: the store is too slow, or does not answer. Nothing was
    /// published, the old value stays. Wait for [`Set::sync`](crate::Set::sync), or look what the log says of the store.
    #[error(
        "linker {linker:?} has yet to write {waiting_bytes} bytes of {waiting} objects, the oldest for {oldest_ms} ms; \
         {limit_bytes} bytes may wait; nothing was published"
    )]
    Behind {
        /// Its name.
        linker: String,
        /// How many objects wait.
        waiting: u64,
        /// Their bytes.
        waiting_bytes: u64,
        /// How many may.
        limit_bytes: u64,
        /// For how long the oldest has waited.
        oldest_ms: u64,
    },
    /// A value is larger than all that may wait to be written in its set: no wait makes room for it. Nothing was published,
    /// the old value stays.
    #[error(
        "object {object} has {bytes} bytes, and for linker {linker:?} {limit_bytes} bytes may wait to be written; nothing was \
         published; make the set with more `bytes`, or with `WritePolicy::Through`"
    )]
    TooLarge {
        /// Its name.
        linker: String,
        /// The object.
        object: u64,
        /// Its encoded bytes.
        bytes: u64,
        /// How many may wait.
        limit_bytes: u64,
    },
    /// What was put was not all written in time. It waits still, and is tried again.
    #[error("linker {linker:?} has yet to write {waiting} objects after {limit_ms} ms; they are tried again")]
    NotSynced {
        /// Its name.
        linker: String,
        /// How many objects wait.
        waiting: u64,
        /// The limit that was in force.
        limit_ms: u64,
    },
    /// Nothing behind the set keeps what is put: the object would be gone. Nothing was changed.
    #[error(
        "nothing behind set {set:?} keeps what is put, so nothing can be evicted from it; `remove` the object if it may go"
    )]
    NotKept {
        /// The set.
        set: String,
    },
    /// Another node was to read the object, as the linker wants it ([`FirstOwner`](super::FirstOwner)), or was asked to by one
    /// without the linker, and could not. The object is not there still.
    #[error("node {node} was to read object {object} for linker {linker:?}, and could not: {reason}")]
    Elsewhere {
        /// Its name.
        linker: String,
        /// The object.
        object: u64,
        /// The node that was asked.
        node: u16,
        /// What it says, or what stood in the way.
        reason: String,
    },
    /// The linker has no thread to run on. Nothing was begun.
    #[error("no thread for linker {linker:?}: {reason}")]
    NoThread {
        /// Its name.
        linker: String,
        /// What the system says.
        reason: String,
    },
}

impl LinkerError {
    pub(crate) fn fate(&self) -> Fate {
        match self {
            LinkerError::NotWritten { .. } | LinkerError::Unconfirmed { .. } => Fate::Unknown,
            LinkerError::Panicked { was_writing: true, .. } => Fate::Unknown,
            _ => Fate::NothingHappened,
        }
    }

    pub(crate) fn number(&self) -> u16 {
        match self {
            LinkerError::Store { .. } => 1,
            LinkerError::Damaged { .. } => 2,
            LinkerError::Missing { .. } => 3,
            LinkerError::TimedOut { .. } => 4,
            LinkerError::Panicked { .. } => 5,
            LinkerError::Refused { .. } => 6,
            LinkerError::NotWritten { .. } => 7,
            LinkerError::Unconfirmed { .. } => 8,
            LinkerError::Overloaded { .. } => 9,
            LinkerError::NoThread { .. } => 10,
            LinkerError::Behind { .. } => 11,
            LinkerError::NotSynced { .. } => 12,
            LinkerError::NotKept { .. } => 13,
            LinkerError::Elsewhere { .. } => 14,
            LinkerError::TooLarge { .. } => 15,
        }
    }
}
