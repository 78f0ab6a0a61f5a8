//! How long it takes until another voter leads, in a simulated time: as in a node, which looks at its clock twice in a
//! heartbeat, or when its log wants it, and whose disk takes a while to keep a vote.

use std::collections::{BTreeMap, BTreeSet};

use kddm_core::id::{NodeId, Time};

use crate::log::ViewLog;
use crate::state::State;
use crate::voters::storage::Nowhere;
use crate::{ClusterId, Identity, Pace, SessionId, Voters};

const MILLI: u64 = 1_000_000;
const LEASE_MS: u32 = 1_000;
const LEASE_NS: u64 = LEASE_MS as u64 * MILLI;

/// What a disk takes to keep a promise.
const DISK_NS: u64 = 4 * MILLI;

/// After the death of a leader its members have three quarters of their leases at the least, of which they need a
/// moment to find the next one.
const LEFT_NS: u64 = LEASE_NS * 70 / 100;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end.max(1)
    }
}

enum Event {
    Message {
        from: NodeId,
        to: NodeId,
        bytes: Vec<u8>,
    },
    Tick(NodeId),
    /// A guardian tells that the leader is dead.
    Told(NodeId),
}

struct World {
    random: Random,
    logs: BTreeMap<NodeId, Voters>,
    /// Who says and hears nothing any more.
    dead: BTreeSet<NodeId>,
    now: u64,
    count: u64,
    events: BTreeMap<(u64, u64), Event>,
    /// One message in ten takes up to so long: a host is busy.
    busy_ns: u64,
    /// When each looks at its clock next.
    ticks: BTreeMap<NodeId, u64>,
}

impl World {
    fn new(seed: u64, voters: u16, busy_ns: u64) -> World {
        let identity = Identity { cluster: ClusterId(seed), session: SessionId::DEFAULT };
        let state = State::new(identity, NodeId(1)).with_lease_ms(LEASE_MS);
        let mut world = World {
            random: Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            logs: BTreeMap::new(),
            dead: BTreeSet::new(),
            now: 0,
            count: 0,
            events: BTreeMap::new(),
            busy_ns,
            ticks: BTreeMap::new(),
        };
        let pace = Pace::for_lease_ms(LEASE_MS);
        for id in (1..=voters).map(NodeId) {
            let origin = (seed << 8) + u64::from(id.0) + 7;
            let log = match id.0 {
                1 => Voters::found(id, origin, state.clone(), Box::new(Nowhere)),
                _ => Voters::follow(id, origin, state.clone(), Box::new(Nowhere)),
            };
            world.logs.insert(id, log.unwrap().with_pace(pace));
            let phase = world.random.below(pace.heartbeat_ns / 2);
            world.at(phase, Event::Tick(id));
            world.ticks.insert(id, phase);
        }
        world.run_to(2 * LEASE_NS, |_| false);
        let all: Vec<NodeId> = world.logs.keys().copied().collect();
        world.logs.get_mut(&NodeId(1)).unwrap().reconfigure(&all).unwrap();
        world.run_to(4 * LEASE_NS, |_| false);
        world
    }

    fn at(&mut self, time: u64, event: Event) {
        self.count += 1;
        self.events.insert((time, self.count), event);
    }

    fn delay(&mut self) -> u64 {
        let busy = if self.random.below(10) == 0 { self.random.below(self.busy_ns) } else { 0 };
        100_000 + self.random.below(2 * MILLI) + busy
    }

    fn run_to(&mut self, end: u64, mut is_over: impl FnMut(&World) -> bool) -> bool {
        while let Some(((at, number), event)) = self.events.pop_first() {
            if at > end {
                self.events.insert((at, number), event);
                self.now = end;
                return false;
            }
            self.now = at;
            let id = match event {
                Event::Message { to, .. } if self.dead.contains(&to) => continue,
                Event::Message { from, to, bytes } => {
                    self.logs.get_mut(&to).unwrap().step(from, &bytes).unwrap();
                    to
                }
                Event::Tick(id) if self.dead.contains(&id) || self.ticks.get(&id) != Some(&at) => continue,
                Event::Tick(id) => {
                    self.logs.get_mut(&id).unwrap().tick(Time(at));
                    id
                }
                Event::Told(id) => {
                    let dead: Vec<NodeId> = self.dead.iter().copied().collect();
                    let log = self.logs.get_mut(&id).unwrap();
                    dead.into_iter().for_each(|dead| log.is_dead(dead));
                    log.tick(Time(at));
                    id
                }
            };
            self.look(id);
            if is_over(self) {
                return true;
            }
        }
        false
    }

    /// Sends what a log says, and has it look at its clock again.
    fn look(&mut self, id: NodeId) {
        let log = self.logs.get_mut(&id).unwrap();
        let said = log.take_outgoing();
        let next = self.next_tick(id);
        self.ticks.insert(id, next);
        self.at(next, Event::Tick(id));
        for out in said {
            let at = self.now + self.delay() + DISK_NS;
            self.at(at, Event::Message { from: id, to: out.to, bytes: out.message });
        }
    }

    fn next_tick(&self, id: NodeId) -> u64 {
        let usual = self.now + Pace::for_lease_ms(LEASE_MS).heartbeat_ns / 2;
        self.logs[&id].due().map_or(usual, |due| usual.min(due.0)).max(self.now + 1)
    }

    fn leader(&self) -> Option<NodeId> {
        self.logs.iter().find(|(id, log)| log.is_leader() && !self.dead.contains(id)).map(|(id, _)| *id)
    }

    /// The leader is gone at some moment. How long until another one leads, and has that decided.
    fn lose_leader(&mut self, told_within_ns: Option<u64>) -> u64 {
        let moment = self.now + self.random.below(LEASE_NS);
        self.run_to(moment, |_| false);
        let leader = self.leader().unwrap();
        self.dead.insert(leader);
        let others: Vec<NodeId> = self.logs.keys().copied().filter(|id| *id != leader).collect();
        for id in others {
            if let Some(within) = told_within_ns {
                let at = self.now + MILLI + self.random.below(within);
                self.at(at, Event::Told(id));
            }
        }
        let leads = |world: &World| {
            let log = world.leader().map(|id| &world.logs[&id]);
            log.is_some_and(|log| !log.has_undecided())
        };
        assert!(self.run_to(moment + 60 * LEASE_NS, leads), "nobody leads");
        self.now - moment
    }
}

/// What elections took, in ms: the median, and the longest; how many took longer than leases last.
fn measure(voters: u16, busy_ms: u64, told_within_ms: Option<u64>) -> (u64, u64, usize) {
    let one = |seed| World::new(seed, voters, busy_ms * MILLI).lose_leader(told_within_ms.map(|ms| ms * MILLI));
    let mut all: Vec<u64> = (0..RUNS).map(one).collect();
    all.sort_unstable();
    let late = all.iter().filter(|ns| **ns > LEFT_NS).count();
    let measured = (all[all.len() / 2] / MILLI, all[all.len() - 1] / MILLI, late);
    println!("{voters} voters, busy {busy_ms} ms, told within {told_within_ms:?} ms: {measured:?}");
    measured
}

const RUNS: u64 = 200;

/// A question that came too early used to be refused for good, and two that asked at once both lost: one election in
/// seven took longer than the leases of the others last.
#[test]
fn who_falls_silent_is_replaced_before_leases_end() {
    for voters in [3, 5] {
        let (median_ms, _, late) = measure(voters, 1, None);
        assert_eq!((late, median_ms < 450), (0, true), "{voters} voters");
    }
    // Messages that take up to 150 ms on a busy host.
    let (_, _, late) = measure(3, 150, None);
    assert!(late * 50 <= RUNS as usize, "{late} of {RUNS}");
}

/// Voters hear one after the other that it is dead, and who hears last is not asked in vain.
#[test]
fn who_is_proven_dead_is_replaced_at_once() {
    for voters in [3, 5] {
        let (median_ms, longest_ms, late) = measure(voters, 1, Some(20));
        assert_eq!((late, median_ms < 60, longest_ms < 200), (0, true, true), "{voters} voters");
    }
}

/// What is asked too early is answered later, without another question.
#[test]
fn a_question_that_came_too_early_is_answered_when_it_does_not_any_more() {
    let mut world = World::new(1, 3, 1);
    let leader = world.leader().unwrap();
    let others: Vec<NodeId> = world.logs.keys().copied().filter(|id| *id != leader).collect();
    let (asks, asked) = (others[0], others[1]);
    let now = Time(world.now);
    let said = |world: &mut World, id: NodeId, to: NodeId| {
        let said = world.logs.get_mut(&id).unwrap().take_outgoing();
        said.into_iter().filter(|out| out.to == to).map(|out| out.message).collect::<Vec<_>>()
    };
    let hear = |world: &mut World, id: NodeId, from: NodeId, words: Vec<Vec<u8>>| {
        words.iter().for_each(|word| world.logs.get_mut(&id).unwrap().step(from, word).unwrap());
    };
    world.logs.get_mut(&asks).unwrap().start_election(true);
    let words = said(&mut world, asks, asked);
    hear(&mut world, asked, asks, words);
    let words = said(&mut world, asked, asks);
    hear(&mut world, asks, asked, words);
    assert!(said(&mut world, asks, asked).is_empty(), "it was refused: the leader is heard");
    let due = world.logs[&asked].due().unwrap();
    assert!(due > now);
    world.logs.get_mut(&asked).unwrap().is_dead(leader);
    let words = said(&mut world, asked, asks);
    hear(&mut world, asks, asked, words);
    let words = said(&mut world, asks, asked);
    assert!(!words.is_empty(), "now it has a majority in advance, and asks for votes");
    hear(&mut world, asked, asks, words);
    let words = said(&mut world, asked, asks);
    hear(&mut world, asks, asked, words);
    assert!(world.logs[&asks].is_leader(), "no clock has moved");
    // A leader that is heard makes it forget: nobody is talked into another one then.
    let words = said(&mut world, asks, asked);
    hear(&mut world, asked, asks, words);
    assert!(world.logs[&asked].early.is_empty());
}
