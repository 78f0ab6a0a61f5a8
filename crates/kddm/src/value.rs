//! What may be shared: how values become bytes and bytes become values.
//!
//! Any serde type is a [`Value`] through postcard. [`Pod`] wraps plain old data, which is read
//! without taking hold of it. [`Raw`] is bytes that nobody interprets.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zerocopy::{FromBytes, Immutable, IntoBytes};

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

    /// How many 64-bit words a value takes inside its cell; 0 is "not plain old data", the value
    /// lives in an `Arc`.
    const POD_WORDS: usize = 0;

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

    /// Plain old data only: makes a value of [`POD_WORDS`](Value::POD_WORDS) words, each taken
    /// from `word` once, in order. `None` for all other types.
    #[doc(hidden)]
    #[inline]
    fn from_words(word: impl FnMut(usize) -> u64) -> Option<Self> {
        let _ = word;
        None
    }

    /// Plain old data only: hands all words to `word`, in order.
    #[doc(hidden)]
    #[inline]
    fn to_words(&self, word: impl FnMut(usize, u64)) {
        let _ = word;
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
const INLINE_LIMIT_BYTES: usize = 1024;

const WORD_BYTES: usize = size_of::<u64>();

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
pub struct Pod<P>(pub P);

impl<P: PodValue> Value for Pod<P> {
    const CODEC: &'static str = "pod";
    const POD_WORDS: usize = if size_of::<P>() <= INLINE_LIMIT_BYTES { size_of::<P>().div_ceil(WORD_BYTES) } else { 0 };

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

    #[inline]
    fn from_words(mut word: impl FnMut(usize) -> u64) -> Option<Pod<P>> {
        let mut value = std::mem::MaybeUninit::<P>::zeroed();
        for at in 0..Self::POD_WORDS {
            let word = word(at).to_ne_bytes();
            let offset = at * WORD_BYTES;
            let bytes = WORD_BYTES.min(size_of::<P>() - offset);
            // SAFETY: `offset + bytes` is at most the size of `P`, and the two do not overlap.
            unsafe { value.as_mut_ptr().cast::<u8>().add(offset).copy_from_nonoverlapping(word.as_ptr(), bytes) };
        }
        // SAFETY: all bytes are initialised, and `P: FromBytes` allows any of them.
        Some(Pod(unsafe { value.assume_init() }))
    }

    #[inline]
    fn to_words(&self, mut word: impl FnMut(usize, u64)) {
        for (at, bytes) in self.0.as_bytes().chunks(WORD_BYTES).enumerate() {
            let mut whole = [0; WORD_BYTES];
            whole[..bytes.len()].copy_from_slice(bytes);
            word(at, u64::from_ne_bytes(whole));
        }
    }
}

/// Bytes that nobody interprets. Also what a node keeps of a set that no program here has opened.
///
/// ```
/// use kddm::{Raw, Value};
/// assert_eq!(Raw::decode(b"as they are")?.0, b"as they are");
/// # Ok::<(), kddm::value::DecodeError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Raw(pub Vec<u8>);

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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_words_keep_every_byte() {
        for value in [[0u8; 13], *b"thirteen byte", [255; 13]] {
            let mut words = [0; 2];
            assert_eq!(Pod::<[u8; 13]>::POD_WORDS, words.len());
            Pod(value).to_words(|at, word| words[at] = word);
            assert_eq!(Pod::from_words(|at| words[at]), Some(Pod(value)));
        }
    }

    #[test]
    fn a_large_pod_is_not_kept_inside_the_cell() {
        assert_eq!(Pod::<[u8; 1024]>::POD_WORDS, 128);
        assert_eq!(Pod::<[u8; 1025]>::POD_WORDS, 0);
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
