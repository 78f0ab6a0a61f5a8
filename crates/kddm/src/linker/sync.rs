//! Waiting until what was put is kept.

use std::sync::Arc;
use std::time::Duration;

use super::behind::Waiting;
use super::error::LinkerError;
use super::linked::Linked;
use super::wanted::within;
use crate::chain::{Pause, chain};
use crate::error::Error;
use crate::pending::Pending;
use crate::promise::promise;
use crate::runtime::wait::deadline_in;
use crate::set::Set;
use crate::value::Value;

impl<T: Value> Set<T> {
    /// Returns when all that was put on this node before is kept by the linker of the set, and survives as long as that
    /// promises: what waits to be written is written now. At once in a set without a linker. Waits at most for the limit of
    /// the set.
    ///
    /// ```
    /// use kddm::linker::{Linker, LinkerError, WritePolicy};
    /// # struct Nothing;
    /// # impl Linker<u64> for Nothing {
    /// #     fn first_touch(&self, _: u64) -> Result<Option<u64>, LinkerError> { Ok(None) }
    /// # }
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let builder = nodes[0].set("rows").linker("rows", Nothing).write_policy(WritePolicy::behind());
    /// let rows: kddm::Set<u64> = builder.open().wait()?;
    /// rows.update(7, |row| { *row += 1; Ok(()) }).wait()?;
    /// rows.sync().wait()?;
    /// assert_eq!(nodes[0].linkers()[0].counts.queued, 0);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotSynced` at the limit: what waits is tried again; and what the linker says.
    pub fn sync(&self) -> Pending<()> {
        let Some(linked) = self.0.linked.clone() else { return Pending::ready(Ok(())) };
        let limit = self.0.wait_limit;
        let late = {
            let linked = Arc::clone(&linked);
            move |limit: Duration| not_synced(&linked, limit)
        };
        let upto = Linked::<T>::last_write();
        let work = {
            let linked = Arc::clone(&linked);
            move || sync_now(&linked, upto, limit)
        };
        let synced = promise("kddm-sync", work, late.clone());
        let pause = Pause::until(&self.0.here.runtime.lanes[0], deadline_in(limit));
        let steps = async move { within(synced, pause).await.unwrap_or_else(|| Err(not_synced(&linked, limit))) };
        chain(steps, late)
    }
}

fn sync_now<T: Value>(linked: &Arc<Linked<T>>, upto: u64, limit: Duration) -> Result<(), Error> {
    linked.behind.wait_for(upto, deadline_in(limit), false).map_err(|_waits| not_synced(linked, limit))?;
    linked.is_still_kept()?;
    Ok(linked.call(0, true, |linker| linker.sync())?)
}

fn not_synced<T: Value>(linked: &Linked<T>, limit: Duration) -> Error {
    let Waiting { objects, .. } = linked.behind.waits();
    let limit_ms = limit.as_millis().try_into().unwrap_or(u64::MAX);
    LinkerError::NotSynced { linker: linked.name(), waiting: objects as u64, limit_ms }.into()
}
