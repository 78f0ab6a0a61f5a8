//! What no fault may break, seen from outside.

use std::collections::{BTreeMap, BTreeSet};

use kddm_core::id::{Incarnation, NodeId, ObjectId, Tenure};
use kddm_core::shard::Main;
use kddm_history::{Kind, Operation, Outcome, Seen, Word};
use kddm_view::{Cause, Change, Decided, State};

use super::counts::Counts;
use super::process::Process;
use crate::agent::{generation, replicas_of};

/// What was decided, as the first node knew that did, and what follows from that.
pub struct Truth {
    entries: Vec<Change>,
    state: State,
    leaders: BTreeMap<u64, NodeId>,
    /// When more members were lost than there are replicas of these objects.
    uncovered: BTreeMap<ObjectId, Vec<u64>>,
    /// Who has had each tenure.
    owners: BTreeMap<(ObjectId, Tenure), Incarnation>,
    expelled: BTreeSet<Incarnation>,
    /// What happened.
    pub counts: Counts,
}

impl Truth {
    /// Nothing was decided yet.
    pub fn new(state: State) -> Truth {
        Truth {
            entries: Vec::new(),
            state,
            leaders: BTreeMap::new(),
            uncovered: BTreeMap::new(),
            owners: BTreeMap::new(),
            expelled: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// After all that anybody has decided.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// `I7`: a node has decided an entry. All agree on it, and none is missing.
    pub fn agree(&mut self, id: NodeId, entry: &Decided, objects: &[ObjectId], now: u64) -> Result<(), String> {
        let (index, change) = (entry.index, &entry.change);
        match self.entries.get(index as usize - 1) {
            Some(known) if known == change => return Ok(()),
            Some(known) => return Err(format!("I7: entry {index} is {known:?}, and {id} has decided {change:?}")),
            None if index != self.entries.len() as u64 + 1 => {
                return Err(format!("I7: {id} has entry {index}, and nobody the one before"));
            }
            None => self.entries.push(change.clone()),
        }
        if let Change::Lead { node, term } = *change {
            self.counts.leaders += 1;
            if self.leaders.insert(term, node).is_some_and(|other| other != node) {
                return Err(format!("I7: term {term} has two leaders"));
            }
        }
        let (before, was_healed) = (self.state.view(), self.state.is_healed());
        self.state.apply(entry).map_err(|gap| gap.to_string())?;
        let after = self.state.view();
        self.counts.healed += u64::from(!was_healed && matches!(change, Change::Healed { .. }));
        self.counts.recalled += u64::from(after.epoch > before.epoch && matches!(change, Change::Recall { .. }));
        let Change::Expel { incarnation, cause, .. } = *change else { return Ok(()) };
        if after.epoch > before.epoch {
            self.expelled.insert(incarnation);
            self.counts.expelled += 1;
            self.counts.ran_out += u64::from(cause == Cause::Lease);
            let is_lost = |object: &&ObjectId| !after.covers(usize::from(replicas_of(generation(**object))));
            for object in objects.iter().filter(is_lost) {
                self.uncovered.entry(*object).or_default().push(now);
            }
        }
        Ok(())
    }

    /// `I8`: something was used by that life, so it has not been expelled before.
    pub fn used(&self, node: NodeId, life: Incarnation) -> Result<(), String> {
        if self.expelled.contains(&life) {
            return Err(format!("I8: node {node} uses what it has in its life {}, after its expulsion", life.0));
        }
        Ok(())
    }

    /// That life was expelled.
    pub fn is_expelled(&self, life: Incarnation) -> bool {
        self.expelled.contains(&life)
    }

    /// `I3`: a tenure belongs to one life.
    pub fn owns(&mut self, process: &Process, object: ObjectId) -> Result<(), String> {
        let Some(life) = &process.life else { return Ok(()) };
        let Main::Owner { tenure, .. } = life.agent.inspect(object).main else { return Ok(()) };
        let owner = *self.owners.entry((object, tenure)).or_insert(life.number);
        if owner != life.number {
            let lives = format!("lives {} and {}", owner.0, life.number.0);
            return Err(format!("I3: {lives} own object {} with tenure {tenure}", object.0));
        }
        Ok(())
    }

    /// Nothing is promised of the presence of that object.
    pub fn may_be_lost(&self, object: ObjectId) -> bool {
        self.uncovered.contains_key(&object)
    }

    /// Of some object nothing is promised.
    pub fn was_uncovered(&self) -> bool {
        !self.uncovered.is_empty()
    }

    /// The history, in which what was lost uncovered may be absent from then on. It may never be older.
    pub fn with_losses(&self, mut operations: Vec<Operation>) -> Vec<Operation> {
        for (object, times) in &self.uncovered {
            operations.extend(times.iter().map(|at| Operation {
                client: u64::MAX,
                object: Word::Number(object.0),
                invoke_ns: *at,
                return_ns: None,
                kind: Kind::Remove,
                value: None,
                seen: Seen::Nothing,
                outcome: Outcome::Unknown,
            }));
        }
        operations
    }
}
