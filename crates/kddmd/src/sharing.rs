//! Begin and end sharing objects, for one node or all: the one place where the admin tool's
//! `cluster start` and `cluster stop` meet the library.

use kddm::Node;
use serde::Serialize;

use crate::admin::protocol::Failure;

/// How far a change is. Whoever asked for it sees it while it goes on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Progress {
    /// The node that changes.
    pub node: u16,
    /// Objects that are still to be handed over.
    pub objects_left: usize,
}

/// Has `which` of the online nodes, or all of them, become possible.
///
/// # Errors
/// Always, until the library can hand homes to a member that comes later.
pub fn start(node: &Node, which: Option<u16>, _told: &mut dyn FnMut(Progress)) -> Result<(), Failure> {
    refuse(node, which, "begin to share objects when it is asked", "start its daemon anew, and it shares at once")
}

/// Has `which` node, or all, hand over what they have and step back to online.
///
/// # Errors
/// Always, until the library can hand over what a member owns.
pub fn stop(node: &Node, which: Option<u16>, _told: &mut dyn FnMut(Progress)) -> Result<(), Failure> {
    refuse(node, which, "stop sharing while it stays online", "stop its daemon with SIGTERM instead")
}

fn refuse(node: &Node, which: Option<u16>, what: &str, instead: &str) -> Result<(), Failure> {
    if let Some(wanted) = which
        && !node.members().iter().any(|member| member.id == wanted)
    {
        return Err(Failure::new(format!("node {wanted} is no member; `kddmadm nodes` shows who is")));
    }
    Err(Failure::new(format!("a node cannot {what} in this version, and nothing was changed; {instead}")))
}
