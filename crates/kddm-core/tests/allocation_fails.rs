//! Memory may be refused at any allocation: the input then changed nothing, can be tried again, and
//! all ends as if nothing had happened.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use kddm_core::id::{Epoch, NodeId, ObjectId, Placement, Version};
use kddm_core::io::{Access, Input, NoMemory, Output, Outputs};
use kddm_core::message::{Message, RequestKind};
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
    let member = |id| Member { id: NodeId(id), incarnation: Default::default(), state: NodeState::Possible };
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
        let place = Place { me, incarnation: Default::default(), home, view_home: home, view: &self.view };
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
