//! What others may have done to the files. What every store promises is tried in `kddm-stores`.

use std::os::unix::fs::symlink;

use super::*;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("kddm-directory-{}-{name}", std::process::id()));
        let _of_an_earlier_run = std::fs::remove_dir_all(&path);
        Scratch(path)
    }

    fn open(&self) -> Directory {
        Directory::open(&self.0).unwrap()
    }

    fn file(&self, object: u64) -> PathBuf {
        self.0.join(OBJECTS).join(folder_name(folder_of(object))).join(name_of(object))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _it_is_temporary = std::fs::remove_dir_all(&self.0);
    }
}

fn stamp(version: u64) -> Stamp {
    Stamp { term: 1, tenure: 7, version }
}

/// A store with object 7 of version 1, and with object 8.
fn written(name: &str) -> (Scratch, Directory) {
    let scratch = Scratch::new(name);
    let store = scratch.open();
    assert_eq!(store.claim(), Ok(1));
    assert_eq!(
        store.write_all(&[(7, stamp(1), Some(b"one")), (8, stamp(1), Some(b"other"))]),
        Ok(vec![Written::Kept; 2])
    );
    (scratch, store)
}

fn is_damaged<T: std::fmt::Debug>(answer: Result<T, LinkerError>) -> bool {
    matches!(answer, Err(LinkerError::Damaged { kind: KIND, object: 7, .. }))
}

#[test]
fn whatever_becomes_of_a_file_other_bytes_are_never_an_answer() {
    let (scratch, store) = written("changed");
    let whole = std::fs::read(scratch.file(7)).unwrap();
    assert_eq!(whole.len(), HEADER_BYTES + 3);
    let mut all: Vec<Vec<u8>> = (0..whole.len()).map(|length| whole[..length].to_vec()).collect();
    for bit in 0..whole.len() * 8 {
        let mut other = whole.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        all.push(other);
    }
    all.extend([vec![0; whole.len()], [&whole[..], b"x"].concat(), std::fs::read(scratch.file(8)).unwrap()]);
    for other in all {
        std::fs::write(scratch.file(7), &other).unwrap();
        assert!(is_damaged(store.read(7)), "{other:?}");
        // A header that is whole tells which write is the newer one; nothing else does.
        let is_header_whole = Header::read(7, &other[..other.len().min(HEADER_BYTES)], other.len() as u64).is_ok();
        let again = store.write(7, stamp(2), Some(b"two"));
        assert!(if is_header_whole { again == Ok(Written::Kept) } else { is_damaged(again) }, "{other:?}");
    }
    std::fs::write(scratch.file(7), &whole).unwrap();
    assert_eq!(store.read(7), Ok(Some(Stored { stamp: stamp(1), bytes: Some(b"one".to_vec()) })));
}

#[test]
fn the_same_write_mends_bytes_that_were_damaged() {
    let (scratch, store) = written("mended");
    let mut bytes = std::fs::read(scratch.file(7)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(scratch.file(7), &bytes).unwrap();
    assert!(is_damaged(store.read(7)));
    assert_eq!(store.write(7, stamp(1), Some(b"one")), Ok(Written::Kept));
    assert_eq!(store.read(7).unwrap().unwrap().bytes, Some(b"one".to_vec()));
}

#[test]
fn no_link_pipe_or_folder_is_taken_for_a_file() {
    let (scratch, store) = written("links");
    let secret = scratch.0.join("secret");
    std::fs::rename(scratch.file(7), &secret).unwrap();
    symlink(&secret, scratch.file(7)).unwrap();
    assert!(is_damaged(store.read(7)) && is_damaged(store.write(7, stamp(2), Some(b"two"))));
    std::fs::remove_file(scratch.file(7)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, scratch.file(7), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    assert!(is_damaged(store.read(7)));
    std::fs::remove_file(scratch.file(7)).unwrap();
    std::fs::create_dir(scratch.file(7)).unwrap();
    assert!(is_damaged(store.read(7)));
    std::fs::remove_dir(scratch.file(7)).unwrap();

    // What lies ready where a new file is to be made is replaced, not written through.
    let before = std::fs::read(&secret).unwrap();
    symlink(&secret, scratch.0.join(NEW).join(name_of(7))).unwrap();
    assert_eq!(store.write(7, stamp(2), Some(b"two")), Ok(Written::Kept));
    assert_eq!(std::fs::read(&secret).unwrap(), before);
    assert!(std::fs::symlink_metadata(scratch.file(7)).unwrap().is_file());

    // A folder that leads elsewhere.
    let folder = scratch.0.join(OBJECTS).join(folder_name(1));
    symlink(&scratch.0, folder).unwrap();
    assert!(matches!(store.read(4096), Err(LinkerError::Store { .. })));
    assert!(matches!(store.write(4096, stamp(1), None), Err(LinkerError::Store { .. })));
}

#[test]
fn files_of_others_are_not_seen_and_stay() {
    let (scratch, store) = written("foreign");
    let folder = scratch.file(7).parent().unwrap().to_owned();
    let others = [
        folder.join("notes.txt"),
        folder.join("000000000000000A"),
        folder.join("+00000000000000b"),
        folder.join(name_of(4096)),
        scratch.0.join(OBJECTS).join("0ff0"),
        scratch.0.join(NEW).join("notes"),
        scratch.0.join("notes"),
    ];
    for other in &others {
        std::fs::write(other, b"mine").unwrap();
    }
    assert_eq!(store.objects(None, 9), Ok(vec![(7, stamp(1)), (8, stamp(1))]));
    drop(scratch.open());
    assert!(others.iter().all(|other| std::fs::read(other).unwrap() == b"mine"));
}

#[test]
fn a_directory_with_other_things_in_it_is_refused() {
    let scratch = Scratch::new("others");
    std::fs::create_dir(&scratch.0).unwrap();
    std::fs::write(scratch.0.join("notes"), b"mine").unwrap();
    let error = Directory::open(&scratch.0).unwrap_err().to_string();
    assert!(error.contains("notes") && error.contains("empty directory"), "{error}");
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 1, "it is as it was");
    let error = Directory::open(scratch.0.join("a/b")).unwrap_err().to_string();
    assert!(error.contains("a/b"), "{error}");
}

#[test]
fn a_term_that_is_lost_or_damaged_is_said_and_begins_no_new_one() {
    let (scratch, store) = written("term");
    let term = scratch.0.join(TERM);
    let whole = std::fs::read(&term).unwrap();
    for damaged in [vec![], whole[..20].to_vec(), vec![0; TERM_BYTES], [&whole[..], b"x"].concat()] {
        std::fs::write(&term, &damaged).unwrap();
        assert!(
            store.claim().is_err() && store.write(9, stamp(1), None).is_err() && Directory::open(&scratch.0).is_err()
        );
    }
    std::fs::remove_file(&term).unwrap();
    let error = Directory::open(&scratch.0).unwrap_err().to_string();
    assert!(error.contains("`term` is gone"), "{error}");
    assert!(store.write(9, stamp(1), None).is_err());
    std::fs::write(&term, &whole).unwrap();
    assert_eq!(scratch.open().claim(), Ok(2));
}

#[test]
fn locks_that_were_removed_are_made_again_and_still_keep_two_apart() {
    let (scratch, store) = written("locks");
    let other = scratch.open();
    let held = store.locks.take([stripe_of(7)]).unwrap();
    assert!(other.locks.try_take(stripe_of(7)).unwrap().is_none());
    assert!(other.locks.try_take(stripe_of(8)).unwrap().is_some());
    drop(held);
    std::fs::remove_file(scratch.0.join(LOCKS).join("07")).unwrap();
    // The one has the removed file open, and must not think that it has the lock.
    let held = store.locks.take([stripe_of(7)]).unwrap();
    assert!(other.locks.try_take(stripe_of(7)).unwrap().is_none());
    drop(held);
    std::fs::remove_dir_all(scratch.0.join(LOCKS)).unwrap();
    assert!(store.write(7, stamp(2), None).is_err(), "the folder has to be there");
    assert_eq!(scratch.open().write(7, stamp(2), None), Ok(Written::Kept));
}

#[test]
fn a_store_that_is_opened_by_many_at_once_begins_once() {
    let scratch = Scratch::new("begin");
    std::thread::scope(|scope| {
        let opened: Vec<_> = (0..8).map(|_| scope.spawn(|| scratch.open().claim().unwrap())).collect();
        let mut terms: Vec<u64> = opened.into_iter().map(|thread| thread.join().unwrap()).collect();
        terms.sort_unstable();
        assert_eq!(terms, (1..=8).collect::<Vec<u64>>());
    });
}
