//! Why a barrier, a latch or a source of ids gave something else than what it is for.

/// Why a barrier, a latch or a source of ids gave something else than what it is for.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinationError {
    /// A party can come no more, or somebody has reset the barrier. Everybody who waits is told, and everybody who comes
    /// until it is [reset](crate::Barrier::reset), or until nobody of those who took part is left.
    #[error("barrier {name:?} is broken in its generation {generation}: {why}")]
    BarrierBroken {
        /// The barrier.
        name: String,
        /// Which of its uses, from 0: what a reset has to name.
        generation: u64,
        /// What has broken it.
        why: WhyBroken,
    },
    /// Somebody who was to count down can do so no more. It stays so: make another latch.
    #[error("latch {name:?} is broken with {remaining} still to count down: {why}")]
    LatchBroken {
        /// The latch.
        name: String,
        /// How much was still to come.
        remaining: u64,
        /// What has broken it.
        why: WhyBroken,
    },
    /// Not all parties have come within the limit. This one has been taken back, or is just being.
    #[error("not all parties have come to barrier {name:?} within {limit_ms} ms; this one is taken back")]
    NotAllArrived {
        /// The barrier.
        name: String,
        /// The limit that was in force.
        limit_ms: u64,
    },
    /// The latch has not come to zero within the limit.
    #[error("latch {name:?} has not come to zero within {limit_ms} ms")]
    NotReached {
        /// The latch.
        name: String,
        /// The limit that was in force.
        limit_ms: u64,
    },
    /// It exists with another setting. Nothing was changed.
    #[error("{name:?} was made with {has}, not with {wanted}")]
    Differs {
        /// Its name.
        name: String,
        /// What it has.
        has: String,
        /// What was asked for.
        wanted: String,
    },
    /// Somebody has removed it, or it was lost with members.
    #[error("{name:?} does not exist any more; open it again to make it anew")]
    Removed {
        /// Its name.
        name: String,
    },
    /// There are too many. Nothing was changed.
    #[error("there are {limit} {what} already, which is the limit; remove some")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// All ids of this name in this epoch are used up. There are new ones when a member is lost, and under other names.
    #[error("the ids of {name:?} in epoch {epoch} are used up; use another name")]
    IdsExhausted {
        /// The name.
        name: String,
        /// The epoch.
        epoch: u32,
    },
    /// What is to be reserved cannot be the name of anything. Nothing was changed.
    #[error("{name:?} cannot be a {what}: it has 1 to {limit_bytes} bytes")]
    BadName {
        /// What was asked for.
        name: String,
        /// What it was to be.
        what: &'static str,
        /// How long it may be.
        limit_bytes: usize,
    },
    /// This process does not use the name any more: it was lost with members, or what it was reserved by has ended.
    #[error("name {name:?} of class {class:?} is not used here; reserve it again")]
    NotReserved {
        /// The class.
        class: String,
        /// The name.
        name: String,
    },
}

/// What has broken a barrier or a latch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WhyBroken {
    /// A node took part, and has been lost, or has left.
    #[error("node {node} took part, and has been lost or has left")]
    NodeGone {
        /// The node.
        node: u16,
    },
    /// A program that was attached to a node took part, and has ended.
    #[error("a program at node {node} took part, and has ended")]
    ProgramEnded {
        /// The node.
        node: u16,
    },
    /// Somebody has reset it.
    #[error("it was reset")]
    Reset,
}

impl WhyBroken {
    pub(super) fn by(party: super::Party) -> WhyBroken {
        match party.program {
            None => WhyBroken::NodeGone { node: party.node },
            Some(_) => WhyBroken::ProgramEnded { node: party.node },
        }
    }

    /// The node that is gone, or whose program is.
    pub fn node(&self) -> Option<u16> {
        match self {
            WhyBroken::NodeGone { node } | WhyBroken::ProgramEnded { node } => Some(*node),
            WhyBroken::Reset => None,
        }
    }
}

impl CoordinationError {
    pub(crate) fn number(&self) -> u16 {
        match self {
            CoordinationError::BarrierBroken { .. } => 1,
            CoordinationError::LatchBroken { .. } => 2,
            CoordinationError::NotAllArrived { .. } => 3,
            CoordinationError::NotReached { .. } => 4,
            CoordinationError::Differs { .. } => 5,
            CoordinationError::Removed { .. } => 6,
            CoordinationError::TooMany { .. } => 7,
            CoordinationError::IdsExhausted { .. } => 8,
            CoordinationError::BadName { .. } => 9,
            CoordinationError::NotReserved { .. } => 10,
        }
    }
}
