//! Memory may be refused at any allocation: the input then changed nothing, can be tried again, and
//! all ends as if nothing had happened.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use kddm_core::id::{Epoch, NodeId, ObjectId, Placement, PlacementPolicy, SetId, Version};
use kddm_core::io::{Access, Input, NoMemory, Output, Outputs};
use kddm_core::message::{Message, RequestKind};
use kddm_core::node::{Node, Refused};
use kddm_core::shard::{Place, Room, Shard};
use kddm_core::view::{Member, NodeState, View};

thread_local! {
    /// Allocations of this thread until one is refused; zero is never.
    static UNTIL_REFUSED: Cell<u64> = const { Cell::new(0) };
}

struct Refusing;

// SAFETY: everything is done by the system's allocator; a null pointer says that memory was refused.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let refused = UNTIL_REFUSED.try_with(|left| {
            let now = left.get();
            left.set(now.saturating_sub(1));
            now == 1
        });
        if refused == Ok(true) {
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

const OBJECT: ObjectId = ObjectId(1);
const NODES: u16 = 4;

/// Several shards with their links; local threads give access back at once and hold nothing.
#[derive(Default)]
struct Cluster {
    shards: Vec<Shard>,
    counters: Vec<u64>,
    rooms: Vec<Room>,
    values: Vec<bool>,
    view: View,
    links: BTreeMap<(u16, u16), VecDeque<Message>>,
    /// The input whose n-th allocation is refused, and n.
    refuse: (u64, u64),
    inputs: u64,
    refused: u64,
}

/// All nodes share objects.
fn view() -> View {
    let member = |id| Member { id: NodeId(id), state: NodeState::Possible, ..Member::default() };
    let homes = (1..=NODES).map(NodeId).collect();
    View {
        epoch: Epoch(1),
        placement: Placement(1),
        members: (1..=NODES).map(member).collect(),
        homes,
        ..View::default()
    }
}

impl Cluster {
    fn new(refuse: (u64, u64)) -> Cluster {
        Cluster {
            shards: (0..NODES).map(|_| Shard::new()).collect(),
            counters: vec![0; usize::from(NODES)],
            rooms: vec![Room::default(); usize::from(NODES)],
            values: vec![false; usize::from(NODES)],
            view: view(),
            refuse,
            ..Cluster::default()
        }
    }

    fn handle(&mut self, at: u16, input: Input) {
        let index = usize::from(at) - 1;
        let (me, home) = (NodeId(at), NodeId(1));
        let place = Place {
            me,
            incarnation: Default::default(),
            home,
            view_home: home,
            view: &self.view,
            set: SetId::SYSTEM,
            at: Default::default(),
            is_recovering: false,
            in_doubt: false,
            is_accepted: false,
            newcomers: &[],
        };
        self.inputs += 1;
        let before = (self.shards[index].clone(), self.counters[index]);
        let mut outputs = Outputs::new();
        let again = input.clone();
        UNTIL_REFUSED.set(if self.inputs == self.refuse.0 { self.refuse.1 } else { 0 });
        let result = self.shards[index].handle(
            &place,
            &mut self.counters[index],
            &mut self.rooms[index],
            OBJECT,
            input,
            &mut outputs,
        );
        UNTIL_REFUSED.set(0);
        if result == Err(NoMemory) {
            self.refused += 1;
            assert!(outputs.is_empty(), "a refused input has outputs");
            assert!(before == (self.shards[index].clone(), self.counters[index]), "a refused input changed something");
            let again = self.shards[index].handle(
                &place,
                &mut self.counters[index],
                &mut self.rooms[index],
                OBJECT,
                again,
                &mut outputs,
            );
            assert_eq!(again, Ok(()), "the same input with memory");
        }
        let outputs: Vec<Output> = outputs.drain().collect();
        for output in outputs {
            self.act(at, output);
        }
    }

    fn act(&mut self, at: u16, output: Output) {
        let index = usize::from(at) - 1;
        match output {
            Output::Send { to, message, .. } => self.links.entry((at, to.0)).or_default().push_back(message),
            Output::Install { has_value, .. } => self.values[index] = has_value,
            Output::Granted { access: Access::Write, .. } => self.values[index] = true,
            Output::Revoke { .. } | Output::TryRevoke { .. } => {
                let has_value = self.values[index];
                self.handle(at, Input::Revoked { version: Version(1), has_value });
            }
            Output::Discard { .. } => self.values[index] = false,
            Output::Fault { what, .. } => panic!("node {at}: {what}"),
            _ => {}
        }
    }

    fn want(&mut self, at: u16, kind: RequestKind) {
        self.handle(at, Input::Want { kind });
    }

    fn deliver_all(&mut self) {
        while let Some((from, to)) = self.links.iter().find(|(_, link)| !link.is_empty()).map(|(pair, _)| *pair) {
            let message = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front).expect("it is not empty");
            self.handle(to, Input::Message { from: NodeId(from), message });
        }
    }
}

/// First touch, copies everywhere, grabs that queue, a try_grab, a flush, a remove, a second life.
fn story(refuse: (u64, u64)) -> Cluster {
    let get = RequestKind::Get { existing: false };
    let grab = RequestKind::Grab { existing: false };
    let mut cluster = Cluster::new(refuse);
    cluster.want(2, grab);
    cluster.deliver_all();
    for node in [1, 3, 4] {
        cluster.want(node, get);
    }
    cluster.deliver_all();
    for node in [1, 3, 4] {
        cluster.want(node, grab);
    }
    cluster.deliver_all();
    cluster.want(2, get);
    cluster.deliver_all();
    cluster.want(3, RequestKind::TryGrab);
    cluster.deliver_all();
    cluster.want(3, RequestKind::Flush { to: NodeId(2) });
    cluster.deliver_all();
    cluster.want(4, get);
    cluster.deliver_all();
    cluster.want(1, RequestKind::Remove);
    cluster.want(3, get);
    cluster.deliver_all();
    cluster.handle(3, Input::RemoveUnused { version: Version(1), has_value: cluster.values[2] });
    cluster.deliver_all();
    cluster
}

#[test]
fn every_refused_allocation_changes_nothing_and_can_be_tried_again() {
    let plain = story((0, 0));
    assert!(plain.inputs > 40, "the story has only {} inputs", plain.inputs);
    assert!(plain.shards.iter().all(Shard::is_at_rest));
    let mut refused = 0;
    for input in 1..=plain.inputs {
        for allocation in 1.. {
            let other = story((input, allocation));
            assert!(other.shards == plain.shards, "input {input}, allocation {allocation}: another end");
            refused += other.refused;
            if other.refused == 0 {
                break; // This input allocates less often.
            }
        }
    }
    assert!(refused > 40, "only {refused} allocations were refused");
}

/// Whole nodes, of which the last one is lost. Local threads give access back at once, and put what they are
/// granted to write.
struct Epochs {
    nodes: Vec<Node>,
    view: View,
    values: BTreeMap<(u16, ObjectId), Version>,
    links: BTreeMap<(u16, u16), VecDeque<(ObjectId, Message)>>,
    /// The step whose n-th allocation is refused, and n.
    refuse: (u64, u64),
    steps: u64,
    refused: u64,
    done: BTreeMap<&'static str, u64>,
}

/// Its home is node 1, and each object is to have one replica.
fn replicated() -> SetId {
    SetId::new(PlacementPolicy::Fixed(NodeId(1)), SetId::FIRST_COUNTER).with_replicas(1)
}

impl Epochs {
    fn new(refuse: (u64, u64)) -> Epochs {
        let view = View { fewest_homes: NODES, ..view() };
        let mut nodes: Vec<Node> = (1..=NODES).map(|node| Node::new(NodeId(node), Default::default(), 0)).collect();
        for node in &mut nodes {
            node.install_view(view.try_clone().expect("there is memory")).expect("it is the first");
        }
        let (values, links, done) = Default::default();
        Epochs { nodes, view, values, links, refuse, steps: 0, refused: 0, done }
    }

    /// Does a step, and again if memory was refused. One without outputs then has changed nothing; those of
    /// entering an epoch are made an object at a time, and are done also if the next object waits for memory.
    fn step<T>(
        &mut self,
        at: u16,
        what: impl Fn() -> T,
        step: impl Fn(&mut Node, T, &mut Outputs) -> Result<(), Refused>,
    ) {
        let index = usize::from(at) - 1;
        self.steps += 1;
        let mut outputs = Outputs::new();
        let before = self.nodes[index].clone();
        let first = what();
        UNTIL_REFUSED.set(if self.steps == self.refuse.0 { self.refuse.1 } else { 0 });
        let result = step(&mut self.nodes[index], first, &mut outputs);
        UNTIL_REFUSED.set(0);
        if result == Err(Refused::NoMemory) {
            self.refused += 1;
            // A set or a shard that is touched first may be there already: nothing is in it.
            let seen = |node: &Node, id| node.inspect(replicated(), ObjectId(id)).unwrap_or_default();
            let after = &self.nodes[index];
            let same = !outputs.is_empty()
                || !before.has_entered()
                || (1..=6).all(|object| seen(&before, object) == seen(after, object));
            assert!(same, "step {}, allocation {}: it changed something", self.steps, self.refuse.1);
            assert_eq!(step(&mut self.nodes[index], what(), &mut outputs), Ok(()), "the same step with memory");
        }
        let outputs: Vec<Output> = outputs.drain().collect();
        for output in outputs {
            self.act(at, output);
        }
    }

    fn handle(&mut self, at: u16, object: ObjectId, input: Input) {
        self.step(at, || input.clone(), |node, input, outputs| node.handle(replicated(), object, input, outputs));
    }

    fn act(&mut self, at: u16, output: Output) {
        let object = output.object();
        let place = (at, object);
        match output {
            Output::Send { to, message, .. } => {
                *self.done.entry(Message::NAMES[usize::from(message.kind())]).or_default() += 1;
                self.links.entry((at, to.0)).or_default().push_back((object, message));
            }
            Output::Install { version, has_value: true, .. } | Output::UseReplica { version, .. } => {
                self.values.insert(place, version);
            }
            Output::Install { .. } | Output::Discard { .. } => {
                self.values.remove(&place);
            }
            Output::Granted { access: Access::Write, .. } => {
                let version = self.values.get(&place).map_or(Version(1), |version| version.next());
                self.values.insert(place, version);
                self.handle(at, object, Input::Put { version });
            }
            Output::Revoke { .. } | Output::TryRevoke { .. } => {
                let version = self.values.get(&place).copied();
                let has_value = version.is_some();
                self.handle(at, object, Input::Revoked { version: version.unwrap_or_default(), has_value });
            }
            Output::Fault { what, .. } => panic!("node {at}: {what}"),
            _ => {}
        }
    }

    fn deliver_all(&mut self) {
        while let Some(pair) = self.links.iter().find(|(_, link)| !link.is_empty()).map(|(pair, _)| *pair) {
            let (object, message) = self.links.get_mut(&pair).and_then(VecDeque::pop_front).expect("it is not empty");
            self.handle(pair.1, object, Input::Message { from: NodeId(pair.0), message });
        }
    }

    fn want(&mut self, at: u16, object: u64, kind: RequestKind) {
        self.handle(at, ObjectId(object), Input::Want { kind });
    }

    /// The last node is lost, and all that was under way.
    fn lose_the_last(&mut self) {
        self.links.clear();
        let lost = NodeId(NODES);
        self.view.epoch = Epoch(2);
        self.view.members.retain(|member| member.id != lost);
        self.view.homes.retain(|home| *home != lost);
        self.view.failures = 1;
        self.view.fewest_homes = NODES - 1;
        for at in 1..NODES {
            let view = self.view.clone();
            self.step(at, || view.clone(), |node, view, _| node.install_view(view));
        }
        for _ in 0..100 {
            for at in 1..NODES {
                while self.nodes[usize::from(at) - 1].is_handing_over() {
                    self.step(at, || (), |node, (), outputs| Ok(node.hand_over(outputs).map(|_| ())?));
                }
            }
            self.deliver_all();
        }
    }
}

/// Of every kind of copy one becomes the object; a put, a removal and a first touch are cut short.
fn lost_member(refuse: (u64, u64)) -> Epochs {
    let get = RequestKind::Get { existing: false };
    let grab = RequestKind::Grab { existing: false };
    let mut epochs = Epochs::new(refuse);
    // One with a replica only, one with readers; one that is on its way; one that is being removed, put, made.
    for (object, owner) in [(1, 4), (2, 4), (3, 3), (4, 2), (5, 2)] {
        epochs.want(owner, object, grab);
        epochs.deliver_all();
    }
    for reader in [1, 2, 3] {
        epochs.want(reader, 2, get);
    }
    epochs.deliver_all();
    epochs.want(3, 4, get);
    epochs.deliver_all();
    epochs.want(2, 4, RequestKind::Remove);
    epochs.want(1, 5, grab);
    epochs.handle(3, ObjectId(3), Input::Message { from: NodeId(4), message: request_of(4, grab) });
    epochs.want(4, 6, grab);
    epochs.lose_the_last();
    for object in 1..=6 {
        epochs.want(2, object, get);
        epochs.deliver_all();
    }
    epochs
}

fn request_of(node: u16, kind: RequestKind) -> Message {
    let id = kddm_core::id::RequestId { node: NodeId(node), counter: 99, ..Default::default() };
    let tau = Default::default();
    Message::Request(kddm_core::message::Request {
        id,
        kind,
        tau,
        forwards: 0,
        inherited: false,
        first: false,
        to_home: false,
    })
}

#[test]
fn a_lost_member_is_got_over_whichever_allocation_is_refused() {
    let plain = lost_member((0, 0));
    let survivors = usize::from(NODES) - 1;
    assert!(plain.nodes[..survivors].iter().all(Node::is_at_rest), "{:?}", plain.nodes);
    for name in ["push", "have", "have_replica", "promote", "confirm", "removing", "all_reported"] {
        assert!(plain.done.contains_key(name), "nobody said `{name}`: {:?}", plain.done);
    }
    let mut refused = 0;
    for step in 1..=plain.steps {
        for allocation in 1.. {
            let other = lost_member((step, allocation));
            let same = other.nodes[..survivors] == plain.nodes[..survivors] && other.values == plain.values;
            assert!(same, "step {step}, allocation {allocation}: another end");
            refused += other.refused;
            if other.refused == 0 {
                break; // This step allocates less often.
            }
        }
    }
    assert!(refused > 100, "only {refused} allocations were refused");
}
