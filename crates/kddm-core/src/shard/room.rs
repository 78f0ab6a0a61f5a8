//! Memory: all that a step may need is there before it changes anything, and goes back after it.

use super::*;

/// Room to work in, shared by the shards that one thread handles: reserved before an input changes
/// anything, empty after it.
#[derive(Clone, Default, Debug)]
pub struct Room {
    pub(super) calls: VecDeque<Message>,
    /// An object's first queue or copy set cannot fail half-way.
    pub(super) side: Side,
    pub(super) parked: VecDeque<Request>,
    pub(super) reports: Vec<Report>,
    pub(super) nodes: NodeSet,
}

impl Shard {
    /// Idle memory goes from the object back to the room: what is stored is what is used.
    pub(super) fn store_side(&mut self, object: ObjectId, is_stored: bool, has_side: bool, spare: &mut Side) {
        if is_stored {
            if let Some(side) = self.sides.get_mut(&object) {
                spare.borrow_memory(side);
            }
            if !has_side {
                self.sides.remove(&object);
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
    pub(super) fn take_parked(&mut self, object: ObjectId, room: &mut Room) -> VecDeque<Request> {
        let parked = if self.parked.is_empty() { None } else { self.parked.remove(&object) };
        parked.unwrap_or_else(|| core::mem::take(&mut room.parked))
    }

    /// All room that this input could need, before anything changes.
    pub(super) fn reserve(
        &mut self,
        object: ObjectId,
        place: &Place<'_>,
        step: &Step,
        room: &mut Room,
        outputs: &mut Outputs,
    ) -> Result<(), NoMemory> {
        let refused = |_: TryReserveError| NoMemory;
        let travelling = match step {
            Step::Input(Input::Message {
                message: Message::Transfer { sharers, .. } | Message::Promote { sharers, .. },
                ..
            }) => sharers.len(),
            _ => 0,
        };
        let decides = match step {
            Step::Decide | Step::Decline { .. } => true,
            // Who was to drop a copy has, or has left.
            Step::ReplicaGone { .. } | Step::Refill => self.recovery.may_decide_anew(),
            _ => false,
        };
        let all = if matches!(step, Step::AcceptLoss) { place.view.members.len() } else { 0 };
        let reported = self.recovery.reserve(object, (decides, all), &mut room.reports)?;
        if decides {
            room.nodes.reserve(reported)?;
        }
        let travelling = travelling + reported;
        let parked = if self.parked.is_empty() { 0 } else { self.parked.get(&object).map_or(0, VecDeque::len) };
        let has_replicas = place.set.replicas() > 0;
        // An owner keeps one when the object moves to a replica, perhaps in the step that makes it the owner.
        let may_become_owner = decides
            || matches!(
                step,
                Step::Input(Input::Message { message: Message::Transfer { .. } | Message::Promote { .. }, .. })
            );
        let is_owner = || self.objects.get(object).is_some_and(|packed| packed.is_owner());
        let may_keep_replica = has_replicas && (may_become_owner || is_owner());
        let mut bound = 2 + parked + travelling + crate::replicas::MOST_REPLICAS;
        let stored = if self.sides.is_empty() { None } else { self.sides.get_mut(&object) };
        match stored {
            Some(side) => {
                bound += side.queue.len() + side.sharers.len() + side.owed.len();
                side.reserve(&mut room.side, parked + travelling)?;
            }
            None => Side::reserve_spare(&mut room.side, parked + travelling)?,
        }
        if parked == 0 { &mut room.parked } else { self.parked.get_mut(&object).unwrap_or(&mut room.parked) }
            .try_reserve(2)
            .map_err(refused)?;
        self.objects.reserve_one()?;
        self.directory.reserve_one()?;
        let keeps =
            matches!(step, Step::Remember(_) | Step::Input(Input::Message { message: Message::Push { .. }, .. }));
        if keeps || may_keep_replica {
            self.replicas.reserve_one()?;
        }
        self.sides.reserve_one()?;
        self.parked.try_reserve(1).map_err(|_| NoMemory)?;
        room.calls.try_reserve(8 + bound).map_err(refused)?;
        outputs.reserve(16 + 4 * bound)
    }

    pub(super) fn store(&mut self, me: NodeId, at: Option<usize>, packed: Packed, seen: Seen) {
        if packed.is_hint() {
            // That an object has ended helps to tell, when members are lost, whether it had.
            let limit = if seen.node.is_somebody() { HINTS_PER_SHARD } else { ENDS_PER_SHARD };
            let useful = seen.tenure != Tenure::NONE && seen.node != me;
            if !useful || self.hints >= limit {
                self.forgotten = self.forgotten.max(seen.tenure);
                return self.objects.remove(crate::table::Keyed::key(&packed));
            }
            self.hints += 1;
        }
        self.objects.put_at(at, packed);
    }
}
