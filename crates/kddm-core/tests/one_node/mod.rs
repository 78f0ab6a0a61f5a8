//! One node between local threads that keep to the contract of `io.rs`, and peers that say anything.
//! The same bytes always tell the same story; `tests/arbitrary_inputs.rs` and `fuzz/` make them up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kddm_core::home::{Entry, EntryState};
use kddm_core::id::{
    Epoch, Incarnation, NodeId, ObjectId, Placement, PlacementPolicy, RequestId, SHARDS_PER_SET, SetId, ShardIndex,
    Tenure, Version, Zone,
};
use kddm_core::io::{Access, Answer, Body, Input, Output, Outputs};
use kddm_core::message::{
    CopyKind, Have, Knew, Loss, MESSAGE_KINDS, Message, ReadCopy, Request, RequestKind, Role, Since,
};
use kddm_core::node::{HandedOver, Node};
use kddm_core::nodeset::NodeSet;
use kddm_core::replicas::{MOST_REPLICAS, ReplicaSet};
use kddm_core::shard::{Inspection, Main, Standing};
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
        match self.below(MESSAGE_KINDS as u16 + 1) {
            0 | 1 => Message::Request(self.request()),
            2 => Message::Create { tenure: self.tenure(), id: self.id() },
            3 => Message::Data { tenure: self.tenure(), version: self.version(), id: self.id() },
            4 => Message::Transfer {
                tenure: self.tenure(),
                version: self.version(),
                born: self.tenure(),
                sharers: self.nodes(),
                replicas: self.replicas(),
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
            18 => Message::Entry {
                tenure: self.tenure(),
                owner: self.node(),
                state: self.entry_state(),
                lost: self.below(4) == 0,
            },
            19 => Message::ShardIsYours {
                shard: ShardIndex(self.below(SHARDS_PER_SET)),
                floor: self.tenure(),
                in_doubt: self.flag(),
                unbroken: Epoch(self.below(4).into()),
            },
            20 => Message::Push { tenure: self.tenure(), version: self.version() },
            21 => Message::PushAck { tenure: self.tenure(), version: self.version() },
            22 => Message::DropReplica { tenure: self.tenure() },
            23 => Message::Have(self.have()),
            24 => Message::HaveReplica { tenure: self.tenure(), version: self.version() },
            25 => Message::Reported { shard: ShardIndex(self.below(SHARDS_PER_SET)), forgotten: self.tenure() },
            26 => Message::AllReported,
            27 => Message::Promote {
                tenure: self.tenure(),
                version: self.version(),
                copy: self.copy(),
                sharers: self.nodes(),
                replicas: self.replicas(),
            },
            28 => Message::Decline { tenure: self.tenure(), copy: self.copy() },
            29 => Message::Orphan { tenure: self.tenure(), version: self.version() },
            30 => Message::Loss(Loss {
                epoch: Epoch(self.below(4).into()),
                placement: Placement(self.below(4).into()),
                failures: self.below(3).into(),
                fewest_homes: self.below(3),
                before: self.nodes(),
                after: self.nodes(),
                forgotten: self.below(8) == 0,
            }),
            31 => Message::AcceptLoss { set_until: self.flag().then(|| Epoch(self.below(4).into())) },
            32 => Message::Wanted { shard: ShardIndex(self.below(SHARDS_PER_SET)) },
            33 => Message::ReplicaGone { tenure: self.tenure() },
            34 => {
                Message::HaveOffer { tenure: self.tenure(), version: self.version(), left: Epoch(self.below(4).into()) }
            }
            37 => Message::Returned { left: Epoch(self.below(4).into()) },
            38 => Message::Knew(Knew {
                tenure: self.tenure(),
                owner: self.node(),
                life: Incarnation(self.below(3).into()),
                state: self.entry_state(),
                lost: self.flag(),
                since: self.since(),
            }),
            39 => Message::KnewAll {
                shard: ShardIndex(self.below(SHARDS_PER_SET)),
                floor: self.tenure(),
                in_doubt: self.flag(),
                since: self.since(),
            },
            35 => Message::Revalidate { id: self.id(), copies: self.copies() },
            36 => Message::Revalidated {
                id: self.id(),
                valid: self.copies().into_iter().map(|copy| copy.object).collect(),
            },
            _ => Message::Placed { placement: Placement(self.byte().into()) },
        }
    }

    fn since(&mut self) -> Since {
        Since { unbroken: Epoch(self.below(4).into()), left: Epoch(self.below(4).into()) }
    }

    fn entry_state(&mut self) -> EntryState {
        use EntryState::{Absent, Fact, Predicted, Promoted, Removing, Unknown};
        [Predicted, Fact, Removing, Promoted, Unknown, Absent][usize::from(self.below(6))]
    }

    fn copy(&mut self) -> CopyKind {
        [CopyKind::Sharer, CopyKind::Replica, CopyKind::Ghost, CopyKind::Offer][usize::from(self.below(4))]
    }

    /// Of the objects that there are, and of one that there is not.
    fn copies(&mut self) -> Vec<ReadCopy> {
        let mut copies = Vec::new();
        for object in (0..3).map(ObjectId) {
            if self.flag() {
                copies.push(ReadCopy { object, tenure: self.tenure(), version: self.version() });
            }
        }
        copies
    }

    fn replicas(&mut self) -> ReplicaSet {
        (0..self.below(3)).map(|_| self.node()).filter(|node| node.is_somebody()).collect()
    }

    fn have(&mut self) -> Have {
        let roles = [Role::None, Role::Owner, Role::Sharer, Role::Ghost, Role::Tombstone];
        Have {
            role: roles[usize::from(self.below(5))],
            tenure: self.tenure(),
            version: self.version(),
            seen: self.tenure(),
            removed: self.flag(),
            sent: self.tenure(),
            to: self.node(),
            has_value: self.flag(),
            replicas: self.replicas(),
        }
    }
}

type Place = (SetId, ObjectId);

/// What is about no object.
const SYSTEM: Place = (SetId::SYSTEM, ObjectId(0));

/// What the home has of one object besides the core's record.
#[derive(Default, Debug)]
struct Cell {
    access: Access,
    value: Option<Version>,
    readers: u8,
    writer: bool,
    wish: Option<RequestKind>,
    revoking: Option<Access>,
    /// A put that waits for its replicas: its writer still holds the object.
    putting: Option<Version>,
    /// The replica that is kept for others.
    replica: Option<Version>,
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

    /// The bytes go out as they are: of the version that is named, and of no half-written one. A replica is
    /// made of what was put last, whoever writes.
    fn send(&self, message: &Message) {
        let (Message::Data { version, .. } | Message::Transfer { version, .. } | Message::Push { version, .. }) =
            message
        else {
            panic!("{message:?} has no body")
        };
        assert_eq!(self.value, Some(*version), "bytes of another version: {message:?} {self:?}");
        let is_push = matches!(message, Message::Push { .. });
        assert!(!self.writer || self.putting.is_some() || is_push, "I1: bytes that are being written");
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
    members: Members,
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

/// Who is in, and what the log of views says of it.
struct Members {
    epoch: u32,
    placement: u32,
    /// The lives of nodes 1 to 4; none of one that is lost.
    lives: [Option<u32>; MEMBERS as usize],
    newest_lives: [u32; MEMBERS as usize],
    homes: u8,
    failures: u32,
    fewest_homes: u16,
}

impl Members {
    fn first() -> Members {
        let (lives, newest_lives) = ([Some(0); MEMBERS as usize], [0; MEMBERS as usize]);
        Members { epoch: 1, placement: 1, lives, newest_lives, homes: 0b10, failures: 0, fewest_homes: 2 }
    }

    fn has(&self, node: NodeId) -> bool {
        self.lives.get(usize::from(node.0).wrapping_sub(1)).is_some_and(Option::is_some)
    }

    fn life(&self, node: NodeId) -> Incarnation {
        let life = self.lives.get(usize::from(node.0).wrapping_sub(1)).copied().flatten();
        Incarnation(life.unwrap_or_default())
    }

    /// Homes are node 2, and of nodes 1 and 3 those whose bit is set.
    fn view(&mut self) -> View {
        let nodes = || (1..=MEMBERS).map(NodeId);
        let is_home = |node: &NodeId| node.0 == 2 || (node.0 < 4 && self.homes >> node.0 & 1 == 1);
        let member = |id| Member { id, incarnation: self.life(id), state: NodeState::Possible, zone: Zone(id.0 % 3) };
        let members: Vec<Member> = nodes().filter(|node| self.has(*node)).map(member).collect();
        let homes: Vec<NodeId> = members.iter().map(|member| member.id).filter(is_home).collect();
        self.fewest_homes = self.fewest_homes.min(homes.len() as u16);
        View {
            epoch: Epoch(self.epoch),
            placement: Placement(self.placement),
            members,
            homes,
            failures: self.failures,
            fewest_homes: self.fewest_homes,
        }
    }

    /// Nodes 3 and 4 are lost, if their bits are set and they are in.
    fn lose(&mut self, bits: u8) -> bool {
        let before = self.failures;
        for node in (2..MEMBERS as usize).filter(|node| bits >> node & 1 == 1) {
            self.failures += u32::from(self.lives[node].take().is_some());
        }
        self.epoch += u32::from(self.failures > before);
        self.failures > before
    }

    /// Whoever was lost comes back, in a new life.
    fn let_in(&mut self) {
        for (life, newest) in self.lives.iter_mut().zip(&mut self.newest_lives) {
            if life.is_none() {
                *newest += 1;
                *life = Some(*newest);
            }
        }
    }

    /// All was whole again.
    fn heal(&mut self) {
        (self.failures, self.fewest_homes) = (0, u16::MAX);
    }
}

impl Story {
    fn begin() -> Story {
        let mut node = Node::new(ME, Incarnation(0), 0);
        let mut members = Members::first();
        node.install_view(members.view()).expect("there is memory");
        let (cells, handed, seen) = Default::default();
        Story { node, cells, handed, counter: 0, members, seen }
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        let choice = bytes.byte();
        // Of the first set this node is the home, of the second another one is.
        let home = NodeId(1 + u16::from(choice & 1));
        let replicas = choice >> 5 & 1;
        let set = SetId::new(PlacementPolicy::Fixed(home), SetId::FIRST_COUNTER).with_replicas(replicas);
        let place = (set, ObjectId(u64::from(choice >> 1 & 1)));
        if choice >> 2 & 7 < 3 {
            self.enter();
        }
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
        let is_unused = cell.access == Access::Write && cell.revoking.is_none() && !cell.is_held();
        // Half of the objects are given up together with what they could be asked for.
        if kind == RequestKind::Remove && is_unused && place.1.0.is_multiple_of(2) {
            cell.access = Access::None;
            let (version, has_value) = (cell.value.unwrap_or_default(), cell.value.is_some());
            return self.run(place, Input::RemoveUnused { version, has_value });
        }
        self.run(place, Input::Want { kind });
    }

    /// What local threads do, they do in the installed epoch: what entering it answers is answered before.
    fn enter(&mut self) {
        while !self.node.has_entered() {
            self.hand_over();
        }
    }

    fn cancel(&mut self, place: Place) {
        self.enter();
        if self.cells.entry(place).or_default().wish.take().is_some() {
            self.run(place, Input::Cancel);
        }
    }

    fn release(&mut self, place: Place, puts: bool) {
        let cell = self.cells.entry(place).or_default();
        if cell.putting.is_some() {
            return; // It holds the object until its put is done.
        }
        if std::mem::take(&mut cell.writer) && puts {
            let version = cell.value.map_or(Version(0), Version::next);
            cell.value = Some(version);
            if place.0.replicas() > 0 {
                (cell.writer, cell.putting) = (true, Some(version));
                return self.run(place, Input::Put { version });
            }
        }
        cell.readers = cell.readers.saturating_sub(1);
        if let Some(input) = lowered(cell) {
            self.run(place, input);
        }
    }

    /// Another placement comes when the last one holds; members are lost at any time.
    fn next_view(&mut self, choice: u8) {
        self.members.homes = choice;
        self.members.placement += 1;
        if choice & 0b1_0000 == 0 || !self.members.lose(choice >> 4) {
            let is_settled = self.settle();
            self.members.epoch += u32::from(!is_settled);
            *self.seen.entry(if is_settled { "settled" } else { "not settled" }).or_default() += 1;
            self.members.let_in();
            if choice & 0b1000_0000 != 0 {
                self.members.heal();
            }
        } else {
            *self.seen.entry("lost a member").or_default() += 1;
        }
        self.node.install_view(self.members.view()).expect("the last one holds or is over, and there is memory");
    }

    /// All others have handed over what they had to, and said what they have. The owners that the home has
    /// made then say so, but not those of which somebody has lied: these wait for the next epoch.
    fn settle(&mut self) -> bool {
        while self.node.is_handing_over() {
            self.hand_over();
        }
        let awaited: Vec<NodeId> = self.node.awaited().collect();
        for node in awaited {
            self.node.is_ahead(node);
            self.run(SYSTEM, Input::Message { from: node, message: Message::AllReported });
        }
        while self.node.is_handing_over() {
            self.hand_over();
        }
        let places: Vec<Place> = self.cells.keys().copied().collect();
        places.into_iter().for_each(|place| self.settle_owner(place));
        while self.node.is_handing_over() {
            self.hand_over();
        }
        assert_eq!(self.node.awaited().count(), 0, "all have said all");
        self.node.is_settled()
    }

    /// A step of what a change of views asks for.
    fn hand_over(&mut self) {
        let mut outputs = Outputs::new();
        let done = self.node.hand_over(&mut outputs).expect("there is memory");
        let mut inputs = VecDeque::new();
        for output in outputs.drain() {
            match done {
                HandedOver::Shard(set) => self.act(set, None, output, &mut inputs),
                HandedOver::Everything => assert!(matches!(output, Output::Send { to, .. } if to != ME)),
                HandedOver::Nothing => panic!("nothing was done, and {output:?}"),
            }
        }
        self.run_all(inputs);
    }

    /// A peer says something. The link knows who it is: a member, and never this node itself.
    fn hear(&mut self, place: Place, bytes: &mut Bytes<'_>) {
        let from = NodeId(2 + bytes.below(MEMBERS - 1));
        if !self.members.has(from) {
            return;
        }
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
        let later = known.next(Epoch(self.members.epoch)).unwrap_or(known);
        match message {
            Message::Request(request) => (request.id.node, request.id.incarnation) = (from, self.members.life(from)),
            Message::OwnerIs { owner, tenure } | Message::Invalidate { owner, tenure, .. } => {
                (*owner, *tenure) = (from, later);
            }
            Message::Transfer { id, tenure, .. } | Message::Create { id, tenure } => (*id, *tenure) = (newest, later),
            Message::Data { id, tenure, .. } => (*id, *tenure) = (newest, known.max(Tenure::new(Epoch(1), 1))),
            Message::Removing { tenure, .. } => *tenure = later,
            Message::Push { tenure, .. } => *tenure = known.max(Tenure::new(Epoch(1), 1)),
            Message::PushAck { tenure, version } => {
                (*tenure, *version) =
                    (known, self.node.inspect(place.0, place.1).map_or(Version(0), |now| version_here(&now)));
            }
            Message::Promote { tenure, version, copy, .. } => {
                *tenure = later;
                if self.cells.get(&place).is_some_and(|cell| cell.replica.is_some()) {
                    *copy = CopyKind::Replica;
                }
                if let Some(there) = self.node.inspect(place.0, place.1).and_then(|now| copy_here(&now, *copy)) {
                    *version = there;
                }
            }
            Message::Decline { tenure, .. } => {
                let entry = self.node.inspect(place.0, place.1).and_then(|now| now.entry);
                *tenure = entry.map_or(known, |entry| entry.tenure);
            }
            Message::Have(have) => have.seen = have.seen.max(have.tenure).max(have.sent),
            Message::Ack { tenure, .. }
            | Message::Confirm { tenure }
            | Message::Removed { tenure }
            | Message::ReplicaGone { tenure } => *tenure = known,
            Message::RemoveDone { id } | Message::NotFound { id } | Message::Busy { id } => *id = newest,
            _ => {}
        }
    }

    fn run(&mut self, place: Place, input: Input) {
        self.run_all(VecDeque::from([(place, input)]));
    }

    fn run_all(&mut self, mut inputs: VecDeque<(Place, Input)>) {
        while let Some((place, input)) = inputs.pop_front() {
            let before = self.node.inspect(place.0, place.1);
            // The first input of a new epoch takes all objects of its shard there.
            let is_one_object = self.node.has_entered();
            let bound = most_outputs(before.as_ref(), &input);
            let arrived = match &input {
                Input::Message { message: Message::Push { version, .. }, .. } => Some(*version),
                _ => None,
            };
            let is_declined = matches!(input, Input::Message { message: Message::Decline { .. }, .. });
            let mut outputs = Outputs::new();
            self.node.handle(place.0, place.1, input, &mut outputs).expect("set, home and memory are there");
            let is_bounded = is_one_object && !is_declined && self.node.is_settled();
            assert!(!is_bounded || outputs.as_slice().len() <= bound, "more outputs than were reserved");
            for output in outputs.drain() {
                self.act(place.0, arrived, output, &mut inputs);
            }
        }
    }

    fn act(&mut self, set: SetId, arrived: Option<Version>, output: Output, inputs: &mut VecDeque<(Place, Input)>) {
        let place = (set, output.object());
        let cell = self.cells.entry(place).or_default();
        let name = match output {
            Output::Send { to, body, ref message, .. } => {
                assert!(to.is_somebody() && to != ME, "sent to {to}");
                if body == Body::Object {
                    cell.send(message);
                }
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
                inputs.extend(lowered(cell).map(|input| (place, input)));
                "revoked"
            }
            Output::TryRevoke { .. } => {
                assert!(cell.revoking.is_none(), "taken back twice");
                if cell.is_held() {
                    inputs.push_back((place, Input::Held));
                } else {
                    cell.access = Access::None;
                    inputs.push_back((place, cell.back()));
                }
                "tried to revoke"
            }
            Output::Answer { answer, .. } => {
                let wish = cell.wish.take().expect("an answer to no wish");
                assert!(fits(wish, answer), "{answer:?} to {wish:?}");
                "answered"
            }
            Output::PutDone { version, .. } => {
                assert_eq!(cell.putting.take(), Some(version), "a put is done that nobody waits for");
                cell.writer = false;
                inputs.extend(lowered(cell).map(|input| (place, input)));
                "put done"
            }
            Output::StoreReplica { .. } => {
                cell.replica = Some(arrived.expect("a replica comes with a push"));
                "stored a replica"
            }
            Output::KeepReplica { .. } => {
                assert!(!cell.writer, "I1: a copy of what is being written");
                cell.replica = Some(cell.value.expect("a copy of a value that is here"));
                "kept a replica"
            }
            Output::DropReplica { .. } => {
                assert!(cell.replica.take().is_some(), "a replica was dropped that is not here");
                "dropped a replica"
            }
            Output::UseReplica { version, .. } => {
                assert_eq!(cell.replica, Some(version), "another replica was meant");
                assert!(!cell.is_held(), "I1: a value was replaced under a holder");
                cell.value = Some(version);
                "used a replica"
            }
            Output::UseCopy { .. } => panic!("it has no former life"),
            Output::RolledBack { .. } => panic!("no set here is to roll back"),
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
        let (main, is_shared, wanting) = (now.main, !now.sharers.is_empty(), now.wanting);
        let seen = self.node.standing(place.0, place.1);
        let may_write = now.access == Access::Write;
        assert_eq!(
            seen,
            Some(Standing { main, is_shared, wanting, may_write }),
            "less is looked at, and the same seen"
        );
        assert!(now.access == cell.access || cell.revoking.is_some(), "{now:?} {cell:?}");
        assert_eq!(now.replica.map(|(_, version)| version), cell.replica, "{now:?} {cell:?}");
        assert!(cell.putting.is_none() || now.is_pushing, "a put that is not done by anything: {now:?} {cell:?}");
        assert!(now.replicas.len() <= MOST_REPLICAS && !now.replicas.contains(ME), "{now:?}");
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

    /// The owner that the home has made says that it is one.
    fn settle_owner(&mut self, place: Place) {
        self.finish_push(place);
        let entry = self.node.inspect(place.0, place.1).and_then(|now| now.entry);
        if let Some(Entry { state: EntryState::Removing, tenure, .. }) = entry {
            let from = NodeId(2); // It is always in.
            self.run(place, Input::Message { from, message: Message::Removed { tenure } });
        }
        let is_made = |entry: &Entry| entry.state == EntryState::Promoted && self.members.has(entry.node);
        let Some(Entry { node: owner, tenure, .. }) = entry.filter(is_made).filter(|entry| entry.node != ME) else {
            return;
        };
        self.run(place, Input::Message { from: owner, message: Message::OwnerIs { owner, tenure } });
    }

    /// All replicas say that they have what was pushed last, or are gone: only members are ever waited for.
    fn finish_push(&mut self, place: Place) {
        for is_gone in [false, true, false, true] {
            for from in (2..=MEMBERS).map(NodeId) {
                let message = match self.node.inspect(place.0, place.1).map(|now| now.main) {
                    Some(Main::Owner { tenure, .. }) if is_gone && self.members.has(from) => {
                        Message::ReplicaGone { tenure }
                    }
                    Some(Main::Owner { tenure, version, .. }) if self.members.has(from) => {
                        Message::PushAck { tenure, version }
                    }
                    _ => continue,
                };
                self.run(place, Input::Message { from, message });
            }
        }
    }

    /// Local threads let go of everything: nothing waits for them any more.
    fn end(&mut self) {
        let places: Vec<Place> = self.cells.keys().copied().collect();
        for place in places {
            self.cancel(place);
            self.finish_push(place);
            for _ in 0..8 {
                self.release(place, false);
            }
            let cell = self.cells.get(&place).expect("it was listed");
            assert!(cell.revoking.is_none() && !cell.is_held(), "{cell:?}");
            self.look_at(place);
        }
    }
}

fn version_here(now: &Inspection) -> Version {
    match now.main {
        Main::Owner { version, .. } | Main::Sharer { version, .. } | Main::Ghost { version, .. } => version,
        Main::None | Main::Tombstone { .. } => Version(0),
    }
}

/// The version of that copy, if there is one.
fn copy_here(now: &Inspection, copy: CopyKind) -> Option<Version> {
    match (copy, now.main) {
        (CopyKind::Replica, _) => now.replica.map(|(_, version)| version),
        (CopyKind::Sharer, Main::Sharer { version, .. }) | (CopyKind::Ghost, Main::Ghost { version, .. }) => {
            Some(version)
        }
        _ => None,
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
        Answer::Removed | Answer::Unknown => wish == RequestKind::Remove,
        Answer::Flushed => matches!(wish, RequestKind::Flush { .. }),
        Answer::Lost => !matches!(wish, RequestKind::Flush { .. }),
    }
}

/// The room that `Shard::handle` reserves: beyond it, memory could not be refused any more.
fn most_outputs(before: Option<&Inspection>, input: &Input) -> usize {
    let travelling = match input {
        Input::Message { message: Message::Transfer { sharers, .. } | Message::Promote { sharers, .. }, .. } => {
            sharers.len()
        }
        _ => 0,
    };
    let held = before.map_or(0, |at| at.parked + at.queue + at.sharers.len() + at.owed.len());
    16 + 4 * (2 + travelling + held + MOST_REPLICAS)
}
