//! From one daemon to two, and back to none.

use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use serde_json::{Value as Json, json};

use super::harness::{Daemon, Scratch, text};

#[test]
fn two_daemons_share_objects_and_are_seen() {
    let scratch = Scratch::new();
    let mut first = Daemon::first(&scratch, &[]);
    let contact = first.address(&scratch);
    let mut second = Daemon::start(&scratch, "second", &["--listen", "127.0.0.1:0", "--contact", &contact]);

    let status = second.json(&scratch, &["cluster", "status"]);
    assert_eq!(status["session"], 4711);
    assert!(status["epoch"].is_u64());
    let nodes = status["nodes"].as_array().expect("a list");
    let of = |key: &str| nodes.iter().map(|node| node[key].clone()).collect::<Vec<Json>>();
    assert_eq!(of("id"), [1, 2]);
    assert_eq!(of("state"), ["possible", "possible"]);
    assert_eq!(of("incarnation"), [1, 2]);
    assert_eq!(of("address")[0], contact.as_str());

    assert_eq!(first.json(&scratch, &["object", "incr", "counter", "7"])["value"], 1);
    assert_eq!(second.json(&scratch, &["object", "incr", "counter", "7", "41"])["value"], 42);
    let output = first.tool(&scratch, &["object", "get", "counter", "7"]);
    assert_eq!(text(&output.stdout), "42\n");
    let words = second.tool(&scratch, &["object", "put", "words", "1", "hello", "--as", "text"]);
    assert!(words.status.success());
    assert_eq!(first.json(&scratch, &["object", "get", "words", "1", "--as", "hex"])["value"], "68656c6c6f");
    assert!(first.tool(&scratch, &["object", "remove", "words", "1"]).status.success());
    let gone = second.tool(&scratch, &["--json", "object", "get", "words", "1"]);
    assert!(!gone.status.success());
    let failure: Json = serde_json::from_slice(&gone.stdout).expect("JSON");
    assert_eq!(failure["error"]["code"], 101);

    let sets = second.json(&scratch, &["sets"]);
    let names: Vec<&Json> = sets["sets"].as_array().expect("a list").iter().map(|set| &set["name"]).collect();
    assert_eq!(names, ["counter", "words"]);
    assert_eq!(second.json(&scratch, &["sets", "show", "counter"])["codec"], "json");
    assert_eq!(first.json(&scratch, &["holders"])["objects"], json!([]));
    assert_eq!(first.json(&scratch, &["stats"])["members"], json!({"online": 0, "possible": 2}));
    let top = first.tool(&scratch, &["--json", "top", "--count", "2", "--interval-ms", "100"]);
    assert_eq!(text(&top.stdout).lines().count(), 2);
    for shown in [&["nodes"][..], &["cluster", "status"], &["sets"], &["stats"], &["holders"], &["top", "--count", "1"]]
    {
        let output = second.tool(&scratch, shown);
        assert!(output.status.success() && !output.stdout.is_empty(), "{shown:?}: {}", text(&output.stderr));
    }

    for daemon in [&mut second, &mut first] {
        daemon.signal(Signal::TERM);
        assert!(daemon.wait().success());
        assert!(!daemon.dir.join("admin.sock").exists());
    }
    assert_eq!(scratch.processes(), Vec::<String>::new());
}

#[test]
fn the_number_is_kept_and_a_killed_daemon_starts_again() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::first(&scratch, &["--node-id", "5"]);
    let mode = |name: &str| std::fs::metadata(daemon.dir.join(name)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("admin.sock"), mode(".")), (0o600, 0o700));
    daemon.signal(Signal::KILL);
    daemon.wait();
    assert!(daemon.dir.join("admin.sock").exists(), "nobody could remove it");
    let mut again = Daemon::first(&scratch, &[]);
    assert_eq!(again.json(&scratch, &["nodes"])["nodes"][0]["id"], 5);
    again.signal(Signal::INT);
    assert!(again.wait().success());
    let said = again.said();
    assert!(said.contains("stopping") && said.contains("stopped"), "{said}");
}

#[test]
fn a_settings_file_and_the_environment_are_used() {
    let scratch = Scratch::new();
    let file = scratch.file("kddmd.toml", "session = 12\nlisten = \"127.0.0.1:0\"\nfound = true\nnode_id = 8\n");
    let daemon = Daemon::start(&scratch, "filed", &["--config", file.to_str().expect("text"), "--node-id", "9"]);
    let status = daemon.json(&scratch, &["cluster", "status"]);
    assert_eq!((&status["session"], &status["nodes"][0]["id"]), (&json!(12), &json!(9)));
}

#[test]
fn pages_and_completions_are_made() {
    let scratch = Scratch::new();
    for arguments in [&["completions", "bash"][..], &["completions", "fish"], &["man"]] {
        let output = scratch.kddmadm(arguments).output().expect("it runs");
        assert!(output.status.success() && text(&output.stdout).contains("playground"), "{arguments:?}");
        assert!(!text(&output.stdout).contains("demo-worker") || arguments[0] == "completions", "{arguments:?}");
    }
    let dir = scratch.path().join("man");
    assert!(scratch.kddmadm(&["man", dir.to_str().expect("text")]).status().expect("it runs").success());
    for page in ["kddmadm.1", "kddmadm-playground.1", "kddmd.1"] {
        assert!(dir.join(page).exists(), "{page}");
    }
}
