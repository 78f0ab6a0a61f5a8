//! A disk in memory, which loses and tears what it was not made to keep: for simulations.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kddm_core::id::NodeId;
use serde::{Deserialize, Serialize};

use crate::voters::storage::{Batch, Kept, Promise, Storage, StorageError, checksum};

/// A disk. Its clones are the same disk, which outlives the log that writes to it.
///
/// ```
/// use kddm_view::{Batch, MemoryDisk, Promise, Storage};
///
/// let mut disk = MemoryDisk::default();
/// disk.write(&Batch { promise: Some(Promise { term: 7, vote: 1 }), ..Batch::default() })?;
/// disk.write(&Batch { decided: Some(0), ..Batch::default() })?;
/// disk.crash(|unsynced| unsynced / 2); // In the middle of what did not have to last.
/// assert_eq!(disk.load()?.map(|kept| kept.promise.term), Some(7));
/// # Ok::<(), kddm_view::StorageError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    /// Records, one after the other: length, checksum, batch.
    bytes: Vec<u8>,
    /// So many of them survive a crash.
    synced: usize,
    /// Writes that still succeed; the next one is cut short by a crash.
    left: Option<u32>,
    mutation: Option<Mutation>,
}

/// A disk that does not do what it says: what a simulation must notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// A promise is not kept.
    ForgetsPromises,
    /// It says that it has kept what it has not, from its second write on.
    SyncsNothing,
}

#[derive(Serialize, Deserialize)]
struct Record {
    node: Option<u16>,
    promise: Option<(u64, u16)>,
    votes_from: Option<u64>,
    cut_after: Option<u64>,
    base: Option<(u64, Vec<u8>)>,
    append: Vec<(u64, Vec<u8>)>,
    decided: Option<u64>,
}

/// Bytes before the body of a record.
const HEADER: usize = 12;

impl MemoryDisk {
    /// A disk that is broken in that way.
    pub fn broken(mutation: Mutation) -> MemoryDisk {
        MemoryDisk(Arc::new(Mutex::new(Platter { mutation: Some(mutation), ..Platter::default() })))
    }

    /// Cuts the power during the write after that many others: it fails.
    pub fn fail_after(&self, writes: u32) {
        self.platter().left = Some(writes);
    }

    /// Cuts the power. Of the bytes that did not have to last, `keep` says how many are there still.
    pub fn crash(&self, keep: impl FnOnce(usize) -> usize) {
        let mut platter = self.platter();
        let unsynced = platter.bytes.len() - platter.synced;
        let kept = platter.synced + keep(unsynced).min(unsynced);
        platter.bytes.truncate(kept);
        platter.left = None;
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for MemoryDisk {
    fn load(&mut self) -> Result<Option<Kept>, StorageError> {
        let mut platter = self.platter();
        let (mut kept, mut at, mut found) = (Kept::default(), 0, false);
        while let Some((batch, length)) = record_at(&platter.bytes[at..]) {
            kept.apply(&batch);
            at += length;
            found = true;
        }
        // What was torn was never told to anyone.
        platter.bytes.truncate(at);
        platter.synced = at;
        Ok(found.then_some(kept))
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StorageError> {
        let mut platter = self.platter();
        let mut batch = batch.clone();
        let must_last = batch.must_last();
        if platter.mutation == Some(Mutation::ForgetsPromises) {
            batch.promise = None;
        }
        platter.bytes.extend(record(&batch));
        if platter.left == Some(0) {
            return Err(StorageError::Failed { reason: "the power is gone".into() });
        }
        platter.left = platter.left.map(|left| left - 1);
        let lies = platter.mutation == Some(Mutation::SyncsNothing) && platter.synced > 0;
        if must_last && !lies {
            platter.synced = platter.bytes.len();
        }
        Ok(())
    }
}

fn record(batch: &Batch) -> Vec<u8> {
    let Batch { node, promise, votes_from, cut_after, base, append, decided, is_urgent: _ } = batch.clone();
    let node = node.map(|node| node.0);
    let promise = promise.map(|promise| (promise.term, promise.vote));
    let record = Record { node, promise, votes_from, cut_after, base, append, decided };
    let mut bytes = vec![0; HEADER];
    bytes = postcard::to_extend(&record, bytes).expect("numbers and bytes can always be written to memory");
    let length = u32::try_from(bytes.len()).expect("a batch has a limit far below that");
    let sum = checksum(&bytes[HEADER..]);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..HEADER].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The first record of these bytes and its length, if it is whole.
fn record_at(bytes: &[u8]) -> Option<(Batch, usize)> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let sum = u64::from_le_bytes(bytes.get(4..HEADER)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    if checksum(body) != sum {
        return None;
    }
    let record: Record = postcard::from_bytes(body).ok()?;
    let Record { node, promise, votes_from, cut_after, base, append, decided } = record;
    let node = node.map(NodeId);
    let promise = promise.map(|(term, vote)| Promise { term, vote });
    Some((Batch { node, promise, votes_from, cut_after, base, append, decided, is_urgent: false }, length))
}
