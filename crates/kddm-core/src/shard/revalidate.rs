//! Read copies of a former life: the rows R9 to R12. A million of them may come at once, so an object is not unpacked
//! for it.

use super::*;
use crate::message::ReadCopy;
use crate::object::state::Sharing;

impl Shard {
    /// The valid read copies here, each with who gave it.
    pub(crate) fn read_copies(&self) -> impl Iterator<Item = (NodeId, ReadCopy)> {
        self.objects.iter().filter_map(|packed| {
            let Main::Sharer { tenure, version, .. } = packed.main(RequestId::default()) else { return None };
            let side = if packed.has_side { self.sides.get(&packed.key()) } else { None };
            // Of Sharers it does not depend on who asks.
            let seen = side.and_then(|side| side.seen).unwrap_or(packed.implied_seen(NodeId::NOBODY));
            // Who had a greater tenure has not given this copy, and whoever has is about to strike it.
            let is_known = seen.tenure == tenure && seen.node.is_somebody();
            is_known.then_some((seen.node, ReadCopy { object: packed.key(), tenure, version }))
        })
    }

    /// At the owner, if that is the newest version and no local thread may make another: the node joins the copy set.
    ///
    /// # Errors
    /// Nothing has changed.
    pub(crate) fn revalidate(&mut self, copy: &ReadCopy, node: NodeId, counter: u64) -> Result<bool, NoMemory> {
        let Some(at) = self.objects.position(copy.object) else { return Ok(false) };
        let Some(mut packed) = self.objects.at(at).copied() else { return Ok(false) };
        let Main::Owner { tenure, version, .. } = packed.main(RequestId::default()) else { return Ok(false) };
        if tenure != copy.tenure || !packed.has_value {
            return Ok(false);
        }
        let is_older = version != copy.version && !mutated(Mutation::TrustOldCopy);
        if is_older || (packed.access == Access::Write && !mutated(Mutation::RevalidateUnderWriter)) {
            return Ok(false);
        }
        if packed.has_side {
            let Some(side) = self.sides.get_mut(&copy.object) else { return Ok(false) };
            return if side.serves_others() { side.note_sharer(node, counter) } else { Ok(false) };
        }
        self.sides.reserve_one()?;
        let mut side = Side::default();
        let noted = side.note_sharer(node, counter)?;
        packed.has_side = !side.is_trivial();
        if packed.has_side {
            self.sides.insert(copy.object, side);
            self.objects.put_at(Some(at), packed);
        }
        Ok(noted)
    }

    /// Room for so many copies: they come all at once, and the index is made once.
    ///
    /// # Errors
    /// Nothing has changed.
    pub(crate) fn reserve_copies(&mut self, more: usize) -> Result<(), NoMemory> {
        self.objects.reserve(more)
    }

    /// At the node that asked, if nothing but a hint is here: it becomes a sharer, as if the copy had just come.
    ///
    /// # Errors
    /// Nothing has changed.
    pub(crate) fn take_copy(&mut self, copy: &ReadCopy, from: NodeId, counter: u64) -> Result<bool, NoMemory> {
        let ReadCopy { object, tenure, version } = *copy;
        let at = self.objects.position(object);
        let hint = at.and_then(|at| self.objects.at(at)).copied();
        let is_older = |hint: Packed| hint.is_hint() && hint.implied_seen(NodeId::NOBODY).tenure <= tenure;
        if !hint.is_none_or(is_older) {
            return Ok(false);
        }
        self.objects.reserve_one()?;
        self.hints -= u32::from(hint.is_some());
        let (main, seen) = (Main::Sharer { tenure, version, counter }, Seen { tenure, node: from });
        self.objects.put_at(at, Packed::pack(object, &main, seen, ReplicaSet::new(), Access::Read, true));
        Ok(true)
    }
}

impl Side {
    /// An owner with nothing in the way of others (S1), and nobody else who waits.
    fn serves_others(&self) -> bool {
        let hides = self.pushing.is_some_and(|pushing| pushing.hides);
        self.owed.is_empty() && self.revoking.is_none() && self.asking.is_none() && self.queue.is_empty() && !hides
    }

    /// That node has a copy by the request of that number.
    fn note_sharer(&mut self, node: NodeId, counter: u64) -> Result<bool, NoMemory> {
        if let Some(sharing) = self.sharers.iter_mut().find(|sharing| sharing.node == node) {
            sharing.counter = counter;
        } else if !mutated(Mutation::ForgetRevalidated) {
            self.sharers.try_reserve_exact(1).map_err(|_| NoMemory)?;
            self.sharers.push(Sharing { node, counter });
        }
        Ok(true)
    }
}
