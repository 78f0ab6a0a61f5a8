//! What others still keep of an object that is gone, or too much of: its home tells them to drop it, and answers for
//! the object again when all have.

use crate::home::{Entry, EntryState};
use crate::id::{NodeId, Tenure};
use crate::message::{Message, Role};
use crate::mutation::{Mutation, mutated};
use crate::object::state::Turn;
use crate::recovery::{Recovery, Report};
use crate::replicas::MOST_REPLICAS;

impl Turn<'_> {
    /// The object does not exist from now on, and none of its copies is of that tenure or before. Whoever may have
    /// one (`to_free`) is told so and awaited, and requests are parked meanwhile: if this home was lost, and its word
    /// with it, such a copy would become the object, although somebody had seen that it is gone.
    pub fn end(&mut self, tenure: Tenure) {
        let me = self.me();
        self.to_free.retain(|report| report.from != me && may_have_a_copy(report));
        self.confirm(tenure);
        self.drop_replica(tenure);
        for at in 0..self.to_free.len() {
            let Some(report) = self.to_free.get(at).copied() else { break };
            if report.have.role == Role::Ghost {
                self.send(report.from, Message::Confirm { tenure });
            }
            self.send(report.from, Message::DropReplica { tenure });
        }
        if mutated(Mutation::EndUnheard) {
            self.to_free.clear();
        }
        let (object, state) = (self.id, EntryState::Removing);
        self.entry = Some(Entry { object, tenure, node: NodeId::NOBODY, state, lost: false });
        self.end_if_all_have_heard(tenure);
    }

    fn end_if_all_have_heard(&mut self, tenure: Tenure) {
        if self.to_free.is_empty() {
            self.entry = self.absent(tenure);
            self.restart_parked();
        }
    }

    /// There are more replicas than an owner can know of. What it does not know of could become the object later, so
    /// all but the best go before any of them does: true. They are awaited as above.
    pub fn drops_surplus(&mut self, reports: &[Report], tenure: Tenure) -> bool {
        let me = self.me();
        let mut drops = false;
        for report in reports.iter().filter(|report| is_surplus(reports, me, report)) {
            self.send(report.from, Message::DropReplica { tenure });
            drops = true;
        }
        if drops {
            let (object, state) = (self.id, EntryState::Unknown);
            self.entry = Some(Entry { object, tenure, node: NodeId::NOBODY, state, lost: false });
        }
        drops
    }

    /// A node has dropped what it was told to. False if its home was not waiting for that.
    pub fn has_dropped(&mut self, from: NodeId, tenure: Tenure, recovery: &Recovery) -> bool {
        let me = self.me();
        let Some(entry) = self.entry.filter(|entry| entry.tenure == tenure) else { return false };
        let known = self.to_free.len();
        match entry.state {
            EntryState::Removing => {
                self.to_free.retain(|report| report.from != from);
                let is_heard = self.to_free.len() < known;
                if is_heard {
                    self.end_if_all_have_heard(tenure);
                }
                is_heard
            }
            EntryState::Unknown => {
                let reports = &self.to_free;
                let Some(at) = reports.iter().position(|of| of.from == from && is_surplus(reports, me, of)) else {
                    return false;
                };
                if let Some(report) = self.to_free.get_mut(at) {
                    report.replica = None;
                }
                self.decide_without_surplus(recovery);
                true
            }
            _ => false,
        }
    }

    fn decide_without_surplus(&mut self, recovery: &Recovery) {
        let me = self.me();
        if !self.to_free.iter().any(|report| is_surplus(&self.to_free, me, report)) {
            let reports = core::mem::take(&mut self.to_free);
            self.decide(reports, recovery);
        }
    }

    /// Who is no member any more has taken along what it had.
    pub fn await_nobody_who_left(&mut self, recovery: &Recovery) {
        let Some(entry) = self.entry.filter(|_| !self.to_free.is_empty()) else { return };
        let place = self.place;
        if !matches!(entry.state, EntryState::Removing | EntryState::Unknown) {
            return;
        }
        self.to_free.retain(|report| !report.from.is_somebody() || place.talks(report.from));
        match entry.state {
            EntryState::Removing => self.end_if_all_have_heard(entry.tenure),
            _ => self.decide_without_surplus(recovery),
        }
    }
}

fn may_have_a_copy(report: &Report) -> bool {
    report.replica.is_some() || report.offer.is_some() || report.have.role == Role::Ghost
}

/// Whether there are so many better replicas. The home's own goes with what it says to itself: it stays.
fn is_surplus(reports: &[Report], me: NodeId, report: &Report) -> bool {
    let order = |of: &Report| of.replica.map(|copy| (of.from == me, copy, core::cmp::Reverse(of.from)));
    let better = reports.iter().filter(|other| order(other) > order(report)).count();
    report.replica.is_some() && better >= MOST_REPLICAS
}
