//! What goes wrong.

use std::collections::BTreeSet;

use fastrand::Rng;
use kddm_core::id::NodeId;

use super::check::Counts;
use super::{Event, SECOND_NS, Simulation, is_blank};

/// How much of what goes wrong in a run.
pub struct Faults {
    nodes: u16,
    lost_percent: u8,
    doubled_percent: u8,
    late_percent: u8,
    /// Between two faults of other kinds, ns at most.
    pause_ns: u64,
    /// Disks are lost, too.
    pub wipes: bool,
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl Faults {
    pub fn draw(rng: &mut Rng, nodes: u16) -> Faults {
        let some = |rng: &mut Rng, most| if rng.u8(0..3) == 0 { 0 } else { rng.u8(1..most) };
        Faults {
            nodes,
            lost_percent: some(rng, 30),
            doubled_percent: some(rng, 30),
            late_percent: some(rng, 20),
            pause_ns: rng.u64(1..8) * SECOND_NS,
            wipes: rng.u8(0..3) == 0,
            cut: BTreeSet::new(),
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
        self.lost_percent = 0;
        self.doubled_percent = 0;
        self.late_percent = 0;
    }

    /// When a message arrives: never, once or twice.
    pub fn arrivals(&self, rng: &mut Rng, now: u64, link: (NodeId, NodeId), counts: &mut Counts) -> Vec<u64> {
        if self.cut.contains(&link) {
            counts.cut += 1;
            return Vec::new();
        }
        if rng.u8(0..100) < self.lost_percent {
            counts.lost += 1;
            return Vec::new();
        }
        let copies = if rng.u8(0..100) < self.doubled_percent { 2 } else { 1 };
        counts.doubled += copies - 1;
        let mut times = Vec::new();
        for _ in 0..copies {
            let is_late = rng.u8(0..100) < self.late_percent;
            counts.late += u64::from(is_late);
            let delay = if is_late { rng.u64(SECOND_NS / 10..6 * SECOND_NS) } else { rng.u64(200_000..20_000_000) };
            times.push(now + delay);
        }
        times
    }

    /// Cuts links: one node's in one direction, between two groups, or any.
    fn cut_some(&mut self, rng: &mut Rng) {
        self.cut.clear();
        let all: Vec<NodeId> = (1..=self.nodes).map(NodeId).collect();
        let pairs = all.iter().flat_map(|from| all.iter().map(move |to| (*from, *to)));
        let one = NodeId(rng.u16(1..=self.nodes));
        let group: BTreeSet<NodeId> = all.iter().copied().filter(|_| rng.bool()).collect();
        match rng.u8(0..5) {
            0 => {}
            1 => self.cut.extend(pairs.filter(|(from, _)| *from == one)),
            2 => self.cut.extend(pairs.filter(|(_, to)| *to == one)),
            3 => self.cut.extend(pairs.filter(|(from, to)| group.contains(from) != group.contains(to))),
            _ => {
                // Not transitive: who hears whom is drawn for each two.
                let cut: Vec<_> = pairs.filter(|_| rng.u8(0..3) == 0).collect();
                self.cut.extend(cut);
            }
        }
    }
}

impl Simulation {
    pub(super) fn fault(&mut self) -> Result<(), String> {
        let next = self.now + self.rng.u64(SECOND_NS / 5..self.faults.pause_ns.max(SECOND_NS));
        self.at(next, Event::Fault);
        let id = NodeId(self.rng.u16(1..=self.faults.nodes));
        match self.rng.u8(0..20) {
            0..7 => self.faults.cut_some(&mut self.rng),
            7..11 => return self.crash(id),
            11..14 => {
                let writes = self.rng.u32(0..6);
                if let Some(node) = self.nodes.get(&id).filter(|node| node.log.is_some()) {
                    node.disk.fail_after(writes);
                }
            }
            14..17 => {
                let until = self.now + self.rng.u64(SECOND_NS / 10..6 * SECOND_NS);
                if let Some(node) = self.nodes.get_mut(&id).filter(|node| node.log.is_some()) {
                    node.sleeps_until = until;
                    self.truth.counts.pauses += 1;
                }
            }
            17..19 => return self.wipe(id),
            _ => {
                self.truth.counts.blackouts += 1;
                for id in (1..=self.faults.nodes).map(NodeId) {
                    self.crash(id)?;
                }
            }
        }
        Ok(())
    }

    /// A disk is lost, at most one in a run: what a majority has kept must still be there.
    fn wipe(&mut self, id: NodeId) -> Result<(), String> {
        let is_enough = |node: &super::Node| node.log.as_ref().is_some_and(|log| log.fewest_voters() >= 3);
        let may = self.faults.wipes && self.truth.counts.wiped == 0 && self.nodes.values().all(is_enough);
        if !may || self.truth.state().voters().len() < 3 {
            return Ok(());
        }
        self.crash(id)?;
        let mutation = self.mutation;
        let life = u64::from(id.0) + 1000;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.disk = super::disk(mutation);
            node.is_out = is_blank(&node.disk);
            node.life = life;
            self.truth.forget(id);
            self.truth.counts.wiped += 1;
        }
        Ok(())
    }
}
