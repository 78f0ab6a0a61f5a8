//! A shard: the unit of handling, of ownership by a data-plane thread, of reporting and of hand-over.

use alloc::collections::{TryReserveError, VecDeque};
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use hashbrown::HashMap;

use crate::home::Entry;
use crate::id::{Epoch, Incarnation, Mixer, NodeId, ObjectId, RequestId, ShardIndex, Tenure};
use crate::io::{Access, Body, Input, NoMemory, Output, Outputs};
use crate::message::{Message, Request};
use crate::mutation::{Mutation, mutated};
pub use crate::object::state::Main;
use crate::object::state::{Packed, Seen, Side, Turn};
use crate::table::Table;
use crate::view::{Member, View};

/// Hints that a shard keeps of objects it no longer has. A forgotten hint costs one message.
pub const HINTS_PER_SHARD: u32 = 256;

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
    sides: Map<Side>,
    directory: Table<Entry>,
    parked: Map<VecDeque<Request>>,
    floor: Tenure,
    hints: u32,
    /// Inputs so far: wishes of local threads and messages, never a hit.
    inputs: u64,
}

/// Room to work in, shared by the shards that one thread handles: reserved before an input changes
/// anything, empty after it.
#[derive(Clone, Default, Debug)]
pub struct Room {
    calls: VecDeque<Message>,
    /// An object's first queue or copy set cannot fail half-way.
    side: Side,
    parked: VecDeque<Request>,
}

/// What can be seen of one object on one node; for checkers, tests and `kddmadm`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inspection {
    /// The main role.
    pub main: Main,
    /// What local threads may do.
    pub access: Access,
    /// Whether there is a value here.
    pub has_value: bool,
    /// The greatest tenure known.
    pub seen: Tenure,
    /// Who had it.
    pub hint: NodeId,
    /// The copy set, in ascending order.
    pub sharers: Vec<NodeId>,
    /// Those whose ack is missing.
    pub owed: Vec<NodeId>,
    /// Requests waiting here.
    pub queue: usize,
    /// A wish of local threads is outstanding.
    pub wanting: bool,
    /// Whom it was sent to.
    pub asked: NodeId,
    /// The directory entry, at the home.
    pub entry: Option<Entry>,
    /// Requests parked at the home.
    pub parked: usize,
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
        self.reserve(object, &input, room, outputs)?;
        let Room { calls, side: spare, parked: spare_parked } = room;
        // Where they lie is known until something is removed: below, when it is not needed any more.
        let (at, entry_at) = (self.objects.position(object), self.directory.position(object));
        let packed = at.and_then(|at| self.objects.at(at)).copied();
        let parked = self.take_parked(object).unwrap_or_else(|| core::mem::take(spare_parked));
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
        let implied = packed.map_or(Seen::default(), |p| p.implied_seen(place.me));
        if packed.is_some_and(|p| p.is_hint()) {
            self.hints -= 1;
        }
        let home = place.home == place.me;
        let mut turn = Turn {
            place,
            counter,
            id: object,
            main: packed.map_or(Main::None, |p| p.main(side.requester)),
            seen: side.seen.unwrap_or(implied),
            access: packed.map_or(Access::None, |p| p.access),
            has_value: packed.is_some_and(|p| p.has_value),
            side,
            entry: entry_at.and_then(|at| self.directory.at(at)).copied(),
            parked,
            floor: &mut self.floor,
            outputs,
            calls,
        };
        turn.input(input);
        let Turn { main, seen, access, has_value, side, entry, parked, .. } = turn;
        let mut packed = Packed::pack(object, &main, seen, access, has_value);
        side.seen = (packed.implied_seen(place.me) != seen).then_some(seen);
        side.requester = match main {
            Main::Tombstone { requester, .. } => requester,
            _ => Default::default(),
        };
        packed.has_side = !side.is_trivial();
        match entry {
            Some(entry) => self.directory.put_at(entry_at, entry),
            None if home && entry_at.is_some() => self.directory.remove(object),
            None => {}
        }
        if parked.is_empty() {
            *spare_parked = parked;
        } else {
            self.parked.insert(object, parked);
        }
        self.inputs += 1;
        self.store_side(object, is_stored, packed.has_side, spare);
        self.store(place.me, at, packed, seen);
        Ok(())
    }

    /// Idle memory goes from the object back to the room: what is stored is what is used.
    fn store_side(&mut self, object: ObjectId, is_stored: bool, has_side: bool, spare: &mut Side) {
        if is_stored {
            if let Some(side) = self.sides.get_mut(&object) {
                spare.borrow_memory(side);
            }
            if !has_side {
                self.sides.remove(&object);
                if self.sides.is_empty() && self.sides.capacity() > 64 {
                    self.sides = Map::default();
                }
            }
        } else if has_side {
            let mut side = core::mem::take(spare);
            spare.borrow_memory(&mut side);
            self.sides.insert(object, side);
        } else {
            // All else of what is trivial is as it was at first.
            spare.early_tenure = Tenure::NONE;
        }
    }

    /// What waits for an object. Few wait in most shards.
    fn take_parked(&mut self, object: ObjectId) -> Option<VecDeque<Request>> {
        if self.parked.is_empty() { None } else { self.parked.remove(&object) }
    }

    /// All room that this input could need, before anything changes.
    fn reserve(
        &mut self,
        object: ObjectId,
        input: &Input,
        room: &mut Room,
        outputs: &mut Outputs,
    ) -> Result<(), NoMemory> {
        let refused = |_: TryReserveError| NoMemory;
        let travelling = match input {
            Input::Message { message: Message::Transfer { sharers, .. }, .. } => sharers.len(),
            _ => 0,
        };
        let parked = if self.parked.is_empty() { 0 } else { self.parked.get(&object).map_or(0, VecDeque::len) };
        let mut bound = 2 + parked + travelling;
        let stored = if self.sides.is_empty() { None } else { self.sides.get_mut(&object) };
        match stored {
            Some(side) => {
                bound += side.queue.len() + side.sharers.len() + side.owed.len();
                side.reserve(&mut room.side, parked)?;
            }
            None => Side::reserve_spare(&mut room.side, parked)?,
        }
        if parked == 0 { &mut room.parked } else { self.parked.get_mut(&object).unwrap_or(&mut room.parked) }
            .try_reserve(2)
            .map_err(refused)?;
        self.objects.reserve_one()?;
        self.directory.reserve_one()?;
        self.sides.try_reserve(1).map_err(|_| NoMemory)?;
        self.parked.try_reserve(1).map_err(|_| NoMemory)?;
        room.calls.try_reserve(8 + bound).map_err(refused)?;
        outputs.reserve(16 + 4 * bound)
    }

    fn store(&mut self, me: NodeId, at: Option<usize>, packed: Packed, seen: Seen) {
        if packed.is_hint() {
            let useful = seen.node.is_somebody() && seen.node != me;
            if !useful || self.hints >= HINTS_PER_SHARD {
                return self.objects.remove(crate::table::Keyed::key(&packed));
            }
            self.hints += 1;
        }
        self.objects.put_at(at, packed);
    }

    /// Hands the directory and the waiting requests over to the new home, in an order that does not
    /// depend on how they came here. On `NoMemory` nothing has changed.
    pub fn give(&mut self, me: NodeId, shard: ShardIndex, to: NodeId, outputs: &mut Outputs) -> Result<(), NoMemory> {
        let waiting: usize = self.parked.values().map(VecDeque::len).sum();
        outputs.reserve(1 + self.directory.len() + waiting)?;
        let mut ids: Vec<ObjectId> = Vec::new();
        ids.try_reserve_exact(self.parked.len()).map_err(|_: TryReserveError| NoMemory)?;
        self.directory.sort();
        let floor = if mutated(Mutation::ForgetFloorAtHandOver) { Tenure::NONE } else { self.floor };
        let mut say = |object, message| {
            outputs.push(Output::Send { to, object, message, body: Body::None, deferred: false });
        };
        let too_early = mutated(Mutation::ShardBeforeDirectory);
        if too_early {
            say(ObjectId(0), Message::ShardIsYours { shard, floor });
        }
        for entry in self.directory.iter() {
            let Entry { object, tenure, node: owner, state } = *entry;
            say(object, Message::Entry { tenure, owner, state });
        }
        self.directory = Table::default();
        if !too_early {
            say(ObjectId(0), Message::ShardIsYours { shard, floor });
        }
        ids.extend(self.parked.keys().copied());
        ids.sort_unstable();
        for object in ids {
            for request in self.parked.remove(&object).into_iter().flatten() {
                if mutated(Mutation::LoseParkedAtHandOver) {
                    continue;
                }
                let want = self.sides.get_mut(&object).and_then(|side| side.want.as_mut());
                if let Some(want) = want.filter(|want| want.id == request.id && want.id.node == me) {
                    want.asked = to;
                }
                say(object, Message::Request(Request { tau: Tenure::NONE, to_home: true, ..request }));
            }
        }
        Ok(())
    }

    /// This node answers for the shard from now on; no tenure up to `floor` is given out again.
    pub fn take_over(&mut self, floor: Tenure) {
        self.floor = self.floor.max(floor);
    }

    /// The objects of which a value, a copy or the ownership is here, in no particular order.
    pub fn holdings(&self) -> impl Iterator<Item = ObjectId> {
        let is_told = |packed: &&Packed| !packed.is_owner() || !mutated(Mutation::LeaveWithLastCopy);
        self.objects.iter().filter(|packed| packed.is_something()).filter(is_told).map(crate::table::Keyed::key)
    }

    /// What can be seen of an object here.
    pub fn inspect(&self, me: NodeId, object: ObjectId) -> Inspection {
        let packed = self.objects.get(object);
        let empty = Side::default();
        let side = self.sides.get(&object).unwrap_or(&empty);
        let implied = packed.map_or(Seen::default(), |p| p.implied_seen(me));
        let seen = side.seen.unwrap_or(implied);
        let mut sharers: Vec<NodeId> = Vec::with_capacity(side.sharers.len());
        sharers.extend(side.sharers.iter().map(|sharing| sharing.node));
        sharers.sort_unstable();
        Inspection {
            main: packed.map_or(Main::None, |p| p.main(side.requester)),
            access: packed.map_or(Access::None, |p| p.access),
            has_value: packed.is_some_and(|p| p.has_value),
            seen: seen.tenure,
            hint: seen.node,
            sharers,
            owed: side.owed.as_slice().to_vec(),
            queue: side.queue.len(),
            wanting: side.want.is_some(),
            asked: side.want.map_or(NodeId::NOBODY, |want| want.asked),
            entry: self.directory.get(object).copied(),
            parked: self.parked.get(&object).map_or(0, VecDeque::len),
        }
    }

    /// Nothing is outstanding here (`I9`): no ghost, no wish, no waiting entry, no missing ack.
    pub fn is_at_rest(&self) -> bool {
        self.parked.is_empty()
            && self.sides.values().all(Side::is_at_rest)
            && !self.objects.iter().any(|packed| packed.is_ghost())
    }

    /// The objects of which this node holds or knows something, in no particular order.
    pub fn objects(&self) -> impl Iterator<Item = ObjectId> {
        self.objects.iter().map(crate::table::Keyed::key)
    }

    /// How many objects this node holds or knows something of.
    pub fn object_count(&self) -> usize {
        self.objects.len()
    }

    /// Inputs that this shard has handled so far.
    pub fn inputs(&self) -> u64 {
        self.inputs
    }

    /// How many objects exist in this shard, where this node is its home.
    pub fn directory_count(&self) -> usize {
        self.directory.len()
    }

    /// Bytes of memory held by records, directory and their indexes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Shard>() + self.objects.memory_bytes() + self.directory.memory_bytes() + self.sides.allocation_size()
    }
}

impl Turn<'_> {
    fn input(&mut self, input: Input) {
        match input {
            Input::Want { kind } => self.want(kind),
            Input::Cancel => self.cancel(),
            Input::Revoked { version, has_value } => self.revoked(version, has_value),
            Input::Held => self.held(),
            Input::Message { from, message } => self.receive(from, message),
        }
        while let Some(message) = self.calls.pop_front() {
            self.receive(self.place.me, message);
        }
        self.finish_flush();
    }
}

/// Equality and hash are for checkers: maps count as maps, and idle memory does not count.
impl PartialEq for Shard {
    fn eq(&self, other: &Shard) -> bool {
        self.objects == other.objects
            && self.sides == other.sides
            && self.directory == other.directory
            && self.parked == other.parked
            && self.floor == other.floor
    }
}

impl Eq for Shard {}

impl Hash for Shard {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.objects.hash(state);
        let mut ids: Vec<ObjectId> = Vec::with_capacity(self.sides.len().max(self.parked.len()));
        ids.extend(self.sides.keys().copied());
        ids.sort_unstable();
        for id in &ids {
            self.sides.get(id).hash(state);
        }
        self.directory.hash(state);
        ids.clear();
        ids.extend(self.parked.keys().copied());
        ids.sort_unstable();
        for id in &ids {
            self.parked.get(id).hash(state);
        }
        self.floor.hash(state);
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
