//! Why a set is not frozen.

/// Why a set is not, or not any more, frozen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FreezeError {
    /// A member has not come to an end with what is written there, or cannot be reached. The set is frozen for nobody:
    /// try again, or give the writers more time.
    #[error("set {set:?} could not be frozen within {limit_ms} ms, node {node}: {reason}; it is as it was")]
    Written {
        /// The set.
        set: String,
        /// Who was waited for.
        node: u16,
        /// The limit.
        limit_ms: u64,
        /// What is in the way there.
        reason: String,
    },
    /// As many sets are frozen as may be.
    #[error("{limit} freezes of sets are in force in the cluster, which is the most there can be: thaw one first")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// It is over: the node that had it was no member for a while, or it was thawed.
    #[error("set {set:?} is not frozen by this any more: others may have written since; freeze it again")]
    Ended {
        /// The set.
        set: String,
    },
    /// What was to be done would change a set that somebody has frozen. Nothing was begun.
    #[error("node {node} has frozen set {set:?}: thaw it first, or wait until it is thawed")]
    Frozen {
        /// The set.
        set: String,
        /// Who has frozen it.
        node: u16,
    },
    /// As many wait for a thaw at one lane of this node as may. Nothing was begun: try again when the set is thawed.
    #[error("node {node} has frozen the set, and {limit} who would write wait here for a thaw already: wait for that")]
    Crowded {
        /// Who has frozen it.
        node: u16,
        /// The limit, the `outstanding_limit` of the node.
        limit: usize,
    },
}

impl FreezeError {
    pub(crate) fn number(&self) -> u16 {
        match self {
            FreezeError::Written { .. } => 1,
            FreezeError::TooMany { .. } => 2,
            FreezeError::Ended { .. } => 3,
            FreezeError::Frozen { .. } => 4,
            FreezeError::Crowded { .. } => 5,
        }
    }
}
