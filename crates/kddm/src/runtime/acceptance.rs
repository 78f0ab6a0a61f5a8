//! Whoever is responsible accepts that something is lost: of one object, or of all of a set. And sets that are
//! younger than a loss are not taken for older.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::{Epoch, NodeId, ObjectId, SetId};
use kddm_core::io::{Input, NoMemory, Outputs};
use kddm_core::node::{Node as Core, Refused};
use kddm_view::MemberEntry;
use parking_lot::Mutex;

use crate::chain::chain;
use crate::error::{AccessError, Error, MembershipError, SetError};
use crate::freeze::FreezeError;
use crate::node::Node;
use crate::operation::{Plain, Request};
use crate::pending::Pending;
use crate::promise::promise;
use crate::runtime::Runtime;
use crate::runtime::control::Question;
use crate::runtime::lane::LaneState;
use crate::runtime::local::Wish;
use crate::runtime::placing::Follows;
use crate::runtime::told::SetHere;
use crate::runtime::wait::deadline_in;
use crate::system::SYSTEM_NAME;

/// How often a node looks whether all that it was to give up is gone.
const ACCEPTED_CHECK: Duration = Duration::from_millis(2);

/// How often a loss is accepted for those who wait for one object, before they hear of it: a home that cannot take it
/// is not asked without an end.
const ACCEPTED_AT_MOST: u8 = 8;

/// The names of the sets that were opened here, for errors that say what to do.
#[derive(Default)]
pub(crate) struct Names(Mutex<HashMap<SetId, Arc<str>>>);

impl Names {
    pub fn of(&self, set: SetId) -> String {
        self.0.lock().get(&set).map_or_else(|| format!("#{}", set.0), |name| name.to_string())
    }

    /// The set is no more.
    pub fn forget(&self, set: SetId) {
        self.0.lock().remove(&set);
    }
}

/// What has become of lost objects of a set, until somebody is told.
#[derive(Clone, Copy, Default)]
pub(crate) struct LostAndSettled {
    /// They have never existed: the set is to have it so.
    pub accepted: usize,
    /// Older versions have taken their places, likewise.
    pub rolled_back: usize,
}

impl LaneState {
    /// This node is the home of a lost object, and an older version has taken its place.
    pub fn rolled_back(&mut self, set: SetId) {
        self.statistics.rolled_back += 1;
        self.newly_settled.entry(set).or_default().rolled_back += 1;
        self.signals.settled.raise();
    }

    /// What is said to whoever wants an object that is lost.
    pub fn is_lost(&self, set: SetId, object: ObjectId) -> Error {
        AccessError::Lost { set: self.signals.names.of(set), object: object.0 }.into()
    }

    /// Of a set in which lost objects have never existed: the first one who meets a lost one accepts that, and asks
    /// again. The home hears of it before. False if that has been in vain, or the set is another one.
    pub fn forgets_loss(&mut self, set: SetId, object: ObjectId, todo: &mut VecDeque<Input>) -> bool {
        let Some(local) = self.locals.get_mut(&(set, object)).filter(|_| set.forgives_loss()) else { return false };
        if local.is_cancelling || local.waiters.is_empty() || local.accepted >= ACCEPTED_AT_MOST {
            return false;
        }
        (local.outstanding, local.accepted) = (false, local.accepted + 1);
        todo.push_back(Input::AcceptLoss);
        self.statistics.losses_accepted += 1;
        self.newly_settled.entry(set).or_default().accepted += 1;
        self.signals.settled.raise();
        true
    }

    /// Accepts that an object is gone, if it is lost. Its home hears of it before any later wish of this node.
    fn accept_loss(&mut self, set: SetId, object: ObjectId) -> Result<(), Error> {
        if let Some(error) = self.refusal(set) {
            return Err(error);
        }
        self.run(set, object, Some(Input::AcceptLoss), &mut None).map_err(|NoMemory| self.has_no_memory())
    }

    fn has_no_memory(&self) -> Error {
        AccessError::Overloaded { outstanding: self.outstanding, limit: self.limits.outstanding }.into()
    }

    /// Does something with the core that is about a whole set, and all that follows.
    fn with_core(
        &mut self,
        set: SetId,
        does: impl FnOnce(&mut Core, &mut Outputs) -> Result<(), Refused>,
    ) -> Result<(), Error> {
        let mut outputs = std::mem::take(&mut self.outputs);
        let done = does(&mut self.core, &mut outputs);
        let mut follows = Follows::default();
        for output in outputs.drain() {
            follows.act(self, set, output);
        }
        self.outputs = outputs;
        follows.go_on(self, set);
        self.look_whether_settled();
        done.map_err(|refused| match refused {
            Refused::UnknownSet => SetError::Destroyed.into(),
            Refused::NoHome | Refused::Settling => MembershipError::NotSharing { node: self.core.id().0 }.into(),
            Refused::NoMemory | Refused::TooManySets => self.has_no_memory(),
        })
    }
}

impl Runtime {
    /// Lanes call that set by its name from now on.
    pub fn name_set(&self, set: SetId, name: &str) {
        self.names().0.lock().entry(set).or_insert_with(|| name.into());
    }

    fn names(&self) -> Arc<Names> {
        Arc::clone(&self.lanes[0].lock().signals.names)
    }

    /// The epoch of which all lanes of this node know.
    pub fn epoch_of_all_lanes(&self) -> Epoch {
        self.lanes.iter().map(|lane| lane.lock().core.epoch()).min().unwrap_or_default()
    }

    /// That set was made in that epoch: losses before it took nothing of it. Whoever opens the set says so to all
    /// before it asks for an object: a home that has never heard of the set would take what it does not know for
    /// lost.
    pub fn set_is_born(&self, set: SetId, born: Epoch) {
        if self.lender.is_some() {
            return;
        }
        for lane in &self.lanes {
            let mut state = lane.lock();
            if !state.fenced
                && let Err(error) = state.with_core(set, |core, outputs| core.set_is_born(set, born, outputs))
            {
                // Then what was never made may be called lost, which is no lie that anybody acts upon.
                tracing::debug!(?set, %error, "the age of a set could not be told");
            }
            lane.finish(state);
        }
    }

    /// Gives up here all that was lost of a set up to that epoch, and says so to all members.
    pub fn accept_losses_here(&self, set: SetId, epoch: Epoch, limit: Duration) -> Result<(), Error> {
        for lane in &self.lanes {
            let mut state = lane.lock();
            let refusal = if state.fenced { Some(AccessError::Fenced.into()) } else { None };
            let is_meant = state.core.epoch() == epoch;
            let done = match refusal {
                Some(error) => Err(error),
                None if !is_meant => Err(AccessError::CutShort.into()),
                None => state.with_core(set, |core, outputs| core.accept_set_loss(set, outputs)),
            };
            lane.finish(state);
            done?;
        }
        let deadline = deadline_in(limit);
        let is_accepting = || self.lanes.iter().any(|lane| lane.lock().core.is_accepting(set));
        while is_accepting() && !self.is_stopping() {
            if Instant::now() >= deadline {
                let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
                let waiting_for = crate::error::WaitingFor::Node(self.identity.id.0);
                return Err(AccessError::TimedOut { limit_ms, waiting_for }.into());
            }
            let mut membership = self.membership.lock();
            self.wait_for_change(&mut membership, Instant::now() + ACCEPTED_CHECK);
        }
        // The next loss is another one, and ends the acceptance of this one.
        if self.epoch_of_all_lanes() == epoch { Ok(()) } else { Err(AccessError::CutShort.into()) }
    }

    /// What is given up is a change of the set.
    fn may_change(&self, set: SetId, name: &str) -> Result<(), Error> {
        match self.frozen_by(set) {
            Some(node) => Err(FreezeError::Frozen { set: name.into(), node }.into()),
            None => Ok(()),
        }
    }

    /// Has every member give up what is lost of a set.
    fn accept_losses_everywhere(self: &Arc<Self>, set: SetId, name: &str, limit: Duration) -> Result<(), Error> {
        if let Some(error) = self.lanes[0].lock().refusal(set) {
            return Err(error);
        }
        self.may_change(set, name)?;
        if !self.lanes.iter().any(|lane| lane.lock().core.may_have_lost(set)) {
            return Err(SetError::NothingLost { name: name.into() }.into());
        }
        let epoch = self.epoch_of_all_lanes();
        self.accept_losses_here(set, epoch, limit)?;
        let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
        let question = Question::AcceptLosses { set: set.0, epoch: epoch.0, limit_ms };
        let state = self.membership.lock().state.clone();
        let shares = |(node, member): &(NodeId, &MemberEntry)| *node != self.identity.id && member.state.can_share();
        for (node, member) in state.members().filter(shares) {
            if let Err(reason) = self.ask_member(&member.address, &question, limit) {
                let name = name.into();
                return Err(SetError::AcceptanceUnconfirmed { name, node: node.0, reason }.into());
            }
        }
        self.lanes[0].lock().statistics.losses_accepted += 1;
        tracing::warn!(set = name, epoch = epoch.0, "all that was lost of a set is accepted: it has never existed");
        Ok(())
    }
}

impl SetHere {
    /// Accepts that an object is gone, if it is lost, and waits until its home says so.
    pub fn accept_loss(self, name: String, object: u64, limit: Duration) -> Pending<()> {
        if self.runtime.lender.is_some() {
            return self.accept_on_thread(name, Some(object), limit);
        }
        let here = self.clone();
        let late = move |limit| self.is_late(object, limit);
        let steps = async move {
            here.runtime.may_change(here.set, &name)?;
            let deadline = deadline_in(limit);
            let mut has_accepted = false;
            loop {
                let look = Request::new(here.clone(), object, Wish::Look, limit);
                let found = Pending::asked(Plain(look)).await;
                match found {
                    Err(Error::Access(AccessError::Lost { .. })) if Instant::now() >= deadline => {
                        return Err(here.is_late(object, limit));
                    }
                    Err(Error::Access(AccessError::Lost { .. })) => {}
                    Ok(()) | Err(Error::Access(AccessError::NotFound)) if has_accepted => break,
                    Ok(()) | Err(Error::Access(AccessError::NotFound)) => {
                        return Err(AccessError::NotLost { set: name, object }.into());
                    }
                    Err(error) => return Err(error),
                }
                // A home that does not know yet what it has does not take it: then it is still lost at the next look.
                let lane = here.lane(object);
                let mut state = lane.lock();
                let accepted = state.accept_loss(here.set, ObjectId(object));
                lane.finish(state);
                accepted?;
                has_accepted = true;
            }
            here.lane(object).lock().statistics.losses_accepted += 1;
            tracing::warn!(set = name, object, "the loss of an object is accepted: it has never existed");
            Ok(())
        };
        chain(steps, late)
    }

    fn is_late(&self, object: u64, limit: Duration) -> Error {
        let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
        AccessError::TimedOut { limit_ms, waiting_for: self.waiting_for(object) }.into()
    }

    /// Accepts all that is lost of the set, on all members.
    pub fn accept_losses(self, name: String, limit: Duration) -> Pending<()> {
        self.accept_on_thread(name, None, limit)
    }

    /// As [`Self::accept_losses`]; where that is for a node to which this program is attached, also of one object.
    fn accept_on_thread(self, name: String, object: Option<u64>, limit: Duration) -> Pending<()> {
        let (named, me) = (name.clone(), self.runtime.identity.id);
        let accept = move || match &self.runtime.lender {
            Some(lender) => lender.accept_loss(&named, object, limit),
            None => self.runtime.accept_losses_everywhere(self.set, &named, limit),
        };
        promise("kddm-accept", accept, still(name, me))
    }
}

/// Whoever waits has less time than it takes.
fn still(name: String, node: NodeId) -> impl Fn(Duration) -> Error + Send + 'static {
    move |limit: Duration| {
        let reason = format!("it was still under way after {limit:?}");
        SetError::AcceptanceUnconfirmed { name: name.clone(), node: node.0, reason }.into()
    }
}

impl Node {
    /// As [`Set::accept_loss`](crate::Set::accept_loss), of a set of any type, by its name. Goes on if the answer is
    /// dropped.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let refused = nodes[0].accept_loss("nothing", 1).wait().unwrap_err();
    /// assert!(matches!(refused, kddm::Error::Set(kddm::SetError::Unknown { .. })));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Unknown` if there is no such set; else as `Set::accept_loss`.
    pub fn accept_loss(&self, name: &str, object: u64) -> Pending<()> {
        self.accept_by_name(name, move |here, name, limit| here.accept_loss(name, object, limit))
    }

    /// As [`Set::accept_losses`](crate::Set::accept_losses), of a set of any type, by its name.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let _words: kddm::Set<String> = nodes[0].set("words").open().wait()?;
    /// let refused = nodes[1].accept_losses("words").wait().unwrap_err(); // No member was lost.
    /// assert!(matches!(refused, kddm::Error::Set(kddm::SetError::NothingLost { .. })));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Unknown` if there is no such set; else as `Set::accept_losses`.
    pub fn accept_losses(&self, name: &str) -> Pending<()> {
        self.accept_by_name(name, SetHere::accept_losses)
    }

    fn accept_by_name(
        &self,
        name: &str,
        accept: impl FnOnce(SetHere, String, Duration) -> Pending<()> + Send + 'static,
    ) -> Pending<()> {
        let (node, named) = (self.clone(), name.to_string());
        let limit = self.runtime().config.wait_limit;
        let late = still(name.into(), NodeId(self.id()));
        let work = move || {
            // The names themselves may be lost: then there is nothing to look them up in.
            let set = if named == SYSTEM_NAME {
                node.system()?;
                SetId::SYSTEM
            } else {
                SetId(node.set_info(&named)?.id)
            };
            let here = SetHere { runtime: Arc::clone(node.runtime()), set };
            accept(here, named, limit).wait()
        };
        promise("kddm-accept", work, late)
    }
}
