//! What can be seen of a shard: by checkers, by tests, by `kddmadm`.

use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use super::*;
use crate::message::RequestKind;

/// What can be seen of one object on one node; for checkers, tests and `kddmadm`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inspection {
    /// The main role.
    pub main: Main,
    /// What local threads may do.
    pub access: Access,
    /// Whether there is a value here.
    pub has_value: bool,
    /// The greatest tenure known.
    pub seen: Tenure,
    /// Who had it.
    pub hint: NodeId,
    /// The copy set, in ascending order.
    pub sharers: Vec<NodeId>,
    /// Those whose ack is missing.
    pub owed: Vec<NodeId>,
    /// Requests waiting here.
    pub queue: usize,
    /// A wish of local threads is outstanding.
    pub wanting: bool,
    /// Whom it was sent to.
    pub asked: NodeId,
    /// The directory entry, at the home.
    pub entry: Option<Entry>,
    /// Requests parked at the home.
    pub parked: usize,
    /// The owner's replicas.
    pub replicas: ReplicaSet,
    /// The owner waits for its replicas.
    pub is_pushing: bool,
    /// Tenure and version of the replica that is kept here.
    pub replica: Option<(Tenure, Version)>,
    /// Tenure and version of what this node owned in a former life, and offers.
    pub offer: Option<(Tenure, Version)>,
}

/// What this node has to do with an object, as far as whoever looks at many of them needs it: a part of [`Inspection`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// The main role.
    pub main: Main,
    /// Others have copies of what this node owns.
    pub is_shared: bool,
    /// A wish of local threads is outstanding.
    pub wanting: bool,
    /// Local threads may write it.
    pub may_write: bool,
}

impl Shard {
    /// See [`Standing`].
    pub fn standing(&self, object: ObjectId) -> Standing {
        let Some(packed) = self.objects.get(object) else { return Standing::default() };
        let empty = Side::default();
        let side = if packed.has_side { self.sides.get(&object).unwrap_or(&empty) } else { &empty };
        let (main, is_shared) = (packed.main(side.requester), !side.sharers.is_empty());
        let may_write = packed.access == Access::Write;
        Standing { main, is_shared, wanting: side.want.is_some(), may_write }
    }

    /// How many replicas of others' objects are here.
    pub fn replica_count(&self) -> usize {
        self.replicas.iter().filter(|slot| !slot.is_offer()).count()
    }

    /// How many objects are here that this node owned in a former life, and of which nothing is decided yet.
    pub fn offer_count(&self) -> usize {
        self.replicas.iter().filter(|slot| slot.is_offer()).count()
    }

    /// The objects of which a replica or an offer is here, and nothing else is known.
    pub(crate) fn kept(&self) -> impl Iterator<Item = ObjectId> {
        self.replicas.iter().map(|slot| slot.object).filter(|object| self.objects.get(*object).is_none())
    }

    /// How many objects of which the newest version could not be proven present, at their home.
    pub fn lost_count(&self) -> usize {
        self.directory.iter().filter(|entry| entry.lost).count()
    }

    /// How many of the objects that this node owns have fewer replicas than that, or have some that still wait for
    /// their first copy.
    pub fn short_count(&self, wanted: usize) -> usize {
        let is_short = |packed: &&Packed| {
            let side = if packed.has_side { self.sides.get(&packed.key()) } else { None };
            let count = side.map_or_else(|| packed.replica(), |side| side.replicas_of(Some(packed))).len();
            count < wanted || side.is_some_and(|side| side.pushing.is_some_and(|pushing| pushing.fills))
        };
        self.objects.iter().filter(|packed| packed.is_owner() && packed.has_value).filter(is_short).count()
    }

    /// The objects of which a value, a copy or the ownership is here, in no particular order.
    pub fn holdings(&self) -> impl Iterator<Item = ObjectId> {
        let is_told = |packed: &&Packed| !packed.is_owner() || !mutated(Mutation::LeaveWithLastCopy);
        self.objects.iter().filter(|packed| packed.is_something()).filter(is_told).map(crate::table::Keyed::key)
    }

    /// What can be seen of an object here.
    pub fn inspect(&self, me: NodeId, object: ObjectId) -> Inspection {
        let packed = self.objects.get(object);
        let empty = Side::default();
        let side = self.sides.get(&object).unwrap_or(&empty);
        let implied = packed.map_or(Seen::default(), |p| p.implied_seen(me));
        let seen = side.seen.unwrap_or(implied);
        let mut sharers: Vec<NodeId> = Vec::with_capacity(side.sharers.len());
        sharers.extend(side.sharers.iter().map(|sharing| sharing.node));
        sharers.sort_unstable();
        Inspection {
            main: packed.map_or(Main::None, |p| p.main(side.requester)),
            access: packed.map_or(Access::None, |p| p.access),
            has_value: packed.is_some_and(|p| p.has_value),
            seen: seen.tenure,
            hint: seen.node,
            sharers,
            owed: side.owed.as_slice().to_vec(),
            queue: side.queue.len(),
            wanting: side.want.is_some(),
            asked: side.want.map_or(NodeId::NOBODY, |want| want.asked),
            entry: self.directory.get(object).copied(),
            parked: self.parked.get(&object).map_or(0, VecDeque::len),
            replicas: side.replicas_of(packed),
            is_pushing: side.pushing.is_some(),
            replica: self.replicas.get(object).and_then(Slot::replica),
            offer: self.replicas.get(object).and_then(Slot::offer),
        }
    }

    /// The nodes whose requests for an object wait here, in their order.
    pub fn waiting_for(&self, object: ObjectId) -> Vec<NodeId> {
        let waiting = self.sides.get(&object).into_iter().flat_map(|side| side.queue.iter());
        waiting.map(|request| request.id.node).collect()
    }

    /// Nothing is outstanding here (`I9`): no ghost, no wish, no waiting entry, no missing ack.
    pub fn is_at_rest(&self) -> bool {
        self.parked.is_empty()
            && self.recovery.is_at_rest()
            && self.sides.values().all(Side::is_at_rest)
            && !self.objects.iter().any(|packed| packed.is_ghost())
    }

    /// Whether an object is being removed, as far as this node has to do with it: it has asked for that and has no
    /// answer yet, or is the owner, or keeps the request for one.
    pub fn is_removing(&self) -> bool {
        let removes = |request: &Request| request.kind == RequestKind::Remove;
        let is_ending = |object: &ObjectId, side: &Side| {
            let main = self.objects.get(*object).map(|packed| packed.main(side.requester));
            matches!(main, Some(Main::Tombstone { .. }))
        };
        self.sides.iter().any(|(object, side)| {
            side.want.is_some_and(|want| want.kind == RequestKind::Remove)
                || side.queue.iter().any(removes)
                || is_ending(object, side)
        }) || self.parked.values().flatten().any(removes)
    }

    /// The objects of which this node holds or knows something, in no particular order.
    pub fn objects(&self) -> impl Iterator<Item = ObjectId> {
        self.objects.iter().map(crate::table::Keyed::key)
    }

    /// How many objects this node holds or knows something of.
    pub fn object_count(&self) -> usize {
        self.objects.len()
    }

    /// Inputs that this shard has handled so far.
    pub fn inputs(&self) -> u64 {
        self.inputs
    }

    /// How many objects exist in this shard, where this node is its home.
    pub fn directory_count(&self) -> usize {
        self.directory.len()
    }

    /// Bytes of memory held by records, directory and their indexes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Shard>() + self.objects.memory_bytes() + self.directory.memory_bytes() + self.sides.memory_bytes()
    }
}

/// Equality and hash are for checkers: maps count as maps, and idle memory does not count.
impl PartialEq for Shard {
    fn eq(&self, other: &Shard) -> bool {
        self.objects == other.objects
            && self.sides == other.sides
            && self.directory == other.directory
            && self.parked == other.parked
            && self.replicas == other.replicas
            && self.recovery == other.recovery
            && self.forgotten == other.forgotten
            && self.floor == other.floor
    }
}

impl Eq for Shard {}

impl Hash for Shard {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.objects.hash(state);
        let mut ids: Vec<ObjectId> = Vec::with_capacity(self.sides.len().max(self.parked.len()));
        ids.extend(self.sides.keys().copied());
        ids.sort_unstable();
        for id in &ids {
            self.sides.get(id).hash(state);
        }
        self.directory.hash(state);
        ids.clear();
        ids.extend(self.parked.keys().copied());
        ids.sort_unstable();
        for id in &ids {
            self.parked.get(id).hash(state);
        }
        self.replicas.hash(state);
        self.recovery.hash(state);
        (self.forgotten, self.floor).hash(state);
    }
}
