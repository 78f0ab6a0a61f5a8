//! Files of redb and of SQLite with something in them that no store has written.

use fastrand::Rng;
use kddm::linker::{Durability, LinkerError, Store, Stored, Written};
use kddm_stores::{Redb, Sqlite};
use redb::{Database, ReadableDatabase, TableDefinition};
use rusqlite::Connection;

use crate::{Kind, Scratch, stamp};

const OBJECTS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("objects");
const TERMS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("kddm terms");

fn is_damaged<T>(answer: Result<T, LinkerError>) -> bool {
    matches!(answer, Err(LinkerError::Damaged { object: 7, .. }))
}

fn value(database: &Database, object: u64) -> Vec<u8> {
    let read = database.begin_read().expect("it is whole");
    read.open_table(OBJECTS)
        .expect("it is whole")
        .get(object)
        .expect("it is whole")
        .expect("it is whole")
        .value()
        .to_vec()
}

fn put(database: &Database, value: &[u8]) {
    let write = database.begin_write().expect("it is whole");
    write.open_table(OBJECTS).expect("it is whole").insert(7, value).expect("it is whole");
    write.commit().expect("it is whole");
}

#[test]
fn no_value_of_redb_is_served_that_was_not_written() {
    let scratch = Scratch::new("redb-values");
    let path = scratch.path("file");
    let store = Redb::open(&path).unwrap();
    for (object, bytes) in [(7, Some(&b"one"[..])), (8, Some(b"two")), (9, None)] {
        assert_eq!(store.write(object, stamp(1, 1), bytes), Ok(Written::Kept));
    }
    drop(store);
    let database = Database::open(&path).unwrap();
    let (whole, others, removed) = (value(&database, 7), value(&database, 8), value(&database, 9));
    drop(database);
    let mut wrong: Vec<Vec<u8>> = (0..whole.len()).map(|length| whole[..length].to_vec()).collect();
    for byte in 0..whole.len() {
        let mut other = whole.clone();
        other[byte] ^= 1 << (byte % 8);
        wrong.push(other);
    }
    wrong.extend([
        [&whole[..], b"x"].concat(),
        others,
        removed.clone(),
        [&removed[..], b"x"].concat(),
        vec![0; whole.len()],
    ]);
    for wrong in wrong {
        put(&Database::open(&path).unwrap(), &wrong);
        let store = Redb::open(&path).unwrap();
        assert!(is_damaged(store.read(7)), "{wrong:?}");
        // As long as the record is whole, what is newer can be told, and mends it.
        let is_record_whole = wrong.len() >= 36 && wrong[..36] == whole[..36];
        assert_eq!(is_damaged(store.objects(None, 9)), !is_record_whole, "{wrong:?}");
        let again = store.write(7, stamp(1, 1), Some(b"one"));
        assert!(if is_record_whole { again == Ok(Written::Kept) } else { is_damaged(again) }, "{wrong:?}");
        assert_eq!(store.read(7).is_ok(), is_record_whole, "{wrong:?}");
    }
}

#[test]
fn a_term_of_redb_that_is_damaged_or_gone_is_said() {
    let scratch = Scratch::new("redb-term");
    let path = scratch.path("file");
    let store = Redb::open(&path).unwrap();
    assert_eq!(store.write(7, stamp(1, 1), None), Ok(Written::Kept));
    drop(store);
    let change = |value: Option<&[u8]>| {
        let write = Database::open(&path).unwrap().begin_write().unwrap();
        {
            let mut terms = write.open_table(TERMS).unwrap();
            match value {
                Some(value) => drop(terms.insert("objects", value).unwrap()),
                None => drop(terms.remove("objects").unwrap()),
            }
        }
        write.commit().unwrap();
    };
    for wrong in [&[][..], &[0; 13], &[1; 13], &[1; 14]] {
        change(Some(wrong));
        let store = Redb::open(&path).unwrap();
        assert!(store.claim().unwrap_err().to_string().contains("damaged"), "{wrong:?}");
        assert!(store.write(7, stamp(1, 2), None).is_err());
    }
    change(None);
    let error = Redb::open(&path).unwrap_err().to_string();
    assert!(error.contains("somebody else"), "{error}");
}

#[test]
fn no_row_of_sqlite_is_served_that_was_not_written() {
    let scratch = Scratch::new("sqlite-rows");
    let path = scratch.path("file");
    let store = Sqlite::open(&path, "notes").unwrap();
    for (object, bytes) in [(7, Some(&b"one"[..])), (8, Some(b"two")), (9, None)] {
        assert_eq!(store.write(object, stamp(1, 1), bytes), Ok(Written::Kept));
    }
    let database = Connection::open(&path).unwrap();
    for (wrong, is_record_whole) in [
        ("bytes = x'6f6e66'", true),
        ("bytes = x'6f6e6565'", true),
        ("bytes = x''", true),
        ("bytes = 'one'", true),
        ("bytes = 7", true),
        ("bytes = NULL", false),
        ("term = 2", false),
        ("tenure = 0", false),
        ("version = -1", false),
        ("version = 'one'", false),
        ("checksum = checksum + 1", false),
        ("checksum = checksum + 4294967296", false),
        ("checksum = (SELECT checksum FROM notes WHERE object = 8), bytes = x'74776f'", false),
    ] {
        database.execute_batch("CREATE TEMP TABLE whole AS SELECT * FROM notes WHERE object = 7").unwrap();
        assert_eq!(database.execute(&format!("UPDATE notes SET {wrong} WHERE object = 7"), []).unwrap(), 1);
        assert!(is_damaged(store.read(7)), "{wrong}");
        let again = store.write(7, stamp(1, 1), Some(b"one"));
        assert!(if is_record_whole { again == Ok(Written::Kept) } else { is_damaged(again) }, "{wrong}");
        database.execute_batch("REPLACE INTO notes SELECT * FROM whole; DROP TABLE whole").unwrap();
        assert_eq!(store.read(7).unwrap(), Some(Stored { stamp: stamp(1, 1), bytes: Some(b"one".to_vec()) }));
    }
}

#[test]
fn a_table_of_somebody_else_is_left_alone() {
    let scratch = Scratch::new("sqlite-tables");
    let path = scratch.path("file");
    let database = Connection::open(&path).unwrap();
    database.execute_batch("CREATE TABLE notes (object INTEGER PRIMARY KEY, text TEXT)").unwrap();
    let error = Sqlite::open(&path, "notes").unwrap_err().to_string();
    assert!(error.contains("other columns"), "{error}");
    let tables: u32 =
        database.query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1, "nothing was made");
    database.execute_batch("CREATE VIEW seen AS SELECT * FROM notes").unwrap();
    assert!(Sqlite::open(&path, "seen").is_err());
    // A table of ours whose term is gone, or was written by a later version.
    let store = Sqlite::open(&path, "mine").unwrap();
    assert_eq!(store.write(7, stamp(1, 1), None), Ok(Written::Kept));
    database.execute_batch("UPDATE kddm_terms SET format = 2").unwrap();
    assert!(store.claim().unwrap_err().to_string().contains("another version"));
    assert!(Sqlite::open(&path, "mine").is_err());
    database.execute_batch("DELETE FROM kddm_terms").unwrap();
    assert!(store.write(7, stamp(1, 2), None).unwrap_err().to_string().contains("is gone"));
    let error = Sqlite::open(&path, "mine").unwrap_err().to_string();
    assert!(error.contains("is gone"), "{error}");
    std::fs::write(scratch.path("text"), "no database at all, and more than that").unwrap();
    assert!(Sqlite::open(scratch.path("text"), "notes").is_err());
}

/// Bytes that somebody changes below the database: an error, or what was written.
#[test]
fn files_that_were_changed_anywhere_serve_nothing_that_was_not_written() {
    let bytes = |object: u64| vec![object as u8; 100 + object as usize * 50];
    for kind in [Kind::Redb, Kind::Sqlite] {
        let scratch = Scratch::new("changed");
        let store = kind.open(&scratch.0, Durability::EachWrite);
        for object in 0..64 {
            assert_eq!(store.write(object, stamp(1, 1), Some(&bytes(object))), Ok(Written::Kept));
        }
        drop(store);
        let name = if kind == Kind::Redb { "file.redb" } else { "file.db" };
        let whole = std::fs::read(scratch.path(name)).unwrap();
        let used: Vec<usize> = (0..whole.len()).filter(|place| whole[*place] != 0).collect();
        let mut random = Rng::with_seed(7);
        let (mut served, mut refused) = (0, 0);
        for turn in 0..60 {
            let mut changed = whole.clone();
            for _ in 0..=turn % 4 {
                changed[used[random.usize(..used.len())]] = random.u8(..);
            }
            if turn % 10 == 9 {
                changed.truncate(random.usize(1..whole.len()));
            }
            std::fs::write(scratch.path(name), &changed).unwrap();
            let opened = match kind {
                Kind::Redb => Redb::open(scratch.path(name)).map(|store| Box::new(store) as Box<dyn Store>),
                _ => Sqlite::open(scratch.path(name), "notes").map(|store| Box::new(store) as Box<dyn Store>),
            };
            let Ok(store) = opened else {
                refused += 1;
                continue;
            };
            for object in 0..64 {
                match store.read(object) {
                    Ok(Some(stored)) => {
                        assert_eq!(stored, Stored { stamp: stamp(1, 1), bytes: Some(bytes(object)) }, "turn {turn}");
                        served += 1;
                    }
                    // A page that points elsewhere has lost it: nobody can tell that from what was never there.
                    Ok(None) => {}
                    Err(_) => refused += 1,
                }
            }
            drop(store);
            for beside in ["file.db-wal", "file.db-shm"] {
                let _there_may_be_none = std::fs::remove_file(scratch.path(beside));
            }
        }
        assert!(served > 0 && refused > 0, "{kind:?}: {served} served, {refused} refused");
    }
}
