//! The log on three real etcd servers, which are killed, as are nodes that lead. `servers member ...` is one node.

mod etcd;
mod member;

use std::collections::HashSet;
use std::time::Instant;

use etcd::{Etcd, until};
use kddm_core::id::{Incarnation, NodeId};
use kddm_view::{Cause, Change, ClusterId, Decided, Identity, SessionId, State, ViewLog};
use kddm_view_etcd::{EtcdError, EtcdLog, Settings};
use member::{Member, Said};

const CASES: &[(&str, fn())] = &[
    ("what_is_proposed_is_decided_once_whoever_is_killed", what_is_proposed_is_decided_once_whoever_is_killed),
    (
        "no_leader_is_confirmed_without_a_majority_of_the_servers",
        no_leader_is_confirmed_without_a_majority_of_the_servers,
    ),
    ("a_leader_hands_over_to_the_one_it_names", a_leader_hands_over_to_the_one_it_names),
    ("a_leader_that_is_proven_dead_is_followed_at_once", a_leader_that_is_proven_dead_is_followed_at_once),
    ("no_judgement_is_written_in_the_term_of_another", no_judgement_is_written_in_the_term_of_another),
    ("whoever_is_far_behind_takes_the_state", whoever_is_far_behind_takes_the_state),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = arguments.as_slice()
        && first == "member"
    {
        return member::run(rest);
    }
    etcd::run(CASES, &arguments, |_, case| case());
}

/// The log of that cluster in it.
fn settings_of(etcd: &Etcd) -> Settings {
    Settings::new(etcd.endpoints(), Identity { cluster: ClusterId(5), session: SessionId::DEFAULT })
}

fn found(settings: &Settings, me: u16, origin: u64) -> EtcdLog {
    let state = State::new(settings.identity, NodeId(me)).with_lease_ms(settings.least_lease_ms());
    until("a log", || EtcdLog::found(settings, NodeId(me), origin, state.clone()).ok())
}

fn opened(settings: &Settings, me: u16, origin: u64) -> EtcdLog {
    until("a log", || EtcdLog::open(settings, NodeId(me), origin).ok())
}

fn leads(log: &mut EtcdLog) {
    until("it leads, and is sure of it", || {
        let nobody = Change::Expel { node: NodeId(999), incarnation: Incarnation(1), cause: Cause::Lease };
        log.write_as_leader(log.term(), nobody).expect("the log works").then_some(())
    });
}

/// Three nodes propose, and expel as long as they believe that they lead. Servers and nodes are killed and stopped.
fn what_is_proposed_is_decided_once_whoever_is_killed() {
    let mut etcd = Etcd::start(3);
    let settings = settings_of(&etcd);
    let judge = {
        let mut log = found(&settings, 9, 9);
        log.stand_back();
        log
    };
    let mut members: Vec<Member> = (1..=3).map(|node| Member::start(&settings, node, u64::from(node))).collect();
    let leader = |judge: &EtcdLog| judge.leader().map(|node| usize::from(node.0) - 1).filter(|at| *at < 3);
    let grown = |judge: &EtcdLog, by: u64| {
        let before = judge.known_by(NodeId(9));
        until("changes are decided", || (judge.known_by(NodeId(9)) >= before + by).then_some(()));
    };
    grown(&judge, 30);
    etcd.kill_leader();
    grown(&judge, 30);
    // One that leads is stopped until another one does, and goes on as it was.
    let stopped = until("somebody leads", || leader(&judge));
    members[stopped].stop();
    until("another one leads", || leader(&judge).filter(|other| *other != stopped));
    grown(&judge, 10);
    members[stopped].go_on();
    etcd.start_killed();
    grown(&judge, 30);
    let killed = until("somebody leads", || leader(&judge));
    let mut said = vec![members[killed].kill()];
    until("another one leads", || leader(&judge).filter(|other| *other != killed));
    members[killed] = Member::start(&settings, killed as u16 + 1, 100);
    etcd.kill_leader();
    grown(&judge, 30);
    etcd.start_killed();
    let ended = members.into_iter().map(Member::end).collect::<Vec<_>>();
    let log = until("the end of the log", || {
        let log = judge.decided_since(0).expect("it is kept");
        let there: HashSet<u64> = log.iter().filter_map(|entry| member::nonce_of(&entry.change)).collect();
        let has = |nonce: &u64| there.contains(nonce);
        ended.iter().all(|said| said.proposed.iter().all(has)).then_some(log)
    });
    said.extend(ended);
    check(&log, &said);
    let leaders = log.iter().filter(|entry| matches!(entry.change, Change::Lead { .. })).count();
    assert!(leaders >= 3, "{leaders} leaders: nothing was proven");
    println!("  {} entries, {leaders} leaders", log.len());
}

/// What was decided is the same for all, there once, and of leaders only in their terms.
fn check(log: &[Decided], said: &[Said]) {
    assert!(log.iter().zip(1..).all(|(entry, index)| entry.index == index));
    for (index, seen) in said.iter().flat_map(|said| &said.decided) {
        let entry = log.get(*index as usize - 1).expect("what was decided once stays");
        assert_eq!(format!("{:?}", entry.change), *seen, "entry {index}");
    }
    let mut nonces: Vec<u64> = log.iter().filter_map(|entry| member::nonce_of(&entry.change)).collect();
    let all = nonces.len();
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), all, "a proposal is there twice");
    let proposed: Vec<u64> = said.iter().flat_map(|said| said.proposed.iter().copied()).collect();
    let strange: Vec<&u64> = nonces.iter().filter(|nonce| !proposed.contains(nonce)).collect();
    // One that was killed may have been about to say what it proposed.
    assert!(strange.len() <= 1, "nobody has proposed {strange:?}");
    assert!(judgements(log) > 0, "nobody was expelled: nothing was proven");
}

/// An expulsion names its judge, and the term in which that was. How many there are.
fn judgements(log: &[Decided]) -> usize {
    let (mut now, mut expelled) = ((NodeId(0), 0), 0);
    for entry in log {
        match entry.change {
            Change::Lead { node, term } => {
                assert!(term > now.1, "terms grow");
                now = (node, term);
            }
            Change::Expel { node, incarnation, .. } => {
                assert_eq!((node, incarnation.0), (now.0, now.1 as u32), "judged in another leadership");
                expelled += 1;
            }
            _ => {}
        }
    }
    expelled
}

/// Two take the leadership from each other, and write all the time.
fn no_judgement_is_written_in_the_term_of_another() {
    const TIMES: usize = 20;
    let etcd = Etcd::start(1);
    let mut logs = [found(&settings_of(&etcd), 1, 1), opened(&settings_of(&etcd), 2, 2)];
    let write = |log: &mut EtcdLog, me: usize| {
        let term = log.term();
        let judged =
            Change::Expel { node: NodeId(me as u16 + 1), incarnation: Incarnation(term as u32), cause: Cause::Proof };
        log.write_as_leader(term, judged).expect("the log works")
    };
    until("the first one leads", || write(&mut logs[0], 0).then_some(()));
    logs[1].stand();
    for time in 0..TIMES {
        let (old, new) = (time % 2, (time + 1) % 2);
        until("the other one hears who leads", || logs[new].leader().filter(|node| node.0 as usize == old + 1));
        until("it has judged", || {
            write(&mut logs[old], old);
            let log = logs[old].decided_since(0).expect("it is kept");
            matches!(log.last()?.change, Change::Expel { .. }).then_some(())
        });
        logs[new].is_dead(NodeId(old as u16 + 1));
        until("it leads in its place", || {
            write(&mut logs[old], old);
            write(&mut logs[new], new).then_some(())
        });
    }
    let log = until("all is decided", || {
        let log = logs[0].decided_since(0).expect("it is kept");
        let leaders = log.iter().filter_map(leader_of).count();
        (leaders > TIMES && logs[0].known_by(NodeId(1)) == logs[1].known_by(NodeId(2))).then_some(log)
    });
    assert!(judgements(&log) >= TIMES, "nothing was proven");
    assert_eq!(log, logs[1].decided_since(0).expect("it is kept"));
}

fn no_leader_is_confirmed_without_a_majority_of_the_servers() {
    let mut etcd = Etcd::start(3);
    let mut log = found(&settings_of(&etcd), 1, 1);
    leads(&mut log);
    let first = until("it is confirmed", || log.confirmed());
    until("it is confirmed again", || log.confirmed().filter(|sent| *sent > first));
    etcd.kill(0);
    etcd.kill(1);
    let killed = Instant::now();
    // Two attempts at each server.
    let asked = EtcdLog::open(&settings_of(&etcd), NodeId(2), 2).err();
    assert!(matches!(asked, Some(EtcdError::Unreachable { .. })), "{asked:?}");
    let again = EtcdLog::open(&settings_of(&etcd), NodeId(2), 2).err();
    assert!(matches!(again, Some(EtcdError::Unreachable { .. })), "{again:?}");
    assert!(log.confirmed().is_none_or(|sent| sent < killed), "one server alone has confirmed it");
    etcd.start_killed();
    until("it is confirmed again", || log.confirmed().filter(|sent| *sent > killed));
}

fn a_leader_hands_over_to_the_one_it_names() {
    let etcd = Etcd::start(1);
    let mut first = found(&settings_of(&etcd), 1, 1);
    leads(&mut first);
    let mut others: Vec<EtcdLog> = (2..=4).map(|node| opened(&settings_of(&etcd), node, node.into())).collect();
    others.iter_mut().for_each(EtcdLog::stand);
    first.reconfigure(&[NodeId(3)]).expect("it leads");
    assert!(!first.is_leader(), "from now on");
    leads(&mut others[1]);
    assert_eq!(until("it hears of that", || first.leader().filter(|node| *node != NodeId(1))), NodeId(3));
    let leaders: Vec<NodeId> = others[0].decided_since(0).expect("it is kept").iter().filter_map(leader_of).collect();
    assert_eq!(leaders, [NodeId(1), NodeId(3)]);
    let refused = first.reconfigure(&[NodeId(1), NodeId(2)]).expect_err("etcd has no voters");
    assert!(refused.to_string().contains("name just one"), "{refused}");
    // One that ends says so: nobody waits until etcd notices.
    others.remove(1).close();
    until("another one leads", || first.leader().filter(|node| *node != NodeId(3)));
}

fn leader_of(entry: &Decided) -> Option<NodeId> {
    if let Change::Lead { node, .. } = entry.change { Some(node) } else { None }
}

fn a_leader_that_is_proven_dead_is_followed_at_once() {
    let etcd = Etcd::start(1);
    let mut first = found(&settings_of(&etcd), 1, 1);
    leads(&mut first);
    let (term, mut second) = (first.term(), opened(&settings_of(&etcd), 2, 2));
    second.stand();
    until("it hears who leads", || second.leader());
    second.is_dead(NodeId(7));
    assert_eq!(second.leader(), Some(NodeId(1)), "another one was meant");
    // It lives, and keeps its key in etcd: only the proof is against it.
    second.is_dead(NodeId(1));
    leads(&mut second);
    assert!(second.term() > term);
    until("the first one hears of it", || (!first.is_leader()).then_some(()));
    let nobody = Change::Expel { node: NodeId(1), incarnation: Incarnation(1), cause: Cause::Lease };
    assert_eq!((first.write_as_leader(term, nobody), first.confirmed()), (Ok(false), None));
}

/// More entries than are kept: the leader folds them, and who begins later begins with the state.
fn whoever_is_far_behind_takes_the_state() {
    const ENTRIES: u64 = 200;
    let etcd = Etcd::start(1);
    let settings = Settings { entries_kept: 64, ..settings_of(&etcd) };
    let mut log = found(&settings, 1, 1);
    leads(&mut log);
    until("so many are decided", || {
        while log.propose(Change::Seal).is_ok() {}
        (log.known_by(NodeId(1)) > ENTRIES).then_some(())
    });
    let forgotten = log.decided_since(0).expect_err("they are folded");
    let begin = until("the state in etcd", || {
        let late = opened(&settings, 2, 2);
        late.state().map(State::applied).filter(|applied| *applied > 0)
    });
    assert!(forgotten.to_string().contains("begins with entry"), "{forgotten}");
    // One that has slept through it, with the state of the beginning.
    let state = State::new(settings.identity, NodeId(1)).with_lease_ms(5_000);
    let mut slept = EtcdLog::follow(&settings, NodeId(3), 3, state).expect("it begins");
    until("it has all", || (slept.known_by(NodeId(3)) >= ENTRIES).then_some(()));
    slept.tick(kddm_core::id::Time(0));
    assert!(slept.decided_since(0).is_err() && slept.state().is_some_and(|state| state.applied() >= begin));
}
