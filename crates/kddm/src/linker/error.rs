//! Why what stands behind a set could not be read or written.

/// Why a linker or its store has no answer. What became of the object is said by the operation that met it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkerError {
    /// The store cannot be reached, or answers with an error of its own.
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
}
