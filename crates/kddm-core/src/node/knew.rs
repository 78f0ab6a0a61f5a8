//! What a home knew that was expelled and comes back as a new life: `docs/protocol.md`, R17 to R19.

use alloc::vec::Vec;

use crate::home::{Entry, EntryState};
use crate::id::{Epoch, Incarnation, NodeId, ObjectId, SetId, ShardIndex, Tenure};
use crate::io::{Body, NoMemory, Output, Outputs};
use crate::losses::{Doubt, LOSSES_REMEMBERED};
use crate::message::{Knew, Loss, Message, Since};
use crate::mutation::{Mutation, mutated};
use crate::recovery::Recovery;
use crate::shard::{Place, Step};
use crate::view::View;

use super::{Node, Refused, Touched};

/// Directories of one shard that a node keeps, of so many lives: of more the oldest goes.
pub const LIVES_KNOWN: usize = 4;

/// The directory of a shard, as its home had it when it was frozen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Directory {
    /// Its set.
    pub set: SetId,
    /// The shard.
    pub shard: ShardIndex,
    floor: Tenure,
    in_doubt: bool,
    since: Since,
    /// By ascending object; each owner with its life then.
    entries: Vec<(Entry, Incarnation)>,
}

impl Directory {
    /// The first epoch in which its home did nothing.
    pub fn left(&self) -> Epoch {
        self.since.left
    }

    fn knew(&self, (entry, life): (Entry, Incarnation)) -> Knew {
        let Entry { tenure, node: owner, state, lost, .. } = entry;
        Knew { tenure, owner, life, state, lost, since: self.since }
    }
}

impl Node {
    /// The directories of the shards that this node answers for, and those of its former lives. To be asked when it is
    /// frozen, as [`memories`](Self::memories).
    pub fn directories(&self) -> Vec<Directory> {
        let mut all = Vec::new();
        for set in self.sets() {
            for touched in self.sets.get(&set.0).into_iter().flat_map(|state| &state.touched) {
                all.extend(touched.shard.recovery.former.iter().cloned());
                // Of what it was deciding it does not know itself.
                if touched.home == self.me && !touched.shard.recovery.is_recovering {
                    all.push(self.directory(set, touched));
                }
            }
        }
        all.sort_unstable_by_key(|known| (known.set, known.shard, known.since.left));
        all
    }

    fn directory(&self, set: SetId, touched: &Touched) -> Directory {
        let Touched { at, shard, .. } = touched;
        let since = Since { unbroken: shard.recovery.unbroken, left: self.leaves() };
        let life = |node: NodeId| self.view.member(node).map_or(Incarnation(0), |member| member.incarnation);
        let mut entries: Vec<_> = shard.directory().map(|entry| (*entry, life(entry.node))).collect();
        entries.sort_unstable_by_key(|(entry, _)| entry.object);
        Directory { set, shard: *at, floor: shard.floor(), in_doubt: shard.recovery.in_doubt(), since, entries }
    }

    /// Takes in what a former life knew as a home; the next epoch lets the homes know.
    ///
    /// # Errors
    /// As [`handle`](Self::handle). Nothing has changed.
    pub fn remember_directory(&mut self, directory: Directory, outputs: &mut Outputs) -> Result<(), Refused> {
        let (set, at) = (directory.set, directory.shard);
        set.policy().ok_or(Refused::UnknownSet)?;
        self.entered(set, at, outputs)?;
        let state = self.sets.get_mut(&set.0).ok_or(Refused::UnknownSet)?;
        let former = &mut state.touch(at, || NodeId::NOBODY)?.shard.recovery.former;
        former.try_reserve(1).map_err(|_| NoMemory)?;
        former.push(directory);
        former.sort_by_key(|known| known.since.left);
        if former.len() > LIVES_KNOWN {
            former.remove(0);
        }
        Ok(())
    }

    /// What former lives knew of a shard is told in each new epoch, before anything that is here of it is reported: another
    /// home may have been between, and back only now.
    pub(super) fn tell_what_it_knew(
        &mut self,
        set: SetId,
        at: ShardIndex,
        outputs: &mut Outputs,
    ) -> Result<(), Refused> {
        let (me, epoch) = (self.me, self.view.epoch);
        let state = self.sets.get_mut(&set.0).ok_or(Refused::UnknownSet)?;
        let Touched { home, shard, .. } = state.touch(at, || NodeId::NOBODY)?;
        let recovery = &mut shard.recovery;
        if recovery.told == epoch || recovery.former.is_empty() {
            return Ok(());
        }
        // Since then more homes have been lost than anybody remembers.
        let is_of_use = |left: Epoch| epoch.0 < left.0.saturating_add(LOSSES_REMEMBERED as u32);
        recovery.former.retain(|known| is_of_use(known.since.left));
        if *home != me {
            outputs.reserve(recovery.former.iter().map(|known| known.entries.len() + 1).sum())?;
            recovery.former.iter().for_each(|known| known.tell(*home, outputs));
        }
        recovery.told = epoch;
        Ok(())
    }

    /// A home tells of a loss that was before this node came.
    pub(super) fn is_told_of_a_loss(&mut self, loss: Loss, outputs: &mut Outputs) -> Result<(), Refused> {
        outputs.reserve(1)?;
        if !self.losses.learn(loss, self.view.epoch)? {
            let what = "a loss of members that nobody can know of";
            outputs.push(Output::Dropped { object: ObjectId(0), what });
        }
        Ok(())
    }

    /// A former home of a shard that is back says what it knew. All of it is looked at when the shard is opened: until
    /// then what others say may change what is of use.
    pub(super) fn is_told_by_a_former_home(
        &mut self,
        set: SetId,
        (object, from): (ObjectId, NodeId),
        message: Message,
        outputs: &mut Outputs,
    ) -> Result<(), Refused> {
        let (at, since) = match &message {
            Message::Knew(knew) => (object.shard(set.policy().ok_or(Refused::UnknownSet)?), knew.since),
            Message::KnewAll { shard, since, .. } => (*shard, *since),
            _ => return Ok(()),
        };
        self.entered(set, at, outputs)?;
        let (me, is_past) = (self.me, since.left <= self.view.epoch && since.unbroken < since.left);
        let state = self.sets.get_mut(&set.0).ok_or(Refused::UnknownSet)?;
        let Touched { home, shard, .. } = state.touch(at, || NodeId::NOBODY)?;
        let recovery = &mut shard.recovery;
        if *home != me || !recovery.is_recovering || recovery.to_decide.is_some() || !is_past {
            return Ok(());
        }
        let told = told_of(&mut recovery.told_by_others, (from, set, at, since))?;
        match message {
            Message::Knew(Knew { tenure, owner: node, life, state, lost, .. }) => {
                told.directory.entries.try_reserve(1).map_err(|_| NoMemory)?;
                told.directory.entries.push((Entry { object, tenure, node, state, lost }, life));
            }
            Message::KnewAll { floor, in_doubt, .. } => {
                (told.directory.floor, told.directory.in_doubt, told.is_all) = (floor, in_doubt, true);
            }
            _ => {}
        }
        Ok(())
    }

    /// Before a home decides: what former homes knew, that of the last one first, since each fills what the one before
    /// it lacks.
    pub(super) fn take_what_was_known(
        &mut self,
        set: SetId,
        at: ShardIndex,
        outputs: &mut Outputs,
    ) -> Result<(), NoMemory> {
        let Node { me, incarnation, view, sets, counter, room, .. } = self;
        let Some(Ok(touched)) = sets.get_mut(&set.0).map(|state| state.touch(at, || NodeId::NOBODY)) else {
            return Ok(());
        };
        let shard = &mut touched.shard;
        if shard.recovery.to_decide.is_some() {
            return Ok(()); // It is being opened.
        }
        while let Some(known) = next_of_use(&shard.recovery) {
            let place = Place::at_home((*me, *incarnation), view, (set, at), *me, &shard.recovery);
            let (floor, in_doubt, since) = (known.floor, known.in_doubt, known.since);
            let count = known.entries.len();
            for index in 0..count {
                let known = next_of_use(&shard.recovery).and_then(|known| known.entries.get(index)).copied();
                let Some(entry) = known else { break };
                let step = Step::Knew(as_it_is_now(entry, view));
                shard.step(&place, counter, room, entry.0.object, step, outputs)?;
            }
            shard.knows_all(floor, in_doubt, since.unbroken);
        }
        shard.recovery.told_by_others.clear();
        Ok(())
    }
}

/// What another node has told of its former lives in this epoch.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Told {
    from: NodeId,
    directory: Directory,
    is_all: bool,
}

fn told_of(
    told: &mut Vec<Told>,
    (from, set, shard, since): (NodeId, SetId, ShardIndex, Since),
) -> Result<&mut Told, NoMemory> {
    let is_it = |told: &Told| told.from == from && told.directory.since == since;
    let at = match told.iter().position(is_it) {
        Some(at) => at,
        None => {
            told.try_reserve(1).map_err(|_| NoMemory)?;
            let directory = Directory { set, shard, floor: Tenure::NONE, in_doubt: true, since, entries: Vec::new() };
            told.push(Told { from, directory, is_all: false });
            told.len() - 1
        }
    };
    told.get_mut(at).ok_or(NoMemory)
}

/// A directory of which all is known, and that has what this home lacks and nothing that was decided after it: the home
/// has all that was decided since that one ended, or that one ended later.
fn next_of_use(recovery: &Recovery) -> Option<&Directory> {
    let lacks = |known: &&Directory| {
        let is_next = recovery.unbroken <= known.since.left || mutated(Mutation::TakeWhatWasKnownForAll);
        is_next && known.since.unbroken < recovery.unbroken
    };
    let others = recovery.told_by_others.iter().filter(|told| told.is_all).map(|told| &told.directory);
    let all = recovery.former.iter().chain(others);
    let best = all.filter(lacks).max_by_key(|known| (known.since.left, known.since.unbroken));
    best.filter(|_| recovery.doubt == Doubt::Old)
}

impl Directory {
    fn tell(&self, home: NodeId, outputs: &mut Outputs) {
        let mut say = |object, message| {
            outputs.push(Output::Send { to: home, object, message, body: Body::None, deferred: false });
        };
        for entry in &self.entries {
            say(entry.0.object, Message::Knew(self.knew(*entry)));
        }
        let (shard, floor, in_doubt, since) = (self.shard, self.floor, self.in_doubt, self.since);
        say(ObjectId(0), Message::KnewAll { shard, floor, in_doubt, since });
    }
}

/// What a former home knew of an object of which nothing is known here. What it had decided, and nobody has any more, is
/// lost; but what it had only said to a node that lives may never have been heard.
fn as_it_is_now((entry, life): (Entry, Incarnation), view: &View) -> Entry {
    let Entry { object, tenure, node: owner, state, .. } = entry;
    let lives = view.member(owner).is_some_and(|member| member.incarnation == life);
    let (node, state, lost) = match state {
        EntryState::Removing | EntryState::Absent => (NodeId::NOBODY, state, false),
        EntryState::Predicted | EntryState::Promoted if lives => (owner, state, true),
        _ => (NodeId::NOBODY, EntryState::Unknown, true),
    };
    Entry { object, tenure, node, state, lost }
}
