//! What concerns all objects of a shard at once: it goes to another home, or to a new epoch.

use super::*;
use crate::home::EntryState;
use crate::losses::Doubt;

impl Shard {
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
        let (in_doubt, unbroken) = (self.recovery.in_doubt(), self.recovery.unbroken);
        let too_early = mutated(Mutation::ShardBeforeDirectory);
        if too_early {
            say(ObjectId(0), Message::ShardIsYours { shard, floor, in_doubt, unbroken });
        }
        for entry in self.directory.iter() {
            let Entry { object, tenure, node: owner, state, lost } = *entry;
            say(object, Message::Entry { tenure, owner, state, lost });
        }
        self.directory = Table::default();
        if !too_early {
            say(ObjectId(0), Message::ShardIsYours { shard, floor, in_doubt, unbroken });
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
    pub fn take_over(&mut self, floor: Tenure, in_doubt: bool, unbroken: Epoch) {
        self.floor = self.floor.max(floor);
        self.recovery.unbroken = unbroken;
        self.recovery.doubt = if in_doubt { Doubt::Old } else { Doubt::None };
    }

    /// What a former home had decided until it was frozen stands in the directory now.
    pub(crate) fn knows_all(&mut self, floor: Tenure, in_doubt: bool, unbroken: Epoch) {
        self.floor = self.floor.max(floor);
        self.recovery.unbroken = unbroken;
        if !in_doubt {
            self.recovery.doubt = Doubt::None;
        }
    }

    /// What this node knows as the home.
    pub(crate) fn directory(&self) -> impl Iterator<Item = &Entry> {
        self.directory.iter()
    }

    /// No tenure up to this is given out again.
    pub(crate) fn floor(&self) -> Tenure {
        self.floor
    }

    /// Another node answers for the shard: what was known of its objects as their home is forgotten.
    pub(crate) fn drop_directory(&mut self) {
        self.directory = Table::default();
    }

    /// The directory names nobody any more who is gone: a later life may have its number.
    pub(crate) fn forget_lives(&mut self, is_here: impl Fn(NodeId) -> bool) {
        for entry in self.directory.iter_mut().filter(|entry| entry.node.is_somebody() && !is_here(entry.node)) {
            (entry.node, entry.state) = (NodeId::NOBODY, EntryState::Unknown);
        }
    }

    /// Every object of which anything is here. On `NoMemory` nothing has changed.
    pub(crate) fn everything(&self) -> Result<Vec<ObjectId>, NoMemory> {
        let maps = self.parked.len() + self.recovery.len();
        let mut ids: Vec<ObjectId> = Vec::new();
        let most = self.objects.len() + self.sides.len() + self.directory.len() + self.replicas.len() + maps;
        ids.try_reserve_exact(most).map_err(|_| NoMemory)?;
        ids.extend(self.objects());
        ids.extend(self.sides.keys());
        ids.extend(self.directory.iter().map(|entry| entry.object));
        ids.extend(self.replicas.iter().map(|slot| slot.object));
        ids.extend(self.parked.keys());
        ids.extend(self.recovery.objects());
        // From the last one on they are worked on, in an order that does not depend on how they came here.
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.dedup();
        Ok(ids)
    }

    /// The greatest tenure known of any object of which nothing is here any more.
    pub(crate) fn forgotten(&self) -> Tenure {
        self.forgotten
    }

    /// The first objects whose owners want more replicas, or others, up to `most` of them; and whose homes await who
    /// has left.
    pub(crate) fn short_of_replicas(&mut self, place: &Place<'_>, most: usize) -> Result<Vec<ObjectId>, NoMemory> {
        let wanted = place.replicas_wanted();
        let mut found: Vec<ObjectId> = Vec::new();
        found.try_reserve_exact(most).map_err(|_| NoMemory)?;
        self.objects.sort();
        for packed in self.objects.iter().filter(|packed| packed.is_owner() && packed.has_value) {
            let side = if packed.has_side { self.sides.get(&packed.key()) } else { None };
            let list = side.map_or_else(|| packed.replica(), |side| side.replicas_of(Some(packed)));
            let pushing = side.and_then(|side| side.pushing);
            let is_right = || list.len() == wanted && list.iter().all(|node| place.is_a_home(node));
            let is_short = pushing.map_or_else(|| !is_right(), |pushing| pushing.waits_for_who_left(place));
            if is_short && found.len() < most {
                found.push(packed.key());
            }
        }
        // And the homes that wait until nodes have dropped their copies which are no members any more.
        let awaits = |entry: Entry| matches!(entry.state, EntryState::Removing | EntryState::Unknown);
        for object in self.recovery.awaiting_others(|node| place.talks(node)) {
            if found.len() < most && self.directory.get(object).copied().is_some_and(awaits) && !found.contains(&object)
            {
                found.push(object);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Some owner here waits for replicas that have nothing of the object yet, or is to say that it is one.
    pub(crate) fn is_filling(&self) -> bool {
        self.sides.values().any(|side| side.pushing.is_some_and(|pushing| pushing.fills || pushing.announces))
    }

    /// Whoever waits asks again.
    pub(crate) fn drop_parked(&mut self) {
        self.parked = Map::default();
    }

    /// The first objects that are lost, or of which the directory says that they do not exist, up to `most`.
    pub(crate) fn first_doubtful(&mut self, most: usize) -> Result<Vec<ObjectId>, NoMemory> {
        let mut found: Vec<ObjectId> = Vec::new();
        found.try_reserve_exact(most).map_err(|_| NoMemory)?;
        self.directory.sort();
        found.extend(self.directory.iter().filter(|entry| is_doubtful(entry)).map(|entry| entry.object).take(most));
        Ok(found)
    }

    /// Whether there are such objects.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.directory.iter().any(is_doubtful)
    }
}

fn is_doubtful(entry: &Entry) -> bool {
    entry.lost || entry.state == EntryState::Absent
}
