//! Whatever comes over the socket: the session ends, it is counted, everybody else goes on.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use kddm::transport::Stream;
use kddm::transport::greeting;
use serde::Serialize;

use crate::seat::{LIMIT, until};
use crate::{House, add_one, open};

#[derive(Serialize)]
struct Opening {
    version: u16,
}

#[derive(Serialize)]
enum Purpose {
    Attach { name: String },
}

/// What programs and nodes of today say.
const VERSION: u16 = 6;

fn dial(house: &House) -> UnixStream {
    let stream = UnixStream::connect(&house.socket).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream
}

/// Says that version, and wants to attach.
fn greet(house: &House, version: u16) -> UnixStream {
    let stream = dial(house);
    let words = Stream::Unix(stream.try_clone().expect("a descriptor"));
    greeting::send(&words, &Opening { version }).expect("it reads");
    greeting::send(&words, &Purpose::Attach { name: "liar".into() }).expect("it reads");
    stream
}

/// What it says before it ends the connection.
fn read_to_end(mut stream: UnixStream) -> Vec<u8> {
    let mut said = Vec::new();
    let _reset_is_an_end_too = stream.read_to_end(&mut said);
    said
}

/// A frame: kind, detail, level, flags; length of the body; set, object, number, version, tenure.
fn frame(four: [u8; 4], body_bytes: u32, numbers: [u64; 5]) -> Vec<u8> {
    let numbers = numbers.into_iter().flat_map(u64::to_le_bytes);
    four.into_iter().chain(body_bytes.to_le_bytes()).chain(numbers).collect()
}

fn goes_on(house: &House) {
    let program = house.program();
    add_one(&open(&program), 1);
    add_one(&open(&house.nodes[1]), 1);
    assert!(house.nodes.iter().all(|node| node.statistics().faults == 0));
}

#[test]
fn another_version_is_told_so() {
    let house = House::new();
    let before = house.nodes[0].statistics().refused_greetings;
    let said = read_to_end(greet(&house, 77));
    let text = String::from_utf8_lossy(&said);
    assert!(text.contains("version 77") && text.contains("use one version"), "{text}");
    // Nodes may have been refused, too, that were not known yet.
    until("it is counted", || house.nodes[0].statistics().refused_greetings > before);
    goes_on(&house);
}

#[test]
fn what_is_no_greeting_ends_the_connection() {
    let house = House::new();
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[0xff; 64], b"KDDM\xff\xff\xff\xff", b"KDDM\x02\0\0\0\x01"]
    {
        let mut stream = dial(&house);
        let _it_may_have_ended_already = stream.write_all(bytes);
        let _the_other_half = stream.shutdown(std::net::Shutdown::Write);
        read_to_end(stream);
    }
    goes_on(&house);
    assert!(house.nodes[0].statistics().malformed >= 4);
}

/// Each of these ends the session, and nothing else.
#[test]
fn what_cannot_be_meant_ends_the_session() {
    let house = House::new();
    let here = open(&house.nodes[0]);
    add_one(&here, 1);
    let set = house.nodes[0].set_info("shared").expect("it exists").id;
    let lies = [
        ("an unknown word", frame([99, 0, 0, 0], 0, [set, 1, 1, 0, 0])),
        ("a word of a node", frame([17, 0, 2, 1], 0, [set, 1, 1, 0, 0])),
        ("a wish for a set that it has not opened", frame([1, 1, 0, 0], 0, [set, 1, 1, 0, 0])),
        ("a wish for the sets' own set", frame([1, 1, 0, 0], 0, [1, 1, 1, 0, 0])),
        ("a put of what it does not have", frame([3, 0, 0, 0], 0, [set, 1, 0, 2, 0])),
        ("a return of what it does not have", frame([4, 0, 0, 1], 0, [set, 1, 0, 0, 0])),
        ("a refusal of what it does not have", frame([5, 0, 0, 0], 0, [set, 1, 0, 0, 0])),
        ("a view, which only a node installs", frame([26, 0, 0, 0], 0, [0, 0, 0, 0, 0])),
        ("an unknown level", frame([4, 0, 9, 1], 0, [set, 1, 0, 0, 0])),
        ("a body without end", frame([3, 0, 0, 0], u32::MAX, [set, 1, 0, 2, 0])),
        ("a body where none is meant", frame([5, 0, 0, 0], 7, [set, 1, 0, 0, 0])),
    ];
    for (number, (what, lie)) in (1..).zip(lies) {
        let mut stream = greet(&house, VERSION);
        until("it is let in", || !house.nodes[0].programs().is_empty());
        stream.write_all(&lie).unwrap_or_else(|error| panic!("{what}: {error}"));
        read_to_end(stream);
        until(what, || house.nodes[0].statistics().malformed == number);
        until(what, || house.nodes[0].programs().is_empty());
        assert_eq!(*here.get(1).wait().expect("a copy"), 1, "{what}");
    }
    goes_on(&house);
}

/// Half a frame, and then nothing: it costs its own memory, and ends with its connection.
#[test]
fn half_a_frame_is_forgotten() {
    let house = House::new();
    let mut stream = greet(&house, VERSION);
    stream.write_all(&frame([3, 0, 0, 0], 1 << 20, [7, 1, 0, 2, 0])[..40]).expect("it reads");
    until("it is let in", || !house.nodes[0].programs().is_empty());
    goes_on(&house);
    drop(stream);
    until("it is gone", || house.nodes[0].programs().is_empty());
    assert_eq!(house.nodes[0].statistics().malformed, 0);
}
