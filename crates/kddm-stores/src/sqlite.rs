//! Objects in a table of a SQLite database.

mod file;
mod rows;

use std::path::Path;

use kddm::linker::{Durability, LinkerError, Stamp, Store, Stored, Verdict, Written};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Transaction, params};

use self::file::{KIND, MOST_NAME_BYTES, OpenFile, failed, is_name, signed, unsigned};
pub use self::rows::Rows;
use crate::group::Group;
use crate::record::{OTHER_SUM, OTHER_SUM_OF_BYTES, Record};

/// Most bytes of one object: SQLite keeps no row of more than 1,000,000,000.
const MOST_BYTES: usize = 999_999_000;
/// A table of a SQLite database. Several processes of one machine may have it open at one time, and other programs may read it,
/// and have tables of their own beside it:
///
/// | column | |
/// |---|---|
/// | `object INTEGER PRIMARY KEY` | the number; those from 2^63 on have the sign of a negative one |
/// | `term`, `tenure`, `version INTEGER` | the stamp of the newest write |
/// | `checksum INTEGER` | CRC-32 of the bytes, below that of the rest of the row |
/// | `bytes BLOB` | what was written; `NULL`: removed |
///
/// ```
/// use kddm::linker::{Stamp, Store, Written};
/// use kddm_stores::Sqlite;
/// # let path = std::env::temp_dir().join(format!("kddm-sqlite-example-{}.db", std::process::id()));
/// let store = Sqlite::open(&path, "notes")?;
/// let stamp = Stamp { term: store.claim()?, tenure: 1, version: 1 };
/// assert_eq!(store.write(7, stamp, Some(b"kept"))?, Written::Kept);
///
/// let again = Sqlite::open(&path, "notes")?; // as by another process
/// assert_eq!(again.read(7)?.and_then(|kept| kept.bytes), Some(b"kept".to_vec()));
/// # drop((store, again));
/// # std::fs::remove_file(&path).ok();
/// # Ok::<(), kddm::linker::LinkerError>(())
/// ```
pub struct Sqlite {
    file: OpenFile,
    table: String,
    sql: Sql,
    /// Writes that come one by one.
    group: Group,
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Sqlite");
        shown.field("path", &self.file.path()).field("table", &self.table);
        shown.field("durability", &self.file.durability());
        shown.finish_non_exhaustive()
    }
}

/// Statements, with the name of the table in them.
struct Sql {
    create: String,
    read: String,
    put: String,
    list: String,
}

impl Sql {
    fn new(table: &str) -> Sql {
        Sql {
            create: format!(
                "CREATE TABLE IF NOT EXISTS \"{table}\" (object INTEGER PRIMARY KEY, term INTEGER NOT NULL, \
                 tenure INTEGER NOT NULL, version INTEGER NOT NULL, checksum INTEGER NOT NULL, bytes BLOB)"
            ),
            read: format!("SELECT object, term, tenure, version, checksum, bytes FROM \"{table}\" WHERE object = ?1"),
            put: format!(
                "INSERT INTO \"{table}\" (object, term, tenure, version, checksum, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                 ON CONFLICT (object) DO UPDATE SET term = ?2, tenure = ?3, version = ?4, checksum = ?5, bytes = ?6"
            ),
            list: format!(
                "SELECT object, term, tenure, version, checksum, bytes IS NOT NULL FROM \"{table}\" \
                 WHERE object BETWEEN ?1 AND ?2 AND bytes IS NOT NULL ORDER BY object LIMIT ?3"
            ),
        }
    }
}

/// The columns, as SQLite tells them.
const COLUMNS: [(&str, &str); 6] = [
    ("object", "INTEGER"),
    ("term", "INTEGER"),
    ("tenure", "INTEGER"),
    ("version", "INTEGER"),
    ("checksum", "INTEGER"),
    ("bytes", "BLOB"),
];

impl Sqlite {
    /// Opens the table in the database of that file, or makes one or both. A name has up to 64 letters, digits and `_`, no
    /// digit first, and begins with neither `sqlite_` nor `kddm_`.
    ///
    /// # Errors
    /// [`LinkerError::Store`] if the name is none, the file is no database, other processes keep it locked for 3 s, the file
    /// system cannot share memory between processes, or a table with that name has other columns.
    pub fn open(path: impl AsRef<Path>, table: &str) -> Result<Sqlite, LinkerError> {
        Sqlite::with(path, table, Durability::EachWrite)
    }

    /// As [`open`](Sqlite::open), and says when writes must be on the disk.
    ///
    /// # Errors
    /// As `open`.
    pub fn with(path: impl AsRef<Path>, table: &str, durability: Durability) -> Result<Sqlite, LinkerError> {
        if !is_name(table) {
            return Err(failed(format!(
                "{table:?} is no name for a table: up to {MOST_NAME_BYTES} letters, digits and _, no digit first, and \
                 neither sqlite_ nor kddm_ at the beginning"
            )));
        }
        let file = OpenFile::open(path.as_ref(), table.to_owned(), durability)?;
        let store = Sqlite { file, table: table.to_owned(), sql: Sql::new(table), group: Group::new(KIND) };
        store.file.change(|transaction| store.begin(transaction))?;
        Ok(store)
    }

    fn begin(&self, transaction: &Transaction<'_>) -> Result<(), LinkerError> {
        transaction.execute_batch(&self.sql.create).map_err(failed)?;
        let mut columns = transaction.prepare("SELECT name, type FROM pragma_table_info(?1)").map_err(failed)?;
        let columns = columns.query_map([&self.table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
        let columns: Vec<(String, String)> = columns.and_then(Iterator::collect).map_err(failed)?;
        if !columns.iter().map(|(name, kind)| (&**name, &**kind)).eq(COLUMNS) {
            return Err(failed(format!("the table {} is one of somebody else: it has other columns", self.table)));
        }
        self.file.begin(transaction, || {
            let any = format!("SELECT EXISTS (SELECT 1 FROM \"{}\")", self.table);
            transaction.query_row(&any, [], |row| row.get(0)).map_err(failed)
        })
    }

    fn write_one(
        &self,
        connection: &Connection,
        term: &mut u64,
        write: &(u64, Stamp, Option<&[u8]>),
    ) -> Result<Written, LinkerError> {
        let (object, stamp, bytes) = *write;
        let mut read = connection.prepare_cached(&self.sql.read).map_err(failed)?;
        let mut rows = read.query([signed(object)]).map_err(failed)?;
        let row = rows.next().map_err(failed)?;
        let there = row.map(|row| record(object, row)).transpose()?;
        match Verdict::of(stamp, *term, there.map(|there| there.stamp)) {
            Verdict::Older { by } => return Ok(Written::Refused { by }),
            Verdict::Same => {
                // What is damaged is no content, and is written again.
                let kept = row.and_then(|row| content(object, row).ok());
                let is_whole = |kept| there.is_some_and(|there| there.is_of(kept));
                if kept.is_some_and(|kept| is_whole(kept) && kept != bytes) {
                    return Ok(Written::Refused { by: stamp });
                }
                // Whoever wrote it may have ended before it was on the disk.
                self.file.touch(connection)?;
            }
            Verdict::Newer if stamp.term > *term => {
                *term = stamp.term;
                self.file.keep_term(connection, *term)?;
            }
            Verdict::Newer => {}
        }
        drop(rows);
        let record = Record::of(stamp, bytes);
        let Stamp { term, tenure, version } = stamp;
        let numbers = (signed(term), signed(tenure), signed(version), both_sums(object, &record));
        let mut put = connection.prepare_cached(&self.sql.put).map_err(failed)?;
        put.execute(params![signed(object), numbers.0, numbers.1, numbers.2, numbers.3, bytes]).map_err(failed)?;
        Ok(Written::Kept)
    }

    fn write_together(&self, writes: &[(u64, Stamp, Option<&[u8]>)]) -> Result<Vec<Written>, LinkerError> {
        self.file.change(|transaction| {
            let mut term = self.file.term(transaction)?;
            writes.iter().map(|write| self.write_one(transaction, &mut term, write)).collect()
        })
    }

    /// The objects between two numbers, as the database orders them.
    fn list(&self, range: (i64, i64), limit: usize, there: &mut Vec<(u64, Stamp)>) -> Result<(), LinkerError> {
        let reader = self.file.reader();
        let mut list = reader.prepare_cached(&self.sql.list).map_err(failed)?;
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = list.query(params![range.0, range.1, most]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let object = unsigned(row.get(0).map_err(failed)?);
            there.push((object, record(object, row)?.stamp));
        }
        Ok(())
    }
}

impl Store for Sqlite {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn claim(&self) -> Result<u64, LinkerError> {
        self.file.claim()
    }

    fn read(&self, object: u64) -> Result<Option<Stored>, LinkerError> {
        let reader = self.file.reader();
        let mut read = reader.prepare_cached(&self.sql.read).map_err(failed)?;
        let mut rows = read.query([signed(object)]).map_err(failed)?;
        let Some(row) = rows.next().map_err(failed)? else { return Ok(None) };
        let (record, bytes) = (record(object, row)?, content(object, row)?);
        if !record.is_of(bytes) {
            return Err(damaged(object, OTHER_SUM_OF_BYTES));
        }
        Ok(Some(Stored { stamp: record.stamp, bytes: bytes.map(<[u8]>::to_vec) }))
    }

    fn write(&self, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> Result<Written, LinkerError> {
        too_long(object, bytes)?;
        self.group.write((object, stamp, bytes), |writes| self.write_together(writes))
    }

    fn write_all(&self, writes: &[(u64, Stamp, Option<&[u8]>)]) -> Result<Vec<Written>, LinkerError> {
        for (object, _, bytes) in writes {
            too_long(*object, *bytes)?;
        }
        self.write_together(writes)
    }

    fn sync(&self) -> Result<(), LinkerError> {
        if self.file.durability() == Durability::EachWrite {
            return Ok(());
        }
        self.file.synced(|transaction| self.file.touch(transaction))
    }

    fn objects(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Stamp)>, LinkerError> {
        let mut there = Vec::new();
        let Some(from) = after.map_or(Some(0), |after| after.checked_add(1)) else { return Ok(there) };
        // Numbers from 2^63 on are negative in the database, and come last here.
        if signed(from) >= 0 {
            self.list((signed(from), i64::MAX), limit, &mut there)?;
        }
        if there.len() < limit {
            let from = if signed(from) < 0 { signed(from) } else { i64::MIN };
            self.list((from, -1), limit - there.len(), &mut there)?;
        }
        Ok(there)
    }
}

fn too_long(object: u64, bytes: Option<&[u8]>) -> Result<(), LinkerError> {
    match bytes.map_or(0, <[u8]>::len) {
        ..=MOST_BYTES => Ok(()),
        length => Err(failed(format!("object {object} has {length} bytes; at most {MOST_BYTES} are kept"))),
    }
}

/// What a row says but for its bytes.
fn record(object: u64, row: &Row<'_>) -> Result<Record, LinkerError> {
    let number = |index: usize| match row.get_ref(index) {
        Ok(ValueRef::Integer(number)) => Ok(unsigned(number)),
        Ok(_) => Err(damaged(object, "there is no number in a column of numbers")),
        Err(error) => Err(failed(error)),
    };
    let sums = number(4)?;
    // In a list the sixth column says whether there are bytes.
    let is_there = !matches!(row.get_ref(5).map_err(failed)?, ValueRef::Null);
    let stamp = Stamp { term: number(1)?, tenure: number(2)?, version: number(3)? };
    let record = Record { stamp, is_there, sum_of_bytes: (sums >> 32) as u32 };
    if record.sum(object) == sums as u32 { Ok(record) } else { Err(damaged(object, OTHER_SUM)) }
}

fn content<'a>(object: u64, row: &'a Row<'_>) -> Result<Option<&'a [u8]>, LinkerError> {
    match row.get_ref(5).map_err(failed)? {
        ValueRef::Null => Ok(None),
        ValueRef::Blob(bytes) => Ok(Some(bytes)),
        _ => Err(damaged(object, "there are no bytes in the column of bytes")),
    }
}

fn both_sums(object: u64, record: &Record) -> i64 {
    signed(u64::from(record.sum_of_bytes) << 32 | u64::from(record.sum(object)))
}

fn damaged(object: u64, reason: &str) -> LinkerError {
    LinkerError::Damaged { kind: KIND, object, reason: reason.to_owned() }
}
