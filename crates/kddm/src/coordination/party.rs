//! Who takes part, and who does no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::{Error, MembershipError};
use crate::node::{Node, NodeState};
use crate::notifier::{Chain, Priority};

/// Who takes part in a barrier or a latch: one life of a node, or one program that is attached to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Party {
    /// The number of the node.
    pub node: u16,
    /// Its life.
    pub incarnation: u32,
    /// The number of the program's attachment, if it is one.
    pub program: Option<u32>,
}

impl Party {
    /// Whoever has that handle.
    pub(super) fn of(node: &Node) -> Party {
        let program = node.runtime().lender.as_ref().map(|lender| lender.session());
        Party { node: node.id(), incarnation: node.incarnation(), program }
    }
}

/// How far a life of a node has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    /// It is online, and has not been seen to share objects.
    NotYet,
    Shares,
    /// It is online, and shares objects no more.
    NoMore,
}

/// Which lives there are, as far as this process has been told.
#[derive(Clone, Default, Debug)]
pub(crate) struct Lives {
    members: BTreeMap<(u16, u32), Level>,
    /// The latest life that was ever told of. Lives are numbered one after the other: of a later one nothing is known.
    newest: u32,
    /// Programs whose attachments have ended.
    ended: BTreeSet<Party>,
}

impl Lives {
    /// A life has entered a state; what it has left says whether it comes or goes.
    pub fn note(&mut self, node: u16, incarnation: u32, left: NodeState, entered: NodeState) {
        self.newest = self.newest.max(incarnation);
        let level = match entered {
            NodeState::Possible => Level::Shares,
            NodeState::Online if left == NodeState::Possible => Level::NoMore,
            NodeState::Online => Level::NotYet,
            NodeState::Offline => {
                self.members.remove(&(node, incarnation));
                return;
            }
        };
        self.members.insert((node, incarnation), level);
    }

    /// The same with these programs gone.
    pub fn without(&self, ended: impl IntoIterator<Item = Party>) -> Lives {
        let mut lives = self.clone();
        lives.ended.extend(ended);
        lives
    }

    /// Whether a party can take part no more. One of a life that this process has not heard of yet can.
    pub fn is_gone(&self, party: &Party) -> bool {
        match self.members.get(&(party.node, party.incarnation)) {
            None => party.incarnation <= self.newest,
            Some(Level::NoMore) => true,
            Some(_) => self.ended.contains(party),
        }
    }

    /// Whether a party is of a life that this process has not heard of yet.
    pub fn is_news(&self, party: &Party) -> bool {
        party.incarnation > self.newest
    }

    /// The lives of nodes that share objects.
    pub fn sharing(&self) -> impl Iterator<Item = (u16, u32)> + '_ {
        self.members.iter().filter(|(_, level)| **level == Level::Shares).map(|(life, _)| *life)
    }
}

/// The lives that a process knows of, kept up to date by notifiers.
pub(crate) type LivesHere = Arc<Mutex<Lives>>;

/// What a node, or a program, keeps for barriers, latches and ids.
#[derive(Default)]
pub(crate) struct Here {
    lives: Mutex<Option<LivesHere>>,
    pub(super) blocks: Mutex<BTreeMap<String, Arc<super::ids::Block>>>,
    pub(crate) names: super::names::NamesHere,
}

impl Node {
    /// The lives that this process knows of. Blocks in a program that is attached.
    pub(super) fn lives(&self) -> Result<LivesHere, Error> {
        let mut kept = self.runtime().coordination.lives.lock();
        if let Some(lives) = &*kept {
            return Ok(Arc::clone(lives));
        }
        let lives = LivesHere::default();
        for chain in [Chain::Online, Chain::Possible] {
            let (lives, runtime) = (Arc::clone(&lives), Arc::downgrade(self.runtime()));
            self.notifier(chain, Priority::NAMES, "kddm.coordination", move |event| {
                lives.lock().note(event.node, event.incarnation, event.from, event.to);
                if let Some(runtime) = runtime.upgrade() {
                    runtime.tell_watchers_of_members();
                    if event.from == NodeState::Possible {
                        runtime.coordination.names.sweep_soon();
                    }
                }
            })?;
        }
        // What they tell from now on is later than this, or is in it already and comes to the same.
        let mut known = lives.lock();
        let members = self.members();
        if members.is_empty() {
            return Err(MembershipError::Stopped.into());
        }
        for member in members {
            known.note(member.id, member.incarnation, NodeState::Offline, member.state);
        }
        drop(known);
        *kept = Some(Arc::clone(&lives));
        Ok(lives)
    }
}

/// Nodes in their first lives, for the tests of what they share.
#[cfg(test)]
pub(super) mod first_lives {
    use super::{Lives, Party};
    use crate::node::NodeState;

    pub fn party(node: u16) -> Party {
        Party { node, incarnation: 1, program: None }
    }

    /// These share objects.
    pub fn lives(nodes: &[u16]) -> Lives {
        let mut lives = Lives::default();
        for node in nodes {
            lives.note(*node, 1, NodeState::Offline, NodeState::Possible);
        }
        lives
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(node: u16, incarnation: u32) -> Party {
        Party { node, incarnation, program: None }
    }

    #[test]
    fn who_is_gone_is_told_from_who_is_not_known_yet() {
        let (offline, online, possible) = (NodeState::Offline, NodeState::Online, NodeState::Possible);
        let mut lives = Lives::default();
        lives.note(1, 1, offline, possible);
        lives.note(2, 3, offline, online);
        assert!(!lives.is_gone(&party(1, 1)) && !lives.is_gone(&party(2, 3)));
        assert!(lives.is_gone(&party(2, 2)), "a life before");
        assert!(!lives.is_gone(&party(3, 4)) && lives.is_news(&party(3, 4)), "one that is not known yet");
        lives.note(2, 3, online, possible);
        assert_eq!(lives.sharing().collect::<Vec<_>>(), [(1, 1), (2, 3)]);
        lives.note(2, 3, possible, online);
        assert!(lives.is_gone(&party(2, 3)), "it shares objects no more");
        lives.note(2, 3, online, possible);
        assert!(!lives.is_gone(&party(2, 3)));
        lives.note(2, 3, possible, online);
        lives.note(2, 3, online, offline);
        assert!(lives.is_gone(&party(2, 3)));
        assert_eq!(lives.sharing().collect::<Vec<_>>(), [(1, 1)]);
    }

    #[test]
    fn a_program_ends_before_its_node() {
        let mut lives = Lives::default();
        lives.note(1, 1, NodeState::Offline, NodeState::Possible);
        let program = Party { program: Some(7), ..party(1, 1) };
        let after = lives.without([program]);
        assert!(after.is_gone(&program) && !after.is_gone(&party(1, 1)) && !lives.is_gone(&program));
    }
}
