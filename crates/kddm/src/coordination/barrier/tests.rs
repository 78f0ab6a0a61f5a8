use super::*;
use crate::node::NodeState;

fn party(node: u16) -> Party {
    Party { node, incarnation: node.into(), program: None }
}

fn one(node: u16, serial: u64) -> Arrival {
    Arrival { party: party(node), serial }
}

fn made() -> Arrival {
    one(1, 0)
}

fn lives(nodes: &[u16]) -> Lives {
    let mut lives = Lives::default();
    // They have all been there.
    for node in 1..=9 {
        lives.note(node, node.into(), NodeState::Offline, NodeState::Possible);
    }
    for node in (1..=9).filter(|node| !nodes.contains(node)) {
        lives.note(node, node.into(), NodeState::Online, NodeState::Offline);
    }
    lives
}

fn of(parties: Parties, nodes: &[u16]) -> BarrierState {
    let mut state = BarrierState::new(parties, made());
    for node in nodes {
        assert_eq!(state.enrol(party(*node), &lives(nodes)).ok(), Some(true));
    }
    state
}

fn arrive(state: &mut BarrierState, arrival: Arrival, lives: &Lives) -> Result<(u64, bool), WhyBroken> {
    state.arrive(arrival, lives).expect("there is room")
}

#[test]
fn the_last_one_lets_all_pass_and_the_next_generation_begins() {
    let all = lives(&[1, 2]);
    let mut state = of(Parties::Count(2), &[1, 2]);
    for generation in 0..3 {
        assert_eq!(arrive(&mut state, one(1, 1), &all), Ok((generation, false)));
        assert_eq!(state.outcome(one(1, 1), made(), generation), Outcome::Waits);
        assert_eq!(arrive(&mut state, one(2, 1), &all), Ok((generation, true)));
        assert_eq!(state.outcome(one(1, 1), made(), generation), Outcome::Passed);
    }
    assert!(!state.settle(&all));
}

#[test]
fn one_that_is_taken_back_does_not_count() {
    let all = lives(&[1, 2]);
    let mut state = of(Parties::Count(2), &[1, 2]);
    assert_eq!(arrive(&mut state, one(1, 1), &all), Ok((0, false)));
    assert!(state.withdraw(one(1, 1)) && !state.withdraw(one(1, 1)));
    assert_eq!(arrive(&mut state, one(2, 1), &all), Ok((0, false)));
    assert_eq!(arrive(&mut state, one(1, 2), &all), Ok((0, true)), "threads of one node count each");
}

#[test]
fn it_breaks_with_one_that_waits_or_is_needed() {
    // One that waits.
    let mut state = of(Parties::Count(3), &[1, 2]);
    for node in [1, 2] {
        assert_eq!(arrive(&mut state, one(node, 1), &lives(&[1, 2])), Ok((0, false)));
    }
    assert!(state.settle(&lives(&[1])));
    let why = WhyBroken::NodeGone { node: 2 };
    assert_eq!(state.outcome(one(1, 1), made(), 0), Outcome::Broken(why));
    assert_eq!(arrive(&mut state, one(1, 2), &lives(&[1])), Err(why), "until somebody resets it");
    assert!(state.reset(0) && !state.reset(0));
    assert_eq!(state.outcome(one(1, 1), made(), 0), Outcome::Broken(WhyBroken::Reset));
    assert_eq!(arrive(&mut state, one(1, 3), &lives(&[1])), Ok((1, false)));

    // One that is expected, also if nobody waits yet.
    let mut state = of(Parties::Count(2), &[1, 2]);
    assert!(state.settle(&lives(&[1])));
    assert_eq!(arrive(&mut state, one(1, 1), &lives(&[1])), Err(why));

    // One that nobody needs.
    let mut state = of(Parties::Count(2), &[1, 2, 3]);
    assert_eq!(arrive(&mut state, one(1, 1), &lives(&[1, 2, 3])), Ok((0, false)));
    assert!(state.settle(&lives(&[1, 2])));
    assert_eq!(arrive(&mut state, one(2, 1), &lives(&[1, 2])), Ok((0, true)));

    // One that has said that it goes.
    let mut state = of(Parties::Count(2), &[1, 2]);
    assert!(state.leave(party(2)));
    assert!(!state.settle(&lives(&[1])));
    assert_eq!(arrive(&mut state, one(1, 1), &lives(&[1])), Ok((0, false)));
}

#[test]
fn a_program_that_ends_breaks_it_like_a_node() {
    let program = Party { program: Some(7), ..party(1) };
    let waits = Arrival { party: program, serial: 1 };
    let mut state = of(Parties::Count(2), &[1]);
    assert_eq!(arrive(&mut state, waits, &lives(&[1])), Ok((0, false)));
    assert!(state.settle(&lives(&[1]).without([program])));
    assert_eq!(arrive(&mut state, one(1, 1), &lives(&[1])), Err(WhyBroken::ProgramEnded { node: 1 }));
}

#[test]
fn where_nobody_is_left_all_begins_anew() {
    let mut state = of(Parties::Count(2), &[1, 2]);
    assert!(state.settle(&lives(&[2])));
    assert!(state.broken.is_some());
    assert_eq!(state.enrol(party(3), &lives(&[3])).ok(), Some(true));
    assert_eq!(arrive(&mut state, one(3, 1), &lives(&[3])), Ok((1, false)));
    assert_eq!(arrive(&mut state, one(3, 2), &lives(&[3])), Ok((1, true)));
}

#[test]
fn the_count_of_members_follows_them() {
    let mut state = of(Parties::Members, &[1, 2, 3]);
    assert_eq!(arrive(&mut state, one(1, 1), &lives(&[1, 2, 3])), Ok((0, false)));
    assert_eq!(arrive(&mut state, one(1, 2), &lives(&[1, 2, 3])), Ok((0, false)), "a node counts once");
    assert_eq!(arrive(&mut state, one(2, 1), &lives(&[1, 2, 3, 4])), Ok((0, false)));
    assert!(state.settle(&lives(&[1, 2, 4])), "one is lost");
    assert_eq!(state.outcome(one(1, 1), made(), 0), Outcome::Waits, "one that has joined is waited for");
    assert!(state.settle(&lives(&[1, 2])));
    for arrival in [one(1, 1), one(1, 2), one(2, 1)] {
        assert_eq!(state.outcome(arrival, made(), 0), Outcome::Passed);
    }
}

/// Whoever completes a generation may hear of a join later than the node that joins.
#[test]
fn a_node_that_has_opened_the_barrier_is_waited_for_by_all() {
    let mut known = Lives::default();
    known.note(1, 1, NodeState::Offline, NodeState::Possible);
    let mut state = of(Parties::Members, &[1]);
    assert_eq!(state.enrol(party(2), &known).ok(), Some(true));
    assert_eq!(arrive(&mut state, one(1, 1), &known), Ok((0, false)));
    assert_eq!(arrive(&mut state, one(2, 1), &known), Ok((0, true)));
}

#[test]
fn a_wait_in_a_barrier_that_was_removed_or_reset_long_ago_has_an_answer() {
    let mut state = of(Parties::Count(2), &[1]);
    assert_eq!(state.outcome(one(1, 1), one(1, 9), 0), Outcome::Removed);
    assert_eq!(state.outcome(one(1, 1), made(), 7), Outcome::Removed);
    for generation in 0..200 {
        assert!(state.reset(generation));
    }
    assert_eq!(state.resets.len(), RESETS);
    for generation in 0..200 {
        assert_eq!(state.outcome(one(1, 1), made(), generation), Outcome::Broken(WhyBroken::Reset));
    }
}

#[test]
fn there_is_a_limit_to_parties() {
    let mut state = of(Parties::Count(u32::MAX), &[1]);
    let lives = lives(&[1]);
    state.arrived = (0..PARTIES as u64).map(|serial| one(1, serial)).collect();
    assert!(matches!(state.arrive(one(1, 1), &lives), Err(CoordinationError::TooMany { .. })));
}
