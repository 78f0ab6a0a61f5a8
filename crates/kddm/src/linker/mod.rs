//! What may stand behind a set: an object can be a page of a file, a row, something that only this machine has.
//!
//! A [`Linker`] is chosen when the set is opened ([`SetBuilder::linker`](crate::SetBuilder::linker)), under a name that means
//! the same on each node. Any [`Store`] is one. See `docs/linkers.md`.

/// The page for users, whose example is tried.
#[cfg(doctest)]
#[doc = include_str!("../../../../docs/linkers.md")]
struct Page;

mod absent;
mod adapter;
mod behind;
mod builder;
mod copies;
mod directory;
mod elsewhere;
mod error;
mod fetching;
mod held;
mod here;
mod hooks;
mod linked;
mod memory;
mod placing;
mod policy;
mod pool;
mod reading;
mod shared;
mod store;
mod sync;
mod task;
mod verdict;
mod wanted;
mod writing;

pub(crate) use builder::Given;
pub use builder::LINKER_LIMIT;
pub(crate) use copies::Lowered;
pub use directory::Directory;
pub(crate) use elsewhere::SERVICE;
pub use elsewhere::{EncodedValue, LinkersOf};
pub use error::LinkerError;
pub(crate) use here::Linkers;
pub use here::{LinkerCounts, LinkerInfo};
pub use hooks::Hears;
pub use kddm_core::io::Access;
pub(crate) use linked::Linked;
pub use memory::Memory;
pub use placing::FirstOwner;
pub(crate) use policy::LinkerOf;
pub use policy::WritePolicy;
pub(crate) use shared::REMOVE;
pub use store::{Durability, MOST_STORED_BYTES, Stamp, Store, Stored, Written};
pub(crate) use task::drive;
pub use verdict::Verdict;
pub(crate) use wanted::{Opener, not_attached};

use std::sync::Arc;

use crate::value::Value;

/// What stands behind the objects of a set: where their first values come from, and where what is put goes.
///
/// Only [`first_touch`](Linker::first_touch) has to be written. Any method may block: it runs on threads of the linker, at
/// most [`THREADS`] at one time, under a time limit, never on the protocol's or the caller's; a panic in it is an error of
/// the operation. It must not wait for objects of the cluster (`WouldBlock`): whoever it would wait for may wait for it.
///
/// ```
/// use kddm::linker::{Linker, LinkerError};
///
/// /// Squares need no storage.
/// struct Squares;
///
/// impl Linker<u64> for Squares {
///     fn first_touch(&self, object: u64) -> Result<Option<u64>, LinkerError> {
///         Ok(object.checked_mul(object))
///     }
/// }
///
/// let nodes = kddm::Node::local_cluster(1)?;
/// let squares: kddm::Set<u64> = nodes[0].set("squares").linker("squares", Squares).open().wait()?;
/// assert_eq!(*squares.get(12).wait()?, 144);
/// assert!(squares.get_existing(u64::MAX).wait().is_err(), "there is none");
/// # Ok::<(), kddm::Error>(())
/// ```
pub trait Linker<T: Value>: Send + Sync + 'static {
    /// The value of an object that is nowhere in the cluster. `None`: there is nothing; a get or grab makes it as in a set
    /// without a linker, an *existing* one is `NotFound`. Called once for all nodes, by the one that wants the object.
    ///
    /// # Errors
    /// Whatever stands in the way; the operation fails with it, and the object is not there still.
    fn first_touch(&self, object: u64) -> Result<Option<T>, LinkerError>;

    /// Where an object that is nowhere in the cluster gets its first value, and who owns it first: for what only one node can
    /// reach. Asked by whoever wants the object; each node must say the same. The node that is named is asked to have the
    /// first touch, and the object comes from there as from any owner.
    ///
    /// ```
    /// use kddm::linker::{FirstOwner, Linker, LinkerError};
    ///
    /// /// Files that are at the node whose number is in the number of the object.
    /// struct Files;
    ///
    /// impl Linker<String> for Files {
    ///     fn first_touch(&self, object: u64) -> Result<Option<String>, LinkerError> {
    ///         Ok(Some(format!("file {object}")))
    ///     }
    ///     fn default_owner(&self, object: u64) -> FirstOwner {
    ///         FirstOwner::Only((object >> 48) as u16)
    ///     }
    /// }
    ///
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let sets = [0, 1].map(|at: usize| nodes[at].set("files").linker("files", Files).open().wait());
    /// let [here, _there]: [kddm::Set<String>; 2] = [sets[0].clone()?, sets[1].clone()?];
    /// assert_eq!(*here.get(2 << 48).wait()?, format!("file {}", 2_u64 << 48));
    /// assert_eq!((nodes[0].linkers()[0].counts.reads, nodes[1].linkers()[0].counts.reads), (0, 1));
    /// assert!(here.get(9 << 48).wait().is_err(), "there is no node 9");
    /// # Ok::<(), kddm::Error>(())
    /// ```
    fn default_owner(&self, object: u64) -> FirstOwner {
        let _is_all_the_same = object;
        FirstOwner::Whoever
    }

    /// Begins the next term, as [`Store::claim`]: called once when the set is made. The answer is in all stamps.
    ///
    /// # Errors
    /// Whatever stands in the way; the set is not made.
    fn claim(&self) -> Result<u64, LinkerError> {
        Ok(0)
    }

    /// Keeps what was put, unless a newer write is there. Several run at one time, also for one object and from several
    /// nodes, and they may come in any order: the stamp says which is the newer one.
    ///
    /// # Errors
    /// Whatever stands in the way; nobody knows then whether it was done.
    fn write_back(&self, object: u64, stamp: Stamp, value: &T) -> Result<Written, LinkerError> {
        let _nothing_is_kept = (object, stamp, value);
        Ok(Written::Kept)
    }

    /// As several [`write_back`](Linker::write_back)s, with one answer for each, in order: what was put to be written later.
    ///
    /// # Errors
    /// Whatever stands in the way; nobody knows then which were done, and they are tried again.
    fn write_back_all(&self, writes: &[(u64, Stamp, Arc<T>)]) -> Result<Vec<Written>, LinkerError> {
        writes.iter().map(|(object, stamp, value)| self.write_back(*object, *stamp, value)).collect()
    }

    /// The object is removed: what is kept of it goes, and older writes do not bring it back.
    ///
    /// # Errors
    /// As [`write_back`](Linker::write_back).
    fn remove(&self, object: u64, stamp: Stamp) -> Result<Written, LinkerError> {
        let _nothing_is_kept = (object, stamp);
        Ok(Written::Kept)
    }

    /// Returns when all that was kept before survives as long as it ever will. See [`Set::sync`](crate::Set::sync).
    ///
    /// # Errors
    /// Whatever stands in the way.
    fn sync(&self) -> Result<(), LinkerError> {
        Ok(())
    }

    /// What it wants to hear of the copies that its node has: for one that keeps something local for each of them, a page
    /// that is mapped, a handle that is open. Asked once, when the set is opened.
    ///
    /// It hears on one thread of its own, of one thing after the other, so that what is said of an object is in order.
    /// *That there is less is said before anybody else hears of it*: another node has no copy of what comes after, and
    /// nobody writes, before [`invalidate`](Linker::invalidate) has returned (or `change_state` from write), at most for the
    /// limit of the linker. That there is more is said when it is so already. Nothing is left out but a copy that has
    /// gone before the linker has heard of it. What the threads of this node put it hears of as of any put, by
    /// [`write_back`](Linker::write_back).
    ///
    /// ```
    /// use kddm::linker::{Hears, Linker, LinkerError};
    /// use std::sync::{Arc, Mutex, mpsc};
    ///
    /// /// Says which copies are here.
    /// struct Says(Mutex<mpsc::Sender<(&'static str, u64)>>);
    ///
    /// impl Linker<String> for Says {
    ///     fn first_touch(&self, _: u64) -> Result<Option<String>, LinkerError> {
    ///         Ok(Some("mapped".into()))
    ///     }
    ///     fn hears(&self) -> Hears {
    ///         Hears::Copies
    ///     }
    ///     fn insert(&self, object: u64, _version: u64, _value: &String) -> Result<(), LinkerError> {
    ///         self.0.lock().expect("nobody panics here").send(("here", object)).ok();
    ///         Ok(())
    ///     }
    ///     fn invalidate(&self, object: u64) -> Result<(), LinkerError> {
    ///         self.0.lock().expect("nobody panics here").send(("gone", object)).ok();
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let (says, told) = mpsc::channel();
    /// let (elsewhere, _) = mpsc::channel();
    /// let here: kddm::Set<String> = nodes[0].set("pages").linker("pages", Says(Mutex::new(says))).open().wait()?;
    /// let there: kddm::Set<String> = nodes[1].set("pages").linker("pages", Says(Mutex::new(elsewhere))).open().wait()?;
    /// drop(here.get(7).wait()?);
    /// assert_eq!(told.recv(), Ok(("here", 7)));
    /// let _theirs = there.grab(7).wait()?; // it is gone here before that one has it
    /// assert_eq!(told.try_recv(), Ok(("gone", 7)));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    fn hears(&self) -> Hears {
        Hears::Nothing
    }

    /// This node has a copy that its threads may use: of that version, with that value, as it came. Told from [`Hears::Copies`] on, after the fact.
    ///
    /// # Errors
    /// Whatever stands in the way. It is counted and told ([`Incident::HookFailed`](crate::Incident::HookFailed)), and
    /// changes nothing: the copy is here. So with the other hooks.
    fn insert(&self, object: u64, version: u64, value: &T) -> Result<(), LinkerError> {
        let _is_not_of_interest = (object, version, value);
        Ok(())
    }

    /// The copy goes: no thread of this node uses it any more, and nobody else has anything newer before this returns. After
    /// the fact where this node has lost its lease or stops at once, and when the set is destroyed.
    ///
    /// # Errors
    /// As [`insert`](Linker::insert).
    fn invalidate(&self, object: u64) -> Result<(), LinkerError> {
        let _is_not_of_interest = object;
        Ok(())
    }

    /// What this node may do with the copy has changed; with [`Hears::Access`]. From nothing: after `insert`; to nothing: before
    /// `invalidate`. From read to write it goes by way of nothing. Less is told before others hear of it, more after the fact.
    ///
    /// # Errors
    /// As [`insert`](Linker::insert).
    fn change_state(&self, object: u64, from: Access, to: Access) -> Result<(), LinkerError> {
        let _is_not_of_interest = (object, from, to);
        Ok(())
    }
}

/// Threads of one linker on one node that may be in its methods at one time. There are none while it has nothing to do.
pub const THREADS: usize = 4;
