use kddm_core::view::NodeState;
use proptest::prelude::*;

use super::*;

const VOTER: NodeId = NodeId(1);

fn join(nonce: u64) -> Change {
    Change::Join { node: None, address: "a:1".into(), nonce, site: Default::default() }
}

fn follower(node: u16) -> SingleVoter {
    SingleVoter::follower(NodeId(node), Incarnation(node.into()), VOTER, 0)
}

/// A voter, node 1, and followers from 2 on, with a network between them that a test may cut.
struct World {
    logs: BTreeMap<NodeId, SingleVoter>,
    now: Time,
}

impl World {
    fn new(followers: u16) -> World {
        let mut logs = BTreeMap::from([(VOTER, SingleVoter::voter(VOTER, 0))]);
        logs.extend((2..followers + 2).map(|node| (NodeId(node), follower(node))));
        World { logs, now: Time(1) }
    }

    fn log(&mut self, node: u16) -> &mut SingleVoter {
        self.logs.get_mut(&NodeId(node)).unwrap()
    }

    /// All messages on their way now.
    fn take(&mut self) -> Vec<(NodeId, Outgoing)> {
        let taken = self.logs.iter_mut().map(|(node, log)| (*node, log.take_outgoing()));
        taken.flat_map(|(node, out)| out.into_iter().map(move |message| (node, message))).collect()
    }

    /// Delivers until nobody has anything more to say.
    fn settle(&mut self) {
        loop {
            let messages = self.take();
            if messages.is_empty() {
                return;
            }
            for (from, Outgoing { to, message }) in messages {
                self.logs.get_mut(&to).unwrap().step(from, &message).unwrap();
            }
        }
    }

    fn tick(&mut self) {
        self.now = self.now.after_ns(FOLLOW_INTERVAL_NS);
        for log in self.logs.values_mut() {
            log.tick(self.now);
        }
    }

    fn decided(&mut self, node: u16) -> Vec<Change> {
        self.log(node).decided_since(0).unwrap().into_iter().map(|entry| entry.change).collect()
    }
}

#[test]
fn what_the_voter_proposes_is_decided_at_once() {
    let mut log = SingleVoter::voter(VOTER, 7);
    log.propose(join(1)).unwrap();
    assert_eq!(log.decided_since(7).unwrap(), [Decided { index: 8, change: join(1) }]);
    assert_eq!(log.decided_since(8).unwrap(), []);
    assert_eq!(log.decided_since(6), Err(LogError::Forgotten { first: 8 }));
    assert_eq!(log.take_outgoing(), []);
}

#[test]
fn all_have_the_changes_of_all_in_one_order() {
    let mut world = World::new(3);
    world.tick();
    world.settle();
    for node in [3, 1, 4, 2] {
        world.log(node).propose(join(u64::from(node) * 10)).unwrap();
        world.log(node).propose(join(u64::from(node) * 10 + 1)).unwrap();
    }
    world.settle();
    let order = world.decided(1);
    assert_eq!(order.len(), 8);
    for node in 2..=4 {
        assert_eq!(world.decided(node), order);
        let place = |nonce: u64| order.iter().position(|change| *change == join(nonce)).unwrap();
        assert!(
            place(u64::from(node) * 10) < place(u64::from(node) * 10 + 1),
            "the changes of one node keep their order"
        );
        assert_eq!(world.log(1).known_by(NodeId(node)), 8, "they have confirmed what they have");
    }
}

#[test]
fn one_change_of_a_follower_is_in_flight_and_repeated_until_taken_once() {
    let mut world = World::new(1);
    world.log(2).propose(join(1)).unwrap();
    world.log(2).propose(join(2)).unwrap();
    let lost = world.take();
    assert_eq!(lost.len(), 1, "the second waits for the first");
    world.tick();
    let sent = world.take();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1.message, lost[0].1.message, "it is the same proposal again");
    for (from, Outgoing { to, message }) in lost.into_iter().chain(sent) {
        world.logs.get_mut(&to).unwrap().step(from, &message).unwrap();
    }
    world.settle();
    assert_eq!(world.decided(1), [join(1), join(2)], "each once");
    assert_eq!(world.decided(2), [join(1), join(2)]);
}

#[test]
fn lost_entries_come_with_the_next_question() {
    let mut world = World::new(1);
    world.tick();
    world.settle();
    world.log(1).propose(join(1)).unwrap();
    world.take();
    world.log(1).propose(join(2)).unwrap();
    world.settle();
    assert_eq!(world.decided(2).len(), 2, "the second showed the gap");
    world.log(1).propose(join(3)).unwrap();
    world.take();
    assert_eq!(world.log(1).known_by(NodeId(2)), 2);
    world.tick();
    world.settle();
    assert_eq!(world.decided(2).len(), 3);
    assert_eq!(world.log(1).known_by(NodeId(2)), 3);
}

#[test]
fn a_follower_that_is_far_behind_is_told_to_take_a_whole_state() {
    let mut world = World::new(1);
    for nonce in 0..=ENTRIES_KEPT as u64 {
        world.log(1).propose(join(nonce)).unwrap();
    }
    world.tick();
    world.settle();
    assert_eq!(world.log(2).decided_since(0), Err(LogError::Forgotten { first: 2 }));
    let last = ENTRIES_KEPT as u64 + 1;
    world.log(2).skip(last);
    assert_eq!(world.log(2).last(), last);
    world.log(1).propose(join(0)).unwrap();
    world.settle();
    assert_eq!(world.log(2).decided_since(last).unwrap(), [Decided { index: last + 1, change: join(0) }]);
}

#[test]
fn the_changes_of_a_second_life_are_taken_too() {
    let mut world = World::new(1);
    world.log(2).propose(join(1)).unwrap();
    world.settle();
    let second = SingleVoter::follower(NodeId(2), Incarnation(9), VOTER, 1);
    world.logs.insert(NodeId(2), second);
    world.log(2).propose(join(2)).unwrap();
    world.settle();
    assert_eq!(world.decided(1), [join(1), join(2)]);
}

#[test]
fn a_voter_without_its_log_is_noticed() {
    let mut world = World::new(1);
    world.log(2).propose(join(1)).unwrap();
    world.settle();
    world.logs.insert(VOTER, SingleVoter::voter(VOTER, 0));
    world.tick();
    let (from, Outgoing { message, .. }) = world.take().remove(0);
    let error = world.log(1).step(from, &message).unwrap_err();
    assert_eq!(error, LogError::FollowerAhead { follower: NodeId(2), seen: 1, last: 0 });
}

#[test]
fn a_silent_follower_is_not_written_to_and_gives_way() {
    let mut log = SingleVoter::voter(VOTER, 0);
    let hear = |log: &mut SingleVoter, node: u16| {
        let mut follower = follower(node);
        follower.tick(Time(0));
        log.step(NodeId(node), &follower.take_outgoing()[0].message)
    };
    for node in 2..MEMBERS as u16 + 2 {
        hear(&mut log, node).unwrap();
    }
    let late = MEMBERS as u16 + 2;
    let full = LogError::TooManyFollowers { from: NodeId(late), limit: MEMBERS };
    assert_eq!(hear(&mut log, late), Err(full));
    log.tick(Time(FOLLOWER_SILENCE_NS + 1));
    hear(&mut log, late).unwrap();
    log.propose(join(1)).unwrap();
    let to: Vec<_> = log.take_outgoing().iter().map(|out| out.to).collect();
    assert_eq!(to, [NodeId(late)]);
}

#[test]
fn what_no_log_sends_is_dropped_by_name() {
    let mut world = World::new(2);
    world.log(2).propose(join(1)).unwrap();
    let ask = world.take().remove(0).1.message;
    let is_bad = |result: Result<(), LogError>| matches!(result, Err(LogError::BadMessage { .. }));
    assert!(is_bad(world.log(3).step(NodeId(2), &ask)), "a follower decides nothing");
    world.log(1).step(NodeId(2), &ask).unwrap();
    let answer = world.take().remove(0).1.message;
    assert!(is_bad(world.log(2).step(NodeId(3), &answer)), "only the voter decides");
    assert!(is_bad(world.log(1).step(VOTER, &ask)), "nobody writes to itself");
    assert!(is_bad(world.log(1).step(NodeId(2), &[])));
    assert!(is_bad(world.log(1).step(NodeId(2), &[99, 0])));
    assert!(is_bad(world.log(1).step(NodeId(2), &vec![1; MESSAGE_BYTES + 1])));
}

#[test]
fn proposals_have_a_limit_and_a_check() {
    let mut log = follower(2);
    let nobody = Change::SetState { node: NodeId(0), incarnation: Incarnation(1), state: NodeState::Possible };
    assert!(matches!(log.propose(nobody), Err(LogError::Malformed(_))));
    for nonce in 0..PROPOSALS as u64 {
        log.propose(join(nonce)).unwrap();
    }
    assert_eq!(log.propose(join(0)), Err(LogError::TooManyProposals { waiting: PROPOSALS }));
}

#[test]
fn one_voter_stays_one() {
    let mut log = SingleVoter::voter(VOTER, 0);
    assert_eq!(log.reconfigure(&[VOTER]), Ok(()));
    assert_eq!(log.reconfigure(&[VOTER, NodeId(2)]), Err(LogError::OneVoter { voter: VOTER }));
}

proptest! {
    /// Loss, repetition and disorder delay the log and never change it (`I7`).
    #[test]
    fn a_bad_network_changes_no_order(choices in proptest::collection::vec((0u8..8, any::<u8>()), 1..200)) {
        let mut world = World::new(2);
        let mut proposed = 0;
        let mut flying: Vec<(NodeId, Outgoing)> = Vec::new();
        for (choice, which) in choices {
            flying.extend(world.take());
            let at = if flying.is_empty() { 0 } else { usize::from(which) % flying.len() };
            match choice {
                0 => world.tick(),
                1 => {
                    proposed += 1;
                    world.log(u16::from(which) % 3 + 1).propose(join(proposed)).unwrap();
                }
                2 if !flying.is_empty() => drop(flying.remove(at)),
                3 if !flying.is_empty() => flying.push(flying[at].clone()),
                _ if !flying.is_empty() => {
                    let (from, Outgoing { to, message }) = flying.remove(at);
                    world.logs.get_mut(&to).unwrap().step(from, &message).unwrap();
                }
                _ => {}
            }
            let order = world.decided(1);
            for node in 2..=3 {
                prop_assert!(order.starts_with(&world.decided(node)));
            }
        }
        world.tick();
        world.settle();
        let order = world.decided(1);
        prop_assert_eq!(order.len() as u64, proposed, "each once");
        prop_assert_eq!(&world.decided(2), &order);
        prop_assert_eq!(&world.decided(3), &order);
    }
}

#[test]
fn the_bytes_of_messages_are_fixed() {
    assert_eq!(Wire::Follow { have: 300, proposal: None }.encode(), [1, 0, 0xac, 2, 0]);
    assert_eq!(Wire::Follow { have: 5, proposal: Some((300, vec![1, 3])) }.encode(), [1, 0, 5, 1, 0xac, 2, 2, 1, 3]);
    let decided = Wire::Decided { after: 300, accepted: 6, entries: vec![vec![1, 3], vec![1, 7, 9]] };
    assert_eq!(decided.encode(), [1, 1, 0xac, 2, 6, 2, 2, 1, 3, 3, 1, 7, 9]);
    assert_eq!(Wire::Forgotten { first: 300, accepted: 6 }.encode(), [1, 2, 0xac, 2, 6]);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
        bytes[0] = MESSAGE_SCHEMA;
        let _read_or_refused = SingleVoter::voter(VOTER, 0).step(NodeId(2), &bytes);
        let _read_or_refused = follower(2).step(VOTER, &bytes);
    }
}

/// Tells each log that has applied the move who decides now, as its home does.
fn apply_moves(world: &mut World) {
    for log in world.logs.values_mut() {
        let mut moves = log.decided_since(0).unwrap().into_iter().filter_map(|entry| match entry.change {
            Change::MoveVoter { to } => Some(to),
            _ => None,
        });
        if let Some(voter) = moves.next_back() {
            log.voters_are(&[voter]);
        }
    }
}

#[test]
fn another_node_decides_from_a_decided_entry_on_and_nothing_is_lost() {
    let mut world = World::new(2);
    world.tick();
    world.settle();
    world.log(1).propose(join(1)).unwrap();
    world.log(1).reconfigure(&[NodeId(2)]).unwrap();
    let lost = world.take().into_iter().filter(|(_, out)| out.to == NodeId(2)).collect::<Vec<_>>();
    for (from, Outgoing { to, message }) in lost {
        world.logs.get_mut(&to).unwrap().step(from, &message).unwrap();
    }
    apply_moves(&mut world);
    // Node 3 has heard nothing of the move: the old voter still tells it what was decided.
    world.log(3).propose(join(3)).unwrap();
    for _ in 0..4 {
        world.tick();
        for (from, Outgoing { to, message }) in world.take() {
            let _refused_until_known = world.logs.get_mut(&to).unwrap().step(from, &message);
        }
        apply_moves(&mut world);
    }
    world.log(1).propose(join(11)).unwrap();
    for _ in 0..4 {
        world.tick();
        world.settle();
    }
    let decided = world.decided(2);
    assert_eq!(decided[..2], [join(1), Change::MoveVoter { to: NodeId(2) }]);
    assert!(decided.contains(&join(3)) && decided.contains(&join(11)), "{decided:?}");
    assert_eq!(world.decided(1), decided);
    assert_eq!(world.decided(3), decided);
    assert_eq!(world.log(1).voter_id(), NodeId(2));
}
