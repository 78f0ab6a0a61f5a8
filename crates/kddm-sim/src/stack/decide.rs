//! How nodes decide who is a member: their logs, their leases, and what a leader has to do.

use kddm_core::id::{Incarnation, NodeId, Time};
use kddm_view::{Cause, Change, LogError, Outcome, ViewLog, Voters, choose_voters};

use super::{Event, MILLI, Process, Simulation, TICK_NS, Word};

/// How often a node repeats what it wants of the others.
pub(super) const AGAIN_NS: u64 = 500 * MILLI;

impl Simulation {
    pub(super) fn process(&mut self, id: NodeId) -> &mut Process {
        self.processes.get_mut(&id).expect("every node has its process from the beginning")
    }

    pub(super) fn tick(&mut self, id: NodeId) -> Result<(), String> {
        self.at(self.now + TICK_NS, Event::Tick(id));
        let (now, every_ns) = (self.processes[&id].clock(self.now), self.plan.terms.renew_every_ns());
        let process = self.process(id);
        let is_late = process.is_late(now, every_ns);
        process.ticked = now;
        let Some(log) = &mut process.log else { return Ok(()) };
        log.tick(now);
        process.keeper.look(now);
        if is_late {
            process.keeper.was_late(now);
        }
        self.look(id)?;
        self.keep_lease(id);
        self.lead(id)?;
        self.give_away(id)?;
        self.want_to_be_in(id)
    }

    /// Takes in what the log of a node has decided, and sends what it says.
    pub(super) fn look(&mut self, id: NodeId) -> Result<(), String> {
        let Some(log) = &self.processes[&id].log else { return Ok(()) };
        let entries = match log.decided_since(self.processes[&id].state.applied()) {
            Ok(entries) => entries,
            Err(LogError::Forgotten { .. }) => {
                let state = log.state().ok_or("a log without a state forgets nothing")?.clone();
                self.take_whole(id, state);
                return self.look(id);
            }
            Err(LogError::Storage(_)) => {
                self.truth.counts.torn += 1;
                self.crash(id);
                return Ok(());
            }
            Err(error) => return Err(format!("{id}: {error}")),
        };
        for entry in entries {
            self.truth.agree(id, &entry, &self.plan.objects, self.now)?;
            let outcome = self.process(id).state.apply(&entry).map_err(|gap| format!("{id}: {gap}"))?;
            if outcome == Outcome::Changed {
                self.is_changed(id);
            }
            self.follow(id);
        }
        self.follow(id);
        let process = self.process(id);
        let life = process.log_life;
        for out in process.log.as_mut().map(Voters::take_outgoing).unwrap_or_default() {
            self.say(id, out.to, &Word::Log(life, out.message));
        }
        Ok(())
    }

    fn say(&mut self, from: NodeId, to: NodeId, word: &Word) {
        if from == to {
            return;
        }
        for at in self.network.arrivals(&mut self.rng, self.now, (from, to), &mut self.truth.counts) {
            self.at(at, Event::Datagram { from, to, word: word.clone() });
        }
    }

    fn follow(&mut self, id: NodeId) {
        let now = self.processes[&id].clock(self.now);
        let process = self.process(id);
        let (leads, life) = (process.leads(), process.life_number());
        process.keeper.follow(id, life, &process.state, leads, now);
    }

    pub(super) fn heard(&mut self, from: NodeId, to: NodeId, word: Word) -> Result<(), String> {
        self.trace((from, to, &word));
        let now = self.processes[&to].clock(self.now);
        let of_its_log = self.processes[&from].log_life;
        match word {
            Word::Log(life, message) if life == of_its_log => {
                let Some(log) = &mut self.process(to).log else { return Ok(()) };
                // Nobody lies here, so that no message is a bad one.
                if let Err(error @ LogError::BadMessage { .. }) = log.step(from, &message) {
                    return Err(format!("{to}: {error}"));
                }
                return self.look(to);
            }
            // Nobody talks to a log that is gone.
            Word::Log(..) => {}
            Word::Renew { life, renewal, whole } => {
                let process = self.process(to);
                let Process { keeper, state, .. } = process;
                if let Some(grant) = keeper.grant(to, (from, life), (renewal, whole), (state, now)) {
                    self.say(to, from, &Word::Granted { life, grant });
                }
            }
            Word::Granted { life, grant } if self.processes[&to].life_number() == Some(life) => {
                self.process(to).keeper.granted(grant, now);
                self.has_more_time(to);
            }
            Word::Granted { .. } => {}
            Word::Ask { term, sent } => {
                let promised = self.processes[&to].log.as_ref().and_then(Voters::promised);
                if promised == Some(term) {
                    self.say(to, from, &Word::Confirmed { term, sent });
                }
            }
            Word::Confirmed { term, sent } => {
                let Process { keeper, state, .. } = self.process(to);
                keeper.confirmed((to, from), state, (term, Time(sent)), now);
                self.has_more_time(to);
            }
        }
        Ok(())
    }

    /// What has waited for a lease may go on.
    fn has_more_time(&mut self, id: NodeId) {
        if let Some(life) = self.processes[&id].life_number() {
            self.goes_on(id);
            self.retry_streams(life);
        }
    }

    /// Asks for time, or has the voters confirm that nobody else leads.
    fn keep_lease(&mut self, id: NodeId) {
        let now = self.processes[&id].clock(self.now);
        if now < self.processes[&id].keeper.ask_at {
            return;
        }
        let process = self.process(id);
        let (term, renewal) = process.keeper.ask(now, process.life.is_some());
        if let Some(term) = term {
            for voter in process.state.voters().to_vec() {
                self.say(id, voter, &Word::Ask { term, sent: now.0 });
            }
        } else if let (Some(renewal), Some(life)) = (renewal, process.life_number()) {
            let (leader, whole) = (process.state.voter(), process.whole_in());
            self.say(id, leader, &Word::Renew { life, renewal, whole });
        }
    }

    /// What the leader has to do.
    pub(super) fn lead(&mut self, id: NodeId) -> Result<(), String> {
        let now = self.processes[&id].clock(self.now);
        if self.processes[&id].leads().is_none() {
            return Ok(());
        }
        for change in self.wanted(id, now) {
            let Some(log) = &mut self.process(id).log else { return Ok(()) };
            let written = log.write_as_leader(change.clone());
            if let (Ok(true), Change::Expel { node, incarnation, .. }) = (&written, &change) {
                let who = (*node, *incarnation);
                self.process(id).keeper.is_written(who);
                self.tell(|| format!("{id} expels {who:?}"));
            }
            self.look(id)?;
        }
        Ok(())
    }

    /// The changes that a leader wants to be decided.
    fn wanted(&mut self, id: NodeId, now: Time) -> Vec<Change> {
        let (time, nodes) = (self.now, usize::from(self.plan.nodes));
        let process = self.process(id);
        let own = process.life_number().map(|life| (life, process.whole_in()));
        let Process { keeper, state, proven, propose_at, .. } = process;
        let mut wanted: Vec<Change> = Vec::new();
        for (node, incarnation) in keeper.whom_to_expel(state, proven, now) {
            let cause = if proven.contains(&incarnation) { Cause::Proof } else { Cause::Lease };
            wanted.push(Change::Expel { node, incarnation, cause });
        }
        if keeper.is_all_whole(id, own, state) {
            wanted.push(Change::Healed { placement: state.placement() });
        }
        let is_heard = |voter: &NodeId| {
            *voter == id || state.member(*voter).is_some_and(|entry| keeper.hears(entry.incarnation, now))
        };
        let voters = choose_voters(state, |voter| is_heard(&voter), |_| false);
        let is_due = time >= *propose_at && state.is_sealed();
        if is_due && voters != state.voters() && voters.iter().all(is_heard) {
            *propose_at = time + AGAIN_NS;
            wanted.push(Change::Voters { voters });
        }
        // Sets exist once all nodes are there: nothing is covered by fewer homes than that.
        if !state.is_sealed() && state.view().homes.len() == nodes {
            wanted.push(Change::Seal);
        }
        wanted
    }

    pub(super) fn proven(&mut self, at: NodeId, dead: Incarnation) -> Result<(), String> {
        self.process(at).proven.insert(dead);
        if self.processes[&at].log.is_some() { self.lead(at) } else { Ok(()) }
    }
}
