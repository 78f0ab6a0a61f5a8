//! The access word of a cell: who may use it, who does, and the rules by which that changes.
//!
//! | bits | meaning |
//! |---|---|
//! | 0-1 | granted access: none, read, write |
//! | 2 | BIASED: readers use slots (see [`super::slots`]) instead of the count |
//! | 3 | WRITER: somebody holds the object to write |
//! | 4 | REVOKE: access is being taken back, new holds wait |
//! | 5 | WAITERS: threads are queued, new holds queue behind them |
//! | 6 | LIVE: the cell belongs to an object |
//! | 7 | READY: the value is here, decoded |
//! | 8-13 | heat: counted reads since the last write hold or revocation |
//! | 14-26 | counted readers |
//! | 27 | WATCHED: the end of a write hold is told, whoever waits |
//! | 28 | COLD: a hand has passed (see [`super::cold`]), and whoever reads next says that he has been here |
//! | 29 | USED: one that stays COLD was read since |
//! | 30-63 | stamp: changes at each publish, install, revocation and free; validates seqlock reads |

use kddm_core::io::Access;

use super::slots::{Slot, Use};
use super::sync::{AtomicU64, Ordering, fence, light_barrier};

pub(super) const ACCESS: u64 = 0b11;
pub(super) const READ: u64 = 1;
pub(super) const WRITE: u64 = 2;
pub(super) const BIASED: u64 = 1 << 2;
pub(super) const WRITER: u64 = 1 << 3;
pub(super) const REVOKE: u64 = 1 << 4;
pub(super) const WAITERS: u64 = 1 << 5;
pub(super) const LIVE: u64 = 1 << 6;
pub(super) const READY: u64 = 1 << 7;
const HEAT_ONE: u64 = 1 << 8;
const HEAT: u64 = 0x3f << 8;
const READER_ONE: u64 = 1 << 14;
const READERS: u64 = 0x1fff << 14;
pub(super) const WATCHED: u64 = 1 << 27;
pub(super) const COLD: u64 = 1 << 28;
pub(super) const USED: u64 = 1 << 29;
const STAMP_ONE: u64 = 1 << 30;
const STAMP: u64 = !(STAMP_ONE - 1);

/// What a seqlock read must find unchanged.
const SEEN: u64 = STAMP | LIVE | READY | WRITER | REVOKE | ACCESS;

/// Why the fast path cannot serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slow {
    /// The granted access does not allow it, or there is no such object here.
    NoAccess,
    /// Somebody holds the object, or is queued for it, or access is being taken back.
    Held,
    /// The object has no value yet.
    NoValue,
    /// The value is here as bytes: the driver decodes it at the first [`take_read`](super::Store::take_read).
    Undecoded,
    /// The attempt was visible for a moment to a driver that looked for holders. **Tell the driver**
    /// of that object, as after a release, whatever else you do.
    Interrupted(u64),
}

/// One reading of the word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bits(pub u64);

impl Bits {
    pub fn has(self, flags: u64) -> bool {
        self.0 & flags != 0
    }

    pub fn level(self) -> u64 {
        self.0 & ACCESS
    }

    pub fn access(self) -> Access {
        match self.level() {
            0 => Access::None,
            READ => Access::Read,
            _ => Access::Write,
        }
    }

    pub fn has_counted_readers(self) -> bool {
        self.has(READERS)
    }

    /// Whether a releaser must tell the driver.
    fn tell(self) -> bool {
        self.has(REVOKE | WAITERS)
    }

    #[inline(always)]
    pub fn allows_read(self) -> bool {
        const LOOKED_AT: u64 = LIVE | READY | REVOKE | WAITERS | WRITER | COLD;
        self.0 & LOOKED_AT == LIVE | READY && self.level() != 0
    }

    /// The same, of one that may be cold.
    pub fn allows_cold_read(self) -> bool {
        Bits(self.0 & !COLD).allows_read()
    }

    pub fn allows_write(self) -> bool {
        const LOOKED_AT: u64 = LIVE | REVOKE | WAITERS | WRITER | READERS;
        self.0 & LOOKED_AT == LIVE && self.level() == WRITE
    }

    #[cold]
    fn why_no_read(self) -> Slow {
        if !self.has(LIVE) || self.level() == 0 {
            Slow::NoAccess
        } else if self.has(REVOKE | WAITERS | WRITER) {
            Slow::Held
        } else {
            Slow::NoValue
        }
    }
}

/// The number in the word for a level of access.
pub(super) fn level_of(access: Access) -> u64 {
    match access {
        Access::None => 0,
        Access::Read => READ,
        Access::Write => WRITE,
    }
}

/// What came of taking access back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    Back,
    Held,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Word(AtomicU64);

impl Word {
    /// The word of a cell that belongs to no object.
    pub fn free() -> Word {
        Word(AtomicU64::new(0))
    }

    #[inline(always)]
    pub fn load(&self) -> Bits {
        Bits(self.0.load(Ordering::Acquire))
    }

    /// Applies `change` to the word; returns what it was before.
    pub fn change(&self, change: impl Fn(u64) -> u64) -> Bits {
        let mut old = self.0.load(Ordering::Relaxed);
        loop {
            match self.0.compare_exchange_weak(old, change(old), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Bits(old),
                Err(now) => old = now,
            }
        }
    }

    // ---- seqlock ----

    /// Reads by `read`, which is sound whatever it finds, and returns it if it belongs to a value
    /// that was valid all the time. `same` says whether it is still the object that is meant. Writes
    /// nothing.
    pub fn validated<R>(&self, same: impl Fn() -> bool, read: impl Fn() -> R) -> Option<R> {
        /// A publish or two may come between; then somebody is busy writing, and waiting is better.
        const ATTEMPTS: u32 = 4;
        (0..ATTEMPTS).find_map(|_| self.validated_but::<COLD, R>(&same, &read))
    }

    /// One attempt of [`Self::validated`], of an object that is not cold.
    #[inline(always)]
    pub fn validated_once<R>(&self, same: impl Fn() -> bool, read: impl Fn() -> R) -> Option<R> {
        self.validated_but::<0, R>(same, read)
    }

    /// Whatever those bits say.
    #[inline(always)]
    fn validated_but<const BUT: u64, R>(&self, same: impl Fn() -> bool, read: impl Fn() -> R) -> Option<R> {
        const LOOKED_AT: u64 = LIVE | READY | REVOKE | WRITER | COLD;
        let before = self.load();
        if before.0 & (LOOKED_AT & !BUT) != LIVE | READY || before.level() == 0 || !same() {
            return None;
        }
        let seen = read();
        fence(Ordering::Acquire);
        let after = Bits(self.0.load(Ordering::Relaxed));
        ((before.0 ^ after.0) & SEEN == 0).then_some(seen)
    }

    // ---- readers ----

    /// Counts a reader. `same` says whether the cell still belongs to the object that is meant.
    #[inline(always)]
    pub fn count_reader(&self, same: impl Fn() -> bool, mut seen: Bits) -> Result<(), Slow> {
        loop {
            // The stamp in the word changes before the cell is given to another object, so that an
            // exchange that succeeds proves that this answer still holds.
            if !same() {
                return Err(Slow::NoAccess);
            }
            if !seen.allows_read() {
                return Err(seen.why_no_read());
            }
            if seen.0 & READERS == READERS {
                return Err(Slow::Held);
            }
            let mut new = seen.0 + READER_ONE;
            if new & HEAT == HEAT {
                new |= BIASED;
            } else {
                new += HEAT_ONE;
            }
            match self.0.compare_exchange_weak(seen.0, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => seen = Bits(now),
            }
        }
    }

    /// Counts a reader of an object that may be cold, and sets and clears those flags.
    #[cold]
    pub fn count_cold_reader(&self, same: impl Fn() -> bool, set: u64, clear: u64) -> Result<(), Slow> {
        let mut seen = self.load();
        loop {
            if !same() {
                return Err(Slow::NoAccess);
            }
            if !seen.allows_cold_read() {
                return Err(seen.why_no_read());
            }
            if seen.0 & READERS == READERS {
                return Err(Slow::Held);
            }
            let new = ((seen.0 + READER_ONE) | set) & !clear;
            match self.0.compare_exchange_weak(seen.0, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => seen = Bits(now),
            }
        }
    }

    /// Ends a counted read hold. True: tell the driver.
    pub fn release_counted(&self) -> bool {
        Bits(self.0.fetch_sub(READER_ONE, Ordering::Release)).tell()
    }

    /// Takes a read hold by a slot, if the cell is biased. `Ok(false)`: count instead.
    #[inline(always)]
    pub fn read_by_slot(&self, slot: &Slot, address: usize, same: impl Fn() -> bool) -> Result<bool, Refusal> {
        slot.enter(address, Use::Read);
        light_barrier();
        let seen = self.load();
        if seen.allows_read() && seen.has(BIASED) && same() {
            return Ok(true);
        }
        // A driver may have seen the slot and counts on being told.
        slot.leave(address);
        light_barrier();
        let now = self.load();
        slot.clear();
        if now.tell() {
            return Err(Refusal::Withdrawn);
        }
        Ok(false)
    }

    /// Ends a read hold by slot. True: tell the driver.
    #[inline(always)]
    pub fn release_slot(&self, slot: &Slot, address: usize) -> bool {
        slot.leave(address);
        light_barrier();
        let tell = self.load().tell();
        slot.clear();
        tell
    }

    // ---- writers ----

    /// Takes the write hold. `forced` is the driver on behalf of a queued waiter: it passes by
    /// REVOKE and WAITERS. `slots_used` looks for readers in slots, after a heavy barrier; it is
    /// asked only if the cell was biased.
    #[inline(always)]
    pub fn take_writer(
        &self,
        forced: Forced,
        same: impl Fn() -> bool,
        slots_used: impl FnOnce() -> bool,
    ) -> Result<(), Refusal> {
        let in_the_way = if forced == Forced::Yes { WRITER | READERS } else { WRITER | READERS | REVOKE | WAITERS };
        let mut seen = self.load();
        let old = loop {
            if !seen.has(LIVE) || seen.level() != WRITE || !same() {
                return Err(Refusal::Slow(Slow::NoAccess));
            }
            if seen.has(in_the_way) {
                return Err(Refusal::Slow(Slow::Held));
            }
            let new = (seen.0 | WRITER) & !(BIASED | HEAT);
            match self.0.compare_exchange_weak(seen.0, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => break seen,
                Err(now) => seen = Bits(now),
            }
        };
        if !old.has(BIASED) || !slots_used() {
            return Ok(());
        }
        Err(self.withdraw_writer())
    }

    /// Readers sit in slots: puts the bias back, so that it is still swept at the next attempt.
    #[cold]
    fn withdraw_writer(&self) -> Refusal {
        let before = Bits(self.0.fetch_add(BIASED.wrapping_sub(WRITER), Ordering::AcqRel));
        if before.tell() { Refusal::Withdrawn } else { Refusal::Slow(Slow::Held) }
    }

    /// Must come before the first store of a value that seqlock readers may be reading.
    pub fn before_stores(&self) {
        fence(Ordering::Release);
    }

    /// Under the write hold: the value is there now.
    pub fn set_ready(&self) {
        self.0.fetch_or(READY, Ordering::Release);
    }

    /// Ends the write hold. True: tell the driver.
    pub fn release_writer(&self, published: bool) -> bool {
        let stamp = if published { STAMP_ONE } else { 0 };
        Bits(self.0.fetch_add(stamp.wrapping_sub(WRITER), Ordering::Release)).has(REVOKE | WAITERS | WATCHED)
    }

    /// The write hold becomes a counted one to read, whatever access is granted. Nobody else holds it.
    pub fn downgrade_writer(&self) {
        self.0.fetch_add((STAMP_ONE + READER_ONE).wrapping_sub(WRITER), Ordering::AcqRel);
    }

    // ---- driver ----

    /// Raises access to `access`; never lowers it, because that needs a look for holders.
    pub fn grant(&self, access: Access) {
        let to = level_of(access);
        self.change(|word| (word & !ACCESS) | to.max(word & ACCESS));
    }

    /// Sets or clears WAITERS.
    pub fn set_waiters(&self, waits: bool) {
        if waits {
            self.0.fetch_or(WAITERS, Ordering::AcqRel);
        } else if self.load().has(WAITERS) {
            self.0.fetch_and(!WAITERS, Ordering::AcqRel);
        }
    }

    /// Sets or clears WATCHED.
    pub fn set_watched(&self, is_watched: bool) {
        if is_watched {
            self.0.fetch_or(WATCHED, Ordering::AcqRel);
        } else {
            self.0.fetch_and(!WATCHED, Ordering::AcqRel);
        }
    }

    /// A hand passes: the next reader says that he has been here. False: nobody has since the last time.
    pub fn make_cold(&self) -> bool {
        !self.load().has(COLD) && !Bits(self.0.fetch_or(COLD, Ordering::AcqRel)).has(COLD)
    }

    /// A reader has been here. It may be seen late: nothing rests on it.
    pub fn set_warm(&self) {
        self.0.fetch_and(!COLD, Ordering::Relaxed);
    }

    /// The same of one that stays cold.
    pub fn set_used(&self) {
        if !self.load().has(USED) {
            self.0.fetch_or(USED, Ordering::Relaxed);
        }
    }

    /// Whether it was read since this was asked last.
    pub fn take_used(&self) -> bool {
        self.load().has(USED) && Bits(self.0.fetch_and(!USED, Ordering::AcqRel)).has(USED)
    }

    /// Counts a reader on behalf of a queued waiter.
    pub fn take_reader(&self) -> bool {
        let mut seen = self.load();
        loop {
            let full = seen.0 & READERS == READERS;
            if !seen.has(LIVE) || seen.level() == 0 || seen.has(WRITER) || full {
                return false;
            }
            match self.0.compare_exchange_weak(seen.0, seen.0 + READER_ONE, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => seen = Bits(now),
            }
        }
    }

    /// Lowers access to `to`, so that nobody begins to use more, and says whether somebody still
    /// does. REVOKE stays set until this has returned `Back` or [`Self::undo_revoke`] was called.
    pub fn revoke(&self, to: Access, slots_used: impl FnOnce() -> bool) -> Taken {
        let to = level_of(to);
        let lowered = |word: u64| ((word & !ACCESS) | to.min(word & ACCESS) | REVOKE).wrapping_add(STAMP_ONE);
        let old = self.change(lowered);
        // What counts is the level that results: an earlier, deeper revocation may be pending.
        let level = to.min(old.level());
        if level < WRITE && old.has(WRITER) {
            return Taken::Held;
        }
        if level == 0 && (old.has(READERS) || (old.has(BIASED) && slots_used())) {
            return Taken::Held;
        }
        let cleared = if level == 0 { REVOKE | BIASED | HEAT } else { REVOKE };
        self.0.fetch_and(!cleared, Ordering::AcqRel);
        Taken::Back
    }

    /// Puts back what a [`Self::revoke`] that found holders has lowered.
    pub fn undo_revoke(&self, before: Bits) {
        self.change(|word| (word & !(ACCESS | REVOKE)) | (before.0 & (ACCESS | REVOKE)));
    }

    /// The driver changed the value while nobody may use it.
    pub fn set_value(&self, ready: bool) {
        let flag = if ready { READY } else { 0 };
        self.change(|word| ((word & !READY) | flag).wrapping_add(STAMP_ONE));
    }

    /// The cell belongs to an object from now on.
    pub fn begin(&self) {
        self.change(|word| ((word & STAMP) | LIVE).wrapping_add(STAMP_ONE));
    }

    /// The cell belongs to no object from now on.
    pub fn end(&self) {
        self.change(|word| (word & STAMP).wrapping_add(STAMP_ONE));
    }
}

/// Why there is no hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// Nothing was visible to anybody.
    Slow(Slow),
    /// The attempt was visible for a moment, and the driver counts on being told.
    Withdrawn,
}

/// Whether REVOKE and WAITERS stop a writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Forced {
    Yes,
    No,
}
