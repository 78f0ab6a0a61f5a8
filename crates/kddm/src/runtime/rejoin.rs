//! A node that has fenced itself comes back in its process, as a new life, with what it owned.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{ConfigurationError, Error, MembershipError};
use crate::runtime::join::join;
use crate::runtime::wait::deadline_in;
use crate::runtime::{Runtime, notify};
use crate::transport::Address;

/// How long it is between two attempts: short beside a lease, for which the others wait before the number of
/// the life that has ended is free.
const PAUSE: Duration = Duration::from_millis(100);

impl Runtime {
    /// Ends this life, which is fenced, and joins the same cluster again under the same number.
    ///
    /// # Errors
    /// It is not fenced, or decides itself who is a member; why the last attempt has failed.
    pub fn rejoin(self: &Arc<Self>, limit: Duration) -> Result<Arc<Runtime>, Error> {
        let refused = |reason: &str| Err(MembershipError::Refused { reason: reason.into() }.into());
        if !self.is_fenced() {
            return refused("this node is not fenced: it may use what it holds");
        }
        let mut config = self.config.clone();
        {
            let membership = self.membership.lock();
            if membership.state.voters() == [self.identity.id] && config.view_log.is_none() {
                return refused(
                    "this node decides alone who is a member, so that nobody can let it in; start it again",
                );
            }
            let others = membership.state.members().filter(|(node, _)| *node != self.identity.id);
            let others = others.filter_map(|(_, entry)| entry.address.parse::<Address>().ok());
            let known: Vec<Address> = others.filter(|address| !config.contacts.contains(address)).collect();
            config.contacts.splice(0..0, known);
        }
        config.contacts.retain(|contact| *contact != self.address);
        // Whatever names this node names its next life.
        config.node_id = Some(self.identity.id.0);
        let (deadline, join_limit) = (deadline_in(limit), config.join_limit);
        // Also for another attempt, if this one fails: what this life had stays as it is.
        let kept = self.memories();
        self.stop_within(Duration::ZERO, limit.min(notify::DRAIN_LIMIT));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            config.join_limit = join_limit.min(left);
            match join(config.clone()) {
                Err(error) if may_come(&error) && left > PAUSE => {
                    tracing::debug!(%error, "not let in again yet");
                    std::thread::park_timeout(PAUSE);
                }
                Ok(runtime) => {
                    runtime.recall(kept, deadline);
                    tracing::info!(node = runtime.identity.id.0, "this node is back, as a new life");
                    return Ok(runtime);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn is_fenced(&self) -> bool {
        // Whoever takes a lane looks at the lease.
        self.lanes.iter().any(|lane| lane.lock().fenced)
    }
}

/// Whether it can be different a little later: the others have yet to expel the life that has ended, or are held
/// up themselves.
fn may_come(error: &Error) -> bool {
    matches!(
        error,
        Error::Membership(
            MembershipError::Refused { .. } | MembershipError::NoContact { .. } | MembershipError::JoinTimedOut { .. }
        ) | Error::Configuration(ConfigurationError::Listen { .. })
    )
}
