//! What a seed decides before the run begins.

use fastrand::Rng;
use kddm_core::id::{NodeId, ObjectId};
use kddm_view::lease::{DRIFT_PER_MILLE, Terms};
use kddm_view::{ClusterId, Identity, SessionId, State};

use super::{MICRO, MILLI, SECOND};
use crate::agent::{GENERATION_SHIFT, REPLICAS_SHIFT};

const MOST_OBJECTS: u64 = 6;
const MOST_CLIENTS_PER_NODE: u16 = 2;

/// All that is drawn.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How many nodes.
    pub nodes: u16,
    /// Clients of each node.
    pub clients: u16,
    /// What they share; the number says the home and how many replicas there are.
    pub objects: Vec<ObjectId>,
    /// How many replicas.
    pub replicas: u8,
    /// The lease.
    pub terms: Terms,
    /// What goes wrong is no more than the replicas make up for, one thing after the other.
    pub is_covered: bool,
    /// When all is healed.
    pub lasts_ns: u64,
    /// When the first fault comes.
    pub quiet_ns: u64,
    /// Between two faults at most.
    pub pause_ns: u64,
    /// About how long clients think and hold.
    pub pace_ns: u64,
    /// Least time of a message.
    pub latency_ns: u64,
    /// Up to so much more.
    pub jitter_ns: u64,
    /// Of datagrams.
    pub lost_percent: u8,
    /// Of datagrams.
    pub doubled_percent: u8,
    /// Of datagrams.
    pub late_percent: u8,
    /// Clocks, in thousandths of the true time.
    pub rates: Vec<u64>,
    /// A disk may be lost.
    pub wipes: bool,
    /// Entries that a log keeps beside its state.
    pub entries_kept: usize,
}

impl Plan {
    /// That of a seed.
    pub fn draw(seed: u64) -> Plan {
        let mut rng = Rng::with_seed(seed);
        let nodes = rng.u16(3..=6);
        let replicas = [1, 1, 1, 2, 2, 0][rng.usize(0..6)];
        let is_covered = replicas > 0 && rng.u8(0..3) > 0;
        let object = |n: u64, rng: &mut Rng| {
            let home = u64::from(rng.u16(1..=nodes));
            ObjectId(home << 48 | u64::from(replicas << REPLICAS_SHIFT) << GENERATION_SHIFT | n)
        };
        let objects = (0..rng.u64(2..=MOST_OBJECTS)).map(|n| object(n, &mut rng)).collect();
        let some = |rng: &mut Rng, most| if rng.bool() { 0 } else { rng.u8(1..most) };
        // The slowest and the fastest that are allowed are drawn most often.
        let drift = DRIFT_PER_MILLE;
        let rate = |rng: &mut Rng| match rng.u8(0..3) {
            0 => 1_000 - drift,
            1 => 1_000 + drift,
            _ => rng.u64(1_000 - drift..=1_000 + drift),
        };
        let rates = (0..=nodes).map(|_| rate(&mut rng)).collect();
        Plan {
            seed,
            nodes,
            clients: rng.u16(1..=MOST_CLIENTS_PER_NODE),
            objects,
            replicas,
            // Voters find another leader within 2 s, and whoever has a lease has three quarters of it left.
            terms: Terms::of_ms([4_000, 5_000, 8_000][rng.usize(0..3)]),
            is_covered,
            lasts_ns: rng.u64(40..100) * SECOND,
            quiet_ns: rng.u64(10..15) * SECOND,
            pause_ns: rng.u64(1..10) * SECOND,
            pace_ns: [5 * MILLI, 20 * MILLI, 60 * MILLI][rng.usize(0..3)],
            latency_ns: [50 * MICRO, 500 * MICRO, 2 * MILLI][rng.usize(0..3)],
            jitter_ns: [100 * MICRO, 2 * MILLI, 20 * MILLI][rng.usize(0..3)],
            lost_percent: some(&mut rng, 10),
            doubled_percent: some(&mut rng, 20),
            late_percent: some(&mut rng, 10),
            rates,
            wipes: rng.u8(0..4) == 0,
            entries_kept: rng.usize(40..400),
        }
    }

    /// The state before anything was decided.
    pub fn first_state(&self) -> State {
        let identity = Identity { cluster: ClusterId(self.seed), session: SessionId::DEFAULT };
        State::new(identity, NodeId(1)).with_lease_ms((self.terms.lease_ns / MILLI) as u32)
    }
}
