//! A whole cluster as one value: nodes, what is under way between them, clients, and what an
//! observer outside knows to be true. Every step is an [`Action`]; there is no other change.

use std::collections::{BTreeMap, VecDeque};

use kddm_core::id::{NodeId, ObjectId, Tenure, Version};
use kddm_core::message::Message;
use kddm_core::shard::Main;

use self::clients::Ending;
use crate::agent::{Agent, ClientNumber, Effects, Generation, Packet, Value, Wish, generation};
use crate::check;
use crate::views::{Change, Views};

mod clients;
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
    /// Values made so far.
    made: Value,
    /// The greatest tenure of any owner, and who it was.
    pub greatest: (Tenure, NodeId),
    /// Its set is being destroyed, or was: nothing is promised any more.
    pub is_given_up: bool,
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
}

impl Plan {
    /// The id of object `n`: its top bits name its home.
    fn placed(&self, object: ObjectId) -> ObjectId {
        let home = self.homes.get((object.0 % self.homes.len() as u64) as usize);
        ObjectId(u64::from(home.map_or(0, |home| home.0)) << 48 | object.0)
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
            views: Views::new(plan.nodes, &plan.changes),
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

    /// All that can happen next.
    pub fn actions(&self, actions: &mut Vec<Action>) {
        if self.broken.is_some() {
            return;
        }
        actions.extend(self.links.keys().filter_map(|(from, to)| self.next_delivery(*from, *to)));
        self.view_actions(actions);
        actions.extend(self.untold.iter().map(|(node, generation)| Action::Destroy(*node, *generation)));
        for (number, client) in self.clients.iter().enumerate() {
            let number = number as ClientNumber;
            match (client.doing, client.plan.front()) {
                (_, None) => {}
                (Doing::Nothing, Some(_)) if self.shares(client.node) => actions.push(Action::Begin(number)),
                (Doing::Nothing, Some(_)) => {}
                (Doing::Waiting, Some(_)) if self.cancels > 0 => actions.push(Action::Cancel(number)),
                (Doing::Waiting, Some(_)) => {}
                (Doing::Reading, Some(_)) => actions.push(Action::Finish(number)),
                (Doing::Writing, Some((object, wish))) => {
                    actions.push(Action::Finish(number));
                    let empty = self.value_at(client.node, *object).is_none();
                    if self.discards > 0 && !wish.reads() {
                        actions.push(Action::Discard(number));
                    }
                    if self.failed_touches > 0 && empty {
                        actions.push(Action::Abandon(number));
                    }
                }
            }
        }
    }

    /// What the next message from one node to another may do.
    pub fn next_delivery(&self, from: NodeId, to: NodeId) -> Option<Action> {
        let packet = self.links.get(&(from, to))?.front()?;
        if packet.placement <= self.node(to).view().placement || self.has_left(to) {
            return Some(Action::Deliver(from, to));
        }
        self.node(to).awaits(from).then_some(Action::Ahead(from, to))
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
        let mut effects = Effects::default();
        let Some((node, object)) = self.concerns(action) else { return };
        let changed = self.changes_alone(action, object);
        let before = self.arriving_owner(action).unwrap_or_else(|| self.node(node).inspect(object).main);
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
            Action::Decide => self.views.decide(),
            Action::Install(node) => self.install(node, &mut effects),
            Action::HandOver(node) => {
                self.node_mut(node).hand_over(&mut effects);
            }
            Action::Drain(node, object) => self.node_mut(node).drain(object, &mut effects),
            Action::Destroy(node, generation) => self.destroy(node, generation, &mut effects),
        }
        if check::ended_its_life(before, self.node(node).inspect(object).main) {
            self.removed(object, node);
        }
        if self.is_given_up(object) {
            // Two lives of an object may meet here. No node may take that for a bug of its own.
            effects.broken.retain(|what| what.starts_with("fault"));
        }
        self.settle(node, effects);
        check::each_step(self, changed);
        if self.broken.is_none() && self.is_stuck_or_done() {
            check::at_the_end(self);
        }
    }

    /// The object, if the action changes nothing of any other.
    fn changes_alone(&self, action: Action, object: ObjectId) -> Option<ObjectId> {
        let is_alone = match action {
            Action::Deliver(..) | Action::Ahead(..) | Action::Drain(..) | Action::Begin(_) => true,
            Action::Finish(number) | Action::Discard(number) | Action::Abandon(number) | Action::Cancel(number) => {
                self.clients.get(usize::from(number)).is_some_and(|client| client.kept.is_empty())
            }
            Action::Decide | Action::Install(_) | Action::HandOver(_) | Action::Destroy(..) => false,
        };
        (is_alone && self.truth.contains_key(&object)).then_some(object)
    }

    /// The node at which an action happens, and the object.
    pub fn concerns(&self, action: Action) -> Option<(NodeId, ObjectId)> {
        match action {
            Action::Deliver(from, to) | Action::Ahead(from, to) => {
                Some((to, self.links.get(&(from, to))?.front()?.object))
            }
            Action::Decide => Some((NodeId(1), ObjectId(0))),
            Action::Install(node) | Action::HandOver(node) | Action::Destroy(node, _) => Some((node, ObjectId(0))),
            Action::Drain(node, object) => Some((node, object)),
            Action::Begin(number)
            | Action::Finish(number)
            | Action::Discard(number)
            | Action::Abandon(number)
            | Action::Cancel(number) => {
                let client = self.clients.get(usize::from(number))?;
                Some((client.node, client.plan.front()?.0))
            }
        }
    }

    /// What the receiver of an ownership is first, whatever follows in the same step.
    fn arriving_owner(&self, action: Action) -> Option<Main> {
        let Action::Deliver(from, to) = action else { return None };
        let object = self.links.get(&(from, to))?.front()?.object;
        if self.node(to).is_destroyed(generation(object)) {
            return None;
        }
        match self.links.get(&(from, to))?.front()?.message {
            Message::Transfer { tenure, version, born, .. } => Some(Main::Owner { tenure, version, born }),
            Message::Create { tenure, .. } => Some(Main::Owner { tenure, version: Version(0), born: tenure }),
            _ => None,
        }
    }

    /// The node shares objects as far as it knows: its clients may begin.
    pub fn shares(&self, node: NodeId) -> bool {
        self.node(node).view().member(node).is_some_and(|member| member.state.can_share())
    }

    /// Nothing can happen any more but cancels.
    pub fn is_stuck_or_done(&self) -> bool {
        let mut actions = Vec::new();
        self.actions(&mut actions);
        actions.iter().all(|action| matches!(action, Action::Cancel(_)))
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
        if self.has_left(to) {
            return;
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
        }
        for client in &mut self.clients {
            if client.plan.front().is_some_and(|(of, _)| *of == object) {
                client.existed = false;
            }
        }
        check::nobody_holds(self, object, owner);
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
            self.links.entry((at, to)).or_default().push_back(packet);
        }
        for what in effects.broken {
            self.breaks(what);
        }
        for (number, outcome) in effects.ended {
            self.ended(number, outcome);
        }
    }
}
