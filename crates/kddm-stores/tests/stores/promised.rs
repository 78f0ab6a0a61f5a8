//! The suite for all stores, on ours and on some that are wrong.

use kddm::linker::{Directory, Durability, LinkerError, Memory, Stamp, Store, Stored, Written};
use kddm_stores::promises::kept;
use kddm_stores::{Redb, Sqlite};

use crate::{Kind, Scratch, stamp};

const BOTH: [Durability; 2] = [Durability::EachWrite, Durability::OnSync];

#[test]
fn memory_keeps_its_promises() {
    let memory = Memory::new();
    assert_eq!(kept(&memory, &memory.clone()), Ok(()));
}

#[test]
fn a_directory_keeps_its_promises_through_two_handles() {
    for durability in BOTH {
        let scratch = Scratch::new("directory-promises");
        let open = || Kind::Directory.open(&scratch.0, durability);
        assert_eq!(kept(&*open(), &*open()), Ok(()), "{durability:?}");
    }
}

#[test]
fn a_redb_file_keeps_its_promises() {
    for durability in BOTH {
        let scratch = Scratch::new("redb-promises");
        let store = Redb::with(scratch.path("file"), durability).unwrap();
        assert_eq!(kept(&store, &store.clone()), Ok(()), "{durability:?}");
        let table = store.table("another").unwrap();
        assert_eq!(kept(&table, &store.table("another").unwrap()), Ok(()), "{durability:?}, another table");
    }
}

#[test]
fn a_sqlite_table_keeps_its_promises_through_two_handles() {
    for durability in BOTH {
        let scratch = Scratch::new("sqlite-promises");
        let open = |table| Sqlite::with(scratch.path("file"), table, durability).unwrap();
        assert_eq!(kept(&open("notes"), &open("notes")), Ok(()), "{durability:?}");
        assert_eq!(kept(&open("Another_1"), &open("Another_1")), Ok(()), "{durability:?}, another table");
    }
}

#[test]
fn what_was_written_is_there_when_it_is_opened_again() {
    for kind in Kind::ALL {
        for durability in BOTH {
            let scratch = Scratch::new("again");
            let store = kind.open(&scratch.0, durability);
            assert_eq!(store.claim(), Ok(1));
            assert_eq!(store.write(7, stamp(1, 1), Some(b"kept")), Ok(Written::Kept));
            assert_eq!(store.write(8, stamp(1, 1), None), Ok(Written::Kept));
            store.sync().unwrap();
            drop(store);
            let store = kind.open(&scratch.0, durability);
            let kept = Stored { stamp: stamp(1, 1), bytes: Some(b"kept".to_vec()) };
            assert_eq!(store.read(7), Ok(Some(kept)), "{kind:?}");
            assert_eq!(
                store.write(8, stamp(1, 0), Some(b"late")),
                Ok(Written::Refused { by: stamp(1, 1) }),
                "{kind:?}"
            );
            assert_eq!(store.claim(), Ok(2), "{kind:?}");
        }
    }
}

#[test]
fn what_is_too_long_and_a_claim_after_the_last_term_are_errors() {
    let scratch = Scratch::new("limits");
    // 1 GiB of nothing: zeroed pages that nobody touches cost no memory.
    let too_long = vec![0; kddm::linker::MOST_STORED_BYTES + 1];
    let all = Kind::ALL.map(|kind| kind.open(&scratch.0, Durability::EachWrite));
    for store in all.into_iter().chain([Box::new(Memory::new()) as Box<dyn Store>]) {
        let error = store.write(7, stamp(1, 1), Some(&too_long)).unwrap_err().to_string();
        assert!(error.contains("bytes; at most") && error.contains(store.kind()), "{error}");
        assert_eq!(store.read(7), Ok(None), "{}", store.kind());
        let last = Stamp { term: u64::MAX, ..stamp(1, 1) };
        assert_eq!(store.write(7, last, Some(b"last")), Ok(Written::Kept), "{}", store.kind());
        let error = store.claim().unwrap_err().to_string();
        assert!(error.contains("no term after the last"), "{error}");
        assert_eq!(store.read(7).unwrap().unwrap().stamp, last);
    }
}

#[test]
fn two_processes_cannot_have_one_redb_file_and_are_told_what_can_be_shared() {
    let scratch = Scratch::new("redb-twice");
    let _first = Redb::open(scratch.path("file")).unwrap();
    let error = Redb::open(scratch.path("file")).unwrap_err().to_string();
    assert!(error.contains("only one may") && error.contains("SQLite"), "{error}");
}

#[test]
fn an_empty_redb_file_was_damaged_and_one_whose_making_was_cut_short_is_made_again() {
    let scratch = Scratch::new("redb-empty");
    std::fs::write(scratch.path("file"), b"").unwrap();
    let error = Redb::open(scratch.path("file")).unwrap_err().to_string();
    assert!(error.contains("it is empty"), "{error}");
    std::fs::write(scratch.path("other.new"), b"").unwrap();
    let store = Redb::open(scratch.path("other")).unwrap();
    assert_eq!(store.claim(), Ok(1));
    assert!(!scratch.path("other.new").exists() && scratch.path("other").exists());
    assert!(Redb::open(scratch.path("nowhere/file")).is_err());
}

#[test]
fn names_of_tables_are_checked() {
    let scratch = Scratch::new("names");
    let long = "x".repeat(65);
    let names = ["", "1st", "a b", "a\"b", "a;b", "sqlite_x", "SQLITE_x", "kddm_terms", "KDDM_x", "ä", "a\0", &long];
    for name in names {
        let error = Sqlite::open(scratch.path("file.db"), name).unwrap_err().to_string();
        assert!(error.contains("no name for a table"), "{name:?}: {error}");
    }
    assert!(!scratch.path("file.db").exists(), "nothing was made");
    Sqlite::open(scratch.path("file.db"), &long[1..]).unwrap();
    let store = Redb::open(scratch.path("file.redb")).unwrap();
    for name in ["", "kddm terms", "a\n", &long] {
        assert!(store.table(name).is_err(), "{name:?}");
    }
    store.table(&long[1..]).unwrap();
}

#[test]
fn tables_of_one_sqlite_file_are_apart() {
    let scratch = Scratch::new("apart");
    let open = |table| Sqlite::open(scratch.path("file"), table).unwrap();
    let (one, other) = (open("one"), open("other"));
    assert_eq!((one.claim(), one.claim(), other.claim()), (Ok(1), Ok(2), Ok(1)));
    assert_eq!(other.write(7, stamp(1, 1), Some(b"other")), Ok(Written::Kept));
    assert_eq!(one.read(7), Ok(None));
}

#[test]
fn a_sqlite_file_is_opened_by_many_at_once() {
    let scratch = Scratch::new("many");
    std::thread::scope(|scope| {
        let claim = || Sqlite::open(scratch.path("file"), "notes").unwrap().claim().unwrap();
        let claims: Vec<_> = (0..8).map(|_| scope.spawn(claim)).collect();
        let mut claims: Vec<u64> = claims.into_iter().map(|claim| claim.join().unwrap()).collect();
        claims.sort_unstable();
        assert_eq!(claims, (1..=8).collect::<Vec<u64>>());
    });
}

/// What somebody may do wrongly who writes a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slip {
    IgnoreStamps,
    ForgetRemoved,
    IgnoreTerms,
    TakeEqualStamps,
    SignedOrder,
    ShortPages,
}

struct Wrong {
    memory: Memory,
    slip: Slip,
}

impl Store for Wrong {
    fn kind(&self) -> &'static str {
        "wrong"
    }

    fn claim(&self) -> Result<u64, LinkerError> {
        self.memory.claim()
    }

    fn read(&self, object: u64) -> Result<Option<Stored>, LinkerError> {
        self.memory.read(object)
    }

    fn write(&self, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> Result<Written, LinkerError> {
        let there = self.memory.read(object)?;
        let by = there.as_ref().map(|there| there.stamp);
        // The memory refuses them, so what is done wrongly is done by a stamp that it takes.
        let above = by.map(|by| Stamp { version: by.version.wrapping_add(1), ..by }).unwrap_or(stamp);
        let is_older = by.is_some_and(|by| stamp < by);
        match self.slip {
            Slip::IgnoreStamps if is_older => self.memory.write(object, above, bytes),
            Slip::ForgetRemoved if is_older && there.is_some_and(|there| there.bytes.is_none()) => {
                self.memory.write(object, above, bytes)
            }
            Slip::TakeEqualStamps if by == Some(stamp) => Ok(Written::Kept),
            Slip::IgnoreTerms => match self.memory.write(object, stamp, bytes)? {
                Written::Refused { by } if by.tenure == 0 && by.version == 0 => {
                    self.memory.write(object, Stamp { term: by.term, ..stamp }, bytes)
                }
                written => Ok(written),
            },
            _ => self.memory.write(object, stamp, bytes),
        }
    }

    fn objects(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Stamp)>, LinkerError> {
        match self.slip {
            Slip::ShortPages => self.memory.objects(after, limit.min(3)),
            Slip::SignedOrder => {
                let mut all = self.memory.objects(None, usize::MAX)?;
                all.sort_by_key(|(object, _)| object.cast_signed());
                let from = |object: u64| after.is_none_or(|after| object.cast_signed() > after.cast_signed());
                Ok(all.into_iter().filter(|(object, _)| from(*object)).take(limit).collect())
            }
            _ => self.memory.objects(after, limit),
        }
    }
}

#[test]
fn a_store_that_breaks_a_promise_is_told_which() {
    for (slip, promise) in [
        (Slip::IgnoreStamps, "older write is refused"),
        (Slip::ForgetRemoved, "removed object keeps its stamp"),
        (Slip::IgnoreTerms, "ends older terms"),
        (Slip::TakeEqualStamps, "refused with other bytes"),
        (Slip::SignedOrder, "listed in order"),
        (Slip::ShortPages, "listed in order"),
    ] {
        let wrong = Wrong { memory: Memory::new(), slip };
        let broken = kept(&wrong, &wrong).unwrap_err();
        assert!(broken.promise.contains(promise), "{slip:?}: {broken}");
    }
    // An error is no promise kept.
    let scratch = Scratch::new("error");
    let store = Directory::open(scratch.path("directory")).unwrap();
    std::fs::write(scratch.path("directory/term"), b"").unwrap();
    assert!(kept(&store, &store).unwrap_err().seen.contains("term"));
}
