//! What `kddmadm doctor` finds at real daemons, and that what it says to do helps.

use rustix::process::Signal;
use serde_json::Value as Json;

use crate::harness::{Daemon, Scratch, eventually, text};

/// What is found, the worst first, and the exit status.
fn examine(daemon: &Daemon, scratch: &Scratch) -> (Vec<Json>, Option<i32>) {
    let output = daemon.tool(scratch, &["--json", "doctor"]);
    let answer: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    (answer["findings"].as_array().expect("a list").clone(), output.status.code())
}

fn codes(findings: &[Json]) -> Vec<&str> {
    findings.iter().filter(|one| one["level"] != "note").filter_map(|one| one["code"].as_str()).collect()
}

fn find<'a>(findings: &'a [Json], code: &str) -> &'a Json {
    findings.iter().find(|one| one["code"] == code).unwrap_or_else(|| panic!("{code} is not in {findings:?}"))
}

/// Does what a finding says, if that is a command of the tool.
fn follow(daemon: &Daemon, scratch: &Scratch, finding: &Json) {
    let to_do = finding["to_do"].as_str().expect("a sentence");
    let (_, command) = to_do.split_once("kddmadm ").expect("a command");
    let arguments: Vec<&str> = command.split(' ').collect();
    let output = daemon.tool(scratch, &arguments);
    assert!(output.status.success(), "{command}: {}", text(&output.stderr));
}

#[test]
fn a_doctor_finds_what_a_killed_daemon_leaves_and_what_it_says_to_do_helps() {
    let scratch = Scratch::new();
    let first = Daemon::first(&scratch, &["--lease-ms", "4000"]);
    let contact = first.address(&scratch);
    let other = |name: &str| Daemon::start(&scratch, name, &["--listen", "127.0.0.1:0", "--contact", &contact]);
    let (second, third) = (other("second"), other("third"));
    eventually("three decide, and nothing is wrong", || examine(&second, &scratch).1 == Some(0));
    let said = text(&second.tool(&scratch, &["doctor"]).stdout);
    assert!(said.starts_with("healthy: 3 members, 3 of them share objects, 0 sets\n"), "{said}");
    assert!(said.contains("note: no guardian watches nodes 1, 2, 3"), "{said}");

    for id in 1..=20 {
        let id = id.to_string();
        for set in [&["safe", &id, "1"][..], &["unsafe", &id, "1", "--replicas", "0"]] {
            let output = third.tool(&scratch, &[&["object", "incr"], set].concat());
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
    }
    assert_eq!(first.tool(&scratch, &["cluster", "stop", "-n", "2"]).status.code(), Some(0));
    let (findings, status) = examine(&first, &scratch);
    // Who shares nothing has no say either, unless it is a witness.
    assert_eq!((codes(&findings), status), (vec!["not_sharing", "one_voter"], Some(1)), "{findings:?}");
    follow(&first, &scratch, find(&findings, "not_sharing"));
    eventually("node 2 shares again, and replicas are made", || examine(&first, &scratch).1 == Some(0));

    third.signal(Signal::KILL);
    eventually("it is expelled and all that is not lost is whole", || {
        codes(&examine(&second, &scratch).0) == ["lost", "in_doubt", "expelled", "one_voter"]
    });
    let (findings, status) = examine(&second, &scratch);
    assert_eq!(status, Some(1));
    let lost = find(&findings, "lost");
    assert!(lost["what"].as_str().is_some_and(|what| what.contains("objects of set \"unsafe\" are lost")), "{lost}");
    assert_eq!(find(&findings, "expelled")["nodes"], serde_json::json!([3]));
    follow(&second, &scratch, lost);
    assert_eq!(codes(&examine(&first, &scratch).0), ["expelled", "one_voter"]);

    let _third = Daemon::start(&scratch, "third", &["--listen", "127.0.0.1:0", "--contact", &contact]);
    eventually("nothing is wrong any more", || examine(&first, &scratch).1 == Some(0));
}

#[test]
fn a_doctor_sees_a_daemon_that_is_stopped() {
    let scratch = Scratch::new();
    // Longer than the doctor waits for an answer.
    let first = Daemon::first(&scratch, &["--lease-ms", "30000"]);
    let contact = first.address(&scratch);
    let second = Daemon::start(&scratch, "second", &["--listen", "127.0.0.1:0", "--contact", &contact]);
    second.signal(Signal::STOP);
    let (findings, status) = examine(&first, &scratch);
    assert_eq!((codes(&findings), status), (vec!["silent", "one_voter"], Some(1)), "{findings:?}");
    assert_eq!(find(&findings, "silent")["nodes"], serde_json::json!([2]));
    second.signal(Signal::CONT);
    eventually("it answers again", || codes(&examine(&first, &scratch).0) == ["one_voter"]);
}

#[test]
fn a_doctor_that_can_ask_nobody_says_so() {
    let scratch = Scratch::new();
    let output = scratch.kddmadm(&["--data-dir", "/nowhere", "doctor"]).output().expect("kddmadm runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no daemon answers"), "{}", text(&output.stderr));
}
