//! What a thread holds between get or grab and put.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::cell::{ReadHold, WriteHold};
use crate::error::{AccessError, Error};
use crate::pending::Pending;
use crate::runtime::told;
use crate::set::Shared;
use crate::value::Value;

/// A read copy. Keeps writers out, everywhere, until it is dropped.
///
/// ```
/// # let nodes = kddm::Node::local_cluster(1)?;
/// # let set: kddm::Set<String> = nodes[0].set("guards").open()?;
/// let text = set.get(1).wait()?;
/// assert!(text.is_empty());
/// # Ok::<(), kddm::Error>(())
/// ```
#[must_use = "the copy is held until the guard is dropped"]
pub struct ReadGuard<T: Value> {
    pub(crate) hold: Option<ReadHold<T>>,
    pub(crate) object: u64,
}

impl<T: Value> ReadGuard<T> {
    fn hold(&self) -> &ReadHold<T> {
        self.hold.as_ref().expect("a guard has its hold until it is dropped")
    }

    /// The object's id.
    pub fn id(&self) -> u64 {
        self.object
    }

    /// How many puts the value has seen.
    pub fn version(&self) -> u64 {
        self.hold().version()
    }

    /// The value as of now, for as long as you like; keeps nobody out.
    pub fn snapshot(&self) -> Arc<T> {
        self.hold().snapshot()
    }
}

impl<T: Value> Deref for ReadGuard<T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.hold().value()
    }
}

impl<T: Value + fmt::Debug> fmt::Debug for ReadGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadGuard").field(&self.object).field(&**self).finish()
    }
}

impl<T: Value> Drop for ReadGuard<T> {
    fn drop(&mut self) {
        let Some(hold) = self.hold.take() else { return };
        let table = hold.table();
        if hold.release() {
            told::released(table, self.object);
        }
    }
}

/// The only copy in the cluster, to change. [`put`](WriteGuard::put) publishes; dropping the guard
/// discards what was changed.
///
/// ```
/// # let nodes = kddm::Node::local_cluster(1)?;
/// # let set: kddm::Set<String> = nodes[0].set("guards").open()?;
/// let mut text = set.grab(1).wait()?;
/// text.push_str("kept");
/// text.put().wait()?;
/// set.grab(1).wait()?.push_str("discarded with its guard");
/// assert_eq!(*set.get(1).wait()?, "kept");
/// # Ok::<(), kddm::Error>(())
/// ```
#[must_use = "the object is held until the guard is put or dropped"]
pub struct WriteGuard<T: Value> {
    pub(crate) hold: Option<WriteHold<T>>,
    /// The changed value: cloned at the first change, so that the old one stays until `put`.
    pub(crate) changed: Option<T>,
    pub(crate) shared: Arc<Shared<T>>,
    pub(crate) object: u64,
}

impl<T: Value> WriteGuard<T> {
    fn hold(&self) -> &WriteHold<T> {
        self.hold.as_ref().expect("a guard has its hold until it is put or dropped")
    }

    /// The object's id.
    pub fn id(&self) -> u64 {
        self.object
    }

    /// How many puts the value has seen, without this one.
    pub fn version(&self) -> u64 {
        self.hold().version()
    }

    /// The tenure of this node's ownership: a fencing token, greater at every change of owner.
    pub fn tenure(&self) -> u64 {
        self.shared.tenure(self.object)
    }

    /// Publishes the value and releases the object. Others may have it now.
    ///
    /// # Errors
    /// `TooLarge` or `Encode`: the old value stays, and the object is released. `Destroyed` or
    /// `Stopped`: the set or the node has ended meanwhile.
    pub fn put(mut self) -> Pending<()> {
        let mut hold = self.hold.take().expect("a guard is put once");
        let result = match (self.shared.table.ended(), self.changed.take()) {
            (Some(ended), changed) => {
                if changed.is_some() {
                    self.shared.count_discarded();
                }
                Err(ended.into())
            }
            (None, Some(value)) => self.shared.check_size(&value).map(|()| hold.publish(value)),
            (None, None) => {
                hold.touch();
                Ok(())
            }
        };
        if hold.release() {
            self.shared.released(self.object);
        }
        Pending::ready(result)
    }

    /// Removes the object everywhere.
    pub fn remove(self) -> Pending<()> {
        let (shared, object) = (Arc::clone(&self.shared), self.object);
        drop(self);
        shared.remove(object)
    }
}

impl<T: Value> Deref for WriteGuard<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match &self.changed {
            Some(value) => value,
            None => self.hold().value().expect("a granted object has a value"),
        }
    }
}

impl<T: Value> DerefMut for WriteGuard<T> {
    fn deref_mut(&mut self) -> &mut T {
        if self.changed.is_none() {
            self.changed = Some(T::clone(&**self));
        }
        self.changed.as_mut().expect("just made")
    }
}

impl<T: Value + fmt::Debug> fmt::Debug for WriteGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WriteGuard").field(&self.object).field(&**self).finish()
    }
}

impl<T: Value> Drop for WriteGuard<T> {
    fn drop(&mut self) {
        if self.changed.take().is_some() {
            self.shared.count_discarded();
        }
        if self.hold.take().is_some_and(WriteHold::release) {
            self.shared.released(self.object);
        }
    }
}

pub(crate) fn no_duplicates(objects: &[u64]) -> Result<Vec<usize>, Error> {
    let mut order: Vec<usize> = (0..objects.len()).collect();
    order.sort_unstable_by_key(|at| objects[*at]);
    match order.windows(2).find(|pair| objects[pair[0]] == objects[pair[1]]) {
        Some(pair) => Err(AccessError::NamedTwice { object: objects[pair[0]] }.into()),
        None => Ok(order),
    }
}
