//! A node that can no longer vouch for what it holds uses none of it.

use crate::cell::{Ended, Lease};
use crate::error::AccessError;
use crate::runtime::lane::LaneState;
use crate::transport::Poller;

impl LaneState {
    /// From now on nothing that is here is read, written, published or sent: the protocol's state is
    /// not what the others believe it to be. Operations answer `Fenced`. The connections end with the
    /// turn, see [`Self::cut_off_if_fenced`].
    pub fn fence(&mut self, why: &str) {
        if std::mem::replace(&mut self.fenced, true) {
            return;
        }
        self.statistics.fences += 1;
        tracing::error!(
            why,
            "this node fences itself: it uses nothing of what it holds any more. Let it rejoin, or restart it"
        );
        // First of all what the fast path looks at.
        self.lease.set_deadline_ns(Lease::ENDED);
        self.note_lent();
        self.close_stores();
        for store in self.stores.values() {
            store.end(Ended::Fenced);
        }
        self.end_hooks();
        self.fail_waiters(None, &AccessError::Fenced.into());
        self.desk.is_to_end = true;
        // What waits in the other lanes ends too: whoever keeps the links sees to that.
        self.signals.links.raise();
    }

    /// A node whose lease has ended handles nothing more: whoever takes the lane looks.
    pub fn fence_if_lease_has_ended(&mut self) {
        if !self.fenced && !self.stopped && !self.lease.is_valid() {
            self.fence("its lease has ended");
        }
    }

    /// The others must not take this node for one that answers.
    pub fn cut_off_if_fenced(&mut self, poller: &Poller) {
        if !self.fenced {
            return;
        }
        let connected: Vec<_> = self.peers.iter().filter(|(_, peer)| peer.is_connected()).map(|(id, _)| *id).collect();
        for id in connected {
            self.disconnect(id, poller);
        }
        if std::mem::take(&mut self.desk.is_to_end) {
            self.end_programs(poller);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use kddm_core::id::{ObjectId, SetId};
    use kddm_core::io::Output;

    use crate::cell::Lease;
    use crate::error::{AccessError, Error};
    use crate::{Node, Pod, Set};

    const LIMIT: Duration = Duration::from_secs(20);

    /// As if the protocol had found its own state broken.
    fn break_an_invariant(node: &Node) {
        for lane in &node.runtime().lanes {
            let mut state = lane.lock();
            let fault = Output::Fault { object: ObjectId(1), what: "a test says so" };
            state.act(SetId::SYSTEM, fault, &mut None, &mut VecDeque::new());
            lane.finish(state);
        }
    }

    fn is_fenced<O>(result: Result<O, Error>) -> bool {
        matches!(result, Err(Error::Access(AccessError::Fenced)))
    }

    #[test]
    fn a_fenced_node_uses_nothing_that_it_holds() {
        let nodes = Node::local_cluster(2).expect("two nodes");
        let here: Set<Pod<u64>> = nodes[0].set("fenced").open().wait().expect("the set opens");
        let there: Set<Pod<u64>> = nodes[1].set("fenced").open().wait().expect("the set opens");
        for object in 1..=3 {
            drop(here.grab(object).wait_for(LIMIT).expect("nobody else has it"));
        }
        let mut in_hand = here.grab(2).wait_for(LIMIT).expect("it is here");
        in_hand.0 = 7;
        let copy = here.get(3).wait_for(LIMIT).expect("it is here");
        assert!(in_hand.check().is_ok() && copy.check().is_ok());
        let _theirs = there.grab(4).wait_for(LIMIT).expect("nobody else has it");
        let waits = here.grab(4);
        assert!(here.try_read_pod(1).is_some(), "it is here");

        break_an_invariant(&nodes[0]);

        assert!(is_fenced(waits.wait_for(LIMIT)), "a wait goes on");
        assert!(is_fenced(here.get(1).wait_for(LIMIT)), "a copy that is here is read");
        assert!(is_fenced(here.grab(1).wait_for(LIMIT)), "an object that is here is written");
        assert!(here.try_read_pod(1).is_none() && here.find(1).is_none(), "a copy that is here is read");
        assert!(is_fenced(in_hand.check()) && is_fenced(copy.check()), "a guard in hand says that it is good");
        drop(copy);
        assert!(is_fenced(in_hand.put().wait_for(LIMIT)), "a guard in hand publishes");
        assert!(is_fenced(here.fetch(9).wait_for(LIMIT)));
        let short = Duration::from_millis(200);
        assert!(there.get(3).wait_for(short).is_err(), "a message is served");
        assert!(nodes[0].members().iter().all(|member| member.id == nodes[0].id() || !member.reachable));
        let seen = nodes[0].statistics();
        assert_eq!((seen.faults, seen.fences), (1, 1));
    }

    #[test]
    fn a_guard_says_that_the_lease_has_ended() {
        let node = Node::local_cluster(1).expect("a node").remove(0);
        let set: Set<String> = node.set("lease").open().wait().expect("the set opens");
        let (read, write) = (set.get(1).wait().expect("it is free"), set.grab(2).wait().expect("it is free"));
        let lease = &node.runtime().lease;
        lease.set_deadline_ns(Lease::now_ns());
        assert!(is_fenced(read.check()) && is_fenced(write.check()));
        lease.set_deadline_ns(Lease::NOT_NEEDED);
        assert!(read.check().is_ok() && write.check().is_ok());
        let mut changed = write;
        changed.push('x');
        lease.set_deadline_ns(Lease::now_ns());
        assert!(is_fenced(changed.put().wait()), "a put is published after the end of the lease");
        drop(read);
        assert!(is_fenced(set.get(3).wait()), "an operation begins after the end of the lease");
        lease.prolong_to_ns(Lease::NOT_NEEDED);
        assert!(is_fenced(set.get(3).wait()), "a node that was fenced goes on");
        assert_eq!(node.lease().remaining, Some(Duration::ZERO));
    }
}
