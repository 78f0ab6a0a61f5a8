//! The bytes of a value where they lie, for whoever sends them.

use std::sync::Arc;

use crate::value::Value;

/// Bytes that do not change while they are kept.
pub struct SharedBytes(Box<dyn AsRef<[u8]> + Send + Sync>);

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
pub(super) struct AsEncoded<T>(pub Arc<T>);

impl<T: Value> AsRef<[u8]> for AsEncoded<T> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_encoded().unwrap_or_default()
    }
}

impl<T: Value> From<AsEncoded<T>> for SharedBytes {
    fn from(value: AsEncoded<T>) -> SharedBytes {
        SharedBytes(Box::new(value))
    }
}
