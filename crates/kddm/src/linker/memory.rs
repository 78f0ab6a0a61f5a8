//! Objects kept in the memory of this process: for tests, and as the plainest store to compare others with.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::LinkerError;
use super::store::{MOST_STORED_BYTES, Stamp, Store, Stored, Written};
use super::verdict::Verdict;

const KIND: &str = "memory";

/// A store in the memory of this process, and gone with it. Clones are the same store: the nodes of one process may share it.
///
/// ```
/// use kddm::linker::{Memory, Stamp, Store, Written};
/// let store = Memory::new();
/// let term = store.claim()?;
/// let first = Stamp { term, tenure: 1, version: 1 };
/// let next = Stamp { tenure: 2, ..first };
/// assert_eq!(store.write(7, next, Some(b"new"))?, Written::Kept);
/// assert_eq!(store.write(7, first, Some(b"late"))?, Written::Refused { by: next });
/// assert_eq!(store.read(7)?.and_then(|kept| kept.bytes), Some(b"new".to_vec()));
/// # Ok::<(), kddm::linker::LinkerError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Memory {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    term: u64,
    objects: BTreeMap<u64, Stored>,
}

impl Memory {
    /// One with nothing in it.
    pub fn new() -> Memory {
        Memory::default()
    }
}

impl Store for Memory {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn claim(&self) -> Result<u64, LinkerError> {
        let mut kept = self.kept.lock();
        kept.term = kept.term.checked_add(1).ok_or_else(|| failed("there is no term after the last one"))?;
        Ok(kept.term)
    }

    fn read(&self, object: u64) -> Result<Option<Stored>, LinkerError> {
        Ok(self.kept.lock().objects.get(&object).cloned())
    }

    fn write(&self, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> Result<Written, LinkerError> {
        let length = bytes.map_or(0, <[u8]>::len);
        if length > MOST_STORED_BYTES {
            return Err(failed(format!("object {object} has {length} bytes; at most {MOST_STORED_BYTES} are kept")));
        }
        let mut kept = self.kept.lock();
        let there = kept.objects.get(&object);
        match Verdict::of(stamp, kept.term, there.map(|there| there.stamp)) {
            Verdict::Older { by } => Ok(Written::Refused { by }),
            Verdict::Same if there.is_some_and(|there| there.bytes.as_deref() != bytes) => {
                Ok(Written::Refused { by: stamp })
            }
            Verdict::Same => Ok(Written::Kept),
            Verdict::Newer => {
                let mut copy = Vec::new();
                copy.try_reserve_exact(length).map_err(|_| failed(format!("no memory for {length} bytes")))?;
                copy.extend_from_slice(bytes.unwrap_or_default());
                kept.term = kept.term.max(stamp.term);
                kept.objects.insert(object, Stored { stamp, bytes: bytes.map(|_| copy) });
                Ok(Written::Kept)
            }
        }
    }

    fn objects(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Stamp)>, LinkerError> {
        let kept = self.kept.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let there = kept.objects.range((from, Bound::Unbounded)).filter(|(_, stored)| stored.bytes.is_some());
        Ok(there.take(limit).map(|(object, stored)| (*object, stored.stamp)).collect())
    }
}

fn failed(reason: impl Into<String>) -> LinkerError {
    LinkerError::Store { kind: KIND, reason: reason.into() }
}
