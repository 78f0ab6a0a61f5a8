//! A playground leaves nothing behind, however it ends.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use super::harness::{Scratch, eventually, text, wait};

#[track_caller]
fn nothing_is_left(scratch: &Scratch) {
    eventually("all processes end", || scratch.processes().is_empty());
    eventually("all folders are removed", || scratch.entries().is_empty());
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it is our child, and not waited for");
}

#[test]
fn a_command_has_the_output_and_the_status_to_itself() {
    let scratch = Scratch::new();
    let script = format!(
        "{tool} object incr c 1 >/dev/null && {tool} object incr c 1 && test -n \"$KDDM_CONTACT\" && \
         {tool} --json nodes && exit 7",
        tool = env!("CARGO_BIN_EXE_kddmadm")
    );
    let output = scratch.kddmadm(&["playground", "3", "--", "sh", "-c", &script]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "2"), "{said}");
    let status: Json = serde_json::from_str(lines[1]).expect("JSON");
    let states: Vec<&Json> = status["nodes"].as_array().expect("a list").iter().map(|node| &node["state"]).collect();
    assert_eq!(states, ["possible", "possible", "possible"]);
    nothing_is_left(&scratch);
}

#[test]
fn a_command_that_fails_or_does_not_exist_leaves_nothing() {
    let scratch = Scratch::new();
    for (command, code) in [("/nowhere/program", 127), ("false", 1)] {
        let output = scratch.kddmadm(&["playground", "1", "--", command]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty());
        nothing_is_left(&scratch);
    }
}

#[test]
fn ctrl_c_stops_all_cleanly() {
    let scratch = Scratch::new();
    let mut command = scratch.kddmadm(&["--json", "playground", "2"]);
    let mut playground = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(playground.stdout.take().expect("asked for")).read_line(&mut line).expect("it says who is in");
    let ready: Json = serde_json::from_str(&line).expect("JSON");
    assert_eq!(ready["nodes"].as_array().map(Vec::len), Some(2));
    signal(&playground, Signal::INT);
    assert!(wait(&mut playground).success());
    nothing_is_left(&scratch);
}

/// A playground with a command that has begun and would wait for ever.
fn with_waiting_command(scratch: &Scratch) -> Child {
    let mut command = scratch.kddmadm(&["playground", "2", "--", "sh", "-c", "echo begun; exec cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut playground = command.spawn().expect("it starts");
    let mut line = String::new();
    let output = playground.stdout.as_mut().expect("asked for");
    BufReader::new(output).read_line(&mut line).expect("the command begins");
    assert_eq!(line, "begun\n");
    playground
}

#[test]
fn kill_9_of_the_playground_ends_command_and_daemons() {
    let scratch = Scratch::new();
    let mut playground = with_waiting_command(&scratch);
    assert!(scratch.processes().len() >= 4);
    signal(&playground, Signal::KILL);
    wait(&mut playground);
    nothing_is_left(&scratch);
}

#[test]
fn a_signal_ends_the_command_and_then_the_rest() {
    let scratch = Scratch::new();
    let mut playground = with_waiting_command(&scratch);
    signal(&playground, Signal::TERM);
    assert_eq!(wait(&mut playground).code(), Some(128 + 15));
    nothing_is_left(&scratch);
}
