//! Sets are frozen by an entry of the log of views, which all members apply: from then on nobody new begins to write,
//! wherever he comes in. Whoever freezes then asks each member when its writers have come to an end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{NodeId, SetId};
use kddm_view::{Change, Frozen, MemberEntry, Refused, State};

use crate::error::{AccessError, Error, MembershipError, SetError};
use crate::freeze::FreezeError;
use crate::runtime::Runtime;
use crate::runtime::control::Question;
use crate::runtime::destroy::{HOLDER_CHECK, SLICE};
use crate::runtime::membership::Guard;
use crate::runtime::wait::deadline_in;

/// How long a member is asked at one time: it may be gone, and be known to be gone, before it has answered.
const ASKED_AT_ONCE: Duration = Duration::from_millis(500);

/// How long it is until a member is asked again that has not come to an end, or cannot be reached.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// The freezes of sets, as a node has taken them in, and which of them are its own.
#[derive(Default)]
pub(crate) struct Freezes {
    seen: Vec<Frozen>,
    last: u64,
    /// The numbers of those that somebody here holds, or asks for.
    wanted: BTreeSet<u64>,
    /// Those of this life that nobody wants, and whose end was proposed.
    thawing: BTreeSet<u64>,
}

/// Who has frozen each set.
fn by_set(frozen: &[Frozen]) -> BTreeMap<u64, Vec<NodeId>> {
    let mut by_set: BTreeMap<u64, Vec<NodeId>> = BTreeMap::new();
    for one in frozen {
        by_set.entry(one.set).or_default().push(one.node);
    }
    by_set
}

impl Runtime {
    /// Lanes freeze and thaw as the state says. Whether that was proposed of which more may follow at once.
    pub fn follow_freezes(&self, membership: &mut Guard<'_>) -> bool {
        if membership.state.frozen() != membership.freezes.seen {
            let now = membership.state.frozen().to_vec();
            let before = std::mem::replace(&mut membership.freezes.seen, now);
            let (before, now) = (by_set(&before), by_set(&membership.freezes.seen));
            let sets: BTreeSet<u64> = before.keys().chain(now.keys()).copied().collect();
            for set in sets.into_iter().filter(|set| before.get(set) != now.get(set)) {
                for lane in &self.lanes {
                    let mut state = lane.lock();
                    state.freeze(SetId(set), now.get(&set).cloned().unwrap_or_default());
                    lane.finish(state);
                }
            }
        }
        self.thaw_what_nobody_wants(membership)
    }

    /// Also what was decided twice, or when nobody waited for it any more.
    fn thaw_what_nobody_wants(&self, membership: &mut Guard<'_>) -> bool {
        let me = (self.identity.id, self.identity.incarnation);
        let own = |frozen: &&Frozen| (frozen.node, frozen.incarnation) == me;
        let own: Vec<Frozen> = membership.freezes.seen.iter().filter(own).copied().collect();
        membership.freezes.thawing.retain(|number| own.iter().any(|frozen| frozen.number == *number));
        let mut has_proposed = false;
        for frozen in own {
            if membership.freezes.wanted.contains(&frozen.number) || !membership.freezes.thawing.insert(frozen.number) {
                continue;
            }
            match membership.log.propose(Change::Thaw(frozen)) {
                Ok(()) => has_proposed = true,
                // Tried again when there is news.
                Err(error) => {
                    tracing::debug!(set = frozen.set, %error, "the end of a freeze could not be proposed yet");
                    membership.freezes.thawing.remove(&frozen.number);
                }
            }
        }
        has_proposed
    }

    /// Freezes a set: nobody in the cluster writes it when this returns. Given up when nobody wants it any more.
    pub fn freeze_now(
        self: &Arc<Self>,
        set: SetId,
        name: &str,
        limit: Duration,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Frozen, Error> {
        let deadline = deadline_in(limit);
        let (node, incarnation) = (self.identity.id, self.identity.incarnation);
        let frozen = {
            let mut membership = self.membership.lock();
            membership.freezes.last += 1;
            let number = membership.freezes.last;
            membership.freezes.wanted.insert(number);
            Frozen { set: set.0, node, incarnation, number }
        };
        let result = self
            .begin_freeze(&frozen, deadline)
            .and_then(|()| self.await_writers(&frozen, name, (limit, deadline), is_wanted));
        match result.and_then(|()| self.check_freeze(&frozen, name)) {
            Ok(()) => Ok(frozen),
            Err(error) => {
                self.give_up_freeze(&frozen);
                Err(error)
            }
        }
    }

    /// Has it decided.
    fn begin_freeze(&self, frozen: &Frozen, deadline: Instant) -> Result<(), Error> {
        let mut membership = self.membership.lock();
        self.propose_in(&mut membership, Change::Freeze(*frozen))?;
        while !membership.state.frozen().contains(frozen) {
            if let Err(reason) = membership.state.check(&Change::Freeze(*frozen)) {
                return Err(match reason {
                    Refused::TooManyFreezes => FreezeError::TooMany { limit: kddm_view::FREEZES }.into(),
                    other => MembershipError::Refused { reason: other.to_string() }.into(),
                });
            }
            if self.is_stopping() {
                return Err(MembershipError::Stopped.into());
            }
            if Instant::now() >= deadline {
                let voter = membership.state.voter();
                let reason = format!("node {voter} has not decided that the set is frozen; is it alive?");
                return Err(MembershipError::Refused { reason }.into());
            }
            self.wait_for_change(&mut membership, deadline);
        }
        Ok(())
    }

    /// Asks each member that there is, also those that come meanwhile; and all once more when all have said so, since what one
    /// had under way may have come to another that was asked before. Again, if a member has gone in that round.
    fn await_writers(
        &self,
        frozen: &Frozen,
        name: &str,
        (limit, deadline): (Duration, Instant),
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        let (mut told, mut round) = (Vec::new(), None);
        loop {
            if !is_wanted() {
                return Err(FreezeError::Ended { set: name.into() }.into());
            }
            let state = self.membership.lock().state.clone();
            let is_new = |(node, member): &(NodeId, &MemberEntry)| !told.contains(&(*node, member.incarnation));
            let Some((node, member)) = state.members().find(is_new) else {
                let members: Vec<_> = state.members().map(|(node, member)| (node, member.incarnation)).collect();
                let of_before: Option<Vec<_>> = round.replace(members.clone());
                if of_before.is_some_and(|before| before.iter().all(|member| members.contains(member))) {
                    return Ok(());
                }
                told.clear();
                continue;
            };
            let Err(reason) = self.ask_to_freeze(frozen, &state, (node, member), deadline) else {
                told.push((node, member.incarnation));
                continue;
            };
            let mut membership = self.membership.lock();
            if !membership.state.has_life(node, member.incarnation, member.nonce) {
                continue;
            }
            if !membership.state.frozen().contains(frozen) {
                return Err(FreezeError::Ended { set: name.into() }.into());
            }
            if self.is_stopping() {
                return Err(MembershipError::Stopped.into());
            }
            let now = Instant::now();
            if now >= deadline {
                let (set, node, limit_ms) = (name.into(), node.0, limit.as_millis().try_into().unwrap_or(u64::MAX));
                return Err(FreezeError::Written { set, node, limit_ms, reason }.into());
            }
            self.wait_for_change(&mut membership, deadline.min(now + ASK_AGAIN));
        }
    }

    fn ask_to_freeze(
        &self,
        frozen: &Frozen,
        state: &State,
        (node, member): (NodeId, &MemberEntry),
        deadline: Instant,
    ) -> Result<(), String> {
        let left = deadline.saturating_duration_since(Instant::now()).min(ASKED_AT_ONCE);
        let (entry, limit_ms) = (state.applied(), left.as_millis() as u64);
        if node == self.identity.id {
            return self.close_frozen(frozen, entry, limit_ms);
        }
        let Frozen { set, number, .. } = *frozen;
        self.ask_member(&member.address, &Question::Freeze { set, number, entry, limit_ms }, left)
    }

    /// Waits until nobody here writes objects of a set that was frozen by that entry, at the latest. What is in the way.
    pub fn close_frozen(&self, frozen: &Frozen, entry: u64, limit_ms: u64) -> Result<(), String> {
        let deadline = deadline_in(Duration::from_millis(limit_ms).min(ASKED_AT_ONCE));
        let set = SetId(frozen.set);
        {
            let mut membership = self.membership.lock();
            while membership.state.applied() < entry && !membership.state.frozen().contains(frozen) {
                if self.is_stopping() || !self.wait_for_change(&mut membership, deadline) {
                    return Err("it has not heard yet that the set is frozen".into());
                }
            }
        }
        for lane in &self.lanes {
            lane.in_slices(|state, first| state.close_cells(set, first, SLICE));
        }
        while let Err(reason) = self.close_all_lanes(set) {
            let mut membership = self.membership.lock();
            if self.is_stopping() || Instant::now() >= deadline {
                return Err(reason);
            }
            self.wait_for_change(&mut membership, deadline.min(Instant::now() + HOLDER_CHECK));
        }
        // All this was about a set that is still frozen.
        let membership = self.membership.lock();
        let is_frozen = membership.state.frozen().contains(frozen);
        if is_frozen { Ok(()) } else { Err("the freeze is over".into()) }
    }

    /// Closes a set in all lanes in one step: who writes an object of one lane may need another one's to come to an end. What is
    /// in the way.
    pub fn close_all_lanes(&self, set: SetId) -> Result<(), String> {
        let mut known = Ok(());
        for lane in &self.lanes {
            let mut state = lane.lock();
            // In each of them, whatever is in the way elsewhere: that may wait for what a writer here is in the way of, who was
            // let in and is to wait now.
            state.end_writers(set);
            known = known.and(state.is_closable(set));
            lane.finish_fair(state);
        }
        // All are taken only when none is known to be in the way.
        known?;
        let mut states: Vec<_> = self.lanes.iter().map(|lane| lane.lock()).collect();
        let closable = states.iter().try_for_each(|state| state.is_closable(set));
        if closable.is_ok() {
            states.iter_mut().for_each(|state| state.close(set));
        }
        self.finish_all(states);
        closable
    }

    /// Nobody wants it any more: it ends as soon as that can be decided.
    pub fn give_up_freeze(&self, frozen: &Frozen) {
        let mut membership = self.membership.lock();
        membership.freezes.wanted.remove(&frozen.number);
        self.advance(&mut membership);
    }

    /// Waits until it is over here.
    pub fn await_thaw(&self, frozen: &Frozen, limit: Duration) -> Result<(), Error> {
        let deadline = deadline_in(limit);
        let mut membership = self.membership.lock();
        while membership.state.frozen().contains(frozen) && !membership.is_out {
            if self.is_stopping() {
                return Err(MembershipError::Stopped.into());
            }
            if !self.wait_for_change(&mut membership, deadline) {
                let voter = membership.state.voter();
                let reason = format!("node {voter} has not decided yet that the freeze is over; it will be then");
                return Err(MembershipError::Refused { reason }.into());
            }
        }
        Ok(())
    }

    /// An error if a freeze of this node may be over for others.
    pub fn check_freeze(&self, frozen: &Frozen, name: &str) -> Result<(), Error> {
        let membership = self.membership.lock();
        let is_in_force = membership.state.frozen().contains(frozen) && self.is_member(&membership);
        drop(membership);
        if self.lanes.iter().any(|lane| lane.lock().destroyed.contains(SetId(frozen.set))) {
            return Err(SetError::Destroyed.into());
        }
        if self.is_stopping() {
            return Err(MembershipError::Stopped.into());
        }
        // The lease is looked at after what it vouches for.
        if !self.lease.is_valid() || self.lanes.iter().any(|lane| lane.lock().fenced) {
            return Err(AccessError::Fenced.into());
        }
        if is_in_force { Ok(()) } else { Err(FreezeError::Ended { set: name.into() }.into()) }
    }

    /// Who has frozen a set first, as far as this node has heard.
    pub fn frozen_by(&self, set: SetId) -> Option<u16> {
        let membership = self.membership.lock();
        membership.state.frozen().iter().find(|frozen| frozen.set == set.0).map(|frozen| frozen.node.0)
    }

    /// Which sets are frozen, and by whom, as far as this node has heard.
    pub fn frozen(&self) -> BTreeMap<u64, Vec<NodeId>> {
        by_set(self.membership.lock().state.frozen())
    }
}
