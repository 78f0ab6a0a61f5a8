//! How old objects are, as this node has seen it: it looks at all of a set, again and again, and remembers since when each is
//! as it is. Only durations of its own clock are compared. A node that has just come to own an object begins to count, unless
//! it had a copy of the same put before; so an object never goes too soon, and one that moves at most by its time too late.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kddm_core::Main;
use kddm_core::id::{Mixer, ObjectId, SetId};
use kddm_core::io::Access;

use super::each::Own;
use super::here::Expiring;
use super::removal::{self, Put};
use super::rule::Expiry;
use crate::cell::{CellNumber, Looked, Store};
use crate::runtime::lane::{Lane, LaneState};
use crate::runtime::told::SetHere;

/// Cells that are looked at in one step: some ten microseconds.
const CELLS: u32 = 256;

/// Objects that may be about to go, of one set on one node: as many as go within a millisecond or two.
const UNDER_WAY: usize = 1024;

/// What comes next.
pub(super) enum Step {
    GoesOn,
    /// As much is about to go as may be.
    Waits,
    /// All has been looked at, and will be again then.
    At(Instant),
    /// The set is no more.
    Ended,
}

/// Since when an object is as it is.
struct Age {
    version: u64,
    /// The ownership of which the copy was that was seen first.
    tenure: u64,
    since: Instant,
    /// It was used then, or may have been.
    used: Instant,
    /// The ownership in which it was here then; none where this node has only a copy.
    owned: Option<u64>,
    /// The time of its own, which counts from then on.
    own: Option<Own>,
    /// The round that saw it last.
    round: u64,
}

/// See the module.
pub(super) struct Sweep {
    ages: HashMap<u64, Age, Mixer>,
    round: u64,
    round_began: Instant,
    lane: usize,
    next: CellNumber,
}

impl Default for Sweep {
    fn default() -> Sweep {
        Sweep { ages: HashMap::default(), round: 1, round_began: Instant::now(), lane: 0, next: 0 }
    }
}

impl Sweep {
    /// Looks at a few cells, and has those objects go whose time is over.
    pub fn step(&mut self, of: &Arc<Expiring>, here: &SetHere) -> Step {
        let now = Instant::now();
        if now < self.round_began {
            return Step::At(self.round_began);
        }
        let lanes = &here.runtime.lanes;
        let Some(lane) = lanes.get(self.lane) else { return self.end_of_round(of, now) };
        let store = {
            let state = lane.lock();
            if state.destroyed.contains(here.set) {
                return Step::Ended;
            }
            state.stores.get(&here.set).cloned()
        };
        let is_another = |store: &Arc<dyn Store>| {
            let has = |before: &Arc<Lane>| {
                let state = before.lock();
                state.stores.get(&here.set).is_some_and(|other| Arc::ptr_eq(other, store))
            };
            self.next > 0 || !lanes[..self.lane].iter().any(has)
        };
        let Some(store) = store.filter(is_another) else {
            (self.lane, self.next) = (self.lane + 1, 0);
            return Step::GoesOn;
        };
        if of.under_way.load(Ordering::Acquire) >= UNDER_WAY {
            return Step::Waits;
        }
        let (looked, next) = store.look(self.next, CELLS, of.rule.marks());
        if of.rule.each {
            of.times.learn(of, here, self.round, looked.iter().map(|looked| looked.object));
        }
        let to_look_at: Vec<Looked> = looked.into_iter().filter(|looked| !self.stays(of, looked, now)).collect();
        for lane in lanes {
            let of_lane = || to_look_at.iter().filter(|looked| Arc::ptr_eq(here.lane(looked.object), lane));
            if of_lane().next().is_none() {
                continue;
            }
            let mut state = lane.lock();
            let look = |looked: &Looked| match self.look_at(of, here.set, &state, looked, now) {
                Fate::Stays => None,
                Fate::IsRecalled => {
                    removal::recall(lane, &mut state, here.set, looked.object);
                    None
                }
                Fate::Goes(put) => {
                    let op = removal::ask(lane, &mut state, here.set, looked.object, put)?;
                    Some((looked.object, put, op))
                }
            };
            let begun: Vec<_> = of_lane().filter_map(look).collect();
            lane.finish_fair(state);
            for (object, put, op) in begun {
                removal::begin(of, here, object, put, op);
            }
        }
        match next {
            Some(next) => self.next = next,
            None => (self.lane, self.next) = (self.lane + 1, 0),
        }
        Step::GoesOn
    }

    /// When that object leaves, at the soonest, if it was seen already.
    pub fn leaves_in(&self, rule: Expiry, object: u64) -> Option<Duration> {
        let age = self.ages.get(&object)?;
        let left = |limit: Option<Duration>, since: Instant| limit.map(|limit| limit.saturating_sub(since.elapsed()));
        [left(rule.after, age.since), left(rule.idle, age.used)].into_iter().flatten().min()
    }

    fn end_of_round(&mut self, of: &Expiring, now: Instant) -> Step {
        let round = self.round;
        self.ages.retain(|_, age| age.round == round);
        if self.ages.capacity() > 4 * self.ages.len() + 1024 {
            self.ages.shrink_to_fit();
        }
        of.times.end_of_round(round);
        of.watched.store(self.ages.len() as u64, Ordering::Relaxed);
        self.round_began = (self.round_began + of.period()).max(now);
        (self.round, self.lane, self.next) = (round + 1, 0, 0);
        Step::At(self.round_began)
    }

    /// Whether an object is as it was, and its time is not over.
    fn stays(&mut self, of: &Expiring, looked: &Looked, now: Instant) -> bool {
        let age = self.ages.get_mut(&looked.object);
        let Some((rule, own)) = of.rule_of(looked.object) else {
            // It stays until its time is known, and counts on.
            age.into_iter().for_each(|age| age.round = self.round);
            return true;
        };
        let Some(age) = age.filter(|age| age.version == looked.version && age.own == own) else { return false };
        age.round = self.round;
        if looked.is_used {
            age.used = now;
        }
        !rule.is_over(now - age.since) && !rule.is_idle(now - age.used, looked)
    }

    /// One that is new, or whose time is over: under its lane, so that it stays what it is.
    fn look_at(&mut self, of: &Expiring, set: SetId, state: &LaneState, looked: &Looked, now: Instant) -> Fate {
        let object = ObjectId(looked.object);
        let Some(seen) = state.core.inspect(set, object) else { return Fate::Stays };
        let (tenure, born) = match seen.main {
            Main::Owner { tenure, born, .. } => (tenure.0, Some(born.0)),
            Main::Sharer { tenure, .. } => (tenure.0, None),
            _ => return Fate::Stays,
        };
        let Some((rule, own)) = of.rule_of(looked.object) else { return Fate::Stays };
        let (round, version, owned) = (self.round, looked.version, born.map(|_| tenure));
        let begins = || Age { version, tenure, since: now, used: now, owned, own, round };
        let age = self.ages.entry(looked.object).or_insert_with(begins);
        if age.version != version || age.own != own {
            *age = begins();
        }
        // Whoever owns it has it go. One that moves is used.
        if born.is_none() || age.owned != owned {
            (age.used, age.owned) = (now, owned);
        }
        let is_over = rule.is_over(now - age.since);
        let Some(born) = born.filter(|_| is_over || rule.is_idle(now - age.used, looked)) else {
            return Fate::Stays;
        };
        let put = Put { version: age.version, tenure: age.tenure, is_unused: !is_over, own };
        if is_over && !put.is(set, tenure, born) {
            *age = begins();
            return Fate::Stays;
        }
        let is_busy = state.locals.contains_key(&(set, object)) || seen.wanting || state.is_a_peer_full();
        if is_busy || state.is_frozen(set) || state.fenced || state.stopped {
            return Fate::Stays;
        }
        if is_over {
            return Fate::Goes(put);
        }
        let is_elsewhere = seen.access < Access::Write || looked.is_held;
        if is_elsewhere {
            age.used = now;
            return Fate::IsRecalled;
        }
        Fate::Goes(Put { tenure, ..put })
    }
}

/// What is to be done with an object.
enum Fate {
    Stays,
    /// It may be in use where this node does not see it: it is taken back, if nobody holds it.
    IsRecalled,
    Goes(Put),
}

impl Put {
    /// Whether what is owned in that tenure, of an object that was born then, is that put, if it has its version.
    pub fn is(&self, set: SetId, tenure: u64, born: u64) -> bool {
        // Where losses are rolled back there may be another put of the same version, of a later owner.
        born <= self.tenure && (tenure == self.tenure || !set.rolls_back())
    }
}
