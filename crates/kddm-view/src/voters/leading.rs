//! What a running node asks of its log beside the steps of [`ViewLog`](crate::ViewLog): at which pace
//! leaders are replaced, and what only a leader may do.

use kddm_core::id::{NodeId, Time};

use super::book::Entry;
use super::message::Wire;
use super::storage::{Nowhere, StorageError};
use super::{ELECTION_NS, HEARTBEAT_NS, Peer, Role, UNDECIDED, Voters};
use crate::change::Change;
use crate::log::LogError;
use crate::single_voter::FOLLOW_INTERVAL_NS;

/// The shortest heartbeat, 10 ms: with shorter leases nobody is found before they end, and a disk needs
/// as long to keep a vote.
const HEARTBEAT_LEAST_NS: u64 = 10_000_000;

/// How often a leader shows itself, and how long it is waited for.
///
/// ```
/// use kddm_view::{ELECTION_NS, Pace};
///
/// assert_eq!(Pace::for_lease_ms(60_000), Pace::default(), "nobody waits longer than for the default");
/// assert!(2 * Pace::for_lease_ms(1_000).election_ns < 750_000_000);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// How often the leader shows itself.
    pub heartbeat_ns: u64,
    /// The shortest silence after which a voter wants to lead; the longest is twice that.
    pub election_ns: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { heartbeat_ns: HEARTBEAT_NS, election_ns: ELECTION_NS }
    }
}

impl Pace {
    /// The pace at which another leader is found before the leases end that the last one has granted: who
    /// has one asks for more four times while it lasts, so that three quarters of it are left at the
    /// least, and after six tenths all voters have noticed.
    pub fn for_lease_ms(lease_ms: u32) -> Pace {
        let lease_ns = u64::from(lease_ms) * 1_000_000;
        Pace {
            heartbeat_ns: (lease_ns / 10).clamp(HEARTBEAT_LEAST_NS, HEARTBEAT_NS),
            election_ns: (lease_ns / 10 * 3).clamp(3 * HEARTBEAT_LEAST_NS, ELECTION_NS),
        }
    }
}

/// How much later than the first one each further voter wants to lead when the last leader is known to be
/// dead, in hundredths of an election: they are not to want it at once.
const STAGGER_PERCENT: u64 = 10;

impl Voters {
    /// The same at another pace, which all voters need to have.
    pub fn with_pace(mut self, pace: Pace) -> Voters {
        self.pace = pace;
        self.wait_to_elect();
        self
    }

    /// Each group of voters that has a say, as far as this node knows: while other voters have been named
    /// and it is not known yet that this is decided, more than one.
    pub fn groups(&self) -> Vec<Vec<NodeId>> {
        self.book.configurations().into_iter().map(|configuration| configuration.voters).collect()
    }

    /// Whether this node counts as one of the voters, with the log that it has.
    pub fn votes(&self) -> bool {
        self.failed.is_none() && self.is_voter()
    }

    /// Whether there is an entry of which it is not known here that it is decided.
    pub fn has_undecided(&self) -> bool {
        self.book.last() > self.book.decided()
    }

    /// Whether a change of this node waits to be decided.
    pub fn has_proposals(&self) -> bool {
        !self.proposals.is_empty()
    }

    /// Whether this node leads and has lately heard that node's log.
    pub fn hears(&self, node: NodeId) -> bool {
        let Role::Leader { peers, .. } = &self.role else { return false };
        peers.get(&node).is_some_and(|peer| self.now <= peer.heard.after_ns(3 * FOLLOW_INTERVAL_NS))
    }

    /// Whether this node leads and that node has told it that its disk has failed: it can keep no log, and is to be
    /// no voter until it has been started again.
    pub fn fails(&self, node: NodeId) -> bool {
        let Role::Leader { peers, .. } = &self.role else { return false };
        peers.get(&node).is_some_and(|peer| peer.fails)
    }

    /// Why this node has no part in the log any more, if its storage has failed.
    pub fn failure(&self) -> Option<&StorageError> {
        self.failed.as_ref().or(self.retired.as_ref())
    }

    /// After the storage has failed: this node follows from now on, keeps nothing, and its word counts for
    /// nothing, so that what is on its disk stays true of it. Before, every call would tell the error.
    pub fn retire(&mut self) {
        let Some(error) = self.failed.take() else { return };
        self.retired = Some(error);
        self.storage = Box::new(Nowhere);
        self.votes_from = u64::MAX;
        self.role = Role::Follower;
        self.leader = None;
        self.heard = None;
        self.ask_at = self.now;
        self.book.forget_after(self.shown);
    }

    /// This node has stopped: it lets go of the storage, and says nothing more that counts.
    pub fn close(&mut self) {
        self.failed = Some(StorageError::Failed { reason: "its node has stopped".into() });
        self.retire();
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The latest term that this node has promised anything in: it votes for no leader of an earlier one. None
    /// if its word does not count. A leader's own lease rests on it.
    pub fn promised(&self) -> Option<u64> {
        (self.failed.is_none() && self.may_vote()).then_some(self.promise.term)
    }

    /// From now on this node does not want to lead. If it does, another voter takes over, if there is one.
    pub fn stand_back(&mut self) {
        self.stands = false;
        let term = self.promise.term;
        let Role::Leader { peers, .. } = &self.role else { return };
        let matched = |voter: &NodeId| peers.get(voter).map_or(0, |peer| peer.matched);
        let Some(next) = self.voters().into_iter().filter(|voter| *voter != self.me).max_by_key(matched) else {
            return;
        };
        self.step_down(term);
        self.leader = Some(next);
        self.send(next, &Wire::LeadYou { term });
    }

    /// This node may lead again.
    pub fn stand(&mut self) {
        self.stands = true;
    }

    /// Writes what holds only as long as this node leads, as its judgement of leases does: it is not said
    /// again by one that leads no more. Whether it was written; it is not while this node does not lead, is not
    /// sure yet of what was decided before, or other voters are being named.
    ///
    /// # Errors
    /// If the change cannot be meant, or the storage fails.
    pub fn write_as_leader(&mut self, change: Change) -> Result<bool, LogError> {
        self.working()?;
        change.check()?;
        let is_sure = self.book.term_at(self.book.decided()) == Some(self.promise.term);
        let is_full = self.book.last() - self.book.decided() >= UNDECIDED;
        let names_others = matches!(change, Change::Voters { .. }) && self.book.configurations().len() > 1;
        if !self.is_leader() || !is_sure || is_full || names_others {
            return Ok(false);
        }
        self.append_as_leader(Entry { term: self.promise.term, origin: 0, ticket: 0, change });
        self.flush()?;
        Ok(true)
    }

    /// The leader tells a member that only follows who leads now: else it would find out when it asks next.
    pub fn introduce(&mut self, node: NodeId) {
        let (now, next, decided) = (self.now, self.book.last().saturating_add(1), self.book.decided());
        let voters = self.voters();
        let Role::Leader { peers, .. } = &mut self.role else { return };
        if node == self.me || voters.contains(&node) {
            return;
        }
        super::election::make_room(peers, |node| voters.contains(node));
        peers.entry(node).or_insert_with(|| Peer::new(next, now));
        let (term, leader) = (self.promise.term, self.me.0);
        self.send(node, &Wire::Decided { term, leader, after: decided, entries: Vec::new() });
    }

    /// That node is proven dead. If it led, another one is wanted now, and not only after a silence.
    pub fn is_dead(&mut self, node: NodeId) {
        if self.leader.or(self.lost) != Some(node) || self.failed.is_some() {
            return;
        }
        self.dead = Some((node, self.promise.term));
        self.leader = None;
        self.heard = None;
        self.early_is_due();
        let mut ahead = self.voters().into_iter().filter(|voter| *voter != node).take_while(|voter| *voter != self.me);
        let rank = ahead.by_ref().count() as u64;
        let elect_at = self.now.after_ns(rank * (self.pace.election_ns / 100 * STAGGER_PERCENT));
        self.elect_at = self.elect_at.min(elect_at);
        self.ask_at = self.now;
    }

    /// When this log wants to see the time, if nothing comes before: None if it does not matter.
    pub fn due(&self) -> Option<Time> {
        let elects = (self.failed.is_none() && self.wants_to_lead()).then_some(self.elect_at);
        let answers = self.early.values().map(|early| early.until).min().filter(|_| self.failed.is_none());
        [elects, answers].into_iter().flatten().min()
    }

    /// One that only follows asks another voter now what is decided and who leads: the leader may be gone.
    pub fn seek(&mut self) {
        if !self.is_leader() && !self.is_voter() {
            self.heard = None;
            self.leader = None;
            self.ask_at = Time(0);
        }
    }
}
