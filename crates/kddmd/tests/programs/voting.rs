//! Daemons that decide together who is a member: the loss of the one that leads, of all, and of a file.

use rustix::process::Signal;
use serde_json::Value as Json;

use crate::harness::{Daemon, Scratch, eventually, text};
use crate::trio::{start_all, status, three, voters};

fn increment(daemon: &Daemon, scratch: &Scratch) -> String {
    let output = daemon.tool(scratch, &["object", "incr", "numbers", "1", "1"]);
    text(&output.stdout).trim().to_string() + &text(&output.stderr)
}

#[test]
fn the_daemon_that_decides_is_killed_and_the_others_go_on() {
    let scratch = Scratch::new();
    let (mut all, _) = three(&scratch, &["--zone", "here"]);
    let before = status(&all[1], &scratch);
    assert_eq!((&before["leader"], &before["nodes"][0]["decides"]), (&1.into(), &"leads".into()));
    assert_eq!((&before["nodes"][0]["zone"], &before["nodes"][1]["decides"]), (&"here".into(), &"votes".into()));
    let said = text(&all[1].tool(&scratch, &["cluster", "status"]).stdout);
    assert!(said.contains("decided by nodes 1, 2, 3, led by node 1"), "{said}");
    assert_eq!(increment(&all[0], &scratch), "1");
    all[0].signal(Signal::KILL);
    all.remove(0);
    assert_eq!(increment(&all[1], &scratch), "2", "its replica has become the object");
    eventually("it is expelled", || status(&all[0], &scratch)["nodes"].to_string().contains("offline"));
    let after = status(&all[0], &scratch);
    assert!(after["epoch"].as_u64() > before["epoch"].as_u64() && after["term"].as_u64() > before["term"].as_u64());
    // Two are left, and one of them decides.
    eventually("one decides", || voters(&status(&all[0], &scratch)).len() == 1);
    let said = text(&all[0].tool(&scratch, &["cluster", "status"]).stdout);
    assert!(said.contains("the others stop sharing") && said.contains("--witness"), "{said}");
    let first = Daemon::start(&scratch, "first", &["--listen", "127.0.0.1:0", "--contact", &all[0].address(&scratch)]);
    eventually("three decide again", || voters(&status(&first, &scratch)) == [1, 2, 3]);
    assert_eq!(increment(&first, &scratch), "3");
}

#[test]
fn daemons_that_were_all_killed_go_on_where_they_were() {
    let scratch = Scratch::new();
    let (all, addresses) = three(&scratch, &["--zone", "here"]);
    assert_eq!(increment(&all[2], &scratch), "1");
    let before = status(&all[0], &scratch);
    all.iter().for_each(|daemon| daemon.signal(Signal::KILL));
    drop(all);
    let again = start_all(&scratch, &addresses);
    eventually("three decide", || again.iter().all(|daemon| voters(&status(daemon, &scratch)) == [1, 2, 3]));
    let after = status(&again[1], &scratch);
    assert_eq!(after["cluster"], before["cluster"]);
    assert!(after["epoch"].as_u64() > before["epoch"].as_u64(), "epochs never repeat");
    assert_eq!(increment(&again[1], &scratch), "1", "what was in memory is gone, and all is whole without it");
}

/// The second one decides, as it was told, and the first one may be lost.
#[test]
fn the_preferred_daemon_of_two_decides_and_goes_on_alone() {
    let scratch = Scratch::new();
    let first = Daemon::first(&scratch, &["--lease-ms", "4000"]);
    let contact = first.address(&scratch);
    let arguments = ["--listen", "127.0.0.1:0", "--contact", &contact, "--preferred"];
    let second = Daemon::start(&scratch, "second", &arguments);
    eventually("the second one decides", || voters(&status(&first, &scratch)) == [2]);
    let said = text(&first.tool(&scratch, &["cluster", "status"]).stdout);
    assert!(said.contains("preferred node 2 decides alone: while it is gone the others stop sharing"), "{said}");
    assert_eq!(status(&second, &scratch)["rule"], "preferred node");
    assert_eq!(increment(&first, &scratch), "1");
    first.signal(Signal::KILL);
    drop(first);
    assert_eq!(increment(&second, &scratch), "2");
    eventually("it is alone", || status(&second, &scratch)["rule"] == "alone");
}

#[test]
fn a_daemon_whose_view_log_is_damaged_says_what_to_do() {
    let scratch = Scratch::new();
    let first = Daemon::first(&scratch, &[]);
    let address = first.address(&scratch);
    first.signal(Signal::KILL);
    drop(first);
    let file = scratch.path().join("first/view.redb");
    let length = std::fs::metadata(&file).expect("it is kept").len();
    let damaged = vec![0xa5; usize::try_from(length).expect("a small file")];
    std::fs::write(&file, &damaged).expect("written");
    let mut refused = scratch.kddmd("first", &["--listen", &address]);
    let said = text(&refused.output().expect("kddmd runs").stderr);
    assert!(said.contains("view.redb") && said.contains("move its file away"), "{said}");
    assert_eq!(std::fs::read(&file).expect("it is there"), damaged, "it is left as it is");
    std::fs::remove_file(&file).expect("as it says");
    let again = Daemon::start(&scratch, "first", &["--found", "--listen", &address]);
    assert_eq!(voters(&status(&again, &scratch)), [1]);
}

#[test]
fn all_daemons_end_when_that_is_meant_and_come_back_as_the_same_cluster() {
    let scratch = Scratch::new();
    let (mut all, addresses) = three(&scratch, &["--zone", "here"]);
    assert_eq!(increment(&all[2], &scratch), "1");
    let before = status(&all[0], &scratch);
    let refused = all[1].tool(&scratch, &["--json", "cluster", "stop"]);
    let survey: Json = serde_json::from_slice(&refused.stdout).expect("JSON");
    assert_eq!((refused.status.code(), &survey["stopped"]), (Some(1), &false.into()));
    assert_eq!((&survey["objects"], &survey["nodes"]), (&1.into(), &serde_json::json!([1, 2, 3])));
    let said = text(&all[1].tool(&scratch, &["cluster", "stop"]).stderr);
    assert!(said.contains("1 in set \"numbers\"") && said.contains("nothing was changed"), "{said}");
    assert_eq!(increment(&all[2], &scratch), "2", "nothing was stopped");

    let stopped = all[1].tool(&scratch, &["cluster", "stop", "--yes"]);
    assert!(stopped.status.success() && text(&stopped.stdout) == "stopped\n", "{}", text(&stopped.stderr));
    assert!(text(&stopped.stderr).contains("1 in set \"numbers\""), "it is said first");
    for daemon in &mut all {
        assert!(daemon.wait().success());
    }
    assert!(all[1].said().contains("these objects end with the cluster"));
    drop(all);
    let again = start_all(&scratch, &addresses);
    eventually("three decide", || again.iter().all(|daemon| voters(&status(daemon, &scratch)) == [1, 2, 3]));
    assert_eq!(status(&again[0], &scratch)["cluster"], before["cluster"]);
    assert_eq!(increment(&again[1], &scratch), "1", "what was in memory is gone");
}

#[test]
fn the_last_daemon_that_shares_says_what_ends_with_it() {
    let scratch = Scratch::new();
    let mut only = Daemon::first(&scratch, &[]);
    assert_eq!(increment(&only, &scratch), "1");
    only.signal(Signal::TERM);
    assert!(only.wait().success());
    let said = only.said();
    assert!(said.contains("no other node shares objects") && said.contains("set=\"numbers\" objects=1"), "{said}");
}
