//! A set: a cluster-wide container of shared objects of one type.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kddm_core::id::{NodeId, ObjectId, SetId};
use kddm_core::message::RequestKind;

use crate::cell::{Lease, ReadHold, Slow, Table, WriteHold};
use crate::error::{AccessError, Error, WaitingFor};
use crate::guard::{ReadGuard, WriteGuard, no_duplicates};
use crate::object_ref::ObjectRef;
use crate::operation::{Asked, Get, Grab, Make, Plain, Then};
use crate::pending::Pending;
use crate::runtime::Runtime;
use crate::runtime::lane::Lane;
use crate::runtime::local::Wish;
use crate::runtime::wait::Op;
use crate::value::Value;

/// What all handles of one set on one node share.
pub(crate) struct Shared<T: Value> {
    pub runtime: Arc<Runtime>,
    pub set: SetId,
    pub name: String,
    pub table: Arc<Table<T>>,
    pub first_touch: Make<T>,
    pub wait_limit: Duration,
    pub discarded: AtomicU64,
}

impl<T: Value> Shared<T> {
    pub fn lane(&self, object: u64) -> &Arc<Lane> {
        self.runtime.lane(self.set, ObjectId(object))
    }

    pub fn lease(&self) -> &Lease {
        &self.runtime.lease
    }

    pub fn ask(&self, object: u64, wish: Wish, claimed: bool) -> Arc<Op> {
        let lane = self.lane(object);
        let op = Arc::new(Op::new(Arc::clone(lane)));
        if claimed {
            op.claim();
        }
        let mut state = lane.lock();
        state.ask(self.set, ObjectId(object), wish, Arc::clone(&op));
        lane.finish(state);
        op
    }

    pub fn released(&self, object: u64) {
        let lane = self.lane(object);
        let mut state = lane.lock();
        state.released(self.set, ObjectId(object));
        lane.finish(state);
    }

    /// A hold went back because its bytes do not decode.
    pub fn undecodable(&self, object: u64) {
        self.lane(object).lock().statistics.undecodable += 1;
        self.released(object);
    }

    /// The table's fast path to read.
    #[inline]
    pub fn try_read(&self, object: u64) -> Result<ReadHold<T>, Slow> {
        self.table.try_read(object).inspect_err(|slow| self.tell(*slow))
    }

    /// The table's fast path to write.
    #[inline]
    pub fn try_write(&self, object: u64) -> Result<WriteHold<T>, Slow> {
        self.table.try_write(object).inspect_err(|slow| self.tell(*slow))
    }

    /// An attempt may have been seen for a moment by a driver that looked for holders: it waits to be
    /// told, even if the caller goes away.
    #[cold]
    pub fn tell(&self, slow: Slow) {
        if let Slow::Interrupted(object) = slow {
            self.released(object);
        }
    }

    /// Who is waited for by whoever wants the object.
    pub fn waiting_for(&self, object: u64) -> WaitingFor {
        self.lane(object).lock().waiting_for(self.set, ObjectId(object))
    }

    pub fn tenure(&self, object: u64) -> u64 {
        let state = self.lane(object).lock();
        state.core.inspect(self.set, ObjectId(object)).map_or(0, |seen| seen.seen.0)
    }

    pub fn check_size(&self, value: &T) -> Result<(), Error> {
        let limit_bytes = self.runtime.limits.object_bytes;
        match value.encoded_len(limit_bytes) {
            Ok(bytes) if bytes <= limit_bytes => Ok(()),
            Ok(bytes) => Err(AccessError::TooLarge { bytes, limit_bytes }.into()),
            Err(error) => Err(AccessError::Encode { reason: error.to_string() }.into()),
        }
    }

    /// A guard for a write hold. An object without a value gets its first one here, in the thread
    /// that wants it; an *existing* request does not create one.
    pub fn guard(
        self: &Arc<Self>,
        mut hold: WriteHold<T>,
        object: u64,
        wish: Wish,
        make: Option<&Make<T>>,
    ) -> Result<WriteGuard<T>, Error> {
        let prepared = if !self.lease().is_valid() {
            Err(AccessError::Fenced.into())
        } else if hold.value().is_some() {
            Ok(())
        } else if wish.is_existing() {
            Err(AccessError::NotFound.into())
        } else {
            let value = make.unwrap_or(&self.first_touch)(object);
            self.check_size(&value).map(|()| hold.initialize(value))
        };
        match prepared {
            Ok(()) => Ok(WriteGuard { hold: Some(hold), changed: None, shared: Arc::clone(self), object }),
            Err(error) => {
                if hold.release() {
                    self.released(object);
                }
                Err(error)
            }
        }
    }

    pub fn count_discarded(&self) {
        self.discarded.fetch_add(1, Ordering::Relaxed);
    }

    pub fn remove(self: &Arc<Self>, object: u64) -> Pending<()> {
        self.plain(object, Wish::Request(RequestKind::Remove))
    }

    fn plain(self: &Arc<Self>, object: u64, wish: Wish) -> Pending<()> {
        Pending::asked(Plain(Asked::new(self, object, wish, None)))
    }

    /// A conflict of this thread with itself would only end at the limit: it is an error instead.
    fn conflict(&self, object: u64, wants_write: bool) -> Option<Error> {
        let hold = self.table.held_by_this_thread(object)?;
        (wants_write || hold == "write").then(|| AccessError::HeldByThisThread { object, hold }.into())
    }
}

/// A handle to a set. Clones are handles to the same set.
///
/// ```
/// # let nodes = kddm::Node::local_cluster(2)?;
/// let here: kddm::Set<u64> = nodes[0].set("counters").open()?;
/// let there: kddm::Set<u64> = nodes[1].set("counters").open()?;
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
    /// touch). Keeps writers out until the guard is dropped.
    ///
    /// # Errors
    /// `TimedOut` or `Unreachable` at the limit, `Decode`, `HeldByThisThread`.
    pub fn get(&self, object: u64) -> Pending<ReadGuard<T>> {
        self.get_kind(object, false)
    }

    /// As [`get`](Set::get), but an object that does not exist is `NotFound` and stays so.
    pub fn get_existing(&self, object: u64) -> Pending<ReadGuard<T>> {
        self.get_kind(object, true)
    }

    fn get_kind(&self, object: u64, existing: bool) -> Pending<ReadGuard<T>> {
        match self.try_read(object) {
            Ok(guard) => Pending::ready(Ok(guard)),
            Err(_) => match self.0.conflict(object, false) {
                Some(error) => Pending::ready(Err(error)),
                None => Pending::asked(Get(self.asked(object, Wish::Request(RequestKind::Get { existing })))),
            },
        }
    }

    fn try_read(&self, object: u64) -> Result<ReadGuard<T>, Slow> {
        let hold = self.0.try_read(object)?;
        let guard = ReadGuard { hold: Some(hold), object };
        if self.0.lease().is_valid() { Ok(guard) } else { Err(Slow::NoAccess) }
    }

    fn asked(&self, object: u64, wish: Wish) -> Asked<T> {
        Asked::new(&self.0, object, wish, None)
    }

    /// The only copy in the cluster, to change; all others are gone when this is granted.
    ///
    /// # Errors
    /// As [`get`](Set::get).
    pub fn grab(&self, object: u64) -> Pending<WriteGuard<T>> {
        self.grab_wish(object, Wish::Request(RequestKind::Grab { existing: false }), None)
    }

    /// As [`grab`](Set::grab), but an object that does not exist is `NotFound` and stays so.
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
        self.grab_wish(object, Wish::Request(RequestKind::Grab { existing: false }), Some(make))
    }

    /// As [`grab`](Set::grab), but `Busy` instead of waiting for whoever holds the object. Then it
    /// has left no trace.
    pub fn try_grab(&self, object: u64) -> Pending<WriteGuard<T>> {
        self.grab_wish(object, Wish::Request(RequestKind::TryGrab), None)
    }

    fn grab_wish(&self, object: u64, wish: Wish, make: Option<Make<T>>) -> Pending<WriteGuard<T>> {
        match self.0.try_write(object) {
            Ok(hold) => Pending::ready(self.0.guard(hold, object, wish, make.as_ref())),
            Err(_) if wish.is_try() && self.0.table.held_by_this_thread(object).is_some() => {
                Pending::ready(Err(AccessError::Busy.into()))
            }
            Err(_) => match self.0.conflict(object, true) {
                Some(error) => Pending::ready(Err(error)),
                None => Pending::asked(Grab(Asked::new(&self.0, object, wish, make))),
            },
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
        let hold = self.0.lane(object).lock().take_read(self.0.set, ObjectId(object))?;
        match self.0.table.adopt_read(hold) {
            Ok(hold) => {
                let guard = ReadGuard { hold: Some(hold), object };
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
            Ok(guard) => Pending::ready(Ok(guard.snapshot())),
            Err(_) => Pending::asked(Then {
                operation: Get(self.asked(object, Wish::Request(RequestKind::Get { existing: false }))),
                then: Some(|guard: ReadGuard<T>| Ok(guard.snapshot())),
            }),
        }
    }

    /// Grab, change, put. If `change` returns an error nothing is published.
    pub fn update<R: Send + 'static>(
        &self,
        object: u64,
        change: impl FnOnce(&mut T) -> Result<R, Error> + Send + 'static,
    ) -> Pending<R> {
        let then = move |mut guard: WriteGuard<T>| {
            let result = change(&mut guard)?;
            guard.put().wait()?;
            Ok(result)
        };
        match self.0.try_write(object) {
            Ok(hold) => {
                let wish = Wish::Request(RequestKind::Grab { existing: false });
                Pending::ready(self.0.guard(hold, object, wish, None).and_then(then))
            }
            Err(_) => match self.0.conflict(object, true) {
                Some(error) => Pending::ready(Err(error)),
                None => {
                    let asked = self.asked(object, Wish::Request(RequestKind::Grab { existing: false }));
                    Pending::asked(Then { operation: Grab(asked), then: Some(then) })
                }
            },
        }
    }

    /// Makes a copy local and holds nothing: a later `get` finds it here.
    pub fn fetch(&self, object: u64) -> Pending<()> {
        self.0.plain(object, Wish::Fetch)
    }

    /// Makes ownership local and holds nothing: a later `grab` finds it here.
    pub fn acquire(&self, object: u64) -> Pending<()> {
        self.0.plain(object, Wish::Acquire)
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
        match self.0.conflict(object, true) {
            Some(error) => Pending::ready(Err(error)),
            None => self.0.remove(object),
        }
    }

    /// Gives up this node's copy. The last copy and the ownership move first: to the node `to`, else
    /// to a sharer, else to the object's home. The only copy at its home stays.
    pub fn flush(&self, object: u64, to: Option<u16>) -> Pending<()> {
        let to = NodeId(to.unwrap_or(0));
        if let Some(error) = self.0.runtime.not_to_be_reached(to) {
            return Pending::ready(Err(error));
        }
        match self.0.conflict(object, true) {
            Some(error) => Pending::ready(Err(error)),
            None => self.0.plain(object, Wish::Request(RequestKind::Flush { to })),
        }
    }

    /// Several read copies, all or nothing. Missing ones are asked for all at once.
    ///
    /// # Errors
    /// The first error; then nothing is held.
    pub fn get_many(&self, objects: &[u64]) -> Result<Vec<ReadGuard<T>>, Error> {
        let order = no_duplicates(objects)?;
        let _on_their_way = self.prefetch(objects.iter().copied().filter(|object| !self.0.table.may_read(*object)));
        let mut guards: Vec<Option<ReadGuard<T>>> = objects.iter().map(|_| None).collect();
        for at in order {
            guards[at] = Some(self.get(objects[at]).wait()?);
        }
        Ok(guards.into_iter().flatten().collect())
    }

    /// Several objects to change, all or nothing, taken in one order by everybody so that two of
    /// these cannot wait for each other.
    ///
    /// # Errors
    /// The first error; then nothing is held.
    pub fn grab_many(&self, objects: &[u64]) -> Result<Vec<WriteGuard<T>>, Error> {
        let order = no_duplicates(objects)?;
        let mut guards: Vec<Option<WriteGuard<T>>> = objects.iter().map(|_| None).collect();
        for at in order {
            guards[at] = Some(self.grab(objects[at]).wait()?);
        }
        Ok(guards.into_iter().flatten().collect())
    }

    /// A handle to one object: the shortest way to it, without a map.
    pub fn object(&self, object: u64) -> ObjectRef<T> {
        ObjectRef::new(self.clone(), object)
    }

    /// Changes that were discarded with their guard, on this node.
    pub fn discarded_changes(&self) -> u64 {
        self.0.discarded.load(Ordering::Relaxed)
    }

    /// Objects of which this node has a copy.
    pub fn local_count(&self) -> usize {
        self.0.table.value_count()
    }

    /// Bytes this node spends on the set besides the values: cells, records, directory, indexes.
    pub fn metadata_bytes(&self) -> usize {
        self.0.runtime.core_memory_bytes(self.0.set) + self.0.table.metadata_bytes()
    }
}

impl<P: crate::value::PodValue> Set<crate::value::Pod<P>> {
    /// The local copy, copied out, if there is a valid one: never a message, and nothing is written.
    #[inline]
    pub fn try_read_pod(&self, object: u64) -> Option<P> {
        let value = self.0.table.pod_read(object)?;
        // The lease is looked at after the value: it was valid when the value was read.
        self.0.lease().is_valid().then_some(value.0)
    }
}

impl<T: Value> std::fmt::Debug for Set<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Set").field("name", &self.0.name).field("id", &self.0.set).finish()
    }
}
