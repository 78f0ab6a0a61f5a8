//! Where a watch has come to.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use kddm_core::view::View;

/// Members that a position names at most: four times as many as clusters are made for.
const MOST_SOURCES: usize = 4096;

/// A life of a member, and how far it was heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Heard {
    pub incarnation: u32,
    /// All that it had to tell up to this number.
    pub upto: u64,
}

/// Which members there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Membership {
    pub epoch: u32,
    pub placement: u32,
    /// The members and their lives, by number.
    pub members: Vec<(u16, u32)>,
}

impl Membership {
    pub fn of(view: &View) -> Membership {
        let members = view.members.iter().map(|member| (member.id.0, member.incarnation.0)).collect();
        Membership { epoch: view.epoch.0, placement: view.placement.0, members }
    }

    /// Whether nobody can have been a member between the two that is in neither of them.
    pub fn follows(&self, before: &Membership) -> bool {
        let steps = |now: u32, then: u32| now.checked_sub(then);
        let epochs = steps(self.epoch, before.epoch);
        let placements = steps(self.placement, before.placement);
        let is_next = epochs.zip(placements).is_some_and(|(epochs, placements)| epochs <= 1 && placements <= 1);
        is_next && self.members == before.members
    }
}

/// Where a watch has come to, from [`WatchAll::position`](super::WatchAll::position). One that is begun there tells what has changed
/// since, at whatever node, or says that something may be missing. As text it can be kept.
///
/// ```
/// let kept = "2305843009213693952:1.4:1.1.17,2.3.5";
/// let position: kddm::Position = kept.parse().expect("the set, the view, and of each member its life and a number");
/// assert_eq!(position.to_string(), kept);
/// assert!("yesterday".parse::<kddm::Position>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    pub(super) set: u64,
    pub(super) epoch: u32,
    pub(super) placement: u32,
    pub(super) sources: BTreeMap<u16, Heard>,
}

impl Position {
    pub(super) fn begin(set: u64) -> Position {
        Position { set, epoch: 0, placement: 0, sources: BTreeMap::new() }
    }

    /// Whether it says of that member how far it was heard.
    pub(crate) fn names(&self, node: u16) -> bool {
        self.sources.contains_key(&node)
    }

    pub(super) fn membership(&self) -> Membership {
        let members = self.sources.iter().map(|(node, heard)| (*node, heard.incarnation)).collect();
        Membership { epoch: self.epoch, placement: self.placement, members }
    }

    pub(super) fn apply(&mut self, mark: Mark) {
        match mark {
            Mark::Source(node, heard) => _ = self.sources.insert(node, heard),
            Mark::Members(now) => {
                (self.epoch, self.placement) = (now.epoch, now.placement);
                self.sources.retain(|node, heard| now.members.contains(&(*node, heard.incarnation)));
            }
            Mark::All(position) => *self = position,
        }
    }
}

/// How a position goes on when what stands before it was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    /// A member was heard so far.
    Source(u16, Heard),
    /// All of these are heard.
    Members(Membership),
    /// By the node of a program.
    All(Position),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}.{}:", self.set, self.epoch, self.placement)?;
        for (index, (node, heard)) in self.sources.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{node}.{}.{}", heard.incarnation, heard.upto)?;
        }
        Ok(())
    }
}

/// That is no [`Position`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a position of a watch is what an event has said of it, as in 2305843009213693952:1.4:1.1.17,2.3.5")]
pub struct BadPosition;

impl FromStr for Position {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Position, BadPosition> {
        fn number<N: FromStr>(text: &str) -> Result<N, BadPosition> {
            let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| is_plain).ok_or(BadPosition)
        }
        let (set, rest) = text.split_once(':').ok_or(BadPosition)?;
        let (view, heard) = rest.split_once(':').ok_or(BadPosition)?;
        let (epoch, placement) = view.split_once('.').ok_or(BadPosition)?;
        let mut position = Position::begin(number(set)?);
        (position.epoch, position.placement) = (number(epoch)?, number(placement)?);
        for source in heard.split(',').filter(|_| !heard.is_empty()) {
            let (node, rest) = source.split_once('.').ok_or(BadPosition)?;
            let (incarnation, upto) = rest.split_once('.').ok_or(BadPosition)?;
            let (node, heard) = (number(node)?, Heard { incarnation: number(incarnation)?, upto: number(upto)? });
            let is_first = position.sources.insert(node, heard).is_none();
            if node == 0 || !is_first || position.sources.len() > MOST_SOURCES {
                return Err(BadPosition);
            }
        }
        Ok(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_position_is_refused() {
        for good in ["7:1.2:", "7:1.2:1.1.0", "7:1.2:1.1.5,9.4.18446744073709551615"] {
            assert_eq!(good.parse::<Position>().expect(good).to_string(), good);
        }
        let many: Vec<String> = (1..5000).map(|node| format!("{node}.1.1")).collect();
        let many = format!("7:1.2:{}", many.join(","));
        let bad =
            ["", ":", "7", "7:1.2", "7:1:", "x:1.2:", "7:1.2:1", "7:1.2:1.1", "7:1.2:0.1.1", "7:1.2:1.1.1,", &many];
        for bad in bad.into_iter().chain(["7:1.2:1.1.1,1.1.2", "7:1.2:99999.1.1", "7:1.2:+1.1.1", "-7:1.2:"]) {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }

    #[test]
    fn who_may_have_come_and_gone_unseen_is_known() {
        let at = |epoch, placement, members: &[(u16, u32)]| Membership { epoch, placement, members: members.to_vec() };
        let before = at(3, 7, &[(1, 1), (2, 1)]);
        for (now, follows) in [
            (at(3, 7, &[(1, 1), (2, 1)]), true),
            (at(3, 8, &[(1, 1), (2, 1)]), true),
            (at(3, 9, &[(1, 1), (2, 1)]), false),
            (at(4, 8, &[(1, 1), (2, 2)]), false),
            (at(3, 8, &[(1, 1), (2, 1), (3, 1)]), false),
            (at(2, 7, &[(1, 1), (2, 1)]), false),
        ] {
            assert_eq!(now.follows(&before), follows, "{now:?}");
        }
    }
}
