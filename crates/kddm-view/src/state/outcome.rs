//! What becomes of a change.

use kddm_core::id::{Incarnation, NodeId, Placement};
use thiserror::Error;

use super::MEMBERS;
use crate::frozen::FREEZES;

/// What a change has done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// There is a new view.
    Changed,
    /// It was so already.
    Unchanged,
    /// The change was decided, and means nothing in this state. It is refused on every member.
    Refused(Refused),
}

/// Why a change is refused. The state is as it was.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Refused {
    /// Another process has that number.
    #[error("node id {node} is taken by the process at {address}: choose another id, or stop that process first")]
    NodeIdTaken {
        /// The number.
        node: NodeId,
        /// Where the first process listens.
        address: String,
    },
    /// The cluster is full.
    #[error("the cluster has {MEMBERS} members, which is the most it can have")]
    Full,
    /// A change for a life that has ended, or never began.
    #[error("life {} of node {node} is not a member (any more)", incarnation.0)]
    NotAMember {
        /// The node.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// It shares objects that would be lost with it.
    #[error(
        "node {node} shares objects that would be lost with it: it has to hand them over first; \
         if its process is gone, stop all nodes and start the cluster again"
    )]
    SharesObjects {
        /// The node.
        node: NodeId,
    },
    /// Nobody is there to take over what it has.
    #[error("node {node} is the last one that shares objects: what it holds ends with it, or start another node first")]
    LastHome {
        /// The node.
        node: NodeId,
    },
    /// Only a node that stays can decide.
    #[error("node {node} cannot decide who is a member: it must be possible, and not on its way out")]
    CannotDecide {
        /// The node.
        node: NodeId,
    },
    /// It decides the changes.
    #[error("node {node} decides who is a member: another node has to take that over before it leaves")]
    Voter {
        /// The node.
        node: NodeId,
    },
    /// It came in to vote, and to share nothing.
    #[error("node {node} is a witness, which shares no objects: start it without that setting")]
    Witness {
        /// The node.
        node: NodeId,
    },
    /// Nobody could be the home of an object.
    #[error("no node is possible yet, so that nobody could keep objects")]
    NoHome,
    /// The members are others by now.
    #[error("what was judged in placement {} does not hold in placement {}: judge again", judged.0, now.0)]
    JudgedBefore {
        /// When it was judged.
        judged: Placement,
        /// The placement by now.
        now: Placement,
    },
    /// As many sets are frozen as may be.
    #[error("{FREEZES} freezes of sets are in force, which is the most there can be: thaw one first")]
    TooManyFreezes,
    /// Numbers are used up; they never repeat.
    #[error("this cluster has used up its {what}: stop all nodes and start a new cluster")]
    UsedUp {
        /// Which.
        what: &'static str,
    },
}

/// An entry that does not follow the last one. Nothing was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("entry {found} of the view log came where entry {expected} was due")]
pub struct Gap {
    /// The entry that is due.
    pub expected: u64,
    /// The one that came.
    pub found: u64,
}
