//! What the value pointer of a cell points to.
//!
//! Null: nothing, or plain old data (then READY is set in the word). Low bit set: [`Bytes`] that are
//! not decoded. Else: what `Arc::<T>::into_raw` gave, one count of which belongs to the cell.
//!
//! The pointer and what it points to change only while nobody else may look at them: by whoever
//! holds the object to write, or by the driver while no hold is possible. The one exception is the
//! decoding of bytes, which the driver does while nobody has been let in to them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use crate::spare;
use crate::value::{DecodeError, EncodeError, Value};

const BYTES: usize = 1;

/// A value as some other node encoded it.
#[derive(Debug)]
pub(super) struct Bytes {
    pub bytes: Box<[u8]>,
    /// Set once decoding has failed; the bytes are never decoded again.
    pub error: Option<DecodeError>,
}

pub(super) fn is_bytes(value: *mut ()) -> bool {
    value.addr() & BYTES != 0
}

pub(super) fn from_bytes(bytes: impl Into<Box<[u8]>>, error: Option<DecodeError>) -> *mut () {
    let boxed = Box::new(Bytes { bytes: bytes.into(), error });
    Box::into_raw(boxed).cast::<()>().map_addr(|address| address | BYTES)
}

/// A decoded value, as the cell keeps it.
pub(super) fn from_value<T: Value>(value: T) -> *mut () {
    Arc::into_raw(Arc::new(value)).cast_mut().cast()
}

/// The bytes.
///
/// # Safety
/// `value` satisfies [`is_bytes`], belongs to a cell, and does not change while the reference lives.
pub(super) unsafe fn bytes<'a>(value: *mut ()) -> &'a Bytes {
    // SAFETY: the tag says that it came from `from_bytes`.
    unsafe { &*value.map_addr(|address| address & !BYTES).cast::<Bytes>() }
}

/// Takes the bytes out. The pointer is of no more use.
///
/// # Safety
/// `value` satisfies [`is_bytes`], belongs to a cell, and nobody has a reference into it.
pub(super) unsafe fn into_bytes(value: *mut ()) -> Bytes {
    // SAFETY: the tag says that it came from `from_bytes`; the caller gives up the cell's box.
    *unsafe { Box::from_raw(value.map_addr(|address| address & !BYTES).cast::<Bytes>()) }
}

/// The value for as long as one likes, beside the cell's own count of it.
///
/// # Safety
/// `value` came from [`from_value`] of a `T` and belongs to a cell that keeps it meanwhile.
pub(super) unsafe fn shared<T: Value>(value: NonNull<T>) -> Arc<T> {
    // SAFETY: the pointer is from `Arc::into_raw`, and the cell's count is alive.
    unsafe {
        Arc::increment_strong_count(value.as_ptr());
        Arc::from_raw(value.as_ptr())
    }
}

/// Drops what belongs to the cell.
///
/// # Safety
/// `value` was taken out of a cell of values of type `T`, and nobody has a reference into it.
pub(super) unsafe fn drop_value<T: Value>(value: *mut ()) {
    if value.is_null() {
        return;
    }
    if is_bytes(value) {
        // SAFETY: the tag says that it came from `from_bytes`; the cell has forgotten it.
        spare::give(unsafe { into_bytes(value) }.bytes.into_vec());
    } else {
        // SAFETY: untagged values came from `Arc::<T>::into_raw`; the cell's count ends here.
        T::leave_behind(unsafe { Arc::<T>::from_raw(value.cast()) });
    }
}

/// Decodes; a panic of the type's own code is an error of the value, not of the node.
pub(super) fn decode<T: Value>(bytes: &[u8]) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(|| T::decode(bytes)))
        .unwrap_or_else(|_| Err(DecodeError::new(format!("decoding a {} panicked", T::type_name()))))
}

/// As [`decode`], of bytes that nobody needs any more: they become the value, or leave their memory behind.
///
/// # Errors
/// The bytes, and why they do not decode.
pub(super) fn decode_owned<T: Value>(bytes: Vec<u8>) -> Result<T, (Vec<u8>, DecodeError)> {
    T::from_encoded(bytes).or_else(|bytes| match decode::<T>(&bytes) {
        Ok(value) => {
            spare::give(bytes);
            Ok(value)
        }
        Err(error) => Err((bytes, error)),
    })
}

/// Encodes; a panic of the type's own code is an error of the value, not of the node. `bytes` may end
/// with part of the value then.
pub(super) fn encode<T: Value>(value: &T, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
    catch_unwind(AssertUnwindSafe(|| value.encode(bytes)))
        .unwrap_or_else(|_| Err(EncodeError::new(format!("encoding a {} panicked", T::type_name()))))
}

/// How many bytes a value has, as it is encoded, if its type's own code says so.
pub(crate) fn encoded_len<T: Value>(value: &T) -> Option<usize> {
    counted_len(value, usize::MAX)
}

/// As [`encoded_len`]; `None` also if there are more than that, and they do not lie in memory as they are encoded.
pub(super) fn counted_len<T: Value>(value: &T, limit_bytes: usize) -> Option<usize> {
    let counted = || match value.as_encoded() {
        Some(bytes) => Some(bytes.len()),
        None => value.encoded_len(limit_bytes).ok().filter(|bytes| *bytes <= limit_bytes),
    };
    catch_unwind(AssertUnwindSafe(counted)).ok()?
}

/// No value.
pub(super) fn none() -> *mut () {
    null_mut()
}
