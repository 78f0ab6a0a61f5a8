//! What part of its node a lane is, and what it shares with the others: the memory of sets. An object is one lane's, by its
//! shard; nothing is done to its cell, and nothing is said of it, by any other.

use std::collections::HashMap;
use std::sync::Arc;

use kddm_core::id::{Mixer, ObjectId, SetId, ShardIndex};
use kddm_core::message::Message;
use parking_lot::Mutex;

use crate::cell::{CellNumber, Store, Table};
use crate::runtime::lane::LaneState;
use crate::value::Raw;

/// The memory of the sets of a node. Locked after a lane, and never while another lock is waited for.
type Stores = Mutex<HashMap<SetId, Arc<dyn Store>, Mixer>>;

/// See the module.
#[derive(Clone)]
pub(crate) struct Part {
    number: usize,
    /// So many lanes there are.
    of: usize,
    stores: Arc<Stores>,
}

/// The lane, of so many, that an object or another thing of a shard belongs to.
pub(crate) fn lane_of(ShardIndex(shard): ShardIndex, lanes: usize) -> usize {
    usize::from(shard) % lanes
}

impl Part {
    /// All parts of a node with so many lanes.
    pub fn all(of: usize) -> impl Iterator<Item = Part> {
        let stores = Arc::<Stores>::default();
        (0..of).map(move |number| Part { number, of, stores: Arc::clone(&stores) })
    }

    /// Whether this is the lane that counts what is of the whole node.
    pub fn is_first(&self) -> bool {
        self.number == 0
    }

    fn has_shard(&self, shard: ShardIndex) -> bool {
        lane_of(shard, self.of) == self.number
    }

    /// Whether an object is this lane's.
    pub fn has(&self, set: SetId, object: ObjectId) -> bool {
        self.of == 1 || self.has_shard(object.shard(set.policy().unwrap_or_default()))
    }

    /// Whether a peer's lane of the same number may say that here.
    pub fn may_hear(&self, set: SetId, object: ObjectId, message: &Message) -> bool {
        if self.of == 1 {
            return true;
        }
        match message {
            // Of no shard: each lane of a node says it to the same one of each other node.
            Message::Placed { .. }
            | Message::AllReported
            | Message::Returned { .. }
            | Message::Loss(_)
            | Message::AcceptLoss { set_until: Some(_) } => true,
            Message::ShardIsYours { shard, .. }
            | Message::Reported { shard, .. }
            | Message::KnewAll { shard, .. }
            | Message::Wanted { shard } => self.has_shard(*shard),
            Message::Revalidate { copies, .. } => copies.iter().all(|copy| self.has(set, copy.object)),
            Message::Revalidated { valid, .. } => valid.iter().all(|object| self.has(set, *object)),
            _ => self.has(set, object),
        }
    }

    /// The memory of a set, for all lanes. A set that nobody has opened here is kept as raw bytes: this node may be its
    /// home, or be handed an object.
    fn store(&self, set: SetId) -> Arc<dyn Store> {
        Arc::clone(self.stores.lock().entry(set).or_insert_with(|| Arc::new(Table::<Raw>::new())))
    }

    /// What there is of it.
    pub fn known(&self, set: SetId) -> Option<Arc<dyn Store>> {
        self.stores.lock().get(&set).cloned()
    }

    /// Another one takes its place. Whoever calls has all lanes, and gives it to each of them.
    pub fn replace(&self, set: SetId, store: Arc<dyn Store>) {
        self.stores.lock().insert(set, store);
    }

    /// The set is no more.
    pub fn forget(&self, set: SetId) {
        self.stores.lock().remove(&set);
    }
}

impl LaneState {
    /// The memory of a set here.
    pub fn store(&mut self, set: SetId) -> Arc<dyn Store> {
        let (part, signals) = (&self.part, &self.signals);
        Arc::clone(self.stores.entry(set).or_insert_with(|| {
            signals.expiries.hear_of(set);
            part.store(set)
        }))
    }

    /// The objects of a set that have a cell, and are this lane's. Looks at every cell.
    pub fn own_cells(&self, set: SetId) -> Vec<(u64, CellNumber)> {
        self.own_cells_from(set, 0, u32::MAX).0
    }

    /// The same in the `most` cells from that number on, and where the rest begins, if there is one.
    pub fn own_cells_from(
        &self,
        set: SetId,
        first: CellNumber,
        most: u32,
    ) -> (Vec<(u64, CellNumber)>, Option<CellNumber>) {
        let Some(store) = self.stores.get(&set) else { return (Vec::new(), None) };
        let (mut cells, next) = store.cells_from(first, most);
        if self.part.of > 1 {
            cells.retain(|(object, _)| self.part.has(set, ObjectId(*object)));
        }
        (cells, next)
    }

    /// Takes all access to objects of this lane back. New holds wait, and those that are left are not waited for.
    pub fn close_stores(&self) {
        for (set, store) in &self.stores {
            store.close(&|object| self.part.has(*set, ObjectId(object)));
        }
    }
}

#[cfg(test)]
mod tests {
    use kddm_core::id::{Epoch, PlacementPolicy, RequestId, Tenure};

    use super::*;

    #[test]
    fn each_object_is_of_one_lane_and_nothing_is_said_of_it_to_another() {
        let set = SetId::new(PlacementPolicy::Hash, 20);
        let parts: Vec<Part> = Part::all(3).collect();
        let mut owned = [0; 3];
        for object in (0..1_000).map(ObjectId) {
            let its: Vec<usize> = (0..3).filter(|at| parts[*at].has(set, object)).collect();
            let shard = object.shard(PlacementPolicy::Hash);
            assert_eq!(its, [lane_of(shard, 3)]);
            owned[its[0]] += 1;
            for (at, part) in parts.iter().enumerate() {
                let is_its = at == its[0];
                let confirm = Message::Confirm { tenure: Tenure(1) };
                assert_eq!(part.may_hear(set, object, &confirm), is_its);
                let reported = Message::Reported { shard, forgotten: Tenure(1) };
                assert_eq!(part.may_hear(SetId::SYSTEM, ObjectId(0), &reported), is_its);
                let valid = Message::Revalidated { id: RequestId::default(), valid: vec![object] };
                assert_eq!(part.may_hear(set, ObjectId(0), &valid), is_its);
                assert!(part.may_hear(set, ObjectId(0), &Message::AcceptLoss { set_until: Some(Epoch(1)) }));
            }
        }
        assert!(owned.iter().all(|count| *count > 250), "{owned:?}");
    }

    #[test]
    fn all_lanes_have_one_memory() {
        let set = SetId::new(PlacementPolicy::Hash, 20);
        let parts: Vec<Part> = Part::all(2).collect();
        let (one, other) = (&parts[0], &parts[1]);
        assert!(one.known(set).is_none());
        let table = one.store(set).table();
        assert_eq!((other.store(set).table(), other.known(set).map(|store| store.table())), (table, Some(table)));
        other.forget(set);
        assert!(one.known(set).is_none());
    }
}
