//! The few nodes that keep a copy of an object so that it survives its owner.

use crate::id::NodeId;

/// Replicas of one object: three bits of a set's number say how many there are to be.
pub const MOST_REPLICAS: usize = 7;

/// A small set of nodes in place, in ascending order: what an owner knows of its replicas.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ReplicaSet {
    nodes: [NodeId; MOST_REPLICAS],
    len: u8,
}

impl ReplicaSet {
    /// The empty set.
    pub const fn new() -> ReplicaSet {
        ReplicaSet { nodes: [NodeId::NOBODY; MOST_REPLICAS], len: 0 }
    }

    /// Just that node, or none if it is nobody.
    pub fn of(node: NodeId) -> ReplicaSet {
        let mut set = ReplicaSet::new();
        if node.is_somebody() {
            set.insert(node);
        }
        set
    }

    /// The nodes, in ascending order.
    pub fn as_slice(&self) -> &[NodeId] {
        self.nodes.get(..self.len()).unwrap_or_default()
    }

    /// The nodes, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + use<> {
        let (nodes, len) = (self.nodes, self.len());
        nodes.into_iter().take(len)
    }

    /// How many.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `node` is one of them.
    pub fn contains(&self, node: NodeId) -> bool {
        self.as_slice().contains(&node)
    }

    /// Adds a node; false if it was there, or if there is no room.
    pub fn insert(&mut self, node: NodeId) -> bool {
        let len = self.len();
        if self.contains(node) || len == MOST_REPLICAS {
            return false;
        }
        if let Some(free) = self.nodes.get_mut(len) {
            *free = node;
        }
        self.len += 1;
        if let Some(used) = self.nodes.get_mut(..=len) {
            used.sort_unstable();
        }
        true
    }

    /// Keeps only the nodes for which `keep` is true.
    pub fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        let before = *self;
        *self = before.iter().filter(|node| keep(*node)).collect();
    }

    /// Takes a node out; says whether it was in.
    pub fn remove(&mut self, node: NodeId) -> bool {
        let was_in = self.contains(node);
        self.retain(|other| other != node);
        was_in
    }
}

/// Only the nodes that are in: what is free says nothing.
impl core::fmt::Debug for ReplicaSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("ReplicaSet").field(&self.as_slice()).finish()
    }
}

impl FromIterator<NodeId> for ReplicaSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> ReplicaSet {
        let mut set = ReplicaSet::new();
        for node in nodes {
            set.insert(node);
        }
        set
    }
}
