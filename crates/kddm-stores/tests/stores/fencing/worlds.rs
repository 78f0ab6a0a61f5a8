//! Stores, and how they end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use kddm::linker::{Directory, Durability, Store};
use kddm_stores::{Redb, Sqlite};

use crate::Scratch;
use crate::crash_disk::{CrashDisk, End};

/// A store, and where it is.
pub trait World {
    fn store(&self) -> &dyn Store;

    /// When what it keeps lasts, as it says.
    fn durability(&self) -> Durability {
        Durability::EachWrite
    }

    /// Writes were answered.
    fn noted(&mut self) {}

    /// A sync was answered.
    fn synced(&mut self) {}

    /// The store ends within or behind what is done to it, and is opened again. Says which end it was, or that it cannot
    /// be opened.
    fn end(&mut self, end: End, random: &mut Rng, doing: &mut dyn FnMut(&dyn Store)) -> Result<End, String>;
}

/// One that does not end.
pub struct Steady<S>(pub S);

impl<S: Store> World for Steady<S> {
    fn store(&self) -> &dyn Store {
        &self.0
    }

    fn end(&mut self, _end: End, _random: &mut Rng, doing: &mut dyn FnMut(&dyn Store)) -> Result<End, String> {
        doing(&self.0);
        Ok(End::Process)
    }
}

/// On a disk that loses what was not synced.
pub struct RedbWorld {
    disk: CrashDisk,
    store: Option<Redb>,
    is: Durability,
    said: Durability,
}

impl RedbWorld {
    pub fn new(is: Durability, said: Durability) -> RedbWorld {
        let disk = CrashDisk::default();
        let store = Redb::on(disk.clone(), is).expect("it opens");
        RedbWorld { disk, store: Some(store), is, said }
    }
}

impl World for RedbWorld {
    fn store(&self) -> &dyn Store {
        self.store.as_ref().expect("it is open")
    }

    fn durability(&self) -> Durability {
        self.said
    }

    fn end(&mut self, end: End, random: &mut Rng, doing: &mut dyn FnMut(&dyn Store)) -> Result<End, String> {
        self.disk.end_after(random.usize(..24));
        doing(self.store());
        // Whoever is gone says no last word.
        self.disk.end_after(0);
        self.store = None;
        self.disk.end(end, random);
        // Some do not live for long either: they end while they look at what the last one has left.
        if random.u8(..4) == 0 {
            self.disk.end_after(random.usize(..6));
            let cut_short = Redb::on(self.disk.clone(), self.is);
            self.disk.end_after(0);
            drop(cut_short);
            self.disk.end(end, random);
        }
        let opened = Redb::on(self.disk.clone(), self.is).map_err(|error| format!("opened again: {error}"))?;
        self.store = Some(opened);
        // What was not to last was in the process alone.
        Ok(if self.said == Durability::OnSync { End::Machine } else { end })
    }
}

/// Each has a folder of its own.
fn scratch(kind: &str) -> Scratch {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    Scratch::new(&format!("fencing-{kind}-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// On a real file system, of which no crash can be had: what one may leave is made by hand.
pub struct DirectoryWorld {
    scratch: Scratch,
    store: Option<Directory>,
    durability: Durability,
    /// Files of objects, as they are on the disk for certain.
    synced: BTreeMap<PathBuf, Vec<u8>>,
    /// What else each name may stand for there: a name that was not synced is that of any file that had it since.
    since: BTreeMap<PathBuf, Vec<Vec<u8>>>,
}

impl DirectoryWorld {
    pub fn new(durability: Durability) -> DirectoryWorld {
        let scratch = scratch("directory");
        let store = Directory::with(scratch.path("store"), durability).expect("it opens");
        let (synced, since) = (BTreeMap::new(), BTreeMap::new());
        DirectoryWorld { scratch, store: Some(store), durability, synced, since }
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        for folder in std::fs::read_dir(self.scratch.path("store/objects")).expect("a folder of the test") {
            for file in std::fs::read_dir(folder.expect("a folder of the test").path()).expect("a folder of the test") {
                let path = file.expect("a folder of the test").path();
                let bytes = std::fs::read(&path).expect("a folder of the test");
                files.insert(path, bytes);
            }
        }
        files
    }

    fn lose(&mut self, random: &mut Rng) {
        for (path, versions) in std::mem::take(&mut self.since) {
            // The last one is there already; before the first one there is what was synced, or nothing.
            match random.usize(..=versions.len()) {
                0 => match self.synced.get(&path) {
                    Some(bytes) => std::fs::write(path, bytes).expect("a folder of the test"),
                    None => std::fs::remove_file(path).expect("a folder of the test"),
                },
                version => std::fs::write(path, &versions[version - 1]).expect("a folder of the test"),
            }
        }
        self.synced = self.files();
    }
}

impl World for DirectoryWorld {
    fn store(&self) -> &dyn Store {
        self.store.as_ref().expect("it is open")
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn synced(&mut self) {
        self.synced = self.files();
        self.since.clear();
    }

    fn noted(&mut self) {
        let files = self.files();
        for (path, bytes) in files {
            let versions = self.since.entry(path.clone()).or_default();
            if versions.last().or(self.synced.get(&path)) != Some(&bytes) {
                versions.push(bytes);
            }
        }
        self.since.retain(|_, versions| !versions.is_empty());
    }

    fn end(&mut self, end: End, random: &mut Rng, doing: &mut dyn FnMut(&dyn Store)) -> Result<End, String> {
        doing(self.store());
        self.noted();
        let end = if self.durability == Durability::OnSync { end } else { End::Process };
        if end == End::Machine {
            self.lose(random);
        }
        // What was being written has another name, and any part of it may be there.
        let files = self.files();
        if let Some((path, bytes)) = files.iter().nth(random.usize(..files.len().max(1))) {
            let name = path.file_name().expect("a folder of the test");
            std::fs::write(self.scratch.path("store/new").join(name), &bytes[..random.usize(..=bytes.len())])
                .expect("a folder of the test");
        }
        if random.bool() {
            std::fs::remove_dir_all(self.scratch.path("store/locks")).expect("a folder of the test");
        }
        self.store = None;
        let opened = Directory::with(self.scratch.path("store"), self.durability);
        self.store = Some(opened.map_err(|error| format!("opened again: {error}"))?);
        let left = std::fs::read_dir(self.scratch.path("store/new")).expect("a folder of the test").count();
        if left > 0 {
            return Err(format!("{left} files were left that nobody writes any more"));
        }
        Ok(end)
    }
}

/// Opened again by the same process; one that is killed is a test of its own.
pub struct SqliteWorld {
    scratch: Scratch,
    store: Option<Sqlite>,
    durability: Durability,
}

impl SqliteWorld {
    pub fn new(durability: Durability) -> SqliteWorld {
        let scratch = scratch("sqlite");
        let store = Sqlite::with(scratch.path("file"), "notes", durability).expect("it opens");
        SqliteWorld { scratch, store: Some(store), durability }
    }
}

impl World for SqliteWorld {
    fn store(&self) -> &dyn Store {
        self.store.as_ref().expect("it is open")
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn end(&mut self, _end: End, _random: &mut Rng, doing: &mut dyn FnMut(&dyn Store)) -> Result<End, String> {
        doing(self.store());
        self.store = None;
        let opened = Sqlite::with(self.scratch.path("file"), "notes", self.durability);
        self.store = Some(opened.map_err(|error| format!("opened again: {error}"))?);
        Ok(End::Process)
    }
}
