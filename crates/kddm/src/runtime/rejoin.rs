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
            if membership.decides_alone() && config.view_log.is_none() {
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
        // Whatever names this node names its next life, and whoever has a log finds it where it was.
        config.node_id = Some(self.identity.id.0);
        config.listen = self.address.clone();
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::eventually::eventually;
    use crate::{Address, Config, Node, Set};

    const LIMIT: Duration = Duration::from_secs(60);

    fn put(set: &Set<u64>, value: u64) {
        let mut guard = set.grab(1).wait_for(LIMIT).expect("nobody holds it");
        *guard = value;
        guard.put().wait_for(LIMIT).expect("it is put");
    }

    fn fence(node: &Node) {
        for lane in &node.runtime().lanes {
            let mut state = lane.lock();
            state.fence("a test says so");
            lane.finish(state);
        }
    }

    fn rejoin(nodes: &[Node]) -> Vec<Node> {
        let all: Vec<_> = nodes.iter().map(|node| node.rejoin(LIMIT)).collect();
        all.into_iter().map(|node| node.wait_for(LIMIT).expect("it comes back")).collect()
    }

    /// Who leads, who votes, and all at one time, in one process that has their logs.
    #[test]
    fn voters_come_back_in_their_process() {
        let scratch = std::env::temp_dir().join(format!("kddm-rejoin-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).expect("a directory for temporary files");
        let mut nodes: Vec<Node> = Vec::new();
        for id in 1..=3 {
            let log = scratch.join(format!("{id}.redb"));
            let mut config = Config::new().node_id(id).listen(Address::loopback()).view_log(log);
            config = config.lease(Duration::from_secs(2)).join_limit(LIMIT);
            config.contacts.extend(nodes.first().map(|first| first.address().clone()));
            nodes.push(Node::join(config).wait_for(LIMIT).expect("it is let in"));
        }
        let three_vote = |nodes: &[Node]| {
            eventually(LIMIT, "three vote", || nodes.iter().all(|node| node.voting().voters == [1, 2, 3]))
        };
        three_vote(&nodes);
        for at in 0..3 {
            let set: Set<u64> =
                nodes[at].set(&format!("of {at}")).replicas(0).open().wait_for(LIMIT).expect("it opens");
            put(&set, 10 + at as u64);
            drop(set);
            fence(&nodes[at]);
            let old = Arc::downgrade(nodes[at].runtime());
            nodes[at] = rejoin(&nodes[at..=at]).remove(0);
            eventually(LIMIT, "nothing is left of the former life", || old.strong_count() == 0);
            for node in &nodes {
                let set: Set<u64> = node.set(&format!("of {at}")).open().wait_for(LIMIT).expect("it is there");
                assert_eq!(*set.get(1).wait_for(LIMIT).expect("it has come back"), 10 + at as u64);
            }
            three_vote(&nodes);
            let is_healed = |node: &Node| node.runtime().membership.lock().state.is_healed();
            eventually(LIMIT, "all is whole", || nodes.iter().all(is_healed));
        }
        nodes.iter().for_each(fence);
        let nodes = rejoin(&nodes);
        // Of a set of another name, that may have its number now.
        let set: Set<u64> = nodes[0].set("other").replicas(0).open().wait_for(LIMIT).expect("it opens");
        assert_eq!(*set.get(1).wait_for(LIMIT).expect("nobody has it"), 0);
        assert!(nodes.iter().all(|node| node.statistics().remembered == 0), "they began anew");
        drop(nodes);
        let _it_is_temporary = std::fs::remove_dir_all(&scratch);
    }
}
