use std::collections::BTreeSet;
use std::time::Duration;

use kddm::{Barrier, CoordinationError, Error, Node, Parties, Passed, WhyBroken};

use crate::{LIMIT, attached, cluster, eventually, refusal};

fn open(node: &Node, name: &str, parties: Parties) -> Barrier {
    node.barrier(name, parties).wait_for(LIMIT).expect("it opens").wait_limit(LIMIT)
}

fn waiting(node: &Node, name: &str) -> usize {
    let all = node.barriers().expect("a list");
    all.iter().find(|barrier| barrier.name == name).map_or(0, |barrier| barrier.waiting.len())
}

/// Begins to wait, and says so when it is seen to.
fn arriving(barrier: &Barrier, by: &Node, before: usize) -> std::thread::JoinHandle<Result<Passed, Error>> {
    let waits = barrier.clone();
    let thread = std::thread::spawn(move || waits.arrive().wait());
    eventually("it waits", || waiting(by, barrier.name()) > before);
    thread
}

#[track_caller]
fn broken(result: Result<Passed, Error>) -> WhyBroken {
    match refusal(result) {
        CoordinationError::BarrierBroken { why, .. } => why,
        other => panic!("another error: {other}"),
    }
}

/// Nobody goes on before all have come, whoever they are and however often.
#[test]
fn threads_nodes_and_programs_wait_for_each_other() {
    const ROUNDS: u64 = 20;
    let nodes = cluster(3);
    let program = attached(&nodes[0], "rounds");
    let all: Vec<&Node> = nodes.iter().chain([&program, &nodes[1]]).collect();
    let parties = Parties::Count(all.len() as u32);
    let progress: kddm::Set<u64> = nodes[0].set("progress").open().wait_for(LIMIT).expect("a set");
    let passed: Vec<Vec<Passed>> = std::thread::scope(|scope| {
        let work = |node: &Node| {
            let barrier = open(node, "rounds", parties);
            let mine: kddm::Set<u64> = node.set("progress").open().wait_for(LIMIT).expect("a set");
            let round = |_| {
                let add = mine.update(1, |count| {
                    *count += 1;
                    Ok(())
                });
                add.wait_for(LIMIT).expect("it is put");
                let passed = barrier.arrive().wait().expect("all come");
                let seen = *mine.get(1).wait_for(LIMIT).expect("a copy");
                assert!(seen >= (passed.generation + 1) * 5, "it went on too early");
                passed
            };
            (0..ROUNDS).map(round).collect()
        };
        let threads: Vec<_> = all.iter().map(|node| scope.spawn(move || work(node))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it ends")).collect()
    });
    assert_eq!(*progress.get(1).wait_for(LIMIT).expect("a copy"), ROUNDS * all.len() as u64);
    for generation in 0..ROUNDS {
        let of: Vec<&Passed> = passed.iter().flatten().filter(|passed| passed.generation == generation).collect();
        assert_eq!(of.len(), all.len());
        assert_eq!(of.iter().filter(|passed| passed.is_last).count(), 1, "one of them came last");
    }
}

/// A clean leave of one that is expected, and of one that waits while a fourth is.
#[test]
fn t25_whoever_waits_hears_of_a_leave() {
    for waits_itself in [false, true] {
        let nodes = cluster(4);
        let parties = Parties::Count(if waits_itself { 4 } else { 3 });
        let barriers: Vec<Barrier> = nodes[..3].iter().map(|node| open(node, "leave", parties)).collect();
        let others: Vec<_> = (0..2).map(|at| arriving(&barriers[at], &nodes[0], at)).collect();
        let third = waits_itself.then(|| arriving(&barriers[2], &nodes[0], 2));
        nodes[2].stop();
        for other in others {
            assert_eq!(broken(other.join().expect("it ends")), WhyBroken::NodeGone { node: 3 });
        }
        if let Some(third) = third {
            assert!(third.join().expect("it ends").is_err(), "its node is no more");
            continue;
        }
        // It stays broken until somebody resets it; of two who do, one is first.
        let CoordinationError::BarrierBroken { generation, .. } = refusal(barriers[0].arrive().wait()) else {
            panic!("it is broken")
        };
        assert!(barriers[0].reset(generation).wait_for(LIMIT).expect("it is reset"));
        assert!(!barriers[1].reset(generation).wait_for(LIMIT).expect("it was reset"));
        let (one, other) = std::thread::scope(|scope| {
            // Two are too few now; a third thread comes in the place of the node that left.
            let first = scope.spawn(|| barriers[0].arrive().wait());
            let second = scope.spawn(|| barriers[1].arrive().wait());
            let third = barriers[1].arrive().wait();
            (first.join().expect("it ends"), (second.join().expect("it ends"), third))
        });
        assert!(one.is_ok() && other.0.is_ok() && other.1.is_ok(), "{one:?} {other:?}");
    }
}

/// The count of members follows a join and a leave.
#[test]
fn t25_a_barrier_of_all_members_follows_them() {
    let first = Node::join(crate::unhurried()).wait_for(LIMIT).expect("a cluster");
    let join = || {
        let config = kddm::Config::new().contact(first.address().clone());
        Node::join(config).wait_for(LIMIT).expect("it is let in")
    };
    let second = join();
    let here = open(&first, "members", Parties::Members);
    let waits = arriving(&here, &first, 0);
    let third = join();
    // From here on it is waited for also by those who have not heard yet that it has joined.
    let last = open(&third, "members", Parties::Members);
    let there = open(&second, "members", Parties::Members);
    let also = arriving(&there, &first, 1);
    assert!(!waits.is_finished() && !also.is_finished(), "one that has joined is waited for");
    let passed = last.arrive().wait().expect("all have come");
    assert_eq!((passed.generation, passed.is_last), (0, true));
    for wait in [waits, also] {
        assert_eq!(wait.join().expect("it ends").expect("all have come").generation, 0);
    }
    // Of the two who are left when one leaves, one waits already.
    let waits = arriving(&here, &first, 0);
    let also = arriving(&there, &first, 1);
    third.stop();
    for wait in [waits, also] {
        assert_eq!(wait.join().expect("it ends").expect("all have come").generation, 1);
    }
}

/// A node that goes at once, with what it has: the others hear of it when its lease is over.
#[test]
fn t25_whoever_waits_hears_of_a_loss() {
    let lease = Duration::from_secs(3);
    let first = Node::join(kddm::Config::new().lease(lease)).wait_for(LIMIT).expect("a cluster");
    let join = || {
        let config = kddm::Config::new().contact(first.address().clone());
        Node::join(config).wait_for(LIMIT).expect("it is let in")
    };
    let (second, third) = (join(), join());
    let here = open(&first, "loss", Parties::Count(3));
    let members = open(&first, "all", Parties::Members);
    let there = open(&second, "loss", Parties::Count(3));
    let _expected = open(&third, "loss", Parties::Count(3));
    let waits = [arriving(&here, &first, 0), arriving(&there, &first, 1)];
    let of_members = [arriving(&members, &first, 0), arriving(&open(&second, "all", Parties::Members), &first, 1)];
    third.stop_within(Duration::ZERO);
    for wait in waits {
        assert_eq!(broken(wait.join().expect("it ends")), WhyBroken::NodeGone { node: third.id() });
    }
    for wait in of_members {
        wait.join().expect("it ends").expect("all who are left have come");
    }
}

#[test]
fn a_program_that_ends_breaks_it() {
    let nodes = cluster(2);
    let program = attached(&nodes[1], "ends");
    let here = open(&nodes[0], "ends", Parties::Count(2));
    let there = open(&program, "ends", Parties::Count(2));
    let waits = arriving(&here, &nodes[0], 0);
    drop(there);
    program.stop();
    assert_eq!(broken(waits.join().expect("it ends")), WhyBroken::ProgramEnded { node: 2 });
}

/// In a process that the next test starts this waits, until it is killed; else it is an empty test.
#[test]
fn program_that_waits() {
    if let Some(socket) = std::env::var_os(WAITS_AT) {
        let program = Node::attach(socket).wait_for(LIMIT).expect("it is let in");
        let passed = open(&program, "killed", Parties::Count(3)).arrive().wait();
        panic!("it was to be killed: {passed:?}");
    }
}

const WAITS_AT: &str = "KDDM_TEST_WAITS_AT";

#[test]
fn t25_whoever_waits_hears_of_a_program_that_is_killed() {
    let nodes = cluster(2);
    let socket = std::env::temp_dir().join(format!("kddm-coordination-{}-killed.sock", std::process::id()));
    nodes[1].accept_programs(&socket).expect("programs may come");
    let here = open(&nodes[0], "killed", Parties::Count(3));
    let this = std::env::current_exe().expect("it runs");
    let mut child = std::process::Command::new(this)
        .args(["--exact", "barriers::program_that_waits", "--nocapture"])
        .env(WAITS_AT, &socket)
        .spawn()
        .expect("it starts");
    eventually("it waits", || waiting(&nodes[0], "killed") == 1);
    let waits = arriving(&here, &nodes[0], 1);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert_eq!(broken(waits.join().expect("it ends")), WhyBroken::ProgramEnded { node: 2 });
    assert_eq!(waiting(&nodes[1], "killed"), 0);
}

#[test]
fn whoever_gives_up_is_taken_back() {
    let nodes = cluster(2);
    let here = open(&nodes[0], "back", Parties::Count(2));
    let there = open(&nodes[1], "back", Parties::Count(2));
    // Looked at from elsewhere: what is put by this thread is held by it for a moment.
    let count = || waiting(&nodes[1], "back");
    // At the limit it is certain.
    let short = here.clone().wait_limit(Duration::from_millis(50));
    let error = refusal(short.arrive().wait());
    assert!(matches!(&error, CoordinationError::NotAllArrived { limit_ms: 50, name } if name == "back"), "{error}");
    assert_eq!(count(), 0);
    // One that waits for less is taken back soon.
    let error = refusal(here.arrive().wait_for(Duration::from_millis(50)));
    assert!(matches!(error, CoordinationError::NotAllArrived { limit_ms: 50, .. }), "{error}");
    eventually("it is taken back", || count() == 0);
    // So is one that is dropped.
    let dropped = here.arrive();
    // Who polls must not be kept by who looks: neither would get on.
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| eventually("it has come", || count() == 1));
        eventually("it was seen", || !dropped.is_ready() && looks.is_finished());
    });
    drop(dropped);
    eventually("it is taken back", || count() == 0);
    let waits = arriving(&there, &nodes[0], 0);
    let last = here.arrive().wait().expect("two have come");
    assert!(last.is_last && last.generation == 0);
    assert_eq!(waits.join().expect("it ends").expect("two have come").generation, 0);
}

#[test]
fn a_wait_ends_with_its_barrier_and_its_node() {
    let nodes = cluster(2);
    let here = open(&nodes[0], "gone", Parties::Count(9));
    let waits = arriving(&here, &nodes[0], 0);
    let there = open(&nodes[1], "gone", Parties::Count(9));
    there.remove().wait_for(LIMIT).expect("it is removed");
    let error = refusal(waits.join().expect("it ends"));
    assert!(matches!(error, CoordinationError::Removed { .. }), "{error}");
    assert_eq!(nodes[0].barriers().expect("a list"), []);
    // One that is made anew is another one.
    let again = open(&nodes[1], "gone", Parties::Count(2));
    assert!(matches!(refusal(here.arrive().wait()), CoordinationError::Removed { .. }));
    let waits = arriving(&again, &nodes[0], 0);
    nodes[1].stop();
    assert!(waits.join().expect("it ends").is_err());
}

#[test]
fn settings_that_differ_are_refused_and_its_set_stays() {
    let nodes = cluster(1);
    let _three = open(&nodes[0], "three", Parties::Count(3));
    let error = refusal(nodes[0].barrier("three", Parties::Count(2)).wait_for(LIMIT));
    assert!(error.to_string().contains("Count(3)"), "{error}");
    assert_eq!(Error::from(error).code(), 605);
    let refused = nodes[0].destroy_set("kddm/barriers", LIMIT).wait_for(LIMIT).expect_err("it is needed");
    assert!(refused.to_string().contains("cannot be destroyed"), "{refused}");
    assert!(nodes[0].barrier("a//b", Parties::Members).wait_for(LIMIT).is_err(), "that is no name");
}

/// Whoever took such a name by mistake would have taken barriers from all, for ever.
#[test]
fn the_sets_of_coordination_are_for_nothing_else() {
    let nodes = cluster(1);
    for name in ["kddm/barriers", "kddm/latches", "kddm/ids"] {
        let refused = nodes[0].set::<u64>(name).open().wait_for(LIMIT).map(|_| ()).expect_err("it is for other things");
        assert!(refused.to_string().contains("take another name"), "{refused}");
    }
    let barrier = open(&nodes[0], "one", Parties::Count(1));
    barrier.arrive().wait().expect("all have come");
    nodes[0].latch("one", 0).wait_for(LIMIT).expect("it opens");
    nodes[0].unique_ids("one").wait_for(LIMIT).expect("it opens").next().wait().expect("there are some");
}

/// Who is not on the list is not told of a program that has ended.
#[test]
fn a_name_that_is_removed_and_made_again_at_one_time_is_listed() {
    let nodes = cluster(2);
    for _ in 0..100 {
        let before = open(&nodes[1], "again", Parties::Members);
        let kept = std::thread::scope(|scope| {
            let made = scope.spawn(|| nodes[0].barrier("again", Parties::Members).wait_for(LIMIT));
            before.remove().wait_for(LIMIT).expect("it is removed");
            made.join().expect("it ends")
        });
        let is_there = kept.is_ok_and(|barrier| barrier.reset(0).wait_for(LIMIT).is_ok());
        let listed = nodes[0].barriers().expect("a list");
        assert_eq!(listed.len(), usize::from(is_there), "{listed:?}");
    }
}

/// What a generation costs: see the figures in the documents.
#[test]
fn a_generation_costs_some_messages_for_each_pair_of_parties() {
    for count in [2, 3] {
        let nodes = cluster(count);
        let barriers: Vec<Barrier> =
            nodes.iter().map(|node| open(node, "cost", Parties::Count(count as u32))).collect();
        let messages = || nodes.iter().map(|node| node.statistics().messages()).sum::<u64>();
        let mut costs = BTreeSet::new();
        for _ in 0..20 {
            let before = messages();
            let waits: Vec<_> = (0..count - 1)
                .map(|at| {
                    let barrier = barriers[at].clone();
                    let thread = std::thread::spawn(move || barrier.arrive().wait());
                    // Without a look from elsewhere, which would cost messages, too.
                    eventually("it waits", || waiting(&nodes[at], "cost") > at);
                    thread
                })
                .collect();
            barriers[count - 1].arrive().wait().expect("all have come");
            waits.into_iter().for_each(|wait| _ = wait.join().expect("it ends").expect("all have come"));
            costs.insert(messages() - before);
        }
        let most = costs.last().copied().unwrap_or_default();
        println!("a generation of {count} nodes: {costs:?} messages");
        assert!(most <= 12 * (count * count) as u64, "{costs:?}");
    }
}
