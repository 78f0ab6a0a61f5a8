//! Operations that go to the owner of an object: each is run once, wherever it is and whatever goes wrong.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use kddm::{Config, Error, Fate, InvokeError, Node, Operation, RpcError, Set, SetError};

mod losses;

/// No test takes as long; one that does has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// Nobody is taken for lost because the machine is busy.
const UNHURRIED: Duration = Duration::from_secs(60);

/// Long enough that what is on its way arrives, short enough to be waited for in vain.
const SHORT: Duration = Duration::from_millis(50);

/// Nodes that talk over TCP.
fn cluster_with(nodes: u16, lease: Duration) -> Vec<Node> {
    let first = Node::join(Config::new().node_id(1).lease(lease)).wait_for(LIMIT).expect("the first node");
    let contact = first.address().clone();
    let join =
        |id| Node::join(Config::new().node_id(id).contact(contact.clone())).wait_for(LIMIT).expect("it is let in");
    let others: Vec<Node> = (2..=nodes).map(join).collect();
    std::iter::once(first).chain(others).collect()
}

fn cluster(nodes: u16) -> Vec<Node> {
    cluster_with(nodes, UNHURRIED)
}

fn open(node: &Node, replicas: u8) -> Set<u64> {
    node.set("counts").replicas(replicas).wait_limit(LIMIT).open().wait_for(LIMIT).expect("the set opens")
}

type Add = Operation<u64, u64, u64>;

/// Adds, and says what there is then. It panics where it is told to add `u64::MAX`, after it has changed the value.
fn add(set: &Set<u64>) -> Add {
    let code = |count: &mut u64, by: u64| {
        let before = std::mem::replace(count, 4711);
        *count = before + by; // An overflow panics, in tests.
        *count
    };
    set.operation("add", code).expect("the name is free")
}

/// The object is that node's, with one.
fn owned_by(set: &Set<u64>, object: u64) {
    let mut guard = set.grab(object).wait_for(LIMIT).expect("nobody holds it");
    *guard = 1;
    guard.put().wait_for(LIMIT).expect("it is put");
}

fn value(set: &Set<u64>, object: u64) -> u64 {
    *set.get(object).wait_for(LIMIT).expect("it is there")
}

fn moves(nodes: &[Node]) -> u64 {
    nodes.iter().map(|node| node.statistics().moves()).sum()
}

fn invoke_error<R: std::fmt::Debug>(result: Result<R, Error>) -> InvokeError {
    match result {
        Err(Error::Invoke(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// What the first node has said to the second for its calls has been read there: it is one connection.
fn all_have_come(nodes: &[Node]) {
    let echo = nodes[1].rpc().register("echo", |request| Ok(request.body().to_vec())).expect("the name is free");
    nodes[0].rpc().call(2, "echo", b"", LIMIT).wait().expect("it answers");
    echo.unregister();
}

const THREADS: u64 = 8;
const CALLS: u64 = 40;

/// Eight threads at each of three nodes count. Each count is given once, and is greater than all that were given before its
/// call began: with one counter that is all that linearizability asks for.
fn count_together(replicas: u8) -> Vec<Node> {
    let nodes = cluster(3);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, replicas)).collect();
    owned_by(&sets[1], 7);
    let adds: Vec<Add> = sets.iter().map(add).collect();
    let moved = moves(&nodes);
    let (sender, counts) = channel();
    let greatest = Arc::new(AtomicU64::new(1));
    let threads: Vec<_> = (0..3 * THREADS)
        .map(|number| {
            let (add, sender, greatest) = (adds[(number % 3) as usize].clone(), sender.clone(), Arc::clone(&greatest));
            std::thread::spawn(move || {
                for _ in 0..CALLS {
                    let before = greatest.load(Ordering::SeqCst);
                    let count = add.invoke(7, 1).wait().expect("nothing goes wrong");
                    assert!(count > before, "{count} after {before}");
                    greatest.fetch_max(count, Ordering::SeqCst);
                    sender.send(count).expect("the test waits");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let mut counts: Vec<u64> = counts.try_iter().collect();
    counts.sort_unstable();
    let all: Vec<u64> = (2..2 + 3 * THREADS * CALLS).collect();
    assert_eq!(counts, all, "each count once");
    assert_eq!(moves(&nodes), moved, "the object stays where it is");
    assert_eq!(value(&sets[2], 7), 1 + 3 * THREADS * CALLS);
    let seen: Vec<_> = nodes.iter().map(Node::statistics).collect();
    assert_eq!(seen.iter().map(|seen| seen.invoking.invoked).sum::<u64>(), 3 * THREADS * CALLS);
    assert_eq!(seen.iter().map(|seen| seen.invoking.fallbacks).sum::<u64>(), 0);
    assert_eq!((seen[1].invoking.served, seen[1].invoking.delegated), (2 * THREADS * CALLS, 0));
    assert!(seen.iter().all(|seen| (seen.faults, seen.malformed, seen.undecodable) == (0, 0, 0)));
    nodes
}

#[test]
fn each_is_counted_once_and_the_object_stays() {
    let _nodes = count_together(0);
}

#[test]
fn those_that_wait_for_one_put_are_published_together() {
    let nodes = count_together(1);
    assert!(nodes[1].statistics().invoking.combined > 0, "{:?}", nodes[1].statistics());
}

#[test]
fn an_object_that_does_not_exist_is_made_at_its_home_and_each_finds_it() {
    let nodes = cluster(3);
    let adds: Vec<Add> = nodes.iter().map(|node| add(&open(node, 0))).collect();
    for object in 0..30 {
        for (add, count) in adds.iter().zip(1..) {
            assert_eq!(add.invoke(object, 1).wait().expect("it is found"), count, "object {object}");
        }
    }
    assert_eq!(moves(&nodes), 0);
    assert_eq!(nodes.iter().map(|node| node.statistics().invoking.fallbacks).sum::<u64>(), 0);
}

#[test]
fn it_follows_an_object_that_moves() {
    let nodes = cluster(3);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, 0)).collect();
    let adds: Vec<Add> = sets.iter().map(add).collect();
    for round in 0..12u64 {
        let (owner, caller) = ((round % 3) as usize, ((round + 1) % 3) as usize);
        owned_by(&sets[owner], 5);
        assert_eq!(adds[caller].invoke(5, round).wait().expect("it is found"), 1 + round);
        assert_eq!(value(&sets[owner], 5), 1 + round);
    }
    assert_eq!(moves(&nodes), 11, "only those that grab move it");
}

#[test]
fn a_node_without_the_operation_gives_the_object_away() {
    let nodes = cluster(3);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, 0)).collect();
    let (first, second) = (add(&sets[0]), add(&sets[1]));
    // The third knows the set, and not the operation.
    owned_by(&sets[2], 9);
    assert_eq!(first.invoke(9, 2).wait().expect("it comes here"), 3);
    assert_eq!(nodes[0].statistics().invoking.fallbacks, 1);
    // The first one has it now, and runs it for the second: without a move.
    let moved = moves(&nodes);
    assert_eq!(second.invoke(9, 2).wait().expect("it is found"), 5);
    assert_eq!((moves(&nodes), nodes[1].statistics().invoking.fallbacks), (moved, 0));
    // It has another operation only.
    let _other = sets[2].operation("other", |_: &mut u64, (): ()| ()).expect("the name is free");
    owned_by(&sets[2], 9);
    assert_eq!(second.invoke(9, 2).wait().expect("it comes here"), 3);
    // The last handle is gone.
    owned_by(&sets[0], 9);
    drop(first);
    assert_eq!(second.invoke(9, 2).wait().expect("it comes here"), 3);
    assert_eq!(nodes[1].statistics().invoking.fallbacks, 2);
}

#[test]
fn a_panic_changes_nothing_and_harms_no_other() {
    let nodes = cluster(2);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, 0)).collect();
    let adds: Vec<Add> = sets.iter().map(add).collect();
    owned_by(&sets[1], 3);
    for (add, node) in [(&adds[0], 2), (&adds[1], 2)] {
        let result = add.invoke(3, u64::MAX).wait();
        assert_eq!(invoke_error(result), InvokeError::Panicked { operation: "add".into(), node });
        assert_eq!(value(&sets[1], 3), 1);
    }
    // In one hold with others, which have no part in it.
    let held = sets[1].grab(3).wait_for(LIMIT).expect("nobody holds it");
    let calls: Vec<_> = [1, u64::MAX, 1, 1].map(|by| adds[0].invoke(3, by)).into_iter().collect();
    all_have_come(&nodes);
    drop(held);
    let results: Vec<_> = calls.into_iter().map(|call| call.wait().map_err(|error| error.fate())).collect();
    assert_eq!(results, [Ok(2), Err(Fate::NothingHappened), Ok(3), Ok(4)]);
    assert_eq!(value(&sets[0], 3), 4);
    assert_eq!(nodes[1].statistics().invoking.combined, 2);
}

#[test]
fn who_waits_no_more_has_run_nothing() {
    let nodes = cluster(2);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, 0)).collect();
    let adds: Vec<Add> = sets.iter().map(add).collect();
    owned_by(&sets[1], 3);
    let held = sets[1].grab(3).wait_for(LIMIT).expect("nobody holds it");
    let late = adds[0].invoke(3, 10).wait_for(SHORT).expect_err("it is held");
    assert_eq!(late.fate(), Fate::Unknown, "{late}");
    adds[0].invoke(3, 100).cancel();
    all_have_come(&nodes);
    drop(held);
    assert_eq!(adds[0].invoke(3, 1).wait().expect("it is free"), 2);
}

#[test]
fn a_limit_ends_a_wait_at_the_owner_too() {
    let nodes = cluster(2);
    let short = nodes[0].set("counts").replicas(0).wait_limit(SHORT).open().wait_for(LIMIT).expect("the set opens");
    let there = open(&nodes[1], 0);
    let (here, _there) = (add(&short), add(&there));
    owned_by(&there, 3);
    let held = there.grab(3).wait_for(LIMIT).expect("nobody holds it");
    let begun = Instant::now();
    let late = here.invoke(3, 10).wait().expect_err("it is held");
    assert_eq!(late.fate(), Fate::Unknown, "{late}");
    assert!(begun.elapsed() >= SHORT);
    // Its wait ends while the object is held still.
    let waits = || nodes[1].holdings(100).objects.iter().any(|holding| holding.waiting_here > 0);
    while waits() {
        assert!(begun.elapsed() < LIMIT, "it waits on");
        std::thread::yield_now();
    }
    drop(held);
    assert_eq!(value(&there, 3), 1);
}

#[test]
fn a_thread_that_holds_the_object_is_told_so() {
    let nodes = cluster(2);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, 0)).collect();
    let adds: Vec<Add> = sets.iter().map(add).collect();
    owned_by(&sets[1], 3);
    let read = sets[0].get(3).wait_for(LIMIT).expect("nobody holds it");
    let refused = adds[0].invoke(3, 1).wait().expect_err("it would wait for itself");
    assert!(matches!(refused, Error::Access(kddm::AccessError::HeldByThisThread { object: 3, .. })), "{refused}");
    drop(read);
    assert_eq!(adds[0].invoke(3, 1).wait().expect("nobody holds it"), 2);
}

#[test]
fn a_destroyed_set_is_one_here_and_there() {
    let nodes = cluster(2);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, 0)).collect();
    let adds: Vec<Add> = sets.iter().map(add).collect();
    owned_by(&sets[1], 3);
    let held = sets[1].grab(3).wait_for(LIMIT).expect("nobody holds it");
    let waits = adds[0].invoke(3, 1);
    nodes[1].destroy_set("counts", Duration::ZERO).wait().expect("it is destroyed");
    drop(held);
    for result in [waits.wait(), adds[0].invoke(3, 1).wait(), adds[1].invoke(3, 1).wait()] {
        assert!(matches!(result, Err(Error::Set(SetError::Destroyed))), "{result:?}");
    }
}

#[test]
fn names_and_sizes_have_limits() {
    let nodes = cluster(2);
    let sets: Vec<Set<Vec<u8>>> =
        nodes.iter().map(|node| node.set("bytes").replicas(0).open().wait_for(LIMIT).expect("it opens")).collect();
    let put = |set: &Set<Vec<u8>>| {
        set.operation("put", |value: &mut Vec<u8>, (bytes, repeat): (Vec<u8>, usize)| {
            *value = bytes.repeat(repeat);
            value.clone()
        })
    };
    let puts = [put(&sets[0]).expect("the name is free"), put(&sets[1]).expect("the name is free")];
    let taken = put(&sets[0]).map(drop);
    assert_eq!(invoke_error(taken), InvokeError::AlreadyRegistered { operation: "put".into() });
    for name in ["", "a\n", &"x".repeat(65)] {
        let refused = sets[0].operation(name, |_: &mut Vec<u8>, (): ()| ()).map(drop);
        assert_eq!(invoke_error(refused), InvokeError::BadName { operation: name.into() });
    }
    sets[1].acquire(1).wait_for(LIMIT).expect("it is here");
    assert_eq!(puts[0].invoke(1, (vec![1], 3)).wait().expect("it is small"), [1, 1, 1]);
    let large = puts[0].invoke(1, (vec![1; 70_000], 1)).wait();
    assert!(matches!(invoke_error(large), InvokeError::TooLarge { what: "the arguments", .. }));
    let large = puts[0].invoke(1, (vec![1; 1000], 1100)).wait();
    assert!(matches!(&invoke_error(large), InvokeError::Refused { reason, .. } if reason.contains("the result")));
    // Larger than an object may be.
    let fill = |set: &Set<Vec<u8>>| {
        set.operation("fill", |value: &mut Vec<u8>, bytes: usize| *value = vec![1; bytes]).expect("the name is free")
    };
    let fills = [fill(&sets[0]), fill(&sets[1])];
    let large = fills[0].invoke(1, 20 << 20).wait();
    assert_eq!(large.as_ref().map_err(Error::fate), Err(Fate::NothingHappened), "{large:?}");
    assert_eq!(*sets[1].get(1).wait_for(LIMIT).expect("it is there"), [1, 1, 1]);
    // As many as there may be, and no more.
    let name = |number| format!("operation {number}");
    let register = |number| sets[0].operation(&name(number), |_: &mut Vec<u8>, (): ()| ());
    let all: Vec<_> = (2..256).map(|number| register(number).expect("there is room")).collect();
    assert_eq!(invoke_error(register(256).map(drop)), InvokeError::TooMany { limit: 256 });
    drop(all);
    drop(register(256).expect("there is room again"));
}

#[test]
fn what_is_no_call_is_refused_and_harms_nobody() {
    let nodes = cluster(2);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, 0)).collect();
    let text = sets[0].operation("add", |_: &mut u64, by: String| by.len()).expect("the name is free");
    let _add = add(&sets[1]);
    owned_by(&sets[1], 3);
    // The owner takes a number, and is sent a text.
    let error = text.invoke(3, "eleven bytes".into()).wait();
    assert!(matches!(invoke_error(error), InvokeError::Arguments { .. }));
    let same = sets[0].operation("wide", |_: &mut u64, (): ()| 7u64).expect("the name is free");
    let _narrow = sets[1].operation("wide", |_: &mut u64, (): ()| (1u8, 2u8)).expect("the name is free");
    let error = same.invoke(3, ()).wait().map_err(|error| (error.fate(), error.code()));
    assert_eq!(error, Err((Fate::Happened, 707)), "the result is of another type");
    assert_eq!(value(&sets[1], 3), 1);
    // Bytes that are no call; sets and objects that are not there.
    let mut bytes: Vec<Vec<u8>> = (0..200u8).map(|length| vec![length.wrapping_mul(37); usize::from(length)]).collect();
    bytes.push(vec![0xff; 60_000]);
    for body in bytes {
        nodes[0].rpc().call(2, "kddm.invoke", &body, LIMIT).wait().expect("it says what is wrong");
    }
    let taken = nodes[0].rpc().register("kddm.invoke", |_| Ok(Vec::new())).map(drop);
    assert!(matches!(taken, Err(Error::Rpc(RpcError::AlreadyRegistered { .. }))));
    assert_eq!(nodes[1].statistics().faults, 0);
    assert_eq!(value(&sets[0], 3), 1);
}

#[test]
fn what_only_one_changes_moves_to_it_by_update_and_stays_where_many_do() {
    let nodes = cluster(3);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, 0)).collect();
    let adds: Vec<Add> = sets.iter().map(add).collect();
    owned_by(&sets[1], 3);
    let moved = moves(&nodes);
    for _ in 0..20 {
        adds[0].update(3, 1).wait().expect("it is found");
        adds[2].update(3, 1).wait().expect("it is found");
    }
    assert_eq!(moves(&nodes), moved, "two change it");
    (0..40).for_each(|_| _ = adds[0].invoke(3, 1).wait().expect("it is found"));
    assert_eq!(moves(&nodes), moved, "it was not asked to move");
    (0..40).for_each(|_| _ = adds[0].update(3, 1).wait().expect("it is found"));
    assert_eq!(moves(&nodes), moved + 1);
    assert_eq!(value(&sets[1], 3), 121);
}

/// Tasks wait as threads do.
#[test]
fn it_can_be_awaited() {
    let nodes = cluster(2);
    let sets: Vec<Set<u64>> = nodes.iter().map(|node| open(node, 0)).collect();
    let adds: Vec<Add> = sets.iter().map(add).collect();
    owned_by(&sets[1], 3);
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    for (object, count) in [(3, 3), (4, 2)] {
        let mut call = adds[0].invoke(object, 2);
        let begun = Instant::now();
        let result = loop {
            match std::pin::Pin::new(&mut call).poll(&mut context) {
                std::task::Poll::Ready(result) => break result,
                std::task::Poll::Pending => std::thread::park_timeout(LIMIT),
            }
            assert!(begun.elapsed() < LIMIT, "it was not woken");
        };
        assert_eq!(result.expect("it is found"), count);
    }
}
