//! Which objects a set has: who answers for a shard says so, once it knows. It changes nothing.

use alloc::vec::Vec;

use crate::home::Entry;
use crate::id::{NodeId, ObjectId, SetId, ShardIndex};
use crate::io::NoMemory;
use crate::losses::Doubt;
use crate::mutation::{Mutation, mutated};
use crate::shard::Shard;

use super::{Node, untouched};

/// What a node says of the objects of one shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scanned<T> {
    /// Another node answers for it, as far as this one knows; nobody while there is none.
    Elsewhere(NodeId),
    /// This node does, and does not know yet what there is: it waits for what others have to report.
    NotYet,
    /// This node does, and at this moment there is this.
    Here {
        /// What was asked for.
        what: T,
        /// Others may exist that no directory names any more, or be lost.
        in_doubt: bool,
    },
}

/// What is here of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// This node is the owner, and there is a value.
    Owner,
    /// A valid read copy.
    Copy,
    /// A replica of another's.
    Replica,
}

impl Node {
    /// The objects of a shard of which a value is here, in no particular order, each once.
    pub fn held(&self, set: SetId, at: ShardIndex) -> impl Iterator<Item = (ObjectId, Held)> {
        self.sets.get(&set.0).and_then(|state| state.get(at)).into_iter().flat_map(|touched| touched.shard.held())
    }

    /// Who answers for a shard, as far as this node knows.
    pub fn answers_for(&self, set: SetId, at: ShardIndex) -> NodeId {
        match self.sets.get(&set.0).and_then(|state| state.get(at)) {
            Some(touched) => touched.home,
            None => untouched(self.me, &self.view, self.moving.as_ref(), set, at),
        }
    }

    /// The objects of a shard behind `after`, in ascending order, up to `most` of them, in `found`; and whether there
    /// are more.
    pub fn scan(
        &self,
        set: SetId,
        at: ShardIndex,
        after: Option<ObjectId>,
        most: usize,
        found: &mut Vec<Entry>,
    ) -> Result<Scanned<bool>, NoMemory> {
        found.clear();
        let (shard, in_doubt) = match self.shard_to_scan(set, at) {
            Scanned::Elsewhere(node) => return Ok(Scanned::Elsewhere(node)),
            Scanned::NotYet => return Ok(Scanned::NotYet),
            Scanned::Here { what, in_doubt } => (what, in_doubt),
        };
        let what = shard.map_or(Ok(false), |shard| shard.page(after, most, found))?;
        Ok(Scanned::Here { what, in_doubt })
    }

    /// How many objects a shard has, and how many of them are lost.
    pub fn census(&self, set: SetId, at: ShardIndex) -> Scanned<(usize, usize)> {
        match self.shard_to_scan(set, at) {
            Scanned::Elsewhere(node) => Scanned::Elsewhere(node),
            Scanned::NotYet => Scanned::NotYet,
            Scanned::Here { what, in_doubt } => Scanned::Here { what: what.map_or((0, 0), Shard::census), in_doubt },
        }
    }

    /// Whether a scan would find an object; for checkers.
    pub fn is_named(&self, set: SetId, object: ObjectId) -> Scanned<bool> {
        match self.shard_to_scan(set, object.shard(set.policy().unwrap_or_default())) {
            Scanned::Elsewhere(node) => Scanned::Elsewhere(node),
            Scanned::NotYet => Scanned::NotYet,
            Scanned::Here { what, in_doubt } => {
                Scanned::Here { what: what.is_some_and(|shard| shard.names(object)), in_doubt }
            }
        }
    }

    fn shard_to_scan(&self, set: SetId, at: ShardIndex) -> Scanned<Option<&Shard>> {
        let home = self.answers_for(set, at);
        if home != self.me {
            return Scanned::Elsewhere(home);
        }
        let Some(touched) = self.sets.get(&set.0).and_then(|state| state.get(at)) else {
            // While others report, they may be about to name objects of it.
            if self.recovering.is_some() {
                return Scanned::NotYet;
            }
            return Scanned::Here { what: None, in_doubt: self.is_in_doubt(set, at) };
        };
        let recovery = &touched.shard.recovery;
        let knows = recovery.entered == self.view.epoch && recovery.is_done();
        if !knows && !mutated(Mutation::ScanTooEarly) {
            return Scanned::NotYet;
        }
        Scanned::Here { what: Some(&touched.shard), in_doubt: recovery.doubt == Doubt::Old }
    }
}
