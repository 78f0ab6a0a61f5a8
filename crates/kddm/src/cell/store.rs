//! The driver's side of a table.

use std::any::Any;
use std::borrow::Cow;
use std::ptr::NonNull;
use std::sync::Arc;

use kddm_core::io::Access;

use super::aged::Aged;
use super::arena::{Cell, is_in_cell};
use super::head::Ended;
use super::hold::{Hold, Note};
use super::shared::SharedBytes;
use super::slots::{Use, holders};
use super::sync::Ordering;
use super::table::{Table, swept};
use super::word::{BIASED, Forced, LIVE, READY, REVOKE, Refusal, Taken, WAITERS, WRITE, WRITER};
use super::written::Written;
use super::{CellNumber, content};
use crate::value::{DecodeError, EncodeError, Value};

/// What came of taking access back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RevokeResult {
    /// No local thread uses more than the level asked for, and none can begin to.
    Done {
        /// Puts that the value has seen.
        version: u64,
        /// Whether there is a value.
        has_value: bool,
    },
    /// A local thread holds the object.
    Held,
}

/// Why bytes were not taken in as a value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InstallError {
    /// They do not fit the type. They are kept, and whoever reads the object gets this error.
    #[error("the bytes do not fit the type: {0}")]
    Undecodable(#[from] DecodeError),
    /// A local thread holds the object: only a bug can ask for this. Nothing was changed.
    #[error("a local thread holds the object; take access back before installing another version")]
    Held,
}

/// Who holds an object, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldBy {
    /// The thread or the holder that took the hold, or the program to which the object is lent, or whoever else is waited for.
    pub who: Arc<str>,
    /// Whether it is the write hold.
    pub is_write: bool,
}

/// What the driver does with the objects of a set, whatever their type.
///
/// **Contract: the caller holds the lane of the object**, so that one thread at a time calls these
/// for a cell; memory safety rests on it. Cell numbers are those given by this store for objects that
/// have not been released. A number that was never given does nothing.
pub trait Store: Any + Send + Sync + Written + Aged {
    /// The type of the values.
    fn type_name(&self) -> &'static str;

    /// The cell of an object, if it has one.
    fn find(&self, id: u64) -> Option<CellNumber>;

    /// The cell of an object; a new one has no access and no value.
    fn find_or_insert(&self, id: u64) -> CellNumber;

    /// All objects that have a cell. Looks at every cell.
    fn cells(&self) -> Vec<(u64, CellNumber)> {
        self.cells_from(0, u32::MAX).0
    }

    /// The objects in the `most` cells from that number on, and where the rest begins, if there is one.
    fn cells_from(&self, first: CellNumber, most: u32) -> (Vec<(u64, CellNumber)>, Option<CellNumber>);

    /// The granted access, as lowered by a pending revocation.
    fn access(&self, cell: CellNumber) -> Access;

    /// Puts that the value has seen.
    fn version(&self, cell: CellNumber) -> u64;

    /// Whether there is a value, decoded or not.
    fn has_value(&self, cell: CellNumber) -> bool;

    /// Whether somebody holds the object.
    fn is_held(&self, cell: CellNumber) -> bool;

    /// Who holds the object, as far as it has been noted: nobody for a hold that the driver has taken
    /// and that nobody has made his own yet.
    fn holders(&self, cell: CellNumber) -> Vec<HeldBy>;

    /// Local threads may use the object up to `access`. It only raises.
    fn grant(&self, cell: CellNumber, access: Access);

    /// Lowers access to `to`. `Held`: new holds beyond it wait, the release of those that are left is
    /// told, and this is to be called again.
    fn revoke(&self, cell: CellNumber, to: Access) -> RevokeResult;

    /// Takes all access back if nobody holds the object; else all is as it was.
    fn try_revoke(&self, cell: CellNumber) -> RevokeResult;

    /// Threads are queued for the object (or no longer): the fast path queues behind them, and
    /// releases are told. Set it before [`Self::take_read`] and [`Self::take_write`], so that the
    /// release of whoever is in their way is told.
    fn set_waiters(&self, cell: CellNumber, waits: bool);

    /// The end of a write hold is told (or no longer), also if nobody waits for it.
    fn set_watched(&self, cell: CellNumber, is_watched: bool);

    /// A read hold for a queued thread. Decodes the value at its first use. `None` without read
    /// access, without a value, or while somebody writes.
    fn take_read(&self, cell: CellNumber) -> Option<Hold>;

    /// The write hold for a queued thread. `None` without write access or while somebody holds the
    /// object. The object need not have a value.
    fn take_write(&self, cell: CellNumber) -> Option<Hold>;

    /// Takes bytes (`None`: no value) as the value of that version. A value of that version that is
    /// here stays: local threads may be reading it.
    ///
    /// # Errors
    /// See [`InstallError`].
    fn install(&self, cell: CellNumber, version: u64, bytes: Option<&[u8]>) -> Result<(), InstallError> {
        self.install_bytes(cell, version, bytes.map(Cow::Borrowed))
    }

    /// As [`Self::install`]. Bytes that are handed over are not copied where the type allows it.
    ///
    /// # Errors
    /// See [`InstallError`].
    fn install_bytes(&self, cell: CellNumber, version: u64, bytes: Option<Cow<'_, [u8]>>) -> Result<(), InstallError>;

    /// The bytes of the value where they lie, if they lie somewhere as they are sent and are at least
    /// so many. They stay as they are for as long as they are kept. `None`: encode it.
    fn share(&self, cell: CellNumber, least_bytes: usize) -> Option<SharedBytes>;

    /// Appends the bytes of the value. False: there is none.
    ///
    /// # Errors
    /// What the type says; or somebody writes at this moment, which only a bug can meet.
    fn encode(&self, cell: CellNumber, bytes: &mut Vec<u8>) -> Result<bool, EncodeError>;

    /// How many bytes that would append. `None`: there is no value, or somebody writes, or it does not encode; or there
    /// are more than that, where they would have to be encoded to be counted.
    fn encoded_len(&self, cell: CellNumber, limit_bytes: usize) -> Option<usize>;

    /// As [`Self::encode`], of an object of this store that is held; also by whoever holds it to write.
    ///
    /// # Errors
    /// What the type says.
    fn encode_held(&self, hold: &Hold, bytes: &mut Vec<u8>) -> Result<bool, EncodeError>;

    /// Takes bytes as the value of that version, for whoever holds the object to write. Another hold, or
    /// one of another store, changes nothing.
    ///
    /// # Errors
    /// See [`InstallError`].
    fn put_held(&self, hold: &Hold, version: u64, bytes: &[u8]) -> Result<(), InstallError>;

    /// Drops the value, if nobody holds the object. False: somebody does, and it stays.
    fn discard(&self, cell: CellNumber) -> bool;

    /// Frees the cell, and its value, if no access is granted and none is being taken back.
    fn release_cell(&self, cell: CellNumber) -> bool;

    /// As [`Self::release_cell`], only if there is no value and nobody waits.
    fn release_cell_if_empty(&self, cell: CellNumber) -> bool;

    /// Takes all access to the objects that are meant back. New holds wait, and those that are left are not waited for.
    fn close(&self, is_meant: &dyn Fn(u64) -> bool) {
        for (_, cell) in self.cells().into_iter().filter(|(object, _)| is_meant(*object)) {
            let _holders_keep_what_they_have = self.revoke(cell, Access::None);
        }
    }

    /// Nothing that is put from now on can reach anybody.
    fn end(&self, why: Ended);
    /// The node that lends the objects is back: what is put from now on reaches it.
    fn end_detachment(&self);
    /// The number of the table.
    fn table(&self) -> u64;

    /// Objects of which this node has a value. Looks at every cell.
    fn value_count(&self) -> usize;

    /// Bytes of cells and index, without the values.
    fn metadata_bytes(&self) -> usize;
}

/// Room for so many is made at once: of more it is not known how many are in use.
const FEW_CELLS: u32 = 64;

impl<T: Value> Store for Table<T> {
    fn type_name(&self) -> &'static str {
        T::type_name()
    }

    fn find(&self, id: u64) -> Option<CellNumber> {
        self.find_cell(id)
    }

    fn find_or_insert(&self, id: u64) -> CellNumber {
        // One look is enough both times: what the first one misses the second one finds, when no entry can be moved.
        let find = || self.index.find_now(id, |number| self.cell_of(number, id).map(|_| number));
        if let Some(number) = find() {
            return number;
        }
        let mut writer = self.writer.lock();
        if let Some(number) = find() {
            return number;
        }
        let number = writer.free.pop().unwrap_or_else(|| self.arena.grow());
        let cell = self.arena.cell(number).expect("a cell that was made stays");
        cell.id.store(id, Ordering::Release);
        cell.version.store(0, Ordering::Relaxed);
        cell.word.begin();
        self.begin_sample(cell, id);
        self.index.insert(id, number, writer.live, |number| self.id_of(number));
        writer.live += 1;
        number
    }

    fn cells_from(&self, first: CellNumber, most: u32) -> (Vec<(u64, CellNumber)>, Option<CellNumber>) {
        let count = self.arena.count();
        let end = first.saturating_add(most).min(count);
        let mut live = Vec::with_capacity(end.saturating_sub(first).min(FEW_CELLS) as usize);
        live.extend(self.live_cells(first..end).map(|(id, number, _)| (id, number)));
        (live, (end < count).then_some(end))
    }

    fn access(&self, cell: CellNumber) -> Access {
        self.live(cell).map_or(Access::None, |cell| cell.word.load().access())
    }

    fn version(&self, cell: CellNumber) -> u64 {
        self.live(cell).map_or(0, |cell| cell.version.load(Ordering::Acquire))
    }

    fn has_value(&self, cell: CellNumber) -> bool {
        self.live(cell).is_some_and(has_value)
    }

    fn is_held(&self, cell: CellNumber) -> bool {
        self.live(cell).is_some_and(|cell| {
            let seen = cell.word.load();
            seen.has(WRITER) || seen.has_counted_readers() || (seen.has(BIASED) && swept(cell))
        })
    }

    fn holders(&self, cell: CellNumber) -> Vec<HeldBy> {
        let found = self.live(cell).map(|cell| holders(cell.address())).unwrap_or_default();
        found.into_iter().map(|(who, by)| HeldBy { who, is_write: by == Use::Write }).collect()
    }

    fn grant(&self, cell: CellNumber, access: Access) {
        if let Some(cell) = self.live(cell) {
            cell.word.grant(access);
        }
    }

    fn revoke(&self, cell: CellNumber, to: Access) -> RevokeResult {
        let Some(cell) = self.live(cell) else { return RevokeResult::Done { version: 0, has_value: false } };
        match cell.word.revoke(to, || swept(cell)) {
            Taken::Back => done(cell),
            Taken::Held => RevokeResult::Held,
        }
    }

    fn try_revoke(&self, cell: CellNumber) -> RevokeResult {
        let Some(cell) = self.live(cell) else { return RevokeResult::Done { version: 0, has_value: false } };
        let before = cell.word.load();
        match cell.word.revoke(Access::None, || swept(cell)) {
            Taken::Back => done(cell),
            Taken::Held => {
                cell.word.undo_revoke(before);
                RevokeResult::Held
            }
        }
    }

    fn set_waiters(&self, cell: CellNumber, waits: bool) {
        if let Some(cell) = self.live(cell) {
            cell.word.set_waiters(waits);
        }
    }

    fn set_watched(&self, cell: CellNumber, is_watched: bool) {
        if let Some(cell) = self.live(cell) {
            cell.word.set_watched(is_watched);
        }
    }

    fn take_read(&self, cell: CellNumber) -> Option<Hold> {
        let pointer = self.arena.pointer(cell)?;
        let cell = self.live(cell)?;
        if !has_value(cell) || !cell.word.take_reader() {
            return None;
        }
        let hold = Hold::in_word(pointer, Use::Counted, self.head_pointer(), Note::Nobody);
        self.decode_at_first_use(cell);
        Some(hold)
    }

    fn take_write(&self, cell: CellNumber) -> Option<Hold> {
        let pointer = self.arena.pointer(cell)?;
        let cell = self.live(cell)?;
        match cell.word.take_writer(Forced::Yes, || true, || swept(cell)) {
            // Withdrawn: the driver is who must be told.
            Err(Refusal::Slow(_) | Refusal::Withdrawn) => None,
            Ok(()) => {
                let hold = Hold::in_word(pointer, Use::Write, self.head_pointer(), Note::Nobody);
                self.decode_at_first_use(cell);
                Some(hold)
            }
        }
    }

    fn install_bytes(
        &self,
        number: CellNumber,
        version: u64,
        bytes: Option<Cow<'_, [u8]>>,
    ) -> Result<(), InstallError> {
        let Some(pointer) = self.arena.pointer(number) else { return Ok(()) };
        let Some(cell) = self.live(number) else { return Ok(()) };
        if bytes.is_some() && has_value(cell) && cell.version.load(Ordering::Acquire) == version {
            return Ok(());
        }
        let value_bytes = bytes.as_ref().map(|bytes| bytes.len());
        let installed = while_unused(cell, || {
            // SAFETY: the pointer is from this table's arena, and nobody uses the object or can begin to.
            unsafe { Self::replace(pointer, cell, version, bytes) }
        });
        let (old, result) = installed.ok_or(InstallError::Held)?;
        self.counts(number, value_bytes, version);
        // SAFETY: taken out of a cell of `T` while nobody held it.
        unsafe { content::drop_value::<T>(old) };
        Ok(result?)
    }

    fn encode(&self, cell: CellNumber, bytes: &mut Vec<u8>) -> Result<bool, EncodeError> {
        let Some(pointer) = self.arena.pointer(cell) else { return Ok(false) };
        let Some(cell) = self.live(cell) else { return Ok(false) };
        let Some(_kept_out) = self.keep_writers_out(pointer, cell) else {
            return Err(EncodeError::new("a local thread is writing the object; take write access back first"));
        };
        // SAFETY: the pointer is from this table's arena, writers are kept out, and this is the driver.
        unsafe { Self::encode_kept(pointer, cell, bytes) }
    }

    fn encoded_len(&self, cell: CellNumber, limit_bytes: usize) -> Option<usize> {
        self.length(cell, limit_bytes)
    }

    fn encode_held(&self, hold: &Hold, bytes: &mut Vec<u8>) -> Result<bool, EncodeError> {
        self.encode_by(hold, bytes)
    }

    fn put_held(&self, hold: &Hold, version: u64, bytes: &[u8]) -> Result<(), InstallError> {
        self.put_by(hold, version, bytes)
    }

    fn share(&self, cell: CellNumber, least_bytes: usize) -> Option<SharedBytes> {
        if is_in_cell::<T>() {
            return None;
        }
        let pointer = self.arena.pointer(cell)?;
        let cell = self.live(cell)?;
        let _kept_out = self.keep_writers_out(pointer, cell)?;
        let value = cell.value.load(Ordering::Acquire);
        if content::is_bytes(value) {
            return None;
        }
        // SAFETY: nobody writes and the driver is here, so that the cell's count of the `Arc` stays.
        // Whoever writes later sees this count and leaves the value as it is.
        let value = unsafe { content::shared::<T>(NonNull::new(value.cast())?) };
        let is_large = value.as_encoded().is_some_and(|bytes| bytes.len() >= least_bytes);
        is_large.then(|| SharedBytes::of(value))
    }

    fn discard(&self, number: CellNumber) -> bool {
        let Some(cell) = self.live(number) else { return true };
        let old = while_unused(cell, || {
            cell.version.store(0, Ordering::Release);
            let old = cell.value.swap(content::none(), Ordering::AcqRel);
            cell.word.set_value(false);
            old
        });
        let Some(old) = old else { return false };
        self.counts(number, None, 0);
        // SAFETY: taken out of a cell of `T` while nobody held it.
        unsafe { content::drop_value::<T>(old) };
        true
    }

    fn release_cell(&self, cell: CellNumber) -> bool {
        self.free(cell, LIVE, 0)
    }

    fn release_cell_if_empty(&self, cell: CellNumber) -> bool {
        self.live(cell).is_some_and(|cell| !has_value(cell)) && self.free(cell, LIVE, WAITERS)
    }

    fn end(&self, why: Ended) {
        self.head().ended.store(why as u8, Ordering::Release);
    }

    fn end_detachment(&self) {
        self.head().end_detachment();
    }
    fn table(&self) -> u64 {
        self.number()
    }
    fn value_count(&self) -> usize {
        Table::value_count(self)
    }

    fn metadata_bytes(&self) -> usize {
        Table::metadata_bytes(self)
    }
}

pub(super) fn has_value(cell: &Cell) -> bool {
    cell.word.load().has(READY) || !cell.value.load(Ordering::Acquire).is_null()
}

fn done(cell: &Cell) -> RevokeResult {
    RevokeResult::Done { version: cell.version.load(Ordering::Acquire), has_value: has_value(cell) }
}

/// Does `work` while nobody uses the object nor can begin to. `None`: somebody does.
fn while_unused<R>(cell: &Cell, work: impl FnOnce() -> R) -> Option<R> {
    let before = cell.word.load();
    if before.level() == 0 && !before.has(REVOKE) {
        return Some(work());
    }
    let result = match cell.word.revoke(Access::None, || swept(cell)) {
        Taken::Back => Some(work()),
        Taken::Held => None,
    };
    cell.word.undo_revoke(before);
    result
}

impl<T: Value> Table<T> {
    pub(super) fn live(&self, cell: CellNumber) -> Option<&Cell> {
        self.arena.cell(cell).filter(|cell| cell.word.load().has(LIVE))
    }

    fn id_of(&self, cell: CellNumber) -> u64 {
        self.arena.cell(cell).map_or(0, |cell| cell.id.load(Ordering::Relaxed))
    }

    /// Where a local thread could begin to write, it is kept out while the answer lives. `None`: one
    /// is writing.
    pub(super) fn keep_writers_out(&self, pointer: NonNull<Cell>, cell: &Cell) -> Option<Option<Hold>> {
        let seen = cell.word.load();
        let writable = seen.level() == WRITE && !seen.has(REVOKE);
        if seen.has(WRITER) || (writable && !cell.word.take_reader()) {
            return None;
        }
        Some(writable.then(|| Hold::in_word(pointer, Use::Counted, self.head_pointer(), Note::Nobody)))
    }

    fn free(&self, number: CellNumber, must: u64, must_not: u64) -> bool {
        let Some(cell) = self.arena.cell(number) else { return false };
        let seen = cell.word.load();
        if !seen.has(must) || seen.has(must_not | REVOKE) || seen.level() != 0 {
            return false;
        }
        let old = cell.value.swap(content::none(), Ordering::AcqRel);
        self.counts(number, None, 0);
        let mut writer = self.writer.lock();
        cell.word.end();
        let id = cell.id.load(Ordering::Relaxed);
        self.index.remove(id, number, |number| self.id_of(number));
        writer.live -= 1;
        writer.free.push(number);
        drop(writer);
        // SAFETY: taken out of a cell of `T`; without access and without a revocation nobody holds it.
        unsafe { content::drop_value::<T>(old) };
        true
    }
}
