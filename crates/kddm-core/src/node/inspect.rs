//! What can be seen of a node: by its runtime, by checkers, by `kddmadm`.

use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use crate::id::{NodeId, ObjectId, SHARDS_PER_SET, SetId, ShardIndex};
use crate::losses::Doubt;
use crate::shard::{Inspection, Shard, Standing};

use super::{Node, Touched, untouched};

impl Node {
    fn shards(&self, set: SetId) -> impl Iterator<Item = &Shard> {
        self.touched(set).map(|(_, _, shard)| shard)
    }

    /// What can be seen of an object here.
    pub fn inspect(&self, set: SetId, object: ObjectId) -> Option<Inspection> {
        let state = self.sets.get(&set.0)?;
        Some(state.get(object.shard(set.policy()?))?.shard.inspect(self.me, object))
    }

    /// The same, as far as whoever looks at many objects needs it.
    pub fn standing(&self, set: SetId, object: ObjectId) -> Option<Standing> {
        let state = self.sets.get(&set.0)?;
        Some(state.get(object.shard(set.policy()?))?.shard.standing(object))
    }

    /// The nodes whose requests for an object wait here, in their order.
    pub fn waiting_for(&self, set: SetId, object: ObjectId) -> Vec<NodeId> {
        let shard = set.policy().and_then(|policy| self.sets.get(&set.0)?.get(object.shard(policy)));
        shard.map_or_else(Vec::new, |touched| touched.shard.waiting_for(object))
    }

    /// The sets of which this node holds or knows something, in ascending order.
    pub fn sets(&self) -> Vec<SetId> {
        let mut sets: Vec<SetId> = self.sets.keys().map(|set| SetId(*set)).collect();
        sets.sort_unstable();
        sets
    }

    /// The objects of a set of which a value, a copy or the ownership is here, in no particular order.
    pub fn holdings(&self, set: SetId) -> impl Iterator<Item = ObjectId> {
        self.shards(set).flat_map(Shard::holdings)
    }

    /// Whether an object of that set is being removed, as far as this node has to do with it. Looks at what most objects do
    /// not have.
    pub fn is_removing(&self, set: SetId) -> bool {
        self.shards(set).any(Shard::is_removing)
    }

    /// Nothing is outstanding in any set (`I9`), and no shard is on its way.
    pub fn is_at_rest(&self) -> bool {
        let rests = |touched: &Touched| touched.shard.is_at_rest();
        self.is_settled() && self.questions.is_empty() && self.sets.values().flat_map(|state| &state.touched).all(rests)
    }

    /// How many objects this node knows something of, and how many its directory holds.
    pub fn counts(&self, set: SetId) -> (usize, usize) {
        self.shards(set).fold((0, 0), |(objects, entries), shard| {
            (objects + shard.object_count(), entries + shard.directory_count())
        })
    }

    /// The shards of a set that were touched here, each with who answers for it, in no particular order.
    pub fn touched(&self, set: SetId) -> impl Iterator<Item = (ShardIndex, NodeId, &Shard)> {
        let touched = self.sets.get(&set.0).into_iter().flat_map(|state| state.touched.iter());
        touched.map(|touched| (touched.at, touched.home, &touched.shard))
    }

    /// How many objects of a shard that this node owns have fewer replicas than their set is to have. Looks at each
    /// of them.
    pub fn short_count(&self, set: SetId, at: ShardIndex) -> usize {
        let touched = self.sets.get(&set.0).and_then(|state| state.get(at));
        touched.map_or(0, |touched| touched.shard.short_count(set.replicas()))
    }

    /// Whether this node answers for that shard, and objects of it may be lost that no directory names, which nobody
    /// has accepted.
    pub fn is_in_doubt(&self, set: SetId, at: ShardIndex) -> bool {
        match self.sets.get(&set.0).and_then(|state| state.get(at)) {
            Some(touched) => touched.home == self.me && touched.shard.recovery.doubt == Doubt::Old,
            None => {
                let home = untouched(self.me, &self.view, self.moving.as_ref(), set, at);
                home == self.me && self.losses.doubt(set, at, self.born(set), None) == Doubt::Old
            }
        }
    }

    /// Bytes of memory held for a set.
    pub fn memory_bytes(&self, set: SetId) -> usize {
        self.shards(set).map(Shard::memory_bytes).sum::<usize>() + 2 * usize::from(SHARDS_PER_SET)
    }
}

/// Equality and hash are for checkers: what was never touched follows from the views.
impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        let alike = |of: &Node| (of.me, of.incarnation, of.counter, of.view.placement, of.view.epoch);
        let set = |id: &u64| other.sets.get(id);
        alike(self) == alike(other)
            && self.moving == other.moving
            && self.recovering == other.recovering
            && self.refilling == other.refilling
            && self.accepting == other.accepting
            && self.losses == other.losses
            && self.lives == other.lives
            && self.destroyed == other.destroyed
            && self.questions == other.questions
            && self.left == other.left
            && self.sets.len() == other.sets.len()
            && self.sets.iter().all(|(id, mine)| {
                set(id).is_some_and(|theirs| mine.born == theirs.born && mine.sorted() == theirs.sorted())
            })
    }
}

impl Eq for Node {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.me, self.incarnation, self.counter, self.view.placement, self.view.epoch).hash(state);
        self.moving.hash(state);
        (&self.recovering, &self.refilling, &self.accepting, &self.losses, &self.lives).hash(state);
        (&self.destroyed, &self.questions, self.left).hash(state);
        for set in self.sets() {
            set.hash(state);
            self.sets.get(&set.0).map(|set| (set.born, set.sorted())).hash(state);
        }
    }
}
