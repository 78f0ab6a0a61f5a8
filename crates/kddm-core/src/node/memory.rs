//! What a node has kept that was expelled and comes back as a new life. `docs/protocol.md`, "A member comes back".

use crate::id::{Epoch, NodeId, ObjectId, SetId, Tenure, Version};
use crate::io::{NoMemory, Outputs};
use crate::message::Message;
use crate::shard::{Inspection, Main, Step};

use super::{Node, Refused, Touched};

/// An object that a node owned when it was frozen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Memory {
    /// Its set.
    pub set: SetId,
    /// The object.
    pub object: ObjectId,
    /// The tenure that the node had.
    pub tenure: Tenure,
    /// Its version, as far as the core knows of puts.
    pub version: Version,
    /// The life was a member until the beginning of that epoch, or longer.
    pub left: Epoch,
    /// The bytes are those that are kept beside the object, as for a replica.
    pub is_kept: bool,
}

impl Node {
    /// What this life owns, or has offered of an earlier one, in no particular order. To be asked once it uses and
    /// handles nothing any more: from then on it does not change. Read copies and replicas prove nothing. Whether there
    /// is a value, and how often it was put, is known to whoever has the bytes.
    pub fn memories(&self) -> impl Iterator<Item = Memory> + '_ {
        let left = self.leaves();
        let of_set = move |set: SetId| {
            let objects = self.touched(set).flat_map(|(_, _, shard)| shard.objects().chain(shard.kept()));
            objects.filter_map(move |object| self.memory(set, object, left))
        };
        self.sets().into_iter().flat_map(of_set)
    }

    fn memory(&self, set: SetId, object: ObjectId, left: Epoch) -> Option<Memory> {
        let Inspection { main, offer, .. } = self.inspect(set, object)?;
        let at = object.shard(set.policy()?);
        if let Some((tenure, version)) = offer {
            let left = self.sets.get(&set.0)?.get(at)?.shard.recovery.left;
            return Some(Memory { set, object, tenure, version, left, is_kept: true });
        }
        let Main::Owner { tenure, version, .. } = main else { return None };
        Some(Memory { set, object, tenure, version, left, is_kept: false })
    }

    /// Takes in what a former life owned; the next epoch decides what becomes of it. False if that is of no use, since
    /// something is known of the object here: the bytes are not needed.
    ///
    /// # Errors
    /// As [`handle`](Self::handle). Nothing has changed.
    pub fn remember(&mut self, memory: &Memory, outputs: &mut Outputs) -> Result<bool, Refused> {
        let Memory { set, object, tenure, version, left, .. } = *memory;
        let at = object.shard(set.policy().ok_or(Refused::UnknownSet)?);
        self.entered(set, at, outputs)?;
        let offer = (tenure, version);
        self.at_shard(set, object, |shard, place, counter, room| {
            shard.step(place, counter, room, object, Step::Remember(offer), outputs)
        })?;
        let state = self.sets.get_mut(&set.0).ok_or(Refused::UnknownSet)?;
        let shard = &mut state.touch(at, || NodeId::NOBODY)?.shard;
        let is_kept = shard.inspect(self.me, object).offer == Some(offer);
        if is_kept {
            let known = shard.recovery.left;
            shard.recovery.left = if known == Epoch(0) { left } else { known.min(left) };
        }
        Ok(is_kept)
    }

    /// This life is not the first one of its process: the former one did nothing in that epoch or later. The next epoch
    /// lets the homes know (`docs/protocol.md`, R15 and R16).
    pub fn remember_leaving(&mut self, left: Epoch) {
        self.left = left;
    }

    /// The first epoch in which this node did nothing, if it is frozen now.
    pub fn leaves(&self) -> Epoch {
        Epoch(self.view.epoch.0.saturating_add(1))
    }

    /// Once in each epoch, before anything is reported in it.
    pub(super) fn tell_what_it_left(&mut self, outputs: &mut Outputs) -> Result<(), NoMemory> {
        let (left, me) = (self.left, self.me);
        if left == Epoch(0) || self.recovering.as_ref().is_none_or(|recovering| recovering.has_told) {
            return Ok(());
        }
        self.tell_others(&Message::Returned { left }, outputs)?;
        if let Some(recovering) = &mut self.recovering {
            recovering.has_told = true;
        }
        self.returned(me, left);
        Ok(())
    }

    /// A home that was lost had decided nothing since then: nor is anything of that missing in the directories of those that
    /// came after it.
    pub(super) fn returned(&mut self, node: NodeId, left: Epoch) {
        if left > self.view.epoch {
            return; // A lie: that is still to come.
        }
        let Some(lost) = self.losses.returned(node, left) else { return };
        let Node { me, losses, sets, .. } = self;
        for (set, state) in sets {
            for Touched { at, home, shard } in &mut state.touched {
                if home == me && shard.recovery.unbroken == lost {
                    shard.recovery.unbroken = lost.min(losses.unbroken_until(SetId(*set), *at, lost));
                }
            }
        }
    }

    /// How many objects are here that this node owned in a former life, and of which nothing is decided yet.
    pub fn offer_count(&self) -> usize {
        self.sets.values().flat_map(|set| &set.touched).map(|touched| touched.shard.offer_count()).sum()
    }
}
