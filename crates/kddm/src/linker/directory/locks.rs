//! One writer at a time for each object, among threads and among processes.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::folder::Folder;

/// Locks of objects, each for a sixteenth of them: so many may be written at one time.
pub(super) const STRIPES: usize = 16;
/// Behind those of objects: whoever makes the term greater has it.
pub(super) const OF_TERM: usize = STRIPES;

/// How long a write waits for others, in all: a disk that is busy answers within it. Somebody who has a lock for longer was
/// stopped, and who waits is to hear of it before the limit of a linker's methods (5 s) is over.
const WAIT: Duration = Duration::from_secs(3);
/// A lock between processes is asked for again after this long at first, and then after twice as long each time.
const FIRST_LOOK_AGAIN: Duration = Duration::from_micros(100);
/// At most that long.
const LAST_LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The files that are locked, and their folder.
pub(super) struct Locks {
    folder: Folder,
    slots: Vec<Mutex<Slot>>,
}

struct Slot {
    name: String,
    file: Option<LockFile>,
}

struct LockFile {
    file: File,
    device_and_inode: (u64, u64),
}

/// A lock that is held. Ends when dropped.
pub(super) struct Locked<'a>(MutexGuard<'a, Slot>);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Some(locked) = &self.0.file
            && flock(&locked.file, FlockOperation::Unlock).is_err()
        {
            // The end of the last descriptor is the end of the lock.
            self.0.file = None;
        }
    }
}

impl Locks {
    pub(super) fn new(folder: Folder) -> Locks {
        let slot = |index: usize| Mutex::new(Slot { name: format!("{index:02x}"), file: None });
        Locks { folder, slots: (0..=OF_TERM).map(slot).collect() }
    }

    /// Waits for those, in order: each is less than [`OF_TERM`] or it. Whoever has some takes no lesser ones.
    pub(super) fn take(&self, indices: impl IntoIterator<Item = usize>) -> io::Result<Vec<Locked<'_>>> {
        self.take_within(indices, WAIT)
    }

    fn take_within(&self, indices: impl IntoIterator<Item = usize>, limit: Duration) -> io::Result<Vec<Locked<'_>>> {
        let until = Instant::now() + limit;
        indices.into_iter().map(|index| self.take_until(index, until).ok_or_else(|| waited(index, limit))?).collect()
    }

    /// `None` if somebody else still has it then.
    fn take_until(&self, index: usize, until: Instant) -> Option<io::Result<Locked<'_>>> {
        let mut slot = self.slots[index].try_lock_until(until)?;
        let mut look_again = FIRST_LOOK_AGAIN;
        loop {
            match self.try_file(&mut slot) {
                Ok(true) => return Some(Ok(Locked(slot))),
                Ok(false) => {}
                Err(error) => return Some(Err(error)),
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(look_again);
            look_again = (look_again * 2).min(LAST_LOOK_AGAIN);
        }
    }

    /// One that nobody has, at once or not at all.
    pub(super) fn try_take(&self, index: usize) -> io::Result<Option<Locked<'_>>> {
        let Some(mut slot) = self.slots[index].try_lock() else { return Ok(None) };
        Ok(self.try_file(&mut slot)?.then_some(Locked(slot)))
    }

    /// False if another process has it, or the file is another one than a moment ago.
    fn try_file(&self, slot: &mut Slot) -> io::Result<bool> {
        let locked = match slot.file.take() {
            Some(locked) => locked,
            None => {
                let file = self.folder.lock_file(&slot.name)?;
                let stat = rustix::fs::fstat(&file)?;
                LockFile { file, device_and_inode: (stat.st_dev, stat.st_ino) }
            }
        };
        match flock(&locked.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                // Whether it is still the file of that name is seen by whoever gets it: it is opened anew each time.
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        // Where somebody has removed the file, another process locks another one.
        let there = self.folder.stat(&slot.name)?.map(|stat| (stat.st_dev, stat.st_ino));
        if there != Some(locked.device_and_inode) {
            return Ok(false);
        }
        slot.file = Some(locked);
        Ok(true)
    }
}

fn waited(index: usize, limit: Duration) -> io::Error {
    let waited = limit.as_millis();
    let reason =
        format!("somebody has had locks/{index:02x} for {waited} ms; is a process stopped that uses the directory?");
    io::Error::new(io::ErrorKind::TimedOut, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_for_too_long_is_told_what_is_in_the_way() {
        let path = std::env::temp_dir().join(format!("kddm-locks-{}", std::process::id()));
        let locks = || Locks::new(Folder::root(&path).unwrap());
        // As two threads of a process have it, and as two processes.
        let (one, other) = (locks(), locks());
        let held = one.take([3]).unwrap();
        for waits in [&one, &other] {
            let limit = Duration::from_millis(20);
            let error = waits.take_within(0..=OF_TERM, limit).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(error.to_string().contains("locks/03 for 20 ms"), "{error}");
        }
        drop(held);
        assert_eq!(other.take(0..=OF_TERM).unwrap().len(), OF_TERM + 1, "those that were had meanwhile are free");
        std::fs::remove_dir_all(&path).unwrap();
    }
}
