//! Rows of a table that somebody else has made.

use std::path::{Path, PathBuf};

use kddm::linker::{Linker, LinkerError, Stamp, Written};
use kddm_stores::Rows;
use rusqlite::Connection;
use rusqlite::types::Value as Cell;

use crate::{Scratch, stamp};

#[derive(Clone, Debug, PartialEq, Default, serde::Serialize, serde::Deserialize)]
struct Person {
    name: String,
    born: Option<i64>,
}

fn person(name: &str, born: i64) -> Person {
    Person { name: name.into(), born: Some(born) }
}

fn cells(person: &Person) -> Vec<Cell> {
    vec![person.name.clone().into(), person.born.into()]
}

fn open(path: &Path, table: &str, key: &str, columns: &[&str]) -> Result<Rows<Person>, LinkerError> {
    let read = |row: &rusqlite::Row<'_>| Ok(Person { name: row.get(0)?, born: row.get(1)? });
    Rows::open(path, table, key, columns, read, cells)
}

/// A table with a column more than is named.
fn people(scratch: &Scratch) -> (PathBuf, Connection) {
    let path = scratch.path("people.db");
    let database = Connection::open(&path).expect("it opens");
    let table =
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL, notes TEXT DEFAULT 'none', born INTEGER)";
    database.execute_batch(table).expect("it is whole");
    (path, database)
}

fn opened(path: &Path) -> Rows<Person> {
    open(path, "people", "id", &["name", "born"]).expect("it opens")
}

fn row(database: &Connection, id: i64) -> Option<(String, String, Option<i64>)> {
    let read = "SELECT name, notes, born FROM people WHERE id = ?1";
    database.query_row(read, [id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).ok()
}

#[test]
fn a_row_that_could_not_be_made_of_the_named_columns_alone_is_changed() {
    let scratch = Scratch::new("strict");
    let path = scratch.path("people.db");
    let database = Connection::open(&path).expect("it opens");
    let table = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL, born INTEGER, sure TEXT NOT NULL)";
    database.execute_batch(table).expect("it is whole");
    database.execute("INSERT INTO people VALUES (7, 'Ada', 1815, 'yes')", []).unwrap();
    let rows = opened(&path);
    assert_eq!(rows.claim(), Ok(1));
    assert_eq!(rows.write_back(7, stamp(1, 1), &person("Ada Lovelace", 1815)), Ok(Written::Kept));
    let read = |id: i64| {
        let read = "SELECT name, sure FROM people WHERE id = ?1";
        database.query_row(read, [id], |row| Ok((row.get(0)?, row.get(1)?))).ok()
    };
    assert_eq!(read(7), Some(("Ada Lovelace".to_string(), "yes".to_string())));
    // Nobody says whether it is sure.
    let error = rows.write_back(8, stamp(1, 1), &person("Grace", 1906)).expect_err("it cannot be made").to_string();
    assert!(error.contains("sure"), "{error}");
    assert_eq!(read(8), None);
    database.execute("INSERT INTO people VALUES (8, 'G', 1900, 'no')", []).unwrap();
    assert_eq!(rows.write_back(8, stamp(1, 1), &person("Grace", 1906)), Ok(Written::Kept), "its stamp was not kept");
    assert_eq!(read(8), Some(("Grace".to_string(), "no".to_string())));
}

#[test]
fn rows_are_read_written_and_removed_and_other_columns_stay() {
    let scratch = Scratch::new("rows");
    let (path, database) = people(&scratch);
    database.execute("INSERT INTO people VALUES (7, 'Ada', 'the first', 1815)", []).unwrap();
    let (rows, others) = (opened(&path), opened(&path));
    assert_eq!(rows.claim(), Ok(1));
    assert_eq!((rows.first_touch(7), rows.first_touch(8)), (Ok(Some(person("Ada", 1815))), Ok(None)));
    assert_eq!(rows.write_back(7, stamp(2, 1), &person("Ada Lovelace", 1815)), Ok(Written::Kept));
    assert_eq!(row(&database, 7), Some(("Ada Lovelace".into(), "the first".into(), Some(1815))));
    let late = others.write_back(7, stamp(1, 9), &person("Augusta", 1815));
    assert_eq!(late, Ok(Written::Refused { by: stamp(2, 1) }));
    assert_eq!(others.first_touch(7), Ok(Some(person("Ada Lovelace", 1815))));

    let nobody = Person { name: "x".into(), born: None };
    assert_eq!(others.write_back(u64::MAX, stamp(1, 1), &nobody), Ok(Written::Kept));
    assert_eq!(row(&database, -1), Some(("x".into(), "none".into(), None)));
    assert_eq!(rows.first_touch(u64::MAX), Ok(Some(nobody)));

    assert_eq!(others.remove(7, stamp(2, 2)), Ok(Written::Kept));
    assert_eq!((row(&database, 7), rows.first_touch(7)), (None, Ok(None)));
    assert_eq!(rows.write_back(7, stamp(2, 1), &person("Ada", 1815)), Ok(Written::Refused { by: stamp(2, 2) }));
    assert_eq!(row(&database, 7), None);
    // The next life.
    assert_eq!(opened(&path).claim(), Ok(2));
    let claimed = Stamp { term: 2, tenure: 0, version: 0 };
    assert_eq!(rows.write_back(8, stamp(9, 9), &person("late", 0)), Ok(Written::Refused { by: claimed }));
    assert_eq!(rows.write_back(8, Stamp { term: 2, ..stamp(1, 1) }, &person("new", 0)), Ok(Written::Kept));
}

#[test]
fn a_write_that_the_table_refuses_leaves_the_stamp_too() {
    let scratch = Scratch::new("rows-refused");
    let (path, database) = people(&scratch);
    database.execute_batch("CREATE UNIQUE INDEX names ON people (name)").unwrap();
    let rows = opened(&path);
    assert_eq!(rows.write_back(1, stamp(1, 1), &person("Ada", 1815)), Ok(Written::Kept));
    let error = rows.write_back(2, stamp(5, 5), &person("Ada", 1816)).unwrap_err().to_string();
    assert!(error.contains("people.name"), "{error}");
    assert_eq!(
        rows.write_back(2, stamp(1, 1), &person("Eva", 1816)),
        Ok(Written::Kept),
        "nothing was kept of the first"
    );
}

#[test]
fn what_does_not_fit_is_said_before_anything_is_written() {
    let scratch = Scratch::new("rows-wrong");
    let (path, database) = people(&scratch);
    database.execute_batch("CREATE TABLE texts (id TEXT PRIMARY KEY, name TEXT, born INTEGER)").unwrap();
    database.execute_batch("CREATE TABLE pairs (id INTEGER, name TEXT, born INTEGER, PRIMARY KEY (id, name))").unwrap();
    for (table, key, columns, said) in [
        ("nobody", "id", &["name", "born"][..], "is not there with id INTEGER PRIMARY KEY"),
        ("texts", "id", &["name", "born"], "is not there with id INTEGER PRIMARY KEY"),
        ("pairs", "id", &["name", "born"], "is not there with id INTEGER PRIMARY KEY"),
        ("people", "born", &["name"], "is not there with born INTEGER PRIMARY KEY"),
        ("people", "id", &["name", "died"], "no column died"),
        ("people", "id", &[], "at least one column"),
        ("people", "id", &["id"], "at least one column"),
        ("people\"", "id", &["name"], "no name"),
        ("people", "id", &["name; --"], "no name"),
        ("people", "", &["name"], "no name"),
    ] {
        let error = open(&path, table, key, columns).unwrap_err().to_string();
        assert!(error.contains(said), "{table}, {key}, {columns:?}: {error}");
    }
    let tables: u32 =
        database.query_row("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'kddm%'", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 0, "nothing was made");
    assert!(open(&scratch.path("nowhere.db"), "people", "id", &["name"]).is_err());
    assert!(!scratch.path("nowhere.db").exists());
    // One column, and two are written; a row that is none of a person.
    let rows = open(&path, "people", "id", &["name"]).unwrap();
    let error = rows.write_back(7, stamp(1, 1), &person("Ada", 1815)).unwrap_err().to_string();
    assert!(error.contains("1 columns are named, and 2"), "{error}");
    database.execute("INSERT INTO people VALUES (7, 'Ada', '', 'long ago')", []).unwrap();
    let error = opened(&path).first_touch(7);
    assert!(matches!(error, Err(LinkerError::Damaged { object: 7, .. })), "{error:?}");
}
