//! One node between local threads that keep to the contract of `io.rs`, and peers that say anything.
//! The same bytes always tell the same story; `tests/arbitrary_inputs.rs` and `fuzz/` make them up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kddm_core::home::EntryState;
use kddm_core::id::{
    Epoch, Incarnation, NodeId, ObjectId, Placement, PlacementPolicy, RequestId, SHARDS_PER_SET, SetId, ShardIndex,
    Tenure, Version,
};
use kddm_core::io::{Access, Answer, Body, Input, Output, Outputs};
use kddm_core::message::{Message, Request, RequestKind};
use kddm_core::node::Node;
use kddm_core::nodeset::NodeSet;
use kddm_core::shard::{Inspection, Main};
use kddm_core::view::{Member, NodeState, View};

const ME: NodeId = NodeId(1);
/// Members are 1 to 4; messages also name 0, and nodes that nobody knows.
const MEMBERS: u16 = 4;
const NAMED: u16 = 7;

/// Where a story is read from; at its end everything is zero.
pub struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, limit: u16) -> u16 {
        u16::from(self.byte()) % limit
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.below(NAMED))
    }

    /// Mostly small, so that they meet; sometimes at the end of the range.
    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => (1 << 40) - 1,
            253 => (1 << 40) - 2,
            small => u64::from(small % 12),
        }
    }

    fn tenure(&mut self) -> Tenure {
        let epoch = self.below(16);
        Tenure::new(Epoch(if epoch > 3 { 1 } else { epoch.into() }), self.number())
    }

    fn version(&mut self) -> Version {
        Version(self.number() % 3)
    }

    fn id(&mut self) -> RequestId {
        let (node, counter) = (self.node(), self.number());
        RequestId { node, incarnation: Incarnation(u32::from(self.byte() == 7)), counter }
    }

    fn nodes(&mut self) -> NodeSet {
        let bits = self.byte();
        (1..8).filter(|node| bits >> node & 1 == 1).map(NodeId).collect()
    }

    fn kind(&mut self) -> RequestKind {
        match self.below(9) {
            0 | 1 => RequestKind::Get { existing: false },
            2 => RequestKind::Get { existing: true },
            3 | 4 => RequestKind::Grab { existing: false },
            5 => RequestKind::Grab { existing: true },
            6 => RequestKind::TryGrab,
            7 => RequestKind::Remove,
            _ => RequestKind::Flush { to: NodeId(self.below(MEMBERS + 1)) },
        }
    }

    fn request(&mut self) -> Request {
        let (kind, id) = (self.kind(), self.id());
        let (tau, forwards) = (self.tenure(), self.byte());
        Request { id, kind, tau, forwards, inherited: self.flag(), first: self.flag(), to_home: self.flag() }
    }

    fn message(&mut self) -> Message {
        match self.below(21) {
            0 | 1 => Message::Request(self.request()),
            2 => Message::Create { tenure: self.tenure(), id: self.id() },
            3 => Message::Data { tenure: self.tenure(), version: self.version(), id: self.id() },
            4 => Message::Transfer {
                tenure: self.tenure(),
                version: self.version(),
                born: self.tenure(),
                sharers: self.nodes(),
                replicas: NodeSet::new(),
                has_value: self.below(4) != 0,
                id: self.id(),
            },
            5 => Message::Invalidate {
                tenure: self.tenure(),
                version: self.version(),
                owner: self.node(),
                remove: self.flag(),
            },
            6 => Message::Ack { tenure: self.tenure(), version: self.version() },
            7 => Message::Confirm { tenure: self.tenure() },
            8 => Message::OwnerIs { owner: self.node(), tenure: self.tenure() },
            9 => Message::Removing { tenure: self.tenure(), forwarded: self.below(4) == 0 },
            10 => Message::Removed { tenure: self.tenure() },
            11 => Message::RemoveDone { id: self.id() },
            12 => Message::NotFound { id: self.id() },
            13 => Message::Busy { id: self.id() },
            14 => Message::Lost { id: self.id() },
            15 => Message::TryInvalidate { tenure: self.tenure(), version: self.version(), id: self.id() },
            16 => Message::TryAnswer { id: self.id(), held: self.flag() },
            17 => Message::Flushed { id: self.id() },
            18 => Message::Entry { tenure: self.tenure(), owner: self.node(), state: self.entry_state() },
            19 => Message::ShardIsYours { shard: ShardIndex(self.below(SHARDS_PER_SET)), floor: self.tenure() },
            _ => Message::Placed { placement: Placement(self.byte().into()) },
        }
    }

    fn entry_state(&mut self) -> EntryState {
        [EntryState::Predicted, EntryState::Fact, EntryState::Removing][usize::from(self.below(3))]
    }
}

type Place = (SetId, ObjectId);

/// What the home has of one object besides the core's record.
#[derive(Default, Debug)]
struct Cell {
    access: Access,
    value: Option<Version>,
    readers: u8,
    writer: bool,
    wish: Option<RequestKind>,
    revoking: Option<Access>,
}

impl Cell {
    fn is_held(&self) -> bool {
        self.writer || self.readers > 0
    }

    fn is_used_above(&self, level: Access) -> bool {
        (level < Access::Write && self.writer) || (level == Access::None && self.readers > 0)
    }

    /// A local thread uses what it may.
    fn hold(&mut self, to_write: bool) {
        let to_write = to_write || self.value.is_none();
        if self.writer || self.revoking.is_some() {
            return;
        }
        if to_write && self.access == Access::Write && self.readers == 0 {
            self.writer = true;
        } else if !to_write && self.access >= Access::Read && self.readers < 3 {
            self.readers += 1;
        }
    }

    fn back(&self) -> Input {
        Input::Revoked { version: self.value.unwrap_or_default(), has_value: self.value.is_some() }
    }
}

/// The node, and what was seen of it.
pub struct Story {
    node: Node,
    cells: BTreeMap<Place, Cell>,
    /// Nodes for which peers have handed requests in.
    handed: BTreeMap<Place, BTreeSet<NodeId>>,
    /// The number of the newest wish: a peer that answers it is plausible.
    counter: u64,
    epoch: u32,
    /// What happened, by its name: a test can see that it did.
    pub seen: BTreeMap<&'static str, u64>,
}

/// Tells a whole story.
///
/// # Panics
///
/// If a peer made the node fault, break the contract with its home, or grow without bound.
pub fn tell(bytes: &[u8]) -> Story {
    let mut story = Story::begin();
    let mut bytes = Bytes(bytes);
    while !bytes.0.is_empty() {
        story.step(&mut bytes);
    }
    story.end();
    story
}

/// Homes are node 2, and of nodes 1 and 3 those whose bit is set.
fn view(epoch: u32, homes: u8) -> View {
    let member = |id| Member { id: NodeId(id), incarnation: Incarnation(0), state: NodeState::Possible };
    let is_home = |node: &NodeId| node.0 == 2 || (node.0 < 4 && homes >> node.0 & 1 == 1);
    let members: Vec<Member> = (1..=MEMBERS).map(member).collect();
    let homes = members.iter().map(|member| member.id).filter(is_home).collect();
    View { epoch: Epoch(epoch), placement: Placement(epoch), members, homes, failures: 0 }
}

impl Story {
    fn begin() -> Story {
        let mut node = Node::new(ME, Incarnation(0), 0);
        node.install_view(view(1, 0b10)).expect("there is memory");
        let (cells, handed, seen) = Default::default();
        Story { node, cells, handed, counter: 0, epoch: 1, seen }
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        let choice = bytes.byte();
        // Of the first set this node is the home, of the second another one is.
        let home = NodeId(1 + u16::from(choice & 1));
        let set = SetId::new(PlacementPolicy::Fixed(home), SetId::FIRST_COUNTER);
        let place = (set, ObjectId(u64::from(choice >> 1 & 1)));
        match choice >> 2 & 7 {
            0 => self.want(place, bytes.kind()),
            1 => self.cells.entry(place).or_default().hold(bytes.flag()),
            2 => self.release(place, bytes.flag()),
            3 if bytes.byte() < 32 => self.cancel(place),
            3 if bytes.byte() < 16 => self.next_view(bytes.byte()),
            3 if bytes.byte() < 64 => self.hand_over(),
            _ => self.hear(place, bytes),
        }
        self.look_at(place);
    }

    fn want(&mut self, place: Place, kind: RequestKind) {
        let level = match kind {
            RequestKind::Get { .. } => Some(Access::Read),
            RequestKind::Grab { .. } | RequestKind::TryGrab => Some(Access::Write),
            RequestKind::Remove | RequestKind::Flush { .. } => None,
        };
        let cell = self.cells.entry(place).or_default();
        let served_here = level.is_some_and(|level| cell.access >= level || cell.revoking.is_some());
        if cell.wish.is_some() || served_here || (kind == RequestKind::TryGrab && cell.is_held()) {
            return;
        }
        cell.wish = Some(kind);
        self.counter += 1;
        self.run(place, Input::Want { kind });
    }

    fn cancel(&mut self, place: Place) {
        if self.cells.entry(place).or_default().wish.take().is_some() {
            self.run(place, Input::Cancel);
        }
    }

    fn release(&mut self, place: Place, puts: bool) {
        let cell = self.cells.entry(place).or_default();
        if std::mem::take(&mut cell.writer) && puts {
            cell.value = Some(cell.value.map_or(Version(0), Version::next));
        }
        cell.readers = cell.readers.saturating_sub(1);
        if let Some(input) = lowered(cell) {
            self.run(place, input);
        }
    }

    /// The next view comes when the last one holds.
    fn next_view(&mut self, homes: u8) {
        while self.node.is_handing_over() {
            self.hand_over();
        }
        let awaited: Vec<NodeId> = self.node.awaited().collect();
        awaited.into_iter().for_each(|node| self.node.is_ahead(node));
        self.epoch += 1;
        self.node.install_view(view(self.epoch, homes)).expect("the last one holds, and there is memory");
    }

    /// A shard goes: only messages come of it, and what waited for its home here waits elsewhere.
    fn hand_over(&mut self) {
        let mut outputs = Outputs::new();
        self.node.hand_over(&mut outputs).expect("there is memory");
        assert!(outputs.drain().all(|output| matches!(output, Output::Send { to, .. } if to != ME)));
    }

    /// A peer says something. The link knows who it is: a member, and never this node itself.
    fn hear(&mut self, place: Place, bytes: &mut Bytes<'_>) {
        let from = NodeId(2 + bytes.below(MEMBERS - 1));
        let mut message = bytes.message();
        if bytes.byte() < 160 {
            self.make_plausible(place, &mut message, from);
        }
        if let Message::Request(request) = &message {
            self.handed.entry(place).or_default().insert(request.id.node);
        }
        *self.seen.entry(Message::NAMES[usize::from(message.kind())]).or_default() += 1;
        self.run(place, Input::Message { from, message });
    }

    /// The peer answers what was asked last, with a tenure that can be, and names itself where an honest
    /// one would. It may still lie.
    fn make_plausible(&self, place: Place, message: &mut Message, from: NodeId) {
        let newest = RequestId { node: ME, incarnation: Incarnation(0), counter: self.counter };
        let known = self.node.inspect(place.0, place.1).map_or(Tenure::NONE, |now| now.seen);
        let later = known.next(Epoch(self.epoch)).unwrap_or(known);
        match message {
            Message::Request(request) => request.id.node = from,
            Message::OwnerIs { owner, tenure } | Message::Invalidate { owner, tenure, .. } => {
                (*owner, *tenure) = (from, later);
            }
            Message::Transfer { id, tenure, .. } | Message::Create { id, tenure } => (*id, *tenure) = (newest, later),
            Message::Data { id, tenure, .. } => (*id, *tenure) = (newest, known.max(Tenure::new(Epoch(1), 1))),
            Message::Removing { tenure, .. } => *tenure = later,
            Message::Ack { tenure, .. } | Message::Confirm { tenure } | Message::Removed { tenure } => *tenure = known,
            Message::RemoveDone { id } | Message::NotFound { id } | Message::Busy { id } => *id = newest,
            _ => {}
        }
    }

    fn run(&mut self, place: Place, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let before = self.node.inspect(place.0, place.1);
            let bound = most_outputs(before.as_ref(), &input);
            let mut outputs = Outputs::new();
            self.node.handle(place.0, place.1, input, &mut outputs).expect("set, home and memory are there");
            assert!(outputs.as_slice().len() <= bound, "more outputs than were reserved");
            for output in outputs.drain() {
                self.act(place, output, &mut inputs);
            }
        }
    }

    fn act(&mut self, place: Place, output: Output, inputs: &mut VecDeque<Input>) {
        let cell = self.cells.entry(place).or_default();
        let name = match output {
            Output::Send { to, body, .. } => {
                assert!(to.is_somebody() && to != ME, "sent to {to}");
                assert!(body == Body::None || cell.value.is_some(), "bytes of a value that is not here");
                assert!(body == Body::None || !cell.writer, "I1: bytes that are being written");
                "sent"
            }
            Output::Install { version, has_value, .. } => {
                let same = has_value && cell.value == Some(version);
                assert!(same || !cell.is_held(), "I1: a value was replaced under a holder");
                cell.value = has_value.then_some(version);
                "installed"
            }
            Output::Granted { access, needs_value, answers, .. } => {
                assert!(cell.revoking.is_none(), "granted while access is taken back");
                assert!(needs_value || cell.value.is_some(), "granted a value that is not here");
                cell.access = cell.access.max(access);
                if answers {
                    let wish = cell.wish.take().expect("an answer to no wish");
                    // Who waited has it before the next output; sometimes it has given up.
                    if self.counter & 3 != 0 {
                        cell.hold(!matches!(wish, RequestKind::Get { .. }));
                    }
                }
                "granted"
            }
            Output::Revoke { to, .. } => {
                assert!(cell.revoking.is_none() && cell.access > to, "taken back twice");
                cell.revoking = Some(to);
                inputs.extend(lowered(cell));
                "revoked"
            }
            Output::TryRevoke { .. } => {
                assert!(cell.revoking.is_none(), "taken back twice");
                if cell.is_held() {
                    inputs.push_back(Input::Held);
                } else {
                    cell.access = Access::None;
                    inputs.push_back(cell.back());
                }
                "tried to revoke"
            }
            Output::Answer { answer, .. } => {
                let wish = cell.wish.take().expect("an answer to no wish");
                assert!(fits(wish, answer), "{answer:?} to {wish:?}");
                "answered"
            }
            Output::Discard { .. } => {
                assert!(!cell.is_held() && cell.access == Access::None, "I1: a value in use was discarded");
                cell.value = None;
                "discarded"
            }
            Output::Dropped { .. } => "dropped",
            Output::Fault { what, .. } => panic!("a peer made this node fault: {what}"),
        };
        *self.seen.entry(name).or_default() += 1;
    }

    /// What must hold between inputs, whatever was said.
    fn look_at(&self, place: Place) {
        let (Some(now), Some(cell)) = (self.node.inspect(place.0, place.1), self.cells.get(&place)) else { return };
        assert_eq!(now.wanting, cell.wish.is_some(), "{now:?} {cell:?}");
        assert!(now.access == cell.access || cell.revoking.is_some(), "{now:?} {cell:?}");
        let alone = now.sharers.is_empty() && now.owed.is_empty();
        let allowed = match now.main {
            Main::Owner { .. } if alone => Access::Write,
            Main::Owner { .. } | Main::Sharer { .. } => Access::Read,
            _ => Access::None,
        };
        assert!(now.access <= allowed, "I1: {now:?}");
        let waiting = now.queue + now.parked;
        let askers = self.handed.get(&place).map_or(0, BTreeSet::len);
        // The own wish may wait at the home and at the owner that this node became meanwhile, and a
        // try_grab that has found all sharers willing goes ahead of a later request of its sender.
        assert!(waiting <= askers + 3, "{waiting} requests of {askers} nodes wait: {now:?} {:?}", self.node);
        assert!(now.sharers.len().max(now.owed.len()) <= usize::from(NAMED) + 1, "{now:?}");
        assert!(self.node.counts(place.0).0 <= 2 && self.node.memory_bytes(place.0) < 64 << 10);
    }

    /// Local threads let go of everything: nothing waits for them any more.
    fn end(&mut self) {
        let places: Vec<Place> = self.cells.keys().copied().collect();
        for place in places {
            self.cancel(place);
            for _ in 0..8 {
                self.release(place, false);
            }
            let cell = self.cells.get(&place).expect("it was listed");
            assert!(cell.revoking.is_none() && !cell.is_held(), "{cell:?}");
            self.look_at(place);
        }
    }
}

/// What the home answers once nobody uses more than what was asked back.
fn lowered(cell: &mut Cell) -> Option<Input> {
    let to = cell.revoking?;
    cell.access = cell.access.min(to);
    if cell.is_used_above(to) {
        return None;
    }
    cell.revoking = None;
    Some(cell.back())
}

fn fits(wish: RequestKind, answer: Answer) -> bool {
    match answer {
        Answer::NotFound => {
            matches!(wish, RequestKind::Get { existing: true } | RequestKind::Grab { existing: true })
        }
        Answer::Busy => wish == RequestKind::TryGrab,
        Answer::Removed => wish == RequestKind::Remove,
        Answer::Flushed => matches!(wish, RequestKind::Flush { .. }),
        Answer::Lost => !matches!(wish, RequestKind::Flush { .. }),
    }
}

/// The room that `Shard::handle` reserves: beyond it, memory could not be refused any more.
fn most_outputs(before: Option<&Inspection>, input: &Input) -> usize {
    let travelling = match input {
        Input::Message { message: Message::Transfer { sharers, .. }, .. } => sharers.len(),
        _ => 0,
    };
    let held = before.map_or(0, |at| at.parked + at.queue + at.sharers.len() + at.owed.len());
    16 + 4 * (2 + travelling + held)
}
