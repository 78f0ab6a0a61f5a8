//! Objects in a file of redb.

use std::fs::File;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, Table, TableDefinition, TableError,
    WriteTransaction,
};
use kddm::linker::{Durability, LinkerError, MOST_STORED_BYTES, Stamp, Store, Stored, Verdict, Written};

use crate::group::Group;
use crate::record::{OTHER_SUM, OTHER_SUM_OF_BYTES, Record};

const KIND: &str = "redb";

/// Memory for pages of the file, 64 MiB: what is read often is in the set already.
const CACHE_BYTES: usize = 64 << 20;

/// The table of a store that was not given another name.
const FIRST_TABLE: &str = "objects";
/// Longest name of a table.
const MOST_NAME_BYTES: usize = 64;

/// The term of each table, by its name: format (1), term (8), CRC-32 of name and both (4).
const TERMS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("kddm terms");
const FORMAT: u8 = 1;
const TERM_BYTES: usize = 13;

/// Before the bytes of an object: format (1), 1 if it is there and 0 if it was removed (1), 0 (2), term, tenure, version (24),
/// CRC-32 of the bytes (4), CRC-32 of the object's number and all else (4). Little-endian.
const HEAD_BYTES: usize = 36;

/// A file of [redb](::redb) that one process has open. Writes are one commit each, those of a
/// [`write_all`](Store::write_all), or of several threads at one time, one together. Clones are the same store.
///
/// After an error of the system the file has to be opened anew; until then each call is an error.
///
/// ```
/// use kddm::linker::{Stamp, Store, Written};
/// use kddm_stores::Redb;
/// # let path = std::env::temp_dir().join(format!("kddm-redb-example-{}.redb", std::process::id()));
/// let store = Redb::open(&path)?;
/// let stamp = Stamp { term: store.claim()?, tenure: 1, version: 1 };
/// assert_eq!(store.write(7, stamp, Some(b"kept"))?, Written::Kept);
/// assert!(Redb::open(&path).is_err(), "one at a time");
///
/// let notes = store.table("notes")?; // for another set, in the same file
/// assert_eq!(notes.read(7)?, None);
/// # std::fs::remove_file(&path).ok();
/// # Ok::<(), kddm::linker::LinkerError>(())
/// ```
#[derive(Clone)]
pub struct Redb {
    database: Arc<Database>,
    table: String,
    durability: Durability,
    /// Writes of this table that come one by one.
    group: Arc<Group>,
}

impl std::fmt::Debug for Redb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redb").field("table", &self.table).field("durability", &self.durability).finish_non_exhaustive()
    }
}

impl Redb {
    /// Opens the file, or makes one.
    ///
    /// # Errors
    /// [`LinkerError::Store`] if another process has it open, the system refuses, or it is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Redb, LinkerError> {
        Redb::with(path, Durability::EachWrite)
    }

    /// As [`open`](Redb::open), and says when writes must be on the disk.
    ///
    /// # Errors
    /// As `open`.
    pub fn with(path: impl AsRef<Path>, durability: Durability) -> Result<Redb, LinkerError> {
        let path = path.as_ref();
        match path.metadata() {
            Ok(found) if found.len() == 0 => {
                Err(failed(format!("{}: it is empty, and what it kept is gone; restore or remove it", path.display())))
            }
            Ok(_) => Redb::of(opened(path, false)?, durability),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Redb::new(path, durability),
            Err(error) => Err(failed(format!("{}: {error}", path.display()))),
        }
    }

    /// On what redb calls a backend: memory, or a file of another kind.
    ///
    /// # Errors
    /// [`LinkerError::Store`] with what redb says.
    pub fn on(backend: impl StorageBackend, durability: Durability) -> Result<Redb, LinkerError> {
        let create = || Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend);
        let database = guarded(|| create().map_err(failed))?;
        Redb::of(database, durability)
    }

    /// A store in another table of the same file, for another set. The first one has the table `objects`.
    ///
    /// # Errors
    /// If the name has no bytes, or more than 64, or one of control.
    pub fn table(&self, name: &str) -> Result<Redb, LinkerError> {
        let is_name = (1..=MOST_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
        if !is_name || name == "kddm terms" {
            return Err(failed(format!(
                "{name:?} is no name for a table: 1 to {MOST_NAME_BYTES} bytes, none of control"
            )));
        }
        let store = Redb { table: name.to_owned(), group: Arc::new(Group::new(KIND)), ..self.clone() };
        store.begin()?;
        Ok(store)
    }

    fn of(database: Database, durability: Durability) -> Result<Redb, LinkerError> {
        let store = Redb {
            database: Arc::new(database),
            table: FIRST_TABLE.to_owned(),
            durability,
            group: Arc::new(Group::new(KIND)),
        };
        store.begin()?;
        Ok(store)
    }

    /// A file has another name until its first commit is on the disk: one that is there is whole, or was damaged.
    fn new(path: &Path, durability: Durability) -> Result<Redb, LinkerError> {
        let new = new_name(path);
        let (store, shown) = (Redb::of(opened(&new, true)?, durability), new.display());
        let store = store.map_err(|error| failed(format!("{error}; remove {shown} if no other process makes it")))?;
        name(&new, path).map_err(|error| failed(format!("{}: {error}", path.display())))?;
        Ok(store)
    }

    fn objects(&self) -> TableDefinition<'_, u64, &'static [u8]> {
        TableDefinition::new(&self.table)
    }

    /// Makes the tables, unless they are there.
    fn begin(&self) -> Result<(), LinkerError> {
        guarded(|| {
            let write = self.database.begin_write().map_err(failed)?;
            let is_there = {
                let mut terms = write.open_table(TERMS).map_err(failed)?;
                let is_there = terms.get(&*self.table).map_err(failed)?.is_some();
                let objects = write.open_table(self.objects()).map_err(failed)?;
                if !is_there && objects.first().map_err(failed)?.is_some() {
                    return Err(failed(format!("the table {:?} is one of somebody else", self.table)));
                }
                if !is_there {
                    self.keep_term(&mut terms, 0)?;
                }
                is_there
            };
            if is_there { write.abort().map_err(failed) } else { write.commit().map_err(failed) }
        })
    }

    fn term(&self, terms: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<u64, LinkerError> {
        let value = terms.get(&*self.table).map_err(failed)?;
        let value = value.ok_or_else(|| failed("its term is gone; restore the file"))?;
        let damaged = || failed("its term is damaged; restore the file");
        let bytes: &[u8; TERM_BYTES] = value.value().try_into().map_err(|_| damaged())?;
        let term = u64::from_le_bytes(std::array::from_fn(|index| bytes[1 + index]));
        if *bytes == term_bytes(&self.table, term) { Ok(term) } else { Err(damaged()) }
    }

    fn keep_term(&self, terms: &mut Table<'_, &'static str, &'static [u8]>, term: u64) -> Result<(), LinkerError> {
        terms.insert(&*self.table, &term_bytes(&self.table, term)[..]).map_err(failed)?;
        Ok(())
    }

    fn begin_write(&self, durability: Durability) -> Result<WriteTransaction, LinkerError> {
        let mut write = self.database.begin_write().map_err(failed)?;
        let durability = match durability {
            Durability::EachWrite => ::redb::Durability::Immediate,
            Durability::OnSync => ::redb::Durability::None,
        };
        write.set_durability(durability).map_err(failed)?;
        Ok(write)
    }

    /// All writes in one transaction, which is given up where none has changed anything.
    fn change(&self, writes: &[(u64, Stamp, Option<&[u8]>)]) -> Result<Vec<Written>, LinkerError> {
        let write = self.begin_write(self.durability)?;
        let mut written = Vec::with_capacity(writes.len());
        let mut is_changed = false;
        {
            let mut objects = write.open_table(self.objects()).map_err(failed)?;
            let mut terms = write.open_table(TERMS).map_err(failed)?;
            let mut term = self.term(&terms)?;
            for (object, stamp, bytes) in writes {
                let answer = match judged(&objects, term, *object, *stamp, *bytes)? {
                    Ok(answer) => answer,
                    Err(Change) => {
                        put(&mut objects, *object, *stamp, *bytes)?;
                        if stamp.term > term {
                            term = stamp.term;
                            self.keep_term(&mut terms, term)?;
                        }
                        is_changed = true;
                        Written::Kept
                    }
                };
                written.push(answer);
            }
        }
        if is_changed {
            write.commit().map_err(failed)?
        } else {
            write.abort().map_err(failed)?
        }
        Ok(written)
    }
}

/// What a write does that is not answered by what is there.
struct Change;

fn judged(
    objects: &impl ReadableTable<u64, &'static [u8]>,
    term: u64,
    object: u64,
    stamp: Stamp,
    bytes: Option<&[u8]>,
) -> Result<Result<Written, Change>, LinkerError> {
    let value = objects.get(object).map_err(failed)?;
    let there = value.as_ref().map(|value| parted(object, value.value())).transpose()?;
    Ok(match Verdict::of(stamp, term, there.map(|(record, _)| record.stamp)) {
        Verdict::Older { by } => Ok(Written::Refused { by }),
        // Bytes that were damaged since are written again.
        Verdict::Same => match there {
            Some((record, kept)) if record.is_of(kept) && kept == bytes => Ok(Written::Kept),
            Some((record, kept)) if record.is_of(kept) => Ok(Written::Refused { by: stamp }),
            _ => Err(Change),
        },
        Verdict::Newer => Err(Change),
    })
}

fn put(
    objects: &mut Table<'_, u64, &'static [u8]>,
    object: u64,
    stamp: Stamp,
    bytes: Option<&[u8]>,
) -> Result<(), LinkerError> {
    let content = bytes.unwrap_or_default();
    let mut place = objects.insert_reserve(object, HEAD_BYTES + content.len()).map_err(failed)?;
    let (head, rest) = place.as_mut().split_at_mut(HEAD_BYTES);
    head.copy_from_slice(&head_bytes(object, Record::of(stamp, bytes)));
    rest.copy_from_slice(content);
    Ok(())
}

impl Store for Redb {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn claim(&self) -> Result<u64, LinkerError> {
        guarded(|| {
            let write = self.begin_write(Durability::EachWrite)?;
            let next = {
                let mut terms = write.open_table(TERMS).map_err(failed)?;
                let next = self.term(&terms)?.checked_add(1);
                let next = next.ok_or_else(|| failed("there is no term after the last one"))?;
                self.keep_term(&mut terms, next)?;
                next
            };
            write.commit().map_err(failed)?;
            Ok(next)
        })
    }

    fn read(&self, object: u64) -> Result<Option<Stored>, LinkerError> {
        guarded(|| {
            let read = self.database.begin_read().map_err(failed)?;
            let objects = read.open_table(self.objects()).map_err(failed)?;
            let Some(value) = objects.get(object).map_err(failed)? else { return Ok(None) };
            let (record, bytes) = parted(object, value.value())?;
            if !record.is_of(bytes) {
                return Err(damaged(object, OTHER_SUM_OF_BYTES));
            }
            Ok(Some(Stored { stamp: record.stamp, bytes: bytes.map(<[u8]>::to_vec) }))
        })
    }

    fn write(&self, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> Result<Written, LinkerError> {
        too_long(object, bytes)?;
        self.group.write((object, stamp, bytes), |writes| guarded(|| self.change(writes)))
    }

    fn write_all(&self, writes: &[(u64, Stamp, Option<&[u8]>)]) -> Result<Vec<Written>, LinkerError> {
        for (object, _, bytes) in writes {
            too_long(*object, *bytes)?;
        }
        guarded(|| self.change(writes))
    }

    fn sync(&self) -> Result<(), LinkerError> {
        if self.durability == Durability::EachWrite {
            return Ok(());
        }
        // A commit that lasts takes those along that came before it.
        guarded(|| self.begin_write(Durability::EachWrite)?.commit().map_err(failed))
    }

    fn objects(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Stamp)>, LinkerError> {
        guarded(|| {
            let read = self.database.begin_read().map_err(failed)?;
            let objects = match read.open_table(self.objects()) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                objects => objects.map_err(failed)?,
            };
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut there = Vec::new();
            for entry in objects.range::<u64>((from, Bound::Unbounded)).map_err(failed)? {
                if there.len() == limit {
                    break;
                }
                let (object, value) = entry.map_err(failed)?;
                let (record, _) = parted(object.value(), value.value())?;
                if record.is_there {
                    there.push((object.value(), record.stamp));
                }
            }
            Ok(there)
        })
    }
}

fn too_long(object: u64, bytes: Option<&[u8]>) -> Result<(), LinkerError> {
    match bytes.map_or(0, <[u8]>::len) {
        ..=MOST_STORED_BYTES => Ok(()),
        length => Err(failed(format!("object {object} has {length} bytes; at most {MOST_STORED_BYTES} are kept"))),
    }
}

fn head_bytes(object: u64, record: Record) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[0] = FORMAT;
    head[1] = u8::from(record.is_there);
    let Stamp { term, tenure, version } = record.stamp;
    for (place, number) in head[4..28].chunks_exact_mut(8).zip([term, tenure, version]) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    head[28..32].copy_from_slice(&record.sum_of_bytes.to_le_bytes());
    head[32..].copy_from_slice(&record.sum(object).to_le_bytes());
    head
}

/// The record and the bytes of a value. Whether the bytes are those of the record is looked at by whoever wants them.
fn parted(object: u64, value: &[u8]) -> Result<(Record, Option<&[u8]>), LinkerError> {
    let Some((head, bytes)) = value.split_first_chunk::<HEAD_BYTES>() else {
        return Err(damaged(object, "its value is shorter than a record"));
    };
    let number = |from: usize| u64::from_le_bytes(std::array::from_fn(|index| head[from + index]));
    let record = Record {
        stamp: Stamp { term: number(4), tenure: number(12), version: number(20) },
        is_there: head[1] == 1,
        sum_of_bytes: u32::from_le_bytes(std::array::from_fn(|index| head[28 + index])),
    };
    if *head != head_bytes(object, record) {
        let other_format = head[0] != FORMAT;
        return Err(damaged(object, if other_format { "it has the format of another version" } else { OTHER_SUM }));
    }
    if !record.is_there && !bytes.is_empty() {
        return Err(damaged(object, "it was removed, and has bytes"));
    }
    Ok((record, record.is_there.then_some(bytes)))
}

fn term_bytes(table: &str, term: u64) -> [u8; TERM_BYTES] {
    let mut bytes = [0; TERM_BYTES];
    bytes[0] = FORMAT;
    bytes[1..9].copy_from_slice(&term.to_le_bytes());
    let mut sum = crc32fast::Hasher::new();
    sum.update(table.as_bytes());
    sum.update(&bytes[..9]);
    bytes[9..].copy_from_slice(&sum.finalize().to_le_bytes());
    bytes
}

fn new_name(path: &Path) -> PathBuf {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    PathBuf::from(new)
}

/// Gives a new file its name, which outlives a power failure, and takes none from another file.
fn name(new: &Path, path: &Path) -> std::io::Result<()> {
    std::fs::hard_link(new, path)?;
    std::fs::remove_file(new)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn opened(path: &Path, may_be_new: bool) -> Result<Database, LinkerError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let shown = path.display();
    let open = || if may_be_new { builder.create(path) } else { builder.open(path) };
    guarded(|| {
        open().map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => failed(format!(
                "another process, or another part of this one, has {shown} open, and only one may; several may have a \
                 directory or a SQLite file open"
            )),
            error => failed(format!("{shown}: {error}")),
        })
    })
}

/// What a file makes redb do that was damaged outside of it is an error, too.
fn guarded<T>(what: impl FnOnce() -> Result<T, LinkerError>) -> Result<T, LinkerError> {
    let damaged = |_| Err(failed("the pages of the file contradict each other; restore it"));
    catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(damaged)
}

fn failed(reason: impl std::fmt::Display) -> LinkerError {
    LinkerError::Store { kind: KIND, reason: reason.to_string() }
}

fn damaged(object: u64, reason: &str) -> LinkerError {
    LinkerError::Damaged { kind: KIND, object, reason: reason.to_owned() }
}
