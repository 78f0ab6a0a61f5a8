//! A set: a cluster-wide container of shared objects of one type.

use std::sync::Arc;
use std::time::Duration;

use kddm_core::id::{NodeId, ObjectId};
use kddm_core::message::RequestKind;

use crate::cell::{Lease, ReadHold, Slow, Table, WriteHold};
use crate::error::{AccessError, Error};
use crate::guard::{ReadGuard, WriteGuard, check_size};
use crate::holder::Holder;
use crate::linker::Linked;
use crate::node::Owner;
use crate::object_ref::ObjectRef;
use crate::operation::{Asked, Get, Grab, Make, Plain, Published, Request, Then, Update};
use crate::pending::{Late, Pending};
use crate::runtime::local::Wish;
use crate::runtime::told::SetHere;
use crate::value::Value;

/// What all handles of one set on one node share.
pub(crate) struct Shared<T: Value> {
    pub here: SetHere,
    /// The node goes on as long as one of its sets is in use.
    pub _node: Arc<Owner>,
    pub name: String,
    pub table: Arc<Table<T>>,
    pub first_touch: Make<T>,
    pub wait_limit: Duration,
    /// What stands behind it, if anything does.
    pub linked: Option<Arc<Linked<T>>>,
    /// That of the node, one step away: each hit looks at it.
    pub lease: Arc<Lease>,
}

pub(crate) const GRAB: Wish = Wish::Request(RequestKind::Grab { existing: false });

impl<T: Value> Shared<T> {
    #[inline(always)]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// A hold went back because its bytes do not decode.
    pub fn undecodable(&self, object: u64) {
        self.here.lane(object).lock().statistics.undecodable += 1;
        self.here.released(object);
    }

    /// The table's fast path to read.
    #[inline(always)]
    pub fn try_read(&self, object: u64) -> Result<ReadHold<T>, Slow> {
        match self.table.try_read(object) {
            Ok(hold) => Ok(hold),
            Err(slow) => Err(self.told(slow)),
        }
    }

    /// The table's fast path to write.
    #[inline(always)]
    pub fn try_write(&self, object: u64) -> Result<WriteHold<T>, Slow> {
        match self.table.try_write(object) {
            Ok(hold) => Ok(hold),
            Err(slow) => Err(self.told(slow)),
        }
    }

    /// An attempt may have been seen for a moment by a driver that looked for holders: it waits to be
    /// told, even if the caller goes away.
    #[cold]
    pub fn told(&self, slow: Slow) -> Slow {
        if let Slow::Interrupted(object) = slow {
            self.here.released(object);
        }
        slow
    }

    /// A guard for a read hold, if the lease allows it.
    #[inline(always)]
    pub fn read_guard(&self, hold: ReadHold<T>) -> Result<ReadGuard<T>, Slow> {
        if self.lease().is_valid() {
            return Ok(ReadGuard::new(hold));
        }
        drop(ReadGuard::new(hold));
        Err(Slow::NoAccess)
    }

    /// A guard for a write hold that the fast path has got.
    #[inline(always)]
    pub fn pending(
        self: &Arc<Self>,
        hold: WriteHold<T>,
        object: u64,
        wish: Wish,
        make: Option<&Make<T>>,
        by: Option<&Holder>,
    ) -> Pending<WriteGuard<T>> {
        if hold.has_value() && self.lease().is_not_needed() {
            return Pending::hit(WriteGuard::new(hold));
        }
        Pending::late(self.guard_slowly(hold.afresh(), object, wish, make, by))
    }

    /// A guard for a write hold. An object without a value gets its first one here, in the thread
    /// that wants it; an *existing* request does not create one.
    pub fn guard(
        &self,
        mut hold: WriteHold<T>,
        object: u64,
        wish: Wish,
        make: Option<&Make<T>>,
    ) -> Result<WriteGuard<T>, Error> {
        let prepared = if !self.lease().is_valid() {
            Err(AccessError::Fenced.into())
        } else if hold.has_value() {
            Ok(())
        } else if wish.is_existing() {
            Err(AccessError::NotFound.into())
        } else {
            let value = make.unwrap_or(&self.first_touch)(object);
            check_size(&value, hold.limit_bytes()).map(|()| hold.initialize(value))
        };
        match prepared {
            Ok(()) => Ok(WriteGuard::new(hold)),
            Err(error) => {
                if hold.release() {
                    self.here.released(object);
                }
                Err(error)
            }
        }
    }

    pub(crate) fn plain(&self, object: u64, wish: Wish) -> Pending<()> {
        Pending::asked(Plain(Request::new(self.here.clone(), object, wish, self.wait_limit)))
    }

    /// A conflict of this thread, or of a holder, with itself would only end at the limit: it is an
    /// error instead.
    pub fn conflict(&self, object: u64, wants_write: bool, by: Option<&Holder>) -> Option<Error> {
        let hold = self.table.held_by(object, by.map(Holder::notes))?;
        let error = match by {
            None => AccessError::HeldByThisThread { object, hold },
            Some(holder) => AccessError::HeldByThisHolder { holder: holder.name().into(), object, hold },
        };
        (wants_write || hold == "write").then(|| error.into())
    }

    /// As [`Self::try_read`], by a holder if there is one.
    pub fn try_read_by(&self, object: u64, by: Option<&Holder>) -> Result<ReadHold<T>, Slow> {
        match by {
            None => self.try_read(object),
            Some(holder) => self.table.try_read_by(object, holder.notes()).map_err(|slow| self.told(slow)),
        }
    }

    /// As [`Self::try_write`], by a holder if there is one.
    pub fn try_write_by(&self, object: u64, by: Option<&Holder>) -> Result<WriteHold<T>, Slow> {
        match by {
            None => self.try_write(object),
            Some(holder) => self.table.try_write_by(object, holder.notes()).map_err(|slow| self.told(slow)),
        }
    }
}

/// Changes what has been grabbed, and puts it: what `change` says, and what is still to be waited for.
pub(crate) fn publishing<T: Value, R>(
    change: impl FnOnce(&mut T) -> Result<R, Error>,
) -> impl FnOnce(WriteGuard<T>) -> Result<Published<R>, Error> {
    move |mut guard| {
        let result = change(&mut guard)?;
        Ok(Published { result: Some(result), put: guard.publish()? })
    }
}

/// A handle to a set. Clones are handles to the same set.
///
/// ```
/// # let nodes = kddm::Node::local_cluster(2)?;
/// let here: kddm::Set<u64> = nodes[0].set("counters").open().wait()?;
/// let there: kddm::Set<u64> = nodes[1].set("counters").open().wait()?;
/// here.update(1, |count| { *count += 1; Ok(()) }).wait()?;
/// assert_eq!(*there.get(1).wait()?, 1);
/// # Ok::<(), kddm::Error>(())
/// ```
pub struct Set<T: Value>(pub(crate) Arc<Shared<T>>);

impl<T: Value> Clone for Set<T> {
    fn clone(&self) -> Set<T> {
        Set(Arc::clone(&self.0))
    }
}

impl<T: Value> Set<T> {
    /// The name under which the set was opened.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A read copy, from here or from its owner. An object that does not exist is created (first
    /// touch). Keeps writers out until the guard is dropped. Whoever reads the object already and gets it
    /// once more may come behind a writer that waits for the first read, and only the limit ends that: use
    /// the guard that is there.
    ///
    /// # Errors
    /// `TimedOut` or `Unreachable` at the limit, `Decode`, `HeldByThisThread`.
    #[inline(always)]
    pub fn get(&self, object: u64) -> Pending<ReadGuard<T>> {
        self.get_kind(object, false)
    }

    /// As [`get`](Set::get), but an object that does not exist is `NotFound` and stays so.
    #[inline]
    pub fn get_existing(&self, object: u64) -> Pending<ReadGuard<T>> {
        self.get_kind(object, true)
    }

    #[inline(always)]
    fn get_kind(&self, object: u64, existing: bool) -> Pending<ReadGuard<T>> {
        match self.try_read(object) {
            Ok(guard) => Pending::hit(guard),
            Err(_) => Pending::late(self.get_slowly(object, existing)),
        }
    }

    #[cold]
    fn get_slowly(&self, object: u64, existing: bool) -> Late<ReadGuard<T>> {
        Late::asked(Get(self.asked(object, Wish::Request(RequestKind::Get { existing }))))
    }

    #[inline(always)]
    fn try_read(&self, object: u64) -> Result<ReadGuard<T>, Slow> {
        self.0.read_guard(self.0.try_read(object)?)
    }

    fn asked(&self, object: u64, wish: Wish) -> Asked<T> {
        Asked::new(&self.0, object, wish, None, None)
    }

    /// The only copy in the cluster, to change; all others are gone when this is granted.
    ///
    /// # Errors
    /// As [`get`](Set::get).
    #[inline(always)]
    pub fn grab(&self, object: u64) -> Pending<WriteGuard<T>> {
        self.grab_wish(object, GRAB, None)
    }

    /// As [`grab`](Set::grab), but an object that does not exist is `NotFound` and stays so.
    #[inline]
    pub fn grab_existing(&self, object: u64) -> Pending<WriteGuard<T>> {
        self.grab_wish(object, Wish::Request(RequestKind::Grab { existing: true }), None)
    }

    /// As [`grab`](Set::grab); if the object does not exist, `make` makes its first value.
    pub fn grab_or_insert_with(
        &self,
        object: u64,
        make: impl Fn() -> T + Send + Sync + 'static,
    ) -> Pending<WriteGuard<T>> {
        let make: Make<T> = Arc::new(move |_| make());
        self.grab_wish(object, GRAB, Some(make))
    }

    /// As [`grab`](Set::grab), but `Busy` instead of waiting for whoever holds the object. Then it
    /// has left no trace.
    pub fn try_grab(&self, object: u64) -> Pending<WriteGuard<T>> {
        self.grab_wish(object, Wish::Request(RequestKind::TryGrab), None)
    }

    #[inline(always)]
    fn grab_wish(&self, object: u64, wish: Wish, make: Option<Make<T>>) -> Pending<WriteGuard<T>> {
        match self.0.try_write(object) {
            Ok(hold) => self.0.pending(hold, object, wish, make.as_ref(), None),
            Err(_) => Pending::late(self.grab_slowly(object, wish, make)),
        }
    }

    #[cold]
    fn grab_slowly(&self, object: u64, wish: Wish, make: Option<Make<T>>) -> Late<WriteGuard<T>> {
        if wish.is_try() && self.0.table.held_by_this_thread(object).is_some() {
            return Late::failed(AccessError::Busy);
        }
        Late::asked(Grab(Asked::new(&self.0, object, wish, make, None)))
    }

    /// `get` after a handle found no hit.
    #[cold]
    pub(crate) fn get_after(&self, object: u64, slow: Slow) -> Late<ReadGuard<T>> {
        self.0.told(slow);
        match self.try_read(object) {
            Ok(guard) => Late::settled(Ok(guard)),
            Err(_) => self.get_slowly(object, false),
        }
    }

    /// `grab` after a handle found no hit.
    #[cold]
    pub(crate) fn grab_after(&self, object: u64, slow: Slow) -> Late<WriteGuard<T>> {
        self.0.told(slow);
        match self.0.try_write(object) {
            Ok(hold) => self.0.guard_slowly(hold, object, GRAB, None, None),
            Err(_) => self.grab_slowly(object, GRAB, None),
        }
    }

    /// The local copy, if there is one that may be read: never a message, never a wait.
    pub fn find(&self, object: u64) -> Option<ReadGuard<T>> {
        match self.try_read(object) {
            Ok(guard) => Some(guard),
            Err(Slow::Undecoded) => self.decode(object),
            Err(_) => None,
        }
    }

    /// A copy that has just arrived is bytes: its first reader has the lane decode it.
    #[cold]
    fn decode(&self, object: u64) -> Option<ReadGuard<T>> {
        let hold = self.0.here.lane(object).lock().take_read(self.0.here.set, ObjectId(object))?;
        match self.0.table.adopt_read(hold) {
            Ok(hold) => {
                let guard = ReadGuard::new(hold);
                self.0.lease().is_valid().then_some(guard)
            }
            Err(_) => {
                self.0.undecodable(object);
                None
            }
        }
    }

    /// The value as of now, for as long as you like; keeps nobody out.
    pub fn snapshot(&self, object: u64) -> Pending<Arc<T>> {
        match self.try_read(object) {
            Ok(guard) => Pending::hit(guard.snapshot()),
            Err(_) => Pending::late(self.get_and_then(object, |guard| Ok(guard.snapshot()))),
        }
    }

    pub(crate) fn get_and_then<R: Send + 'static>(
        &self,
        object: u64,
        then: impl FnOnce(ReadGuard<T>) -> Result<R, Error> + Send + 'static,
    ) -> Late<R> {
        match self.try_read(object) {
            Ok(guard) => Late::settled(then(guard)),
            Err(_) => {
                let wish = Wish::Request(RequestKind::Get { existing: false });
                Late::asked(Then { operation: Get(self.asked(object, wish)), then: Some(then) })
            }
        }
    }

    /// Grab, change, put. If `change` returns an error nothing is published.
    pub fn update<R: Send + 'static>(
        &self,
        object: u64,
        change: impl FnOnce(&mut T) -> Result<R, Error> + Send + 'static,
    ) -> Pending<R> {
        let then = publishing(change);
        match self.0.try_write(object) {
            Ok(hold) => self.0.update_held(hold, None, then),
            Err(_) => Pending::asked(Update::new(Grab(self.asked(object, GRAB)), then)),
        }
    }

    /// Makes a copy local and holds nothing: a later `get` finds it here. It goes on if the answer is
    /// dropped: that is how to ask for something in advance. What exists nowhere is not made; in a set with a linker it is
    /// read.
    pub fn fetch(&self, object: u64) -> Pending<()> {
        self.0.fetch(object, Wish::Fetch)
    }

    /// Makes ownership local and holds nothing: a later `grab` finds it here. Goes on like
    /// [`fetch`](Set::fetch) if the answer is dropped.
    pub fn acquire(&self, object: u64) -> Pending<()> {
        self.0.fetch(object, Wish::Acquire)
    }

    /// Fetches a range, all requests at once. Ask for less than the node's outstanding limit.
    pub fn prefetch(&self, objects: impl IntoIterator<Item = u64>) -> Vec<Pending<()>> {
        objects.into_iter().map(|object| self.fetch(object)).collect()
    }

    /// Removes the object everywhere; waits for its holders. The next access is a fresh first touch.
    ///
    /// # Errors
    /// `RemoveUnconfirmed` at the limit: the remove may still happen.
    pub fn remove(&self, object: u64) -> Pending<()> {
        match self.0.conflict(object, true, None) {
            Some(error) => Pending::ready(Err(error)),
            None => self.0.remove(object),
        }
    }

    /// Gives up this node's copy. The last copy and the ownership move first: to the node `to`, else
    /// to a sharer, else to the object's home. The only copy at its home stays.
    pub fn flush(&self, object: u64, to: Option<u16>) -> Pending<()> {
        let to = NodeId(to.unwrap_or(0));
        if let Some(error) = self.0.here.runtime.not_to_be_reached(to) {
            return Pending::ready(Err(error));
        }
        match self.0.conflict(object, true, None) {
            Some(error) => Pending::ready(Err(error)),
            None => self.0.plain(object, Wish::Request(RequestKind::Flush { to })),
        }
    }

    /// Accepts that the object is gone, if it is [`Lost`](AccessError::Lost): it has never existed from then on, and
    /// its next access is a first touch. This cannot be undone: if a member comes back that has it, that copy is
    /// dropped.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(2)?;
    /// # let set: kddm::Set<u64> = nodes[0].set("accepted").open().wait()?;
    /// set.grab(1).wait()?.put().wait()?;
    /// let refused = set.accept_loss(1).wait().unwrap_err();
    /// assert!(matches!(refused, kddm::Error::Access(kddm::AccessError::NotLost { .. })));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotLost` if it is there, or does not exist: nothing was changed; and what a get can meet.
    pub fn accept_loss(&self, object: u64) -> Pending<()> {
        self.0.here.clone().accept_loss(self.name().into(), object, self.0.wait_limit)
    }

    /// Accepts all that is lost of the set, and all of it of which nobody can say whether it is, on all members: as
    /// if the set had been made just now, but for what is there, which stays as it is. This cannot be undone. Goes
    /// on if the answer is dropped.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(2)?;
    /// # let set: kddm::Set<u64> = nodes[0].set("accepted").open().wait()?;
    /// let refused = set.accept_losses().wait().unwrap_err(); // No member was lost.
    /// assert!(matches!(refused, kddm::Error::Set(kddm::SetError::NothingLost { .. })));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NothingLost` if no loss of members was beyond what the set survives; `AcceptanceUnconfirmed` names a member that
    /// could not be told; `CutShort` if another one was lost meanwhile: accept it again.
    pub fn accept_losses(&self) -> Pending<()> {
        self.0.here.clone().accept_losses(self.name().into(), self.0.wait_limit)
    }

    /// A handle to one object: the shortest way to it, without a map.
    pub fn object(&self, object: u64) -> ObjectRef<T> {
        ObjectRef::new(self.clone(), object)
    }

    /// Changes that were discarded with their guard, on this node.
    pub fn discarded_changes(&self) -> u64 {
        self.0.table.discarded()
    }

    /// Objects of which this node has a copy.
    pub fn local_count(&self) -> usize {
        self.0.table.value_count()
    }

    /// Bytes this node spends on the set besides the values: cells, records, directory, indexes.
    pub fn metadata_bytes(&self) -> usize {
        self.0.here.runtime.core_memory_bytes(self.0.here.set) + self.0.table.metadata_bytes()
    }
}

impl<P: crate::value::PodValue> Set<crate::value::Pod<P>> {
    /// The local copy, copied out, if there is a valid one: never a message, and nothing is written.
    #[inline]
    pub fn try_read_pod(&self, object: u64) -> Option<P> {
        // As `ObjectRef::try_read`.
        match self.0.table.pod_glance(object) {
            Some(value) if self.0.lease().is_not_needed() => Some(value.0),
            _ => self.try_read_pod_again(object),
        }
    }

    #[inline(never)]
    fn try_read_pod_again(&self, object: u64) -> Option<P> {
        let value = self.0.table.pod_read(object)?;
        // The lease is looked at after the value: it was valid when the value was read.
        self.0.lease().is_valid().then_some(value.0)
    }
}

impl<T: Value> std::fmt::Debug for Set<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Set").field("name", &self.0.name).field("id", &self.0.here.set).finish()
    }
}
