//! What somebody waits for comes first when members were lost: the home of its shard asks for the reports of
//! that shard before all others, and decides on it before all others.

use crate::id::{NodeId, ObjectId, SetId, ShardIndex, Tenure};
use crate::io::{Body, NoMemory, Output, Outputs};
use crate::message::Message;

use super::{Node, Refused};

/// Where no more shards than these were touched all is reported in a moment, and nobody is asked to hurry.
const FEW_SHARDS: usize = 4;

/// Shards that are wanted at once: beyond them, first come first served, there is no more hurry.
const WANTED_AT_ONCE: usize = 256;

impl Node {
    /// Takes the shard of an object that somebody here waits for to the installed epoch before all others. The
    /// outputs are of that set, and of any object.
    pub fn enter_first(&mut self, set: SetId, object: ObjectId, outputs: &mut Outputs) -> Result<(), Refused> {
        let at = object.shard(set.policy().unwrap_or_default());
        self.entered(set, at, outputs)?;
        Ok(self.hasten(set, at, outputs)?)
    }

    /// Somebody wants an object of that shard. Called before it is asked for.
    pub(super) fn hasten(&mut self, set: SetId, at: ShardIndex, outputs: &mut Outputs) -> Result<(), NoMemory> {
        let Some(touched) = self.sets.get(&set.0).and_then(|state| state.get(at)) else { return Ok(()) };
        let is_few = self.sets.values().map(|state| state.touched.len()).sum::<usize>() <= FEW_SHARDS;
        let Some(recovering) = &mut self.recovering else { return Ok(()) };
        let waits = touched.home == self.me && touched.shard.recovery.is_recovering;
        if !waits || is_few || recovering.wanted.len() >= WANTED_AT_ONCE || recovering.wanted.contains(&(set, at)) {
            return Ok(());
        }
        recovering.wanted.try_reserve(1).map_err(|_| NoMemory)?;
        outputs.reserve(self.view.members.len())?;
        recovering.wanted.push((set, at));
        for to in recovering.awaited.iter().filter(|node| !touched.shard.recovery.has_heard(*node)) {
            let (object, message) = (ObjectId(0), Message::Wanted { shard: at });
            outputs.push(Output::Send { to, object, message, body: Body::None, deferred: false });
        }
        Ok(())
    }

    /// The home of a shard waits for what is here of it.
    pub(super) fn is_wanted(
        &mut self,
        set: SetId,
        from: NodeId,
        at: ShardIndex,
        outputs: &mut Outputs,
    ) -> Result<(), Refused> {
        if self.recovering.as_ref().is_none_or(|recovering| recovering.has_reported) {
            return Ok(()); // All has been said already.
        }
        outputs.reserve(1)?;
        if set.policy().is_none() || self.view.home(set, at) != Some(from) || from == self.me {
            let (object, what) = (ObjectId(0), "a shard is wanted by a node that does not wait for it");
            outputs.push(Output::Dropped { object, what });
            return Ok(());
        }
        if self.sets.get(&set.0).is_some_and(|state| state.get(at).is_some()) {
            return self.entered(set, at, outputs);
        }
        // It was never touched, and is not for this: there is nothing to say of it.
        let message = Message::Reported { shard: at, forgotten: Tenure::NONE };
        outputs.push(Output::Send { to: from, object: ObjectId(0), message, body: Body::None, deferred: false });
        Ok(())
    }

    /// The next shard that somebody waits for and of which all has been said.
    pub(super) fn next_wanted(&mut self) -> Option<(SetId, ShardIndex)> {
        let mut wanted = core::mem::take(&mut self.recovering.as_mut()?.wanted);
        let touched = |set: SetId, at| self.sets.get(&set.0).and_then(|state| state.get(at));
        wanted.retain(|(set, at)| touched(*set, *at).is_some_and(|touched| touched.shard.recovery.is_recovering));
        let ready = wanted.iter().find(|(set, at)| touched(*set, *at).is_some_and(|touched| self.is_ready(touched)));
        let ready = ready.copied();
        self.recovering.as_mut()?.wanted = wanted;
        ready
    }
}
