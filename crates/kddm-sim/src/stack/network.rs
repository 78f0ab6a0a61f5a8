//! What is between the nodes: datagrams, which are lost, doubled and late, and connections of two lives, which
//! keep their order. Both end where a link is cut.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use kddm_core::id::{Incarnation, NodeId};

use super::{Counts, MILLI, Plan, SECOND};
use crate::agent::Packet;

/// What one life has said to another, each with the time at which it may arrive, oldest first.
pub type Stream = VecDeque<(u64, Packet)>;

/// All that is under way, and which links are cut.
pub struct Network {
    latency_ns: u64,
    jitter_ns: u64,
    lost_percent: u8,
    doubled_percent: u8,
    late_percent: u8,
    /// By sender and receiver.
    pub streams: BTreeMap<(Incarnation, Incarnation), Stream>,
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl Network {
    /// Nothing is cut.
    pub fn new(plan: &Plan) -> Network {
        let Plan { latency_ns, jitter_ns, lost_percent, doubled_percent, late_percent, .. } = *plan;
        let (streams, cut) = (BTreeMap::new(), BTreeSet::new());
        Network { latency_ns, jitter_ns, lost_percent, doubled_percent, late_percent, streams, cut }
    }

    /// Nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.cut.clear();
        (self.lost_percent, self.doubled_percent, self.late_percent) = (0, 0, 0);
    }

    /// Whether the first node is not heard by the second.
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Some link is cut.
    pub fn has_cuts(&self) -> bool {
        !self.cut.is_empty()
    }

    /// Cuts these links, and no others.
    pub fn cut(&mut self, links: impl IntoIterator<Item = (NodeId, NodeId)>) {
        self.cut = links.into_iter().collect();
    }

    fn delay(&self, rng: &mut Rng) -> u64 {
        self.latency_ns + rng.u64(0..=self.jitter_ns)
    }

    /// When a datagram arrives: never, once or twice.
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
        let mut times = Vec::new();
        for _ in 0..copies {
            let is_late = rng.u8(0..100) < self.late_percent;
            let late = if is_late { rng.u64(20 * MILLI..6 * SECOND) } else { 0 };
            times.push(now + self.delay(rng) + late);
        }
        times
    }

    /// Something is said on a connection: when it may arrive.
    pub fn push(&mut self, rng: &mut Rng, now: u64, lives: (Incarnation, Incarnation), packet: Packet) -> u64 {
        let delay = self.delay(rng);
        let stream = self.streams.entry(lives).or_default();
        let last = stream.back().map_or(0, |(at, _)| *at);
        let at = last.max(now + delay);
        stream.push_back((at, packet));
        at
    }

    /// A life is over: what was said to it is gone, and of what it has said some of the last.
    pub fn end(&mut self, rng: &mut Rng, life: Incarnation) {
        self.streams.retain(|(_, to), _| *to != life);
        for (_, stream) in self.streams.iter_mut().filter(|((from, _), _)| *from == life) {
            let kept = rng.usize(0..=stream.len());
            stream.truncate(kept);
        }
    }

    /// What a life that is no member any more has said to this one is not looked at.
    pub fn forget(&mut self, to: Incarnation, is_gone: impl Fn(Incarnation) -> bool) {
        self.streams.retain(|(from, receiver), _| *receiver != to || !is_gone(*from));
    }
}
