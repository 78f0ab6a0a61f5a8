//! How a node takes in what its leader says, and whether that shows that it is led.

use kddm_core::id::{NodeId, Time};

use super::book::{Base, Entry};
use super::message::{MOST, Wire};
use super::{Role, Voters};
use crate::log::LogError;

impl Voters {
    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        (term, heard): (u64, u64),
        (previous, previous_term): (u64, u64),
        decided: u64,
        entries: Vec<Entry>,
    ) -> Result<(), LogError> {
        if !self.obey(from, term, heard)? {
            return Ok(());
        }
        let known = self.book.decided();
        let follows = previous <= known || self.book.term_at(previous) == Some(previous_term);
        if !follows {
            let back_to = if previous > self.book.last() { self.book.last() } else { known };
            return self.answer(from, true, back_to);
        }
        if entries.iter().any(|entry| entry.term > term) {
            return Err(Voters::bad(from, "it has entries of a term to come"));
        }
        let count = entries.len() as u64;
        if !self.book.merge(previous, entries) {
            return Err(Voters::bad(from, "it contradicts what is decided"));
        }
        let last = previous.saturating_add(count).max(known);
        self.decide(decided.min(last));
        self.press_on();
        self.answer(from, false, last)
    }

    /// Whether this is the leader. One of an earlier term is told so.
    fn obey(&mut self, from: NodeId, term: u64, heard: u64) -> Result<bool, LogError> {
        if term > MOST {
            return Err(Voters::bad(from, "no log comes to such a term"));
        }
        if term < self.promise.term {
            self.answer(from, true, self.book.decided())?;
            return Ok(false);
        }
        if term == self.promise.term && self.is_leader() {
            return Err(Voters::bad(from, "it leads a term that has another leader"));
        }
        let heard = self.led_at(heard);
        let is_over = self.now >= heard.after_ns(self.pace.election_ns);
        if is_over && term == self.promise.term && matches!(self.role, Role::Candidate { pre: true, .. }) {
            // That is why it asks.
            return Ok(true);
        }
        self.step_down(term);
        if self.dead == Some((from, term)) {
            // It was said before its end.
            return Ok(true);
        }
        let is_news = self.leader != Some(from) || self.heard.is_none_or(|before| before < heard);
        self.leader = Some(from);
        if is_news {
            self.heard = Some(heard);
            self.wait_to_elect();
            self.elect_at = Time(self.elect_at.0 - (self.now.0 - heard.0));
        }
        if !is_over {
            self.attempts = 0;
            self.early.clear();
        }
        Ok(true)
    }

    /// Since when the silence of a leader counts that has heard what this node said at `heard`, by this node's clock;
    /// 0 if it has heard nothing. Not since now: what it says may have been on its way for long, and as long as it does not
    /// hear its voters the leases go on to their ends that it has granted.
    fn led_at(&self, heard: u64) -> Time {
        match heard {
            0 => self.now,
            // The next beat is due so much later.
            _ => self.now.min(Time(heard).after_ns(self.pace.heartbeat_ns)),
        }
    }

    fn answer(&mut self, to: NodeId, refused: bool, last: u64) -> Result<(), LogError> {
        let (term, decided, counts) = (self.promise.term, self.book.decided(), self.may_vote());
        // One that keeps nothing has nothing, whatever it is sent.
        let fails = self.retired.is_some();
        let (refused, said) = (refused || fails, self.now.0);
        self.send(to, &Wire::Appended { term, refused, last, decided, counts, fails, said });
        Ok(())
    }

    /// The next proposal is due once the one before it is decided.
    fn press_on(&mut self) {
        if self.propose_at <= self.now {
            self.press();
        }
    }

    pub(super) fn on_whole(&mut self, from: NodeId, (term, heard): (u64, u64), base: Base) -> Result<(), LogError> {
        if base.state.identity() != self.base().identity() {
            return Err(Voters::bad(from, "it is of another cluster"));
        }
        if term != 0 && !self.obey(from, term, heard)? {
            return Ok(());
        }
        if self.is_leader() && base.term() <= self.promise.term {
            return Ok(());
        }
        if base.term() > self.promise.term {
            self.step_down(base.term());
        }
        let applied = base.state.applied();
        if applied > self.book.decided() {
            let has_mine =
                base.taken.iter().any(|(origin, ticket, _)| *origin == self.origin && *ticket >= self.ticket);
            let is_doubtful = base.taken_after > self.book.decided() && !has_mine && !self.proposals.is_empty();
            self.doubts += u64::from(is_doubtful);
            // With a number of its own: a leader that knows that it was decided would refuse the old one for ever.
            self.ticket += u64::from(is_doubtful);
            self.book.replace(base);
            if has_mine && self.proposals.pop_front().is_some() {
                self.ticket += 1;
            }
            self.press_on();
        }
        if term == 0 {
            self.ask();
            return Ok(());
        }
        self.answer(from, false, self.book.decided())
    }

    pub(super) fn on_decided(
        &mut self,
        from: NodeId,
        term: u64,
        leader: NodeId,
        after: u64,
        entries: Vec<Entry>,
    ) -> Result<(), LogError> {
        if term > MOST {
            return Err(Voters::bad(from, "no log comes to such a term"));
        }
        if self.is_leader() && term <= self.promise.term {
            return Ok(());
        }
        if term > self.promise.term {
            self.step_down(term);
        }
        if term == self.promise.term && leader.is_somebody() && leader != self.me {
            self.leader = Some(leader);
        }
        // One that led and answers still is none: whoever took it for one would vote for nobody else.
        if leader != from {
            self.leader = self.leader.filter(|leader| *leader != from);
        } else if term == self.promise.term && !self.is_voter() {
            self.heard = Some(self.now);
        }
        let known = self.book.decided();
        if after > known {
            self.ask();
            return Ok(());
        }
        if entries.iter().any(|entry| entry.term > term) {
            return Err(Voters::bad(from, "it has entries of a term to come"));
        }
        let to = after.saturating_add(entries.len() as u64);
        if !self.book.merge(after, entries) {
            return Err(Voters::bad(from, "it contradicts what is decided"));
        }
        self.decide(to);
        if self.book.decided() > known {
            // Somebody may wait until all have it, and there may be more.
            self.ask_leader(from);
        }
        self.press_on();
        Ok(())
    }

    fn ask_leader(&mut self, from: NodeId) {
        let decided = self.book.decided();
        let to = self.leader.filter(|leader| *leader != self.me).unwrap_or(from);
        self.send(to, &Wire::Follow { decided, fails: self.retired.is_some() });
    }
}
