//! A small sorted set of nodes: copy sets, expected acks, replica lists.

use alloc::vec::Vec;

use crate::id::NodeId;
use crate::io::NoMemory;

/// A set of nodes, sorted, so that two equal sets are equal in memory and iteration has one order.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeSet(Vec<NodeId>);

impl NodeSet {
    /// The empty set; allocates nothing.
    pub const fn new() -> NodeSet {
        NodeSet(Vec::new())
    }

    /// Makes room for `more` nodes, so that inserting them cannot fail.
    pub fn reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        self.0.try_reserve(more).map_err(|_| NoMemory)
    }

    /// Adds a node. Room must have been [reserved](Self::reserve) where memory may be refused.
    pub fn insert(&mut self, node: NodeId) -> bool {
        match self.0.binary_search(&node) {
            Ok(_) => false,
            Err(at) => {
                self.0.insert(at, node);
                true
            }
        }
    }

    /// Takes a node out; says whether it was in.
    pub fn remove(&mut self, node: NodeId) -> bool {
        match self.0.binary_search(&node) {
            Ok(at) => {
                self.0.remove(at);
                true
            }
            Err(_) => false,
        }
    }

    /// Whether `node` is in the set.
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.binary_search(&node).is_ok()
    }

    /// Keeps only the nodes for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(NodeId) -> bool) {
        self.0.retain(|node| keep(*node));
    }

    /// Takes out every node that is also in `other`.
    pub fn subtract(&mut self, other: &NodeSet) {
        self.0.retain(|node| !other.contains(*node));
    }

    /// The nodes in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().copied()
    }

    /// How many nodes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Empties the set and keeps its memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The sorted nodes.
    pub fn as_slice(&self) -> &[NodeId] {
        &self.0
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> NodeSet {
        let mut set = NodeSet::new();
        for node in nodes {
            set.insert(node);
        }
        set
    }
}
