//! Holds: what keeps an object as it is while somebody uses it.
//!
//! A hold has no count on its table, because all readers would write that count. Instead the table
//! looks for holds when it is dropped, and leaves its memory behind if there is one: the cells, and
//! the [`Head`].
//!
//! **Where the value is looked at.** A hold gives `&T` into the memory of the cell itself (or of its
//! `Arc`), without a copy. That is sound because everything that stores there is ordered after the
//! last look: a release of a counted or write hold is a `Release` on the word, and whoever stores has
//! read the word by an `Acquire` exchange afterwards (`take_writer`, `revoke`); a release by slot is a
//! `Release` on the slot, and whoever stores has read the slot by an `Acquire` load after a heavy
//! barrier. And it is ordered before: a hold begins with an `Acquire` of the word that the last store
//! was released by. Readers without a hold only load, so that they conflict with nobody's look.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::arena::{Cell, is_in_cell, place_of, store_value};
use super::changed::Changed;
use super::content;
use super::head::Ended;
use super::head::Head;
use super::notes::Notes;
use super::slots::{Slot, Use, free_note};
use crate::value::Value;

/// A hold of an object whose type is not known here: what the driver takes for a thread that waits.
/// That thread makes it a [`ReadHold`] or a [`WriteHold`] by its table.
///
/// Three whole words: it is handed on through several hands on each hit, and smaller fields would make
/// that several moves, which wait for each other.
#[must_use = "the object is held until `release`"]
pub struct Hold {
    cell: NonNull<Cell>,
    head: NonNull<Head>,
    pub(super) mark: Mark,
}

/// Where a hold is marked; of counted and write holds only a note for whoever holds.
/// Low bits: the [`Use`], and whether the write hold has changed the value.
#[derive(Clone, Copy)]
pub(super) struct Mark(*const Slot);

const USE: usize = 0b011;
const PUBLISHED: usize = 0b100;
const _: () = assert!(align_of::<Slot>() > USE | PUBLISHED);

impl Mark {
    #[inline(always)]
    fn new(slot: Option<&'static Slot>, by: Use) -> Mark {
        Mark(slot.map_or(std::ptr::null(), std::ptr::from_ref).map_addr(|address| address | by as usize))
    }

    #[inline(always)]
    fn is(self, by: Use) -> bool {
        self.0.addr() & USE == by as usize
    }

    #[inline(always)]
    fn is_published(self) -> bool {
        self.0.addr() & PUBLISHED != 0
    }

    #[inline(always)]
    fn published(self) -> Mark {
        Mark(self.0.map_addr(|address| address | PUBLISHED))
    }

    /// The same of nobody.
    pub(super) fn without_slot(self) -> Mark {
        Mark(std::ptr::null::<Slot>().map_addr(|_| self.0.addr() & (USE | PUBLISHED)))
    }

    #[inline(always)]
    pub(super) fn slot(self) -> Option<&'static Slot> {
        // SAFETY: without the low bits it is null or what a `&'static Slot` pointed to.
        unsafe { self.0.map_addr(|address| address & !(USE | PUBLISHED)).as_ref() }
    }
}

// SAFETY: the cell and the head are reached through atomics only, and live as long as the hold; a
// slot may be cleared by any thread.
unsafe impl Send for Hold {}
// SAFETY: as above; `&Hold` allows reading atomics only.
unsafe impl Sync for Hold {}

impl Hold {
    /// The hold by a slot that has been entered.
    #[inline(always)]
    pub(super) fn by_slot(cell: NonNull<Cell>, slot: &'static Slot, head: NonNull<Head>) -> Hold {
        Hold { cell, head, mark: Mark::new(Some(slot), Use::Read) }
    }

    /// A hold that is in the word already; leaves a note where there is room.
    #[inline(always)]
    pub(super) fn in_word(cell: NonNull<Cell>, by: Use, head: NonNull<Head>, note: Note<'_>) -> Hold {
        let slot = note.enter(cell.as_ptr().addr(), by);
        Hold { cell, head, mark: Mark::new(slot, by) }
    }

    /// Who uses a hold that the driver has taken.
    pub(super) fn note(&mut self, note: Note<'_>) {
        let by = if self.is_write() { Use::Write } else { Use::Counted };
        if self.mark.slot().is_none()
            && let Some(slot) = note.enter(self.cell.as_ptr().addr(), by)
        {
            self.mark = Mark::new(Some(slot), by);
        }
    }

    #[inline(always)]
    pub(super) fn cell(&self) -> &Cell {
        // SAFETY: a table that is dropped while there are holds leaves its cells behind.
        unsafe { self.cell.as_ref() }
    }

    pub(super) fn pointer(&self) -> NonNull<Cell> {
        self.cell
    }

    /// A write hold becomes one to read, whatever access is granted now: what was changed before is
    /// published. Any other hold stays as it is.
    #[must_use = "the object is held until `release`"]
    pub fn downgraded(self) -> Hold {
        if !self.is_write() {
            return self;
        }
        let this = ManuallyDrop::new(self);
        this.cell().word.downgrade_writer();
        if let Some(slot) = this.mark.slot() {
            slot.clear();
        }
        Hold { cell: this.cell, head: this.head, mark: Mark::new(None, Use::Counted) }
    }

    #[inline(always)]
    pub(super) fn head(&self) -> &Head {
        // SAFETY: a table that is dropped while there are holds leaves its head behind.
        unsafe { self.head.as_ref() }
    }

    #[inline(always)]
    pub(super) fn table(&self) -> u64 {
        self.head().number
    }

    /// The object that is held: a held cell stays its object's.
    #[inline(always)]
    fn id(&self) -> u64 {
        self.cell().id.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(super) fn is_write(&self) -> bool {
        self.mark.is(Use::Write)
    }

    /// Ends the hold. True: tell the driver of that object, somebody waits for it.
    #[inline(always)]
    pub fn release(self) -> bool {
        ManuallyDrop::new(self).give_back()
    }

    /// As [`Self::release`], for a write hold.
    #[inline(always)]
    fn release_write(self) -> bool {
        let this = ManuallyDrop::new(self);
        if let Some(slot) = this.mark.slot() {
            slot.clear();
        }
        this.cell().word.release_writer(this.mark.is_published())
    }

    /// After this neither the cell nor the head may be looked at again.
    #[inline(always)]
    fn give_back(&mut self) -> bool {
        let (word, slot) = (&self.cell().word, self.mark.slot());
        if self.mark.is(Use::Read)
            && let Some(slot) = slot
        {
            return word.release_slot(slot, self.cell.as_ptr().addr());
        }
        if let Some(slot) = slot {
            slot.clear();
        }
        if self.is_write() { word.release_writer(self.mark.is_published()) } else { word.release_counted() }
    }

    /// The value of a held cell: in the cell or in its `Arc`. `None` before the first touch.
    #[inline(always)]
    fn place<T: Value>(&self) -> Option<NonNull<T>> {
        if !is_in_cell::<T>() {
            let value = self.cell().value.load(Ordering::Acquire);
            debug_assert!(!content::is_bytes(value), "holds are given for decoded values only");
            return NonNull::new(value.cast());
        }
        let is_ready = self.cell().word.load().has(super::word::READY);
        // SAFETY: the hold belongs to a table of `T`, whose cells live as long as the hold.
        is_ready.then(|| unsafe { place_of::<T>(self.cell) })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("object", &self.id()).field("is_write", &self.is_write()).finish()
    }
}

/// For whom a hold leaves a note.
#[derive(Clone, Copy)]
pub(super) enum Note<'a> {
    /// For the thread that takes it.
    Thread,
    /// For a holder that may be at work in several threads.
    Holder(&'a Notes),
    /// For nobody: it is not known yet who will use it.
    Nobody,
}

impl Note<'_> {
    /// The slot in which the note is now, if there was room for it.
    #[inline(always)]
    fn enter(self, address: usize, by: Use) -> Option<&'static Slot> {
        match self {
            Note::Thread => {
                let slot = free_note()?;
                slot.enter(address, by);
                Some(slot)
            }
            Note::Holder(notes) => notes.enter(address, by),
            Note::Nobody => None,
        }
    }
}

/// Keeps writers out. Ends by [`release`](ReadHold::release); if it is dropped instead, it ends too,
/// but nobody who waits for the object is told.
#[must_use = "the object is held until `release`"]
pub struct ReadHold<T: Value> {
    hold: Hold,
    of: PhantomData<Arc<T>>,
}

impl<T: Value> ReadHold<T> {
    /// `Err` if the cell has no value; the hold has ended then, and the answer of its release is
    /// handed out.
    #[inline(always)]
    pub(super) fn new(hold: Hold) -> Result<ReadHold<T>, bool> {
        if hold.place::<T>().is_none() { Err(hold.release()) } else { Ok(ReadHold { hold, of: PhantomData }) }
    }

    /// The value.
    #[inline(always)]
    pub fn value(&self) -> &T {
        let value = self.hold.place::<T>().expect("a read hold is made of a value");
        // SAFETY: while the object is held to read nobody stores into the cell, and the cell's count
        // of the `Arc` stays. See the module for the order of memory.
        unsafe { value.as_ref() }
    }

    /// The object's id.
    #[inline(always)]
    pub fn id(&self) -> u64 {
        self.hold.id()
    }

    /// The number of the table, by which to find whom to tell.
    #[inline(always)]
    pub fn table(&self) -> u64 {
        self.hold.table()
    }

    /// How many puts the value has seen.
    pub fn version(&self) -> u64 {
        self.hold.cell().version.load(Ordering::Relaxed)
    }

    /// Why the value may be of no use any more, if that is so.
    pub fn ended(&self) -> Option<Ended> {
        self.hold.head().ended()
    }

    /// The value for as long as one likes.
    pub fn snapshot(&self) -> Arc<T> {
        if is_in_cell::<T>() {
            return Arc::new(self.value().clone());
        }
        let value = self.hold.place::<T>().expect("a read hold is made of a value").as_ptr();
        // SAFETY: the pointer is from `Arc::into_raw`, and the cell's count is alive.
        unsafe {
            Arc::increment_strong_count(value);
            Arc::from_raw(value)
        }
    }

    /// Ends the hold. True: **tell the driver** of this object, it waits for that.
    #[inline(always)]
    pub fn release(self) -> bool {
        self.hold.release()
    }
}

/// The only use of the object on this node. Ends by [`release`](WriteHold::release); if it is
/// dropped instead, it ends too, but nobody who waits for the object is told.
#[must_use = "the object is held until `release`"]
pub struct WriteHold<T: Value> {
    pub(super) hold: Hold,
    /// The changed value, made at the first change: the old one stays where it is until it is
    /// published, and readers without a hold never look at what is being changed.
    changed: Option<Changed<T>>,
}

impl<T: Value> WriteHold<T> {
    #[inline(always)]
    pub(super) fn new(hold: Hold) -> WriteHold<T> {
        WriteHold { hold, changed: None }
    }

    /// The same hold in another place of memory, for a call that is rarely made: what is handed to a
    /// call must lie in memory, and the hold is in registers until then. What was changed stays behind.
    #[inline(always)]
    pub fn afresh(self) -> WriteHold<T> {
        let WriteHold { hold, changed } = self;
        drop(changed);
        let Hold { cell, head, mark } = *ManuallyDrop::new(hold);
        WriteHold { hold: Hold { cell, head, mark }, changed: None }
    }

    /// The value as it was before it was changed.
    #[inline(always)]
    fn before(&self) -> Option<&T> {
        // SAFETY: while the object is held to write, only `self` stores into the cell or replaces the
        // `Arc`, and needs `&mut self` for that. See the module for the order of memory.
        self.hold.place::<T>().map(|value| unsafe { value.as_ref() })
    }

    /// Whether there is a value: not before the first touch.
    #[inline(always)]
    pub fn has_value(&self) -> bool {
        self.before().is_some()
    }

    /// The value as changed so far, `None` before the first touch.
    #[inline(always)]
    pub fn value(&self) -> Option<&T> {
        self.changed.as_deref().or_else(|| self.before())
    }

    /// The value to change, `None` before the first touch. [`Self::publish_change`] publishes it.
    #[inline(always)]
    pub fn change(&mut self) -> Option<&mut T> {
        if self.changed.is_none() {
            self.changed = Some(Changed::clone_of(self.before()?));
        }
        self.changed.as_deref_mut()
    }

    /// What was changed and is not published.
    #[inline(always)]
    pub fn changed(&self) -> Option<&T> {
        self.changed.as_deref()
    }

    /// The object's id.
    #[inline(always)]
    pub fn id(&self) -> u64 {
        self.hold.id()
    }

    /// How many puts the value has seen.
    pub fn version(&self) -> u64 {
        self.hold.cell().version.load(Ordering::Relaxed)
    }

    /// The number of the table, by which to find whom to tell.
    #[inline(always)]
    pub fn table(&self) -> u64 {
        self.hold.table()
    }

    /// Why nothing that is published can reach anybody, if that is so.
    #[inline(always)]
    pub fn ended(&self) -> Option<Ended> {
        self.hold.head().ended()
    }

    /// Whether a put is no more than [`Self::publish_change`]: the table has not ended, and its objects
    /// are this process's own.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.hold.head().is_plain()
    }

    /// The same at a node that needs a lease: it is not over now.
    pub fn is_plain_now(&self) -> bool {
        self.hold.head().is_plain_now()
    }

    /// Whether the node's lease, if it needs one, is not over.
    pub fn lease_is_valid(&self) -> bool {
        self.hold.head().lease_is_valid()
    }

    /// The largest value that may be published, in encoded bytes.
    #[inline(always)]
    pub fn limit_bytes(&self) -> usize {
        self.hold.head().limit_bytes.load(Ordering::Relaxed)
    }

    /// Puts a new value in place of the old one: one version more. Others see it when the hold ends.
    #[inline]
    pub fn publish(&mut self, value: T) {
        self.initialize(value);
        self.touch();
    }

    /// Publishes what was changed, or the value as it is: one version more in both cases.
    #[inline(always)]
    pub fn publish_change(&mut self) {
        if let Some(value) = self.changed.take() {
            self.put_in_place(value);
        }
        self.touch();
    }

    /// One version more, the value stays: a put that changed nothing.
    #[inline(always)]
    pub fn touch(&mut self) {
        self.hold.mark = self.hold.mark.published();
        let version = &self.hold.cell().version;
        version.store(version.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// The value of a first touch; the version stays.
    #[inline]
    pub fn initialize(&mut self, value: T) {
        self.hold.mark = self.hold.mark.published();
        self.put_in_place(Changed::new(value));
        self.changed = None;
        self.hold.cell().word.set_ready();
    }

    /// Into the cell, under the eyes of readers without a hold, or as the cell's `Arc`.
    #[inline(always)]
    fn put_in_place(&mut self, value: Changed<T>) {
        if is_in_cell::<T>() {
            self.hold.cell().word.before_stores();
            // SAFETY: the hold belongs to a table of `T`, whose cells live as long as the hold.
            unsafe { store_value::<T>(self.hold.cell, &value) };
            return;
        }
        let old = self.hold.cell().value.swap(value.into_content(), Ordering::AcqRel);
        // SAFETY: taken out of a cell of `T` under the write hold, and `&mut self` says that nobody
        // has a reference into it.
        unsafe { content::drop_value::<T>(old) };
    }

    /// Ends the hold; what was changed and not published is discarded, and counted. True: **tell the
    /// driver** of this object, it waits for that.
    #[inline(always)]
    pub fn release(self) -> bool {
        if self.changed.is_some() {
            self.count_discarded();
        }
        self.hold.release()
    }

    /// As [`Self::release`], right after [`Self::publish_change`].
    #[inline(always)]
    pub(super) fn release_unchanged(self) -> bool {
        debug_assert!(self.changed.is_none(), "it was published");
        self.hold.release_write()
    }

    #[cold]
    fn count_discarded(&self) {
        self.hold.head().discarded.fetch_add(1, Ordering::Relaxed);
    }
}
