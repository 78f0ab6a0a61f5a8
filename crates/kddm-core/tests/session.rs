//! The link session: alone, and two of them over connections that break at any byte.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use kddm_core::frame::{
    BodySeal, Decoded, Envelope, HEADER_BYTES, Numbers, decode, encode, encode_ack, encode_head, seal_body,
};
use kddm_core::id::{NodeId, Tenure};
use kddm_core::io::{DEFERRED_NS, NoMemory};
use kddm_core::message::Message;
use kddm_core::session::{ACK_EVERY_BYTES, ACK_EVERY_FRAMES, Accept, ImpossibleAck, Session};
use proptest::prelude::*;

/// Appends a frame whose content is its number, so that the receiver can tell what it got.
fn send(session: &mut Session, number: u64, body_bytes: usize, urgent: bool) {
    let numbers = Numbers { sequence: session.next_sequence(), acknowledged: session.received() };
    let body = vec![number as u8; body_bytes];
    let is_apart = body_bytes >= APART_BYTES;
    let checksum = if is_apart { 0 } else { crc32fast::hash(&body) };
    let seal = BodySeal { length: body_bytes as u32, checksum };
    let message = Message::Confirm { tenure: Tenure(number) };
    let envelope = Envelope::default();
    if is_apart {
        let pushed = session.push_apart(urgent, Some(body), |out| encode_head(&envelope, &message, numbers, seal, out));
        return pushed.unwrap();
    }
    session
        .push(urgent, |out| {
            encode(&envelope, &message, numbers, seal, out)?;
            out.extend_from_slice(&body);
            Ok(())
        })
        .unwrap();
}

/// Bodies of that size are kept apart here.
const APART_BYTES: usize = 200;

/// Until so many bytes are ready. How many bodies were looked at.
fn seal(session: &mut Session, bytes: u64) -> usize {
    let mut sealed = 0;
    session.seal_next(bytes, |head, body| {
        sealed += 1;
        seal_body(head, crc32fast::hash(body));
    });
    sealed
}

fn all_to_write(session: &mut Session) -> Vec<u8> {
    seal(session, u64::MAX / 2);
    session.pieces_to_write().collect::<Vec<_>>().concat()
}

fn write_all(session: &mut Session) -> Vec<u8> {
    let bytes = all_to_write(session);
    session.wrote(bytes.len());
    bytes
}

/// A session that has sent so many frames.
fn having_sent(frames: u64) -> Session {
    let mut session = Session::new();
    for number in 1..=frames {
        send(&mut session, number, 0, true);
    }
    write_all(&mut session);
    session
}

#[test]
fn frames_count_from_one_and_zero_acknowledges_nothing() {
    let mut session = Session::new();
    assert_eq!((session.next_sequence(), session.received()), (1, 0));
    assert_eq!(session.acknowledged(0), Ok(()));
    send(&mut session, 1, 0, true);
    assert_eq!(session.next_sequence(), 2);
    assert_eq!(<Session>::default().next_sequence(), 1);
}

#[test]
fn a_frame_is_accepted_once_and_in_order() {
    let mut session = Session::new();
    assert_eq!(session.accept(2, 10), Accept::Gap);
    assert_eq!(session.accept(1, 10), Accept::New);
    assert_eq!(session.accept(1, 10), Accept::Duplicate);
    assert_eq!(session.accept(0, 10), Accept::Duplicate);
    assert_eq!(session.accept(3, 10), Accept::Gap);
    assert_eq!(session.accept(u64::MAX, 10), Accept::Gap);
    assert_eq!(session.accept(2, 10), Accept::New);
    assert_eq!(session.received(), 2);
}

#[test]
fn a_frame_that_is_taken_back_is_the_next_one_again_and_not_acknowledged() {
    let mut session = Session::new();
    assert_eq!(session.accept(1, ACK_EVERY_BYTES), Accept::New);
    session.take_back(ACK_EVERY_BYTES);
    assert_eq!(session.received(), 0);
    assert!(!session.owes_ack() && !session.must_ack_now());
    assert_eq!(session.accept(2, 10), Accept::Gap);
    assert_eq!(session.accept(1, 10), Accept::New);
    assert!(session.owes_ack());
}

#[test]
fn one_acknowledgement_frees_all_before_it() {
    let mut session = having_sent(10);
    let all = session.unacknowledged_bytes();
    session.acknowledged(7).unwrap();
    assert_eq!(session.unacknowledged_bytes(), all / 10 * 3);
    session.acknowledged(3).unwrap(); // An older one that came by a longer way changes nothing.
    assert_eq!(session.unacknowledged_bytes(), all / 10 * 3);
    session.acknowledged(10).unwrap();
    assert_eq!(session.unacknowledged_bytes(), 0);
    assert_eq!(session.next_sequence(), 11);
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_refused_and_changes_nothing() {
    let mut session = having_sent(3);
    let kept = session.unacknowledged_bytes();
    for impossible in [4, 5, u64::MAX] {
        assert_eq!(session.acknowledged(impossible), Err(ImpossibleAck));
        assert_eq!(session.resume(impossible), Err(ImpossibleAck));
    }
    assert_eq!(session.unacknowledged_bytes(), kept);
    assert!(session.to_write().is_empty(), "a refused resume starts nothing");
    session.acknowledged(3).unwrap();
    assert_eq!(session.acknowledged(4), Err(ImpossibleAck));
}

#[test]
fn a_frame_that_has_not_left_cannot_be_acknowledged() {
    let mut session = having_sent(1);
    send(&mut session, 2, 0, true);
    assert_eq!(session.acknowledged(2), Err(ImpossibleAck));
    session.wrote(session.to_write().len() - 1);
    assert_eq!(session.acknowledged(2), Err(ImpossibleAck), "its last byte is still here");
    session.wrote(1);
    assert_eq!(session.acknowledged(2), Ok(()));
}

#[test]
fn a_deferred_frame_waits_for_an_urgent_one_or_for_its_time() {
    let mut session = Session::new();
    send(&mut session, 1, 0, false);
    assert!(session.has_deferred() && session.to_write().is_empty());
    send(&mut session, 2, 0, true);
    assert!(!session.has_deferred());
    let bytes = write_all(&mut session);
    let Ok(Decoded::Frame(frame, first)) = decode(&bytes) else { panic!("not a frame") };
    assert_eq!(frame.numbers.sequence, 1, "it rides along, in its place");
    assert!(matches!(decode(&bytes[first..]), Ok(Decoded::Frame(..))));
    send(&mut session, 3, 0, false);
    assert!(session.has_deferred() && session.to_write().is_empty());
    session.flush_deferred();
    assert!(!session.has_deferred() && !session.to_write().is_empty());
}

#[test]
fn a_frame_that_cannot_be_written_leaves_no_trace() {
    let mut session = having_sent(1);
    let kept = session.unacknowledged_bytes();
    let refused = session.push(true, |out| {
        out.extend_from_slice(b"half a frame");
        Err(NoMemory)
    });
    assert_eq!(refused, Err(NoMemory));
    assert_eq!((session.unacknowledged_bytes(), session.next_sequence()), (kept, 2));
    assert!(session.to_write().is_empty());
}

#[test]
fn an_acknowledgement_is_owed_until_a_frame_carries_it() {
    let mut session = Session::new();
    assert!(!session.owes_ack());
    session.accept(1, 100);
    assert!(session.owes_ack() && !session.must_ack_now());
    send(&mut session, 1, 0, true);
    assert!(!session.owes_ack());
    for sequence in 2..=u64::from(ACK_EVERY_FRAMES) + 1 {
        assert!(!session.must_ack_now());
        session.accept(sequence, 100);
    }
    assert!(session.must_ack_now(), "so many frames do not wait for company");
    session.sent_ack();
    assert!(!session.owes_ack() && !session.must_ack_now());
    session.accept(u64::from(ACK_EVERY_FRAMES) + 2, ACK_EVERY_BYTES);
    assert!(session.must_ack_now(), "nor do so many bytes");
}

#[test]
fn a_bare_acknowledgement_fits_at_the_borders_of_frames_only() {
    let mut session = Session::new();
    assert!(session.is_between_frames());
    for number in 1..=3 {
        send(&mut session, number, 0, true);
    }
    let frame = session.to_write().len() / 3;
    assert!(session.is_between_frames());
    session.wrote(1);
    assert!(!session.is_between_frames());
    session.wrote(frame - 1);
    assert!(session.is_between_frames());
    session.acknowledged(1).unwrap();
    assert!(session.is_between_frames(), "the border stays one when what is before it is freed");
    session.wrote(frame + 5);
    assert!(!session.is_between_frames());
    session.wrote(frame - 5);
    assert!(session.is_between_frames());
}

/// The peer had a frame from an earlier connection and says so while it is being written again: the
/// stream must not break off inside it, nor take an acknowledgement in there.
#[test]
fn a_frame_acknowledged_while_it_is_written_again_goes_out_whole() {
    const BODY_BYTES: usize = 200 << 10;
    let mut session = Session::new();
    send(&mut session, 1, BODY_BYTES, true);
    send(&mut session, 2, 0, true);
    let all = write_all(&mut session);
    session.resume(0).unwrap(); // The peer said this before it had read the old connection to its end.
    session.wrote(BODY_BYTES - 10);
    session.acknowledged(1).unwrap();
    assert!(!session.is_between_frames());
    assert_eq!(all_to_write(&mut session), &all[BODY_BYTES - 10..]);
    write_all(&mut session);
    assert!(session.is_between_frames());
    session.acknowledged(2).unwrap();
    assert_eq!(session.unacknowledged_bytes(), 0);
}

/// Wherever a write stops, what is left is the rest of the same bytes, whether or not bodies lie apart.
#[test]
fn a_body_that_lies_apart_is_written_in_its_place() {
    let mut session = Session::new();
    for (number, body_bytes) in [(1, APART_BYTES), (2, 10), (3, 3 * APART_BYTES), (4, APART_BYTES), (5, 0)] {
        send(&mut session, number, body_bytes, true);
    }
    let all = all_to_write(&mut session);
    let mut rest = &all[..];
    for expected in 1..=5 {
        let Ok(Decoded::Frame(frame, length)) = decode(rest) else { panic!("not a frame") };
        assert_eq!((frame.numbers.sequence, crc32fast::hash(frame.body)), (expected, frame.seal.checksum));
        rest = &rest[length..];
    }
    assert!(rest.is_empty() && session.unacknowledged_bytes() == all.len());
    for written in 0..all.len() {
        assert_eq!(all_to_write(&mut session), &all[written..]);
        assert!(session.pieces_to_write().all(|piece| !piece.is_empty()));
        session.wrote(1);
        if written == all.len() / 2 {
            session.acknowledged(2).unwrap();
        }
    }
    let kept = session.memory_bytes();
    session.acknowledged(5).unwrap();
    assert_eq!(session.unacknowledged_bytes(), 0);
    assert!(session.memory_bytes() + 4 * APART_BYTES <= kept, "the bodies are gone");
}

#[test]
fn a_body_is_sealed_only_when_it_is_to_be_written() {
    let mut session = Session::new();
    for number in 1..=4 {
        send(&mut session, number, APART_BYTES * usize::from(number != 2), number != 4);
    }
    assert!(session.to_write().is_empty(), "its head lacks the checksum");
    assert_eq!(seal(&mut session, 1), 1);
    let ready: usize = session.pieces_to_write().map(<[u8]>::len).sum();
    assert_eq!(ready, session.unacknowledged_bytes() - 2 * (HEADER_BYTES + APART_BYTES), "the second one has no body");
    assert_eq!(seal(&mut session, ready as u64), 0, "so much is ready");
    session.wrote(ready);
    assert!(session.to_write().is_empty() && session.is_between_frames());
    assert_eq!((seal(&mut session, 1), seal(&mut session, 1)), (1, 0));
    session.wrote(HEADER_BYTES + APART_BYTES);
    assert_eq!(seal(&mut session, 1), 0, "the last one may wait");
    session.flush_deferred();
    assert_eq!(seal(&mut session, 1), 1);
    session.resume(0).unwrap();
    let all = all_to_write(&mut session);
    let mut rest = &all[..];
    while let Ok(Decoded::Frame(frame, length)) = decode(rest) {
        assert_eq!(crc32fast::hash(frame.body), frame.seal.checksum);
        rest = &rest[length..];
    }
    assert!(rest.is_empty() && all.len() == session.unacknowledged_bytes());
}

#[test]
fn a_new_connection_begins_behind_what_the_peer_has() {
    let mut session = having_sent(5);
    send(&mut session, 6, 0, false);
    session.acknowledged(2).unwrap();
    session.resume(3).unwrap();
    let bytes = write_all(&mut session);
    let mut rest = &bytes[..];
    for expected in 4..=6 {
        let Ok(Decoded::Frame(frame, length)) = decode(rest) else { panic!("not a frame") };
        assert_eq!(frame.numbers.sequence, expected);
        rest = &rest[length..];
    }
    assert!(rest.is_empty(), "also what was deferred: the wait for a connection was long enough");
    // What the peer said may be older than what it has acknowledged meanwhile.
    session.acknowledged(5).unwrap();
    session.resume(1).unwrap();
    let Ok(Decoded::Frame(frame, _)) = decode(session.to_write()) else { panic!("not a frame") };
    assert_eq!(frame.numbers.sequence, 6);
}

/// The splitmix generator: one seed decides a whole run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// Often a few, sometimes a hundred thousand.
    fn byte_count(&mut self) -> usize {
        let most = 1 << self.below(18);
        self.below(most) as usize
    }
}

/// One end of a link, as a home drives it.
#[derive(Default)]
struct End {
    session: Session,
    /// The rest of a bare acknowledgement that is being written.
    rest_of_ack: Vec<u8>,
    /// On their way to this end.
    arriving: VecDeque<u8>,
    /// Read, and not yet a whole frame.
    partial: Vec<u8>,
    pushed: u64,
    delivered: u64,
    duplicates: u64,
    deferred_until_ns: Option<u64>,
    /// What it said of `received` when the next connection was being made.
    hello: Option<u64>,
}

impl End {
    fn push(&mut self, body_bytes: usize, urgent: bool, now_ns: u64) {
        self.pushed += 1;
        send(&mut self.session, self.pushed, body_bytes, urgent);
        if !urgent && self.deferred_until_ns.is_none() {
            self.deferred_until_ns = Some(now_ns + DEFERRED_NS);
        }
    }

    /// Writes up to so many bytes into the connection.
    fn write(&mut self, peer: &mut End, mut limit: usize) {
        while limit > 0 {
            let ack_first = !self.rest_of_ack.is_empty();
            seal(&mut self.session, 1);
            let bytes = if ack_first { &self.rest_of_ack[..] } else { self.session.to_write() };
            let count = bytes.len().min(limit);
            if count == 0 {
                return;
            }
            peer.arriving.extend(&bytes[..count]);
            limit -= count;
            if ack_first {
                self.rest_of_ack.drain(..count);
            } else {
                self.session.wrote(count);
            }
        }
    }

    fn ack(&mut self) {
        if self.session.owes_ack() && self.session.is_between_frames() && self.rest_of_ack.is_empty() {
            encode_ack(NodeId(1), self.session.received(), &mut self.rest_of_ack).unwrap();
            self.session.sent_ack();
        }
    }

    /// Reads up to so many bytes. Every frame must be whole and well, and new ones in order.
    fn read(&mut self, limit: usize) {
        let count = self.arriving.len().min(limit);
        self.partial.extend(self.arriving.drain(..count));
        let mut parsed = 0;
        loop {
            match decode(&self.partial[parsed..]).expect("the stream lost its place") {
                Decoded::Needs(_) => break,
                Decoded::Frame(frame, length) => {
                    parsed += length;
                    self.session.acknowledged(frame.numbers.acknowledged).expect("an honest acknowledgement");
                    let Some(message) = frame.message else { continue };
                    match self.session.accept(frame.numbers.sequence, length) {
                        Accept::New => self.delivered += 1,
                        Accept::Duplicate => {
                            self.duplicates += 1;
                            continue;
                        }
                        Accept::Gap => panic!("a gap before frame {}", frame.numbers.sequence),
                    }
                    assert_eq!(message, Message::Confirm { tenure: Tenure(self.delivered) }, "once, and in order");
                    assert_eq!(crc32fast::hash(frame.body), frame.seal.checksum);
                }
            }
        }
        self.partial.drain(..parsed);
    }

    fn let_time_pass(&mut self, now_ns: u64) {
        if self.deferred_until_ns.is_some_and(|until_ns| now_ns >= until_ns) {
            self.session.flush_deferred();
            self.deferred_until_ns = None;
            self.ack();
        }
    }

    /// The connection is gone, and so many bytes of it arrive no more.
    fn cut(&mut self, lost: usize) {
        let left = self.arriving.len().saturating_sub(lost);
        self.arriving.truncate(left);
        self.rest_of_ack.clear();
    }

    fn connect(&mut self, peer_received: u64) {
        self.arriving.clear();
        self.partial.clear();
        self.rest_of_ack.clear();
        self.session.resume(peer_received).expect("an honest peer");
    }
}

/// Two ends and the connection between them.
struct Link {
    ends: [End; 2],
    connected: bool,
    now_ns: u64,
    cuts: u64,
}

impl Link {
    fn both(&mut self, at: usize) -> (&mut End, &mut End) {
        let [one, other] = &mut self.ends;
        if at == 0 { (one, other) } else { (other, one) }
    }

    fn step(&mut self, random: &mut Random) {
        let (connected, now_ns) = (self.connected, self.now_ns);
        let (end, peer) = self.both(random.below(2) as usize);
        match random.below(12) {
            0..=2 if end.session.unacknowledged_bytes() < 1 << 20 => {
                let body_bytes = if random.below(8) == 0 { random.below(100 << 10) } else { random.below(300) };
                end.push(body_bytes as usize, random.below(3) > 0, now_ns);
            }
            0..=5 if connected => end.write(peer, random.byte_count()),
            // Also without a connection: what had arrived before the cut is still read.
            6..=8 => end.read(random.byte_count()),
            9 if connected => end.ack(),
            10 => self.now_ns += random.below(DEFERRED_NS),
            11 if !connected => self.connect_in_steps(random),
            11 if random.below(20) == 0 => self.cut(random),
            _ => {}
        }
        let now_ns = self.now_ns;
        self.ends.iter_mut().for_each(|end| end.let_time_pass(now_ns));
        self.check();
    }

    fn cut(&mut self, random: &mut Random) {
        self.cuts += 1;
        self.connected = false;
        for end in &mut self.ends {
            end.cut(random.byte_count());
            end.hello = None;
        }
    }

    /// Both say how far they are, maybe read on for a while, and connect.
    fn connect_in_steps(&mut self, random: &mut Random) {
        let [one, other] = &mut self.ends;
        let missing = [&mut *one, &mut *other].into_iter().find(|end| end.hello.is_none());
        if let Some(end) = missing {
            end.hello = Some(end.session.received());
            return;
        }
        one.connect(other.hello.take().unwrap());
        other.connect(one.hello.take().unwrap());
        self.connected = true;
        if random.below(3) == 0 {
            self.cut(random); // Before anything was written.
        }
    }

    fn check(&self) {
        let (one, other) = (&self.ends[0], &self.ends[1]);
        for (sender, receiver) in [(one, other), (other, one)] {
            assert!(receiver.delivered <= sender.pushed);
            assert!(receiver.session.received() == receiver.delivered);
            let late = sender.deferred_until_ns.is_some_and(|until_ns| self.now_ns >= until_ns);
            assert!(!late, "a deferred frame waits for more than its time");
            assert!(!sender.session.has_deferred() || sender.deferred_until_ns.is_some(), "deferred for ever");
        }
    }

    /// The last fault is over: everything arrives, and nothing stays behind.
    fn heal(&mut self) {
        if !self.connected {
            let received = [0, 1].map(|at: usize| self.ends[at].session.received());
            self.ends[0].connect(received[1]);
            self.ends[1].connect(received[0]);
        }
        for round in 0..8 {
            for at in 0..2 {
                let (end, peer) = self.both(at);
                end.session.flush_deferred();
                end.write(peer, usize::MAX);
                end.ack();
                end.write(peer, usize::MAX);
                peer.read(usize::MAX);
            }
            let [one, other] = &self.ends;
            let at_rest = |end: &End| end.session.unacknowledged_bytes() == 0 && !end.session.owes_ack();
            if at_rest(one) && at_rest(other) {
                break;
            }
            assert!(round < 7, "it does not come to rest");
        }
        let [one, other] = &self.ends;
        assert_eq!((one.delivered, other.delivered), (other.pushed, one.pushed), "nothing is lost");
    }
}

fn run(seed: u64, steps: usize) -> Link {
    let mut random = Random(seed);
    let ends = [End::default(), End::default()];
    let mut link = Link { ends, connected: true, now_ns: 0, cuts: 0 };
    for _ in 0..steps {
        link.step(&mut random);
    }
    link.heal();
    link
}

#[test]
fn everything_arrives_once_and_in_order_over_connections_that_break() {
    let (mut cuts, mut duplicates, mut delivered) = (0, 0, 0);
    for seed in 0..40 {
        let link = run(seed, 2000);
        cuts += link.cuts;
        duplicates += link.ends.iter().map(|end| end.duplicates).sum::<u64>();
        delivered += link.ends.iter().map(|end| end.delivered).sum::<u64>();
    }
    // What was meant to happen has happened, or this test shows nothing.
    assert!(cuts > 200 && duplicates > 40 && delivered > 4000, "{cuts} {duplicates} {delivered}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn everything_arrives_whatever_the_seed(seed: u64, steps in 1_usize..1000) {
        run(seed, steps);
    }
}

/// What is kept is what is not acknowledged, and a constant factor: a long life costs nothing.
#[test]
fn a_session_that_is_acknowledged_does_not_grow() {
    let mut session = Session::new();
    for number in 1..=20_000 {
        send(&mut session, number, 1000, true);
        write_all(&mut session);
        if number > 10 {
            session.acknowledged(number - 10).unwrap();
        }
        assert!(session.unacknowledged_bytes() <= 10 * 1200);
    }
    assert!(session.memory_bytes() < 512 << 10, "{} bytes", session.memory_bytes());
    session.acknowledged(20_000).unwrap();
    assert!(session.memory_bytes() <= 192 << 10, "{} bytes", session.memory_bytes());
}

#[test]
fn an_idle_session_gives_its_memory_back() {
    let mut session = having_sent(100_000);
    assert!(session.memory_bytes() > 10 << 20);
    session.acknowledged(100_000).unwrap();
    assert!(session.memory_bytes() <= 192 << 10, "{} bytes", session.memory_bytes());
}
