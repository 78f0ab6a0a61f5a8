//! Where readers of biased cells leave their mark: each thread in a block of its own, so that a hit
//! writes no line that another reader writes or reads. A revoker pays instead: it looks through all
//! blocks of the process.
//!
//! Counted and write holds leave a mark too; where there is no room, see [`super::notes`]. Those are
//! not looked for by a revoker (the access word has them); they tell a thread what it holds itself.

use super::sync::{AtomicUsize, Ordering};

/// Slots of one thread: two cache lines. Whoever holds more at a time is counted in the word.
pub(super) const SLOTS_PER_THREAD: usize = 16;

/// What a slot says about the cell whose address it has. Cells are aligned to 32 bytes, so that
/// the low bits are free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// A read hold that only the slot knows of.
    Read = 0,
    /// A read hold that is counted in the word.
    Counted = 1,
    /// The write hold.
    Write = 2,
    /// No hold any more; the holder is about to look at the word once more.
    Leaving = 3,
}

const USE_BITS: usize = 0b11;

/// One mark: the address of a cell, and its [`Use`]. Zero is free.
#[derive(Debug)]
#[repr(transparent)]
pub(super) struct Slot(AtomicUsize);

impl Slot {
    pub fn free() -> Slot {
        Slot(AtomicUsize::new(0))
    }

    /// `Release`, for the hold that was here before: a revoker that finds this one in its place must
    /// know that what was read under that one happened before.
    #[inline(always)]
    pub fn enter(&self, address: usize, by: Use) {
        self.0.store(address | by as usize, Ordering::Release);
    }

    /// Ends the hold. What was read happened before.
    #[inline(always)]
    pub fn leave(&self, address: usize) {
        self.0.store(address | Use::Leaving as usize, Ordering::Release);
    }

    #[inline(always)]
    pub fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }

    #[inline(always)]
    pub fn is_free(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    /// Whether it holds that cell for reading, and only it knows.
    pub fn reads(&self, address: usize) -> bool {
        self.0.load(Ordering::Acquire) == address | Use::Read as usize
    }

    /// How it holds that cell, if it does.
    pub fn use_of(&self, address: usize) -> Option<Use> {
        let (at, by) = self.content();
        let uses = [Use::Read, Use::Counted, Use::Write].into_iter();
        uses.filter(|_| at == address).find(|known| *known as usize == by)
    }

    /// Whether it holds a cell of which `inside` says yes.
    pub fn holds(&self, inside: impl Fn(usize) -> bool) -> bool {
        let (at, by) = self.content();
        at != 0 && by != Use::Leaving as usize && inside(at)
    }

    /// What it says: address and use bits.
    fn content(&self) -> (usize, usize) {
        let content = self.0.load(Ordering::Acquire);
        (content & !USE_BITS, content & USE_BITS)
    }
}

#[cfg(not(loom))]
mod registry {
    use std::cell::Cell;
    use std::ptr::{NonNull, null_mut};
    use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
    use std::sync::{Arc, OnceLock};

    use parking_lot::Mutex;

    use super::super::changed::Scratch;
    use super::super::notes::{self, Notes};
    use super::super::sync::of_this_run;
    use super::{SLOTS_PER_THREAD, Slot, Use};
    use crate::sync::thread_local;

    /// The slots of one thread. Never freed: a guard may outlive the thread that made it.
    #[repr(align(128))]
    struct Block {
        slots: [Slot; SLOTS_PER_THREAD],
        owned: AtomicBool,
        /// A buffer that this thread used last. Only the owning thread takes it or puts one here, so
        /// that no exchange is needed; the next owner comes after it by `owned`.
        spare: AtomicPtr<Scratch>,
        /// Which thread: for whoever asks who is in the way.
        owner: Mutex<Arc<str>>,
        next: OnceLock<&'static Block>,
    }

    of_this_run!(fn first() -> OnceLock<&'static Block>);

    thread_local! {
        static MINE: Cell<Option<&'static Block>> = const { Cell::new(None) };
        static AT_EXIT: AtExit = const { AtExit(Cell::new(None)) };
        /// Notes of holds for which the block has no room.
        static MORE: Notes = Notes::of(this_thread());
    }

    /// By the number that the system's tools show, and the name if it has one.
    fn this_thread() -> Arc<str> {
        let id = rustix::thread::gettid().as_raw_nonzero();
        match std::thread::current().name() {
            Some(name) => format!("thread {id} ({name})").into(),
            None => format!("thread {id}").into(),
        }
    }

    /// The block to give back.
    struct AtExit(Cell<Option<&'static Block>>);

    impl Drop for AtExit {
        fn drop(&mut self) {
            // Whatever is dropped later finds that this thread has no block.
            let _gone_before = MINE.try_with(|mine| mine.set(None));
            if let Some(block) = self.0.take() {
                block.owned.store(false, Ordering::Release);
            }
        }
    }

    fn blocks() -> impl Iterator<Item = &'static Block> {
        std::iter::successors(first().get().copied(), |block| block.next.get().copied())
    }

    /// A block for this thread: one whose thread has ended, with no guard left in it, or a new one.
    #[cold]
    fn claim() -> Option<&'static Block> {
        // A thread that is ending gets none: nobody would give it back.
        AT_EXIT.try_with(|_| ()).ok()?;
        let block = blocks().find(|block| block.claim()).unwrap_or_else(append);
        AT_EXIT.with(|at_exit| at_exit.0.set(Some(block)));
        *block.owner.lock() = this_thread();
        MINE.with(|mine| mine.set(Some(block)));
        Some(block)
    }

    fn append() -> &'static Block {
        let block: &'static Block = Box::leak(Box::new(Block {
            slots: std::array::from_fn(|_| Slot::free()),
            owned: AtomicBool::new(true),
            spare: AtomicPtr::new(null_mut()),
            owner: Mutex::new("".into()),
            next: OnceLock::new(),
        }));
        let mut end = first();
        while end.set(block).is_err() {
            end = &end.get().expect("it was set just now").next;
        }
        block
    }

    impl Block {
        fn claim(&self) -> bool {
            if self.owned.swap(true, Ordering::Acquire) {
                return false;
            }
            // Guards of the former thread would look like this one's.
            let empty = self.slots.iter().all(Slot::is_free);
            self.owned.store(empty, Ordering::Release);
            empty
        }
    }

    /// A free slot of this thread.
    #[inline(always)]
    pub fn free_slot() -> Option<&'static Slot> {
        let block = match MINE.with(Cell::get) {
            Some(block) => block,
            None => claim()?,
        };
        // Most threads hold one object at a time.
        let [first, others @ ..] = &block.slots;
        if first.is_free() { Some(first) } else { free_among(others) }
    }

    #[cold]
    fn free_among(slots: &'static [Slot]) -> Option<&'static Slot> {
        slots.iter().find(|slot| slot.is_free())
    }

    /// The buffer that this thread keeps; it keeps none then.
    #[inline(always)]
    pub fn take_spare() -> Option<NonNull<Scratch>> {
        let block = MINE.with(Cell::get)?;
        let spare = NonNull::new(block.spare.load(Ordering::Relaxed))?;
        block.spare.store(null_mut(), Ordering::Relaxed);
        Some(spare)
    }

    /// This thread keeps the buffer, whose owner the caller is. False: it has one, or is ending.
    #[inline(always)]
    pub fn keep_spare(scratch: NonNull<Scratch>) -> bool {
        let Some(block) = MINE.with(Cell::get) else { return false };
        let has_none = block.spare.load(Ordering::Relaxed).is_null();
        if has_none {
            block.spare.store(scratch.as_ptr(), Ordering::Relaxed);
        }
        has_none
    }

    /// Whether any thread reads that cell by a slot. Call it after a heavy barrier.
    pub fn any_reads(address: usize) -> bool {
        blocks().any(|block| block.slots.iter().any(|slot| slot.reads(address)))
    }

    /// A place for a note of this thread. A reader that needs more than a note takes [`free_slot`].
    #[inline(always)]
    pub fn free_note() -> Option<&'static Slot> {
        match free_slot() {
            Some(slot) => Some(slot),
            None => one_more(),
        }
    }

    #[cold]
    fn one_more() -> Option<&'static Slot> {
        MORE.try_with(Notes::free_slot).ok()?
    }

    /// How this thread holds that cell: the strongest use.
    pub fn own_use(address: usize) -> Option<Use> {
        let of_block = |block: &'static Block| block.slots.iter().filter_map(|slot| slot.use_of(address));
        let in_block = MINE.with(Cell::get).and_then(|block| of_block(block).max_by_key(|by| *by == Use::Write));
        if in_block == Some(Use::Write) {
            return in_block;
        }
        MORE.try_with(|notes| notes.use_of(address)).ok().flatten().or(in_block)
    }

    /// Whether this thread holds a cell of which `inside` says yes.
    pub fn holds_any(inside: impl Fn(usize) -> bool) -> bool {
        let holds = |block: &'static Block| block.slots.iter().any(|slot| slot.holds(&inside));
        MINE.with(Cell::get).is_some_and(holds) || MORE.try_with(|notes| notes.holds_any(&inside)).unwrap_or(false)
    }

    /// Who holds that cell, as far as there are notes: by which thread or holder it was taken.
    pub fn holders(address: usize) -> Vec<(Arc<str>, Use)> {
        let mut found = Vec::new();
        for block in blocks() {
            for by in block.slots.iter().filter_map(|slot| slot.use_of(address)) {
                found.push((Arc::clone(&block.owner.lock()), by));
            }
        }
        notes::holders(address, &mut found);
        found
    }

    /// Whether a slot mentions an address of which `inside` says yes.
    pub fn any_mentions(inside: impl Fn(usize) -> bool) -> bool {
        blocks().any(|block| block.slots.iter().any(|slot| inside(slot.content().0)))
    }
}

/// Under loom every slot is the model's own, and tables count their readers.
#[cfg(loom)]
mod registry {
    use std::ptr::NonNull;
    use std::sync::Arc;

    use super::super::changed::Scratch;
    use super::{Slot, Use};

    pub fn free_note() -> Option<&'static Slot> {
        None
    }

    pub fn holders(_address: usize) -> Vec<(Arc<str>, Use)> {
        Vec::new()
    }

    pub fn take_spare() -> Option<NonNull<Scratch>> {
        None
    }

    pub fn keep_spare(_scratch: NonNull<Scratch>) -> bool {
        false
    }

    pub fn free_slot() -> Option<&'static Slot> {
        None
    }

    pub fn any_reads(_address: usize) -> bool {
        false
    }

    pub fn own_use(_address: usize) -> Option<Use> {
        None
    }

    pub fn holds_any(_inside: impl Fn(usize) -> bool) -> bool {
        false
    }

    pub fn any_mentions(_inside: impl Fn(usize) -> bool) -> bool {
        false
    }
}

pub(super) use registry::{
    any_mentions, any_reads, free_note, free_slot, holders, holds_any, keep_spare, own_use, take_spare,
};
