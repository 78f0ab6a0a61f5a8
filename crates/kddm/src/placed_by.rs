//! Where the objects of a set have their home.

use kddm_core::id::PlacementPolicy;
use serde::{Deserialize, Serialize};

/// Where the objects of a set have their home.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum PlacedBy {
    /// By rendezvous hashing over all members.
    #[default]
    Hash,
    /// At one node, as long as it is a member.
    Fixed(u16),
    /// At the node that the top 16 bits of the object id name, as long as it is a member.
    Embedded,
}

impl PlacedBy {
    pub(crate) fn policy(self) -> PlacementPolicy {
        match self {
            PlacedBy::Hash => PlacementPolicy::Hash,
            PlacedBy::Fixed(node) => PlacementPolicy::Fixed(kddm_core::id::NodeId(node)),
            PlacedBy::Embedded => PlacementPolicy::Embedded,
        }
    }
}
