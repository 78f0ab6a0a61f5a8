//! Programs that attach to real daemons.

use std::os::unix::fs::PermissionsExt;

use kddm::{Change, Error, MembershipError, Node, Raw, Set};
use rustix::process::Signal;

use super::harness::{Daemon, LIMIT, Scratch, eventually, text};

/// As short as a wait can be that must not come true.
const SHORT: std::time::Duration = std::time::Duration::from_millis(30);

fn attach(daemon: &Daemon) -> Node {
    Node::attach(daemon.dir.join("attach.sock")).wait().expect("the daemon accepts programs")
}

fn put(set: &Set<Raw>, object: u64, value: &str) {
    let mut guard = set.grab(object).wait_for(LIMIT).expect("nobody holds it");
    guard.0 = value.into();
    guard.put().wait_for(LIMIT).expect("put");
}

#[test]
fn a_program_shares_with_the_cluster_of_its_daemon_and_is_seen() {
    let scratch = Scratch::new();
    let first = Daemon::first(&scratch, &[]);
    let contact = first.address(&scratch);
    let second = Daemon::start(&scratch, "second", &["--listen", "127.0.0.1:0", "--contact", &contact]);
    let socket = first.dir.join("attach.sock");
    let mode = std::fs::metadata(&socket).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let program = attach(&first);
    assert_eq!((program.id(), program.members().len()), (1, 2));
    let words: Set<Raw> = program.set("words").open().wait().expect("the set opens");
    put(&words, 1, "from the program");
    let got = second.tool(&scratch, &["object", "get", "words", "1", "--as", "text"]);
    assert_eq!(text(&got.stdout), "from the program\n", "{}", text(&got.stderr));
    let written = second.tool(&scratch, &["object", "put", "words", "1", "from a daemon", "--as", "text"]);
    assert!(written.status.success(), "{}", text(&written.stderr));
    assert_eq!(words.get(1).wait_for(LIMIT).expect("a copy").0, b"from a daemon");

    let status = first.json(&scratch, &["cluster", "status"]);
    assert_eq!(status["programs"][0]["pid"], std::process::id());
    assert_eq!(status["programs"][0]["lent"], 1);
    let held = words.grab(2).wait_for(LIMIT).expect("granted");
    let shown = text(&first.tool(&scratch, &["holders"]).stdout);
    assert!(shown.contains("attached to node 1") && shown.contains(&std::process::id().to_string()), "{shown}");
    assert_eq!(first.json(&scratch, &["holders"])["programs"][0]["lent_to_write"], 1);
    drop(held);
    program.stop();
    eventually("it is not attached any more", || first.json(&scratch, &["stats"])["programs"] == 0);
}

/// A daemon that stops waits for guards within its limit, hands over what was put, and its socket goes.
#[test]
fn a_daemon_that_stops_takes_back_what_it_has_lent() {
    let scratch = Scratch::new();
    let mut first = Daemon::first(&scratch, &[]);
    let contact = first.address(&scratch);
    let second = Daemon::start(&scratch, "second", &["--listen", "127.0.0.1:0", "--contact", &contact]);
    let program = attach(&first);
    let words: Set<Raw> = program.set("words").open().wait().expect("the set opens");
    put(&words, 1, "kept");
    let mut guard = words.grab(2).wait_for(LIMIT).expect("granted");
    guard.0 = b"put while it stops".to_vec();
    first.signal(Signal::TERM);
    eventually("its clean stop goes on", || words.get(1).wait().is_err() || words.find(1).is_none());
    guard.put().wait_for(LIMIT).expect("it waits for this");
    assert!(first.wait().success());
    assert!(!first.dir.join("attach.sock").exists());
    for (object, value) in [("1", "kept\n"), ("2", "put while it stops\n")] {
        let got = second.tool(&scratch, &["object", "get", "words", object, "--as", "text"]);
        assert_eq!(text(&got.stdout), value, "{}", text(&got.stderr));
    }
    assert!(matches!(words.get(1).wait_for(SHORT), Err(Error::Membership(MembershipError::Reattaching))));
}

#[test]
fn a_killed_daemon_ends_its_programs() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::first(&scratch, &[]);
    let program = attach(&daemon);
    let words: Set<Raw> = program.set("words").open().wait().expect("the set opens");
    put(&words, 1, "lost with its node");
    let guard = words.grab(2).wait_for(LIMIT).expect("granted");
    daemon.child.kill().expect("it is our child");
    daemon.wait();
    eventually("a copy is not read any more", || words.find(1).is_none());
    let ended = |error: Error| matches!(error, Error::Membership(MembershipError::Detached));
    let again = |error: Error| matches!(error, Error::Membership(MembershipError::Reattaching));
    assert!(words.get(1).wait_for(SHORT).is_err_and(again));
    assert!(guard.put().wait().is_err_and(ended));
    assert!(program.set::<Raw>("words").open().wait().is_err_and(again));
    assert!(Node::attach(daemon.dir.join("attach.sock")).wait().is_err());
}

fn is_reattaching(error: &Error) -> bool {
    matches!(error, Error::Membership(MembershipError::Reattaching))
}

/// A watch of a program outlasts its daemon: what came meanwhile is told, or that something may be missing.
#[test]
fn a_watch_of_a_program_goes_on_when_its_daemon_is_back() {
    let scratch = Scratch::new();
    let mut first = Daemon::first(&scratch, &[]);
    let contact = first.address(&scratch);
    let second = Daemon::start(&scratch, "second", &["--listen", "127.0.0.1:0", "--contact", &contact]);
    let nodes = second.json(&scratch, &["nodes"]);
    let is_second = |node: &&serde_json::Value| node["id"] == 2;
    let listed = nodes["nodes"].as_array().expect("a list").iter().find(is_second).expect("it is a member");
    let at_second = listed["address"].as_str().expect("an address").to_string();
    let program = attach(&first);
    let words: Set<Raw> = program.set("words").open().wait().expect("the set opens");
    put(&words, 1, "put before");
    let mut changes = words.watch_all().wait_for(LIMIT).expect("it begins");
    let elsewhere: Set<Raw> = attach(&second).set("words").open().wait().expect("it exists");
    put(&elsewhere, 2, "told");
    while !matches!(changes.receive().wait_for(LIMIT).expect("it is told"), Change::Put { object: 2, .. }) {}
    first.signal(Signal::TERM);
    assert!(first.wait().success());
    elsewhere.remove(2).wait_for(LIMIT).expect("it is removed");
    put(&elsewhere, 3, "put meanwhile");
    let _first = Daemon::start(&scratch, "first", &["--listen", "127.0.0.1:0", "--contact", &at_second]);
    // The daemon has gone and come, so that more may be missing than what is told.
    while !matches!(changes.receive().wait_for(LIMIT).expect("it goes on"), Change::Skipped { count: None }) {}
    put(&elsewhere, 4, "put after");
    while !matches!(changes.receive().wait_for(LIMIT).expect("it is told"), Change::Put { object: 4, .. }) {}
    program.stop();
    while changes.receive().wait_for(LIMIT).is_ok() {}
}

/// A daemon of a cluster of two is stopped and started again: what a program had opened works again, by itself,
/// and a set that was destroyed meanwhile is gone.
#[test]
fn a_program_attaches_again_when_its_daemon_is_back() {
    let scratch = Scratch::new();
    let mut first = Daemon::first(&scratch, &[]);
    let contact = first.address(&scratch);
    let second = Daemon::start(&scratch, "second", &["--listen", "127.0.0.1:0", "--contact", &contact]);
    let nodes = second.json(&scratch, &["nodes"]);
    let is_second = |node: &&serde_json::Value| node["id"] == 2;
    let listed = nodes["nodes"].as_array().expect("a list").iter().find(is_second).expect("it is a member");
    let at_second = listed["address"].as_str().expect("an address").to_string();
    let program = attach(&first);
    let [words, others] =
        ["words", "others"].map(|name| program.set::<Raw>(name).open().wait().expect("the set opens"));
    put(&words, 1, "put before");
    put(&others, 1, "of a set that ends meanwhile");
    let life = program.incarnation();
    let (to, told) = std::sync::mpsc::channel();
    let tell = move |event: &kddm::MemberEvent| to.send((event.node, event.to)).expect("the test listens");
    let _told = program.notifier(kddm::Chain::Online, kddm::Priority::APPLICATION, "told", tell).expect("registered");
    let _serves = program.rpc().register("echo", |request| Ok(request.body().to_vec())).expect("the name is free");
    first.signal(Signal::TERM);
    assert!(first.wait().success());
    let waits = words.get(1);
    let error = words.get(1).wait_for(SHORT).map(drop).expect_err("nobody is there");
    assert!(is_reattaching(&error) && error.fate() == kddm::Fate::NothingHappened, "{error}");
    let elsewhere = attach(&second);
    elsewhere.destroy_set("others", LIMIT).wait().expect("destroyed");
    put(&elsewhere.set("words").open().wait().expect("it exists"), 1, "put meanwhile");

    let first = Daemon::start(&scratch, "first", &["--listen", "127.0.0.1:0", "--contact", &at_second]);
    assert_eq!(waits.wait_for(LIMIT).expect("it waited for the daemon").0, b"put meanwhile");
    put(&words, 1, "put after");
    assert!(matches!(others.get(1).wait(), Err(Error::Set(kddm::SetError::Destroyed))));
    assert_eq!((program.id(), program.members().len()), (1, 2));
    assert!(program.incarnation() > life);
    // It hears of the new life of its daemon, serves again, and calls.
    assert_eq!(told.recv_timeout(LIMIT), Ok((1, kddm::NodeState::Offline)));
    assert_eq!(told.recv_timeout(LIMIT), Ok((1, kddm::NodeState::Online)));
    eventually("it serves again", || elsewhere.rpc().call(1, "echo", b"again", LIMIT).wait().is_ok());
    let absent = program.rpc().call(2, "absent", b"", LIMIT).wait().expect_err("nobody serves it");
    assert!(matches!(absent, Error::Rpc(kddm::RpcError::NoService { node: 2, .. })), "{absent}");
    let seen = second.tool(&scratch, &["object", "get", "words", "1", "--as", "text"]);
    assert_eq!(text(&seen.stdout), "put after\n", "{}", text(&seen.stderr));
    assert_eq!(first.json(&scratch, &["cluster", "status"])["programs"][0]["pid"], std::process::id());
}

/// A daemon that begins another cluster has other sets, whatever their names: nothing of it is taken for
/// what was there before.
#[test]
fn a_program_does_not_attach_to_another_cluster() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::first(&scratch, &[]);
    let program = attach(&daemon);
    let words: Set<Raw> = program.set("words").open().wait().expect("the set opens");
    put(&words, 1, "lost with its cluster");
    daemon.signal(Signal::KILL);
    daemon.wait();
    let _another = Daemon::first(&scratch, &[]);
    eventually("it has given up", || match words.get(1).wait_for(LIMIT) {
        Ok(_) => panic!("it has taken another cluster for its own"),
        Err(error) => matches!(error, Error::Membership(MembershipError::Detached)) && !is_reattaching(&error),
    });
}
