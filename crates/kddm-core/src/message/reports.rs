//! What nodes say of what they have, and of what was: parts of messages.

use crate::home::EntryState;
use crate::id::{Epoch, Incarnation, NodeId, ObjectId, Placement, Tenure, Version};
use crate::nodeset::NodeSet;
use crate::replicas::ReplicaSet;

/// A read copy, as whoever gave it knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadCopy {
    /// The object.
    pub object: ObjectId,
    /// The owner's tenure when it gave the copy.
    pub tenure: Tenure,
    /// The version of the copy.
    pub version: Version,
}

/// Read copies in one message: 24 KiB of them, and less than a millisecond for whoever looks at them.
pub const COPIES_AT_ONCE: usize = 1_024;

/// What a home knew of an object that was expelled since then and is back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Knew {
    /// The owner's tenure, or that of the removal.
    pub tenure: Tenure,
    /// The owner; nobody during a removal.
    pub owner: NodeId,
    /// Its life then.
    pub life: Incarnation,
    /// How sure the home was.
    pub state: EntryState,
    /// The newest version could not be proven present.
    pub lost: bool,
    /// Between which epochs it knew.
    pub since: Since,
}

/// What was decided of a shard between two epochs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Since {
    /// From the beginning of that epoch on.
    pub unbroken: Epoch,
    /// And before the beginning of that one.
    pub left: Epoch,
}

/// A loss of members, as those know it who were there.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Loss {
    /// The epoch that it began.
    pub epoch: Epoch,
    /// The placement of that view.
    pub placement: Placement,
    /// The members lost since all was whole, in that view.
    pub failures: u32,
    /// The fewest homes since then of any view before it.
    pub fewest_homes: u16,
    /// The homes before.
    pub before: NodeSet,
    /// The homes after.
    pub after: NodeSet,
    /// It is not remembered by itself, nor are those before it: only that it was the last one that sets with fewer
    /// replicas than there were failures were not covered for.
    pub forgotten: bool,
}

/// The kinds of copies that can become the object itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CopyKind {
    /// A valid read copy.
    Sharer,
    /// A replica.
    Replica,
    /// The bytes that a former owner keeps.
    Ghost,
    /// What an owner had kept that was expelled and is back.
    Offer,
}

/// The main role of a node, as it reports it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Role {
    /// Nothing is here.
    #[default]
    None,
    /// The owner.
    Owner,
    /// A valid read copy.
    Sharer,
    /// The bytes of a former owner.
    Ghost,
    /// A removal in progress.
    Tombstone,
}

/// What a node says of an object when a member was lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Have {
    /// Its main role.
    pub role: Role,
    /// The tenure of that role.
    pub tenure: Tenure,
    /// The version there.
    pub version: Version,
    /// The greatest tenure known there.
    pub seen: Tenure,
    /// The end of the object is what was seen last.
    pub removed: bool,
    /// A ghost: the tenure that was sent.
    pub sent: Tenure,
    /// A ghost: to whom; nobody, if that node is no member any more.
    pub to: NodeId,
    /// There is a value.
    pub has_value: bool,
    /// An owner: its replicas.
    pub replicas: ReplicaSet,
}
