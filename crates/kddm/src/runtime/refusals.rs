//! Memory was refused, and nothing was changed: what could not be handled waits, and is tried again in
//! its order. A peer whose message waits is not read meanwhile, so that it has to wait too.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use kddm_core::id::{NodeId, ObjectId, SetId};
use kddm_core::io::Input;

use crate::runtime::lane::LaneState;
use crate::sync::now;
use crate::transport::Poller;

/// When it is tried again: memory that is given back is not given back at once.
const RETRY: Duration = Duration::from_millis(10);

/// What waits for memory.
#[derive(Default)]
pub(crate) struct Refusals {
    pub retry_at: Option<Instant>,
    peers: Vec<NodeId>,
    objects: Vec<(SetId, ObjectId)>,
}

impl Refusals {
    fn retry_soon(&mut self) {
        self.retry_at.get_or_insert_with(|| now() + RETRY);
    }
}

impl LaneState {
    /// A message of a peer waits in its inbox.
    pub fn stall(&mut self, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.is_stalled = true;
        self.refusals.peers.push(id);
        self.refusals.retry_soon();
    }

    /// The requests of a peer that was full wait a while longer.
    pub fn relieve_later(&mut self, id: NodeId) {
        self.full.relieved(id);
        self.refusals.retry_soon();
    }

    /// What the core must be told of an object waits; what that is stands in its `Local`.
    pub fn tell_later(&mut self, set: SetId, object: ObjectId) {
        self.local(set, object).waits_for_memory = true;
        self.refusals.objects.push((set, object));
        self.refusals.retry_soon();
    }

    /// Tries all again.
    pub fn retry_refused(&mut self, poller: &Poller) {
        self.refusals.retry_at = None;
        for (set, object) in std::mem::take(&mut self.refusals.objects) {
            self.tell_again(set, object);
        }
        for id in std::mem::take(&mut self.refusals.peers) {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            // What came meanwhile is told by nobody again, nor is an end.
            if std::mem::take(&mut peer.is_stalled) && self.handle_received(id, poller) {
                self.read_peer(id, true, poller);
            }
        }
        self.serve_relieved();
    }

    fn tell_again(&mut self, set: SetId, object: ObjectId) {
        let Some(local) = self.locals.get_mut(&(set, object)) else { return };
        local.waits_for_memory = false;
        let (is_cancelling, is_trying) = (local.is_cancelling, local.is_trying);
        let untold = local.putting.as_ref().filter(|putting| !putting.is_told).map(|putting| putting.version);
        let input = match untold {
            _ if is_cancelling => Some(Input::Cancel),
            Some(version) => Some(Input::Put { version }),
            None if is_trying => self.try_to_take_back(set, object),
            None => None,
        };
        let _no_message_that_could_be_refused = self.run(set, object, input, &mut None::<Cow<'_, [u8]>>);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use kddm_core::frame::{BodySeal, Decoded, Envelope, Head, Numbers, decode};
    use kddm_core::id::{Epoch, NodeId, ObjectId, SetId, ShardIndex, Tenure};
    use kddm_core::io::{Input, Outputs};
    use kddm_core::message::{Message, RequestKind};

    use crate::error::{AccessError, Error};
    use crate::runtime::lane::LaneState;
    use crate::{Node, Raw, Set};

    const LIMIT: Duration = Duration::from_secs(30);

    /// Tries again what was refused to this thread itself.
    fn insist<O>(mut work: impl FnMut() -> Result<O, Error>) -> O {
        loop {
            match work() {
                Err(Error::Access(AccessError::Overloaded { .. })) => std::thread::yield_now(),
                other => return other.expect("only memory is refused"),
            }
        }
    }

    pub(crate) fn refuse_each(nodes: &[Node], nth: Option<u64>) {
        for node in nodes {
            node.runtime().lanes.iter().for_each(|lane| lane.lock().refuse_each = nth);
        }
    }

    /// A thread for each handle adds one to objects 0 and 1 in turn, so often in all, and does what else can
    /// be done.
    pub(crate) fn work_on(sets: &[Set<u64>], turns: u64) {
        std::thread::scope(|scope| {
            for set in sets {
                scope.spawn(move || {
                    for turn in 0..turns {
                        insist(|| {
                            let add = |count: &mut u64| {
                                *count += 1;
                                Ok(())
                            };
                            set.update(turn % 2, add).wait_for(LIMIT)
                        });
                        insist(|| set.get(2).wait_for(LIMIT).map(drop));
                        set.grab(2).cancel();
                        match set.try_grab(3).wait_for(LIMIT) {
                            Ok(guard) => drop(guard),
                            Err(Error::Access(AccessError::Busy | AccessError::Overloaded { .. })) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
        });
    }

    /// Each n-th input of the protocol is refused, whatever it is: no message is lost, none comes out of
    /// its order, and no wait is forgotten.
    #[test]
    fn what_is_refused_for_lack_of_memory_is_handled_later() {
        const TURNS: u64 = 40;
        for nth in [2, 3, 5] {
            let nodes = Node::local_cluster(2).expect("two nodes");
            let sets: Vec<Set<u64>> =
                nodes.iter().map(|node| node.set("refused").open().wait().expect("a set")).collect();
            refuse_each(&nodes, Some(nth));
            work_on(&sets, TURNS);
            refuse_each(&nodes, None);
            let total = |set: &Set<u64>| [0, 1].map(|object| *set.get(object).wait_for(LIMIT).expect("a copy"));
            assert_eq!(total(&sets[0]).iter().sum::<u64>(), 2 * TURNS, "each n-th is {nth}");
            for node in &nodes {
                let seen = node.statistics();
                assert!(seen.refused_memory > 0, "it has shown nothing");
                assert_eq!((seen.dropped, seen.faults, seen.malformed), (0, 0, 0), "each n-th is {nth}");
            }
        }
    }

    /// Two nodes, their handles of a set, and its number.
    fn pair() -> (Vec<Node>, Vec<Set<u64>>, SetId) {
        let nodes = Node::local_cluster(2).expect("two nodes");
        let sets = nodes.iter().map(|node| node.set("refused").open().wait().expect("a set")).collect();
        let set = SetId(nodes[0].set_info("refused").expect("it is there").id);
        (nodes, sets, set)
    }

    /// In the place of what taking a shard to a new epoch says: whatever follows from that wish.
    fn do_before(state: &mut LaneState, set: SetId, object: ObjectId) {
        let LaneState { core, outputs, .. } = state;
        let wish = Input::Want { kind: RequestKind::Get { existing: true } };
        core.handle(set, object, wish, outputs).expect("there is memory");
        assert!(!outputs.is_empty());
    }

    /// The first input to a shard of an epoch takes all its objects there, and that stays done if there is no memory for the
    /// input itself. What it has to say acknowledges what had been received; that message is not.
    #[test]
    fn a_message_for_which_there_is_no_memory_is_not_acknowledged_by_what_was_done_before() {
        let (nodes, _sets, set) = pair();
        let lane = &nodes[1].runtime().lanes[0];
        let mut state = lane.lock();
        let of_the_other = |object: &ObjectId| state.core.home(set, *object) == Some(NodeId(1));
        let object = (0..10_000).map(ObjectId).find(of_the_other).expect("it is home of half of them");
        do_before(&mut state, set, object);
        let view = state.core.view();
        let incarnation = view.member(NodeId(1)).expect("a member").incarnation;
        let (epoch, placement) = (view.epoch, view.placement);
        let envelope = Envelope { epoch, placement, from: NodeId(1), incarnation, set, object };
        let sequence = state.peers[&NodeId(1)].session.received() + 1;
        let message = Some(Message::Confirm { tenure: Tenure(1) });
        let numbers = Numbers { sequence, acknowledged: 0 };
        let head = Head { envelope, numbers, message, seal: BodySeal::default() };
        state.refuse_each = Some(1);
        assert!(state.handle_frame(NodeId(1), &head, 100, 0, &mut None).is_err());
        state.refuse_each = None;
        let session = &state.peers[&NodeId(1)].session;
        let Ok(Decoded::Frame(frame, _)) = decode(session.to_write()) else { panic!("it is said to the home") };
        assert_eq!((frame.numbers.acknowledged, session.received()), (sequence - 1, sequence - 1));
        lane.finish(state);
    }

    /// And what follows from it here is done: whoever waits for the same object is served, or asks for more.
    #[test]
    fn what_follows_from_what_was_done_before_is_not_lost() {
        let (nodes, sets, set) = pair();
        let object = ObjectId(7);
        sets[0].grab(7).wait_for(LIMIT).expect("nobody has it").put().wait_for(LIMIT).expect("it is put");
        drop(sets[1].get(7).wait_for(LIMIT).expect("a copy"));
        let lane = nodes[0].runtime().lane(set, object);
        // As if the core had been asked: the answer is what was done before.
        lane.lock().local(set, object).outstanding = true;
        let grab = sets[0].grab(7);
        let mut state = lane.lock();
        do_before(&mut state, set, object);
        state.refuse_each = Some(1);
        let message = Message::Confirm { tenure: Tenure(1) };
        assert!(state.message(NodeId(2), set, object, message, &mut None).is_err());
        state.refuse_each = None;
        lane.finish(state);
        assert!(grab.wait_for(LIMIT).is_ok(), "the wish was said to nobody");
    }

    /// What follows from an input is handed in by nobody again: who waits for it hears that there is no memory.
    #[test]
    fn what_follows_and_is_refused_ends_the_wait() {
        let (nodes, sets, set) = pair();
        let object = ObjectId(7);
        let held = sets[1].grab(7).wait_for(LIMIT).expect("nobody has it");
        let waits = sets[0].grab(7);
        let lane = nodes[0].runtime().lane(set, object);
        let mut state = lane.lock();
        state.refuse_each = Some(1);
        let mut todo = VecDeque::from([Input::Cancel, Input::AcceptLoss]);
        assert!(state.go_on(set, object, &mut None, &mut todo).is_ok(), "it is none of a message");
        state.refuse_each = None;
        lane.finish(state);
        let refused = waits.wait_for(LIMIT).map(drop).expect_err("it is over");
        assert!(matches!(refused, Error::Access(AccessError::Overloaded { .. })), "{refused}");
        drop(held);
    }

    /// It is told before anything else, which may be about another set.
    #[test]
    fn what_was_done_before_memory_was_refused_is_told_at_once() {
        let (nodes, _sets, set) = pair();
        let lane = &nodes[0].runtime().lanes[0];
        let mut state = lane.lock();
        let before = state.statistics.dropped;
        let mut undone = Outputs::new();
        let (shard, floor, unbroken) = (ShardIndex(0), Tenure(1), Epoch(1));
        let message = Message::ShardIsYours { shard, floor, in_doubt: false, unbroken };
        let stray = Input::Message { from: NodeId::NOBODY, message };
        state.core.handle(SetId::SYSTEM, ObjectId(0), stray, &mut undone).expect("it is dropped");
        state.undone = Some((SetId::SYSTEM, undone));
        state.run_own(set, ObjectId(7), Some(Input::Cancel));
        assert_eq!((state.statistics.dropped - before, state.undone.is_some()), (1, false));
        lane.finish(state);
    }

    /// A large body waits where it has arrived, and what came behind it waits too.
    #[test]
    fn a_large_body_survives_a_refusal() {
        let nodes = Node::local_cluster(2).expect("two nodes");
        let sets: Vec<Set<Raw>> = nodes.iter().map(|node| node.set("large").open().wait().expect("a set")).collect();
        let value: Vec<u8> = (0..300_000_u32).map(|at| at as u8).collect();
        for object in 0..8 {
            let mut guard = sets[0].grab(object).wait_for(LIMIT).expect("nobody else has it");
            guard.0.clone_from(&value);
            guard.put().wait_for(LIMIT).expect("it is put");
        }
        refuse_each(&nodes[1..], Some(2));
        let asked: Vec<_> = (0..8).map(|object| sets[1].get(object)).collect();
        for (object, asked) in asked.into_iter().enumerate() {
            match asked.wait_for(LIMIT) {
                Ok(guard) => assert!(guard.0 == value),
                Err(_refused_to_this_thread) => {
                    let again = insist(|| sets[1].get(object as u64).wait_for(LIMIT));
                    assert!(again.0 == value);
                }
            }
        }
        let seen = nodes[1].statistics();
        assert!(seen.refused_memory > 0);
        assert_eq!((seen.dropped, seen.faults, seen.malformed), (0, 0, 0));
    }
}
