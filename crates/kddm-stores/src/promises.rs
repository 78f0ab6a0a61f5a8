//! What a store promises, tried on one that is empty: for whoever writes another one.
//!
//! ```
//! use kddm::linker::{Durability, LinkerError, Stamp, Store, Stored, Written};
//! let memory = kddm::linker::Memory::new();
//! assert_eq!(kddm_stores::promises::kept(&memory, &memory.clone()), Ok(()));
//!
//! /// Whoever writes last wins.
//! struct Forgetful(kddm::linker::Memory);
//! # impl Store for Forgetful {
//! #     fn kind(&self) -> &'static str { "forgetful" }
//! #     fn claim(&self) -> Result<u64, LinkerError> { self.0.claim() }
//! #     fn read(&self, object: u64) -> Result<Option<Stored>, LinkerError> { self.0.read(object) }
//! #     fn write(&self, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> Result<Written, LinkerError> {
//! #         let _refused = self.0.write(object, stamp, bytes)?;
//! #         Ok(Written::Kept)
//! #     }
//! #     fn objects(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Stamp)>, LinkerError> { self.0.objects(after, limit) }
//! # }
//! let forgetful = Forgetful(kddm::linker::Memory::new());
//! let broken = kddm_stores::promises::kept(&forgetful, &forgetful).unwrap_err();
//! assert_eq!(broken.promise, "an older write is refused, and changes nothing");
//! ```

use std::collections::BTreeSet;
use std::fmt::Debug;

use kddm::linker::{LinkerError, Stamp, Store, Stored, Written};

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which one.
    pub promise: &'static str,
    /// What was seen in its place.
    pub seen: String,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.promise, self.seen)
    }
}

impl std::error::Error for Broken {}

type Kept = Result<(), String>;
type Promise = (&'static str, fn(&dyn Store, &dyn Store) -> Kept);

/// In this order: the first wants an empty store, and after the last ones nothing of an older term can be written.
const PROMISES: &[Promise] = &[
    ("objects are listed in order, page by page, and none that was removed", objects_are_listed),
    ("bytes are read as they were written", bytes_are_read),
    ("an older write is refused, and changes nothing", older_is_refused),
    ("the same write again is kept, and refused with other bytes", same_again_is_kept),
    ("a removed object keeps its stamp", removal_keeps_the_stamp),
    ("writes together are as one after the other", together_is_in_order),
    ("of writes at one time the greatest is left", greatest_is_left),
    ("a claim is greater than all before, and ends older terms", claims_end_older_terms),
    ("no two have the same claim", claims_differ),
];

/// Threads that write one object at one time.
const WRITERS: u64 = 8;
/// What each of them writes.
const WRITES: u64 = 24;

/// Tries all of them. The store is empty, of a kind that is to be tried; `other` is the same store, as another process would
/// have it open, or simply the same. It is full of rubbish after that.
///
/// Durability is not tried: that takes a crash.
///
/// # Errors
/// The first promise that was not kept, an error of the store included.
pub fn kept(store: &dyn Store, other: &dyn Store) -> Result<(), Broken> {
    for (promise, tried) in PROMISES {
        tried(store, other).map_err(|seen| Broken { promise, seen })?;
    }
    Ok(())
}

fn stamp(tenure: u64, version: u64) -> Stamp {
    Stamp { term: 1, tenure, version }
}

/// Fails with what was seen, unless that is what was meant.
fn same<T: PartialEq + Debug>(what: &str, seen: Result<T, LinkerError>, meant: T) -> Kept {
    match seen {
        Ok(seen) if seen == meant => Ok(()),
        Ok(seen) => Err(format!("{what}: {seen:?}, not {meant:?}")),
        Err(error) => Err(format!("{what}: {error}")),
    }
}

fn reads(store: &dyn Store, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> Kept {
    let meant = Some(Stored { stamp, bytes: bytes.map(<[u8]>::to_vec) });
    match store.read(object) {
        Ok(seen) if seen == meant => Ok(()),
        // What may be megabytes is not shown.
        Ok(seen) => {
            let seen = seen.map(|seen| (seen.stamp, seen.bytes.map(|bytes| bytes.len())));
            Err(format!("object {object} is {seen:?}, not {:?} with other bytes", (stamp, bytes.map(<[u8]>::len))))
        }
        Err(error) => Err(format!("object {object}: {error}")),
    }
}

fn objects_are_listed(store: &dyn Store, other: &dyn Store) -> Kept {
    same("a new store", store.objects(None, 10), vec![])?;
    same("a new store, object 7", store.read(7), None)?;
    same("the first claim", store.claim(), 1)?;
    let most = i64::MAX as u64;
    let all = [0, 1, 2, 4_095, 4_096, 1 << 24, 1 << 40, most - 1, most, most + 1, u64::MAX - 1, u64::MAX];
    // Written in another order than they are read in.
    for (turn, object) in all.iter().rev().chain(&[3, most + 2]).enumerate() {
        same("a first write", store.write(*object, stamp(1, turn as u64), Some(b"x")), Written::Kept)?;
    }
    for object in [3, most + 2] {
        same("a removal", store.write(object, stamp(2, 0), None), Written::Kept)?;
    }
    let meant: Vec<(u64, Stamp)> =
        all.iter().enumerate().map(|(place, object)| (*object, stamp(1, (all.len() - 1 - place) as u64))).collect();
    for limit in [1, 2, 5, all.len() - 1, all.len(), usize::MAX] {
        let mut seen = Vec::new();
        loop {
            let after = seen.last().map(|(object, _)| *object);
            let page = other.objects(after, limit).map_err(|error| error.to_string())?;
            let is_last = page.len() < limit;
            if page.len() > limit || seen.len() > meant.len() {
                return Err(format!("pages of {limit}: {page:?} after {after:?}"));
            }
            seen.extend(page);
            if is_last {
                break;
            }
        }
        same(&format!("pages of {limit}"), Ok(seen), meant.clone())?;
    }
    same("after the last", other.objects(Some(u64::MAX), 9), vec![])?;
    same("none at all", other.objects(None, 0), vec![])
}

fn bytes_are_read(store: &dyn Store, other: &dyn Store) -> Kept {
    let lengths = [0, 1, 63, 64, 4_095, 4_096, 4_097, 100_000, 3 << 20];
    for (turn, length) in lengths.into_iter().chain(lengths.into_iter().rev()).enumerate() {
        let bytes: Vec<u8> = (0..length).map(|place: usize| (place * 31 + turn) as u8).collect();
        let stamp = stamp(3, turn as u64);
        same("a write", store.write(10, stamp, Some(&bytes)), Written::Kept)?;
        reads(other, 10, stamp, Some(&bytes))?;
    }
    let greatest = Stamp { term: 1, tenure: u64::MAX, version: u64::MAX };
    same("the greatest stamp", other.write(10, greatest, Some(b"")), Written::Kept)?;
    reads(store, 10, greatest, Some(b""))
}

fn older_is_refused(store: &dyn Store, other: &dyn Store) -> Kept {
    let half = 1 << 63;
    for there in [stamp(5, 5), stamp(half, half), stamp(half + 1, half - 1)] {
        let object = there.tenure;
        same("a write", store.write(object, there, Some(b"there")), Written::Kept)?;
        let Stamp { tenure, version, .. } = there;
        for older in [stamp(tenure, version - 1), stamp(tenure - 1, version + 1), stamp(0, 0), stamp(1, u64::MAX)] {
            for bytes in [Some(&b"older"[..]), None] {
                let written = other.write(object, older, bytes);
                same(&format!("{older:?}"), written, Written::Refused { by: there })?;
                reads(store, object, there, Some(b"there"))?;
            }
        }
        for newer in [stamp(tenure, version + 1), stamp(tenure + 1, 0)] {
            same(&format!("{newer:?}"), other.write(object, newer, Some(b"newer")), Written::Kept)?;
            reads(store, object, newer, Some(b"newer"))?;
        }
    }
    Ok(())
}

fn same_again_is_kept(store: &dyn Store, other: &dyn Store) -> Kept {
    let there = stamp(5, 5);
    for (object, bytes) in [(20, Some(&b"there"[..])), (21, Some(&b""[..])), (22, None)] {
        for turn in [store, other, store] {
            same("the same", turn.write(object, there, bytes), Written::Kept)?;
            reads(other, object, there, bytes)?;
        }
        for others in [Some(&b"other"[..]), Some(&b"there!"[..])] {
            same("other bytes", store.write(object, there, others), Written::Refused { by: there })?;
            reads(other, object, there, bytes)?;
        }
    }
    same("a removal with its stamp", store.write(21, there, None), Written::Refused { by: there })?;
    reads(other, 21, there, Some(b""))?;
    same("bytes with that of a removal", store.write(22, there, Some(b"")), Written::Refused { by: there })?;
    reads(other, 22, there, None)
}

fn removal_keeps_the_stamp(store: &dyn Store, other: &dyn Store) -> Kept {
    same("a write", store.write(30, stamp(5, 5), Some(b"there")), Written::Kept)?;
    same("its removal", store.write(30, stamp(5, 6), None), Written::Kept)?;
    reads(other, 30, stamp(5, 6), None)?;
    same("a late write", other.write(30, stamp(5, 5), Some(b"there")), Written::Refused { by: stamp(5, 6) })?;
    reads(store, 30, stamp(5, 6), None)?;
    same("a newer one", other.write(30, stamp(6, 0), Some(b"again")), Written::Kept)?;
    reads(store, 30, stamp(6, 0), Some(b"again"))?;
    // What was never there can be removed, too.
    same("a first removal", store.write(31, stamp(5, 6), None), Written::Kept)?;
    same("a late write", store.write(31, stamp(5, 5), Some(b"late")), Written::Refused { by: stamp(5, 6) })
}

fn together_is_in_order(store: &dyn Store, other: &dyn Store) -> Kept {
    let there = stamp(5, 5);
    same("a write", store.write(40, there, Some(b"there")), Written::Kept)?;
    let writes: [(u64, Stamp, Option<&[u8]>); 6] = [
        (41, stamp(1, 1), Some(b"first")),
        (40, stamp(4, 4), Some(b"older")),
        (41, stamp(1, 3), Some(b"third")),
        (41, stamp(1, 2), Some(b"late")),
        (4_242_424_242, stamp(1, 1), Some(b"far")),
        (40, stamp(6, 0), None),
    ];
    let late = Written::Refused { by: stamp(1, 3) };
    let meant = vec![Written::Kept, Written::Refused { by: there }, Written::Kept, late, Written::Kept, Written::Kept];
    same("together", store.write_all(&writes), meant)?;
    same("none", store.write_all(&[]), vec![])?;
    reads(other, 40, stamp(6, 0), None)?;
    reads(other, 41, stamp(1, 3), Some(b"third"))?;
    reads(other, 4_242_424_242, stamp(1, 1), Some(b"far"))?;
    same("a sync", store.sync(), ())
}

fn greatest_is_left(store: &dyn Store, other: &dyn Store) -> Kept {
    // Each writer has its own stamps, and each goes up and down.
    let of = |writer: u64, turn: u64| stamp((turn * 7 + writer * 3) % WRITES, writer);
    let write = |writer: u64| {
        let through = if writer.is_multiple_of(2) { store } else { other };
        for turn in 0..WRITES {
            let stamp = of(writer, turn);
            let bytes = format!("{stamp:?}").into_bytes();
            let written = through.write(50, stamp, Some(&bytes)).map_err(|error| error.to_string())?;
            let seen = through.read(50).map_err(|error| error.to_string())?;
            let Some(Stored { stamp: seen, bytes: Some(seen_bytes) }) = seen else {
                return Err(format!("{seen:?} after a write"));
            };
            let least = if let Written::Refused { by } = written { by } else { stamp };
            if seen < least || seen_bytes != format!("{seen:?}").into_bytes() {
                return Err(format!("{seen:?} with {seen_bytes:?} after {stamp:?} was {written:?}"));
            }
        }
        Ok(())
    };
    let ended: Vec<Kept> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
        let ended = writers.into_iter().map(|writer| writer.join());
        ended.map(|ended| ended.unwrap_or_else(|_| Err("it panicked".to_owned()))).collect()
    });
    ended.into_iter().collect::<Kept>()?;
    let all = (0..WRITERS).flat_map(|writer| (0..WRITES).map(move |turn| of(writer, turn)));
    let greatest = all.max().ok_or("nothing was written")?;
    reads(other, 50, greatest, Some(format!("{greatest:?}").as_bytes()))
}

fn claims_end_older_terms(store: &dyn Store, other: &dyn Store) -> Kept {
    let there = stamp(5, 5);
    for object in [60, 61] {
        same("a write", store.write(object, there, Some(b"there")), Written::Kept)?;
    }
    same("a claim", other.claim(), 2)?;
    let claimed = Written::Refused { by: Stamp { term: 2, tenure: 0, version: 0 } };
    let late = stamp(u64::MAX, 9);
    same("the older term", store.write(60, late, Some(b"late")), claimed)?;
    same("the older term, a new object", store.write(62, late, Some(b"late")), claimed)?;
    same("the older term, a removal", store.write(60, late, None), claimed)?;
    same("what is there", store.write(60, there, Some(b"there")), Written::Kept)?;
    reads(other, 60, there, Some(b"there"))?;
    same("nothing is there", other.read(62), None)?;
    let newer = Stamp { term: 2, tenure: 0, version: 0 };
    same("the new term", store.write(60, newer, Some(b"newer")), Written::Kept)?;
    reads(other, 60, newer, Some(b"newer"))?;
    // As after a store was put back from a copy: its writers know of a later term.
    let later = Stamp { term: 10, tenure: 1, version: 1 };
    same("a term that nobody claimed", store.write(61, later, None), Written::Kept)?;
    let claimed = Written::Refused { by: Stamp { term: 10, tenure: 0, version: 0 } };
    same("the term before it", other.write(60, Stamp { version: 1, ..newer }, None), claimed)?;
    same("a claim after it", other.claim(), 11)
}

fn claims_differ(store: &dyn Store, other: &dyn Store) -> Kept {
    let before = store.claim().map_err(|error| error.to_string())?;
    let claimed: Vec<Result<u64, LinkerError>> = std::thread::scope(|scope| {
        let claim = |writer: u64| if writer.is_multiple_of(2) { store.claim() } else { other.claim() };
        let all: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || claim(writer))).collect();
        all.into_iter().filter_map(|claim| claim.join().ok()).collect()
    });
    let claimed: Result<BTreeSet<u64>, LinkerError> = claimed.into_iter().collect();
    same("claims at one time", claimed, (before + 1..=before + WRITERS).collect())
}
