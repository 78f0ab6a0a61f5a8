//! A process of a node: its log, which outlives its lives, and the life that is a member.

use std::collections::{BTreeSet, VecDeque};

use kddm_core::id::{Epoch, Incarnation, NodeId, Placement, Time};
use kddm_core::view::View;
use kddm_view::{MemoryDisk, State, Voters};

use super::keeper::Keeper;
use super::leaving::Leaving;
use super::{Plan, TICK_NS};
use crate::agent::{Agent, Effects, Kept};

/// One node, be its process there or not.
pub struct Process {
    pub id: NodeId,
    /// None while there is no process.
    pub log: Option<Voters>,
    pub disk: MemoryDisk,
    /// Grows when the disk is lost: nobody talks to a log that is gone.
    pub log_life: u64,
    /// There is no log on its disk: the others have to let it in first.
    pub is_out: bool,
    /// What the entries of its log add up to.
    pub state: State,
    /// Names the life that it has, or wants.
    pub nonce: u64,
    pub life: Option<Life>,
    /// What its former life owned, and had to read, as long as the process goes on.
    pub kept: Kept,
    pub keeper: Keeper,
    pub sleeps_until: u64,
    /// Its clock, in thousandths of the true time.
    rate: u64,
    /// When it last ticked, by its clock.
    pub ticked: Time,
    /// When it may ask again for what it asks the others.
    pub propose_at: u64,
    /// Lives that are gone for certain.
    pub proven: BTreeSet<Incarnation>,
}

/// A life of a node: what the others know it by.
pub struct Life {
    pub number: Incarnation,
    pub agent: Agent,
    /// Decided views that it has not installed yet.
    pub pending: VecDeque<View>,
    /// It is about to go on.
    pub has_step: bool,
    /// It wants to share no more.
    pub leaving: Option<Leaving>,
    /// It has wanted to once.
    pub has_left: bool,
    /// The placement in which all was whole here.
    whole_in: Option<Placement>,
    /// It remembers what a former life owned, since that epoch: the next one is to decide.
    pub recalls: Option<Epoch>,
}

impl Life {
    /// One that has nothing yet, and begins with that view.
    pub fn new(id: NodeId, number: Incarnation, first: View, kept: Kept) -> Life {
        let (agent, pending) = (Agent::reborn(id, number).with_memories(kept), [first].into());
        Life { number, agent, pending, has_step: false, leaving: None, has_left: false, whole_in: None, recalls: None }
    }

    /// Once it shares objects it remembers what a former life owned.
    pub fn remember(&mut self, id: NodeId, effects: &mut Effects) {
        let shares = self.agent.view().member(id).is_some_and(|member| member.state.can_share());
        if shares && self.agent.has_memories() {
            self.agent.remember(effects);
            self.recalls = Some(self.agent.view().epoch);
        }
    }
}

impl Process {
    /// Nothing is there yet.
    pub fn new(id: NodeId, plan: &Plan, state: State) -> Process {
        Process {
            id,
            log: None,
            disk: MemoryDisk::default(),
            log_life: u64::from(id.0),
            is_out: true,
            state,
            nonce: 0,
            life: None,
            kept: Kept::default(),
            keeper: Keeper::new(plan.terms, None),
            sleeps_until: 0,
            rate: plan.rates[usize::from(id.0)],
            ticked: Time(0),
            propose_at: 0,
            proven: BTreeSet::new(),
        }
    }

    /// What its clock says.
    pub fn clock(&self, now: u64) -> Time {
        Time(u64::try_from(u128::from(now) * u128::from(self.rate) / 1_000).unwrap_or(u64::MAX))
    }

    /// The number of its life.
    pub fn life_number(&self) -> Option<Incarnation> {
        self.life.as_ref().map(|life| life.number)
    }

    /// The term that it leads, once it has applied all that was decided before.
    pub fn leads(&self) -> Option<u64> {
        let log = self.log.as_ref()?;
        let leads = log.is_leader() && self.state.voter() == self.id && self.state.term() == log.term();
        leads.then(|| log.term())
    }

    /// Whether it was held up for so much longer than between two ticks.
    pub fn is_late(&self, now: Time, by_ns: u64) -> bool {
        now.0.saturating_sub(self.ticked.0) > by_ns + 2 * TICK_NS
    }

    /// The placement in which all was whole here at some time: it stays so.
    pub fn whole_in(&mut self) -> Option<Placement> {
        let life = self.life.as_mut()?;
        let placement = life.agent.view().placement;
        if life.whole_in != Some(placement) && life.agent.what_is_missing().is_none() {
            life.whole_in = Some(placement);
        }
        life.whole_in.filter(|whole| *whole == placement)
    }

    /// What a person wants to know of it.
    pub fn told(&self) -> String {
        let life = self.life.as_ref().map(|life| {
            let (view, agent) = (life.agent.view(), &life.agent);
            let waits: Vec<u32> = life.pending.iter().map(|view| view.placement.0).collect();
            let awaits: Vec<NodeId> =
                view.members.iter().map(|member| member.id).filter(|id| agent.awaits(*id)).collect();
            let (settled, missing) = (agent.is_settled(), agent.what_is_missing());
            let (leaving, empty) = (life.leaving, agent.is_empty());
            let what = format!("settled {settled}, awaits {awaits:?}, missing {missing:?}, next {waits:?}");
            let what = format!("{what}, leaving {leaving:?}, empty {empty}");
            format!("{:?} at {:?} {:?}, {what}", life.number, view.epoch, view.placement)
        });
        format!("\n  node {} life {life:?} applied {} log {:?}", self.id, self.state.applied(), self.log)
    }
}
