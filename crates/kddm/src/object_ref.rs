//! A handle to one object: the shortest way to it.

use std::sync::Arc;

use crate::cell::{Handle, Slow};
use crate::guard::{ReadGuard, WriteGuard};
use crate::pending::{Late, Pending};
use crate::set::{GRAB, Set, Shared};
use crate::value::{Pod, PodValue, Value};

/// Remembers where the object's cell is on this node, so that a hit touches no map.
///
/// ```
/// # let nodes = kddm::Node::local_cluster(1)?;
/// use kddm::Pod;
/// let points: kddm::Set<Pod<[u64; 2]>> = nodes[0].set("points").open().wait()?;
/// let point = points.object(7);
/// point.grab().wait()?.put().wait()?;
/// assert_eq!(point.read().wait()?, [0, 0]);
/// # Ok::<(), kddm::Error>(())
/// ```
pub struct ObjectRef<T: Value> {
    set: Set<T>,
    cell: Handle<T>,
}

impl<T: Value> ObjectRef<T> {
    pub(crate) fn new(set: Set<T>, object: u64) -> ObjectRef<T> {
        let cell = Handle::new(set.0.table.clone(), object);
        ObjectRef { set, cell }
    }

    /// The object's id.
    pub fn id(&self) -> u64 {
        self.cell.id()
    }

    #[inline(always)]
    fn shared(&self) -> &Arc<Shared<T>> {
        &self.set.0
    }

    /// As [`Set::get`].
    #[inline(always)]
    pub fn get(&self) -> Pending<ReadGuard<T>> {
        match self.cell.try_read().and_then(|hold| self.shared().read_guard(hold)) {
            Ok(guard) => Pending::hit(guard),
            Err(slow) => Pending::late(self.get_slowly(slow)),
        }
    }

    #[cold]
    fn get_slowly(&self, slow: Slow) -> Late<ReadGuard<T>> {
        let late = self.set.get_after(self.id(), slow);
        self.cell.look_up();
        late
    }

    /// As [`Set::grab`].
    #[inline(always)]
    pub fn grab(&self) -> Pending<WriteGuard<T>> {
        match self.cell.try_write() {
            Ok(hold) => self.shared().pending(hold, self.id(), GRAB, None, None),
            Err(slow) => Pending::late(self.grab_slowly(slow)),
        }
    }

    #[cold]
    fn grab_slowly(&self, slow: Slow) -> Late<WriteGuard<T>> {
        let late = self.set.grab_after(self.id(), slow);
        self.cell.look_up();
        late
    }
}

impl<P: PodValue> ObjectRef<Pod<P>> {
    /// The value as of now, copied out. On a hit nothing is written, not even a counter: any number
    /// of threads read at the same time without slowing each other.
    #[inline]
    pub fn read(&self) -> Pending<P> {
        match self.try_read() {
            Some(value) => Pending::hit(value),
            None => Pending::late(self.read_slowly()),
        }
    }

    /// The local copy, if there is a valid one: never a message.
    #[inline(always)]
    pub fn try_read(&self) -> Option<P> {
        // Whatever is not the ordinary case reads again, apart: the value need not survive a call, and
        // stays in registers until it is where the caller wants it.
        match self.cell.pod_glance() {
            Some(value) if self.shared().lease().is_not_needed() => Some(value.0),
            _ => self.try_read_again(),
        }
    }

    #[inline(never)]
    fn try_read_again(&self) -> Option<P> {
        let value = self.cell.pod_read()?;
        // The lease is looked at after the value: it was valid when the value was read.
        self.shared().lease().is_valid().then_some(value.0)
    }

    #[cold]
    fn read_slowly(&self) -> Late<P> {
        let late = self.set.get_and_then(self.id(), |guard| Ok(guard.0));
        self.cell.look_up();
        late
    }
}

impl<T: Value> Clone for ObjectRef<T> {
    fn clone(&self) -> ObjectRef<T> {
        ObjectRef { set: self.set.clone(), cell: self.cell.clone() }
    }
}
