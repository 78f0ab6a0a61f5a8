//! `kddmadm set destroy`: a set ends in the whole cluster, by its name.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use kddm::{Error, MembershipError, Node, Raw, Set, SetError};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::{Value as Json, json};

use crate::harness::{Daemon, LIMIT, Scratch, eventually, text, wait};

fn two(scratch: &Scratch, more: &[&str]) -> [Daemon; 2] {
    let first = Daemon::first(scratch, &["--lease-ms", "60000"]);
    let contact = first.address(scratch);
    let arguments = [&["--listen", "127.0.0.1:0", "--contact", &contact], more].concat();
    let second = Daemon::start(scratch, "second", &arguments);
    [first, second]
}

fn put(daemon: &Daemon, scratch: &Scratch, set: &str, objects: std::ops::Range<u64>) {
    for object in objects {
        let output = daemon.tool(scratch, &["object", "put", set, &object.to_string(), "kept", "--as", "text"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

fn names(daemon: &Daemon, scratch: &Scratch) -> Vec<String> {
    let sets = daemon.json(scratch, &["sets"]);
    let sets = sets["sets"].as_array().expect("a list").iter();
    sets.map(|set| set["name"].as_str().expect("a name").to_string()).collect()
}

/// What the tool says when it fails, which it does with status 1.
#[track_caller]
fn refused(daemon: &Daemon, scratch: &Scratch, arguments: &[&str]) -> Json {
    let output = daemon.tool(scratch, &[&["--json", "set", "destroy"], arguments].concat());
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[track_caller]
fn message(failure: &Json) -> &str {
    failure["error"]["message"].as_str().unwrap_or_else(|| panic!("no failure: {failure}"))
}

fn attach(daemon: &Daemon) -> Node {
    Node::attach(daemon.dir.join("attach.sock")).wait_for(LIMIT).expect("it accepts programs")
}

#[track_caller]
fn is_destroyed<T>(result: Result<T, Error>) {
    let error = result.map(drop).expect_err("the set has ended");
    assert!(matches!(error, Error::Set(SetError::Destroyed)), "{error}");
}

/// Neither daemon has it open with a type of its own; who asks is not where it was made.
#[test]
fn a_set_is_destroyed_only_when_that_is_meant() {
    let scratch = Scratch::new();
    let [mut first, second] = two(&scratch, &[]);
    let program = attach(&first);
    let numbers: Set<u64> = program.set("numbers").open().wait_for(LIMIT).expect("it opens");
    for object in 0..5 {
        numbers.grab(object).wait_for(LIMIT).expect("it is made").put().wait_for(LIMIT).expect("it is put");
    }
    put(&first, &scratch, "notes", 0..3);
    let elsewhere = program.check_may_destroy("numbers").map(drop).expect_err("its daemon does");
    assert!(matches!(elsewhere, Error::Membership(MembershipError::Attached { .. })), "{elsewhere}");

    let survey = refused(&second, &scratch, &["numbers"]);
    let id = second.json(&scratch, &["sets", "show", "numbers"])["id"].clone();
    let expected = |destroyed: bool| {
        json!({"answered_by": 2, "set": "numbers", "id": id, "objects": 5, "ending": false, "linker": null,
               "destroyed": destroyed})
    };
    assert_eq!(survey, expected(false));
    let output = second.tool(&scratch, &["set", "destroy", "numbers"]);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), "not destroyed\n"), "{said}");
    assert!(said.contains("set numbers ends in the whole cluster") && said.contains("with it 5 objects"), "{said}");
    assert!(said.contains("nothing was changed; `kddmadm set destroy numbers --yes`"), "{said}");
    drop(numbers.get(1).wait_for(LIMIT).expect("nothing was changed"));

    assert_eq!(second.json(&scratch, &["set", "destroy", "numbers", "--yes"]), expected(true));
    is_destroyed(numbers.get(1).wait_for(LIMIT));
    assert_eq!(names(&first, &scratch), ["notes"]);
    for daemon in [&first, &second] {
        assert_eq!(daemon.json(&scratch, &["stats"])["sets_destroyed"], 1);
    }
    let output = first.tool(&scratch, &["set", "destroy", "notes", "--yes"]);
    assert_eq!(text(&output.stdout), "set notes is destroyed, with 3 objects: its name is free\n");
    assert!(text(&output.stderr).contains("and with it 3 objects"), "it is said first");
    // Another set of that name has nothing of it.
    put(&second, &scratch, "notes", 7..8);
    let again = first.json(&scratch, &["set", "show", "notes", "--objects"]);
    assert_eq!((&again["total"], &again["objects"][0]["id"]), (&json!(1), &json!(7)));
    first.signal(Signal::TERM);
    assert!(first.wait().success());
    let said = first.said();
    assert!(said.contains("as an operator wants it set=\"notes\" objects=3"), "{said}");
}

/// What the tool says, and its status, where somebody answers at a terminal.
fn at_a_terminal(daemon: &Daemon, scratch: &Scratch, arguments: &[&str], answer: &str) -> (String, Option<i32>) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    unlockpt(&terminal).expect("it is ours");
    let end = || ioctl_tiocgptpeer(&terminal, OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("its other end");
    let mut command = scratch.kddmadm(arguments);
    command.env("KDDM_ADMIN", daemon.dir.join("admin.sock")).stdin(end()).stdout(end()).stderr(end());
    let mut tool = command.spawn().expect("kddmadm runs");
    // The other end is the tool's alone now, so that reading ends with it.
    drop(command);
    let mut terminal = File::from(terminal);
    terminal.write_all(answer.as_bytes()).expect("it is read when it is asked for");
    let status = wait(&mut tool);
    let mut said = Vec::new();
    let _nobody_is_at_the_other_end = terminal.read_to_end(&mut said);
    (text(&said), status.code())
}

#[test]
fn who_sits_at_a_terminal_is_asked() {
    let scratch = Scratch::new();
    let first = Daemon::first(&scratch, &[]);
    put(&first, &scratch, "notes", 0..3);
    for (arguments, answer, asks) in [
        (&["set", "destroy", "notes"][..], "no\n", true),
        (&["set", "destroy", "notes"], "\n", true),
        (&["--json", "set", "destroy", "notes"], "yes\n", false),
    ] {
        let (said, status) = at_a_terminal(&first, &scratch, arguments, answer);
        assert_eq!((said.contains("destroy it? Type yes: "), status), (asks, Some(1)), "{answer:?}: {said}");
        assert!(said.contains("nothing was changed") && names(&first, &scratch) == ["notes"], "{answer:?}: {said}");
    }
    let (said, status) = at_a_terminal(&first, &scratch, &["set", "destroy", "notes"], "yes\n");
    assert!(
        status == Some(0) && said.contains("with it 3 objects") && said.contains("destroy it? Type yes: "),
        "{said}"
    );
    assert_eq!(names(&first, &scratch), Vec::<String>::new());
    let (said, status) = at_a_terminal(&first, &scratch, &["cluster", "stop"], "no\n");
    assert!(status == Some(1) && said.contains("stop all? Type yes: ") && said.contains("not stopped"), "{said}");
}

#[test]
fn what_cannot_be_destroyed_is_refused_before_anybody_is_asked() {
    let scratch = Scratch::new();
    let [first, second] = two(&scratch, &[]);
    let unknown = refused(&second, &scratch, &["notes", "--yes"]);
    assert_eq!((&unknown["error"]["code"], &unknown["error"]["fate"]), (&json!(201), &json!("nothing_happened")));
    assert!(message(&unknown).contains("there is no set \"notes\""), "{unknown}");
    for name in ["", "a//b", &"x".repeat(65)] {
        assert_eq!(refused(&first, &scratch, &[name, "--yes"])["error"]["code"], 205, "{name:?}");
    }
    for wrong in [&["notes", "--limit-ms", "3600001"][..], &["notes", "--limit-ms", "soon"], &[], &["a", "b"]] {
        let output = first.tool(&scratch, &[&["set", "destroy"], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }

    put(&first, &scratch, "notes", 0..2);
    first.json(&scratch, &["set", "freeze", "notes"]);
    for arguments in [&["notes"][..], &["notes", "--yes"]] {
        let frozen = refused(&second, &scratch, arguments);
        assert!(message(&frozen).contains("node 1 has frozen set \"notes\": thaw it first"), "{frozen}");
    }
    assert!(first.tool(&scratch, &["set", "thaw", "notes"]).status.success());

    let program = attach(&first);
    let _barrier = program.barrier("all", kddm::Parties::Count(2)).wait_for(LIMIT).expect("it opens");
    let leaving: Set<u64> = program.set("leaving").expires().open().wait_for(LIMIT).expect("it opens");
    leaving.grab(1).wait_for(LIMIT).expect("it is made").put().wait_for(LIMIT).expect("it is put");
    let all = names(&second, &scratch);
    let beside = all.iter().find(|name| name.starts_with("kddm.times/")).expect("it keeps the times");
    for (name, why) in [
        ("kddm/barriers", "cannot be destroyed"),
        ("kddm.sets", "list of all sets"),
        (beside, "goes with the set whose times it keeps"),
    ] {
        for arguments in [&[name][..], &[name, "--yes"]] {
            let needed = refused(&second, &scratch, arguments);
            assert!(message(&needed).contains(why), "{needed}");
            assert_eq!(needed["error"]["fate"], "nothing_happened");
        }
    }
    assert_eq!(names(&first, &scratch), all, "nothing was changed");
    second.json(&scratch, &["set", "destroy", "leaving", "--yes"]);
    assert_eq!(names(&first, &scratch), ["kddm/barriers", "notes"], "what keeps its times goes with it");

    // By the socket itself: what is not whole, and a set of that name that is another one now.
    let by_socket = |rest: &str| {
        let mut stream = UnixStream::connect(first.dir.join("admin.sock")).expect("it listens");
        let request = format!("{{\"version\":1,\"command\":\"destroy\",\"set\":\"notes\"{rest}}}\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(names(&first, &scratch).contains(&"notes".into()), "{answer}");
        answer
    };
    let (cut, other) = (by_socket(""), by_socket(",\"limit_ms\":1,\"meant\":12345"));
    assert!(cut.contains("limit_ms") && other.contains("there is another one of that name now"), "{cut} {other}");
}

fn destroying(daemon: &Daemon, scratch: &Scratch, limit_ms: &str) -> Child {
    let arguments = ["set", "destroy", "shared", "--yes", "--limit-ms", limit_ms];
    let mut command = scratch.kddmadm(&arguments);
    command.env("KDDM_ADMIN", daemon.dir.join("admin.sock"));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("kddmadm runs")
}

#[test]
fn a_program_that_holds_something_has_time_to_put_it_and_is_told_then() {
    let scratch = Scratch::new();
    let [first, second] = two(&scratch, &[]);
    let program = attach(&first);
    let open = || -> Set<Raw> { program.set("shared").open().wait_for(LIMIT).expect("it opens") };
    let shared = open();
    let mut held = shared.grab(1).wait_for(LIMIT).expect("it is made");
    held.0 = b"in time".to_vec();
    let mut tool = destroying(&second, &scratch, "3600000");
    eventually("it is ending", || second.json(&scratch, &["sets", "show", "shared"])["ending"] == true);
    eventually("nothing new is begun", || match shared.get(2).wait_for(LIMIT) {
        Ok(_) => false,
        Err(error) => matches!(error, Error::Set(SetError::Destroyed)),
    });
    assert!(tool.try_wait().expect("it is our child").is_none(), "the holder has time");
    let frozen = first.tool(&scratch, &["set", "freeze", "shared"]);
    assert!(text(&frozen.stderr).contains("destroyed"), "{}", text(&frozen.stderr));
    held.put().wait_for(LIMIT).expect("it is in time");
    assert!(wait(&mut tool).success());
    assert_eq!(names(&first, &scratch), Vec::<String>::new());

    // One that does not put.
    let shared = open();
    let mut held = shared.grab(1).wait_for(LIMIT).expect("it is made");
    held.0 = b"too late".to_vec();
    assert_eq!(second.json(&scratch, &["set", "destroy", "shared", "--yes", "--limit-ms", "0"])["destroyed"], true);
    is_destroyed(held.put().wait_for(LIMIT));
    is_destroyed(shared.get(1).wait_for(LIMIT));
    let name_is_free = open().get(1).wait_for(LIMIT).expect("it is another set");
    assert_eq!(name_is_free.0, b"");
}

/// It shares nothing, so that all but the set's end works without it.
#[test]
fn a_destroy_that_a_member_has_not_heard_is_ended_by_the_next() {
    let scratch = Scratch::new();
    let [first, second] = two(&scratch, &["--autostart", "false"]);
    put(&first, &scratch, "notes", 0..2);
    second.signal(Signal::STOP);
    let unconfirmed = refused(&first, &scratch, &["notes", "--yes", "--limit-ms", "0"]);
    assert!(message(&unconfirmed).contains("node 2 has not confirmed the destroy of \"notes\""), "{unconfirmed}");
    assert!(message(&unconfirmed).contains("destroy it again"), "{unconfirmed}");
    assert_eq!((&unconfirmed["error"]["code"], &unconfirmed["error"]["fate"]), (&json!(204), &json!("unknown")));
    assert_eq!(first.json(&scratch, &["sets", "show", "notes"])["ending"], true);
    second.signal(Signal::CONT);
    let survey = refused(&first, &scratch, &["notes"]);
    assert_eq!((&survey["ending"], &survey["objects"]), (&json!(true), &Json::Null), "{survey}");
    let said = text(&first.tool(&scratch, &["set", "destroy", "notes"]).stderr);
    assert!(said.contains("a destroy has begun already"), "{said}");
    let ended = first.json(&scratch, &["set", "destroy", "notes", "--yes"]);
    assert_eq!((&ended["ending"], &ended["objects"], &ended["destroyed"]), (&json!(true), &Json::Null, &json!(true)));
    assert_eq!(names(&first, &scratch), Vec::<String>::new());
    for daemon in [&first, &second] {
        assert_eq!(daemon.json(&scratch, &["stats"])["sets_destroyed"], 1, "one that was begun again is one");
    }
}
