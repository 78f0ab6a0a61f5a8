//! To write what others go on reading.

use std::sync::Arc;
use std::time::Duration;

use crate::chain::chain;
use crate::error::{AccessError, Error, WaitingFor};
use crate::guard::WriteGuard;
use crate::pending::Pending;
use crate::set::Set;
use crate::value::Value;

impl<T: Value + Unpin> Set<T> {
    /// As [`grab`](Set::grab), together with the value as it was last put: for those who go on reading that, as long as they
    /// like, while the writer changes its own copy (copy on write). The value is copied once, by this, and not by the first change.
    ///
    /// It is a grab, and nothing is weakened by it: whoever holds a [`ReadGuard`](crate::ReadGuard), here or elsewhere, reads
    /// the newest version and keeps writers out, also this one, until he drops it. A reader that is not to keep anybody
    /// out reads a [`snapshot`](Set::snapshot): that is the value of one moment, it holds nothing, and no write waits for it.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(2)?;
    /// # let set: kddm::Set<String> = nodes[0].set("cow").open().wait()?;
    /// set.update(1, |text| { text.push_str("old"); Ok(()) }).wait()?;
    /// let reads = set.snapshot(1).wait()?; // keeps nobody out
    /// let (before, mut text) = set.grab_cow(1).wait()?;
    /// text.push_str(" and new");
    /// assert_eq!((before.as_str(), reads.as_str()), ("old", "old"));
    /// text.put().wait()?;
    /// assert_eq!((before.as_str(), set.get(1).wait()?.as_str()), ("old", "old and new"));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`grab`](Set::grab).
    pub fn grab_cow(&self, object: u64) -> Pending<(Arc<T>, WriteGuard<T>)> {
        let grabbed = self.grab(object);
        let steps = async move {
            let guard = grabbed.await?;
            Ok((Arc::new(guard.clone_value()), guard))
        };
        chain(steps, late)
    }
}

/// Whoever waits for less time than the grab may take hears no more than that.
fn late(limit: Duration) -> Error {
    let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
    AccessError::TimedOut { limit_ms, waiting_for: WaitingFor::LocalHolders }.into()
}
