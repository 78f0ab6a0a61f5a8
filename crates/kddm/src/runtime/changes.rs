//! Who watches sets, as the owners of their objects know it. What a lane finds changed goes to the feed of the set, and
//! from there to an outbox for each watcher, and is sent on (`delivery`). When the last one has gone, the feed is kept for a
//! while for those who come back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kddm_core::Main;
use kddm_core::id::{Mixer, ObjectId, SetId};
use kddm_core::io::Access;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::cell::CellNumber;
use crate::error::{Error, SetError};
use crate::rpc::{StreamReceiver, StreamSender};
use crate::runtime::Runtime;
use crate::runtime::delivery::serve;
use crate::runtime::feed::{Feed, Owned, Since};
use crate::runtime::join::random;
use crate::runtime::lane::LaneState;
use crate::runtime::outbox::{Batch, Outbox};

/// The name under which nodes watch each other's sets; no service can be registered under it.
pub(crate) const WATCH_SERVICE: &str = "kddm/watch";

/// Watchers of sets that one node serves, each with a thread.
pub(crate) const WATCHERS_LIMIT: usize = 256;

/// What a node says that serves so many.
pub(crate) const FULL: &str = "this node serves as many watchers as it may";

/// For how long it is known what has changed in a set that nobody watches any more: what a program or a daemon takes
/// to begin again, and a person to call a command once more.
const LINGER: Duration = Duration::from_secs(120);

/// Such sets, each with a thread that waits: of more nothing is known at once.
const LINGERING_LIMIT: usize = 64;

/// Cells that are looked at under the lock of their lane: others wait for it.
const SLICE: u32 = 1024;

/// What a watcher asks an owner for.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Ask {
    pub set: u64,
    /// One object alone.
    pub object: Option<u64>,
    pub since: Since,
}

/// The feeds of a node.
pub(crate) struct Feeds {
    of: Mutex<HashMap<SetId, Arc<Feed>, Mixer>>,
    /// All that feeds tell is numbered, from a number on that was drawn: a position of another life of this node, though
    /// it be of a cluster that was begun anew with the same numbers of everything, is none of this one.
    marks: Arc<AtomicU64>,
    /// How many watchers this node serves.
    served: AtomicUsize,
    lingering: AtomicUsize,
}

impl Default for Feeds {
    fn default() -> Feeds {
        let marks = Arc::new(AtomicU64::new(random() >> 2));
        Feeds { of: Mutex::default(), marks, served: AtomicUsize::new(0), lingering: AtomicUsize::new(0) }
    }
}

impl Feeds {
    /// One more watches. Whether nothing is missing that it has not heard.
    fn join(&self, ask: &Ask) -> (Arc<Feed>, Arc<Outbox>, bool) {
        let set = SetId(ask.set);
        let mut feeds = self.of.lock();
        loop {
            let feed = feeds.entry(set).or_insert_with(|| Arc::new(Feed::new(&self.marks)));
            if let Some((outbox, is_whole)) = feed.join(ask.since, ask.object) {
                return (Arc::clone(feed), outbox, is_whole);
            }
            feeds.remove(&set);
        }
    }

    /// Watchers that are told, and sets that are watched or were a moment ago.
    pub fn counts(&self) -> (usize, usize) {
        (self.served.load(Ordering::Relaxed), self.of.lock().len())
    }

    /// What is remembered of a set, if it is watched, or was a moment ago.
    pub fn of(&self, set: SetId) -> Option<Arc<Feed>> {
        self.of.lock().get(&set).cloned()
    }

    fn forget(&self, set: SetId, feed: &Arc<Feed>) {
        let mut feeds = self.of.lock();
        if feeds.get(&set).is_some_and(|known| Arc::ptr_eq(known, feed)) {
            feeds.remove(&set);
        }
    }
}

impl LaneState {
    /// From now on changes of objects of that set that are owned here go there. Whether that is so: a set that is no
    /// more, or this node, tells why not.
    fn is_told_of(&mut self, set: SetId, feed: &Arc<Feed>) -> bool {
        if self.stopped || self.fenced || self.destroyed.contains(set) {
            feed.end(&SetError::Destroyed.into());
            return false;
        }
        self.watchers.sets.insert(set, Arc::clone(feed));
        true
    }

    /// What is owned here in some cells from that one on goes to the feed, if it was not looked at yet. Where the rest
    /// begins, unless there is none, or the feed is over.
    fn look_at_some(&self, set: SetId, feed: &Arc<Feed>, first: CellNumber, is_walked: bool) -> Option<CellNumber> {
        if !self.watchers.sets.get(&set).is_some_and(|known| Arc::ptr_eq(known, feed)) {
            return None;
        }
        let store = self.stores.get(&set)?;
        let (cells, next) = self.own_cells_from(set, first, SLICE);
        for (object, cell) in cells {
            if !is_walked {
                // First, so that a put that this does not see yet is told.
                store.set_watched(cell, true);
            }
            if let (_, Some(owned)) = self.owned_here(set, ObjectId(object)) {
                feed.begins_with(ObjectId(object), owned);
            }
        }
        next
    }

    /// What this node is to the object, and what it owns of it, if that has a value.
    fn owned_here(&self, set: SetId, object: ObjectId) -> (Main, Option<Owned>) {
        let Some(seen) = self.core.inspect(set, object) else { return (Main::None, None) };
        let Main::Owner { tenure, born, version } = seen.main else { return (seen.main, None) };
        // One that nobody here may use is as it has come: handed over by a member that leaves, or kept as a replica.
        let is_unused = seen.access == Access::None && seen.has_value;
        let version = if is_unused { Some(version.0) } else { self.version_here(set, object) };
        (seen.main, version.map(|version| Owned { tenure: tenure.0, born: born.0, version }))
    }

    /// Something may have become of an object: whoever watches its set hears of it, if this node is who tells.
    pub(super) fn tell_set_watchers(&mut self, set: SetId, object: ObjectId) {
        let Some(feed) = self.watchers.sets.get(&set) else { return };
        let (main, owned) = self.owned_here(set, object);
        let has_ended = self.watchers.ended.remove(&(set, object));
        feed.looked_at(object, owned, main, has_ended, &mut self.to_wake);
    }

    /// What is here of an object goes. Whether there was a value is known now alone.
    pub(super) fn note_end(&mut self, set: SetId, object: ObjectId, has_value: bool) {
        if has_value && self.watchers.sets.contains_key(&set) {
            self.watchers.ended.insert((set, object));
        }
    }

    /// Nobody watches the set any more. Whether it was this feed that was told.
    fn forget_feed(&mut self, set: SetId, feed: &Arc<Feed>) -> bool {
        let is_it = self.watchers.sets.get(&set).is_some_and(|known| Arc::ptr_eq(known, feed));
        if is_it {
            self.watchers.sets.remove(&set);
        }
        is_it
    }

    /// The ends of writes are not told any more in some cells from that one on, unless somebody else waits for them.
    /// Where the rest begins, if there is one.
    fn unwatch_some(&self, set: SetId, first: CellNumber) -> Option<CellNumber> {
        let (cells, next) = self.own_cells_from(set, first, SLICE);
        for (object, _) in cells {
            let object = ObjectId(object);
            if !self.is_watched(set, object) {
                self.set_watched(set, object, false);
            }
        }
        next
    }

    /// Those who watch that set, or any, are told why they hear no more.
    pub(super) fn fail_set_watchers(&mut self, set: Option<SetId>, error: &Error) {
        let ended = |one: &SetId| set.is_none_or(|set| set == *one);
        for (_, feed) in self.watchers.sets.extract_if(|one, _| ended(one)) {
            feed.end(error);
        }
    }
}

impl Runtime {
    /// From now on changes of objects of that set that are owned here go there. Who `wants_all` is told of what is owned
    /// here and was not looked at yet: a copy that has become the object after a loss says so to nobody. What changes
    /// meanwhile is told, or need not be: whoever watches hears that it begins when this has returned.
    fn watch_set(&self, set: SetId, feed: &Arc<Feed>, wants_all: bool) {
        let is_walked = feed.is_walked();
        for lane in &self.lanes {
            let mut state = lane.lock();
            let is_told = state.is_told_of(set, feed);
            lane.finish(state);
            if is_told && (wants_all || !is_walked) {
                lane.in_slices(|state, first| state.look_at_some(set, feed, first, is_walked));
            }
        }
        feed.walked();
    }

    /// Another node, or this one, watches a set.
    pub(crate) fn asked_to_watch(self: &Arc<Self>, ask: Ask, from: StreamReceiver<()>, to: StreamSender<Batch>) {
        if SetId(ask.set).policy().is_none() {
            return to.fail("that is no number of a set");
        }
        if self.feeds.served.fetch_add(1, Ordering::AcqRel) >= WATCHERS_LIMIT {
            self.feeds.served.fetch_sub(1, Ordering::AcqRel);
            return to.fail(FULL);
        }
        let runtime = Arc::downgrade(self);
        let spawned = self.rpc.spawn("kddm-watch", move || {
            let Some(here) = runtime.upgrade() else { return };
            let (set, (feed, outbox, is_whole)) = (SetId(ask.set), here.feeds.join(&ask));
            here.watch_set(set, &feed, !is_whole);
            drop(here);
            serve(&outbox, is_whole, from, to);
            feed.is_left_by(&outbox);
            drop(outbox);
            if let Some(here) = runtime.upgrade() {
                here.feeds.served.fetch_sub(1, Ordering::AcqRel);
            }
            linger(&runtime, set, &feed);
        });
        if let Err(error) = spawned {
            // Its ends are gone with it, which the watcher hears.
            tracing::warn!(%error, "no thread for a watcher of a set");
            self.feeds.served.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// A watcher has gone. What it may ask for when it comes back is known for a while.
fn linger(runtime: &Weak<Runtime>, set: SetId, feed: &Arc<Feed>) {
    let Some(here) = runtime.upgrade() else { return };
    let lingering = here.feeds.lingering.fetch_add(1, Ordering::AcqRel);
    drop(here);
    let linger = if lingering < LINGERING_LIMIT { LINGER } else { Duration::ZERO };
    let is_left = feed.is_left_until(Instant::now() + linger);
    let Some(here) = runtime.upgrade() else { return };
    here.feeds.lingering.fetch_sub(1, Ordering::AcqRel);
    if !is_left {
        return;
    }
    here.feeds.forget(set, feed);
    for lane in &here.lanes {
        let mut state = lane.lock();
        let is_it = state.forget_feed(set, feed);
        lane.finish(state);
        if is_it {
            lane.in_slices(|state, first| state.unwatch_some(set, first));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Node, Set};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Others have the lane between the parts; what they do meanwhile is told, or need not be, and nothing is left out.
    #[test]
    fn a_set_that_somebody_begins_to_watch_is_looked_at_in_parts() {
        const OBJECTS: u64 = 2 * SLICE as u64 + 100;
        let node = Node::local_cluster_with(1, |config| config.lanes(1)).expect("a node").remove(0);
        let open: Set<u64> = node.set("parts").open().wait_for(LIMIT).expect("the set opens");
        let put = |object: u64| {
            let guard = open.grab(object).wait_for(LIMIT).expect("nobody keeps it");
            guard.put().wait_for(LIMIT).expect("it is put");
        };
        (0..OBJECTS).for_each(put);
        let set = SetId(node.set_info("parts").expect("it is there").id);
        let feed = Arc::new(Feed::new(&Arc::default()));
        let lane = &node.runtime().lanes[0];
        let mut state = lane.lock();
        assert!(state.is_told_of(set, &feed));
        let next = state.look_at_some(set, &feed, 0, false).expect("there is more");
        lane.finish(state);
        assert_eq!((next, feed.known()), (SLICE, SLICE as usize));
        put(OBJECTS);
        node.runtime().watch_set(set, &feed, false);
        assert_eq!((feed.is_walked(), feed.known()), (true, OBJECTS as usize + 1));
    }
}
