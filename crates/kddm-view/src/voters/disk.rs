//! A log kept in a file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::voters::storage::{Batch, Kept, Promise, Storage, StorageError, checksum};

/// Entries by number.
const ENTRIES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("entries");
/// All else by name.
const REST: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("rest");

/// First byte of the value `schema`. A program that meets another one changes nothing.
const SCHEMA: u8 = 1;

/// Memory for pages of the file, 1 MiB: a log is smaller than that nearly always.
const CACHE_BYTES: usize = 1 << 20;

/// A file in the data directory of a node, which one process has open. Each value in it has a
/// checksum of its own beside those of redb, so that what was damaged is never taken for a log.
pub struct RedbDisk {
    file: Database,
}

impl std::fmt::Debug for RedbDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbDisk").finish_non_exhaustive()
    }
}

type Value = (&'static str, Vec<u8>);

impl RedbDisk {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// If another process has it open, the system refuses, or it is damaged: then it is as it was.
    pub fn open(path: &Path) -> Result<RedbDisk, StorageError> {
        let open = || Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let shown = path.display();
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(file)) => Ok(RedbDisk { file }),
            Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => {
                Err(StorageError::Failed { reason: format!("another process has {shown} open") })
            }
            Ok(Err(DatabaseError::Storage(redb::StorageError::Io(error)))) if !is_content(&error) => {
                Err(StorageError::Failed { reason: format!("{shown}: {error}") })
            }
            Ok(Err(error)) => Err(StorageError::Damaged { what: format!("{shown}: {error}") }),
            Err(_) => Err(StorageError::Damaged { what: format!("{shown}: its pages contradict each other") }),
        }
    }

    fn read(&self) -> Result<Option<Kept>, StorageError> {
        let read = self.file.begin_read().map_err(failed)?;
        let rest = match read.open_table(REST) {
            Ok(rest) => rest,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(damaged(error)),
        };
        let value = |name: &str| -> Result<Vec<u8>, StorageError> {
            let guard = rest.get(name).map_err(damaged)?.ok_or_else(|| damaged(format!("{name} is missing")))?;
            checked(guard.value())
        };
        match value("schema")?[..] {
            [SCHEMA] => {}
            _ => return Err(damaged("another version of the program wrote it: run that one")),
        }
        let number = |name: &str| -> Result<u64, StorageError> {
            let bytes: [u8; 8] = value(name)?.try_into().map_err(|_| damaged(format!("{name} is no number")))?;
            Ok(u64::from_le_bytes(bytes))
        };
        let vote = u16::try_from(number("vote")?).map_err(|_| damaged("the vote is no node"))?;
        let promise = Promise { term: number("term")?, vote };
        let mut entries = Vec::new();
        for entry in read.open_table(ENTRIES).map_err(damaged)?.iter().map_err(damaged)? {
            let (index, bytes) = entry.map_err(damaged)?;
            entries.push((index.value(), checked(bytes.value())?));
        }
        let (votes_from, decided) = (number("votes_from")?, number("decided")?);
        Ok(Some(Kept { promise, votes_from, base: value("base")?, entries, decided }))
    }

    fn change(&self, batch: &Batch) -> Result<(), redb::Error> {
        let mut write = self.file.begin_write()?;
        let durability = if batch.must_last() { Durability::Immediate } else { Durability::None };
        write.set_durability(durability)?;
        put(&write, batch)?;
        write.commit()?;
        Ok(())
    }
}

fn put(write: &WriteTransaction, batch: &Batch) -> Result<(), redb::Error> {
    let mut entries = write.open_table(ENTRIES)?;
    if let Some(cut) = batch.cut_after {
        entries.retain_in(cut.saturating_add(1).., |_, _| false)?;
    }
    if let Some((index, _)) = &batch.base {
        entries.retain_in(..=*index, |_, _| false)?;
    }
    for (index, bytes) in &batch.append {
        entries.insert(index, &summed(bytes)[..])?;
    }
    let mut rest = write.open_table(REST)?;
    let mut values: Vec<Value> = vec![("schema", vec![SCHEMA])];
    let number = |value: u64| value.to_le_bytes().to_vec();
    if let Some(promise) = batch.promise {
        values.extend([("term", number(promise.term)), ("vote", number(u64::from(promise.vote)))]);
    }
    values.extend(batch.votes_from.map(|from| ("votes_from", number(from))));
    values.extend(batch.base.clone().map(|(_, base)| ("base", base)));
    values.extend(batch.decided.map(|decided| ("decided", number(decided))));
    for (name, value) in values {
        rest.insert(name, &summed(&value)[..])?;
    }
    Ok(())
}

impl Storage for RedbDisk {
    fn load(&mut self) -> Result<Option<Kept>, StorageError> {
        catch_unwind(AssertUnwindSafe(|| self.read()))
            .unwrap_or_else(|_| Err(damaged("its pages contradict each other")))
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StorageError> {
        match catch_unwind(AssertUnwindSafe(|| self.change(batch))) {
            Ok(done) => done.map_err(failed),
            Err(_) => Err(damaged("its pages contradict each other")),
        }
    }
}

/// Whether the system had nothing to complain of: what it read is no such file.
fn is_content(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
}

fn failed(error: impl std::fmt::Display) -> StorageError {
    StorageError::Failed { reason: error.to_string() }
}

fn damaged(what: impl std::fmt::Display) -> StorageError {
    StorageError::Damaged { what: what.to_string() }
}

fn summed(bytes: &[u8]) -> Vec<u8> {
    [&checksum(bytes).to_le_bytes()[..], bytes].concat()
}

fn checked(bytes: &[u8]) -> Result<Vec<u8>, StorageError> {
    match bytes.split_first_chunk::<8>() {
        Some((sum, body)) if u64::from_le_bytes(*sum) == checksum(body) => Ok(body.to_vec()),
        _ => Err(damaged("a value has another checksum than it was written with")),
    }
}
