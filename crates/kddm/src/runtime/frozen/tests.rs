//! While lanes hear of a freeze one after the other.

use std::time::Duration;

use kddm_core::id::{NodeId, ObjectId, SetId};

use crate::eventually::eventually;
use crate::runtime::Runtime;
use crate::runtime::destroy::SLICE;
use crate::{Node, Pending, Set, WriteGuard};

/// No test takes as long; one that does has failed.
const LIMIT: Duration = Duration::from_secs(30);

/// A node with two lanes, and an object of each, of which only the last one exists.
struct House {
    node: Node,
    set: Set<u64>,
    id: SetId,
    objects: [u64; 2],
}

impl House {
    fn new() -> House {
        let node = Node::local_cluster_with(1, |config| config.lanes(2)).expect("a node").remove(0);
        let set: Set<u64> = node.set("lanes").open().wait_for(LIMIT).expect("the set opens");
        let id = SetId(node.set_info("lanes").expect("it is there").id);
        let runtime = node.runtime();
        let objects = [0, 1].map(|lane| first_of_lane(runtime, id, lane, 0));
        set.grab(objects[1]).wait_for(LIMIT).expect("nobody has it").put().wait_for(LIMIT).expect("it is put");
        House { node, set, id, objects }
    }

    /// An object of a lane, from that one on.
    fn of_lane(&self, lane: usize, from: u64) -> u64 {
        first_of_lane(self.runtime(), self.id, lane, from)
    }

    fn program(&self, name: &str) -> Node {
        let socket = std::env::temp_dir().join(format!("kddm-frozen-{}-{name}.sock", std::process::id()));
        self.node.accept_programs(&socket).expect("the path is free");
        Node::attach(&socket).wait_for(LIMIT).expect("it accepts programs")
    }

    fn runtime(&self) -> &Runtime {
        self.node.runtime()
    }

    /// A lane hears of the freeze.
    fn freeze(&self, lane: usize) {
        self.is_frozen_by(lane, vec![self.runtime().identity.id]);
    }

    fn thaw(&self, lane: usize) {
        self.is_frozen_by(lane, Vec::new());
    }

    fn is_frozen_by(&self, lane: usize, by: Vec<NodeId>) {
        let lane = &self.runtime().lanes[lane];
        let mut state = lane.lock();
        state.freeze(self.id, by);
        lane.finish(state);
    }

    /// The node is asked when its writers have come to an end, and looks at all that is here.
    fn is_asked(&self) {
        self.runtime().lanes.iter().for_each(|lane| lane.in_slices(|state, at| state.close_cells(self.id, at, SLICE)));
    }

    fn closes(&self) -> bool {
        self.runtime().close_all_lanes(self.id).is_ok()
    }

    /// Whoever asks for an object of each lane while the second one has not heard of it is let in by both.
    fn lets_in(&self, asks: &Set<u64>) {
        self.freeze(0);
        let first: Pending<WriteGuard<u64>> = asks.grab(self.objects[0]);
        eventually(LIMIT, "it waits for the thaw", || self.node.statistics().waits_for_thaw == 1);
        let second = asks.grab(self.objects[1]).wait_for(LIMIT).expect("that lane has not heard of it");
        self.freeze(1);
        self.is_asked();
        assert!(!self.closes(), "somebody writes");
        let first = first.wait_for(LIMIT).expect("who holds one is given what else he asks for");
        drop((first, second));
        eventually(LIMIT, "nobody writes", || self.closes());
        assert_eq!(self.node.statistics().faults, 0);
    }
}

fn first_of_lane(runtime: &Runtime, set: SetId, lane: usize, from: u64) -> u64 {
    let is_its = |object: &u64| std::sync::Arc::ptr_eq(runtime.lane(set, ObjectId(*object)), &runtime.lanes[lane]);
    (from..).find(is_its).expect("there are many")
}

/// What it uses in one lane lets a program in by another one. When it uses nothing any more it is in nobody's way there, though a
/// writer of the first lane is in the way of the freeze still: he waits for a reader who comes after the program.
#[test]
fn who_was_let_in_and_is_no_more_keeps_nobody_from_reading_in_another_lane() {
    let house = House::new();
    let (program, [written, wanted]) = (house.program("ended"), house.objects);
    let there: Set<u64> = program.set("lanes").open().wait_for(LIMIT).expect("the set opens");
    let used = there.grab(house.of_lane(1, wanted + 1)).wait_for(LIMIT).expect("nobody has it");
    let reads = house.set.get(wanted).wait_for(LIMIT).expect("nobody writes it");
    let (held, is_held) = std::sync::mpsc::channel();
    let (go_on, goes_on) = std::sync::mpsc::channel();
    let set = house.set.clone();
    let writer = std::thread::spawn(move || {
        let guard = set.grab(written).wait_for(LIMIT).expect("nobody has it");
        held.send(()).expect("the test waits");
        goes_on.recv_timeout(LIMIT).expect("the test says so");
        let read = set.get(wanted).wait_for(LIMIT).map(drop);
        drop(guard);
        read
    });
    is_held.recv_timeout(LIMIT).expect("it is held");
    (0..2).for_each(|lane| house.freeze(lane));
    let _wish = there.grab(wanted);
    let lane = &house.runtime().lanes[1];
    let waiting = || lane.lock().locals.get(&(house.id, ObjectId(wanted))).map_or(0, |local| local.waiters.len());
    eventually(LIMIT, "it waits for the reader", || waiting() == 1);
    house.is_asked();
    go_on.send(()).expect("it waits");
    eventually(LIMIT, "the writer comes after it", || waiting() == 2);
    drop(used);
    eventually(LIMIT, "the program uses nothing", || lane.lock().desk.lent_to_write().next().is_none());
    eventually(LIMIT, "the writer comes to an end", || {
        house.closes();
        writer.is_finished()
    });
    writer.join().expect("it ends").expect("nobody is in the way of a reader");
    drop(reads);
}

/// Nobody is let in where a set is closed: what programs use then is no news for the lanes.
#[test]
fn whoever_waits_aside_when_a_set_is_closed_is_not_called_back_before_the_thaw() {
    let house = House::new();
    let (program, written) = (house.program("closed"), house.objects[1]);
    let there: Set<u64> = program.set("lanes").open().wait_for(LIMIT).expect("the set opens");
    (0..2).for_each(|lane| house.freeze(lane));
    let writes = there.grab(written);
    eventually(LIMIT, "it waits for the thaw", || house.node.statistics().waits_for_thaw == 1);
    let session = house.node.programs().first().expect("it is attached").session;
    let aside = || house.runtime().signals.uses.aside(session, house.id);
    assert_eq!(aside(), 1, "a use would let it in");
    house.is_asked();
    assert!(house.closes(), "nobody writes");
    assert_eq!(aside(), 0, "none does any more");
    assert!(!writes.is_ready());
    (0..2).for_each(|lane| house.thaw(lane));
    drop(writes.wait_for(LIMIT).expect("it has waited on"));
    assert_eq!(house.node.statistics().faults, 0);
}

#[test]
fn a_program_that_is_let_in_by_the_last_lane_is_so_by_all() {
    let house = House::new();
    let program = house.program("last");
    house.lets_in(&program.set("lanes").open().wait_for(LIMIT).expect("the set opens"));
}

#[test]
fn a_thread_that_is_let_in_by_the_last_lane_is_so_by_all() {
    let house = House::new();
    house.lets_in(&house.set);
}
