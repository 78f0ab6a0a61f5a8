//! This node's copy of the view log and of the state that it decides, and how both stay the same on
//! all members. Lock order: the membership before the notifiers and the lanes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{Incarnation, NodeId, Time};
use kddm_core::node::Refused;
use kddm_core::view::View;
use kddm_view::{
    Change, FOLLOW_INTERVAL_NS, Identity as ClusterIdentity, LogError, MEMBERS, MemberEntry, Outcome, Outgoing,
    SingleVoter, State, ViewLog,
};

use crate::chain::Pause;
use crate::error::{Error, MembershipError};
use crate::runtime::Runtime;
use crate::runtime::control::{Answer, CONTROL_LIMIT, Question};
use crate::runtime::couriers::Couriers;
use crate::runtime::healing::Healing;
use crate::runtime::leasing::Leasing;
use crate::runtime::peer::Peer;
use crate::transport::Address;
use crate::transport::greeting::{Purpose, call};

/// How long a new node may leave a gap between its admission and its first connection before it is
/// taken for dead when another process asks for its number: the default limit of a join.
const FIRST_CONNECTION: Duration = Duration::from_secs(10);

/// How often a task looks whether sets exist by now: once in the life of a cluster, for a round trip.
const SEAL_ROUND: Duration = Duration::from_millis(1);

/// Nodes that have left and are remembered: as many as a cluster has members at most.
const DEPARTED: usize = MEMBERS;

/// Messages of the log that wait to be sent: a few for each member. More are dropped, as if the
/// network had lost them.
const OUTBOX: usize = 4 * MEMBERS;

/// What the lock of the membership protects.
pub(crate) struct Membership {
    pub state: State,
    log: Box<dyn ViewLog>,
    outbox: Vec<Outgoing>,
    /// Entries that this node lacks are kept nowhere: it needs the whole state.
    needs_state: bool,
    /// Decided, and not installed yet: the view before has to hold first.
    pub pending: VecDeque<View>,
    /// Who was a member once, as it was last.
    pub departed: BTreeMap<NodeId, MemberEntry>,
    /// This node is on its way out: only the thread that stops it takes from the outbox.
    is_leaving: bool,
    pub leasing: Leasing,
    pub healing: Healing,
}

impl Membership {
    fn new(state: State, log: impl ViewLog + 'static, leasing: Leasing) -> Membership {
        let (log, pending) = (Box::new(log), VecDeque::new());
        Membership {
            state,
            log,
            outbox: Vec::new(),
            needs_state: false,
            pending,
            departed: BTreeMap::new(),
            is_leaving: false,
            leasing,
            healing: Healing::default(),
        }
    }

    /// A new cluster with one member, which decides.
    pub fn found(
        identity: ClusterIdentity,
        me: NodeId,
        address: String,
        nonce: u64,
        lease_ms: u32,
    ) -> Result<Membership, LogError> {
        let state = State::new(identity, me).with_lease_ms(lease_ms);
        let mut membership = Membership::new(state, SingleVoter::voter(me, 0), Leasing::founded(lease_ms));
        membership.log.propose(Change::Join { node: Some(me), address, nonce, site: Default::default() })?;
        membership.apply();
        Ok(membership)
    }

    /// The membership of a node that the cluster has let in, which asked for that at `asked`.
    pub fn follow(state: State, me: NodeId, incarnation: Incarnation, asked: Time) -> Membership {
        let log = SingleVoter::follower(me, incarnation, state.voter(), state.applied());
        let leasing = Leasing::let_in(state.lease_ms(), asked);
        Membership::new(state, log, leasing)
    }

    /// Applies what was decided. The views that this gives are to be installed one after the other.
    fn apply(&mut self) {
        let entries = match self.log.decided_since(self.state.applied()) {
            Ok(entries) => entries,
            Err(_) => {
                self.needs_state = true;
                return;
            }
        };
        for entry in entries {
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
        self.log.voters_are(&[self.state.voter()]);
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

pub(crate) type Guard<'a> = parking_lot::MutexGuard<'a, Membership>;

impl Runtime {
    /// The time of the view log and of the notifiers.
    pub fn now(&self) -> Time {
        Time(self.started.elapsed().as_nanos() as u64)
    }

    /// Whether this node decides.
    pub fn is_voter(&self, membership: &Membership) -> bool {
        membership.state.voter() == self.identity.id
    }

    /// Whether this very life of this node is a member.
    pub fn is_member(&self, membership: &Membership) -> bool {
        let me = &self.identity;
        membership.state.has_life(me.id, me.incarnation, me.nonce)
    }

    /// Takes in what was decided, tells lanes and notifiers, and notes what the log has to say.
    fn advance(&self, membership: &mut Guard<'_>) {
        membership.apply();
        self.leases_follow(membership);
        self.install_pending(membership);
        let said = membership.log.take_outgoing();
        membership.outbox.extend(said);
        membership.outbox.truncate(OUTBOX);
        self.changed.notify_all();
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
                Err(_) => state.stop_sharing(),
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

    /// The voter lets a process in. One that asks for the number of a member whose connection is gone
    /// takes its place.
    pub fn let_in(&self, membership: &mut Guard<'_>, join: &Change, nonce: u64) -> Result<NodeId, String> {
        if let Change::Join { node: Some(node), .. } = join
            && let Some(old) = membership.state.member(*node)
            && old.nonce != nonce
            && self.is_gone(*node)
        {
            let leave = Change::Leave { node: *node, incarnation: old.incarnation };
            let refused = |reason| format!("node id {node} was that of a process that is gone; {reason}");
            membership.state.check(&leave).map_err(refused)?;
            self.propose_in(membership, leave).map_err(|error| error.to_string())?;
        }
        membership.state.check(join).map_err(|reason| reason.to_string())?;
        self.propose_in(membership, join.clone()).map_err(|error| error.to_string())?;
        membership.state.member_by_nonce(nonce).ok_or_else(|| "the admission was not decided; try again".into())
    }

    /// Whether a member had a connection with this node and has none any more.
    fn is_gone(&self, node: NodeId) -> bool {
        let state = self.lanes[0].lock();
        node != self.identity.id && state.peers.get(&node).is_none_or(|peer| peer.is_gone(FIRST_CONNECTION))
    }

    fn step(&self, membership: &mut Guard<'_>, from: NodeId, message: &[u8]) {
        if let Err(error) = membership.log.step(from, message) {
            tracing::debug!(%error, "a message of the view log did nothing");
        }
        self.advance(membership);
    }

    /// Takes in a message of another node's log; what there is to say to that node at once.
    pub fn step_and_answer(&self, from: NodeId, message: &[u8]) -> Vec<Vec<u8>> {
        let mut membership = self.membership.lock();
        self.step(&mut membership, from, message);
        membership.outbox.extract_if(.., |out| out.to == from).map(|out| out.message).collect()
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
                let needs_state = membership.needs_state;
                let messages = if membership.is_leaving { Vec::new() } else { std::mem::take(&mut membership.outbox) };
                let voter = membership.state.voter();
                drop(membership);
                if needs_state && let Err(error) = self.take_whole_state() {
                    tracing::warn!(%error, "the state of the cluster could not be had yet");
                }
                for message in messages {
                    // A follower has nobody else to talk to, and needs no other thread for that.
                    if message.to == voter {
                        self.tell(&message);
                    } else {
                        couriers.carry(self, scope, message);
                    }
                }
                self.report_overrun();
                self.wait_for_views();
            }
        });
    }

    /// Hands a message to another node's log. False if that failed.
    pub fn tell(self: &Arc<Self>, message: &Outgoing) -> bool {
        let told = self.exchange(message);
        if let Err(error) = &told {
            tracing::debug!(node = message.to.0, %error, "a message of the view log was lost");
        }
        told.is_ok()
    }

    /// Waits until there is something to send, an overrun to report, or time to ask.
    fn wait_for_views(&self) {
        let ask_at = self.now().after_ns(FOLLOW_INTERVAL_NS);
        let mut membership = self.membership.lock();
        loop {
            let nothing = membership.outbox.is_empty() || membership.is_leaving;
            let until = self.notify.overrun_at().map_or(ask_at, |at| at.min(ask_at));
            let left_ns = until.0.saturating_sub(self.now().0);
            if self.is_stopping() || left_ns == 0 || !nothing {
                return;
            }
            self.wait_for_change(&mut membership, Instant::now() + Duration::from_nanos(left_ns));
        }
    }

    /// Hands a message to another node's log, and takes in what that says.
    fn exchange(self: &Arc<Self>, message: &Outgoing) -> Result<(), Error> {
        let question = Question::Log(message.message.clone());
        match self.ask(message.to, &question)? {
            Answer::Log(answers) => {
                self.silence.heard(message.to);
                let mut membership = self.membership.lock();
                for answer in answers {
                    self.step(&mut membership, message.to, &answer);
                }
            }
            Answer::NotAMember => self.is_out(message.to),
            _ => tracing::warn!(node = message.to.0, "an answer to another question"),
        }
        Ok(())
    }

    /// The voter does not know this life any more: it was expelled, or another process has taken its number.
    pub fn is_out(self: &Arc<Self>, says: NodeId) {
        let membership = self.membership.lock();
        let is_news = says == membership.state.voter() && !membership.is_leaving;
        drop(membership);
        if is_news && !self.lease.is_valid() {
            self.lease_is_over("it was expelled");
        } else if is_news && !self.is_stopping() {
            tracing::error!("this node is no member any more: another process has taken its number. It stops");
            self.stop();
        }
    }

    /// Puts a question to a member.
    pub fn ask(&self, node: NodeId, question: &Question) -> Result<Answer, Error> {
        let address = self.membership.lock().state.member(node).map(|entry| entry.address.clone());
        let refused = |reason: String| Error::from(MembershipError::Refused { reason });
        let address = address.ok_or_else(|| refused(format!("node {node} is not a member")))?;
        let address: Address = address.parse().map_err(|error| refused(format!("node {node}: {error}")))?;
        call(&address, &self.hello(Purpose::Control), question, CONTROL_LIMIT)
            .map_err(|error| refused(format!("node {node}: {error}")))
    }

    /// The state of the cluster as that node knows it, if it tells.
    fn state_of(&self, node: NodeId) -> Result<Option<State>, Error> {
        match self.ask(node, &Question::State)? {
            Answer::State(bytes) => State::decode(&bytes)
                .map(Some)
                .map_err(|error| MembershipError::Refused { reason: error.to_string() }.into()),
            _ => Ok(None),
        }
    }

    /// Takes the whole state from the voter, in the place of entries that are kept nowhere.
    fn take_whole_state(&self) -> Result<(), Error> {
        let voter = self.membership.lock().state.voter();
        let refused = |reason: String| Error::from(MembershipError::Refused { reason });
        let Some(state) = self.state_of(voter)? else {
            return Err(refused(format!("node {voter} gave an answer to another question")));
        };
        let mut membership = self.membership.lock();
        membership.needs_state = false;
        if state.identity() == membership.state.identity() && state.applied() > membership.state.applied() {
            if self.lanes.iter().any(|lane| lane.lock().shares) && state.is_sealed() {
                let reason = "this node has slept through so many views that it cannot catch up: restart it";
                return Err(refused(reason.into()));
            }
            membership.log.skip_to(&state);
            membership.log.voters_are(&[state.voter()]);
            membership.state = state;
            let view = membership.state.view();
            membership.pending.push_back(view);
            self.install_pending(&mut membership);
        }
        self.advance(&mut membership);
        Ok(())
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
            let membership = self.membership.lock();
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

    /// Tells the others that this node goes, where they can do without it. Best effort: nobody waits
    /// for a voter that does not answer.
    pub fn leave(self: &Arc<Self>) {
        let leave = Change::Leave { node: self.identity.id, incarnation: self.identity.incarnation };
        let mut membership = self.membership.lock();
        membership.is_leaving = true;
        if membership.state.check(&leave).is_err() || self.propose_in(&mut membership, leave).is_err() {
            return;
        }
        let deadline = Instant::now() + CONTROL_LIMIT;
        while self.is_member(&membership) && Instant::now() < deadline {
            let messages = std::mem::take(&mut membership.outbox);
            if messages.is_empty() {
                // An earlier proposal is under way on the other thread.
                self.wait_for_change(&mut membership, deadline);
                continue;
            }
            drop(membership);
            if messages.iter().any(|message| self.exchange(message).is_err()) {
                return;
            }
            membership = self.membership.lock();
        }
    }
}

#[cfg(test)]
mod tests;
