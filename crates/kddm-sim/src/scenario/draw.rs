//! A scenario from a seed.

use kddm_core::id::{NodeId, ObjectId};
use kddm_core::message::RequestKind;

use super::{Destruction, Ending, GRAB, Latencies, MICRO, MILLI, Program, Scenario, Timed};
use crate::agent::{GENERATION_SHIFT, Generation, REPLICAS_SHIFT, Wish, replicas_of};
use crate::fault::Rates;
use crate::views::Change;

const MOST_NODES: u16 = 7;
const MOST_CLIENTS_PER_NODE: u16 = 4;
const MOST_OBJECTS: u64 = 6;
const MOST_OPERATIONS_PER_CLIENT: usize = 30;
const MOST_KEPT: usize = 3;
const MOST_REPLICAS: u8 = 2;

/// A scenario that is being drawn.
pub(super) struct Draft {
    seed: u64,
    random: fastrand::Rng,
    nodes: u16,
    objects: u64,
    /// How likely each kind of operation is; half of them do not happen in a seed.
    kinds: Vec<u32>,
    limits: bool,
    pace_ns: u64,
    /// Of crashes and replicas: what else a seed has does not depend on them.
    fate: fastrand::Rng,
    /// The sets, as generations: the second takes the place of the first when that is destroyed.
    sets: [Generation; 2],
}

const KINDS: usize = 15;

impl Draft {
    pub fn new(seed: u64) -> Draft {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut fate = fastrand::Rng::with_seed(seed ^ 0xfa7e);
        let mut kinds: Vec<u32> = (0..KINDS).map(|_| if random.bool() { random.u32(1..=20) } else { 0 }).collect();
        if kinds.iter().all(|weight| *weight == 0) {
            kinds[0] = 1;
        }
        Draft {
            seed,
            nodes: random.u16(3..=MOST_NODES),
            objects: random.u64(1..=MOST_OBJECTS),
            kinds,
            limits: random.bool(),
            sets: [0, 1].map(|counter| fate.u8(0..=MOST_REPLICAS) << REPLICAS_SHIFT | counter),
            fate,
            pace_ns: [MICRO, 20 * MICRO, 200 * MICRO, 2 * MILLI][random.usize(0..4)],
            random,
        }
    }

    pub fn draw(mut self) -> Scenario {
        let homes = self.random.usize(1..=3);
        let latencies = self.latencies();
        let rates = self.rates();
        let unit = self.pace_ns.max(latencies.base_ns.iter().copied().min().unwrap_or(MICRO));
        let is_destroyed = self.random.u8(0..4) == 0;
        let mut programs = Vec::new();
        for node in 1..=self.nodes {
            for _ in 0..self.random.u16(1..=MOST_CLIENTS_PER_NODE) {
                let operations = self.operations(is_destroyed);
                programs.push(Program { number: programs.len() as u16, node: NodeId(node), operations });
            }
        }
        let destructions = if is_destroyed { vec![self.destruction()] } else { Vec::new() };
        let homes = (0..homes).map(|_| NodeId(self.random.u16(1..=self.nodes))).collect();
        let (changes, crashes) = (self.changes(), self.crashes(unit));
        let returns = self.returns(unit);
        if !returns.is_empty() {
            self.read_more(&mut programs);
        }
        Scenario {
            seed: self.seed,
            nodes: self.nodes,
            homes,
            changes,
            // From all at once to all along: what happens while shards move is worth the most.
            decide_ns: unit * [1, 10, 60][self.random.usize(0..3)],
            settle_ns: unit * [1, 5, 20][self.random.usize(0..3)],
            destructions,
            returns,
            heals: crashes.is_empty() || self.fate.u8(0..4) > 0,
            acceptances: self.acceptances(&crashes),
            crashes,
            programs,
            latencies,
            rates,
        }
    }

    fn latencies(&mut self) -> Latencies {
        let base = [5 * MICRO, 50 * MICRO, 500 * MICRO][self.random.usize(0..3)];
        let spread = [1, 1, 3, 30, 300];
        let pairs = usize::from(self.nodes * self.nodes);
        let base_ns: Vec<u64> =
            (0..pairs).map(|_| base * spread[self.random.usize(0..spread.len())] + self.random.u64(0..base)).collect();
        let jitter_ns = base_ns.iter().map(|base| [base / 10, *base, 10 * base][self.random.usize(0..3)]).collect();
        let slow = if self.random.u8(0..3) == 0 {
            vec![(NodeId(self.random.u16(1..=self.nodes)), 20 * base)]
        } else {
            Vec::new()
        };
        Latencies { base_ns, jitter_ns, tail_factor: self.random.u64(10..=200), slow }
    }

    /// Half of the seeds have each fault, and each seed has its own rate.
    fn rates(&mut self) -> Rates {
        let mut rate = |most: u32| if self.random.bool() { self.random.u32(most / 100..=most) } else { 0 };
        Rates { loss_ppm: rate(20_000), duplicate_ppm: rate(100_000), cut_ppm: rate(20_000), tail_ppm: rate(20_000) }
    }

    fn time(&mut self, about_ns: u64) -> u64 {
        match self.random.u8(0..10) {
            0 => 0,
            1 => self.random.u64(0..=20 * about_ns),
            _ => self.random.u64(0..=2 * about_ns),
        }
    }

    fn operations(&mut self, is_destroyed: bool) -> Vec<Timed> {
        let count = self.random.usize(1..=MOST_OPERATIONS_PER_CLIENT);
        // A client goes over to the next set at some time, which may be early or late.
        let last_of_old = self.random.usize(0..=count);
        let mut operations: Vec<Timed> = Vec::new();
        while operations.len() < count {
            let generation = self.sets[usize::from(is_destroyed && operations.len() > last_of_old)];
            let wish = match self.wish() {
                // The end of a hold waits for the replicas: several at once are not for the simulated clients.
                Wish::Also if replicas_of(generation) > 0 => GRAB,
                wish => wish,
            };
            let mut objects = vec![self.random.u64(0..self.objects)];
            if wish == Wish::Also {
                // Several objects at once: in one order, the last of them with the grab that ends it.
                objects.extend((1..MOST_KEPT).map(|_| self.random.u64(0..self.objects)));
                objects.sort_unstable();
                objects.dedup();
            }
            let last = objects.len() - 1;
            for (at, object) in objects.into_iter().enumerate() {
                let wish = if wish == Wish::Also && at == last { GRAB } else { wish };
                let object = ObjectId(object | u64::from(generation) << GENERATION_SHIFT);
                operations.push(self.timed(operations.len() as u16, object, wish));
            }
        }
        operations
    }

    fn timed(&mut self, number: u16, object: ObjectId, wish: Wish) -> Timed {
        let pace = self.pace_ns;
        Timed {
            number,
            object,
            wish,
            think_ns: self.time(pace),
            hold_ns: self.time(pace),
            limit_ns: (self.limits && self.random.u8(0..4) == 0).then(|| 1 + self.time(10 * pace)),
            ending: match self.random.u8(0..10) {
                0 => Ending::Discard,
                1 => Ending::Fail,
                _ => Ending::Put,
            },
        }
    }

    fn wish(&mut self) -> Wish {
        let total: u32 = self.kinds.iter().sum();
        let mut at = self.random.u32(0..total);
        let mut kind = 0;
        while at >= self.kinds[kind] {
            at -= self.kinds[kind];
            kind += 1;
        }
        match kind {
            0 | 1 => GRAB,
            2 | 3 => Wish::Request(RequestKind::Get { existing: false }),
            4 => Wish::Request(RequestKind::Get { existing: true }),
            5 => Wish::Request(RequestKind::Grab { existing: true }),
            6 => Wish::Request(RequestKind::TryGrab),
            7 => Wish::Request(RequestKind::Remove),
            8 => Wish::Request(RequestKind::Flush { to: NodeId(self.random.u16(0..=self.nodes)) }),
            9 => Wish::Fetch,
            10 => Wish::Acquire,
            11 => [Wish::FetchAhead, Wish::AcquireAhead][self.random.usize(0..2)],
            12 => Wish::Also,
            13 => Wish::Insert,
            _ => Wish::RemoveHeld,
        }
    }

    /// Joins and leaves in any order; one node stays.
    fn changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.random.bool() {
            return changes;
        }
        let stays = self.random.u16(1..=self.nodes);
        for node in (1..=self.nodes).filter(|node| *node != stays).map(NodeId) {
            let at = self.random.usize(0..=changes.len());
            match self.random.u8(0..5) {
                0 => changes.insert(at, Change::Join(node)),
                1 => changes.insert(at, Change::Leave(node)),
                2 => {
                    changes.insert(at, Change::Join(node));
                    let later = self.random.usize(at + 1..=changes.len());
                    changes.insert(later, Change::Leave(node));
                }
                _ => {}
            }
        }
        changes
    }

    /// Up to two of the nodes, each at some time of the run.
    fn crashes(&mut self, unit: u64) -> Vec<(NodeId, u64)> {
        let count = [0, 0, 0, 1, 1, 2][self.fate.usize(0..6)];
        let mut nodes: Vec<u16> = (1..=self.nodes).collect();
        self.fate.shuffle(&mut nodes);
        nodes.into_iter().take(count).map(|node| (NodeId(node), self.fate.u64(0..=60 * unit))).collect()
    }

    /// In a third of the seeds up to three times a node is expelled and comes back. What else a seed has does not depend
    /// on them.
    fn returns(&self, unit: u64) -> Vec<(NodeId, u64)> {
        let mut fate = fastrand::Rng::with_seed(self.seed ^ 0xbac4);
        let count = [0, 0, 0, 0, 1, 1, 2, 3, 0][fate.usize(0..9)];
        (0..count).map(|_| (NodeId(fate.u16(1..=self.nodes)), fate.u64(0..=60 * unit))).collect()
    }

    /// Of what is written all the time no read copy outlasts that its node is away: where one comes back, most of what
    /// is done in half of the seeds is to read.
    fn read_more(&self, programs: &mut [Program]) {
        let mut fate = fastrand::Rng::with_seed(self.seed ^ 0xc0b1);
        if fate.bool() {
            return;
        }
        for program in programs {
            let mut is_of_several = false;
            for operation in &mut program.operations {
                // What is held together with others stays as it is, with the grab that ends it.
                let (was, is) = (is_of_several, operation.wish == Wish::Also);
                is_of_several = is;
                if !was && !is && fate.u8(0..8) > 0 {
                    operation.wish = Wish::Request(RequestKind::Get { existing: false });
                }
            }
        }
    }

    /// Somebody accepts what is lost, some time after a crash, whether anything is or not.
    fn acceptances(&mut self, crashes: &[(NodeId, u64)]) -> Vec<u64> {
        let at = |draft: &mut Draft, crash: u64| crash + draft.fate.u64(0..=20 * draft.pace_ns);
        let chosen = crashes.iter().filter(|_| self.fate.bool()).map(|(_, crash)| *crash).collect::<Vec<_>>();
        chosen.into_iter().map(|crash| at(self, crash)).collect()
    }

    fn destruction(&mut self) -> Destruction {
        let begins = self.random.u64(0..=20 * self.pace_ns);
        let spread = 20 * self.pace_ns;
        let at_ns = (1..=self.nodes).map(|node| (NodeId(node), begins + self.random.u64(0..=spread))).collect();
        Destruction { generation: self.sets[0], at_ns }
    }
}
