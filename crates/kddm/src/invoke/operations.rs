//! The operations of one set on one node, and the calls that wait for its objects: all that wait for one object are run in
//! one hold, and published together.

use std::any::Any;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::answer::Told;
use super::error::InvokeError;
use super::here::{count, place};
use crate::error::Error;
use crate::guard::WriteGuard;
use crate::operation::Put;
use crate::pending::Pending;
use crate::rpc::{Answers, Engine, ReplyTo};
use crate::set::{GRAB, Set};
use crate::value::Value;

/// Operations of one set on one node.
pub(super) const OPERATIONS: usize = 256;

/// Calls that wait for objects of one set on one node.
pub(super) const QUEUE_LIMIT: usize = 4096;

/// Calls that are run in one hold: others, who grab the object, have their turn in between.
const BATCH: usize = 64;

/// Calls in a row of one node, with no other change between them, after which it would better own the object.
const ALONE: u32 = 16;

/// Objects of which it is counted who changes them.
const CHANGERS: usize = 1024;

/// An operation as the owner runs it: from bytes to bytes.
pub(super) type Code<T> = dyn Fn(&mut T, &[u8]) -> Result<Vec<u8>, Error> + Send + Sync;

/// Who hears what became of a call.
pub(super) enum Whom {
    Caller(Arc<Engine>, ReplyTo),
    Thread(Arc<Answers>),
}

/// A call that has come to this node.
pub(super) struct Item {
    pub object: u64,
    pub operation: Arc<str>,
    pub arguments: Vec<u8>,
    pub from: u16,
    pub deadline: Instant,
    pub cancelled: Option<Arc<AtomicBool>>,
    pub whom: Whom,
}

impl Item {
    pub fn answer(&self, told: &Told) {
        match &self.whom {
            Whom::Caller(engine, reply_to) => engine.answer(*reply_to, Ok(told.bytes())),
            Whom::Thread(answers) => answers.complete(0, Ok(told.bytes())),
        }
    }

    /// Nobody waits for it any more: it must not run.
    fn is_over(&self) -> bool {
        let is_cancelled = self.cancelled.as_ref().is_some_and(|cancelled| cancelled.load(Ordering::Acquire));
        is_cancelled || Instant::now() >= self.deadline
    }
}

/// The operations of a set, whatever its type.
pub(super) trait Runner: Send + Sync {
    /// A call from elsewhere. Does not wait: on the thread that reads all calls.
    fn take(self: Arc<Self>, item: Item);
    /// Runs what waits for an object, and waits for that.
    fn drain(self: Arc<Self>, object: u64);
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

#[derive(Default)]
struct Queues {
    /// One for each object for which a thread runs, or will.
    of: HashMap<u64, VecDeque<Item>>,
    waiting: usize,
}

/// Who has changed an object, and up to which version nobody else has.
#[derive(Clone, Copy)]
struct Changer {
    object: u64,
    version: u64,
    from: u16,
    calls: u32,
}

/// See the module.
pub(super) struct Operations<T: Value> {
    pub set: Set<T>,
    known: RwLock<HashMap<Arc<str>, Arc<Code<T>>>>,
    queues: Mutex<Queues>,
    changers: Mutex<Vec<Option<Changer>>>,
}

impl<T: Value> Operations<T> {
    pub fn new(set: Set<T>) -> Operations<T> {
        Operations { set, known: RwLock::default(), queues: Mutex::default(), changers: Mutex::default() }
    }

    pub fn add(&self, name: &Arc<str>, code: Arc<Code<T>>) -> Result<(), InvokeError> {
        let mut known = self.known.write();
        if known.contains_key(name) {
            return Err(InvokeError::AlreadyRegistered { operation: name.to_string() });
        }
        if known.len() >= OPERATIONS {
            return Err(InvokeError::TooMany { limit: OPERATIONS });
        }
        known.insert(Arc::clone(name), code);
        Ok(())
    }

    pub fn remove(&self, name: &str) {
        let removed = self.known.write().remove(name);
        // Without the lock: what it has captured is code of whoever registered it.
        drop(removed);
    }

    /// The object, if it can be had and published without any wait.
    fn free(&self, object: u64) -> Option<WriteGuard<T>> {
        let shared = &self.set.0;
        let waits = shared.here.has_replicas() || shared.linked.as_ref().is_some_and(|linked| linked.is_written());
        if waits || self.queues.lock().of.contains_key(&object) {
            return None;
        }
        let hold = shared.try_write(object).ok()?;
        if hold.has_value() {
            return shared.guard(hold, object, GRAB, None).ok();
        }
        // A first touch is made by a thread that may wait, and may panic.
        if hold.release() {
            shared.here.released(object);
        }
        None
    }

    /// Whether a call would wait for a thaw: by whoever calls, who says so, and by none of the few threads here.
    fn is_frozen(&self, object: u64) -> bool {
        let here = &self.set.0.here;
        here.lane(object).lock().is_frozen(here.set)
    }

    /// Leaves a call to the thread that has the object next.
    pub fn enqueue(self: &Arc<Self>, item: Item) {
        let object = item.object;
        if self.is_frozen(object) {
            return item.answer(&Told::Away);
        }
        let mut queues = self.queues.lock();
        if queues.waiting >= QUEUE_LIMIT {
            let waiting = queues.waiting as u64;
            drop(queues);
            return item.answer(&Told::Overloaded { waiting });
        }
        queues.waiting += 1;
        // A queue that is there has a thread, or will have one, also if it is empty just now.
        match queues.of.entry(object) {
            Entry::Occupied(mut queue) => return queue.get_mut().push_back(item),
            Entry::Vacant(place) => _ = place.insert(VecDeque::from([item])),
        }
        drop(queues);
        self.begin(object);
    }

    fn begin(self: &Arc<Self>, object: u64) {
        let runtime = &self.set.0.here.runtime;
        if runtime.invoking.workers.take(&runtime.rpc, (Arc::clone(self) as Arc<dyn Runner>, object)) {
            return;
        }
        while let Some(items) = self.next(object) {
            items.iter().for_each(|item| item.answer(&Told::Away));
        }
    }

    /// The next that wait for an object; none, and its queue has ended.
    fn next(&self, object: u64) -> Option<Vec<Item>> {
        let mut queues = self.queues.lock();
        let queue = queues.of.get_mut(&object)?;
        let items: Vec<Item> = queue.drain(..queue.len().min(BATCH)).collect();
        if items.is_empty() {
            queues.of.remove(&object);
            return None;
        }
        queues.waiting -= items.len();
        Some(items)
    }

    /// Those that came while the object was waited for are run with it.
    fn join(&self, object: u64, items: &mut Vec<Item>) {
        let mut queues = self.queues.lock();
        let Some(queue) = queues.of.get_mut(&object) else { return };
        let before = items.len();
        items.extend(queue.drain(..queue.len().min(BATCH - before)));
        queues.waiting -= items.len() - before;
    }

    /// Runs calls one after the other, publishes what they made, and answers them.
    fn run(&self, mut guard: WriteGuard<T>, mut items: Vec<Item>) {
        items.retain(|item| {
            let is_over = item.is_over();
            if is_over {
                item.answer(&Told::Refused { reason: "its limit was over before it had the object".into() });
            }
            !is_over
        });
        let is_one = items.len() == 1;
        let mut told = Vec::with_capacity(items.len());
        for item in &items {
            // What fails leaves the value as it found it. A single one is undone with its guard.
            let before = (!is_one).then(|| guard.clone_value());
            let outcome = self.run_one(&mut guard, item);
            if let (Err(_), Some(before)) = (&outcome, before) {
                *guard = before;
            }
            told.push(outcome);
        }
        let done = told.iter().filter(|outcome| outcome.is_ok()).count();
        if done == 0 {
            drop(guard);
        } else {
            let counts = &self.set.0.here.runtime.invoking.counts;
            count(&counts.combined, done - 1);
            count(&counts.served, items.iter().filter(|item| matches!(item.whom, Whom::Caller(..))).count());
            let is_alone = self.changed_by(&guard, &items);
            if let Err(error) = publish(guard) {
                let why = self.not_published(&error);
                told.iter_mut().filter(|outcome| outcome.is_ok()).for_each(|outcome| *outcome = Err(why.clone()));
            }
            for (item, outcome) in items.iter().zip(told) {
                let done = |result| Told::Done { result, is_alone };
                item.answer(&outcome.map_or_else(|told| told, done));
            }
            return;
        }
        items.iter().zip(told).for_each(|(item, outcome)| item.answer(&outcome.err().unwrap_or(Told::Away)));
    }

    fn run_one(&self, guard: &mut WriteGuard<T>, item: &Item) -> Result<Vec<u8>, Told> {
        let code = self.known.read().get(&item.operation).map(Arc::clone).ok_or(Told::NoOperation)?;
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let result = code(guard, &item.arguments)?;
            guard.may_be_put().map(|()| result)
        }));
        let result = ran.map_err(|_panic| {
            tracing::error!(operation = &*item.operation, from = item.from, "an operation panicked");
            Told::Panicked
        })?;
        result.map_err(|error| Told::of(&error))
    }

    /// A replica may have what a node did not live to hear of: whoever calls must not have it run elsewhere.
    fn not_published(&self, error: &Error) -> Told {
        match Told::of(error) {
            Told::Away | Told::Destroyed if self.set.0.here.has_replicas() => {
                Told::Unconfirmed { reason: error.to_string() }
            }
            told => told,
        }
    }

    /// Whether nobody but the one node that calls has changed the object for a while.
    fn changed_by(&self, guard: &WriteGuard<T>, items: &[Item]) -> bool {
        let mut changers = self.changers.lock();
        if changers.is_empty() {
            changers.resize(CHANGERS, None);
        }
        let known = &mut changers[place(guard.id())];
        let from = items.first().map_or(0, |item| item.from);
        let is_one = from != self.set.0.here.runtime.identity.id.0 && items.iter().all(|item| item.from == from);
        let before =
            known.filter(|known| (known.object, known.version, known.from) == (guard.id(), guard.version(), from));
        let calls = if is_one { before.map_or(0, |known| known.calls).saturating_add(items.len() as u32) } else { 0 };
        *known = Some(Changer { object: guard.id(), version: guard.version() + 1, from, calls });
        calls >= ALONE
    }
}

fn publish<T: Value>(guard: WriteGuard<T>) -> Result<(), Error> {
    match guard.publish()? {
        None => Ok(()),
        Some(put) => wait_for(put),
    }
}

fn wait_for(put: Put) -> Result<(), Error> {
    Pending::<()>::asked(put).wait()
}

impl<T: Value> Runner for Operations<T> {
    fn take(self: Arc<Self>, item: Item) {
        if !self.known.read().contains_key(&item.operation) {
            let owner = self.set.0.here.owner_but(item.object, item.from);
            return item.answer(&owner.map_or(Told::NoOperation, |owner| Told::NotMine { owner }));
        }
        if let Some(guard) = self.free(item.object) {
            return self.run(guard, vec![item]);
        }
        let is_awaited = self.queues.lock().of.contains_key(&item.object);
        match self.set.0.here.owner_but(item.object, item.from) {
            Some(owner) if !is_awaited => item.answer(&Told::NotMine { owner }),
            _ => self.enqueue(item),
        }
    }

    fn drain(self: Arc<Self>, object: u64) {
        while let Some(mut items) = self.next(object) {
            let now = Instant::now();
            let left = items.iter().map(|item| item.deadline.saturating_duration_since(now)).max().unwrap_or_default();
            // A first touch, or what copies a value, may panic: this thread has others to run.
            let grabbed = catch_unwind(AssertUnwindSafe(|| {
                let asked = self.set.grab(object);
                // Looked at behind the wish: what is frozen only now lets that one in, and it ends before.
                let waits_for_thaw = !asked.is_ready() && self.is_frozen(object);
                (!waits_for_thaw).then(|| asked.wait_for(left))
            }));
            let told = match grabbed {
                Ok(None) => Told::Away,
                Ok(Some(Ok(guard))) => {
                    self.join(object, &mut items);
                    let ran = catch_unwind(AssertUnwindSafe(|| self.run(guard, items)));
                    if ran.is_err() {
                        tracing::error!(object, "a value panicked: those who wait for it are not answered");
                    }
                    continue;
                }
                Ok(Some(Err(error))) => Told::of(&error),
                Err(_panic) => Told::Panicked,
            };
            items.iter().for_each(|item| item.answer(&told));
        }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
