//! The shards of a set that this node knows something of.

use alloc::vec::Vec;

use super::Refused;
use crate::id::{Epoch, NodeId, SHARDS_PER_SET, SetId, ShardIndex};
use crate::io::NoMemory;
use crate::shard::Shard;

/// The shards of a set that were touched so far. Who answers for the others follows from the views.
#[derive(Clone, Debug)]
pub(super) struct Set {
    /// Position in `touched` plus one, by shard index; zero is "not touched".
    pub index: Vec<u16>,
    pub touched: Vec<Touched>,
    /// The epoch in which the set was created, as far as this node has been told.
    pub born: Epoch,
}

/// A shard, and who answers for it as far as this node knows: see [`Place::home`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Touched {
    pub at: ShardIndex,
    pub home: NodeId,
    pub shard: Shard,
}

impl Set {
    pub fn new() -> Result<Set, NoMemory> {
        let mut index = Vec::new();
        index.try_reserve_exact(SHARDS_PER_SET.into()).map_err(|_| NoMemory)?;
        index.resize(SHARDS_PER_SET.into(), 0);
        Ok(Set { index, touched: Vec::new(), born: Epoch(0) })
    }

    pub fn get(&self, at: ShardIndex) -> Option<&Touched> {
        let slot = usize::from(*self.index.get(usize::from(at.0))?);
        self.touched.get(slot.checked_sub(1)?)
    }

    /// A shard. One that has not been touched before is made, and `home` says who answers for it.
    pub fn touch(&mut self, at: ShardIndex, home: impl FnOnce() -> NodeId) -> Result<&mut Touched, Refused> {
        let slot = self.index.get_mut(usize::from(at.0)).ok_or(Refused::UnknownSet)?;
        if *slot == 0 {
            self.touched.try_reserve_exact(self.touched.len() / 8 + 4).map_err(|_| NoMemory)?;
            self.touched.push(Touched { at, home: home(), shard: Shard::new() });
            *slot = self.touched.len() as u16;
        }
        self.touched.get_mut(usize::from(*slot) - 1).ok_or(Refused::UnknownSet)
    }

    /// Owners here may want replicas, or homes wait until others have dropped theirs.
    pub fn may_want_replicas(&self, set: SetId) -> bool {
        set.replicas() > 0 || self.touched.iter().any(|touched| touched.shard.recovery.may_decide_anew())
    }

    /// For checkers: in an order that does not depend on what was touched first.
    pub fn sorted(&self) -> Vec<&Touched> {
        let mut sorted: Vec<&Touched> = Vec::with_capacity(self.touched.len());
        sorted.extend(&self.touched);
        sorted.sort_unstable_by_key(|touched| touched.at);
        sorted
    }
}
