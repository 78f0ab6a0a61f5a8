//! What asks the allocator for memory, counted: no hit does, and of a message no more than is said here.
//!
//! In a process of its own, because all threads of it are counted.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use kddm::{Config, Node, Pod, Set};

struct Counting;

/// Of all threads.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Of this thread.
    static OF_THREAD: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    // A thread that is ending has none any more, and is not looked at.
    let _gone = OF_THREAD.try_with(|of_thread| of_thread.set(of_thread.get() + 1));
}

// SAFETY: everything is left to the system's allocator; a counter is all that is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a thread that waits for an object allocates: the wait itself, which its lane shares, the operation behind the `Pending`, and the
/// answer, without whose box a hit would cost ten instructions more. Its place is in the queue that the one before has left behind.
const OF_A_MISS: u64 = 3;

type Value = Pod<[u64; 8]>;

/// What is counted of one test is not to be that of another.
static ALONE: Mutex<()> = Mutex::new(());

/// Operations after which everything has the room that it needs, and those of a batch.
const WARM_UP: u64 = 4000;
const BATCH: u64 = 100;

/// Batches. Leases allocate a few times a second, whatever the objects do: in some batch they do not.
const BATCHES: u64 = 60;

const OBJECTS: u64 = 64;

/// Two nodes over TCP.
fn two_nodes() -> [Node; 2] {
    let first = Node::join(Config::new()).wait().unwrap();
    let second = Node::join(Config::new().contact(first.address().clone())).wait().unwrap();
    [first, second]
}

fn open(nodes: &[Node; 2], replicas: u8) -> [Set<Value>; 2] {
    nodes.each_ref().map(|node| node.set("counted").replicas(replicas).open().wait().unwrap())
}

fn write(set: &Set<Value>, object: u64, number: u64) {
    let mut value = set.grab(object).wait().unwrap();
    value.0[0] = number;
    value.put().wait().unwrap();
}

/// The allocations of the batch that had the fewest: of this thread, and of all others.
fn fewest(operation: impl Fn(u64)) -> (u64, u64) {
    (0..WARM_UP).for_each(&operation);
    let batch = |batch: u64| {
        let (all, of_thread) = (ALLOCATIONS.load(Ordering::Relaxed), OF_THREAD.get());
        (0..BATCH).for_each(|number| operation(WARM_UP + batch * BATCH + number));
        let of_thread = OF_THREAD.get() - of_thread;
        (of_thread, ALLOCATIONS.load(Ordering::Relaxed) - all - of_thread)
    };
    (0..BATCHES).map(batch).min_by_key(|(of_thread, of_others)| of_thread + of_others).unwrap()
}

#[test]
fn a_hit_allocates_nothing() {
    let _alone = ALONE.lock();
    let nodes = two_nodes();
    let [set, elsewhere] = open(&nodes, 0);
    let texts: Set<String> = nodes[0].set("texts").replicas(0).open().wait().unwrap();
    let mut text = texts.grab(1).wait().unwrap();
    text.push_str("a string that lies outside of its cell");
    text.put().wait().unwrap();
    (0..OBJECTS).for_each(|object| write(&set, object, object));
    // A copy of what another node owns is a hit as well.
    write(&elsewhere, OBJECTS, 7);
    assert_eq!(set.get(OBJECTS).wait().unwrap().0[0], 7);
    let handle = set.object(OBJECTS);
    let hits = |number: u64| {
        let object = number % OBJECTS;
        assert!(set.get(object).wait().is_ok());
        assert_eq!(set.get(OBJECTS).wait().unwrap().0[0], 7);
        assert_eq!(handle.try_read().map(|words| words[0]), Some(7));
        assert!(set.find(object).is_some());
        assert!(set.try_read_pod(object).is_some());
        assert_eq!(texts.get(1).wait().unwrap().len(), 38);
        write(&set, object, number);
    };
    // Even one more in any batch would be one too many: no other thread is asked for anything here.
    (0..WARM_UP).for_each(hits);
    let before = OF_THREAD.get();
    (0..WARM_UP).for_each(hits);
    assert_eq!(OF_THREAD.get() - before, 0);
}

#[test]
fn a_miss_allocates_what_its_own_thread_waits_with_and_messages_nothing() {
    let _alone = ALONE.lock();
    let nodes = two_nodes();
    let sets = open(&nodes, 0);
    let copies = fewest(|number| {
        write(&sets[0], number % OBJECTS, number);
        assert_eq!(sets[1].get(number % OBJECTS).wait().unwrap().0[0], number);
    });
    // A grab that sends the copy away, and a get: two misses.
    assert_eq!(copies, (2 * OF_A_MISS * BATCH, 0), "copies, of this thread and of others");
    let moves = fewest(|number| write(&sets[number as usize % 2], 1, number));
    assert_eq!(moves, (OF_A_MISS * BATCH, 0), "moves, of this thread and of others");
}
