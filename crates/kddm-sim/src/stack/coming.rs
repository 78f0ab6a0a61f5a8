//! How processes begin, and how nodes become members and share objects.

use kddm_core::id::NodeId;
use kddm_view::{Change, Site, State, ViewLog, Voters};

use super::decide::AGAIN_NS;
use super::keeper::Keeper;
use super::{Event, Process, Simulation};

fn join(id: NodeId, nonce: u64) -> Change {
    Change::Join { node: Some(id), address: format!("{id}:1"), nonce, site: Site::default() }
}

impl Simulation {
    /// A node that is no member asks to be one, one that shares nothing begins to, and one that is to leave does.
    pub(super) fn want_to_be_in(&mut self, id: NodeId) -> Result<(), String> {
        let process = &self.processes[&id];
        if self.now < process.propose_at {
            return Ok(());
        }
        let change = match &process.life {
            None if process.state.member(id).is_none() => join(id, process.nonce),
            // Its former life has to be expelled first.
            None => return Ok(()),
            Some(life) if life.agent.view().member(id).is_none() => return Ok(()),
            Some(_) => match self.recall(id).or_else(|| self.next_step_out(id)) {
                Some(change) => change,
                None => return Ok(()),
            },
        };
        self.process(id).propose_at = self.now + AGAIN_NS;
        self.propose(id, change)
    }

    /// A life that remembers something has the others decide anew, once all is settled.
    fn recall(&self, id: NodeId) -> Option<Change> {
        let process = &self.processes[&id];
        let life = process.life.as_ref()?;
        let (incarnation, epoch) = (life.number, life.agent.view().epoch);
        let entry = process.state.member(id).filter(|entry| entry.incarnation == incarnation)?;
        let is_due = entry.state.can_share() && life.recalls == Some(epoch) && life.agent.is_settled();
        is_due.then_some(Change::Recall { node: id, incarnation, epoch })
    }

    fn propose(&mut self, id: NodeId, change: Change) -> Result<(), String> {
        if let Some(log) = &mut self.process(id).log {
            // One that has too much to do refuses: it is asked again.
            let _refused = log.propose(change);
        }
        self.look(id)
    }

    /// A process begins: with its log, or it asks the others to let it in.
    pub(super) fn start(&mut self, id: NodeId) -> Result<(), String> {
        if self.processes[&id].log.is_some() {
            return Ok(());
        }
        let (origin, nonce) = (self.origin(), self.nonce(id));
        let is_first = id == NodeId(1) && self.truth.state().applied() == 0;
        let is_out = self.processes[&id].is_out;
        self.tell(|| format!("{id} starts, {}", if is_out { "without a log" } else { "with its log" }));
        if is_out && !is_first {
            return self.ask_to_be_let_in(id, origin);
        }
        let process = self.process(id);
        let storage = Box::new(process.disk.clone());
        let log = if is_first {
            Voters::found(id, origin, process.state.clone(), storage).map(Some)
        } else {
            Voters::restart(id, origin, storage)
        };
        let log = log.map_err(|error| format!("{id}: {error}"))?;
        let log = log.ok_or_else(|| format!("{id}: nothing of its log was kept"))?;
        process.nonce = nonce;
        let state = log.base().clone();
        self.has_log(id, log, state);
        self.look(id)
    }

    fn has_log(&mut self, id: NodeId, log: Voters, state: State) {
        let (keeper, kept, now) = (Keeper::new(self.plan.terms, self.slip), self.plan.entries_kept, self.now);
        let process = self.process(id);
        process.log = Some(log.with_entries_kept(kept));
        process.state = state;
        process.is_out = false;
        process.keeper = keeper;
        process.ticked = process.clock(now);
        process.propose_at = 0;
    }

    /// A node without a log has another one propose it, and takes that one's state.
    fn ask_to_be_let_in(&mut self, id: NodeId, origin: u64) -> Result<(), String> {
        self.at(self.now + AGAIN_NS, Event::Start(id));
        let hears = |other: NodeId| !self.network.is_cut(id, other) && !self.network.is_cut(other, id);
        let is_up = |process: &&Process| {
            process.id != id && process.log.is_some() && process.sleeps_until <= self.now && hears(process.id)
        };
        let all: Vec<NodeId> = self.processes.values().filter(is_up).map(|process| process.id).collect();
        let Some(through) = self.rng.choice(&all).copied() else { return Ok(()) };
        if self.processes[&id].nonce == 0 {
            self.process(id).nonce = self.nonce(id);
        }
        let nonce = self.processes[&id].nonce;
        let state = self.processes[&through].state.clone();
        if state.member(id).is_some_and(|entry| entry.nonce == nonce) {
            let storage = Box::new(self.processes[&id].disk.clone());
            let log = Voters::follow(id, origin, state.clone(), storage).map_err(|error| error.to_string())?;
            self.has_log(id, log, state);
            self.is_changed(id);
            return self.look(id);
        }
        if state.member(id).is_none() {
            return self.propose(through, join(id, nonce));
        }
        Ok(())
    }

    /// A number that no other life of a log has.
    fn origin(&mut self) -> u64 {
        self.origins += 1;
        self.origins << 8 | 1
    }

    /// A number that no other life of a node has.
    pub(super) fn nonce(&mut self, id: NodeId) -> u64 {
        self.nonces += 1;
        self.nonces << 16 | u64::from(id.0)
    }
}
