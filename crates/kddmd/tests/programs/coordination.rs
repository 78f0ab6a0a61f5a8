//! Barriers and unique ids among programs that are attached to real daemons, which are killed, stopped and
//! started again.

use std::collections::HashSet;
use std::thread::JoinHandle;

use kddm::{Barrier, CoordinationError, Error, Node, Parties, Passed, UniqueIds, WhyBroken};
use rustix::process::Signal;

use crate::harness::{Daemon, LIMIT, Scratch, eventually, text};
use crate::trio::{start_all, three};

fn attach(daemon: &Daemon) -> Node {
    Node::attach(daemon.dir.join("attach.sock")).wait().expect("the daemon accepts programs")
}

fn open(program: &Node, name: &str, parties: Parties) -> Barrier {
    program.barrier(name, parties).wait_for(LIMIT).expect("it opens").wait_limit(LIMIT)
}

/// Begins to wait, and goes on when the daemon shows so many who do.
fn arriving(barrier: &Barrier, seen_by: &Daemon, scratch: &Scratch, count: usize) -> JoinHandle<Result<Passed, Error>> {
    let waits = barrier.clone();
    let thread = std::thread::spawn(move || waits.arrive().wait());
    eventually("it waits", || {
        let shown = seen_by.json(scratch, &["barriers"]);
        let all = shown["barriers"].as_array().expect("a list").clone();
        all.iter()
            .any(|shown| shown["name"] == barrier.name() && shown["waiting"].as_array().map_or(0, Vec::len) == count)
    });
    thread
}

/// A daemon is killed while those at the others wait for the programs at it; and while one of these waits.
#[test]
fn t25_whoever_waits_at_a_barrier_hears_of_a_daemon_that_is_killed() {
    let scratch = Scratch::new();
    let (mut daemons, _) = three(&scratch, &[]);
    let programs: Vec<Node> = daemons.iter().map(attach).collect();
    let barriers =
        |name: &str, parties| -> Vec<Barrier> { programs.iter().map(|program| open(program, name, parties)).collect() };
    let expected = barriers("expected", Parties::Count(3));
    let waits = barriers("waits", Parties::Count(4));
    let members = barriers("members", Parties::Members);
    let mut left = Vec::new();
    for at in 0..2 {
        left.push(arriving(&expected[at], &daemons[0], &scratch, at + 1));
        left.push(arriving(&waits[at], &daemons[0], &scratch, at + 1));
    }
    let of_members: Vec<_> = (0..2).map(|at| arriving(&members[at], &daemons[0], &scratch, at + 1)).collect();
    // It waits for its daemon to come back, up to its limit.
    let at_third = arriving(&waits[2].clone().wait_limit(LIMIT / 6), &daemons[0], &scratch, 3);
    let shown = text(&daemons[1].tool(&scratch, &["barriers"]).stdout);
    assert!(shown.contains("expected") && shown.contains("WAITING"), "{shown}");
    daemons[2].signal(Signal::KILL);
    for wait in left {
        let error = wait.join().expect("it ends").expect_err("one of them cannot come");
        let Error::Coordination(CoordinationError::BarrierBroken { why, .. }) = &error else { panic!("{error}") };
        assert!(matches!(why, WhyBroken::NodeGone { node: 3 } | WhyBroken::ProgramEnded { node: 3 }), "{error}");
    }
    for wait in of_members {
        wait.join().expect("it ends").expect("all who are left have come");
    }
    assert!(at_third.join().expect("it ends").is_err(), "its daemon is gone");
    assert!(text(&daemons[0].tool(&scratch, &["barriers"]).stdout).contains("node 3"), "what has broken it is shown");
    daemons.truncate(2);
}

/// A clean stop of a daemon; a daemon that joins.
#[test]
fn t25_whoever_waits_at_a_barrier_hears_of_a_daemon_that_leaves_or_joins() {
    let scratch = Scratch::new();
    let (mut daemons, _) = three(&scratch, &[]);
    let programs: Vec<Node> = daemons.iter().map(attach).collect();
    let of = |at: usize, name: &str, parties| open(&programs[at], name, parties);
    let (one, two, three) =
        (of(0, "leave", Parties::Count(3)), of(1, "leave", Parties::Count(3)), of(2, "leave", Parties::Count(3)));
    let waits = [arriving(&one, &daemons[0], &scratch, 1), arriving(&two, &daemons[0], &scratch, 2)];
    let members = [of(0, "all", Parties::Members), of(1, "all", Parties::Members)];
    let of_members: Vec<_> =
        members.iter().enumerate().map(|(at, barrier)| arriving(barrier, &daemons[0], &scratch, at + 1)).collect();
    daemons[2].signal(Signal::TERM);
    assert!(daemons[2].wait().success());
    for wait in waits {
        let error = wait.join().expect("it ends").expect_err("one of them cannot come");
        assert!(matches!(error, Error::Coordination(CoordinationError::BarrierBroken { .. })), "{error}");
    }
    for wait in of_members {
        wait.join().expect("it ends").expect("all who are left have come");
    }
    drop(three);
    daemons.truncate(2);
    // Who joins while others wait is waited for.
    let waits = arriving(&members[0], &daemons[0], &scratch, 1);
    let contact = daemons[0].address(&scratch);
    let third = Daemon::start(&scratch, "third", &["--listen", "127.0.0.1:0", "--contact", &contact]);
    // From here on it is waited for also by those who have not heard yet that it has joined.
    let last = open(&attach(&third), "all", Parties::Members);
    let also = arriving(&members[1], &daemons[0], &scratch, 2);
    let passed = last.arrive().wait().expect("all have come");
    assert!(passed.is_last, "{passed:?}");
    for wait in [waits, also] {
        assert_eq!(wait.join().expect("it ends").expect("all have come").generation, passed.generation);
    }
}

fn ids(program: &Node) -> UniqueIds {
    program.unique_ids("orders").wait_for(LIMIT).expect("it opens")
}

/// Ids of each daemon, through the death of one, its return, and the end of all of them: kill -9 once and a clean stop
/// once.
#[test]
fn t27_t23_no_id_is_given_twice_over_restarts_of_a_daemon_and_of_all() {
    const EACH: usize = 20_000;
    let scratch = Scratch::new();
    let (mut daemons, addresses) = three(&scratch, &[]);
    let mut given = HashSet::new();
    let mut count = 0;
    let mut take = |daemons: &[Daemon]| {
        for daemon in daemons {
            let program = attach(daemon);
            let ids = ids(&program);
            for _ in 0..EACH {
                let id = ids.next().wait_for(LIMIT).expect("there are some");
                assert!(given.insert(id), "{id} was given before");
            }
            count += EACH;
            program.stop();
        }
        assert_eq!(given.len(), count);
    };
    take(&daemons);
    // One is killed, and comes back with its number.
    daemons[2].signal(Signal::KILL);
    daemons.truncate(2);
    take(&daemons);
    daemons.push(Daemon::start(&scratch, "third", &["--listen", &addresses[2], "--contact", &addresses[0]]));
    assert_eq!(attach(&daemons[2]).id(), 3);
    take(&daemons);
    // All are killed at once: what they had in memory is gone, their directories stay.
    daemons.iter().for_each(|daemon| daemon.signal(Signal::KILL));
    drop(daemons);
    let mut daemons = start_all(&scratch, &addresses);
    take(&daemons);
    let shown = daemons[1].json(&scratch, &["ids"]);
    assert_eq!(shown["ids"][0]["name"], "orders", "{shown}");
    // All stop cleanly, one after the other.
    for daemon in daemons.iter_mut().rev() {
        daemon.signal(Signal::TERM);
        assert!(daemon.wait().success(), "{}", daemon.said());
    }
    drop(daemons);
    let daemons = start_all(&scratch, &addresses);
    take(&daemons);
}

/// A daemon is killed with a program that uses names: what only that used is free, and what others use stays.
#[test]
fn names_of_a_daemon_that_is_killed_are_free() {
    let scratch = Scratch::new();
    let (mut daemons, _) = three(&scratch, &[]);
    let programs: Vec<Node> = daemons.iter().map(attach).collect();
    let names: Vec<kddm::Names> =
        programs.iter().map(|program| program.names("linker").wait_for(LIMIT).expect("it opens")).collect();
    let reserve = |at: usize, name: &str| names[at].reserve(name).wait_for(LIMIT).expect("it is reserved");
    let (here, there, own) = (reserve(0, "shared"), reserve(2, "shared"), reserve(2, "own"));
    assert_eq!(here.id(), there.id());
    let shown = daemons[1].json(&scratch, &["names", "linker"]);
    assert_eq!(
        (&shown["total"], &shown["names"][0]["name"]),
        (&serde_json::json!(2), &serde_json::json!("own")),
        "{shown}"
    );
    assert!(text(&daemons[1].tool(&scratch, &["names"]).stdout).contains("program"));
    let objects = daemons[1].json(&scratch, &["set", "show", "kddm/names/linker", "--objects"]);
    assert!(objects["total"].as_u64().is_some_and(|total| (1..=2).contains(&total)), "{objects}");
    let (own_id, shared_id) = (own.into_id(), there.into_id());
    daemons[2].signal(Signal::KILL);
    eventually("it is free", || {
        let now = reserve(0, "own");
        let is_another = now.id() != own_id;
        now.release().wait_for(LIMIT).expect("it is given back");
        is_another
    });
    here.check().wait_for(LIMIT).expect("it is used still");
    assert_eq!(reserve(1, "shared").into_id(), shared_id);
    let shown = daemons[0].json(&scratch, &["names", "linker"]);
    let shared = &shown["names"][shown["total"].as_u64().expect("a number") as usize - 1];
    assert_eq!(
        (&shared["name"], &shared["id"]),
        (&serde_json::json!("shared"), &serde_json::json!(shared_id)),
        "{shown}"
    );
    daemons.truncate(2);
}
