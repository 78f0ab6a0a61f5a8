//! A dense table found by object id: entries side by side in one vector, and a hash index of their
//! positions. Denser than a map of pairs, and every growth can be refused.

use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use hashbrown::HashTable;

use crate::id::{ObjectId, mix};
use crate::io::NoMemory;

/// An entry that knows the object it belongs to.
pub(crate) trait Keyed {
    fn key(&self) -> ObjectId;
}

#[derive(Clone, Debug)]
pub(crate) struct Table<E> {
    entries: Vec<E>,
    index: HashTable<u32>,
}

impl<E> Default for Table<E> {
    fn default() -> Table<E> {
        Table { entries: Vec::new(), index: HashTable::new() }
    }
}

impl<E: Keyed> Table<E> {
    /// Makes room for one more entry. Grows by an eighth, so that little memory lies idle.
    pub fn reserve_one(&mut self) -> Result<(), NoMemory> {
        let len = self.entries.len();
        if len == self.entries.capacity() {
            self.entries.try_reserve_exact(len / 8 + 4).map_err(|_| NoMemory)?;
        }
        let entries = &self.entries;
        self.index.try_reserve(1, |at| hash_at(entries, *at)).map_err(|_| NoMemory)
    }

    fn find(&self, key: ObjectId) -> Option<u32> {
        self.index.find(mix(key.0), |at| self.entries.get(*at as usize).is_some_and(|e| e.key() == key)).copied()
    }

    pub fn get(&self, key: ObjectId) -> Option<&E> {
        self.entries.get(self.find(key)? as usize)
    }

    /// Puts an entry in, in place of the one with the same key. Room for a new one must have been
    /// reserved.
    pub fn put(&mut self, entry: E) {
        if let Some(at) = self.find(entry.key()) {
            if let Some(slot) = self.entries.get_mut(at as usize) {
                *slot = entry;
            }
            return;
        }
        let key = entry.key();
        let at = self.entries.len() as u32;
        self.entries.push(entry);
        let entries = &self.entries;
        self.index.insert_unique(mix(key.0), at, |at| hash_at(entries, *at));
    }

    pub fn remove(&mut self, key: ObjectId) {
        let entries = &self.entries;
        let found = self.index.find_entry(mix(key.0), |at| entries.get(*at as usize).is_some_and(|e| e.key() == key));
        let Ok(found) = found else { return };
        let (at, _) = found.remove();
        let last = self.entries.len() as u32 - 1;
        if at != last {
            let moved = self.entries.last().map(|e| mix(e.key().0));
            if let Some(slot) = moved.and_then(|hash| self.index.find_mut(hash, |position| *position == last)) {
                *slot = at;
            }
        }
        self.entries.swap_remove(at as usize);
        self.shrink();
    }

    /// Gives memory back once three quarters lie idle (`I9`: back to the objects themselves).
    fn shrink(&mut self) {
        if self.entries.is_empty() {
            *self = Table::default();
        } else if self.entries.capacity() > 64 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
            let entries = &self.entries;
            self.index.shrink_to_fit(|at| hash_at(entries, *at));
        }
    }

    /// Brings the entries into ascending order. Needs no memory.
    pub fn sort(&mut self) {
        self.entries.sort_unstable_by_key(|e| e.key());
        self.index.clear();
        let entries = &self.entries;
        for (at, entry) in (0..).zip(entries) {
            self.index.insert_unique(mix(entry.key().0), at, |at| hash_at(entries, *at));
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &E> {
        self.entries.iter()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of memory held, for the figures of `docs/numbers.md`.
    pub fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<E>() + self.index.allocation_size()
    }

    fn sorted(&self) -> Vec<&E> {
        let mut sorted: Vec<&E> = Vec::with_capacity(self.entries.len());
        sorted.extend(self.entries.iter());
        sorted.sort_unstable_by_key(|e| e.key());
        sorted
    }
}

fn hash_at<E: Keyed>(entries: &[E], at: u32) -> u64 {
    entries.get(at as usize).map_or(0, |e| mix(e.key().0))
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
