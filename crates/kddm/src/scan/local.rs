//! What is here of a set.

use std::collections::VecDeque;
use std::sync::Arc;

use kddm_core::id::{ObjectId, SHARDS_PER_SET, ShardIndex};
use kddm_core::node::Held;

use crate::cell::Store;
use crate::runtime::told::SetHere;
use crate::set::Set;
use crate::value::Value;

/// Cells of a program that are looked at in one step.
const CELLS_AT_ONCE: u32 = 1024;

/// What a node, or program, has of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HeldAs {
    /// It is the owner; a program may write it.
    Owner,
    /// A copy to read.
    Copy,
    /// A copy that nobody reads, in case that its owner is lost.
    Replica,
}

/// An object of which something is here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub struct LocalObject {
    /// The object.
    pub id: u64,
    /// What is here of it.
    pub held_as: HeldAs,
}

/// The objects of a set that are here: [`Set::local`].
pub struct Local {
    here: SetHere,
    store: Arc<dyn Store>,
    /// The next shard; in a program the next cell.
    next: Option<u32>,
    found: VecDeque<LocalObject>,
}

impl<T: Value> Set<T> {
    /// The objects of which a value is here, and what: in a node what it owns, what it has to read, and what it keeps for
    /// others; in an attached program what it was lent. No message is sent, nothing is held, and nobody waits for it.
    ///
    /// Each of the 1,024 shards is as it is when the iterator comes to it, and is looked at as a whole: so an object is said once,
    /// and one that comes or goes meanwhile is said or not. In a program an object that goes and comes back may be
    /// said twice. Nothing is in order.
    ///
    /// ```
    /// use kddm::HeldAs;
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let here: kddm::Set<u64> = nodes[0].set("local").open().wait()?;
    /// let there: kddm::Set<u64> = nodes[1].set("local").open().wait()?;
    /// here.grab(7).wait()?.put().wait()?;
    /// let held = |set: &kddm::Set<u64>| set.local().map(|object| (object.id, object.held_as)).collect::<Vec<_>>();
    /// assert_eq!((held(&here), held(&there)), (vec![(7, HeldAs::Owner)], vec![(7, HeldAs::Replica)]));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn local(&self) -> Local {
        let store: Arc<dyn Store> = Arc::clone(&self.0.table) as Arc<dyn Store>;
        Local { here: self.0.here.clone(), store, next: Some(0), found: VecDeque::new() }
    }
}

impl Local {
    fn shard_of_node(&mut self, shard: u32) {
        let at = ShardIndex(shard as u16);
        let lane = self.here.runtime.lane_of_shard(at).lock();
        let held = lane.core.held(self.here.set, at).map(|(ObjectId(id), held)| {
            let held_as = match held {
                Held::Owner => HeldAs::Owner,
                Held::Copy => HeldAs::Copy,
                Held::Replica => HeldAs::Replica,
            };
            LocalObject { id, held_as }
        });
        self.found.extend(held);
        drop(lane);
        self.next = (shard + 1 < u32::from(SHARDS_PER_SET)).then_some(shard + 1);
    }

    fn cells_of_program(&mut self, first: u32) {
        let (cells, next) = self.store.cells_from(first, CELLS_AT_ONCE);
        for (id, cell) in cells.into_iter().filter(|(_, cell)| self.store.has_value(*cell)) {
            let held_as = match self.store.access(cell) {
                kddm_core::io::Access::Write => HeldAs::Owner,
                kddm_core::io::Access::Read => HeldAs::Copy,
                kddm_core::io::Access::None => continue,
            };
            self.found.push_back(LocalObject { id, held_as });
        }
        self.next = next;
    }
}

impl Iterator for Local {
    type Item = LocalObject;

    fn next(&mut self) -> Option<LocalObject> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Some(found);
            }
            let next = self.next?;
            match self.here.runtime.lender {
                None => self.shard_of_node(next),
                Some(_) => self.cells_of_program(next),
            }
        }
    }
}
