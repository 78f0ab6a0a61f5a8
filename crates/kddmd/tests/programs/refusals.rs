//! What cannot work is said in one sentence that says what to do.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};

use super::harness::{Daemon, Scratch, text};

/// The sentence with which a daemon ends.
#[track_caller]
fn refused(scratch: &Scratch, name: &str, arguments: &[&str]) -> String {
    let output = scratch.kddmd(name, arguments).env("KDDM_LOG", "error").output().expect("kddmd runs");
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stderr));
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "one sentence, not: {said}");
    said
}

#[track_caller]
fn has(said: &str, words: &[&str]) {
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} in: {said}");
}

#[test]
fn what_another_daemon_has_is_named() {
    let scratch = Scratch::new();
    let first = Daemon::first(&scratch, &[]);
    let pid = first.child.id().to_string();
    has(&refused(&scratch, "first", &["--found"]), &["in use", &pid, "--data-dir"]);
    let address = first.address(&scratch);
    has(&refused(&scratch, "other", &["--found", "--listen", &address]), &[&address, "in use", "--listen"]);
    let contact = ["--listen", "127.0.0.1:0", "--contact", &address];
    let said = refused(&scratch, "other", &[&contact[..], &["--session", "12"]].concat());
    has(&said, &["session 4711", "session 12"]);
    let said = refused(&scratch, "other", &[&contact[..], &["--node-id", "1"]].concat());
    has(&said, &["node id 1 is taken", &address]);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    has(&refused(&scratch, "other", &["--found", "--listen", "127.0.0.1:0", "--http", &port]), &["metrics", "--http"]);
}

#[test]
fn a_contact_that_is_not_there_is_named() {
    let scratch = Scratch::new();
    // Bound and not listening: nobody else gets the port meanwhile.
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = SocketAddrV4::try_from(getsockname(&socket).expect("bound")).expect("IPv4").to_string();
    let arguments = ["--listen", "127.0.0.1:0", "--contact", &address, "--join-limit-ms", "300"];
    has(&refused(&scratch, "alone", &arguments), &[&address, "nobody listens", "--found"]);
}

#[test]
fn settings_that_do_not_work_are_named() {
    let scratch = Scratch::new();
    let file = scratch.file("bad.toml", "session = 12\nlisen = \"127.0.0.1:0\"\n");
    let file = file.to_str().expect("text");
    has(&refused(&scratch, "bad", &["--config", file]), &["bad.toml line 2", "`lisen`", "`listen`"]);
    has(&refused(&scratch, "bad", &["--config", "/nowhere.toml"]), &["/nowhere.toml"]);
    has(&refused(&scratch, "bad", &["--listen", "192.0.2.1:7600"]), &["192.0.2.1:7600", "--insecure"]);
    has(&refused(&scratch, "bad", &["--session", "0"]), &["--session is 0", "9999"]);
    has(&refused(&scratch, "bad", &["--found", "--listen", "0", "--log", "=="]), &["log filter"]);
    let dir = scratch.path().join("kept");
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("node-id"), "3\n").expect("written");
    has(&refused(&scratch, "kept", &["--found", "--listen", "0", "--node-id", "4"]), &["node 3, not 4"]);
    let output = scratch.kddmd("bad", &[]).env("KDDM_SESSION", "x").output().expect("it runs");
    has(&text(&output.stderr), &["KDDM_SESSION is `x`"]);
}

#[test]
fn a_tool_without_a_daemon_says_what_to_start() {
    let scratch = Scratch::new();
    for arguments in [&["nodes"][..], &["--json", "object", "get", "a", "1"]] {
        let output = scratch.kddmadm(arguments).env("XDG_STATE_HOME", scratch.path()).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        has(&text(&output.stderr), &["no daemon answers", "kddm/admin.sock", "start one with `kddmd`"]);
        assert_eq!(output.stdout.is_empty(), arguments[0] != "--json");
    }
}

#[test]
fn what_is_not_built_is_refused_and_not_feigned() {
    let scratch = Scratch::new();
    let daemon = Daemon::first(&scratch, &[]);
    let output = daemon.tool(&scratch, &["cluster", "stop", "-n", "7"]);
    assert!(!output.status.success());
    has(&text(&output.stderr), &["node 7 is no member"]);
}
