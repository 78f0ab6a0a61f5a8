//! A handle to one object: the shortest way to it.

use std::sync::atomic::{AtomicU32, Ordering};

use kddm_core::message::RequestKind;

use crate::guard::{ReadGuard, WriteGuard};
use crate::pending::Pending;
use crate::runtime::local::Wish;
use crate::set::Set;
use crate::value::{Pod, PodValue, Value};

/// Remembers where the object's cell is on this node, so that a hit touches no map.
///
/// ```
/// # let nodes = kddm::Node::local_cluster(1)?;
/// use kddm::Pod;
/// let points: kddm::Set<Pod<[u64; 2]>> = nodes[0].set("points").open()?;
/// let point = points.object(7);
/// point.grab().wait()?.put().wait()?;
/// assert_eq!(point.read().wait()?, [0, 0]);
/// # Ok::<(), kddm::Error>(())
/// ```
pub struct ObjectRef<T: Value> {
    set: Set<T>,
    object: u64,
    /// The cell's number plus one; zero is "not known".
    cell: AtomicU32,
}

impl<T: Value> ObjectRef<T> {
    pub(crate) fn new(set: Set<T>, object: u64) -> ObjectRef<T> {
        let cell = set.0.table.find_cell(object).map_or(0, |cell| cell + 1);
        ObjectRef { set, object, cell: AtomicU32::new(cell) }
    }

    /// The object's id.
    pub fn id(&self) -> u64 {
        self.object
    }

    /// As [`Set::get`].
    pub fn get(&self) -> Pending<ReadGuard<T>> {
        self.set.get(self.object)
    }

    /// As [`Set::grab`].
    pub fn grab(&self) -> Pending<WriteGuard<T>> {
        let cell = self.cell.load(Ordering::Relaxed);
        if cell != 0 {
            match self.set.0.table.try_write_at(cell - 1, self.object) {
                Ok(hold) => {
                    let wish = Wish::Request(RequestKind::Grab { existing: false });
                    return Pending::ready(self.set.0.guard(hold, self.object, wish, None));
                }
                Err(slow) => self.set.0.tell(slow),
            }
        }
        let pending = self.set.grab(self.object);
        self.look_up();
        pending
    }

    fn look_up(&self) {
        let cell = self.set.0.table.find_cell(self.object).map_or(0, |cell| cell + 1);
        self.cell.store(cell, Ordering::Relaxed);
    }
}

impl<P: PodValue> ObjectRef<Pod<P>> {
    /// The value as of now, copied out. On a hit nothing is written, not even a counter: any number
    /// of threads read at the same time without slowing each other.
    pub fn read(&self) -> Pending<P> {
        match self.try_read() {
            Some(value) => Pending::ready(Ok(value)),
            None => self.read_slowly(),
        }
    }

    /// The local copy, if there is a valid one: never a message.
    #[inline]
    pub fn try_read(&self) -> Option<P> {
        let cell = self.cell.load(Ordering::Relaxed);
        if cell == 0 {
            return None;
        }
        let value = self.set.0.table.pod_read_at(cell - 1, self.object)?;
        // The lease is looked at after the value: it was valid when the value was read.
        self.set.0.lease().is_valid().then_some(value.0)
    }

    #[cold]
    fn read_slowly(&self) -> Pending<P> {
        let result = self.set.get(self.object).wait().map(|guard| guard.0);
        self.look_up();
        Pending::ready(result)
    }
}

impl<T: Value> Clone for ObjectRef<T> {
    fn clone(&self) -> ObjectRef<T> {
        let cell = AtomicU32::new(self.cell.load(Ordering::Relaxed));
        ObjectRef { set: self.set.clone(), object: self.object, cell }
    }
}
