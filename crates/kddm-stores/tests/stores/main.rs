//! The stores, tried: by the suite for all of them, by crashes, by processes that are killed or stopped, and by owners that
//! do not know yet that they are none any more.

mod crash_disk;
mod damage;
mod directory;
mod fencing;
mod processes;
mod promised;
mod rows;
mod served;
mod sets;

use std::path::{Path, PathBuf};

use kddm::linker::{Directory, Durability, Stamp, Store};
use kddm_stores::{Redb, Sqlite};

/// A folder that goes with the test: in memory where that can be had, since no test looks at what a real disk does.
struct Scratch(PathBuf);

/// The folder of files that are memory.
const MEMORY: &str = "/dev/shm";

impl Scratch {
    fn new(name: &str) -> Scratch {
        let within = if Path::new(MEMORY).is_dir() { PathBuf::from(MEMORY) } else { std::env::temp_dir() };
        let path = within.join(format!("kddm-stores-{}-{name}", std::process::id()));
        let _of_an_earlier_run = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder of the test");
        Scratch(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _it_is_temporary = std::fs::remove_dir_all(&self.0);
    }
}

/// The stores that keep something on a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Directory,
    Redb,
    Sqlite,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Directory, Kind::Redb, Kind::Sqlite];
    /// Those that several processes may have open.
    const SHARED: [Kind; 2] = [Kind::Directory, Kind::Sqlite];

    fn open(self, folder: &Path, durability: Durability) -> Box<dyn Store> {
        match self {
            Kind::Directory => {
                Box::new(Directory::with(folder.join("directory"), durability).expect("a folder of the test"))
            }
            Kind::Redb => Box::new(Redb::with(folder.join("file.redb"), durability).expect("a folder of the test")),
            Kind::Sqlite => {
                Box::new(Sqlite::with(folder.join("file.db"), "notes", durability).expect("a folder of the test"))
            }
        }
    }
}

fn stamp(tenure: u64, version: u64) -> Stamp {
    Stamp { term: 1, tenure, version }
}
