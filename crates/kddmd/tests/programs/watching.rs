//! `kddmadm watch`: what changes, a line an event.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value as Json, json};

use crate::harness::{Daemon, LIMIT, Scratch, eventually, text, wait};
use crate::trio::{NAMES, three};

/// A watch in a process of its own, with `--json`.
struct Watch {
    child: Child,
    lines: Receiver<Json>,
    begun_at: String,
}

impl Watch {
    #[track_caller]
    fn begin(daemon: &Daemon, scratch: &Scratch, arguments: &[&str]) -> Watch {
        let mut command = scratch.kddmadm(&[&["--json", "watch"], arguments].concat());
        command.env("KDDM_ADMIN", daemon.dir.join("admin.sock"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kddmadm runs");
        let lines = lines_of(child.stdout.take().expect("asked for"));
        let first = lines.recv_timeout(LIMIT).expect("it begins");
        assert_eq!(first["event"], json!("begins"), "{first}");
        Watch { child, lines, begun_at: position(&first) }
    }

    #[track_caller]
    fn next(&self) -> Json {
        self.lines.recv_timeout(LIMIT).expect("an event")
    }

    /// Takes events until one is such; what it says of the position.
    #[track_caller]
    fn until(&self, what: &str, is_it: impl Fn(&Json) -> bool) -> String {
        loop {
            let event = self.lines.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("nothing of {what}"));
            if is_it(&event) {
                return position(&event);
            }
        }
    }

    #[track_caller]
    fn interrupt(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it is our child, and not waited for");
        assert!(wait(&mut self.child).success(), "Ctrl-C is how it ends");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn lines_of(output: ChildStdout) -> Receiver<Json> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let event = serde_json::from_str(&line).unwrap_or(Json::Null);
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    lines
}

fn position(event: &Json) -> String {
    event["position"].as_str().expect("each event says where the watch is").to_string()
}

fn is(event: &str, object: u64) -> impl Fn(&Json) -> bool {
    move |seen| seen["event"] == json!(event) && seen["object"] == json!(object)
}

#[track_caller]
fn put(daemon: &Daemon, scratch: &Scratch, object: &str, value: &str) {
    let output = daemon.tool(scratch, &["object", "put", "notes", object, value]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn events_come_as_they_happen_and_a_watch_goes_on() {
    let scratch = Scratch::new();
    let daemon = Daemon::first(&scratch, &[]);
    put(&daemon, &scratch, "1", "a");
    let watch = Watch::begin(&daemon, &scratch, &["notes"]);
    put(&daemon, &scratch, "1", "b");
    let told = watch.next();
    assert_eq!((&told["event"], &told["object"], &told["version"]), (&json!("put"), &json!(1), &json!(2)), "{told}");
    assert!(daemon.tool(&scratch, &["object", "remove", "notes", "1"]).status.success());
    let last = watch.until("the removal", is("removed", 1));
    watch.interrupt();
    put(&daemon, &scratch, "2", "c");
    put(&daemon, &scratch, "3", "d");
    let again = daemon.tool(&scratch, &["--json", "watch", "notes", "--from", &last, "--count", "2"]);
    let said = text(&again.stdout);
    let events: Vec<Json> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let objects: Vec<&Json> = events.iter().map(|event| &event["object"]).collect();
    assert_eq!((again.status.success(), objects), (true, vec![&Json::Null, &json!(2), &json!(3)]), "{said}");
    let one = daemon.tool(&scratch, &["watch", "notes", "3", "--from", &last, "--count", "1"]);
    assert!(text(&one.stdout).starts_with("put ") && text(&one.stdout).contains("object 3"), "{}", text(&one.stdout));
    assert!(text(&one.stderr).contains("--from"), "{}", text(&one.stderr));
}

#[test]
fn what_cannot_be_watched_is_said() {
    let scratch = Scratch::new();
    let daemon = Daemon::first(&scratch, &[]);
    let missing = daemon.tool(&scratch, &["watch", "nothing"]);
    let said = text(&missing.stderr);
    assert!(!missing.status.success() && said.contains("no set \"nothing\"") && said.contains("object put"), "{said}");
    put(&daemon, &scratch, "1", "a");
    assert_eq!(daemon.tool(&scratch, &["watch", "notes", "--from", "yesterday"]).status.code(), Some(2));
    let watches: Vec<Watch> = (0..8).map(|_| Watch::begin(&daemon, &scratch, &["notes"])).collect();
    let one_more = daemon.tool(&scratch, &["watch", "notes"]);
    assert!(text(&one_more.stderr).contains("8 watches"), "{}", text(&one_more.stderr));
    drop(watches);
    eventually("their places are free", || {
        daemon.tool(&scratch, &["watch", "notes", "--from", "7:1.1:", "--count", "1"]).status.success()
    });
}

/// Whoever reads no more ends it, also while nothing changes, and nothing is said of that.
#[test]
fn a_broken_pipe_ends_it_silently() {
    let scratch = Scratch::new();
    let daemon = Daemon::first(&scratch, &[]);
    put(&daemon, &scratch, "1", "a");
    let mut command = scratch.kddmadm(&["--json", "watch", "notes"]);
    command.env("KDDM_ADMIN", daemon.dir.join("admin.sock"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kddmadm runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("asked for")).read_line(&mut line).expect("it begins");
    assert!(line.contains("begins"), "{line}");
    assert!(wait(&mut child).success());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().expect("asked for"), &mut said).expect("text");
    assert_eq!(said, "");
}

/// It ends though its output is full and nobody reads it.
#[test]
fn a_signal_ends_it_while_nobody_takes_its_lines() {
    let scratch = Scratch::new();
    let daemon = Daemon::first(&scratch, &[]);
    put(&daemon, &scratch, "1", "a");
    let (_unread, mut full) = std::io::pipe().expect("a pipe");
    let flags = rustix::fs::fcntl_getfl(&full).expect("flags");
    rustix::fs::fcntl_setfl(&full, flags | rustix::fs::OFlags::NONBLOCK).expect("flags");
    while std::io::Write::write(&mut full, &[b'x'; 1024]).is_ok() {}
    while std::io::Write::write(&mut full, b"x").is_ok() {}
    rustix::fs::fcntl_setfl(&full, flags).expect("flags");
    let mut command = scratch.kddmadm(&["--json", "watch", "notes"]);
    command.env("KDDM_ADMIN", daemon.dir.join("admin.sock"));
    let mut child = command.stdout(full).stderr(Stdio::null()).spawn().expect("kddmadm runs");
    let call = format!("/proc/{}/syscall", child.id());
    let writes = if cfg!(target_arch = "aarch64") { "64 0x1 " } else { "1 0x1 " };
    eventually("it waits for somebody to read", || {
        std::fs::read_to_string(&call).is_ok_and(|call| call.starts_with(writes))
    });
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it is our child, and not waited for");
    assert!(wait(&mut child).success());
}

/// A member is killed, its objects have new owners and homes, and it comes back: what is put then is told, or that something
/// may be missing; of one object and of the set, by a watch that goes on and by one that begins again where it was.
#[test]
fn a_loss_and_a_return_hide_nothing() {
    let scratch = Scratch::new();
    let (mut daemons, addresses) = three(&scratch, &[]);
    for object in 1..10u64 {
        put(&daemons[object as usize % 3], &scratch, &object.to_string(), "a");
    }
    let all = Watch::begin(&daemons[0], &scratch, &["notes"]);
    let one = Watch::begin(&daemons[0], &scratch, &["notes", "5"]);
    let (from_all, from_one) = (all.begun_at.clone(), one.begun_at.clone());
    let mut lost = daemons.remove(2);
    lost.signal(Signal::KILL);
    lost.wait();
    let is_skipped = |event: &Json| event["event"] == json!("skipped");
    all.until("the loss", is_skipped);
    one.until("the loss", is_skipped);
    let gone = daemons[1].tool(&scratch, &["object", "remove", "notes", "8"]);
    assert!(gone.status.success(), "{}", text(&gone.stderr));
    for object in ["2", "5"] {
        put(&daemons[1], &scratch, object, "b");
    }
    all.until("object 2", is("put", 2));
    one.until("object 5", is("put", 5));
    let back = Daemon::start(&scratch, NAMES[2], &["--listen", &addresses[2], "--contact", &addresses[0]]);
    put(&back, &scratch, "5", "c");
    assert!(back.tool(&scratch, &["object", "remove", "notes", "2"]).status.success());
    // The removal may have been before the member that has come was heard: then something may be missing.
    all.until("the removal", |event| is("removed", 2)(event) || is_skipped(event));
    one.until("object 5", is("put", 5));
    for (from, object) in [(from_all, None), (from_one, Some("5"))] {
        let arguments = [&["notes"], object.as_slice(), &["--from", &from]].concat();
        let watch = Watch::begin(&daemons[1], &scratch, &arguments);
        watch.until("what came between", is_skipped);
        watch.until("object 5", is("put", 5));
    }
}
