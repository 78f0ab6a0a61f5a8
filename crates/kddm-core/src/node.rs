//! One data-plane lane of a node: the shards it handles, in the view that is installed. The only
//! place that knows every layer of the core.

use alloc::vec::Vec;

use hashbrown::HashMap;

use crate::id::{Epoch, Incarnation, NodeId, ObjectId, SHARDS_PER_SET, SetId, ShardIndex};
use crate::io::{Input, NoMemory, Outputs};
use crate::shard::{Inspection, Mixer, Place, Shard};
use crate::view::View;

/// Sets that one node can know: what a hostile peer can make us remember (a set costs 4 KiB here).
pub const SETS_PER_NODE: usize = 65_536;

/// Why an input was refused. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Memory was refused; try again.
    NoMemory,
    /// The set has been destroyed, or its number is one that no member gives out.
    UnknownSet,
    /// There are as many sets as a node keeps. Trying again does not help.
    TooManySets,
    /// The view has no home at all: this node is not a member yet.
    NoHome,
}

impl From<NoMemory> for Refused {
    fn from(_: NoMemory) -> Refused {
        Refused::NoMemory
    }
}

/// The homes of a set's shards in the installed view, and the shards touched so far.
#[derive(Debug)]
struct Set {
    homes: Vec<NodeId>,
    /// Position in `shards` plus one, by shard index; zero is "not touched".
    index: Vec<u16>,
    shards: Vec<Shard>,
}

/// The protocol state of one lane of a node.
#[derive(Debug)]
pub struct Node {
    me: NodeId,
    incarnation: Incarnation,
    view: View,
    sets: HashMap<u64, Set, Mixer>,
    destroyed: Vec<SetId>,
    counter: u64,
}

/// Destroyed sets whose late messages are still told apart from those of unknown sets.
const DESTROYED_REMEMBERED: usize = 4096;

impl Node {
    /// A lane of the node `me`. `lane` keeps the request numbers of several lanes apart.
    pub fn new(me: NodeId, incarnation: Incarnation, lane: u8) -> Node {
        Node {
            me,
            incarnation,
            view: View::default(),
            sets: HashMap::with_hasher(Mixer::default()),
            destroyed: Vec::new(),
            counter: u64::from(lane) << 56,
        }
    }

    /// This node's number.
    pub fn id(&self) -> NodeId {
        self.me
    }

    /// This node's life.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The epoch of the installed view.
    pub fn epoch(&self) -> Epoch {
        self.view.epoch
    }

    /// The installed view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Installs a view. Views come in order (`I7`). Homes may change only while no set has objects:
    /// moving shards is not built yet, and the view log does not ask for it.
    pub fn install_view(&mut self, view: View) -> Result<(), NoMemory> {
        let moved = view.homes != self.view.homes;
        if moved {
            for (set, state) in &mut self.sets {
                for (shard, home) in (0..SHARDS_PER_SET).zip(state.homes.iter_mut()) {
                    *home = view.home(SetId(*set), ShardIndex(shard)).unwrap_or(NodeId::NOBODY);
                }
            }
        }
        self.view = view;
        Ok(())
    }

    fn set(&mut self, set: SetId) -> Result<&mut Set, Refused> {
        let policy = set.policy().filter(|_| set.counter() != 0);
        if policy.is_none() || self.destroyed.contains(&set) {
            return Err(Refused::UnknownSet);
        }
        if self.view.homes.is_empty() {
            return Err(Refused::NoHome);
        }
        if !self.sets.contains_key(&set.0) {
            if self.sets.len() >= SETS_PER_NODE {
                return Err(Refused::TooManySets);
            }
            let refused = |_| NoMemory;
            let (mut homes, mut index) = (Vec::new(), Vec::new());
            homes.try_reserve_exact(SHARDS_PER_SET.into()).map_err(refused)?;
            index.try_reserve_exact(SHARDS_PER_SET.into()).map_err(refused)?;
            self.sets.try_reserve(1).map_err(|_| NoMemory)?;
            for shard in 0..SHARDS_PER_SET {
                homes.push(self.view.home(set, ShardIndex(shard)).unwrap_or(NodeId::NOBODY));
                index.push(0);
            }
            self.sets.insert(set.0, Set { homes, index, shards: Vec::new() });
        }
        self.sets.get_mut(&set.0).ok_or(Refused::UnknownSet)
    }

    /// Handles one input for one object of one set; the outputs are for that set.
    pub fn handle(&mut self, set: SetId, object: ObjectId, input: Input, outputs: &mut Outputs) -> Result<(), Refused> {
        let (me, incarnation, epoch) = (self.me, self.incarnation, self.view.epoch);
        let mut counter = self.counter;
        let state = self.set(set)?;
        let at = usize::from(object.shard(set.policy().unwrap_or_default()).0);
        let home = state.homes.get(at).copied().unwrap_or(NodeId::NOBODY);
        let slot = state.index.get_mut(at).ok_or(Refused::UnknownSet)?;
        if *slot == 0 {
            state.shards.try_reserve_exact(state.shards.len() / 8 + 4).map_err(|_| NoMemory)?;
            state.shards.push(Shard::new());
            *slot = state.shards.len() as u16;
        }
        let shard = state.shards.get_mut(usize::from(*slot) - 1).ok_or(Refused::UnknownSet)?;
        let place = Place { me, incarnation, epoch, home };
        shard.handle(&place, &mut counter, object, input, outputs)?;
        self.counter = counter;
        Ok(())
    }

    /// Forgets a set and refuses its messages from now on. Says whether it was known.
    pub fn destroy(&mut self, set: SetId) -> bool {
        if !self.destroyed.contains(&set) {
            if self.destroyed.len() >= DESTROYED_REMEMBERED {
                self.destroyed.remove(0);
            }
            if self.destroyed.try_reserve(1).is_ok() {
                self.destroyed.push(set);
            }
        }
        self.sets.remove(&set.0).is_some()
    }

    /// The home of an object, if the view has homes.
    pub fn home(&self, set: SetId, object: ObjectId) -> Option<NodeId> {
        self.view.home(set, object.shard(set.policy()?))
    }

    fn shards(&self, set: SetId) -> impl Iterator<Item = &Shard> {
        self.sets.get(&set.0).into_iter().flat_map(|state| state.shards.iter())
    }

    /// What can be seen of an object here.
    pub fn inspect(&self, set: SetId, object: ObjectId) -> Option<Inspection> {
        let state = self.sets.get(&set.0)?;
        let at = usize::from(object.shard(set.policy()?).0);
        let slot = usize::from(*state.index.get(at)?);
        let shard = state.shards.get(slot.checked_sub(1)?)?;
        Some(shard.inspect(self.me, object))
    }

    /// Nothing is outstanding in any set (`I9`).
    pub fn is_at_rest(&self) -> bool {
        self.sets.values().flat_map(|state| state.shards.iter()).all(Shard::is_at_rest)
    }

    /// How many objects this node knows something of, and how many its directory holds.
    pub fn counts(&self, set: SetId) -> (usize, usize) {
        self.shards(set).fold((0, 0), |(objects, entries), shard| {
            (objects + shard.object_count(), entries + shard.directory_count())
        })
    }

    /// Bytes of memory held for a set.
    pub fn memory_bytes(&self, set: SetId) -> usize {
        self.shards(set).map(Shard::memory_bytes).sum::<usize>() + 2 * 2 * usize::from(SHARDS_PER_SET)
    }
}
