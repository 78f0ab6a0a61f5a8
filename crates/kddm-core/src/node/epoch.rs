//! A new epoch: every shard is taken to it, reported to its home, and opened by its home once all have
//! reported. A step at a time, as shards are handed over.

use crate::id::{Epoch, NodeId, ObjectId, SetId, ShardIndex, Tenure};
use crate::io::{Body, NoMemory, Output, Outputs};
use crate::losses::Doubt;
use crate::message::Message;
use crate::mutation::{Mutation, mutated};
use crate::nodeset::NodeSet;
use crate::recovery::Recovering;
use crate::shard::{Place, Step};
use crate::view::View;

use super::{HandedOver, Node, Refused, Set, Touched};

/// Owners that get replicas in one step: their bytes are sent at once.
const REFILLED_AT_ONCE: usize = 32;

impl Node {
    /// Installs a view in which members are lost: at any time, whatever is under way.
    pub(super) fn enter_epoch(&mut self, view: View) -> Result<(), Refused> {
        let mut awaited = NodeSet::new();
        awaited.reserve(view.members.len())?;
        for node in view.others_online(self.me) {
            awaited.insert(node);
        }
        if let Some(moving) = &self.moving {
            self.losses.note(moving.before(), &view)?;
        }
        self.losses.note(&self.view, &view)?;
        self.lives.note(&view)?;
        self.view = view;
        self.moving = None;
        // What is lost now nobody has accepted.
        self.accepting.clear();
        self.questions.clear();
        self.recovering = Some(Recovering { awaited, ..Recovering::default() });
        self.look_for_replicas();
        Ok(())
    }

    /// Other homes: some owners may want more replicas, or others.
    pub(super) fn look_for_replicas(&mut self) {
        let may_want = self.sets.iter().any(|(set, state)| state.may_want_replicas(SetId(*set)));
        self.refilling = may_want.then_some((SetId(0), 0));
    }

    /// A node whose first view is not the first one: others may wait to hear that it has nothing.
    pub(super) fn report_nothing(&mut self) {
        if self.view.epoch > Epoch(1) {
            self.recovering = Some(Recovering::default());
        }
    }

    /// Whether all that is here is in the installed epoch.
    pub fn has_entered(&self) -> bool {
        self.recovering.as_ref().is_none_or(|recovering| recovering.has_reported)
    }

    /// A shard, in the installed epoch. Outputs are those of taking it there.
    pub(super) fn entered(&mut self, set: SetId, at: ShardIndex, outputs: &mut Outputs) -> Result<(), Refused> {
        let (me, epoch) = (self.me, self.view.epoch);
        // What is known already enters a view without homes, too: there is nobody to tell, and nothing that could be
        // told, since nobody shares objects.
        if !self.sets.contains_key(&set.0) {
            self.set(set)?;
        }
        let Node { view, moving, sets, losses, recovering, .. } = self;
        let Some(state) = sets.get_mut(&set.0) else { return Err(Refused::UnknownSet) };
        let born = state.born;
        let is_new = state.get(at).is_none();
        let unbroken = if is_new { losses.unbroken_since(set, at) } else { Epoch(0) };
        let touched = state.touch(at, || super::untouched(me, view, moving.as_ref(), set, at))?;
        let recovery = &mut touched.shard.recovery;
        if is_new {
            recovery.unbroken = unbroken;
            let is_home = touched.home == me;
            recovery.entered = epoch;
            recovery.is_recovering = is_home && recovering.is_some();
            if is_home {
                // What is accepted in this epoch counts when the shard is opened: whoever knows its directory may
                // be about to say so.
                let now = recovering.as_ref().map(|_| epoch);
                let before = now.map_or(epoch, |epoch| Epoch(epoch.0.saturating_sub(1)));
                recovery.doubt = losses.doubt(set, at, born.min(before), now);
            }
        }
        if recovery.entered == epoch {
            return Ok(());
        }
        self.tell_what_it_left(outputs)?;
        self.enter_shard(set, at, outputs)
    }

    fn enter_shard(&mut self, set: SetId, at: ShardIndex, outputs: &mut Outputs) -> Result<(), Refused> {
        let Node { me, view, losses, sets, lives, newcomers, .. } = self;
        let (me, epoch) = (*me, view.epoch);
        let new = view.home(set, at).unwrap_or(NodeId::NOBODY);
        let state = sets.get_mut(&set.0).ok_or(Refused::UnknownSet)?;
        let covered = view.covers(set.replicas()) && !losses.has_bare(set, state.born, epoch);
        let touched = state.touch(at, || new)?;
        lives.since(touched.shard.recovery.entered, newcomers)?;
        if touched.shard.recovery.entering != epoch {
            let is_here = |node: NodeId| view.member(node).is_some() && !newcomers.contains(&node);
            touched.shard.forget_lives(|node| is_here(node) || mutated(Mutation::TakeNumberForLife));
            let doubt = if covered { Doubt::New } else { Doubt::Old };
            begin_to_enter(touched, me, view, (at, new, doubt), outputs)?;
        }
        self.tell_what_it_knew(set, at, outputs)?;
        let Node { me, incarnation, view, sets, counter, room, lives, newcomers, .. } = self;
        let me = *me;
        let touched = sets.get_mut(&set.0).ok_or(Refused::UnknownSet)?.touch(at, || new)?;
        lives.since(touched.shard.recovery.entered, newcomers)?;
        let place = Place::at_home((me, *incarnation), view, (set, at), new, &touched.shard.recovery);
        let place = Place { is_recovering: true, newcomers, ..place };
        while let Some(object) = touched.shard.recovery.to_enter.last().copied() {
            touched.shard.step(&place, counter, room, object, Step::Enter, outputs)?;
            touched.shard.step(&place, counter, room, object, Step::Report, outputs)?;
            touched.shard.recovery.to_enter.pop();
        }
        let forgotten = touched.shard.forgotten();
        if new == me {
            touched.shard.recovery.heard(me, forgotten)?;
        } else if new.is_somebody() {
            outputs.reserve(1)?;
            let message = Message::Reported { shard: at, forgotten };
            outputs.push(Output::Send { to: new, object: ObjectId(0), message, body: Body::None, deferred: false });
        }
        touched.shard.recovery.entered = epoch;
        Ok(())
    }

    /// The next step of a new epoch, if there is one.
    pub(super) fn recover(&mut self, outputs: &mut Outputs) -> Result<Option<HandedOver>, NoMemory> {
        let Some(recovering) = &self.recovering else { return Ok(None) };
        let has_reported = recovering.has_reported;
        if let Some((set, at)) = self.next_wanted() {
            self.open_shard(set, at, outputs)?;
            return Ok(Some(HandedOver::Shard(set)));
        }
        if !has_reported {
            self.tell_what_it_left(outputs)?;
            let epoch = self.view.epoch;
            if let Some((set, at)) = self.first_shard(|touched| touched.shard.recovery.entered != epoch) {
                self.entered(set, at, outputs).map_err(|_| NoMemory)?;
                return Ok(Some(HandedOver::Shard(set)));
            }
            self.tell_others(&Message::AllReported, outputs)?;
            if let Some(recovering) = &mut self.recovering {
                recovering.has_reported = true;
            }
            return Ok(Some(HandedOver::Everything));
        }
        if let Some((set, at)) = self.first_shard(|touched| self.is_ready(touched)) {
            self.open_shard(set, at, outputs)?;
            return Ok(Some(HandedOver::Shard(set)));
        }
        let is_done = self.recovering.as_ref().is_some_and(|recovering| recovering.awaited.is_empty())
            && self.first_shard(|touched| !touched.shard.recovery.is_done()).is_none();
        if is_done {
            self.recovering = None;
        } else if let Some(recovering) = &mut self.recovering {
            recovering.is_idle = true;
        }
        Ok(None)
    }

    /// The first shard in order of which that is true: searches and runs are to be the same each time.
    fn first_shard(&self, is_wanted: impl Fn(&Touched) -> bool) -> Option<(SetId, ShardIndex)> {
        let of_set = |(id, state): (&u64, &Set)| {
            let at = state.touched.iter().filter(|touched| is_wanted(touched)).map(|touched| touched.at).min()?;
            Some((SetId(*id), at))
        };
        self.sets.iter().filter_map(of_set).min()
    }

    /// Whether all have said what they have of a shard of which this node is the home.
    pub(super) fn is_ready(&self, touched: &Touched) -> bool {
        let recovery = &touched.shard.recovery;
        let Some(recovering) = &self.recovering else { return recovery.is_recovering };
        let all = recovering.awaited.iter().all(|node| recovery.has_heard(node));
        recovery.is_recovering && (all || mutated(Mutation::AnswerTooEarly))
    }

    fn open_shard(&mut self, set: SetId, at: ShardIndex, outputs: &mut Outputs) -> Result<(), NoMemory> {
        self.take_what_was_known(set, at, outputs)?;
        let Node { me, incarnation, view, sets, counter, room, .. } = self;
        let Some(state) = sets.get_mut(&set.0) else { return Ok(()) };
        let me = *me;
        let is_accepted = state.born == view.epoch;
        let touched = state.touch(at, || me).map_err(|_| NoMemory)?;
        let covered = view.covers(set.replicas());
        if touched.shard.recovery.to_decide.is_none() {
            touched.shard.recovery.to_decide = Some(touched.shard.everything()?);
        }
        // Of what nobody has reported there would be a copy.
        let is_over = is_accepted || (covered && touched.shard.recovery.doubt == Doubt::New);
        let place = Place::at_home((me, *incarnation), view, (set, at), me, &touched.shard.recovery);
        let place = Place { is_recovering: false, in_doubt: place.in_doubt && !is_over, is_accepted, ..place };
        while let Some(object) = touched.shard.recovery.to_decide.as_ref().and_then(|ids| ids.last().copied()) {
            let undecided = touched.shard.recovery.to_decide.take();
            let decided = touched.shard.step(&place, counter, room, object, Step::Decide, outputs);
            touched.shard.recovery.to_decide = undecided;
            decided?;
            if let Some(ids) = &mut touched.shard.recovery.to_decide {
                ids.pop();
            }
        }
        let recovery = &mut touched.shard.recovery;
        recovery.to_decide = None;
        recovery.is_recovering = false;
        recovery.doubt = match recovery.doubt {
            _ if is_over => Doubt::None,
            Doubt::None => Doubt::None,
            Doubt::New | Doubt::Old => Doubt::Old,
        };
        Ok(())
    }

    /// A member has said all it has of a shard, or of all.
    pub(super) fn reported(
        &mut self,
        set: SetId,
        from: NodeId,
        shard: Option<(ShardIndex, Tenure)>,
        outputs: &mut Outputs,
    ) -> Result<(), Refused> {
        if let Some((at, forgotten)) = shard {
            self.entered(set, at, outputs)?;
            let state = self.sets.get_mut(&set.0).ok_or(Refused::UnknownSet)?;
            state.touch(at, || NodeId::NOBODY)?.shard.recovery.heard(from, forgotten)?;
        } else if let Some(recovering) = &mut self.recovering {
            recovering.awaited.remove(from);
        }
        self.look_again();
        Ok(())
    }

    /// Something has been said that may let a step be done.
    pub(super) fn look_again(&mut self) {
        if let Some(recovering) = &mut self.recovering {
            recovering.is_idle = false;
        }
        if let Some(moving) = &mut self.moving {
            moving.is_idle = false;
        }
    }

    /// The old home of a shard has handed it over.
    pub(super) fn take_over(
        &mut self,
        set: SetId,
        from: NodeId,
        (shard, floor, in_doubt, unbroken): (ShardIndex, Tenure, bool, Epoch),
        outputs: &mut Outputs,
    ) -> Result<bool, Refused> {
        let me = self.me;
        let is_mine = self.view.home(set, shard) == Some(me);
        self.entered(set, shard, outputs)?;
        let state = self.sets.get_mut(&set.0).ok_or(Refused::UnknownSet)?;
        let touched = state.touch(shard, || me)?;
        let recovery = &touched.shard.recovery;
        let recovers = recovery.is_recovering && touched.home == me && recovery.in_doubt();
        if !is_mine || from == me || !(touched.home == from || recovers) {
            return Ok(false);
        }
        touched.shard.take_over(floor, in_doubt, unbroken);
        touched.home = me;
        Ok(true)
    }

    /// Gives a few owners the replicas that they are to have.
    pub(super) fn refill(&mut self, outputs: &mut Outputs) -> Result<Option<HandedOver>, NoMemory> {
        let Some((first, from)) = self.refilling else { return Ok(None) };
        let next = |(id, state): (&u64, &Set)| {
            let set = SetId(*id);
            let behind = |at: ShardIndex| set > first || (set == first && at.0 >= from);
            let wants = set >= first && state.may_want_replicas(set);
            let shards = state.touched.iter().map(|touched| touched.at).filter(|at| wants && behind(*at));
            shards.min().map(|at| (set, at))
        };
        let Some((set, at)) = self.sets.iter().filter_map(next).min() else {
            self.refilling = None;
            return Ok(None);
        };
        self.entered(set, at, outputs).map_err(|_| NoMemory)?;
        let Node { me, incarnation, view, sets, counter, room, .. } = self;
        let Some(touched) = sets.get_mut(&set.0).and_then(|state| state.touch(at, || *me).ok()) else {
            return Err(NoMemory);
        };
        let view_home = view.home(set, at).unwrap_or(NodeId::NOBODY);
        let place = Place::at_home((*me, *incarnation), view, (set, at), touched.home, &touched.shard.recovery);
        let place = Place { view_home, ..place };
        let objects = touched.shard.short_of_replicas(&place, REFILLED_AT_ONCE)?;
        for object in &objects {
            touched.shard.step(&place, counter, room, *object, Step::Refill, outputs)?;
        }
        let is_done = objects.len() < REFILLED_AT_ONCE;
        self.refilling = Some((set, if is_done { at.0 + 1 } else { at.0 }));
        Ok(Some(HandedOver::Shard(set)))
    }

    /// Every owner here has its replicas, and every shard of which this node is the home is open: as far as this
    /// node is concerned, all that is not lost is whole again.
    pub fn is_whole(&self) -> bool {
        self.what_is_missing().is_none()
    }

    /// What all is not whole for, as far as this node is concerned, in words for people.
    pub fn what_is_missing(&self) -> Option<&'static str> {
        if self.moving.is_some() {
            return Some("shards are on their way to their new homes");
        }
        if self.recovering.is_some() {
            return Some("members still tell what they have");
        }
        if self.refilling.is_some() {
            return Some("replicas are being made");
        }
        // What is lost, or in doubt, is no reason to wait: nothing makes it whole but its acceptance, and the next
        // loss takes none of it for what never existed (see `Losses`).
        self.sets.values().flat_map(|set| &set.touched).find_map(|touched| {
            if touched.shard.recovery.may_decide_anew() {
                return Some("copies have become objects that are not safe yet, or are on their way out");
            }
            touched.shard.is_filling().then_some("replicas are on their way")
        })
    }

    /// Members were lost, and this node still waits for what others have to say of it.
    pub fn is_recovering(&self) -> bool {
        self.recovering.is_some()
    }

    /// How many objects could not be proven present, of those that this node is the home of.
    pub fn lost_count(&self, set: SetId) -> usize {
        self.touched(set).map(|(_, _, shard)| shard.lost_count()).sum()
    }

    /// How many replicas of others' objects this node keeps.
    pub fn replica_count(&self) -> usize {
        self.sets.values().flat_map(|set| &set.touched).map(|touched| touched.shard.replica_count()).sum()
    }
}

/// What the shard's home of the epoch before knows goes to the new one, if that is not the same node.
fn begin_to_enter(
    touched: &mut Touched,
    me: NodeId,
    view: &View,
    (at, new, doubt): (ShardIndex, NodeId, Doubt),
    outputs: &mut Outputs,
) -> Result<(), NoMemory> {
    let old = touched.home;
    let to_enter = touched.shard.everything()?;
    let was_whole = !touched.shard.recovery.is_recovering;
    touched.shard.drop_parked();
    if old == me && new != me {
        let is_member = view.member(new).is_some();
        if was_whole && is_member {
            touched.shard.give(me, at, new, outputs)?;
        }
    }
    if new != me {
        touched.shard.drop_directory(); // Also what was on its way here.
    }
    let recovery = &mut touched.shard.recovery;
    recovery.begin(new == me);
    if new != me || old != me {
        recovery.unbroken = view.epoch;
    }
    if new != me {
        recovery.doubt = Doubt::None;
    } else if old != me {
        recovery.doubt = doubt;
    }
    recovery.to_enter = to_enter;
    recovery.entering = view.epoch;
    touched.home = new;
    Ok(())
}
