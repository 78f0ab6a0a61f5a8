//! A daemon that was stopped for longer than its lease.

use rustix::process::Signal;
use serde_json::Value as Json;

use crate::harness::{Daemon, Scratch, eventually, text};
use crate::trio::{status, three};

fn second(status: &Json) -> Option<&Json> {
    status["nodes"].as_array()?.iter().find(|node| node["id"] == 2)
}

#[test]
fn a_daemon_whose_lease_has_ended_comes_back_by_itself_as_another_life() {
    let scratch = Scratch::new();
    let first = Daemon::first(&scratch, &["--lease-ms", "3000"]);
    let contact = first.address(&scratch);
    let other = Daemon::start(&scratch, "second", &["--listen", "127.0.0.1:0", "--contact", &contact]);
    let status = || first.json(&scratch, &["cluster", "status"]);
    let before = status();
    assert_eq!((&before["lease_ms"], &before["failures"]), (&3000.into(), &0.into()));
    assert!(before["lease_left_ms"].is_null(), "the one that decides needs none: {before}");
    let left = other.json(&scratch, &["cluster", "status"])["lease_left_ms"].as_u64();
    assert!(left.is_some_and(|left| (1..=3000).contains(&left)), "{left:?}");
    let life = second(&before).expect("it is a member")["incarnation"].as_u64().expect("a number");
    other.signal(Signal::STOP);
    eventually("it is expelled", || second(&status()).is_some_and(|node| node["state"] == "offline"));
    let said = text(&first.tool(&scratch, &["cluster", "status"]).stdout);
    assert!(said.contains("lease 3000 ms"), "{said}");
    eventually("all is whole: it had nothing", || status()["whole"] == true && status()["failures"] == 0);
    other.signal(Signal::CONT);
    eventually("it is back", || {
        let status = status();
        second(&status).is_some_and(|node| node["state"] == "possible" && node["incarnation"].as_u64() > Some(life))
    });
    eventually("it answers", || other.tool(&scratch, &["cluster", "status"]).status.success());
}

/// Objects without replicas that one daemon owns.
const OWNED: u64 = 20;

/// Of three that decide, with their logs on disk: what it alone had, programs attached to it, and what is asked of it.
#[test]
fn a_daemon_that_was_held_up_comes_back_in_its_process_with_what_it_owned() {
    let scratch = Scratch::new();
    let (daemons, _) = three(&scratch, &[]);
    let [first, _, third] = &daemons[..] else { panic!("three daemons") };
    let attach = || kddm::Node::attach(third.dir.join("attach.sock")).wait().expect("it accepts programs");
    let mut program = attach();
    for id in 1..=OWNED {
        let output = third.tool(&scratch, &["object", "incr", "alone", &id.to_string(), "7", "--replicas", "0"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    for _ in 0..2 {
        let node = |status: &Json| status["nodes"][2].clone();
        let before = node(&status(first, &scratch));
        third.signal(Signal::STOP);
        eventually("it is expelled", || node(&status(first, &scratch))["state"] == "offline");
        third.signal(Signal::CONT);
        eventually("it is back", || {
            let now = node(&status(first, &scratch));
            now["state"] == "possible" && now["incarnation"].as_u64() > before["incarnation"].as_u64()
        });
        eventually("it answers as the new life", || {
            let seen = third.tool(&scratch, &["--json", "cluster", "status"]);
            let seen: Json = serde_json::from_slice(&seen.stdout).unwrap_or_default();
            seen["answered_by"] == 3 && seen["lease_left_ms"].as_u64() > Some(0)
        });
        let said = third.json(&scratch, &["stats"]);
        assert!(said["remembered"].as_u64() >= Some(OWNED), "{said}");
        assert!(program.set::<u64>("counts").open().wait().is_err(), "it was attached to a life that is over");
        program = attach();
        program.set::<u64>("counts").open().wait().expect("it is attached to the new one");
        for id in 1..=OWNED {
            // Read where it is, so that it stays there.
            let found = third.json(&scratch, &["object", "get", "alone", &id.to_string()]);
            assert_eq!(found["value"], 7, "{found}");
        }
    }
    let found = first.json(&scratch, &["object", "get", "alone", "1"]);
    assert_eq!(found["value"], 7, "{found}");
}

/// Nobody is there who could let it in: it ends when it is told to.
#[test]
fn a_daemon_on_its_way_back_can_be_stopped() {
    let scratch = Scratch::new();
    let (mut daemons, _) = three(&scratch, &[]);
    daemons[0].signal(Signal::KILL);
    daemons[1].signal(Signal::KILL);
    eventually("its lease is over", || {
        let seen = daemons[2].json(&scratch, &["cluster", "status"]);
        seen["lease_left_ms"] == 0
    });
    daemons[2].signal(Signal::TERM);
    assert!(daemons[2].wait().success(), "{}", daemons[2].said());
}

#[test]
fn a_daemon_that_is_killed_takes_only_along_what_had_no_replica() {
    let scratch = Scratch::new();
    let first = Daemon::first(&scratch, &["--lease-ms", "3000"]);
    let contact = first.address(&scratch);
    let other = |name: &str| Daemon::start(&scratch, name, &["--listen", "127.0.0.1:0", "--contact", &contact]);
    let (_second, third) = (other("second"), other("third"));
    for id in 1..=20 {
        let id = id.to_string();
        for set in [&["safe", &id, "1"][..], &["unsafe", &id, "1", "--replicas", "0"]] {
            let output = third.tool(&scratch, &[&["object", "incr"], set].concat());
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
    }
    third.signal(Signal::KILL);
    let status = || first.json(&scratch, &["cluster", "status"]);
    eventually("it is expelled", || status()["nodes"][2]["state"] == "offline");
    for id in 1..=20 {
        assert_eq!(first.json(&scratch, &["object", "get", "safe", &id.to_string()])["value"], 1, "object {id}");
    }
    let lost = first.tool(&scratch, &["--json", "object", "get", "unsafe", "1"]);
    let failure: Json = serde_json::from_slice(&lost.stdout).expect("JSON");
    assert_eq!(failure["error"]["code"], 112, "{failure}");
    // What is lost keeps nothing else from being whole, and is not forgotten.
    eventually("all else is whole", || status()["whole"] == true && status()["failures"] == 0);
    let status = status();
    assert!(status["lost_here"].as_u64() > Some(0) && status["replicas_here"].as_u64() > Some(0), "{status}");
    let said = text(&first.tool(&scratch, &["cluster", "status"]).stdout);
    assert!(said.contains("of which it is the home are lost"), "{said}");
    what_is_lost_can_be_accepted(&scratch, &first, failure["error"]["message"].as_str().expect("a sentence"));
}

/// All of set "unsafe" is lost.
fn what_is_lost_can_be_accepted(scratch: &Scratch, daemon: &Daemon, said: &str) {
    let accept = "kddmadm object accept-loss unsafe 1 --yes";
    assert!(said.contains("object 1 of set \"unsafe\"") && said.contains(accept), "{said}");
    let fails = |arguments: &[&str]| {
        let output = daemon.tool(scratch, arguments);
        assert!(!output.status.success(), "{arguments:?}: {}", text(&output.stdout));
        text(&output.stderr)
    };
    let said = fails(&["object", "accept-loss", "unsafe", "1"]);
    assert!(said.contains("nothing was changed") && said.contains(accept), "{said}");
    assert!(fails(&["sets", "accept-loss", "unsafe"]).contains("kddmadm sets accept-loss unsafe --yes"));
    let get = |id: &str| {
        let output = daemon.tool(scratch, &["--json", "object", "get", "unsafe", id]);
        serde_json::from_slice::<Json>(&output.stdout).expect("JSON")
    };
    assert_eq!(get("1")["error"]["code"], 112, "without the word nothing happens");

    let said = daemon.tool(scratch, &["object", "accept-loss", "unsafe", "1", "--yes"]);
    assert!(text(&said.stdout).contains("object 1 of set unsafe has never existed"), "{}", text(&said.stderr));
    assert_eq!((&get("1")["error"]["code"], &get("2")["error"]["code"]), (&101.into(), &112.into()));
    assert!(fails(&["object", "accept-loss", "unsafe", "1", "--yes"]).contains("is not lost"));
    assert!(fails(&["object", "accept-loss", "safe", "1", "--yes"]).contains("is not lost"));
    assert!(fails(&["object", "accept-loss", "none", "1", "--yes"]).contains("there is no set"));
    assert!(fails(&["sets", "accept-loss", "safe", "--yes"]).contains("nothing of set \"safe\" is lost"));

    let answer = daemon.json(scratch, &["sets", "accept-loss", "unsafe", "--yes"]);
    assert_eq!(answer, serde_json::json!({"set": "unsafe", "id": null, "accepted": true}));
    for id in 2..=20 {
        let found = get(&id.to_string());
        assert_eq!(found["error"]["code"], 101, "object {id}: {found}");
    }
    assert_eq!(daemon.json(scratch, &["object", "incr", "unsafe", "2"])["value"], 1, "it is made anew");
    let counted = daemon.json(scratch, &["stats"]);
    assert_eq!((&counted["losses_accepted"], &counted["lost"]), (&2.into(), &0.into()));
    assert_eq!(daemon.json(scratch, &["cluster", "status"])["lost_here"], 0);
}
