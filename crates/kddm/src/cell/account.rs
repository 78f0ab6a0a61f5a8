//! What the values of a table take: how many there are, their bytes, and, where a set has a budget, what is counted
//! against it.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use kddm_core::id::mix;

use super::CellNumber;
use super::arena::{BUCKETS, Cell, bucket_cells, place};
use super::cold::Swept;
use super::sync::Ordering;
use super::table::Table;
use super::word::{LIVE, READY};
use crate::value::Value;

/// Of so many objects one is a sample: how often it is found here is counted, and costs its readers that. The others' hits
/// cost nothing.
pub(crate) const SAMPLED: u64 = 64;

/// What a node spends on an object besides its value, rounded up: `bytes_per_owned` of docs/numbers.md.
const BESIDES_BYTES: usize = 120;

/// An entry: bytes, a bit for what has just come and two for how much it was used since, two bits for what hands have found,
/// a bit for what is here and does not count, and the low bits of the version.
const BYTES: u64 = (1 << 34) - 1;
const NEW: u64 = 1 << 34;
const SCORE_ONE: u64 = 1 << 35;
/// An object that was used in as many rounds of the hand stays for as many more in which it is not: what is read all the
/// time outlives a walk through many objects that are read once. More would keep for longer what is of no use any more.
const MOST_SCORE: u64 = 3 << 35;
const KEPT: u64 = 1 << 39;
const VERSION_SHIFT: u32 = 40;

/// The hands that look whether objects were used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hand {
    OfBudget,
    OfAges,
}

impl Hand {
    /// That the other one has found that the object was used.
    fn word(self) -> u64 {
        match self {
            Hand::OfBudget => 1 << 37,
            Hand::OfAges => 1 << 38,
        }
    }
}

/// What is counted against the budget of a set, cell by cell. An entry is written by whoever has the lane of the object, or
/// holds it to write.
pub struct Account {
    limit_bytes: AtomicUsize,
    bytes: AtomicUsize,
    entries: [OnceLock<Box<[AtomicU64]>>; BUCKETS],
    over: Box<dyn Fn() + Send + Sync>,
    /// Which objects are samples.
    salt: AtomicU64,
    hits: AtomicU64,
    misses_of_samples: AtomicU64,
    misses: AtomicU64,
}

/// Bytes that an entry stands for.
fn counted(entry: u64) -> usize {
    (entry & BYTES) as usize
}

impl Account {
    /// `over` is told, perhaps under a lane's lock, whenever more has come and it is too much.
    pub fn new(limit_bytes: usize, over: impl Fn() + Send + Sync + 'static) -> Account {
        Account {
            limit_bytes: AtomicUsize::new(limit_bytes),
            bytes: AtomicUsize::new(0),
            entries: std::array::from_fn(|_| OnceLock::new()),
            over: Box::new(over),
            salt: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses_of_samples: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// How much may be here.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    /// From now on so much may be here.
    pub fn set_limit_bytes(&self, limit_bytes: usize) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// How much is here.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn entry(&self, cell: CellNumber) -> Option<&AtomicU64> {
        let (bucket, offset) = place(cell);
        let entries = self.entries.get(bucket)?;
        let entries = entries.get_or_init(|| (0..bucket_cells(bucket)).map(|_| AtomicU64::new(0)).collect());
        entries.get(offset)
    }

    fn replace(&self, cell: CellNumber, new: u64) {
        let Some(entry) = self.entry(cell) else { return };
        // What hands have found of the object stays, as long as it is there.
        let kept = if new == 0 { 0 } else { NEW | MOST_SCORE | Hand::OfBudget.word() | Hand::OfAges.word() };
        let replace = |was: u64| Some(new | if was == 0 && new != 0 { NEW } else { was & kept });
        let (Ok(was) | Err(was)) = entry.fetch_update(Ordering::Relaxed, Ordering::Relaxed, replace);
        let (was, is) = (counted(was), counted(new));
        if is <= was {
            self.bytes.fetch_sub(was - is, Ordering::Relaxed);
        } else if self.bytes.fetch_add(is - was, Ordering::Relaxed) + is - was > self.limit_bytes() {
            (self.over)();
        }
    }

    /// A value of so many bytes is in that cell.
    pub fn note(&self, cell: CellNumber, value_bytes: usize, version: u64) {
        let bytes = (value_bytes.saturating_add(BESIDES_BYTES) as u64).min(BYTES);
        self.replace(cell, bytes | version << VERSION_SHIFT);
    }

    /// Tells of too much, though nothing has come.
    pub fn is_too_much(&self) {
        (self.over)();
    }

    /// What is in that cell cannot go, and does not count.
    pub fn keep(&self, cell: CellNumber) {
        self.replace(cell, KEPT);
    }

    /// Whether that was said of what is in that cell.
    pub fn keeps(&self, cell: CellNumber) -> bool {
        self.entry(cell).is_some_and(|entry| entry.load(Ordering::Relaxed) & KEPT != 0)
    }

    /// The object in that cell was used, which that hand is to know when it comes by.
    pub(super) fn leave_word(&self, cell: CellNumber, hand: Hand) {
        let Some(entry) = self.entry(cell) else { return };
        // What has no entry yet has none to be kept.
        let with_word = |entry: u64| (entry != 0).then_some(entry | hand.word());
        let _none_yet = entry.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with_word);
    }

    /// Whether that was said to that hand.
    pub(super) fn take_word(&self, cell: CellNumber, hand: Hand) -> bool {
        let Some(entry) = self.entry(cell) else { return false };
        let is_said = |entry: u64| entry & hand.word() != 0;
        is_said(entry.load(Ordering::Relaxed)) && is_said(entry.fetch_and(!hand.word(), Ordering::Relaxed))
    }

    /// The same, and it stays said.
    pub(super) fn has_word(&self, cell: CellNumber, hand: Hand) -> bool {
        self.entry(cell).is_some_and(|entry| entry.load(Ordering::Relaxed) & hand.word() != 0)
    }

    /// The object in that cell was read by somebody who had waited for it. Whether that is why it is here, and no other use of
    /// it: the first time. Ages count from there.
    pub(super) fn was_brought(&self, cell: CellNumber) -> bool {
        let Some(entry) = self.entry(cell) else { return false };
        let read = |entry: u64| (entry & NEW != 0).then_some((entry & !NEW) | Hand::OfAges.word());
        entry.fetch_update(Ordering::Relaxed, Ordering::Relaxed, read).is_ok()
    }

    /// The hand of the budget passes an object that was used since it came by last, or was not. What it leaves behind.
    pub(super) fn passes(&self, cell: CellNumber, is_used: bool) -> Swept {
        let pass = |entry: u64| match (is_used, entry & NEW != 0, entry & MOST_SCORE) {
            // What has no entry has none to be kept.
            _ if entry == 0 => None,
            // Whoever has it brought uses it: that does not tell that anybody else will.
            (true, true, _) => Some(entry & !NEW),
            (true, false, score) => (score < MOST_SCORE).then_some(entry.wrapping_add(SCORE_ONE)),
            (false, _, score) => (score > 0).then_some((entry & !NEW).wrapping_sub(SCORE_ONE)),
        };
        let changes = |entry: &AtomicU64| entry.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pass).is_ok();
        match self.entry(cell).is_some_and(changes) {
            _ if is_used => Swept::Used,
            true => Swept::Spared,
            false => Swept::Unused,
        }
    }

    /// Nothing is in that cell.
    pub fn forget(&self, cell: CellNumber) {
        self.replace(cell, 0);
    }

    /// What that cell counts.
    pub fn bytes_of(&self, cell: CellNumber) -> usize {
        self.entry(cell).map_or(0, |entry| counted(entry.load(Ordering::Relaxed)))
    }

    /// Whether the value of that version is counted, or another one, or none.
    pub(super) fn knows(&self, cell: CellNumber, version: u64) -> Known {
        match self.entry(cell).map_or(0, |entry| entry.load(Ordering::Relaxed)) {
            0 => Known::Nothing,
            entry if entry & KEPT != 0 || entry >> VERSION_SHIFT == version << VERSION_SHIFT >> VERSION_SHIFT => {
                Known::This
            }
            _ => Known::Another,
        }
    }

    /// Whether that object is one of those whose hits are counted.
    pub fn samples(&self, id: u64) -> bool {
        mix(id ^ self.salt.load(Ordering::Relaxed)).is_multiple_of(SAMPLED)
    }

    /// Others are samples from now on: an object that is read more than all others must not be one for ever, nor never.
    pub fn resample(&self) {
        let next = mix(self.salt.load(Ordering::Relaxed).wrapping_add(1));
        self.salt.store(next, Ordering::Relaxed);
    }

    /// A sample was read here.
    pub(super) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// An object was read here only because it was brought just before.
    pub(super) fn was_missed(&self, id: u64) {
        if self.samples(id) {
            self.hits.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// An object was wanted and not here.
    pub fn missed(&self, id: u64) {
        self.misses.fetch_add(1, Ordering::Relaxed);
        if self.samples(id) {
            self.misses_of_samples.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All misses, and of samples alone hits and misses.
    pub fn found(&self) -> (u64, u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        // A read that followed a miss may be taken off before it is counted, for a moment.
        let hits = of(&self.hits).cast_signed().max(0).cast_unsigned();
        (of(&self.misses), hits, of(&self.misses_of_samples))
    }
}

/// What an account says of a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    Nothing,
    This,
    Another,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("bytes", &self.bytes()).field("limit_bytes", &self.limit_bytes()).finish()
    }
}

impl<T: Value> Table<T> {
    /// The objects in those cells, with them, in the order of the cells.
    pub(super) fn live_cells(&self, cells: Range<CellNumber>) -> impl Iterator<Item = (u64, CellNumber, &Cell)> {
        cells.filter_map(|number| {
            let cell = self.arena.cell(number)?;
            cell.word.load().has(LIVE).then(|| (cell.id.load(Ordering::Acquire), number, cell))
        })
    }

    /// Objects of which this node has a value. Looks at every cell.
    pub fn value_count(&self) -> usize {
        let has_value = |cell: &Cell| cell.word.load().has(READY) || !cell.value.load(Ordering::Acquire).is_null();
        self.live_cells(0..self.arena.count()).filter(|(_, _, cell)| has_value(cell)).count()
    }

    /// Bytes of cells and index, without the values.
    pub fn metadata_bytes(&self) -> usize {
        let cells = self.arena.count() as usize * size_of::<Cell>();
        let free = self.writer.lock().free.capacity() * size_of::<CellNumber>();
        cells + free + self.index.memory_bytes() + size_of::<Table<T>>()
    }
}
