//! Objects in a table of a SQLite database.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kddm::linker::{Durability, LinkerError, Stamp, Store, Stored, Verdict, Written};
use parking_lot::Mutex;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use crate::group::Group;
use crate::record::{OTHER_SUM, OTHER_SUM_OF_BYTES, Record};

const KIND: &str = "sqlite";

/// Most bytes of one object: SQLite keeps no row of more than 1,000,000,000.
const MOST_BYTES: usize = 999_999_000;
/// How long a call waits for other processes: a disk that is busy answers within it. Less than the limit of a linker's methods
/// (5 s), so that what stands in the way is told.
const BUSY: Duration = Duration::from_secs(3);
/// Longest name of a table.
const MOST_NAME_BYTES: usize = 64;
/// What is kept in a column of `kddm_terms`. A program that meets another one changes nothing.
const FORMAT: i64 = 1;

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
    path: PathBuf,
    table: String,
    durability: Durability,
    writer: Mutex<Connection>,
    /// So that who reads does not wait for the disk of who writes.
    reader: Mutex<Connection>,
    sql: Sql,
    /// Writes that come one by one.
    group: Group,
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Sqlite");
        shown.field("path", &self.path).field("table", &self.table).field("durability", &self.durability);
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

const CREATE_TERMS: &str = "CREATE TABLE IF NOT EXISTS kddm_terms (name TEXT PRIMARY KEY, term INTEGER NOT NULL, \
                            format INTEGER NOT NULL, syncs INTEGER NOT NULL)";
const READ_TERM: &str = "SELECT term, format FROM kddm_terms WHERE name = ?1";
const NEW_TERM: &str = "INSERT INTO kddm_terms (name, term, format, syncs) VALUES (?1, 0, ?2, 0)";
const PUT_TERM: &str = "UPDATE kddm_terms SET term = ?2 WHERE name = ?1";
/// Changes a page for certain: what changes none is not synced.
const TOUCH: &str = "UPDATE kddm_terms SET syncs = (syncs + 1) % 1000000 WHERE name = ?1";

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
        let path = path.as_ref();
        let open = || connection(path, durability).map_err(|error| failed(format!("{}: {error}", path.display())));
        let (writer, reader) = (Mutex::new(open()?), Mutex::new(open()?));
        let (sql, group) = (Sql::new(table), Group::new(KIND));
        let store = Sqlite { path: path.to_owned(), table: table.to_owned(), durability, writer, reader, sql, group };
        store.change(|transaction| store.begin(transaction))?;
        Ok(store)
    }

    fn begin(&self, transaction: &Transaction<'_>) -> Result<(), LinkerError> {
        transaction.execute_batch(CREATE_TERMS).map_err(failed)?;
        transaction.execute_batch(&self.sql.create).map_err(failed)?;
        let mut columns = transaction.prepare("SELECT name, type FROM pragma_table_info(?1)").map_err(failed)?;
        let columns = columns.query_map([&self.table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
        let columns: Vec<(String, String)> = columns.and_then(Iterator::collect).map_err(failed)?;
        if !columns.iter().map(|(name, kind)| (&**name, &**kind)).eq(COLUMNS) {
            return Err(failed(format!("the table {} is one of somebody else: it has other columns", self.table)));
        }
        let term: Option<i64> =
            transaction.query_row(READ_TERM, [&self.table], |row| row.get(0)).optional().map_err(failed)?;
        if term.is_some() {
            return self.term(transaction).map(|_| ());
        }
        let there: bool = transaction
            .query_row(&format!("SELECT EXISTS (SELECT 1 FROM \"{}\")", self.table), [], |row| row.get(0))
            .map_err(failed)?;
        if there {
            return Err(failed("there are objects, and their row in kddm_terms is gone; restore it"));
        }
        transaction.execute(NEW_TERM, params![self.table, FORMAT]).map_err(failed)?;
        Ok(())
    }

    /// What that does is one transaction, with nobody else's in between.
    fn change<T>(&self, what: impl FnOnce(&Transaction<'_>) -> Result<T, LinkerError>) -> Result<T, LinkerError> {
        let mut writer = self.writer.lock();
        changed(&mut writer, what)
    }

    fn term(&self, connection: &Connection) -> Result<u64, LinkerError> {
        let mut read = connection.prepare_cached(READ_TERM).map_err(failed)?;
        let row = read.query_row([&self.table], |row| Ok((row.get(0)?, row.get(1)?))).optional().map_err(failed)?;
        match row {
            Some((term, FORMAT)) => Ok(unsigned(term)),
            Some(_) => Err(failed("another version of the program wrote it: use that one")),
            None => Err(failed("its row in kddm_terms is gone; restore it")),
        }
    }

    fn keep_term(&self, connection: &Connection, term: u64) -> Result<(), LinkerError> {
        let mut put = connection.prepare_cached(PUT_TERM).map_err(failed)?;
        put.execute(params![self.table, signed(term)]).map_err(failed)?;
        Ok(())
    }

    fn touch(&self, connection: &Connection) -> Result<(), LinkerError> {
        connection.prepare_cached(TOUCH).and_then(|mut touch| touch.execute([&self.table])).map_err(failed)?;
        Ok(())
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
                self.touch(connection)?;
            }
            Verdict::Newer if stamp.term > *term => {
                *term = stamp.term;
                self.keep_term(connection, *term)?;
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
        self.change(|transaction| {
            let mut term = self.term(transaction)?;
            writes.iter().map(|write| self.write_one(transaction, &mut term, write)).collect()
        })
    }

    /// The objects between two numbers, as the database orders them.
    fn list(&self, range: (i64, i64), limit: usize, there: &mut Vec<(u64, Stamp)>) -> Result<(), LinkerError> {
        let reader = self.reader.lock();
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
        let mut writer = self.writer.lock();
        let claim = |transaction: &Transaction<'_>| {
            let next = self.term(transaction)?.checked_add(1);
            let next = next.ok_or_else(|| failed("there is no term after the last one"))?;
            self.keep_term(transaction, next)?;
            Ok(next)
        };
        synced(&mut writer, self.durability, claim)
    }

    fn read(&self, object: u64) -> Result<Option<Stored>, LinkerError> {
        let reader = self.reader.lock();
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
        if self.durability == Durability::EachWrite {
            return Ok(());
        }
        let mut writer = self.writer.lock();
        synced(&mut writer, self.durability, |transaction| self.touch(transaction))
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

/// A connection as a store needs it.
fn connection(path: &Path, durability: Durability) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    let until = Instant::now() + BUSY;
    // Others who open it at this moment keep it locked, and that is said at once, whatever was said to wait.
    while let Err(error) = connection.pragma_update(None, "journal_mode", "WAL") {
        if error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) || Instant::now() >= until {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let journal: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if journal != "wal" {
        return Err(rusqlite::Error::InvalidParameterName(format!(
            "its journal is {journal}, and cannot be one ahead"
        )));
    }
    set_durability(&connection, durability)?;
    // Nothing that the file brings along is run.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

fn set_durability(connection: &Connection, durability: Durability) -> Result<(), rusqlite::Error> {
    let synchronous = match durability {
        Durability::EachWrite => "FULL",
        Durability::OnSync => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous)
}

fn changed<T>(
    connection: &mut Connection,
    what: impl FnOnce(&Transaction<'_>) -> Result<T, LinkerError>,
) -> Result<T, LinkerError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let result = what(&transaction)?;
    transaction.commit().map_err(failed)?;
    Ok(result)
}

/// As [`changed`], on the disk with all that came before it, whatever is said of others.
fn synced<T>(
    connection: &mut Connection,
    durability: Durability,
    what: impl FnOnce(&Transaction<'_>) -> Result<T, LinkerError>,
) -> Result<T, LinkerError> {
    set_durability(connection, Durability::EachWrite).map_err(failed)?;
    let result = changed(connection, what);
    set_durability(connection, durability).map_err(failed)?;
    result
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

/// The same 64 bits: SQLite knows only numbers with a sign.
fn signed(number: u64) -> i64 {
    number.cast_signed()
}

fn unsigned(number: i64) -> u64 {
    number.cast_unsigned()
}

fn is_name(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_reserved = |prefix: &str| name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix));
    (1..=MOST_NAME_BYTES).contains(&name.len())
        && name.bytes().all(is_word)
        && !name.as_bytes()[0].is_ascii_digit()
        && !is_reserved("sqlite_")
        && !is_reserved("kddm_")
}

fn failed(reason: impl std::fmt::Display) -> LinkerError {
    LinkerError::Store { kind: KIND, reason: reason.to_string() }
}

fn damaged(object: u64, reason: &str) -> LinkerError {
    LinkerError::Damaged { kind: KIND, object, reason: reason.to_owned() }
}
