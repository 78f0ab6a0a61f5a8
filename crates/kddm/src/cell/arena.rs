//! The memory of a table's cells. It never moves, and is freed with the table only.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU32;

use super::CellNumber;
use super::sync::{AtomicPtr, AtomicU64, Ordering, ValueWord};
use super::word::Word;
use crate::value::{IN_CELL_ALIGN, Value};

/// One object's cell. Plain old data follows it directly, so that a hit by key touches one page.
#[repr(C, align(32))]
#[derive(Debug)]
pub(super) struct Cell {
    pub id: AtomicU64,
    pub word: Word,
    pub version: AtomicU64,
    /// See [`super::content`].
    pub value: AtomicPtr<()>,
}

impl Cell {
    /// What stands for the cell in slots.
    pub fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// Cells in the first bucket; each further bucket has as many as all before it and these. Memory
/// beyond the cells in use is never touched, so it costs address space only.
const FIRST_BUCKET: u32 = 1024;
/// Buckets until a number no longer fits 32 bits.
pub(super) const BUCKETS: usize = 22;
/// Buckets begin on a cache line, so that no cell crosses one.
const BUCKET_ALIGN: usize = 64;

/// The bucket in which the cell of that number is, and the how-manieth of it.
#[inline(always)]
pub(super) fn place(number: CellNumber) -> (usize, usize) {
    let shifted = number as usize + FIRST_BUCKET as usize;
    let bucket = (shifted.ilog2() - FIRST_BUCKET.ilog2()) as usize;
    (bucket, shifted - ((FIRST_BUCKET as usize) << bucket))
}

/// How many cells that bucket has.
pub(super) fn bucket_cells(bucket: usize) -> usize {
    (FIRST_BUCKET as usize) << bucket
}

/// See the module.
pub(super) struct Arena<T: Value> {
    buckets: [AtomicPtr<u8>; BUCKETS],
    /// Cells with a smaller number are initialised.
    count: AtomicU32,
    values: PhantomData<T>,
}

impl<T: Value> Arena<T> {
    /// Bytes from one cell to the next.
    const STRIDE: usize =
        size_of::<Cell>() + (words::<T>() * size_of::<ValueWord>()).next_multiple_of(align_of::<Cell>());

    /// No cells, no memory.
    pub fn new() -> Arena<T> {
        Arena {
            buckets: std::array::from_fn(|_| AtomicPtr::new(null_mut())),
            count: AtomicU32::new(0),
            values: PhantomData,
        }
    }

    /// How many cells there have been.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    fn layout(bucket: usize) -> Layout {
        Self::STRIDE
            .checked_mul(bucket_cells(bucket))
            .and_then(|bytes| Layout::from_size_align(bytes, BUCKET_ALIGN).ok())
            .expect("fewer than 2^32 cells of at most a few KiB fit the address space")
    }

    /// The cell with that number, if there has been one.
    #[inline(always)]
    pub fn pointer(&self, number: CellNumber) -> Option<NonNull<Cell>> {
        if number >= self.count.load(Ordering::Acquire) {
            return None;
        }
        let (bucket, offset) = place(number);
        let base = self.buckets[bucket].load(Ordering::Acquire);
        // SAFETY: a number below the count has its bucket allocated, and its place is inside it.
        NonNull::new(unsafe { base.add(offset * Self::STRIDE) }.cast())
    }

    /// As [`Self::pointer`].
    #[inline(always)]
    pub fn cell(&self, number: CellNumber) -> Option<&Cell> {
        // SAFETY: cells below the count are initialised and live as long as the arena.
        self.pointer(number).map(|pointer| unsafe { pointer.as_ref() })
    }

    /// Makes one more cell, that belongs to no object. One caller at a time.
    pub fn grow(&self) -> CellNumber {
        let number = self.count.load(Ordering::Relaxed);
        let (bucket, offset) = place(number);
        assert!(bucket < BUCKETS, "a table has fewer than 2^32 cells");
        let mut base = self.buckets[bucket].load(Ordering::Relaxed);
        if base.is_null() {
            let layout = Self::layout(bucket);
            // SAFETY: the layout has a size: a bucket has cells, and a cell has bytes.
            base = unsafe { alloc(layout) };
            if base.is_null() {
                handle_alloc_error(layout);
            }
            self.buckets[bucket].store(base, Ordering::Release);
        }
        // SAFETY: the place is inside the bucket, and aligned: buckets to 64 bytes, strides to 32.
        let cell = unsafe { base.add(offset * Self::STRIDE) }.cast::<Cell>();
        // SAFETY: nobody else knows this place: it is not below the count yet.
        unsafe {
            cell.write(Cell {
                id: AtomicU64::new(0),
                word: Word::free(),
                version: AtomicU64::new(0),
                value: AtomicPtr::new(null_mut()),
            });
            for at in 0..words::<T>() {
                cell.add(1).cast::<ValueWord>().add(at).write(ValueWord::new(0));
            }
        }
        self.count.store(number + 1, Ordering::Release);
        number
    }

    /// Whether that is the address of one of the cells.
    pub fn contains(&self, address: usize) -> bool {
        (0..BUCKETS).any(|bucket| {
            let base = self.buckets[bucket].load(Ordering::Acquire);
            !base.is_null() && (base.addr()..base.addr() + Self::layout(bucket).size()).contains(&address)
        })
    }

    /// Frees everything.
    ///
    /// # Safety
    /// Nobody may use a cell afterwards, nor a pointer to one.
    pub unsafe fn free(&mut self) {
        for bucket in 0..BUCKETS {
            let base = self.buckets[bucket].swap(null_mut(), Ordering::AcqRel);
            if !base.is_null() {
                // SAFETY: it was allocated by `grow` with this layout, and is forgotten here.
                unsafe { dealloc(base, Self::layout(bucket)) };
            }
        }
        self.count.store(0, Ordering::Release);
    }
}

const WORD_BYTES: usize = size_of::<u64>();

/// How many words behind its cell a value takes: none unless it is plain old data.
pub(super) const fn words<T: Value>() -> usize {
    if T::IN_CELL.is_some() { size_of::<T>().div_ceil(WORD_BYTES) } else { 0 }
}

/// Whether values lie in their cells.
#[inline(always)]
pub(super) const fn is_in_cell<T: Value>() -> bool {
    words::<T>() > 0
}

/// The words behind a cell.
///
/// # Safety
/// `cell` comes from [`Arena::pointer`] of a living arena of `T`.
#[inline(always)]
unsafe fn words_of<'a, T: Value>(cell: NonNull<Cell>) -> &'a [ValueWord] {
    // SAFETY: `grow` has initialised that many words directly behind the cell.
    unsafe { std::slice::from_raw_parts(cell.as_ptr().add(1).cast::<ValueWord>(), words::<T>()) }
}

/// Reads the words behind a cell, whoever writes them meanwhile: then the value is a mixture, and a
/// seqlock must tell. Only for a `T` that lies in its cell.
///
/// # Safety
/// As [`words_of`].
#[inline(always)]
pub(super) unsafe fn load_value<T: Value>(cell: NonNull<Cell>) -> T {
    assert!(is_in_cell::<T>(), "the value lives in an `Arc`");
    // SAFETY: the caller's promise.
    let words = unsafe { words_of::<T>(cell) };
    let mut value = MaybeUninit::<T>::uninit();
    let bytes = value.as_mut_ptr().cast::<u8>();
    let whole = size_of::<T>() / WORD_BYTES;
    for (at, word) in words[..whole].iter().enumerate() {
        // SAFETY: `at` is below the number of words that lie in `T` with all their bytes.
        unsafe { bytes.cast::<u64>().add(at).write_unaligned(word.load(Ordering::Relaxed)) };
    }
    let rest = size_of::<T>() % WORD_BYTES;
    if rest > 0 {
        let last = words[whole].load(Ordering::Relaxed).to_ne_bytes();
        // SAFETY: the last bytes of `T`; a word has more.
        unsafe { bytes.add(whole * WORD_BYTES).copy_from_nonoverlapping(last.as_ptr(), rest) };
    }
    // SAFETY: all bytes are initialised, and `InCell` proves that any of them make a value.
    unsafe { value.assume_init() }
}

/// Writes the words behind a cell. Only for a `T` that lies in its cell.
///
/// # Safety
/// As [`words_of`].
#[inline(always)]
pub(super) unsafe fn store_value<T: Value>(cell: NonNull<Cell>, value: &T) {
    assert!(is_in_cell::<T>(), "the value lives in an `Arc`");
    // SAFETY: the caller's promise.
    let words = unsafe { words_of::<T>(cell) };
    let bytes = std::ptr::from_ref(value).cast::<u8>();
    let whole = size_of::<T>() / WORD_BYTES;
    for (at, word) in words[..whole].iter().enumerate() {
        // SAFETY: the word lies in `T`, all of whose bytes are initialised: `InCell` proves it.
        word.store(unsafe { bytes.cast::<u64>().add(at).read_unaligned() }, Ordering::Relaxed);
    }
    let rest = size_of::<T>() % WORD_BYTES;
    if rest > 0 {
        let mut last = [0; WORD_BYTES];
        // SAFETY: the last bytes of `T`; a word has more.
        unsafe { bytes.add(whole * WORD_BYTES).copy_to_nonoverlapping(last.as_mut_ptr(), rest) };
        words[whole].store(u64::from_ne_bytes(last), Ordering::Relaxed);
    }
}

/// Where the value behind a cell lies. It may be looked at there while a hold keeps everybody from
/// writing: readers without a hold only read, so that no two accesses conflict. Words keep the order
/// that bytes have in memory. Only for a `T` that lies in its cell.
///
/// # Safety
/// As [`words_of`].
#[inline(always)]
pub(super) unsafe fn place_of<T: Value>(cell: NonNull<Cell>) -> NonNull<T> {
    // SAFETY: the caller's promise: one behind the cell is inside its bucket.
    unsafe { cell.add(1) }.cast()
}

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<Cell>() == IN_CELL_ALIGN && align_of::<Cell>() == IN_CELL_ALIGN);
