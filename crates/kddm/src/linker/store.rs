//! A place outside the cluster where objects are kept as bytes: what most linkers need of it, and what it must promise.

use super::error::LinkerError;

/// Which of two writes of an object is the newer one.
///
/// A store keeps that of the newest write beside the bytes and refuses older ones, so that a node that was expelled, and
/// does not know it yet, cannot overwrite what others have written since (`I8`).
///
/// ```
/// use kddm::linker::Stamp;
/// let first = Stamp { term: 1, tenure: 7, version: 3 };
/// assert!(Stamp { version: 4, ..first } > first, "a later put of the same owner");
/// assert!(Stamp { tenure: 8, version: 1, ..first } > first, "the next owner");
/// assert!(Stamp { term: 2, tenure: 0, version: 0 } > first, "the next cluster that uses the store");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    /// Which life of the set: a set that is made anew, after the whole cluster was stopped without a log on disk, counts
    /// its tenures from the beginning. See [`Store::claim`].
    pub term: u64,
    /// The tenure of the owner that writes: [`WriteGuard::tenure`](crate::WriteGuard::tenure).
    pub tenure: u64,
    /// Which of its writes: not less than [`WriteGuard::version`](crate::WriteGuard::version), and greater with each, also
    /// with one that is tried again after a failure.
    pub version: u64,
}

/// What is kept of one object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// When it was written.
    pub stamp: Stamp,
    /// What was written; `None`: the object was removed.
    pub bytes: Option<Vec<u8>>,
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a refused write was not done"]
pub enum Written {
    /// It is kept, and lasts as the store promises: see [`Durability`].
    Kept,
    /// A newer one was there already, or the same one with other bytes. Nothing was changed.
    Refused {
        /// That of the one that is there. Where only a newer term was claimed since: that term, with tenure and version 0.
        by: Stamp,
    },
}

/// From when on what is [`Kept`](Written::Kept) lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// From the answer on: each [`write`](Store::write) waits for the disk, each [`write_all`](Store::write_all) once.
    #[default]
    EachWrite,
    /// From the next [`sync`](Store::sync) on. A crash of the machine may lose what was written since the last one, and nothing
    /// older. The end of the process alone loses nothing, but where the store says so (redb keeps in its memory what is not
    /// to last yet).
    OnSync,
}

/// Most bytes of one object, 1 GiB: the most that a set may be told to allow. A store may allow less.
pub const MOST_STORED_BYTES: usize = 1 << 30;

/// A place where the objects of one set are kept as bytes.
///
/// A method may block: it runs on threads of the linker, under a time limit, never on the protocol's. Several run at one
/// time, also for one object and from several nodes; each is atomic. After an error of a write nobody knows whether it was
/// done, and it is tried again with the same stamp: a write whose stamp is there already, with the same bytes, is `Kept`,
/// and is as durable then as if it were the first. With other bytes it is refused by its own stamp: two have written as one.
///
/// Which write is the newer one is one rule for all stores, [`Verdict`](super::Verdict); the stores of KDDM are tried by one
/// suite (`kddm_stores::promises`), which is there for stores of others, too.
pub trait Store: Send + Sync + 'static {
    /// What kind of store it is, in one word, for operators: "redb".
    fn kind(&self) -> &'static str;

    /// Begins the next term: greater than all before, and kept, before this returns. Called when a set is made on the
    /// store. From then on writes of older terms are refused; one that is there already stays. A write of a greater term
    /// than any that was claimed (the store was put back from a copy) begins that term.
    ///
    /// # Errors
    /// What the store says; no term was begun, or one that nobody uses.
    fn claim(&self) -> Result<u64, LinkerError>;

    /// The newest write of an object; `None` if there was none. Bytes that are not as they were written are an error,
    /// never an answer.
    ///
    /// # Errors
    /// What the store says.
    fn read(&self, object: u64) -> Result<Option<Stored>, LinkerError>;

    /// Keeps that, unless a newer write is there. `None` removes the object and keeps the stamp, so that an older write
    /// does not bring it back.
    ///
    /// # Errors
    /// What the store says; nobody knows whether it was done.
    fn write(&self, object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> Result<Written, LinkerError>;

    /// As several [`write`](Store::write)s, with one answer for each, in order; a store that pays for each commit pays once.
    ///
    /// # Errors
    /// What the store says; nobody knows which were done.
    fn write_all(&self, writes: &[(u64, Stamp, Option<&[u8]>)]) -> Result<Vec<Written>, LinkerError> {
        writes.iter().map(|(object, stamp, bytes)| self.write(*object, *stamp, *bytes)).collect()
    }

    /// Returns when all writes through this store that were `Kept` before survive as long as it promises. At once where
    /// each does.
    ///
    /// # Errors
    /// What the store says; nobody knows how many do.
    fn sync(&self) -> Result<(), LinkerError> {
        Ok(())
    }

    /// The objects that are there, in order of their numbers: the first `limit` of those after `after`; fewer only if there
    /// are no more. Removed ones are not there.
    ///
    /// # Errors
    /// What the store says; one object whose stamp cannot be read is enough.
    fn objects(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Stamp)>, LinkerError>;
}
