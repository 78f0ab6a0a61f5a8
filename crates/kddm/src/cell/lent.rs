//! Values that come and go as bytes: by the driver while nobody uses the object, or by whoever holds it
//! for somebody outside this process.

use std::borrow::Cow;
use std::ptr::NonNull;

use super::CellNumber;
use super::arena::{Cell, is_in_cell, load_value, store_value};
use super::content;
use super::hold::Hold;
use super::store::InstallError;
use super::sync::Ordering;
use super::table::Table;
use super::word::READY;
use crate::value::{DecodeError, EncodeError, Value};

/// What was in the cell, to be dropped, and whether the new bytes fit the type.
pub(super) type Replaced = (*mut (), Result<(), DecodeError>);

impl<T: Value> Table<T> {
    /// Puts bytes (`None`: no value) in the place of the value.
    ///
    /// # Safety
    /// `pointer` is from the arena of a table of `T`, `cell` is what it points to, and nobody else uses
    /// the object or can begin to.
    pub(super) unsafe fn replace(
        pointer: NonNull<Cell>,
        cell: &Cell,
        version: u64,
        bytes: Option<Cow<'_, [u8]>>,
    ) -> Replaced {
        cell.version.store(version, Ordering::Release);
        cell.word.before_stores();
        let (value, ready, result) = match bytes {
            None => (content::none(), false, Ok(())),
            Some(bytes) if !is_in_cell::<T>() => (content::from_bytes(bytes, None), false, Ok(())),
            Some(bytes) => match content::decode::<T>(&bytes) {
                Ok(value) => {
                    // SAFETY: the caller's promise.
                    unsafe { store_value(pointer, &value) };
                    (content::none(), true, Ok(()))
                }
                Err(error) => (content::from_bytes(bytes, Some(error.clone())), false, Err(error)),
            },
        };
        let old = cell.value.swap(value, Ordering::AcqRel);
        cell.word.set_value(ready);
        (old, result)
    }

    /// Appends the bytes of the value. False: there is none.
    ///
    /// # Errors
    /// What the type says.
    ///
    /// # Safety
    /// `pointer` is from the arena of a table of `T`, `cell` is what it points to, nobody writes the
    /// object or can begin to, and the caller is the driver.
    pub(super) unsafe fn encode_kept(
        pointer: NonNull<Cell>,
        cell: &Cell,
        bytes: &mut Vec<u8>,
    ) -> Result<bool, EncodeError> {
        let value = cell.value.load(Ordering::Acquire);
        if content::is_bytes(value) {
            // SAFETY: bytes are replaced by the driver only, and this is the driver.
            bytes.extend_from_slice(&unsafe { content::bytes(value) }.bytes);
            return Ok(true);
        }
        if is_in_cell::<T>() && cell.word.load().has(READY) {
            // SAFETY: the caller's promise.
            let value = unsafe { load_value::<T>(pointer) };
            return content::encode(&value, bytes).map(|()| true);
        }
        // SAFETY: nobody writes and the driver is here, so that the cell's count of the `Arc` stays.
        match unsafe { value.cast::<T>().as_ref() } {
            Some(value) => content::encode(value, bytes).map(|()| true),
            None => Ok(false),
        }
    }

    /// How many bytes [`encode_kept`](Self::encode_kept) would append. `None`: there is no value, or somebody writes, or it does not
    /// encode; or there are more than that, where they would have to be encoded to be counted.
    ///
    /// The caller is the driver.
    pub(super) fn length(&self, number: CellNumber, limit_bytes: usize) -> Option<usize> {
        let pointer = self.arena.pointer(number)?;
        let cell = self.live(number)?;
        let _kept_out = self.keep_writers_out(pointer, cell)?;
        let value = cell.value.load(Ordering::Acquire);
        if content::is_bytes(value) {
            // SAFETY: bytes are replaced by the driver only, and this is the driver.
            return Some(unsafe { content::bytes(value) }.bytes.len());
        }
        if is_in_cell::<T>() && cell.word.load().has(READY) {
            return Some(size_of::<T>());
        }
        // SAFETY: nobody writes and the driver is here, so that the cell's count of the `Arc` stays.
        content::counted_len(unsafe { value.cast::<T>().as_ref() }?, limit_bytes)
    }

    /// Decodes bytes that nobody has tried to decode. Nobody is let in to such bytes, so nobody looks
    /// at them while they are replaced.
    pub(super) fn decode_at_first_use(&self, cell: &Cell) {
        let old = cell.value.load(Ordering::Acquire);
        if !content::is_bytes(old) {
            return;
        }
        // SAFETY: only the driver replaces bytes, and this is the driver.
        if unsafe { content::bytes(old) }.error.is_some() {
            return;
        }
        // SAFETY: only the driver replaces bytes, and this is the driver. Bytes without an error have
        // been shown to nobody; until the pointer is replaced below, others look at its tag only.
        let bytes = unsafe { content::into_bytes(old) }.bytes.into_vec();
        let (new, ready) = match content::decode_owned::<T>(bytes) {
            Ok(value) => (content::from_value(value), true),
            Err((bytes, error)) => (content::from_bytes(bytes, Some(error)), false),
        };
        cell.value.store(new, Ordering::Release);
        if ready {
            cell.word.set_ready();
        }
    }

    pub(super) fn encode_by(&self, hold: &Hold, bytes: &mut Vec<u8>) -> Result<bool, EncodeError> {
        if hold.table() != self.number() {
            return Err(EncodeError::new("the hold is of another table"));
        }
        // SAFETY: the hold is of this table; whoever has it to read keeps writers out, and whoever has it
        // to write does not write meanwhile: both are the driver here.
        unsafe { Self::encode_kept(hold.pointer(), hold.cell(), bytes) }
    }

    pub(super) fn put_by(&self, hold: &Hold, version: u64, bytes: &[u8]) -> Result<(), InstallError> {
        if hold.table() != self.number() || !hold.is_write() {
            return Err(InstallError::Held);
        }
        // SAFETY: the hold is of this table, and to write: nobody else uses the object.
        let (old, result) = unsafe { Self::replace(hold.pointer(), hold.cell(), version, Some(Cow::Borrowed(bytes))) };
        // SAFETY: taken out of a cell of `T` while nobody else held it.
        unsafe { content::drop_value::<T>(old) };
        Ok(result?)
    }
}
