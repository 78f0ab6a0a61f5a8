//! Noticing what has become of objects: whenever homes have moved and this node knows what others have.

use std::collections::BTreeMap;

use kddm_core::id::{Epoch, Placement, SetId};

use crate::health::SetHealth;
use crate::incident::Incident;
use crate::runtime::Runtime;
use crate::runtime::acceptance::LostAndSettled;

/// When it was looked last, and what was found.
#[derive(Default)]
pub(crate) struct Judged {
    /// In which epoch and placement, and whether all was said to be whole.
    at: Option<(Epoch, Placement, bool)>,
    sets: BTreeMap<SetId, SetHealth>,
}

impl Runtime {
    /// Looks at what has become of objects, once in each placement and once when all is whole, and tells of what is
    /// worse than before. On the thread that leads from view to view.
    pub fn look_for_incidents(&self, judged: &mut Judged) {
        for lane in &self.lanes {
            let settled = std::mem::take(&mut lane.lock().newly_settled);
            for (set, LostAndSettled { accepted, rolled_back }) in settled {
                self.tell_what_is_settled(&self.signals.names.of(set), accepted, rolled_back);
            }
        }
        let is_healed = self.membership.lock().state.is_healed();
        let (mut at, mut is_recovering) = (None, false);
        for lane in &self.lanes {
            let state = lane.lock();
            let view = state.core.view();
            let seen = Some((view.epoch, view.placement, is_healed));
            // One that is not there yet is about to be.
            is_recovering |= state.core.is_recovering() || state.fenced || at.is_some_and(|_| at != seen);
            at = seen;
        }
        if is_recovering || at == judged.at {
            return;
        }
        let was_healed = judged.at.is_none_or(|(_, _, healed)| healed);
        judged.at = at;
        let health = self.sets_health();
        for (set, now) in &health {
            let before = judged.sets.get(set).copied().unwrap_or_default();
            self.tell_what_is_worse(*set, before, *now);
        }
        judged.sets = health;
        if is_healed && !was_healed {
            self.notify.happened(Incident::Whole);
        }
    }

    fn tell_what_is_settled(&self, set: &str, accepted: usize, rolled_back: usize) {
        if accepted > 0 {
            tracing::warn!(set, accepted, "lost objects of a set that wants it so have never existed");
            self.notify.happened(Incident::Accepted { set: set.into(), objects: accepted });
        }
        if rolled_back > 0 {
            tracing::warn!(
                set,
                rolled_back,
                "older versions have taken the places of lost objects: the set wants it so"
            );
            self.notify.happened(Incident::RolledBack { set: set.into(), objects: rolled_back });
        }
    }

    fn tell_what_is_worse(&self, set: SetId, before: SetHealth, now: SetHealth) {
        let name = || self.signals.names.of(set);
        if now.lost > before.lost || now.in_doubt > before.in_doubt {
            let (set, objects, shards_in_doubt) = (name(), now.lost, now.in_doubt);
            tracing::warn!(
                set,
                objects,
                shards_in_doubt,
                "objects are lost: more members than their replicas make up for"
            );
            self.notify.happened(Incident::Lost { set, objects, shards_in_doubt });
        }
        if now.short > 0 && before.short == 0 {
            let (set, objects) = (name(), now.short);
            tracing::warn!(set, objects, "objects have fewer replicas than they are to have");
            self.notify.happened(Incident::FewReplicas { set, objects });
        }
    }
}
