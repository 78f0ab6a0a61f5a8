//! Puts of an attached program: when they are complete, and what becomes of them when the node or the set is gone.

use std::sync::Arc;

use kddm_core::id::{ObjectId, SetId};

use super::Place;
use super::frame::Word;
use crate::error::{AccessError, Error, MembershipError};
use crate::runtime::lane::LaneState;
use crate::runtime::wait::{Op, Outcome};

/// Ends the hold under which something was put. True: the lane waits for that.
pub(crate) type EndOfHold = Box<dyn FnOnce() -> bool + Send>;

/// A put that the node has, and of which it has not said yet that its replicas have it. Its object is held until then:
/// whoever read it here would have seen what may never have been.
pub(crate) struct UnsafePut {
    pub version: u64,
    pub op: Arc<Op>,
    pub end: EndOfHold,
}

impl LaneState {
    /// The new value of an object that a local thread has to write goes to the node. The put is complete
    /// once the socket has taken it all, up to the mark that is answered: what is in a socket is read by
    /// its other end, whatever becomes of this process, before that sees the end of the connection.
    ///
    /// # Errors
    /// Then nothing has been sent.
    pub fn put_at_lender(&mut self, set: SetId, object: ObjectId, version: u64, value: &[u8]) -> Result<u64, Error> {
        let (node, limit_bytes) = (self.core.id().0, self.limits.peer_buffer_bytes);
        // What a socket has refused is known before the end of the connection is.
        let Some(link) = self.link.as_mut().filter(|link| !link.is_ended && !link.outbox.is_cut()) else {
            return Err(MembershipError::Detached.into());
        };
        if !link.still_lends((set, object)) {
            return Err(MembershipError::Detached.into());
        }
        let bytes = link.outbox.waiting_bytes();
        if bytes > limit_bytes {
            return Err(AccessError::PeerFull { node, bytes, limit_bytes }.into());
        }
        link.say((set, object), Word::Put { version }, value);
        if let Some(borrowed) = link.borrowed.get_mut(&(set, object)) {
            borrowed.is_first_touch = false;
        }
        Ok(link.outbox.mark())
    }

    /// Writes, and says whether everything up to that mark is in the socket. If not, `op` is told when.
    pub fn has_put(&mut self, mark: u64, op: impl FnOnce() -> Arc<Op>) -> Option<Arc<Op>> {
        self.write_lender();
        let link = self.link.as_mut().filter(|link| link.outbox.written() < mark)?;
        let op = op();
        if link.is_ended {
            self.complete(&op, Outcome::Failed(MembershipError::Detached.into()));
        } else {
            link.puts.push_back((mark, Arc::clone(&op)));
        }
        Some(op)
    }

    /// As [`Self::has_put`], for a put that is done when the node says that its replicas have it.
    pub fn waits_for_replicas(&mut self, set: SetId, object: ObjectId, put: UnsafePut) {
        self.write_lender();
        match self.link.as_mut().filter(|link| !link.is_ended) {
            Some(link) => link.unsafe_puts.entry((set, object)).or_default().push(put),
            None => self.end_unsafe_put((set, object), put, Outcome::Failed(MembershipError::Detached.into())),
        }
    }

    pub(super) fn end_unsafe_put(&mut self, (set, object): Place, put: UnsafePut, outcome: Outcome) {
        if (put.end)() {
            self.released(set, object);
        }
        self.complete(&put.op, outcome);
    }

    /// The set is gone: what was under way may have been put, or not.
    pub(super) fn cut_unsafe_puts_short(&mut self, set: SetId) {
        let Some(link) = &mut self.link else { return };
        let cut: Vec<_> = link.unsafe_puts.extract_if(|(of, _), _| *of == set).collect();
        self.end_all(cut);
    }

    /// What was under way may have been put, or not.
    pub(super) fn end_all(&mut self, cut: impl IntoIterator<Item = (Place, Vec<UnsafePut>)>) {
        for (place, puts) in cut {
            for put in puts {
                self.end_unsafe_put(place, put, Outcome::Failed(AccessError::CutShort.into()));
            }
        }
    }

    /// Puts up to that version have their replicas.
    pub(super) fn puts_are_safe(&mut self, place: Place, version: u64) {
        let Some(link) = &mut self.link else { return };
        let mut done = Vec::new();
        if let Some(waiting) = link.unsafe_puts.get_mut(&place) {
            done.extend(waiting.extract_if(.., |put| put.version <= version));
            if waiting.is_empty() {
                link.unsafe_puts.remove(&place);
            }
        }
        for put in done {
            self.end_unsafe_put(place, put, Outcome::Done);
        }
    }
}
