//! What the decided changes add up to: the same on every member after the same entry.

use std::collections::BTreeMap;

use kddm_core::id::{Epoch, Incarnation, NodeId, Placement, Zone};
use kddm_core::view::{Member, NodeState, View};

use crate::change::{Change, Site};
use crate::frozen::Frozen;
use crate::identity::Identity;
use crate::log::Decided;

/// Most members of a cluster: what one voter can keep informed by itself within a second.
pub const MEMBERS: usize = 1024;

/// Epochs of one cluster: a tenure has 24 bits for them.
pub const EPOCHS: u32 = 1 << 24;

/// The lease of a cluster whose first node asks for no other, 1 s: a host that is shared or virtual
/// holds a process up for hundreds of ms now and then, and nobody should be expelled for that.
pub const LEASE_MS_DEFAULT: u32 = 1_000;

/// The shortest lease, 50 ms: some ten ticks of the clock that it is held against.
pub const LEASE_MS_LEAST: u32 = 50;

/// The same on a host that is virtual, 200 ms: it can be stopped for so long now and then.
pub const LEASE_MS_LEAST_VIRTUAL: u32 = 200;

/// The longest lease, a minute: for so long nobody can have what a silent node owns.
pub const LEASE_MS_MOST: u32 = 60_000;

/// A member as the log knows it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MemberEntry {
    /// Its life.
    pub incarnation: Incarnation,
    /// Online or possible.
    pub state: NodeState,
    /// Where the others reach it.
    pub address: String,
    /// The random number that its process drew.
    pub nonce: u64,
    /// It is possible, and hands over what it has: no home any more.
    pub draining: bool,
    /// What it said of itself.
    pub site: Site,
}

/// The replicated state: apply the same entries to it everywhere, and it is the same everywhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub(crate) identity: Identity,
    pub(crate) voter: NodeId,
    /// By ascending id.
    pub(crate) voters: Vec<NodeId>,
    /// The entry that named them; 0 for the first ones.
    pub(crate) voters_at: u64,
    /// The last leader's.
    pub(crate) term: u64,
    pub(crate) applied: u64,
    pub(crate) epoch: Epoch,
    pub(crate) placement: Placement,
    /// Lives given out so far.
    pub(crate) lives: u32,
    pub(crate) sealed: bool,
    pub(crate) members: BTreeMap<NodeId, MemberEntry>,
    /// By ascending id.
    pub(crate) homes: Vec<NodeId>,
    /// Members lost uncleanly since all was whole last.
    pub(crate) failures: u32,
    /// The fewest homes since then before the last change: what was put then has had so many copies, if it
    /// was to have them.
    pub(crate) fewest_homes: u16,
    /// The epoch in which sharing began again after all who shared had been lost, with nothing; 0 if never.
    pub(crate) anew: Epoch,
    pub(crate) lease_ms: u32,
    /// In the order in which they began.
    pub(crate) frozen: Vec<Frozen>,
}

impl State {
    /// A cluster without members, whose changes `voter` decides.
    pub fn new(identity: Identity, voter: NodeId) -> State {
        State {
            identity,
            voter,
            voters: vec![voter],
            voters_at: 0,
            term: 0,
            applied: 0,
            epoch: Epoch(1),
            placement: Placement(0),
            lives: 0,
            sealed: false,
            members: BTreeMap::new(),
            homes: Vec::new(),
            failures: 0,
            fewest_homes: 0,
            anew: Epoch(0),
            lease_ms: LEASE_MS_DEFAULT,
            frozen: Vec::new(),
        }
    }

    /// The same for a cluster with that lease, which is brought into the range that leases have.
    pub fn with_lease_ms(self, lease_ms: u32) -> State {
        State { lease_ms: lease_ms.clamp(LEASE_MS_LEAST, LEASE_MS_MOST), ..self }
    }

    /// Which cluster this is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The node that decides the changes: where there are several voters, the one that leads them.
    pub fn voter(&self) -> NodeId {
        self.voter
    }

    /// The number of the leadership that decides: it grows with each new leader. 0 while there has been
    /// one voter only.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Those without a majority of whom nothing is decided, by ascending id. Some may be no members any more.
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// The index of the last entry applied; 0 before the first.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Whether sets exist, so that who shares objects must hand them over before it leaves.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The last life given out: a node with a later one is not known here yet.
    pub fn last_life(&self) -> Incarnation {
        Incarnation(self.lives)
    }

    /// For how long a member may use what it holds without word from those who decide: the same for
    /// all, as the first node said.
    pub fn lease_ms(&self) -> u32 {
        self.lease_ms
    }

    /// Members lost uncleanly since all was whole last.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The epoch in which sharing began again after all who shared had been lost; 0 if that never happened. What
    /// lives before it had is of no use any more: names and numbers were given out again.
    pub fn began_anew(&self) -> Epoch {
        self.anew
    }

    /// One member.
    pub fn member(&self, node: NodeId) -> Option<&MemberEntry> {
        self.members.get(&node)
    }

    /// All members by ascending id.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &MemberEntry)> + '_ {
        self.members.iter().map(|(node, entry)| (*node, entry))
    }

    /// The member whose process drew that number.
    pub fn member_by_nonce(&self, nonce: u64) -> Option<NodeId> {
        self.members().find(|(_, entry)| entry.nonce == nonce).map(|(node, _)| node)
    }

    /// Whether that very life is a member.
    pub fn has_life(&self, node: NodeId, incarnation: Incarnation, nonce: u64) -> bool {
        self.member(node).is_some_and(|entry| entry.incarnation == incarnation && entry.nonce == nonce)
    }

    /// The view of this state.
    pub fn view(&self) -> View {
        // Zones are numbered by their names, and those without a name have none.
        let mut names: Vec<&str> = self.members().filter_map(|(_, entry)| entry.site.zone.as_deref()).collect();
        names.sort_unstable();
        names.dedup();
        let zone = |entry: &MemberEntry| {
            let at = entry.site.zone.as_deref().and_then(|name| names.binary_search(&name).ok());
            at.and_then(|at| u16::try_from(at + 1).ok()).map_or(Zone::NONE, Zone)
        };
        let member = |(id, entry): (NodeId, &MemberEntry)| Member {
            id,
            incarnation: entry.incarnation,
            state: entry.state,
            zone: zone(entry),
        };
        View {
            epoch: self.epoch,
            placement: self.placement,
            members: self.members().map(member).collect(),
            homes: self.homes.clone(),
            failures: self.failures,
            fewest_homes: self.fewest_homes,
        }
    }

    /// What would become of a change if it were the next entry.
    pub fn check(&self, change: &Change) -> Result<(), Refused> {
        self.clone().change(change).map(|_| ())
    }

    /// Applies the next entry. One that was applied before changes nothing.
    pub fn apply(&mut self, entry: &Decided) -> Result<Outcome, Gap> {
        let expected = self.applied.saturating_add(1);
        if entry.index > expected {
            return Err(Gap { expected, found: entry.index });
        }
        if entry.index < expected {
            return Ok(Outcome::Unchanged);
        }
        self.applied = entry.index;
        Ok(match self.change(&entry.change) {
            Ok(true) => Outcome::Changed,
            Ok(false) => Outcome::Unchanged,
            Err(reason) => Outcome::Refused(reason),
        })
    }

    /// Whether it changed anything. All that can refuse comes before the first assignment.
    fn change(&mut self, change: &Change) -> Result<bool, Refused> {
        match change {
            Change::Join { node, address, nonce, site } => self.join(*node, address, *nonce, site),
            Change::SetState { node, incarnation, state } => self.set_state(*node, *incarnation, *state),
            Change::Leave { node, incarnation } => self.leave(*node, *incarnation),
            Change::Seal => self.seal(),
            Change::Drain { node, incarnation } => self.drain(*node, *incarnation),
            Change::MoveVoter { to } => self.move_voter(*to),
            Change::Expel { node, incarnation, cause } => self.expel(*node, *incarnation, *cause),
            Change::Healed { placement } => self.heal(*placement),
            Change::Recall { node, incarnation, epoch } => self.recall(*node, *incarnation, *epoch),
            Change::Freeze(frozen) => self.freeze(*frozen),
            Change::Thaw(frozen) => self.thaw(frozen),
            // The log has done as these two say: they are never refused.
            Change::Voters { voters } => {
                self.voters.clone_from(voters);
                self.voters_at = self.applied;
                Ok(false)
            }
            Change::Lead { node, term } => {
                self.voter = *node;
                self.term = *term;
                Ok(false)
            }
        }
    }

    fn join(&mut self, wanted: Option<NodeId>, address: &str, nonce: u64, site: &Site) -> Result<bool, Refused> {
        let same = self.member_by_nonce(nonce);
        if same.is_some_and(|node| wanted.is_none_or(|wanted| wanted == node)) {
            return Ok(false);
        }
        if self.members.len() >= MEMBERS {
            return Err(Refused::Full);
        }
        if let Some(node) = wanted
            && let Some(first) = self.member(node)
        {
            return Err(Refused::NodeIdTaken { node, address: first.address.clone() });
        }
        let free = || (1..=u16::MAX).map(NodeId).find(|node| !self.members.contains_key(node));
        let node = wanted.or_else(free).ok_or(Refused::Full)?;
        let life = self.lives.checked_add(1).ok_or(Refused::UsedUp { what: "lives" })?;
        let placement = self.next_placement()?;
        let incarnation = Incarnation(life);
        let (state, address, site) = (NodeState::Online, address.into(), site.clone());
        let entry = MemberEntry { incarnation, state, address, nonce, draining: false, site };
        self.members.insert(node, entry);
        self.lives = life;
        self.placement = placement;
        Ok(true)
    }

    fn set_state(&mut self, node: NodeId, incarnation: Incarnation, state: NodeState) -> Result<bool, Refused> {
        let (placement, sealed) = (self.next_placement()?, self.sealed);
        let entry = self.members.get_mut(&node).filter(|entry| entry.incarnation == incarnation);
        let entry = entry.ok_or(Refused::NotAMember { node, incarnation })?;
        if entry.state == state && !entry.draining {
            return Ok(false);
        }
        if sealed && !state.can_share() && !entry.draining {
            return Err(Refused::SharesObjects { node });
        }
        if entry.site.witness && state.can_share() {
            return Err(Refused::Witness { node });
        }
        entry.state = state;
        entry.draining = false;
        self.placement = placement;
        self.choose_homes();
        Ok(true)
    }

    fn leave(&mut self, node: NodeId, incarnation: Incarnation) -> Result<bool, Refused> {
        let entry = self.member(node).filter(|entry| entry.incarnation == incarnation);
        let entry = entry.ok_or(Refused::NotAMember { node, incarnation })?;
        if self.voters.contains(&node) {
            return Err(Refused::Voter { node });
        }
        if self.sealed && entry.state.can_share() {
            return Err(Refused::SharesObjects { node });
        }
        // One that shares nothing has nothing under way that would have to be fenced off.
        let epoch = if entry.state.can_share() { self.epoch.0.checked_add(1) } else { Some(self.epoch.0) };
        let epoch = epoch.filter(|epoch| *epoch < EPOCHS).ok_or(Refused::UsedUp { what: "epochs" })?;
        self.placement = self.next_placement()?;
        self.epoch = Epoch(epoch);
        self.members.remove(&node);
        self.forget_freezes(node);
        self.choose_homes();
        Ok(true)
    }

    fn drain(&mut self, node: NodeId, incarnation: Incarnation) -> Result<bool, Refused> {
        let placement = self.next_placement()?;
        let is_last = self.homes == [node];
        let entry = self.members.get_mut(&node).filter(|entry| entry.incarnation == incarnation);
        let entry = entry.ok_or(Refused::NotAMember { node, incarnation })?;
        // A witness hands over its vote.
        if entry.draining || !(entry.state.can_share() || entry.site.witness) {
            return Ok(false);
        }
        if is_last {
            return Err(Refused::LastHome { node });
        }
        entry.draining = true;
        self.placement = placement;
        self.choose_homes();
        Ok(true)
    }

    fn move_voter(&mut self, to: NodeId) -> Result<bool, Refused> {
        if to == self.voter {
            return Ok(false);
        }
        if !self.homes.contains(&to) {
            return Err(Refused::CannotDecide { node: to });
        }
        self.placement = self.next_placement()?;
        self.voter = to;
        self.voters = vec![to];
        self.voters_at = self.applied;
        Ok(true)
    }

    fn seal(&mut self) -> Result<bool, Refused> {
        if self.sealed {
            return Ok(false);
        }
        if self.homes.is_empty() {
            return Err(Refused::NoHome);
        }
        self.placement = self.next_placement()?;
        self.sealed = true;
        Ok(true)
    }

    fn next_placement(&self) -> Result<Placement, Refused> {
        let next = self.placement.0.checked_add(1);
        next.map(Placement).ok_or(Refused::UsedUp { what: "placements" })
    }

    /// Every possible member is a home, until it drains. Nobody drains when all others are gone.
    fn choose_homes(&mut self) {
        let stays = |entry: &MemberEntry| entry.state.can_share() && !entry.draining;
        let before = self.homes.len() as u16;
        self.homes = self.members.iter().filter(|(_, entry)| stays(entry)).map(|(node, _)| *node).collect();
        if self.homes.is_empty() {
            let drains = |entry: &MemberEntry| entry.draining && entry.state.can_share();
            for (node, entry) in self.members.iter_mut().filter(|(_, entry)| drains(entry)) {
                entry.draining = false;
                self.homes.push(*node);
            }
        }
        // Before there are sets there is nothing that could be lost.
        let homes = self.homes.len() as u16;
        if self.sealed && before == 0 && homes > 0 {
            self.anew = self.epoch;
        }
        self.fewest_homes = if self.sealed { self.fewest_homes.min(before) } else { homes };
    }
}

mod failure;
mod outcome;

pub use outcome::{Gap, Outcome, Refused};

#[cfg(test)]
mod tests;
