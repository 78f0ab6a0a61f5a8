//! Links that are cut, held up or garbled: nothing is lost, nothing comes twice, nothing is believed.

use std::time::Duration;

use kddm::{AccessError, Address, Error, Node, Raw, Set};
use kddm_core::frame::{BodySeal, Envelope, Numbers, encode, encode_ack};
use kddm_core::id::{NodeId, ObjectId, SetId};
use kddm_core::message::Message;

use crate::proxy::{Proxy, Sockets, Tamper};
use crate::seat::until;

/// Two nodes; the second dials the first through the proxy.
struct Linked {
    proxy: Proxy,
    sets: [Set<u64>; 2],
    nodes: [Node; 2],
    _sockets: Sockets,
}

const LIMIT: Duration = Duration::from_secs(20);

impl Linked {
    fn new() -> Linked {
        let sockets = Sockets::new();
        let [first, second] = ["1", "2"].map(|name| Address::Unix(sockets.path(name)));
        let config = |listen| crate::unhurried().listen(listen).wait_limit(LIMIT);
        let first = Node::join(config(first)).wait().expect("a free socket");
        let proxy = Proxy::before(&sockets.path("1"));
        let contact = first.address().clone();
        let second = Node::join(config(second).contact(contact)).wait().expect("a live contact");
        let sets = [&first, &second].map(|node| node.set("numbers").replicas(0).open().wait().expect("the set opens"));
        Linked { proxy, sets, nodes: [first, second], _sockets: sockets }
    }

    fn sum(&self, field: impl Fn(kddm::Statistics) -> u64) -> u64 {
        self.nodes.iter().map(|node| field(node.statistics())).sum()
    }

    fn add(&self, at: usize, object: u64) {
        let add = |number: &mut u64| {
            *number += 1;
            Ok(())
        };
        self.sets[at].update(object, add).wait().expect("the link comes back");
    }

    /// Moves the ownership there and back.
    fn exchange(&self) {
        self.add(1, 0);
        self.add(0, 0);
    }

    fn until_linked(&self, made: u64) {
        until("a new link is there", || {
            self.proxy.made() >= made && self.nodes.iter().all(|node| node.members().iter().all(|m| m.reachable))
        });
    }
}

/// Cut again and again under load, anywhere in a frame: every increment counts once.
#[test]
fn a_link_that_is_cut_under_load_loses_nothing() {
    const CUTS: u64 = 25;
    const OBJECTS: u64 = 4;
    let linked = Linked::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let added = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for at in [0, 0, 1, 1] {
            let (linked, stop, added) = (&linked, &stop, &added);
            scope.spawn(move || {
                for object in (0..OBJECTS).cycle() {
                    linked.add(at, object);
                    added.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        for _ in 0..CUTS {
            let before = added.load(std::sync::atomic::Ordering::Relaxed);
            let connected = linked.sum(|statistics| statistics.reconnects);
            linked.proxy.cut();
            until("both ends have a new link", || linked.sum(|s| s.reconnects) >= connected + 2);
            let goes_on = || added.load(std::sync::atomic::Ordering::Relaxed) > before + 10;
            until("the work goes on", goes_on);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let total: u64 = (0..OBJECTS).map(|object| *linked.sets[0].get(object).wait().expect("a copy")).sum();
    assert_eq!(total, added.into_inner(), "no increment is lost or doubled");
    let wrong = linked.sum(|s| s.dropped + s.malformed + s.faults);
    assert_eq!(wrong, 0, "frames that come twice are no messages");
}

/// The end of a connection that comes together with its last bytes: noticed, and a new link is made
/// although the node that dials has nothing to say.
#[test]
fn an_end_right_behind_the_last_bytes_is_noticed() {
    let linked = Linked::new();
    for _ in 0..30 {
        let made = linked.proxy.made();
        linked.proxy.end_after_next_ack();
        linked.add(0, 0);
        linked.add(1, 0);
        until("a new link is made", || linked.proxy.made() > made);
    }
}

/// A bit that is flipped anywhere in a frame: noticed, counted, and the frame comes again.
#[test]
fn a_flipped_bit_is_noticed_wherever_it_is() {
    let linked = Linked::new();
    let places = (0..16).chain([17, 20, 27, 31, 40, 47, 50, 60, 75, 90, 105, 120, 127, 130, usize::MAX]);
    for tamper in places.map(Tamper::Flip).chain([Tamper::FlipBody, Tamper::FlipBody]) {
        linked.exchange();
        let (malformed, made) = (linked.nodes[0].statistics().malformed, linked.proxy.made());
        linked.proxy.tamper(tamper);
        linked.exchange();
        until("the next bytes have been changed", || linked.proxy.has_tampered());
        until("it is counted", || linked.nodes[0].statistics().malformed > malformed);
        linked.until_linked(made + 1);
    }
    let before = *linked.sets[1].get(0).wait().expect("a copy");
    linked.exchange();
    assert_eq!(*linked.sets[1].get(0).wait().expect("a copy"), before + 2);
    assert_eq!(linked.sum(|statistics| statistics.faults + statistics.dropped), 0);
}

/// A body that is too large to arrive at once, damaged or cut off anywhere: never believed, and it
/// comes again.
#[test]
fn a_large_body_that_is_damaged_or_cut_comes_again() {
    let linked = Linked::new();
    let sets: [Set<Raw>; 2] =
        [0, 1].map(|at: usize| linked.nodes[at].set("large").open().wait().expect("the set opens"));
    let value = |round: u32| -> Vec<u8> { (0..300_000_u32).map(|at| (at.wrapping_mul(31) + round) as u8).collect() };
    for round in 0..12 {
        let mut guard = sets[1].grab(1).wait().expect("the link is there");
        guard.0 = value(round);
        guard.put().wait().expect("the link is there");
        let (malformed, made) = (linked.nodes[0].statistics().malformed, linked.proxy.made());
        let asked = if round % 3 == 2 {
            let asked = sets[0].get(1);
            linked.proxy.cut();
            asked
        } else {
            // The head is not damaged: it is shorter than that.
            linked.proxy.tamper(Tamper::Flip(1000 + 7000 * round as usize));
            sets[0].get(1)
        };
        assert!(asked.wait().expect("the link comes back").0 == value(round), "round {round}");
        linked.until_linked(made + 1);
        if round % 3 != 2 {
            assert_eq!(linked.nodes[0].statistics().malformed, malformed + 1, "round {round}");
        }
    }
    assert_eq!(linked.sum(|statistics| statistics.faults + statistics.dropped + statistics.undecodable), 0);
}

/// A frame of node `from`, with that sequence, of which `change` may change the bytes behind the
/// length before they are sealed anew.
fn frame(from: u16, sequence: u64, body: &[u8], seal: BodySeal, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let envelope = Envelope { from: NodeId(from), set: SetId::SYSTEM, object: ObjectId(1), ..Envelope::default() };
    let numbers = Numbers { sequence, acknowledged: 0 };
    let mut bytes = Vec::new();
    encode(&envelope, &Message::Removed { tenure: kddm_core::id::Tenure(7) }, numbers, seal, &mut bytes)
        .expect("memory");
    change(&mut bytes);
    let checksum = crc32fast::hash(&bytes[8..]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Frames that are whole but wrong, thrown in between: the connection ends, it is counted, nothing of
/// them is believed, and the link resumes where it was.
#[test]
fn frames_that_cannot_be_end_their_connection_and_change_nothing() {
    let linked = Linked::new();
    let seal = |body: &[u8]| BodySeal { length: body.len() as u32, checksum: crc32fast::hash(body) };
    let next = u64::MAX / 2;
    let mut never_sent = Vec::new();
    encode_ack(NodeId(2), next, &mut never_sent).expect("memory");
    let wrong: Vec<(&str, Vec<u8>)> = vec![
        ("garbage", vec![0xaa; 300]),
        ("zeros", vec![0; 300]),
        ("the greeting of another connection", b"KDDM\x40\0\0\0".repeat(40)),
        ("another sender", frame(3, 1 << 40, b"", seal(b""), |_| {})),
        ("a gap", frame(2, next, b"", seal(b""), |_| {})),
        ("an ack of what was never sent", never_sent),
        ("an unknown kind", frame(2, next, b"", seal(b""), |bytes| bytes[10] = 99)),
        ("an unknown class", frame(2, next, b"", seal(b""), |bytes| bytes[9] = 7)),
        ("a body of 4 GiB", frame(2, next, b"", seal(b""), |bytes| bytes[104..108].fill(0xff))),
        (
            "a large body with a wrong checksum",
            frame(2, next, &[5; 100_000], BodySeal { length: 100_000, checksum: 1 }, |_| {}),
        ),
        ("a large body that ends in others' bytes", frame(2, next, &[5; 50_000], seal(&[5; 50_100]), |_| {})),
        ("lists where none belong", frame(2, next, b"", seal(b""), |bytes| bytes[12] = 4)),
    ];
    for (what, bytes) in wrong {
        linked.exchange();
        let (malformed, made) = (linked.nodes[0].statistics().malformed, linked.proxy.made());
        linked.proxy.tamper(Tamper::Inject(bytes));
        linked.exchange();
        until(&format!("{what} is counted"), || linked.nodes[0].statistics().malformed > malformed);
        linked.until_linked(made + 1);
        linked.exchange();
    }
    assert_eq!(linked.sum(|statistics| statistics.faults + statistics.dropped), 0);
}

/// While no link can be made, whatever needs the other node ends at its limit and names it; what does
/// not need it goes on; and when the link comes back all is as it was.
#[test]
fn without_a_link_waits_end_at_their_limit_and_name_the_node() {
    const SHORT: Duration = Duration::from_millis(100);
    let linked = Linked::new();
    linked.add(0, 1);
    linked.add(1, 2);
    linked.proxy.refuse(true);
    linked.proxy.cut();
    until("both know that the link is gone", || {
        linked.nodes.iter().all(|node| node.members().iter().any(|member| !member.reachable))
    });
    for (at, object, other) in [(0, 2, 2), (1, 1, 1)] {
        for error in [
            linked.sets[at].get(object).wait_for(SHORT).map(drop).expect_err("it is over there"),
            linked.sets[at].grab(object).wait_for(SHORT).map(drop).expect_err("it is over there"),
            linked.sets[at].fetch(object).wait_for(SHORT).expect_err("it is over there"),
        ] {
            let unreachable = matches!(error, Error::Access(AccessError::Unreachable { node, .. }) if node == other);
            assert!(unreachable, "{error:?}");
            assert!(error.to_string().contains(&format!("node {other}")), "{error}");
        }
        linked.add(at, 3 - object);
    }
    linked.proxy.refuse(false);
    for object in [1, 2] {
        for set in &linked.sets {
            assert_eq!(*set.get(object).wait().expect("the link is back"), 2);
        }
    }
    assert_eq!(linked.sum(|statistics| statistics.faults + statistics.dropped + statistics.malformed), 0);
}
