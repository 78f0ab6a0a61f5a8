//! The leases of a node that leads the voters: its own, from what they confirm, and those that it grants
//! the other members. It expels whose lease has run out.

use std::collections::BTreeMap;
use std::time::Duration;

use kddm_core::id::{Incarnation, NodeId, Placement, Time};
use kddm_view::lease::{Granter, OwnLease, Renewal, Terms};
use kddm_view::{Cause, Change};

use crate::cell::Lease;
use crate::runtime::Runtime;
use crate::runtime::leasing::{Leasing, MILLISECOND_NS, TICKS};
use crate::runtime::membership::{Guard, Membership};

/// What the lease of a node that leads rests on.
#[derive(Default)]
pub(crate) struct Own {
    /// The leadership that it is for.
    term: u64,
    /// What voters have confirmed in that term.
    lease: OwnLease,
    /// The groups of voters that have a say, each with the time before which nobody but this node can have
    /// known of it; 0 if it was there when this node was elected.
    groups: BTreeMap<Vec<NodeId>, Time>,
    /// Where no groups have a say: what the log itself has confirmed.
    confirmed: Option<Time>,
}

impl Own {
    /// Another leadership.
    fn begin(&mut self, term: u64) {
        if self.term != term {
            *self = Own { term, ..Own::default() };
        }
    }

    /// When the lease of `me` ends. A group of which nobody knew elects nobody before it is known.
    fn until(&self, me: NodeId, terms: Terms) -> Time {
        let of = |(group, known): (&Vec<NodeId>, &Time)| {
            let from_birth = if known.0 == 0 { Time(0) } else { known.after_ns(terms.lease_ns) };
            self.lease.until(me, group, terms).max(from_birth)
        };
        let alone = || self.confirmed.map_or(Time(0), |sent| sent.after_ns(terms.lease_ns));
        self.groups.iter().map(of).min().unwrap_or_else(alone)
    }
}

impl Runtime {
    /// Who decides may have changed, and who is a member: call it with every change of the state, and before
    /// anybody can hear what the log has to say.
    pub fn leases_follow(&self, membership: &mut Membership) {
        let (me, now, leads) = (self.identity.id, self.now(), self.leads(membership));
        let Membership { state, leasing, log, .. } = membership;
        if leads {
            let others = state.members().filter(|(node, _)| *node != me);
            let others = others.map(|(node, entry)| (node, entry.incarnation));
            let was_there = leasing.own.term == state.term() && leasing.granter.is_some();
            match &mut leasing.granter {
                Some(granter) if was_there => granter.members_are(others, now),
                // The one before may have granted everybody a lease just now.
                granter => *granter = Some(Granter::elected(leasing.terms, others, now)),
            }
            leasing.own.begin(state.term());
            if let Some(sent) = log.confirmed(state.term()) {
                let sent = Lease::time_of(sent);
                leasing.own.confirmed = leasing.own.confirmed.max(Some(sent));
            }
            let groups = log.groups();
            leasing.own.groups.retain(|group, _| groups.contains(group));
            let known = if was_there { Time(Lease::now_ns()) } else { Time(0) };
            for group in groups {
                leasing.own.groups.entry(group).or_insert(known);
            }
            leasing.detector.retain(|node| state.member(node).is_some());
            leasing.suspected.retain(|node| state.member(*node).is_some());
            if !was_there {
                // They would ask the one before for long enough to lose their leases.
                state.members().for_each(|(node, _)| log.introduce(node));
            }
            self.own_lease_follows(leasing);
        } else if leasing.granter.take().is_some() {
            leasing.follow_from(self.lease.deadline_ns());
        }
    }

    /// Whoever is let in counts a whole lease from its last question. False if it was let in before, and may be out of its lease.
    pub fn is_welcome(&self, membership: &mut Membership, node: NodeId) -> bool {
        let now = self.now();
        let Membership { state, leasing, .. } = membership;
        let Some(incarnation) = state.member(node).map(|entry| entry.incarnation) else { return false };
        leasing.granter.as_mut().is_none_or(|granter| granter.welcomed_again(node, incarnation, now))
    }

    /// The deadline of a node that leads, from what the voters have confirmed.
    fn own_lease_follows(&self, leasing: &Leasing) {
        let until = leasing.own.until(self.identity.id, leasing.terms);
        if until == Time(u64::MAX) {
            return self.lease.prolong_to_ns(Lease::NOT_NEEDED);
        }
        let deadline_ns = until.0.saturating_sub(TICKS * Lease::tick_ns()).max(1);
        if self.lease.deadline_ns() == Lease::NOT_NEEDED {
            // Others are to have a say: from now on there is an end.
            self.lease.set_deadline_unless_ended(deadline_ns);
        } else {
            self.lease.prolong_to_ns(deadline_ns);
        }
    }

    /// A voter has promised nothing to a later leader than that of `term`, in answer to what was sent at
    /// `sent`, while this node led in that term.
    pub fn is_confirmed(&self, membership: &mut Membership, voter: NodeId, sent: Time, term: u64) {
        let leads = self.leads(membership);
        let Membership { leasing, log, .. } = membership;
        if !log.is_leader() || log.term() != term {
            return;
        }
        if leasing.own.term != term {
            // Elected, and not in office yet: what follows the state comes with it.
            leasing.granter = None;
            leasing.own.begin(term);
        }
        leasing.own.lease.confirmed(voter, sent);
        if leads {
            let before = self.lease.deadline_ns();
            self.own_lease_follows(leasing);
            if self.lease.deadline_ns() != before {
                self.tell_programs(leasing.length_ns());
            }
        }
    }

    /// A member asks for time. None if it gets none.
    pub fn grant(&self, node: NodeId, incarnation: Incarnation, number: u64, whole: Option<Placement>) -> Option<u64> {
        let mut membership = self.membership.lock();
        if !self.leads(&membership) {
            return None;
        }
        // Only now: the renewal has come before.
        let now = self.now();
        membership.healing.said(node, incarnation, whole);
        let leasing = &mut membership.leasing;
        leasing.detector.heard(node, now);
        leasing.suspected.remove(&node);
        // By the clock of deadlines, which may be behind: then by the other one.
        let own_until = match leasing.own.until(self.identity.id, leasing.terms) {
            Time(u64::MAX) => Time(u64::MAX),
            until => now.after_ns(until.0.saturating_sub(Lease::now_ns() + TICKS * Lease::tick_ns())),
        };
        let grant = leasing.granter.as_mut()?.renew(node, incarnation, Renewal { number }, own_until, now)?;
        leasing.counts.granted += 1;
        if whole.is_some() {
            self.heal(&mut membership);
        }
        Some(grant.lasts_ns)
    }

    /// A node that uses nothing any more leads nobody: another voter has to expel it.
    pub fn stand_back(&self) {
        let mut membership = self.membership.lock();
        if membership.is_kept_elsewhere() || membership.log.groups().iter().any(|group| group.len() > 1) {
            membership.log.stand_back();
            self.advance(&mut membership);
        }
    }

    /// Expels whoever can have no lease any more. How long nobody's can end.
    pub fn look_who_ran_out(&self, late: Duration) -> Duration {
        if !self.lease.is_valid() && self.lease.deadline_ns() != Lease::ENDED {
            self.lease_is_over("too few of those who decide have confirmed that it leads them");
        }
        let mut membership = self.membership.lock();
        let now = self.now();
        let Membership { leasing, .. } = &mut *membership;
        let every_ns = leasing.terms.renew_every_ns();
        let due = Time(now.0.saturating_sub(late.as_nanos() as u64));
        leasing.detector.round(due, now);
        if late.as_nanos() as u64 > every_ns {
            // Renewals have come meanwhile, and wait to be read.
            leasing.expels_from = now.after_ns(2 * every_ns);
        }
        self.note_suspects(leasing, now);
        let ran_out: Vec<_> = leasing.granter.iter().flat_map(|granter| granter.ran_out(now)).collect();
        if now >= leasing.expels_from {
            for (node, incarnation) in ran_out {
                self.expel(&mut membership, node, incarnation, Cause::Lease);
            }
            self.advance(&mut membership);
        }
        self.heal(&mut membership);
        self.tell_programs(membership.leasing.length_ns());
        let leasing = &membership.leasing;
        let next = leasing.granter.as_ref().and_then(Granter::next_end).unwrap_or(Time(u64::MAX));
        let wait_ns = next.max(leasing.expels_from).0.saturating_sub(self.now().0);
        // Its own lease may end first.
        let wait_ns = wait_ns.min(self.lease.deadline_ns().saturating_sub(Lease::now_ns()));
        Duration::from_nanos(wait_ns.clamp(MILLISECOND_NS, membership.look_every_ns()))
    }

    fn note_suspects(&self, leasing: &mut Leasing, now: Time) {
        let Leasing { granter: Some(granter), detector, suspected, counts, .. } = leasing else { return };
        for node in granter.members().filter(|node| detector.is_suspected(*node, now)) {
            if suspected.insert(node) {
                counts.suspicions += 1;
                tracing::info!(node = node.0, "a member asks for no time any more: it may have failed");
            }
        }
    }

    /// Writes that a member is expelled, if this node leads. Whether it was written; [`Self::advance`] has it
    /// said to others.
    pub fn expel(&self, membership: &mut Guard<'_>, node: NodeId, incarnation: Incarnation, cause: Cause) -> bool {
        let change = Change::Expel { node, incarnation, cause };
        let Membership { leasing, state, log, .. } = &mut **membership;
        let Some(granter) = &mut leasing.granter else { return false };
        // It gets no more time, whatever becomes of what is written.
        granter.condemn(node, incarnation);
        if let Err(reason) = state.check(&change) {
            tracing::warn!(node = node.0, %reason, "a member that has failed is not expelled");
            return false;
        }
        match log.write_as_leader(state.term(), change) {
            Ok(true) => {
                leasing.counts.expulsions += 1;
                tracing::warn!(
                    node = node.0,
                    incarnation = incarnation.0,
                    ?cause,
                    "a member has failed and is expelled"
                );
                true
            }
            Ok(false) => {
                granter.pardon(node, incarnation);
                false
            }
            Err(error) => {
                tracing::error!(node = node.0, %error, "an expulsion could not be proposed");
                false
            }
        }
    }

    /// The kernel of its host says that the process of that life is gone: nothing is waited for. Whoever decides
    /// hears it from the guardian, too; if it was that process, another voter decides soon.
    pub fn expel_proven_dead(&self, node: NodeId) {
        let mut membership = self.membership.lock();
        membership.log.is_dead(node);
        let now = self.now();
        membership.log.tick(now);
        self.advance(&mut membership);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As with a majority of voters: from before it was asked, in that term alone.
    #[test]
    fn the_lease_of_one_that_no_members_confirm_counts_from_what_the_log_says() {
        let (me, terms) = (NodeId(1), Terms::of_ms(1_000));
        let mut own = Own::default();
        own.begin(7);
        assert_eq!(own.until(me, terms), Time(0), "nothing has been said yet");
        own.confirmed = Some(Time(5));
        own.begin(7);
        assert_eq!(own.until(me, terms), Time(5).after_ns(terms.lease_ns));
        own.begin(8);
        assert_eq!(own.until(me, terms), Time(0), "that was of another leadership");
    }
}
