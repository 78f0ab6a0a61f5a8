//! What a lane counts.

use kddm_core::message::MESSAGE_KINDS;

use crate::runtime::per_kind::PerKind;

/// What a lane counts. Reads that hit are counted by nobody: that would cost them.
#[derive(Clone, Copy, Default, Debug)]
pub struct Statistics {
    /// Requests that left a local thread waiting.
    pub misses: u64,
    /// Messages sent, by kind (the names are `kddm_core::message::Message::NAMES`).
    pub sent: PerKind,
    /// Messages received, by kind.
    pub received: PerKind,
    /// Copies of objects taken in.
    pub installs: u64,
    /// Inputs for which the protocol was refused memory. Those of other nodes were tried again.
    pub refused_memory: u64,
    /// Greetings of nodes and programs with which this node does not talk.
    pub refused_greetings: u64,
    /// Messages and inputs that could not be meant, or came for a destroyed set.
    pub dropped: u64,
    /// Frames and greetings that were malformed; each ended its connection.
    pub malformed: u64,
    /// Objects that arrived, or were read, with bytes that do not fit the type that the set has here.
    pub undecodable: u64,
    /// Broken invariants; the node fences itself at the first.
    pub faults: u64,
    /// Lanes that fenced themselves: nothing that they hold is used any more.
    pub fences: u64,
    /// Connections that ended and were made again.
    pub reconnects: u64,
    /// Members whose processes have ended, as the guardians of their hosts say.
    pub proven_dead: u64,
    /// Holds that were in somebody's way for longer than their set's limit.
    pub overdue_holds: u64,
    /// Notifiers that overran their limit.
    pub notifier_overruns: u64,
    /// Notifiers that panicked.
    pub notifier_panics: u64,
    /// Frames to and from programs that are attached to this node; in such a program, to and from it.
    pub frames_sent: u64,
    /// See `frames_sent`.
    pub frames_received: u64,
    /// Programs that were attached and are not any more.
    pub detached: u64,
    /// Losses that were accepted by this node: of one object, or all of a set.
    pub losses_accepted: u64,
    /// Sets that have ended here.
    pub sets_destroyed: u64,
    /// Lost objects of which this node is the home and whose place an older version has taken.
    pub rolled_back: u64,
    /// Objects that this node owned when it lost its lease, and still has.
    pub remembered: u64,
    /// Read copies that this node had when it lost its lease, and that are the newest still.
    pub revalidated: u64,
    /// Such copies that are not, or of which nobody can tell: they are fetched when somebody wants them.
    pub forgotten_copies: u64,
    /// Threads, tasks and programs here that waited for the thaw of a set before they could write.
    pub waits_for_thaw: u64,
    /// Operations that go to the owners of their objects.
    pub invoking: crate::invoke::InvokeCounts,
    /// Names that this process uses.
    pub names: crate::coordination::NameCounts,
}

impl Statistics {
    /// Ownerships that moved away from this node.
    pub fn moves(&self) -> u64 {
        self.by_kind().find(|(name, ..)| *name == "transfer").map_or(0, |(_, sent, _)| sent)
    }

    /// The kinds of messages, in the order in which `sent` and `received` count them.
    pub fn kinds() -> impl Iterator<Item = &'static str> {
        kddm_core::message::Message::NAMES.into_iter()
    }

    /// All messages sent.
    pub fn messages(&self) -> u64 {
        self.sent.iter().sum()
    }

    pub(crate) fn add(&mut self, other: &Statistics) {
        self.misses += other.misses;
        self.installs += other.installs;
        self.refused_memory += other.refused_memory;
        self.refused_greetings += other.refused_greetings;
        self.dropped += other.dropped;
        self.malformed += other.malformed;
        self.undecodable += other.undecodable;
        self.faults += other.faults;
        self.fences += other.fences;
        self.reconnects += other.reconnects;
        self.proven_dead += other.proven_dead;
        self.overdue_holds += other.overdue_holds;
        self.frames_sent += other.frames_sent;
        self.frames_received += other.frames_received;
        self.detached += other.detached;
        self.losses_accepted += other.losses_accepted;
        self.sets_destroyed += other.sets_destroyed;
        self.rolled_back += other.rolled_back;
        self.waits_for_thaw += other.waits_for_thaw;
        self.remembered += other.remembered;
        self.revalidated += other.revalidated;
        self.forgotten_copies += other.forgotten_copies;
        for kind in 0..MESSAGE_KINDS {
            self.sent[kind] += other.sent[kind];
            self.received[kind] += other.received[kind];
        }
    }
}
