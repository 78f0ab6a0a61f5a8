//! This node's copy of the view log and of the state that it decides, and how both stay the same on
//! all members. Lock order: the membership before the notifiers and the lanes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kddm_core::id::{Incarnation, NodeId, Time};
use kddm_core::node::Refused;
use kddm_core::view::View;
use kddm_view::{
    Change, FOLLOW_INTERVAL_NS, Identity as ClusterIdentity, LogError, MEMBERS, MemberEntry, NodeLog, Outcome,
    Outgoing, PROPOSE_INTERVAL_NS, Pace, Site, State, Storage, Voters,
};

use crate::chain::Pause;
use crate::error::{Error, MembershipError};
use crate::runtime::Runtime;
use crate::runtime::couriers::Couriers;
use crate::runtime::freezing::Freezes;
use crate::runtime::healing::Healing;
use crate::runtime::leasing::Leasing;
use crate::runtime::peer::Peer;
use crate::runtime::quiet::QuietGuard;
use crate::runtime::reviving::Revived;

/// How often a task looks whether sets exist by now: once in the life of a cluster, for a round trip.
const SEAL_ROUND: Duration = Duration::from_millis(1);

/// Nodes that have left and are remembered: as many as a cluster has members at most.
const DEPARTED: usize = MEMBERS;

/// Messages of the log that wait to be sent: a few for each member. More are dropped, as if the
/// network had lost them.
const OUTBOX: usize = 4 * MEMBERS;

/// Who begins a cluster.
pub(crate) struct Founder {
    pub cluster: ClusterIdentity,
    pub id: NodeId,
    pub address: String,
    pub nonce: u64,
    pub site: Site,
    pub lease_ms: u32,
}

/// What the lock of the membership protects.
pub(crate) struct Membership {
    /// This life.
    me: (NodeId, Incarnation),
    /// From when the time of the log counts. It never goes back: a log that is told of an earlier time than before
    /// waits until that is over, shows itself to nobody, and its node's lease ends.
    pub since: Instant,
    pub state: State,
    pub log: Box<dyn NodeLog>,
    pub outbox: Vec<Outgoing>,
    /// Entries that this node lacks are kept nowhere: it needs the whole state.
    needs_state: bool,
    /// Decided, and not installed yet: the view before has to hold first.
    pub pending: VecDeque<View>,
    /// Who was a member once, as it was last.
    pub departed: BTreeMap<NodeId, MemberEntry>,
    /// This node is on its way out.
    pub is_leaving: bool,
    /// It was told that it is no member any more.
    pub is_out: bool,
    pub leasing: Leasing,
    pub healing: Healing,
    /// The freezes of sets that are known here, and this node's own.
    pub freezes: Freezes,
}

impl Membership {
    fn new(me: NodeId, state: State, log: Box<dyn NodeLog>, leasing: Leasing) -> Membership {
        let life = state.member(me).map_or(Incarnation(0), |entry| entry.incarnation);
        Membership {
            me: (me, life),
            since: Instant::now(),
            state,
            log,
            outbox: Vec::new(),
            needs_state: false,
            pending: VecDeque::new(),
            departed: BTreeMap::new(),
            is_leaving: false,
            is_out: false,
            leasing,
            healing: Healing::default(),
            freezes: Freezes::default(),
        }
    }

    /// A new cluster with one member, which decides.
    pub fn found(founder: Founder, storage: Box<dyn Storage>) -> Result<Membership, LogError> {
        let Founder { cluster, id, address, nonce, site, lease_ms } = founder;
        let state = State::new(cluster, id).with_lease_ms(lease_ms);
        let log = Voters::found(id, nonce, state.clone(), storage)?.with_pace(Pace::for_lease_ms(lease_ms));
        let mut membership = Membership::new(id, state, Box::new(log), Leasing::founded(lease_ms));
        membership.log.propose(Change::Join { node: Some(id), address, nonce, site })?;
        membership.apply();
        membership.me.1 = membership.state.last_life();
        Ok(membership)
    }

    /// The membership of a node that the cluster has let in, which asked for that at `asked`.
    pub fn follow(
        state: State,
        me: NodeId,
        nonce: u64,
        asked: Time,
        storage: Box<dyn Storage>,
    ) -> Result<Membership, LogError> {
        let lease_ms = state.lease_ms();
        let log = Voters::follow(me, nonce, state.clone(), storage)?.with_pace(Pace::for_lease_ms(lease_ms));
        Ok(Membership::new(me, state, Box::new(log), Leasing::let_in(lease_ms, asked)))
    }

    /// The membership of a node that has come back with the log that it had kept.
    pub fn revived(revived: Revived) -> Membership {
        let Revived { id, state, log, asked, since, before } = revived;
        let leasing = Leasing::let_in(state.lease_ms(), asked);
        let mut membership = Membership::new(id, state, log, leasing);
        membership.since = since;
        membership.departed = before;
        membership.note_departed(None);
        membership
    }

    /// Which node this is.
    pub fn node(&self) -> NodeId {
        self.me.0
    }

    /// Applies what was decided. The views that this gives are to be installed one after the other.
    fn apply(&mut self) {
        let entries = match self.log.decided_since(self.state.applied()) {
            Ok(entries) => entries,
            Err(LogError::Forgotten { .. }) => {
                self.needs_state = true;
                return;
            }
            Err(error) => {
                if self.log.retire() {
                    tracing::error!(%error, "this node follows the other voters from now on, and is none");
                } else {
                    tracing::error!(%error, "this node cannot know any more who is a member");
                    self.is_out = true;
                }
                return;
            }
        };
        for entry in entries {
            if matches!(entry.change, Change::Expel { node, incarnation, .. } if (node, incarnation) == self.me) {
                // Nothing that comes after is for this life.
                self.is_out = true;
                return;
            }
            let leaving = match entry.change {
                Change::Leave { node, .. } | Change::Expel { node, .. } => {
                    self.state.member(node).map(|member| (node, member.clone()))
                }
                _ => None,
            };
            match self.state.apply(&entry) {
                Ok(Outcome::Changed) => {
                    self.note_departed(leaving);
                    self.pending.push_back(self.state.view());
                }
                Ok(Outcome::Unchanged) => {}
                Ok(Outcome::Refused(reason)) => tracing::info!(entry = entry.index, %reason, "a change was refused"),
                Err(gap) => {
                    tracing::error!(%gap, "taking the whole state of the cluster again");
                    self.needs_state = true;
                    break;
                }
            }
        }
    }

    /// How soon the log has to see the time: a voter among several for its leader, others to ask.
    fn tick_every_ns(&self) -> u64 {
        let is_among_several = self.log.groups().iter().any(|group| group.len() > 1);
        if is_among_several && self.log.votes() {
            Pace::for_lease_ms(self.state.lease_ms()).heartbeat_ns / 2
        } else if self.log.has_proposals() {
            PROPOSE_INTERVAL_NS
        } else {
            FOLLOW_INTERVAL_NS
        }
    }

    /// Whoever has come back is not among them any more.
    fn note_departed(&mut self, leaving: Option<(NodeId, MemberEntry)>) {
        let state = &self.state;
        self.departed.extend(leaving);
        self.departed.retain(|node, _| state.member(*node).is_none());
        while self.departed.len() > DEPARTED {
            self.departed.pop_first();
        }
    }
}

/// Nobody is woken while a thread has it: that waits until it has given it up.
pub(crate) type Guard<'a> = QuietGuard<'a, Membership>;

impl Runtime {
    /// The time of the view log and of the notifiers.
    pub fn now(&self) -> Time {
        Time(self.started.elapsed().as_nanos() as u64)
    }

    /// Whether this very life of this node is a member.
    pub fn is_member(&self, membership: &Membership) -> bool {
        let me = &self.identity;
        membership.state.has_life(me.id, me.incarnation, me.nonce)
    }

    /// Takes in what was decided, does what that asks of the one that decides, tells lanes and notifiers, and
    /// notes what the log has to say.
    pub fn advance(&self, membership: &mut Guard<'_>) {
        self.take_in(membership);
        // Before a view is installed: who comes in may write nothing that is frozen.
        while self.follow_freezes(membership) {
            self.take_in(membership);
        }
        self.install_pending(membership);
        let said = membership.log.take_outgoing();
        membership.outbox.extend(said);
        membership.outbox.truncate(OUTBOX);
        self.changed.notify_all();
    }

    /// Takes in what was decided, as long as that leads to more.
    fn take_in(&self, membership: &mut Guard<'_>) {
        loop {
            membership.apply();
            if membership.is_out && !membership.is_leaving {
                self.lease_is_over("it was expelled, or can follow the view log no more");
            }
            if membership.needs_state && !self.take_state_of_log(membership) {
                break;
            }
            self.leases_follow(membership);
            if !self.decide_what_is_due(membership) {
                break;
            }
        }
    }

    /// Installs a view in all lanes, and queues it for the notifiers.
    pub fn install(&self, view: &View) {
        for lane in &self.lanes {
            let mut state = lane.lock();
            let gone: Vec<NodeId> = state.peers.keys().copied().collect();
            for id in gone {
                let life = view.member(id).map(|member| member.incarnation);
                if life != state.peers.get(&id).map(|peer| peer.incarnation) {
                    state.disconnect(id, &lane.poller);
                    state.peers.remove(&id);
                }
            }
            for member in view.members.iter().filter(|member| member.id != self.identity.id) {
                let peer = state.peers.entry(member.id).or_insert_with(|| Peer::unconnected(member.incarnation));
                peer.is_proven_dead |= self.silence.is_dead(member.id, member.incarnation);
            }
            let is_new = view.placement > state.core.view().placement;
            match view.try_clone().map_err(Refused::from).and_then(|copy| state.core.install_view(copy)) {
                Err(_) if !is_new => {} // It was taken in whole, and is installed again.
                Err(refused) => {
                    tracing::error!(?refused, "a view could not be installed");
                    state.fence("a view could not be installed");
                }
                Ok(()) => state.begin_view(),
            }
            match view.homes.binary_search(&self.identity.id) {
                Ok(_) => state.shares = true,
                Err(_) => {
                    self.signals.is_leaving.store(self.is_leaving(), Ordering::Relaxed);
                    state.stop_sharing();
                }
            }
            state.release_held(&lane.poller);
            lane.finish(state);
        }
        self.rpc.installed(view);
        self.tell_of_view(view.clone());
    }

    /// Asks for a change to be decided. That it was is seen in the state.
    pub fn propose(&self, change: Change) -> Result<(), Error> {
        let mut membership = self.membership.lock();
        self.propose_in(&mut membership, change)
    }

    pub fn propose_in(&self, membership: &mut Guard<'_>, change: Change) -> Result<(), Error> {
        let refused = |error: LogError| MembershipError::Refused { reason: error.to_string() };
        membership.log.propose(change).map_err(refused)?;
        self.advance(membership);
        Ok(())
    }

    /// The thread that keeps this node's log the same as that of the others.
    pub fn keep_views(self: &Arc<Self>) {
        crate::runtime::wait::mark_part_of_node();
        let couriers = Couriers::default();
        std::thread::scope(|scope| {
            while !self.is_stopping() {
                let mut membership = self.membership.lock();
                membership.log.tick(self.now());
                self.advance(&mut membership);
                let messages = std::mem::take(&mut membership.outbox);
                drop(membership);
                for message in messages {
                    couriers.carry(self, scope, message);
                }
                self.report_overrun();
                self.wait_for_views();
            }
            couriers.close();
        });
    }

    /// Waits until there is something to send, an overrun to report, or time to ask.
    fn wait_for_views(&self) {
        let mut membership = self.membership.lock();
        let ask_at = self.now().after_ns(membership.tick_every_ns());
        loop {
            let nothing = membership.outbox.is_empty();
            let ask_at = membership.log.due().map_or(ask_at, |due| due.min(ask_at));
            let until = self.notify.overrun_at().map_or(ask_at, |at| at.min(ask_at));
            let left_ns = until.0.saturating_sub(self.now().0);
            if self.is_stopping() || left_ns == 0 || !nothing {
                return;
            }
            self.wait_for_change(&mut membership, Instant::now() + Duration::from_nanos(left_ns));
        }
    }

    /// Takes the whole state that the log has been given, in the place of entries that are kept nowhere. False
    /// if this node cannot go on from there.
    fn take_state_of_log(&self, membership: &mut Guard<'_>) -> bool {
        membership.needs_state = false;
        let state = membership.log.base().clone();
        if state.applied() <= membership.state.applied() {
            return false;
        }
        if self.lanes.iter().any(|lane| lane.lock().shares) && state.is_sealed() {
            self.lease_is_over("it has slept through so many views that it cannot catch up");
            return false;
        }
        membership.state = state;
        let view = membership.state.view();
        membership.pending.push_back(view);
        membership.apply();
        true
    }

    /// Sets exist from now on: that is decided before the first one is used.
    pub fn seal(self: &Arc<Self>) -> Result<(), Error> {
        let mut membership = self.membership.lock();
        if membership.state.is_sealed() {
            return Ok(());
        }
        if !crate::runtime::wait::may_block() {
            return Err(crate::error::AccessError::WouldBlock.into());
        }
        let deadline = crate::runtime::wait::deadline_in(self.config.wait_limit);
        self.propose_in(&mut membership, Change::Seal)?;
        while !membership.state.is_sealed() {
            let voter = membership.state.voter();
            self.still_going(deadline, || format!("node {voter} has not decided that sets exist; is it alive?"))?;
            self.wait_for_change(&mut membership, deadline);
        }
        Ok(())
    }

    /// Whether there may be sets. A node that has not heard of any asks the one that decides: news of the
    /// first set may be on its way here.
    pub fn has_sets(&self) -> Result<bool, Error> {
        let (is_sealed, voter) = {
            let mut membership = self.membership.lock();
            if membership.is_kept_elsewhere() && !membership.state.is_sealed() {
                self.catch_up(&mut membership)?;
                return Ok(membership.state.is_sealed());
            }
            (membership.state.is_sealed(), membership.state.voter())
        };
        if is_sealed || voter == self.identity.id {
            return Ok(is_sealed);
        }
        Ok(self.state_of(voter)?.is_some_and(|state| state.is_sealed()))
    }

    /// As [`Self::seal`], for a task. It is proposed when this returns.
    pub fn seal_soon(self: &Arc<Self>) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let runtime = Arc::clone(self);
        let deadline = crate::runtime::wait::deadline_in(self.config.wait_limit);
        let mut membership = self.membership.lock();
        let is_sealed = membership.state.is_sealed();
        let proposed = if is_sealed { Ok(()) } else { self.propose_in(&mut membership, Change::Seal) };
        drop(membership);
        async move {
            proposed?;
            loop {
                let voter = match &runtime.membership.lock().state {
                    state if state.is_sealed() => return Ok(()),
                    state => state.voter(),
                };
                let reason = || format!("node {voter} has not decided that sets exist; is it alive?");
                runtime.still_going(deadline, reason)?;
                Pause::until(&runtime.lanes[0], Instant::now() + SEAL_ROUND).await;
            }
        }
    }

    fn still_going(&self, deadline: Instant, reason: impl Fn() -> String) -> Result<(), Error> {
        if self.is_stopping() {
            return Err(MembershipError::Stopped.into());
        }
        if Instant::now() < deadline { Ok(()) } else { Err(MembershipError::Refused { reason: reason() }.into()) }
    }
}

#[cfg(test)]
mod tests;
