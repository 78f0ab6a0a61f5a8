//! A log that several voters decide: with three of them one may fail, with five two.
//!
//! One voter leads, the others keep what it writes, and what a majority has kept is decided (Raft, with
//! a vote in advance, so that whoever was cut off upsets nobody). Messages may be lost, doubled and
//! reordered: each says all that it means by itself. Everything a voter says is on its disk before.
//!
//! - Each leader begins with a [`Change::Lead`], so that all members know whom to ask.
//! - [`Change::Voters`] needs a majority of the old voters and one of the new until it is decided.
//! - A voter that comes back without its log could vote twice in a term. It does not vote until a later
//!   entry names it again.
//! - A proposal has its proposer and a number, and is in the log once, however often it is repeated (but
//!   see [`Voters::doubts`]).
//! - All other members follow as with one voter: they ask, and are told by the leader.
//!
//! What is known by a disk that a power failure has torn is what was written whole.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kddm_core::id::{NodeId, Time};

use crate::change::Change;
use crate::log::{Decided, LogError, Outgoing, ViewLog};
use crate::single_voter::{FOLLOW_INTERVAL_NS, PROPOSALS};
use crate::state::{MEMBERS, State};

mod book;
pub(crate) mod choice;
pub(crate) mod disk;
mod election;
pub(crate) mod leading;
pub(crate) mod memory;
pub(crate) mod message;
mod replication;
pub(crate) mod storage;

use book::{Base, Book};
use election::Early;
use leading::Pace;
use message::Wire;
use storage::{Promise, Storage, StorageError};

/// How often a leader shows that it is there, 200 ms: five times before anyone takes it for gone.
pub const HEARTBEAT_NS: u64 = 200_000_000;

/// The shortest silence after which a voter wants to lead, 1 s: a busy host is silent for less. The
/// longest is twice that, and which it is is drawn anew each time, so that seldom two want it at once.
pub const ELECTION_NS: u64 = 1_000_000_000;

/// How often a proposal is repeated, 300 ms: a round trip between continents.
pub const PROPOSE_INTERVAL_NS: u64 = 300_000_000;

/// Entries kept beside the state, as with one voter: who is further behind takes the state.
pub const VOTERS_ENTRIES_KEPT: usize = 4096;

/// Entries that are not decided yet. While there are more, no proposal is taken.
const UNDECIDED: u64 = 1024;

/// Messages that wait to be taken. More are dropped, as if the network had lost them.
const OUTGOING: usize = 4 * MEMBERS;

/// Another node, as the leader knows it.
#[derive(Debug)]
struct Peer {
    /// All up to here is as in the log of the leader.
    matched: u64,
    /// The next entry to send.
    next: u64,
    /// It knows that all up to here is decided.
    has: u64,
    /// When it last answered.
    heard: Time,
    /// What it keeps counts: it has its log.
    counts: bool,
    /// It has said that its disk has failed.
    fails: bool,
    /// It has been told up to here, if it only follows.
    told: u64,
}

#[derive(Debug)]
enum Role {
    Follower,
    Candidate {
        /// It only asks whether it would be voted for.
        pre: bool,
        granted: BTreeSet<NodeId>,
    },
    Leader {
        since: Time,
        peers: BTreeMap<NodeId, Peer>,
        beat_at: Time,
    },
}

/// The log of one node, be it a voter or not.
///
/// ```
/// use kddm_core::id::{NodeId, Time};
/// use kddm_view::{Change, ClusterId, Identity, MemoryDisk, SessionId, State, ViewLog, Voters};
///
/// let identity = Identity { cluster: ClusterId(1), session: SessionId::DEFAULT };
/// let disk = MemoryDisk::default();
/// let state = State::new(identity, NodeId(1));
/// let mut log = Voters::found(NodeId(1), 42, state.clone(), Box::new(disk.clone()))?;
/// log.propose(Change::Seal)?;
/// assert_eq!(log.decided_since(0)?.last().map(|entry| &entry.change), Some(&Change::Seal));
///
/// drop(log);
/// let log = Voters::restart(NodeId(1), 43, Box::new(disk))?.ok_or("there is a log")?;
/// assert_eq!(log.decided_since(0)?[1].change, Change::Seal);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Voters {
    me: NodeId,
    /// Names this life of the node among all proposers.
    origin: u64,
    now: Time,
    random: u64,
    storage: Box<dyn Storage>,
    /// It could not keep what it had to: it says nothing more.
    failed: Option<StorageError>,
    /// Why it only follows, see [`Voters::retire`].
    retired: Option<StorageError>,
    book: Book,
    promise: Promise,
    /// Entries before this one that name it as a voter meant a log that it does not have.
    votes_from: u64,
    role: Role,
    leader: Option<NodeId>,
    /// Who led before this node began to want to.
    lost: Option<NodeId>,
    /// A leader that is proven dead, and its term: what it has said before may come later still.
    dead: Option<(NodeId, u64)>,
    /// When the leader was last heard.
    heard: Option<Time>,
    elect_at: Time,
    /// When this node has asked for votes last, and how often without a whole election in between.
    asks_since: Time,
    attempts: u32,
    /// When it has voted last.
    voted: Option<Time>,
    /// What voters have asked too early: at most one question each.
    early: BTreeMap<NodeId, Early>,
    ask_at: Time,
    /// How often it has asked: each time another voter.
    asked: usize,
    propose_at: Time,
    ticket: u64,
    proposals: VecDeque<Change>,
    outgoing: Vec<Outgoing>,
    entries_kept: usize,
    pace: Pace,
    /// It leads if it is elected: see [`Voters::stand_back`].
    stands: bool,
    /// How far all was decided at the last write that did not fail.
    shown: u64,
    doubts: u64,
}

impl std::fmt::Debug for Voters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, last, decided) = (self.book.first(), self.book.last(), self.book.decided());
        let Voters { me, promise, role, leader, votes_from, .. } = self;
        write!(
            f,
            "{me} {promise:?} {role:?} led by {leader:?} entries {first}..{last} decided {decided}, votes from {votes_from}"
        )
    }
}

impl Voters {
    /// The log of the first node of a new cluster, its only voter. `origin` is any number that no other
    /// life of a node has.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn found(me: NodeId, origin: u64, state: State, storage: Box<dyn Storage>) -> Result<Voters, LogError> {
        let mut log = Voters::new(me, origin, Book::new(Base::of(state)), storage);
        log.book.batch.node = Some(me);
        log.start_election(true);
        log.flush()?;
        Ok(log)
    }

    /// The log of a node that the others have let in, with the state that they gave it: the entry that
    /// let it in must be in there, or an entry that meant an earlier life of it could make it vote.
    /// Whatever was in its storage is gone.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn follow(me: NodeId, origin: u64, state: State, storage: Box<dyn Storage>) -> Result<Voters, LogError> {
        // A new node has promised nothing to anyone; one that votes already may have, and does not know.
        let votes_from = if state.voters.contains(&me) { state.applied().saturating_add(1) } else { 0 };
        let leader = state.voter();
        let mut log = Voters::new(me, origin, Book::new(Base::of(state)), storage);
        log.votes_from = votes_from;
        log.leader = Some(leader).filter(|leader| *leader != me);
        log.promise.term = log.book.last_term();
        log.book.batch.promise = Some(log.promise);
        log.book.batch.votes_from = Some(votes_from);
        log.book.batch.node = Some(me);
        log.flush()?;
        Ok(log)
    }

    /// The log of a node that has kept it; nothing if there is none.
    ///
    /// # Errors
    /// If the storage fails, is damaged, or is that of another node.
    pub fn restart(me: NodeId, origin: u64, mut storage: Box<dyn Storage>) -> Result<Option<Voters>, LogError> {
        let Some(kept) = storage.load()? else { return Ok(None) };
        if kept.node != me {
            return Err(StorageError::OtherNode { kept: kept.node, wanted: me }.into());
        }
        let book = Book::read(&kept)?;
        let mut log = Voters::new(me, origin, book, storage);
        log.promise = kept.promise;
        log.promise.term = log.promise.term.max(log.book.last_term());
        log.votes_from = kept.votes_from;
        if log.is_voter() && log.has_quorum(|voter| voter == me) {
            log.start_election(true);
        }
        log.flush()?;
        Ok(Some(log))
    }

    fn new(me: NodeId, origin: u64, book: Book, storage: Box<dyn Storage>) -> Voters {
        let mut log = Voters {
            me,
            origin,
            now: Time(0),
            random: (origin ^ (u64::from(me.0) << 48)) | 1,
            storage,
            failed: None,
            retired: None,
            book,
            promise: Promise::default(),
            votes_from: 0,
            role: Role::Follower,
            leader: None,
            lost: None,
            dead: None,
            heard: None,
            elect_at: Time(0),
            asks_since: Time(0),
            attempts: 0,
            voted: None,
            early: BTreeMap::new(),
            ask_at: Time(0),
            asked: 0,
            propose_at: Time(0),
            ticket: 1,
            proposals: VecDeque::new(),
            outgoing: Vec::new(),
            entries_kept: VOTERS_ENTRIES_KEPT,
            pace: Pace::default(),
            stands: true,
            shown: 0,
            doubts: 0,
        };
        log.wait_to_elect();
        log
    }

    /// The same, with that many entries beside the state.
    pub fn with_entries_kept(mut self, entries: usize) -> Voters {
        self.entries_kept = entries.max(2);
        self
    }

    /// Whether this node leads the voters, as far as it knows.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader { .. })
    }

    /// How many voters the smallest group has that has a say, as far as this node knows: its old voters
    /// keep theirs until it has heard that other ones were decided.
    pub fn fewest_voters(&self) -> usize {
        self.book.configurations().iter().map(|configuration| configuration.voters.len()).min().unwrap_or(0)
    }

    /// How often this node has taken a state that does not tell whether what it wanted was decided: then it
    /// asks again, and the change may be in the log twice.
    pub fn doubts(&self) -> u64 {
        self.doubts
    }

    /// The term that this node is in: at most one node leads in each.
    pub fn term(&self) -> u64 {
        self.promise.term
    }

    /// The state that the entries follow which are kept here.
    pub fn base(&self) -> &State {
        &self.book.base().state
    }

    /// Writes what has changed, then lets out what was said about it.
    fn flush(&mut self) -> Result<(), LogError> {
        // What is decided with this very write stays as entries: its node has not been told yet.
        let decided = std::mem::replace(&mut self.shown, self.book.decided());
        if decided.saturating_sub(self.book.first()) > self.entries_kept as u64 {
            self.book.fold(decided - self.entries_kept as u64 / 2);
        }
        if self.book.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.book.batch);
        if let Err(error) = self.storage.write(&batch) {
            self.outgoing.clear();
            self.role = Role::Follower;
            // What one voter has decided alone rests on this very write.
            self.shown = decided;
            self.failed = Some(error.clone());
            return Err(error.into());
        }
        Ok(())
    }

    fn working(&self) -> Result<(), LogError> {
        self.failed.clone().map_or(Ok(()), |error| Err(error.into()))
    }

    fn send(&mut self, to: NodeId, message: &Wire) {
        if to != self.me && self.outgoing.len() < OUTGOING {
            self.outgoing.push(Outgoing { to, message: message.encode() });
        }
    }

    fn bad(from: NodeId, what: &'static str) -> LogError {
        LogError::BadMessage { from, what }
    }

    // Who has a say.

    /// Whether there is a majority in each group of voters that has a say.
    fn has_quorum(&self, agrees: impl Fn(NodeId) -> bool) -> bool {
        let is_majority =
            |voters: &Vec<NodeId>| voters.iter().filter(|voter| agrees(**voter)).count() * 2 > voters.len();
        self.book.configurations().iter().all(|configuration| is_majority(&configuration.voters))
    }

    /// All that have a say, whether now or before what was named last is decided.
    fn voters(&self) -> BTreeSet<NodeId> {
        self.book.configurations().into_iter().flat_map(|configuration| configuration.voters).collect()
    }

    /// Whether this node was named with the log that it has.
    fn is_voter(&self) -> bool {
        let names_me = |at: u64, voters: &[NodeId]| at >= self.votes_from && voters.contains(&self.me);
        self.book.configurations().iter().any(|configuration| names_me(configuration.at, &configuration.voters))
    }

    /// Whether it may vote: also one that has just been replaced may, but none that has lost its log.
    fn may_vote(&self) -> bool {
        self.votes_from == 0 || self.is_voter()
    }

    fn wants_to_lead(&self) -> bool {
        self.stands && !self.is_leader() && self.is_voter()
    }

    fn wait_to_elect(&mut self) {
        // xorshift64: two nodes seldom draw the same.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.elect_at = self.now.after_ns(self.pace.election_ns + self.random % self.pace.election_ns);
    }

    /// Asks the leader what is decided, or one voter after the other where there seems to be none.
    fn ask(&mut self) {
        self.ask_at = self.now.after_ns(FOLLOW_INTERVAL_NS);
        let decided = self.book.decided();
        let others: Vec<NodeId> = self.voters().into_iter().filter(|voter| *voter != self.me).collect();
        let is_there = self.heard.is_some_and(|heard| self.now <= heard.after_ns(2 * FOLLOW_INTERVAL_NS));
        let known = self.leader.filter(|leader| *leader != self.me && is_there);
        let next = others.get(self.asked % others.len().max(1)).copied();
        self.asked = self.asked.wrapping_add(1);
        if let Some(to) = known.or(next) {
            self.send(to, &Wire::Follow { decided, fails: self.retired.is_some() });
        }
    }
}

impl ViewLog for Voters {
    fn propose(&mut self, change: Change) -> Result<(), LogError> {
        self.working()?;
        change.check()?;
        if self.proposals.len() >= PROPOSALS {
            return Err(LogError::TooManyProposals { waiting: self.proposals.len() });
        }
        let change = match change {
            Change::MoveVoter { to } => Change::Voters { voters: vec![to] },
            other => other,
        };
        self.proposals.push_back(change);
        self.press();
        self.flush()
    }

    fn step(&mut self, from: NodeId, message: &[u8]) -> Result<(), LogError> {
        self.working()?;
        if !from.is_somebody() || from == self.me {
            return Err(Voters::bad(from, "it does not come from another node"));
        }
        let done = self.take(from, Wire::read(from, message)?);
        self.flush()?;
        done
    }

    fn tick(&mut self, now: Time) {
        self.now = self.now.max(now);
        if self.failed.is_some() {
            return;
        }
        self.beat();
        let is_lost = self.heard.is_none_or(|heard| self.now > heard.after_ns(2 * self.pace.election_ns));
        if !self.is_leader() && self.now >= self.ask_at && (is_lost || !self.is_voter()) {
            self.ask();
        }
        self.answer_early();
        if self.wants_to_lead() && self.now >= self.elect_at {
            self.start_election(true);
        }
        if self.now >= self.propose_at {
            self.press();
        }
        // What failed is told by the next call that can.
        let _told_later = self.flush();
    }

    fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    fn decided_since(&self, index: u64) -> Result<Vec<Decided>, LogError> {
        self.working()?;
        if index < self.book.first() {
            return Err(LogError::Forgotten { first: self.book.first().saturating_add(1) });
        }
        Ok(self.book.decided_since(index))
    }

    fn known_by(&self, node: NodeId) -> u64 {
        match &self.role {
            _ if node == self.me => self.book.decided(),
            Role::Leader { peers, .. } => peers.get(&node).map_or(0, |peer| peer.has),
            _ => 0,
        }
    }

    fn skip_to(&mut self, state: &State) {
        if self.failed.is_none() && !self.is_leader() && state.applied() > self.book.decided() {
            self.doubts += u64::from(!self.proposals.is_empty());
            self.ticket += u64::from(!self.proposals.is_empty());
            self.step_down(state.term());
            self.book.replace(Base::of(state.clone()));
            let _told_later = self.flush();
        }
    }

    fn reconfigure(&mut self, voters: &[NodeId]) -> Result<(), LogError> {
        self.propose(Change::Voters { voters: voters.to_vec() })
    }

    /// The entries of this log say so themselves.
    fn voters_are(&mut self, _voters: &[NodeId]) {}

    fn state(&self) -> Option<&State> {
        Some(self.base())
    }
}

#[cfg(test)]
mod tests;
