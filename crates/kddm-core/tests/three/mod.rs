//! Views of three nodes, which become fewer: one in each epoch.

use kddm_core::id::{Epoch, Incarnation, NodeId, Placement, Zone};
use kddm_core::view::{Member, NodeState, View};

pub fn view(epoch: u32, nodes: &[u16]) -> View {
    let member = |node: &u16| Member {
        id: NodeId(*node),
        incarnation: Incarnation(1),
        state: NodeState::Possible,
        zone: Zone::default(),
    };
    View {
        epoch: Epoch(epoch),
        placement: Placement(epoch),
        members: nodes.iter().map(member).collect(),
        homes: nodes.iter().map(|node| NodeId(*node)).collect(),
        failures: epoch - 1,
        fewest_homes: 3,
    }
}
