//! What is lost is accepted: by whoever is responsible for a set, for all of it at once. (For one object that
//! is an input like any other.)

use crate::id::{Epoch, ObjectId, SetId, ShardIndex};
use crate::io::{Body, NoMemory, Output, Outputs};
use crate::losses::Doubt;
use crate::message::Message;
use crate::mutation::{Mutation, mutated};
use crate::shard::{Place, Step};

use super::{HandedOver, Node, Refused, Touched};

/// Lost objects that are given up in one step: every member hears of each.
const ACCEPTED_AT_ONCE: usize = 32;

impl Node {
    /// Whoever is responsible accepts that all of this set that is lost, or in doubt, is gone. From now on
    /// it has never existed, on all members; call [`hand_over`](Self::hand_over) until nothing is left to do.
    /// What a loss of members in the meantime takes is not meant: then it has to be accepted again.
    pub fn accept_set_loss(&mut self, set: SetId, outputs: &mut Outputs) -> Result<(), Refused> {
        self.tell_what_counts_from(set, self.view.epoch, outputs)
    }

    /// That set was created in that epoch: no object of it is older, and no loss before took any. All members hear
    /// of that, and of this node's wishes only afterwards. Nothing is said where nothing could be taken for lost.
    pub fn set_is_born(&mut self, set: SetId, born: Epoch, outputs: &mut Outputs) -> Result<(), Refused> {
        let known = self.born(set);
        // Of one that was covered it may be seen later that it was not, together with the next.
        let is_healing = self.view.failures > 0 && self.losses.has_any(known, born);
        let is_needed = is_healing || self.losses.has_bare(set, known, Epoch(born.0.saturating_add(1)));
        if born > self.view.epoch || known >= born || !is_needed {
            return Ok(());
        }
        self.tell_what_counts_from(set, born, outputs)
    }

    fn tell_what_counts_from(&mut self, set: SetId, epoch: Epoch, outputs: &mut Outputs) -> Result<(), Refused> {
        outputs.reserve(self.view.members.len())?;
        self.set_loss_is_accepted(set, epoch)?;
        for to in self.view.others_online(self.me) {
            let message = Message::AcceptLoss { set_until: Some(epoch) };
            outputs.push(Output::Send { to, object: ObjectId(0), message, body: Body::None, deferred: false });
        }
        Ok(())
    }

    /// The set is no older than that epoch, or what was lost of it until then is accepted.
    pub(super) fn born(&self, set: SetId) -> Epoch {
        self.sets.get(&set.0).map_or(Epoch(0), |state| state.born)
    }

    /// Whether objects of that set may be lost, or in doubt, at any home: members were lost with more than its
    /// replicas make up for, and nobody has accepted that. No object is looked at.
    pub fn may_have_lost(&self, set: SetId) -> bool {
        self.losses.has_bare(set, self.born(set), Epoch(u32::MAX))
    }

    /// Whether this node has yet to give up objects of that set whose loss is accepted.
    pub fn is_accepting(&self, set: SetId) -> bool {
        self.accepting.contains(&set)
    }

    /// What was lost of a set up to that epoch is accepted.
    pub(super) fn set_loss_is_accepted(&mut self, set: SetId, epoch: Epoch) -> Result<(), Refused> {
        let now = self.view.epoch;
        if epoch > now || (epoch < now && mutated(Mutation::ForgetBirth)) {
            return Ok(()); // A lie: nobody can know what will be lost.
        }
        self.accepting.try_reserve(1).map_err(|_| NoMemory)?;
        let state = self.set(set)?;
        state.born = state.born.max(epoch);
        if epoch == now && !self.accepting.contains(&set) {
            self.accepting.push(set);
        }
        Ok(())
    }

    /// The next objects that are given up, if there are any.
    pub(super) fn accept_more(&mut self, outputs: &mut Outputs) -> Result<Option<HandedOver>, NoMemory> {
        let Some(set) = self.accepting.last().copied() else { return Ok(None) };
        let Some(at) = self.first_doubtful(set) else {
            self.accepting.pop();
            return Ok(Some(HandedOver::Shard(set)));
        };
        let Node { me, incarnation, view, sets, counter, room, .. } = self;
        let Some(touched) = sets.get_mut(&set.0).and_then(|state| state.touch(at, || *me).ok()) else {
            return Err(NoMemory);
        };
        touched.shard.recovery.doubt = Doubt::None;
        let place = Place::at_home((*me, *incarnation), view, (set, at), *me, &touched.shard.recovery);
        for object in touched.shard.first_doubtful(ACCEPTED_AT_ONCE)? {
            touched.shard.step(&place, counter, room, object, Step::AcceptLoss, outputs)?;
        }
        Ok(Some(HandedOver::Shard(set)))
    }

    /// The first shard that this node answers for with anything in doubt.
    fn first_doubtful(&self, set: SetId) -> Option<ShardIndex> {
        let is_meant = |touched: &&Touched| {
            let recovery = &touched.shard.recovery;
            touched.home == self.me && !recovery.is_recovering && (recovery.in_doubt() || touched.shard.is_doubtful())
        };
        let touched = self.sets.get(&set.0)?.touched.iter();
        touched.filter(is_meant).map(|touched| touched.at).min()
    }

    /// Before it says that it has handed over all, a home tells the others what was accepted: a new one has not
    /// been there.
    pub(super) fn tell_what_is_accepted(&mut self, outputs: &mut Outputs) -> Result<Option<HandedOver>, NoMemory> {
        let Some(moving) = &mut self.moving else { return Ok(None) };
        let is_next = |id: u64| SetId(id) > moving.told;
        let accepted = self.sets.iter().filter(|(id, state)| is_next(**id) && state.born > Epoch(0));
        let Some((set, epoch)) = accepted.map(|(id, state)| (SetId(*id), state.born)).min() else { return Ok(None) };
        moving.told = set;
        self.tell_others(&Message::AcceptLoss { set_until: Some(epoch) }, outputs)?;
        Ok(Some(HandedOver::Shard(set)))
    }
}
