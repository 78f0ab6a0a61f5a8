//! Newtypes for everything that has an identity or an order.
//!
//! All of them are plain integers on the wire (little endian, see [`crate::frame`]).

use core::fmt;
use core::hash::{BuildHasher, Hasher};

/// A member's number, 1 to 65,535. Zero is [`NodeId::NOBODY`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeId(pub u16);

impl NodeId {
    /// No node: "the owner is unknown", or "nobody has it".
    pub const NOBODY: NodeId = NodeId(0);

    /// Whether this names a node at all.
    pub const fn is_somebody(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One life of a node, given out by the view log: a restart is a new incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Incarnation(pub u32);

/// Numbers the views that fence: a message of an older epoch is dropped (`I8`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub u32);

/// Numbers the assignments of shards to homes. It orders, and never fences.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Placement(pub u32);

/// The number of an object inside its set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ObjectId(pub u64);

/// What fails together: a rack, a room. Zero is none that anybody has named; the others are numbered in each
/// view anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Zone(pub u16);

impl Zone {
    /// Not named: such a node fails alone.
    pub const NONE: Zone = Zone(0);

    /// Whether what is in both fails together.
    pub fn meets(self, other: Zone) -> bool {
        self == other && self != Zone::NONE
    }
}

/// Counts the completed puts of one object. `(tenure, version)` orders all copies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Version(pub u64);

impl Version {
    /// The version after one more put.
    pub const fn next(self) -> Version {
        Version(self.0.wrapping_add(1))
    }
}

/// Numbers the ownerships of one object: `(epoch, n)`, compared lexicographically (`I3`).
///
/// Packed in 64 bits, 24 for the epoch and 40 for `n`, so that a comparison is one instruction.
/// It is also the fencing token of an ownership. `Tenure::NONE` is before every tenure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tenure(pub u64);

impl Tenure {
    const N_BITS: u32 = 40;
    /// Before every tenure: "never owned", "no hint".
    pub const NONE: Tenure = Tenure(0);

    /// The tenure `(epoch, n)`; the low 24 bits of the epoch and the low 40 bits of `n` count.
    pub const fn new(epoch: Epoch, n: u64) -> Tenure {
        Tenure(((epoch.0 as u64) << Self::N_BITS) | (n & ((1 << Self::N_BITS) - 1)))
    }

    /// The epoch in which the ownership began.
    pub const fn epoch(self) -> Epoch {
        Epoch((self.0 >> Self::N_BITS) as u32)
    }

    /// The number of the ownership inside its epoch's sequence.
    pub const fn n(self) -> u64 {
        self.0 & ((1 << Self::N_BITS) - 1)
    }

    /// The next tenure when ownership moves in `epoch`: `(epoch, n + 1)`. Always a greater one, also
    /// where a peer's newer epoch has been seen already (`I3`). None if a peer's lie has used them up:
    /// an object that moves every 20 microseconds needs eight months for that.
    pub fn next(self, epoch: Epoch) -> Option<Tenure> {
        let next = Tenure::new(self.epoch().max(epoch), self.n() + 1);
        (next > self).then_some(next)
    }
}

impl fmt::Debug for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch().0, self.n())
    }
}

impl fmt::Display for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Names one request for ever: the asking node, its incarnation, and a counter of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RequestId {
    /// Who asked.
    pub node: NodeId,
    /// In which of its lives.
    pub incarnation: Incarnation,
    /// Unique in that life; never zero.
    pub counter: u64,
}

/// A point in time in nanoseconds of the home's monotonic clock. The core never reads a clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// This time plus `nanoseconds`, at most the end of time.
    pub const fn after_ns(self, nanoseconds: u64) -> Time {
        Time(self.0.saturating_add(nanoseconds))
    }
}

/// The cluster-wide number of a set. It carries the placement policy, so that every member can
/// compute every home without looking anything up.
///
/// Bit 63 whether what is lost has never existed, 62-60 replicas, 59 whether an older version takes the place of what is lost, 58 whether objects leave by themselves, 57-56 policy, 55-40 the node of a fixed placement, 39-0 a counter that is
/// never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SetId(pub u64);

/// How the home of an object is found. A pure function of (placement, set, object).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum PlacementPolicy {
    /// Rendezvous hashing of the shard over all homes.
    #[default]
    Hash,
    /// One node for all objects; falls back to `Hash` while that node is not a home.
    Fixed(NodeId),
    /// The top 16 bits of the object id name the node; falls back to `Hash` likewise.
    Embedded,
}

impl SetId {
    const COUNTER_BITS: u64 = (1 << 40) - 1;

    /// The set of set descriptions and names, present from the first view.
    pub const SYSTEM: SetId = SetId(1).with_replicas(2);

    /// The first counter given to a set of an application.
    pub const FIRST_COUNTER: u64 = 16;

    /// Builds a set id from its policy and its counter.
    pub const fn new(policy: PlacementPolicy, counter: u64) -> SetId {
        let (tag, node) = match policy {
            PlacementPolicy::Hash => (0, 0),
            PlacementPolicy::Fixed(node) => (1, node.0),
            PlacementPolicy::Embedded => (2, 0),
        };
        SetId((tag << 56) | ((node as u64) << 40) | (counter & Self::COUNTER_BITS))
    }

    /// The same set with `replicas` copies beside the owner's, at most
    /// [`MOST_REPLICAS`](crate::replicas::MOST_REPLICAS) of them.
    pub const fn with_replicas(self, replicas: u8) -> SetId {
        let most = crate::replicas::MOST_REPLICAS as u8;
        let replicas = if replicas > most { most } else { replicas };
        SetId((self.0 & !(7 << 60)) | ((replicas as u64) << 60))
    }

    /// How many nodes keep a copy so that an object survives its owner.
    pub const fn replicas(self) -> usize {
        ((self.0 >> 60) & 7) as usize
    }

    /// The same set, in which an object that is lost counts as one that has never existed.
    pub const fn forgiving_loss(self) -> SetId {
        SetId(self.0 | (1 << 63))
    }

    /// Whether that is so. The core does not look at it: whoever embeds it accepts such losses.
    pub const fn forgives_loss(self) -> bool {
        self.0 >> 63 == 1
    }

    /// The same set, in which the newest version that is left takes the place of one that is lost.
    pub const fn rolling_back(self) -> SetId {
        SetId(self.0 | (1 << 59))
    }

    /// Whether that is so.
    pub const fn rolls_back(self) -> bool {
        self.0 >> 59 & 1 == 1
    }

    /// The same set, of which objects leave by themselves after some time.
    pub const fn expiring(self) -> SetId {
        SetId(self.0 | (1 << 58))
    }

    /// Whether that is so. The core does not look at it: whoever embeds it asks for what times.
    pub const fn expires(self) -> bool {
        self.0 >> 58 & 1 == 1
    }

    /// The placement policy, or `None` for a number that no member gives out.
    pub const fn policy(self) -> Option<PlacementPolicy> {
        if self.forgives_loss() && self.rolls_back() {
            return None;
        }
        match self.0 >> 56 & 3 {
            0 => Some(PlacementPolicy::Hash),
            1 => Some(PlacementPolicy::Fixed(NodeId((self.0 >> 40) as u16))),
            2 => Some(PlacementPolicy::Embedded),
            _ => None,
        }
    }

    /// The part that was counted up.
    pub const fn counter(self) -> u64 {
        self.0 & Self::COUNTER_BITS
    }
}

/// One of the [`SHARDS_PER_SET`] parts of a set; all objects of a shard have one home.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardIndex(pub u16);

/// Shards of one set. 1,024 keeps a hand-over short (a million objects: a thousand each) and the
/// index of a set at 2 KiB.
pub const SHARDS_PER_SET: u16 = 1024;

/// Mixes 64 bits (the finalizer of MurmurHash3): cheap, and every input bit reaches every output bit.
pub const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// A hasher for ids with a fixed seed: no randomness, no order that reaches the wire.
///
/// ```
/// use std::hash::BuildHasher;
/// use kddm_core::id::{Mixer, NodeId, ObjectId};
/// let hash = |id: u64| Mixer::default().hash_one(ObjectId(id));
/// assert_ne!(hash(1), hash(2));
/// assert_eq!(Mixer::default().hash_one(NodeId(7)), hash(7));
/// ```
#[derive(Clone, Copy, Default, Debug)]
pub struct Mixer(u64);

impl BuildHasher for Mixer {
    type Hasher = Mixer;
    fn build_hasher(&self) -> Mixer {
        Mixer(0)
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = mix(self.0 ^ u64::from(*byte));
        }
    }
    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0 ^ value);
    }
}

impl ObjectId {
    /// The shard of this object in a set of that policy.
    pub const fn shard(self, policy: PlacementPolicy) -> ShardIndex {
        match policy {
            PlacementPolicy::Embedded => ShardIndex((self.0 >> 48) as u16 % SHARDS_PER_SET),
            _ => ShardIndex((mix(self.0) >> 54) as u16),
        }
    }
}
