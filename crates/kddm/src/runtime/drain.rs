//! A node stops sharing: it hands over its shards, then ownerships and last copies, and only then
//! steps back. Nobody else notices, and nothing is lost.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{NodeId, ObjectId, SetId};
use kddm_core::io::Input;
use kddm_core::message::RequestKind;
use kddm_core::view::NodeState;
use kddm_view::{Change, MemberEntry};

use crate::error::{AccessError, Error, MembershipError};
use crate::runtime::Runtime;
use crate::runtime::control::CONTROL_LIMIT;
use crate::runtime::lane::LaneState;
use crate::runtime::membership::Guard;

/// Objects that are given away at one time: enough to keep every link busy, also with a millisecond
/// between two nodes, and few enough that what was touched of an object is still in the processor's
/// caches when its new owner confirms it.
const IN_FLIGHT: usize = 1_024;

/// Objects given away before the lane is free for others.
const IN_ONE_TURN: usize = 256;

/// Cells of objects that are looked up before the first of these objects is given away. What is in no
/// cache is then fetched for all of them at once, and not for one after the other.
const LOOK_AHEAD: usize = 16;

/// How often a drain looks whether the answers are in.
const DRAIN_ROUND: Duration = Duration::from_micros(200);

/// How often it looks whether a view has come that nobody tells it of.
const VIEW_ROUND: Duration = Duration::from_millis(5);

/// A drain needs every member. One that cannot be reached for so long will not come back in time:
/// a connection that broke is made again within a tenth of it.
const UNREACHABLE_LIMIT: Duration = Duration::from_secs(2);

/// How long a drain goes on.
struct Patience {
    deadline: Instant,
    unlinked_since: Cell<Option<Instant>>,
}

impl LaneState {
    /// Asks the core to give an object away. False if it is asked for something already.
    pub fn begin_flush(&mut self, set: SetId, object: ObjectId) -> bool {
        if self.locals.get(&(set, object)).is_some_and(|local| local.outstanding) {
            return false;
        }
        self.local(set, object).outstanding = true;
        self.run_own(set, object, Some(Input::Want { kind: RequestKind::Flush { to: NodeId::NOBODY } }));
        true
    }

    /// Begins to give away up to `most` of the objects in `list`, from its end. Those that local
    /// threads hold, or that are on their way already, stay for the next round.
    fn give_away(&mut self, list: &mut Vec<(SetId, ObjectId)>, most: usize) -> usize {
        let mut begun = 0;
        while begun < most && !self.is_a_peer_full() {
            if list.len().is_multiple_of(LOOK_AHEAD) {
                self.look_up(&list[list.len().saturating_sub(LOOK_AHEAD)..]);
            }
            let Some((set, object)) = list.pop() else { break };
            if self.begin_flush(set, object) {
                begun += 1;
            }
        }
        begun
    }

    /// Brings the cells of objects closer, see [`LOOK_AHEAD`].
    fn look_up(&self, objects: &[(SetId, ObjectId)]) {
        for (set, object) in objects {
            let _only_looked_at = self.stores.get(set).and_then(|store| store.find(object.0));
        }
    }

    /// All that is here of any object.
    fn holdings(&self) -> Vec<(SetId, ObjectId)> {
        let of = |set: SetId| self.core.holdings(set).map(move |object| (set, object));
        self.core.sets().into_iter().flat_map(of).collect()
    }

    fn holding_count(&self) -> usize {
        self.core.sets().into_iter().map(|set| self.core.holdings(set).count()).sum()
    }

    /// Members without a connection now.
    fn unlinked(&self) -> Vec<u16> {
        self.peers.iter().filter(|(_, peer)| !peer.is_connected()).map(|(node, _)| node.0).collect()
    }

    /// The frames that no peer has confirmed yet.
    fn unconfirmed_bytes(&self) -> usize {
        self.peers.values().map(|peer| peer.session.unacknowledged_bytes()).sum()
    }
}

impl Runtime {
    /// Stops sharing objects within `limit`: afterwards this node is online, and holds nothing.
    pub fn stop_sharing(self: &Arc<Self>, limit: Duration) -> Result<(), Error> {
        if !super::wait::may_block() {
            return Err(AccessError::WouldBlock.into());
        }
        let drained = self.drain_within(limit);
        if let Err(MembershipError::DrainTimedOut { .. }) = drained {
            // What could not be handed over stays, and so does this node.
            self.start_sharing(self.config.join_limit)?;
        }
        Ok(drained?)
    }

    fn drain_within(&self, limit: Duration) -> Result<(), MembershipError> {
        let until = Patience { deadline: super::wait::deadline_in(limit), unlinked_since: Cell::new(None) };
        let limit_ms = limit.as_millis() as u64;
        self.try_to_stop_sharing(&until).map_err(|error| match error {
            MembershipError::DrainTimedOut { missing, .. } => MembershipError::DrainTimedOut { limit_ms, missing },
            other => other,
        })
    }

    fn try_to_stop_sharing(&self, until: &Patience) -> Result<(), MembershipError> {
        let (node, incarnation) = (self.identity.id, self.identity.incarnation);
        let drain = Change::Drain { node, incarnation };
        self.decide(drain, until, "the drain", |membership, node| {
            membership.state.member(node).is_none_or(|member| member.draining || !member.state.can_share())
        })?;
        self.wait_until_others_vote(until)?;
        self.wait_for_installed(until)?;
        self.give_everything_away(until)?;
        let step_back = Change::SetState { node, incarnation, state: NodeState::Online };
        self.decide(step_back, until, "the step back", |membership, node| {
            membership.state.member(node).is_none_or(|member| !member.state.can_share())
        })?;
        // When this view holds here, every member has said its last word to this node as one that
        // shares; what was on its way until then is given away too.
        self.wait_for_installed(until)?;
        self.give_everything_away(until)?;
        self.wait_until_confirmed(until)
    }

    /// If this node has a say in who is a member, others take that over, if there are any.
    fn pass_on_the_vote(&self, until: &Patience) -> Result<(), MembershipError> {
        let (node, incarnation) = (self.identity.id, self.identity.incarnation);
        let has_a_say = {
            let membership = self.membership.lock();
            let can_vote = |entry: &MemberEntry| entry.state.can_share() || entry.site.witness;
            let others = membership.state.members().any(|(other, entry)| other != node && can_vote(entry));
            // Without another one there is nobody to hand over to.
            others && membership.state.voters().contains(&node)
        };
        if !has_a_say {
            return Ok(());
        }
        let drain = Change::Drain { node, incarnation };
        self.decide(drain, until, "the drain", |membership, node| {
            membership.state.member(node).is_none_or(|member| member.draining)
        })?;
        self.wait_until_others_vote(until)
    }

    /// Whoever leads names others in the place of a voter that is on its way out.
    fn wait_until_others_vote(&self, until: &Patience) -> Result<(), MembershipError> {
        let me = self.identity.id;
        let mut membership = self.membership.lock();
        while membership.state.voters().contains(&me) || membership.state.voter() == me {
            self.check_drain(until, || "no other node has taken over to decide; are they alive?".into())?;
            self.wait_for_change(&mut membership, until.deadline.min(Instant::now() + VIEW_ROUND));
        }
        Ok(())
    }

    /// Has a change decided, and waits until it is so.
    fn decide(
        &self,
        change: Change,
        until: &Patience,
        what: &str,
        is_so: impl Fn(&Guard<'_>, NodeId) -> bool,
    ) -> Result<(), MembershipError> {
        let mut membership = self.membership.lock();
        let refused = |reason: String| MembershipError::Refused { reason };
        membership.state.check(&change).map_err(|reason| refused(reason.to_string()))?;
        self.propose_in(&mut membership, change.clone()).map_err(|error| refused(error.to_string()))?;
        while !is_so(&membership, self.identity.id) {
            // What has come first may have made this the last one: then it is refused, and nobody says so.
            membership.state.check(&change).map_err(|reason| refused(reason.to_string()))?;
            self.check_drain(until, || format!("the other nodes have not decided {what}; are they alive?"))?;
            self.wait_for_change(&mut membership, until.deadline.min(Instant::now() + VIEW_ROUND));
        }
        Ok(())
    }

    /// Waits until all decided views are installed here and hold.
    fn wait_for_installed(&self, until: &Patience) -> Result<(), MembershipError> {
        let mut membership = self.membership.lock();
        while !membership.pending.is_empty() || !self.is_settled() {
            self.check_drain(until, || self.unsettled())?;
            self.wait_for_change(&mut membership, until.deadline.min(Instant::now() + VIEW_ROUND));
        }
        Ok(())
    }

    /// Whether this node is on its way from possible to online.
    pub fn is_draining(&self) -> bool {
        self.membership.lock().state.member(self.identity.id).is_some_and(|member| member.draining)
    }

    /// Hands over what is here and leaves, as far as the others can do without this node. What stays
    /// behind is said in the log.
    pub fn drain_and_leave(self: &Arc<Self>, limit: Duration) {
        let shares = |lane: &Arc<crate::runtime::lane::Lane>| lane.lock().shares;
        let (is_sealed, is_alone) = {
            let membership = self.membership.lock();
            (membership.state.is_sealed(), membership.state.view().homes.len() < 2)
        };
        let has_to = !limit.is_zero() && is_sealed && !is_alone && self.lanes.iter().any(shares);
        let until = Patience { deadline: super::wait::deadline_in(limit), unlinked_since: Cell::new(None) };
        // It does not share again if that fails, as a node that stays would: whoever has to agree may be gone, too.
        if has_to && let Err(error) = self.drain_within(limit) {
            tracing::error!(%error, "this node stops without having handed over all it holds");
            if let Err(error) = self.wait_for_those_who_leave(&until) {
                tracing::error!(%error, "others that stop had not handed over all to this node");
            }
        }
        // Nobody could decide anything any more; where there are objects, that has been done already.
        let soon = Patience { deadline: Instant::now() + CONTROL_LIMIT, unlinked_since: Cell::new(None) };
        if !limit.is_zero()
            && let Err(error) = self.pass_on_the_vote(&soon)
        {
            tracing::error!(%error, "this node decides who is a member, and could not pass that on");
        }
        self.leave();
    }

    /// All may stop at one time: the last one stays until the others have handed over to it and have left, which it may
    /// have to decide. Some of them may only stop to share, and stay: they are not waited for long.
    fn wait_for_those_who_leave(&self, until: &Patience) -> Result<(), MembershipError> {
        let mut membership = self.membership.lock();
        let drains = |(node, entry): &(NodeId, &MemberEntry)| *node != self.identity.id && entry.draining;
        let life = |(node, entry): (NodeId, &MemberEntry)| (node, entry.incarnation);
        let leaving: Vec<_> = membership.state.members().filter(drains).map(life).collect();
        let mut handed_over_at = None;
        while membership.state.members().any(|member| leaving.contains(&life(member))) {
            if !membership.state.members().any(|member| drains(&member)) {
                let since = *handed_over_at.get_or_insert_with(Instant::now);
                if since.elapsed() >= CONTROL_LIMIT {
                    return Ok(());
                }
            }
            self.check_drain(until, || "other nodes that stop have not left".into())?;
            self.wait_for_change(&mut membership, until.deadline.min(Instant::now() + VIEW_ROUND));
        }
        Ok(())
    }

    fn unsettled(&self) -> String {
        let awaited: Vec<u16> =
            self.lanes.iter().flat_map(|lane| lane.lock().core.awaited().collect::<Vec<_>>()).map(|id| id.0).collect();
        format!("nodes {awaited:?} have not handed over all their shards; are they alive?")
    }

    /// Gives every object away: to a node that has a copy, else to its home.
    fn give_everything_away(&self, until: &Patience) -> Result<(), MembershipError> {
        for lane in &self.lanes {
            loop {
                let mut list = lane.lock().holdings();
                let count = list.len();
                if count == 0 && lane.lock().core.is_at_rest() {
                    break;
                }
                self.check_drain(until, || still_here(count))?;
                self.draining_left.store(count, std::sync::atomic::Ordering::Relaxed);
                while !list.is_empty() {
                    let mut state = lane.lock();
                    if state.locals.len() < IN_FLIGHT && !state.is_a_peer_full() {
                        state.give_away(&mut list, IN_ONE_TURN);
                        lane.finish_fair(state);
                    } else {
                        drop(state);
                        self.check_drain(until, || still_here(lane.lock().holding_count()))?;
                        std::thread::park_timeout(DRAIN_ROUND);
                    }
                }
                // The rest is on its way, or held by local threads.
                std::thread::park_timeout(DRAIN_ROUND);
            }
        }
        self.draining_left.store(0, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// Waits until every peer has confirmed all that was sent to it.
    fn wait_until_confirmed(&self, until: &Patience) -> Result<(), MembershipError> {
        let unconfirmed = || self.lanes.iter().map(|lane| lane.lock().unconfirmed_bytes()).sum::<usize>();
        while unconfirmed() > 0 {
            self.check_drain(until, || "not every node has confirmed what was sent to it".into())?;
            std::thread::park_timeout(VIEW_ROUND);
        }
        Ok(())
    }

    fn check_drain(&self, until: &Patience, missing: impl Fn() -> String) -> Result<(), MembershipError> {
        if self.is_stopping() {
            return Err(MembershipError::Stopped);
        }
        let now = Instant::now();
        let mut unlinked: Vec<u16> = self.lanes.iter().flat_map(|lane| lane.lock().unlinked()).collect();
        unlinked.sort_unstable();
        unlinked.dedup();
        let since = if unlinked.is_empty() { None } else { until.unlinked_since.get().or(Some(now)) };
        until.unlinked_since.set(since);
        let is_hopeless = since.is_some_and(|since| now >= since + UNREACHABLE_LIMIT);
        if now < until.deadline && !is_hopeless {
            return Ok(());
        }
        let why = if is_hopeless { format!("; nodes {unlinked:?} cannot be reached") } else { String::new() };
        Err(MembershipError::DrainTimedOut { limit_ms: 0, missing: missing() + &why })
    }

    /// Shares objects again.
    pub fn start_sharing(self: &Arc<Self>, limit: Duration) -> Result<(), Error> {
        if !super::wait::may_block() {
            return Err(AccessError::WouldBlock.into());
        }
        super::join::become_member(self, NodeState::Possible, limit)
    }
}

fn still_here(count: usize) -> String {
    format!("{count} objects are still here; local threads hold them, or a node does not take them")
}
