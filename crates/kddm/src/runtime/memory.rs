//! What a node has kept that lost its lease, and tells its next life in the same process.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use kddm_core::id::{Epoch, Mixer, ObjectId, SetId, Version};
use kddm_core::io::Outputs;
use kddm_core::node::memory::Memory;
use kddm_core::node::{Directory, Refused};
use kddm_view::Change;

use crate::runtime::Runtime;
use crate::runtime::candidates::Batch;
use crate::runtime::lane::LaneState;
use crate::runtime::part::lane_of;
use crate::runtime::placing::Follows;

/// Objects that are remembered before others get the lane: some milliseconds.
const REMEMBERED_AT_ONCE: usize = 1_024;

/// An object that the former life owned, and its bytes.
pub(crate) type Kept = (Memory, Vec<u8>);

/// What a life leaves to the next one.
#[derive(Default)]
pub(crate) struct Memories {
    owned: Vec<Kept>,
    /// What it knew as a home.
    directories: Vec<Directory>,
    /// What it had to read, lane by lane.
    copies: Vec<Vec<Batch>>,
    /// The first epoch in which it did nothing, lane by lane; nothing if there is nothing that it could vouch for.
    left: Vec<Epoch>,
}

/// Objects that programs had to write when the node was fenced: what they have put since is not here.
pub(crate) type Lent = HashSet<(SetId, ObjectId), Mixer>;

impl LaneState {
    /// Notes what programs may have written that this node does not know of. The node is being fenced. Of what has
    /// replicas nothing is put without its word.
    pub fn note_lent(&mut self) {
        let of = self.desk.lent_to_write().filter(|(set, _)| set.replicas() == 0);
        self.lent_at_the_end.extend(of);
    }

    /// What this life owned, with a value that was put. It is fenced: nothing of that changes any more.
    fn memories(&self) -> Vec<Kept> {
        let is_lent = |memory: &Memory| self.lent_at_the_end.contains(&(memory.set, memory.object));
        let kept = |memory: Memory| {
            if memory.is_kept {
                return Some((memory, self.replicas.get(&(memory.set, memory.object))?.clone()));
            }
            let store = self.stores.get(&memory.set)?;
            let cell = store.find(memory.object.0)?;
            let mut bytes = Vec::new();
            // Refused while a thread still holds it to write.
            let has_value = store.encode(cell, &mut bytes).unwrap_or(false);
            let memory = Memory { version: Version(store.version(cell)), ..memory };
            has_value.then_some((memory, bytes))
        };
        self.core.memories().filter(|memory| !is_lent(memory)).filter_map(kept).collect()
    }

    /// Takes in what a former life knew as the home of a shard.
    fn remember_directory(&mut self, directory: Directory) {
        let (set, shard) = (directory.set, directory.shard);
        if self.destroyed.contains(set) {
            return;
        }
        let mut outputs = std::mem::take(&mut self.outputs);
        let remembered = self.core.remember_directory(directory, &mut outputs);
        self.follow(set, outputs);
        match remembered {
            Ok(()) | Err(Refused::UnknownSet) => {}
            Err(refused) => tracing::warn!(?refused, ?set, shard = shard.0, "what this node knew of it is forgotten"),
        }
    }

    /// What was done before there was no memory for the rest.
    pub fn follow_undone(&mut self) {
        if let Some((set, outputs)) = self.undone.take() {
            self.follow(set, outputs);
        }
    }

    fn follow(&mut self, set: SetId, mut outputs: Outputs) {
        let mut follows = Follows::default();
        for output in outputs.drain() {
            follows.act(self, set, output);
        }
        self.outputs = outputs;
        follows.go_on(self, set);
    }

    /// Takes in some of what a former life owned.
    fn remember(&mut self, kept: &mut Vec<Kept>) {
        let first = kept.len().saturating_sub(REMEMBERED_AT_ONCE);
        for (memory, bytes) in kept.drain(first..) {
            let mut outputs = std::mem::take(&mut self.outputs);
            let remembered = self.core.remember(&memory, &mut outputs);
            self.follow(memory.set, outputs);
            match remembered {
                Ok(true) => {
                    self.replicas.insert((memory.set, memory.object), bytes);
                    self.statistics.remembered += 1;
                }
                Ok(false) | Err(Refused::UnknownSet) => {}
                Err(refused) => {
                    tracing::warn!(?refused, set = ?memory.set, object = ?memory.object, "it is not remembered")
                }
            }
        }
    }
}

impl Runtime {
    /// What this life owned, and had to read. It is fenced: nothing, if it has found its own state broken.
    pub fn memories(&self) -> Memories {
        let is_sound = |state: &LaneState| state.statistics.faults == 0;
        if !self.lanes.iter().all(|lane| is_sound(&lane.lock())) {
            return Memories::default();
        }
        let owned = self.lanes.iter().flat_map(|lane| lane.lock().memories()).collect();
        let left = self.lanes.iter().map(|lane| lane.lock().core.leaves()).collect();
        let directories = self.lanes.iter().flat_map(|lane| lane.lock().core.directories()).collect();
        Memories { owned, directories, copies: self.lanes.iter().map(|lane| lane.lock().copies()).collect(), left }
    }

    /// Tells the lanes what a former life owned, and has all members decide what becomes of it. What is not decided at
    /// `deadline` is decided later. Then it begins to ask which of its read copies are the newest.
    pub fn recall(self: &Arc<Self>, kept: Memories, deadline: Instant) {
        // First: the epoch that it needs would end all questions.
        if !kept.left.is_empty() {
            self.recall_owned(kept.owned, kept.directories, &kept.left, deadline);
        }
        // Who has begun anew since then gives out no tenure of before, so that none of these is taken for another.
        for (lane, copies) in self.lanes.iter().zip(kept.copies) {
            let mut state = lane.lock();
            state.revalidate(copies);
            lane.finish_fair(state);
        }
    }

    fn recall_owned(
        self: &Arc<Self>,
        mut kept: Vec<Kept>,
        directories: Vec<Directory>,
        left: &[Epoch],
        deadline: Instant,
    ) {
        // Sets were named and numbered anew since then: an object of that number may be another one's.
        let anew = self.membership.lock().state.began_anew();
        let count = kept.len();
        kept.retain(|(memory, _)| memory.left > anew);
        if kept.len() < count {
            let objects = count - kept.len();
            tracing::warn!(objects, "all who shared had lost their leases, and began anew: what was owned is gone");
        }
        if left.iter().all(|left| *left <= anew) {
            return;
        }
        let mut of_lanes: Vec<Vec<Kept>> = self.lanes.iter().map(|_| Vec::new()).collect();
        for one in kept {
            let shard = one.0.object.shard(one.0.set.policy().unwrap_or_default());
            of_lanes[lane_of(shard, self.lanes.len())].push(one);
        }
        for directory in directories.into_iter().filter(|directory| directory.left() > anew) {
            let lane = self.lane_of_shard(directory.shard);
            let mut state = lane.lock();
            state.remember_directory(directory);
            lane.finish_fair(state);
        }
        // The last one is the first in which all of it can be said.
        let mut epoch = Epoch(0);
        for ((lane, left), mut kept) in self.lanes.iter().zip(left).zip(of_lanes) {
            loop {
                let mut state = lane.lock();
                if *left > anew {
                    state.core.remember_leaving(*left);
                }
                state.remember(&mut kept);
                epoch = epoch.max(state.core.epoch());
                lane.finish_fair(state);
                if kept.is_empty() {
                    break;
                }
            }
        }
        // Who answered for a shard before has handed it over, with all that it knew.
        self.wait_until(deadline, |runtime| runtime.is_settled());
        self.begin_epoch_after(epoch, deadline);
        // What stays lost for now is offered on, and nobody says so.
        let enough = deadline.min(Instant::now() + self.lease_info().length);
        self.wait_until(enough, |runtime| {
            runtime.lanes.iter().all(|lane| {
                let state = lane.lock();
                state.core.epoch() > epoch && state.core.offer_count() == 0
            })
        });
    }

    fn begin_epoch_after(&self, epoch: Epoch, deadline: Instant) {
        let (node, incarnation) = (self.identity.id, self.identity.incarnation);
        let is_wanted = || {
            let membership = self.membership.lock();
            // Out of its lease it waits for nothing: the next life remembers.
            membership.state.view().epoch <= epoch && !self.is_out_of_lease(&membership)
        };
        while is_wanted() && Instant::now() < deadline && !self.is_stopping() {
            if let Err(error) = self.propose(Change::Recall { node, incarnation, epoch }) {
                tracing::warn!(%error, "what this node remembers is not decided on yet");
            }
            let again = deadline.min(Instant::now() + crate::runtime::join::ASK_AGAIN);
            self.wait_until(again, |runtime| runtime.membership.lock().state.view().epoch > epoch);
        }
    }

    /// Waits until that is so, or the node stops or is fenced, or for so long.
    fn wait_until(&self, deadline: Instant, is_so: impl Fn(&Runtime) -> bool) {
        while !is_so(self) && Instant::now() < deadline && !self.is_stopping() {
            let mut membership = self.membership.lock();
            if self.is_out_of_lease(&membership) {
                return;
            }
            let round = Instant::now() + crate::runtime::join::JOIN_ROUND;
            self.wait_for_change(&mut membership, deadline.min(round));
        }
    }
}
