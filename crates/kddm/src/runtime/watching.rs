//! Waits for the next change of an object. Whoever waits has seen a copy that is here, and holds nothing: a write
//! elsewhere takes the copy away first, and a write here is told by the end of its hold. Both end the wait, and
//! then the object is read again. So nothing is sent for a wait, and none is left without its copy.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kddm_core::id::{Mixer, ObjectId, SetId};
use kddm_core::io::Access;

use crate::error::{AccessError, Error};
use crate::runtime::Runtime;
use crate::runtime::feed::Feed;
use crate::runtime::lane::LaneState;
use crate::runtime::told::SetHere;
use crate::runtime::wait::{Op, Outcome};
use crate::watch::Seen;

/// Who waits for changes.
#[derive(Default)]
pub(crate) struct Watchers {
    of: HashMap<(SetId, ObjectId), Vec<Watcher>, Mixer>,
    count: usize,
    /// How often those that wait for the membership, too, were told that it has changed.
    members_heard: u64,
    /// Where those hear of changes who watch whole sets.
    pub(super) sets: HashMap<SetId, Arc<Feed>, Mixer>,
    /// Objects of those sets of which a value has gone, until it is looked at what has become of them: a turn.
    pub(super) ended: HashSet<(SetId, ObjectId), Mixer>,
}

struct Watcher {
    op: Arc<Op>,
    since: Seen,
    /// It waits for the next change of the membership, too.
    hears_members: bool,
}

impl LaneState {
    /// Waits until the object is not as it was seen; or, if `heard` says what was heard of the membership then, until
    /// more is. At once if that is so already: the waiting side looks again.
    fn watch(&mut self, set: SetId, object: ObjectId, since: Seen, heard: Option<u64>, op: &Arc<Op>) {
        let (outstanding, limit) = (self.watchers.count, self.limits.outstanding);
        let full = || (outstanding >= limit).then(|| AccessError::Overloaded { outstanding, limit }.into());
        if let Some(error) = self.refusal(set).or_else(full) {
            self.complete(op, Outcome::Failed(error));
            return;
        }
        // First, so that a put that this does not see yet is told.
        self.set_watched(set, object, true);
        let is_news = heard.is_some_and(|heard| heard != self.watchers.members_heard);
        // One that was removed and made again may have as many puts. While somebody waits it cannot be: the copy goes first.
        let is_another = self.tenure_here(set, object) != since.tenure;
        if is_news || is_another || self.version_here(set, object) != Some(since.version) {
            self.complete(op, Outcome::Available);
            self.look_at_watchers(set, object);
            return;
        }
        let watcher = Watcher { op: Arc::clone(op), since, hears_members: heard.is_some() };
        self.watchers.of.entry((set, object)).or_default().push(watcher);
        self.watchers.count += 1;
    }

    /// Nobody waits by that any more.
    fn unwatch(&mut self, set: SetId, object: ObjectId, op: &Arc<Op>) {
        self.alarms.take_back(op.take_alarm());
        let Some(watchers) = self.watchers.of.get_mut(&(set, object)) else { return };
        let before = watchers.len();
        watchers.retain(|watcher| !Arc::ptr_eq(&watcher.op, op));
        self.watchers.count -= before - watchers.len();
        self.look_at_watchers(set, object);
    }

    /// Ends the waits of those who have seen something else than what is here now. To be called when the cell of an
    /// object may have changed, before it is given up.
    pub fn look_at_watchers(&mut self, set: SetId, object: ObjectId) {
        if self.watchers.sets.contains_key(&set) {
            // First, so that a put that this does not see yet is told.
            self.set_watched(set, object, true);
            self.tell_set_watchers(set, object);
        }
        let Some(mut watchers) = self.watchers.of.remove(&(set, object)) else {
            // None but one that has just found news, or gone.
            return self.set_watched(set, object, false);
        };
        let here = self.version_here(set, object);
        self.end_watches(&mut watchers, |watcher| here != Some(watcher.since.version), &Outcome::Available);
        if watchers.is_empty() {
            self.set_watched(set, object, false);
        } else {
            self.watchers.of.insert((set, object), watchers);
        }
    }

    /// Whether anybody waits for changes of it.
    pub fn is_watched(&self, set: SetId, object: ObjectId) -> bool {
        let is_one = self.watchers.count > 0 && self.watchers.of.contains_key(&(set, object));
        is_one || (!self.watchers.sets.is_empty() && self.watchers.sets.contains_key(&set))
    }

    /// All waits for changes end with that error, or those of a set.
    pub fn fail_watchers(&mut self, set: Option<SetId>, error: &Error) {
        self.fail_set_watchers(set, error);
        let ended = |of: &SetId| set.is_none_or(|set| set == *of);
        let places: Vec<_> = self.watchers.of.keys().copied().filter(|(of, _)| ended(of)).collect();
        for (set, object) in places {
            let mut watchers = self.watchers.of.remove(&(set, object)).unwrap_or_default();
            self.end_watches(&mut watchers, |_| true, &Outcome::Failed(error.clone()));
            self.set_watched(set, object, false);
        }
    }

    /// The membership has changed: those who wait for that look again.
    fn members_have_changed(&mut self) {
        self.watchers.members_heard += 1;
        let places: Vec<_> = self.watchers.of.keys().copied().collect();
        for (set, object) in places {
            let Some(mut watchers) = self.watchers.of.remove(&(set, object)) else { continue };
            self.end_watches(&mut watchers, |watcher| watcher.hears_members, &Outcome::Available);
            if watchers.is_empty() {
                self.set_watched(set, object, false);
            } else {
                self.watchers.of.insert((set, object), watchers);
            }
        }
    }

    fn end_watches(&mut self, of: &mut Vec<Watcher>, which: impl Fn(&Watcher) -> bool, outcome: &Outcome) {
        let (ended, left): (Vec<_>, Vec<_>) = std::mem::take(of).into_iter().partition(which);
        *of = left;
        self.watchers.count -= ended.len();
        for watcher in ended {
            let outcome = match outcome {
                Outcome::Failed(error) => Outcome::Failed(error.clone()),
                _ => Outcome::Available,
            };
            self.complete(&watcher.op, outcome);
        }
    }

    /// The version of the copy that is here, if there is one that may be read.
    pub(crate) fn version_here(&self, set: SetId, object: ObjectId) -> Option<u64> {
        let store = self.stores.get(&set)?;
        let cell = store.find(object.0)?;
        let is_here = store.access(cell) >= Access::Read && store.has_value(cell);
        is_here.then(|| store.version(cell))
    }

    pub(super) fn set_watched(&self, set: SetId, object: ObjectId, is_watched: bool) {
        let is_watched = is_watched || self.watchers.sets.contains_key(&set);
        let found = self.stores.get(&set).and_then(|store| Some((store, store.find(object.0)?)));
        if let Some((store, cell)) = found {
            store.set_watched(cell, is_watched);
        }
    }
}

impl SetHere {
    /// See [`LaneState::watch`].
    pub fn watch(&self, object: u64, since: Seen, heard: Option<u64>) -> Arc<Op> {
        let lane = self.lane(object);
        let op = Arc::new(Op::new(Arc::clone(lane)));
        let mut state = lane.lock();
        state.watch(self.set, ObjectId(object), since, heard, &op);
        lane.finish(state);
        op
    }

    /// Nobody waits by that any more.
    pub fn unwatch(&self, object: u64, op: &Arc<Op>) {
        let lane = self.lane(object);
        let mut state = lane.lock();
        state.unwatch(self.set, ObjectId(object), op);
        lane.finish(state);
    }

    /// What has been heard of the membership by those who wait for changes of the object.
    pub fn members_heard(&self, object: u64) -> u64 {
        self.lane(object).lock().watchers.members_heard
    }
}

impl Runtime {
    /// Those who wait for changes of the membership, too, look again.
    pub fn tell_watchers_of_members(&self) {
        for lane in &self.lanes {
            let mut state = lane.lock();
            state.members_have_changed();
            lane.finish(state);
        }
    }
}
