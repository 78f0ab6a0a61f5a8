//! One simulated node: the real core, and local threads over modelled values. It does with the
//! core's outputs what the library's runtime does, step by step; only memory and sockets differ.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kddm_core::id::{Epoch, Incarnation, NodeId, ObjectId, Placement, PlacementPolicy, SetId};
use kddm_core::io::{Access, Answer, Input, Outputs};
use kddm_core::message::{Message, RequestKind};
use kddm_core::node::{Directory, Node, Refused, Scanned};

use crate::views::life;

mod candidates;
mod cell;
mod ending;
mod membership;
mod memory;
mod output;
mod wish;

use cell::{Served, Waiter, serve_one};

pub use cell::Cell;
pub use memory::Kept;
pub use output::is_known_drop;
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
    let counter = SetId::FIRST_COUNTER + u64::from(generation & ((1 << REPLICAS_SHIFT) - 1));
    SetId::new(PlacementPolicy::Embedded, counter).with_replicas(replicas_of(generation))
}

/// Where a generation has the number of replicas of its set.
pub const REPLICAS_SHIFT: u32 = 5;

/// How many replicas the objects of a set have.
pub fn replicas_of(generation: Generation) -> u8 {
    generation >> REPLICAS_SHIFT
}

/// A message under way, with the bytes it carries.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Packet {
    /// The sender's epoch.
    pub epoch: Epoch,
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
    /// Objects of which a put has its replicas.
    pub safe: Vec<(ObjectId, Option<Value>)>,
    /// Invariants that the agent or the core found broken.
    pub broken: Vec<String>,
}

/// Inputs for the core, each with its object.
type Todo = VecDeque<(ObjectId, Input)>;

/// One node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Agent {
    me: NodeId,
    /// Shared by worlds that differ elsewhere: a search makes a world for each step.
    core: Arc<Node>,
    cells: Arc<BTreeMap<ObjectId, Cell>>,
    replicas: BTreeMap<ObjectId, Value>,
    memories: Vec<memory::Memorised>,
    /// What former lives knew as homes, until the core is told.
    directories: Vec<Directory>,
    /// The former life did nothing in that epoch or later, and the core has not been told yet.
    left: Epoch,
    candidates: candidates::Candidates,
    destroyed: Vec<SetId>,
}

impl Packet {
    /// Read copies of a former life of which it says that they are the newest.
    pub fn revalidates(&self) -> u64 {
        if let Message::Revalidated { valid, .. } = &self.message { valid.len() as u64 } else { 0 }
    }
}

impl Agent {
    /// A node with nothing, that has seen no view.
    pub fn new(me: NodeId) -> Agent {
        Agent::reborn(me, life(me))
    }

    /// The same in a life that is not the node's first.
    pub fn reborn(me: NodeId, life: Incarnation) -> Agent {
        Agent {
            me,
            core: Arc::new(Node::new(me, life, 0)),
            cells: Arc::default(),
            replicas: BTreeMap::new(),
            memories: Vec::new(),
            directories: Vec::new(),
            left: Epoch(0),
            candidates: candidates::Candidates::default(),
            destroyed: Vec::new(),
        }
    }

    /// The value of the replica that is kept here.
    pub fn replica(&self, object: ObjectId) -> Option<Value> {
        if self.replicas.is_empty() || self.inspect(object).offer.is_some() {
            return None;
        }
        self.replicas.get(&object).copied()
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

    /// Whether a scan of its set would find the object here; `None` if this node says nothing, or cannot be sure.
    pub fn names(&self, object: ObjectId) -> Option<bool> {
        match self.core.is_named(set_of(generation(object)), object) {
            Scanned::Here { what, in_doubt } => (what || !in_doubt).then_some(what),
            Scanned::Elsewhere(_) | Scanned::NotYet => None,
        }
    }

    /// Nothing is outstanding here (`I9`).
    pub fn is_at_rest(&self) -> bool {
        self.core.is_at_rest() && !self.has_questions() && self.cells.values().all(Cell::is_idle)
    }

    /// What all is not whole for here.
    pub fn what_is_missing(&self) -> Option<&'static str> {
        self.core.what_is_missing()
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
            let is_pushed = left != Left::Nothing && replicas_of(generation(object)) > 0;
            cell.is_putting = is_pushed;
            if !is_pushed {
                cell.writer = None;
            }
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
        let version = cell.version;
        // Whoever puts holds the object until the replicas have it.
        let put = (cell.writer == Some(client)).then_some(Input::Put { version });
        self.run(object, put, None, effects);
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
        let todo = input.into_iter().map(|input| (object, input)).collect();
        self.run_all(set, todo, body, effects);
        loop {
            let mut todo = Todo::new();
            self.serve(object, &mut todo, effects);
            if todo.is_empty() {
                break;
            }
            self.run_all(set, todo, None, effects);
        }
        self.forget(object);
    }

    /// Hands all that to the core, and what comes of it. The outputs of one input may be about several
    /// objects: in a new epoch a shard is taken there as a whole.
    fn run_all(&mut self, set: SetId, mut todo: Todo, body: Option<Value>, effects: &mut Effects) {
        let mut body = body;
        while let Some((object, input)) = todo.pop_front() {
            self.step((set, object), input, body.take(), &mut todo, effects);
        }
    }

    fn forget(&mut self, object: ObjectId) {
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
        todo: &mut Todo,
        effects: &mut Effects,
    ) {
        let mut outputs = Outputs::new();
        let question = Agent::question_of(&input);
        if let Err(refused) = Arc::make_mut(&mut self.core).handle(set, object, input, &mut outputs) {
            if self.destroyed.contains(&set) && refused == Refused::UnknownSet {
                return; // What was under way to a set that is no more.
            }
            return effects.broken.push(format!("node {} refused an input: {refused:?}", self.me));
        }
        for output in outputs.drain() {
            self.act(set, output, body, todo, effects);
        }
        if let Some(question) = question {
            self.is_answered(question, effects);
        }
    }

    /// Serves waiting clients in order, and asks the core for what is missing.
    fn serve(&mut self, object: ObjectId, todo: &mut Todo, effects: &mut Effects) {
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
                        todo.push_back((object, cell.ask(wish, self.me)));
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
