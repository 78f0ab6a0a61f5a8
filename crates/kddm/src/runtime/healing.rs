//! When all is whole again after a loss: every member says so of itself when it renews its lease, and
//! whoever decides has it decided. From then on failures are counted anew.

use std::collections::BTreeMap;

use kddm_core::id::{Incarnation, NodeId, Placement};
use kddm_view::Change;

use crate::runtime::Runtime;
use crate::runtime::lane::LaneState;
use crate::runtime::membership::{Guard, Membership};

/// What members have said of themselves, where this node decides: one word of each.
#[derive(Default)]
pub(crate) struct Healing {
    /// Which life was whole in which placement.
    whole: BTreeMap<NodeId, (Incarnation, Placement)>,
    /// What was proposed last, so that it is proposed once.
    proposed: Option<Placement>,
}

impl Healing {
    /// A member has said in which placement all is whole as far as it is concerned.
    pub fn said(&mut self, node: NodeId, incarnation: Incarnation, whole: Option<Placement>) {
        if let Some(placement) = whole {
            self.whole.insert(node, (incarnation, placement));
        }
    }
}

impl LaneState {
    /// Whether all was whole here in the installed placement at some time. It stays so: what comes later in
    /// the same placement comes with its replicas.
    fn was_whole(&mut self) -> Option<Placement> {
        let placement = self.core.view().placement;
        if self.whole_in != Some(placement) && !self.fenced {
            match self.core.what_is_missing() {
                None => (self.whole_in, self.missing) = (Some(placement), None),
                what if what == self.missing => {}
                what => {
                    self.missing = what;
                    tracing::info!(placement = placement.0, what, "not all is whole yet");
                }
            }
        }
        self.whole_in.filter(|whole| *whole == placement)
    }
}

impl Runtime {
    /// The placement in which all is whole as far as this node is concerned. None if it is not, or if there
    /// is nothing to heal: then nobody looks at any object.
    pub fn whole_in(&self) -> Option<Placement> {
        let membership = self.membership.lock();
        let has_nothing_to_do = membership.state.is_healed();
        drop(membership);
        if has_nothing_to_do { None } else { self.lanes_whole_in() }
    }

    fn lanes_whole_in(&self) -> Option<Placement> {
        let mut lanes = self.lanes.iter().map(|lane| lane.lock().was_whole());
        let first = lanes.next()??;
        lanes.all(|whole| whole == Some(first)).then_some(first)
    }

    /// Has it decided that all is whole, once all members have said so of themselves in the placement that
    /// there is.
    pub fn heal(&self, membership: &mut Guard<'_>) {
        let placement = membership.state.placement();
        if membership.state.is_healed() || !self.leads(membership) || membership.healing.proposed == Some(placement) {
            return;
        }
        let me = self.identity.id;
        let Membership { state, healing, .. } = &mut **membership;
        healing.whole.retain(|node, _| state.member(*node).is_some());
        let whole = &healing.whole;
        let others_are = state
            .members()
            .filter(|(node, _)| *node != me)
            .all(|(node, entry)| whole.get(&node) == Some(&(entry.incarnation, placement)));
        if !others_are || self.lanes_whole_in() != Some(placement) {
            return;
        }
        membership.healing.proposed = Some(placement);
        tracing::info!(failures = membership.state.failures(), "all is whole again");
        if let Err(error) = self.propose_in(membership, Change::Healed { placement }) {
            membership.healing.proposed = None;
            tracing::warn!(%error, "that all is whole could not be proposed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::error::{AccessError, Error};
    use crate::{Node, Set};

    const LIMIT: Duration = Duration::from_secs(20);

    /// As if the guardian had seen the end of its process.
    fn lose(nodes: &[Node], lost: u16) {
        let runtime = nodes[0].runtime();
        let entry = runtime.membership.lock().state.member(NodeId(lost)).cloned().expect("a member");
        runtime.proven_dead(NodeId(lost), entry.incarnation);
        assert_eq!(nodes[0].lease().failures, 1);
    }

    /// Waits until that is so at the node that decides; each change wakes it.
    fn wait_until(node: &Node, what: &str, is_so: impl Fn(&mut Guard<'_>) -> bool) {
        let runtime = node.runtime();
        let deadline = Instant::now() + LIMIT;
        let mut membership = runtime.membership.lock();
        while !is_so(&mut membership) {
            assert!(runtime.wait_for_change(&mut membership, deadline), "{what}");
        }
    }

    #[test]
    fn failures_are_counted_anew_once_all_have_said_that_they_are_whole() {
        let nodes = Node::local_cluster(3).expect("three nodes");
        let sets: Vec<Set<u64>> =
            nodes.iter().map(|node| node.set("safe").replicas(1).open().wait().expect("the set opens")).collect();
        for object in 0..60 {
            let mut guard = sets[object as usize % 3].grab(object).wait_for(LIMIT).expect("nobody else has it");
            *guard = object + 1;
            guard.put().wait_for(LIMIT).expect("two nodes have it");
        }
        lose(&nodes, 2);
        wait_until(&nodes[0], "not all is whole again", |membership| membership.state.is_healed());
        let view = nodes[0].runtime().membership.lock().state.view();
        assert_eq!((view.failures, view.fewest_homes, view.homes.len()), (0, 2, 2));
        for object in 0..60 {
            let value = sets[(object as usize % 2) * 2].get_existing(object).wait_for(LIMIT).expect("it survives");
            assert_eq!(*value, object + 1);
        }
        let keeps: usize =
            [0, 2].iter().flat_map(|at| &nodes[*at].runtime().lanes).map(|lane| lane.lock().core.replica_count()).sum();
        assert!(keeps >= 60, "each of 60 objects has a replica again, not {keeps}");
    }

    #[test]
    fn what_is_lost_stays_lost_when_all_else_is_whole_again() {
        let nodes = Node::local_cluster(3).expect("three nodes");
        let sets: Vec<Set<u64>> =
            nodes.iter().map(|node| node.set("unsafe").replicas(0).open().wait().expect("the set opens")).collect();
        for object in 0..60 {
            let mut guard = sets[1].grab(object).wait_for(LIMIT).expect("nobody else has it");
            *guard = 1;
            guard.put().wait_for(LIMIT).expect("it is here");
        }
        lose(&nodes, 2);
        // Every home that is left has decided when all of these are answered.
        let lost_objects = || {
            let is_lost = |object: &u64| {
                let answer = sets[0].get_existing(*object).wait_for(LIMIT);
                matches!(answer, Err(Error::Access(AccessError::Lost { .. })))
            };
            (0..60).filter(is_lost).collect::<Vec<u64>>()
        };
        let lost = lost_objects();
        assert!(!lost.is_empty(), "what only a lost node had is not lost");
        wait_until(&nodes[0], "what is lost keeps all else from being whole", |membership| {
            membership.state.is_healed()
        });
        assert_eq!(lost_objects(), lost, "nobody has accepted that");
    }
}
