//! The links below the nodes: real sessions and real frames over connections that lose frames, double
//! them, and are cut. What the sessions make of that must be each message once, in order: the world's
//! own links are the yardstick.

use std::collections::BTreeMap;

use kddm_core::frame::{BodySeal, Decoded, Envelope, Frame, Numbers, decode, encode, encode_ack, encode_head};
use kddm_core::id::NodeId;
use kddm_core::io::{DEFERRED_NS, NoMemory};
use kddm_core::session::Accept;

use crate::agent::Packet;
use crate::fault::{Counts, Fault};
use crate::scenario::{MICRO, MILLI, Scenario};
use crate::views::life;
use crate::world::World;

mod side;

use side::Side;

/// What happens below the nodes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Event {
    /// Bytes from the first node reach the second, on the connection with that number.
    Arrive(NodeId, NodeId, u64, Vec<u8>),
    /// The first node may write to the second.
    Write(NodeId, NodeId),
    /// The first node's deferred frames to the second have waited long enough.
    Flush(NodeId, NodeId),
    /// An acknowledgement to the second node has waited long enough.
    Acknowledge(NodeId, NodeId),
    /// Somebody notices that the connection with that number is broken.
    Notice(NodeId, NodeId, u64),
    /// The two nodes greet each other: each says up to where it has received.
    Greet(NodeId, NodeId),
    /// The two nodes are connected again, after the end of the connection before that number.
    Connect(NodeId, NodeId, u64),
}

impl Event {
    /// Who has to be alive for it: what somebody has written before arrives nevertheless.
    fn needs(&self) -> [NodeId; 2] {
        match *self {
            Event::Arrive(_, to, ..) => [to, to],
            Event::Notice(a, b, _) | Event::Greet(a, b) | Event::Connect(a, b, _) => [a, b],
            Event::Write(from, to) | Event::Flush(from, to) | Event::Acknowledge(from, to) => [from, to],
        }
    }
}

/// Events to come, each with its time.
pub type Agenda = Vec<(u64, Event)>;

/// How long an acknowledgement may wait for a frame to ride on, as in the library.
const ACK_DELAY_NS: u64 = 20 * MILLI;
/// Between two writes of one node to another; longer where the socket is full.
const WRITE_NS: u64 = 2 * MICRO;
const FULL_NS: u64 = 100 * MICRO;
/// Until somebody notices that a frame is missing, or that the other side has given up.
const MOST_NOTICE_NS: u64 = 30 * MILLI;
/// Until a connection is made anew.
const MOST_DOWN_NS: u64 = 50 * MILLI;
/// Bodies from this size on are kept apart from the frames.
const APART_BYTES: usize = 256;

/// The connection of two nodes.
#[derive(Clone, Copy, Debug)]
struct Connection {
    number: u64,
    is_up: bool,
    /// A frame was lost on it: a gap is no surprise.
    has_lost: bool,
    /// While it is down: what is under way on the one before still arrives, nobody there knows better.
    is_half_open: bool,
}

/// All connections, and what each node has of its sessions.
pub struct Network<'a> {
    scenario: &'a Scenario,
    sides: BTreeMap<(NodeId, NodeId), Side>,
    connections: BTreeMap<(NodeId, NodeId), Connection>,
    /// Numbers what is sent, in the order of time.
    sent: u64,
    /// The greatest such number that has reached each node.
    latest: BTreeMap<NodeId, u64>,
    /// Frames that have arrived, lost ones included.
    pub frames: u64,
    /// Writes on connections.
    pub writes: u64,
    /// Frames written again after a reconnect that had arrived before.
    pub resent: u64,
    /// What went wrong as it should.
    pub counts: Counts,
    /// What the sessions got wrong.
    pub broken: Option<String>,
}

impl Connection {
    /// Nothing arrives on it any more.
    fn close(&mut self) {
        if self.is_up || self.is_half_open {
            self.number += 1;
            (self.is_up, self.is_half_open) = (false, false);
        }
    }

    /// Whether bytes that were written on the connection with that number still arrive.
    fn takes(&self, number: u64) -> bool {
        if self.is_up { self.number == number } else { self.is_half_open && self.number == number + 1 }
    }
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl<'a> Network<'a> {
    /// All nodes are connected.
    pub fn new(scenario: &'a Scenario) -> Network<'a> {
        let nodes = || (1..=scenario.nodes).map(NodeId);
        let ordered = || nodes().flat_map(|from| nodes().map(move |to| (from, to))).filter(|(from, to)| from != to);
        let up = Connection { number: 0, is_up: true, has_lost: false, is_half_open: false };
        Network {
            scenario,
            sides: ordered().map(|(from, to)| ((from, to), Side::new(scenario.seed, from, to))).collect(),
            connections: ordered().map(|(from, to)| (pair(from, to), up)).collect(),
            sent: 0,
            latest: BTreeMap::new(),
            frames: 0,
            writes: 0,
            resent: 0,
            counts: Counts::default(),
            broken: None,
        }
    }

    /// Takes what a node has said since the last call into its sessions.
    pub fn collect(&mut self, world: &World, from: NodeId, now: u64, agenda: &mut Agenda) {
        for (&(_, to), packets) in world.links.range((from, NodeId(0))..=(from, NodeId(u16::MAX))) {
            let Some(side) = self.sides.get_mut(&(from, to)) else { continue };
            for packet in packets.iter().skip(side.pushed.len()) {
                self.sent += 1;
                side.pushed.push_back(self.sent);
                if push(side, from, packet).is_err() {
                    self.broken.get_or_insert_with(|| "memory was refused".into());
                }
                let (delay, event) =
                    if packet.deferred { (DEFERRED_NS, Event::Flush(from, to)) } else { (0, Event::Write(from, to)) };
                agenda.push((now + delay, event));
            }
        }
    }

    /// The dead say no more. What they have said is gone where the world has nothing of it any more.
    pub fn bury(&mut self, world: &World) {
        let pairs = world.dead.iter().flat_map(|dead| world.nodes.iter().map(move |node| (*dead, node.id())));
        for (dead, node) in pairs.filter(|pair| !world.links.contains_key(pair)) {
            let Some(connection) = self.connections.get_mut(&pair(dead, node)) else { continue };
            connection.close();
            if let Some(side) = self.sides.get_mut(&(node, dead)) {
                side.arrived = 0;
            }
            if let Some(side) = self.sides.get_mut(&(dead, node)) {
                side.pushed.clear();
            }
        }
    }

    /// A node is in its next life: it has said nothing yet, and nobody has said anything to it.
    pub fn greet_anew(&mut self, node: NodeId) {
        for other in (1..=self.scenario.nodes).map(NodeId).filter(|other| *other != node) {
            for (from, to) in [(node, other), (other, node)] {
                self.sides.insert((from, to), Side::new(self.scenario.seed ^ self.sent, from, to));
            }
            let Some(connection) = self.connections.get_mut(&pair(node, other)) else { continue };
            let number = connection.number + 1;
            *connection = Connection { number, is_up: true, has_lost: false, is_half_open: false };
        }
    }

    /// Messages from that node that have come out of the session of this one and are not handled yet.
    pub fn arrived(&self, from: NodeId, to: NodeId) -> usize {
        self.sides.get(&(to, from)).map_or(0, |side| side.arrived)
    }

    /// The first of them is handled now.
    pub fn take(&mut self, from: NodeId, to: NodeId) {
        if let Some(side) = self.sides.get_mut(&(to, from)) {
            side.arrived -= 1;
        }
        let number = self.sides.get_mut(&(from, to)).and_then(|side| side.pushed.pop_front()).unwrap_or(0);
        let latest = self.latest.entry(to).or_insert(0);
        if number < *latest {
            self.counts.add(Fault::Reorder);
        }
        *latest = number.max(*latest);
    }

    /// Handles one event.
    pub fn handle(&mut self, world: &World, now: u64, event: Event, agenda: &mut Agenda) {
        if event.needs().into_iter().any(|node| world.is_dead(node)) {
            return;
        }
        match event {
            Event::Arrive(from, to, connection, bytes) => {
                if self.connections.get(&pair(from, to)).is_some_and(|of| of.takes(connection)) {
                    self.arrive(world, now, (from, to), &bytes, agenda);
                }
            }
            Event::Write(from, to) => self.write(now, from, to, agenda),
            Event::Flush(from, to) => {
                if let Some(side) = self.sides.get_mut(&(from, to)) {
                    side.session.flush_deferred();
                }
                self.write(now, from, to, agenda);
            }
            Event::Acknowledge(from, to) => self.acknowledge(now, from, to, agenda),
            Event::Notice(a, b, number) => {
                if self.connections.get(&pair(a, b)).is_some_and(|of| of.is_up && of.number == number) {
                    self.disconnect(now, a, b, agenda);
                }
            }
            Event::Greet(a, b) => {
                for (from, to) in [(a, b), (b, a)] {
                    if let Some(side) = self.sides.get_mut(&(from, to)) {
                        side.greeting = side.session.received();
                    }
                }
            }
            Event::Connect(a, b, number) => {
                if self.connections.get(&pair(a, b)).is_some_and(|of| !of.is_up && of.number == number) {
                    self.connect(now, a, b, agenda);
                }
            }
        }
    }

    /// Writes a part of what is to be written; a part may end inside a frame.
    fn write(&mut self, now: u64, from: NodeId, to: NodeId, agenda: &mut Agenda) {
        let Some(connection) = self.connections.get(&pair(from, to)).copied().filter(|of| of.is_up) else { return };
        let Some(side) = self.sides.get_mut(&(from, to)) else { return };
        if now < side.busy_until {
            return agenda.push((side.busy_until, Event::Write(from, to)));
        }
        let most = [64, 500, 4_000, 64_000][side.random.usize(0..4)];
        side.session.seal_next(most as u64, |_head, _body| {});
        let bytes: Vec<u8> = side.session.pieces_to_write().flatten().copied().take(most).collect();
        if bytes.is_empty() {
            return;
        }
        side.session.wrote(bytes.len());
        side.busy_until = now + if side.random.u8(0..8) == 0 { FULL_NS } else { WRITE_NS };
        let again = side.busy_until;
        self.writes += 1;
        let rates = self.scenario.rates;
        let is_cut = side.happens(rates.cut_ppm);
        let arrives = self.arrival(now, from, to);
        agenda.push((arrives, Event::Arrive(from, to, connection.number, bytes)));
        agenda.push((again, Event::Write(from, to)));
        if is_cut {
            // At any moment while that is under way.
            let Some(side) = self.sides.get_mut(&(from, to)) else { return };
            let at = side.random.u64(now..=arrives);
            self.counts.add(Fault::Cut);
            agenda.push((at, Event::Notice(from, to, connection.number)));
        }
    }

    /// When something written now arrives: never before what was written earlier.
    fn arrival(&mut self, now: u64, from: NodeId, to: NodeId) -> u64 {
        let Scenario { nodes, latencies, rates, .. } = self.scenario;
        let Some(side) = self.sides.get_mut(&(from, to)) else { return now };
        let at = usize::from((from.0 - 1) * nodes + to.0 - 1);
        let mut latency = latencies.base_ns[at] + side.random.u64(0..=latencies.jitter_ns[at]);
        if side.happens(rates.tail_ppm) {
            latency *= latencies.tail_factor;
            self.counts.add(Fault::Tail);
        }
        if let Some((_, most)) = latencies.slow.iter().find(|(node, _)| *node == to) {
            latency += side.random.u64(0..=*most);
            self.counts.add(Fault::Slow);
        }
        side.last_arrival = side.last_arrival.max(now + latency);
        side.last_arrival
    }

    fn arrive(&mut self, world: &World, now: u64, (from, to): (NodeId, NodeId), bytes: &[u8], agenda: &mut Agenda) {
        let Some(side) = self.sides.get_mut(&(to, from)) else { return };
        side.input.extend_from_slice(bytes);
        let mut input = std::mem::take(&mut side.input);
        let mut start = 0;
        loop {
            let (frame, length) = match decode(&input[start..]) {
                Ok(Decoded::Frame(frame, length)) => (frame, length),
                Ok(Decoded::Needs(_)) => break,
                Err(error) => {
                    self.broken.get_or_insert_with(|| format!("node {to} cannot read what {from} wrote: {error:?}"));
                    return;
                }
            };
            if !self.frame(world, now, (from, to), &frame, length, agenda) {
                return;
            }
            start += length;
        }
        input.drain(..start);
        let Some(side) = self.sides.get_mut(&(to, from)) else { return };
        side.input = input;
        if side.session.must_ack_now() {
            self.acknowledge(now, to, from, agenda);
        } else if side.session.owes_ack() && !side.will_acknowledge {
            side.will_acknowledge = true;
            agenda.push((now + ACK_DELAY_NS, Event::Acknowledge(to, from)));
        }
    }

    /// One frame has arrived, or is lost here. False if that ended the connection.
    fn frame(
        &mut self,
        world: &World,
        now: u64,
        (from, to): (NodeId, NodeId),
        frame: &Frame<'_>,
        length: usize,
        agenda: &mut Agenda,
    ) -> bool {
        self.frames += 1;
        let rates = self.scenario.rates;
        let Some(side) = self.sides.get_mut(&(to, from)) else { return false };
        if side.happens(rates.loss_ppm) {
            let at = now + side.random.u64(MICRO..=MOST_NOTICE_NS);
            self.counts.add(Fault::Loss);
            if let Some(connection) = self.connections.get_mut(&pair(from, to)) {
                connection.has_lost = true;
                if !connection.is_up {
                    return true;
                }
                agenda.push((at, Event::Notice(from, to, connection.number)));
            }
            return true;
        }
        let times = if side.happens(rates.duplicate_ppm) { 2 } else { 1 };
        for time in 1..=times {
            if time == 2 {
                self.counts.add(Fault::Duplicate);
            }
            if !self.accept(world, now, (from, to), frame, length, agenda) {
                return false;
            }
        }
        true
    }

    fn accept(
        &mut self,
        world: &World,
        now: u64,
        (from, to): (NodeId, NodeId),
        frame: &Frame<'_>,
        length: usize,
        agenda: &mut Agenda,
    ) -> bool {
        let Some(side) = self.sides.get_mut(&(to, from)) else { return false };
        if side.session.acknowledged(frame.numbers.acknowledged).is_err() {
            self.broken.get_or_insert_with(|| format!("link: node {from} acknowledges what {to} never sent"));
        }
        if frame.message.is_none() {
            return true;
        }
        match side.session.accept(frame.numbers.sequence, length) {
            Accept::New => {
                let packet = world.links.get(&(from, to)).and_then(|link| link.get(side.arrived));
                side.arrived += 1;
                if !packet.is_some_and(|packet| says(frame, from, packet)) {
                    let what = format!("link: from {from} to {to} came {frame:?}, next was {packet:?}");
                    self.broken.get_or_insert(what);
                }
                true
            }
            Accept::Duplicate => {
                self.resent += 1;
                true
            }
            Accept::Gap => {
                if !self.connections.get(&pair(from, to)).is_some_and(|connection| connection.has_lost) {
                    self.broken.get_or_insert_with(|| format!("link: a gap from {from} to {to}, and nothing was lost"));
                }
                self.disconnect(now, from, to, agenda);
                if let Some(connection) = self.connections.get_mut(&pair(from, to)) {
                    connection.is_half_open = false; // Whoever has noticed reads no more.
                }
                false
            }
        }
    }

    /// A bare acknowledgement, if one is still owed and no frame is half written.
    fn acknowledge(&mut self, now: u64, from: NodeId, to: NodeId, agenda: &mut Agenda) {
        let Some(connection) = self.connections.get(&pair(from, to)).copied() else { return };
        let Some(side) = self.sides.get_mut(&(from, to)) else { return };
        side.will_acknowledge = false;
        if !connection.is_up || !side.session.owes_ack() {
            return;
        }
        if !side.session.is_between_frames() {
            side.will_acknowledge = true;
            return agenda.push((now + WRITE_NS, Event::Acknowledge(from, to)));
        }
        let mut bytes = Vec::new();
        if encode_ack(from, side.session.received(), &mut bytes).is_ok() {
            side.session.sent_ack();
            let arrives = self.arrival(now, from, to);
            agenda.push((arrives, Event::Arrive(from, to, connection.number, bytes)));
        }
    }

    /// The connection ends, with all that is under way on it.
    fn disconnect(&mut self, now: u64, a: NodeId, b: NodeId, agenda: &mut Agenda) {
        let Some(connection) = self.connections.get_mut(&pair(a, b)) else { return };
        if !connection.is_up {
            return;
        }
        let Some(side) = self.sides.get_mut(&(a, b)) else { return };
        connection.is_up = false;
        connection.number += 1;
        connection.is_half_open = side.random.bool();
        let down = side.random.u64(MICRO..=MOST_DOWN_NS);
        let greets = side.random.u64(0..=down);
        agenda.push((now + greets, Event::Greet(a, b)));
        agenda.push((now + down, Event::Connect(a, b, connection.number)));
    }

    /// A new connection: each side has said up to where it had received when it greeted, and the other
    /// goes on from there.
    fn connect(&mut self, now: u64, a: NodeId, b: NodeId, agenda: &mut Agenda) {
        for (from, to) in [(a, b), (b, a)] {
            let received = self.sides.get(&(to, from)).map_or(0, |side| side.greeting);
            let Some(side) = self.sides.get_mut(&(from, to)) else { return };
            side.input.clear();
            side.last_arrival = now;
            if side.session.resume(received).is_err() {
                self.broken.get_or_insert_with(|| format!("link: node {to} has received what {from} never sent"));
            }
            agenda.push((now, Event::Write(from, to)));
            agenda.push((now + ACK_DELAY_NS, Event::Acknowledge(from, to)));
            side.will_acknowledge = true;
        }
        if let Some(connection) = self.connections.get_mut(&pair(a, b)) {
            (connection.is_up, connection.has_lost) = (true, false);
        }
    }
}

fn envelope(from: NodeId, packet: &Packet) -> Envelope {
    Envelope {
        epoch: packet.epoch,
        placement: packet.placement,
        from,
        incarnation: life(from),
        set: packet.set,
        object: packet.object,
    }
}

/// The bytes of a value: some are long enough to be kept apart.
fn body(packet: &Packet) -> Vec<u8> {
    let words = |value: u32| 1 + (value as usize * 37) % (APART_BYTES / 2);
    packet.body.map_or_else(Vec::new, |value| value.to_le_bytes().repeat(words(value)))
}

fn push(side: &mut Side, from: NodeId, packet: &Packet) -> Result<(), NoMemory> {
    let Side { session, .. } = side;
    let numbers = Numbers { sequence: session.next_sequence(), acknowledged: session.received() };
    let (envelope, body) = (envelope(from, packet), body(packet));
    let seal = BodySeal { length: body.len() as u32, checksum: 0 };
    if body.len() >= APART_BYTES {
        let head = |out: &mut Vec<u8>| encode_head(&envelope, &packet.message, numbers, seal, out);
        return session.push_apart(!packet.deferred, Some(body), head);
    }
    session.push(!packet.deferred, |out| {
        encode(&envelope, &packet.message, numbers, seal, out)?;
        out.extend_from_slice(&body);
        Ok(())
    })
}

/// Whether a frame is just this message.
fn says(frame: &Frame<'_>, from: NodeId, packet: &Packet) -> bool {
    frame.envelope == envelope(from, packet)
        && frame.message.as_ref() == Some(&packet.message)
        && frame.body == body(packet)
}
