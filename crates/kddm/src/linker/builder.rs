//! A set is opened with a linker.

use std::sync::Arc;
use std::time::Duration;

use super::policy::TIME_LIMIT;
use super::{Linker, LinkerError, WritePolicy};
use crate::system::SetBuilder;
use crate::value::Value;

/// How long a method of a linker may take, unless [`SetBuilder::linker_limit`] says otherwise.
pub const LINKER_LIMIT: Duration = TIME_LIMIT;

/// What a set is to be opened with.
pub(crate) struct Given<T: Value> {
    pub name: String,
    pub linker: Arc<dyn Linker<T>>,
}

/// Begins the term of a set that is made.
pub(crate) type Claim = Arc<dyn Fn() -> Result<u64, LinkerError> + Send + Sync>;

impl<T: Value> Given<T> {
    pub fn claim(&self) -> Claim {
        let linker = Arc::clone(&self.linker);
        Arc::new(move || linker.claim())
    }
}

impl<T: Value> SetBuilder<T> {
    /// What stands behind the objects of the set: any [`Store`](super::Store), or a [`Linker`] of your own. The name means
    /// the same on each node, and is kept with the set: whoever opens it without a linker of that name is told so, unless it
    /// was opened with one on this node before, which then stays.
    ///
    /// ```
    /// use kddm::linker::{Linker, LinkerError};
    /// struct Squares;
    /// impl Linker<u64> for Squares {
    ///     fn first_touch(&self, object: u64) -> Result<Option<u64>, LinkerError> {
    ///         Ok(object.checked_mul(object))
    ///     }
    /// }
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let squares: kddm::Set<u64> = nodes[0].set("squares").linker("squares", Squares).open().wait()?;
    /// let missing = nodes[1].set::<u64>("squares").open().wait().unwrap_err();
    /// assert!(missing.to_string().contains("linker"));
    /// let there: kddm::Set<u64> = nodes[1].set("squares").linker("squares", Squares).open().wait()?;
    /// assert_eq!(*there.get(9).wait()?, 81);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn linker(mut self, name: &str, linker: impl Linker<T>) -> SetBuilder<T> {
        self.linker = Some(Given { name: name.into(), linker: Arc::new(linker) });
        self
    }

    /// When what is put goes to the linker: [`WritePolicy::Through`] by default. Compared with an existing set only if given.
    pub fn write_policy(mut self, policy: WritePolicy) -> SetBuilder<T> {
        self.write_policy = Some(policy);
        self
    }

    /// How long a method of the linker may take on this node before its operation ends: [`LINKER_LIMIT`] by default. The
    /// first handle that names a linker decides.
    pub fn linker_limit(mut self, limit: Duration) -> SetBuilder<T> {
        self.linker_limit = Some(limit);
        self
    }

    /// The linker reads in microseconds, as one that keeps what it has in memory, or a database within this process: whoever
    /// wants an object reads it himself, on his own thread and before the call returns, instead of having a thread of the
    /// linker do so and be woken by it. The first handle on this node that names a linker decides. Writes are as before.
    ///
    /// *No limit ends such a read*: a method that hangs keeps its caller, also a task's thread. Not for what is behind a network.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let store = kddm::linker::Memory::default();
    /// let rows: kddm::Set<u64> = nodes[0].set("rows").linker("rows", store).quick_linker().open().wait()?;
    /// assert!(rows.get(7).is_ready(), "it was read by this thread");
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn quick_linker(mut self) -> SetBuilder<T> {
        self.is_linker_quick = true;
        self
    }
}
