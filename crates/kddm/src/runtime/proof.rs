//! A member whose process has ended, as the guardian of its host says.
//!
//! That is proof, and nothing else is: a connection that ends, or a member that says nothing, may have
//! been cut off. What has come from it before may still lie in a socket here, so its connection is left
//! to end by itself.

use kddm_core::id::{Incarnation, NodeId};

use crate::error::WhyUnreachable;
use crate::guardian::Secret;
use crate::runtime::Runtime;
use crate::runtime::control::Answer;
use crate::runtime::lane::LaneState;

impl Runtime {
    /// The process of that life of a member has ended: it holds and does nothing any more. Whoever decides
    /// expels it at once, and then waits that only it could end go on with whoever has what it had.
    pub fn proven_dead(&self, node: NodeId, incarnation: Incarnation) {
        let is_meant =
            self.membership.lock().state.member(node).is_some_and(|member| member.incarnation == incarnation);
        if !is_meant || !self.silence.bury(node, incarnation) {
            return;
        }
        tracing::warn!(node = node.0, incarnation = incarnation.0, "the process of a member has ended");
        self.lanes[0].lock().statistics.proven_dead += 1;
        for lane in &self.lanes {
            let mut state = lane.lock();
            state.mark_dead(node, incarnation);
            lane.finish(state);
        }
        self.expel_proven_dead(node);
        self.changed.notify_all();
        self.signals.links.raise();
    }

    /// A guardian says that a life is over.
    pub fn answer_died(&self, node: NodeId, incarnation: Incarnation, secret: &Secret) -> Answer {
        let membership = self.membership.lock();
        let (state, nonce) = (&membership.state, secret.hash());
        if state.has_life(node, incarnation, nonce) && node != self.identity.id {
            drop(membership);
            self.proven_dead(node, incarnation);
            return Answer::Done;
        }
        if incarnation > state.last_life() {
            return Answer::NotYet;
        }
        let is_member = state.member(node).is_some_and(|member| member.incarnation == incarnation);
        drop(membership);
        if !is_member {
            return Answer::NotAMember;
        }
        self.lanes[0].lock().statistics.refused_greetings += 1;
        tracing::warn!(node = node.0, "somebody who does not know its secret says that a member is dead");
        Answer::No("the secret is not that of this node's life".into())
    }
}

impl LaneState {
    /// That life says nothing any more. What waits for it goes on: the next epoch asks for it anew.
    fn mark_dead(&mut self, node: NodeId, incarnation: Incarnation) {
        if let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.incarnation == incarnation) {
            peer.is_proven_dead = true;
        }
    }

    /// What is known of a node that cannot be reached.
    pub fn why_unreachable(&self, node: NodeId) -> WhyUnreachable {
        let is_dead = self.peers.get(&node).is_some_and(|peer| peer.is_proven_dead);
        if is_dead { WhyUnreachable::ProcessEnded } else { WhyUnreachable::Silent }
    }
}
