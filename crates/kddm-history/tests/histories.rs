//! Histories that are known to be good, and known to be bad.

use kddm_history::{BUDGET, Kind, Operation, Outcome, Seen, Verdict, Word, check};

fn operation(client: u64, invoke_ns: u64, return_ns: u64, kind: Kind) -> Operation {
    Operation {
        client,
        object: Word::Number(1),
        invoke_ns,
        return_ns: Some(return_ns),
        kind,
        value: None,
        seen: Seen::Nothing,
        outcome: Outcome::Ok,
    }
}

fn seen(value: u64) -> Seen {
    if value == 0 { Seen::Absent } else { Seen::Value(Word::Number(value)) }
}

/// Zero stands for "does not exist".
fn read(client: u64, from: u64, to: u64, value: u64) -> Operation {
    Operation { seen: seen(value), ..operation(client, from, to, Kind::Read) }
}

fn gives(kind: Kind, client: u64, from: u64, to: u64, value: u64) -> Operation {
    Operation { value: Some(Word::Number(value)), ..operation(client, from, to, kind) }
}

fn write(client: u64, from: u64, to: u64, value: u64) -> Operation {
    gives(Kind::Write, client, from, to, value)
}

fn update(client: u64, from: u64, to: u64, old: u64, new: u64) -> Operation {
    Operation { seen: seen(old), ..gives(Kind::Update, client, from, to, new) }
}

fn insert(client: u64, from: u64, to: u64, value: u64) -> Operation {
    gives(Kind::Insert, client, from, to, value)
}

fn refused_insert(client: u64, from: u64, to: u64, value: u64) -> Operation {
    Operation { outcome: Outcome::Failed, ..insert(client, from, to, value) }
}

fn remove(client: u64, from: u64, to: u64) -> Operation {
    operation(client, from, to, Kind::Remove)
}

fn unknown(operation: Operation) -> Operation {
    Operation { outcome: Outcome::Unknown, ..operation }
}

#[track_caller]
fn good(operations: &[Operation]) {
    assert_eq!(check(operations, BUDGET).verdict, Verdict::Linearizable);
}

/// The history is wrong, and just these operations of it, by their number, show that.
#[track_caller]
fn bad(operations: &[Operation], offending: &[usize]) {
    let Verdict::NotLinearizable(offence) = check(operations, BUDGET).verdict else { panic!("this was accepted") };
    let expected: Vec<&Operation> = offending.iter().map(|at| &operations[*at]).collect();
    assert_eq!(offence.operations.iter().collect::<Vec<_>>(), expected, "{offence}");
}

#[test]
fn an_empty_history_is_linearizable() {
    good(&[]);
}

#[test]
fn a_read_sees_the_last_write_before_it() {
    good(&[write(1, 10, 20, 7), read(2, 30, 40, 7)]);
    bad(&[write(1, 10, 20, 7), read(2, 30, 40, 0)], &[1]);
    bad(&[write(1, 10, 20, 7), write(1, 30, 40, 8), read(2, 50, 60, 7)], &[2]);
}

#[test]
fn a_read_beside_a_write_sees_either_value_but_time_does_not_run_back() {
    good(&[write(1, 10, 20, 7), write(1, 30, 60, 8), read(2, 35, 40, 7), read(2, 45, 50, 8)]);
    bad(&[write(1, 10, 20, 7), write(1, 30, 60, 8), read(2, 35, 40, 8), read(3, 45, 50, 7)], &[1, 2, 3]);
}

#[test]
fn what_ends_when_another_begins_overlaps_it() {
    good(&[write(1, 10, 20, 7), read(2, 20, 30, 0)]);
}

#[test]
fn two_updates_do_not_see_the_same_value() {
    good(&[write(1, 1, 2, 7), update(1, 10, 50, 7, 8), update(2, 10, 50, 8, 9)]);
    bad(&[write(1, 1, 2, 7), update(1, 10, 50, 7, 8), update(2, 10, 50, 7, 9)], &[1, 2]);
}

#[test]
fn one_of_two_inserts_is_refused() {
    good(&[insert(1, 10, 30, 7), refused_insert(2, 10, 30, 8), read(3, 40, 50, 7)]);
    bad(&[insert(1, 10, 30, 7), insert(2, 10, 30, 8)], &[0, 1]);
    bad(&[refused_insert(1, 10, 30, 7)], &[0]);
}

#[test]
fn a_removed_object_does_not_exist() {
    good(&[insert(1, 1, 2, 7), remove(2, 3, 4), read(1, 5, 6, 0), insert(1, 7, 8, 9), read(2, 9, 10, 9)]);
    good(&[remove(1, 1, 2), read(1, 3, 4, 0)]);
    bad(&[insert(1, 1, 2, 7), remove(2, 3, 4), read(1, 5, 6, 7)], &[2]);
}

#[test]
fn a_failed_operation_changes_nothing_and_what_it_saw_counts() {
    let failed = |operation: Operation| Operation { outcome: Outcome::Failed, ..operation };
    good(&[write(1, 1, 2, 7), failed(write(2, 3, 4, 8)), read(1, 5, 6, 7)]);
    good(&[write(1, 1, 2, 7), failed(update(2, 3, 4, 7, 8)), read(1, 5, 6, 7)]);
    bad(&[write(1, 1, 2, 7), failed(write(2, 3, 4, 8)), read(1, 5, 6, 8)], &[2]);
    bad(&[write(1, 1, 2, 7), failed(read(2, 3, 4, 0))], &[1]);
}

#[test]
fn an_unknown_operation_takes_effect_late_or_never_but_once_and_not_before_it_began() {
    let lost = unknown(write(1, 10, 11, 8));
    good(&[write(2, 1, 2, 7), lost.clone(), read(2, 20, 30, 7), read(2, 900, 910, 8)]);
    good(&[write(2, 1, 2, 7), lost.clone(), read(2, 20, 30, 7)]);
    good(&[write(2, 1, 2, 7), Operation { return_ns: None, ..lost.clone() }, read(2, 20, 30, 8)]);
    let twice = [lost.clone(), read(2, 20, 30, 8), write(2, 40, 50, 9), read(2, 60, 70, 9), read(2, 80, 90, 8)];
    bad(&twice, &[0, 1, 2, 4]);
    bad(&[write(2, 1, 2, 7), read(2, 3, 4, 8), unknown(write(1, 10, 11, 8))], &[1]);
    good(&[insert(1, 1, 2, 7), unknown(remove(2, 3, 4)), read(1, 5, 6, 7), read(1, 50, 60, 0)]);
    bad(&[insert(1, 1, 2, 7), unknown(remove(2, 3, 4)), read(1, 5, 6, 0), read(1, 7, 8, 7)], &[1, 2, 3]);
    good(&[unknown(insert(1, 1, 2, 7)), refused_insert(2, 3, 4, 8)]);
    good(&[unknown(update(1, 1, 2, 3, 7)), read(2, 3, 4, 0)]);
    bad(&[unknown(update(1, 1, 2, 3, 7)), read(2, 3, 4, 7)], &[0, 1]);
}

#[test]
fn objects_are_judged_each_by_itself() {
    let other = |operation: Operation| Operation { object: Word::Text("b".into()), ..operation };
    good(&[write(1, 1, 2, 7), other(read(1, 3, 4, 0)), read(1, 5, 6, 7)]);
    let wrong = [write(1, 1, 2, 7), other(read(1, 3, 4, 5)), read(1, 5, 6, 7)];
    let report = check(&wrong, BUDGET);
    assert_eq!((report.operations, report.objects), (3, 2));
    let Verdict::NotLinearizable(offence) = report.verdict else { panic!("this was accepted") };
    assert_eq!((offence.object, offence.operations.len()), (Word::Text("b".into()), 1));
}

#[test]
fn an_offence_says_what_was_before_it_and_nothing_of_what_came_after() {
    let mut history: Vec<Operation> = (1..500).map(|n| update(1, 10 * n, 10 * n + 5, n - 1, n)).collect();
    history.push(read(2, 5_000, 5_001, 7));
    history.extend((501..900).map(|n| read(1, 10 * n, 10 * n + 5, 499)));
    let Verdict::NotLinearizable(offence) = check(&history, BUDGET).verdict else { panic!("this was accepted") };
    assert_eq!(offence.before, seen(499));
    assert_eq!(offence.operations, [read(2, 5_000, 5_001, 7)]);
}

#[test]
fn a_budget_that_is_used_up_is_no_pass() {
    let good: Vec<Operation> = (1..20).map(|n| write(n, 1, 100, n)).collect();
    assert_eq!(check(&good, 5).verdict, Verdict::Unknown(Word::Number(1)));
    let bad = [good, vec![read(1, 200, 210, 0)]].concat();
    assert_eq!(check(&bad, 1_000).verdict, Verdict::Unknown(Word::Number(1)));
}

/// An unseen write that may have happened is left out before the search: with thirty of them it would
/// have a billion configurations.
#[test]
fn unknown_writes_that_nobody_saw_cost_nothing() {
    let mut history: Vec<Operation> = (1..=30).map(|n| unknown(write(n, 1, 2, 1_000 + n))).collect();
    history.extend((1..=300).map(|n| update(50, 10 * n, 10 * n + 5, n - 1, n)));
    assert_eq!(check(&history, 10_000).verdict, Verdict::Linearizable);
}

/// Removes that nobody knows the end of are alike: thirty of them are thirty-one cases, not a billion.
#[test]
fn unknown_removes_are_not_tried_in_every_order() {
    let mut history: Vec<Operation> = (1..=30).map(|n| unknown(remove(n, 1, 2))).collect();
    for n in 1..=100 {
        history.push(insert(50, 20 * n, 20 * n + 5, n));
        history.push(if n % 5 == 0 { read(50, 20 * n + 7, 20 * n + 9, 0) } else { remove(50, 20 * n + 7, 20 * n + 9) });
    }
    assert_eq!(check(&history, 100_000).verdict, Verdict::Linearizable);
    // Twenty are used; with the eleventh more than there are it cannot have been.
    for n in 101..=111 {
        history.push(insert(50, 20 * n, 20 * n + 5, n));
        history.push(read(50, 20 * n + 7, 20 * n + 9, 0));
    }
    assert!(matches!(check(&history, 2_000_000).verdict, Verdict::NotLinearizable(_)));
}
