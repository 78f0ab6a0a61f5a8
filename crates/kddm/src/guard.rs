//! What a thread holds between get or grab and put.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use crate::cell::{Ended, ReadHold, Told, WriteHold};
use crate::error::{AccessError, Error, MembershipError};
use crate::linker::REMOVE;
use crate::operation::{Plain, Put, Request};
use crate::pending::Pending;
use crate::runtime::lending::EndOfHold;
use crate::runtime::told::{self, Lanes, SetHere};
use crate::value::{EncodeError, Value};

/// A read copy. Keeps writers out, everywhere, until it is dropped.
///
/// ```
/// # let nodes = kddm::Node::local_cluster(1)?;
/// # let set: kddm::Set<String> = nodes[0].set("guards").open().wait()?;
/// let text = set.get(1).wait()?;
/// assert!(text.is_empty());
/// # Ok::<(), kddm::Error>(())
/// ```
#[must_use = "the copy is held until the guard is dropped"]
pub struct ReadGuard<T: Value> {
    hold: Told<ReadHold<T>, Lanes>,
}

impl<T: Value> ReadGuard<T> {
    #[inline(always)]
    pub(crate) fn new(hold: ReadHold<T>) -> ReadGuard<T> {
        ReadGuard { hold: Told::new(hold) }
    }

    /// The object's id.
    pub fn id(&self) -> u64 {
        self.hold.id()
    }

    /// How many puts the value has seen.
    pub fn version(&self) -> u64 {
        self.hold.version()
    }

    /// The tenure under which the copy is held: that of the owner, a fencing token, greater at every
    /// change of owner. Zero once the node is gone.
    pub fn tenure(&self) -> u64 {
        tenure(self.hold.table(), self.id())
    }

    /// Whether the copy is still good: nobody can have written since it was taken. A guard outlives the
    /// end of its set or node; ask before what was read has an effect outside the cluster.
    ///
    /// # Errors
    /// `Destroyed`, `Stopped`, or `Fenced` if this node may not use what it holds any more.
    pub fn check(&self) -> Result<(), Error> {
        check(self.hold.table(), self.id(), self.hold.ended())
    }

    /// The value as of now, for as long as you like; keeps nobody out.
    pub fn snapshot(&self) -> Arc<T> {
        self.hold.snapshot()
    }
}

impl<T: Value> Deref for ReadGuard<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        self.hold.value()
    }
}

impl<T: Value + fmt::Debug> fmt::Debug for ReadGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadGuard").field(&self.id()).field(&**self).finish()
    }
}

/// The only copy in the cluster, to change. [`put`](WriteGuard::put) publishes; dropping the guard
/// discards what was changed.
///
/// ```
/// # let nodes = kddm::Node::local_cluster(1)?;
/// # let set: kddm::Set<String> = nodes[0].set("guards").open().wait()?;
/// let mut text = set.grab(1).wait()?;
/// text.push_str("kept");
/// text.put().wait()?;
/// set.grab(1).wait()?.push_str("discarded with its guard");
/// assert_eq!(*set.get(1).wait()?, "kept");
/// # Ok::<(), kddm::Error>(())
/// ```
#[must_use = "the object is held until the guard is put or dropped"]
pub struct WriteGuard<T: Value> {
    hold: Told<WriteHold<T>, Lanes>,
}

impl<T: Value> WriteGuard<T> {
    /// The object has a value.
    #[inline(always)]
    pub(crate) fn new(hold: WriteHold<T>) -> WriteGuard<T> {
        WriteGuard { hold: Told::new(hold) }
    }

    /// The object's id.
    pub fn id(&self) -> u64 {
        self.hold.id()
    }

    /// How many puts the value has seen, without this one.
    pub fn version(&self) -> u64 {
        self.hold.version()
    }

    /// The tenure of this node's ownership: a fencing token, greater at every change of owner. Zero once
    /// the node is gone.
    pub fn tenure(&self) -> u64 {
        tenure(self.hold.table(), self.id())
    }

    /// Whether a put could still reach anybody. Ask before a side effect outside the cluster that must
    /// not happen without it.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(1)?;
    /// # let set: kddm::Set<String> = nodes[0].set("guards").open().wait()?;
    /// let text = set.grab(1).wait()?;
    /// text.check()?;
    /// nodes[0].destroy_set("guards", std::time::Duration::ZERO).wait()?;
    /// assert!(text.check().is_err(), "whoever holds an object when its set is destroyed is told so");
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`ReadGuard::check`].
    pub fn check(&self) -> Result<(), Error> {
        check(self.hold.table(), self.id(), self.hold.ended())
    }

    /// Publishes the value and releases the object. Others may have it now.
    ///
    /// # Errors
    /// `TooLarge` or `Encode`: the old value stays, and the object is released. `Destroyed`, `Stopped` or
    /// `Fenced`: the set, the node or its lease has ended meanwhile.
    #[inline(always)]
    pub fn put(self) -> Pending<()> {
        if !self.hold.is_plain() {
            return self.put_slowly();
        }
        if let Err(error) = may_put(&self.hold) {
            // What was changed is discarded with the guard.
            return Pending::ready(Err(error));
        }
        self.hold.publish();
        Pending::hit(())
    }

    /// Whether the value, as it is now, is not too large to be put.
    pub(crate) fn may_be_put(&self) -> Result<(), Error> {
        may_put(&self.hold)
    }

    /// The value, as it is now.
    pub(crate) fn clone_value(&self) -> T {
        T::clone(self)
    }

    /// The node needs a lease, which is looked at, or the objects are not its own.
    #[inline(never)]
    fn put_slowly(self) -> Pending<()> {
        match self.publish() {
            Ok(None) => Pending::hit(()),
            Ok(Some(put)) => Pending::asked(put),
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// As [`Self::put`], and what is still to be waited for.
    pub(crate) fn publish(self) -> Result<Option<Put>, Error> {
        if !self.hold.is_plain_now() {
            return self.publish_elsewhere();
        }
        may_put(&self.hold)?;
        self.hold.publish();
        Ok(None)
    }

    /// The table has ended, or replicas are kept of its objects, or they are lent to this process by a node.
    #[cold]
    fn publish_elsewhere(self) -> Result<Option<Put>, Error> {
        let checked = match self.hold.ended() {
            Some(ended) => Err(ended.into()),
            None if !self.hold.lease_is_valid() => Err(AccessError::Fenced.into()),
            None => may_put(&self.hold),
        };
        let found = told::find(self.hold.table()).ok_or(MembershipError::Stopped.into());
        // What was changed is discarded with the guard if there is an error.
        let (here, limit) = checked.and(found)?;
        if self.hold.is_linked()
            && let Some(linked) = here.linked::<T>()
        {
            return linked.put(&here, self.hold, limit);
        }
        if here.has_replicas() { self.publish_replicated(&here, limit) } else { self.publish_at_lender(&here, limit) }
    }

    fn publish_replicated(self, here: &SetHere, limit: Duration) -> Result<Option<Put>, Error> {
        let mut value = Vec::new();
        encode(&*self, &mut value)?;
        let (object, mut hold) = (self.id(), self.hold);
        let publish = || {
            let version = hold.publish_and_hold();
            (version, Box::new(move || _ = hold.end_untold()) as Box<dyn FnOnce() + Send>)
        };
        let op = here.put_replicated(object, value, publish)?;
        Ok(Some(Put { op, limit }))
    }

    fn publish_at_lender(self, here: &SetHere, limit: Duration) -> Result<Option<Put>, Error> {
        let mut value = Vec::new();
        encode(&*self, &mut value)?;
        let (object, version, mut hold) = (self.id(), self.version() + 1, self.hold);
        let publish = move || {
            let _as_the_node_was_told = hold.publish_and_hold();
            Box::new(move || hold.end_untold()) as EndOfHold
        };
        let waits = here.put_at_lender(object, version, &value, publish)?;
        Ok(waits.map(|op| Put { op, limit }))
    }

    /// Removes the object everywhere, before anybody else has it. The wait has the limit of the handle by which the set was opened
    /// here last.
    pub fn remove(self) -> Pending<()> {
        let (found, object) = (told::find(self.hold.table()), self.id());
        match (found, self.hold.ended()) {
            (Some((here, limit)), _) => {
                let hold = self.hold;
                if hold.is_linked()
                    && let Some(linked) = here.linked::<T>()
                {
                    let op = linked.remove(&here, hold);
                    return Pending::asked(Plain(Request::under_way(here, object, REMOVE, op, limit)));
                }
                Pending::asked(Plain(Request::remove_held(here, object, limit, || _ = hold.end_untold())))
            }
            (None, Some(ended)) => Pending::ready(Err(ended.into())),
            (None, None) => Pending::ready(Err(MembershipError::Stopped.into())),
        }
    }
}

fn tenure(table: u64, object: u64) -> u64 {
    told::find(table).map_or(0, |(here, _)| here.tenure(object))
}

fn check(table: u64, object: u64, ended: Option<Ended>) -> Result<(), Error> {
    if let Some(ended) = ended {
        return Err(ended.into());
    }
    match told::find(table) {
        None => Err(MembershipError::Stopped.into()),
        Some((here, _)) if here.runtime.lease.is_valid() => here.is_held_still(object),
        Some(_) => Err(AccessError::Fenced.into()),
    }
}

/// Whether what was changed may be published.
#[inline(always)]
fn may_put<T: Value>(hold: &WriteHold<T>) -> Result<(), Error> {
    hold.changed().map_or(Ok(()), |value| check_size(value, hold.limit_bytes()))
}

pub(crate) fn encode<T: Value>(value: &T, bytes: &mut Vec<u8>) -> Result<(), Error> {
    value.encode(bytes).map_err(|error| AccessError::Encode { reason: error.to_string() }.into())
}

/// Whether a value may be published.
#[inline(always)]
pub(crate) fn check_size<T: Value>(value: &T, limit_bytes: usize) -> Result<(), Error> {
    match value.encoded_len(limit_bytes) {
        Ok(bytes) if bytes <= limit_bytes => Ok(()),
        other => Err(wrong_size(other, limit_bytes)),
    }
}

#[cold]
fn wrong_size(length: Result<usize, EncodeError>, limit_bytes: usize) -> Error {
    match length {
        Ok(bytes) => AccessError::TooLarge { bytes, limit_bytes }.into(),
        Err(error) => AccessError::Encode { reason: error.to_string() }.into(),
    }
}

impl<T: Value> Deref for WriteGuard<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        self.hold.value().expect("a granted object has a value")
    }
}

impl<T: Value> DerefMut for WriteGuard<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        self.hold.change().expect("a granted object has a value")
    }
}

impl<T: Value + fmt::Debug> fmt::Debug for WriteGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WriteGuard").field(&self.id()).field(&**self).finish()
    }
}
