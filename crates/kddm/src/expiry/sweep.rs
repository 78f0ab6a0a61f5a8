//! How old objects are, as this node has seen it: it looks at all of a set, again and again, and remembers since when each is
//! as it is. Only durations of its own clock are compared. A node that has just come to own an object begins to count, unless
//! it had a copy of the same put before; so an object never goes too soon, and one that moves at most by its time too late.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kddm_core::Main;
use kddm_core::id::{Mixer, ObjectId, SetId};
use kddm_core::io::Access;

use super::each::Own;
use super::here::Expiring;
use super::removal::{self, Going, Put, UnderWay};
use super::rule::Expiry;
use super::times::{Asking, Forgetting};
use crate::cell::{CellNumber, Looked};
use crate::runtime::lane::{Lane, LaneState};
use crate::runtime::told::SetHere;
use crate::value::{Raw, Value};

/// Cells that are looked at in one step: some ten microseconds.
const CELLS: u32 = 256;

/// Objects that may be about to go, of one set on one node: as many as go within a millisecond or two.
const UNDER_WAY: usize = 1024;

/// Objects that are asked for before a lane is given up once: what is grabbed may have to be decoded.
const GRABS: usize = 16;

/// What could not go is tried again after that at the latest.
const MOST_PAUSE: Duration = Duration::from_secs(60);

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

/// What a look has found to be done. The caller begins with it, when nobody else who looks at ages has to wait for that.
#[derive(Default)]
pub(super) struct Todo {
    goes: Vec<Going>,
    asks: Option<Asking>,
    forgets: Option<Forgetting>,
}

impl Todo {
    pub fn begin(self, here: &SetHere) {
        self.goes.into_iter().for_each(|going| going.begin(here));
        self.asks.into_iter().for_each(|asking| asking.begin(here));
        self.forgets.into_iter().for_each(|forgetting| forgetting.begin(here));
    }
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
    /// The put that has made it was not done yet when it was seen last: it counts from then on.
    is_unfinished: bool,
    /// As long as it is held: by a program which keeps it, and does not use it all the time.
    is_lent: bool,
    trial: Option<Box<Trial>>,
    /// The round that saw it last.
    round: u64,
}

/// That it was to go.
struct Trial {
    /// It is about to, while that is there.
    under_way: Weak<UnderWay>,
    /// When that has come to nothing it is tried again then, and after twice the pause the next time.
    next: Instant,
    pause: Duration,
}

/// See the module.
pub(super) struct Sweep {
    ages: HashMap<u64, Age, Mixer>,
    round: u64,
    round_began: Instant,
    next: CellNumber,
    /// As much has been about to go since then as may be.
    full_since: Option<Instant>,
    /// The shortest of the times that objects here have of their own: as this round has found it, and the one before.
    shortest: [Option<Duration>; 2],
}

impl Default for Sweep {
    fn default() -> Sweep {
        let (ages, shortest) = Default::default();
        Sweep { ages, round: 1, round_began: Instant::now(), next: 0, full_since: None, shortest }
    }
}

impl Sweep {
    /// Looks at a few cells, and grabs those objects whose time is over.
    pub fn step(&mut self, of: &Arc<Expiring>, here: &SetHere, todo: &mut Todo) -> Step {
        let now = Instant::now();
        if now < self.round_began {
            return Step::At(self.round_began);
        }
        let memory = || {
            let state = here.runtime.lanes[0].lock();
            // All lanes have one memory of it.
            if state.destroyed.contains(here.set) { Err(Step::Ended) } else { Ok(state.part.known(here.set)) }
        };
        let store = match memory() {
            Ok(Some(store)) => store,
            Ok(None) => return self.end_of_round(of, now, todo),
            Err(ended) => return ended,
        };
        let is_full = of.under_way.load(Ordering::Acquire) >= UNDER_WAY;
        if self.waits_for_room(of, is_full, now) {
            return Step::Waits;
        }
        let (looked, next) = store.look(self.next, CELLS, of.rule.marks());
        if store.type_name() == Raw::type_name()
            && !memory().is_ok_and(|now| now.is_some_and(|now| now.table() == store.table()))
        {
            // It has just been given a type: another memory has its objects, in cells of the same numbers.
            return Step::GoesOn;
        }
        if of.rule.each {
            todo.asks = of.times.learn(of, self.round, looked.iter().map(|looked| looked.object));
        }
        // What is found may have come just before the look ended: it counts from here on, and is compared with `now`.
        let seen = Instant::now();
        let to_look_at: Vec<Looked> =
            looked.into_iter().filter(|looked| !self.stays(of, looked, (now, seen))).collect();
        let may_go = !is_full && (!of.needs_linker() || here.runtime.linkers.has(here.set));
        self.look_closer(of, here, &to_look_at, (now, may_go), &mut todo.goes);
        let Some(next) = next else { return self.end_of_round(of, now, todo) };
        self.next = next;
        Step::GoesOn
    }

    /// As much is about to go as may be: that is waited for as long as there is between two looks. Then the rest of the round
    /// has nothing go, so that uses and puts are noticed all the same.
    fn waits_for_room(&mut self, of: &Expiring, is_full: bool, now: Instant) -> bool {
        if !is_full {
            self.full_since = None;
            return false;
        }
        now - *self.full_since.get_or_insert(now) < self.period(of)
    }

    /// How long there is between two looks at an object.
    fn period(&self, of: &Expiring) -> Duration {
        of.rule.period(self.shortest.into_iter().flatten().min())
    }

    /// At those that are new, or whose time may be over, under their lanes.
    fn look_closer(
        &mut self,
        of: &Arc<Expiring>,
        here: &SetHere,
        to_look_at: &[Looked],
        (now, may_go): (Instant, bool),
        goes: &mut Vec<Going>,
    ) {
        for lane in &here.runtime.lanes {
            let is_of_lane = |looked: &&Looked| Arc::ptr_eq(here.lane(looked.object), lane);
            let mut of_lane = to_look_at.iter().filter(is_of_lane).peekable();
            while of_lane.peek().is_some() {
                let mut state = lane.lock();
                let mut asked = 0;
                while asked < GRABS
                    && let Some(looked) = of_lane.next()
                {
                    match self.look_at(of, &state, looked, (now, may_go)) {
                        Fate::Stays => continue,
                        Fate::IsRecalled => removal::recall(lane, &mut state, of.set, looked.object),
                        Fate::Goes(put) => goes.extend(self.grab(of, (lane, &mut state), looked.object, put)),
                    }
                    asked += 1;
                }
                lane.finish_fair(state);
            }
        }
    }

    /// `None`: it stays for now.
    fn grab(
        &mut self,
        of: &Arc<Expiring>,
        (lane, state): (&Arc<Lane>, &mut LaneState),
        object: u64,
        put: Put,
    ) -> Option<Going> {
        let period = self.period(of);
        let age = self.ages.get_mut(&object)?;
        let op = removal::ask(lane, state, of.set, object, put);
        let now = Instant::now();
        let Some(op) = op else {
            // Somebody holds it where a look does not see that: it is used.
            age.used = now;
            return None;
        };
        let going = Going::new(of, object, put, op);
        let pause = age.trial.as_ref().map_or(period, |trial| (2 * trial.pause).min(MOST_PAUSE));
        age.trial = Some(Box::new(Trial { under_way: going.under_way(), next: now + pause, pause }));
        Some(going)
    }

    /// When that object leaves, at the soonest, if it was seen already.
    pub fn leaves_in(&self, rule: Expiry, object: u64) -> Option<Duration> {
        let age = self.ages.get(&object)?;
        let left = |limit: Option<Duration>, since: Instant| limit.map(|limit| limit.saturating_sub(since.elapsed()));
        [left(rule.after, age.since), left(rule.idle, age.used)].into_iter().flatten().min()
    }

    fn end_of_round(&mut self, of: &Arc<Expiring>, now: Instant, todo: &mut Todo) -> Step {
        let round = self.round;
        self.ages.retain(|_, age| age.round == round);
        if self.ages.capacity() > 4 * self.ages.len() + 1024 {
            self.ages.shrink_to_fit();
        }
        of.times.end_of_round(round);
        of.watched.store(self.ages.len() as u64, Ordering::Relaxed);
        todo.forgets = of.times.forget(of);
        self.shortest = [None, self.shortest[0]];
        self.round_began = (self.round_began + self.period(of)).max(now);
        (self.round, self.next, self.full_since) = (round + 1, 0, None);
        Step::At(self.round_began)
    }

    /// Whether an object is as it was, and its time is not over.
    fn stays(&mut self, of: &Expiring, looked: &Looked, (now, seen): (Instant, Instant)) -> bool {
        let known = of.rule_of(looked.object);
        let limit = known.and_then(|(_, own)| own?.time.own_limit());
        self.shortest[0] = self.shortest[0].into_iter().chain(limit).min();
        let age = self.ages.get_mut(&looked.object);
        let Some((rule, own)) = known else {
            // It stays until its time is known, and counts on.
            age.into_iter().for_each(|age| age.round = self.round);
            return true;
        };
        let Some(age) = age.filter(|age| age.version == looked.version && age.own == own) else { return false };
        age.round = self.round;
        if looked.is_used {
            age.used = seen;
        }
        age.is_lent &= looked.is_held;
        let is_in_use = looked.is_held && !age.is_lent && rule.idle.is_some();
        if age.is_unfinished || is_in_use {
            return false;
        }
        // As the cell says it: after a freeze the core may know better.
        let is_elsewhere = looked.access < Access::Write || looked.is_held;
        !rule.is_over(now - age.since) && !rule.is_idle(now - age.used, is_elsewhere)
    }

    /// One that is new, or whose time may be over: under its lane, so that it stays what it is.
    fn look_at(&mut self, of: &Expiring, state: &LaneState, looked: &Looked, (now, may_go): (Instant, bool)) -> Fate {
        let (set, object) = (of.set, ObjectId(looked.object));
        let Some(seen) = state.core.inspect(set, object) else { return Fate::Stays };
        let (tenure, born) = match seen.main {
            Main::Owner { tenure, born, .. } => (tenure.0, Some(born.0)),
            Main::Sharer { tenure, .. } => (tenure.0, None),
            _ => return Fate::Stays,
        };
        let Some((rule, own)) = of.rule_of(looked.object) else { return Fate::Stays };
        // Whatever there is now has come before that.
        let late = Instant::now();
        let (local, is_lent) = (state.locals.get(&(set, object)), state.is_lent(set, object));
        // Whoever puts holds it until the replicas have it. A program keeps it, and says when it has put.
        let is_unfinished = looked.is_written && !is_lent || local.is_some_and(|local| local.putting.is_some());
        let (owned, round, version) = (born.map(|_| tenure), self.round, looked.version);
        let begins =
            || Age { version, tenure, since: late, used: late, owned, own, is_unfinished, is_lent, trial: None, round };
        let age = self.ages.entry(looked.object).or_insert_with(begins);
        if age.version != version || age.own != own {
            *age = begins();
        }
        if age.is_unfinished {
            (age.since, age.used, age.is_unfinished) = (late, late, is_unfinished);
        }
        // Whoever owns it has it go. One that moves is used.
        if born.is_none() || age.owned != owned || (looked.is_held && !is_lent) {
            (age.used, age.owned) = (late, owned);
        }
        age.is_lent = is_lent && looked.is_held;
        let is_over = rule.is_over(now - age.since);
        let is_elsewhere = seen.access < Access::Write || looked.is_held;
        let is_idle = rule.is_idle(now - age.used, is_elsewhere);
        let Some(born) = born.filter(|_| is_over || is_idle) else { return Fate::Stays };
        let put = Put { version, tenure: age.tenure, is_unused: !is_over, own };
        if is_over && !put.is(set, tenure, born) {
            *age = begins();
            return Fate::Stays;
        }
        let is_kept = state.is_frozen(set) || state.fenced || state.stopped || !state.shares;
        let is_busy = local.is_some() || seen.wanting || state.is_a_peer_full();
        if !may_go || is_kept || is_busy || age.trial.as_mut().is_some_and(|trial| trial.waits(late)) {
            return Fate::Stays;
        }
        if is_over {
            return Fate::Goes(put);
        }
        if is_elsewhere {
            age.used = late;
            return Fate::IsRecalled;
        }
        Fate::Goes(Put { tenure, ..put })
    }
}

impl Trial {
    /// Whether it is not to be tried again yet.
    fn waits(&mut self, now: Instant) -> bool {
        if self.under_way.strong_count() > 0 {
            // The pause begins when that has ended.
            self.next = now + self.pause;
        }
        now < self.next
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
