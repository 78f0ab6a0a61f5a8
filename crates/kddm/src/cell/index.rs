//! Object id -> cell number. Anybody looks up without a lock; one writer at a time changes.
//!
//! Open addressing with linear probing over 32-bit entries. With `2^bits` places an entry has the
//! cell's number plus one in its low `bits` bits and a piece of the id's hash above: together with
//! the place these are all 32 bits of the hash that exist, so that a probe rarely touches the cell of
//! another object. Zero is empty.
//!
//! A removal moves later entries up (no tombstones). A look-up that meets such a move can miss an
//! entry that is there; `changes` counts moves, and a miss counts only if none was under way.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use super::CellNumber;
use crate::pages::give_back_pages;

/// Places of the first segment: 2^5. A set with a handful of objects costs 128 bytes.
const FIRST_BITS: u32 = 5;
/// Segments from 2^5 to 2^32 places.
const SEGMENTS: usize = 28;
/// A segment is full at 3/4: linear probing then looks at 2.5 places for a hit, 8.5 for a miss.
const FULL_NUMERATOR: usize = 3;
const FULL_DENOMINATOR: usize = 4;

/// A move of entries takes less than a microsecond; after that many misses during one it is rather
/// interrupted.
const ATTEMPTS_PER_YIELD: u32 = 16;

/// See the module. Segments that were outgrown stay until the index is dropped, because somebody may
/// be looking into them. Their pages go back to the system: a look into one finds nothing, and is made
/// again because a change was under way.
pub(super) struct Index {
    segments: [OnceLock<Box<[AtomicU32]>>; SEGMENTS],
    current: AtomicU32,
    /// Odd while entries move.
    changes: AtomicU64,
    seed: u64,
    /// What is left of segments that were outgrown.
    outgrown_bytes: AtomicUsize,
}

impl Index {
    pub fn new() -> Index {
        let index = Index {
            segments: std::array::from_fn(|_| OnceLock::new()),
            current: AtomicU32::new(0),
            changes: AtomicU64::new(0),
            // Ids come from applications: a seed of its own for each table, so that no choice of ids
            // is bad everywhere.
            seed: RandomState::new().hash_one(0u8),
            outgrown_bytes: AtomicUsize::new(0),
        };
        index.segment(0);
        index
    }

    fn segment(&self, at: u32) -> &[AtomicU32] {
        self.segments[at as usize].get_or_init(|| (0..1usize << (FIRST_BITS + at)).map(|_| AtomicU32::new(0)).collect())
    }

    #[inline(always)]
    fn current(&self) -> (&[AtomicU32], u32) {
        let at = self.current.load(Ordering::Acquire);
        let segment = self.segments[at as usize].get().expect("the current segment exists");
        (segment, FIRST_BITS + at)
    }

    #[inline(always)]
    fn hash(&self, id: u64) -> u32 {
        // The two halves of the product are mixed, because its low half alone ignores high bits of ids.
        let product = u128::from(id ^ self.seed) * 0x9e37_79b9_7f4a_7c15;
        ((product >> 64) ^ product) as u64 as u32
    }

    #[inline(always)]
    fn home(hash: u32, bits: u32) -> usize {
        (u64::from(hash) >> (32 - bits)) as usize
    }

    #[inline(always)]
    fn tag(hash: u32, bits: u32) -> u32 {
        (u64::from(hash) << bits) as u32
    }

    #[inline(always)]
    fn number_mask(bits: u32) -> u32 {
        ((1u64 << bits) - 1) as u32
    }

    /// What `look` makes of the cell it accepts, among those whose hash is that of `id`.
    #[inline(always)]
    pub fn find<R>(&self, id: u64, look: impl Fn(CellNumber) -> Option<R>) -> Option<R> {
        match self.probe(self.hash(id), &look) {
            Some(found) => Some(found),
            None => self.find_again(id, &look),
        }
    }

    /// As [`Self::find`], by one look: what it misses may be there, unless the caller is the one writer.
    #[inline(always)]
    pub fn find_now<R>(&self, id: u64, look: impl Fn(CellNumber) -> Option<R>) -> Option<R> {
        self.probe(self.hash(id), &look)
    }

    /// A miss counts only if no entry was moved meanwhile.
    #[cold]
    fn find_again<R>(&self, id: u64, look: &impl Fn(CellNumber) -> Option<R>) -> Option<R> {
        let hash = self.hash(id);
        for attempt in 1u32.. {
            let before = self.changes.load(Ordering::Acquire);
            if let Some(found) = self.probe(hash, look) {
                return Some(found);
            }
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.changes.load(Ordering::Relaxed) == before {
                return None;
            }
            if attempt % ATTEMPTS_PER_YIELD == 0 {
                // Whoever moves entries may wait for this processor.
                std::thread::yield_now();
            }
        }
        None
    }

    #[inline(always)]
    fn probe<R>(&self, hash: u32, look: &impl Fn(CellNumber) -> Option<R>) -> Option<R> {
        let (places, bits) = self.current();
        let (mask, tag) = (Index::number_mask(bits), Index::tag(hash, bits));
        let home = Index::home(hash, bits);
        for step in 0..places.len() {
            let entry = places[(home + step) & (places.len() - 1)].load(Ordering::Acquire);
            if entry == 0 {
                return None;
            }
            if entry & !mask == tag
                && let Some(found) = look((entry & mask).wrapping_sub(1))
            {
                return Some(found);
            }
        }
        None
    }

    /// Adds a cell. One writer at a time; `count` cells are in the index, and `id_of` tells theirs.
    pub fn insert(&self, id: u64, number: CellNumber, count: usize, id_of: impl Fn(CellNumber) -> u64) {
        let (places, bits) = self.current();
        let full = places.len() / FULL_DENOMINATOR * FULL_NUMERATOR;
        // The number must fit as well: cells are reused, so there are rarely more than objects.
        if count < full && (number as usize) < full {
            Index::put(places, bits, self.hash(id), number);
            return;
        }
        let at = self.current.load(Ordering::Relaxed) + 1;
        assert!((at as usize) < SEGMENTS, "a table has fewer than 2^32 cells");
        let larger = self.segment(at);
        for entry in places.iter().map(|place| place.load(Ordering::Relaxed)).filter(|entry| *entry != 0) {
            let number = (entry & Index::number_mask(bits)) - 1;
            Index::put(larger, FIRST_BITS + at, self.hash(id_of(number)), number);
        }
        Index::put(larger, FIRST_BITS + at, self.hash(id), number);
        // Whoever looks into the old segment still may miss what is added from now on.
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.current.store(at, Ordering::Release);
        self.outgrown_bytes.fetch_add(give_back_pages(places), Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    fn put(places: &[AtomicU32], bits: u32, hash: u32, number: CellNumber) {
        let mask = places.len() - 1;
        let mut at = Index::home(hash, bits);
        while places[at].load(Ordering::Relaxed) != 0 {
            at = (at + 1) & mask;
        }
        places[at].store(Index::tag(hash, bits) | (number + 1), Ordering::Release);
    }

    /// Takes a cell out. One writer at a time; `id_of` tells the ids of cells in the index.
    pub fn remove(&self, id: u64, number: CellNumber, id_of: impl Fn(CellNumber) -> u64) {
        let (places, bits) = self.current();
        let (mask, hash) = (places.len() - 1, self.hash(id));
        let wanted = Index::tag(hash, bits) | (number + 1);
        let home = Index::home(hash, bits);
        let place = (0..places.len()).map(|step| (home + step) & mask);
        let place = place.take_while(|at| places[*at].load(Ordering::Relaxed) != 0);
        let Some(mut hole) = place.into_iter().find(|at| places[*at].load(Ordering::Relaxed) == wanted) else { return };
        self.changes.fetch_add(1, Ordering::AcqRel);
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let entry = places[at].load(Ordering::Relaxed);
            if entry == 0 {
                break;
            }
            let number = (entry & Index::number_mask(bits)) - 1;
            let home = Index::home(self.hash(id_of(number)), bits);
            // It may move up to the hole only if its home is not behind the hole.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                places[hole].store(entry, Ordering::Release);
                hole = at;
            }
        }
        places[hole].store(0, Ordering::Release);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// All memory of the index.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(self.current().0) + self.outgrown_bytes.load(Ordering::Relaxed)
    }
}
