//! The state of an object: packed for storage, unpacked for work.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::home::Entry;
use crate::id::{NodeId, ObjectId, RequestId, Tenure, Version};
use crate::io::{Access, Body, NoMemory, Output, Outputs};
use crate::message::{Message, Request, RequestKind};
use crate::nodeset::NodeSet;
use crate::recovery::Report;
use crate::replicas::ReplicaSet;
use crate::shard::Place;
use crate::table::Keyed;

/// The main role of this node for an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Main {
    /// Nothing is here but, perhaps, a hint.
    #[default]
    None,
    /// The one node that holds the newest version and may hand out copies.
    Owner {
        /// Its tenure.
        tenure: Tenure,
        /// As of the last [`Input::Revoked`](crate::io::Input::Revoked).
        version: Version,
        /// The tenure at which this life of the object began.
        born: Tenure,
    },
    /// A valid read copy.
    Sharer {
        /// The owner's tenure when it gave the copy.
        tenure: Tenure,
        /// The version of the copy.
        version: Version,
        /// The counter of the request whose `Data` made the copy.
        counter: u64,
    },
    /// Unreadable bytes, kept until the new owner confirms that they arrived.
    Ghost {
        /// The tenure that ended.
        tenure: Tenure,
        /// The version handed over.
        version: Version,
        /// The tenure that was sent.
        sent: Tenure,
        /// To whom.
        to: NodeId,
    },
    /// A removal in progress.
    Tombstone {
        /// The tenure of the removal.
        tenure: Tenure,
        /// The request that asked for it.
        requester: RequestId,
    },
}

/// The greatest tenure known, and who has it as far as we know: the hint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Seen {
    pub tenure: Tenure,
    pub node: NodeId,
}

/// What local threads want, and the request that carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Want {
    pub kind: RequestKind,
    pub id: RequestId,
    /// To whom the request went first: named when the wait ends at its time limit.
    pub asked: NodeId,
}

/// An ack held back by a local reader.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct LateAck {
    pub tenure: Tenure,
    pub version: Version,
    pub owner: NodeId,
    pub remove: bool,
}

/// What the home was asked to take back, and what happens once it has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Revoking {
    Lower(Access),
    TryAsOwner(Request),
    TryAsSharer {
        id: RequestId,
        owner: NodeId,
    },
    /// For a try_grab that a new epoch has ended.
    TryForNobody,
}

/// A version on its way to the replicas. Until all have it the object does not move, and is not removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Pushing {
    pub version: Version,
    pub waiting: ReplicaSet,
    /// Replicas that are to be told to drop their copy then: others have taken their place. They are awaited, too:
    /// a copy that is still there must not be older than a put that is done.
    pub leaving: ReplicaSet,
    /// All of them have been told, in this epoch.
    pub is_dropping: bool,
    /// Nobody may see the object before: it may be a put that was never completed.
    pub hides: bool,
    /// A local thread waits for it.
    pub answers: bool,
    /// The home is to hear that this node is the owner then.
    pub announces: bool,
    /// It goes when no local thread writes any more: nobody has put what is there now.
    pub is_held: bool,
    /// Some of them had no copy before: until they have one the object has fewer than it is to have.
    pub fills: bool,
}

/// A replica that is kept here, or an offer: 24 bytes. No object is put so often that the highest bits of its
/// version count. The first says that the home has been told of the replica, and that no owner has named it since;
/// the second, that it is what this node owned in a former life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Slot {
    pub object: ObjectId,
    pub tenure: Tenure,
    bits: u64,
}

impl Slot {
    const TOLD: u64 = 1 << 63;
    const OFFER: u64 = 1 << 62;
    const MARKS: u64 = Slot::TOLD | Slot::OFFER;

    pub fn new(object: ObjectId, (tenure, version): (Tenure, Version), is_told: bool) -> Slot {
        Slot { object, tenure, bits: (version.0 & !Slot::MARKS) | if is_told { Slot::TOLD } else { 0 } }
    }

    pub fn of_offer(object: ObjectId, (tenure, version): (Tenure, Version)) -> Slot {
        Slot { object, tenure, bits: (version.0 & !Slot::MARKS) | Slot::OFFER }
    }

    /// The replica that it is.
    pub fn replica(&self) -> Option<(Tenure, Version)> {
        (!self.is_offer()).then_some((self.tenure, self.version()))
    }

    /// The offer that it is.
    pub fn offer(&self) -> Option<(Tenure, Version)> {
        self.is_offer().then_some((self.tenure, self.version()))
    }

    pub fn is_offer(&self) -> bool {
        self.bits & Slot::OFFER != 0
    }

    fn version(&self) -> Version {
        Version(self.bits & !Slot::MARKS)
    }

    pub fn is_told(&self) -> bool {
        self.bits & Slot::TOLD != 0
    }
}

impl Keyed for Slot {
    fn key(&self) -> ObjectId {
        self.object
    }
}

/// A try_grab whose sharers are being asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Asking {
    pub request: Request,
    pub waiting: NodeSet,
    pub held: bool,
}

/// A sharer, and the counter of the request whose `Data` it got last.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Sharing {
    pub node: NodeId,
    pub counter: u64,
}

/// What most objects do not have at most times.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Side {
    pub sharers: Vec<Sharing>,
    pub owed: NodeSet,
    /// Acks for `early_tenure` that came before its `Transfer`.
    pub early: NodeSet,
    pub early_tenure: Tenure,
    pub late_ack: Option<LateAck>,
    pub revoking: Option<Revoking>,
    pub want: Option<Want>,
    pub queue: VecDeque<Request>,
    pub asking: Option<Asking>,
    pub requester: RequestId,
    pub pushing: Option<Pushing>,
    /// The owner's replicas, if there is more than one.
    pub replicas: ReplicaSet,
    /// Where it differs from what the main role implies.
    pub seen: Option<Seen>,
}

impl Side {
    /// Nothing is outstanding; sharers may remain (`I9`).
    pub fn is_at_rest(&self) -> bool {
        self.owed.is_empty()
            && self.early.is_empty()
            && self.late_ack.is_none()
            && self.revoking.is_none()
            && self.want.is_none()
            && self.queue.is_empty()
            && self.asking.is_none()
            && self.requester.counter == 0
            && self.pushing.is_none()
    }

    /// An owner's replicas: stored with the object if there is just one.
    pub fn replicas_of(&self, packed: Option<&Packed>) -> ReplicaSet {
        if self.replicas.is_empty() { packed.map_or(ReplicaSet::new(), Packed::replica) } else { self.replicas }
    }

    /// Whatever is empty on both sides gets the memory that `other` has for it.
    pub fn borrow_memory(&mut self, other: &mut Side) {
        if self.queue.is_empty() && other.queue.is_empty() {
            self.queue = core::mem::take(&mut other.queue);
        }
        if self.sharers.is_empty() && other.sharers.is_empty() {
            self.sharers = core::mem::take(&mut other.sharers);
        }
        if self.owed.is_empty() && other.owed.is_empty() {
            self.owed = core::mem::take(&mut other.owed);
        }
        if self.early.is_empty() && other.early.is_empty() {
            self.early = core::mem::take(&mut other.early);
        }
    }

    /// Room for what one input may add, and for `parked` requests. What is empty here is lent by `spare`.
    pub fn reserve(&mut self, spare: &mut Side, parked: usize) -> Result<(), NoMemory> {
        let (sharers, queued) = (self.sharers.len(), self.queue.len());
        let queue = if self.queue.is_empty() { &mut spare.queue } else { &mut self.queue };
        queue.try_reserve(2 + parked).map_err(|_| NoMemory)?;
        let room = if self.sharers.is_empty() { &mut spare.sharers } else { &mut self.sharers };
        room.try_reserve(2 + queued + parked).map_err(|_| NoMemory)?;
        if self.owed.is_empty() { &mut spare.owed } else { &mut self.owed }.reserve(2 + sharers)?;
        if self.early.is_empty() { &mut spare.early } else { &mut self.early }.reserve(1)
    }

    /// As [`reserve`](Self::reserve), for an object that has no such record yet.
    pub fn reserve_spare(spare: &mut Side, parked: usize) -> Result<(), NoMemory> {
        spare.queue.try_reserve(2 + parked).map_err(|_| NoMemory)?;
        spare.sharers.try_reserve(2 + parked).map_err(|_| NoMemory)?;
        spare.owed.reserve(2)?;
        spare.early.reserve(1)
    }

    pub fn is_trivial(&self) -> bool {
        self.is_at_rest() && self.sharers.is_empty() && self.seen.is_none() && self.replicas.is_empty()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Role {
    None,
    Owner,
    Sharer,
    Ghost,
    Tombstone,
}

/// An object as it is stored: 40 bytes. `extra` is the owner's `born`, the sharer's `counter`, the
/// ghost's `sent`; `node` is the hint, the ghost's target, or the owner's only replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Packed {
    id: ObjectId,
    tenure: Tenure,
    version: Version,
    extra: u64,
    node: NodeId,
    role: Role,
    pub access: Access,
    pub has_value: bool,
    pub has_side: bool,
}

impl Keyed for Packed {
    fn key(&self) -> ObjectId {
        self.id
    }
}

impl Packed {
    pub fn main(&self, requester: RequestId) -> Main {
        let (tenure, version) = (self.tenure, self.version);
        match self.role {
            Role::None => Main::None,
            Role::Owner => Main::Owner { tenure, version, born: Tenure(self.extra) },
            Role::Sharer => Main::Sharer { tenure, version, counter: self.extra },
            Role::Ghost => Main::Ghost { tenure, version, sent: Tenure(self.extra), to: self.node },
            Role::Tombstone => Main::Tombstone { tenure, requester },
        }
    }

    /// What the main role alone says of the greatest tenure.
    pub fn implied_seen(&self, me: NodeId) -> Seen {
        match self.role {
            Role::None | Role::Sharer => Seen { tenure: self.tenure, node: self.node },
            Role::Owner => Seen { tenure: self.tenure, node: me },
            Role::Ghost => Seen { tenure: Tenure(self.extra), node: self.node },
            Role::Tombstone => Seen { tenure: self.tenure, node: NodeId::NOBODY },
        }
    }

    /// Only a hint: nothing would be missed but a shorter way.
    pub fn is_hint(&self) -> bool {
        self.role == Role::None && !self.has_side
    }

    /// More than a hint or an unanswered wish: a value, a copy, the ownership, or its end.
    pub fn is_something(&self) -> bool {
        self.role != Role::None
    }

    pub fn is_owner(&self) -> bool {
        self.role == Role::Owner
    }

    /// The owner's replica, if it has just one.
    pub fn replica(&self) -> ReplicaSet {
        if self.is_owner() { ReplicaSet::of(self.node) } else { ReplicaSet::new() }
    }

    pub fn is_ghost(&self) -> bool {
        self.role == Role::Ghost
    }

    pub fn pack(
        id: ObjectId,
        main: &Main,
        seen: Seen,
        replicas: ReplicaSet,
        access: Access,
        has_value: bool,
    ) -> Packed {
        let only = if let [only] = replicas.as_slice() { *only } else { NodeId::NOBODY };
        let (role, tenure, version, extra, node) = match *main {
            Main::None => (Role::None, seen.tenure, Version(0), 0, seen.node),
            Main::Owner { tenure, version, born } => (Role::Owner, tenure, version, born.0, only),
            Main::Sharer { tenure, version, counter } => (Role::Sharer, tenure, version, counter, seen.node),
            Main::Ghost { tenure, version, sent, to } => (Role::Ghost, tenure, version, sent.0, to),
            Main::Tombstone { tenure, .. } => (Role::Tombstone, tenure, Version(0), 0, NodeId::NOBODY),
        };
        Packed { id, tenure, version, extra, node, role, access, has_value, has_side: false }
    }
}

/// One object, unpacked for one input.
pub(crate) struct Turn<'a> {
    pub place: &'a Place<'a>,
    pub counter: &'a mut u64,
    pub id: ObjectId,
    pub main: Main,
    pub seen: Seen,
    pub access: Access,
    pub has_value: bool,
    /// The owner's replicas.
    pub replicas: ReplicaSet,
    /// The replica that is kept here.
    pub replica: Option<(Tenure, Version)>,
    /// The home has been told of it in this epoch, and it has not been pushed anew since.
    pub replica_is_told: bool,
    /// What this node owned in a former life. It has this or a replica, not both.
    pub offer: Option<(Tenure, Version)>,
    pub side: &'a mut Side,
    /// The directory entry, where this node is the home.
    pub entry: Option<Entry>,
    /// Requests that wait at the home for an owner.
    pub parked: VecDeque<Request>,
    /// What was reported of an object for which the home has made an owner that is not settled yet:
    /// others keep their bytes until it is.
    pub to_free: Vec<Report>,
    /// No tenure up to this is ever given out again in this shard.
    pub floor: &'a mut Tenure,
    pub outputs: &'a mut Outputs,
    /// Messages to this node itself: handled in the same turn.
    pub calls: &'a mut VecDeque<Message>,
    /// Room for the copy set of an owner that the home makes.
    pub nodes: &'a mut NodeSet,
}

impl Turn<'_> {
    pub fn me(&self) -> NodeId {
        self.place.me
    }

    pub fn is_home(&self) -> bool {
        self.place.home == self.place.me
    }

    /// Sends a message without a body.
    pub fn send(&mut self, to: NodeId, message: Message) {
        self.dispatch(to, message, Body::None, false);
    }

    /// Sends a message that may wait for the next one to that node.
    pub fn send_deferred(&mut self, to: NodeId, message: Message) {
        self.dispatch(to, message, Body::None, true);
    }

    pub fn dispatch(&mut self, to: NodeId, message: Message, body: Body, deferred: bool) {
        if to == self.me() {
            self.calls.push_back(message);
        } else if to.is_somebody() {
            self.outputs.push(Output::Send { to, object: self.id, message, body, deferred });
        }
    }

    pub fn output(&mut self, output: Output) {
        self.outputs.push(output);
    }

    pub fn dropped(&mut self, what: &'static str) {
        self.outputs.push(Output::Dropped { object: self.id, what });
    }

    pub fn fault(&mut self, what: &'static str) {
        self.outputs.push(Output::Fault { object: self.id, what });
    }

    /// Whether local threads still want the answer to this request.
    pub fn wants(&self, id: RequestId) -> bool {
        self.side.want.is_some_and(|want| want.id == id)
    }

    /// Every message that names a greater tenure raises what this node has seen.
    pub fn raise_seen(&mut self, tenure: Tenure, node: NodeId) {
        if tenure > self.seen.tenure {
            self.seen = Seen { tenure, node };
        }
    }

    /// Asks the home to take access back; the turn goes on with `Revoked`.
    pub fn revoke(&mut self, to: Access) {
        self.side.revoking = Some(Revoking::Lower(to));
        self.output(Output::Revoke { object: self.id, to });
    }

    pub fn grant(&mut self, access: Access, answers: bool) {
        self.access = access;
        let needs_value = !self.has_value;
        self.output(Output::Granted { object: self.id, access, needs_value, answers });
    }

    pub fn answer(&mut self, answer: crate::io::Answer) {
        self.side.want = None;
        self.output(Output::Answer { object: self.id, answer });
    }

    /// Gives up what is here: bytes freed, role none.
    pub fn discard(&mut self) {
        self.main = Main::None;
        self.has_value = false;
        self.output(Output::Discard { object: self.id });
    }
}
