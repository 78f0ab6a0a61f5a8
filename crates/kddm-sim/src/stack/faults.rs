//! What goes wrong.

use std::collections::BTreeSet;

use kddm_core::id::NodeId;
use kddm_view::MemoryDisk;

use super::{Event, MILLI, Process, SECOND, Simulation};

/// The guardian of a host tells the others at most so long after the end of a process.
const PROOF_NS: u64 = 20 * MILLI;

impl Simulation {
    pub(super) fn fault(&mut self) -> Result<(), String> {
        let pause = self.rng.u64(self.plan.pause_ns / 20..=self.plan.pause_ns);
        self.at(self.now + pause, Event::Fault);
        if self.plan.is_covered && !self.is_calm() {
            // Links that are cut are whole again some time, or it would never be calm.
            if self.network.has_cuts() && self.rng.u8(0..3) == 0 {
                self.join_links();
            }
            return Ok(());
        }
        if !self.truth.state().is_sealed() {
            return Ok(());
        }
        let id = NodeId(self.rng.u16(1..=self.plan.nodes));
        match self.rng.u8(0..24) {
            20.. => self.leave(id),
            0..11 => self.kill(id),
            11..15 => self.cut_some(id),
            15..18 => self.pause_one(id),
            18 => self.tear(id),
            _ => self.wipe(id),
        }
        Ok(())
    }

    /// All are members and share objects, all is whole, and nothing is wrong.
    fn is_calm(&self) -> bool {
        let (state, view) = (self.truth.state(), self.truth.state().view());
        let is_leaving = |process: &Process| process.life.as_ref().is_some_and(|life| life.leaving.is_some());
        let shares = |process: &Process| {
            process.sleeps_until <= self.now
                && process.life.as_ref().is_some_and(|life| life.agent.view().placement == view.placement)
                && (view.homes.contains(&process.id) || is_leaving(process))
        };
        state.is_healed() && !self.network.has_cuts() && self.processes.values().all(shares)
    }

    /// kill -9, of up to as many at once as there are replicas, or, where nothing is promised, of two at any time.
    fn kill(&mut self, first: NodeId) {
        let most = if self.plan.is_covered { usize::from(self.plan.replicas) } else { 2 };
        let mut others: Vec<NodeId> = self.processes.keys().copied().filter(|id| *id != first).collect();
        self.rng.shuffle(&mut others);
        let count = self.rng.usize(1..=most);
        // What the others have not noticed yet counts, too.
        let mut unnoticed = 0;
        for id in std::iter::once(first).chain(others).take(count) {
            let state = self.truth.state();
            let Some(life) = self.processes[&id].life_number() else { continue };
            if !state.member(id).is_some_and(|entry| entry.incarnation == life && entry.state.can_share()) {
                continue;
            }
            let copies = usize::from(state.view().fewest_homes).min(usize::from(self.plan.replicas) + 1);
            unnoticed += 1;
            let is_covered = state.failures() as usize + unnoticed < copies;
            let is_second = !state.is_healed();
            self.truth.counts.kills += 1;
            self.truth.counts.second_kills += u64::from(is_second);
            self.truth.counts.covered_kills += u64::from(is_covered);
            self.tell(|| format!("{id} is killed"));
            self.crash(id);
            if self.rng.bool() {
                for at in self.processes.keys().copied().collect::<Vec<_>>() {
                    let time = self.now + self.rng.u64(MILLI..=PROOF_NS);
                    self.at(time, Event::Proof { at, dead: life });
                }
            }
        }
    }

    /// A process is gone, and what its disk need not have kept, too.
    pub(super) fn crash(&mut self, id: NodeId) {
        if self.process(id).log.take().is_none() {
            return;
        }
        self.end_life(id, "its process is gone");
        let Some(process) = self.processes.get_mut(&id) else { return };
        let rng = &mut self.rng;
        process.disk.crash(|unsynced| rng.usize(0..=unsynced));
        process.sleeps_until = 0;
        process.proven.clear();
        let longest = if self.rng.u8(0..4) == 0 { 8 * SECOND } else { SECOND };
        let at = self.now + self.rng.u64(10 * MILLI..longest);
        self.at(at, Event::Start(id));
    }

    /// Cuts links: one node's, in one direction or both, between two groups, or any. In covered runs that of
    /// one node only.
    fn cut_some(&mut self, one: NodeId) {
        let all: Vec<NodeId> = self.processes.keys().copied().collect();
        let pairs =
            || all.iter().flat_map(|from| all.iter().map(move |to| (*from, *to))).filter(|(from, to)| from != to);
        let group: BTreeSet<NodeId> = all.iter().copied().filter(|_| self.rng.bool()).collect();
        let kinds = if self.plan.is_covered { 3 } else { 6 };
        let links: Vec<(NodeId, NodeId)> = match self.rng.u8(0..kinds) {
            0 => pairs().filter(|(from, _)| *from == one).collect(),
            1 => pairs().filter(|(_, to)| *to == one).collect(),
            2 => pairs().filter(|(from, to)| *from == one || *to == one).collect(),
            3 => pairs().filter(|(from, to)| group.contains(from) != group.contains(to)).collect(),
            4 => Vec::new(),
            // Not transitive: who hears whom is drawn for each two.
            _ => pairs().filter(|_| self.rng.u8(0..3) == 0).collect(),
        };
        self.truth.counts.cuts += 1;
        self.tell(|| format!("cut: {links:?}"));
        self.network.cut(links);
        self.retry_all_streams();
    }

    fn join_links(&mut self) {
        self.network.cut([]);
        self.retry_all_streams();
    }

    /// A node does nothing for a while, and goes on with what it had.
    fn pause_one(&mut self, id: NodeId) {
        let lease = self.plan.terms.lease_ns;
        let is_long = self.rng.bool();
        let time = if is_long { self.rng.u64(lease..3 * lease) } else { self.rng.u64(50 * MILLI..lease) };
        if self.processes[&id].log.is_none() {
            return;
        }
        self.truth.counts.pauses += 1;
        self.truth.counts.long_pauses += u64::from(is_long);
        self.tell(|| format!("{id} sleeps for {} ms", time / MILLI));
        self.process(id).sleeps_until = self.now + time;
    }

    /// One of the next writes of a log is torn, and its process gone.
    fn tear(&mut self, id: NodeId) {
        let writes = self.rng.u32(0..4);
        if self.processes[&id].log.is_some() {
            self.tell(|| format!("the disk of {id} fails after {writes} writes"));
            self.processes[&id].disk.fail_after(writes);
        }
    }

    /// A disk is lost, at most one in a run: what a majority has kept must still be there.
    fn wipe(&mut self, id: NodeId) {
        let has_enough = |process: &Process| process.log.as_ref().is_some_and(|log| log.fewest_voters() >= 3);
        let may = self.plan.wipes && self.truth.counts.wiped == 0 && self.processes.values().all(has_enough);
        if !may || self.truth.state().voters().len() < 3 {
            return self.kill(id);
        }
        self.crash(id);
        self.tell(|| format!("{id} has lost its disk"));
        let process = self.process(id);
        process.disk = MemoryDisk::default();
        process.is_out = true;
        process.log_life += 1_000;
        self.truth.counts.wiped += 1;
    }

    /// All links as they were, and everybody awake: what is wanted must come to be.
    pub(super) fn heal(&mut self) {
        self.network.heal();
        self.all_stay();
        self.events.retain(|_, event| !matches!(event, Event::Fault));
        for id in self.processes.keys().copied().collect::<Vec<_>>() {
            self.process(id).sleeps_until = 0;
            if self.processes[&id].log.is_none() {
                self.at(self.now + SECOND, Event::Start(id));
            }
        }
        self.retry_all_streams();
    }
}
