//! What becomes of the state when members are lost, and when all is whole again.

use kddm_core::id::{Epoch, Incarnation, NodeId, Placement};

use super::{EPOCHS, Refused, State};
use crate::change::Cause;

impl State {
    pub(super) fn expel(&mut self, node: NodeId, incarnation: Incarnation, cause: Cause) -> Result<bool, Refused> {
        let entry = self.member(node).filter(|entry| entry.incarnation == incarnation);
        let entry = entry.ok_or(Refused::NotAMember { node, incarnation })?;
        // Where several vote, the one that leads may be another life of that node by now.
        if node == self.voter && self.term == 0 {
            return Err(Refused::Voter { node });
        }
        // One that shares nothing takes nothing along.
        let is_loss = cause != Cause::Clean && entry.state.can_share();
        let epoch = self.epoch.0.checked_add(1).filter(|epoch| *epoch < EPOCHS);
        let epoch = epoch.ok_or(Refused::UsedUp { what: "epochs" })?;
        self.placement = self.next_placement()?;
        self.epoch = Epoch(epoch);
        // Never more than there are epochs.
        self.failures += u32::from(is_loss);
        self.members.remove(&node);
        self.forget_freezes(node);
        self.choose_homes();
        Ok(true)
    }

    /// Nobody is lost: only that all is said anew.
    pub(super) fn recall(&mut self, node: NodeId, incarnation: Incarnation, since: Epoch) -> Result<bool, Refused> {
        let entry = self.member(node).filter(|entry| entry.incarnation == incarnation && entry.state.can_share());
        entry.ok_or(Refused::NotAMember { node, incarnation })?;
        if since < self.epoch {
            return Ok(false);
        }
        let epoch = self.epoch.0.checked_add(1).filter(|epoch| *epoch < EPOCHS);
        let epoch = epoch.ok_or(Refused::UsedUp { what: "epochs" })?;
        self.placement = self.next_placement()?;
        self.epoch = Epoch(epoch);
        self.choose_homes();
        Ok(true)
    }

    /// No member was lost since all was whole last, and an object can have had as many copies as there are
    /// homes: there is nothing that [`Change::Healed`](crate::Change::Healed) would change.
    pub fn is_healed(&self) -> bool {
        self.failures == 0 && usize::from(self.fewest_homes) == self.homes.len()
    }

    /// The placement of the last view.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    pub(super) fn heal(&mut self, judged: Placement) -> Result<bool, Refused> {
        let homes = self.homes.len() as u16;
        if self.is_healed() {
            return Ok(false);
        }
        if judged != self.placement {
            return Err(Refused::JudgedBefore { judged, now: self.placement });
        }
        // Whoever shares nothing misses nothing: all that there was may be gone.
        if self.homes.is_empty() {
            return Err(Refused::NoHome);
        }
        self.placement = self.next_placement()?;
        self.failures = 0;
        self.fewest_homes = homes;
        Ok(true)
    }
}
