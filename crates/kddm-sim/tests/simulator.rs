//! The simulator itself: what it asks for happens, what it finds is found again, and what it leaves out
//! is out.

use std::collections::BTreeSet;

use kddm_core::id::{NodeId, ObjectId};
use kddm_core::message::RequestKind;
use kddm_history::{BUDGET, Kind, Operation, Outcome, Seen, Verdict, Word, check};
use kddm_sim::agent::{Outcome as Ended, Wish};
use kddm_sim::fault::{Counts, Fault, Rates, missing};
use kddm_sim::run::{run, run_scenario};
use kddm_sim::scenario::{Cut, Scenario, parse_keep, parse_without};
use kddm_sim::shrink::shrink_by;
use kddm_sim::world::{Action, Note, Plan, World};

const GRAB: Wish = Wish::Request(RequestKind::Grab { existing: false });
const FLUSH: Wish = Wish::Request(RequestKind::Flush { to: NodeId::NOBODY });

#[test]
fn every_fault_and_every_kind_of_operation_happens_within_a_few_seeds() {
    let (mut faults, mut kinds) = (Counts::default(), BTreeSet::new());
    for report in (0..25).map(run) {
        faults.absorb(&report.faults);
        kinds.extend(report.kinds.keys().copied());
    }
    for (fault, name) in Fault::ALL {
        assert!(faults.of(fault) > 0, "{name} never happened");
    }
    assert_eq!(kinds.len(), 15, "{kinds:?}");
}

#[test]
fn a_node_that_is_back_keeps_a_read_copy_within_some_seeds() {
    assert!((0..400).map(run).any(|report| report.revalidated > 0));
}

#[test]
fn a_history_has_failed_and_unknown_operations_too_and_is_judged_as_it_is_written() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..12 {
        let history = run(seed).history;
        outcomes.extend(history.iter().map(|operation| format!("{:?}", operation.outcome)));
        let mut text = Vec::new();
        kddm_history::write(&history, &mut text).expect("memory takes it");
        assert_eq!(kddm_history::read(text.as_slice()).expect("it is a history"), history, "seed {seed}");
    }
    assert_eq!(outcomes, [Outcome::Failed, Outcome::Ok, Outcome::Unknown].map(|o| format!("{o:?}")).into());
}

/// The judge of a run sees a single value that is not as it should be.
#[test]
fn a_history_in_which_one_reader_saw_another_value_is_rejected() {
    let mut altered = 0;
    for seed in 0..12 {
        let mut history = run(seed).history;
        let is_read = |operation: &&mut Operation| operation.kind == Kind::Read && operation.outcome == Outcome::Ok;
        let Some(read) = history.iter_mut().filter(is_read).last() else { continue };
        read.seen = Seen::Value(Word::Number(1 << 40));
        let object = read.object.clone();
        match check(&history, BUDGET).verdict {
            Verdict::NotLinearizable(offence) => assert_eq!(offence.object, object, "seed {seed}"),
            other => panic!("seed {seed}: {other:?}"),
        }
        altered += 1;
    }
    assert_eq!(altered, 12);
}

#[test]
fn what_is_left_out_is_out_and_the_rest_is_as_it_was() {
    for seed in 0..40 {
        let whole = Scenario::of(seed, &Cut::default());
        let kept = (whole.programs[0].number, whole.programs[0].operations[0].number);
        let cut = Cut { nodes: Some(2), keep: Some([kept].into()), without: Fault::ALL.map(|(fault, _)| fault).into() };
        let small = Scenario::of(seed, &cut);
        assert_eq!((small.nodes, small.operations()), (2, 1), "seed {seed}");
        let (of_small, of_whole) = (small.programs[0].operations[0], whole.programs[0].operations[0]);
        assert_eq!((of_small.object, of_small.think_ns), (of_whole.object, of_whole.think_ns), "seed {seed}");
        assert!(small.asked().is_empty(), "seed {seed}: {:?}", small.asked());
        let report = run_scenario(&small, None);
        assert_eq!(report.broken, None, "seed {seed}\n{}", report.trace.join("\n"));
    }
}

/// Every way to leave something out gives a scenario that is right in itself: what is held is released.
#[test]
fn cut_scenarios_keep_the_invariants() {
    for seed in 0..30 {
        let whole = Scenario::of(seed, &Cut::default());
        let mut random = fastrand::Rng::with_seed(seed);
        let all =
            whole.programs.iter().flat_map(|program| program.operations.iter().map(|op| (program.number, op.number)));
        let keep = all.filter(|_| random.u8(0..3) == 0).collect();
        let (fault, _) = Fault::ALL[random.usize(0..Fault::ALL.len())];
        let cut = Cut { nodes: Some(random.u16(1..=whole.nodes)), keep: Some(keep), without: [fault].into() };
        let report = run_scenario(&Scenario::of(seed, &cut), None);
        assert_eq!(report.broken, None, "--seed {seed}{cut}\n{}", report.trace.join("\n"));
    }
}

#[test]
fn the_command_line_says_what_is_left_out() {
    let cut =
        Cut { nodes: Some(3), keep: Some([(0, 3), (2, 17)].into()), without: [Fault::Loss, Fault::FailedTouch].into() };
    assert_eq!(cut.to_string(), " --nodes 3 --keep 0.3,2.17 --without loss,failed_touch");
    assert_eq!(parse_keep("2.17,0.3").ok(), cut.keep);
    assert_eq!(parse_without("failed_touch,loss").ok(), Some(cut.without));
    assert!(parse_keep("2-17").is_err() && parse_without("lose").is_err());
}

/// Something that breaks whenever client 3 removes an object while connections are cut, say.
#[test]
fn a_failing_scenario_gets_as_small_as_its_cause() {
    let is_cause = |wish: Wish| wish.kind() == RequestKind::Remove;
    let broken = |scenario: &Scenario| {
        let causes = scenario.programs.iter().flat_map(|program| &program.operations).filter(|op| is_cause(op.wish));
        (causes.count() >= 2 && scenario.rates.cut_ppm > 0).then(|| "I9: made up".to_owned())
    };
    let seed = (0..).find(|seed| broken(&Scenario::of(*seed, &Cut::default())).is_some()).expect("there is one");
    let cut = shrink_by(seed, broken).expect("it fails");
    let small = Scenario::of(seed, &cut);
    assert_eq!((small.operations(), small.asked()), (2, [Fault::Cut].into()));
    assert!(small.nodes < Scenario::of(seed, &Cut::default()).nodes, "{cut}");
    assert_eq!(shrink_by(seed, |_| None), None);
}

#[test]
fn a_fault_that_had_to_happen_and_did_not_is_missed() {
    let rates = Rates { loss_ppm: 10_000, ..Rates::default() };
    let mut counts = Counts::default();
    assert_eq!(missing(&counts, 100, 100, &rates), None, "one loss was to be expected, that may be chance");
    assert_eq!(missing(&counts, 10_000, 100, &rates), Some(Fault::Loss));
    counts.add(Fault::Loss);
    assert_eq!(missing(&counts, 10_000, 100, &rates), None);
}

/// Seed 25 found it: a client that removes an object by the guard with which it holds it was overtaken
/// by another node, if a flush of its own node was waiting already.
#[test]
fn nothing_comes_between_a_hold_and_its_removal() {
    let object = ObjectId(0);
    let clients = [(1, Wish::RemoveHeld), (1, FLUSH), (2, GRAB)];
    let plan = Plan {
        nodes: 2,
        homes: vec![NodeId(2)],
        clients: clients.iter().map(|(node, wish)| (NodeId(*node), vec![(object, *wish)])).collect(),
        cancels: 0,
        discards: 0,
        failed_touches: 0,
        changes: Vec::new(),
        returns: 0,
        crashes: 0,
        replicas: 0,
        acceptances: 0,
        heals: false,
    };
    let mut world = World::new(&plan);
    let mut found = None;
    let mut deliver = |world: &mut World| {
        loop {
            let mut actions = Vec::new();
            world.actions(&mut actions);
            let Some(action) = actions.into_iter().find(|action| matches!(action, Action::Deliver(..))) else { break };
            world.apply(action);
            let granted = world.notes.iter().find_map(|note| match note {
                Note::Granted(2, _, Ended::Writing, value) => Some(*value),
                _ => None,
            });
            found = found.or(granted);
        }
    };
    // The object gets a value first, then node 1 holds it, and both others wait.
    let placed = world.clients[0].plan[0].0;
    world.clients[0].plan.push_front((placed, GRAB));
    world.apply(Action::Begin(0));
    deliver(&mut world);
    world.apply(Action::Finish(0));
    world.apply(Action::Begin(0));
    world.apply(Action::Begin(1));
    world.apply(Action::Begin(2));
    deliver(&mut world);
    world.apply(Action::Finish(0));
    deliver(&mut world);
    assert_eq!(world.broken, None);
    assert_eq!(found, Some(None), "node 2 gets an object that does not exist");
}
