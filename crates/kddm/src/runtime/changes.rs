//! Who watches whole sets, as the owners of their objects know it. Of each object that is owned here it is known which
//! version was told last; what a lane finds changed goes to an outbox for each watcher, where what is newer takes the
//! place of what is older, and a thread sends it on.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use kddm_core::Main;
use kddm_core::id::{Mixer, ObjectId, SetId};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::cell::CellNumber;
use crate::error::{Error, SetError};
use crate::rpc::{RpcError, StreamReceiver, StreamSender};
use crate::runtime::Runtime;
use crate::runtime::lane::LaneState;

/// The name under which nodes watch each other's sets; no service can be registered under it.
pub(crate) const WATCH_SERVICE: &str = "kddm/watch";

/// Objects of which something may wait to be sent to one watcher; of more it is told how many were skipped.
const OUTBOX_LIMIT: usize = 4096;

/// Changes that are sent together.
const BATCH: usize = 256;

/// Watchers of sets that one node serves, each with a thread.
const WATCHERS_LIMIT: usize = 256;

/// What a watcher asks an owner for.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Ask {
    pub set: u64,
    /// It may have missed something of what is there: all that is owned is told.
    pub tells_all: bool,
}

/// What an owner tells a watcher.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) enum News {
    Put {
        object: u64,
        tenure: u64,
        version: u64,
    },
    Removed {
        object: u64,
        tenure: u64,
    },
    /// So many changes are not told.
    Skipped {
        count: u64,
    },
}

#[derive(Default)]
struct Waiting {
    is_told: bool,
    order: VecDeque<u64>,
    newest: HashMap<u64, News, Mixer>,
    skipped: u64,
    ended: Option<Error>,
}

/// What waits to be sent to one watcher.
#[derive(Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    news: Condvar,
}

impl Outbox {
    fn push(&self, object: u64, news: News) {
        let mut waiting = self.waiting.lock();
        if let Some(known) = waiting.newest.get_mut(&object) {
            *known = news;
        } else if waiting.order.len() < OUTBOX_LIMIT {
            waiting.order.push_back(object);
            waiting.newest.insert(object, news);
        } else {
            waiting.skipped += 1;
        }
        waiting.is_told = true;
        drop(waiting);
        self.news.notify_one();
    }

    fn end(&self, error: &Error) {
        let mut waiting = self.waiting.lock();
        waiting.ended.get_or_insert_with(|| error.clone());
        waiting.is_told = true;
        drop(waiting);
        self.news.notify_one();
    }

    /// What is to be sent next. What was skipped is told behind what came before it.
    fn take(&self) -> Vec<News> {
        let mut waiting = self.waiting.lock();
        waiting.is_told = false;
        let count = waiting.order.len().min(BATCH);
        let objects: Vec<u64> = waiting.order.drain(..count).collect();
        let mut batch: Vec<News> = objects.iter().filter_map(|object| waiting.newest.remove(object)).collect();
        if waiting.order.is_empty() && waiting.skipped > 0 {
            batch.push(News::Skipped { count: std::mem::take(&mut waiting.skipped) });
        }
        batch
    }

    fn has_ended(&self) -> Option<Error> {
        self.waiting.lock().ended.clone()
    }

    fn wait(&self) {
        let mut waiting = self.waiting.lock();
        while !waiting.is_told {
            self.news.wait(&mut waiting);
        }
    }
}

impl Wake for Outbox {
    fn wake(self: Arc<Self>) {
        self.waiting.lock().is_told = true;
        self.news.notify_one();
    }
}

/// The watchers of one set, as a lane knows them.
#[derive(Default)]
pub(super) struct SetWatch {
    outboxes: Vec<Weak<Outbox>>,
    /// Tenure and version that were told last, of each object that is owned here.
    told: HashMap<ObjectId, (u64, u64), Mixer>,
}

impl LaneState {
    /// From now on changes of objects of that set that are owned here go there.
    fn watch_set(&mut self, set: SetId, outbox: &Arc<Outbox>, tells_all: bool) {
        if self.stopped || self.fenced || self.destroyed.contains(set) {
            return outbox.end(&SetError::Destroyed.into());
        }
        let watch = self.watchers.sets.entry(set).or_default();
        watch.outboxes.retain(|outbox| outbox.strong_count() > 0);
        watch.outboxes.push(Arc::downgrade(outbox));
        let cells = self.stores.get(&set).map(|store| store.cells()).unwrap_or_default();
        for (object, cell) in cells {
            let object = ObjectId(object);
            // First, so that a put that this does not see yet is told.
            self.watch_cell(set, cell);
            let Some(owned) = self.owned_here(set, object) else { continue };
            if let Some(watch) = self.watchers.sets.get_mut(&set) {
                // What the others were told stays: a put whose end this lane has not heard of is still to be told them.
                watch.told.entry(object).or_insert(owned);
            }
            if tells_all {
                outbox.push(object.0, News::Put { object: object.0, tenure: owned.0, version: owned.1 });
            }
        }
    }

    fn watch_cell(&self, set: SetId, cell: CellNumber) {
        if let Some(store) = self.stores.get(&set) {
            store.set_watched(cell, true);
        }
    }

    /// Tenure and version of an object with a value that this node owns.
    fn owned_here(&self, set: SetId, object: ObjectId) -> Option<(u64, u64)> {
        let Main::Owner { tenure, .. } = self.core.inspect(set, object)?.main else { return None };
        Some((tenure.0, self.version_here(set, object)?))
    }

    /// Something may have become of an object: whoever watches its set hears of it, if this node is who tells.
    pub(super) fn tell_set_watchers(&mut self, set: SetId, object: ObjectId) {
        if !self.watchers.sets.contains_key(&set) {
            return;
        }
        let owned = self.owned_here(set, object);
        let main = self.core.inspect(set, object).map(|seen| seen.main).unwrap_or_default();
        let Some(watch) = self.watchers.sets.get_mut(&set) else { return };
        let news = match (owned, watch.told.get(&object).copied()) {
            (Some(owned), Some(told)) if owned.1 == told.1 && owned.0 == told.0 => return,
            (Some((tenure, version)), told) => {
                watch.told.insert(object, (tenure, version));
                // Another tenure of the same owner, as after a loss, changes nothing.
                if told.is_some_and(|(_, known)| known == version) {
                    return;
                }
                News::Put { object: object.0, tenure, version }
            }
            // Its value is not here for a moment, as while it is given back.
            (None, Some(_)) if matches!(main, Main::Owner { .. }) => return,
            (None, Some((tenure, _))) => {
                watch.told.remove(&object);
                // Whoever has it now tells of it.
                if matches!(main, Main::Ghost { .. } | Main::Sharer { .. }) {
                    return;
                }
                News::Removed { object: object.0, tenure }
            }
            (None, None) => return,
        };
        let mut is_watched = false;
        for outbox in watch.outboxes.iter().filter_map(Weak::upgrade) {
            outbox.push(object.0, news);
            is_watched = true;
        }
        if !is_watched {
            self.forget_set_watchers(set);
        }
    }

    /// Nobody watches the set any more.
    fn forget_set_watchers(&mut self, set: SetId) {
        let Some(watch) = self.watchers.sets.remove(&set) else { return };
        for object in watch.told.into_keys() {
            if !self.is_watched(set, object) {
                self.set_watched(set, object, false);
            }
        }
    }

    /// Those who watch that set, or any, are told why they hear no more.
    pub(super) fn fail_set_watchers(&mut self, set: Option<SetId>, error: &Error) {
        let sets: Vec<SetId> = self.watchers.sets.keys().copied().collect();
        for one in sets.into_iter().filter(|one| set.is_none_or(|set| set == *one)) {
            if let Some(watch) = self.watchers.sets.remove(&one) {
                watch.outboxes.iter().filter_map(Weak::upgrade).for_each(|outbox| outbox.end(error));
            }
        }
    }
}

/// How many watchers this node serves.
#[derive(Default)]
pub(crate) struct Served(AtomicUsize);

impl Runtime {
    /// Another node, or this one, watches a set.
    pub(crate) fn asked_to_watch(self: &Arc<Self>, ask: Ask, from: StreamReceiver<()>, to: StreamSender<Vec<News>>) {
        if self.watches_served.0.fetch_add(1, Ordering::AcqRel) >= WATCHERS_LIMIT {
            self.watches_served.0.fetch_sub(1, Ordering::AcqRel);
            return to.fail("this node serves as many watchers as it may");
        }
        let runtime = Arc::downgrade(self);
        let spawned = self.rpc.spawn("kddm-watch", move || {
            let (mut from, mut to) = (from, to);
            match serve(&runtime, &ask, &mut from, &mut to) {
                Ok(()) => {}
                Err(error) => to.fail(&error.to_string()),
            }
            if let Some(runtime) = runtime.upgrade() {
                runtime.watches_served.0.fetch_sub(1, Ordering::AcqRel);
            }
        });
        if let Err(error) = spawned {
            // Its ends are gone with it, which the watcher hears.
            tracing::warn!(%error, "no thread for a watcher of a set");
            self.watches_served.0.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Until the watcher is gone, or the set.
fn serve(
    runtime: &Weak<Runtime>,
    ask: &Ask,
    from: &mut StreamReceiver<()>,
    to: &mut StreamSender<Vec<News>>,
) -> Result<(), Error> {
    let outbox = Arc::new(Outbox::default());
    if let Some(runtime) = runtime.upgrade() {
        for lane in &runtime.lanes {
            let mut state = lane.lock();
            state.watch_set(SetId(ask.set), &outbox, ask.tells_all);
            lane.finish(state);
        }
    }
    // It has begun.
    to.send(&Vec::new()).wait()?;
    let mut gone = from.receive();
    loop {
        let waker = Waker::from(Arc::clone(&outbox));
        match Pin::new(&mut gone).poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => {}
            Poll::Ready(Err(Error::Rpc(RpcError::Idle { .. }))) => gone = from.receive(),
            Poll::Ready(_) => return Ok(()),
        }
        let batch = outbox.take();
        if batch.is_empty() {
            if let Some(error) = outbox.has_ended() {
                return Err(error);
            }
            outbox.wait();
            continue;
        }
        // As long as the watcher takes nothing, what is newer takes the place of what is older.
        while let Err(error) = to.send(&batch).wait() {
            if !matches!(error, Error::Rpc(RpcError::Idle { .. })) {
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(object: u64, version: u64) -> News {
        News::Put { object, tenure: 1, version }
    }

    #[test]
    fn what_is_newer_takes_the_place_of_what_is_older() {
        let outbox = Outbox::default();
        for version in 1..=3 {
            (0..3).for_each(|object| outbox.push(object, put(object, version)));
        }
        outbox.push(1, News::Removed { object: 1, tenure: 2 });
        assert_eq!(outbox.take(), [put(0, 3), News::Removed { object: 1, tenure: 2 }, put(2, 3)]);
        assert_eq!(outbox.take(), []);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told_behind_the_rest() {
        let outbox = Outbox::default();
        (0..OUTBOX_LIMIT as u64 + 7).for_each(|object| outbox.push(object, put(object, 1)));
        outbox.push(3, put(3, 2));
        let mut told: Vec<News> = Vec::new();
        loop {
            let batch = outbox.take();
            if batch.is_empty() {
                break;
            }
            assert!(batch.len() <= BATCH + 1);
            told.extend(batch);
        }
        assert_eq!(told.len(), OUTBOX_LIMIT + 1);
        assert_eq!((told[3], told[OUTBOX_LIMIT]), (put(3, 2), News::Skipped { count: 7 }));
    }
}
