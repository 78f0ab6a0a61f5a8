//! What needs a look inside.

use std::future::Future;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kddm_core::id::{NodeId, ObjectId, SetId};
use kddm_core::io::Access;
use kddm_core::message::RequestKind;

use super::VERSION;
use super::attach::attach_by;
use super::door::{Opening, Purpose, Question, Reply, Told};
use super::frame::{Bytes, HEAD_BYTES, Head, Word, decode, encode};
use crate::error::{AccessError, ConfigurationError, Error};
use crate::eventually::eventually;
use crate::runtime::refusals::tests::{refuse_each, work_on};
use crate::runtime::threads::tests::few;
use crate::system::Wanted;
use crate::transport::stream::dial;
use crate::transport::{Address, Stream, greeting};
use crate::{Node, Set, Value};

const LIMIT: Duration = Duration::from_secs(30);

fn socket() -> PathBuf {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    std::env::temp_dir().join(format!("kddm-lending-{}-{number}.sock", std::process::id()))
}

fn house(programs: usize) -> Vec<Node> {
    house_at(&socket(), programs)
}

/// Found by a run of an hour: the signal of the stop had ended a pause between two attempts, and was gone.
#[test]
fn a_program_that_ends_while_it_attaches_again_leaves_no_thread() {
    let socket = socket();
    let mut all = house_at(&socket, 1);
    let program = all.pop().expect("a program");
    drop(all);
    let _already_gone = std::fs::remove_file(&socket);
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("the path is free");
    // It tries, in vain, and pauses then.
    drop(listener.accept().expect("it attaches again"));
    let begun = std::time::Instant::now();
    let left = std::sync::Arc::downgrade(program.runtime());
    drop(program);
    while left.strong_count() > 0 {
        assert!(begun.elapsed() < LIMIT, "a thread has kept it");
        std::thread::yield_now();
    }
}

/// A program has a thread for each lane and two more: where one of them does not begin, none of the others stays.
#[test]
fn a_program_without_a_thread_leaves_no_other_and_is_not_attached() {
    let socket = socket();
    let nodes = house_with(2, &socket, 0);
    for threads in 0..4 {
        let (mut spawn, alive) = few(threads);
        let error = attach_by(&socket, &mut spawn).map(drop).expect_err("one is missing").to_string();
        assert!(error.contains("threads"), "{error}");
        eventually(LIMIT, "all that have begun end", || alive.load(Ordering::Acquire) == 0);
    }
    eventually(LIMIT, "the node has seen their ends", || nodes[0].programs().is_empty());
    let (mut spawn, alive) = few(4);
    let program = attach_by(&socket, &mut spawn).expect("that is all");
    assert_eq!((nodes[0].programs().len(), alive.load(Ordering::Acquire)), (1, 4));
    program.stop();
    eventually(LIMIT, "its threads end", || alive.load(Ordering::Acquire) == 0);
}

#[test]
fn a_node_without_a_thread_for_programs_lets_none_in_and_may_try_again() {
    let (node, socket) = (Node::local_cluster(1).expect("a node").remove(0), socket());
    for threads in 0..2 {
        let (mut spawn, alive) = few(threads);
        let error = node.accept_programs_by(&socket, &mut spawn).expect_err("one is missing");
        assert!(matches!(error, Error::Configuration(ConfigurationError::Listen { .. })), "{error}");
        assert_eq!(alive.load(Ordering::Acquire), 0, "what has begun has ended");
        let nobody = Node::attach(&socket).wait_for(LIMIT).map(drop).expect_err("nobody lets it in").to_string();
        assert!(nobody.contains("no daemon is there"), "{nobody}");
    }
    let (mut spawn, alive) = few(2);
    node.accept_programs_by(&socket, &mut spawn).expect("the path is free");
    drop(Node::attach(&socket).wait_for(LIMIT).expect("it accepts programs"));
    node.stop();
    assert_eq!(alive.load(Ordering::Acquire), 0, "a stop waits for both");
}

/// Two nodes, the first of which accepts programs, and then so many programs.
fn house_at(socket: &Path, programs: usize) -> Vec<Node> {
    house_of(Node::local_cluster(2), socket, programs)
}

/// The same where nodes have so many lanes: who attaches by hand does so at the first one only.
fn house_with(lanes: usize, socket: &Path, programs: usize) -> Vec<Node> {
    house_of(Node::local_cluster_with(2, |config| config.lanes(lanes)), socket, programs)
}

fn house_of(nodes: Result<Vec<Node>, Error>, socket: &Path, programs: usize) -> Vec<Node> {
    let mut all = nodes.expect("two nodes");
    all[0].accept_programs(socket).expect("the path is free");
    all.extend((0..programs).map(|_| Node::attach(socket).wait().expect("it accepts programs")));
    all
}

/// Each n-th input of the protocol is refused in the nodes: programs are told, and no loan is lost.
#[test]
fn programs_survive_that_their_node_lacks_memory() {
    const TURNS: u64 = 40;
    let all = house(2);
    let sets: Vec<Set<u64>> = all.iter().map(|node| node.set("refused").open().wait().expect("a set")).collect();
    refuse_each(&all[..2], Some(3));
    work_on(&sets, TURNS);
    refuse_each(&all[..2], None);
    let total: u64 = (0..2).map(|object| *sets[2].get(object).wait_for(LIMIT).expect("a copy")).sum();
    assert_eq!(total, 4 * TURNS);
    for node in &all[..2] {
        let seen = node.statistics();
        assert!(seen.refused_memory > 0, "it has shown nothing");
        assert_eq!((seen.dropped, seen.faults, seen.malformed), (0, 0, 0));
    }
    assert_eq!(all[0].programs().len(), 2);
}

/// When nobody has anything any more, nothing is left in the books of the node, nor in the programs.
#[test]
fn no_book_is_kept_of_what_came_back() {
    let all = house(2);
    let sets: Vec<Set<u64>> = all.iter().map(|node| node.set("books").open().wait().expect("a set")).collect();
    for object in 0..100 {
        for set in &sets {
            set.update(object, |count| {
                *count += 1;
                Ok(())
            })
            .wait_for(LIMIT)
            .expect("granted");
        }
        sets[1].remove(object).wait_for(LIMIT).expect("removed");
    }
    for node in &all {
        for lane in &node.runtime().lanes {
            let state = lane.lock();
            assert!(state.desk.has_lent_nothing());
            assert!(state.locals.is_empty(), "node {}", node.id());
            assert_eq!(state.link.as_ref().map_or(0, |link| link.books()), 0);
            assert_eq!(state.outstanding, 0);
        }
    }
    assert!(all[0].programs().iter().all(|program| (program.lent, program.waiting) == (0, 0)));
}

/// Whoever read it would have seen what is gone with the node, and was nowhere else.
#[test]
fn nobody_in_a_program_sees_what_its_replica_does_not_have() {
    let all = house(1);
    let set: Set<u64> = all[2].set("safe").replicas(1).open().wait().expect("a set");
    let mut value = set.grab(1).wait_for(LIMIT).expect("nobody has it");
    *value = 7;
    // The node that is to keep the replica does nothing.
    let stuck: Vec<_> = all[1].runtime().lanes.iter().map(|lane| lane.lock()).collect();
    let put = value.put();
    let short = Duration::from_millis(100);
    assert!(set.get(1).wait_for(short).is_err(), "a thread reads it");
    assert!(set.grab(1).wait_for(short).is_err(), "a thread has it to write");
    assert!(set.find(1).is_none() && set.snapshot(1).wait_for(short).is_err());
    drop(stuck);
    put.wait_for(LIMIT).expect("its replica has it");
    assert_eq!(*set.get(1).wait_for(LIMIT).expect("it is here"), 7);
    let at_node: Set<u64> = all[1].set("safe").open().wait().expect("a set");
    assert_eq!(*at_node.get(1).wait_for(LIMIT).expect("nobody writes"), 7);
}

/// A put is not taken for complete because there is nobody left to take it.
#[test]
fn a_put_that_nobody_takes_is_an_error() {
    let all = house(1);
    let set: Set<u64> = all[2].set("cut").open().wait().expect("a set");
    let guard = set.grab(1).wait().expect("granted");
    for lane in &all[2].runtime().lanes {
        lane.lock().link.as_mut().expect("it is attached").cut();
    }
    assert!(matches!(guard.put().wait(), Err(Error::Membership(crate::MembershipError::Detached))));
    // Else its node would wait for what it can give back no more.
    all[2].stop();
}

/// A task that updates an object while the socket is full waits as a task: its thread goes on.
#[test]
fn an_update_that_waits_for_the_socket_stops_no_executor() {
    const LARGE: usize = 1 << 20;
    let all = house(1);
    let set: Set<Vec<u8>> = all[2].set("large").open().wait().expect("a set");
    let grow = |value: &mut Vec<u8>| {
        value.resize(LARGE, 7);
        Ok(LARGE)
    };
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting: Vec<_> = {
        // The node reads nothing meanwhile.
        let lock = || -> Vec<_> { all[0].runtime().lanes.iter().map(|lane| lane.lock()).collect() };
        let nodes_lanes = lock();
        let mut first = Box::pin(set.update(1, |_| Ok(0)));
        assert!(first.as_mut().poll(&mut context).is_pending());
        drop(nodes_lanes);
        assert_eq!(block_on(first).expect("granted"), 0);
        let _nodes_lanes = lock();
        // If it blocked, its answer would be that the put is not confirmed.
        let mut updates = vec![Box::pin(set.update(1, grow))];
        assert!(updates[0].as_mut().poll(&mut context).is_pending(), "the socket is full");
        updates.push(Box::pin(set.update(1, grow)));
        assert!(updates[1].as_mut().poll(&mut context).is_pending(), "it still is");
        updates
    };
    for update in waiting.drain(..) {
        assert_eq!(block_on(update).expect("it is taken"), LARGE);
    }
    assert_eq!(set.get(1).wait().expect("a hit").len(), LARGE);
}

/// Polls until there is an answer.
fn block_on<O: Unpin>(mut pending: std::pin::Pin<Box<crate::Pending<O>>>) -> Result<O, Error> {
    let begin = std::time::Instant::now();
    loop {
        if let Poll::Ready(answer) = pending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return answer;
        }
        assert!(begin.elapsed() < LIMIT, "no answer");
        std::thread::yield_now();
    }
}

/// A fenced node takes back what it has lent, with its own right to it.
#[test]
fn programs_of_a_fenced_node_use_nothing_any_more() {
    let all = house(1);
    let set: Set<u64> = all[2].set("fenced").open().wait().expect("a set");
    let guard = set.grab(1).wait().expect("granted");
    drop(set.get(2).wait().expect("made here"));
    for lane in &all[0].runtime().lanes {
        let mut state = lane.lock();
        state.fence("a test says so");
        lane.finish(state);
    }
    let is_fenced = |error: Error| matches!(error, Error::Access(AccessError::Fenced));
    let begin = std::time::Instant::now();
    while set.find(2).is_some() {
        assert!(begin.elapsed() < LIMIT, "a copy is still read");
        std::thread::yield_now();
    }
    assert!(set.get(2).wait().is_err_and(is_fenced));
    assert!(guard.put().wait().is_err_and(is_fenced));
}

/// Whichever lane fences the node, and ends the program first: it is not to attach again.
#[test]
fn a_program_hears_in_all_lanes_that_its_node_is_fenced() {
    let socket = socket();
    let all = house_with(2, &socket, 0);
    let (first, Reply::Welcome(welcome)) = say(&socket, &Purpose::Attach { name: "by hand".into() }) else {
        panic!("it is let in")
    };
    let (session, secret) = (welcome.session, welcome.secret);
    let (second, Reply::Lane) = say(&socket, &Purpose::Lane { session, secret, lane: 1 }) else {
        panic!("it has a second lane")
    };
    // As whoever tells this lane of the end in the first one finds it, where the lease is over.
    let lane = &all[0].runtime().lanes[1];
    let mut state = lane.lock();
    state.fence("a test says so");
    state.hear_program_out(session, &lane.poller);
    lane.finish(state);
    for stream in [&first, &second] {
        hears(stream, Word::Ended { is_fenced: true });
    }
}

/// Says what for, and hears the answer.
fn say(socket: &Path, purpose: &Purpose) -> (Stream, Reply) {
    let stream = dialled(socket, purpose);
    let reply = greeting::receive(&stream).expect("it answers");
    (stream, reply)
}

fn dialled(socket: &Path, purpose: &Purpose) -> Stream {
    let stream = dial(&Address::Unix(socket.into()), LIMIT).expect("it listens");
    stream.set_limit(Some(LIMIT)).expect("a limit");
    greeting::send(&stream, &Opening { version: VERSION }).expect("it reads");
    greeting::send(&stream, purpose).expect("it reads");
    stream
}

/// A program that has attached, and opened that set, by hand.
fn liar(socket: &Path, name: &str) -> (Stream, SetId) {
    liar_of::<u64>(socket, name)
}

fn liar_of<T: Value>(socket: &Path, name: &str) -> (Stream, SetId) {
    let (stream, Reply::Welcome(welcome)) = say(socket, &Purpose::Attach { name: "liar".into() }) else {
        panic!("it is let in")
    };
    let (codec, type_name) = (T::CODEC.into(), T::type_name().into());
    let wanted = Wanted {
        name: name.into(),
        codec,
        type_name,
        placed_by: None,
        replicas: None,
        on_loss: None,
        create: true,
        linker: None,
        write_policy: None,
        expiry: Default::default(),
    };
    let (session, secret) = (welcome.session, welcome.secret);
    let question = Question::Open(wanted);
    let (_, Reply::Told(Told::Set(set))) = say(socket, &Purpose::Ask { session, secret, question }) else {
        panic!("the set opens")
    };
    // The view that is installed comes first, to everybody.
    let mut head = [0; HEAD_BYTES];
    (&stream).read_exact(&mut head).expect("it says so at once");
    let head = decode(&head).expect("it is a node");
    assert_eq!(head.word, Word::View);
    (&stream).read_exact(&mut vec![0; head.body_bytes as usize]).expect("with its body");
    stream.set_nonblocking(true).expect("it is a socket");
    (stream, SetId(set.set))
}

fn says(mut stream: &Stream, set: SetId, object: u64, word: Word, body: &[u8]) {
    let mut bytes = encode(&Head { set, object: ObjectId(object), word, body_bytes: body.len() as u32 }).to_vec();
    bytes.extend(body);
    stream.write_all(&bytes).expect("it reads");
}

/// Reads until it hears that.
fn hears(mut stream: &Stream, what: Word) {
    stream.set_nonblocking(false).expect("it is a socket");
    loop {
        let mut head = [0; HEAD_BYTES];
        stream.read_exact(&mut head).expect("it says something");
        let head = decode(&head).expect("it is a node");
        stream.read_exact(&mut vec![0; head.body_bytes as usize]).expect("with its body");
        if head.word == what {
            return;
        }
    }
}

/// Nobody waits for who holds what is tried: that is no reason to let him begin something else in a set that is being frozen.
#[test]
fn a_program_that_is_tried_begins_nothing_in_a_frozen_set() {
    let socket = socket();
    let all = house_with(1, &socket, 0);
    let here: Set<u64> = all[0].set("tried").open().wait().expect("a set");
    for object in 0..3 {
        here.grab(object).wait_for(LIMIT).expect("nobody has it").put().wait_for(LIMIT).expect("it is put");
    }
    let (stream, set) = liar(&socket, "tried");
    says(&stream, set, 1, Word::Want { kind: RequestKind::Get { existing: true }, number: 1 }, &[]);
    assert!(stream.wait_readable(LIMIT), "it is granted");
    let held = here.grab(0).wait_for(LIMIT).expect("nobody has it");
    let freezing = here.freeze();
    let begin = std::time::Instant::now();
    while all[0].frozen_sets().is_empty() {
        assert!(begin.elapsed() < LIMIT, "it is not decided");
        std::thread::yield_now();
    }
    let tried = here.try_grab(1);
    hears(&stream, Word::TryGiveBack);
    says(&stream, set, 2, Word::Want { kind: RequestKind::Grab { existing: false }, number: 2 }, &[]);
    while all[0].statistics().waits_for_thaw == 0 {
        assert!(begin.elapsed() < LIMIT, "it was let in");
        std::thread::yield_now();
    }
    says(&stream, set, 1, Word::Held, &[]);
    let tried = tried.wait_for(LIMIT).map(drop);
    assert!(matches!(tried, Err(Error::Access(AccessError::Busy))), "{tried:?}");
    drop(held);
    freezing.wait_for(LIMIT).expect("nobody writes").thaw().wait_for(LIMIT).expect("it is thawed");
    assert_eq!(all[0].statistics().faults, 0);
}

/// When its node is back, one lane's connection cannot be used: whoever has asked in another lane by then is not forgotten.
#[test]
fn a_program_of_which_one_lane_cannot_attach_again_forgets_nobody() {
    let all = house_with(2, &socket(), 1);
    let sets: Vec<Set<u64>> = all.iter().map(|node| node.set("half").open().wait().expect("a set")).collect();
    let id = SetId(all[0].set_info("half").expect("it is there").id);
    let program = all[2].runtime();
    let is_of_first = |object: &u64| std::sync::Arc::ptr_eq(program.lane(id, ObjectId(*object)), &program.lanes[0]);
    let object = (0..).find(is_of_first).expect("there are many");
    let held = sets[1].grab(object).wait_for(LIMIT).expect("nobody has it");
    let ((reached, is_reached), (asked, is_asked)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    program.lanes[1].lock().fails_to_attach = Some(Box::new(move || {
        reached.send(()).expect("the test waits");
        is_asked.recv_timeout(LIMIT).expect("somebody asks in the first lane");
        std::io::ErrorKind::OutOfMemory.into()
    }));
    program.lanes.iter().for_each(|lane| lane.lock().link.as_ref().expect("it is attached").hang_up());
    is_reached.recv_timeout(LIMIT).expect("it attaches again");
    let wish = sets[2].grab(object);
    // The node cannot see what has become of the other lane, and end this one.
    let nodes_lane = all[0].runtime().lanes[1].lock();
    asked.send(()).expect("the lane waits");
    let begin = std::time::Instant::now();
    while program.lanes[0].lock().link.as_ref().is_some_and(|link| !link.is_ended) {
        assert!(begin.elapsed() < LIMIT, "it is attached by half");
        std::thread::yield_now();
    }
    drop((nodes_lane, held));
    drop(wish.wait_for(LIMIT).expect("it is asked for again"));
    // Neither is anybody who asks in the other one.
    for object in 0..8 {
        drop(sets[2].grab(object).wait_for(LIMIT).expect("it is attached"));
    }
    assert_eq!(program.lanes.iter().map(|lane| lane.lock().outstanding).sum::<usize>(), 0);
}

/// It hears that it is asked for an object no more: what it had put before stays, and others go on.
#[test]
fn a_program_that_closes_its_ears_is_detached() {
    let socket = socket();
    let all = house_with(1, &socket, 0);
    let there: Set<u64> = all[1].set("deaf").open().wait().expect("a set");
    let (stream, set) = liar(&socket, "deaf");
    says(&stream, set, 1, Word::Want { kind: RequestKind::Grab { existing: false }, number: 1 }, &[]);
    assert!(stream.wait_readable(LIMIT), "it is granted");
    says(&stream, set, 1, Word::Put { version: 1 }, &[41]);
    stream.shut_reading();
    assert_eq!(*there.get(1).wait_for(LIMIT / 3).expect("it is taken back"), 41);
    assert_eq!(all[0].programs(), []);
    assert_eq!((all[0].statistics().faults, all[0].statistics().detached), (0, 1));
}

/// Its socket stays full: it can not even be asked for what it has.
#[test]
fn a_program_that_takes_nothing_is_detached() {
    const LARGE: usize = 1 << 20;
    let socket = socket();
    let all = house_with(1, &socket, 0);
    let sets = [0, 1].map(|at: usize| all[at].set("full").open().wait().expect("a set"));
    for lane in &all[0].runtime().lanes {
        lane.lock().limits.program_takes_nothing = Duration::from_millis(50);
    }
    let grow = |value: &mut Vec<u8>| {
        value.resize(LARGE, 7);
        Ok(())
    };
    for object in 0..8 {
        sets[0].update(object, grow).wait_for(LIMIT).expect("nobody else has it");
    }
    let (stream, set) = liar_of::<Vec<u8>>(&socket, "full");
    for object in 0..8 {
        says(&stream, set, object, Word::Want { kind: RequestKind::Get { existing: true }, number: object }, &[]);
    }
    for object in 0..8 {
        let guard = sets[1].grab(object).wait_for(LIMIT / 3).expect("it is taken back");
        assert_eq!(guard.len(), LARGE);
    }
    assert_eq!(all[0].programs(), []);
    assert_eq!(all[0].statistics().detached, 1);
}

/// Who is a member is told at once, or as it was told last: a node that says nothing keeps nobody waiting.
#[test]
fn members_are_told_though_the_node_says_nothing() {
    let all = house(1);
    let nodes_lane = all[0].runtime().lanes[0].lock();
    let begun = std::time::Instant::now();
    assert_eq!(all[2].members().len(), 2);
    assert_eq!(all[2].epoch(), all[1].epoch());
    assert!(begun.elapsed() < LIMIT / 5, "took {:?}", begun.elapsed());
    drop(nodes_lane);
}

/// The connection ends, and the node does not: the program attaches again. Guards from before keep what they
/// show and put nothing; who wants what they hold waits for them, as for any hold.
#[test]
fn guards_of_an_earlier_attachment_put_nothing() {
    let all = house(1);
    let sets: Vec<Set<u64>> = all.iter().map(|node| node.set("again").open().wait().expect("a set")).collect();
    let detached = |error: &Error| matches!(error, Error::Membership(crate::MembershipError::Detached));
    let mut guard = sets[2].grab(1).wait().expect("granted");
    *guard = 7;
    let (read, removes) = (sets[2].get(2).wait().expect("made here"), sets[2].grab(3).wait().expect("granted"));
    for lane in &all[2].runtime().lanes {
        lane.lock().link.as_ref().expect("it is attached").hang_up();
    }
    // What nobody holds is there again first of all, and whoever asks waits for that.
    drop(sets[2].get(4).wait_for(LIMIT).expect("it is attached again"));
    assert!(guard.check().is_err_and(|error| detached(&error)));
    assert!(read.check().is_err_and(|error| detached(&error)));
    // Others have the objects by now, and the guards are in the way in their own program only.
    for object in 1..=3 {
        sets[1]
            .update(object, |count| {
                *count += 10;
                Ok(())
            })
            .wait_for(LIMIT)
            .expect("it was taken back");
    }
    let in_the_way = std::thread::scope(|scope| {
        scope.spawn(|| sets[2].get(1).wait_for(Duration::from_millis(30)).map(drop)).join().expect("no panic")
    });
    assert!(matches!(in_the_way, Err(Error::Access(AccessError::TimedOut { .. }))), "{in_the_way:?}");
    assert_eq!((*guard, *read), (7, 0));
    assert!(guard.put().wait().is_err_and(|error| detached(&error)));
    assert!(removes.remove().wait().is_err_and(|error| detached(&error)));
    drop(read);
    for object in 1..=3 {
        assert_eq!(*sets[2].get(object).wait_for(LIMIT).expect("nobody is in the way"), 10);
    }
    for lane in &all[2].runtime().lanes {
        assert!(lane.lock().link.as_ref().is_some_and(|link| link.stale.is_empty()));
    }
    let seen = all[2].statistics();
    assert_eq!((seen.faults, seen.undecodable, seen.reconnects), (0, 0, 1));
}

/// Sets come and go, and nothing is remembered of each.
#[test]
fn sets_that_are_gone_are_forgotten() {
    const SETS: usize = 20;
    let all = house(1);
    let add = |count: &mut u64| {
        *count += 1;
        Ok(())
    };
    let mut last = None;
    for number in 0..SETS {
        let name = format!("gone/{number}");
        let set: Set<u64> = all[2].set(&name).open().wait().expect("a set");
        set.update(1, add).wait_for(LIMIT).expect("granted");
        all[1].destroy_set(&name, LIMIT).wait().expect("destroyed");
        last = Some(set);
    }
    // Heard of behind all that was said before, in each lane.
    let left: Set<u64> = all[2].set("left").open().wait().expect("a set");
    for object in 0..64 {
        left.update(object, add).wait_for(LIMIT).expect("granted");
    }
    let refused = last.expect("there were some").get(1).wait_for(LIMIT);
    assert!(matches!(refused, Err(Error::Set(crate::SetError::Destroyed))), "{refused:?}");
    let runtime = all[0].runtime();
    let known = |node: &Node| node.runtime().lanes[0].lock().stores.len();
    assert!(all.iter().all(|node| known(node) <= 2), "no more than the sets' own and the one that is left");
    for lane in &runtime.lanes {
        let lane = lane.lock();
        assert!(lane.desk.sessions.values().all(|session| session.sets.len() == 1));
        assert_eq!(lane.destroyed.stretches(), 1);
    }
    for lane in &all[2].runtime().lanes {
        assert_eq!(lane.lock().link.as_ref().map(|link| link.sets_ending()), Some(0));
    }
}

/// Each lane of a program speaks of its own objects, to the same lane of the node, once; and the end of one is the end of
/// all, so that nobody waits for half a program.
#[test]
fn lanes_of_programs_keep_to_their_objects_and_end_together() {
    let socket = socket();
    let all = house_with(2, &socket, 1);
    // Without the thread that tells of their ends: it may be telling of another one.
    all[0].runtime().signals.parted.close();
    let there: Set<u64> = all[1].set("lanes").open().wait().expect("a set");
    let set = SetId(all[1].set_info("lanes").expect("it is there").id);
    let of_lane = |lane: usize| {
        let is_its = |object: &u64| {
            std::sync::Arc::ptr_eq(all[0].runtime().lane(set, ObjectId(*object)), &all[0].runtime().lanes[lane])
        };
        (0..).find(is_its).expect("there are many")
    };
    let (stream, Reply::Welcome(welcome)) = say(&socket, &Purpose::Attach { name: "liar".into() }) else {
        panic!("it is let in")
    };
    assert_eq!(welcome.lanes, 2);
    let (session, secret) = (welcome.session, welcome.secret);
    let lane = |lane| say(&socket, &Purpose::Lane { session, secret, lane });
    for wrong in [0, 2] {
        assert!(matches!(lane(wrong).1, Reply::Refused(_)), "lane {wrong}");
    }
    let (second, Reply::Lane) = lane(1) else { panic!("it has a second lane") };
    let again = dialled(&socket, &Purpose::Lane { session, secret, lane: 1 });
    assert_eq!((&again).read(&mut [0; 1]).unwrap_or(0), 0, "it has that lane already");
    let wanted = Wanted {
        name: "lanes".into(),
        codec: u64::CODEC.into(),
        type_name: u64::type_name().into(),
        placed_by: None,
        replicas: None,
        on_loss: None,
        create: false,
        linker: None,
        write_policy: None,
        expiry: Default::default(),
    };
    let question = Question::Open(wanted);
    assert!(matches!(say(&socket, &Purpose::Ask { session, secret, question }).1, Reply::Told(Told::Set(_))));
    let grab = |number| Word::Want { kind: RequestKind::Grab { existing: false }, number };
    says(&second, set, of_lane(1), grab(1), &[]);
    assert!(second.wait_readable(LIMIT), "it is granted");
    assert_eq!(all[0].programs().len(), 2);
    let malformed = all[0].statistics().malformed;
    says(&stream, set, of_lane(1), grab(2), &[]);
    drop(there.grab(of_lane(1)).wait_for(LIMIT).expect("what its other lane had is free"));
    let begin = std::time::Instant::now();
    while all[0].programs().len() > 1 {
        assert!(begin.elapsed() < LIMIT, "{:?}", all[0].programs());
        std::thread::yield_now();
    }
    let seen = all[0].statistics();
    assert_eq!((seen.malformed, seen.detached, seen.faults), (malformed + 1, 1, 0));
    // Others go on in both.
    let honest: Set<u64> = all[2].set("lanes").open().wait().expect("a set");
    for object in [of_lane(0), of_lane(1)] {
        honest
            .update(object, |count| {
                *count += 1;
                Ok(())
            })
            .wait_for(LIMIT)
            .expect("nobody has it");
    }
}

struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn word(&mut self) -> Word {
        let level = [Access::None, Access::Read, Access::Write][self.throw(3) as usize];
        let bytes = [Bytes::NoValue, Bytes::Known, Bytes::Here][self.throw(3) as usize];
        let (number, version) = (self.throw(4), self.throw(4));
        let existing = self.throw(2) == 0;
        match self.throw(12) {
            0..=2 => Word::Want { kind: RequestKind::Get { existing }, number },
            3 | 4 => Word::Want { kind: RequestKind::Grab { existing }, number },
            5 => Word::Want { kind: [RequestKind::TryGrab, RequestKind::Remove][number as usize % 2], number },
            6 => Word::Want { kind: RequestKind::Flush { to: NodeId(version as u16) }, number },
            7 => Word::Cancel { number },
            8 => Word::Put { version },
            9 | 10 => Word::Returned { level, bytes },
            _ => Word::Held,
        }
    }

    fn frame(&mut self, set: SetId) -> Vec<u8> {
        let word = self.word();
        let has_body = matches!(word, Word::Put { .. } | Word::Returned { bytes: Bytes::Here, .. });
        let body = if has_body { vec![self.throw(128) as u8; self.throw(3) as usize] } else { Vec::new() };
        let object = ObjectId(self.throw(3));
        let mut bytes = encode(&Head { set, object, word, body_bytes: body.len() as u32 }).to_vec();
        if self.throw(16) == 0 {
            bytes[self.throw(HEAD_BYTES as u64) as usize] ^= 1 << self.throw(8);
        }
        bytes.extend(body);
        bytes
    }
}

/// Programs that keep to the form and to nothing else, while honest ones use the same objects and others:
/// the node fences itself never, honest programs go on, and nothing is left of the liars.
#[test]
fn liars_hurt_nobody_but_what_they_may_write() {
    const OF_OTHERS: u64 = 10;
    let socket = socket();
    let all = house_with(1, &socket, 1);
    let sets: Vec<Set<u64>> = all.iter().map(|node| node.set("lies").open().wait().expect("a set")).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let honest = |set: &Set<u64>| {
            let mut count = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // Whatever a liar holds ends with him.
                let _read_by_force = set.get(count % 3).wait_for(Duration::from_millis(2)).map(drop);
                let add = |count: &mut u64| {
                    *count += 1;
                    Ok(())
                };
                set.update(OF_OTHERS, add).wait_for(LIMIT).expect("no liar has it");
                count += 1;
            }
            count
        };
        let workers: Vec<_> = sets.iter().map(|set| scope.spawn(move || honest(set))).collect();
        for seed in 0..300 {
            let (mut dice, (stream, set)) = (Dice(seed), liar(&socket, "lies"));
            for _ in 0..40 {
                if (&mut &stream).write_all(&dice.frame(set)).is_err() {
                    break;
                }
            }
            let _what_it_says = std::io::Read::read(&mut &stream, &mut [0; 4096]);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let put: u64 = workers.into_iter().map(|worker| worker.join().expect("it does its work")).sum();
        assert_eq!(*sets[1].get(OF_OTHERS).wait_for(LIMIT).expect("a copy"), put);
    });
    let begin = std::time::Instant::now();
    while all[0].programs().len() > 1 {
        assert!(begin.elapsed() < LIMIT, "{:?}", all[0].programs());
        std::thread::yield_now();
    }
    for object in 0..3 {
        let written = sets[1].get(object).wait_for(LIMIT);
        assert!(matches!(written, Ok(_) | Err(Error::Access(AccessError::Decode { .. }))), "{written:?}");
    }
    for node in &all[..2] {
        let seen = node.statistics();
        assert_eq!((seen.faults, seen.fences), (0, 0));
    }
    assert!(all[0].statistics().malformed > 50);
}

/// What has changed while a program was not attached it is told when it is again, and nothing twice.
#[test]
fn notifiers_of_a_program_hear_what_they_have_missed() {
    let all = house(1);
    let program = &all[2];
    let (to, told) = std::sync::mpsc::channel();
    let tell = move |event: &crate::MemberEvent| to.send((event.node, event.to)).expect("the test listens");
    let _told = program.notifier(crate::Chain::Online, crate::Priority(1), "told", tell).expect("registered");
    let join = |name: &str| {
        let listen = crate::Address::local(&format!("missed-{name}-{}", std::process::id()));
        let config = crate::Config::new().listen(listen).contact(all[0].address().clone());
        Node::join(config).wait().expect("it may join")
    };
    for lane in &program.runtime().lanes {
        lane.lock().link.as_ref().expect("it is attached").hang_up();
    }
    let third = join("third");
    assert_eq!(told.recv_timeout(LIMIT), Ok((3, crate::NodeState::Online)));
    third.stop();
    assert_eq!(told.recv_timeout(LIMIT), Ok((3, crate::NodeState::Offline)));
    assert!(told.try_recv().is_err());
    assert!(all[0].statistics().detached == 1 || program.statistics().reconnects == 1);
}

/// The connection ends, and the program attaches again: what it serves is served again, and it can call.
#[test]
fn services_of_a_program_come_back_with_it() {
    let all = house(1);
    let echo = |node: &Node, name: &str| node.rpc().register(name, |request| Ok(request.body().to_vec()));
    let _here = echo(&all[1], "there").expect("free");
    let service = echo(&all[2], "echo").expect("free");
    let works = |from: &Node, to: u16, name: &str| {
        let begin = std::time::Instant::now();
        while let Err(error) = from.rpc().call(to, name, b"again", LIMIT).wait() {
            assert!(begin.elapsed() < LIMIT, "{error}");
            std::thread::yield_now();
        }
    };
    for _ in 0..3 {
        works(&all[1], 1, "echo");
        works(&all[2], 2, "there");
        for lane in &all[2].runtime().lanes {
            lane.lock().link.as_ref().expect("it is attached").hang_up();
        }
    }
    works(&all[1], 1, "echo");
    drop(service);
    // A call that goes to the program while that attaches again finds its connection gone.
    let begin = std::time::Instant::now();
    loop {
        match all[1].rpc().call(1, "echo", b"", LIMIT).wait() {
            Err(Error::Rpc(crate::RpcError::NoService { .. })) => break,
            Err(Error::Rpc(crate::RpcError::Gone { .. })) if begin.elapsed() < LIMIT => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Whoever calls, or serves, over the socket: it must be a program that is attached, and is believed nothing.
#[test]
fn what_programs_say_of_calls_is_checked() {
    use crate::rpc::frame;
    let socket = socket();
    let all = house_at(&socket, 1);
    let _echo = all[1].rpc().register("echo", |request| Ok(request.body().to_vec())).expect("free");
    let (_stream, Reply::Welcome(welcome)) = say(&socket, &Purpose::Attach { name: "liar".into() }) else {
        panic!("it is let in")
    };
    let (session, secret) = (welcome.session, welcome.secret);
    for purpose in
        [Purpose::Calls { session, secret: secret ^ 1, node: 2 }, Purpose::Serve { session: session + 1, secret }]
    {
        assert!(matches!(say(&socket, &purpose).1, Reply::Refused(_)), "{purpose:?}");
    }
    let calls = || {
        let (stream, Reply::Lane) = say(&socket, &Purpose::Calls { session, secret, node: 2 }) else {
            panic!("it may call")
        };
        stream
    };
    let mut in_the_name_of_another = Vec::new();
    frame::put_call(
        1,
        frame::Manner { from: 7, ..Default::default() },
        1_000_000,
        "echo",
        b"",
        &mut in_the_name_of_another,
    );
    let mut not_asked = Vec::new();
    frame::put_done(1, b"not asked", &mut not_asked);
    let lies = [in_the_name_of_another, not_asked, vec![0xff; 5000]];
    for (count, lie) in (1..).zip(&lies) {
        let stream = calls();
        (&stream).write_all(lie).expect("it is connected");
        let mut said = Vec::new();
        let _reset_is_an_end_too = (&stream).read_to_end(&mut said);
        assert_eq!((said, all[0].statistics().malformed), (Vec::new(), count));
    }
    // The second connection to serve is not believed, and the first one answers what nobody has asked.
    let (serves, Reply::Lane) = say(&socket, &Purpose::Serve { session, secret }) else { panic!("it may serve") };
    let mut said = Vec::new();
    let again = dialled(&socket, &Purpose::Serve { session, secret });
    let _reset_is_an_end_too = (&again).read_to_end(&mut said);
    assert_eq!(said, b"");
    (&serves).write_all(&lies[1]).expect("it is connected");
    let question = |question| say(&socket, &Purpose::Ask { session, secret, question }).1;
    assert!(matches!(question(Question::Offer("\n".into())), Reply::Told(Told::Failed(_))));
    assert!(matches!(question(Question::Offer("liar".into())), Reply::Told(Told::Done)));
    let call = all[1].rpc().call(1, "liar", b"", LIMIT);
    // It reads the call, and dies of what it says.
    let mut first = [0; 1];
    (&serves).read_exact(&mut first).expect("the call comes");
    (&serves).write_all(&lies[2]).expect("it is connected");
    let error = call.wait().expect_err("it is gone");
    assert!(matches!(error, Error::Rpc(crate::RpcError::Gone { node: 1, .. })), "{error}");
    let answer = all[2].rpc().call(2, "echo", b"others go on", LIMIT).wait();
    assert_eq!(answer.expect("it answers"), b"others go on");
    assert_eq!(all[0].statistics().faults, 0);
}
