//! Every interleaving of a small world: depth first, on all processors, each world once. What is found
//! broken is looked for again breadth first, since a short way is easier to follow.
//!
//! What is remembered of a world is its [fingerprint](crate::world::fingerprint). Worlds share the
//! nodes in which they do not differ, and only what a step has changed is hashed anew.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::world::fingerprint::Fingerprint;
use crate::world::{Action, Plan, World};

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Different worlds.
    pub states: usize,
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
    /// Different worlds: each takes some 30 bytes.
    pub states: usize,
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

type Seen = HashSet<u128, BuildHasherDefault<Identity>>;

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
    seen: Vec<Mutex<Seen>>,
    states: AtomicUsize,
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
        seen: (0..PARTS).map(|_| Mutex::default()).collect(),
        states: AtomicUsize::new(0),
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
    search.is_new(fingerprint.value());
    lock(&search.queue).jobs.push(Job { world, fingerprint, way: None, depth: 0 });
    std::thread::scope(|scope| {
        for _ in 0..search.threads {
            scope.spawn(|| search.work());
        }
    });
    let broken = search.broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (broken, path) = broken.map_or((None, Vec::new()), |(broken, path)| (Some(broken), path));
    Found {
        states: search.states.into_inner(),
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

    /// Takes every step from a world; those that lead to new ones are to be looked at.
    fn step(&self, job: &Job, actions: &mut Vec<Action>, found: &mut VecDeque<Job>) {
        actions.clear();
        job.world.actions(actions);
        for action in actions.iter().copied() {
            let changed = job.world.changes(action);
            let mut world = job.world.clone();
            world.apply(action);
            let fingerprint = job.fingerprint.after(&world, changed);
            if !self.is_new(fingerprint.value()) {
                continue;
            }
            let way = Some(Arc::new(Way { action, before: job.way.clone() }));
            if let Some(broken) = world.broken {
                return self.stop(broken, way);
            }
            self.depth.fetch_max(job.depth + 1, Ordering::Relaxed);
            found.push_back(Job { world, fingerprint, way, depth: job.depth + 1 });
        }
    }

    fn is_new(&self, fingerprint: u128) -> bool {
        let part = (fingerprint >> 64) as usize % PARTS;
        let new = self.seen.get(part).is_some_and(|part| lock(part).insert(fingerprint));
        if new {
            self.states.fetch_add(1, Ordering::Relaxed);
        }
        new
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
