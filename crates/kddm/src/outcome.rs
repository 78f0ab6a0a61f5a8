//! What became of a put, asked later.

use std::time::Duration;

use crate::chain::chain;
use crate::error::{AccessError, Error, Fate};
use crate::pending::Pending;
use crate::set::Set;
use crate::value::Value;

impl<T: Value> Set<T> {
    /// What became of a put: that of a guard with this `tenure`, to this `version`, which is one more than
    /// the guard's. For whoever has lost the answer of the put: a program that was restarted, say, and has
    /// written both down before.
    ///
    /// `NothingHappened` is certain: the owner is the same, and has not come to that version. All else is
    /// `Unknown`: whoever held the object next may have made the version of that number, and the object may
    /// have been removed and made anew. Then look at the value: a program that must tell its own puts apart
    /// writes something of its own into it.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(2)?;
    /// # let set: kddm::Set<u64> = nodes[0].set("outcomes").open().wait()?;
    /// let mut guard = set.grab(1).wait()?;
    /// let (tenure, version) = (guard.tenure(), guard.version() + 1);
    /// *guard += 1;
    /// guard.put().wait()?;
    /// assert_eq!(set.outcome(1, tenure, version + 1).wait()?, kddm::Fate::NothingHappened);
    /// assert_eq!(set.outcome(1, tenure, version).wait()?, kddm::Fate::Unknown);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// What a get can meet.
    pub fn outcome(&self, object: u64, tenure: u64, version: u64) -> Pending<Fate> {
        let asked = self.get_existing(object);
        let steps = async move {
            match asked.await {
                Ok(guard) => Ok(judged((guard.tenure(), guard.version()), (tenure, version))),
                Err(Error::Access(AccessError::NotFound)) => Ok(Fate::Unknown),
                Err(error) => Err(error),
            }
        };
        let here = self.0.here.clone();
        let late = move |limit: Duration| {
            let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
            AccessError::TimedOut { limit_ms, waiting_for: here.waiting_for(object) }.into()
        };
        chain(steps, late)
    }
}

/// Tenure and version that are there now, and those of the put.
fn judged(now: (u64, u64), put: (u64, u64)) -> Fate {
    if now.0 == put.0 && now.1 < put.1 { Fate::NothingHappened } else { Fate::Unknown }
}
