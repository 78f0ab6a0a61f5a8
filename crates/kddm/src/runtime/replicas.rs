//! Puts that are done when their replicas have them, and the replicas that are kept here for others.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use kddm_core::id::{ObjectId, SetId, Version};
use kddm_core::io::{Access, Input};

use crate::cell::Hold;
use crate::error::{AccessError, Error, MembershipError};
use crate::runtime::lane::LaneState;
use crate::runtime::wait::{Op, Outcome};

/// A value that was put, on its way to its replicas. Whoever has put it holds the object until then.
pub(crate) struct Putting {
    pub version: Version,
    /// The value: the cell is not read while it is held to write.
    pub bytes: Vec<u8>,
    by: By,
    /// The core has been told.
    pub is_told: bool,
    /// Down to that level its program has given the object back meanwhile: that counts once it is over.
    returned: Option<Access>,
    /// The hold of a program that is gone meanwhile.
    kept: Option<Hold>,
}

/// Who has put it.
pub(crate) enum By {
    /// A thread or task, which waits; and how its hold ends.
    Thread(Arc<Op>, Box<dyn FnOnce() + Send>),
    /// A program that is attached here: its session. It keeps what it was lent.
    Program(u32),
}

impl LaneState {
    /// A version has been put, and is to have replicas.
    pub fn put_replicated(&mut self, set: SetId, object: ObjectId, (version, bytes): (u64, Vec<u8>), by: By) {
        let version = Version(version);
        let putting = Putting { version, bytes, by, is_told: false, returned: None, kept: None };
        self.local(set, object).putting = Some(putting);
        self.run_own(set, object, Some(Input::Put { version }));
    }

    /// Why nothing is put here now, if that is so. A node that is about to leave still takes what is put.
    pub fn refusal_to_put(&self) -> Option<Error> {
        if self.fenced {
            return Some(AccessError::Fenced.into());
        }
        self.stopped.then(|| MembershipError::Stopped.into())
    }

    /// The put of that program that waits for its replicas.
    fn put_of(&mut self, session: u32, place: (SetId, ObjectId)) -> Option<&mut Putting> {
        let putting = self.locals.get_mut(&place)?.putting.as_mut()?;
        matches!(putting.by, By::Program(by) if by == session).then_some(putting)
    }

    /// A program gives back what it has put just now. True: it counts later.
    pub fn returns_later(&mut self, session: u32, place: (SetId, ObjectId), level: Access) -> bool {
        let putting = self.put_of(session, place);
        putting.map(|putting| putting.returned = Some(level)).is_some()
    }

    /// The hold of a program that is gone ends, once what it has put is safe.
    pub fn release_after_put(&mut self, session: u32, place: (SetId, ObjectId), hold: Option<Hold>) {
        let Some(hold) = hold else { return };
        match self.put_of(session, place) {
            Some(putting) => putting.kept = Some(hold),
            None => _ = hold.release(),
        }
    }

    /// The replicas have that version.
    pub(super) fn put_is_done(&mut self, set: SetId, object: ObjectId, version: Version, todo: &mut VecDeque<Input>) {
        let local = self.local(set, object);
        let Some(putting) = local.putting.take_if(|putting| putting.version == version) else { return };
        self.end_put((set, object), putting, Outcome::Done);
        todo.extend(self.end_of_trial_if_tried(set, object));
        self.serve_local(set, object, todo);
    }

    fn end_put(&mut self, place: (SetId, ObjectId), putting: Putting, outcome: Outcome) {
        let session = match putting.by {
            By::Thread(op, release) => {
                release();
                self.complete(&op, outcome);
                return;
            }
            By::Program(session) => session,
        };
        // Else its session ends, or the set does, and it hears that.
        if matches!(outcome, Outcome::Done) {
            self.desk.say_safe(session, place, putting.version.0);
        }
        let _driver_is_here = putting.kept.map(Hold::release);
        if let Some(level) = putting.returned {
            self.lower_loan(session, place, level);
        }
    }

    /// Puts that wait for their replicas are not waited for any more: they may have happened, or not.
    pub(super) fn cut_puts_short(&mut self, set: Option<SetId>) {
        let of =
            |(place, _): &(&(SetId, ObjectId), &mut crate::runtime::local::Local)| set.is_none_or(|set| place.0 == set);
        let puts: Vec<((SetId, ObjectId), Putting)> = self
            .locals
            .iter_mut()
            .filter(of)
            .filter_map(|(place, local)| Some((*place, local.putting.take()?)))
            .collect();
        for (place, putting) in puts {
            self.end_put(place, putting, Outcome::Failed(AccessError::CutShort.into()));
        }
    }

    /// Keeps the body that has arrived.
    pub(super) fn store_replica(&mut self, set: SetId, object: ObjectId, body: &mut Option<Cow<'_, [u8]>>) {
        let bytes = body.take().map(Cow::into_owned).unwrap_or_default();
        self.replicas.insert((set, object), bytes);
    }

    /// Keeps the bytes of the object as they are here.
    pub(super) fn keep_replica(&mut self, set: SetId, object: ObjectId) {
        let store = self.store(set);
        let cell = store.find_or_insert(object.0);
        let mut bytes = Vec::new();
        if let Err(error) = store.encode(cell, &mut bytes) {
            tracing::error!(?set, ?object, %error, "a value that was put does not encode");
            self.statistics.undecodable += 1;
        }
        self.replicas.insert((set, object), bytes);
    }

    /// The replica becomes the object.
    pub(super) fn use_replica(&mut self, set: SetId, object: ObjectId, version: Version) {
        let Some(bytes) = self.replicas.remove(&(set, object)) else {
            return self.fence("a replica that the protocol knows of is not here");
        };
        let store = self.store(set);
        let cell = store.find_or_insert(object.0);
        if store.install_bytes(cell, version.0, Some(Cow::Owned(bytes))).is_err() {
            self.statistics.undecodable += 1;
        }
        self.statistics.installs += 1;
    }
}
