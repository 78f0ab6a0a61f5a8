//! One run: a whole cluster in one thread, driven by a clock that jumps from event to event. The seed
//! decides everything, and the same seed gives the same run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};

use kddm_core::id::{NodeId, ObjectId};
use kddm_history::{Operation, Verdict};
use serde::Serialize;

use crate::agent::{ClientNumber, Generation, Outcome, Packet, Wish, generation};
use crate::fault::{self, Counts, Fault};
use crate::network::{self, Network};
use crate::recorder::Recorder;
use crate::scenario::{Cut, Scenario};
use crate::trace;
use crate::world::{Action, Doing, Note, World};

mod clients;

/// What a run came to.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: u16,
    /// Operations begun.
    pub operations: u64,
    /// Operations that ended with what they were for, by their kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Messages handled.
    pub messages: u64,
    /// Read copies of former lives that were found to be the newest.
    pub revalidated: u64,
    /// Frames that came again after a reconnect, or twice.
    pub repeated_frames: u64,
    /// How often each fault happened.
    pub faults: Counts,
    /// Faults that the seed asks for.
    pub asked: BTreeSet<Fault>,
    /// Simulated time.
    pub simulated_ns: u64,
    /// A hash of all steps with their times, and of the world at the end: equal for equal seeds.
    pub trace_hash: u64,
    /// The first broken invariant.
    pub broken: Option<String>,
    /// The last steps that concern the object at which it broke.
    pub trace: Vec<String>,
    /// What the clients saw.
    #[serde(skip)]
    pub history: Vec<Operation>,
}

/// Many times what any scenario needs to come to rest.
const EVENT_LIMIT: u64 = 500_000;
/// Steps for judging one object of one run: histories of a run are short.
const BUDGET: u64 = 60_000_000;

/// Runs one seed to its end.
pub fn run(seed: u64) -> Report {
    run_telling(seed, None)
}

/// Only what a seed breaks, without how it came to that.
pub fn broken(seed: u64) -> Option<String> {
    run_telling(seed, None).broken
}

/// The same; if it fails, the trace is that of the given object.
pub fn run_telling(seed: u64, object: Option<ObjectId>) -> Report {
    run_scenario(&Scenario::of(seed, &Cut::default()), object)
}

/// Runs a scenario to its end; if it fails, tells the trace of the object at which it broke, or of the
/// given one.
pub fn run_scenario(scenario: &Scenario, object: Option<ObjectId>) -> Report {
    let mut engine = Engine::new(scenario);
    engine.run();
    engine.report(object)
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client's pause or hold is over; the number tells whether it still waits for just this.
    Wake(ClientNumber, u64),
    /// A client has waited long enough.
    Limit(ClientNumber, u64),
    /// Something below the nodes.
    Net(network::Event),
    /// A step of the membership, by its number among those on the agenda.
    Membership(u64),
    /// A node hears that a set is destroyed.
    Destroy(NodeId, Generation),
    /// A node crashes, or is expelled and comes back.
    Fail(NodeId, Fault),
    /// Somebody accepts what is lost.
    Accept,
}

/// A client as the engine sees it.
#[derive(Clone, Copy, Default)]
struct Clock {
    /// Changes whenever the client goes on to something else: events for what was before are void.
    token: u64,
    /// It waits for its node to share objects.
    is_idle: bool,
}

struct Engine<'a> {
    scenario: &'a Scenario,
    world: World,
    network: Network<'a>,
    random: fastrand::Rng,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    /// Numbers events, so that those of one time keep their order.
    scheduled: u64,
    membership: BTreeMap<u64, Action>,
    clocks: Vec<Clock>,
    recorder: Recorder,
    actions: Vec<(u64, Action)>,
    faults: Counts,
    kinds: BTreeMap<&'static str, u64>,
    operations: u64,
    messages: u64,
    revalidated: u64,
    hasher: DefaultHasher,
}

impl<'a> Engine<'a> {
    fn new(scenario: &'a Scenario) -> Engine<'a> {
        let mut engine = Engine {
            scenario,
            world: scenario.world(),
            network: Network::new(scenario),
            random: fastrand::Rng::with_seed(scenario.seed ^ 0x5eed),
            now: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            membership: BTreeMap::new(),
            clocks: vec![Clock::default(); scenario.programs.len()],
            recorder: Recorder::default(),
            actions: Vec::new(),
            faults: Counts::default(),
            kinds: BTreeMap::new(),
            operations: 0,
            messages: 0,
            revalidated: 0,
            hasher: DefaultHasher::new(),
        };
        for client in 0..engine.clocks.len() as ClientNumber {
            engine.think(client);
        }
        for destruction in &scenario.destructions {
            for (node, at) in &destruction.at_ns {
                engine.schedule(*at, Event::Destroy(*node, destruction.generation));
            }
        }
        for (fault, failures) in [(Fault::Crash, &scenario.crashes), (Fault::Return, &scenario.returns)] {
            for (node, at) in failures {
                engine.schedule(*at, Event::Fail(*node, fault));
            }
        }
        for at in &scenario.acceptances {
            engine.schedule(*at, Event::Accept);
        }
        for node in (1..=scenario.nodes).map(NodeId) {
            engine.follow(node);
        }
        engine
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, event)));
    }

    fn run(&mut self) {
        let mut count = 0;
        loop {
            let Some(Reverse((at, _, event))) = self.events.pop() else {
                // What is still lost then is accepted: all is to come to rest.
                let Some(accepts) = self.world.acceptance().filter(|_| self.world.broken.is_none()) else { break };
                self.accept(accepts);
                continue;
            };
            self.now = at;
            self.handle(event);
            if let Some(broken) = self.network.broken.take() {
                self.world.breaks(broken);
            }
            count += 1;
            if count > EVENT_LIMIT {
                self.world.breaks("I6: the run does not come to rest");
            }
            if self.world.broken.is_some() {
                return;
            }
        }
        if !self.world.is_stuck_or_done() {
            let under_way: Vec<_> = self.world.links.keys().collect();
            let what = format!("I6: nothing happens any more, and yet there is something to do; links {under_way:?}");
            return self.world.breaks(what);
        }
        self.judge();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wake(client, token) if self.is_due(client, token) => self.wake(client),
            Event::Limit(client, token) if self.is_due(client, token) => {
                if self.world.clients[usize::from(client)].doing == Doing::Waiting {
                    self.faults.add(Fault::Cancel);
                    self.apply(Action::Cancel(client));
                }
            }
            Event::Wake(..) | Event::Limit(..) => {}
            Event::Net(event) => {
                let mut agenda = Vec::new();
                let receiver = if let network::Event::Arrive(_, to, ..) = event { Some(to) } else { None };
                self.network.handle(&self.world, self.now, event, &mut agenda);
                for (at, event) in agenda {
                    self.schedule(at, Event::Net(event));
                }
                if let Some(receiver) = receiver {
                    self.handle_arrived(receiver);
                }
            }
            Event::Membership(number) => {
                let Some(action) = self.membership.remove(&number) else { return };
                let mut possible = Vec::new();
                self.world.view_actions(&mut possible);
                if possible.contains(&action) {
                    if action == Action::Heal {
                        self.faults.add(Fault::Heal);
                    }
                    self.apply(action);
                } else {
                    self.membership_goes_on();
                }
            }
            // It has left, or is the last.
            Event::Fail(node, _) if !self.world.may_crash(node) => {}
            Event::Fail(node, fault) => {
                self.faults.add(fault);
                self.apply(if fault == Fault::Return { Action::Freeze(node) } else { Action::Crash(node) });
            }
            Event::Accept => {
                let sets: BTreeSet<Generation> = self.world.truth.keys().map(|object| generation(*object)).collect();
                for accepts in sets.into_iter().filter_map(|set| self.world.set_acceptance(set)).collect::<Vec<_>>() {
                    match accepts {
                        // Half of the times one object after the other, whether it is lost or not.
                        Action::AcceptSet(node, set) if self.now.is_multiple_of(2) => self.accept_each(node, set),
                        _ => self.accept(accepts),
                    }
                }
            }
            Event::Destroy(node, _) if self.world.is_dead(node) => {}
            Event::Destroy(node, generation) => {
                self.faults.add(Fault::Destroy);
                self.apply(Action::Destroy(node, generation));
            }
        }
    }

    fn accept_each(&mut self, node: NodeId, set: Generation) {
        let objects = self.world.truth.keys().copied().filter(|object| generation(*object) == set);
        for object in objects.collect::<Vec<_>>() {
            self.accept(Action::Accept(node, object));
        }
    }

    fn accept(&mut self, accepts: Action) {
        self.faults.add(Fault::Accept);
        let is_meant = |object: ObjectId| match accepts {
            Action::Accept(_, of) => of == object,
            Action::AcceptSet(_, of) => generation(object) == of,
            _ => false,
        };
        for object in self.world.truth.keys().copied().filter(|object| is_meant(*object)) {
            if self.world.may_be_lost(object) {
                self.recorder.accepted(self.now, object);
            }
        }
        self.apply(accepts);
    }

    fn is_due(&self, client: ClientNumber, token: u64) -> bool {
        self.clocks[usize::from(client)].token == token
    }

    /// Does one step, and whatever follows from it at this moment.
    fn apply(&mut self, action: Action) {
        let at = self.world.concerns(action).map(|(node, _)| node);
        self.step(action);
        if let Some(node) = at {
            self.handle_arrived(node);
        }
    }

    fn step(&mut self, action: Action) {
        (self.now, action).hash(&mut self.hasher);
        self.actions.push((self.now, action));
        let at = self.world.concerns(action).map(|(node, _)| node);
        if let Action::Deliver(from, to) = action {
            self.network.take(from, to);
            let first = self.world.links.get(&(from, to)).and_then(|link| link.front());
            self.revalidated += first.map_or(0, Packet::revalidates);
            self.messages += 1;
        }
        self.world.apply(action);
        self.network.bury(&self.world);
        self.world.reborn.iter().for_each(|node| self.network.greet_anew(*node));
        let notes = std::mem::take(&mut self.world.notes);
        for note in notes.iter().copied() {
            self.recorder.note(self.now, note);
            self.noted(note);
        }
        if let Some(node) = at {
            self.follow(node);
        }
        if let Action::Install(node) = action {
            for client in 0..self.clocks.len() as ClientNumber {
                if self.world.clients[usize::from(client)].node == node && self.clocks[usize::from(client)].is_idle {
                    self.think(client);
                }
            }
        }
    }

    /// What a node has said goes on its way, and the next step of the membership gets its time.
    fn follow(&mut self, node: NodeId) {
        let mut agenda = Vec::new();
        self.network.collect(&self.world, node, self.now, &mut agenda);
        for (at, event) in agenda {
            self.schedule(at, Event::Net(event));
        }
        self.membership_goes_on();
    }

    fn membership_goes_on(&mut self) {
        let mut possible = Vec::new();
        self.world.view_actions(&mut possible);
        for action in possible {
            if !self.membership.values().any(|planned| *planned == action) {
                let is_decision = matches!(action, Action::Decide | Action::Heal);
                let most = if is_decision { self.scenario.decide_ns } else { self.scenario.settle_ns };
                let at = self.now + self.random.u64(0..=most);
                self.schedule(at, Event::Membership(self.scheduled + 1));
                self.membership.insert(self.scheduled, action);
            }
        }
    }

    /// Hands a node what has come out of its sessions and may be handled in its view.
    fn handle_arrived(&mut self, to: NodeId) {
        let nodes = || (1..=self.scenario.nodes).map(NodeId);
        let next = |engine: &Self, from| {
            let has = engine.world.broken.is_none() && engine.network.arrived(from, to) > 0;
            if has { engine.world.next_delivery(from, to) } else { None }
        };
        while let Some(action) = nodes().find_map(|from| next(self, from)) {
            self.step(action);
        }
    }

    fn noted(&mut self, note: Note) {
        let client = note.client();
        let clock = &mut self.clocks[usize::from(client)];
        match note {
            Note::Began(..) => {
                clock.token += 1;
                let token = clock.token;
                self.operations += 1;
                if let Some(limit) = self.timed(client).and_then(|timed| timed.limit_ns) {
                    self.schedule(self.now + limit, Event::Limit(client, token));
                }
            }
            Note::Granted(_, _, outcome, _) => {
                clock.token += 1;
                let token = clock.token;
                if self.world.clients[usize::from(client)].doing == Doing::Nothing {
                    self.counted(Wish::Also);
                    return self.think(client);
                }
                let Some(timed) = self.timed(client) else { return };
                if !(outcome == Outcome::Writing && timed.wish.reads()) {
                    self.counted(timed.wish);
                }
                self.schedule(self.now + timed.hold_ns, Event::Wake(client, token));
            }
            Note::Removes(..) => {
                clock.token += 1;
                let token = clock.token;
                if let Some(limit) = self.timed(client).and_then(|timed| timed.limit_ns) {
                    self.schedule(self.now + limit, Event::Limit(client, token));
                }
            }
            Note::Ended(_, object, outcome) => {
                if outcome == Outcome::Done
                    && let Some(wish) = self.wish_of_last(client, object)
                {
                    self.counted(wish);
                }
                self.think(client);
            }
            Note::Puts(..) => clock.token += 1,
            Note::GaveUp(..) | Note::Released(..) | Note::Safe(..) => self.think(client),
        }
    }

    fn counted(&mut self, wish: Wish) {
        *self.kinds.entry(wish.name()).or_insert(0) += 1;
    }

    /// Everything is over: what did the clients see?
    fn judge(&mut self) {
        for destruction in &self.scenario.destructions {
            let begins = destruction.at_ns.iter().map(|(_, at)| *at).min().unwrap_or(u64::MAX);
            self.recorder.forget(destruction.generation, begins);
        }
        self.recorder.look(self.now, &self.world);
        match kddm_history::check(&self.recorder.operations, BUDGET).verdict {
            Verdict::Linearizable => {}
            Verdict::NotLinearizable(offence) => self.world.breaks(format!("I2: not linearizable: {offence}")),
            Verdict::Unknown(object) => {
                self.world.breaks(format!("I2: the budget does not suffice to judge object {object}"));
            }
        }
        let counts = &self.network.counts;
        if let Some(fault) = fault::missing(counts, self.network.frames, self.network.writes, &self.scenario.rates) {
            self.world.breaks(format!("the run proves nothing: the fault {} never happened", fault.name()));
        }
    }

    fn report(mut self, object: Option<ObjectId>) -> Report {
        self.world.hash(&mut self.hasher);
        let mut faults = self.faults;
        faults.absorb(&self.network.counts);
        for change in &self.scenario.changes {
            let fault = if matches!(change, crate::views::Change::Join(_)) { Fault::Join } else { Fault::Leave };
            faults.add(fault);
        }
        let object = object.or_else(|| self.world.broken.as_deref().and_then(trace::object_in));
        let trace =
            if self.world.broken.is_some() { trace::told(self.scenario, &self.actions, object) } else { Vec::new() };
        Report {
            seed: self.scenario.seed,
            nodes: self.scenario.nodes,
            operations: self.operations,
            kinds: self.kinds,
            messages: self.messages,
            revalidated: self.revalidated,
            repeated_frames: self.network.resent,
            faults,
            asked: self.scenario.asked(),
            simulated_ns: self.now,
            trace_hash: self.hasher.finish(),
            broken: self.world.broken,
            trace,
            history: self.recorder.operations,
        }
    }
}
