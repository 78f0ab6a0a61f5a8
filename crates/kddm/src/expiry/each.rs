//! Times of single objects. Each set that is made for them has a set beside it, which keeps them by the numbers of the objects: so
//! they hold wherever an object moves, and whoever owns it by then. Looks go by copies, which may be old; before an object goes,
//! and while it is held, its owner looks once more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{SetId, mix};
use serde::{Deserialize, Serialize};

use super::once::{Outcome, for_node, not_yet};
use super::rule::check_time;
use crate::chain::chain;
use crate::coordination::CoordinationError;
use crate::error::{AccessError, ConfigurationError, Error, SetError};
use crate::node::Node;
use crate::on_loss::OnLoss;
use crate::pending::Pending;
use crate::runtime::wait::deadline_in;
use crate::set::Set;
use crate::system::{DEFAULT_REPLICAS, bucket, late};
use crate::value::Value;

/// Sets beside others are called so, with the number of the other one behind it.
const PREFIX: &str = "kddm.times/";

/// Objects of the set beside: so few that each node can have copies of all.
const PARTS: u64 = 1024;

/// The object that says in which of them something is: the others are not looked for. It is put when the set is made, so that it
/// has replicas; what is only read has none, and would be lost with whoever was the first to read it.
pub(super) const LIST: u64 = PARTS;

/// Objects with a time of their own in each part: all of them are written when one is, some twenty KiB at most.
pub const PART_LIMIT: usize = 1024;

/// So many are forgotten at one time where a part is full, of objects that are not there: to look for them takes a question each.
const ROOM: usize = 64;

/// Parts that are asked for at one time where the list of them is made anew.
const ASKED_AT_ONCE: usize = 32;

/// How long one object of a set stays: [`Set::expire`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Expire {
    /// So long after its last put.
    After(Duration),
    /// So long after its last use.
    Idle(Duration),
    /// It does not leave by itself.
    Never,
    /// As what has no time of its own. For one that has none nothing changes: what is left to it is left to it.
    AsTheSet,
}

/// The time of one object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Own {
    /// Which change of the part it was: it counts from then on.
    change: u64,
    pub(super) time: Expire,
}

/// An object of the set beside.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    /// How often a time was given; of the list, whether it was made.
    pub(super) changes: u64,
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

    pub(super) fn own(&self, object: u64) -> Option<Own> {
        self.times.get(&object).copied()
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.times.len()
    }

    pub(super) fn forget(&mut self, object: u64, own: Own) {
        if self.times.get(&object) == Some(&own) {
            self.times.remove(&object);
        }
    }
}

impl Expire {
    /// After so long it leaves, if it says so itself.
    pub(super) fn own_limit(self) -> Option<Duration> {
        match self {
            Expire::After(time) | Expire::Idle(time) => Some(time),
            Expire::Never | Expire::AsTheSet => None,
        }
    }
}

pub(super) fn part_of(object: u64) -> u64 {
    mix(object) % PARTS
}

pub(super) fn name_of(set: SetId) -> String {
    format!("{PREFIX}{}", set.0)
}

/// The name of the set beside, if there may be one.
pub(crate) fn beside(set: SetId) -> Option<String> {
    set.expires().then(|| name_of(set))
}

/// The set of which a set of that name has the times.
pub(crate) fn is_beside(set: &str) -> Option<SetId> {
    set.strip_prefix(PREFIX)?.parse().ok().map(SetId)
}

/// An error for whoever would destroy such a set alone.
pub(crate) fn goes_with_its_set(set: &str) -> Error {
    refused(set, "it goes with the set whose times it keeps; destroy that one")
}

/// An error for whoever would freeze such a set: its own could not be destroyed.
pub(crate) fn check_may_freeze(set: &str) -> Result<(), Error> {
    let rule = "it keeps the times of another set; freeze that one: its objects stay until it is thawed";
    if set.starts_with(PREFIX) { Err(refused(set, rule)) } else { Ok(()) }
}

/// An error for whoever would keep something else in such a set.
pub(crate) fn check_may_open(set: &str, type_name: &str) -> Result<(), Error> {
    let is_other = set.starts_with(PREFIX) && type_name != <Part as Value>::type_name();
    let rule = "sets of that name are for the times of objects; take another name";
    if is_other { Err(refused(set, rule)) } else { Ok(()) }
}

fn refused(set: &str, rule: &'static str) -> Error {
    ConfigurationError::OutOfRange { setting: "set", value: set.into(), rule }.into()
}

/// Makes the set beside one that is being made.
pub(crate) async fn make_beside(node: &Node, set: SetId) -> Result<(), Error> {
    let replicas = u8::try_from(set.replicas()).unwrap_or(DEFAULT_REPLICAS).max(DEFAULT_REPLICAS);
    // With an older list what was listed since would be forgotten in silence: where losses are rolled back these are accepted by hand.
    let on_loss = if set.forgives_loss() { OnLoss::FirstTouch } else { OnLoss::Error };
    let times: Set<Part> = node.set(&name_of(set)).replicas(replicas).on_loss(on_loss).open().await?;
    let begin = |list: &mut Part| {
        list.changes = 1;
        Ok(())
    };
    times.update(LIST, begin).await
}

/// Which parts there are. A list that nobody has made was lost, and that was accepted: then one member finds out.
async fn list(times: &Set<Part>) -> Result<Arc<Part>, Error> {
    loop {
        let list = times.snapshot(LIST).await?;
        if list.changes > 0 {
            return Ok(list);
        }
        let here = for_node(times);
        once(times, LIST, times.0.wait_limit, move || make_list(&here)).await?;
    }
}

/// As [`Works::once`](super::once::Works::once), at the node of that set.
async fn once(
    times: &Set<Part>,
    number: u64,
    limit: Duration,
    does: impl FnOnce() -> Outcome + Send + 'static,
) -> Outcome {
    let here = &times.0.here;
    here.runtime.signals.expiries.works.once(here, number, limit, does).await
}

/// Asks for all parts, which say themselves that they are there, also those that are lost, whose objects stay. Nobody else does
/// meanwhile, because the list is held. Blocks, for the wait limit of the node at most for each of both ends, and for some of the
/// parts at a time: where each answer takes its time, all of them together take more than one is given.
fn make_list(times: &Set<Part>) -> Outcome {
    let mut list = times.grab(LIST).wait()?;
    if list.changes > 0 {
        return Ok(0);
    }
    let mut found = BTreeSet::new();
    let numbers: Vec<u64> = (0..PARTS).collect();
    for some in numbers.chunks(ASKED_AT_ONCE) {
        let deadline = deadline_in(times.0.wait_limit);
        let asked: Vec<_> = some.iter().map(|number| (*number, times.get_existing(*number))).collect();
        for (number, asked) in asked {
            match asked.wait_for(deadline.saturating_duration_since(Instant::now())).map(drop) {
                Ok(()) | Err(Error::Access(AccessError::Lost { .. })) => _ = found.insert(number),
                Err(Error::Access(AccessError::NotFound)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    // Somebody may have listed one that was not there yet when it was asked for.
    list.listed.append(&mut found);
    list.changes = 1;
    let (set, parts) = (times.name(), list.listed.len());
    list.put().wait()?;
    tracing::warn!(set, parts, "which times of single objects there are was lost, and is known again");
    Ok(parts)
}

/// The times of a part, as they are now.
pub(super) async fn part(times: &Set<Part>, number: u64) -> Result<Arc<Part>, Error> {
    let list = list(times).await?;
    if !list.listed.contains(&number) {
        return Ok(list);
    }
    match times.get_existing(number).await {
        Ok(part) => Ok(part.snapshot()),
        // Somebody is just making it, or was cut short.
        Err(Error::Access(AccessError::NotFound)) => times.update(number, |part| Ok(Arc::new(part.clone()))).await,
        Err(error) => Err(error),
    }
}

/// The same, if all is here that it takes. Never waits.
pub(super) fn part_here(times: &Set<Part>, number: u64) -> Option<Arc<Part>> {
    let list = times.find(LIST)?.snapshot();
    if list.changes == 0 {
        return None;
    }
    if !list.listed.contains(&number) {
        return Some(list);
    }
    Some(times.find(number)?.snapshot())
}

/// Whether there is that part: also one that is not listed, by whoever was cut short.
async fn is_made(times: &Set<Part>, number: u64) -> Result<bool, Error> {
    if list(times).await?.listed.contains(&number) {
        return Ok(true);
    }
    match times.get_existing(number).await {
        Ok(_) => Ok(true),
        Err(Error::Access(AccessError::NotFound)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives an object of the set that time. Its part is listed before, so that who is cut short leaves nothing that counts only when
/// somebody else lists it; and once more if the list was lost meanwhile, and made anew of the parts that were there.
async fn give<T: Value>(set: &Set<T>, times: &Set<Part>, object: u64, time: Expire) -> Result<(), Error> {
    let number = part_of(object);
    if time == Expire::AsTheSet {
        return if is_made(times, number).await? { change(set, times, object, time).await } else { Ok(()) };
    }
    list_part(times, number).await?;
    change(set, times, object, time).await?;
    list_part(times, number).await
}

/// Lists a part, if it is not listed yet.
async fn list_part(times: &Set<Part>, number: u64) -> Result<(), Error> {
    if list(times).await?.listed.contains(&number) {
        return Ok(());
    }
    let list = move |list: &mut Part| {
        list.listed.insert(number);
        Ok(())
    };
    times.update(LIST, list).await
}

async fn change<T: Value>(set: &Set<T>, times: &Set<Part>, object: u64, time: Expire) -> Result<(), Error> {
    let number = part_of(object);
    let change = move |part: &mut Part| part.change(object, time);
    let deadline = deadline_in(set.0.wait_limit);
    loop {
        let full = match times.update(number, change).await {
            Err(full @ Error::Coordination(CoordinationError::TooMany { .. })) => full,
            other => return other,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // Whether there is room to be made nobody has found out.
            return Err(not_yet(&times.0.here, number, set.0.wait_limit, deadline));
        }
        let (set_here, times_here) = (for_node(set), for_node(times));
        let room = once(times, number, left, move || make_room(&set_here, &times_here, number)).await?;
        // Where there was some, others may have taken it: then there may be more.
        if room == 0 {
            return Err(full);
        }
    }
}

/// Forgets times of objects that are not there, those first that were given first; how many. Blocks: each look for an object is a
/// question or two, and none begins when the wait limit of the node is over. `TimedOut` if none was found until then: there may
/// be some among those that were not looked for.
pub(super) fn make_room<T: Value>(set: &Set<T>, times: &Set<Part>, number: u64) -> Outcome {
    let deadline = deadline_in(times.0.wait_limit);
    let part = match times.get_existing(number).wait() {
        Ok(part) => part.snapshot(),
        // It was lost meanwhile, and that was accepted: there is all the room.
        Err(Error::Access(AccessError::NotFound)) => return Ok(PART_LIMIT),
        Err(error) => return Err(error),
    };
    let mut oldest: Vec<(u64, Own)> = part.times.iter().map(|(object, own)| (*object, *own)).collect();
    oldest.sort_unstable_by_key(|(_, own)| own.change);
    let mut gone = Vec::with_capacity(ROOM);
    for (object, own) in oldest {
        let is_late = Instant::now() >= deadline;
        if is_late && gone.is_empty() {
            let limit_ms = times.0.wait_limit.as_millis().try_into().unwrap_or(u64::MAX);
            return Err(AccessError::TimedOut { limit_ms, waiting_for: set.who_knows(object) }.into());
        }
        if is_late || gone.len() >= ROOM {
            break;
        }
        if !set.is_known(object)? {
            gone.push((object, own));
        }
    }
    let room = gone.len();
    if room > 0 {
        let forget = move |part: &mut Part| {
            gone.iter().for_each(|(object, own)| part.forget(*object, *own));
            Ok(())
        };
        times.update(number, forget).wait()?;
    }
    Ok(room)
}

async fn is_there<T: Value>(set: &Set<T>, object: u64) -> Result<bool, Error> {
    match set.get_existing(object).await {
        Ok(_) => Ok(true),
        Err(Error::Access(AccessError::NotFound)) => Ok(false),
        Err(error) => Err(error),
    }
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
    /// [`PART_LIMIT`](crate::expiry::PART_LIMIT), if all of those are there; `TimedOut` if the limit of the wait is over before that
    /// is known; `Destroyed`; what an update can meet: then it may hold or not.
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
            let times = match times {
                Ok(times) => times,
                Err(Error::Set(SetError::Unknown { .. })) => {
                    // It goes when its set has ended, which the set says itself.
                    is_there(&set, object).await?;
                    return Err(unfit(set.name()));
                }
                Err(error) => return Err(error),
            };
            give(&set, &times, object, time).await?;
            // Whoever had it go by its time before holds it until it is gone: what is found has the new one.
            is_there(&set, object).await
        };
        chain(steps, late)
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
        assert_eq!(part.times.len(), PART_LIMIT);
    }
}
