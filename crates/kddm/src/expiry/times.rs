//! What a node knows of the times of single objects of a set: copies of the parts that its looks need, each asked for once in a
//! round, one after the other and behind all looks; and the times of objects that have left, until they are forgotten.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kddm_core::id::{Mixer, SetId};
use parking_lot::Mutex;

use super::each::{Own, Part, name_of, part, part_here, part_of};
use super::here::Expiring;
use super::rule::Expiry;
use crate::cell::{Lease, Table};
use crate::error::Error;
use crate::linker::drive;
use crate::node::{Node, Owner};
use crate::operation::Make;
use crate::runtime::told::SetHere;
use crate::set::{Set, Shared};

/// How long whoever asks for times waits for each of them; nothing is held meanwhile.
const LIMIT: Duration = Duration::from_secs(1);

/// What could not be forgotten is tried again after that.
const FORGET_AGAIN: Duration = Duration::from_secs(1);

/// Times that are to be forgotten at one time, some 50 bytes each. What is beyond makes room when its part is full.
const FORGET_LIMIT: usize = 16_384;

/// See the module.
#[derive(Default)]
pub(super) struct Times {
    known: Mutex<Known>,
    /// The set beside, once it was found: to look for it takes questions.
    beside: OnceLock<Beside>,
}

#[derive(Default)]
struct Known {
    parts: HashMap<u64, KnownPart, Mixer>,
    /// The parts that are to be asked for, each once.
    to_ask: VecDeque<u64>,
    is_asking: bool,
    /// Of objects that have left by them.
    to_forget: BTreeMap<u64, Own>,
    is_forgetting: bool,
    /// Some could not be forgotten: they are tried again then.
    forget_at: Option<Instant>,
}

#[derive(Default)]
struct KnownPart {
    /// The round of looks that wanted it last, and the one for which it was asked last.
    wanted: u64,
    asked: u64,
    is_queued: bool,
    /// It could not be read when it was asked for last.
    is_unread: bool,
    /// As it was when it was read last. `None`: not known yet.
    part: Option<Arc<Part>>,
}

/// The set beside as it is here, without the node that has all this.
struct Beside {
    set: SetId,
    table: Arc<Table<Part>>,
    first_touch: Make<Part>,
    lease: Arc<Lease>,
}

impl Beside {
    fn of(times: &Set<Part>) -> Beside {
        let Shared { here, table, first_touch, lease, .. } = &*times.0;
        let (table, first_touch, lease) = (Arc::clone(table), Arc::clone(first_touch), Arc::clone(lease));
        Beside { set: here.set, table, first_touch, lease }
    }

    fn opened(&self, of: &SetHere) -> Set<Part> {
        Set(Arc::new(Shared {
            here: SetHere { runtime: Arc::clone(&of.runtime), set: self.set },
            _node: Owner::guest(Arc::clone(&of.runtime)),
            name: name_of(of.set),
            table: Arc::clone(&self.table),
            first_touch: Arc::clone(&self.first_touch),
            wait_limit: LIMIT,
            linked: None,
            lease: Arc::clone(&self.lease),
        }))
    }
}

impl Times {
    async fn open(&self, of: &SetHere) -> Result<Set<Part>, Error> {
        if let Some(beside) = self.beside.get() {
            return Ok(beside.opened(of));
        }
        let node = Node(Owner::guest(Arc::clone(&of.runtime)));
        let times = node.set(&name_of(of.set)).wait_limit(LIMIT).open_existing().await?;
        let _it_may_be_known = self.beside.set(Beside::of(&times));
        Ok(times)
    }

    /// The times of those objects are wanted, once for each round. `Some` has to be begun with.
    pub fn learn(&self, of: &Arc<Expiring>, round: u64, objects: impl Iterator<Item = u64>) -> Option<Asking> {
        let mut known = self.known.lock();
        let Known { parts, to_ask, is_asking, .. } = &mut *known;
        for number in objects.map(part_of) {
            let part = parts.entry(number).or_default();
            part.wanted = round;
            if part.asked != round && !std::mem::replace(&mut part.is_queued, true) {
                to_ask.push_back(number);
            }
        }
        let begins = !to_ask.is_empty() && !std::mem::replace(is_asking, true);
        begins.then(|| Asking(Arc::clone(of)))
    }

    pub(super) fn next_to_ask(&self) -> Option<u64> {
        let mut known = self.known.lock();
        let Known { parts, to_ask, .. } = &mut *known;
        let number = to_ask.pop_front()?;
        let part = parts.entry(number).or_default();
        (part.asked, part.is_queued) = (part.wanted, false);
        Some(number)
    }

    /// What no look has wanted for a round is forgotten.
    pub fn end_of_round(&self, round: u64) {
        self.known.lock().parts.retain(|_, part| part.wanted == round || part.is_queued);
    }

    fn own(&self, object: u64) -> Option<Option<Own>> {
        let known = self.known.lock();
        let part = known.parts.get(&part_of(object))?.part.as_ref()?;
        Some(part.own(object))
    }

    fn know(&self, number: u64, part: Option<Arc<Part>>) {
        let mut known = self.known.lock();
        let Some(known) = known.parts.get_mut(&number) else { return };
        known.is_unread = part.is_none();
        // What was known before stays.
        known.part = part.or(known.part.take());
    }

    /// Parts that could not be read when they were asked for last.
    pub fn unread(&self) -> u64 {
        self.known.lock().parts.values().filter(|part| part.is_unread).count() as u64
    }

    /// The object has left by that time, which is to go with it.
    pub fn has_left(&self, object: u64, own: Own) {
        let mut known = self.known.lock();
        if known.to_forget.len() < FORGET_LIMIT || known.to_forget.contains_key(&object) {
            known.to_forget.insert(object, own);
        }
    }

    /// `Some` has to be begun with.
    pub fn forget(&self, of: &Arc<Expiring>) -> Option<Forgetting> {
        let mut known = self.known.lock();
        let is_time = known.forget_at.is_none_or(|at| at <= Instant::now());
        let begins = is_time && !known.to_forget.is_empty() && !std::mem::replace(&mut known.is_forgetting, true);
        begins.then(|| Forgetting(Arc::clone(of)))
    }

    /// Those of each part.
    fn take_to_forget(&self) -> BTreeMap<u64, Vec<(u64, Own)>> {
        let mut of_parts = BTreeMap::<u64, Vec<(u64, Own)>>::new();
        for (object, own) in std::mem::take(&mut self.known.lock().to_forget) {
            of_parts.entry(part_of(object)).or_default().push((object, own));
        }
        of_parts
    }

    fn forget_later(&self, times: Vec<(u64, Own)>) {
        let mut known = self.known.lock();
        known.forget_at = Some(Instant::now() + FORGET_AGAIN);
        for (object, own) in times {
            if known.to_forget.len() >= FORGET_LIMIT {
                break;
            }
            // One that has left again meanwhile has a newer one.
            known.to_forget.entry(object).or_insert(own);
        }
    }
}

/// Others may ask when it is gone.
pub(super) struct Asking(Arc<Expiring>);

impl Asking {
    /// Not under a lock that looks need: what is here already is read at once.
    pub fn begin(self, here: &SetHere) {
        drive(ask(self, here.clone()));
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.times.known.lock().is_asking = false;
    }
}

async fn ask(asking: Asking, here: SetHere) {
    let Asking(of) = &asking;
    let opened = of.times.open(&here).await;
    while let Some(number) = of.times.next_to_ask() {
        let read = match &opened {
            Ok(times) => part(times, number).await,
            Err(error) => Err(error.clone()),
        };
        if let Err(error) = &read {
            tracing::debug!(set = of.name, number, %error, "times of single objects cannot be read: these objects stay");
        }
        of.times.know(number, read.ok());
    }
}

/// Others may have times forgotten when it is gone.
pub(super) struct Forgetting(Arc<Expiring>);

impl Forgetting {
    /// As [`Asking::begin`].
    pub fn begin(self, here: &SetHere) {
        drive(forget(self, here.clone()));
    }
}

impl Drop for Forgetting {
    fn drop(&mut self) {
        self.0.times.known.lock().is_forgetting = false;
    }
}

async fn forget(forgetting: Forgetting, here: SetHere) {
    let Forgetting(of) = &forgetting;
    for (number, gone) in of.times.take_to_forget() {
        let times = gone.clone();
        let change = move |part: &mut Part| {
            times.iter().for_each(|(object, own)| part.forget(*object, *own));
            Ok(())
        };
        let forgotten = match of.times.open(&here).await {
            Ok(times) => times.update(number, change).await,
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            tracing::debug!(set = of.name, number, %error, "objects have left, and their times are still there");
            of.times.forget_later(gone);
        }
    }
}

impl Expiring {
    /// When an object leaves, and the time of its own that says so. `None`: it is not known yet.
    pub fn rule_of(&self, object: u64) -> Option<(Expiry, Option<Own>)> {
        if !self.rule.each {
            return Some((self.rule, None));
        }
        let own = self.times.own(object)?;
        Some((own.map_or(self.rule, |own| self.rule.with(own.time)), own))
    }

    /// Whether that is the time of the object now, which is held: nothing is waited for. Whoever changes it looks for the object
    /// after that. `None`: there is no copy here that nobody can have changed since.
    pub fn is_own(&self, here: &SetHere, object: u64, own: Option<Own>) -> Option<bool> {
        if !self.rule.each {
            return Some(true);
        }
        let part = part_here(&self.times.beside.get()?.opened(here), part_of(object))?;
        Some(part.own(object) == own)
    }

    /// Brings the time of the object here.
    pub async fn fetch_own(&self, here: &SetHere, object: u64) -> Result<(), Error> {
        let number = part_of(object);
        let part = part(&self.times.open(here).await?, number).await?;
        self.times.know(number, Some(part));
        Ok(())
    }
}
