//! What clients notice: the stuff that histories are made of.

use std::hash::{Hash, Hasher};
use std::ops::Deref;

use kddm_core::id::ObjectId;

use crate::agent::{ClientNumber, Left, Outcome, Value, Wish};

/// Something that a client has noticed.
#[derive(Clone, Copy, Debug)]
pub enum Note {
    /// It asked.
    Began(ClientNumber, ObjectId, Wish),
    /// It holds the object, and finds this value.
    Granted(ClientNumber, ObjectId, Outcome, Option<Value>),
    /// It waits no more, and holds nothing.
    Ended(ClientNumber, ObjectId, Outcome),
    /// It has given up: what it asked for may still happen.
    GaveUp(ClientNumber, ObjectId),
    /// It has ended its hold; what it found, and what it left.
    Released(ClientNumber, ObjectId, Option<Value>, Left),
    /// It has put, and waits until the replicas have it; what it found, and what it left.
    Puts(ClientNumber, ObjectId, Option<Value>, Left),
    /// The replicas have what it has put: it holds nothing any more.
    Safe(ClientNumber, ObjectId),
    /// It ends its hold by the removal of the object, and waits for that.
    Removes(ClientNumber, ObjectId),
}

impl Note {
    /// Whose note it is.
    pub fn client(&self) -> ClientNumber {
        match *self {
            Note::Began(client, ..)
            | Note::Granted(client, ..)
            | Note::Ended(client, ..)
            | Note::GaveUp(client, ..)
            | Note::Released(client, ..)
            | Note::Puts(client, ..)
            | Note::Safe(client, ..)
            | Note::Removes(client, ..) => client,
        }
    }
}

/// The notes of a step. They say nothing of what comes: worlds that differ in them alone are equal.
#[derive(Clone, Debug, Default)]
pub struct Notes(Vec<Note>);

impl Notes {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn extend(&mut self, notes: impl IntoIterator<Item = Note>) {
        self.0.extend(notes);
    }

    pub(super) fn push(&mut self, note: Note) {
        self.0.push(note);
    }
}

impl Deref for Notes {
    type Target = [Note];

    fn deref(&self) -> &[Note] {
        &self.0
    }
}

impl PartialEq for Notes {
    fn eq(&self, _: &Notes) -> bool {
        true
    }
}

impl Eq for Notes {}

impl Hash for Notes {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
