//! Which lives the members are in: a number may be that of a later one.

use alloc::vec::Vec;

use crate::id::{Epoch, Incarnation, NodeId};
use crate::io::NoMemory;
use crate::view::{Member, View};

/// A member, and the epoch in which this node first saw it in that life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Life {
    node: NodeId,
    incarnation: Incarnation,
    since: Epoch,
}

/// The lives of all members, by ascending id.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Lives(Vec<Life>);

impl Lives {
    /// Takes in the view that is installed next. On `NoMemory` nothing has changed.
    pub fn note(&mut self, view: &View) -> Result<(), NoMemory> {
        // What a node has before it knows of any member names none of them.
        let since = if self.0.is_empty() { Epoch(0) } else { view.epoch };
        let mut lives = Vec::new();
        lives.try_reserve_exact(view.members.len()).map_err(|_| NoMemory)?;
        lives.extend(view.members.iter().map(|Member { id, incarnation, .. }| {
            let is_it = |life: &&Life| life.node == *id && life.incarnation == *incarnation;
            let known = self.0.iter().find(is_it).map(|life| life.since);
            Life { node: *id, incarnation: *incarnation, since: known.unwrap_or(since) }
        }));
        self.0 = lives;
        Ok(())
    }

    /// The members whom nothing can name that is still in that epoch: they came later.
    pub fn since(&self, entered: Epoch, into: &mut Vec<NodeId>) -> Result<(), NoMemory> {
        into.clear();
        for life in self.0.iter().filter(|life| life.since > entered) {
            into.try_reserve(1).map_err(|_| NoMemory)?;
            into.push(life.node);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(epoch: u32, lives: &[(u16, u32)]) -> View {
        let member =
            |(id, life): &(u16, u32)| Member { id: NodeId(*id), incarnation: Incarnation(*life), ..Member::default() };
        View { epoch: Epoch(epoch), members: lives.iter().map(member).collect(), ..View::default() }
    }

    #[test]
    fn a_later_life_is_another_node() {
        let mut lives = Lives::default();
        let mut newcomers = Vec::new();
        let mut since = |lives: &Lives, epoch| {
            assert_eq!(lives.since(Epoch(epoch), &mut newcomers), Ok(()));
            newcomers.clone()
        };
        assert_eq!(lives.note(&view(3, &[(1, 1), (2, 2)])), Ok(()));
        assert!(since(&lives, 0).is_empty(), "they were there before this node");
        assert_eq!(lives.note(&view(4, &[(1, 1)])), Ok(()));
        assert_eq!(lives.note(&view(4, &[(1, 1), (2, 5)])), Ok(()));
        assert_eq!(since(&lives, 3), [NodeId(2)], "what is still in epoch 3 may name the former life");
        assert!(since(&lives, 4).is_empty(), "what is in epoch 4 named it nowhere any more");
        assert_eq!(lives.note(&view(6, &[(1, 7), (2, 5)])), Ok(()));
        assert_eq!(
            (since(&lives, 4), since(&lives, 6)),
            (Vec::from([NodeId(1)]), Vec::new()),
            "no view is needed in between"
        );
    }
}
