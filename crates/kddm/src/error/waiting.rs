//! Whom somebody waited for whose limit was over.

use std::fmt;

/// Who a wait was for when its limit ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitingFor {
    /// Threads of this node hold the object.
    LocalHolders,
    /// A node was asked and has not answered.
    Node(u16),
    /// That node has frozen the set: nobody writes an object of it, or makes one, until it is thawed. What waits
    /// was not begun.
    Frozen(u16),
    /// A node is needed that cannot be reached.
    Unreachable(u16),
    /// A node was asked and has not answered, and another cannot be reached: it may have the object.
    Behind {
        /// Who was asked.
        asked: u16,
        /// Who cannot be reached.
        unreachable: u16,
    },
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitingFor::LocalHolders => f.write_str("threads of this node hold the object"),
            WaitingFor::Node(node) => write!(f, "node {node} was asked and has not answered yet"),
            WaitingFor::Frozen(node) => {
                write!(f, "node {node} has frozen the set, and nobody writes it until it is thawed")
            }
            WaitingFor::Unreachable(node) => write!(f, "node {node} is unreachable"),
            WaitingFor::Behind { asked, unreachable } => write!(
                f,
                "node {asked} was asked and has not answered yet; \
                 node {unreachable} is unreachable and may have the object"
            ),
        }
    }
}
