//! How entries come from proposers to the leader, and from there to all.

use kddm_core::id::NodeId;

use super::book::{Base, Configuration, Entry};
use super::message::{MOST, Wire, WireEntry, read_entries};
use super::{PROPOSE_INTERVAL_NS, Peer, Role, UNDECIDED, Voters};
use crate::change::Change;
use crate::log::LogError;
use crate::single_voter::{ENTRIES_PER_MESSAGE, FOLLOWER_SILENCE_NS};

impl Voters {
    pub(super) fn take(&mut self, from: NodeId, message: Wire) -> Result<(), LogError> {
        let bad = |what| Voters::bad(from, what);
        match message {
            Wire::Vote { pre, asked, term, last, last_term } => {
                if term > MOST {
                    return Err(bad("no log comes to such a term"));
                }
                self.on_vote(from, (pre, asked), term, last, last_term);
                Ok(())
            }
            Wire::Voted { pre, term, granted } => self.on_voted(from, pre, term, granted),
            Wire::Append { term, previous, previous_term, decided, entries } => {
                let entries = read_entries(&entries).map_err(bad)?;
                self.on_append(from, term, (previous, previous_term), decided, entries)
            }
            Wire::Appended { term, refused, last, decided, counts, fails } => {
                self.on_appended(from, term, refused, (last, decided), (counts, fails))
            }
            Wire::Whole { term, base } => self.on_whole(from, term, Base::decode(&base).map_err(bad)?),
            Wire::Follow { decided, fails } => {
                self.on_follow(from, decided, fails);
                Ok(())
            }
            Wire::Decided { term, leader, after, entries } => {
                let entries = read_entries(&entries).map_err(bad)?;
                self.on_decided(from, term, NodeId(leader), after, entries)
            }
            Wire::LeadYou { term } => {
                self.on_lead_you(from, term);
                Ok(())
            }
            Wire::Propose { known, origin, ticket, change } => {
                let change = Change::decode(&change)?;
                if origin == 0 || matches!(change, Change::Lead { .. } | Change::MoveVoter { .. }) {
                    return Err(bad("nobody proposes that"));
                }
                self.on_propose(from, known, (origin, ticket), change);
                Ok(())
            }
        }
    }

    // Proposals.

    /// Puts what this node wants before whoever leads.
    pub(super) fn press(&mut self) {
        let Some(change) = self.proposals.front().cloned() else { return };
        self.propose_at = self.now.after_ns(PROPOSE_INTERVAL_NS);
        let (origin, ticket, known) = (self.origin, self.ticket, self.book.decided());
        if self.is_leader() {
            return self.write(known, (origin, ticket), change);
        }
        let voters: Vec<NodeId> = self.voters().into_iter().filter(|voter| *voter != self.me).collect();
        let any = voters.get(self.asked % voters.len().max(1)).copied();
        let Some(to) = self.leader.filter(|leader| *leader != self.me).or(any) else { return };
        let change = change.encode().expect("every change was checked when it was proposed");
        self.send(to, &Wire::Propose { known, origin, ticket, change });
    }

    fn on_propose(&mut self, from: NodeId, known: u64, (origin, ticket): (u64, u64), change: Change) {
        if self.is_leader() {
            return self.write(known, (origin, ticket), change);
        }
        // Not to whom it came from: two that take each other for the leader would keep it moving.
        let leader = self.leader.filter(|leader| *leader != from && *leader != self.me);
        if let Some(leader) = leader
            && self.is_voter()
        {
            let change = change.encode().expect("it was just read");
            self.send(leader, &Wire::Propose { known, origin, ticket, change });
        }
    }

    /// The leader writes a proposal, once.
    fn write(&mut self, known: u64, (origin, ticket): (u64, u64), change: Change) {
        let undecided = self.book.last() - self.book.decided();
        if undecided >= UNDECIDED || self.book.last() >= MOST || self.book.has_taken(origin, ticket, known) {
            return;
        }
        // Two sets of voters at a time are enough, and a leader that is not sure of its log names none.
        let is_sure = self.book.term_at(self.book.decided()) == Some(self.promise.term);
        if matches!(change, Change::Voters { .. }) && (self.book.configurations().len() > 1 || !is_sure) {
            return;
        }
        self.append_as_leader(Entry { term: self.promise.term, origin, ticket, change });
    }

    /// The leader writes an entry; voters that it names are peers from now on.
    pub(super) fn append_as_leader(&mut self, entry: Entry) {
        self.book.append(entry);
        let (next, now) = (self.book.last(), self.now);
        let voters = self.voters();
        if let Role::Leader { peers, .. } = &mut self.role {
            for voter in voters.into_iter().filter(|voter| *voter != self.me) {
                peers.entry(voter).or_insert_with(|| Peer::new(next, now));
            }
        }
        self.replicate();
    }

    // The leader.

    /// The leader shows itself, and is none any more once it does not hear a majority.
    pub(super) fn beat(&mut self) {
        let (now, pace) = (self.now, self.pace);
        let Role::Leader { beat_at, since, peers } = &mut self.role else { return };
        if now < *beat_at {
            return;
        }
        *beat_at = now.after_ns(pace.heartbeat_ns);
        let is_new = now < since.after_ns(2 * pace.election_ns);
        let heard: Vec<NodeId> = peers
            .iter_mut()
            .filter(|(_, peer)| now <= peer.heard.after_ns(2 * pace.election_ns))
            .map(|(node, peer)| {
                // What was not answered was lost.
                if peer.matched > 0 {
                    peer.next = peer.matched.saturating_add(1);
                }
                *node
            })
            .collect();
        let me = self.me;
        if !is_new && !self.has_quorum(|voter| voter == me || heard.contains(&voter)) {
            let term = self.promise.term;
            self.leader = None;
            return self.step_down(term);
        }
        self.name_again();
        for voter in self.voters() {
            self.send_append(voter);
        }
    }

    /// Names the same voters again if one of them has come back without its log, and has all entries by
    /// now: from then on it counts.
    fn name_again(&mut self) {
        let is_sure = self.book.term_at(self.book.decided()) == Some(self.promise.term);
        let mut configurations = self.book.configurations();
        let (Some(Configuration { at, voters }), true) = (configurations.pop(), is_sure) else { return };
        let Role::Leader { peers, .. } = &self.role else { return };
        let has_all = |peer: &Peer| !peer.counts && !peer.fails && peer.matched >= at.max(1);
        let is_back = |voter: &NodeId| peers.get(voter).is_some_and(has_all);
        if configurations.is_empty() && voters.iter().any(is_back) {
            let change = Change::Voters { voters };
            self.book.append(Entry { term: self.promise.term, origin: 0, ticket: 0, change });
            self.replicate();
        }
    }

    /// Sends what is new to all voters, decides what a majority has, and tells those who follow.
    pub(super) fn replicate(&mut self) {
        for voter in self.voters() {
            self.send_new(voter);
        }
        self.advance();
    }

    fn send_new(&mut self, to: NodeId) {
        let last = self.book.last();
        if let Role::Leader { peers, .. } = &self.role
            && peers.get(&to).is_some_and(|peer| peer.next <= last)
        {
            self.send_append(to);
        }
    }

    fn send_append(&mut self, to: NodeId) {
        let (first, decided, term) = (self.book.first(), self.book.decided(), self.promise.term);
        let Role::Leader { peers, .. } = &mut self.role else { return };
        let Some(peer) = peers.get_mut(&to) else { return };
        let previous = peer.next.saturating_sub(1);
        if previous < first {
            peer.next = first.saturating_add(1);
            let base = self.book.base().encode();
            return self.send(to, &Wire::Whole { term, base });
        }
        let previous_term = self.book.term_at(previous).unwrap_or(0);
        let entries: Vec<WireEntry> =
            self.book.after(previous).take(ENTRIES_PER_MESSAGE).map(|(_, entry)| WireEntry::from(entry)).collect();
        peer.next = peer.next.saturating_add(entries.len() as u64);
        self.send(to, &Wire::Append { term, previous, previous_term, decided, entries });
    }

    fn on_appended(
        &mut self,
        from: NodeId,
        term: u64,
        refused: bool,
        (last, decided): (u64, u64),
        (counts, fails): (bool, bool),
    ) -> Result<(), LogError> {
        if term > MOST {
            return Err(Voters::bad(from, "no log comes to such a term"));
        }
        if term > self.promise.term {
            self.step_down(term);
        }
        let (now, mine, own_term) = (self.now, self.book.last(), self.promise.term);
        let Role::Leader { peers, .. } = &mut self.role else { return Ok(()) };
        let Some(peer) = peers.get_mut(&from).filter(|_| term == own_term) else { return Ok(()) };
        if last > mine {
            if refused {
                peer.next = mine.saturating_add(1);
                return Ok(());
            }
            return Err(Voters::bad(from, "it has entries that its leader has not"));
        }
        peer.heard = now;
        (peer.counts, peer.fails) = (counts, fails);
        if fails {
            // It has forgotten what it had, and would refuse for ever what follows that.
            peer.matched = 0;
        }
        peer.has = peer.has.max(decided.min(self.book.decided()));
        if refused {
            peer.next = last.max(peer.matched).saturating_add(1);
        } else {
            peer.matched = peer.matched.max(last);
            peer.next = peer.next.max(last.saturating_add(1));
        }
        self.send_new(from);
        self.advance();
        Ok(())
    }

    /// Decides what a majority has kept. Entries of earlier terms are decided with one of this term.
    fn advance(&mut self) {
        let Role::Leader { peers, .. } = &self.role else { return };
        let has = |voter: NodeId, index: u64| {
            if voter == self.me {
                return self.may_vote();
            }
            peers.get(&voter).is_some_and(|peer| peer.counts && peer.matched >= index)
        };
        let term = self.promise.term;
        let news = (self.book.decided() + 1..=self.book.last())
            .rev()
            .take_while(|index| self.book.term_at(*index) == Some(term))
            .find(|index| self.has_quorum(|voter| has(voter, *index)));
        let Some(news) = news else { return };
        self.decide(news);
        for voter in self.voters() {
            self.send_append(voter);
        }
        self.tell_followers();
        // One that was replaced leads until that is decided, and then has another one lead at once.
        let voters = self.voters();
        if !voters.contains(&self.me) {
            let Role::Leader { peers, .. } = &self.role else { return };
            let matched = |voter: &NodeId| peers.get(voter).map_or(0, |peer| peer.matched);
            let next = voters.iter().copied().max_by_key(matched);
            self.step_down(term);
            self.leader = next;
            if let Some(next) = next {
                self.send(next, &Wire::LeadYou { term });
            }
        }
        self.press();
    }

    fn decide(&mut self, index: u64) {
        for entry in self.book.decide(index) {
            if entry.origin == self.origin && entry.ticket >= self.ticket && self.proposals.pop_front().is_some() {
                self.ticket = entry.ticket + 1;
                self.propose_at = self.now;
            }
        }
    }

    fn tell_followers(&mut self) {
        let (now, decided) = (self.now, self.book.decided());
        let voters = self.voters();
        let Role::Leader { peers, .. } = &self.role else { return };
        let is_there = |peer: &Peer| now <= peer.heard.after_ns(FOLLOWER_SILENCE_NS) && peer.told < decided;
        let followers: Vec<(NodeId, u64)> = peers
            .iter()
            .filter(|(node, peer)| !voters.contains(node) && is_there(peer))
            .map(|(node, peer)| (*node, peer.told.max(peer.has)))
            .collect();
        for (node, told) in followers {
            self.send_decided(node, told);
        }
    }

    fn send_decided(&mut self, to: NodeId, after: u64) {
        let leader = self.leader.map_or(0, |leader| leader.0);
        let term = self.promise.term;
        if after < self.book.first() {
            let base = self.book.base().encode();
            return self.send(to, &Wire::Whole { term: 0, base });
        }
        let entries: Vec<WireEntry> =
            self.book.decided_after(after).take(ENTRIES_PER_MESSAGE).map(|(_, entry)| WireEntry::from(entry)).collect();
        if let Role::Leader { peers, .. } = &mut self.role
            && let Some(peer) = peers.get_mut(&to)
        {
            peer.told = after.saturating_add(entries.len() as u64);
        }
        self.send(to, &Wire::Decided { term, leader, after, entries });
    }

    fn on_follow(&mut self, from: NodeId, decided: u64, fails: bool) {
        let (now, mine, next) = (self.now, self.book.decided(), self.book.last().saturating_add(1));
        let voters = self.voters();
        if let Role::Leader { peers, .. } = &mut self.role {
            super::election::make_room(peers, |node| voters.contains(node));
            let peer = peers.entry(from).or_insert_with(|| Peer::new(next, now));
            // A voter is heard when it answers its leader as one: asking is not keeping.
            if !voters.contains(&from) {
                peer.heard = now;
            }
            peer.has = peer.has.max(decided.min(mine));
            peer.fails = fails;
        }
        if decided <= mine {
            self.send_decided(from, decided);
        }
    }

    // Those who are led.

    fn on_append(
        &mut self,
        from: NodeId,
        term: u64,
        (previous, previous_term): (u64, u64),
        decided: u64,
        entries: Vec<Entry>,
    ) -> Result<(), LogError> {
        if !self.obey(from, term)? {
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
    fn obey(&mut self, from: NodeId, term: u64) -> Result<bool, LogError> {
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
        self.step_down(term);
        if self.dead == Some((from, term)) {
            // It was said before its end.
            return Ok(true);
        }
        self.leader = Some(from);
        self.heard = Some(self.now);
        self.attempts = 0;
        self.early.clear();
        self.wait_to_elect();
        Ok(true)
    }

    fn answer(&mut self, to: NodeId, refused: bool, last: u64) -> Result<(), LogError> {
        let (term, decided, counts) = (self.promise.term, self.book.decided(), self.may_vote());
        // One that keeps nothing has nothing, whatever it is sent.
        let fails = self.retired.is_some();
        let refused = refused || fails;
        self.send(to, &Wire::Appended { term, refused, last, decided, counts, fails });
        Ok(())
    }

    /// The next proposal is due once the one before it is decided.
    fn press_on(&mut self) {
        if self.propose_at <= self.now {
            self.press();
        }
    }

    fn on_whole(&mut self, from: NodeId, term: u64, base: Base) -> Result<(), LogError> {
        if base.state.identity() != self.base().identity() {
            return Err(Voters::bad(from, "it is of another cluster"));
        }
        if term != 0 && !self.obey(from, term)? {
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

    fn on_decided(
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
