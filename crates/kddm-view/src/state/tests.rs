use kddm_core::view::NodeState::{Online, Possible};

use super::*;
use crate::change::{Cause, Site};
use crate::identity::{ClusterId, SessionId};

fn empty() -> State {
    State::new(Identity { cluster: ClusterId(7), session: SessionId::DEFAULT }, NodeId(1))
}

/// Applies a change as the next entry.
fn decide(state: &mut State, change: Change) -> Outcome {
    state.apply(&Decided { index: state.applied() + 1, change }).unwrap()
}

fn join(state: &mut State, node: Option<u16>, nonce: u64) -> Outcome {
    let address = format!("host-{nonce}:7600");
    decide(state, Change::Join { node: node.map(NodeId), address, nonce, site: Site::default() })
}

fn life(state: &State, node: u16) -> Incarnation {
    state.member(NodeId(node)).unwrap().incarnation
}

fn set_state(state: &mut State, node: u16, to: NodeState) -> Outcome {
    let incarnation = life(state, node);
    decide(state, Change::SetState { node: NodeId(node), incarnation, state: to })
}

fn leave(state: &mut State, node: u16) -> Outcome {
    let incarnation = life(state, node);
    decide(state, Change::Leave { node: NodeId(node), incarnation })
}

fn drain(state: &mut State, node: u16) -> Outcome {
    let incarnation = life(state, node);
    decide(state, Change::Drain { node: NodeId(node), incarnation })
}

/// Nodes 1 to `count`, all possible.
fn possible(count: u16) -> State {
    let mut state = empty();
    for node in 1..=count {
        assert_eq!(join(&mut state, Some(node), node.into()), Outcome::Changed);
        assert_eq!(set_state(&mut state, node, Possible), Outcome::Changed);
    }
    state
}

fn homes(state: &State) -> Vec<u16> {
    state.view().homes.iter().map(|node| node.0).collect()
}

#[test]
fn a_node_comes_in_online_and_becomes_possible_and_a_home() {
    let mut state = empty();
    assert_eq!(join(&mut state, None, 5), Outcome::Changed);
    assert_eq!(state.view().member(NodeId(1)).unwrap().state, Online);
    assert_eq!(homes(&state), []);
    let before = state.view();
    assert_eq!(set_state(&mut state, 1, Possible), Outcome::Changed);
    let after = state.view();
    assert_eq!(after.member(NodeId(1)).unwrap().state, Possible);
    assert_eq!(homes(&state), [1]);
    assert_eq!((after.epoch, after.placement.0), (before.epoch, before.placement.0 + 1));
    assert_eq!(set_state(&mut state, 1, Possible), Outcome::Unchanged);
    assert_eq!(state.view(), after);
}

#[test]
fn who_asks_for_no_id_is_given_the_lowest_that_is_free() {
    let mut state = possible(1);
    join(&mut state, Some(3), 30);
    join(&mut state, None, 20);
    join(&mut state, None, 40);
    assert_eq!(state.member_by_nonce(20), Some(NodeId(2)));
    assert_eq!(state.member_by_nonce(40), Some(NodeId(4)));
}

#[test]
fn the_second_process_with_an_id_is_refused_and_told_of_the_first() {
    let mut state = possible(2);
    let before = state.view();
    let refused = Refused::NodeIdTaken { node: NodeId(2), address: "host-2:7600".into() };
    assert_eq!(join(&mut state, Some(2), 99), Outcome::Refused(refused.clone()));
    assert_eq!(state.view(), before);
    let text = "node id 2 is taken by the process at host-2:7600: choose another id, or stop that process first";
    assert_eq!(refused.to_string(), text);
}

#[test]
fn a_repeated_join_is_the_same_life() {
    let mut state = possible(2);
    let before = state.view();
    assert_eq!(join(&mut state, None, 2), Outcome::Unchanged);
    assert_eq!(join(&mut state, Some(2), 2), Outcome::Unchanged);
    assert_eq!(state.view(), before);
}

#[test]
fn a_second_life_has_a_new_incarnation_and_nothing_is_decided_for_the_first() {
    let mut state = possible(2);
    let first = life(&state, 2);
    let epoch = state.view().epoch;
    assert_eq!(leave(&mut state, 2), Outcome::Changed);
    assert!(state.view().epoch > epoch);
    assert_eq!(homes(&state), [1]);
    assert_eq!(join(&mut state, Some(2), 22), Outcome::Changed);
    let second = life(&state, 2);
    assert!(second > first);
    let late = Change::SetState { node: NodeId(2), incarnation: first, state: Possible };
    let refused = Refused::NotAMember { node: NodeId(2), incarnation: first };
    assert_eq!(decide(&mut state, late), Outcome::Refused(refused));
    assert_eq!(state.view().member(NodeId(2)).unwrap().state, Online);
}

#[test]
fn who_shares_objects_leaves_only_after_it_has_handed_them_over() {
    let mut state = possible(2);
    assert_eq!(decide(&mut state, Change::Seal), Outcome::Changed);
    assert_eq!(decide(&mut state, Change::Seal), Outcome::Unchanged);
    join(&mut state, None, 3);
    set_state(&mut state, 3, Possible);
    assert_eq!(homes(&state), [1, 2, 3], "who joins later is a home too");
    let refused = |node| Outcome::Refused(Refused::SharesObjects { node: NodeId(node) });
    assert_eq!(leave(&mut state, 2), refused(2));
    assert_eq!(set_state(&mut state, 3, Online), refused(3));
    let epoch = state.view().epoch;
    assert_eq!(drain(&mut state, 3), Outcome::Changed);
    assert_eq!(drain(&mut state, 3), Outcome::Unchanged);
    assert_eq!(homes(&state), [1, 2]);
    assert_eq!(leave(&mut state, 3), refused(3), "it still shares");
    assert_eq!(set_state(&mut state, 3, Online), Outcome::Changed);
    assert_eq!(leave(&mut state, 3), Outcome::Changed);
    assert_eq!(state.view().epoch, epoch, "nothing has to be fenced off after a clean leave");
}

#[test]
fn a_drain_is_taken_back_by_asking_to_be_possible() {
    let mut state = possible(2);
    assert_eq!(drain(&mut state, 2), Outcome::Changed);
    assert_eq!(set_state(&mut state, 2, Possible), Outcome::Changed);
    assert_eq!(homes(&state), [1, 2]);
    assert!(!state.member(NodeId(2)).unwrap().draining);
}

#[test]
fn the_last_home_does_not_drain() {
    let mut state = possible(2);
    assert_eq!(drain(&mut state, 1), Outcome::Changed);
    assert_eq!(drain(&mut state, 2), Outcome::Refused(Refused::LastHome { node: NodeId(2) }));
    assert_eq!(homes(&state), [2]);
}

#[test]
fn only_a_node_that_stays_can_decide() {
    let mut state = possible(3);
    join(&mut state, None, 4);
    drain(&mut state, 3);
    for node in [3, 4, 9].map(NodeId) {
        assert_eq!(
            decide(&mut state, Change::MoveVoter { to: node }),
            Outcome::Refused(Refused::CannotDecide { node })
        );
    }
    assert_eq!(decide(&mut state, Change::MoveVoter { to: NodeId(2) }), Outcome::Changed);
    assert_eq!(state.voter(), NodeId(2));
    assert_eq!(decide(&mut state, Change::MoveVoter { to: NodeId(2) }), Outcome::Unchanged);
    assert_eq!(leave(&mut state, 1), Outcome::Changed, "it decides no more");
}

#[test]
fn nothing_is_sealed_before_somebody_could_be_a_home() {
    let mut state = empty();
    join(&mut state, None, 1);
    assert_eq!(decide(&mut state, Change::Seal), Outcome::Refused(Refused::NoHome));
    assert!(!state.is_sealed());
}

#[test]
fn a_member_may_step_back_while_there_are_no_sets() {
    let mut state = possible(2);
    assert_eq!(set_state(&mut state, 2, Online), Outcome::Changed);
    assert_eq!(homes(&state), [1]);
}

#[test]
fn the_voter_cannot_leave() {
    let mut state = possible(2);
    assert_eq!(leave(&mut state, 1), Outcome::Refused(Refused::Voter { node: NodeId(1) }));
}

#[test]
fn a_full_cluster_says_so() {
    let mut state = empty();
    for nonce in 1..=MEMBERS as u64 {
        assert_eq!(join(&mut state, None, nonce), Outcome::Changed);
    }
    assert_eq!(join(&mut state, None, 0), Outcome::Refused(Refused::Full));
}

#[test]
fn epochs_end_with_a_word_and_not_with_a_repetition() {
    let mut state = possible(2);
    state.epoch = Epoch(EPOCHS - 1);
    let before = state.view();
    assert_eq!(leave(&mut state, 2), Outcome::Refused(Refused::UsedUp { what: "epochs" }));
    assert_eq!(state.view(), before);
}

#[test]
fn entries_are_applied_in_order_and_once() {
    let mut state = possible(1);
    let before = state.clone();
    let entry = |index| Decided { index, change: Change::Seal };
    assert_eq!(state.apply(&entry(4)), Err(Gap { expected: 3, found: 4 }));
    assert_eq!(state.apply(&entry(2)), Ok(Outcome::Unchanged));
    assert_eq!(state, before);
    assert_eq!(state.apply(&entry(3)), Ok(Outcome::Changed));
}

#[test]
fn a_check_tells_what_an_entry_would_do_and_changes_nothing() {
    let state = possible(1);
    let before = state.clone();
    let join = Change::Join { node: Some(NodeId(1)), address: "b:1".into(), nonce: 9, site: Default::default() };
    assert!(matches!(state.check(&join), Err(Refused::NodeIdTaken { .. })));
    assert_eq!(state.check(&Change::Seal), Ok(()));
    assert_eq!(state, before);
}

fn expel(state: &mut State, node: u16, cause: Cause) -> Outcome {
    let incarnation = life(state, node);
    decide(state, Change::Expel { node: NodeId(node), incarnation, cause })
}

#[test]
fn who_is_expelled_is_fenced_off_and_may_come_again_in_another_life() {
    let mut state = possible(3);
    decide(&mut state, Change::Seal);
    let (before, first) = (state.view(), life(&state, 3));
    assert_eq!(expel(&mut state, 3, Cause::Lease), Outcome::Changed, "also one that shares objects");
    let after = state.view();
    assert_eq!((after.epoch.0, after.placement.0), (before.epoch.0 + 1, before.placement.0 + 1));
    assert_eq!((after.member(NodeId(3)), homes(&state)), (None, vec![1, 2]));
    let again = Change::Expel { node: NodeId(3), incarnation: first, cause: Cause::Proof };
    let refused = Outcome::Refused(Refused::NotAMember { node: NodeId(3), incarnation: first });
    assert_eq!(decide(&mut state, again.clone()), refused);
    assert_eq!(join(&mut state, Some(3), 33), Outcome::Changed);
    assert!(life(&state, 3) > first);
    assert_eq!(decide(&mut state, again), refused, "the other life is not meant");
}

#[test]
fn only_who_takes_objects_along_counts_as_a_failure() {
    let mut state = possible(5);
    join(&mut state, Some(6), 6);
    drain(&mut state, 5);
    for (node, cause, failures) in
        [(2, Cause::Clean, 0), (6, Cause::Lease, 0), (3, Cause::Proof, 1), (5, Cause::Lease, 2)]
    {
        assert_eq!(expel(&mut state, node, cause), Outcome::Changed);
        assert_eq!((state.failures(), state.view().failures), (failures, failures), "node {node}");
    }
}

#[test]
fn all_is_whole_only_in_the_placement_in_which_that_was_judged() {
    let mut state = possible(3);
    expel(&mut state, 2, Cause::Lease);
    let judged = state.view().placement;
    expel(&mut state, 3, Cause::Lease);
    let before = state.view();
    let refused = Refused::JudgedBefore { judged, now: before.placement };
    assert_eq!(decide(&mut state, Change::Healed { placement: judged }), Outcome::Refused(refused.clone()));
    assert_eq!(
        refused.to_string(),
        format!(
            "what was judged in placement {} does not hold in placement {}: judge again",
            judged.0, before.placement.0
        )
    );
    assert_eq!(state.view(), before);
    let early = Change::Healed { placement: Placement(before.placement.0 + 1) };
    assert!(matches!(decide(&mut state, early), Outcome::Refused(Refused::JudgedBefore { .. })));
    assert_eq!(decide(&mut state, Change::Healed { placement: before.placement }), Outcome::Changed);
    let after = state.view();
    assert_eq!((after.failures, after.epoch, after.placement.0), (0, before.epoch, before.placement.0 + 1));
    assert_eq!(decide(&mut state, Change::Healed { placement: before.placement }), Outcome::Unchanged);
    assert_eq!(state.view(), after);
}

#[test]
fn the_fewest_homes_count_from_the_first_set_on() {
    let mut state = possible(3);
    assert_eq!(state.view().fewest_homes, 3);
    decide(&mut state, Change::Seal);
    expel(&mut state, 2, Cause::Lease);
    assert_eq!(state.view().fewest_homes, 3, "what is lost had been put when there were three");
    assert_eq!([0, 1, 2, 3].map(|replicas| state.view().covers(replicas)), [false, true, true, true]);
    join(&mut state, Some(7), 7);
    let incarnation = state.member(NodeId(7)).unwrap().incarnation;
    let possible = Change::SetState { node: NodeId(7), incarnation, state: NodeState::Possible };
    decide(&mut state, possible);
    assert_eq!(state.view().fewest_homes, 2, "its copies are still to be made");
    let placement = state.view().placement;
    assert_eq!(decide(&mut state, Change::Healed { placement }), Outcome::Changed);
    assert_eq!((state.view().fewest_homes, state.view().failures), (3, 0));
}

#[test]
fn the_node_that_decides_is_not_expelled_and_epochs_do_not_repeat() {
    let mut state = possible(2);
    assert_eq!(expel(&mut state, 1, Cause::Proof), Outcome::Refused(Refused::Voter { node: NodeId(1) }));
    state.epoch = Epoch(EPOCHS - 1);
    assert_eq!(expel(&mut state, 2, Cause::Proof), Outcome::Refused(Refused::UsedUp { what: "epochs" }));
    assert_eq!((state.failures(), homes(&state)), (0, vec![1, 2]));
}

#[test]
fn who_drains_keeps_what_it_has_when_the_others_are_lost() {
    let mut state = possible(3);
    decide(&mut state, Change::MoveVoter { to: NodeId(2) });
    drain(&mut state, 3);
    drain(&mut state, 2);
    assert_eq!(homes(&state), [1]);
    expel(&mut state, 1, Cause::Lease);
    assert_eq!(homes(&state), [2, 3]);
    assert!(state.members().all(|(_, entry)| !entry.draining));
}

#[test]
fn the_last_that_shared_objects_can_be_lost() {
    let mut state = empty();
    join(&mut state, Some(1), 1);
    join(&mut state, Some(2), 2);
    set_state(&mut state, 2, Possible);
    decide(&mut state, Change::Seal);
    assert_eq!(expel(&mut state, 2, Cause::Lease), Outcome::Changed);
    assert_eq!((homes(&state), state.failures(), state.is_sealed()), (vec![], 1, true));
    assert_eq!(State::decode(&state.encode()), Ok(state));
}

/// A member that shares nothing misses nothing. The state would be one that no disk and no member takes for possible.
#[test]
fn nothing_is_whole_again_while_nobody_shares() {
    let mut state = possible(1);
    decide(&mut state, Change::Seal);
    // Where several vote, the first one can be expelled.
    decide(&mut state, Change::Lead { node: NodeId(2), term: 1 });
    expel(&mut state, 1, Cause::Lease);
    join(&mut state, Some(2), 77);
    let healed = Change::Healed { placement: state.placement() };
    assert_eq!(decide(&mut state, healed), Outcome::Refused(Refused::NoHome));
    assert_eq!(State::decode(&state.encode()), Ok(state.clone()));
    set_state(&mut state, 2, NodeState::Possible);
    let healed = Change::Healed { placement: state.placement() };
    assert_eq!(decide(&mut state, healed), Outcome::Changed);
    assert!(state.is_healed());
}

#[test]
fn a_cluster_has_one_lease_within_limits() {
    assert_eq!(empty().lease_ms(), LEASE_MS_DEFAULT);
    assert_eq!(empty().with_lease_ms(200).lease_ms(), 200);
    assert_eq!(empty().with_lease_ms(0).lease_ms(), LEASE_MS_LEAST);
    assert_eq!(empty().with_lease_ms(u32::MAX).lease_ms(), LEASE_MS_MOST);
}

#[test]
fn what_a_member_remembers_begins_an_epoch_and_is_no_failure() {
    let mut state = possible(3);
    let incarnation = life(&state, 3);
    expel(&mut state, 3, Cause::Lease);
    let (before, epoch) = (state.view(), state.view().epoch);
    let recall = |incarnation| Change::Recall { node: NodeId(3), incarnation, epoch };
    let refused = Outcome::Refused(Refused::NotAMember { node: NodeId(3), incarnation });
    assert_eq!(decide(&mut state, recall(incarnation)), refused, "it is no member");
    assert_eq!(state.view(), before);
    assert_eq!(join(&mut state, Some(3), 33), Outcome::Changed);
    let again = life(&state, 3);
    assert!(matches!(decide(&mut state, recall(again)), Outcome::Refused(_)), "it shares nothing yet");
    assert_eq!(set_state(&mut state, 3, Possible), Outcome::Changed);
    assert_eq!(decide(&mut state, recall(incarnation)), refused, "another life was meant");
    let before = state.view();
    assert_eq!(decide(&mut state, recall(again)), Outcome::Changed);
    let after = state.view();
    assert_eq!((after.epoch.0, after.placement.0), (before.epoch.0 + 1, before.placement.0 + 1));
    assert_eq!((after.members, after.homes, after.failures), (before.members, before.homes, before.failures));
    assert_eq!(decide(&mut state, recall(again)), Outcome::Unchanged, "it has said all in that epoch");
}

#[test]
fn it_is_known_since_when_nothing_can_be_remembered() {
    let mut state = possible(2);
    let comes_back = |state: &mut State, node: u16, nonce| {
        join(state, Some(node), nonce);
        let incarnation = state.member(NodeId(node)).unwrap().incarnation;
        decide(state, Change::SetState { node: NodeId(node), incarnation, state: NodeState::Possible });
    };
    decide(&mut state, Change::Seal);
    expel(&mut state, 2, Cause::Lease);
    comes_back(&mut state, 2, 7);
    assert_eq!(state.began_anew(), Epoch(0), "the other one was there all the time");
    state.term = 1; // Several vote, so that also the one that leads can be lost.
    let left = Epoch(state.view().epoch.0 + 1);
    expel(&mut state, 2, Cause::Lease);
    expel(&mut state, 1, Cause::Lease);
    comes_back(&mut state, 2, 8);
    assert_eq!(state.began_anew(), state.view().epoch);
    assert!(left <= state.began_anew(), "what both had is of no use");
    assert_eq!(State::decode(&state.encode()).as_ref(), Ok(&state));
    let anew = state.began_anew();
    let left = Epoch(state.view().epoch.0 + 1);
    comes_back(&mut state, 1, 9);
    expel(&mut state, 2, Cause::Lease);
    comes_back(&mut state, 2, 10);
    assert!(state.began_anew() == anew && left > anew, "what a life since then had is");
}
