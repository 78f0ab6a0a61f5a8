//! This node's lease.
//!
//! A follower asks for time on a connection that it keeps to the node that decides, four times in a
//! lease; the end of what it was granted is the deadline that every use of a value is held against. The
//! one that decides has its own from the voters: see `granting.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{Incarnation, NodeId, Time};
use kddm_view::FOLLOW_INTERVAL_NS;
use kddm_view::detector::Detector;
use kddm_view::lease::{Grant, Granter, Holder, Terms};

use crate::cell::Lease;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::runtime::control::{Answer, Question};
use crate::runtime::granting::Own;
use crate::runtime::membership::Membership;
use crate::runtime::telling::Line;
use crate::transport::Address;

/// By how many ticks of the coarse clock a deadline comes earlier: it may be one behind when it is
/// read, one more where a tick came late, and one to spare.
pub(crate) const TICKS: u64 = 3;

/// The part of [`Membership`] that knows about leases.
pub(crate) struct Leasing {
    pub terms: Terms,
    holder: Holder,
    /// Where this node decides.
    pub granter: Option<Granter>,
    pub own: Own,
    pub detector: Detector,
    pub suspected: BTreeSet<NodeId>,
    /// This node was held up: what it knows of others is old, and it expels nobody before that.
    pub expels_from: Time,
    pub counts: LeaseCounts,
}

/// What has become of leases since the node runs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct LeaseCounts {
    /// Renewals that this node was granted.
    pub renewals: u64,
    /// Renewals that it has granted others.
    pub granted: u64,
    /// Members that have fallen silent for longer than chance explains.
    pub suspicions: u64,
    /// Members that this node has proposed to expel.
    pub expulsions: u64,
}

/// How a node's lease stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseInfo {
    /// How long a lease of this cluster is.
    pub length: Duration,
    /// What is left of it: `None` if this node needs none, nothing if it has fenced itself.
    pub remaining: Option<Duration>,
    /// Members lost uncleanly since all was whole last.
    pub failures: u32,
    /// What has become of leases.
    pub counts: LeaseCounts,
}

impl Leasing {
    fn new(lease_ms: u32) -> Leasing {
        let terms = Terms::of_ms(lease_ms);
        Leasing {
            terms,
            holder: Holder::new(),
            granter: None,
            own: Own::default(),
            detector: Detector::new(terms.renew_every_ns()),
            suspected: BTreeSet::new(),
            expels_from: Time(0),
            counts: LeaseCounts::default(),
        }
    }

    /// For the first node of a cluster.
    pub fn founded(lease_ms: u32) -> Leasing {
        Leasing::new(lease_ms)
    }

    /// For a node that was let in: whoever lets it in gives it a whole lease, from after it has asked.
    pub fn let_in(lease_ms: u32, asked: Time) -> Leasing {
        let mut leasing = Leasing::new(lease_ms);
        leasing.begin(asked);
        leasing
    }

    /// A whole lease from `asked` on.
    fn begin(&mut self, asked: Time) {
        self.holder = Holder::new();
        if let Some(renewal) = self.holder.renew(asked) {
            self.take(Grant { number: renewal.number, lasts_ns: self.terms.lease_ns });
        }
    }

    /// This node leads no more: it has what it had as a leader until that deadline, and no longer.
    pub fn follow_from(&mut self, deadline_ns: u64) {
        let (now, margin_ns) = (Lease::now_ns(), TICKS * Lease::tick_ns());
        self.holder = Holder::new();
        if deadline_ns <= now {
            return self.holder.end();
        }
        if let Some(renewal) = self.holder.renew(Time(now)) {
            self.take(Grant { number: renewal.number, lasts_ns: deadline_ns - now + margin_ns });
        }
    }

    /// Whether the expulsion of that life is under way, where this node decides.
    pub fn is_condemned(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.granter.as_ref().is_some_and(|granter| granter.is_condemned(node, incarnation))
    }

    /// Takes in a grant. Whether the lease is longer now.
    fn take(&mut self, grant: Grant) -> bool {
        let lasts_ns = grant.lasts_ns.saturating_sub(TICKS * Lease::tick_ns());
        self.holder.granted(Grant { lasts_ns, ..grant }, Time(Lease::now_ns()))
    }

    /// How long a lease is.
    pub fn length_ns(&self) -> u64 {
        self.terms.lease_ns
    }

    /// The deadline of what is held here.
    pub fn until_ns(&self) -> u64 {
        self.holder.until().0
    }
}

impl Membership {
    /// How often a node asks for time, or looks whose has run out. Where something is to heal, not only as
    /// often as a long lease would have it.
    pub fn look_every_ns(&self) -> u64 {
        let every_ns = self.leasing.terms.renew_every_ns();
        // Members that say nothing to each other about the log show themselves by this alone.
        let every_ns = if self.is_kept_elsewhere() { every_ns.min(FOLLOW_INTERVAL_NS) } else { every_ns };
        if self.state.is_healed() { every_ns } else { every_ns.min(HEALING_LOOK_NS) }
    }
}

impl Runtime {
    /// The thread that keeps this node's lease, or looks whose has run out.
    pub fn keep_lease(self: &Arc<Self>) {
        crate::runtime::wait::mark_part_of_node();
        let mut line = None;
        let mut due = Instant::now();
        while !self.is_stopping() {
            let late = due.elapsed();
            if self.lease.deadline_ns() == Lease::ENDED {
                self.stand_back();
            }
            let wait = if self.leads(&self.membership.lock()) {
                line = None;
                self.look_who_ran_out(late)
            } else {
                let begun = Instant::now();
                let is_renewed = self.renew_lease(&mut line);
                let membership = self.membership.lock();
                let every_ns = membership.look_every_ns();
                let every_ns = if is_renewed { every_ns } else { every_ns / RETRIES };
                Duration::from_nanos(every_ns.max(MILLISECOND_NS)).saturating_sub(begun.elapsed())
            };
            due = Instant::now() + wait;
            let mut membership = self.membership.lock();
            // Every change wakes this thread; a new voter is asked at once, and what is to heal looked at soon.
            let known = self.who_decides(&membership);
            while !self.is_stopping() && self.who_decides(&membership) == known {
                if !self.wait_for_change(&mut membership, due) {
                    break;
                }
            }
        }
    }

    fn who_decides(&self, membership: &Membership) -> (NodeId, bool, bool) {
        (membership.state.voter(), self.leads(membership), membership.state.is_healed())
    }

    /// Asks for time. If there is none left, the node is fenced. False if whoever decides did not answer.
    fn renew_lease(self: &Arc<Self>, line: &mut Option<Line>) -> bool {
        // Before the time counts: a look at all objects may take long.
        let whole = self.whole_in();
        let (voter, address, renewal, limit) = {
            let mut membership = self.membership.lock();
            let voter = membership.state.voter();
            let address = membership.state.member(voter).map(|entry| entry.address.clone());
            if self.lease.deadline_ns() == Lease::ENDED {
                // It uses nothing any more, for whatever reason: the others need not wait for it for ever.
                membership.leasing.holder.end();
            }
            // Before it is sent.
            let renewal = membership.leasing.holder.renew(Time(Lease::now_ns()));
            (voter, address, renewal, Duration::from_nanos(membership.leasing.terms.lease_ns / 2))
        };
        let Some(renewal) = renewal else {
            self.lease_is_over("its lease has ended");
            return true;
        };
        let address = address.and_then(|address| address.parse::<Address>().ok());
        let Some(address) = address.filter(|_| voter != self.identity.id) else {
            self.seek_leader();
            return false;
        };
        let question = Question::Renew { number: renewal.number, whole: whole.map(|placement| placement.0) };
        // Another one may lead by now: what is left of the lease is too short to wait for one that is gone.
        let leads = || self.membership.lock().state.voter() == voter && !self.is_stopping();
        match self.ask_on_while(line, (voter, &address), &question, limit, leads) {
            Ok(Answer::Granted { number, lasts_ns }) => {
                self.silence.heard(voter);
                let mut membership = self.membership.lock();
                let is_voter = membership.state.voter() == voter;
                if is_voter && membership.leasing.take(Grant { number, lasts_ns }) {
                    membership.leasing.counts.renewals += 1;
                    self.lease.prolong_to_ns(membership.leasing.until_ns());
                    let lease_ns = membership.leasing.length_ns();
                    drop(membership);
                    self.tell_programs(lease_ns);
                }
            }
            Ok(Answer::NotAMember) => self.is_out(voter),
            Ok(_) => {
                self.seek_leader();
                return false;
            }
            Err(error) => {
                tracing::debug!(node = voter.0, %error, "no time was granted");
                self.seek_leader();
                return false;
            }
        }
        true
    }

    /// Whoever led does not answer any more, or leads no more.
    fn seek_leader(&self) {
        let mut membership = self.membership.lock();
        membership.log.seek();
        let now = self.now();
        membership.log.tick(now);
        self.advance(&mut membership);
    }

    /// Until when programs may use what they are lent. A node that decides alone, and so needs no lease, gives them
    /// one all the same: others may be named to decide with it, and a program that is stopped then hears nothing.
    pub fn lease_of_programs_ns(&self, lease_ns: u64) -> u64 {
        match self.lease.deadline_ns() {
            Lease::NOT_NEEDED if !self.config.decides_alone => {
                Lease::now_ns().saturating_add(lease_ns.saturating_sub(TICKS * Lease::tick_ns()))
            }
            deadline_ns => deadline_ns,
        }
    }

    /// Programs hear what holds for what they were lent. They have the same clock.
    pub fn tell_programs(&self, lease_ns: u64) {
        let until_ns = self.lease_of_programs_ns(lease_ns);
        for lane in &self.lanes {
            let mut state = lane.lock();
            if state.desk.session_count() > 0 {
                state.tell_programs_of_lease(until_ns);
                lane.finish(state);
            }
        }
    }

    /// This life of the node uses nothing any more.
    pub fn lease_is_over(&self, why: &str) {
        for lane in &self.lanes {
            let mut state = lane.lock();
            state.fence(why);
            lane.finish(state);
        }
        self.changed.notify_all();
    }

    /// Whether this node's lease is over, and stays so.
    pub fn is_out_of_lease(&self, membership: &Membership) -> bool {
        // One that decides alone can come back only with what it has kept.
        self.lease.deadline_ns() == Lease::ENDED && (self.config.view_log.is_some() || !membership.decides_alone())
    }

    /// Waits until this node has fenced itself, and another one decides who may come again: true. False if it
    /// stops first.
    pub fn wait_until_fenced(&self) -> bool {
        let mut membership = self.membership.lock();
        loop {
            if self.is_out_of_lease(&membership) {
                return true;
            }
            if self.is_stopping() {
                return false;
            }
            self.wait_for_change(&mut membership, Instant::now() + FENCE_LOOK);
        }
    }

    /// How this node's lease stands.
    pub fn lease_info(&self) -> LeaseInfo {
        let membership = self.membership.lock();
        let deadline_ns = self.lease.deadline_ns();
        let left_ns = deadline_ns.saturating_sub(Lease::now_ns());
        LeaseInfo {
            length: Duration::from_millis(membership.state.lease_ms().into()),
            remaining: (deadline_ns != Lease::NOT_NEEDED).then(|| Duration::from_nanos(left_ns)),
            failures: membership.state.failures(),
            counts: membership.leasing.counts,
        }
    }
}

/// How often somebody who waits for it looks whether the node has fenced itself: a lane that does so by
/// itself tells nobody.
const FENCE_LOOK: Duration = Duration::from_millis(500);

/// How much sooner one that was granted no time asks again: another node may decide by now.
const RETRIES: u64 = 4;

/// While members are to say that all is whole they do so twice a second at least.
const HEALING_LOOK_NS: u64 = 500_000_000;

/// A look at all leases costs microseconds: it is not worth while more often than each millisecond.
pub(crate) const MILLISECOND_NS: u64 = 1_000_000;

/// A lease that ends before it has been renewed is worth an error where it is looked for.
pub(crate) fn check_length(lease: Duration) -> Result<u32, Error> {
    let least = least_ms();
    let most = kddm_view::LEASE_MS_MOST;
    let lease_ms = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX);
    if (least..=most).contains(&lease_ms) {
        return Ok(lease_ms);
    }
    let rule = if least == kddm_view::LEASE_MS_LEAST {
        "it must be from 50 ms to 60 s"
    } else {
        "it must be from 200 ms to 60 s on a host that is virtual"
    };
    Err(crate::error::ConfigurationError::OutOfRange { setting: "lease", value: format!("{lease_ms} ms"), rule }.into())
}

/// The shortest lease, in milliseconds, of a cluster that begins on this host.
pub(crate) fn least_ms() -> u32 {
    if is_virtual() { kddm_view::LEASE_MS_LEAST_VIRTUAL } else { kddm_view::LEASE_MS_LEAST }
}

/// Whether this host is a guest, which may be stopped without noticing.
fn is_virtual() -> bool {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    told.lines().any(|line| line.starts_with("flags") && line.split_ascii_whitespace().any(|flag| flag == "hypervisor"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Node, Set};

    #[test]
    fn who_is_proven_dead_is_expelled_at_once() {
        let nodes = Node::local_cluster(3).expect("three nodes");
        let set: Set<u64> = nodes[0].set("here").open().wait().expect("a set");
        drop(set.grab(1).wait().expect("nobody else has it"));
        let runtime = nodes[0].runtime();
        let life = |node: u16| {
            let state = runtime.membership.lock().state.clone();
            state.member(NodeId(node)).map(|entry| entry.incarnation)
        };
        let (second, third) = (life(2).expect("a member"), life(3).expect("a member"));
        runtime.proven_dead(NodeId(2), third);
        assert_eq!(life(2), Some(second), "another life was meant");
        runtime.proven_dead(NodeId(2), second);
        assert_eq!((life(2), life(3)), (None, Some(third)));
        runtime.proven_dead(NodeId(2), second);
        let lease = nodes[0].lease();
        assert_eq!((lease.failures, lease.counts.expulsions), (1, 1));
        assert!(nodes[0].departed().iter().any(|member| member.id == 2));
        assert!(
            runtime.grant(NodeId(2), second, 1, None).is_none() && runtime.grant(NodeId(3), third, 1, None).is_some()
        );
    }

    /// As when the answer to its question was in the network for longer than its lease: nobody waits for the limit.
    #[test]
    fn whoever_becomes_a_member_too_late_hears_so_at_once() {
        use crate::runtime::join::become_member;
        use kddm_core::view::NodeState;

        use crate::Config;
        use crate::error::{AccessError, Error};
        let first = Node::join(Config::new().lease(Duration::from_secs(60))).wait().expect("it begins a cluster");
        let config = Config::new().contact(first.address().clone()).without_autostart();
        let second = Node::join(config).wait().expect("it is let in");
        second.runtime().lease_is_over("it was let in too late");
        let late = become_member(second.runtime(), NodeState::Possible, Duration::MAX);
        assert!(matches!(late, Err(Error::Access(AccessError::Fenced))), "{late:?}");
        second.stop_within(Duration::ZERO);
        first.stop_within(Duration::ZERO);
    }

    #[test]
    fn leases_are_within_limits() {
        assert_eq!(check_length(Duration::from_secs(60)).ok(), Some(60_000));
        assert_eq!(check_length(Duration::from_millis(200)).ok(), Some(200));
        for wrong in [Duration::ZERO, Duration::from_millis(49), Duration::from_millis(60_001), Duration::MAX] {
            let error = check_length(wrong).expect_err("it is outside").to_string();
            assert!(error.contains("lease"), "{error}");
        }
        let short = check_length(Duration::from_millis(50));
        assert_eq!(short.is_err(), is_virtual());
    }
}
