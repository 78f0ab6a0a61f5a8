//! Every interleaving of a small world: depth first, on all processors, each world once. What is found
//! broken is looked for again breadth first, since a short way is easier to follow.
//!
//! What is remembered of a world is its [fingerprint](crate::world::fingerprint). Worlds share the
//! nodes in which they do not differ, and only what a step has changed is hashed anew.
//!
//! Every world is seen, but not every way to it: of two steps that can [change
//! places](independence), one order is enough ("sleep sets"). A world is remembered with the steps that
//! were not taken from it, because others had been there first; who comes by a way on which one of
//! them must be taken takes it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::independence::{Independence, Steps};
use crate::world::fingerprint::Fingerprint;
use crate::world::{Action, Plan, World};

mod independence;

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Different worlds.
    pub states: usize,
    /// Steps taken from one to another.
    pub steps: usize,
    /// Steps of the longest path taken.
    pub depth: usize,
    /// All worlds were seen, unless something was broken.
    pub complete: bool,
    /// What was broken, if anything.
    pub broken: Option<String>,
    /// The steps that lead there.
    pub path: Vec<Action>,
}

/// Where a search ends without having seen all.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time.
    pub time: Duration,
    /// Different worlds: each takes some 50 bytes.
    pub states: usize,
    /// Takes every step from every world: only to see that nothing is missed without.
    pub takes_all_steps: bool,
}

/// Parts of the memory of the seen, each with its own lock.
const PARTS: usize = 64;
/// Worlds that a thread looks at before it looks at the clock.
const WORLDS_PER_LOOK: usize = 1_024;

/// A fingerprint is a hash already.
#[derive(Clone, Copy, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

/// By fingerprint, the steps that were left out in each world.
type Seen = HashMap<u128, Steps, BuildHasherDefault<Identity>>;

/// The way to a world, last step first.
struct Way {
    action: Action,
    before: Option<Arc<Way>>,
}

impl Drop for Way {
    /// Without recursion: a way may be long.
    fn drop(&mut self) {
        let mut before = self.before.take();
        while let Some(mut way) = before.and_then(Arc::into_inner) {
            before = way.before.take();
        }
    }
}

/// A world whose steps are still to be taken.
struct Job {
    world: World,
    fingerprint: Fingerprint,
    way: Option<Arc<Way>>,
    depth: usize,
    /// Steps to take, of those that are possible.
    wanted: Steps,
    /// Steps that need not be taken: others have been where they lead.
    asleep: Steps,
}

/// Worlds that no thread has taken yet.
#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    idle: usize,
    over: bool,
}

struct Search {
    /// The worlds found first are looked at first; for one thread.
    breadth_first: bool,
    independence: Independence,
    seen: Vec<Mutex<Seen>>,
    states: AtomicUsize,
    steps: AtomicUsize,
    depth: AtomicUsize,
    queue: Mutex<Queue>,
    changed: Condvar,
    hungry: AtomicUsize,
    threads: usize,
    over: AtomicBool,
    stopped_early: AtomicBool,
    broken: Mutex<Option<(String, Vec<Action>)>>,
    start: Instant,
    limits: Limits,
}

/// Worlds among which a shorter way to what is broken is looked for: they are kept whole.
const STATES_FOR_A_SHORT_WAY: usize = 100_000;

/// Searches from the beginning of a plan until all is seen, something is broken, or a limit is reached.
pub fn search(plan: &Plan, threads: usize, limits: Limits) -> Found {
    let found = search_in_order(plan, threads, limits, false);
    if found.broken.is_none() {
        return found;
    }
    let limits = Limits { states: limits.states.min(STATES_FOR_A_SHORT_WAY), ..limits };
    let short = search_in_order(plan, 1, limits, true);
    if short.broken.is_some() { Found { states: found.states, ..short } } else { found }
}

fn search_in_order(plan: &Plan, threads: usize, limits: Limits, breadth_first: bool) -> Found {
    let world = World::new(plan);
    let fingerprint = Fingerprint::of(&world);
    let search = Search {
        breadth_first,
        independence: Independence::of(plan),
        seen: (0..PARTS).map(|_| Mutex::default()).collect(),
        states: AtomicUsize::new(0),
        steps: AtomicUsize::new(0),
        depth: AtomicUsize::new(0),
        queue: Mutex::default(),
        changed: Condvar::new(),
        hungry: AtomicUsize::new(0),
        threads: threads.max(1),
        over: AtomicBool::new(false),
        stopped_early: AtomicBool::new(false),
        broken: Mutex::default(),
        start: Instant::now(),
        limits,
    };
    search.to_be_taken(fingerprint.value(), 0);
    lock(&search.queue).jobs.push(Job { world, fingerprint, way: None, depth: 0, wanted: Steps::MAX, asleep: 0 });
    std::thread::scope(|scope| {
        for _ in 0..search.threads {
            scope.spawn(|| search.work());
        }
    });
    let broken = search.broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (broken, path) = broken.map_or((None, Vec::new()), |(broken, path)| (Some(broken), path));
    Found {
        states: search.states.into_inner(),
        steps: search.steps.into_inner(),
        depth: search.depth.into_inner(),
        complete: !search.stopped_early.into_inner() && broken.is_none(),
        broken,
        path,
    }
}

/// A thread that panicked ends the search by the scope's panic; what it locked is not looked at again.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Search {
    fn work(&self) {
        let mut found = VecDeque::new();
        let mut actions = Vec::new();
        let mut looked_at = 0;
        let next = |found: &mut VecDeque<Job>| if self.breadth_first { found.pop_front() } else { found.pop_back() };
        while let Some(job) = next(&mut found).or_else(|| self.take()) {
            looked_at += 1;
            if looked_at % WORLDS_PER_LOOK == 0 {
                self.look_at_the_limits();
            }
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            self.step(&job, &mut actions, &mut found);
            if self.hungry.load(Ordering::Relaxed) > 0 && found.len() > 1 {
                self.share(&mut found);
            }
        }
    }

    /// Takes the steps that are to be taken from a world; where they lead anew is to be looked at.
    fn step(&self, job: &Job, actions: &mut Vec<Action>, found: &mut VecDeque<Job>) {
        actions.clear();
        job.world.actions(actions);
        let mut asleep = job.asleep;
        for action in actions.iter().copied() {
            let bit = self.independence.bit(action);
            let mask = bit.map_or(0, |bit| 1 << bit);
            // A step without a bit is never left out, so it was taken when the world was new.
            let is_wanted = if bit.is_some() { job.wanted & mask != 0 } else { job.wanted == Steps::MAX };
            if !is_wanted || asleep & mask != 0 {
                continue;
            }
            let still_asleep = asleep & self.independence.with(bit);
            if !self.limits.takes_all_steps {
                asleep |= mask;
            }
            self.steps.fetch_add(1, Ordering::Relaxed);
            let changed = job.world.changes(action);
            let mut world = job.world.clone();
            world.apply(action);
            let fingerprint = job.fingerprint.after(&world, changed);
            let Some((wanted, asleep)) = self.to_be_taken(fingerprint.value(), still_asleep) else { continue };
            let way = Some(Arc::new(Way { action, before: job.way.clone() }));
            if let Some(broken) = world.broken {
                return self.stop(broken, way);
            }
            self.depth.fetch_max(job.depth + 1, Ordering::Relaxed);
            found.push_back(Job { world, fingerprint, way, depth: job.depth + 1, wanted, asleep });
        }
    }

    /// What is to be done in a world that was reached, with steps that need not be taken there: which
    /// steps to take, and which stay asleep meanwhile. None if others have done it all.
    fn to_be_taken(&self, fingerprint: u128, asleep: Steps) -> Option<(Steps, Steps)> {
        let part = self.seen.get((fingerprint >> 64) as usize % PARTS)?;
        match lock(part).entry(fingerprint) {
            Entry::Vacant(entry) => {
                entry.insert(asleep);
                self.states.fetch_add(1, Ordering::Relaxed);
                Some((Steps::MAX, asleep))
            }
            Entry::Occupied(mut entry) => {
                let before = *entry.get();
                entry.insert(before & asleep);
                let wanted = before & !asleep;
                (wanted != 0).then_some((wanted, before & asleep))
            }
        }
    }

    fn stop(&self, broken: String, mut way: Option<Arc<Way>>) {
        let mut path = Vec::new();
        while let Some(step) = way {
            path.push(step.action);
            way = step.before.clone();
        }
        path.reverse();
        lock(&self.broken).get_or_insert((broken, path));
        self.end();
    }

    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        lock(&self.queue).over = true;
        self.changed.notify_all();
    }

    fn look_at_the_limits(&self) {
        if self.start.elapsed() > self.limits.time || self.states.load(Ordering::Relaxed) > self.limits.states {
            self.stopped_early.store(true, Ordering::Relaxed);
            self.end();
        }
    }

    /// A world of another thread; none once all is seen.
    fn take(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        queue.idle += 1;
        self.hungry.store(queue.idle, Ordering::Relaxed);
        loop {
            if queue.over || (queue.jobs.is_empty() && queue.idle == self.threads) {
                queue.over = true;
                self.changed.notify_all();
                return None;
            }
            if let Some(job) = queue.jobs.pop() {
                queue.idle -= 1;
                self.hungry.store(queue.idle, Ordering::Relaxed);
                return Some(job);
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives the older half away: it has the most ahead of it.
    fn share(&self, found: &mut VecDeque<Job>) {
        let half = found.len() / 2;
        lock(&self.queue).jobs.extend(found.drain(..half));
        self.changed.notify_all();
    }
}
