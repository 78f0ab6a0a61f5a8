//! What a node has of an object besides the core's record: who uses it, and who waits.

use std::collections::VecDeque;

use kddm_core::id::{NodeId, Version};
use kddm_core::io::{Access, Answer, Input};
use kddm_core::message::RequestKind;

use super::{ClientNumber, Outcome, Value, Wish};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Waiter {
    pub client: ClientNumber,
    pub wish: Wish,
}

/// What a node has of one object besides the core's record.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Cell {
    /// What local threads may use.
    pub access: Access,
    /// The value, readable or not.
    pub value: Option<Value>,
    /// Puts that the value has seen.
    pub version: Version,
    /// Clients that read it.
    pub readers: Vec<ClientNumber>,
    /// The client that writes it.
    pub writer: Option<ClientNumber>,
    /// It has put, and waits until the replicas have that.
    pub is_putting: bool,
    pub(super) waiters: VecDeque<Waiter>,
    pub(super) outstanding: bool,
    pub(super) revoking: Option<Access>,
}

impl Cell {
    /// What local threads use or may begin to use.
    pub fn in_use(&self) -> Access {
        let held = match (self.writer, self.readers.is_empty()) {
            (Some(_), _) => Access::Write,
            (None, false) => Access::Read,
            (None, true) => Access::None,
        };
        held.max(self.access)
    }

    pub(super) fn is_held(&self) -> bool {
        self.writer.is_some() || !self.readers.is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiters.is_empty() && !self.outstanding && self.revoking.is_none() && !self.is_held()
    }

    /// Lowers access; true once nobody uses more.
    pub(super) fn lower(&mut self, to: Access) -> bool {
        let level = to.min(self.access);
        self.access = level;
        let in_the_way =
            (level < Access::Write && self.writer.is_some()) || (level == Access::None && !self.readers.is_empty());
        !in_the_way
    }

    /// What the core is asked for the first who waits. Nodes of even numbers give up with a removal what they could be asked
    /// for, whether they own it or not; those of odd ones await that it is asked back: both ways are searched.
    pub(super) fn ask(&mut self, wish: Wish, me: NodeId) -> Input {
        self.outstanding = true;
        let is_unused = self.access != Access::None && self.revoking.is_none() && !self.is_held();
        if wish.kind() == RequestKind::Remove && me.0.is_multiple_of(2) && is_unused {
            self.access = Access::None;
            return Input::RemoveUnused { version: self.version, has_value: self.value.is_some() };
        }
        Input::Want { kind: wish.kind() }
    }

    pub(super) fn fast_path_is_open(&self) -> bool {
        self.revoking.is_none() && self.waiters.is_empty() && self.writer.is_none()
    }
}

/// What becomes of the first who waits.
pub(super) enum Served {
    /// It has what it wanted, or is refused.
    Yes(Outcome),
    /// The core is to be asked.
    Ask,
    /// Somebody here is in the way.
    Waits,
}

/// Serves a client from what is here, if that suffices.
pub(super) fn serve_one(cell: &mut Cell, client: ClientNumber, wish: Wish) -> Served {
    let Some(level) = wish.level() else { return Served::Ask };
    if wish.kind() == RequestKind::TryGrab && cell.is_held() {
        return Served::Yes(Outcome::Failed(Answer::Busy));
    }
    if cell.access < level {
        return Served::Ask;
    }
    if cell.access == Access::Write && cell.value.is_none() {
        if cell.is_held() {
            return Served::Waits;
        }
        if wish.is_existing() {
            return Served::Yes(Outcome::Failed(Answer::NotFound));
        }
    }
    if wish.holds_nothing() {
        return Served::Yes(Outcome::Done);
    }
    if level == Access::Write || cell.value.is_none() {
        if cell.access < Access::Write || cell.is_held() {
            return Served::Waits;
        }
        cell.writer = Some(client);
        return Served::Yes(Outcome::Writing);
    }
    if cell.writer.is_some() {
        return Served::Waits;
    }
    cell.readers.push(client);
    Served::Yes(Outcome::Reading)
}
