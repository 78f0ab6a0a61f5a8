//! What a node has for operations: which sets have some, who owns what as far as calls have shown, and counts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use kddm_core::Main;
use kddm_core::id::{NodeId, ObjectId, SetId};
use parking_lot::Mutex;

use super::answer::{Question, Told};
use super::operations::{Item, Runner, Whom};
use super::workers::Workers;
use crate::rpc::Incoming;
use crate::runtime::Runtime;
use crate::runtime::told::SetHere;

/// Owners that are remembered, each object at the one place that its number gives. A forgotten one costs a message.
const OWNERS: usize = 1024;

/// Who ran the last call for an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LastOwner {
    set: u64,
    object: u64,
    pub node: u16,
    /// That one says that nobody else has changed the object for a while.
    pub is_alone: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Invoking {
    /// Those that no handle keeps any more are replaced, or forgotten with the next.
    sets: Mutex<HashMap<u64, Weak<dyn Runner>>>,
    owners: Mutex<Vec<Option<LastOwner>>>,
    pub(super) workers: Workers,
    pub(super) counts: Counts,
}

/// What a node counts of operations that go to the owners of their objects.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct InvokeCounts {
    /// Operations that were invoked here.
    pub invoked: u64,
    /// Calls that went to another node.
    pub delegated: u64,
    /// Operations for which the object came here, because no node that was asked could run them.
    pub fallbacks: u64,
    /// Operations that were run here for other nodes, and for programs.
    pub served: u64,
    /// Operations that were published together with an earlier one.
    pub combined: u64,
}

#[derive(Default)]
pub(super) struct Counts {
    pub invoked: AtomicU64,
    pub delegated: AtomicU64,
    pub fallbacks: AtomicU64,
    pub served: AtomicU64,
    pub combined: AtomicU64,
}

pub(super) fn count(what: &AtomicU64, more: usize) {
    what.fetch_add(more as u64, Ordering::Relaxed);
}

impl Invoking {
    /// Those operations of a set that this node has.
    pub(super) fn of(&self, set: SetId) -> Option<Arc<dyn Runner>> {
        self.sets.lock().get(&set.0)?.upgrade()
    }

    /// The operations of a set, made if there are none.
    pub(super) fn of_or(&self, set: SetId, make: impl FnOnce() -> Arc<dyn Runner>) -> Arc<dyn Runner> {
        let mut sets = self.sets.lock();
        if let Some(known) = sets.get(&set.0).and_then(Weak::upgrade) {
            return known;
        }
        sets.retain(|_, runner| runner.strong_count() > 0);
        let made = make();
        sets.insert(set.0, Arc::downgrade(&made));
        made
    }

    pub(super) fn last_owner(&self, set: SetId, object: u64) -> Option<LastOwner> {
        let found = self.owners.lock().get(place(object)).copied().flatten();
        found.filter(|found| (found.set, found.object) == (set.0, object))
    }

    pub(super) fn note_owner(&self, set: SetId, object: u64, node: u16, is_alone: bool) {
        let mut owners = self.owners.lock();
        if owners.is_empty() {
            owners.resize(OWNERS, None);
        }
        owners[place(object)] = Some(LastOwner { set: set.0, object, node, is_alone });
    }

    pub(super) fn forget_owner(&self, set: SetId, object: u64) {
        let is_of = |known: &mut LastOwner| (known.set, known.object) == (set.0, object);
        if let Some(known) = self.owners.lock().get_mut(place(object)) {
            known.take_if(is_of);
        }
    }

    /// Nothing runs any more.
    pub fn close(&self) {
        self.workers.close();
    }

    pub fn counted(&self) -> InvokeCounts {
        let of = |what: &AtomicU64| what.load(Ordering::Relaxed);
        InvokeCounts {
            invoked: of(&self.counts.invoked),
            delegated: of(&self.counts.delegated),
            fallbacks: of(&self.counts.fallbacks),
            served: of(&self.counts.served),
            combined: of(&self.counts.combined),
        }
    }
}

/// Multiplied by the golden ratio: neighbours, and numbers that share their low bits, do not meet.
pub(super) fn place(object: u64) -> usize {
    (object.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize
}

impl Runtime {
    /// Another node, or a program of this one, asks for an operation.
    pub(crate) fn asked_to_invoke(self: &Arc<Self>, incoming: Incoming) {
        let Incoming { reply_to, from, body, deadline, cancelled, .. } = incoming;
        let answer = |told: &Told| self.rpc.answer(reply_to, Ok(told.bytes()));
        let Ok(question) = postcard::from_bytes::<Question<'_>>(&body) else {
            return answer(&Told::Arguments { reason: "they are not a call at all".into() });
        };
        let (set, object) = (SetId(question.set), question.object);
        match self.invoking.of(set) {
            Some(runner) => {
                let item = Item {
                    object,
                    operation: question.operation.into(),
                    arguments: question.arguments.to_vec(),
                    from,
                    deadline,
                    cancelled: Some(cancelled),
                    whom: Whom::Caller(Arc::clone(&self.rpc), reply_to),
                };
                runner.take(item);
            }
            // Whoever has the operation may be elsewhere, and it is known here where.
            None => answer(&match self.owner_but(set, object, NodeId(from)) {
                Some(owner) => Told::NotMine { owner },
                None => Told::NoOperation,
            }),
        }
    }

    /// Who owns an object, if that is neither this node, as far as it knows, nor `but`.
    fn owner_but(&self, set: SetId, object: u64, but: NodeId) -> Option<u16> {
        // A peer that names a set that does not exist asks about nothing.
        set.policy()?;
        let state = self.lane(set, ObjectId(object)).lock();
        let me = state.core.id();
        let is_other = |node: &NodeId| node.is_somebody() && *node != me;
        let seen = state.core.inspect(set, ObjectId(object)).unwrap_or_default();
        if matches!(seen.main, Main::Owner { .. }) {
            return None;
        }
        let entry = seen.entry.map(|entry| entry.node);
        let known = entry.into_iter().chain([seen.hint]).chain(state.core.home(set, ObjectId(object)));
        known.into_iter().find(is_other).filter(|node| *node != but).map(|node| node.0)
    }
}

impl SetHere {
    /// As [`Runtime::owner_but`].
    pub(super) fn owner_but(&self, object: u64, but: u16) -> Option<u16> {
        self.runtime.owner_but(self.set, object, NodeId(but))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_remembered_for_its_object_alone() {
        let (invoking, set) = (Invoking::default(), SetId(300));
        assert_eq!(invoking.last_owner(set, 5), None);
        invoking.note_owner(set, 5, 2, false);
        assert_eq!(invoking.last_owner(set, 5).map(|known| known.node), Some(2));
        assert_eq!(invoking.last_owner(SetId(301), 5), None, "another set");
        let rival = (6..).find(|other| place(*other) == place(5)).expect("there are only so many places");
        invoking.forget_owner(set, rival);
        assert!(invoking.last_owner(set, 5).is_some(), "another object was forgotten");
        invoking.note_owner(set, rival, 3, true);
        assert_eq!(invoking.last_owner(set, 5), None, "its place is taken");
        assert!((0..100_000).all(|object| place(object * 4096) < OWNERS));
    }
}
