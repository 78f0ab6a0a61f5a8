//! Objects that are rows of somebody's own table.

use std::path::Path;

use kddm::Value;
use kddm::linker::{Durability, Linker, LinkerError, Stamp, Verdict, Written};
use rusqlite::types::Value as Cell;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params, params_from_iter};

use super::file::{KIND, MOST_NAME_BYTES, OpenFile, failed, is_name, signed, unsigned};

type ReadRow<T> = Box<dyn Fn(&Row<'_>) -> Result<T, rusqlite::Error> + Send + Sync>;
type WriteRow<T> = Box<dyn Fn(&T) -> Vec<Cell> + Send + Sync>;

/// A linker whose objects are the rows of a table of yours, with columns of their own: what is there already is found, and what
/// is put is there for your other programs. Columns that are not named stay as they are.
///
/// The number of an object is in the key, as the same 64 bits. The stamps are in a table beside it, `kddm_stamps_` and the name
/// of yours, and change with it as one. Each write is on the disk when it is answered.
///
/// Your other programs may change rows that no node has in memory: a row that was read into the cluster is not read again.
///
/// ```
/// use kddm_stores::Rows;
/// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// struct Person {
///     name: String,
///     born: i64,
/// }
/// # let path = std::env::temp_dir().join(format!("kddm-rows-example-{}.db", std::process::id()));
/// let database = kddm_stores::rusqlite::Connection::open(&path)?;
/// database.execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL, born INTEGER)")?;
/// database.execute("INSERT INTO people VALUES (7, 'Ada', 1815)", [])?;
///
/// let people = Rows::open(
///     &path,
///     "people",
///     "id",
///     &["name", "born"],
///     |row| Ok(Person { name: row.get(0)?, born: row.get(1)? }),
///     |person: &Person| vec![person.name.clone().into(), person.born.into()],
/// )?;
/// let nodes = kddm::Node::local_cluster(2)?;
/// let set: kddm::Set<Person> = nodes[0].set("people").linker("people", people).open().wait()?;
/// let mut person = set.grab(7).wait()?;
/// assert_eq!(person.born, 1815);
/// person.name = "Ada Lovelace".into();
/// person.put().wait()?; // the row has it now
/// let name: String = database.query_row("SELECT name FROM people WHERE id = 7", [], |row| row.get(0))?;
/// assert_eq!(name, "Ada Lovelace");
/// # drop((set, nodes, database));
/// # std::fs::remove_file(&path).ok();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Rows<T> {
    file: OpenFile,
    table: String,
    columns: usize,
    sql: Sql,
    read: ReadRow<T>,
    write: WriteRow<T>,
}

impl<T> std::fmt::Debug for Rows<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Rows");
        shown.field("path", &self.file.path()).field("table", &self.table).finish_non_exhaustive()
    }
}

/// Statements, with names of tables and columns in them.
struct Sql {
    create: String,
    read: String,
    /// A row that is there stays what it is besides: also where one could not be made of these columns alone.
    change: String,
    add: String,
    remove: String,
    read_stamp: String,
    put_stamp: String,
}

impl Sql {
    fn new(table: &str, key: &str, columns: &[&str]) -> Sql {
        let quoted: Vec<String> = columns.iter().map(|column| format!("\"{column}\"")).collect();
        let places: Vec<String> = (2..).take(columns.len()).map(|place| format!("?{place}")).collect();
        let set: Vec<String> =
            quoted.iter().zip(&places).map(|(column, place)| format!("{column} = {place}")).collect();
        let (quoted, places, set) = (quoted.join(", "), places.join(", "), set.join(", "));
        let stamps = format!("kddm_stamps_{table}");
        Sql {
            create: format!(
                "CREATE TABLE IF NOT EXISTS \"{stamps}\" (object INTEGER PRIMARY KEY, term INTEGER NOT NULL, \
                 tenure INTEGER NOT NULL, version INTEGER NOT NULL)"
            ),
            read: format!("SELECT {quoted} FROM \"{table}\" WHERE \"{key}\" = ?1"),
            change: format!("UPDATE \"{table}\" SET {set} WHERE \"{key}\" = ?1"),
            add: format!("INSERT INTO \"{table}\" (\"{key}\", {quoted}) VALUES (?1, {places})"),
            remove: format!("DELETE FROM \"{table}\" WHERE \"{key}\" = ?1"),
            read_stamp: format!("SELECT term, tenure, version FROM \"{stamps}\" WHERE object = ?1"),
            put_stamp: format!("REPLACE INTO \"{stamps}\" (object, term, tenure, version) VALUES (?1, ?2, ?3, ?4)"),
        }
    }
}

impl<T> Rows<T> {
    /// The rows of that table, which is there already, with `key` as its `INTEGER PRIMARY KEY`. `read` makes a value of the
    /// columns that are named, numbered in that order; `write` makes as many of a value. Names have up to 64 letters, digits
    /// and `_`, no digit first, and begin with neither `sqlite_` nor `kddm_`.
    ///
    /// # Errors
    /// [`LinkerError::Store`] if a name is none, the file cannot be opened, or has no such table.
    pub fn open(
        path: impl AsRef<Path>,
        table: &str,
        key: &str,
        columns: &[&str],
        read: impl Fn(&Row<'_>) -> Result<T, rusqlite::Error> + Send + Sync + 'static,
        write: impl Fn(&T) -> Vec<Cell> + Send + Sync + 'static,
    ) -> Result<Rows<T>, LinkerError> {
        if let Some(name) = [table, key].iter().chain(columns).find(|name| !is_name(name)) {
            return Err(failed(format!(
                "{name:?} is no name: up to {MOST_NAME_BYTES} letters, digits and _, no digit first, and neither sqlite_ \
                 nor kddm_ at the beginning"
            )));
        }
        if columns.is_empty() || columns.contains(&key) {
            return Err(failed("name at least one column, and not the key"));
        }
        let path = path.as_ref();
        if !path.exists() {
            return Err(failed(format!("{}: there is no such file", path.display())));
        }
        let file = OpenFile::open(path, format!("rows of {table}"), Durability::EachWrite)?;
        let (sql, columns_of) = (Sql::new(table, key, columns), columns.len());
        let (read, write) = (Box::new(read), Box::new(write));
        let rows = Rows { file, table: table.to_owned(), columns: columns_of, sql, read, write };
        rows.file.change(|transaction| rows.begin(transaction, key, columns))?;
        Ok(rows)
    }

    fn begin(&self, transaction: &Transaction<'_>, key: &str, columns: &[&str]) -> Result<(), LinkerError> {
        let told = "SELECT name, type, pk FROM pragma_table_info(?1)";
        let mut there = transaction.prepare(told).map_err(failed)?;
        let there = there.query_map([&self.table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let there: Vec<(String, String, i64)> = there.and_then(Iterator::collect).map_err(failed)?;
        let find = |name: &str| there.iter().find(|(found, ..)| found.eq_ignore_ascii_case(name));
        let is_key = |(_, kind, place): &(String, String, i64)| kind.eq_ignore_ascii_case("INTEGER") && *place == 1;
        let keys = there.iter().filter(|(_, _, place)| *place > 0).count();
        if keys != 1 || !find(key).is_some_and(is_key) {
            return Err(failed(format!("the table {} is not there with {key} INTEGER PRIMARY KEY", self.table)));
        }
        if let Some(missing) = columns.iter().find(|name| find(name).is_none()) {
            return Err(failed(format!("the table {} has no column {missing}", self.table)));
        }
        transaction.execute_batch(&self.sql.create).map_err(failed)?;
        self.file.begin(transaction, || {
            let any = format!("SELECT EXISTS (SELECT 1 FROM \"kddm_stamps_{}\")", self.table);
            transaction.query_row(&any, [], |row| row.get(0)).map_err(failed)
        })
    }

    fn stamp(&self, connection: &Connection, object: u64) -> Result<Option<Stamp>, LinkerError> {
        let mut read = connection.prepare_cached(&self.sql.read_stamp).map_err(failed)?;
        let numbers = read.query_row([signed(object)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let stamp = |(term, tenure, version)| Stamp {
            term: unsigned(term),
            tenure: unsigned(tenure),
            version: unsigned(version),
        };
        Ok(numbers.optional().map_err(failed)?.map(stamp))
    }

    /// One that is newer, with its stamp. The same again is written again: what is there may be another program's.
    fn keep(
        &self,
        object: u64,
        stamp: Stamp,
        change: impl FnOnce(&Connection) -> Result<usize, rusqlite::Error>,
    ) -> Result<Written, LinkerError> {
        self.file.change(|transaction| {
            let term = self.file.term(transaction)?;
            if let Verdict::Older { by } = Verdict::of(stamp, term, self.stamp(transaction, object)?) {
                return Ok(Written::Refused { by });
            }
            if stamp.term > term {
                self.file.keep_term(transaction, stamp.term)?;
            }
            change(transaction).map_err(failed)?;
            let Stamp { term, tenure, version } = stamp;
            let mut put = transaction.prepare_cached(&self.sql.put_stamp).map_err(failed)?;
            put.execute(params![signed(object), signed(term), signed(tenure), signed(version)]).map_err(failed)?;
            // So that what was there already is on the disk, too.
            self.file.touch(transaction)?;
            Ok(Written::Kept)
        })
    }
}

impl<T: Value> Linker<T> for Rows<T> {
    fn first_touch(&self, object: u64) -> Result<Option<T>, LinkerError> {
        let reader = self.file.reader();
        let mut read = reader.prepare_cached(&self.sql.read).map_err(failed)?;
        let mut rows = read.query([signed(object)]).map_err(failed)?;
        let Some(row) = rows.next().map_err(failed)? else { return Ok(None) };
        let damaged = |error: rusqlite::Error| LinkerError::Damaged { kind: KIND, object, reason: error.to_string() };
        (self.read)(row).map(Some).map_err(damaged)
    }

    fn claim(&self) -> Result<u64, LinkerError> {
        self.file.claim()
    }

    fn write_back(&self, object: u64, stamp: Stamp, value: &T) -> Result<Written, LinkerError> {
        let cells = (self.write)(value);
        if cells.len() != self.columns {
            return Err(failed(format!("{} columns are named, and {} were written", self.columns, cells.len())));
        }
        self.keep(object, stamp, |connection| {
            let cells: Vec<Cell> = std::iter::once(Cell::Integer(signed(object))).chain(cells).collect();
            match connection.prepare_cached(&self.sql.change)?.execute(params_from_iter(&cells))? {
                0 => connection.prepare_cached(&self.sql.add)?.execute(params_from_iter(&cells)),
                changed => Ok(changed),
            }
        })
    }

    fn remove(&self, object: u64, stamp: Stamp) -> Result<Written, LinkerError> {
        self.keep(object, stamp, |connection| connection.prepare_cached(&self.sql.remove)?.execute([signed(object)]))
    }
}
