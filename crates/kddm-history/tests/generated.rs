//! Histories from an atomic register are accepted; altered ones get the verdict of trying all orders.

use kddm_history::{BUDGET, Kind, Operation, Outcome, Seen, Verdict, Word, check};

const SMALL: u64 = 3_000;
const LARGE: u64 = 12;

/// What a register does at one moment inside each interval. Values are few, so that they repeat. One
/// operation in so many never happened, one ended without anybody knowing it.
fn history(random: &mut fastrand::Rng, count: usize, clients: usize, unknown_in: u8) -> Vec<Operation> {
    let mut free_at = vec![0_u64; clients];
    let mut intervals: Vec<(u64, usize, u64, u64)> = Vec::new();
    for number in 0..count {
        let client = number % clients;
        let invoke = free_at[client] + random.u64(1..20);
        let effect = invoke + random.u64(0..40);
        let end = effect + random.u64(0..40);
        free_at[client] = end;
        intervals.push((effect, client, invoke, end));
    }
    intervals.sort_unstable();
    let mut state: Option<u64> = None;
    let see = |state: Option<u64>| state.map_or(Seen::Absent, |value| Seen::Value(Word::Number(value)));
    let mut operations = Vec::new();
    for (_, client, invoke_ns, end) in intervals {
        let (kind, _) = Kind::ALL[random.usize(0..Kind::ALL.len())];
        let new = random.u64(1..6);
        let mut operation = Operation {
            client: client as u64,
            object: Word::Number(1),
            invoke_ns,
            return_ns: Some(end),
            kind,
            value: matches!(kind, Kind::Write | Kind::Update | Kind::Insert).then_some(Word::Number(new)),
            seen: if matches!(kind, Kind::Read | Kind::Update) { see(state) } else { Seen::Nothing },
            outcome: Outcome::Ok,
        };
        let refused = kind == Kind::Insert && state.is_some();
        let never = random.u8(0..unknown_in) == 0;
        if refused {
            operation.outcome = Outcome::Failed;
        } else if !never {
            state = match kind {
                Kind::Read => state,
                Kind::Remove => None,
                _ => Some(new),
            };
        }
        if !refused && (never || random.u8(0..unknown_in) == 0) {
            operation.outcome = Outcome::Unknown;
            operation.return_ns = random.bool().then_some(end);
        }
        operations.push(operation);
    }
    operations
}

/// All orders, one after the other.
fn brute_force(operations: &[Operation], done: u32, state: &Seen) -> bool {
    let is_certain = |operation: &Operation| operation.outcome != Outcome::Unknown;
    let left = |at: usize| done & 1 << at == 0;
    if (0..operations.len()).all(|at| !left(at) || !is_certain(&operations[at])) {
        return true;
    }
    (0..operations.len()).filter(|at| left(*at)).any(|at| {
        let operation = &operations[at];
        let is_overdue = |other: usize| {
            let other = &operations[other];
            is_certain(other) && other.return_ns.is_some_and(|end| end < operation.invoke_ns)
        };
        if (0..operations.len()).any(|other| left(other) && is_overdue(other)) {
            return false;
        }
        let refused = operation.outcome == Outcome::Failed;
        let is_seen = operation.seen == Seen::Nothing || operation.seen == *state;
        let is_possible = match operation.kind {
            Kind::Insert => (*state != Seen::Absent) == refused,
            _ => is_seen,
        };
        let next = match (operation.kind, &operation.value) {
            _ if refused => state.clone(),
            (Kind::Read, _) => state.clone(),
            (_, Some(value)) => Seen::Value(value.clone()),
            (_, None) => Seen::Absent,
        };
        is_possible && brute_force(operations, done | 1 << at, &next)
    })
}

#[test]
fn what_an_atomic_register_did_is_accepted() {
    for seed in 0..LARGE {
        let mut random = fastrand::Rng::with_seed(seed);
        let clients = random.usize(1..10);
        let operations = history(&mut random, 400, clients, 200);
        assert_eq!(check(&operations, BUDGET).verdict, Verdict::Linearizable, "seed {seed}");
    }
}

#[test]
fn altered_histories_get_the_verdict_of_trying_all_orders() {
    let (mut accepted, mut rejected) = (0, 0);
    for seed in 0..SMALL {
        let mut random = fastrand::Rng::with_seed(seed);
        let clients = random.usize(2..5);
        let mut operations = history(&mut random, 7, clients, 8);
        // A value that was there once, or may have been: stale, early, or never.
        let stale = match random.u64(0..6) {
            0 => Seen::Absent,
            value => Seen::Value(Word::Number(value)),
        };
        let readers: Vec<usize> = (0..7).filter(|at| operations[*at].seen != Seen::Nothing).collect();
        if let Some(at) = random.choice(readers) {
            operations[at].seen = stale;
        }
        let expected = brute_force(&operations, 0, &Seen::Absent);
        let verdict = check(&operations, BUDGET).verdict;
        match &verdict {
            Verdict::Linearizable => accepted += 1,
            Verdict::NotLinearizable(offence) => {
                rejected += 1;
                // What is shown is wrong by itself.
                assert!(!brute_force(&offence.operations, 0, &offence.before), "seed {seed}: {offence}");
            }
            Verdict::Unknown(_) => panic!("seed {seed}: seven operations need no such budget"),
        }
        assert_eq!(verdict == Verdict::Linearizable, expected, "seed {seed}: {operations:#?}");
    }
    assert!(accepted > 500 && rejected > 500, "{accepted} accepted, {rejected} rejected");
}

#[test]
fn one_stale_read_in_a_long_history_is_found() {
    let mut found = 0;
    for seed in 0..LARGE {
        let mut random = fastrand::Rng::with_seed(seed);
        let operations = history(&mut random, 300, 3, 200);
        let never = Seen::Value(Word::Number(99));
        let mut altered = operations.clone();
        let reads: Vec<usize> =
            (0..300).filter(|at| altered[*at].kind == Kind::Read && altered[*at].outcome == Outcome::Ok).collect();
        let Some(at) = random.choice(reads) else { continue };
        altered[at].seen = never;
        found += u64::from(matches!(check(&altered, BUDGET).verdict, Verdict::NotLinearizable(_)));
    }
    assert_eq!(found, LARGE);
}
