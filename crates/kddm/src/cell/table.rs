//! The table of one set: the fast path.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};

use super::CellNumber;
use super::arena::{Arena, Cell, is_in_cell, load_value};
use super::content;
use super::head::{Ended, Head};
use super::hold::{Hold, Note, ReadHold, WriteHold};
use super::index::Index;
use super::lease::Lease;
use super::notes::Notes;
use super::slots::{Use, any_mentions, any_reads, free_slot, own_use};
use super::store::Store;
use super::sync::{Ordering, heavy_barrier, prepare};
use super::word::{BIASED, Forced, LIVE, Refusal, Slow, WRITER};
use crate::sync::Mutex;
use crate::value::{DecodeError, Value};

/// All objects of one set of which this node knows something that local threads may need.
///
/// ```
/// use kddm::cell::{Store, Table};
/// use kddm_core::io::Access;
/// let table: Table<String> = Table::new();
/// let cell = table.find_or_insert(7);
/// table.install(cell, 1, Some(&[2, b'h', b'i']))?;
/// table.grant(cell, Access::Read);
/// let hold = table.take_read(cell).expect("nobody writes");
/// let hold = table.adopt_read(hold)?;
/// assert_eq!(hold.value(), "hi");
/// assert!(!hold.release(), "nobody waits");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Table<T: Value> {
    pub(super) arena: Arena<T>,
    pub(super) index: Index,
    pub(super) writer: Mutex<Writer>,
    /// Made by `Box::into_raw`; freed with the cells, or left behind with them.
    head: NonNull<Head>,
}

// SAFETY: the head consists of atomics and a number that stays.
unsafe impl<T: Value> Send for Table<T> {}
// SAFETY: as above.
unsafe impl<T: Value> Sync for Table<T> {}

/// What only inserting and removing cells needs.
#[derive(Default)]
pub(super) struct Writer {
    /// Cells in the index.
    pub live: usize,
    pub free: Vec<CellNumber>,
}

static TABLES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

impl<T: Value> Default for Table<T> {
    fn default() -> Table<T> {
        Table::new()
    }
}

#[inline(always)]
pub(super) fn is(cell: &Cell, id: u64) -> bool {
    cell.id.load(Ordering::Relaxed) == id
}

/// Whether readers sit in slots. Waits for every processor: the revoker's side of the bargain.
#[cold]
pub(super) fn swept(cell: &Cell) -> bool {
    heavy_barrier();
    any_reads(cell.address())
}

impl<T: Value> Table<T> {
    /// An empty table.
    pub fn new() -> Table<T> {
        let _light_from_now_on = prepare();
        let head = Box::new(Head {
            number: TABLES.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            ended: AtomicU8::new(0),
            limit_bytes: AtomicUsize::new(usize::MAX),
            discarded: AtomicU64::new(0),
            lease: OnceLock::new(),
            account: OnceLock::new(),
        });
        Table {
            arena: Arena::new(),
            index: Index::new(),
            writer: Mutex::default(),
            head: NonNull::from(Box::leak(head)),
        }
    }

    #[inline(always)]
    pub(super) fn head(&self) -> &Head {
        // SAFETY: the head lives at least as long as the table.
        unsafe { self.head.as_ref() }
    }

    pub(super) fn head_pointer(&self) -> NonNull<Head> {
        self.head
    }

    /// Nothing is put here any more when that lease is over.
    pub fn set_lease(&self, lease: Arc<Lease>) {
        let _it_has_the_same = self.head().lease.set(lease);
    }

    /// Why nothing that is put here can reach anybody, if that is so.
    #[inline]
    pub fn ended(&self) -> Option<Ended> {
        self.head().ended()
    }

    /// No value of more than so many encoded bytes may be published.
    pub fn set_limit_bytes(&self, limit_bytes: usize) {
        self.head().limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// The objects are lent to this process: whoever puts one has to tell the node that lends it, and
    /// [`WriteHold::is_plain`] says so.
    pub fn set_borrowed(&self) {
        self.head().set_borrowed();
    }

    /// Replicas are kept of the objects: [`WriteHold::is_plain`] says that a put has to wait for these.
    pub fn set_replicated(&self) {
        self.head().set_replicated();
    }

    /// Changes that were given up with their hold.
    pub fn discarded(&self) -> u64 {
        self.head().discarded.load(Ordering::Relaxed)
    }

    /// The table behind a store, if its values are of type `T`.
    pub fn from_store(store: &Arc<dyn Store>) -> Option<Arc<Table<T>>> {
        let any: Arc<dyn Any + Send + Sync> = Arc::clone(store) as _;
        any.downcast().ok()
    }

    /// The cell of an object. Remember it, and use [`Self::try_read_at`] and its like.
    pub fn find_cell(&self, id: u64) -> Option<CellNumber> {
        self.index.find(id, |number| self.cell_of(number, id).map(|_| number))
    }

    /// Where the cell of an object is. It never moves, and lives as long as the table.
    #[inline(always)]
    pub(super) fn find_pointer(&self, id: u64) -> Option<NonNull<Cell>> {
        self.index.find(id, |number| self.cell_of(number, id))
    }

    #[inline(always)]
    pub(super) fn cell_of(&self, number: CellNumber, id: u64) -> Option<NonNull<Cell>> {
        let pointer = self.arena.pointer(number)?;
        // SAFETY: cells of the arena live as long as it.
        let cell = unsafe { pointer.as_ref() };
        (is(cell, id) && cell.word.load().has(LIVE)).then_some(pointer)
    }

    /// Takes a read hold, if the access that is here allows it and nobody is in the way.
    ///
    /// # Errors
    /// Why the driver must be asked. `Interrupted`: it must be told in any case.
    #[inline(always)]
    pub fn try_read(&self, id: u64) -> Result<ReadHold<T>, Slow> {
        let pointer = self.find_pointer(id).ok_or(Slow::NoAccess)?;
        // SAFETY: found in this table.
        unsafe { self.read_at(pointer, id) }
    }

    /// As [`Self::try_read`], by the cell in which the object was. If another object is in it now,
    /// the answer is `NoAccess`.
    pub fn try_read_at(&self, cell: CellNumber, id: u64) -> Result<ReadHold<T>, Slow> {
        let pointer = self.arena.pointer(cell).ok_or(Slow::NoAccess)?;
        // SAFETY: it is of this table's arena.
        unsafe { self.read_at(pointer, id) }
    }

    /// As [`Self::try_read`].
    ///
    /// # Safety
    /// `pointer` is from this table's arena.
    #[inline(always)]
    pub(super) unsafe fn read_at(&self, pointer: NonNull<Cell>, id: u64) -> Result<ReadHold<T>, Slow> {
        // SAFETY: the caller's promise; cells live as long as the table.
        let cell = unsafe { pointer.as_ref() };
        let seen = cell.word.load();
        if seen.has(BIASED)
            && seen.allows_read()
            && let Some(slot) = free_slot()
        {
            match cell.word.read_by_slot(slot, cell.address(), || is(cell, id)) {
                Ok(true) => return read_hold(Hold::by_slot(pointer, slot, self.head), id),
                Ok(false) => {}
                Err(refusal) => return Err(refused(cell, refusal)),
            }
        }
        if let Err(slow) = cell.word.count_reader(|| is(cell, id), cell.word.load()) {
            self.count_cold(cell, id, slow)?;
        }
        read_hold(Hold::in_word(pointer, Use::Counted, self.head, Note::Thread), id)
    }

    /// Takes the write hold, if write access is here and nobody is in the way. An object without a
    /// value is held too: the first touch.
    ///
    /// # Errors
    /// As [`Self::try_read`].
    #[inline(always)]
    pub fn try_write(&self, id: u64) -> Result<WriteHold<T>, Slow> {
        let pointer = self.find_pointer(id).ok_or(Slow::NoAccess)?;
        // SAFETY: found in this table.
        unsafe { self.write_at(pointer, id) }
    }

    /// As [`Self::try_write`], by the cell in which the object was.
    pub fn try_write_at(&self, cell: CellNumber, id: u64) -> Result<WriteHold<T>, Slow> {
        let pointer = self.arena.pointer(cell).ok_or(Slow::NoAccess)?;
        // SAFETY: it is of this table's arena.
        unsafe { self.write_at(pointer, id) }
    }

    /// As [`Self::try_write`].
    ///
    /// # Safety
    /// `pointer` is from this table's arena.
    #[inline(always)]
    pub(super) unsafe fn write_at(&self, pointer: NonNull<Cell>, id: u64) -> Result<WriteHold<T>, Slow> {
        // SAFETY: the caller's promise.
        unsafe { self.write_noted(pointer, id, Note::Thread) }
    }

    /// As [`Self::try_read`], with a note for a holder.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn try_read_by(&self, id: u64, holder: &Notes) -> Result<ReadHold<T>, Slow> {
        let pointer = self.find_pointer(id).ok_or(Slow::NoAccess)?;
        // SAFETY: found in this table, whose cells live as long as it.
        let cell = unsafe { pointer.as_ref() };
        // Counted, because a slot is its thread's, and this hold may end in another one.
        if let Err(slow) = cell.word.count_reader(|| is(cell, id), cell.word.load()) {
            self.count_cold(cell, id, slow)?;
        }
        read_hold(Hold::in_word(pointer, Use::Counted, self.head, Note::Holder(holder)), id)
    }

    /// As [`Self::try_write`], with a note for a holder.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn try_write_by(&self, id: u64, holder: &Notes) -> Result<WriteHold<T>, Slow> {
        let pointer = self.find_pointer(id).ok_or(Slow::NoAccess)?;
        // SAFETY: found in this table.
        unsafe { self.write_noted(pointer, id, Note::Holder(holder)) }
    }

    /// As [`Self::try_write`].
    ///
    /// # Safety
    /// `pointer` is from this table's arena.
    #[inline(always)]
    unsafe fn write_noted(&self, pointer: NonNull<Cell>, id: u64, note: Note<'_>) -> Result<WriteHold<T>, Slow> {
        // SAFETY: the caller's promise; cells live as long as the table.
        let cell = unsafe { pointer.as_ref() };
        if let Err(refusal) = cell.word.take_writer(Forced::No, || is(cell, id), || swept(cell)) {
            return Err(refused(cell, refusal));
        }
        let hold = Hold::in_word(pointer, Use::Write, self.head, note);
        if content::is_bytes(cell.value.load(Ordering::Acquire)) {
            return Err(if hold.release() { Slow::Interrupted(id) } else { Slow::Undecoded });
        }
        Ok(WriteHold::new(hold))
    }

    /// The value of plain old data as of now, copied out. Writes nothing and keeps nobody out.
    /// `None`: not here, or somebody holds it to write, or the type is too large to lie in its cell.
    pub fn pod_read(&self, id: u64) -> Option<T> {
        let pointer = self.find_pointer(id)?;
        // SAFETY: found in this table.
        unsafe { self.pod_at(pointer, id) }
    }

    /// As [`Self::pod_read`], with one attempt only: `None` may be a publish that came between.
    #[inline(always)]
    pub fn pod_glance(&self, id: u64) -> Option<T> {
        let pointer = self.find_pointer(id)?;
        // SAFETY: found in this table.
        unsafe { self.pod_glance_at(pointer, id) }
    }

    /// As [`Self::pod_read`], by the cell in which the object was.
    pub fn pod_read_at(&self, cell: CellNumber, id: u64) -> Option<T> {
        let pointer = self.arena.pointer(cell)?;
        // SAFETY: it is of this table's arena.
        unsafe { self.pod_at(pointer, id) }
    }

    /// As [`Self::pod_read`].
    ///
    /// # Safety
    /// `pointer` is from this table's arena.
    #[inline]
    pub(super) unsafe fn pod_at(&self, pointer: NonNull<Cell>, id: u64) -> Option<T> {
        if !is_in_cell::<T>() {
            return None;
        }
        // SAFETY: the caller's promise; cells live as long as the table.
        let cell = unsafe { pointer.as_ref() };
        self.glance_cold(cell, id);
        // SAFETY: the pointer is from this table's arena of `T`. The same look at the word covers the
        // id: the stamp changes before a cell is given to another object.
        cell.word.validated(|| is(cell, id), || unsafe { load_value::<T>(pointer) })
    }

    /// As [`Self::pod_read`], with one attempt only: `None` may be a publish that came between.
    ///
    /// # Safety
    /// `pointer` is from this table's arena.
    #[inline(always)]
    pub(super) unsafe fn pod_glance_at(&self, pointer: NonNull<Cell>, id: u64) -> Option<T> {
        if !is_in_cell::<T>() {
            return None;
        }
        // SAFETY: the caller's promise; cells live as long as the table.
        let cell = unsafe { pointer.as_ref() };
        // SAFETY: as in `pod_at`.
        cell.word.validated_once(|| is(cell, id), || unsafe { load_value::<T>(pointer) })
    }

    /// Whether [`Self::try_read`] would succeed now.
    pub fn may_read(&self, id: u64) -> bool {
        let cell = self.find_cell(id).and_then(|cell| self.arena.cell(cell));
        cell.is_some_and(|cell| cell.word.load().allows_cold_read() && is(cell, id))
    }

    /// Whether [`Self::try_write`] would succeed now, but for readers in slots.
    pub fn may_write(&self, id: u64) -> bool {
        let cell = self.find_cell(id).and_then(|cell| self.arena.cell(cell));
        cell.is_some_and(|cell| cell.word.load().allows_write() && is(cell, id))
    }

    /// "read" or "write" if a hold of the object was taken by this thread and has not ended, even if it
    /// was passed on to another thread; with a holder, if it was taken by that.
    pub(crate) fn held_by(&self, id: u64, holder: Option<&Notes>) -> Option<&'static str> {
        let address = self.arena.cell(self.find_cell(id)?)?.address();
        let by = holder.map_or_else(|| own_use(address), |notes| notes.use_of(address))?;
        Some(if by == Use::Write { "write" } else { "read" })
    }

    /// As [`Self::held_by`], of this thread.
    pub fn held_by_this_thread(&self, id: u64) -> Option<&'static str> {
        self.held_by(id, None)
    }

    /// Makes a hold that the driver took a hold to read by this thread.
    ///
    /// # Errors
    /// The value's bytes do not decode, or the hold is not a read hold of this table. It has ended
    /// then: **tell the driver**.
    pub fn adopt_read(&self, hold: Hold) -> Result<ReadHold<T>, DecodeError> {
        self.adopt_read_by(hold, None)
    }

    /// Makes a hold that the driver took a hold to write by this thread.
    ///
    /// # Errors
    /// As [`Self::adopt_read`].
    pub fn adopt_write(&self, hold: Hold) -> Result<WriteHold<T>, DecodeError> {
        self.adopt_write_by(hold, None)
    }

    /// As [`Self::adopt_read`], by a holder if there is one.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn adopt_read_by(&self, hold: Hold, holder: Option<&Notes>) -> Result<ReadHold<T>, DecodeError> {
        let hold = self.adopted(hold, Use::Counted, holder)?;
        ReadHold::new(hold).map_err(|_| DecodeError::new("the object has no value to read"))
    }

    /// As [`Self::adopt_write`], by a holder if there is one.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn adopt_write_by(&self, hold: Hold, holder: Option<&Notes>) -> Result<WriteHold<T>, DecodeError> {
        self.adopted(hold, Use::Write, holder).map(WriteHold::new)
    }

    fn adopted(&self, mut hold: Hold, by: Use, holder: Option<&Notes>) -> Result<Hold, DecodeError> {
        if hold.table() != self.number() || hold.is_write() != (by == Use::Write) {
            return Err(DecodeError::new("the hold is of another kind or of another table; ask again"));
        }
        let value = hold.cell().value.load(Ordering::Acquire);
        if content::is_bytes(value) {
            // SAFETY: bytes that somebody holds stay: the driver has tried to decode them before it
            // gave the hold, and does not try again.
            let failed = unsafe { content::bytes(value) }.error.clone();
            return Err(failed.unwrap_or_else(|| DecodeError::new("the value was not decoded; ask again")));
        }
        hold.note(holder.map_or(Note::Thread, Note::Holder));
        Ok(hold)
    }

    /// Tells this table from all others of the process; see [`ReadHold::table`].
    pub fn number(&self) -> u64 {
        self.head().number
    }
}

#[inline(always)]
fn read_hold<T: Value>(hold: Hold, id: u64) -> Result<ReadHold<T>, Slow> {
    ReadHold::new(hold).map_err(|tell| if tell { Slow::Interrupted(id) } else { Slow::NoValue })
}

/// What the caller hears.
#[cold]
pub(super) fn refused(cell: &Cell, refusal: Refusal) -> Slow {
    match refusal {
        Refusal::Withdrawn => Slow::Interrupted(cell.id.load(Ordering::Acquire)),
        Refusal::Slow(Slow::NoValue) if content::is_bytes(cell.value.load(Ordering::Acquire)) => Slow::Undecoded,
        Refusal::Slow(slow) => slow,
    }
}

/// How often a table that is dropped lets others run before it takes a hold for one that lasts.
const DROP_ATTEMPTS: u32 = 100;

impl<T: Value> Table<T> {
    fn is_used(&self) -> bool {
        heavy_barrier();
        let counted = (0..self.arena.count()).filter_map(|number| self.arena.cell(number)).any(|cell| {
            let seen = cell.word.load();
            seen.has(WRITER) || seen.has_counted_readers()
        });
        counted || any_mentions(|address| self.arena.contains(address))
    }
}

impl<T: Value> Drop for Table<T> {
    fn drop(&mut self) {
        for _ in 0..DROP_ATTEMPTS {
            if !self.is_used() {
                for number in 0..self.arena.count() {
                    let cell = self.arena.cell(number).expect("it is below the count");
                    let value = cell.value.swap(content::none(), Ordering::AcqRel);
                    // SAFETY: taken out of a cell of `T`; nobody holds anything of this table.
                    unsafe { content::drop_value::<T>(value) };
                }
                // SAFETY: nobody holds anything, and nobody can come: `&mut self`.
                unsafe { self.arena.free() };
                // SAFETY: it was made by `Box::leak` in `new`, and only holds had it besides.
                drop(unsafe { Box::from_raw(self.head.as_ptr()) });
                return;
            }
            std::thread::yield_now();
        }
        // A guard has outlived its set. Its cell and value must stay: everything is left behind, and
        // nothing that it puts reaches anybody.
        self.head().ended.fetch_max(Ended::Stopped as u8, Ordering::Release);
    }
}

impl<T: Value> std::fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("type", &T::type_name()).field("cells", &self.arena.count()).finish()
    }
}
