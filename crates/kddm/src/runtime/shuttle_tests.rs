//! Threads against the driver, under schedules that shuttle makes: two nodes in one process, each with a
//! real lane, real sockets between them, and threads that get, grab, put, remove and give up.
//! `cargo xtask memory-model`, or
//! `RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle cargo test -p kddm --lib shuttle_tests`.
//!
//! Every wait of a thread that does not mean to give up is for ever: one that has lost its wake-up ends
//! as a deadlock. A failure prints the schedule; `shuttle::replay` does it again.

use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use kddm_core::id::{NodeId, PlacementPolicy, SetId, Time};
use kddm_core::node::Node as Core;
use kddm_core::view::NodeState;
use kddm_view::{Change, ClusterId, Decided, Identity as ClusterIdentity, SessionId, State};
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::{Config as Schedules, FailurePersistence, MaxSteps, Runner, thread};

use super::join::identity_of;
use super::lane::{Lane, LaneState, Limits};
use super::lending::TAKES_NOTHING;
use super::membership::Membership;
use super::notify::Notify;
use super::part::Part;
use super::placing::Signals;
use super::{Parts, Runtime};
use crate::cell::Lease;
use crate::error::{AccessError, Error};
use crate::node::{Node, Owner};
use crate::options::{Config, DEFAULT_OUTSTANDING, DEFAULT_PEER_BUFFER_BYTES};
use crate::set::Set;
use crate::sync::{Slip, modelled};
use crate::transport::{Address, Poller, Stream};

/// The same in every run: what is found once is found again.
const SEED: u64 = 0x6b64_646d;

/// Changes of priority of a schedule: enough for the orderings that lose a wake-up, which need two or three.
const DEPTH: usize = 4;

/// Steps of a schedule; one that needs more goes round in circles.
const MOST_STEPS: usize = 200_000;

const STACK_BYTES: usize = 512 << 10;

/// Longer than any schedule lasts: see `sync::modelled`.
const FOR_EVER: Duration = Duration::from_secs(100 * 24 * 3600);

/// As long as a thread waits that means to give up.
const SOON: Duration = Duration::from_millis(2);

const OBJECT: u64 = 7;

/// What two possible members have decided.
fn decided() -> State {
    let session = SessionId::new(1).expect("from 1 to 9999");
    let mut state = State::new(ClusterIdentity { cluster: ClusterId(1), session }, NodeId(1));
    let mut changes = Vec::new();
    for number in [1, 2] {
        changes.push(Change::Join {
            node: Some(NodeId(number)),
            address: format!("local:{number}"),
            nonce: number.into(),
            site: Default::default(),
        });
    }
    let mut index = 0;
    let mut apply = |state: &mut State, change| {
        index += 1;
        state.apply(&Decided { index, change }).expect("the next entry");
    };
    changes.into_iter().for_each(|change| apply(&mut state, change));
    for node in [NodeId(1), NodeId(2)] {
        let incarnation = state.member(node).expect("it has joined").incarnation;
        apply(&mut state, Change::SetState { node, incarnation, state: NodeState::Possible });
    }
    state
}

/// A node without threads: each test has its own.
fn node(state: &State, id: NodeId) -> Node {
    let config = Config::new();
    let identity = identity_of(state, id).expect("it is a member");
    let (outstanding, peer_buffer_bytes) = (DEFAULT_OUTSTANDING, DEFAULT_PEER_BUFFER_BYTES);
    let (object_bytes, program_takes_nothing) = (1 << 20, TAKES_NOTHING);
    let limits = Limits { outstanding, object_bytes, peer_buffer_bytes, program_takes_nothing };
    let (signals, lease) = (Signals::default(), Arc::<Lease>::default());
    let core = Core::new(id, identity.incarnation, 0);
    let part = Part::all(1).next().expect("one lane");
    let lane = LaneState::new(core, part, limits, signals.clone(), Arc::clone(&lease));
    let lane = Lane::new(Poller::new().expect("a poller"), lane);
    let runtime = Runtime::new(Parts {
        secret: None,
        identity,
        address: Address::local("nobody dials it"),
        listener: None,
        lender: None,
        lanes: vec![Arc::new(lane)],
        limits,
        membership: Membership::follow(state.clone(), id, identity.nonce, Time(0), Box::new(kddm_view::Nowhere))
            .expect("nothing is kept"),
        notify: Arc::new(Notify::new(config.notifier_limit, id.0, &[]).expect("no notifiers")),
        signals,
        lease,
        config,
    });
    runtime.install(&state.view());
    // A node of a model does not leave its cluster: it is taken down by the test.
    runtime.leaving.store(true, Ordering::Release);
    Node(Owner::new(Arc::new(runtime)))
}

/// Two nodes, connected, and a set on both.
struct Pair {
    nodes: [Node; 2],
    sets: [Set<u64>; 2],
    threads: Vec<thread::JoinHandle<()>>,
}

impl Pair {
    fn new(home: NodeId) -> Pair {
        let state = decided();
        let nodes = [node(&state, NodeId(1)), node(&state, NodeId(2))];
        let (first, second) = UnixStream::pair().expect("a pair of sockets");
        for (node, peer, stream) in [(&nodes[0], NodeId(2), first), (&nodes[1], NodeId(1), second)] {
            let lane = &node.runtime().lanes[0];
            let mut state = lane.lock();
            state.connect(peer, Stream::Unix(stream), 0, &lane.poller).expect("connected");
            while state.hand_over_next() {}
            lane.finish(state);
        }
        let set = SetId::new(PlacementPolicy::Fixed(home), SetId::FIRST_COUNTER);
        let open =
            |node: &Node| node.open_here::<u64>(set, "model".into(), (Arc::new(|_| 0), None), FOR_EVER).expect("a set");
        let sets = [open(&nodes[0]), open(&nodes[1])];
        let mut threads = vec![thread::spawn(modelled::let_time_pass)];
        for node in &nodes {
            let lane = Arc::clone(&node.runtime().lanes[0]);
            threads.push(thread::spawn(move || lane.drive()));
        }
        Pair { nodes, sets, threads }
    }

    /// Takes the nodes down. Nothing was dropped, and nobody is left waiting (`I9`).
    fn end(self) {
        for node in &self.nodes {
            let lane = &node.runtime().lanes[0];
            let state = lane.lock();
            let counted = &state.statistics;
            assert_eq!((counted.dropped, counted.malformed, counted.faults, counted.fences), (0, 0, 0, 0));
            assert_eq!(state.outstanding, 0, "somebody is left in a queue");
            drop(state);
            lane.stopping.store(true, crate::sync::Ordering::Release);
            lane.poller.wake();
        }
        modelled::end();
        for thread in self.threads {
            thread.join().expect("no thread of a node panics");
        }
        for node in &self.nodes {
            let lane = &node.runtime().lanes[0];
            lane.lock().stop(&lane.poller);
        }
    }
}

/// Who uses the object, and its value, as an observer sees them who takes no step.
#[derive(Default)]
struct Observer {
    /// Readers, or minus one for a writer.
    users: AtomicI64,
    value: AtomicU64,
}

impl Observer {
    fn reads(&self, value: u64) {
        assert!(self.users.fetch_add(1, Ordering::SeqCst) >= 0, "a reader beside a writer (I1)");
        assert_eq!(value, self.value.load(Ordering::SeqCst), "not the last put (I2)");
        thread::yield_now();
        self.users.fetch_sub(1, Ordering::SeqCst);
    }

    fn writes(&self, value: u64) -> u64 {
        assert_eq!(self.users.swap(-1, Ordering::SeqCst), 0, "a writer beside others (I1)");
        assert_eq!(value, self.value.load(Ordering::SeqCst), "not the last put (I2)");
        thread::yield_now();
        assert_eq!(self.users.swap(0, Ordering::SeqCst), -1, "others beside a writer (I1)");
        self.value.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// What a thread does.
#[derive(Clone, Copy)]
enum Act {
    Get,
    GrabPut,
    /// A task does it, not a thread.
    AwaitGrabPut,
    /// Grabs, and drops the guard.
    GrabDrop,
    TryGrab,
    /// Asks, and does not wait.
    Cancel,
    /// Waits, and gives up when time passes.
    GiveUp,
    /// Reads without a guard.
    Snapshot,
}

impl Act {
    fn is_done(self, set: &Set<u64>, observer: &Observer) {
        let put = |mut guard: crate::WriteGuard<u64>| {
            *guard = observer.writes(*guard);
            guard.put().wait().expect("put");
        };
        match self {
            Act::Get => observer.reads(*set.get(OBJECT).wait().expect("got")),
            Act::GrabPut => put(set.grab(OBJECT).wait().expect("grabbed")),
            Act::AwaitGrabPut => put(shuttle::future::block_on(set.grab(OBJECT)).expect("grabbed")),
            Act::GrabDrop => drop(set.grab(OBJECT).wait().expect("grabbed")),
            Act::TryGrab => match set.try_grab(OBJECT).wait() {
                Ok(guard) => put(guard),
                Err(error) => assert!(matches!(error, Error::Access(AccessError::Busy)), "{error}"),
            },
            Act::Cancel => set.grab(OBJECT).cancel(),
            Act::GiveUp => match set.grab(OBJECT).wait_for(SOON) {
                Ok(guard) => put(guard),
                Err(error) => assert!(matches!(error, Error::Access(AccessError::TimedOut { .. })), "{error}"),
            },
            Act::Snapshot => drop(set.snapshot(OBJECT).wait().expect("seen")),
        }
    }
}

/// What the threads do: on which node, and what one after the other.
type Case = &'static [(usize, &'static [Act])];

const CASES: &[(&str, Case)] = &[
    ("two nodes write", &[(0, &[Act::GrabPut, Act::GrabPut]), (1, &[Act::GrabPut, Act::Get])]),
    ("threads of one node", &[(0, &[Act::GrabPut, Act::Get]), (0, &[Act::Get, Act::GrabPut]), (1, &[Act::GrabPut])]),
    ("readers and a writer", &[(0, &[Act::Get, Act::Get]), (1, &[Act::Get, Act::Snapshot]), (1, &[Act::GrabPut])]),
    ("who gives up", &[(0, &[Act::GiveUp, Act::Get]), (1, &[Act::Cancel, Act::GrabPut]), (1, &[Act::GiveUp])]),
    (
        "tasks and tries",
        &[(0, &[Act::AwaitGrabPut, Act::TryGrab]), (1, &[Act::TryGrab, Act::AwaitGrabPut]), (1, &[Act::GrabDrop])],
    ),
];

fn run_case(case: Case, home: NodeId) {
    let pair = Pair::new(home);
    let observer = Arc::new(Observer::default());
    let mut threads = Vec::new();
    for (at, acts) in case {
        let (set, observer) = (pair.sets[*at].clone(), Arc::clone(&observer));
        threads.push(thread::spawn(move || acts.iter().for_each(|act| act.is_done(&set, &observer))));
    }
    for thread in threads {
        thread.join().expect("no thread of the application panics");
    }
    for set in &pair.sets {
        observer.reads(*set.get(OBJECT).wait().expect("got"));
    }
    pair.end();
}

fn schedules(scheduler: impl Scheduler + 'static, case: Case, failures: FailurePersistence) {
    let mut config = Schedules::new();
    config.failure_persistence = failures;
    config.stack_size = STACK_BYTES;
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(move || {
        // The schedule decides that too.
        let home = shuttle::rand::thread_rng().gen_range(1..=2);
        run_case(case, NodeId(home));
    });
}

/// Schedules of each case at random, and as many by priorities.
const SCHEDULES: usize = 800;

#[test]
fn threads_against_the_driver_at_random() {
    for (name, case) in CASES {
        eprintln!("{name}");
        schedules(RandomScheduler::new_from_seed(SEED, SCHEDULES), case, FailurePersistence::Print);
    }
}

#[test]
fn threads_against_the_driver_by_priorities() {
    for (name, case) in CASES {
        eprintln!("{name}");
        schedules(PctScheduler::new_from_seed(SEED, DEPTH, SCHEDULES), case, FailurePersistence::Print);
    }
}

/// What finds nothing wrong may be blind. So each [`Slip`] must be found, in a few rounds of schedules of
/// all cases and both kinds; the table in `docs/testing.md` says after how many it was.
#[test]
fn what_is_done_wrongly_is_found() {
    for slip in Slip::ALL {
        modelled::slip(Some(slip));
        let found = found_after();
        modelled::slip(None);
        let (schedules, by, why) = found.unwrap_or_else(|| panic!("{slip:?} was not found"));
        eprintln!("{slip:?}: after {schedules} schedules, by {by:?}: {why:.60}");
    }
}

/// Schedules of a case and kind in one round, and rounds.
const ROUND: usize = 50;
const ROUNDS: u64 = 40;

/// After how many schedules something is found to be wrong, in which case, and what.
fn found_after() -> Option<(usize, &'static str, String)> {
    let tried = Arc::new(AtomicUsize::new(0));
    for round in 0..ROUNDS {
        for (name, case) in CASES {
            let random = Box::new(RandomScheduler::new_from_seed(SEED + round, ROUND));
            let by_priorities = Box::new(PctScheduler::new_from_seed(SEED + round, DEPTH, ROUND));
            for scheduler in [random as Box<dyn Scheduler + Send>, by_priorities] {
                let counted = Counted { scheduler, count: Arc::clone(&tried) };
                let ended = catch_unwind(AssertUnwindSafe(|| schedules(counted, case, FailurePersistence::None)));
                if let Err(why) = ended {
                    let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
                    return Some((tried.load(Ordering::Relaxed), name, why));
                }
            }
        }
    }
    None
}

/// A scheduler whose schedules are counted.
struct Counted {
    scheduler: Box<dyn Scheduler + Send>,
    count: Arc<AtomicUsize>,
}

impl Scheduler for Counted {
    fn new_execution(&mut self) -> Option<Schedule> {
        let next = self.scheduler.new_execution();
        self.count.fetch_add(usize::from(next.is_some()), Ordering::Relaxed);
        next
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        self.scheduler.next_task(runnable, current, is_yielding)
    }

    fn next_u64(&mut self) -> u64 {
        self.scheduler.next_u64()
    }
}
