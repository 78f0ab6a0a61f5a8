//! Objects as files in a directory, one each.

mod file;
mod folder;
mod locks;

use std::collections::{BTreeSet, BinaryHeap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use parking_lot::Mutex;

use self::file::{HEADER_BYTES, Header, TERM_BYTES, term_bytes, term_of};
use self::folder::{Folder, Found};
use self::locks::{Locks, OF_TERM, STRIPES};
use super::error::LinkerError;
use super::store::{Durability, MOST_STORED_BYTES, Stamp, Store, Stored, Written};
use super::verdict::Verdict;

const KIND: &str = "directory";
const OBJECTS: &str = "objects";
const LOCKS: &str = "locks";
/// Files that do not have their names yet.
const NEW: &str = "new";
const TERM: &str = "term";

/// So many neighbours share a folder: 4,096, which file systems of all kinds find fast.
const FOLDER_BITS: u32 = 12;
/// So many folders there are at most: of as many, each can still be looked through at one time.
const FOLDERS: u64 = 4096;

/// A directory with one file for each object. Several processes may have it open at one time, and several machines, as far as
/// the locks (`flock`) of their common file system can be trusted; each write is atomic, and on the disk before it is
/// answered, if nothing else was asked for. The files and their shape: docs/stores.md.
///
/// ```
/// use kddm::linker::{Directory, Stamp, Store, Written};
/// # let path = std::env::temp_dir().join(format!("kddm-directory-example-{}", std::process::id()));
/// let store = Directory::open(&path)?;
/// let stamp = Stamp { term: store.claim()?, tenure: 1, version: 1 };
/// assert_eq!(store.write(7, stamp, Some(b"kept"))?, Written::Kept);
///
/// let again = Directory::open(&path)?; // as by another process
/// assert_eq!(again.read(7)?.and_then(|kept| kept.bytes), Some(b"kept".to_vec()));
/// # std::fs::remove_dir_all(&path).ok();
/// # Ok::<(), kddm::linker::LinkerError>(())
/// ```
pub struct Directory {
    path: PathBuf,
    root: Folder,
    objects: Folder,
    new: Folder,
    locks: Locks,
    durability: Durability,
    /// Folders of objects whose own names are on the disk.
    named: Mutex<BTreeSet<u64>>,
    /// Folders with names that are not on the disk yet.
    unsynced: Mutex<BTreeSet<u64>>,
    /// Held while they are synced, so that nobody who syncs returns before those are that another one has begun with.
    syncing: Mutex<()>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory")
            .field("path", &self.path)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

/// A file whose header has stood all checks.
struct Opened {
    header: Header,
    file: File,
}

impl Directory {
    /// Opens the store in that directory, or makes one: the directory is made, too, but not those above it.
    ///
    /// # Errors
    /// [`LinkerError::Store`] if the system refuses, its term is lost or damaged, or other files are there and no store.
    pub fn open(path: impl Into<PathBuf>) -> Result<Directory, LinkerError> {
        Directory::with(path, Durability::EachWrite)
    }

    /// As [`open`](Directory::open), and says when writes must be on the disk. What is written is on the disk in any case
    /// before it has the name of the object, so that a crash never leaves half of it; with [`Durability::OnSync`] only the name
    /// is not: the older version is there again.
    ///
    /// # Errors
    /// As `open`.
    pub fn with(path: impl Into<PathBuf>, durability: Durability) -> Result<Directory, LinkerError> {
        let path = path.into();
        let root = Folder::root(&path).map_err(|error| failed(format!("{}: {error}", path.display())))?;
        Directory::within(path.clone(), root, durability)
            .map_err(|error| failed(format!("{}: {error}", path.display())))
    }

    fn within(path: PathBuf, root: Folder, durability: Durability) -> io::Result<Directory> {
        let is_new = matches!(root.file(TERM)?, Found::Absent);
        if is_new {
            let mut foreign = None;
            root.each_name(|name| {
                if ![OBJECTS, LOCKS, NEW, TERM].contains(&name) {
                    foreign = Some(name.to_owned());
                }
            })?;
            if let Some(name) = foreign {
                return Err(io::Error::other(format!("no store is there, but {name:?}: choose an empty directory")));
            }
        }
        let (objects, new) = (root.folder_made(OBJECTS)?, root.folder_made(NEW)?);
        let locks = Locks::new(root.folder_made(LOCKS)?);
        root.sync()?;
        let (named, unsynced) = (Mutex::new(BTreeSet::new()), Mutex::new(BTreeSet::new()));
        let directory =
            Directory { path, root, objects, new, locks, durability, named, unsynced, syncing: Mutex::new(()) };
        if is_new {
            directory.begin()?;
        }
        directory.term()?;
        directory.sweep()?;
        Ok(directory)
    }

    /// Writes the first term, unless somebody else has.
    fn begin(&self) -> io::Result<()> {
        let _all = self.locks.take(0..=OF_TERM)?;
        if !matches!(self.root.file(TERM)?, Found::Absent) {
            return Ok(());
        }
        let mut is_empty = true;
        self.objects.each_name(|_| is_empty = false)?;
        if !is_empty {
            let reason = "there are objects, and the file `term` is gone; restore it, or late writes could not be told";
            return Err(io::Error::other(reason));
        }
        self.keep_term(0)
    }

    /// Removes what writers have left that have ended in the middle.
    fn sweep(&self) -> io::Result<()> {
        let mut left = Vec::new();
        self.new.each_name(|name| left.extend(object_of(name)))?;
        for object in left {
            // Who has the lock is writing, and leaves nothing.
            if let Some(_locked) = self.locks.try_take(stripe_of(object))? {
                self.new.remove(&name_of(object))?;
            }
        }
        Ok(())
    }

    fn term(&self) -> io::Result<u64> {
        let damaged =
            |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("the file `term`: {what}; restore it"));
        match self.root.file(TERM)? {
            Found::Absent => Err(damaged("it is gone")),
            Found::Irregular => Err(damaged("it is no file")),
            Found::File(file, _) => {
                let mut bytes = Vec::with_capacity(TERM_BYTES + 1);
                file.take(TERM_BYTES as u64 + 1).read_to_end(&mut bytes)?;
                term_of(&bytes).map_err(damaged)
            }
        }
    }

    /// With the lock of the term.
    fn keep_term(&self, term: u64) -> io::Result<()> {
        let mut file = self.new.new_file(TERM)?;
        file.write_all(&term_bytes(term))?;
        file.sync_all()?;
        self.new.rename(TERM, &self.root, TERM)?;
        self.root.sync()
    }

    /// A write of a greater term than was claimed begins it.
    fn raise_term(&self, term: u64) -> io::Result<()> {
        let _locked = self.locks.take([OF_TERM])?;
        if self.term()? < term { self.keep_term(term) } else { Ok(()) }
    }

    fn opened(&self, object: u64) -> Result<Option<Opened>, LinkerError> {
        let Some(folder) = self.objects.folder(&folder_name(folder_of(object))).map_err(failed)? else {
            return Ok(None);
        };
        match folder.file(&name_of(object)).map_err(failed)? {
            Found::Absent => Ok(None),
            Found::Irregular => Err(damaged(object, "something else is in the place of its file")),
            Found::File(mut file, length) => {
                let mut bytes = Vec::with_capacity(HEADER_BYTES);
                (&mut file).take(HEADER_BYTES as u64).read_to_end(&mut bytes).map_err(failed)?;
                let header = Header::read(object, &bytes, length).map_err(|what| damaged(object, what))?;
                Ok(Some(Opened { header, file }))
            }
        }
    }

    fn write_one(&self, term: u64, write: &(u64, Stamp, Option<&[u8]>)) -> Result<Written, LinkerError> {
        let (object, stamp, bytes) = *write;
        let length = bytes.map_or(0, <[u8]>::len);
        if length > MOST_STORED_BYTES {
            return Err(failed(format!("object {object} has {length} bytes; at most {MOST_STORED_BYTES} are kept")));
        }
        let there = self.opened(object)?;
        match Verdict::of(stamp, term, there.as_ref().map(|there| there.header.stamp)) {
            Verdict::Older { by } => return Ok(Written::Refused { by }),
            // What was damaged since may be written again. What is whole is written again too: whoever wrote it may have
            // ended before it was on the disk.
            Verdict::Same => match there.map(|there| there.content(object)) {
                Some(Ok(content)) if content.as_deref() != bytes => return Ok(Written::Refused { by: stamp }),
                Some(Err(error @ LinkerError::Store { .. })) => return Err(error),
                _ => {}
            },
            Verdict::Newer if stamp.term > term => self.raise_term(stamp.term).map_err(failed)?,
            Verdict::Newer => {}
        }
        self.replace(object, stamp, bytes).map_err(failed)?;
        Ok(Written::Kept)
    }

    fn replace(&self, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> io::Result<()> {
        let number = folder_of(object);
        let folder = self.objects.folder_made(&folder_name(number))?;
        if !self.named.lock().contains(&number) {
            self.objects.sync()?;
            self.named.lock().insert(number);
        }
        let name = name_of(object);
        let mut file = self.new.new_file(&name)?;
        let written = file
            .write_all(&Header::bytes(object, stamp, bytes))
            .and_then(|()| file.write_all(bytes.unwrap_or_default()))
            .and_then(|()| file.sync_all())
            .and_then(|()| self.new.rename(&name, &folder, &name));
        if written.is_err() {
            // The first error says more, and the next write or start removes it.
            let _first_error_counts = self.new.remove(&name);
        }
        written
    }

    fn sync_names(&self, folder: u64) -> io::Result<()> {
        match self.objects.folder(&folder_name(folder))? {
            Some(folder) => folder.sync(),
            None => Err(io::Error::other(format!("the folder {} was taken away", folder_name(folder)))),
        }
    }

    /// The first numbers of files after that one, in order.
    fn numbers(&self, after: Option<u64>, limit: usize) -> io::Result<Vec<u64>> {
        let mut folders = Vec::new();
        self.objects.each_name(|name| folders.extend(folder_number(name)))?;
        let mut first = BinaryHeap::new();
        for number in folders {
            let Some(folder) = self.objects.folder(&folder_name(number))? else { continue };
            folder.each_name(|name| {
                let ours = object_of(name).filter(|object| folder_of(*object) == number);
                first.extend(ours.filter(|object| after.is_none_or(|after| *object > after)));
                if first.len() > limit {
                    first.pop();
                }
            })?;
        }
        Ok(first.into_sorted_vec())
    }
}

impl Opened {
    fn content(mut self, object: u64) -> Result<Option<Vec<u8>>, LinkerError> {
        let Some(length) = self.header.length else { return Ok(None) };
        let mut content = Vec::new();
        content.try_reserve_exact(length).map_err(|_| failed(format!("no memory for {length} bytes")))?;
        (&mut self.file).take(length as u64).read_to_end(&mut content).map_err(failed)?;
        if content.len() != length || !self.header.is_of(&content) {
            return Err(damaged(object, "its bytes have another checksum than they were written with"));
        }
        Ok(Some(content))
    }
}

impl Store for Directory {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn claim(&self) -> Result<u64, LinkerError> {
        let _all = self.locks.take(0..=OF_TERM).map_err(failed)?;
        let next = self.term().map_err(failed)?.checked_add(1);
        let next = next.ok_or_else(|| failed("there is no term after the last one"))?;
        self.keep_term(next).map_err(failed)?;
        Ok(next)
    }

    fn read(&self, object: u64) -> Result<Option<Stored>, LinkerError> {
        let Some(opened) = self.opened(object)? else { return Ok(None) };
        let stamp = opened.header.stamp;
        Ok(Some(Stored { stamp, bytes: opened.content(object)? }))
    }

    fn write(&self, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> Result<Written, LinkerError> {
        let written = self.write_all(&[(object, stamp, bytes)])?;
        written.first().copied().ok_or_else(|| failed("a write was not answered"))
    }

    fn write_all(&self, writes: &[(u64, Stamp, Option<&[u8]>)]) -> Result<Vec<Written>, LinkerError> {
        let stripes: BTreeSet<usize> = writes.iter().map(|(object, ..)| stripe_of(*object)).collect();
        let locked = self.locks.take(stripes).map_err(failed)?;
        let mut written = Vec::with_capacity(writes.len());
        let mut changed = BTreeSet::new();
        for write in writes {
            // Anew each time: an earlier one may have begun a term.
            let term = self.term().map_err(failed)?;
            let answer = self.write_one(term, write)?;
            if answer == Written::Kept {
                changed.insert(folder_of(write.0));
            }
            written.push(answer);
        }
        match self.durability {
            Durability::EachWrite => {
                changed.into_iter().try_for_each(|folder| self.sync_names(folder)).map_err(failed)?
            }
            Durability::OnSync => self.unsynced.lock().append(&mut changed),
        }
        drop(locked);
        Ok(written)
    }

    fn sync(&self) -> Result<(), LinkerError> {
        let _others_wait = self.syncing.lock();
        let mut folders = std::mem::take(&mut *self.unsynced.lock());
        while let Some(folder) = folders.first().copied() {
            if let Err(error) = self.sync_names(folder) {
                self.unsynced.lock().append(&mut folders);
                return Err(failed(error));
            }
            folders.remove(&folder);
        }
        Ok(())
    }

    fn objects(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Stamp)>, LinkerError> {
        let mut there = Vec::new();
        let mut after = after;
        while there.len() < limit {
            let wanted = limit - there.len();
            let numbers = self.numbers(after, wanted).map_err(failed)?;
            let are_all = numbers.len() < wanted;
            after = numbers.last().copied().or(after);
            for object in numbers {
                if let Some(Opened { header, .. }) = self.opened(object)?
                    && header.length.is_some()
                {
                    there.push((object, header.stamp));
                }
            }
            if are_all {
                break;
            }
        }
        Ok(there)
    }
}

fn folder_of(object: u64) -> u64 {
    (object >> FOLDER_BITS) % FOLDERS
}

fn folder_name(number: u64) -> String {
    format!("{number:03x}")
}

fn folder_number(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name, 16).ok()?;
    (folder_name(number) == name && number < FOLDERS).then_some(number)
}

fn name_of(object: u64) -> String {
    format!("{object:016x}")
}

fn object_of(name: &str) -> Option<u64> {
    let object = u64::from_str_radix(name, 16).ok()?;
    (name_of(object) == name).then_some(object)
}

/// Neighbours have different ones, so that they can be written at one time.
fn stripe_of(object: u64) -> usize {
    (object % STRIPES as u64) as usize
}

fn failed(reason: impl std::fmt::Display) -> LinkerError {
    LinkerError::Store { kind: KIND, reason: reason.to_string() }
}

fn damaged(object: u64, reason: &str) -> LinkerError {
    LinkerError::Damaged { kind: KIND, object, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
