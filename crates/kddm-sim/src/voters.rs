//! The log of several voters, from one seed: whole clusters of logs in one thread, on the real ones.
//!
//! A seed decides who is there, who votes when, and what goes wrong: messages that are late, lost,
//! doubled and overtaken, links that are cut one way or between some, nodes that sleep, crash, lose
//! what they need not have kept, are torn in the middle of a write, or come back without their disk;
//! all of them at once, too. Then all is healed, and everything must be decided that is wanted.

use std::collections::BTreeMap;

use fastrand::Rng;
use kddm_core::id::{NodeId, Time};
use kddm_view::{
    Change, ClusterId, Identity, LogError, MemoryDisk, Mutation, SessionId, Site, State, Storage, ViewLog, Voters,
};

mod check;
mod faults;

pub use check::Counts;
use check::Truth;
use faults::Faults;

/// How often a node looks at its clock, ns.
const TICK_NS: u64 = 50_000_000;

/// How long after all is healed everything must be decided, ns: some failed elections, then entries in
/// messages of which none is lost.
const HEAL_NS: u64 = 60_000_000_000;

const SECOND_NS: u64 = 1_000_000_000;

/// The numbers of proposals that must be decided once at most begin here.
const ONCE: u64 = 1 << 32;

/// What a run came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Entries decided.
    pub entries: u64,
    /// What went wrong, and how often.
    pub counts: Counts,
    /// Of all that has happened, in order.
    pub trace: u64,
}

/// Why a run failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The promise that was broken.
    pub what: String,
    /// When, in simulated ms.
    pub at_ms: u64,
}

enum Event {
    Deliver { from: NodeId, to: NodeId, life: u64, message: Vec<u8> },
    Tick(NodeId),
    Start(NodeId),
    Client,
    Fault,
    Heal,
    Finish,
}

struct Node {
    log: Option<Voters>,
    disk: MemoryDisk,
    /// What its entries add up to.
    state: State,
    /// Grows with each life that knows nothing of the one before.
    life: u64,
    /// It is no member, or its disk is gone: the others have to let it in first.
    is_out: bool,
    sleeps_until: u64,
    /// Its clock runs that much too fast, in thousandths.
    drift: i64,
}

struct Simulation {
    rng: Rng,
    now: u64,
    sequence: u64,
    events: BTreeMap<(u64, u64), Event>,
    nodes: BTreeMap<NodeId, Node>,
    faults: Faults,
    truth: Truth,
    mutation: Option<Mutation>,
    /// A torn write may be all that goes wrong: its node goes on. So it is in odd seeds.
    disks_fail_alone: bool,
    entries_kept: usize,
    next_once: u64,
    origins: u64,
    is_healed: bool,
    /// Proposals of the end: all must be decided.
    last_wishes: Vec<(NodeId, u64)>,
    /// Those of them that a node has not taken yet, because too many others wait there.
    refused: Vec<(NodeId, Change)>,
}

/// Runs a seed.
///
/// # Errors
/// If a promise was broken.
pub fn run(seed: u64, mutation: Option<Mutation>) -> Result<Summary, Broken> {
    let mut simulation = Simulation::new(seed, mutation);
    simulation.go().map_err(|what| Broken { what, at_ms: simulation.now / 1_000_000 })?;
    let truth = &simulation.truth;
    Ok(Summary { entries: truth.len(), counts: truth.counts, trace: truth.trace() })
}

impl Simulation {
    fn new(seed: u64, mutation: Option<Mutation>) -> Simulation {
        let mut rng = Rng::with_seed(seed);
        let identity = Identity { cluster: ClusterId(seed), session: SessionId::DEFAULT };
        let state = State::new(identity, NodeId(1));
        let count = rng.u16(3..=8);
        let node = |id: u16, rng: &mut Rng| Node {
            log: None,
            disk: disk(mutation),
            state: state.clone(),
            life: u64::from(id),
            is_out: true,
            sleeps_until: 0,
            drift: rng.i64(-20..=20),
        };
        let nodes = (1..=count).map(|id| (NodeId(id), node(id, &mut rng))).collect();
        let faults = Faults::draw(&mut rng, count);
        let entries_kept = rng.usize(4..60);
        Simulation {
            rng,
            now: 0,
            sequence: 0,
            events: BTreeMap::new(),
            nodes,
            faults,
            truth: Truth::new(state),
            mutation,
            disks_fail_alone: seed % 2 == 1,
            entries_kept,
            next_once: ONCE,
            origins: 0,
            is_healed: false,
            last_wishes: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn go(&mut self) -> Result<(), String> {
        let first = NodeId(1);
        let origin = self.origin();
        let node = self.nodes.get_mut(&first).ok_or("there is a first node")?;
        let log = Voters::found(first, origin, node.state.clone(), Box::new(node.disk.clone()));
        node.log = Some(log.map_err(|error| error.to_string())?.with_entries_kept(self.entries_kept));
        node.is_out = false;
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.at(self.now + TICK_NS, Event::Tick(id));
            if id != first {
                self.at(self.now + TICK_NS, Event::Start(id));
            }
        }
        let end = self.rng.u64(20..90) * SECOND_NS;
        self.at(SECOND_NS, Event::Client);
        self.at(2 * SECOND_NS, Event::Fault);
        self.at(end, Event::Heal);
        self.at(end + HEAL_NS, Event::Finish);
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            if matches!(event, Event::Finish) {
                return self.finish();
            }
            self.take(event)?;
        }
        Err("nothing happens any more".into())
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((time, self.sequence), event);
    }

    fn origin(&mut self) -> u64 {
        self.origins += 1;
        (self.origins << 8) | 1
    }

    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver { from, to, life, message } => self.deliver(from, to, life, message),
            Event::Tick(id) => self.tick(id),
            Event::Start(id) => self.start(id),
            Event::Client => self.client(),
            Event::Fault => self.fault(),
            Event::Heal => self.heal(),
            Event::Finish => Ok(()),
        }
    }

    /// The time that the node reads from its clock.
    fn clock(&self, id: NodeId) -> Time {
        let drift = self.nodes.get(&id).map_or(0, |node| node.drift);
        let fast = (i128::from(self.now) * i128::from(1000 + drift)) / 1000;
        Time(u64::try_from(fast).unwrap_or(0))
    }

    fn tick(&mut self, id: NodeId) -> Result<(), String> {
        self.at(self.now + TICK_NS, Event::Tick(id));
        let now = self.clock(id);
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if node.sleeps_until > self.now {
            return Ok(());
        }
        if let Some(log) = &mut node.log {
            log.tick(now);
        }
        self.look(id)?;
        let again: Vec<_> = self.refused.extract_if(.., |(wisher, _)| *wisher == id).collect();
        again.into_iter().try_for_each(|(_, wish)| self.propose_last(id, wish))
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, life: u64, message: Vec<u8>) -> Result<(), String> {
        let is_same_life = self.nodes.get(&from).is_some_and(|node| node.life == life);
        let Some(node) = self.nodes.get_mut(&to) else { return Ok(()) };
        if node.sleeps_until > self.now {
            let later = node.sleeps_until;
            self.at(later, Event::Deliver { from, to, life, message });
            return Ok(());
        }
        // Nobody talks to a life that is over.
        let Some(log) = node.log.as_mut().filter(|_| is_same_life) else { return Ok(()) };
        self.truth.note(u64::from(from.0), u64::from(to.0), &message);
        // Nobody lies here, so that no message is a bad one.
        if let Err(error @ LogError::BadMessage { .. }) = log.step(from, &message) {
            return Err(format!("{to}: {error}"));
        }
        self.look(to)
    }

    /// Judges what a node has decided, and sends what it says.
    fn look(&mut self, id: NodeId) -> Result<(), String> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let Some(log) = &mut node.log else { return Ok(()) };
        if let Err(LogError::Storage(_)) = log.decided_since(log.base().applied()) {
            self.truth.counts.torn += 1;
            // The power is gone, or the disk alone.
            if !self.disks_fail_alone || self.is_healed || self.rng.bool() {
                return self.crash(id);
            }
            log.retire();
            self.truth.counts.retired += 1;
            return self.look(id);
        }
        self.truth.judge(id, log, &mut node.state)?;
        let life = node.life;
        for out in log.take_outgoing() {
            for at in self.faults.arrivals(&mut self.rng, self.now, (id, out.to), &mut self.truth.counts) {
                let message = out.message.clone();
                self.at(at, Event::Deliver { from: id, to: out.to, life, message });
            }
        }
        Ok(())
    }

    fn crash(&mut self, id: NodeId) -> Result<(), String> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if node.log.take().is_none() {
            return Ok(());
        }
        // What it wanted ends with it, decided or not.
        self.last_wishes.retain(|(wisher, _)| *wisher != id);
        self.refused.retain(|(wisher, _)| *wisher != id);
        let rng = &mut self.rng;
        node.disk.crash(|unsynced| rng.usize(0..=unsynced));
        node.sleeps_until = 0;
        self.truth.counts.crashes += 1;
        let longest = if self.is_healed { SECOND_NS } else { 8 * SECOND_NS };
        let at = self.now + self.rng.u64(SECOND_NS / 100..longest);
        self.at(at, Event::Start(id));
        Ok(())
    }

    /// A process starts: with its log, or it asks the others to let it in.
    fn start(&mut self, id: NodeId) -> Result<(), String> {
        let origin = self.origin();
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.log.is_none()) else { return Ok(()) };
        if node.is_out {
            return self.ask_to_be_let_in(id, origin);
        }
        let log = Voters::restart(id, origin, Box::new(node.disk.clone())).map_err(|error| format!("{id}: {error}"))?;
        let log = log.ok_or_else(|| format!("{id}: nothing of its log was kept"))?;
        node.state = log.base().clone();
        self.truth.same_state(id, &node.state)?;
        node.log = Some(log.with_entries_kept(self.entries_kept));
        self.look(id)
    }

    fn ask_to_be_let_in(&mut self, id: NodeId, origin: u64) -> Result<(), String> {
        let nonce = self.nodes.get(&id).map_or(0, |node| node.life);
        let member = |state: &State| state.member(id).map(|entry| entry.nonce);
        let letter_in = self.nodes.values().find(|node| node.log.is_some() && member(&node.state) == Some(nonce));
        if let Some(state) = letter_in.map(|node| node.state.clone()) {
            let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
            let log = Voters::follow(id, origin, state.clone(), Box::new(node.disk.clone()));
            node.log = log.ok().map(|log| log.with_entries_kept(self.entries_kept));
            node.state = state;
            node.is_out = false;
            return self.look(id);
        }
        self.at(self.now + SECOND_NS, Event::Start(id));
        let Some(through) = self.someone() else { return Ok(()) };
        let old = self.nodes.get(&through).and_then(|node| node.state.member(id).cloned());
        if let Some(old) = old {
            let (incarnation, cause) = (old.incarnation, kddm_view::Cause::Lease);
            self.propose(through, Change::Expel { node: id, incarnation, cause })?;
        }
        let join = Change::Join { node: Some(id), address: format!("{id}:1"), nonce, site: Site::default() };
        self.propose(through, join)
    }

    /// A node that is up.
    fn someone(&mut self) -> Option<NodeId> {
        let up: Vec<NodeId> = self.nodes.iter().filter(|(_, node)| node.log.is_some()).map(|(id, _)| *id).collect();
        self.rng.choice(&up).copied()
    }

    fn propose(&mut self, id: NodeId, change: Change) -> Result<(), String> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if let Some(log) = &mut node.log
            && node.sleeps_until <= self.now
        {
            // One that has too much to do refuses: nothing has happened then.
            let _refused = log.propose(change);
        }
        self.look(id)
    }

    /// Somebody wants something.
    fn client(&mut self) -> Result<(), String> {
        let next = self.now + self.rng.u64(SECOND_NS / 50..SECOND_NS);
        self.at(next, Event::Client);
        let Some(id) = self.someone() else { return Ok(()) };
        let change = match self.rng.u8(0..10) {
            0..2 => self.voters(),
            2..5 => self.expulsion(id),
            _ => Some(self.wish(id)),
        };
        change.map_or(Ok(()), |change| self.propose(id, change))
    }

    /// A join by a stranger, whose number says who wants it.
    fn wish(&mut self, id: NodeId) -> Change {
        self.next_once += 1;
        let nonce = self.next_once << 8 | u64::from(id.0);
        let node = Some(NodeId(self.rng.u16(100..140)));
        let zone = self.rng.bool().then(|| "zone".to_owned());
        Change::Join { node, address: "x:1".into(), nonce, site: Site { zone, ..Site::default() } }
    }

    /// The epoch grows with each.
    fn expulsion(&mut self, by: NodeId) -> Option<Change> {
        let state = &self.nodes.get(&by)?.state;
        let strangers: Vec<(NodeId, _)> =
            state.members().filter(|(id, _)| id.0 >= 100).map(|(id, entry)| (id, entry.incarnation)).collect();
        let (node, incarnation) = self.rng.choice(&strangers).copied()?;
        Some(Change::Expel { node, incarnation, cause: kddm_view::Cause::Proof })
    }

    /// Other voters among those who are members.
    fn voters(&mut self) -> Option<Change> {
        let mut members: Vec<NodeId> = self.nodes.iter().filter(|(_, node)| !node.is_out).map(|(id, _)| *id).collect();
        let least = if self.faults.wipes { 3 } else { 1 };
        let sizes: Vec<usize> =
            [1, 3, 3, 5, 5].into_iter().filter(|size| (least..=members.len()).contains(size)).collect();
        let size = self.rng.choice(&sizes).copied()?;
        self.rng.shuffle(&mut members);
        members.truncate(size);
        members.sort_unstable();
        Some(Change::Voters { voters: members })
    }

    fn heal(&mut self) -> Result<(), String> {
        self.is_healed = true;
        self.faults.heal();
        self.events.retain(|_, event| !matches!(event, Event::Fault | Event::Client));
        for (id, node) in &mut self.nodes {
            node.sleeps_until = 0;
            if node.log.is_none() {
                self.sequence += 1;
                self.events.insert((self.now + u64::from(id.0), self.sequence), Event::Start(*id));
            }
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            // Somebody sees to the disk.
            if self.nodes.get(&id).and_then(|node| node.log.as_ref()).is_some_and(|log| log.failure().is_some()) {
                self.crash(id)?;
            }
            if self.nodes.get(&id).is_some_and(|node| node.log.is_some()) {
                let wish = self.wish(id);
                self.last_wishes.push((id, self.next_once << 8 | u64::from(id.0)));
                self.propose_last(id, wish)?;
            }
        }
        Ok(())
    }

    /// A proposal of the end. Where too many others wait still, its node is asked again until it takes it.
    fn propose_last(&mut self, id: NodeId, wish: Change) -> Result<(), String> {
        let log = self.nodes.get_mut(&id).and_then(|node| node.log.as_mut());
        let answer = log.map(|log| log.propose(wish.clone()));
        if matches!(answer, Some(Err(LogError::TooManyProposals { .. }))) {
            self.truth.counts.refused += 1;
            self.refused.push((id, wish));
        }
        self.look(id)
    }

    fn finish(&mut self) -> Result<(), String> {
        for (id, nonce) in &self.last_wishes {
            if !self.truth.has(*nonce) {
                return Err(format!("proposal {nonce} of {id} after the healing was not decided: {}", self.told()));
            }
        }
        let behind = self.nodes.iter().find(|(_, node)| node.log.is_none() || node.state.applied() != self.truth.len());
        match behind {
            Some((id, _)) => Err(format!("{id} has not all {} entries: {}", self.truth.len(), self.told())),
            None => Ok(()),
        }
    }

    fn told(&self) -> String {
        self.nodes.iter().map(|(id, node)| format!("\n  {id} out {} {:?}", node.is_out, node.log)).collect()
    }
}

fn disk(mutation: Option<Mutation>) -> MemoryDisk {
    mutation.map_or_else(MemoryDisk::default, MemoryDisk::broken)
}

/// Whether a disk has anything on it: a node without a log on it is a new one.
fn is_blank(disk: &MemoryDisk) -> bool {
    matches!(disk.clone().load(), Ok(None))
}
