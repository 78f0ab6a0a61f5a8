//! A process that is out of descriptors: it waits for better times without burning its processor.

use std::fmt::{self, Write};
use std::io::Read;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kddm::Node;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

use crate::seat::{LIMIT, until};

/// The variable that makes a test binary a process with few descriptors.
const ASKED: &str = "KDDM_TEST_DESCRIPTORS";

/// How long the processor's time is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A process of its own, because the limit is one of the process.
#[test]
fn without_descriptors_a_node_waits_and_serves_later() {
    let program = std::env::current_exe().expect("this test has a path");
    let child = Command::new(program)
        .args(["descriptors::node_without_descriptors", "--exact", "--nocapture"])
        .env(ASKED, "1")
        .output()
        .expect("this test can be started again");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

/// What is logged of connections that are accepted, or cannot be.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

/// The fields of one line.
#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, "{field}={value:?} ").expect("there is memory");
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        if line.0.contains("accepted") {
            self.0.lock().expect("nobody panics here").push(line.0);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Log {
    fn of(&self, address: &str, what: &str) -> usize {
        let lines = self.0.lock().expect("nobody panics here");
        lines.iter().filter(|line| line.contains(address) && line.contains(what)).count()
    }
}

#[test]
fn node_without_descriptors() {
    if std::env::var_os(ASKED).is_none() {
        return;
    }
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).expect("this process has none");
    let node = Node::join(crate::unhurried()).wait().expect("a free port");
    let socket = std::env::temp_dir().join(format!("kddm-descriptors-{}.sock", std::process::id()));
    node.accept_programs(&socket).expect("the path is free");
    let doors = [node.address().to_string(), socket.display().to_string()];
    let program = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
    let door = SocketAddrUnix::new(&socket).expect("a short path");
    let address: SocketAddr = node.address().to_string().parse().expect("an IP address and a port");
    let caller = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
    let before = getrlimit(Resource::Nofile);
    let mut few = before;
    few.current = Some(3); // Standard input, output and error are in use already.
    setrlimit(Resource::Nofile, few).expect("lower is always allowed");
    connect(&caller, &address).expect("the kernel takes it");
    connect(&program, &door).expect("the kernel takes it");
    let (start, used) = (Instant::now(), processor_time());
    while start.elapsed() < LOOK {
        std::thread::park_timeout(LOOK);
    }
    let used = processor_time() - used;
    assert!(used < LOOK / 10, "{used:?} of the processor in {LOOK:?}");
    let said = |what| doors.each_ref().map(|door| log.of(door, what));
    assert_eq!((said("can be accepted"), said("accepted again")), ([1, 1], [0, 0]), "{:?}", log.0);
    assert!(log.0.lock().expect("nobody panics here").iter().all(|line| line.contains("ulimit")), "{:?}", log.0);
    setrlimit(Resource::Nofile, before).expect("it was so before");
    until("it is over", || said("accepted again") == [1, 1]);
    assert_eq!(said("can be accepted"), [1, 1]);
    drop(Node::attach(&socket).wait_for(LIMIT).expect("programs are served again"));
    let mut stream = std::net::TcpStream::from(caller);
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").expect("it is connected");
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let is_served = !matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(is_served, "{ended:?}");
    until("it is counted", || node.statistics().malformed == 1);
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
