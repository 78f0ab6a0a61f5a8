//! A process that is out of descriptors: it waits for better times without burning its processor.

use std::io::Read;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use kddm::Node;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

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

#[test]
fn node_without_descriptors() {
    if std::env::var_os(ASKED).is_none() {
        return;
    }
    let node = Node::join(crate::unhurried()).wait().expect("a free port");
    let address: SocketAddr = node.address().to_string().parse().expect("an IP address and a port");
    let caller = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
    let before = getrlimit(Resource::Nofile);
    let mut few = before;
    few.current = Some(3); // Standard input, output and error are in use already.
    setrlimit(Resource::Nofile, few).expect("lower is always allowed");
    connect(&caller, &address).expect("the kernel takes it");
    let (start, used) = (Instant::now(), processor_time());
    while start.elapsed() < LOOK {
        std::thread::park_timeout(LOOK);
    }
    let used = processor_time() - used;
    assert!(used < LOOK / 10, "{used:?} of the processor in {LOOK:?}");
    setrlimit(Resource::Nofile, before).expect("it was so before");
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
