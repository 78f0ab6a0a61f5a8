//! The whole stack, from one seed: the real core, the real log of several voters, which decides the views, and
//! the real leases, which gate every use, on clocks that drift.
//!
//! [`run`](crate::run) knows at once who is gone. Here nobody does: links are cut one way or between some for
//! longer than a lease, nodes sleep and go on with what they had, processes are killed at any moment, also
//! while the others recover from the last one, and disks tear what is being written. Whoever cannot renew its lease
//! fences itself, is expelled by the leader after the lease and what clocks may differ, and comes back as a
//! new life. In half of the seeds what goes wrong is no more than the replicas make up for, and the next fault
//! waits until all is whole. At the end all is healed, and every node reads every object.
//!
//! What is below the nodes is simpler than there: a connection of two lives gives each message once and in order,
//! late, and not at all after a life has ended.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use fastrand::Rng;
use kddm_core::id::{Incarnation, NodeId, Placement};
use kddm_history::Verdict;
use kddm_view::lease::{Grant, Renewal};

use crate::agent::ClientNumber;
use crate::recorder::Recorder;

mod check;
mod clients;
mod coming;
mod counts;
mod decide;
mod faults;
mod keeper;
mod leaving;
mod lives;
mod network;
mod plan;
mod process;
mod slip;

use check::Truth;
use clients::Client;
pub use counts::Counts;
use network::Network;
pub use plan::Plan;
use process::Process;
pub use slip::Slip;

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000 * MICRO;
const SECOND: u64 = 1_000 * MILLI;

/// How often a node looks at its clock, ns.
const TICK_NS: u64 = 20 * MILLI;

/// How long after all is healed everybody is a member again, ns: leases, failed elections, and joins one after
/// the other.
const HEAL_NS: u64 = 60 * SECOND;

/// How long the last looks at all objects may take, ns.
const LOOK_NS: u64 = 30 * SECOND;

/// A node that has seen more changes of the epoch than it remembers takes what it has forgotten for more than its
/// replicas make up for, and never says again that all is whole.
const EPOCHS_REMEMBERED: u32 = 8;

/// Steps for judging one object of one run.
const BUDGET: u64 = 4_000_000;

/// Many times what any seed needs.
const EVENT_LIMIT: u64 = 3_000_000;

/// Steps told of a run that fails.
const TOLD: usize = 400;

/// What a run came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// What happened, and how often.
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
    /// What happened last, oldest first.
    pub told: Vec<String>,
}

/// What nodes say to each other besides what the core does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Word {
    /// Of the log; from that life of it.
    Log(u64, Vec<u8>),
    /// A member asks the leader for time, and says in which placement all was whole there.
    Renew { life: Incarnation, renewal: Renewal, whole: Option<Placement> },
    /// The leader gives it.
    Granted { life: Incarnation, grant: Grant },
    /// A leader asks a voter to confirm its term. `sent` is a time of the leader's clock.
    Ask { term: u64, sent: u64 },
    /// The voter has promised nothing to a later one.
    Confirmed { term: u64, sent: u64 },
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Event {
    Datagram {
        from: NodeId,
        to: NodeId,
        word: Word,
    },
    /// The first of what one life has said to another may arrive.
    Stream(Incarnation, Incarnation),
    Tick(NodeId),
    /// A life goes on with its views and its shards.
    Step(NodeId, Incarnation),
    /// A client goes on, if it still waits for just this.
    Client(ClientNumber, u64),
    /// It has waited long enough.
    Limit(ClientNumber, u64),
    Start(NodeId),
    /// A node hears that a process is gone for certain.
    Proof {
        at: NodeId,
        dead: Incarnation,
    },
    Fault,
    Heal,
    Look,
    Finish,
}

struct Simulation {
    plan: Plan,
    slip: Option<Slip>,
    rng: Rng,
    now: u64,
    sequence: u64,
    events: BTreeMap<(u64, u64), Event>,
    processes: BTreeMap<NodeId, Process>,
    /// Whose life each is or was.
    births: BTreeMap<Incarnation, NodeId>,
    network: Network,
    clients: Vec<Client>,
    recorder: Recorder,
    truth: Truth,
    values: u32,
    nonces: u64,
    origins: u64,
    hasher: DefaultHasher,
    told: VecDeque<String>,
    tells: bool,
}

/// Runs a seed, maybe with one thing done wrongly.
///
/// # Errors
/// If a promise was broken.
pub fn run(seed: u64, slip: Option<Slip>) -> Result<Summary, Broken> {
    run_telling(seed, slip, false)
}

/// The same; if it fails, tells what happened last.
///
/// # Errors
/// If a promise was broken.
pub fn run_telling(seed: u64, slip: Option<Slip>, tells: bool) -> Result<Summary, Broken> {
    let mut simulation = Simulation::new(Plan::draw(seed), slip);
    simulation.tells = tells;
    let done = simulation.go();
    let (at_ms, told) = (simulation.now / MILLI, std::mem::take(&mut simulation.told).into());
    done.map_err(|what| Broken { what, at_ms, told })?;
    Ok(Summary { counts: simulation.truth.counts, trace: simulation.hasher.finish() })
}

impl Simulation {
    fn new(plan: Plan, slip: Option<Slip>) -> Simulation {
        let state = plan.first_state();
        let processes = (1..=plan.nodes).map(NodeId).map(|id| (id, Process::new(id, &plan, state.clone()))).collect();
        Simulation {
            network: Network::new(&plan),
            truth: Truth::new(state),
            rng: Rng::with_seed(plan.seed ^ 0x57ac),
            clients: Client::all(&plan),
            plan,
            slip,
            now: 0,
            sequence: 0,
            events: BTreeMap::new(),
            processes,
            births: BTreeMap::new(),
            recorder: Recorder::default(),
            values: 0,
            nonces: 0,
            origins: 0,
            hasher: DefaultHasher::new(),
            told: VecDeque::new(),
            tells: false,
        }
    }

    fn is(&self, slip: Slip) -> bool {
        self.slip == Some(slip)
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.tells {
            if self.told.len() >= TOLD {
                self.told.pop_front();
            }
            self.told.push_back(format!("{:>10} us  {}", self.now / MICRO, what()));
        }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((time.max(self.now), self.sequence), event);
    }

    fn go(&mut self) -> Result<(), String> {
        for id in self.processes.keys().copied().collect::<Vec<_>>() {
            let at = u64::from(id.0) * MILLI;
            self.at(at, Event::Start(id));
            self.at(at + TICK_NS, Event::Tick(id));
        }
        for number in 0..self.clients.len() as ClientNumber {
            self.at(SECOND, Event::Client(number, 0));
        }
        let end = self.plan.lasts_ns;
        self.at(self.plan.quiet_ns, Event::Fault);
        self.at(end, Event::Heal);
        self.at(end + HEAL_NS, Event::Look);
        self.at(end + HEAL_NS + LOOK_NS, Event::Finish);
        let mut count = 0_u64;
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            count += 1;
            if count > EVENT_LIMIT {
                return Err(format!("I6: the run does not come to rest: {}", self.all_told()));
            }
            if matches!(event, Event::Finish) {
                return self.finish();
            }
            self.take(event)?;
        }
        Err("nothing happens any more".into())
    }

    /// Who does something in an event: while it sleeps, the event waits.
    fn sleeper(&self, event: &Event) -> Option<NodeId> {
        match *event {
            Event::Datagram { to, .. } => Some(to),
            Event::Stream(_, to) => self.node_of(to),
            Event::Step(node, _) | Event::Tick(node) => Some(node),
            Event::Proof { at, .. } => Some(at),
            Event::Client(number, _) | Event::Limit(number, _) => Some(self.clients[usize::from(number)].node),
            Event::Start(_) | Event::Fault | Event::Heal | Event::Look | Event::Finish => None,
        }
    }

    fn take(&mut self, event: Event) -> Result<(), String> {
        if let Some(until) = self.sleeper(&event).map(|node| self.processes[&node].sleeps_until)
            && until > self.now
        {
            self.at(until, event);
            return Ok(());
        }
        match event {
            Event::Datagram { from, to, word } => self.heard(from, to, word),
            Event::Stream(from, to) => self.stream(from, to),
            Event::Tick(node) => self.tick(node),
            Event::Step(node, life) => self.step(node, life),
            Event::Client(number, token) => self.client(number, token),
            Event::Limit(number, token) => self.limit(number, token),
            Event::Start(node) => self.start(node),
            Event::Proof { at, dead } => self.proven(at, dead),
            Event::Fault => self.fault(),
            Event::Heal => {
                self.heal();
                Ok(())
            }
            Event::Look => {
                self.look_at_all();
                Ok(())
            }
            Event::Finish => Ok(()),
        }
    }

    /// Everybody has read everything: what did the clients see?
    fn finish(&mut self) -> Result<(), String> {
        if let Some(client) = self.clients.iter().find(|client| !client.is_done()) {
            return Err(format!(
                "I6: client {} at node {} never ended: {}",
                client.number,
                client.node,
                self.all_told()
            ));
        }
        let newest = self.truth.state().view();
        let is_behind = |process: &&Process| process.life.as_ref().is_none_or(|life| *life.agent.view() != newest);
        if let Some(process) = self.processes.values().find(is_behind) {
            return Err(format!("I7: node {} is not where the others are: {}", process.id, self.all_told()));
        }
        let remembers = newest.epoch.0 <= EPOCHS_REMEMBERED;
        if remembers && !self.truth.was_uncovered() && !self.truth.state().is_healed() {
            return Err(format!("I6: nobody has said that all is whole again: {}", self.all_told()));
        }
        let history = self.truth.with_losses(std::mem::take(&mut self.recorder.operations));
        self.truth.counts.operations = history.len() as u64;
        match kddm_history::check(&history, BUDGET).verdict {
            Verdict::Linearizable => Ok(()),
            Verdict::NotLinearizable(offence) => Err(format!("I2: not linearizable: {offence}")),
            Verdict::Unknown(object) => Err(format!("I2: the budget does not suffice to judge object {object}")),
        }
    }

    fn all_told(&self) -> String {
        let processes: String = self.processes.values().map(Process::told).collect();
        format!("decided {:?}{processes}", self.truth.state().view())
    }

    /// Something that must be the same the second time.
    fn trace(&mut self, what: impl Hash) {
        (self.now, what).hash(&mut self.hasher);
    }
}
