//! The losses of members that a node knows of: whether objects may exist that no directory names.
//!
//! A shard whose home was lost with its directory is **in doubt** if its set has too few replicas for what
//! was lost. All members can tell that of every shard, touched or not, from the homes before and after; who
//! joins later is told of these losses before it answers for any shard.

use alloc::vec::Vec;

use crate::id::{Epoch, NodeId, SetId, ShardIndex};
use crate::io::NoMemory;
use crate::message::{Loss, Message};
use crate::nodeset::NodeSet;
use crate::view::View;

/// Losses that a node remembers one by one. Of those before it knows the last epoch only.
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
    /// There were others, up to this epoch.
    forgotten: Epoch,
}

impl Losses {
    /// Notes that from these homes the step was to that view. While shards are on their way the homes of two
    /// views may have answered: then both are noted.
    pub fn note(&mut self, before: &View, after: &View) -> Result<(), NoMemory> {
        let before = View { homes: homes_of(before)?, ..View::default() };
        let View { epoch, placement, failures, fewest_homes, .. } = *after;
        let homes = homes_of(after)?;
        let change =
            Change { before, after: View { epoch, placement, members: Vec::new(), homes, failures, fewest_homes } };
        if self.of.contains(&change) {
            return Ok(());
        }
        self.of.try_reserve(1).map_err(|_| NoMemory)?;
        if self.of.len() >= LOSSES_REMEMBERED {
            let oldest = self.of.iter().map(|change| change.after.epoch).min().unwrap_or_default();
            self.of.retain(|change| change.after.epoch > oldest);
            self.forgotten = self.forgotten.max(oldest);
        }
        self.of.push(change);
        self.of.sort_by_key(|change| (change.after.epoch, change.after.placement));
        Ok(())
    }

    /// Another member tells of a loss. What it says of one that is yet to come here is a lie.
    pub fn learn(&mut self, loss: Loss, now: Epoch) -> Result<bool, NoMemory> {
        if loss.epoch > now || loss.failures == 0 {
            return Ok(false);
        }
        if loss.forgotten {
            self.forgotten = self.forgotten.max(loss.epoch);
            return Ok(true);
        }
        let Loss { epoch, placement, failures, fewest_homes, before, after, .. } = loss;
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
        told.try_reserve_exact(self.of.len() + 1).map_err(|_| NoMemory)?;
        for Change { before, after } in &self.of {
            let View { epoch, placement, failures, fewest_homes, .. } = *after;
            let (before, after) = (set_of(&before.homes)?, set_of(&after.homes)?);
            let forgotten = false;
            let loss = Loss { epoch, placement, failures, fewest_homes, before, after, forgotten };
            told.push(Message::Loss(loss));
        }
        if self.forgotten > Epoch(0) {
            let loss = Loss { epoch: self.forgotten, failures: 1, forgotten: true, ..Loss::default() };
            told.push(Message::Loss(loss));
        }
        Ok(told)
    }

    /// The doubt about a shard that was never touched since a loss that its home has lived through. `born`: the
    /// set is no older than that epoch, or what was lost of it until then is accepted. `now`: the epoch in
    /// which its members still say what they have.
    pub fn doubt(&self, set: SetId, at: ShardIndex, born: Epoch, now: Option<Epoch>) -> Doubt {
        if self.forgotten > born {
            return Doubt::Old;
        }
        let moved = self.of.iter().filter(|change| change.after.epoch > born && change.moves(set, at));
        let of_one = |change: &Change| {
            if change.is_bare(set) || self.has_bare(set, born, change.after.epoch) {
                Doubt::Old
            } else if now == Some(change.after.epoch) {
                Doubt::New
            } else {
                Doubt::None
            }
        };
        moved.map(of_one).max().unwrap_or_default()
    }

    /// Whether a loss before that epoch may have taken objects of the set with all their copies, and nobody has
    /// accepted that: a directory that is lost later may have said so.
    pub fn has_bare(&self, set: SetId, born: Epoch, until: Epoch) -> bool {
        let is_meant = |change: &Change| {
            let epoch = change.after.epoch;
            let is_older = epoch > born && epoch < until && change.before.homes != change.after.homes;
            is_older && change.is_bare(set)
        };
        self.forgotten > born || self.of.iter().any(is_meant)
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
    use alloc::vec;

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

    #[test]
    fn what_is_not_remembered_one_by_one_is_in_doubt() {
        let mut losses = Losses::default();
        for epoch in 2..30 {
            assert_eq!(losses.note(&view(epoch - 1, &[1, 2], 0), &view(epoch, &[1], 1)), Ok(()));
        }
        assert_eq!(losses.of.len(), LOSSES_REMEMBERED);
        assert_eq!(losses.doubt(SAFE, ShardIndex(0), Epoch(0), None), Doubt::Old);
        assert_eq!(losses.doubt(SAFE, ShardIndex(0), Epoch(29), None), Doubt::None);
        assert_eq!(losses.told().map(|told| told.len()), Ok(LOSSES_REMEMBERED + 1));
        assert_eq!(vec![losses.forgotten], [Epoch(13)]);
    }
}
