//! What may be shared: how values become bytes and bytes become values.
//!
//! Any serde type is a [`Value`] through postcard. [`Pod`] wraps plain old data, which is read
//! without taking hold of it. [`Raw`] is bytes that nobody interprets.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::spare;

/// The bytes do not decode as the type. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

impl DecodeError {
    /// An error with that reason.
    pub fn new(reason: impl Into<String>) -> DecodeError {
        DecodeError(reason.into())
    }
}

/// The value does not encode. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct EncodeError(String);

impl EncodeError {
    /// An error with that reason.
    pub fn new(reason: impl Into<String>) -> EncodeError {
        EncodeError(reason.into())
    }
}

/// A type whose values can be shared. Implemented for every serde type; see also [`Pod`], [`Raw`].
///
/// ```
/// use kddm::Value;
/// let mut bytes = Vec::new();
/// String::from("hi").encode(&mut bytes)?;
/// assert_eq!(bytes, [2, b'h', b'i']);
/// assert_eq!(String::decode(&bytes)?, "hi");
/// bytes.push(0);
/// assert!(String::decode(&bytes).is_err(), "bytes are left over");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Value: Clone + Send + Sync + 'static {
    /// The name of the encoding, stored with the set and compared by every node that opens it.
    const CODEC: &'static str;

    /// Values lie inside their cells. `None` is "not plain old data": they live in an `Arc`.
    #[doc(hidden)]
    const IN_CELL: Option<InCell<Self>> = None;

    /// The name of the type, stored with the set and compared by every node that opens it.
    fn type_name() -> &'static str {
        std::any::type_name::<Self>()
    }

    /// Appends the value's bytes.
    ///
    /// # Errors
    /// What the codec says; `bytes` may then end with part of the value.
    fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Makes a value of bytes that some node encoded. All of them must be used up.
    ///
    /// # Errors
    /// What the codec says, or that bytes were left over.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;

    /// How many bytes [`encode`](Value::encode) appends. More than `limit_bytes` need not be
    /// counted to the end: the answer is then some number above the limit.
    ///
    /// # Errors
    /// As `encode`.
    fn encoded_len(&self, limit_bytes: usize) -> Result<usize, EncodeError>;

    /// The bytes that [`encode`](Value::encode) appends, if the value lies in memory just like that:
    /// they need not be copied then to be sent.
    #[doc(hidden)]
    fn as_encoded(&self) -> Option<&[u8]> {
        None
    }

    /// A value made of its encoding without copying it, for those types that are nothing else.
    ///
    /// # Errors
    /// The bytes are given back: decode them.
    #[doc(hidden)]
    fn from_encoded(bytes: Vec<u8>) -> Result<Self, Vec<u8>> {
        Err(bytes)
    }

    /// A value that its object has no more, and perhaps nobody: whoever knows a use for its memory takes
    /// that.
    #[doc(hidden)]
    fn leave_behind(value: Arc<Self>) {
        drop(value);
    }
}

/// Counts what postcard writes, up to a limit.
struct Counter {
    bytes: usize,
    limit_bytes: usize,
}

impl postcard::ser_flavors::Flavor for &mut Counter {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.bytes = self.bytes.saturating_add(data.len());
        if self.bytes > self.limit_bytes { Err(postcard::Error::SerializeBufferFull) } else { Ok(()) }
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.try_extend(&[data])
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends what postcard writes.
struct Appender<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Appender<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Value for T {
    const CODEC: &'static str = "postcard";

    fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
        postcard::serialize_with_flavor(self, Appender(bytes)).map_err(|error| EncodeError(error.to_string()))
    }

    fn decode(bytes: &[u8]) -> Result<T, DecodeError> {
        let (value, rest) = postcard::take_from_bytes(bytes).map_err(|error| DecodeError(error.to_string()))?;
        if rest.is_empty() {
            return Ok(value);
        }
        Err(DecodeError(format!("{} of {} bytes are left over", rest.len(), bytes.len())))
    }

    fn encoded_len(&self, limit_bytes: usize) -> Result<usize, EncodeError> {
        let mut counter = Counter { bytes: 0, limit_bytes };
        match postcard::serialize_with_flavor(self, &mut counter) {
            Ok(()) => Ok(counter.bytes),
            Err(_) if counter.bytes > limit_bytes => Ok(counter.bytes),
            Err(error) => Err(EncodeError(error.to_string())),
        }
    }
}

/// Types that are nothing but their bytes: [`Pod`] can hold them. Derive the three traits with
/// `zerocopy`; integers, floats and arrays of them have them.
pub trait PodValue: Copy + IntoBytes + FromBytes + Immutable + Send + Sync + 'static {}

impl<P: Copy + IntoBytes + FromBytes + Immutable + Send + Sync + 'static> PodValue for P {}

/// The largest value kept inside the cell: 1 KiB. A larger one costs more to copy out than to
/// take hold of, and would keep its memory while the object is elsewhere.
pub(crate) const IN_CELL_LIMIT_BYTES: usize = 1024;

/// Where a value in a cell begins is a multiple of this.
pub(crate) const IN_CELL_ALIGN: usize = 32;

/// The proof that values of `T` are plain old data: any bytes are a value, all bytes of a value may be
/// looked at, and it fits a cell. Only [`Pod`] can have one, because `unsafe` code relies on it.
#[doc(hidden)]
#[derive(Debug)]
pub struct InCell<T>(PhantomData<fn() -> T>);

/// Plain old data. Its bytes are shared as they are in memory, so all nodes of a cluster must agree
/// on layout and byte order (little endian everywhere Linux is common). Up to 1 KiB it is read
/// without taking hold of the object.
///
/// ```
/// use kddm::{Pod, Value};
/// let mut bytes = Vec::new();
/// Pod([1u32, 2, 3]).encode(&mut bytes)?;
/// assert_eq!(bytes.len(), 12);
/// assert_eq!(Pod::<[u32; 3]>::decode(&bytes)?.0, [1, 2, 3]);
/// assert!(Pod::<u64>::decode(&bytes).is_err(), "the length is not that of a u64");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Pod<P>(pub P);

impl<P: PodValue> Value for Pod<P> {
    const CODEC: &'static str = "pod";
    const IN_CELL: Option<InCell<Pod<P>>> =
        if size_of::<P>() > 0 && size_of::<P>() <= IN_CELL_LIMIT_BYTES && align_of::<P>() <= IN_CELL_ALIGN {
            Some(InCell(PhantomData))
        } else {
            None
        };

    fn type_name() -> &'static str {
        std::any::type_name::<P>()
    }

    fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
        bytes.extend_from_slice(self.0.as_bytes());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Pod<P>, DecodeError> {
        P::read_from_bytes(bytes)
            .map(Pod)
            .map_err(|_| DecodeError(format!("{} bytes, the type has {}", bytes.len(), size_of::<P>())))
    }

    fn encoded_len(&self, _limit_bytes: usize) -> Result<usize, EncodeError> {
        Ok(size_of::<P>())
    }

    fn as_encoded(&self) -> Option<&[u8]> {
        Some(self.0.as_bytes())
    }
}

/// Bytes that nobody interprets. Also what a node keeps of a set that no program here has opened.
///
/// ```
/// use kddm::{Raw, Value};
/// assert_eq!(Raw::decode(b"as they are")?.0, b"as they are");
/// # Ok::<(), kddm::value::DecodeError>(())
/// ```
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Raw(pub Vec<u8>);

impl Clone for Raw {
    fn clone(&self) -> Raw {
        Raw(spare::copy_of(&self.0))
    }
}

impl Value for Raw {
    const CODEC: &'static str = "raw";

    fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
        bytes.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Raw, DecodeError> {
        Ok(Raw(bytes.to_vec()))
    }

    fn encoded_len(&self, _limit_bytes: usize) -> Result<usize, EncodeError> {
        Ok(self.0.len())
    }

    fn as_encoded(&self) -> Option<&[u8]> {
        Some(&self.0)
    }

    fn from_encoded(bytes: Vec<u8>) -> Result<Raw, Vec<u8>> {
        Ok(Raw(bytes))
    }

    fn leave_behind(value: Arc<Raw>) {
        if let Some(Raw(bytes)) = Arc::into_inner(value) {
            spare::give(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_pods_are_kept_inside_the_cell() {
        #[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
        #[repr(C, align(64))]
        struct Wide([u8; 64]);
        assert!(Pod::<[u8; 1024]>::IN_CELL.is_some() && Pod::<u128>::IN_CELL.is_some());
        assert!(Pod::<[u8; 1025]>::IN_CELL.is_none() && Pod::<()>::IN_CELL.is_none());
        assert!(Pod::<Wide>::IN_CELL.is_none(), "cells are not aligned to 64 bytes");
        assert!(u64::IN_CELL.is_none(), "it has another encoding");
    }

    #[test]
    fn the_encoded_length_is_that_of_the_bytes_and_stops_beyond_the_limit() {
        let text = vec![String::from("abc"); 100];
        let mut bytes = Vec::new();
        text.encode(&mut bytes).expect("strings encode");
        assert_eq!(text.encoded_len(usize::MAX), Ok(bytes.len()));
        let counted = text.encoded_len(10).expect("too long is not an error here");
        assert!((11..20).contains(&counted));
    }
}
