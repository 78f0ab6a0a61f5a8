//! A log kept in a file.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use kddm_core::id::NodeId;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::voters::storage::{Batch, Kept, Promise, Storage, StorageError, checksum};

/// Entries by number.
const ENTRIES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("entries");
/// All else by name.
const REST: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("rest");

/// First byte of the value `schema`. A program that meets another one changes nothing.
const SCHEMA: u8 = 2;

/// Memory for pages of the file, 1 MiB: a log is smaller than that nearly always.
const CACHE_BYTES: usize = 1 << 20;

/// A file in the data directory of a node, which one process has open. It names its node, and each value in it has
/// a checksum of its own beside those of redb, so that what was damaged is never taken for a log.
///
/// A new one has another name, with `.new` behind it, until the first batch is on the disk: a file that is there is
/// a whole log, or was damaged.
pub struct RedbDisk {
    file: Database,
    /// Its name, if it does not have it yet.
    becomes: Option<PathBuf>,
}

impl std::fmt::Debug for RedbDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbDisk").field("becomes", &self.becomes).finish_non_exhaustive()
    }
}

type Value = (&'static str, Vec<u8>);

impl RedbDisk {
    /// Opens the file. Where there is none, one is made with the first batch.
    ///
    /// # Errors
    /// If another process has it open, the system refuses, or it is damaged, which an empty one is: then it is as it
    /// was.
    pub fn open(path: &Path) -> Result<RedbDisk, StorageError> {
        match path.metadata() {
            Ok(found) if found.len() == 0 => {
                Err(damaged(format!("{}: it is empty, and what it kept is gone", path.display())))
            }
            Ok(_) => Ok(RedbDisk { file: opened(path, false)?, becomes: None }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => RedbDisk::new(path),
            Err(error) => Err(failed(format!("{}: {error}", path.display()))),
        }
    }

    /// A log that has promised nothing yet. What an earlier start has left of one has not, either.
    fn new(path: &Path) -> Result<RedbDisk, StorageError> {
        let new = new_name(path);
        let file = match opened(&new, true) {
            Err(StorageError::Damaged { .. }) => {
                std::fs::remove_file(&new).map_err(|error| failed(format!("{}: {error}", new.display())))?;
                opened(&new, true)?
            }
            other => other?,
        };
        let disk = RedbDisk { file, becomes: Some(path.into()) };
        disk.guarded(|| disk.clear().map_err(failed))?;
        Ok(disk)
    }

    fn clear(&self) -> Result<(), redb::Error> {
        let write = self.file.begin_write()?;
        write.delete_table(ENTRIES)?;
        write.delete_table(REST)?;
        write.commit()?;
        Ok(())
    }

    /// What a file makes its reader do that was damaged outside of it is an error, too.
    fn guarded<T>(&self, what: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
        catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|_| Err(damaged("its pages contradict each other")))
    }

    fn read(&self) -> Result<Option<Kept>, StorageError> {
        let read = self.file.begin_read().map_err(failed)?;
        let rest = match read.open_table(REST) {
            Ok(rest) => rest,
            Err(redb::TableError::TableDoesNotExist(_)) if self.becomes.is_some() => return Ok(None),
            Err(error) => return Err(damaged(error)),
        };
        let value = |name: &str| -> Result<Vec<u8>, StorageError> {
            let guard = rest.get(name).map_err(damaged)?.ok_or_else(|| damaged(format!("{name} is missing")))?;
            checked(name.as_bytes(), guard.value()).ok_or_else(|| damaged(format!("{name} {OTHER_CHECKSUM}")))
        };
        match value("schema")?[..] {
            [SCHEMA] => {}
            _ => return Err(damaged("another version of the program wrote it: run that one")),
        }
        let number = |name: &str| -> Result<u64, StorageError> {
            let bytes: [u8; 8] = value(name)?.try_into().map_err(|_| damaged(format!("{name} is no number")))?;
            Ok(u64::from_le_bytes(bytes))
        };
        let node = u16::try_from(number("node")?).map_err(|_| damaged("its node is none"))?;
        let vote = u16::try_from(number("vote")?).map_err(|_| damaged("the vote is no node"))?;
        let promise = Promise { term: number("term")?, vote };
        let mut entries = Vec::new();
        for entry in read.open_table(ENTRIES).map_err(damaged)?.iter().map_err(damaged)? {
            let (index, bytes) = entry.map_err(damaged)?;
            let index = index.value();
            let entry = checked(&index.to_le_bytes(), bytes.value());
            entries.push((index, entry.ok_or_else(|| damaged(format!("entry {index} {OTHER_CHECKSUM}")))?));
        }
        let (votes_from, decided) = (number("votes_from")?, number("decided")?);
        Ok(Some(Kept { node: NodeId(node), promise, votes_from, base: value("base")?, entries, decided }))
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
        entries.insert(index, &summed(&index.to_le_bytes(), bytes)[..])?;
    }
    let mut rest = write.open_table(REST)?;
    let mut values: Vec<Value> = vec![("schema", vec![SCHEMA])];
    let number = |value: u64| value.to_le_bytes().to_vec();
    values.extend(batch.node.map(|node| ("node", number(u64::from(node.0)))));
    if let Some(promise) = batch.promise {
        values.extend([("term", number(promise.term)), ("vote", number(u64::from(promise.vote)))]);
    }
    values.extend(batch.votes_from.map(|from| ("votes_from", number(from))));
    values.extend(batch.base.clone().map(|(_, base)| ("base", base)));
    values.extend(batch.decided.map(|decided| ("decided", number(decided))));
    for (name, value) in values {
        rest.insert(name, &summed(name.as_bytes(), &value)[..])?;
    }
    Ok(())
}

impl Storage for RedbDisk {
    fn load(&mut self) -> Result<Option<Kept>, StorageError> {
        self.guarded(|| self.read())
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StorageError> {
        self.guarded(|| self.change(batch).map_err(failed))?;
        if batch.must_last()
            && let Some(path) = self.becomes.take()
        {
            name(&path).map_err(|error| failed(format!("{}: {error}", path.display())))?;
        }
        Ok(())
    }
}

/// The name that a new file has until it is a log.
fn new_name(path: &Path) -> PathBuf {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    PathBuf::from(new)
}

/// Gives a new file its name, which outlives a power failure.
fn name(path: &Path) -> std::io::Result<()> {
    std::fs::rename(new_name(path), path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn opened(path: &Path, may_be_new: bool) -> Result<Database, StorageError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let open = || if may_be_new { builder.create(path) } else { builder.open(path) };
    let shown = path.display();
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(failed(format!("another process has {shown} open"))),
        Ok(Err(DatabaseError::Storage(redb::StorageError::Io(error)))) if !is_content(&error) => {
            Err(failed(format!("{shown}: {error}")))
        }
        Ok(Err(error)) => Err(damaged(format!("{shown}: {error}"))),
        Err(_) => Err(damaged(format!("{shown}: its pages contradict each other"))),
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

/// What is wrong with a value that is not what was written.
const OTHER_CHECKSUM: &str = "has another checksum than it was written with";

/// A value with its checksum, which is over its name, too: none is taken for another one.
fn summed(name: &[u8], bytes: &[u8]) -> Vec<u8> {
    [&checksum(&[name, bytes].concat()).to_le_bytes()[..], bytes].concat()
}

fn checked(name: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    let (sum, body) = bytes.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*sum) == checksum(&[name, body].concat())).then(|| body.to_vec())
}
