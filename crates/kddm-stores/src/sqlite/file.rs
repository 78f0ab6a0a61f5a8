//! A SQLite file as a store has it open: one connection that writes, one that reads, and the term.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kddm::linker::{Durability, LinkerError};
use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};

pub(super) const KIND: &str = "sqlite";

/// How long a call waits for other processes: a disk that is busy answers within it. Less than the limit of a linker's methods
/// (5 s), so that what stands in the way is told.
const BUSY: Duration = Duration::from_secs(3);
/// Longest name of a table.
pub(super) const MOST_NAME_BYTES: usize = 64;
/// What is kept in a column of `kddm_terms`. A program that meets another one changes nothing.
const FORMAT: i64 = 1;

const CREATE_TERMS: &str = "CREATE TABLE IF NOT EXISTS kddm_terms (name TEXT PRIMARY KEY COLLATE NOCASE, term INTEGER NOT NULL, \
                            format INTEGER NOT NULL, syncs INTEGER NOT NULL)";
const READ_TERM: &str = "SELECT term, format FROM kddm_terms WHERE name = ?1";
const NEW_TERM: &str = "INSERT INTO kddm_terms (name, term, format, syncs) VALUES (?1, 0, ?2, 0)";
const PUT_TERM: &str = "UPDATE kddm_terms SET term = ?2 WHERE name = ?1";
/// Changes a page for certain: what changes none is not synced.
const TOUCH: &str = "UPDATE kddm_terms SET syncs = (syncs + 1) % 1000000 WHERE name = ?1";

/// See the module.
pub(super) struct OpenFile {
    path: PathBuf,
    /// Whose term it is, in the table of all.
    name: String,
    durability: Durability,
    writer: Mutex<Connection>,
    /// So that who reads does not wait for the disk of who writes.
    reader: Mutex<Connection>,
}

impl OpenFile {
    pub(super) fn open(path: &Path, name: String, durability: Durability) -> Result<OpenFile, LinkerError> {
        let open = || connection(path, durability).map_err(|error| failed(format!("{}: {error}", path.display())));
        let (writer, reader) = (Mutex::new(open()?), Mutex::new(open()?));
        Ok(OpenFile { path: path.to_owned(), name, durability, writer, reader })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    pub(super) fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock()
    }

    /// What that does is one transaction, with nobody else's in between.
    pub(super) fn change<T>(
        &self,
        what: impl FnOnce(&Transaction<'_>) -> Result<T, LinkerError>,
    ) -> Result<T, LinkerError> {
        let mut writer = self.writer.lock();
        changed(&mut writer, what)
    }

    /// As [`change`](OpenFile::change), on the disk with all that came before it, whatever was said of others.
    pub(super) fn synced<T>(
        &self,
        what: impl FnOnce(&Transaction<'_>) -> Result<T, LinkerError>,
    ) -> Result<T, LinkerError> {
        let mut writer = self.writer.lock();
        set_durability(&writer, Durability::EachWrite).map_err(failed)?;
        let result = changed(&mut writer, what);
        set_durability(&writer, self.durability).map_err(failed)?;
        result
    }

    /// Makes the table of terms and a term of this name, unless they are there. `has_objects` says what it would be the term of.
    pub(super) fn begin(
        &self,
        transaction: &Transaction<'_>,
        has_objects: impl FnOnce() -> Result<bool, LinkerError>,
    ) -> Result<(), LinkerError> {
        transaction.execute_batch(CREATE_TERMS).map_err(failed)?;
        let term: Option<i64> =
            transaction.query_row(READ_TERM, [&self.name], |row| row.get(0)).optional().map_err(failed)?;
        if term.is_some() {
            return self.term(transaction).map(|_| ());
        }
        if has_objects()? {
            return Err(failed("there are objects, and their row in kddm_terms is gone; restore it"));
        }
        transaction.execute(NEW_TERM, params![self.name, FORMAT]).map_err(failed)?;
        Ok(())
    }

    /// The next term.
    pub(super) fn claim(&self) -> Result<u64, LinkerError> {
        self.synced(|transaction| {
            let next = self.term(transaction)?.checked_add(1);
            let next = next.ok_or_else(|| failed("there is no term after the last one"))?;
            self.keep_term(transaction, next)?;
            Ok(next)
        })
    }

    pub(super) fn term(&self, connection: &Connection) -> Result<u64, LinkerError> {
        let mut read = connection.prepare_cached(READ_TERM).map_err(failed)?;
        let row = read.query_row([&self.name], |row| Ok((row.get(0)?, row.get(1)?))).optional().map_err(failed)?;
        match row {
            Some((term, FORMAT)) => Ok(unsigned(term)),
            Some(_) => Err(failed("another version of the program wrote it: use that one")),
            None => Err(failed("its row in kddm_terms is gone; restore it")),
        }
    }

    pub(super) fn keep_term(&self, connection: &Connection, term: u64) -> Result<(), LinkerError> {
        let mut put = connection.prepare_cached(PUT_TERM).map_err(failed)?;
        put.execute(params![self.name, signed(term)]).map_err(failed)?;
        Ok(())
    }

    pub(super) fn touch(&self, connection: &Connection) -> Result<(), LinkerError> {
        connection.prepare_cached(TOUCH).and_then(|mut touch| touch.execute([&self.name])).map_err(failed)?;
        Ok(())
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

/// The same 64 bits: SQLite knows only numbers with a sign.
pub(super) fn signed(number: u64) -> i64 {
    number.cast_signed()
}

pub(super) fn unsigned(number: i64) -> u64 {
    number.cast_unsigned()
}

/// Whether that can be the name of a table of ours.
pub(super) fn is_name(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_reserved = |prefix: &str| name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix));
    (1..=MOST_NAME_BYTES).contains(&name.len())
        && name.bytes().all(is_word)
        && !name.as_bytes()[0].is_ascii_digit()
        && !is_reserved("sqlite_")
        && !is_reserved("kddm_")
}

pub(super) fn failed(reason: impl std::fmt::Display) -> LinkerError {
    LinkerError::Store { kind: KIND, reason: reason.to_string() }
}
