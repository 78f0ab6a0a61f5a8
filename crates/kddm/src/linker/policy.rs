//! When what is put goes to what stands behind the set.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When what is put goes to what stands behind the set. The same on all nodes; compared with an existing set only if given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WritePolicy {
    /// Before anybody sees it: a put is done when it is kept there, and not done if it is not.
    #[default]
    Through,
    /// Later: a put is published at once, and its value is written within about `lag`; of several puts of an object the last.
    /// So many `bytes` may wait on one node; beyond them, or when the oldest is overdue by as much as a method may take, puts
    /// fail with [`Behind`](super::LinkerError::Behind). [`Set::sync`](crate::Set::sync) waits for what this node has put.
    /// What waits on a node that dies is written with the next put of the object only.
    Behind {
        /// How long a value may wait: at most an hour.
        lag: Duration,
        /// How many encoded bytes may wait on one node: at least 1.
        bytes: usize,
    },
    /// Never: the linker is only asked for first values, and a removed object has its first touch there again.
    Around,
}

/// The longest lag: whoever wants to lose more does not want it written.
const MOST_LAG: Duration = Duration::from_secs(3600);

impl WritePolicy {
    /// [`Behind`](WritePolicy::Behind) by a second, with up to 64 MiB.
    ///
    /// ```
    /// assert_eq!(kddm::linker::WritePolicy::behind().word(), "behind");
    /// ```
    pub fn behind() -> WritePolicy {
        WritePolicy::Behind { lag: Duration::from_secs(1), bytes: 64 << 20 }
    }

    /// What is wrong with it.
    pub(crate) fn check(self) -> Result<(), &'static str> {
        match self {
            WritePolicy::Behind { bytes: 0, .. } => Err("the bytes that may wait are at least 1"),
            WritePolicy::Behind { lag, .. } if lag > MOST_LAG => Err("the lag is at most an hour"),
            _ => Ok(()),
        }
    }

    /// The word for it, in text and JSON.
    ///
    /// ```
    /// assert_eq!(kddm::linker::WritePolicy::Through.word(), "through");
    /// ```
    pub fn word(self) -> &'static str {
        match self {
            WritePolicy::Through => "through",
            WritePolicy::Behind { .. } => "behind",
            WritePolicy::Around => "around",
        }
    }
}

/// What the cluster remembers of the linker of a set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct LinkerOf {
    pub name: String,
    pub policy: WritePolicy,
    /// What it answered when the set was made, see [`Store::claim`](super::Store::claim).
    pub term: u64,
}

/// How long a method of a linker may take, unless the set says otherwise: longer than a disk that is busy, shorter than the
/// wait of whoever waits for it.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(5);
