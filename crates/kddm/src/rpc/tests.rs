//! What strangers and broken members can say on a connection for calls.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use super::frame;
use crate::node::Node;
use crate::transport::greeting::{GreetError, Hello, Purpose, greet};
use crate::transport::{Address, Stream};

const LIMIT: Duration = Duration::from_secs(10);

/// A connection of node 1 to node 2 that speaks by hand.
fn by_hand(nodes: &[Node]) -> Stream {
    let address = nodes[1].address();
    let greeted = greet(address, &nodes[0].runtime().hello(Purpose::Rpc), LIMIT);
    greeted.expect("a member is let in").0
}

fn echo(node: &Node) -> super::Service {
    node.rpc().register("echo", |request| Ok(request.body().to_vec())).expect("the name is free")
}

fn read_to_end(stream: &Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _reset_is_an_end_too = (&mut &*stream).read_to_end(&mut bytes);
    bytes
}

#[test]
fn whoever_is_not_a_member_is_refused() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let hello = nodes[0].runtime().hello(Purpose::Rpc);
    for hello in [Hello { node: 9, ..hello.clone() }, Hello { nonce: 1, ..hello.clone() }, Hello { node: 0, ..hello }] {
        let refused = greet(nodes[1].address(), &hello, LIMIT);
        assert!(matches!(refused, Err(GreetError::Refused(_))), "{refused:?}");
    }
}

#[test]
fn damaged_frames_end_their_connection_and_no_other() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _service = echo(&nodes[1]);
    let mut call = Vec::new();
    frame::put_call(1, 0, 1_000_000, "echo", b"whole", &mut call);
    let mut damaged = call.clone();
    *damaged.last_mut().expect("it is not empty") ^= 1;
    let mut answer = Vec::new();
    frame::put_done(1, b"not asked", &mut answer);
    for bytes in [damaged, answer, b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n".to_vec(), vec![0xff; 5000]] {
        let stream = by_hand(&nodes);
        (&mut &stream).write_all(&bytes).expect("it is connected");
        assert_eq!(read_to_end(&stream), b"", "nothing is answered");
    }
    assert_eq!(nodes[1].statistics().malformed, 4);
    let answer = nodes[0].rpc().call(2, "echo", b"still there", LIMIT).wait();
    assert_eq!(answer.expect("others go on"), b"still there");
}

#[test]
fn a_call_in_many_parts_is_one_call() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _service = echo(&nodes[1]);
    let stream = by_hand(&nodes);
    let (mut call, mut expected) = (Vec::new(), Vec::new());
    frame::put_call(7, 0, u64::MAX, "echo", b"in parts", &mut call);
    frame::put_done(7, b"in parts", &mut expected);
    for byte in call {
        (&mut &stream).write_all(&[byte]).expect("it is connected");
    }
    let mut answer = vec![0; expected.len()];
    (&mut &stream).read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, expected);
}

#[test]
fn one_number_is_not_in_work_twice() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = parking_lot::Mutex::new(gate);
    let _service = nodes[1].rpc().register_blocking("gate", move |_| {
        let _released = gate.lock().recv();
        Ok(Vec::new())
    });
    let stream = by_hand(&nodes);
    let mut calls = Vec::new();
    frame::put_call(7, 0, u64::MAX, "gate", b"", &mut calls);
    frame::put_call(7, 0, u64::MAX, "gate", b"", &mut calls);
    (&mut &stream).write_all(&calls).expect("it is connected");
    let mut refused = Vec::new();
    frame::put_failed(7, frame::Fault::Overloaded, "a call with that number is in work", &mut refused);
    let mut answer = vec![0; refused.len()];
    (&mut &stream).read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, refused);
    drop(release);
}

/// A node that dials a place where another life has come up since does not take it for the old one.
#[test]
fn another_life_is_not_called_by_mistake() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _service = echo(&nodes[1]);
    let runtime = nodes[0].runtime();
    let address: &Address = nodes[1].address();
    let wrong = runtime.connect_rpc(2, 77, &address.to_string()).expect_err("there is no life 77");
    assert!(wrong.contains("node 2 in life"), "{wrong}");
    let wrong = runtime.connect_rpc(3, 1, &address.to_string()).expect_err("it is not node 3");
    assert!(wrong.contains("node 2 in life"), "{wrong}");
}

/// A member that a view leaves out may be silent instead of gone: its calls end all the same, in both
/// directions, and those to others go on.
#[test]
fn a_view_without_a_member_ends_its_calls() {
    let nodes = Node::local_cluster(3).expect("a cluster");
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = Arc::new(parking_lot::Mutex::new(gate));
    let (begun, begins) = std::sync::mpsc::channel();
    let services: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (gate, begun) = (Arc::clone(&gate), begun.clone());
            node.rpc().register_blocking("gate", move |request| {
                begun.send(request.from())?;
                let _released = gate.lock().recv();
                Ok(Vec::new())
            })
        })
        .collect();
    let calls = [(0, 2), (1, 1), (0, 3)].map(|(from, to)| nodes[from].rpc().call(to, "gate", b"", LIMIT));
    for _ in &calls {
        begins.recv_timeout(LIMIT).expect("it begins");
    }
    let mut view = nodes[0].runtime().view();
    view.members.retain(|member| member.id.0 != 2);
    nodes[0].runtime().rpc.installed(&view);
    let [out, back, other] = calls;
    let gone = out.wait().expect_err("node 2 is out").to_string();
    assert_eq!(gone, "node 2 went away during a call of \"gate\": it is not a member any more");
    let gone = back.wait().expect_err("node 1 does not speak with it").to_string();
    assert!(gone.starts_with("node 1 went away"), "{gone}");
    assert!(!other.is_ready());
    drop(release);
    other.wait().expect("node 3 is a member");
    drop(services);
}
