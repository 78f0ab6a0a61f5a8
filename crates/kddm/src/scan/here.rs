//! What this node says of the shards for which it answers, and of what it owns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kddm_core::Main;
use kddm_core::home::{Entry, EntryState};
use kddm_core::id::{ObjectId, SHARDS_PER_SET, SetId, ShardIndex};
use kddm_core::node::Scanned;

use super::ask;
use super::wire::{Count, LOOK_LIMIT, Look, Part, Question, Told, Told1};
use super::{Found, ObjectState, PAGE_LIMIT};
use crate::rpc::Incoming;
use crate::rpc::frame::Fault;
use crate::runtime::Runtime;
use crate::runtime::told::SetHere;

/// Pages that are got for programs at one time: each has a thread.
const PAGES_AT_ONCE: usize = 16;

/// What a node has for scans.
#[derive(Default)]
pub(crate) struct Scanning {
    pages: Arc<AtomicUsize>,
}

/// The end of such a page.
struct Ends(Arc<AtomicUsize>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Runtime {
    /// Another node, or a program of this one, asks which objects there are.
    pub(crate) fn asked_to_scan(self: &Arc<Self>, incoming: Incoming) {
        let question = postcard::from_bytes::<Question>(&incoming.body).ok();
        let is_of_program = matches!(question, Some(Question::Page { .. } | Question::All { .. }));
        match question {
            Some(question) if is_of_program => self.asked_by_program(incoming, question),
            Some(question) => self.rpc.answer(incoming.reply_to, Ok(bytes(&self.scanned(&question)))),
            None => self.rpc.answer(incoming.reply_to, Ok(bytes(&Told::Malformed))),
        }
    }

    /// What takes a while is done on a thread of its own.
    fn asked_by_program(self: &Arc<Self>, incoming: Incoming, question: Question) {
        let (runtime, reply_to) = (Arc::clone(self), incoming.reply_to);
        let ends = Ends(Arc::clone(&self.scanning.pages));
        if self.scanning.pages.fetch_add(1, Ordering::Relaxed) >= PAGES_AT_ONCE {
            let what = format!("{PAGES_AT_ONCE} programs scan sets at this node");
            return self.rpc.answer(reply_to, Err((Fault::Overloaded, what)));
        }
        let work = move || {
            let _ends = ends;
            let limit = incoming.deadline.saturating_duration_since(std::time::Instant::now());
            let here = |set: u64| SetHere { runtime: Arc::clone(&runtime), set: SetId(set) };
            let told = match question {
                Question::Page { set, .. } | Question::All { set } if SetId(set).policy().is_none() => {
                    Ok(Told::Malformed)
                }
                Question::Page { from, .. } if !from.is_good() => Ok(Told::Malformed),
                Question::Page { set, from, most } => {
                    ask::page(&here(set), from, (most as usize).min(PAGE_LIMIT), limit).map(Told::Page)
                }
                Question::All { set } => ask::census(&here(set), limit).map(Told::All),
                Question::Shards { .. }
                | Question::Census { .. }
                | Question::Look { .. }
                | Question::Detail { .. }
                | Question::History { .. } => Ok(Told::Malformed),
            };
            let told = told.map(|told| bytes(&told)).map_err(|error| (Fault::Failed, error.to_string()));
            runtime.rpc.answer(reply_to, told);
        };
        if let Err(error) = self.rpc.spawn("kddm-scan", work) {
            let what = format!("no thread could be started: {error}");
            self.rpc.answer(reply_to, Err((Fault::Overloaded, what)));
        }
    }

    /// What this node says to a question of another one, or of itself.
    pub(super) fn scanned(&self, question: &Question) -> Told {
        let are_shards = |shards: &[u16]| {
            shards.len() <= usize::from(SHARDS_PER_SET) && shards.iter().all(|shard| *shard < SHARDS_PER_SET)
        };
        let told = match question {
            Question::Shards { set, shards, after, most } if are_shards(shards) && is_known(*set) => {
                self.first_of(SetId(*set), shards, *after, (*most as usize).min(PAGE_LIMIT)).map(Told::Shards)
            }
            Question::Census { set, shards } if are_shards(shards) && is_known(*set) => {
                self.census_of(SetId(*set), shards).map(Told::Census)
            }
            Question::Look { set, objects } if objects.len() <= LOOK_LIMIT && is_known(*set) => {
                self.looked_at(SetId(*set), objects).map(Told::Look)
            }
            Question::Detail { set, object } if is_known(*set) => {
                self.detail_of(SetId(*set), ObjectId(*object)).map(Told::Detail)
            }
            Question::History { set, object } if is_known(*set) => Some(self.past_of(SetId(*set), ObjectId(*object))),
            _ => Some(Told::Malformed),
        };
        // The lease is looked at after what it vouches for.
        told.filter(|_| self.lease.is_valid()).unwrap_or(Told::Away)
    }

    /// `None`: this node answers for nothing.
    fn first_of(&self, set: SetId, shards: &[u16], after: Option<u64>, most: usize) -> Option<Vec<Told1<Part>>> {
        let (mut all, mut entries, mut left) = (Vec::new(), Vec::new(), most.max(1));
        for (index, shard) in shards.iter().copied().map(ShardIndex).enumerate() {
            if left == 0 {
                break;
            }
            let after = after.filter(|_| index == 0).map(ObjectId);
            let scanned = {
                let lane = self.lane_of_shard(shard).lock();
                if lane.fenced || lane.stopped {
                    return None;
                }
                // Where there is no memory for a page there may be for a shorter one.
                lane.core.scan(set, shard, after, left, &mut entries).unwrap_or(Scanned::NotYet)
            };
            left -= entries.len();
            let home = self.identity.id.0;
            all.push(told(scanned, |has_more, in_doubt| {
                let found = entries.iter().map(|entry| found(home, entry)).collect();
                Part { found, has_more, in_doubt }
            }));
        }
        Some(all)
    }

    fn census_of(&self, set: SetId, shards: &[u16]) -> Option<Vec<Told1<Count>>> {
        let count = |shard: &u16| {
            let shard = ShardIndex(*shard);
            let lane = self.lane_of_shard(shard).lock();
            let scanned = (!lane.fenced && !lane.stopped).then(|| lane.core.census(set, shard))?;
            Some(told(scanned, |(objects, lost), in_doubt| Count {
                objects: objects as u64,
                lost: lost as u64,
                in_doubt: in_doubt.into(),
            }))
        };
        shards.iter().map(count).collect()
    }

    fn looked_at(&self, set: SetId, objects: &[u64]) -> Option<Vec<Look>> {
        let look = |object: &u64| {
            let object = ObjectId(*object);
            let lane = self.lane(set, object).lock();
            if lane.fenced || lane.stopped {
                return None;
            }
            let Some(seen) = lane.core.inspect(set, object) else { return Some(Look::default()) };
            let Main::Owner { tenure, version, .. } = seen.main else { return Some(Look::default()) };
            // Local threads count versions while they have the object.
            let version = lane.version_here(set, object).unwrap_or(version.0);
            Some(Look {
                owns: true,
                tenure: tenure.0,
                version,
                sharers: seen.sharers.iter().map(|node| node.0).collect(),
                replicas: seen.replicas.iter().map(|node| node.0).collect(),
                waiting: seen.queue as u32,
            })
        };
        objects.iter().map(look).collect()
    }
}

/// A peer that names a set that does not exist asks about nothing.
fn is_known(set: u64) -> bool {
    SetId(set).policy().is_some()
}

fn bytes(told: &Told) -> Vec<u8> {
    // Writing to memory does not fail.
    postcard::to_stdvec(told).unwrap_or_default()
}

fn told<S, A>(scanned: Scanned<S>, here: impl FnOnce(S, bool) -> A) -> Told1<A> {
    match scanned {
        Scanned::Elsewhere(node) => Told1::Elsewhere(node.0),
        Scanned::NotYet => Told1::NotYet,
        Scanned::Here { what, in_doubt } => Told1::Here(here(what, in_doubt)),
    }
}

fn found(home: u16, entry: &Entry) -> Found {
    let state = match entry.state {
        _ if entry.lost => ObjectState::Lost,
        EntryState::Predicted => ObjectState::New,
        EntryState::Fact | EntryState::Promoted => ObjectState::Owned,
        EntryState::Removing | EntryState::Unknown | EntryState::Absent => ObjectState::Ending,
    };
    Found { id: entry.object.0, home, owner: entry.node.is_somebody().then_some(entry.node.0), state }
}
