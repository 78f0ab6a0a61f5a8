//! One object, for people: where it is, who has it and who waits, and what its owners remember of it.

use std::sync::Arc;
use std::time::Duration;

use kddm_core::Main;
use kddm_core::id::{ObjectId, SetId, Tenure};

use super::look::{ObjectInfo, unconfirmed};
use super::wire::{Detail, Holder, Question, Told};
use super::{Cursor, ask};
use crate::cell::HeldBy;
use crate::error::{AccessError, Error, SetError};
use crate::node::Node;
use crate::runtime::Runtime;
use crate::runtime::remembered::Remembered;
use crate::runtime::told::SetHere;

/// Holders that an owner names.
const HOLDERS_LIMIT: usize = 64;

/// A value is counted up to so many bytes, if it has to be encoded for that: nobody else comes to the objects of its lane meanwhile.
const COUNTED_BYTES: usize = 1024 * 1024;

/// One object: [`Node::object_of`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ObjectDetail {
    /// Where it is.
    pub info: ObjectInfo,
    /// What the owner says, if it has confirmed that it is that.
    pub at_owner: Option<AtOwner>,
}

/// What the owner of an object says of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct AtOwner {
    /// Bytes of its value, as it travels. `None`: there is no value, or somebody changes it; or there are more than 1 MiB
    /// that would have to be encoded to be counted.
    pub bytes: Option<u64>,
    /// Who holds it there: threads, holders, programs, a linker that is still to hear that it goes. At most 64 are named.
    pub holders: Vec<HeldBy>,
    /// Threads, tasks and programs there that wait for it.
    pub waiting_here: u32,
    /// Nodes whose requests wait there, in their order.
    pub waiting: Vec<u16>,
    /// How long its holders have been in the way of somebody, if they are.
    pub in_the_way_for: Option<Duration>,
    /// When it leaves by itself, at the soonest, as far as the owner knows by now: whoever puts it, or uses it in a set with
    /// [`expire_idle`](crate::SetBuilder::expire_idle), keeps it.
    pub leaves_in: Option<Duration>,
}

/// What members remember of an object: [`Node::history_of`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ObjectHistory {
    /// What has become of it, by ownership and version.
    pub events: Vec<ObjectEvent>,
    /// Since when each member remembers: for so long. `None`: it remembers nothing, because nobody watches the set.
    pub covers: Vec<(u16, Option<Duration>)>,
    /// Members that have not answered.
    pub silent: Vec<u16>,
}

/// Something that has become of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ObjectEvent {
    /// Where.
    pub node: u16,
    /// How long ago.
    pub ago: Duration,
    /// What.
    pub what: ObjectFate,
    /// The ownership: the epoch, and which one of the object it is.
    pub tenure: (u32, u64),
    /// Puts that the value had seen.
    pub version: u64,
}

pub use crate::runtime::remembered::ObjectFate;

impl Node {
    /// An object of a set, of whatever type, and all that its home and its owner say of it. Blocks.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let set: kddm::Set<u64> = nodes[0].set("looked-at").open().wait()?;
    /// set.grab(7).wait()?.put().wait()?;
    /// let detail = nodes[1].object_of("looked-at", 7)?;
    /// assert_eq!((detail.info.owner, detail.info.version), (Some(1), 1));
    /// assert_eq!(detail.at_owner.and_then(|at| at.bytes), Some(1)); // a small number, as it travels
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound` if there is no such object, `Unknown` if there is no such set; as [`Set::scan`](crate::Set::scan); `Attached` in a program.
    pub fn object_of(&self, set: &str, object: u64) -> Result<ObjectDetail, Error> {
        self.is_no_program("look at an object", "`kddmadm object show` does")?;
        let here = self.set_here(set)?;
        let shard = ObjectId(object).shard(here.set.policy().unwrap_or_default()).0;
        let from = Cursor { shard, after: object.checked_sub(1), width: 1 };
        let limit = self.runtime().config.wait_limit;
        let page = ask::page(&here, from, 1, limit)?;
        let Some(found) = page.found.iter().find(|found| found.id == object) else {
            // Of a shard in doubt that is said behind its last object only.
            let behind = Cursor { after: Some(u64::MAX), ..from };
            let is_doubtful = page.in_doubt > 0 || ask::page(&here, behind, 1, limit)?.in_doubt > 0;
            return Err(if is_doubtful { ask::in_doubt(set, 1) } else { AccessError::NotFound.into() });
        };
        let mut infos = [unconfirmed(found)];
        self.confirm(&here, &mut infos);
        let [info] = infos;
        let of = |tenure: u64| (Tenure(tenure).epoch().0, Tenure(tenure).n());
        let owner = info.owner.filter(|_| info.is_confirmed);
        let at_owner = owner.and_then(|owner| {
            let question = Question::Detail { set: here.set.0, object };
            match self.told_by(&here, owner, &question) {
                // Another ownership is another state than that of which the rest is said.
                Ok(Told::Detail(detail)) if of(detail.tenure) == info.tenure => Some(at_owner(detail)),
                _ => None,
            }
        });
        Ok(ObjectDetail { info, at_owner })
    }

    /// What the members remember of the last owners and versions of an object. They remember as long as somebody
    /// watches its set, and two minutes longer: the last 1,024 events of the set at each member. Blocks.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let set: kddm::Set<u64> = nodes[0].set("remembered").open().wait()?;
    /// let _watch = nodes[1].watch_set("remembered", None, None)?.wait()?; // switches it on
    /// set.grab(7).wait()?.put().wait()?;
    /// nodes[1].set::<u64>("remembered").open().wait()?.grab(7).wait()?.put().wait()?;
    /// let history = nodes[0].history_of("remembered", 7)?;
    /// let owners: Vec<u16> = history.events.iter().map(|event| event.node).collect();
    /// assert!(owners.contains(&1) && owners.contains(&2));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Unknown` if there is no such set; `Attached` in a program.
    pub fn history_of(&self, set: &str, object: u64) -> Result<ObjectHistory, Error> {
        self.is_no_program("look at the past of an object", "`kddmadm object history` does")?;
        let here = self.set_here(set)?;
        let (me, limit) = (self.id(), here.runtime.config.wait_limit);
        let question = Question::History { set: here.set.0, object };
        let members: Vec<u16> = here.runtime.view().members.iter().map(|member| member.id.0).collect();
        let asked: Vec<_> = members
            .into_iter()
            .map(|node| (node, (node != me).then(|| ask::call(&here.runtime, node, &question, limit))))
            .collect();
        let mut history = ObjectHistory::default();
        for (node, asked) in asked {
            let told = match asked {
                None => Ok(here.runtime.scanned(&question)),
                Some(asked) => asked.wait().and_then(|body| ask::decoded(node, body)),
            };
            let Ok(Told::History { for_ms, events }) = told else {
                history.silent.push(node);
                continue;
            };
            history.covers.push((node, for_ms.map(Duration::from_millis)));
            history.events.extend(events.into_iter().map(|event| remembered(node, event)));
        }
        history.events.sort_by_key(|event| (event.tenure, event.version, std::cmp::Reverse(event.ago)));
        Ok(history)
    }

    fn set_here(&self, set: &str) -> Result<SetHere, Error> {
        let info = self.set_info(set)?;
        if info.is_ending {
            return Err(SetError::Destroyed.into());
        }
        Ok(SetHere { runtime: Arc::clone(self.runtime()), set: SetId(info.id) })
    }

    fn told_by(&self, here: &SetHere, node: u16, question: &Question) -> Result<Told, Error> {
        if node == self.id() {
            return Ok(here.runtime.scanned(question));
        }
        let asked = ask::call(&here.runtime, node, question, here.runtime.config.wait_limit);
        asked.wait().and_then(|body| ask::decoded(node, body))
    }
}

fn at_owner(detail: Detail) -> AtOwner {
    let Detail { tenure: _, bytes, holders, waiting_here, waiting, in_the_way_ms, leaves_in_ms } = detail;
    let holder = |Holder { who, is_write }: Holder| HeldBy { who: who.into(), is_write };
    AtOwner {
        bytes,
        holders: holders.into_iter().map(holder).collect(),
        waiting_here,
        waiting,
        in_the_way_for: in_the_way_ms.map(Duration::from_millis),
        leaves_in: leaves_in_ms.map(Duration::from_millis),
    }
}

fn remembered(node: u16, event: Remembered) -> ObjectEvent {
    let Remembered { ago_ms, what, tenure, version } = event;
    let tenure = Tenure(tenure);
    ObjectEvent { node, ago: Duration::from_millis(ago_ms), what, tenure: (tenure.epoch().0, tenure.n()), version }
}

impl Runtime {
    /// What this node, as the owner, says of an object. `None`: it is not that, or answers for nothing.
    pub(super) fn detail_of(&self, set: SetId, object: ObjectId) -> Option<Detail> {
        // Before the lane: whoever looks at ages takes lanes.
        let leaves_in = self.signals.expiries.leaves_in(set, object.0);
        let lane = self.lane(set, object).lock();
        if lane.fenced || lane.stopped {
            return None;
        }
        let Main::Owner { tenure, .. } = lane.core.inspect(set, object)?.main else { return None };
        let found = lane.stores.get(&set).and_then(|store| Some((store, store.find(object.0)?)));
        let bytes = found.and_then(|(store, cell)| store.encoded_len(cell, COUNTED_BYTES));
        let local = lane.locals.get(&(set, object));
        let holder = |held: HeldBy| Holder { who: held.who.to_string(), is_write: held.is_write };
        Some(Detail {
            tenure: tenure.0,
            bytes: bytes.map(|bytes| bytes as u64),
            holders: lane.holders(set, object).into_iter().take(HOLDERS_LIMIT).map(holder).collect(),
            waiting_here: local.map_or(0, |local| local.waiters.len() as u32),
            waiting: lane.core.waiting_for(set, object).iter().map(|node| node.0).collect(),
            in_the_way_ms: lane.in_the_way_for(set, object).map(|time| time.as_millis() as u64),
            leaves_in_ms: leaves_in.map(|time| time.as_millis() as u64),
        })
    }

    /// What this node remembers of an object, if its set is watched.
    pub(super) fn past_of(&self, set: SetId, object: ObjectId) -> Told {
        let past = self.feeds.of(set).map(|feed| feed.past_of(object));
        let (for_ms, events) = past.map(|(since, events)| (since.as_millis() as u64, events)).unzip();
        Told::History { for_ms, events: events.unwrap_or_default() }
    }
}
