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
    frame::put_call(1, frame::Manner::default(), 1_000_000, "echo", b"whole", &mut call);
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
    frame::put_call(7, frame::Manner::default(), u64::MAX, "echo", b"in parts", &mut call);
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
    frame::put_call(7, frame::Manner::default(), u64::MAX, "gate", b"", &mut calls);
    frame::put_call(7, frame::Manner::default(), u64::MAX, "gate", b"", &mut calls);
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

/// A connection of node 1 to node 2 that has opened a stream by hand, numbered 7, and what is said to it.
fn stream_by_hand(nodes: &[Node], service: &str) -> Stream {
    let stream = by_hand(nodes);
    let manner = frame::Manner { sort: frame::Sort::Stream, ..frame::Manner::default() };
    let mut open = Vec::new();
    frame::put_call(7, manner, 60_000_000, service, b"", &mut open);
    (&mut &stream).write_all(&open).expect("it is connected");
    stream
}

fn next_frame(stream: &Stream) -> frame::Frame {
    let mut bytes = Vec::new();
    loop {
        match frame::decode(&bytes).expect("it is a node") {
            frame::Decoded::Frame(frame, _) => return frame,
            frame::Decoded::Needs(length) => {
                let from = bytes.len();
                bytes.resize(length, 0);
                (&mut &*stream).read_exact(&mut bytes[from..]).expect("it goes on");
            }
        }
    }
}

/// Whoever sends beyond the window loses that stream, and nobody else anything.
#[test]
fn more_than_the_window_ends_a_stream_alone() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _echo = echo(&nodes[1]);
    let (kept, ends) = std::sync::mpsc::channel();
    let _keep = nodes[1].rpc().register_stream_owned::<Vec<u8>, Vec<u8>>("keep", move |_, from, to| {
        let _listened_to = kept.send((from, to));
    });
    let stream = stream_by_hand(&nodes, "keep");
    let (mut from, mut to) = ends.recv_timeout(LIMIT).expect("it is handed over");
    let mut said = Vec::new();
    // Of a stream that nobody knows, which is nothing; and credit that nobody needs.
    frame::put_item(8, b"whose", &mut said);
    frame::put_end(8, None, &mut said);
    frame::put_stop(8, frame::Fault::Dropped, "", &mut said);
    frame::put_credit(7, u64::MAX, &mut said);
    frame::put_credit(7, u64::MAX, &mut said);
    (0..40).for_each(|_| frame::put_item(7, &[0; 10_000], &mut said));
    frame::put_call(9, frame::Manner::default(), 1_000_000, "echo", b"on", &mut said);
    (&mut &stream).write_all(&said).expect("it is connected");
    let frames = [(); 3].map(|()| next_frame(&stream));
    assert!(matches!(&frames[0], frame::Frame::End { id: 7, fault: Some((frame::Fault::Failed, _)) }), "{frames:?}");
    assert!(matches!(&frames[1], frame::Frame::Stop { id: 7, .. }), "{frames:?}");
    assert_eq!(frames[2], frame::Frame::Done { id: 9, body: b"on".to_vec() });
    assert!(to.send(&vec![1]).wait().is_err());
    let mut items = 0;
    let ended = loop {
        match from.receive().wait() {
            // Zeros are a list without an element, and zeros that follow.
            Ok(Some(item)) => items += usize::from(item.is_empty()),
            Ok(None) => panic!("it was not finished"),
            Err(error) => break error,
        }
    };
    assert!(items >= 26, "{items}: the window was used");
    assert!(matches!(ended, crate::Error::Rpc(super::RpcError::Dropped { node: 1, .. })), "{ended}");
    assert!(nodes[1].statistics().malformed > 0);
}

/// Answers to streams, streams of what is for the node itself, and calls that were passed on too often.
#[test]
fn what_cannot_be_meant_of_calls_and_streams_is_refused() {
    let nodes = Node::local_cluster(2).expect("a cluster");
    let _echo = echo(&nodes[1]);
    let stream = stream_by_hand(&nodes, crate::invoke::SERVICE);
    assert!(matches!(next_frame(&stream), frame::Frame::End { id: 7, fault: Some((frame::Fault::NoService, _)) }));
    assert!(matches!(next_frame(&stream), frame::Frame::Stop { id: 7, .. }));
    let passed = |hops, from| frame::Manner { hops, from, ..frame::Manner::default() };
    for manner in [passed(9, 1), passed(0, 3), passed(u8::MAX, 0)] {
        let stream = by_hand(&nodes);
        let mut call = Vec::new();
        frame::put_call(1, manner, 1_000_000, "echo", b"", &mut call);
        (&mut &stream).write_all(&call).expect("it is connected");
        assert_eq!(read_to_end(&stream), b"", "nothing is answered");
    }
    assert_eq!(nodes[1].statistics().malformed, 3);
}

/// A member that a view leaves out ends the streams to it and from it, though it is only silent.
#[test]
fn a_view_without_a_member_ends_its_streams() {
    let nodes = Node::local_cluster(3).expect("a cluster");
    let services: Vec<_> = nodes
        .iter()
        .map(|node| {
            let service = node.rpc().register_stream::<u8, u8>("waits", |_, from, to| {
                to.send(&1).wait()?;
                from.receive().wait()?;
                Ok(())
            });
            service.expect("the name is free")
        })
        .collect();
    let open = |from: usize, to: u16| {
        let (sender, mut receiver) = nodes[from].rpc().open_stream::<u8, u8>(to, "waits", LIMIT).expect("it is sent");
        assert_eq!(receiver.receive().wait().expect("it is there"), Some(1));
        (sender, receiver)
    };
    let [(to, mut out), (back_to, mut back), (other_to, mut other)] = [open(0, 2), open(1, 1), open(0, 3)];
    let mut view = nodes[0].runtime().view();
    view.members.retain(|member| member.id.0 != 2);
    nodes[0].runtime().rpc.installed(&view);
    let gone = out.receive().wait().expect_err("node 2 is out").to_string();
    assert_eq!(gone, "node 2 went away during a call of \"waits\": it is not a member any more");
    assert!(back.receive().wait().is_err(), "node 1 does not speak with it");
    assert!(!other.receive().is_ready());
    drop((to, back_to, other_to));
    drop(services);
}
