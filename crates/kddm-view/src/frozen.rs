//! Sets that members have frozen: nobody writes an object of them. It is in the state, so that whoever comes in knows it
//! before it has anything, and so that it ends in the same step as its member.

use kddm_core::id::{Incarnation, NodeId, SetId};
use serde::{Deserialize, Serialize};

use crate::change::{MalformedChange, check_node};
use crate::state::{Refused, State};

/// Freezes that are in force at one time, of all members: backups of a few sets each, and the state stays small.
pub const FREEZES: usize = 64;

/// One freeze, and whose it is.
///
/// ```
/// use kddm_core::id::{Incarnation, NodeId};
/// use kddm_view::{Change, Frozen};
///
/// let freeze = Change::Freeze(Frozen { set: 16, node: NodeId(3), incarnation: Incarnation(5), number: 1 });
/// assert_eq!(Change::decode(&freeze.encode()?)?, freeze);
/// # Ok::<(), kddm_view::MalformedChange>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Frozen {
    /// The number of the set.
    pub set: u64,
    /// The member that has frozen it.
    pub node: NodeId,
    /// Its life: the freeze ends with it.
    pub incarnation: Incarnation,
    /// Tells its freezes from each other.
    pub number: u64,
}

impl Frozen {
    /// Whether this can be meant at all.
    pub(crate) fn check(&self) -> Result<(), MalformedChange> {
        if SetId(self.set).counter() < SetId::FIRST_COUNTER {
            return Err(MalformedChange::SetOfTheSystem { set: self.set });
        }
        check_node(self.node)
    }
}

/// The layout of [`Frozen`], in changes and in states.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct WireFrozen {
    set: u64,
    node: u16,
    incarnation: u32,
    number: u64,
}

impl From<&Frozen> for WireFrozen {
    fn from(frozen: &Frozen) -> WireFrozen {
        let Frozen { set, node, incarnation, number } = *frozen;
        WireFrozen { set, node: node.0, incarnation: incarnation.0, number }
    }
}

impl From<WireFrozen> for Frozen {
    fn from(wire: WireFrozen) -> Frozen {
        let WireFrozen { set, node, incarnation, number } = wire;
        Frozen { set, node: NodeId(node), incarnation: Incarnation(incarnation), number }
    }
}

impl State {
    /// The freezes that are in force, in the order in which they began.
    pub fn frozen(&self) -> &[Frozen] {
        &self.frozen
    }

    /// There is no other view after it.
    pub(crate) fn freeze(&mut self, frozen: Frozen) -> Result<bool, Refused> {
        let Frozen { node, incarnation, .. } = frozen;
        let is_member = self.member(node).is_some_and(|entry| entry.incarnation == incarnation);
        if !is_member {
            return Err(Refused::NotAMember { node, incarnation });
        }
        if self.frozen.contains(&frozen) {
            return Ok(false);
        }
        if self.frozen.len() >= FREEZES {
            return Err(Refused::TooManyFreezes);
        }
        self.frozen.push(frozen);
        Ok(false)
    }

    /// Nor after that.
    pub(crate) fn thaw(&mut self, frozen: &Frozen) -> Result<bool, Refused> {
        self.frozen.retain(|other| other != frozen);
        Ok(false)
    }

    /// What a member that is one no more had frozen is free.
    pub(crate) fn forget_freezes(&mut self, node: NodeId) {
        self.frozen.retain(|frozen| frozen.node != node);
    }

    /// Whether those freezes can be in force, in bytes that somebody else wrote.
    pub(crate) fn may_be_frozen(&self) -> bool {
        let is_member =
            |frozen: &Frozen| self.member(frozen.node).is_some_and(|entry| entry.incarnation == frozen.incarnation);
        let comes_twice = |(at, frozen): (usize, &Frozen)| self.frozen[..at].contains(frozen);
        self.frozen.len() <= FREEZES
            && self.frozen.iter().all(|frozen| frozen.check().is_ok() && is_member(frozen))
            && !self.frozen.iter().enumerate().any(comes_twice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Cause, Change};
    use crate::identity::{ClusterId, Identity, SessionId};
    use crate::log::Decided;
    use crate::state::Outcome;
    use crate::state_bytes::MalformedState;

    fn decide(state: &mut State, change: Change) -> Outcome {
        state.apply(&Decided { index: state.applied() + 1, change }).expect("it follows")
    }

    /// Three members.
    fn cluster() -> State {
        let mut state = State::new(Identity { cluster: ClusterId(1), session: SessionId::DEFAULT }, NodeId(1));
        for nonce in 1..=3 {
            let join = Change::Join { node: None, address: "a:1".into(), nonce, site: Default::default() };
            assert_eq!(decide(&mut state, join), Outcome::Changed);
        }
        state
    }

    fn frozen(state: &State, node: u16, set: u64, number: u64) -> Frozen {
        let incarnation = state.member(NodeId(node)).expect("a member").incarnation;
        Frozen { set, node: NodeId(node), incarnation, number }
    }

    #[test]
    fn a_set_is_frozen_until_all_have_thawed_it_and_the_view_stays() {
        let mut state = cluster();
        let view = state.view();
        let (one, two) = (frozen(&state, 2, 16, 1), frozen(&state, 3, 16, 1));
        for freeze in [one, two, one] {
            assert_eq!(decide(&mut state, Change::Freeze(freeze)), Outcome::Unchanged);
        }
        assert_eq!(state.frozen(), [one, two]);
        decide(&mut state, Change::Thaw(one));
        decide(&mut state, Change::Thaw(one));
        assert_eq!(state.frozen(), [two]);
        assert_eq!(state.view(), view);
    }

    #[test]
    fn a_freeze_ends_with_the_life_that_has_it() {
        for how in [0, 1] {
            let mut state = cluster();
            let (gone, stays) = (frozen(&state, 2, 16, 1), frozen(&state, 3, 17, 9));
            for freeze in [gone, stays] {
                decide(&mut state, Change::Freeze(freeze));
            }
            let Frozen { node, incarnation, .. } = gone;
            let end = match how {
                0 => Change::Leave { node, incarnation },
                _ => Change::Expel { node, incarnation, cause: Cause::Lease },
            };
            assert_eq!(decide(&mut state, end), Outcome::Changed);
            assert_eq!(state.frozen(), [stays]);
            // A proposal of that life that comes late.
            let late = decide(&mut state, Change::Freeze(gone));
            assert_eq!(late, Outcome::Refused(Refused::NotAMember { node, incarnation }));
        }
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let mut state = cluster();
        for number in 0..FREEZES as u64 {
            let freeze = frozen(&state, 2, 16, number);
            decide(&mut state, Change::Freeze(freeze));
        }
        let one_more = Change::Freeze(frozen(&state, 3, 16, 0));
        assert_eq!(decide(&mut state, one_more), Outcome::Refused(Refused::TooManyFreezes));
        assert_eq!(state.frozen().len(), FREEZES);
        assert_eq!(State::decode(&state.encode()), Ok(state));
    }

    #[test]
    fn it_is_known_to_who_takes_the_whole_state_and_what_cannot_be_is_refused() {
        let mut state = cluster();
        let bytes_of_none = state.encode();
        let freeze = frozen(&state, 2, u64::MAX, u64::MAX);
        decide(&mut state, Change::Freeze(freeze));
        assert_eq!(State::decode(&state.encode()), Ok(state.clone()));
        decide(&mut state, Change::Thaw(freeze));
        assert_eq!(state.encode()[0], bytes_of_none[0], "without a freeze its bytes are those of before");
        let broken = |change: &dyn Fn(&mut State)| {
            let mut state = cluster();
            change(&mut state);
            State::decode(&state.encode()).map(|_| ())
        };
        let impossible = Err(MalformedState::Impossible { what: "its freezes" });
        assert_eq!(broken(&|state| state.frozen = vec![freeze, freeze]), impossible);
        let other_life = Frozen { incarnation: Incarnation(freeze.incarnation.0 + 1), ..freeze };
        assert_eq!(broken(&|state| state.frozen = vec![other_life]), impossible);
        let many = |state: &mut State| {
            state.frozen = (0..=FREEZES as u64).map(|number| Frozen { number, ..freeze }).collect();
        };
        assert_eq!(broken(&many), impossible);
        assert_eq!(Change::Freeze(Frozen { node: NodeId(0), ..freeze }).encode(), Err(MalformedChange::Nobody));
        for set in [0, SetId::FIRST_COUNTER - 1] {
            let own = Frozen { set, ..freeze };
            assert_eq!(Change::Freeze(own).encode(), Err(MalformedChange::SetOfTheSystem { set }));
            assert_eq!(broken(&|state| state.frozen = vec![own]), impossible);
        }
    }
}
