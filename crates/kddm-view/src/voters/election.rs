//! How a voter comes to lead.

use std::collections::{BTreeMap, BTreeSet};

use kddm_core::id::{NodeId, Time};

use super::book::Entry;
use super::message::{MOST, Wire};
use super::{Peer, Role, Voters};
use crate::change::Change;
use crate::log::LogError;
use crate::state::MEMBERS;

/// A question for a vote in advance that came too early, see [`Voters::on_vote`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Early {
    term: u64,
    last: u64,
    last_term: u64,
    /// When it is answered anew.
    pub(super) until: Time,
}

/// How many times a candidate asks again sooner than after a whole election: then disks and hosts are too slow for that.
const SOONER: u32 = 3;

impl Peer {
    pub(super) fn new(next: u64, now: Time) -> Peer {
        Peer { matched: 0, next, has: 0, heard: now, counts: false, fails: false, told: 0 }
    }
}

impl Voters {
    /// Asks for votes: first whether there would be any, so that one that was cut off upsets nobody.
    pub(super) fn start_election(&mut self, pre: bool) {
        self.elect(pre, false);
    }

    fn elect(&mut self, pre: bool, asked: bool) {
        self.wait_to_retry();
        let term = self.promise.term.saturating_add(1);
        if term >= MOST {
            return;
        }
        if !pre {
            self.promise.term = term;
            self.promise.vote = self.me.0;
            self.book.batch.promise = Some(self.promise);
        }
        self.lost = self.leader.take().or(self.lost);
        self.asks_since = self.now;
        self.role = Role::Candidate { pre, granted: BTreeSet::from([self.me]) };
        if self.has_quorum(|voter| voter == self.me) {
            return self.win(pre);
        }
        let (last, last_term) = (self.book.last(), self.book.last_term());
        for voter in self.voters() {
            self.send(voter, &Wire::Vote { pre, asked, term, last, last_term });
        }
    }

    /// Who did not win asks again after a third of an election at first, then after two thirds: nobody leads, so that
    /// it upsets nobody, and the leases that are left do not wait.
    fn wait_to_retry(&mut self) {
        self.wait_to_elect();
        if self.attempts < SOONER {
            self.attempts += 1;
            let third = self.pace.election_ns / 3;
            let drawn = self.random % (third.saturating_mul(3) / 2).max(1);
            self.elect_at = self.now.after_ns((third + drawn).saturating_mul(u64::from(self.attempts)));
        }
    }

    /// Answers the questions of before whose time has come, as if they came only now.
    pub(super) fn answer_early(&mut self) {
        let due: Vec<NodeId> =
            self.early.iter().filter(|(_, early)| self.now >= early.until).map(|(node, _)| *node).collect();
        for node in due {
            if let Some(Early { term, last, last_term, .. }) = self.early.remove(&node) {
                self.on_vote(node, (true, false), term, last, last_term);
            }
        }
    }

    /// All of them are to be answered now: the leader is known to be dead.
    pub(super) fn early_is_due(&mut self) {
        let now = self.now;
        self.early.values_mut().for_each(|early| early.until = now);
        self.answer_early();
    }

    /// Until when this node grants nobody a vote in advance: it hears a leader, it has just voted for another one, or it
    /// wants to lead itself with as much reason. All of that passes.
    fn too_early_until(&self, from: NodeId, last: u64, last_term: u64) -> Option<Time> {
        let election_ns = self.pace.election_ns;
        let hears = self.heard.filter(|_| self.leader.is_some()).map(|heard| heard.after_ns(election_ns));
        let votes_for_other = self.promise.vote != 0 && self.promise.vote != from.0;
        let has_voted = self.voted.filter(|_| votes_for_other).map(|voted| voted.after_ns(election_ns / 2));
        let is_better = (self.book.last_term(), self.book.last(), from) > (last_term, last, self.me);
        let wants = match &self.role {
            Role::Candidate { pre: true, .. } if is_better => Some(self.asks_since.after_ns(election_ns / 5)),
            _ => None,
        };
        hears.max(has_voted).max(wants).filter(|until| self.now < *until)
    }

    fn win(&mut self, pre: bool) {
        if pre {
            return self.start_election(false);
        }
        let next = self.book.last().saturating_add(1);
        let peers: BTreeMap<NodeId, Peer> = self
            .voters()
            .into_iter()
            .filter(|voter| *voter != self.me)
            .map(|voter| (voter, Peer::new(next, self.now)))
            .collect();
        self.role = Role::Leader { since: self.now, peers, beat_at: self.now };
        self.leader = Some(self.me);
        self.attempts = 0;
        self.early.clear();
        let change = Change::Lead { node: self.me, term: self.promise.term };
        self.book.append(Entry { term: self.promise.term, origin: 0, ticket: 0, change });
        self.replicate();
        self.press();
    }

    /// From now on a later term counts, or another leader of this one.
    pub(super) fn step_down(&mut self, term: u64) {
        if term > self.promise.term {
            self.promise.term = term;
            self.promise.vote = 0;
            self.book.batch.promise = Some(self.promise);
            self.leader = None;
        }
        if !matches!(self.role, Role::Follower) {
            self.role = Role::Follower;
            self.leader = self.leader.filter(|leader| *leader != self.me);
            self.wait_to_elect();
        }
    }

    /// The leader wants this node to lead in its place.
    pub(super) fn on_lead_you(&mut self, from: NodeId, term: u64) {
        if self.stands && term == self.promise.term && self.leader == Some(from) && self.is_voter() {
            self.elect(false, true);
        }
    }

    pub(super) fn on_vote(&mut self, from: NodeId, (pre, asked): (bool, bool), term: u64, last: u64, last_term: u64) {
        let is_leader_there = match self.heard {
            Some(heard) => self.leader.is_some() && self.now < heard.after_ns(self.pace.election_ns),
            None => false,
        };
        // Whoever has a leader lets nobody talk it into another one, unless the leader itself wants that. What is asked
        // too early is remembered: it is answered anew when nothing is in its way any more, and not only when it is
        // asked again.
        let too_early = self.too_early_until(from, last, last_term).filter(|_| pre && !asked);
        if let Some(until) = too_early.filter(|_| self.voters().contains(&from) && !self.is_leader()) {
            self.early.insert(from, Early { term, last, last_term, until });
        }
        let has_leader = is_leader_there || self.is_leader() || too_early.is_some();
        if !self.may_vote() || (!asked && has_leader) {
            let refusal = Wire::Voted { pre, term: self.promise.term, granted: false };
            return self.send(from, &refusal);
        }
        let is_complete = (last_term, last) >= (self.book.last_term(), self.book.last());
        if pre {
            let granted = is_complete && term > self.promise.term;
            if granted && matches!(self.role, Role::Candidate { pre: true, .. }) {
                // One of both is enough.
                self.role = Role::Follower;
                self.wait_to_retry();
            }
            let term = if granted { term } else { self.promise.term };
            return self.send(from, &Wire::Voted { pre, term, granted });
        }
        if term > self.promise.term {
            self.step_down(term);
        }
        let is_free = self.promise.vote == 0 || self.promise.vote == from.0;
        let granted = term == self.promise.term && is_free && is_complete;
        if granted {
            self.promise.vote = from.0;
            self.book.batch.promise = Some(self.promise);
            self.voted = Some(self.now);
            self.wait_to_elect();
        }
        self.send(from, &Wire::Voted { pre, term: self.promise.term, granted });
    }

    pub(super) fn on_voted(&mut self, from: NodeId, pre: bool, term: u64, granted: bool) -> Result<(), LogError> {
        if term > MOST {
            return Err(Voters::bad(from, "no log comes to such a term"));
        }
        if !granted {
            if term > self.promise.term {
                self.step_down(term);
            }
            return Ok(());
        }
        let asked = if pre { self.promise.term.saturating_add(1) } else { self.promise.term };
        let Role::Candidate { pre: asks, granted } = &mut self.role else { return Ok(()) };
        if *asks != pre || term != asked {
            return Ok(());
        }
        granted.insert(from);
        let granted = granted.clone();
        if self.has_quorum(|voter| granted.contains(&voter)) {
            self.win(pre);
        }
        Ok(())
    }
}

/// Makes room for one more, in the place of the one that has been silent for longest.
pub(super) fn make_room(peers: &mut BTreeMap<NodeId, Peer>, is_voter: impl Fn(&NodeId) -> bool) {
    if peers.len() < 2 * MEMBERS {
        return;
    }
    let silent = peers.iter().filter(|(node, _)| !is_voter(node)).min_by_key(|(_, peer)| peer.heard);
    if let Some(node) = silent.map(|(node, _)| *node) {
        peers.remove(&node);
    }
}

#[cfg(test)]
mod tests;
