//! Holds: what keeps an object as it is while somebody uses it.
//!
//! A hold has no count on its table, because all readers would write that count. Instead the table
//! looks for holds when it is dropped, and leaves its memory behind if there is one.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::arena::{Cell, words_of};
use super::content;
use super::slots::{Slot, Use, free_slot};
use crate::value::Value;

/// A hold of an object whose type is not known here: what the driver takes for a thread that waits.
/// That thread makes it a [`ReadHold`] or a [`WriteHold`] by its table.
#[must_use = "the object is held until `release`"]
pub struct Hold {
    cell: NonNull<Cell>,
    by: Use,
    /// Where it is marked; of counted and write holds only a note for this thread.
    slot: Option<&'static Slot>,
    /// The write hold has changed the value.
    published: bool,
    table: u64,
}

// SAFETY: the cell is reached through atomics only, and lives as long as the hold; a slot may be
// cleared by any thread.
unsafe impl Send for Hold {}
// SAFETY: as above; `&Hold` allows reading atomics only.
unsafe impl Sync for Hold {}

impl Hold {
    /// The hold by a slot that has been entered.
    #[inline(always)]
    pub(super) fn by_slot(cell: NonNull<Cell>, slot: &'static Slot, table: u64) -> Hold {
        Hold { cell, by: Use::Read, slot: Some(slot), published: false, table }
    }

    /// A hold that is in the word already; leaves a note where there is room.
    pub(super) fn in_word(cell: NonNull<Cell>, by: Use, table: u64, note: Note) -> Hold {
        let slot = if note == Note::Yes { free_slot() } else { None };
        if let Some(slot) = slot {
            slot.enter(cell.as_ptr().addr(), by);
        }
        Hold { cell, by, slot, published: false, table }
    }

    /// The thread that uses a hold taken by the driver is this one.
    pub(super) fn note_here(&mut self) {
        if self.slot.is_none() {
            self.slot = free_slot();
            if let Some(slot) = self.slot {
                slot.enter(self.cell.as_ptr().addr(), self.by);
            }
        }
    }

    #[inline(always)]
    pub(super) fn cell(&self) -> &Cell {
        // SAFETY: a table that is dropped while there are holds leaves its cells behind.
        unsafe { self.cell.as_ref() }
    }

    pub(super) fn table(&self) -> u64 {
        self.table
    }

    pub(super) fn is_write(&self) -> bool {
        self.by == Use::Write
    }

    /// Ends the hold. True: tell the driver of that object, somebody waits for it.
    #[inline(always)]
    pub fn release(self) -> bool {
        ManuallyDrop::new(self).give_back()
    }

    /// After this the cell must not be looked at again.
    #[inline(always)]
    fn give_back(&mut self) -> bool {
        let word = &self.cell().word;
        match (self.by, self.slot) {
            (Use::Read, Some(slot)) => word.release_slot(slot),
            (by, note) => {
                if let Some(slot) = note {
                    slot.clear();
                }
                if by == Use::Write { word.release_writer(self.published) } else { word.release_counted() }
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("object", &self.cell().id.load(Ordering::Relaxed)).field("by", &self.by).finish()
    }
}

/// Whether a hold leaves a note for the thread that takes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Note {
    Yes,
    No,
}

/// Where a hold finds its value.
enum Seen<T> {
    Shared(NonNull<T>),
    Copied(T),
    Nothing,
}

// SAFETY: `Shared` is a reference to a `T` that is `Sync`, kept alive by the hold beside it.
unsafe impl<T: Send + Sync> Send for Seen<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Seen<T> {}

impl<T: Value> Seen<T> {
    /// What a held cell has; READY is set or there is no value.
    #[inline(always)]
    fn of(hold: &Hold) -> Seen<T> {
        if T::POD_WORDS == 0 {
            let value = hold.cell().value.load(Ordering::Acquire);
            debug_assert!(!content::is_bytes(value), "holds are given for decoded values only");
            return NonNull::new(value.cast()).map_or(Seen::Nothing, Seen::Shared);
        }
        if !hold.cell().word.load().has(super::word::READY) {
            return Seen::Nothing;
        }
        // SAFETY: the hold belongs to a table of `T`, whose cells live as long as the hold.
        let words = unsafe { words_of::<T>(hold.cell) };
        T::from_words(|at| words[at].load(Ordering::Relaxed)).map_or(Seen::Nothing, Seen::Copied)
    }

    #[inline(always)]
    fn get(&self) -> Option<&T> {
        match self {
            // SAFETY: the cell's count of the `Arc` stays while the object is held, and nobody
            // changes the value: `publish` needs `&mut` on the only hold there is.
            Seen::Shared(value) => Some(unsafe { value.as_ref() }),
            Seen::Copied(value) => Some(value),
            Seen::Nothing => None,
        }
    }
}

/// Keeps writers out. Ends by [`release`](ReadHold::release); if it is dropped instead, it ends too,
/// but nobody who waits for the object is told.
#[must_use = "the object is held until `release`"]
pub struct ReadHold<T: Value> {
    seen: Seen<T>,
    hold: Hold,
}

impl<T: Value> ReadHold<T> {
    /// `None` if the cell has no value; the hold has ended then, and the answer of its release is
    /// handed out.
    #[inline(always)]
    pub(super) fn new(hold: Hold) -> Result<ReadHold<T>, bool> {
        match Seen::of(&hold) {
            Seen::Nothing => Err(hold.release()),
            seen => Ok(ReadHold { seen, hold }),
        }
    }

    /// The value.
    #[inline(always)]
    pub fn value(&self) -> &T {
        self.seen.get().expect("a read hold is made of a value")
    }

    /// The number of the table, by which to find whom to tell.
    #[inline]
    pub fn table(&self) -> u64 {
        self.hold.table()
    }

    /// How many puts the value has seen.
    pub fn version(&self) -> u64 {
        self.hold.cell().version.load(Ordering::Relaxed)
    }

    /// The value for as long as one likes.
    pub fn snapshot(&self) -> Arc<T> {
        match &self.seen {
            Seen::Shared(value) => {
                // SAFETY: the pointer is from `Arc::into_raw`, and the cell's count is alive.
                unsafe {
                    Arc::increment_strong_count(value.as_ptr());
                    Arc::from_raw(value.as_ptr())
                }
            }
            _ => Arc::new(self.value().clone()),
        }
    }

    /// Ends the hold. True: **tell the driver** of this object, it waits for that.
    #[inline(always)]
    pub fn release(self) -> bool {
        let ReadHold { seen, hold } = self;
        drop(seen);
        hold.release()
    }
}

/// The only use of the object on this node. Ends by [`release`](WriteHold::release); if it is
/// dropped instead, it ends too, but nobody who waits for the object is told.
#[must_use = "the object is held until `release`"]
pub struct WriteHold<T: Value> {
    seen: Seen<T>,
    hold: Hold,
}

impl<T: Value> WriteHold<T> {
    #[inline(always)]
    pub(super) fn new(hold: Hold) -> WriteHold<T> {
        WriteHold { seen: Seen::of(&hold), hold }
    }

    /// The value, `None` before the first touch.
    #[inline(always)]
    pub fn value(&self) -> Option<&T> {
        self.seen.get()
    }

    /// How many puts the value has seen.
    pub fn version(&self) -> u64 {
        self.hold.cell().version.load(Ordering::Relaxed)
    }

    /// Puts a new value in place of the old one: one version more. Others see it when the hold ends.
    #[inline]
    pub fn publish(&mut self, value: T) {
        self.initialize(value);
        self.touch();
    }

    /// One version more, the value stays: a put that changed nothing.
    #[inline]
    pub fn touch(&mut self) {
        self.hold.published = true;
        let version = &self.hold.cell().version;
        version.store(version.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// The value of a first touch; the version stays.
    #[inline]
    pub fn initialize(&mut self, value: T) {
        self.hold.published = true;
        if T::POD_WORDS == 0 {
            self.replace(value);
        } else {
            let word = &self.hold.cell().word;
            // SAFETY: the hold belongs to a table of `T`, whose cells live as long as the hold.
            let words = unsafe { words_of::<T>(self.hold.cell) };
            word.before_stores();
            value.to_words(|at, bits| words[at].store(bits, Ordering::Relaxed));
            self.seen = Seen::Copied(value);
        }
        if !self.hold.cell().word.load().has(super::word::READY) {
            self.hold.cell().word.set_ready();
        }
    }

    fn replace(&mut self, value: T) {
        if let Seen::Shared(shared) = self.seen {
            // SAFETY: the pointer is from `Arc::into_raw`; the count that is borrowed here is the
            // cell's, and is not given up (`ManuallyDrop`).
            let mut arc = ManuallyDrop::new(unsafe { Arc::from_raw(shared.as_ptr().cast_const()) });
            if let Some(place) = Arc::get_mut(&mut arc) {
                // Nobody has a snapshot, and nobody else has a hold: the memory is used again.
                *place = value;
                return;
            }
        }
        let new = content::from_value(value);
        let old = self.hold.cell().value.swap(new, Ordering::AcqRel);
        self.seen = NonNull::new(new.cast()).map_or(Seen::Nothing, Seen::Shared);
        // SAFETY: taken out of a cell of `T` under the write hold; `seen` points to the new value.
        unsafe { content::drop_value::<T>(old) };
    }

    /// Ends the hold. True: **tell the driver** of this object, it waits for that.
    #[inline(always)]
    pub fn release(self) -> bool {
        let WriteHold { seen, hold } = self;
        drop(seen);
        hold.release()
    }
}
