//! A whole cluster as one value: nodes, what is under way between them, clients, and what an
//! observer outside knows to be true. Every step is an [`Action`]; there is no other change.

use std::collections::{BTreeMap, VecDeque};

use kddm_core::id::{Epoch, NodeId, ObjectId, RequestId, Tenure, Version};
use kddm_core::message::{Message, RequestKind};
use kddm_core::shard::Main;

use self::clients::Ending;
use crate::agent::{
    Agent, ClientNumber, Effects, GENERATION_SHIFT, Generation, Outcome, Packet, REPLICAS_SHIFT, Value, Wish,
    generation, is_known_drop,
};
use crate::check;
use crate::views::{Change, Views};

mod actions;
mod back;
mod clients;
mod crash;
pub mod fingerprint;
mod membership;
mod note;

pub use note::{Note, Notes};

/// One operation of a client.
pub type Operation = (ObjectId, Wish);

/// What a client is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Doing {
    /// About to begin its next operation, or at the end of its plan.
    Nothing,
    /// It has asked and waits.
    Waiting,
    /// It holds the object to read it.
    Reading,
    /// It holds the object to change it.
    Writing,
    /// It has put, and waits until the replicas have that.
    Putting,
}

/// A program on a node that does one operation after the other.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    /// Its node.
    pub node: NodeId,
    /// What it will do, first one first.
    pub plan: VecDeque<Operation>,
    /// What it does now, with the head of its plan.
    pub doing: Doing,
    /// Objects that it holds meanwhile, to change them.
    pub kept: Vec<ObjectId>,
    /// It asks for what exists, and the object did at every moment since it began.
    existed: bool,
}

/// What an observer knows of an object.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Truth {
    /// The last completed put of this life of the object.
    pub value: Option<Value>,
    /// What a put that is not done yet, or was cut short, may have made of it. `None` is its end.
    pub maybe: Vec<Option<Value>>,
    /// Values made so far.
    made: Value,
    /// The greatest tenure of any owner, and who it was.
    pub greatest: (Tenure, NodeId),
    /// Its set is being destroyed, or was: nothing is promised any more.
    pub is_given_up: bool,
    /// It was lost before all else was whole again.
    pub is_lost: bool,
    /// Removals that are done and that whoever asked for them still waits for.
    done: Vec<RequestId>,
}

/// Everything that can happen next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// A client begins the next operation of its plan.
    Begin(ClientNumber),
    /// A client ends its hold; a writer puts a new value.
    Finish(ClientNumber),
    /// A writer ends its hold and puts nothing.
    Discard(ClientNumber),
    /// A first touch fails: the writer leaves the object without a value.
    Abandon(ClientNumber),
    /// A waiting client gives up.
    Cancel(ClientNumber),
    /// The next message from one node to another arrives.
    Deliver(NodeId, NodeId),
    /// The next message was sent under a placement that the receiver does not know yet: it waits.
    Ahead(NodeId, NodeId),
    /// The next step of a change of the membership is decided.
    Decide,
    /// A node installs the next view.
    Install(NodeId),
    /// A node hands over the next shard, or says that it has handed over all.
    HandOver(NodeId),
    /// A leaving node gives an object away.
    Drain(NodeId, ObjectId),
    /// A node hears that a set is destroyed.
    Destroy(NodeId, Generation),
    /// A node is no more, with all it has.
    Crash(NodeId),
    /// A node has lost its lease, is expelled, and will be back with what it has kept.
    Freeze(NodeId),
    /// It is decided that all is whole again.
    Heal,
    /// Whoever is responsible accepts at that node that the object is gone, if it is lost.
    Accept(NodeId, ObjectId),
    /// The same of all objects of a set.
    AcceptSet(NodeId, Generation),
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many nodes; they are numbered from 1.
    pub nodes: u16,
    /// Homes; that of object `n` is `homes[n % homes.len()]`, while that node is a home.
    pub homes: Vec<NodeId>,
    /// The clients: their node and their operations.
    pub clients: Vec<(NodeId, Vec<Operation>)>,
    /// How often a waiting client may give up.
    pub cancels: u32,
    /// How often a writer may put nothing.
    pub discards: u32,
    /// How often a first touch may fail.
    pub failed_touches: u32,
    /// Joins and leaves, one after the other.
    pub changes: Vec<Change>,
    /// How many nodes may crash.
    pub crashes: u32,
    /// How many times a node may be expelled and come back.
    pub returns: u32,
    /// How many replicas objects have.
    pub replicas: u8,
    /// How often what is lost of a set is accepted while other things happen.
    pub acceptances: u32,
    /// Failures are counted anew once all is whole again.
    pub heals: bool,
}

impl Plan {
    /// The id of object `n`: its top bits name its home.
    fn placed(&self, object: ObjectId) -> ObjectId {
        let home = self.homes.get((object.0 % self.homes.len() as u64) as usize);
        let replicas = u64::from(self.replicas) << (GENERATION_SHIFT + REPLICAS_SHIFT);
        ObjectId(u64::from(home.map_or(0, |home| home.0)) << 48 | object.0 | replicas)
    }
}

/// The cluster. Equal worlds have equal futures.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    /// The nodes, by number less one.
    pub nodes: Vec<Agent>,
    /// Messages under way, in order, for each pair.
    pub links: BTreeMap<(NodeId, NodeId), VecDeque<Packet>>,
    /// The clients.
    pub clients: Vec<Client>,
    /// What is true of each object.
    pub truth: BTreeMap<ObjectId, Truth>,
    cancels: u32,
    discards: u32,
    failed_touches: u32,
    crashes: u32,
    returns: u32,
    acceptances: u32,
    /// Nodes that have crashed, or were expelled and are not back.
    pub dead: Vec<NodeId>,
    /// How often that has happened.
    failed: usize,
    /// What the only node that has failed will bring back: it owned the newest value.
    owed: Vec<ObjectId>,
    /// Nodes that are taken in again with this step.
    pub reborn: Vec<NodeId>,
    /// How many of these failures before all was whole again.
    healed: usize,
    /// Bits of numbers of replicas: sets with so many may have lost objects before all was whole again.
    tainted: u8,
    /// The membership.
    pub views: Views,
    /// How many views each node has installed, by number less one.
    installed: Vec<usize>,
    /// The first broken invariant; nothing happens any more after it.
    pub broken: Option<String>,
    /// Sets that are to be destroyed, each with a node that has to hear of it.
    pub untold: Vec<(NodeId, Generation)>,
    /// What clients have noticed in the last step.
    pub notes: Notes,
}

impl World {
    /// The world at its beginning: nothing exists.
    pub fn new(plan: &Plan) -> World {
        let nodes = (1..=plan.nodes).map(|node| Agent::new(NodeId(node))).collect();
        let client = |(node, operations): &(NodeId, Vec<Operation>)| Client {
            node: *node,
            plan: operations.iter().map(|(object, wish)| (plan.placed(*object), *wish)).collect(),
            doing: Doing::Nothing,
            kept: Vec::new(),
            existed: false,
        };
        let operations = plan.clients.iter().flat_map(|(_, operations)| operations);
        let mut world = World {
            nodes,
            links: BTreeMap::new(),
            clients: plan.clients.iter().map(client).collect(),
            truth: operations.map(|(object, _)| (plan.placed(*object), Truth::default())).collect(),
            cancels: plan.cancels,
            discards: plan.discards,
            failed_touches: plan.failed_touches,
            crashes: plan.crashes,
            returns: plan.returns,
            acceptances: plan.acceptances,
            dead: Vec::new(),
            failed: 0,
            owed: Vec::new(),
            reborn: Vec::new(),
            healed: 0,
            tainted: 0,
            views: Views::new(plan.nodes, &plan.changes, plan.heals),
            installed: vec![0; usize::from(plan.nodes)],
            broken: None,
            untold: Vec::new(),
            notes: Notes::default(),
        };
        let first: Vec<NodeId> = world.views.last().members.iter().map(|member| member.id).collect();
        for node in first {
            world.install(node, &mut Effects::default());
            while world.node_mut(node).hand_over(&mut Effects::default()) {}
        }
        world
    }

    /// A client that writes holds an object that has no value yet.
    pub fn holds_nothing_yet(&self, number: ClientNumber) -> bool {
        let client = self.clients.get(usize::from(number));
        let front = client.and_then(|client| Some((client.node, client.plan.front()?.0)));
        front.is_some_and(|(node, object)| self.value_at(node, object).is_none())
    }

    /// Does one thing, and looks at every invariant.
    pub fn apply(&mut self, action: Action) {
        self.notes.clear();
        self.reborn.clear();
        let mut effects = Effects::default();
        let Some((node, object)) = self.concerns(action) else { return };
        let changed = self.changes_alone(action, object);
        let before = self.arriving_owner(action).unwrap_or_else(|| self.node(node).inspect(object).main);
        let promotes = self.promotes(action);
        // In a new epoch a step may be about any object. With a node that crashes no object ends.
        let is_crash = matches!(action, Action::Crash(_) | Action::Freeze(_));
        let is_recovering = self.views.last().epoch.0 > 1 && !is_crash;
        let others = if is_recovering { self.others_at(node, object) } else { Vec::new() };
        match action {
            Action::Begin(number) => self.begin(number, &mut effects),
            Action::Finish(number) => self.finish(number, Ending::Put, &mut effects),
            Action::Discard(number) => {
                self.discards -= 1;
                self.finish(number, Ending::Keep, &mut effects);
            }
            Action::Abandon(number) => {
                self.failed_touches -= 1;
                self.finish(number, Ending::Fail, &mut effects);
            }
            Action::Cancel(number) => self.cancel(number, &mut effects),
            Action::Deliver(from, to) => self.deliver(from, to, &mut effects),
            Action::Ahead(from, to) => self.node_mut(to).is_ahead(from),
            Action::Decide => {
                if let Some(node) = self.views.decide() {
                    self.is_taken_in(node);
                }
                self.vanish();
            }
            Action::Install(node) => self.install(node, &mut effects),
            Action::HandOver(node) => _ = self.node_mut(node).hand_over(&mut effects),
            Action::Drain(node, object) => self.node_mut(node).drain(object, &mut effects),
            Action::Destroy(node, generation) => self.destroy(node, generation, &mut effects),
            Action::Crash(node) => self.crash(node),
            Action::Freeze(node) => self.freeze(node),
            Action::Heal => self.heal(),
            Action::Accept(node, object) => self.accept(node, object, &mut effects),
            Action::AcceptSet(node, of) => self.accept_set(node, of, &mut effects),
        }
        // Who has waited for the end of a put comes after it, maybe in the same step.
        for (of, value) in std::mem::take(&mut effects.safe) {
            self.is_safe(node, of, value);
        }
        if check::ended_its_life(before, self.node(node).inspect(object).main) {
            self.removed(object, node);
            self.is_done_once(object, before, &effects);
        }
        for (other, before) in others.into_iter().chain([(object, before)]) {
            let ended = other != object && check::ended_its_life(before, self.node(node).inspect(other).main);
            if ended || (promotes && self.was_owner_for_a_moment(other, before, &effects)) {
                self.removed(other, node);
            }
            if ended {
                self.is_done_once(other, before, &effects);
            }
        }
        if self.is_given_up(object) {
            // Two lives of an object may meet here. No node may take that for a bug of its own.
            effects.broken.retain(|what| what.starts_with("fault"));
        }
        self.settle(node, effects);
        self.forget_who_is_answered();
        check::each_step(self, changed);
        if self.broken.is_none() && self.is_stuck_or_done() {
            check::at_the_end(self);
        }
    }

    /// A step in which a copy may become the object.
    fn promotes(&self, action: Action) -> bool {
        match action {
            Action::HandOver(_) => true,
            Action::Deliver(from, to) => {
                let first = self.links.get(&(from, to)).and_then(VecDeque::front);
                first.is_some_and(|packet| matches!(packet.message, Message::Promote { .. } | Message::Decline { .. }))
            }
            _ => false,
        }
    }

    /// In one step a copy has become the object, and the object was removed.
    fn was_owner_for_a_moment(&self, object: ObjectId, before: Main, effects: &Effects) -> bool {
        let removes = |number: &ClientNumber| {
            let front = self.clients.get(usize::from(*number)).and_then(|client| client.plan.front());
            front.is_some_and(|(of, wish)| *of == object && wish.kind() == RequestKind::Remove)
        };
        let is_end = |message: &Message| matches!(message, Message::Removed { .. } | Message::RemoveDone { .. });
        let is_answered = effects.ended.iter().any(|(number, outcome)| *outcome == Outcome::Done && removes(number));
        let is_told = effects.packets.iter().any(|(_, packet)| packet.object == object && is_end(&packet.message));
        let was_copy = matches!(before, Main::None | Main::Ghost { .. } | Main::Sharer { .. });
        was_copy && (is_answered || is_told)
    }

    /// What the receiver of an ownership is first, whatever follows in the same step.
    fn arriving_owner(&self, action: Action) -> Option<Main> {
        let Action::Deliver(from, to) = action else { return None };
        let object = self.links.get(&(from, to))?.front()?.object;
        let is_dropped = self.links.get(&(from, to))?.front()?.epoch < self.node(to).view().epoch;
        if self.node(to).is_destroyed(generation(object)) || is_dropped {
            return None;
        }
        match self.links.get(&(from, to))?.front()?.message {
            Message::Transfer { tenure, version, born, .. } => Some(Main::Owner { tenure, version, born }),
            Message::Create { tenure, .. } => Some(Main::Owner { tenure, version: Version(0), born: tenure }),
            _ => None,
        }
    }

    fn value_at(&self, node: NodeId, object: ObjectId) -> Option<Value> {
        self.node(node).cell(object).and_then(|cell| cell.value)
    }

    /// A node by its number.
    pub fn node(&self, node: NodeId) -> &Agent {
        &self.nodes[usize::from(node.0) - 1]
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Agent {
        &mut self.nodes[usize::from(node.0) - 1]
    }

    /// Notes a broken invariant.
    pub fn breaks(&mut self, what: impl Into<String>) {
        self.broken.get_or_insert(what.into());
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, effects: &mut Effects) {
        let Some(link) = self.links.get_mut(&(from, to)) else { return };
        let Some(packet) = link.pop_front() else { return };
        if link.is_empty() {
            self.links.remove(&(from, to));
        }
        if self.has_left(to) || packet.epoch < self.node(to).view().epoch {
            return;
        }
        if matches!(packet.message, Message::Decline { .. }) {
            // That tenure stands against what is offered, though nobody has had it.
            self.owed.retain(|owed| *owed != packet.object);
        }
        self.node_mut(to).receive(from, packet, effects);
    }

    /// The owner has every ack of a removal: from now on the object does not exist.
    fn removed(&mut self, object: ObjectId, owner: NodeId) {
        if self.is_given_up(object) {
            return;
        }
        if let Some(truth) = self.truth.get_mut(&object) {
            truth.value = None;
            truth.maybe.clear();
        }
        for client in &mut self.clients {
            if client.plan.front().is_some_and(|(of, _)| *of == object) {
                client.existed = false;
            }
        }
        check::nobody_holds(self, object, owner);
    }

    /// `I10`: nobody's removal is done twice. Only a new epoch lets anybody ask for one again.
    fn is_done_once(&mut self, object: ObjectId, before: Main, effects: &Effects) {
        if (self.crashes == 0 && self.dead.is_empty()) || self.is_given_up(object) {
            return;
        }
        let told = |(_, packet): &(NodeId, Packet)| match packet.message {
            Message::RemoveDone { id } if packet.object == object => Some(id),
            _ => None,
        };
        let requester = match before {
            Main::Tombstone { requester, .. } => Some(requester),
            _ => effects.packets.iter().find_map(told),
        };
        let (Some(requester), Some(truth)) = (requester, self.truth.get_mut(&object)) else { return };
        if truth.done.contains(&requester) {
            return self.breaks(format!("I10: object {} was removed twice for {requester:?}", object.0));
        }
        truth.done.push(requester);
        truth.done.sort_unstable_by_key(|id| (id.node, id.counter));
    }

    fn forget_who_is_answered(&mut self) {
        if self.truth.values().all(|truth| truth.done.is_empty()) {
            return;
        }
        let clients = &self.clients;
        for (object, truth) in &mut self.truth {
            let waits = |id: &RequestId| {
                let removes = |client: &Client| {
                    let front = client.plan.front().filter(|_| client.doing == Doing::Waiting);
                    front.is_some_and(|(of, wish)| of == object && wish.kind() == RequestKind::Remove)
                };
                clients.iter().any(|client| client.node == id.node && removes(client))
            };
            truth.done.retain(waits);
        }
    }

    /// What a node is for all objects but one.
    fn others_at(&self, node: NodeId, object: ObjectId) -> Vec<(ObjectId, Main)> {
        let others = self.truth.keys().filter(|other| **other != object);
        others.map(|of| (*of, self.node(node).inspect(*of).main)).collect()
    }

    /// Nothing is promised of the object any more.
    fn is_given_up(&self, object: ObjectId) -> bool {
        self.truth.get(&object).is_some_and(|truth| truth.is_given_up)
    }

    /// From the first node that hears of it nothing is promised of the set's objects.
    fn destroy(&mut self, node: NodeId, of: Generation, effects: &mut Effects) {
        for (_, truth) in self.truth.iter_mut().filter(|(object, _)| generation(**object) == of) {
            truth.is_given_up = true;
        }
        self.untold.retain(|untold| *untold != (node, of));
        self.node_mut(node).destroy(of, effects);
    }

    fn settle(&mut self, at: NodeId, effects: Effects) {
        for (to, packet) in effects.packets {
            if self.is_dead(to) {
                continue;
            }
            self.links.entry((at, to)).or_default().push_back(packet);
        }
        let has_lost = self.node(at).view().epoch > Epoch(1);
        for what in effects.broken.into_iter().filter(|what| !(has_lost && is_known_drop(what))) {
            self.breaks(what);
        }
        for (number, outcome) in effects.ended {
            self.ended(number, outcome);
        }
    }
}
