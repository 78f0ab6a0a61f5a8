//! What a crash may leave in a directory, state by state. What is not synced before it is needed is any part of what was
//! written, and a name that was not synced stands for what it stood for before or for what it stands for now.

use std::path::Path;

use kddm::linker::{Directory, Durability, Store, Stored, Written};

use crate::{Kind, Scratch, stamp};

const OBJECT_FILE: &str = "directory/objects/000/0000000000000007";
const NEW_FILE: &str = "directory/new/0000000000000007";

fn open(scratch: &Scratch) -> Box<dyn Store> {
    Kind::Directory.open(&scratch.0, Durability::EachWrite)
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).expect("a folder of the test").next().is_none()
}

#[test]
fn whatever_a_crash_leaves_of_a_write_the_one_before_or_this_one_is_there() {
    let scratch = Scratch::new("states");
    let store = open(&scratch);
    assert_eq!(store.claim(), Ok(1));
    let (old, new) = (&b"the old bytes"[..], &b"the new ones"[..]);
    assert_eq!(store.write(7, stamp(1, 1), Some(old)), Ok(Written::Kept));
    let old_file = std::fs::read(scratch.path(OBJECT_FILE)).unwrap();
    assert_eq!(store.write(7, stamp(1, 2), Some(new)), Ok(Written::Kept));
    let new_file = std::fs::read(scratch.path(OBJECT_FILE)).unwrap();
    drop(store);
    let mut torn: Vec<Option<Vec<u8>>> = vec![None];
    for length in 0..=new_file.len() {
        let mut zeroed = new_file.clone();
        zeroed[length..].fill(0);
        torn.extend([Some(new_file[..length].to_vec()), Some(zeroed)]);
    }
    for (state, torn) in torn.iter().enumerate() {
        for (file, version, bytes) in [(&old_file, 1, old), (&new_file, 2, new)] {
            std::fs::write(scratch.path(OBJECT_FILE), file).unwrap();
            if let Some(torn) = torn {
                std::fs::write(scratch.path(NEW_FILE), torn).unwrap();
            }
            if state % 3 == 0 {
                std::fs::remove_dir_all(scratch.path("directory/locks")).unwrap();
            }
            let store = open(&scratch);
            let meant = Stored { stamp: stamp(1, version), bytes: Some(bytes.to_vec()) };
            assert_eq!(store.read(7), Ok(Some(meant)), "state {state}");
            assert!(is_empty(&scratch.path("directory/new")), "state {state}");
            // Whoever does not know whether it was done does it again.
            assert_eq!(store.write(7, stamp(1, 2), Some(new)), Ok(Written::Kept), "state {state}");
            assert_eq!(std::fs::read(scratch.path(OBJECT_FILE)).unwrap(), new_file, "state {state}");
        }
    }
}

#[test]
fn wherever_its_making_was_cut_short_a_directory_is_made_again() {
    let whole = {
        let scratch = Scratch::new("whole");
        drop(open(&scratch));
        std::fs::read(scratch.path("directory/term")).unwrap()
    };
    for made in 0..8 {
        for length in [None, Some(0), Some(whole.len() / 2), Some(whole.len())] {
            let scratch = Scratch::new("cut-short");
            std::fs::create_dir(scratch.path("directory")).unwrap();
            for (index, folder) in ["objects", "new", "locks"].into_iter().enumerate() {
                if made >> index & 1 == 1 {
                    std::fs::create_dir(scratch.path("directory").join(folder)).unwrap();
                }
            }
            if let (Some(length), true) = (length, made & 2 == 2) {
                std::fs::write(scratch.path("directory/new/term"), &whole[..length]).unwrap();
            }
            let store = open(&scratch);
            assert_eq!(store.claim(), Ok(1), "state {made}, {length:?}");
            assert_eq!(store.write(7, stamp(1, 1), None), Ok(Written::Kept));
        }
    }
}

#[test]
fn whatever_a_crash_leaves_of_a_claim_the_next_one_is_greater() {
    let scratch = Scratch::new("claims");
    let store = open(&scratch);
    let mut claimed = store.claim().unwrap();
    let length = std::fs::read(scratch.path("directory/term")).unwrap().len();
    for cut in 0..=length {
        let term = std::fs::read(scratch.path("directory/term")).unwrap();
        std::fs::write(scratch.path("directory/new/term"), &term[..cut]).unwrap();
        let next = open(&scratch).claim().unwrap();
        assert_eq!(next, claimed + 1, "{cut} bytes");
        claimed = next;
    }
}

/// With one folder of names to sync, however many are written together.
#[test]
fn many_neighbours_are_written_together_and_all_are_there() {
    let scratch = Scratch::new("together");
    let store = Directory::open(scratch.path("directory")).unwrap();
    let writes: Vec<_> = (0..200).map(|object| (object, stamp(1, 1), Some(&b"x"[..]))).collect();
    assert_eq!(store.write_all(&writes), Ok(vec![Written::Kept; 200]));
    let there = Directory::open(scratch.path("directory")).unwrap().objects(None, 1_000).unwrap();
    assert_eq!(there, (0..200).map(|object| (object, stamp(1, 1))).collect::<Vec<_>>());
}
