//! Unix sockets: what stands where one is to be, and one that accepts nobody.

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use kddm::{Address, Config, ConfigurationError, Error, MembershipError, Node};

use crate::proxy::Sockets;
use crate::seat::LIMIT;

fn refusal(config: Config) -> Error {
    match Node::join(config).wait() {
        Ok(node) => panic!("node {} has begun", node.id()),
        Err(error) => error,
    }
}

/// A file that is no socket stays as it is, and the error says what is in the way.
#[test]
fn a_file_is_never_replaced_by_a_socket() {
    let sockets = Sockets::new();
    let path = sockets.path("notes");
    std::fs::write(&path, "years of work").expect("a file");
    let link = sockets.path("link");
    std::os::unix::fs::symlink(&path, &link).expect("a link");
    for listen in [&path, &link] {
        let error = refusal(crate::unhurried().listen(Address::Unix(listen.clone())));
        assert!(matches!(error, Error::Configuration(ConfigurationError::Listen { .. })), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&listen.display().to_string()) && text.contains("no socket"), "{text}");
        assert_eq!(std::fs::read_to_string(&path).expect("it is still there"), "years of work");
    }
    assert!(link.is_symlink());
}

/// A socket whose process is gone makes way; one that somebody listens on does not, even if its backlog
/// is full.
#[test]
fn only_an_abandoned_socket_is_replaced() {
    let sockets = Sockets::new();
    let path = sockets.path("node");
    drop(UnixListener::bind(&path).expect("a free name"));
    assert!(path.exists(), "an abandoned socket keeps its name");
    let node = Node::join(crate::unhurried().listen(Address::Unix(path.clone()))).wait().expect("nobody listens there");
    drop(node);
    assert!(!path.exists(), "a node takes its socket with it");

    let busy = UnixListener::bind(&path).expect("a free name");
    let _waiting = fill(&busy, &path);
    let error = refusal(crate::unhurried().listen(Address::Unix(path.clone())));
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(path.exists());
    drop(busy);
}

/// A node that ends does not take away what has its name by now.
#[test]
fn the_socket_of_a_successor_is_left_alone() {
    let sockets = Sockets::new();
    let path = sockets.path("node");
    let node = Node::join(crate::unhurried().listen(Address::Unix(path.clone()))).wait().expect("a free name");
    std::fs::remove_file(&path).expect("it is there");
    let successor = UnixListener::bind(&path).expect("the name is free now");
    drop(node);
    assert!(path.exists(), "it is the successor's");
    drop(successor);
}

/// A contact that accepts nobody, with a full backlog: the join ends at its limit.
#[test]
fn a_contact_with_a_full_backlog_costs_no_more_than_the_limit() {
    let sockets = Sockets::new();
    let path = sockets.path("contact");
    let busy = UnixListener::bind(&path).expect("a free name");
    let _waiting = fill(&busy, &path);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let start = Instant::now();
        let limit = Duration::from_millis(300);
        let error = refusal(crate::unhurried().contact(Address::Unix(path)).join_limit(limit));
        let _nobody_waits = sender.send((error, start.elapsed()));
    });
    let (error, took) = receiver.recv_timeout(LIMIT).expect("a join ends");
    assert!(matches!(error, Error::Membership(MembershipError::NoContact { .. })), "{error:?}");
    assert!(took < LIMIT / 10, "took {took:?}");
}

/// Fills the backlog of whoever listens there.
fn fill(listener: &UnixListener, path: &std::path::Path) -> Vec<rustix::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let address = SocketAddrUnix::new(path).expect("a short path");
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::listen(listener, 1).expect("it listens already, with a longer one");
    let mut waiting = Vec::new();
    loop {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket");
        match connect(&socket, &address) {
            Ok(()) => waiting.push(socket),
            Err(rustix::io::Errno::AGAIN) => return waiting,
            Err(error) => panic!("somebody listens there: {error}"),
        }
    }
}
