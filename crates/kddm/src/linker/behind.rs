//! What is put is published at once and written later, in the order in which it is due: for each object its newest value.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::error::LinkerError;
use super::here::count;
use super::linked::Linked;
use super::store::{Stamp, Written};
use crate::runtime::wait::{deadline_in, mark_part_of_node};
use crate::value::Value;

/// Values that are written at one time, so that a store pays once for many.
const BATCH: usize = 256;

/// How long after a failure it is tried again: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(5)];

/// When it is tried again to start a thread, where the system had none.
const THREAD_RETRY: Duration = Duration::from_millis(100);

/// How long the thread stays without anything to write.
const LINGER: Duration = Duration::from_secs(5);

/// A value that waits.
pub(super) struct Write<T> {
    pub stamp: Stamp,
    pub value: Arc<T>,
    bytes: usize,
    /// Since when the object waits, and the first of its writes that do: later ones have taken its place.
    since: Instant,
    first: u64,
    /// It was removed while it was written: it does not wait again.
    is_removed: bool,
}

struct Inside<T> {
    waiting: HashMap<u64, Write<T>>,
    /// Those that wait, in the order of their turns.
    order: VecDeque<u64>,
    /// Those that are being written.
    writing: Vec<(u64, Write<T>)>,
    bytes: usize,
    /// Puts that have room and have not been published yet.
    reserved: usize,
    /// Whoever waits for the end of the queue: nothing waits for its time then.
    hurried: usize,
    batch: usize,
    retry_after: Option<Duration>,
    retry_at: Option<Instant>,
    has_thread: bool,
    is_closed: bool,
    /// An object whose write was refused by a later term: the set is made anew elsewhere, and nothing of this one is kept.
    refused: Option<(u64, Stamp)>,
}

/// How much waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Waiting {
    pub objects: usize,
    pub bytes: usize,
}

/// See the module.
pub(super) struct Behind<T> {
    inside: Mutex<Inside<T>>,
    news: Condvar,
    lag: Duration,
    limit_bytes: usize,
    /// So many are not started, as if the system had none.
    #[cfg(test)]
    refused_threads: AtomicUsize,
}

impl<T: Value> Behind<T> {
    pub fn new(lag: Duration, limit_bytes: usize) -> Behind<T> {
        let inside = Inside {
            waiting: HashMap::new(),
            order: VecDeque::new(),
            writing: Vec::new(),
            bytes: 0,
            reserved: 0,
            hurried: 0,
            batch: BATCH,
            retry_after: None,
            retry_at: None,
            has_thread: false,
            is_closed: false,
            refused: None,
        };
        Behind {
            inside: Mutex::new(inside),
            news: Condvar::new(),
            lag,
            limit_bytes,
            #[cfg(test)]
            refused_threads: AtomicUsize::new(0),
        }
    }

    /// Room for a value, that of what waits of the object included. If there is none, how much waits, and for how long the
    /// oldest has.
    pub fn reserve(&self, object: u64, bytes: usize, patience: Duration) -> Result<(), (Waiting, Duration)> {
        let mut inside = self.inside.lock();
        let own = inside.waiting.get(&object).map_or(0, |write| write.bytes);
        let oldest = inside.oldest();
        // What waits of the object itself is replaced: by what can be written, perhaps.
        let is_known = own > 0 || inside.writing.iter().any(|(of, _)| *of == object);
        let is_late = oldest > self.lag.saturating_add(patience) && !is_known;
        if is_late || inside.bytes - own + bytes > self.limit_bytes || inside.is_closed {
            return Err((inside.waits(), oldest));
        }
        inside.bytes += bytes;
        inside.reserved += 1;
        Ok(())
    }

    /// A later term has claimed what stands behind the set: which object met it, and the stamp that was there.
    pub fn refused(&self) -> Option<(u64, Stamp)> {
        self.inside.lock().refused
    }

    /// It was not published.
    pub fn give_back(&self, bytes: usize) {
        let mut inside = self.inside.lock();
        inside.bytes -= bytes;
        inside.reserved -= 1;
        drop(inside);
        self.news.notify_all();
    }

    /// It is published: its room is used. Whether something older went.
    pub fn add(&self, object: u64, stamp: Stamp, value: Arc<T>, bytes: usize) -> bool {
        let mut inside = self.inside.lock();
        inside.reserved -= 1;
        let mut write = Write { stamp, value, bytes, since: Instant::now(), first: stamp.version, is_removed: false };
        let older = inside.waiting.remove(&object);
        let replaces = older.is_some();
        match older {
            Some(older) => {
                inside.bytes -= if older.stamp > stamp { bytes } else { older.bytes };
                let (since, first) = (older.since.min(write.since), older.first.min(write.first));
                // Another thread has put a newer one, and was faster here.
                write = if older.stamp > stamp { older } else { write };
                (write.since, write.first) = (since, first);
            }
            None => inside.order.push_back(object),
        }
        inside.waiting.insert(object, write);
        drop(inside);
        self.news.notify_all();
        replaces
    }

    /// Whether something waits and nobody writes: whoever hears so has to.
    fn needs_thread(&self) -> bool {
        let mut inside = self.inside.lock();
        !inside.order.is_empty() && !std::mem::replace(&mut inside.has_thread, true)
    }

    /// No thread could begin.
    fn has_no_thread(&self) {
        self.inside.lock().has_thread = false;
    }

    /// What waits of an object. It may be older than what others have written since: its stamp says so to the store.
    pub fn waiting_of(&self, object: u64) -> Option<(Stamp, Arc<T>)> {
        let inside = self.inside.lock();
        let writing = || inside.writing.iter().find(|(of, write)| *of == object && !write.is_removed);
        let found = inside.waiting.get(&object).or_else(|| writing().map(|(_, write)| write));
        found.map(|write| (write.stamp, Arc::clone(&write.value)))
    }

    /// What waits of an object up to that stamp need not be written any more.
    pub fn forget(&self, object: u64, upto: Stamp) {
        let mut inside = self.inside.lock();
        if inside.waiting.get(&object).is_some_and(|write| write.stamp <= upto)
            && let Some(write) = inside.waiting.remove(&object)
        {
            inside.bytes -= write.bytes;
            inside.order.retain(|waiting| *waiting != object);
        }
        let writing = inside.writing.iter_mut().filter(|(of, write)| *of == object && write.stamp <= upto);
        writing.for_each(|(_, write)| write.is_removed = true);
        drop(inside);
        self.news.notify_all();
    }

    pub fn waits(&self) -> Waiting {
        self.inside.lock().waits()
    }

    /// For how long the oldest has waited.
    pub fn oldest(&self) -> Duration {
        self.inside.lock().oldest()
    }

    /// Waits until all writes up to that number are done. What is left if that takes too long; it is given up if the queue
    /// `closes`, which takes nothing any more.
    pub fn wait_for(&self, upto: u64, deadline: Instant, closes: bool) -> Result<(), Waiting> {
        let mut inside = self.inside.lock();
        inside.hurried += 1;
        inside.is_closed |= closes;
        self.news.notify_all();
        let mut timed_out = false;
        while inside.has_upto(upto) && !timed_out {
            timed_out = self.news.wait_until(&mut inside, deadline).timed_out();
        }
        inside.hurried -= 1;
        if !inside.has_upto(upto) {
            return Ok(());
        }
        let left = inside.waits();
        if closes {
            inside.waiting.clear();
            inside.order.clear();
        }
        drop(inside);
        self.news.notify_all();
        Err(left)
    }

    /// The next that are to be written, when it is time. `None`: there are none, and the thread ends.
    fn next(&self) -> Option<Vec<(u64, Stamp, Arc<T>)>> {
        let mut inside = self.inside.lock();
        let mut idle_until = None;
        loop {
            let now = Instant::now();
            let due = inside.due_at(self.lag, now);
            match due {
                Some(due) if due <= now => return Some(inside.take_batch()),
                Some(due) => {
                    idle_until = None;
                    self.news.wait_until(&mut inside, due);
                }
                None => {
                    let until = *idle_until.get_or_insert(now + LINGER);
                    if now >= until || (inside.is_closed && inside.reserved == 0) {
                        inside.has_thread = false;
                        return None;
                    }
                    self.news.wait_until(&mut inside, until);
                }
            }
        }
    }

    fn start(&self, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        #[cfg(test)]
        if self.refused_threads.fetch_update(Relaxed, Relaxed, |left: usize| left.checked_sub(1)).is_ok() {
            return Err(std::io::Error::other("the test has none"));
        }
        std::thread::Builder::new().name("kddm-behind".into()).spawn(work).map(drop)
    }

    /// They are written, or wait again, behind the others.
    fn wrote(&self, is_done: bool) {
        let mut inside = self.inside.lock();
        for (object, mut write) in std::mem::take(&mut inside.writing) {
            let other = inside.waiting.get_mut(&object);
            if is_done || write.is_removed || other.is_some() {
                // The newer one stands for both now: mostly the one that waits, which may have been late to come here.
                if let Some(other) = other.filter(|_| !is_done && !write.is_removed) {
                    let (since, first) = (write.since.min(other.since), write.first.min(other.first));
                    if other.stamp < write.stamp {
                        std::mem::swap(other, &mut write);
                    }
                    (other.since, other.first) = (since, first);
                }
                inside.bytes -= write.bytes;
                continue;
            }
            inside.waiting.insert(object, write);
            inside.order.push_back(object);
        }
        if is_done {
            inside.batch = (inside.batch * 2).min(BATCH);
            (inside.retry_after, inside.retry_at) = (None, None);
        } else {
            // One by one, so that what cannot be written stands in nobody's way.
            inside.batch = 1;
            let after = inside.retry_after.map_or(RETRY[0], |after| (after * 2).min(RETRY[1]));
            (inside.retry_after, inside.retry_at) = (Some(after), Some(Instant::now() + after));
        }
        drop(inside);
        self.news.notify_all();
    }
}

impl<T: Value> Inside<T> {
    fn waits(&self) -> Waiting {
        Waiting { objects: self.waiting.len() + self.writing.len(), bytes: self.bytes }
    }

    fn all(&self) -> impl Iterator<Item = &Write<T>> {
        self.waiting.values().chain(self.writing.iter().map(|(_, write)| write))
    }

    /// The first in the order is the oldest, but after a failure, when all are old. Those that are written are older.
    fn oldest(&self) -> Duration {
        let first = self.writing.first().map(|(_, write)| write);
        let first = first.or_else(|| self.waiting.get(self.order.front()?));
        first.map_or(Duration::ZERO, |write| write.since.elapsed())
    }

    fn has_upto(&self, number: u64) -> bool {
        self.reserved > 0 || self.all().any(|write| write.first <= number)
    }

    fn due_at(&self, lag: Duration, now: Instant) -> Option<Instant> {
        let first = self.waiting.get(self.order.front()?)?;
        let due = if self.hurried > 0 || self.is_closed { now } else { first.since + lag };
        Some(self.retry_at.map_or(due, |at| at.max(due)))
    }

    fn take_batch(&mut self) -> Vec<(u64, Stamp, Arc<T>)> {
        let mut batch = Vec::new();
        while batch.len() < self.batch
            && let Some(object) = self.order.pop_front()
        {
            let Some(write) = self.waiting.remove(&object) else { continue };
            batch.push((object, write.stamp, Arc::clone(&write.value)));
            self.writing.push((object, write));
        }
        batch
    }
}

impl<T: Value> Linked<T> {
    /// Has a thread write what waits, if there is something and none does.
    pub(super) fn begin_to_write(self: &Arc<Self>) {
        if !self.behind.needs_thread() {
            return;
        }
        let linked = Arc::clone(self);
        let work = move || {
            mark_part_of_node();
            while let Some(batch) = linked.behind.next() {
                let is_done = linked.write_batch(&batch);
                linked.behind.wrote(is_done);
            }
        };
        if let Err(error) = self.behind.start(work) {
            tracing::warn!(linker = self.of.name, %error, "no thread to write what was put; it is tried again");
            self.behind.has_no_thread();
            self.ring_at(deadline_in(THREAD_RETRY));
        }
    }

    fn write_batch(&self, batch: &[(u64, Stamp, Arc<T>)]) -> bool {
        let object = batch.first().map_or(0, |(object, ..)| *object);
        count(&self.counts.writes, batch.len() as u64);
        let written = self.call(object, true, |linker| {
            let written = linker.write_back_all(batch)?;
            let (kind, reason) = ("linker's", format!("{} answers to {} writes", written.len(), batch.len()));
            if written.len() == batch.len() { Ok(written) } else { Err(LinkerError::Store { kind, reason }) }
        });
        match written {
            Ok(written) => {
                for ((object, stamp, _), written) in batch.iter().zip(written) {
                    if let Written::Refused { by } = written {
                        if by.term > stamp.term {
                            self.behind.inside.lock().refused = Some((*object, by));
                        }
                        count(&self.counts.refused, 1);
                        tracing::warn!(
                            linker = self.of.name,
                            object,
                            ?by,
                            "a newer write is there: this one is refused"
                        );
                    }
                }
                true
            }
            Err(error) => {
                count(&self.counts.retries, 1);
                tracing::warn!(linker = self.of.name, object, %error, "what was put could not be written; it is tried again");
                false
            }
        }
    }

    /// Writes what waits, in hurry, and takes nothing any more.
    pub(super) fn write_the_rest(&self, limit: Duration) {
        if let Some(me) = self.me.upgrade() {
            me.begin_to_write();
        }
        if let Err(left) = self.behind.wait_for(u64::MAX, deadline_in(limit), true) {
            let Waiting { objects, bytes } = left;
            tracing::error!(linker = self.of.name, objects, bytes, "what was put was not written before the end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(version: u64) -> Stamp {
        Stamp { term: 1, tenure: 1, version }
    }

    /// Whether a thread has to begin.
    fn put(behind: &Behind<u64>, object: u64, version: u64, bytes: usize) -> bool {
        behind.reserve(object, bytes, Duration::from_secs(60)).expect("there is room");
        behind.add(object, stamp(version), Arc::new(version), bytes);
        behind.needs_thread()
    }

    fn values(behind: &Behind<u64>) -> Vec<(u64, u64)> {
        let next = behind.next().expect("something is due");
        next.iter().map(|(object, _, value)| (*object, **value)).collect()
    }

    fn lazy() -> Behind<u64> {
        Behind::new(Duration::from_secs(3600), 100)
    }

    /// Whoever has put the older one comes here late: the newer one is being written already, and that fails.
    #[test]
    fn what_failed_is_not_given_up_for_something_older() {
        let behind = Behind::new(Duration::ZERO, 100);
        put(&behind, 7, 4, 10);
        assert_eq!(values(&behind), [(7, 4)]);
        put(&behind, 7, 3, 20);
        behind.wrote(false);
        assert_eq!(behind.waits(), Waiting { objects: 1, bytes: 10 });
        assert_eq!(values(&behind), [(7, 4)]);
        behind.wrote(true);
        assert_eq!(behind.waits(), Waiting { objects: 0, bytes: 0 });
    }

    #[test]
    fn the_newest_of_each_object_is_written_in_whichever_order_they_come() {
        let behind = Behind::new(Duration::ZERO, 100);
        assert!(put(&behind, 7, 1, 10), "a thread begins");
        assert!(!put(&behind, 8, 2, 10) && !put(&behind, 7, 4, 30));
        put(&behind, 7, 3, 20);
        assert_eq!(behind.waits(), Waiting { objects: 2, bytes: 40 });
        let waiting = |object| behind.waiting_of(object).map(|(_, value)| *value);
        assert_eq!(waiting(7), Some(4));
        assert_eq!(values(&behind), [(7, 4), (8, 2)]);
        assert_eq!(waiting(7), Some(4), "while it is written");
        behind.wrote(true);
        assert_eq!((behind.waits(), waiting(7)), (Waiting::default(), None));
    }

    #[test]
    fn what_has_no_room_is_refused_and_what_is_given_back_is_room() {
        let behind = lazy();
        put(&behind, 7, 1, 60);
        let (waits, _) = behind.reserve(8, 41, Duration::ZERO).expect_err("41 and 60 are too many");
        assert_eq!(waits, Waiting { objects: 1, bytes: 60 });
        behind.reserve(7, 100, Duration::ZERO).expect("it takes the place of what waits");
        behind.give_back(100);
        behind.forget(7, stamp(0));
        assert_eq!(behind.waits().objects, 1, "a removal before it");
        behind.forget(7, stamp(2));
        assert_eq!(behind.waits(), Waiting::default());
        behind.reserve(8, 100, Duration::ZERO).expect("all is free");
    }

    #[test]
    fn what_fails_is_tried_one_by_one_behind_the_others() {
        let behind = Behind::new(Duration::ZERO, 100);
        (1..=3).for_each(|object| _ = put(&behind, object, object, 10));
        assert_eq!(values(&behind).len(), 3);
        put(&behind, 2, 9, 20);
        behind.wrote(false);
        assert_eq!(behind.waits(), Waiting { objects: 3, bytes: 40 }, "the newer one stands for both");
        assert_eq!(values(&behind), [(2, 9)]);
        behind.wrote(false);
        assert_eq!(values(&behind), [(1, 1)]);
        behind.wrote(true);
        assert_eq!(values(&behind), [(3, 3), (2, 9)], "twice as many as before");
        behind.wrote(true);
        assert_eq!(behind.waits(), Waiting::default());
    }

    #[test]
    fn what_is_removed_while_it_is_written_does_not_wait_again() {
        let behind = Behind::new(Duration::ZERO, 100);
        put(&behind, 7, 1, 10);
        assert_eq!(values(&behind), [(7, 1)]);
        behind.forget(7, stamp(2));
        assert!(behind.waiting_of(7).is_none());
        behind.wrote(false);
        assert_eq!(behind.waits(), Waiting::default());
    }

    #[test]
    fn whoever_waits_is_not_kept_by_what_comes_later() {
        let behind = lazy();
        put(&behind, 7, 1, 10);
        let now = Instant::now();
        assert_eq!(behind.wait_for(1, now, false), Err(Waiting { objects: 1, bytes: 10 }));
        assert_eq!(behind.wait_for(0, now, false), Ok(()), "it came later");
        put(&behind, 7, 2, 10);
        assert!(behind.wait_for(1, now, false).is_err(), "nothing of that object was written since");
        behind.wait_for(u64::MAX, now, true).expect_err("nobody writes");
        assert!(behind.next().is_none(), "it was given up, and the thread ends");
        assert!(behind.reserve(8, 1, Duration::ZERO).is_err(), "nothing is taken any more");
    }

    #[test]
    fn a_thread_that_could_not_be_started_is_started_later_without_another_put() {
        let node = crate::Node::local_cluster(1).expect("a node").remove(0);
        let store = crate::linker::Memory::new();
        let policy = crate::linker::WritePolicy::Behind { lag: Duration::ZERO, bytes: 100 };
        let builder = node.set("rows").linker("memory", store.clone()).write_policy(policy);
        let set: crate::Set<u64> = builder.open().wait().expect("it opens");
        let linked = node.runtime().linkers.of::<u64>(set.0.here.set).expect("it has one");
        linked.behind.refused_threads.store(3, Relaxed);
        set.grab(7).wait().expect("it is made").put().wait().expect("it is put");
        let deadline = Instant::now() + Duration::from_secs(60);
        while crate::linker::Store::read(&store, 7).expect("it answers").is_none() {
            assert!(Instant::now() < deadline, "nobody writes it");
            std::thread::yield_now();
        }
        assert_eq!(linked.behind.refused_threads.load(Relaxed), 0);
    }
}
