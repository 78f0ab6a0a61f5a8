//! A dense table found by object id: entries side by side in one vector, and a hash index of their
//! positions. Denser than a map of pairs, and every growth can be refused.
//!
//! The index is open addressing with linear probing over 32-bit positions, zero is empty. It has as
//! many places as it needs, not a power of two: 8 for every 7 entries that there is room for, 4.6 bytes
//! an entry. It grows with the entries, by a thirty-second: what lies idle is a percent or two, and what is
//! copied for that is small, because a table has the objects of one shard.

use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use crate::id::{ObjectId, mix};
use crate::io::NoMemory;

/// An entry that knows the object it belongs to.
pub(crate) trait Keyed {
    fn key(&self) -> ObjectId;
}

#[derive(Clone, Debug)]
pub(crate) struct Table<E> {
    entries: Vec<E>,
    /// Positions of entries, plus one.
    index: Vec<u32>,
}

impl<E> Default for Table<E> {
    fn default() -> Table<E> {
        Table { entries: Vec::new(), index: Vec::new() }
    }
}

/// Where an id belongs among so many places.
fn home(key: ObjectId, places: usize) -> usize {
    // The upper half chooses the shard, so that it says little within one.
    let hash = mix(key.0) as u32;
    ((u64::from(hash) * places as u64) >> 32) as usize
}

/// Places for so many entries: a probe ends because one is always empty.
fn places_for(entries: usize) -> usize {
    entries + entries / 7 + 1
}

impl<E: Keyed> Table<E> {
    /// Makes room for one more entry.
    pub fn reserve_one(&mut self) -> Result<(), NoMemory> {
        let len = self.entries.len();
        if len == self.entries.capacity() {
            self.entries.try_reserve_exact(len / 32 + 4).map_err(|_| NoMemory)?;
        }
        self.reserve_index(len + 1)
    }

    /// Makes room for so many more at once.
    pub fn reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        self.entries.try_reserve_exact(more).map_err(|_| NoMemory)?;
        self.reserve_index(self.entries.len() + more)
    }

    /// An index for so many entries, and for all that there is memory for.
    fn reserve_index(&mut self, entries: usize) -> Result<(), NoMemory> {
        if self.index.len() < places_for(entries) {
            let mut index = empty_index(places_for(self.entries.capacity()))?;
            self.fill(&mut index);
            self.index = index;
        }
        Ok(())
    }

    /// Puts all positions into an empty index.
    fn fill(&self, index: &mut [u32]) {
        for (at, entry) in self.entries.iter().enumerate() {
            place(index, entry.key(), at as u32 + 1);
        }
    }

    /// The place in the index, and the position among the entries.
    fn find(&self, key: ObjectId) -> Option<(usize, usize)> {
        let places = self.index.len();
        let mut at = home(key, places);
        for _ in 0..places {
            let position = (*self.index.get(at)? as usize).checked_sub(1)?;
            if self.entries.get(position)?.key() == key {
                return Some((at, position));
            }
            at = next(at, places);
        }
        None
    }

    pub fn get(&self, key: ObjectId) -> Option<&E> {
        self.entries.get(self.find(key)?.1)
    }

    pub fn get_mut(&mut self, key: ObjectId) -> Option<&mut E> {
        let (_, position) = self.find(key)?;
        self.entries.get_mut(position)
    }

    /// Whether one more entry needs no more memory.
    pub fn has_room(&self) -> bool {
        let len = self.entries.len();
        len < self.entries.capacity() && self.index.len() >= places_for(len + 1)
    }

    /// The position of an entry, until one is removed.
    pub fn position(&self, key: ObjectId) -> Option<usize> {
        Some(self.find(key)?.1)
    }

    /// The entry at a position.
    pub fn at(&self, position: usize) -> Option<&E> {
        self.entries.get(position)
    }

    /// Puts an entry in, by the position that its key has, if it has one: it is not looked for again. Room
    /// for a new one must have been reserved.
    pub fn put_at(&mut self, position: Option<usize>, entry: E) {
        debug_assert_eq!(position, self.position(entry.key()), "nothing has moved since it was looked for");
        if let Some(slot) = position.and_then(|position| self.entries.get_mut(position)) {
            *slot = entry;
            return;
        }
        place(&mut self.index, entry.key(), self.entries.len() as u32 + 1);
        self.entries.push(entry);
    }

    /// As [`put_at`](Self::put_at), wherever it belongs.
    #[cfg(test)]
    pub fn put(&mut self, entry: E) {
        self.put_at(self.position(entry.key()), entry);
    }

    pub fn remove(&mut self, key: ObjectId) {
        self.remove_beyond(key, 0);
    }

    /// As [`remove`](Self::remove); what had room for no more than that keeps its memory.
    pub fn remove_beyond(&mut self, key: ObjectId, kept: usize) {
        let Some((place, position)) = self.find(key) else { return };
        let last = self.entries.len() - 1;
        if position != last {
            // The last entry moves to the position that gets free.
            let moved = self.entries.get(last).and_then(|entry| self.find(entry.key()));
            if let Some(slot) = moved.and_then(|(place, _)| self.index.get_mut(place)) {
                *slot = position as u32 + 1;
            }
        }
        self.entries.swap_remove(position);
        self.close(place);
        if self.entries.capacity() > kept {
            self.shrink();
        }
    }

    /// Empties a place of the index: later entries of the run move up, so that no probe ends early.
    fn close(&mut self, mut hole: usize) {
        let places = self.index.len();
        let distance = |from: usize, to: usize| if to >= from { to - from } else { to + places - from };
        let mut at = next(hole, places);
        // One place at least is empty, the hole: the walk ends.
        for _ in 0..places {
            let Some(position) = self.index.get(at).and_then(|slot| slot.checked_sub(1)) else { break };
            let home = self.entries.get(position as usize).map_or(at, |entry| home(entry.key(), places));
            // It may move up to the hole only if its home is not behind the hole.
            if at != hole && distance(home, at) >= distance(hole, at) {
                self.set(hole, position + 1);
                hole = at;
            }
            at = next(at, places);
        }
        self.set(hole, 0);
    }

    fn set(&mut self, place: usize, to: u32) {
        if let Some(slot) = self.index.get_mut(place) {
            *slot = to;
        }
    }

    /// Gives memory back once three quarters lie idle (`I9`: back to the objects themselves).
    fn shrink(&mut self) {
        if self.entries.is_empty() {
            *self = Table::default();
        } else if self.entries.capacity() > 64 && self.entries.len() < self.entries.capacity() / 4 {
            // Where even the smaller index is refused, all stays as it is.
            let Ok(mut index) = empty_index(places_for(self.entries.len() * 2)) else { return };
            self.entries.shrink_to(self.entries.len() * 2);
            self.fill(&mut index);
            self.index = index;
        }
    }

    /// Brings the entries into ascending order. Needs no memory.
    pub fn sort(&mut self) {
        self.entries.sort_unstable_by_key(|e| e.key());
        let mut index = core::mem::take(&mut self.index);
        index.fill(0);
        self.fill(&mut index);
        self.index = index;
    }

    pub fn iter(&self) -> impl Iterator<Item = &E> {
        self.entries.iter()
    }

    /// All entries, to be changed in all but their keys.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut E> {
        self.entries.iter_mut()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of memory held, for the figures of `docs/numbers.md`.
    pub fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<E>() + self.index.capacity() * size_of::<u32>()
    }

    fn sorted(&self) -> Vec<&E> {
        let mut sorted: Vec<&E> = Vec::with_capacity(self.entries.len());
        sorted.extend(self.entries.iter());
        sorted.sort_unstable_by_key(|e| e.key());
        sorted
    }
}

fn next(place: usize, places: usize) -> usize {
    if place + 1 < places { place + 1 } else { 0 }
}

fn empty_index(places: usize) -> Result<Vec<u32>, NoMemory> {
    let mut index = Vec::new();
    index.try_reserve_exact(places).map_err(|_| NoMemory)?;
    index.resize(places, 0);
    Ok(index)
}

/// Puts a position into the first empty place from the home of its key.
fn place(index: &mut [u32], key: ObjectId, position: u32) {
    let places = index.len();
    let mut at = home(key, places);
    for _ in 0..places {
        match index.get_mut(at) {
            Some(slot) if *slot == 0 => {
                *slot = position;
                return;
            }
            _ => at = next(at, places),
        }
    }
}

/// Equality and hash see a map: the order in memory is an accident of history. Only checkers ask.
impl<E: Keyed + PartialEq> PartialEq for Table<E> {
    fn eq(&self, other: &Table<E>) -> bool {
        self.len() == other.len() && self.sorted() == other.sorted()
    }
}

impl<E: Keyed + Eq> Eq for Table<E> {}

impl<E: Keyed + Hash> Hash for Table<E> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sorted().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;

    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Pair(ObjectId, u64);

    impl Keyed for Pair {
        fn key(&self) -> ObjectId {
            self.0
        }
    }

    /// Against a map, through growth, removals that close runs, and shrinking.
    #[test]
    fn a_table_is_a_map() {
        const KEYS: u64 = 600;
        let (mut table, mut map) = (Table::default(), BTreeMap::new());
        let mut random = 1u64;
        for step in 0..60_000u64 {
            random = mix(random.wrapping_add(step));
            let key = ObjectId((random >> 8) % KEYS);
            // It fills for a while, then empties.
            if random % 100 < if step % 20_000 < 10_000 { 70 } else { 20 } {
                assert_eq!(table.reserve_one(), Ok(()));
                table.put(Pair(key, step));
                map.insert(key, step);
            } else {
                table.remove(key);
                map.remove(&key);
            }
            assert_eq!(table.len(), map.len());
            let other = ObjectId((random >> 32) % KEYS);
            for key in [key, other] {
                assert_eq!(table.get(key).map(|pair| pair.1), map.get(&key).copied());
            }
            assert!(table.len() == 0 || table.index.len() >= places_for(table.len()));
        }
        for key in 0..KEYS {
            table.remove(ObjectId(key));
        }
        assert_eq!(table.memory_bytes(), 0);
    }

    #[test]
    fn room_for_many_is_made_at_once_and_is_used_up() {
        let mut table = Table::default();
        assert_eq!(table.reserve_one(), Ok(()));
        table.put(Pair(ObjectId(0), 0));
        assert_eq!(table.reserve(1_000), Ok(()));
        let (bytes, places) = (table.memory_bytes(), table.index.len());
        for key in 1..=1_000 {
            assert_eq!(table.reserve_one(), Ok(()));
            table.put(Pair(ObjectId(key), key));
        }
        assert_eq!((table.memory_bytes(), table.index.len()), (bytes, places));
        assert!((0..=1_000).all(|key| table.get(ObjectId(key)).is_some_and(|pair| pair.1 == key)));
    }

    #[test]
    fn little_lies_idle() {
        let mut table = Table::default();
        for key in 0..1_000 {
            assert_eq!(table.reserve_one(), Ok(()));
            table.put(Pair(ObjectId(key), key));
            let used = table.len() * (size_of::<Pair>() + size_of::<u32>());
            assert!(key < 100 || table.memory_bytes() * 10 < used * 12, "{} of {used}", table.memory_bytes());
        }
    }
}
