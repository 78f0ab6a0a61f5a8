//! What is asked of homes and owners, and what they answer.

use serde::{Deserialize, Serialize};

use super::{Cursor, Found, ScanPage};
use crate::runtime::remembered::Remembered;

/// Objects that are looked at in one question.
pub(super) const LOOK_LIMIT: usize = 4096;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// The first objects of these shards, those of the first one behind `after`, up to `most` of them in all.
    Shards { set: u64, shards: Vec<u16>, after: Option<u64>, most: u32 },
    /// How many objects these shards have.
    Census { set: u64, shards: Vec<u16> },
    /// How these objects stand here.
    Look { set: u64, objects: Vec<u64> },
    /// How one object stands here, and who wants it.
    Detail { set: u64, object: u64 },
    /// What is remembered of it here.
    History { set: u64, object: u64 },
    /// By a program: a page, as this node gets it.
    Page { set: u64, from: Cursor, most: u32 },
    /// By a program: how many objects there are in all.
    All { set: u64 },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Told {
    /// Of the first of the shards: those that fit into the answer.
    Shards(Vec<Told1<Part>>),
    Census(Vec<Told1<Count>>),
    Look(Vec<Look>),
    Detail(Detail),
    /// For how long anything is remembered, if it is.
    History {
        for_ms: Option<u64>,
        events: Vec<Remembered>,
    },
    Page(ScanPage),
    All(Count),
    /// This node uses nothing of what it knows any more, or not yet.
    Away,
    /// The question cannot be meant.
    Malformed,
}

/// What is said of one shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Told1<A> {
    /// That node answers for it; 0 if there is none.
    Elsewhere(u16),
    NotYet,
    Here(A),
}

/// Objects of a shard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Part {
    pub found: Vec<Found>,
    pub has_more: bool,
    pub in_doubt: bool,
}

/// How many objects there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Count {
    pub objects: u64,
    pub lost: u64,
    /// Shards of which nobody can say any more what they have.
    pub in_doubt: u64,
}

/// An object at one node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Look {
    /// It is the owner.
    pub owns: bool,
    pub tenure: u64,
    pub version: u64,
    pub sharers: Vec<u16>,
    pub replicas: Vec<u16>,
    /// Requests that wait there.
    pub waiting: u32,
}

/// Who holds an object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Holder {
    pub who: String,
    pub is_write: bool,
}

/// An object at its owner.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Detail {
    pub tenure: u64,
    pub bytes: Option<u64>,
    pub holders: Vec<Holder>,
    /// Threads, tasks and programs that wait there.
    pub waiting_here: u32,
    /// Nodes that wait.
    pub waiting: Vec<u16>,
    pub in_the_way_ms: Option<u64>,
    /// When the object leaves by itself, at the soonest.
    pub leaves_in_ms: Option<u64>,
}
