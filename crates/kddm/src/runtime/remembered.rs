//! What a node remembers of the objects of a set that is watched: who asks is a person.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kddm_core::id::ObjectId;
use serde::{Deserialize, Serialize};

use crate::runtime::feed::Owned;

/// Events of a set that are remembered: 64 KiB.
const LIMIT: usize = 1024;

/// What has become of an object at a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ObjectFate {
    /// The node has become its owner, or has made it.
    Owned,
    /// It was put there.
    Put,
    /// Another node has become the owner.
    Passed,
    /// It was removed.
    Removed,
}

/// An event, as it travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Remembered {
    pub ago_ms: u64,
    pub what: ObjectFate,
    pub tenure: u64,
    pub version: u64,
}

/// The last events, and since when there are no others.
pub(super) struct Past {
    since: Instant,
    events: VecDeque<(Instant, ObjectId, ObjectFate, Owned)>,
}

impl Past {
    pub fn begin() -> Past {
        Past { since: Instant::now(), events: VecDeque::new() }
    }

    pub fn note(&mut self, object: ObjectId, what: ObjectFate, owned: Owned) {
        let now = Instant::now();
        if self.events.len() >= LIMIT
            && let Some((forgotten, ..)) = self.events.pop_front()
        {
            self.since = forgotten;
        }
        self.events.push_back((now, object, what, owned));
    }

    /// For how long events are remembered, and those of that object.
    pub fn of(&self, object: ObjectId) -> (Duration, Vec<Remembered>) {
        let ago_ms = |at: &Instant| at.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        let of_it = self.events.iter().filter(|(_, of, ..)| *of == object);
        let events = of_it.map(|(at, _, what, owned)| {
            let Owned { tenure, version, .. } = *owned;
            Remembered { ago_ms: ago_ms(at), what: *what, tenure, version }
        });
        (self.since.elapsed(), events.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_events_are_remembered_and_it_is_said_since_when() {
        let mut past = Past::begin();
        let owned = |version| Owned { tenure: 1, born: 1, version };
        past.note(ObjectId(7), ObjectFate::Owned, owned(1));
        past.note(ObjectId(7), ObjectFate::Put, owned(2));
        let (begun, (_, events)) = (past.since, past.of(ObjectId(7)));
        assert_eq!(events.iter().map(|event| event.version).collect::<Vec<_>>(), [1, 2]);
        (0..LIMIT as u64 - 1).for_each(|version| past.note(ObjectId(8), ObjectFate::Put, owned(version)));
        let (_, left) = past.of(ObjectId(7));
        assert_eq!(
            left.iter().map(|event| event.what).collect::<Vec<_>>(),
            [ObjectFate::Put],
            "the first was forgotten"
        );
        past.note(ObjectId(8), ObjectFate::Put, owned(1));
        assert!(past.since > begun && past.of(ObjectId(7)).1.is_empty());
        assert_eq!(past.of(ObjectId(8)).1.len(), LIMIT);
    }
}
