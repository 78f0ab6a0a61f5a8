//! What a home knew that was expelled and comes back as a new life: `docs/protocol.md`, R17 to R19.

use alloc::vec::Vec;

use crate::home::{Entry, EntryState};
use crate::id::{Epoch, Incarnation, NodeId, ObjectId, SetId, ShardIndex, Tenure};
use crate::io::{Body, NoMemory, Output, Outputs};
use crate::losses::LOSSES_REMEMBERED;
use crate::message::{Knew, Loss, Message, Since};
use crate::mutation::{Mutation, mutated};
use crate::recovery::Recovery;
use crate::shard::Step;
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
    /// The directories of the shards that this node answers for, and those of former lives that it has told nobody yet. To
    /// be asked when it is frozen, as [`memories`](Self::memories).
    pub fn directories(&self) -> Vec<Directory> {
        let mut all = self.directories_of_former_lives.clone();
        for set in self.sets() {
            for touched in self.sets.get(&set.0).into_iter().flat_map(|state| &state.touched) {
                // Of what it was deciding it does not know itself.
                if touched.home == self.me && !touched.shard.recovery.is_recovering {
                    all.push(self.directory(set, touched));
                }
            }
        }
        sort(&mut all);
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
        let all = &mut self.directories_of_former_lives;
        all.try_reserve(1).map_err(|_| NoMemory)?;
        all.push(directory);
        sort(all);
        let is_it = |known: &&Directory| (known.set, known.shard) == (set, at);
        if all.iter().filter(is_it).count() > LIVES_KNOWN
            && let Some(oldest) = all.iter().rposition(|known| is_it(&known))
        {
            all.remove(oldest);
        }
        Ok(())
    }

    /// What nobody can use any more is dropped: since then more homes have been lost than anybody remembers.
    pub(super) fn forget_directories(&mut self) {
        let epoch = self.view.epoch;
        self.directories_of_former_lives
            .retain(|known| epoch.0 < known.since.left.0.saturating_add(LOSSES_REMEMBERED as u32));
    }

    /// What former lives knew of a shard is told in each new epoch, before anything that is here of it is reported: another
    /// home may have been between, and back only now.
    pub(super) fn tell_what_it_knew(
        &mut self,
        set: SetId,
        at: ShardIndex,
        outputs: &mut Outputs,
    ) -> Result<(), Refused> {
        let Some(touched) = self.sets.get(&set.0).and_then(|state| state.get(at)) else { return Ok(()) };
        let (home, has_told) = (touched.home, touched.shard.recovery.told == self.view.epoch);
        if has_told || self.directories_of_former_lives.is_empty() {
            return Ok(());
        }
        let is_it = |known: &Directory| (known.set, known.shard) == (set, at);
        if home != self.me && home.is_somebody() {
            let known = || self.directories_of_former_lives.iter().filter(|known| is_it(known));
            outputs.reserve(known().map(|known| known.entries.len() + 1).sum())?;
            known().for_each(|known| known.tell(home, outputs));
            return self.has_told(set, at);
        }
        for index in 0..self.directories_of_former_lives.len() {
            let mut next = 0;
            while let Some(known) = self.directories_of_former_lives.get(index).filter(|known| is_it(known)) {
                let Some(entry) = known.entries.get(next) else {
                    self.knows_all(set, (at, known.floor, known.in_doubt), known.since);
                    break;
                };
                let (object, knew) = (entry.0.object, known.knew(*entry));
                self.is_told_what_was_known(set, object, knew, outputs)?;
                next += 1;
            }
        }
        self.has_told(set, at)
    }

    fn has_told(&mut self, set: SetId, at: ShardIndex) -> Result<(), Refused> {
        let epoch = self.view.epoch;
        let state = self.sets.get_mut(&set.0).ok_or(Refused::UnknownSet)?;
        state.touch(at, || NodeId::NOBODY)?.shard.recovery.told = epoch;
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

    /// A former home of a shard that is back says what it knew.
    pub(super) fn is_told_by_a_former_home(
        &mut self,
        set: SetId,
        object: ObjectId,
        message: Message,
        outputs: &mut Outputs,
    ) -> Result<(), Refused> {
        match message {
            Message::Knew(knew) => {
                self.entered(set, object.shard(set.policy().unwrap_or_default()), outputs)?;
                self.is_told_what_was_known(set, object, knew, outputs)?;
            }
            Message::KnewAll { shard, floor, in_doubt, since } => {
                self.entered(set, shard, outputs)?;
                self.knows_all(set, (shard, floor, in_doubt), since);
            }
            _ => {}
        }
        Ok(())
    }

    fn is_told_what_was_known(
        &mut self,
        set: SetId,
        object: ObjectId,
        knew: Knew,
        outputs: &mut Outputs,
    ) -> Result<(), Refused> {
        let at = object.shard(set.policy().ok_or(Refused::UnknownSet)?);
        if !self.lacks(set, at, knew.since) {
            return Ok(());
        }
        let entry = as_it_is_now(object, knew, &self.view);
        self.at_shard(set, object, |shard, place, counter, room| {
            shard.step(place, counter, room, object, Step::Knew(entry), outputs)
        })
    }

    /// And that this was all.
    fn knows_all(&mut self, set: SetId, (at, floor, in_doubt): (ShardIndex, Tenure, bool), since: Since) {
        if !self.lacks(set, at, since) {
            return;
        }
        if let Some(Ok(touched)) = self.sets.get_mut(&set.0).map(|state| state.touch(at, || NodeId::NOBODY)) {
            touched.shard.knows_all(floor, in_doubt, since.unbroken);
        }
    }

    /// Whether the directory here lacks what was decided until the end of that life, and nothing that was decided after it.
    fn lacks(&self, set: SetId, at: ShardIndex, since: Since) -> bool {
        let Some(touched) = self.sets.get(&set.0).and_then(|state| state.get(at)) else { return false };
        let Recovery { is_recovering, to_decide, unbroken, .. } = &touched.shard.recovery;
        let decides_later = *is_recovering && to_decide.is_none();
        let is_next = *unbroken <= since.left || mutated(Mutation::TakeWhatWasKnownForAll);
        let is_past = since.left <= self.view.epoch && since.unbroken < *unbroken;
        touched.home == self.me && decides_later && touched.shard.recovery.in_doubt() && is_next && is_past
    }
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

/// By shard, that of the last life first: each fills what the one before it lacks.
fn sort(directories: &mut [Directory]) {
    directories.sort_unstable_by_key(|known| (known.set, known.shard, core::cmp::Reverse(known.since.left)));
}

/// What a former home knew of an object of which nothing is known here. What it had decided, and nobody has any more, is
/// lost; but what it had only said to a node that lives may never have been heard.
fn as_it_is_now(object: ObjectId, knew: Knew, view: &View) -> Entry {
    let Knew { tenure, owner, life, state, .. } = knew;
    let lives = view.member(owner).is_some_and(|member| member.incarnation == life);
    let (node, state, lost) = match state {
        EntryState::Removing | EntryState::Absent => (NodeId::NOBODY, state, false),
        EntryState::Predicted | EntryState::Promoted if lives => (owner, state, true),
        _ => (NodeId::NOBODY, EntryState::Unknown, true),
    };
    let lost = lost && !mutated(Mutation::TakeWhatWasKnownForWhole);
    Entry { object, tenure, node, state, lost }
}
