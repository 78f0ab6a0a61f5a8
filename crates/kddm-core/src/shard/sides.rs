//! What most objects of a shard do not have, for those that have it. Who shares an owned object stands here, so there
//! may be as many as objects: side by side as these are, where a map of powers of two leaves more places idle than it uses.

use super::*;
use crate::table::Keyed;

/// A side, and whose it is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stored {
    object: ObjectId,
    side: Side,
}

impl Keyed for Stored {
    fn key(&self) -> ObjectId {
        self.object
    }
}

/// All of a shard, by their objects.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Sides(Table<Stored>);

/// Up to so many have their memory kept, for the next ones: most operations have a side for a moment.
const KEPT: usize = 64;

/// It grows by this part of what there is: they are larger than objects, and are moved when it does.
const GROWTH: usize = 8;

impl Sides {
    pub fn get(&self, object: &ObjectId) -> Option<&Side> {
        self.0.get(*object).map(|stored| &stored.side)
    }

    pub fn get_mut(&mut self, object: &ObjectId) -> Option<&mut Side> {
        self.0.get_mut(*object).map(|stored| &mut stored.side)
    }

    /// Makes room for one more.
    pub fn reserve_one(&mut self) -> Result<(), NoMemory> {
        if self.0.has_room() { Ok(()) } else { self.0.reserve(self.0.len() / GROWTH + 4) }
    }

    /// Room must have been reserved.
    pub fn insert(&mut self, object: ObjectId, side: Side) {
        self.0.put_at(self.0.position(object), Stored { object, side });
    }

    /// Memory is given back where much of it lies idle.
    pub fn remove(&mut self, object: &ObjectId) {
        self.0.remove_beyond(*object, KEPT);
    }

    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn keys(&self) -> impl Iterator<Item = &ObjectId> {
        self.0.iter().map(|stored| &stored.object)
    }

    pub fn values(&self) -> impl Iterator<Item = &Side> {
        self.0.iter().map(|stored| &stored.side)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ObjectId, &Side)> {
        self.0.iter().map(|stored| (&stored.object, &stored.side))
    }

    /// Bytes of memory held, without the lists of those who share.
    pub fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(counter: u64) -> Side {
        Side { requester: RequestId { counter, ..RequestId::default() }, ..Side::default() }
    }

    #[test]
    fn as_many_as_there_are_objects_take_little_more_than_themselves() {
        let mut sides = Sides::default();
        for number in 0..10_000 {
            sides.reserve_one().unwrap();
            sides.insert(ObjectId(number * 7), side(number));
        }
        let own_bytes = sides.len() * size_of::<Stored>();
        assert!(sides.memory_bytes() * 100 < own_bytes * 120, "{} of {own_bytes}", sides.memory_bytes());
        assert!((0..10_000).all(|number| sides.get(&ObjectId(number * 7)) == Some(&side(number))));
        for number in 1..10_000 {
            sides.remove(&ObjectId(number * 7));
        }
        assert_eq!((sides.len(), sides.get(&ObjectId(0))), (1, Some(&side(0))));
        assert!(sides.memory_bytes() < own_bytes / 20, "it goes back to the objects themselves");
    }

    #[test]
    fn what_few_had_is_kept_for_the_next() {
        let mut sides = Sides::default();
        sides.reserve_one().unwrap();
        let bytes = sides.memory_bytes();
        for number in 0..100 {
            sides.reserve_one().unwrap();
            sides.insert(ObjectId(number), side(number));
            sides.remove(&ObjectId(number));
            assert!(sides.is_empty());
        }
        assert_eq!(sides.memory_bytes(), bytes);
    }
}
