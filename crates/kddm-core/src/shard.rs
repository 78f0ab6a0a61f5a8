//! A shard: the unit of handling, of ownership by a data-plane thread, of reporting and of hand-over.

use alloc::collections::{TryReserveError, VecDeque};
use alloc::vec::Vec;

use hashbrown::HashMap;

use crate::home::Entry;
use crate::id::{Epoch, Incarnation, Mixer, NodeId, ObjectId, RequestId, SetId, ShardIndex, Tenure, Version};
use crate::io::{Access, Body, Input, NoMemory, Output, Outputs};
use crate::message::{CopyKind, Have, Message, Request};
use crate::mutation::{Mutation, mutated};
use crate::nodeset::NodeSet;
pub use crate::object::state::Main;
use crate::object::state::{Packed, Seen, Side, Slot, Turn};
use crate::recovery::{Recovery, Report};
use crate::replicas::ReplicaSet;
use crate::table::{Keyed, Table};
use crate::view::{Member, View};

mod inspect;
mod recover;
mod revalidate;
mod room;
mod scan;
mod sides;

pub use inspect::{Inspection, Standing};
pub use room::Room;
use sides::Sides;

/// Hints that a shard keeps of objects it no longer has. A forgotten hint costs one message.
pub const HINTS_PER_SHARD: u32 = 256;

/// The same for objects that have ended: there are more of these, and a hint is worth more.
pub const ENDS_PER_SHARD: u32 = HINTS_PER_SHARD / 4;

/// Where a shard stands: what its rules need to know of the world.
#[derive(Clone, Copy, Debug)]
pub struct Place<'v> {
    /// This node.
    pub me: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Who answers for this shard as far as this node knows: while the shard moves, the old home until
    /// it has handed it over.
    pub home: NodeId,
    /// Its home in the installed view.
    pub view_home: NodeId,
    /// The installed view.
    pub view: &'v View,
    /// The set, and which of its shards this is.
    pub set: SetId,
    /// The shard.
    pub at: ShardIndex,
    /// This node answers for the shard, and does not know yet what others have of this object.
    pub is_recovering: bool,
    /// What the directory does not name may exist.
    pub in_doubt: bool,
    /// While the home decides: somebody has accepted in this epoch that what is lost of the set is gone.
    pub is_accepted: bool,
    /// On the way to a new epoch: members whose lives are younger than what is here of this shard.
    pub newcomers: &'v [NodeId],
}

impl<'v> Place<'v> {
    /// That of a shard for which no other home is on its way.
    pub(crate) fn at_home(
        (me, incarnation): (NodeId, Incarnation),
        view: &'v View,
        (set, at): (SetId, ShardIndex),
        home: NodeId,
        recovery: &Recovery,
    ) -> Place<'v> {
        let (is_recovering, in_doubt) = (recovery.is_recovering, recovery.in_doubt());
        let (view_home, is_accepted, newcomers) = (home, false, &[]);
        Place { me, incarnation, home, view_home, view, set, at, is_recovering, in_doubt, is_accepted, newcomers }
    }
}

impl Place<'_> {
    /// The epoch of the installed view.
    pub fn epoch(&self) -> Epoch {
        self.view.epoch
    }

    /// Whether that node shares objects in the installed view.
    pub fn shares(&self, node: NodeId) -> bool {
        self.view.member(node).is_some_and(|member| member.state.can_share())
    }

    /// Whether messages can be exchanged with that node in the installed view.
    pub fn talks(&self, node: NodeId) -> bool {
        self.view.member(node).is_some_and(|member| member.state.can_talk())
    }

    /// Whether a node that something here names is the one that it was, and messages can be exchanged with it.
    pub fn still_talks(&self, node: NodeId) -> bool {
        self.talks(node) && (!self.newcomers.contains(&node) || mutated(Mutation::TakeNumberForLife))
    }

    /// How many replicas an object is to have: as many as the set says, if there are so many other homes.
    pub fn replicas_wanted(&self) -> usize {
        let others = self.view.homes.iter().filter(|home| **home != self.me).count();
        self.set.replicas().min(others)
    }

    /// Whether that node is to keep objects: it is not about to leave.
    pub fn is_a_home(&self, node: NodeId) -> bool {
        self.view.homes.binary_search(&node).is_ok()
    }

    /// Whether anybody waits for the answer: its node is here or shares objects, in the same life.
    pub fn is_served(&self, id: RequestId) -> bool {
        let shares = |member: &Member| member.state.can_share() || mutated(Mutation::ServeWhoLeft);
        let life = |member: &Member| member.incarnation == id.incarnation && shares(member);
        id.node == self.me || self.view.member(id.node).is_some_and(life)
    }
}

type Map<V> = HashMap<ObjectId, V, Mixer>;

/// One 1,024th of a set on one node: objects held here, and the directory where this is the home.
#[derive(Clone, Default, Debug)]
pub struct Shard {
    objects: Table<Packed>,
    sides: Sides,
    directory: Table<Entry>,
    parked: Map<VecDeque<Request>>,
    replicas: Table<Slot>,
    pub(crate) recovery: Recovery,
    floor: Tenure,
    /// The greatest tenure of what was forgotten here: of an object that this node knows nothing of it may
    /// have known so much.
    forgotten: Tenure,
    hints: u32,
    /// Inputs so far: wishes of local threads and messages, never a hit.
    inputs: u64,
}

/// What is done with one object: an input, or a step of a change of views.
#[derive(Debug)]
pub(crate) enum Step {
    Input(Input),
    /// This node is in a new epoch.
    Enter,
    /// Says to the home what is here.
    Report,
    /// All have reported: the home decides.
    Decide,
    /// Makes sure that the owner has its replicas, on nodes that are to stay.
    Refill,
    /// The copy that was to be the object has left its node.
    Decline {
        from: NodeId,
        tenure: Tenure,
        copy: CopyKind,
    },
    /// Somebody has accepted that the object is gone, if it is lost.
    AcceptLoss,
    /// A node has dropped its replica, as it was told to by the owner, or by the home.
    ReplicaGone {
        from: NodeId,
        tenure: Tenure,
    },
    /// This node owned it in a former life, which was expelled, and still has it.
    Remember((Tenure, Version)),
    /// What a former home knew of it.
    Knew(Entry),
}

impl Shard {
    /// An empty shard; allocates nothing.
    pub fn new() -> Shard {
        Shard::default()
    }

    /// Handles one input for one object. On `NoMemory` nothing has changed.
    ///
    /// `counter` numbers the requests of this node; it only grows.
    pub fn handle(
        &mut self,
        place: &Place<'_>,
        counter: &mut u64,
        room: &mut Room,
        object: ObjectId,
        input: Input,
        outputs: &mut Outputs,
    ) -> Result<(), NoMemory> {
        self.inputs += 1;
        let step = match input {
            Input::Message { from, message: Message::Have(have) } if place.is_recovering => {
                return self.recovery.note(object, from, |report| report.have = have);
            }
            Input::Message { from, message: Message::HaveReplica { tenure, version } } if place.is_recovering => {
                return self.recovery.note(object, from, |report| report.replica = Some((tenure, version)));
            }
            Input::Message { from, message: Message::HaveOffer { tenure, version, left } } if place.is_recovering => {
                return self.recovery.note(object, from, |report| report.offer = Some((tenure, version, left)));
            }
            Input::Message { from, message: Message::Decline { tenure, copy } } => Step::Decline { from, tenure, copy },
            Input::Message { from, message: Message::ReplicaGone { tenure } } => Step::ReplicaGone { from, tenure },
            Input::AcceptLoss | Input::Message { message: Message::AcceptLoss { set_until: None }, .. } => {
                Step::AcceptLoss
            }
            input => Step::Input(input),
        };
        self.step(place, counter, room, object, step, outputs)
    }

    /// One step of one object. On `NoMemory` nothing has changed.
    pub(crate) fn step(
        &mut self,
        place: &Place<'_>,
        counter: &mut u64,
        room: &mut Room,
        object: ObjectId,
        step: Step,
        outputs: &mut Outputs,
    ) -> Result<(), NoMemory> {
        self.reserve(object, place, &step, room, outputs)?;
        let found = self.find(object);
        let parked = self.take_parked(object, room);
        let to_free = self.recovery.take_to_free(object, &mut room.reports);
        let Room { calls, side: spare, nodes, .. } = room;
        let packed = found.packed;
        // Worked on where it lies: most objects have none, and it is too large to be moved about.
        let stored = if packed.is_some_and(|p| p.has_side) { self.sides.get_mut(&object) } else { None };
        let is_stored = stored.is_some();
        let side = match stored {
            Some(side) => {
                side.borrow_memory(spare);
                side
            }
            None => &mut *spare,
        };
        if packed.is_some_and(|p| p.is_hint()) {
            self.hints -= 1;
        }
        let mut turn = Turn {
            place,
            counter,
            id: object,
            main: packed.map_or(Main::None, |p| p.main(side.requester)),
            seen: side.seen.unwrap_or(packed.map_or(Seen::default(), |p| p.implied_seen(place.me))),
            access: packed.map_or(Access::None, |p| p.access),
            has_value: packed.is_some_and(|p| p.has_value),
            replicas: side.replicas_of(packed.as_ref()),
            replica: found.replica.and_then(|slot| slot.replica()),
            replica_is_told: found.replica.is_some_and(|slot| slot.is_told()),
            offer: found.replica.and_then(|slot| slot.offer()),
            side,
            entry: found.entry,
            parked,
            to_free,
            floor: &mut self.floor,
            outputs,
            calls,
            nodes,
        };
        let own_report = turn.step(step, &mut self.recovery);
        turn.finish();
        let done = turn.pack();
        self.put_back(place, found, is_stored, done, room);
        let Some((have, replica, offer)) = own_report else { return Ok(()) };
        // Nothing else has changed: a report to itself only says what is here.
        let offer = offer.map(|(tenure, version)| (tenure, version, self.recovery.left));
        self.recovery.note(object, place.me, |report| {
            (report.have, report.replica, report.offer) = (have, replica, offer);
        })
    }

    #[inline]
    fn find(&self, object: ObjectId) -> Found {
        let (at, entry_at) = (self.objects.position(object), self.directory.position(object));
        let replica_at = if self.replicas.len() == 0 { None } else { self.replicas.position(object) };
        Found {
            object,
            at,
            packed: at.and_then(|at| self.objects.at(at)).copied(),
            entry_at,
            entry: entry_at.and_then(|at| self.directory.at(at)).copied(),
            replica_at,
            replica: replica_at.and_then(|at| self.replicas.at(at)).copied(),
        }
    }

    #[inline]
    fn put_back(&mut self, place: &Place<'_>, found: Found, is_stored: bool, done: Done, room: &mut Room) {
        let Found { object, at, entry_at, replica_at, .. } = found;
        let Done { packed, seen, replica, entry, parked, to_free } = done;
        if let Some(slot) = replica {
            self.replicas.put_at(replica_at, slot);
        } else if replica_at.is_some() {
            self.replicas.remove(object);
        }
        self.recovery.keep_to_free(object, to_free, &mut room.reports);
        match entry {
            Some(entry) => self.directory.put_at(entry_at, entry),
            None if place.home == place.me && entry_at.is_some() => self.directory.remove(object),
            None => {}
        }
        if parked.is_empty() {
            room.parked = parked;
        } else {
            self.parked.insert(object, parked);
        }
        self.store_side(object, is_stored, packed.has_side, &mut room.side);
        self.store(place.me, at, packed, seen);
    }
}

/// Where what is known of an object lies, until something is removed, and what it is.
struct Found {
    object: ObjectId,
    at: Option<usize>,
    packed: Option<Packed>,
    entry_at: Option<usize>,
    entry: Option<Entry>,
    replica_at: Option<usize>,
    replica: Option<Slot>,
}

/// What a step has made of it.
struct Done {
    packed: Packed,
    seen: Seen,
    replica: Option<Slot>,
    entry: Option<Entry>,
    parked: VecDeque<Request>,
    to_free: Vec<Report>,
}

/// What is here of an object, its replica, and what is offered of it.
type OwnReport = (Have, Option<(Tenure, Version)>, Option<(Tenure, Version)>);

impl Turn<'_> {
    /// Does the step; what this node tells itself in a new epoch is handed back.
    fn step(&mut self, step: Step, recovery: &mut Recovery) -> Option<OwnReport> {
        match step {
            Step::Input(input) => self.input(input),
            Step::Enter => self.enter(),
            Step::Report => {
                let own = self.say_what_is_here(recovery.left);
                // What leaves in this epoch has been reported before: else it would seem to be a copy that was on its way
                // in the last one, and never arrived.
                self.serve();
                return own;
            }
            Step::Decline { from, tenure, copy } => self.declined(from, (tenure, copy), recovery),
            Step::Decide => {
                let reports = recovery.take_reports(self.id);
                self.decide(reports, recovery);
            }
            Step::Refill => {
                self.await_nobody_who_left(recovery);
                self.refill();
            }
            Step::AcceptLoss => self.accept_loss(),
            Step::ReplicaGone { from, tenure } => {
                if !self.has_dropped(from, tenure, recovery) {
                    self.replica_gone(from, tenure);
                }
            }
            Step::Remember(offer) => self.remember(offer),
            Step::Knew(entry) => self.knew(entry),
        }
        None
    }

    /// The object as it is stored; what does not fit there is in the side.
    #[inline]
    fn pack(self) -> Done {
        let Turn { place, id, main, seen, access, has_value, replicas, side, entry, parked, to_free, .. } = self;
        let (replica, replica_is_told, offer) = (self.replica, self.replica_is_told, self.offer);
        let replicas = if matches!(main, Main::Owner { .. }) { replicas } else { ReplicaSet::new() };
        let mut packed = Packed::pack(id, &main, seen, replicas, access, has_value);
        side.replicas = if replicas.len() > 1 { replicas } else { ReplicaSet::new() };
        side.seen = (packed.implied_seen(place.me) != seen).then_some(seen);
        side.requester = match main {
            Main::Tombstone { requester, .. } => requester,
            _ => Default::default(),
        };
        packed.has_side = !side.is_trivial();
        let replica = replica.map(|copy| Slot::new(id, copy, replica_is_told));
        let replica = replica.or(offer.map(|copy| Slot::of_offer(id, copy)));
        Done { packed, seen, replica, entry, parked, to_free }
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Want { kind } => self.want(kind),
            Input::RemoveUnused { version, has_value } => self.remove_unused(version, has_value),
            Input::Cancel => self.cancel(),
            Input::Revoked { version, has_value } => self.revoked(version, has_value),
            Input::Held => self.held(),
            Input::Put { version } => self.put(version),
            Input::AcceptLoss => self.accept_loss(),
            Input::Message { from, message } => self.receive(from, message),
        }
    }

    /// Tells the home what is here. It stays as it is until the home has decided. What this node tells
    /// itself is handed back.
    fn say_what_is_here(&mut self, left: Epoch) -> Option<OwnReport> {
        let has_no_copy = self.replica.is_none() && self.offer.is_none();
        let is_nothing = matches!(self.main, Main::None) && has_no_copy && self.seen.tenure == Tenure::NONE;
        if is_nothing {
            return None;
        }
        let (home, have) = (self.place.home, self.have());
        self.replica_is_told = self.replica.is_some();
        if self.is_home() {
            return Some((have, self.replica, self.offer));
        }
        self.send(home, Message::Have(have));
        if let Some((tenure, version)) = self.replica {
            self.send(home, Message::HaveReplica { tenure, version });
        }
        if let Some((tenure, version)) = self.offer {
            self.send(home, Message::HaveOffer { tenure, version, left });
        }
        None
    }

    /// Does what this node says to itself.
    fn finish(&mut self) {
        while let Some(message) = self.calls.pop_front() {
            self.receive(self.place.me, message);
        }
        self.finish_flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_forty_bytes() {
        assert_eq!(size_of::<Packed>(), 40);
        assert_eq!(size_of::<Entry>(), 24);
    }
}
