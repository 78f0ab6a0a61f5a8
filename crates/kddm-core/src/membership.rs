//! From one view to the next in single steps, and the order in which notifiers hear of them.
//!
//! Pure ordering: the callbacks themselves live with the home. Two rules hold on every node:
//!
//! * A node goes through its states one level at a time, offline, online, possible and back the
//!   same way, also when it vanishes at once. All removals of a view come before its additions.
//! * Notifiers hear of an addition in ascending rank, and of a removal in exactly the reverse
//!   order, so that what was built last is taken down first.

use alloc::vec::Vec;

use crate::id::NodeId;
use crate::io::NoMemory;
use crate::view::{Member, NodeState, View};

/// Whether a node gains a level or loses one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// Offline to online, or online to possible.
    Add,
    /// Possible to online, or online to offline.
    Remove,
}

/// One node changes its state by one level.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Step {
    /// The node.
    pub node: NodeId,
    /// The state that it leaves.
    pub from: NodeState,
    /// The state that it enters: one level above or below `from`.
    pub to: NodeState,
}

impl Step {
    /// Whether the node gains a level or loses one.
    pub fn direction(self) -> Direction {
        if self.to > self.from { Direction::Add } else { Direction::Remove }
    }
}

/// The steps that lead from `old` to `new`: removals first, then additions, each by ascending node
/// id and, for one node, level by level.
///
/// A node that is in both views with another incarnation has died and come back: it goes all the
/// way down, and then up again.
pub fn steps(old: &View, new: &View) -> Result<Vec<Step>, NoMemory> {
    let mut steps = Vec::new();
    let members = old.members.len().saturating_add(new.members.len());
    steps.try_reserve(members.saturating_mul(LEVELS)).map_err(|_| NoMemory)?;
    for member in &old.members {
        let end = state_of_life(new, member);
        let mut at = member.state;
        while at > end {
            let to = below(at);
            steps.push(Step { node: member.id, from: at, to });
            at = to;
        }
    }
    for member in &new.members {
        let mut at = state_of_life(old, member);
        while at < member.state {
            let to = above(at);
            steps.push(Step { node: member.id, from: at, to });
            at = to;
        }
    }
    Ok(steps)
}

/// Steps between the lowest and the highest state.
const LEVELS: usize = 2;

/// The state in which `view` has this very life of the node.
fn state_of_life(view: &View, life: &Member) -> NodeState {
    match view.member(life.id) {
        Some(member) if member.incarnation == life.incarnation => member.state,
        _ => NodeState::Offline,
    }
}

fn below(state: NodeState) -> NodeState {
    match state {
        NodeState::Possible => NodeState::Online,
        NodeState::Online | NodeState::Offline => NodeState::Offline,
    }
}

fn above(state: NodeState) -> NodeState {
    match state {
        NodeState::Offline => NodeState::Online,
        NodeState::Online | NodeState::Possible => NodeState::Possible,
    }
}

/// When a notifier runs among the others: on an addition the lowest number first, on a removal the
/// highest. This is the one place where the order of the system's own parts is laid down.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Priority(pub u16);

impl Priority {
    /// Connections: nothing else can reach a new node before they stand.
    pub const LINK: Priority = Priority(100);
    /// Remote procedure calls, which need connections.
    pub const RPC: Priority = Priority(200);
    /// The shards and their homes, which need connections and say who answers for an object.
    pub const SHARDS: Priority = Priority(300);
    /// Sets and their linkers, which need shards.
    pub const SETS: Priority = Priority(400);
    /// The name service, which keeps its names in sets.
    pub const NAMES: Priority = Priority(500);
    /// The lock manager, which keeps its locks in sets under names.
    pub const LOCKS: Priority = Priority(600);
    /// Applications: they find all of the system in place, and leave before any of it is taken down.
    pub const APPLICATION: Priority = Priority(1000);
}

/// The place of one notifier in the chains. Equal priorities run in the order of registration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rank {
    /// What it needs to be in place.
    pub priority: Priority,
    /// Counts registrations, so that no two ranks are equal.
    pub registration: u64,
}

/// The add chain and the remove chain: one list of ranks, read forwards and backwards.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NotifierChains(Vec<Rank>);

impl NotifierChains {
    /// No notifier; allocates nothing.
    pub const fn new() -> NotifierChains {
        NotifierChains(Vec::new())
    }

    /// Adds a notifier to both chains. False if that rank is in already.
    pub fn insert(&mut self, rank: Rank) -> Result<bool, NoMemory> {
        match self.0.binary_search(&rank) {
            Ok(_) => Ok(false),
            Err(at) => {
                self.0.try_reserve(1).map_err(|_| NoMemory)?;
                self.0.insert(at, rank);
                Ok(true)
            }
        }
    }

    /// Takes a notifier out of both chains; says whether it was in.
    pub fn remove(&mut self, rank: Rank) -> bool {
        match self.0.binary_search(&rank) {
            Ok(at) => {
                self.0.remove(at);
                true
            }
            Err(_) => false,
        }
    }

    /// The notifiers in the order in which they hear of a step of that direction.
    pub fn order(&self, direction: Direction) -> impl Iterator<Item = Rank> + '_ {
        let last = self.0.len().saturating_sub(1);
        (0..self.0.len()).filter_map(move |at| {
            let at = match direction {
                Direction::Add => at,
                Direction::Remove => last - at,
            };
            self.0.get(at).copied()
        })
    }

    /// How many notifiers.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::NodeState::{Offline, Online, Possible};
    use super::*;
    use crate::id::Incarnation;

    fn view(members: &[(u16, u32, NodeState)]) -> View {
        let members = members
            .iter()
            .map(|&(id, life, state)| Member {
                id: NodeId(id),
                incarnation: Incarnation(life),
                state,
                ..Member::default()
            })
            .collect();
        View { members, ..View::default() }
    }

    fn plain(old: &View, new: &View) -> Vec<(u16, NodeState, NodeState)> {
        steps(old, new).unwrap().into_iter().map(|step| (step.node.0, step.from, step.to)).collect()
    }

    #[test]
    fn a_joiner_comes_up_level_by_level() {
        let got = plain(&view(&[]), &view(&[(4, 1, Possible)]));
        assert_eq!(got, vec![(4, Offline, Online), (4, Online, Possible)]);
    }

    #[test]
    fn a_node_that_vanishes_at_once_goes_down_level_by_level() {
        let got = plain(&view(&[(4, 1, Possible)]), &view(&[]));
        assert_eq!(got, vec![(4, Possible, Online), (4, Online, Offline)]);
    }

    #[test]
    fn removals_come_before_additions_and_ids_ascend() {
        let old = view(&[(2, 1, Online), (5, 2, Possible), (7, 3, Possible)]);
        let new = view(&[(1, 4, Online), (2, 1, Possible), (7, 3, Online)]);
        let expected = vec![
            (5, Possible, Online),
            (5, Online, Offline),
            (7, Possible, Online),
            (1, Offline, Online),
            (2, Online, Possible),
        ];
        assert_eq!(plain(&old, &new), expected);
    }

    #[test]
    fn another_incarnation_goes_all_the_way_down_and_up() {
        let got = plain(&view(&[(3, 1, Possible)]), &view(&[(3, 2, Online)]));
        assert_eq!(got, vec![(3, Possible, Online), (3, Online, Offline), (3, Offline, Online)]);
    }

    #[test]
    fn equal_views_give_no_step() {
        let same = view(&[(1, 1, Online), (2, 2, Possible)]);
        assert_eq!(plain(&same, &same), vec![]);
    }

    #[test]
    fn the_remove_chain_is_the_exact_reverse_of_the_add_chain() {
        let rank = |priority, registration| Rank { priority, registration };
        let mut chains = NotifierChains::new();
        for added in [
            rank(Priority::APPLICATION, 0),
            rank(Priority::LINK, 1),
            rank(Priority::APPLICATION, 2),
            rank(Priority::SETS, 3),
        ] {
            assert_eq!(chains.insert(added), Ok(true));
        }
        let order = |chains: &NotifierChains, direction| -> Vec<u64> {
            chains.order(direction).map(|rank| rank.registration).collect()
        };
        assert_eq!(order(&chains, Direction::Add), vec![1, 3, 0, 2]);
        assert_eq!(order(&chains, Direction::Remove), vec![2, 0, 3, 1]);
        assert!(chains.remove(rank(Priority::SETS, 3)));
        assert!(!chains.remove(rank(Priority::SETS, 3)));
        assert_eq!(order(&chains, Direction::Remove), vec![2, 0, 1]);
        assert_eq!(NotifierChains::new().order(Direction::Remove).count(), 0);
    }
}
