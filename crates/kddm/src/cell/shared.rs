//! Bytes of a value that are sent from where they lie.

use std::sync::Arc;

use crate::value::Value;

/// Bytes that do not change while they are kept.
pub struct SharedBytes(Box<dyn AsRef<[u8]> + Send + Sync>);

impl SharedBytes {
    /// The bytes of a value that lies in memory as it is encoded.
    pub(super) fn of<T: Value>(value: Arc<T>) -> SharedBytes {
        SharedBytes(Box::new(AsEncoded(value)))
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> SharedBytes {
        SharedBytes(Box::new(bytes))
    }
}

/// A value that lies in memory as it is encoded.
struct AsEncoded<T>(Arc<T>);

impl<T: Value> AsRef<[u8]> for AsEncoded<T> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_encoded().unwrap_or_default()
    }
}
