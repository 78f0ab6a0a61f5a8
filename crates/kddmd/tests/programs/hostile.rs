//! Clients that mean harm, or nothing: neither the admin socket nor HTTP hangs or grows.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use super::harness::{Daemon, LIMIT, Scratch, eventually, text};

fn ask_admin(daemon: &Daemon, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(daemon.dir.join("admin.sock")).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let _it_may_have_heard_enough = stream.write_all(bytes);
    let _no_more = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _as_far_as_it_came = stream.read_to_end(&mut answer);
    text(&answer)
}

#[test]
fn the_admin_socket_answers_nonsense_with_a_sentence() {
    let scratch = Scratch::new();
    let daemon = Daemon::first(&scratch, &[]);
    for (bytes, word) in [
        (&b"hello\n"[..], "expected"),
        (b"\xff\xfe\n", "expected"),
        (b"{\"version\":1,\"command\":\"burn\"}\n", "burn"),
        (b"{\"version\":9,\"command\":\"status\"}\n", "not 9"),
        (b"{\"version\":1,\"command\":\"status\"}", "whole line"),
        (b"{\"version\":1,\"command\":\"watch\",\"interval_ms\":0}\n", "100 to"),
        (b"", "whole line"),
    ] {
        let answer = ask_admin(&daemon, bytes);
        assert!(answer.contains("\"error\"") && answer.contains(word), "{:?}: {answer}", text(bytes));
    }
    let endless = vec![b'['; 5 << 20];
    let answer = ask_admin(&daemon, &endless);
    assert!(answer.is_empty() || answer.contains("longer than"), "{answer}");
    assert!(daemon.tool(&scratch, &["nodes"]).status.success());
}

#[test]
fn silent_connections_are_few_and_their_end_makes_room() {
    let scratch = Scratch::new();
    let daemon = Daemon::first(&scratch, &[]);
    let silent: Vec<UnixStream> =
        (0..16).map(|_| UnixStream::connect(daemon.dir.join("admin.sock")).expect("it listens")).collect();
    // They are accepted in order, so that this one comes after them.
    let output = daemon.tool(&scratch, &["nodes"]);
    assert!(text(&output.stderr).contains("open already"), "{}", text(&output.stderr));
    drop(silent);
    eventually("there is room again", || daemon.tool(&scratch, &["nodes"]).status.success());
}

fn ask_http(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let _it_may_have_heard_enough = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _as_far_as_it_came = stream.read_to_end(&mut answer);
    text(&answer)
}

#[test]
fn metrics_and_health_are_served_beside_clients_that_say_nothing() {
    let scratch = Scratch::new();
    let daemon = Daemon::first(&scratch, &["--http", "0"]);
    let address = daemon.news.rsplit("metrics on ").next().expect("it says where").to_string();
    let silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(&address).expect("it listens")).collect();
    let get = |path: &str| ask_http(&address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    daemon.json(&scratch, &["object", "incr", "counter", "1"]);
    let page = get("/metrics");
    for line in ["HTTP/1.1 200 OK", "kddm_members{state=\"possible\"} 1", "# TYPE kddm_misses_total counter"] {
        assert!(page.contains(line), "{line} in {page}");
    }
    assert!(get("/health").starts_with("HTTP/1.1 200"));
    assert!(get("/ready?verbose").ends_with("possible\n"));
    assert!(get("/secret").starts_with("HTTP/1.1 404"));
    for (bytes, status) in [
        (&b"POST /metrics HTTP/1.1\r\n\r\n"[..], "405"),
        (b"\x16\x03\x01\r\n\r\n", "400"),
        (b"GET /metrics\r\n\r\n", "400"),
    ] {
        let answer = ask_http(&address, bytes);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{:?}: {answer}", text(bytes));
    }
    let endless = vec![b'x'; 1 << 20];
    let answer = ask_http(&address, &endless);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let ended = silent.iter().filter(|stream| {
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        (&mut &**stream).read(&mut [0]).is_ok_and(|count| count == 0)
    });
    assert_eq!(ended.count(), silent.len(), "the oldest make room, and the limit of time ends the rest");
    assert!(get("/health").starts_with("HTTP/1.1 200"));
}
