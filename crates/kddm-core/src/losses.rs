//! The losses of members that a node knows of: whether objects may exist that no directory names.
//!
//! A shard whose home was lost with its directory is **in doubt** if its set has too few replicas for what
//! was lost. All members can tell that of every shard, touched or not, from the homes before and after; who
//! joins later is told of these losses before it answers for any shard.

use alloc::vec::Vec;

use crate::id::{Epoch, NodeId, SetId, ShardIndex};
use crate::io::NoMemory;
use crate::message::{Loss, Message};
use crate::mutation::{Mutation, mutated};
use crate::nodeset::NodeSet;
use crate::replicas::MOST_REPLICAS;
use crate::view::View;

/// Losses that a node remembers one by one. Of those before it knows only the last epoch in which one was not covered,
/// for each number of replicas that a set may have.
pub const LOSSES_REMEMBERED: usize = 16;

/// Whether objects of a shard may exist that its directory does not name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) enum Doubt {
    /// What is not named does not exist.
    #[default]
    None,
    /// The directory was lost, and nothing else may have been: all that is left is being reported.
    New,
    /// It may have been lost with its copies: only who accepts that ends it.
    Old,
}

/// One loss: the homes before it and after it, without members.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Change {
    before: View,
    after: View,
    /// What the home that was lost had decided before that epoch is not known any more: it decided nothing in that
    /// epoch or later, for all that is known.
    unbroken: Epoch,
}

impl Change {
    fn moves(&self, set: SetId, at: ShardIndex) -> bool {
        self.before.home(set, at) != self.after.home(set, at)
    }

    /// It may have taken objects of that set with all their copies.
    fn is_bare(&self, set: SetId) -> bool {
        !self.after.covers(set.replicas())
    }
}

/// The losses so far.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Losses {
    of: Vec<Change>,
    /// There were others. By the replicas of a set: the last epoch of one that may have taken objects of it with all
    /// their copies. Those that were covered have left nothing to remember.
    forgotten: [Epoch; MOST_REPLICAS + 1],
}

impl Losses {
    /// Notes that from these homes the step was to that view. While shards are on their way the homes of two
    /// views may have answered: then both are noted.
    pub fn note(&mut self, before: &View, after: &View) -> Result<(), NoMemory> {
        let before = View { homes: homes_of(before)?, ..View::default() };
        let View { epoch, placement, failures, fewest_homes, .. } = *after;
        let homes = homes_of(after)?;
        if before.homes == homes {
            return Ok(()); // No directory was lost.
        }
        let after = View { epoch, placement, members: Vec::new(), homes, failures, fewest_homes };
        if self.of.iter().any(|known| known.before == before && known.after == after) {
            return Ok(());
        }
        let change = Change { before, after, unbroken: epoch };
        self.of.try_reserve(1).map_err(|_| NoMemory)?;
        self.of.push(change);
        if self.of.len() > LOSSES_REMEMBERED {
            let oldest = self.of.iter().map(|change| change.after.epoch).min().unwrap_or_default();
            for replicas in 0..=MOST_REPLICAS {
                let is_over = |change: &&Change| change.after.epoch <= oldest && self.was_bare(change, replicas);
                let last = self.of.iter().filter(is_over).map(|change| change.after.epoch).max().unwrap_or_default();
                if let Some(epoch) = self.forgotten.get_mut(replicas) {
                    *epoch = last.max(*epoch);
                }
            }
            self.of.retain(|change| change.after.epoch > oldest);
        }
        self.of.sort_by_key(|change| (change.after.epoch, change.after.placement));
        Ok(())
    }

    /// Another member tells of a loss. What it says of one that is yet to come here is a lie.
    pub fn learn(&mut self, loss: Loss, now: Epoch) -> Result<bool, NoMemory> {
        // None is a failure where shards were on their way, and a new epoch began for what a member remembers.
        if loss.epoch > now {
            return Ok(false);
        }
        let Loss { epoch, placement, failures, fewest_homes, before, after, .. } = loss;
        if loss.forgotten {
            forget(&mut self.forgotten, &View { epoch, failures, fewest_homes, ..View::default() });
            return Ok(true);
        }
        let view = |homes: &NodeSet| -> Result<View, NoMemory> {
            let mut copy = Vec::new();
            copy.try_reserve_exact(homes.len()).map_err(|_| NoMemory)?;
            copy.extend(homes.iter());
            Ok(View { homes: copy, ..View::default() })
        };
        self.note(&view(&before)?, &View { epoch, placement, failures, fewest_homes, ..view(&after)? })?;
        Ok(true)
    }

    /// What a member that has not been there is to know, in messages.
    pub fn told(&self) -> Result<Vec<Message>, NoMemory> {
        let mut told = Vec::new();
        told.try_reserve_exact(self.of.len() + self.forgotten.len()).map_err(|_| NoMemory)?;
        for Change { before, after, .. } in &self.of {
            let View { epoch, placement, failures, fewest_homes, .. } = *after;
            let (before, after) = (set_of(&before.homes)?, set_of(&after.homes)?);
            let forgotten = false;
            let loss = Loss { epoch, placement, failures, fewest_homes, before, after, forgotten };
            told.push(Message::Loss(loss));
        }
        for (replicas, epoch) in self.forgotten.iter().copied().enumerate() {
            // What is covered by some replicas is covered by more: each epoch is told once, of the most replicas.
            let of_more = self.forgotten.get(replicas + 1).copied().unwrap_or_default();
            if epoch > of_more {
                let (failures, fewest_homes) = (replicas as u32 + 1, u16::MAX);
                let loss = Loss { epoch, failures, fewest_homes, forgotten: true, ..Loss::default() };
                told.push(Message::Loss(loss));
            }
        }
        Ok(told)
    }

    /// The doubt about a shard that was never touched since a loss that its home has lived through. `born`: the
    /// set is no older than that epoch, or what was lost of it until then is accepted. `now`: the epoch in
    /// which its members still say what they have.
    pub fn doubt(&self, set: SetId, at: ShardIndex, born: Epoch, now: Option<Epoch>) -> Doubt {
        if self.has_forgotten_bare(set, born) {
            return Doubt::Old;
        }
        let moved = self.of.iter().filter(|change| change.after.epoch > born && change.moves(set, at));
        let of_one = |change: &Change| {
            if self.was_bare(change, set.replicas()) || self.has_bare(set, born, change.after.epoch) {
                Doubt::Old
            } else if now == Some(change.after.epoch) {
                Doubt::New
            } else {
                Doubt::None
            }
        };
        moved.map(of_one).max().unwrap_or_default()
    }

    /// Since the beginning of which epoch the directory of a shard that was never touched has gone from home to home:
    /// then the home was lost last, or may have been.
    pub fn unbroken_since(&self, set: SetId, at: ShardIndex) -> Epoch {
        self.unbroken_until(set, at, Epoch(u32::MAX))
    }

    /// The same of the losses up to that epoch.
    pub fn unbroken_until(&self, set: SetId, at: ShardIndex, last: Epoch) -> Epoch {
        // What came before those that are remembered one by one nobody knows any more.
        let oldest = self.of.first().filter(|_| self.of.len() >= LOSSES_REMEMBERED);
        let moved = self.of.iter().filter(|change| change.after.epoch <= last && change.moves(set, at));
        let oldest = oldest.map(|change| change.after.epoch);
        moved.map(|change| change.unbroken).chain(oldest).max().unwrap_or_default()
    }

    /// A member is back in a new life, and remembers that the former one did nothing in that epoch or later: nor did it
    /// as a home, from then until it was lost. The epoch in which it was, if that is news.
    pub fn returned(&mut self, node: NodeId, left: Epoch) -> Option<Epoch> {
        let is_its = |change: &Change| {
            let mut lost = change.before.homes.iter().filter(|home| !change.after.homes.contains(home));
            let is_one = lost.next() == Some(&node) && lost.next().is_none();
            is_one || (mutated(Mutation::TakeAnyLossForItsOwn) && change.after.epoch > left)
        };
        let epoch = self.of.iter().filter(|change| is_its(change)).map(|change| change.after.epoch).max()?;
        if left == Epoch(0) || left >= epoch {
            return None;
        }
        for change in self.of.iter_mut().filter(|change| is_its(change) && change.after.epoch == epoch) {
            change.unbroken = change.unbroken.min(left);
        }
        Some(epoch)
    }

    /// Whether a loss may have taken objects with all their copies; also together with a later one, if all was not whole
    /// in between: what was being reported then of a shard that it moved may have been lost before it was heard.
    fn was_bare(&self, change: &Change, replicas: usize) -> bool {
        let (epoch, failures) = (change.after.epoch, change.after.failures);
        let adds = |later: &Change| later.after.epoch > epoch && later.after.failures > failures;
        // Failures are counted anew when all is whole.
        let is_between = |one: &Change, last: &Change| one.after.epoch > epoch && one.after.epoch < last.after.epoch;
        let healed = |last: &Change| self.of.iter().any(|one| is_between(one, last) && one.after.failures <= failures);
        let is_later = |later: &Change| adds(later) && !later.after.covers(replicas) && !healed(later);
        !change.after.covers(replicas) || self.of.iter().any(is_later)
    }

    /// Whether a loss before that epoch may have taken objects of the set with all their copies, and nobody has
    /// accepted that: a directory that is lost later may have said so.
    pub fn has_bare(&self, set: SetId, born: Epoch, until: Epoch) -> bool {
        let is_meant = |change: &Change| {
            let epoch = change.after.epoch;
            let is_older = epoch > born && epoch < until && change.before.homes != change.after.homes;
            is_older && change.is_bare(set)
        };
        self.has_forgotten_bare(set, born) || self.of.iter().any(is_meant)
    }

    /// Whether any home was lost after that epoch, up to the other one.
    pub fn has_any(&self, after: Epoch, last: Epoch) -> bool {
        let is_meant = |epoch: Epoch| epoch > after && epoch <= last;
        self.of.iter().any(|change| is_meant(change.after.epoch) && change.before.homes != change.after.homes)
    }

    fn has_forgotten_bare(&self, set: SetId, born: Epoch) -> bool {
        self.forgotten.get(set.replicas()).is_none_or(|epoch| *epoch > born) && !mutated(Mutation::ForgetOldLosses)
    }
}

/// Takes a loss to those that are not remembered one by one: the view after it.
fn forget(forgotten: &mut [Epoch; MOST_REPLICAS + 1], after: &View) {
    for (replicas, epoch) in forgotten.iter_mut().enumerate() {
        if !after.covers(replicas) {
            *epoch = after.epoch.max(*epoch);
        }
    }
}

fn homes_of(view: &View) -> Result<Vec<NodeId>, NoMemory> {
    let mut homes = Vec::new();
    homes.try_reserve_exact(view.homes.len()).map_err(|_| NoMemory)?;
    homes.extend_from_slice(&view.homes);
    Ok(homes)
}

fn set_of(homes: &[NodeId]) -> Result<NodeSet, NoMemory> {
    let mut set = NodeSet::new();
    set.reserve(homes.len())?;
    homes.iter().for_each(|home| {
        set.insert(*home);
    });
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{PlacementPolicy, SHARDS_PER_SET};

    /// The homes, and what was lost until then.
    fn view(epoch: u32, homes: &[u16], failures: u32) -> View {
        let homes: Vec<NodeId> = homes.iter().copied().map(NodeId).collect();
        let fewest_homes = homes.len() as u16 + failures as u16;
        View { epoch: Epoch(epoch), homes, failures, fewest_homes, ..View::default() }
    }

    const PLAIN: SetId = SetId::new(PlacementPolicy::Hash, SetId::FIRST_COUNTER);
    const SAFE: SetId = PLAIN.with_replicas(1);

    fn shards_of(view: &View, set: SetId, home: u16) -> Vec<ShardIndex> {
        (0..SHARDS_PER_SET).map(ShardIndex).filter(|at| view.home(set, *at) == Some(NodeId(home))).collect()
    }

    fn after(steps: &[(&View, &View)]) -> Losses {
        let mut losses = Losses::default();
        for (before, after) in steps {
            assert_eq!(losses.note(before, after), Ok(()));
        }
        losses
    }

    #[test]
    fn in_doubt_is_what_the_lost_home_answered_for() {
        let (one, two) = (view(1, &[1, 2, 3], 0), view(2, &[1, 2], 1));
        let losses = after(&[(&one, &two)]);
        for at in shards_of(&one, PLAIN, 3) {
            assert_eq!(losses.doubt(PLAIN, at, Epoch(0), None), Doubt::Old);
            assert_eq!(losses.doubt(PLAIN, at, Epoch(2), None), Doubt::None, "accepted, or created since then");
        }
        for at in shards_of(&one, PLAIN, 2) {
            assert_eq!(losses.doubt(PLAIN, at, Epoch(0), None), Doubt::None);
        }
        for at in shards_of(&one, SAFE, 3) {
            assert_eq!(losses.doubt(SAFE, at, Epoch(0), Some(Epoch(2))), Doubt::New, "until all have reported");
            assert_eq!(losses.doubt(SAFE, at, Epoch(0), None), Doubt::None, "it was covered");
        }
    }

    #[test]
    fn a_covered_loss_does_not_cover_what_was_lost_before() {
        let (one, two) = (view(1, &[1, 2, 3, 4, 5], 0), view(2, &[1, 2, 3], 2));
        // All has been whole since then but what is lost: one failure is within one replica.
        let (healed, three) = (view(2, &[1, 2, 3], 0), view(3, &[1, 2], 1));
        let losses = after(&[(&one, &two), (&healed, &three)]);
        assert!(three.covers(1) && !two.covers(1));
        for at in shards_of(&healed, SAFE, 3) {
            assert_eq!(losses.doubt(SAFE, at, Epoch(0), None), Doubt::Old, "its home may have known of lost ones");
            assert_eq!(losses.doubt(SAFE, at, Epoch(2), None), Doubt::None, "these are accepted");
        }
    }

    /// Found by the simulator, seed 27788: the owner was frozen, its replica was lost with the home of the shard, and then
    /// the owner was expelled before the next home had heard of it.
    #[test]
    fn a_covered_loss_is_in_doubt_if_the_next_one_was_not_and_all_was_not_whole_in_between() {
        let (one, two) = (view(1, &[1, 2, 3, 4], 0), view(2, &[1, 2, 3], 1));
        let three = view(3, &[1, 2], 2);
        let losses = after(&[(&one, &two), (&two, &three)]);
        assert!(two.covers(1) && !three.covers(1));
        for at in shards_of(&one, SAFE, 4) {
            assert_eq!(losses.doubt(SAFE, at, Epoch(0), None), Doubt::Old);
            assert_eq!(losses.doubt(SAFE, at, Epoch(3), None), Doubt::None, "that is accepted");
        }
        let twice = PLAIN.with_replicas(2);
        for at in shards_of(&one, twice, 4) {
            assert_eq!(losses.doubt(twice, at, Epoch(0), None), Doubt::None, "two replicas cover both");
        }
        let (whole, three) = (view(2, &[1, 2, 3], 0), view(3, &[1, 2], 1));
        let losses = after(&[(&one, &two), (&whole, &three)]);
        for at in shards_of(&one, SAFE, 4) {
            assert_eq!(losses.doubt(SAFE, at, Epoch(0), None), Doubt::None, "all was whole in between");
        }
    }

    #[test]
    fn who_is_told_knows_the_same_and_believes_nothing_of_the_future() {
        let (one, two) = (view(1, &[1, 2, 3], 0), view(2, &[1, 2], 1));
        let losses = after(&[(&one, &two)]);
        let mut told = Losses::default();
        for message in losses.told().unwrap() {
            let Message::Loss(loss) = message else { panic!("{message:?}") };
            assert_eq!(told.learn(loss.clone(), Epoch(1)), Ok(false), "it is yet to come");
            assert_eq!(told.learn(loss, Epoch(2)), Ok(true));
        }
        assert_eq!(told, losses);
    }

    /// Losses in epochs from 2 to 29, each of so many members since all was whole last.
    fn many(failures: u32) -> Losses {
        let mut losses = Losses::default();
        for epoch in 2..30 {
            assert_eq!(losses.note(&view(epoch - 1, &[1, 2], 0), &view(epoch, &[1], failures)), Ok(()));
        }
        assert_eq!(losses.of.len(), LOSSES_REMEMBERED);
        losses
    }

    #[test]
    fn what_is_not_remembered_one_by_one_is_in_doubt_where_it_was_not_covered() {
        let losses = many(2);
        for (set, until) in [(PLAIN, 13), (SAFE, 13), (PLAIN.with_replicas(2), 0)] {
            assert_eq!(losses.forgotten[set.replicas()], Epoch(until));
            let doubt = |born| losses.doubt(set, ShardIndex(0), Epoch(born), None);
            assert_eq!(doubt(0) == Doubt::Old, until > 0, "{until}");
            assert_eq!(losses.has_bare(set, Epoch(0), Epoch(2)), until > 0);
            assert_eq!(doubt(29), Doubt::None);
        }
    }

    #[test]
    fn covered_losses_are_forgotten_without_a_doubt_however_many_there_were() {
        let losses = many(1);
        for at in (0..SHARDS_PER_SET).map(ShardIndex) {
            assert_eq!(losses.doubt(SAFE, at, Epoch(0), None), Doubt::None);
            assert_eq!(losses.doubt(PLAIN, at, Epoch(0), None), Doubt::Old);
        }
        assert!(!losses.has_bare(SAFE, Epoch(0), Epoch(30)) && losses.has_bare(PLAIN, Epoch(0), Epoch(2)));
    }

    #[test]
    fn who_is_told_of_what_is_forgotten_knows_the_same() {
        for failures in 1..10 {
            let mut losses = many(failures);
            // Later ones that more replicas cover.
            for epoch in 30..50 {
                assert_eq!(losses.note(&view(epoch - 1, &[1, 2], 0), &view(epoch, &[1], 1)), Ok(()));
            }
            let mut told = Losses::default();
            for message in losses.told().unwrap() {
                let Message::Loss(loss) = message else { panic!("{message:?}") };
                assert_eq!(told.learn(loss, Epoch(49)), Ok(true));
            }
            assert_eq!(told, losses, "{failures}");
        }
    }

    #[test]
    fn a_loss_with_no_homes_to_count_on_is_covered_by_nothing() {
        let mut losses = Losses::default();
        let loss = Loss { epoch: Epoch(7), failures: 1, forgotten: true, ..Loss::default() };
        assert_eq!(losses.learn(loss, Epoch(7)), Ok(true));
        assert_eq!(losses.forgotten, [Epoch(7); MOST_REPLICAS + 1]);
    }
}
