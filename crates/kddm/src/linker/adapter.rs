//! Any store is a linker: values travel as the bytes of their codec.

use std::sync::Arc;

use super::Linker;
use super::error::LinkerError;
use super::store::{Stamp, Store, Stored, Written};
use crate::value::Value;

impl<T: Value, S: Store> Linker<T> for S {
    fn first_touch(&self, object: u64) -> Result<Option<T>, LinkerError> {
        let Some(Stored { bytes: Some(bytes), .. }) = self.read(object)? else { return Ok(None) };
        let damaged = |error: crate::value::DecodeError| LinkerError::Damaged {
            kind: self.kind(),
            object,
            reason: format!("it is no {}: {error}", T::type_name()),
        };
        let decoded = T::from_encoded(bytes).or_else(|bytes| T::decode(&bytes));
        decoded.map(Some).map_err(damaged)
    }

    fn claim(&self) -> Result<u64, LinkerError> {
        Store::claim(self)
    }

    fn write_back(&self, object: u64, stamp: Stamp, value: &T) -> Result<Written, LinkerError> {
        match value.as_encoded() {
            Some(bytes) => self.write(object, stamp, Some(bytes)),
            None => self.write(object, stamp, Some(&bytes_of(self, object, value)?)),
        }
    }

    fn write_back_all(&self, writes: &[(u64, Stamp, Arc<T>)]) -> Result<Vec<Written>, LinkerError> {
        let encoded = writes.iter().map(|(object, _, value)| bytes_of(self, *object, &**value));
        let encoded = encoded.collect::<Result<Vec<Vec<u8>>, LinkerError>>()?;
        let writes = writes.iter().zip(&encoded);
        let writes: Vec<_> = writes.map(|((object, stamp, _), bytes)| (*object, *stamp, Some(&bytes[..]))).collect();
        self.write_all(&writes)
    }

    fn remove(&self, object: u64, stamp: Stamp) -> Result<Written, LinkerError> {
        self.write(object, stamp, None)
    }

    fn sync(&self) -> Result<(), LinkerError> {
        Store::sync(self)
    }
}

fn bytes_of<T: Value>(store: &impl Store, object: u64, value: &T) -> Result<Vec<u8>, LinkerError> {
    let mut bytes = Vec::new();
    let no_bytes = |error: crate::value::EncodeError| LinkerError::Store {
        kind: store.kind(),
        reason: format!("object {object} does not encode: {error}"),
    };
    value.encode(&mut bytes).map_err(no_bytes)?;
    Ok(bytes)
}

/// Several nodes of one process may share a store.
impl<S: Store + ?Sized> Store for Arc<S> {
    fn kind(&self) -> &'static str {
        (**self).kind()
    }

    fn claim(&self) -> Result<u64, LinkerError> {
        (**self).claim()
    }

    fn read(&self, object: u64) -> Result<Option<Stored>, LinkerError> {
        (**self).read(object)
    }

    fn write(&self, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> Result<Written, LinkerError> {
        (**self).write(object, stamp, bytes)
    }

    fn write_all(&self, writes: &[(u64, Stamp, Option<&[u8]>)]) -> Result<Vec<Written>, LinkerError> {
        (**self).write_all(writes)
    }

    fn sync(&self) -> Result<(), LinkerError> {
        (**self).sync()
    }

    fn objects(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Stamp)>, LinkerError> {
        (**self).objects(after, limit)
    }
}
