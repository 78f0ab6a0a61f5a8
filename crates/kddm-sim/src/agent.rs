//! One simulated node: the real core, and local threads over modelled values. It does with the
//! core's outputs what the library's runtime does, step by step; only memory and sockets differ.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kddm_core::id::{NodeId, ObjectId, Placement, PlacementPolicy, SetId, Version};
use kddm_core::io::{Access, Answer, Body, Input, Output, Outputs};
use kddm_core::message::{Message, RequestKind};
use kddm_core::node::{Node, Refused};

use crate::views::life;

mod ending;
mod membership;
mod wish;

pub use wish::Wish;

/// Number of a client in the world.
pub type ClientNumber = u16;

/// A value: every put of a run makes one of its own.
pub type Value = u32;

/// How a wish ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// The client holds the object to read it.
    Reading,
    /// The client holds the object to change it.
    Writing,
    /// Done, and nothing is held.
    Done,
    /// Ended without access.
    Failed(Answer),
    /// The set was destroyed.
    Destroyed,
}

/// Sets of a world come one after the other: when one is destroyed, the next takes its place.
pub type Generation = u8;

/// Where an object's id has the generation of its set; above it is the number of its home.
pub const GENERATION_SHIFT: u32 = 40;

/// The generation of an object's set.
pub fn generation(object: ObjectId) -> Generation {
    (object.0 >> GENERATION_SHIFT) as Generation
}

/// A set of a world. The number of an object says which node is its home, as long as it is one.
pub fn set_of(generation: Generation) -> SetId {
    SetId::new(PlacementPolicy::Embedded, SetId::FIRST_COUNTER + u64::from(generation))
}

/// A message under way, with the bytes it carries.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Packet {
    /// The sender's placement.
    pub placement: Placement,
    /// The set concerned.
    pub set: SetId,
    /// The object concerned.
    pub object: ObjectId,
    /// What is said.
    pub message: Message,
    /// The value that goes with it.
    pub body: Option<Value>,
    /// It may wait for company.
    pub deferred: bool,
}

/// What came of one step of an agent.
#[derive(Clone, Default, Debug)]
pub struct Effects {
    /// Messages, in the order in which they were sent.
    pub packets: Vec<(NodeId, Packet)>,
    /// Wishes that ended.
    pub ended: Vec<(ClientNumber, Outcome)>,
    /// Invariants that the agent or the core found broken.
    pub broken: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Waiter {
    client: ClientNumber,
    wish: Wish,
}

/// What a node has of one object besides the core's record.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Cell {
    /// What local threads may use.
    pub access: Access,
    /// The value, readable or not.
    pub value: Option<Value>,
    /// Puts that the value has seen.
    pub version: Version,
    /// Clients that read it.
    pub readers: Vec<ClientNumber>,
    /// The client that writes it.
    pub writer: Option<ClientNumber>,
    waiters: VecDeque<Waiter>,
    outstanding: bool,
    revoking: Option<Access>,
}

impl Cell {
    /// What local threads use or may begin to use.
    pub fn in_use(&self) -> Access {
        let held = match (self.writer, self.readers.is_empty()) {
            (Some(_), _) => Access::Write,
            (None, false) => Access::Read,
            (None, true) => Access::None,
        };
        held.max(self.access)
    }

    fn is_held(&self) -> bool {
        self.writer.is_some() || !self.readers.is_empty()
    }

    fn is_idle(&self) -> bool {
        self.waiters.is_empty() && !self.outstanding && self.revoking.is_none() && !self.is_held()
    }

    /// Lowers access; true once nobody uses more.
    fn lower(&mut self, to: Access) -> bool {
        let level = to.min(self.access);
        self.access = level;
        let in_the_way =
            (level < Access::Write && self.writer.is_some()) || (level == Access::None && !self.readers.is_empty());
        !in_the_way
    }

    fn fast_path_is_open(&self) -> bool {
        self.revoking.is_none() && self.waiters.is_empty() && self.writer.is_none()
    }
}

/// One node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Agent {
    me: NodeId,
    /// Shared by worlds that differ elsewhere: a search makes a world for each step.
    core: Arc<Node>,
    cells: Arc<BTreeMap<ObjectId, Cell>>,
    destroyed: Vec<SetId>,
}

impl Agent {
    /// A node with nothing, that has seen no view.
    pub fn new(me: NodeId) -> Agent {
        Agent { me, core: Arc::new(Node::new(me, life(me), 0)), cells: Arc::default(), destroyed: Vec::new() }
    }

    /// This node's number.
    pub fn id(&self) -> NodeId {
        self.me
    }

    /// What is here of an object besides the core's record.
    pub fn cell(&self, object: ObjectId) -> Option<&Cell> {
        self.cells.get(&object)
    }

    /// The core's view of an object.
    pub fn inspect(&self, object: ObjectId) -> kddm_core::shard::Inspection {
        self.core.inspect(set_of(generation(object)), object).unwrap_or_default()
    }

    /// Nothing is outstanding here (`I9`).
    pub fn is_at_rest(&self) -> bool {
        self.core.is_at_rest() && self.cells.values().all(Cell::is_idle)
    }

    /// A client asks: served from here if the access allows it, else the core is asked.
    pub fn begin(&mut self, client: ClientNumber, object: ObjectId, wish: Wish, effects: &mut Effects) {
        if self.is_destroyed(generation(object)) {
            return effects.ended.push((client, Outcome::Destroyed));
        }
        let cell = Arc::make_mut(&mut self.cells).entry(object).or_default();
        if !matches!(wish.kind(), RequestKind::Remove | RequestKind::Flush { .. })
            && !wish.holds_nothing()
            && cell.fast_path_is_open()
        {
            match wish.kind() {
                RequestKind::Get { .. } if cell.access >= Access::Read && cell.value.is_some() => {
                    cell.readers.push(client);
                    return effects.ended.push((client, Outcome::Reading));
                }
                // An *existing* grab of an object without a value is refused above the fast path.
                RequestKind::Grab { .. } | RequestKind::TryGrab
                    if cell.access == Access::Write
                        && cell.readers.is_empty()
                        && (cell.value.is_some() || !wish.is_existing()) =>
                {
                    cell.writer = Some(client);
                    return effects.ended.push((client, Outcome::Writing));
                }
                _ => {}
            }
        }
        cell.waiters.push_back(Waiter { client, wish });
        self.run(object, None, None, effects);
    }

    /// A waiting client gives up.
    pub fn cancel(&mut self, client: ClientNumber, object: ObjectId, effects: &mut Effects) {
        let cell = Arc::make_mut(&mut self.cells).entry(object).or_default();
        let Some(at) = cell.waiters.iter().position(|waiter| waiter.client == client) else { return };
        cell.waiters.remove(at);
        let withdraw = at == 0 && cell.outstanding;
        if withdraw {
            cell.outstanding = false;
        }
        self.run(object, withdraw.then_some(Input::Cancel), None, effects);
    }

    /// A client ends its hold; a writer may leave a new value, or make the first one.
    pub fn release(&mut self, client: ClientNumber, object: ObjectId, left: Left, effects: &mut Effects) {
        let cell = Arc::make_mut(&mut self.cells).entry(object).or_default();
        if cell.writer == Some(client) {
            cell.writer = None;
            match left {
                Left::Nothing => {}
                Left::First(value) => cell.value = Some(value),
                Left::Put(value) => {
                    cell.value = Some(value);
                    cell.version = cell.version.next();
                }
            }
        }
        cell.readers.retain(|reader| *reader != client);
        self.run(object, None, None, effects);
    }

    /// A message has arrived.
    pub fn receive(&mut self, from: NodeId, packet: Packet, effects: &mut Effects) {
        let Packet { set, object, message, body, .. } = packet;
        self.run_in(set, object, Some(Input::Message { from, message }), body, effects);
    }

    fn run(&mut self, object: ObjectId, input: Option<Input>, body: Option<Value>, effects: &mut Effects) {
        self.run_in(set_of(generation(object)), object, input, body, effects);
    }

    fn run_in(
        &mut self,
        set: SetId,
        object: ObjectId,
        input: Option<Input>,
        body: Option<Value>,
        effects: &mut Effects,
    ) {
        let mut todo: VecDeque<Input> = input.into_iter().collect();
        let mut body = body;
        loop {
            while let Some(input) = todo.pop_front() {
                self.step((set, object), input, body.take(), &mut todo, effects);
            }
            self.serve(object, &mut todo, effects);
            if todo.is_empty() {
                break;
            }
        }
        let forget = |cell: &Cell| cell.is_idle() && cell.value.is_none() && cell.access == Access::None;
        if self.cells.get(&object).is_some_and(forget) {
            Arc::make_mut(&mut self.cells).remove(&object);
        }
    }

    fn step(
        &mut self,
        (set, object): (SetId, ObjectId),
        input: Input,
        body: Option<Value>,
        todo: &mut VecDeque<Input>,
        effects: &mut Effects,
    ) {
        let mut outputs = Outputs::new();
        if let Err(refused) = Arc::make_mut(&mut self.core).handle(set, object, input, &mut outputs) {
            if self.destroyed.contains(&set) && refused == Refused::UnknownSet {
                return; // What was under way to a set that is no more.
            }
            return effects.broken.push(format!("node {} refused an input: {refused:?}", self.me));
        }
        for output in outputs.drain() {
            self.act(set, output, body, todo, effects);
        }
    }

    fn act(
        &mut self,
        set: SetId,
        output: Output,
        arrived: Option<Value>,
        todo: &mut VecDeque<Input>,
        effects: &mut Effects,
    ) {
        match output {
            Output::Send { to, object, message, body, deferred } => {
                let value = self.cells.get(&object).and_then(|cell| cell.value);
                let body = if body == Body::Object { value } else { None };
                if body.is_none() && carries_object(&message) {
                    effects.broken.push(format!("node {} sends an object's value that it does not have", self.me));
                }
                let placement = self.core.view().placement;
                effects.packets.push((to, Packet { placement, set, object, message, body, deferred }));
            }
            Output::Install { object, version, has_value } => {
                let cell = Arc::make_mut(&mut self.cells).entry(object).or_default();
                let same = has_value && cell.value.is_some() && cell.version == version;
                if same && cell.value != arrived {
                    effects.broken.push(format!("I2: two values of version {} met at node {}", version.0, self.me));
                }
                if !same && cell.is_held() {
                    effects.broken.push(format!("I1: a value was replaced under a holder at node {}", self.me));
                }
                cell.version = version;
                cell.value = if has_value { arrived } else { None };
            }
            Output::Granted { object, access, answers, .. } => {
                let cell = Arc::make_mut(&mut self.cells).entry(object).or_default();
                cell.access = cell.access.max(access);
                if answers {
                    cell.outstanding = false;
                }
                self.serve(object, todo, effects);
            }
            Output::Revoke { object, to } => {
                Arc::make_mut(&mut self.cells).entry(object).or_default().revoking = Some(to);
                self.try_to_lower(object, todo);
            }
            Output::TryRevoke { object } => {
                let cell = Arc::make_mut(&mut self.cells).entry(object).or_default();
                todo.push_back(if cell.is_held() {
                    Input::Held
                } else {
                    cell.access = Access::None;
                    Input::Revoked { version: cell.version, has_value: cell.value.is_some() }
                });
            }
            Output::Answer { object, answer } => self.answered(object, answer, effects),
            Output::Discard { object } => self.discard(object, effects),
            // Nobody lies here: what the core drops as impossible, a bug has made.
            Output::Dropped { what, .. } => {
                effects.broken.push(format!("node {} dropped what an honest node said: {what}", self.me));
            }
            Output::Fault { what, .. } => effects.broken.push(format!("fault at node {}: {what}", self.me)),
        }
    }

    fn discard(&mut self, object: ObjectId, effects: &mut Effects) {
        let Some(cell) = Arc::make_mut(&mut self.cells).get_mut(&object) else { return };
        if cell.is_held() || cell.access != Access::None {
            effects.broken.push(format!("I1: a value in use was discarded at node {}", self.me));
        }
        cell.value = None;
    }

    fn try_to_lower(&mut self, object: ObjectId, todo: &mut VecDeque<Input>) {
        let Some(cell) = Arc::make_mut(&mut self.cells).get_mut(&object) else { return };
        let Some(to) = cell.revoking else { return };
        if cell.lower(to) {
            cell.revoking = None;
            todo.push_back(Input::Revoked { version: cell.version, has_value: cell.value.is_some() });
        }
    }

    fn answered(&mut self, object: ObjectId, answer: Answer, effects: &mut Effects) {
        let cell = Arc::make_mut(&mut self.cells).entry(object).or_default();
        cell.outstanding = false;
        let Some(waiter) = cell.waiters.pop_front() else { return };
        let outcome = match answer {
            Answer::Removed | Answer::Flushed => Outcome::Done,
            failed => Outcome::Failed(failed),
        };
        effects.ended.push((waiter.client, outcome));
    }

    /// Serves waiting clients in order, and asks the core for what is missing.
    fn serve(&mut self, object: ObjectId, todo: &mut VecDeque<Input>, effects: &mut Effects) {
        if todo.is_empty() {
            self.try_to_lower(object, todo);
        }
        while let Some(cell) = Arc::make_mut(&mut self.cells).get_mut(&object) {
            let Some(Waiter { client, wish }) = cell.waiters.front().copied() else { return };
            if cell.outstanding || !todo.is_empty() {
                return;
            }
            match serve_one(cell, client, wish) {
                Served::Yes(outcome) => {
                    cell.waiters.pop_front();
                    effects.ended.push((client, outcome));
                }
                Served::Ask => {
                    if cell.revoking.is_none() || wish.level().is_none() {
                        cell.outstanding = true;
                        todo.push_back(Input::Want { kind: wish.kind() });
                    }
                    return;
                }
                Served::Waits => return,
            }
        }
    }
}

/// What a writer leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Left {
    /// What it found.
    Nothing,
    /// The first value, not put: the version stays.
    First(Value),
    /// A new value.
    Put(Value),
}

fn carries_object(message: &Message) -> bool {
    matches!(message, Message::Data { .. } | Message::Transfer { has_value: true, .. })
}

enum Served {
    Yes(Outcome),
    Ask,
    Waits,
}

fn serve_one(cell: &mut Cell, client: ClientNumber, wish: Wish) -> Served {
    let Some(level) = wish.level() else { return Served::Ask };
    if wish.kind() == RequestKind::TryGrab && cell.is_held() {
        return Served::Yes(Outcome::Failed(Answer::Busy));
    }
    if cell.access < level {
        return Served::Ask;
    }
    if cell.access == Access::Write && cell.value.is_none() {
        if cell.is_held() {
            return Served::Waits;
        }
        if wish.is_existing() {
            return Served::Yes(Outcome::Failed(Answer::NotFound));
        }
    }
    if wish.holds_nothing() {
        return Served::Yes(Outcome::Done);
    }
    if level == Access::Write || cell.value.is_none() {
        if cell.access < Access::Write || cell.is_held() {
            return Served::Waits;
        }
        cell.writer = Some(client);
        return Served::Yes(Outcome::Writing);
    }
    if cell.writer.is_some() {
        return Served::Waits;
    }
    cell.readers.push(client);
    Served::Yes(Outcome::Reading)
}
