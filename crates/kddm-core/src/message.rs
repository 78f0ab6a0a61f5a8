//! What nodes say to each other about one object. `docs/protocol.md` tells when.
//!
//! The numbers of the kinds are part of the wire format and never change; see [`crate::frame`].

use alloc::vec::Vec;

use crate::home::EntryState;
use crate::id::{Epoch, NodeId, ObjectId, Placement, RequestId, ShardIndex, Tenure, Version};
use crate::nodeset::NodeSet;
use crate::replicas::ReplicaSet;

mod reports;

pub use self::reports::{COPIES_AT_ONCE, CopyKind, Have, Knew, Loss, ReadCopy, Role, Since};

/// What a node asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RequestKind {
    /// A read copy.
    Get {
        /// Answer `NotFound` instead of creating the object.
        existing: bool,
    },
    /// Ownership.
    Grab {
        /// Answer `NotFound` instead of creating the object.
        existing: bool,
    },
    /// Ownership if nobody holds the object, else `Busy`.
    TryGrab,
    /// Remove the object everywhere.
    Remove,
    /// Give up the copy here; ownership and the last copy move first. Never leaves its node.
    Flush {
        /// Where ownership goes; [`NodeId::NOBODY`] lets the owner choose.
        to: NodeId,
    },
}

/// A request on its way to the owner.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// Who asks, and its number.
    pub id: RequestId,
    /// What for.
    pub kind: RequestKind,
    /// Tenure of the hint that it follows; `Tenure::NONE` follows none.
    pub tau: Tenure,
    /// How often it was forwarded. Above [`FORWARDS_BEFORE_FIRST`] the home marks it `first`.
    pub forwards: u8,
    /// It waited at a former owner and goes ahead of the new owner's own waiting requests.
    pub inherited: bool,
    /// It chased a moving owner for too long: the next owner serves it first.
    pub first: bool,
    /// Sent to its receiver as the home: one that has given the shard away sends it on anew.
    pub to_home: bool,
}

/// Forwards after which the home marks a request `first` (five were reached in the search).
pub const FORWARDS_BEFORE_FIRST: u8 = 4;

/// One message about one object.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// Asks for access, ownership or removal.
    Request(Request),
    /// Home to requester: you own it from now on, it did not exist.
    Create {
        /// The first tenure of this life of the object.
        tenure: Tenure,
        /// The request that this answers.
        id: RequestId,
    },
    /// Owner to requester: a read copy. Body: the object.
    Data {
        /// The owner's tenure.
        tenure: Tenure,
        /// The version of the body.
        version: Version,
        /// The request that this answers.
        id: RequestId,
    },
    /// Former owner to new owner. Body: the object, if it has a value.
    Transfer {
        /// The new owner's tenure.
        tenure: Tenure,
        /// The version of the body.
        version: Version,
        /// The tenure at which this life of the object began.
        born: Tenure,
        /// Sharers whose acks the new owner must await.
        sharers: NodeSet,
        /// Replica holders.
        replicas: ReplicaSet,
        /// False for an object whose first touch has not succeeded anywhere.
        has_value: bool,
        /// The request that this answers; counter zero if none (a flush).
        id: RequestId,
    },
    /// Drop your copy and ack to `owner`.
    Invalidate {
        /// Tenure from which the copy is invalid.
        tenure: Tenure,
        /// The version that the copy has.
        version: Version,
        /// Who waits for the ack and is the new hint; the sender of a removal.
        owner: NodeId,
        /// The object is being removed: replicas and ghosts go too, and there is no new owner.
        remove: bool,
    },
    /// The copy is gone.
    Ack {
        /// As in the `Invalidate`.
        tenure: Tenure,
        /// As in the `Invalidate`.
        version: Version,
    },
    /// New owner to former owner: it arrived, free your bytes.
    Confirm {
        /// The new owner's tenure.
        tenure: Tenure,
    },
    /// New owner to home.
    OwnerIs {
        /// The owner.
        owner: NodeId,
        /// Its tenure.
        tenure: Tenure,
    },
    /// Owner to home: a remove has begun, park requests.
    Removing {
        /// The tenure of the removal.
        tenure: Tenure,
        /// Sent on by a node that is not the home any more, and has acked it.
        forwarded: bool,
    },
    /// Owner to home: the remove is done, the object does not exist.
    Removed {
        /// The tenure of the removal.
        tenure: Tenure,
    },
    /// The removal that was asked for is done.
    RemoveDone {
        /// The request that this answers.
        id: RequestId,
    },
    /// The object does not exist, and the request was for an existing one.
    NotFound {
        /// The request that this answers.
        id: RequestId,
    },
    /// Somebody holds the object.
    Busy {
        /// The request that this answers.
        id: RequestId,
    },
    /// The newest version cannot be proven present.
    Lost {
        /// The request that this answers.
        id: RequestId,
    },
    /// Drop your copy if no local thread holds it (for a try_grab).
    TryInvalidate {
        /// The owner's tenure.
        tenure: Tenure,
        /// The version of the copies.
        version: Version,
        /// The try_grab for which this is asked.
        id: RequestId,
    },
    /// The answer to `TryInvalidate`.
    TryAnswer {
        /// The try_grab for which it was asked.
        id: RequestId,
        /// A local thread holds the copy; it stays.
        held: bool,
    },
    /// A sharer gave its copy up by itself.
    Flushed {
        /// The request whose `Data` made that copy: a late notice must not strike a newer copy.
        id: RequestId,
    },
    /// Old home to new home: what the directory says of this object.
    Entry {
        /// The owner's tenure, or that of the removal.
        tenure: Tenure,
        /// The owner; nobody during a removal.
        owner: NodeId,
        /// How sure the old home is.
        state: EntryState,
        /// The newest version could not be proven present.
        lost: bool,
    },
    /// Old home to new home: all entries of this shard are there, answer for it from now on.
    ShardIsYours {
        /// Which one.
        shard: ShardIndex,
        /// No tenure up to this is ever given out again in it.
        floor: Tenure,
        /// The directory is not all there is: what it does not name may exist.
        in_doubt: bool,
        /// Whatever has been decided of its objects since the beginning of that epoch stands in the directory.
        unbroken: Epoch,
    },
    /// To every other member: all that was to be handed over in this placement is handed over, and
    /// whatever follows was decided knowing it.
    Placed {
        /// The placement.
        placement: Placement,
    },
    /// Owner to replica: keep this copy. Body: the object.
    Push {
        /// The owner's tenure.
        tenure: Tenure,
        /// The version of the body.
        version: Version,
    },
    /// The copy is kept.
    PushAck {
        /// As in the `Push`.
        tenure: Tenure,
        /// As in the `Push`.
        version: Version,
    },
    /// To a replica: the copy is of no more use.
    DropReplica {
        /// Copies of this tenure and before.
        tenure: Tenure,
    },
    /// To the home, in a new epoch: what is here of an object.
    Have(Have),
    /// To the home, in a new epoch: a replica of the object is here.
    HaveReplica {
        /// Its tenure.
        tenure: Tenure,
        /// Its version.
        version: Version,
    },
    /// To the home, in a new epoch: all that is here of this shard has been said.
    Reported {
        /// Which shard.
        shard: ShardIndex,
        /// The greatest tenure that this node knew of any object that it said nothing of.
        forgotten: Tenure,
    },
    /// To every other member, in a new epoch: all that is here of any shard has been said.
    AllReported,
    /// To every other member, before anything is reported in a new epoch: the former life of this node did nothing in
    /// that epoch or later.
    Returned {
        /// See there.
        left: Epoch,
    },
    /// To the home, in a new epoch: what a former life of this node knew of the object as its home.
    Knew(Knew),
    /// To the home: that was all of this shard.
    KnewAll {
        /// Which one.
        shard: ShardIndex,
        /// No tenure up to this was given out by it.
        floor: Tenure,
        /// What it did not name may have existed.
        in_doubt: bool,
        /// Between which epochs.
        since: Since,
    },
    /// Back, in any case: no replica up to that tenure is here any more.
    ReplicaGone {
        /// As in the `DropReplica`.
        tenure: Tenure,
    },
    /// Home to a node with a copy: you own the object from now on.
    Promote {
        /// The new tenure.
        tenure: Tenure,
        /// The version of the copy meant.
        version: Version,
        /// Which of the copies there.
        copy: CopyKind,
        /// All others with a valid read copy.
        sharers: NodeSet,
        /// All others with a replica, of whatever version.
        replicas: ReplicaSet,
    },
    /// To the home: the copy meant by a `Promote` has left meanwhile.
    Decline {
        /// As in the `Promote`.
        tenure: Tenure,
        /// As in the `Promote`.
        copy: CopyKind,
    },
    /// From the home: the owner does not know of this very replica. One that was pushed since stays.
    Orphan {
        /// As in the `HaveReplica`.
        tenure: Tenure,
        /// As in the `HaveReplica`.
        version: Version,
    },
    /// To a home of the next placement, before `Placed`: members were lost once.
    Loss(Loss),
    /// To the home: whoever is responsible accepts that the object is gone, if it is lost. Or to every other
    /// member, of a whole set.
    AcceptLoss {
        /// Of the set of this message: all that was lost of it up to that epoch.
        set_until: Option<Epoch>,
    },
    /// From the home, in a new epoch: somebody waits for an object of this shard, so report it first.
    Wanted {
        /// Which shard.
        shard: ShardIndex,
    },
    /// To the home, in a new epoch: what this node owned in a former life, which was expelled.
    HaveOffer {
        /// The tenure that it had.
        tenure: Tenure,
        /// Its version.
        version: Version,
        /// That life was a member until this epoch began, or longer.
        left: Epoch,
    },
    /// A node that is back to whoever gave it these read copies in its former life: are they the newest?
    Revalidate {
        /// Who asks, and the number of its question. If it has a copy, this is the request that made it.
        id: RequestId,
        /// By ascending object, [`COPIES_AT_ONCE`] of them at most, all of the set of this message.
        copies: Vec<ReadCopy>,
    },
    /// The answer.
    Revalidated {
        /// The question.
        id: RequestId,
        /// The objects of which they are, by ascending number.
        valid: Vec<ObjectId>,
    },
}

/// How many kinds of [`Message`] there are.
pub const MESSAGE_KINDS: usize = 40;

impl Message {
    /// The number of this kind in the wire format and in counters, from 0 to `MESSAGE_KINDS - 1`.
    pub const fn kind(&self) -> u8 {
        match self {
            Message::Request(_) => 0,
            Message::Create { .. } => 1,
            Message::Data { .. } => 2,
            Message::Transfer { .. } => 3,
            Message::Invalidate { .. } => 4,
            Message::Ack { .. } => 5,
            Message::Confirm { .. } => 6,
            Message::OwnerIs { .. } => 7,
            Message::Removing { .. } => 8,
            Message::Removed { .. } => 9,
            Message::RemoveDone { .. } => 10,
            Message::NotFound { .. } => 11,
            Message::Busy { .. } => 12,
            Message::Lost { .. } => 13,
            Message::TryInvalidate { .. } => 14,
            Message::TryAnswer { .. } => 15,
            Message::Flushed { .. } => 16,
            Message::Entry { .. } => 17,
            Message::ShardIsYours { .. } => 18,
            Message::Placed { .. } => 19,
            Message::Push { .. } => 20,
            Message::PushAck { .. } => 21,
            Message::DropReplica { .. } => 22,
            Message::Have(_) => 23,
            Message::HaveReplica { .. } => 24,
            Message::Reported { .. } => 25,
            Message::AllReported => 26,
            Message::Promote { .. } => 27,
            Message::Decline { .. } => 28,
            Message::Orphan { .. } => 29,
            Message::Loss(_) => 30,
            Message::AcceptLoss { .. } => 31,
            Message::Wanted { .. } => 32,
            Message::ReplicaGone { .. } => 33,
            Message::HaveOffer { .. } => 34,
            Message::Revalidate { .. } => 35,
            Message::Revalidated { .. } => 36,
            Message::Returned { .. } => 37,
            Message::Knew(_) => 38,
            Message::KnewAll { .. } => 39,
        }
    }

    /// The names of the kinds, in the order of their numbers, for counters and traces.
    pub const NAMES: [&'static str; MESSAGE_KINDS] = [
        "request",
        "create",
        "data",
        "transfer",
        "invalidate",
        "ack",
        "confirm",
        "owner_is",
        "removing",
        "removed",
        "remove_done",
        "not_found",
        "busy",
        "lost",
        "try_invalidate",
        "try_answer",
        "flushed",
        "entry",
        "shard_is_yours",
        "placed",
        "push",
        "push_ack",
        "drop_replica",
        "have",
        "have_replica",
        "reported",
        "all_reported",
        "promote",
        "decline",
        "orphan",
        "loss",
        "accept_loss",
        "wanted",
        "replica_gone",
        "have_offer",
        "revalidate",
        "revalidated",
        "returned",
        "knew",
        "knew_all",
    ];
}
