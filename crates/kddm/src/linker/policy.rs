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
    /// Never: the linker is only asked for first values, and a removed object has its first touch there again.
    Around,
}

impl WritePolicy {
    /// The word for it, in text and JSON.
    ///
    /// ```
    /// assert_eq!(kddm::linker::WritePolicy::Through.word(), "through");
    /// ```
    pub fn word(self) -> &'static str {
        match self {
            WritePolicy::Through => "through",
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
