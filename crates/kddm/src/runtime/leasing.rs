//! This node's lease, and, where this node decides who is a member, those of all others.
//!
//! A follower asks for time on a connection that it keeps to the node that decides, four times in a
//! lease; the end of what it was granted is the deadline that every use of a value is held against. The
//! one that decides is its own majority, and needs none. It expels whose lease has run out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{Incarnation, NodeId, Placement, Time};
use kddm_view::detector::Detector;
use kddm_view::lease::{Grant, Granter, Holder, Renewal, Terms};
use kddm_view::{Cause, Change};

use crate::cell::Lease;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::runtime::control::{Answer, Question};
use crate::runtime::membership::{Guard, Membership};
use crate::transport::greeting::{self, Purpose, greet};
use crate::transport::{Address, Stream};

/// By how many ticks of the coarse clock a deadline comes earlier: it may be one behind when it is
/// read, one more where a tick came late, and one to spare.
const TICKS: u64 = 3;

/// The part of [`Membership`] that knows about leases.
pub(crate) struct Leasing {
    terms: Terms,
    holder: Holder,
    /// Where this node decides.
    granter: Option<Granter>,
    detector: Detector,
    suspected: BTreeSet<NodeId>,
    /// This node was held up: what it knows of others is old, and it expels nobody before that.
    expels_from: Time,
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

    /// Takes in a grant. Whether the lease is longer now.
    fn take(&mut self, grant: Grant) -> bool {
        let lasts_ns = grant.lasts_ns.saturating_sub(TICKS * Lease::tick_ns());
        self.holder.granted(Grant { lasts_ns, ..grant }, Time(Lease::now_ns()))
    }

    /// The deadline of what is held here.
    pub fn until_ns(&self) -> u64 {
        self.holder.until().0
    }
}

impl Membership {
    /// How often a node asks for time, or looks whose has run out. Where something is to heal, not only as
    /// often as a long lease would have it.
    fn look_every_ns(&self) -> u64 {
        let every_ns = self.leasing.terms.renew_every_ns();
        if self.state.is_healed() { every_ns } else { every_ns.min(HEALING_LOOK_NS) }
    }
}

/// A connection to the node that decides, kept from one renewal to the next.
struct Line {
    to: NodeId,
    stream: Stream,
}

impl Runtime {
    /// Who decides may have changed, and who is a member: call it with every change of the state.
    pub fn leases_follow(&self, membership: &mut Membership) {
        let (me, now) = (self.identity.id, self.now());
        let Membership { state, leasing, .. } = membership;
        if state.voter() == me {
            let others = state.members().filter(|(node, _)| *node != me);
            let others = others.map(|(node, entry)| (node, entry.incarnation));
            match &mut leasing.granter {
                Some(granter) => granter.members_are(others, now),
                // The one before may have granted everybody a lease just now.
                None => leasing.granter = Some(Granter::elected(leasing.terms, others, now)),
            }
            leasing.detector.retain(|node| state.member(node).is_some());
            leasing.suspected.retain(|node| state.member(*node).is_some());
            self.lease.prolong_to_ns(Lease::NOT_NEEDED);
        } else if leasing.granter.take().is_some() {
            // Whoever decides next has not heard so yet, and then waits for a whole lease.
            leasing.begin(Time(Lease::now_ns()));
            self.lease.set_deadline_unless_ended(leasing.until_ns());
        }
    }

    /// A member asks for time. None if it gets none.
    pub fn grant(&self, node: NodeId, incarnation: Incarnation, number: u64, whole: Option<Placement>) -> Option<u64> {
        let mut membership = self.membership.lock();
        // Only now: the renewal has come before.
        let now = self.now();
        membership.healing.said(node, incarnation, whole);
        let leasing = &mut membership.leasing;
        leasing.detector.heard(node, now);
        leasing.suspected.remove(&node);
        // A sole voter is its own majority.
        let own_until = Time(u64::MAX);
        let grant = leasing.granter.as_mut()?.renew(node, incarnation, Renewal { number }, own_until, now)?;
        leasing.counts.granted += 1;
        if whole.is_some() {
            self.heal(&mut membership);
        }
        Some(grant.lasts_ns)
    }

    /// The thread that keeps this node's lease, or looks whose has run out.
    pub fn keep_lease(self: &Arc<Self>) {
        crate::runtime::wait::mark_part_of_node();
        let mut line = None;
        let mut due = Instant::now();
        while !self.is_stopping() {
            let late = due.elapsed();
            let wait = if self.is_voter(&self.membership.lock()) {
                line = None;
                self.look_who_ran_out(late)
            } else {
                let begun = Instant::now();
                self.renew_lease(&mut line);
                let every = Duration::from_nanos(self.membership.lock().look_every_ns());
                every.saturating_sub(begun.elapsed())
            };
            due = Instant::now() + wait;
            let mut membership = self.membership.lock();
            // Every change wakes this thread; a new voter is asked at once, and what is to heal looked at soon.
            let known = (membership.state.voter(), membership.state.is_healed());
            while !self.is_stopping() && (membership.state.voter(), membership.state.is_healed()) == known {
                if !self.wait_for_change(&mut membership, due) {
                    break;
                }
            }
        }
    }

    /// Expels whoever can have no lease any more. How long nobody's can end.
    fn look_who_ran_out(&self, late: Duration) -> Duration {
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
        }
        self.heal(&mut membership);
        let leasing = &membership.leasing;
        let next = leasing.granter.as_ref().and_then(Granter::next_end).unwrap_or(Time(u64::MAX));
        let wait_ns = next.max(leasing.expels_from).0.saturating_sub(self.now().0);
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

    fn expel(&self, membership: &mut Guard<'_>, node: NodeId, incarnation: Incarnation, cause: Cause) {
        let change = Change::Expel { node, incarnation, cause };
        // It gets no more time, whatever becomes of the proposal.
        if let Some(granter) = &mut membership.leasing.granter {
            granter.condemn(node, incarnation);
        }
        if let Err(reason) = membership.state.check(&change) {
            tracing::warn!(node = node.0, %reason, "a member that has failed is not expelled");
            return;
        }
        membership.leasing.counts.expulsions += 1;
        tracing::warn!(node = node.0, incarnation = incarnation.0, ?cause, "a member has failed and is expelled");
        if let Err(error) = self.propose_in(membership, change) {
            tracing::error!(node = node.0, %error, "an expulsion could not be proposed");
        }
    }

    /// The kernel of its host says that the process of that life is gone: nothing is waited for.
    pub fn expel_proven_dead(&self, node: NodeId, incarnation: Incarnation) {
        let mut membership = self.membership.lock();
        // Whoever decides hears it from the guardian, too.
        if self.is_voter(&membership) {
            self.expel(&mut membership, node, incarnation, Cause::Proof);
        }
    }

    /// Asks for time. If there is none left, the node is fenced.
    fn renew_lease(self: &Arc<Self>, line: &mut Option<Line>) {
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
        let Some(renewal) = renewal else { return self.lease_is_over("its lease has ended") };
        let Some(address) = address.and_then(|address| address.parse::<Address>().ok()) else { return };
        let question = Question::Renew { number: renewal.number, whole: whole.map(|placement| placement.0) };
        match self.ask_on(line, voter, &address, &question, limit) {
            Ok(Answer::Granted { number, lasts_ns }) => {
                self.silence.heard(voter);
                let mut membership = self.membership.lock();
                let is_voter = membership.state.voter() == voter;
                if is_voter && membership.leasing.take(Grant { number, lasts_ns }) {
                    membership.leasing.counts.renewals += 1;
                    self.lease.prolong_to_ns(membership.leasing.until_ns());
                    drop(membership);
                    self.tell_programs();
                }
            }
            Ok(Answer::NotAMember) => self.is_out(voter),
            Ok(_) => *line = None,
            Err(error) => {
                *line = None;
                tracing::debug!(node = voter.0, %error, "no time was granted");
            }
        }
    }

    /// Programs hear what holds for what they were lent. They have the same clock.
    fn tell_programs(&self) {
        for lane in &self.lanes {
            let mut state = lane.lock();
            if state.desk.session_count() > 0 {
                state.tell_programs_of_lease();
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
        self.lease.deadline_ns() == Lease::ENDED && !self.is_voter(membership)
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

    /// Puts a question on a connection that stays.
    fn ask_on(
        &self,
        line: &mut Option<Line>,
        to: NodeId,
        address: &Address,
        question: &Question,
        limit: Duration,
    ) -> Result<Answer, Box<dyn std::error::Error>> {
        if line.as_ref().is_none_or(|line| line.to != to) {
            let (stream, ..) = greet(address, &self.hello(Purpose::Control), limit)?;
            *line = Some(Line { to, stream });
        }
        let Some(Line { stream, .. }) = line else { return Err("no connection".into()) };
        stream.set_limit(Some(limit))?;
        greeting::send(stream, question)?;
        Ok(greeting::receive(stream)?)
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

/// While members are to say that all is whole they do so twice a second at least.
const HEALING_LOOK_NS: u64 = 500_000_000;

/// A look at all leases costs microseconds: it is not worth while more often than each millisecond.
const MILLISECOND_NS: u64 = 1_000_000;

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
        let first = Node::join(Config::new()).wait().expect("it begins a cluster");
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
