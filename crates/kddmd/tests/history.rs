//! `kddmadm history check` as scripts use it: its status, and its JSON.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};

const HEADER: &str = "{\"format\":\"kddm-history\",\"version\":1}\n";
const WRITE: &str = "{\"client\":1,\"object\":\"a\",\"invoke_ns\":1,\"return_ns\":2,\"operation\":\"write\",\"value\":7,\"outcome\":\"ok\"}\n";

fn reads(result: &str) -> String {
    format!(
        "{{\"client\":2,\"object\":\"a\",\"invoke_ns\":3,\"return_ns\":4,\"operation\":\"read\",\"result\":{result},\"outcome\":\"ok\"}}\n"
    )
}

/// Status and output of a check of this text, handed over on standard input.
fn check(text: &str, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kddmadm"));
    command.args(["history", "check", "-"]).args(more).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the tool starts");
    child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), String::from_utf8(output.stdout).expect("it prints text"))
}

fn json_of(text: &str) -> (Option<i32>, Json) {
    let (status, output) = check(text, &["--json"]);
    (status, serde_json::from_str(&output).expect("it prints JSON"))
}

#[test]
fn a_linearizable_history_is_a_success() {
    let good = format!("{HEADER}{WRITE}{}", reads("7"));
    assert_eq!(json_of(&good), (Some(0), json!({ "verdict": "linearizable", "operations": 2, "objects": 1 })));
    assert_eq!(check(&good, &[]).1, "linearizable: 2 operations on 1 objects\n");
}

#[test]
fn one_that_is_not_ends_with_1_and_shows_where() {
    let bad = format!("{HEADER}{WRITE}{}", reads("null"));
    let (status, report) = json_of(&bad);
    assert_eq!((status, &report["verdict"], &report["object"]), (Some(1), &json!("not_linearizable"), &json!("a")));
    assert_eq!((&report["before"], &report["offending"][0]["client"]), (&json!(7), &json!(2)));
    let text = check(&bad, &[]).1;
    assert!(text.starts_with("not linearizable: object \"a\", which was 7 before"), "{text}");
}

#[test]
fn what_is_no_history_ends_with_2_and_its_line() {
    let (status, report) = json_of(&format!("{HEADER}{WRITE}{{}}\n"));
    assert_eq!((status, &report["verdict"]), (Some(2), &json!("unreadable")));
    assert!(report["error"].as_str().is_some_and(|error| error.starts_with("line 3: ")), "{report}");
    let missing = ["history", "check", "nowhere/history.jsonl"];
    let output = Command::new(env!("CARGO_BIN_EXE_kddmadm")).args(missing).output().expect("the tool starts");
    assert_eq!(output.status.code(), Some(2));
}
