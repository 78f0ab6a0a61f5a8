//! What a node keeps that was expelled and comes back as a new life.

use std::sync::Arc;

use kddm_core::id::{Epoch, Incarnation, ObjectId};
use kddm_core::io::Outputs;
use kddm_core::node::memory::Memory;
use kddm_core::node::{Directory, Refused};

use super::candidates::{Candidate, Candidates};
use super::{Agent, Effects, Todo, Value, generation, set_of};

/// An object that a former life owned, and its value.
pub(super) type Memorised = (Memory, Value);

/// What a life leaves to the next one of its process.
#[derive(Clone, Default, Debug)]
pub struct Kept {
    owned: Vec<Memorised>,
    knew: Vec<Directory>,
    copies: Vec<Candidate>,
    /// The first epoch in which that life did nothing.
    left: Epoch,
}

impl Agent {
    /// This node's life.
    pub fn life(&self) -> Incarnation {
        self.core.incarnation()
    }

    /// What is worth keeping of a life that is over, in a process that goes on: what it owned, and what it had to read.
    /// What a client was writing is of no more use.
    pub fn keeps(&self) -> Kept {
        let value = |memory: &Memory| {
            if memory.is_kept {
                return self.replicas.get(&memory.object).copied();
            }
            let cell = self.cells.get(&memory.object)?;
            cell.value.filter(|_| cell.writer.is_none())
        };
        let kept = |memory: Memory| {
            let version = self.cells.get(&memory.object).filter(|_| !memory.is_kept).map(|cell| cell.version);
            Some((Memory { version: version.unwrap_or(memory.version), ..memory }, value(&memory)?))
        };
        let mut memories: Vec<Memorised> = self.core.memories().filter_map(kept).collect();
        memories.extend(&self.memories);
        memories.sort_by_key(|(memory, _)| (memory.object, memory.tenure, memory.version));
        let mut knew = self.core.directories();
        knew.extend(self.directories.iter().cloned());
        Kept { owned: memories, knew, copies: self.kept_copies(), left: self.core.leaves() }
    }

    /// A life of a node whose process has kept that of the one before.
    pub fn with_memories(self, kept: Kept) -> Agent {
        Agent {
            memories: kept.owned,
            directories: kept.knew,
            candidates: Candidates::of(kept.copies),
            left: kept.left,
            ..self
        }
    }

    /// How many objects are offered here.
    pub fn offer_count(&self) -> usize {
        self.core.offer_count()
    }

    /// It knows something of a former life, and has not told its core yet.
    pub fn has_memories(&self) -> bool {
        self.left > Epoch(0)
    }

    /// Tells the core what a former life owned.
    pub fn remember(&mut self, effects: &mut Effects) {
        Arc::make_mut(&mut self.core).remember_leaving(std::mem::take(&mut self.left));
        for directory in std::mem::take(&mut self.directories) {
            let (set, mut outputs) = (directory.set, Outputs::new());
            match Arc::make_mut(&mut self.core).remember_directory(directory, &mut outputs) {
                Ok(()) | Err(Refused::UnknownSet) => {}
                Err(refused) => effects.broken.push(format!("node {} does not know any more: {refused:?}", self.me)),
            }
            let mut todo = Todo::new();
            for output in outputs.drain() {
                self.act(set, output, None, &mut todo, effects);
            }
            self.run_all(set, todo, None, effects);
        }
        for (memory, value) in std::mem::take(&mut self.memories) {
            if self.is_destroyed(generation(memory.object)) {
                continue;
            }
            let mut outputs = Outputs::new();
            match Arc::make_mut(&mut self.core).remember(&memory, &mut outputs) {
                Ok(true) => _ = self.replicas.insert(memory.object, value),
                Ok(false) => {}
                Err(refused) => effects.broken.push(format!("node {} refused to remember: {refused:?}", self.me)),
            }
            let mut todo = Todo::new();
            for output in outputs.drain() {
                self.act(memory.set, output, None, &mut todo, effects);
            }
            self.run_all(memory.set, todo, None, effects);
        }
    }

    /// What is offered of an object here, or will be.
    pub fn offer(&self, object: ObjectId) -> Option<Value> {
        let is_told = self.core.inspect(set_of(generation(object)), object).is_some_and(|seen| seen.offer.is_some());
        if is_told {
            return self.replicas.get(&object).copied();
        }
        self.memories.iter().find(|(memory, _)| memory.object == object).map(|(_, value)| *value)
    }
}
