//! A disk for redb that keeps in mind what was not synced, and loses it.

use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use fastrand::Rng;
use redb::StorageBackend;

/// A disk writes so many bytes whole or not at all.
const SECTOR: usize = 512;

#[derive(Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    /// The parts that reach the disk, each whole.
    fn done_to(&self, image: &mut Vec<u8>, mut is_done: impl FnMut() -> bool) {
        match self {
            Change::Length(length) if is_done() => image.resize(*length, 0),
            Change::Length(_) => {}
            Change::Write { offset, bytes } => {
                let mut from = 0;
                while from < bytes.len() {
                    let until = (((offset + from) / SECTOR + 1) * SECTOR - offset).min(bytes.len());
                    if is_done() {
                        if image.len() < offset + until {
                            image.resize(offset + until, 0);
                        }
                        image[offset + from..offset + until].copy_from_slice(&bytes[from..until]);
                    }
                    from = until;
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct Disk {
    /// What a program reads.
    seen: Vec<u8>,
    /// What a crash leaves for certain.
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    /// How often the program may still ask for a change before the machine is gone.
    changes_left: Option<usize>,
    syncs: u64,
}

/// Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct CrashDisk(Arc<Mutex<Disk>>);

/// What became of what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Only the process has ended: all is in the caches of the system, and still not synced.
    Process,
    /// The machine: any part of it is lost.
    Machine,
}

impl CrashDisk {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("nobody panicked")
    }

    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// After so many changes all that is asked of the disk is an error, as for a process that is no more.
    pub fn end_after(&self, changes: usize) {
        self.disk().changes_left = Some(changes);
    }

    pub fn end(&self, end: End, random: &mut Rng) {
        let mut disk = self.disk();
        disk.changes_left = None;
        if end == End::Process {
            return;
        }
        let mut image = std::mem::take(&mut disk.synced);
        for change in std::mem::take(&mut disk.unsynced) {
            match random.u8(..4) {
                0 => {}
                1 => change.done_to(&mut image, || true),
                _ => change.done_to(&mut image, || random.bool()),
            }
        }
        disk.seen.clone_from(&image);
        disk.synced = image;
    }

    fn change(&self, change: Change) -> Result<(), Error> {
        let mut disk = self.disk();
        disk.may_go_on()?;
        change.done_to(&mut disk.seen, || true);
        disk.unsynced.push(change);
        Ok(())
    }
}

impl Disk {
    fn may_go_on(&mut self) -> Result<(), Error> {
        match &mut self.changes_left {
            Some(0) => Err(Error::other("the machine is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl StorageBackend for CrashDisk {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.disk().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let disk = self.disk();
        if disk.changes_left == Some(0) {
            return Err(Error::other("the machine is gone"));
        }
        let from = offset as usize;
        let there = disk.seen.get(from..from + out.len()).ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(there);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.change(Change::Length(len as usize))
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut disk = self.disk();
        disk.may_go_on()?;
        disk.syncs += 1;
        let Disk { synced, unsynced, .. } = &mut *disk;
        for change in unsynced.drain(..) {
            change.done_to(synced, || true);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.change(Change::Write { offset: offset as usize, bytes: data.to_vec() })
    }
}

#[test]
fn a_commit_is_paid_for_once_and_only_where_it_has_to_last() {
    use kddm::linker::{Durability, Store, Written};

    for (durability, each) in [(Durability::EachWrite, 1), (Durability::OnSync, 0)] {
        let disk = CrashDisk::default();
        let store = kddm_stores::Redb::on(disk.clone(), durability).unwrap();
        let stamp = |version| crate::stamp(1, version);
        let costs = |what: &dyn Fn()| {
            let before = disk.syncs();
            what();
            disk.syncs() - before
        };
        let one = costs(&|| assert_eq!(store.write(1, stamp(1), Some(b"one")), Ok(Written::Kept)));
        let many: Vec<_> = (2..100).map(|object| (object, stamp(1), Some(&b"x"[..]))).collect();
        let together = costs(&|| assert_eq!(store.write_all(&many), Ok(vec![Written::Kept; 98])));
        assert_eq!((one, together), (each, each), "{durability:?}");
        let refused = costs(&|| assert_eq!(store.write(1, stamp(0), None), Ok(Written::Refused { by: stamp(1) })));
        assert_eq!(refused, 0, "{durability:?}: nothing was changed");
        assert_eq!(costs(&|| store.sync().unwrap()), 1 - each, "{durability:?}");
    }
}
