//! Times of single objects. Each set that is made for them has a set beside it, which keeps them by the numbers of the objects: so
//! they hold wherever an object moves, and whoever owns it by then. Looks go by copies, which may be old; before an object goes,
//! and while it is held, its owner looks once more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kddm_core::id::{Mixer, SetId, mix};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::here::Expiring;
use super::rule::{Expiry, check_time};
use crate::chain::chain;
use crate::coordination::CoordinationError;
use crate::error::{AccessError, ConfigurationError, Error, SetError};
use crate::linker::drive;
use crate::node::{Node, Owner};
use crate::pending::Pending;
use crate::runtime::told::SetHere;
use crate::set::Set;
use crate::system::{DEFAULT_REPLICAS, bucket, late};
use crate::value::Value;

/// Sets beside others are called so, with the number of the other one behind it.
const PREFIX: &str = "kddm.times/";

/// Objects of the set beside: so few that each node can have copies of all.
const PARTS: u64 = 1024;

/// The object that says in which of them something is: the others are not looked for. It is put when the set is made, so that it
/// has replicas; what is only read has none, and would be lost with whoever was the first to read it.
const LIST: u64 = PARTS;

/// Objects with a time of their own in each part: all of them are written when one is, some twenty KiB at most.
pub const PART_LIMIT: usize = 1024;

/// How long a look waits for times that are on their way, and holds what is about to go.
const LIMIT: Duration = Duration::from_secs(1);

/// How long one object of a set stays: [`Set::expire`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Expire {
    /// So long after its last put.
    After(Duration),
    /// So long after its last use.
    Idle(Duration),
    /// It does not leave by itself.
    Never,
    /// As what has no time of its own.
    AsTheSet,
}

/// The time of one object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Own {
    /// Which change of the part it was: it counts from then on.
    change: u64,
    time: Expire,
}

/// An object of the set beside.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    changes: u64,
    times: BTreeMap<u64, Own>,
    /// In the list, which has no times: the parts.
    listed: BTreeSet<u64>,
}

impl Part {
    fn change(&mut self, object: u64, time: Expire) -> Result<(), Error> {
        if time == Expire::AsTheSet {
            self.times.remove(&object);
            return Ok(());
        }
        if self.times.len() >= PART_LIMIT && !self.times.contains_key(&object) {
            let what = "objects with a time of their own in this one of the 1,024 parts of the set";
            return Err(CoordinationError::TooMany { what, limit: PART_LIMIT }.into());
        }
        self.changes = self.changes.wrapping_add(1);
        self.times.insert(object, Own { change: self.changes, time });
        Ok(())
    }

    fn forget(&mut self, object: u64, own: Own) {
        if self.times.get(&object) == Some(&own) {
            self.times.remove(&object);
        }
    }

    fn shortest(&self) -> Option<Duration> {
        let time = |own: &Own| match own.time {
            Expire::After(time) | Expire::Idle(time) => Some(time),
            Expire::Never | Expire::AsTheSet => None,
        };
        self.times.values().filter_map(time).min()
    }
}

fn part_of(object: u64) -> u64 {
    mix(object) % PARTS
}

fn name_of(set: SetId) -> String {
    format!("{PREFIX}{}", set.0)
}

/// The name of the set beside, if there may be one.
pub(crate) fn beside(set: SetId) -> Option<String> {
    set.expires().then(|| name_of(set))
}

/// An error for whoever would destroy such a set alone.
pub(crate) fn check_may_go(set: &str) -> Result<(), Error> {
    refused(set, set.starts_with(PREFIX), "it goes with the set whose times it keeps; destroy that one")
}

/// An error for whoever would keep something else in such a set.
pub(crate) fn check_may_open(set: &str, type_name: &str) -> Result<(), Error> {
    let is_other = set.starts_with(PREFIX) && type_name != <Part as Value>::type_name();
    refused(set, is_other, "sets of that name are for the times of objects; take another name")
}

fn refused(set: &str, is_so: bool, rule: &'static str) -> Result<(), Error> {
    let error = || ConfigurationError::OutOfRange { setting: "set", value: set.into(), rule }.into();
    if is_so { Err(error()) } else { Ok(()) }
}

/// Makes the set beside one that is being made.
pub(crate) async fn make_beside(node: &Node, set: SetId) -> Result<(), Error> {
    let replicas = u8::try_from(set.replicas()).unwrap_or(DEFAULT_REPLICAS).max(DEFAULT_REPLICAS);
    let times: Set<Part> = node.set(&name_of(set)).replicas(replicas).open().await?;
    let begin = |list: &mut Part| {
        list.changes = 1;
        Ok(())
    };
    times.update(LIST, begin).await
}

/// The times of a part, as they are now.
async fn part(times: &Set<Part>, number: u64) -> Result<Arc<Part>, Error> {
    let list = times.snapshot(LIST).await?;
    if !list.listed.contains(&number) {
        return Ok(list);
    }
    match times.get_existing(number).await {
        Ok(part) => Ok(part.snapshot()),
        // Somebody is just making it.
        Err(Error::Access(AccessError::NotFound)) => Ok(list),
        Err(error) => Err(error),
    }
}

/// Gives an object that time.
async fn give(times: &Set<Part>, object: u64, time: Expire) -> Result<(), Error> {
    let number = part_of(object);
    if !times.snapshot(LIST).await?.listed.contains(&number) {
        if time == Expire::AsTheSet {
            return Ok(());
        }
        let list = move |list: &mut Part| {
            list.listed.insert(number);
            Ok(())
        };
        times.update(LIST, list).await?;
    }
    times.update(number, move |part| part.change(object, time)).await
}

async fn open(here: &SetHere) -> Result<Set<Part>, Error> {
    let node = Node(Owner::guest(Arc::clone(&here.runtime)));
    node.set(&name_of(here.set)).wait_limit(LIMIT).open_existing().await
}

impl<T: Value> Set<T> {
    /// Gives one object a time of its own, from now on; whether the object is there. The time belongs to the number, also if the
    /// object is made later or anew, until it is changed, or the object has left by it. In sets that are made with
    /// [`expires`](crate::SetBuilder::expires). See docs/expiry.md.
    ///
    /// ```
    /// use kddm::Expire;
    /// use std::time::Duration;
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let minute = Duration::from_secs(60);
    /// let sessions: kddm::Set<String> = nodes[0].set("sessions").expire_after(minute).expires().open().wait()?;
    /// sessions.update(7, |name| Ok(name.push_str("somebody"))).wait()?;
    /// assert!(sessions.expire(7, Expire::Never).wait()?);
    /// assert!(sessions.expire(7, Expire::After(10 * minute)).wait()?);
    /// assert!(!sessions.expire(8, Expire::AsTheSet).wait()?, "nobody has made it");
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `OutOfRange` if the set is not made for that, or the time is too short or too long; `TooMany` at
    /// [`PART_LIMIT`](crate::expiry::PART_LIMIT); what an update can meet: then it may hold or not.
    pub fn expire(&self, object: u64, time: Expire) -> Pending<bool> {
        let checked = match time {
            Expire::After(time) | Expire::Idle(time) => check_time("expire", time),
            Expire::Never | Expire::AsTheSet => Ok(()),
        };
        let unfit = |name: &str| {
            let rule = "its objects have no times of their own: that takes a set that is made with `.expires()`";
            ConfigurationError::OutOfRange { setting: "set", value: name.into(), rule }.into()
        };
        let (set, id) = (self.clone(), self.0.here.set);
        if let Err(error) = checked {
            return Pending::ready(Err(error));
        }
        if !id.expires() {
            return Pending::ready(Err(unfit(self.name())));
        }
        let late = late(&self.0.here.runtime, bucket(&name_of(id)));
        let steps = async move {
            let node = Node(Arc::clone(&set.0._node));
            let times = node.set::<Part>(&name_of(id)).wait_limit(set.0.wait_limit).open_existing().await;
            let times = times.map_err(|error| match error {
                Error::Set(SetError::Unknown { .. }) => unfit(set.name()),
                other => other,
            })?;
            give(&times, object, time).await?;
            // Whoever had it go by its time before holds it until it is gone: what is found has the new one.
            match set.get_existing(object).await {
                Ok(_) => Ok(true),
                Err(Error::Access(AccessError::NotFound)) => Ok(false),
                Err(error) => Err(error),
            }
        };
        chain(steps, late)
    }
}

/// What a node knows of the times of single objects of a set.
#[derive(Default)]
pub(super) struct Times {
    parts: Mutex<HashMap<u64, KnownPart, Mixer>>,
    /// Some are on their way.
    is_asking: AtomicBool,
}

#[derive(Default)]
struct KnownPart {
    /// The round of looks that wanted it last, and the one that asked for it last.
    wanted: u64,
    asked: u64,
    /// As it was then. `None`: not known yet.
    part: Option<Arc<Part>>,
    shortest: Option<Duration>,
}

impl Times {
    /// Asks for the times of those objects, once for each round. Not under the lock of a lane.
    pub fn learn(&self, of: &Arc<Expiring>, here: &SetHere, round: u64, objects: impl Iterator<Item = u64>) {
        let mut to_ask = Vec::new();
        {
            let mut parts = self.parts.lock();
            for number in objects.map(part_of) {
                let known = parts.entry(number).or_default();
                known.wanted = round;
                if known.asked != round && !self.is_asking.load(Ordering::Acquire) {
                    known.asked = round;
                    to_ask.push(number);
                }
            }
        }
        if !to_ask.is_empty() && !self.is_asking.swap(true, Ordering::AcqRel) {
            drive(ask(Asking(Arc::clone(of)), here.clone(), to_ask));
        }
    }

    /// What no look has wanted for a round is forgotten.
    pub fn end_of_round(&self, round: u64) {
        self.parts.lock().retain(|_, known| known.wanted == round);
    }

    fn shortest(&self) -> Option<Duration> {
        self.parts.lock().values().filter_map(|known| known.shortest).min()
    }

    fn own(&self, object: u64) -> Option<Option<Own>> {
        let parts = self.parts.lock();
        let part = parts.get(&part_of(object))?.part.as_ref()?;
        Some(part.times.get(&object).copied())
    }

    fn know(&self, number: u64, part: Arc<Part>) {
        let mut parts = self.parts.lock();
        let Some(known) = parts.get_mut(&number) else { return };
        if known.part.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &part)) {
            known.shortest = part.shortest();
            known.part = Some(part);
        }
    }
}

/// Others may ask when it is gone.
struct Asking(Arc<Expiring>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.times.is_asking.store(false, Ordering::Release);
    }
}

async fn ask(asking: Asking, here: SetHere, numbers: Vec<u64>) {
    let Asking(of) = &asking;
    let times = match open(&here).await {
        Ok(times) => times,
        Err(error) => return tracing::debug!(set = of.name, %error, "the times of single objects cannot be read yet"),
    };
    for number in numbers {
        match part(&times, number).await {
            Ok(part) => of.times.know(number, part),
            Err(error) => {
                tracing::debug!(set = of.name, number, %error, "times of single objects cannot be read: they stay")
            }
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

    /// How long there is between two looks at an object.
    pub fn period(&self) -> Duration {
        self.rule.period(if self.rule.each { self.times.shortest() } else { None })
    }

    /// Whether that is the time of the object now. Whoever changes it looks for the object after that, which is held.
    pub async fn is_own(&self, here: &SetHere, object: u64, own: Option<Own>) -> Result<bool, Error> {
        if !self.rule.each {
            return Ok(true);
        }
        let part = part(&open(here).await?, part_of(object)).await?;
        Ok(part.times.get(&object).copied() == own)
    }

    /// The object has left by that time, which goes with it.
    pub async fn forget_own(&self, here: &SetHere, object: u64, own: Own) {
        let forget = move |part: &mut Part| {
            part.forget(object, own);
            Ok(())
        };
        let forgotten = match open(here).await {
            Ok(times) => times.update(part_of(object), forget).await,
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            tracing::debug!(set = self.name, object, %error, "an object has left, and its time is still there");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_a_limit_and_forgets_only_what_was_seen() {
        let mut part = Part::default();
        let minute = Expire::After(Duration::from_secs(60));
        (0..PART_LIMIT as u64).for_each(|object| part.change(object, minute).expect("there is room"));
        let error = part.change(5000, Expire::Never).expect_err("it is full").to_string();
        assert!(error.contains("1024") && error.contains("limit"), "{error}");
        let own = part.times[&7];
        part.change(7, minute).expect("it is one that is there");
        part.forget(7, own);
        assert_eq!(part.times.len(), PART_LIMIT, "it was given anew since");
        part.change(7, Expire::AsTheSet).expect("it has none of its own then");
        part.change(5000, Expire::Never).expect("there is room");
        assert_eq!((part.shortest(), part.times.len()), (Some(Duration::from_secs(60)), PART_LIMIT));
    }
}
