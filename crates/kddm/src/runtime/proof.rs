//! A member whose process has ended, as the guardian of its host says.
//!
//! That is proof, and nothing else is: a connection that ends, or a member that says nothing, may have
//! been cut off. What has come from it before may still lie in a socket here, so its connection is left
//! to end by itself.

use kddm_core::id::{Incarnation, NodeId, ObjectId, SetId};
use kddm_core::message::RequestKind;

use crate::error::{AccessError, Error, WaitingFor, WhyUnreachable};
use crate::guardian::Secret;
use crate::runtime::Runtime;
use crate::runtime::control::Answer;
use crate::runtime::lane::LaneState;
use crate::runtime::local::Wish;
use crate::runtime::wait::Outcome;

impl Runtime {
    /// The process of that life of a member has ended: it holds and does nothing any more. Waits that
    /// only it could end are over.
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
        self.expel_proven_dead(node, incarnation);
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
    /// That life says nothing any more.
    pub fn mark_dead(&mut self, node: NodeId, incarnation: Incarnation) {
        let peer = self.peers.get_mut(&node).filter(|peer| peer.incarnation == incarnation);
        let Some(peer) = peer else { return };
        peer.is_proven_dead = true;
        self.knows_dead = true;
        let waits: Vec<_> = self.locals.iter().filter(|(_, local)| !local.waiters.is_empty()).collect();
        let waits: Vec<_> = waits.into_iter().map(|(place, _)| *place).collect();
        for (set, object) in waits {
            self.end_waits_for_dead(set, object);
        }
    }

    /// The node without which nobody who waits here for that object is served, if its process has ended.
    fn waits_for_dead(&self, set: SetId, object: ObjectId) -> Option<NodeId> {
        if !self.knows_dead || self.link.is_some() {
            return None;
        }
        let seen = self.core.inspect(set, object)?;
        let is_dead = |node: &NodeId| self.peers.get(node).is_some_and(|peer| peer.is_proven_dead);
        let asked = seen.wanting.then_some(seen.asked);
        asked.into_iter().chain(seen.owed).find(is_dead)
    }

    /// Whoever waits for one that is dead has waited long enough.
    pub fn end_waits_for_dead(&mut self, set: SetId, object: ObjectId) {
        let Some(NodeId(node)) = self.waits_for_dead(set, object) else { return };
        let Some(local) = self.locals.get_mut(&(set, object)) else { return };
        let waiters = std::mem::take(&mut local.waiters);
        let withdraw = local.outstanding && !local.is_cancelling;
        local.is_cancelling |= withdraw;
        for waiter in waiters {
            let error: Error = match waiter.wish {
                // It may have been passed on before.
                Wish::Request(RequestKind::Remove) => {
                    let waiting_for = WaitingFor::Unreachable(node);
                    AccessError::RemoveUnconfirmed { limit_ms: 0, waiting_for }.into()
                }
                _ => AccessError::Unreachable { node, limit_ms: 0, why: WhyUnreachable::ProcessEnded }.into(),
            };
            self.end_wait(set, object, waiter, Outcome::Failed(error));
        }
        self.run_own(set, object, withdraw.then_some(kddm_core::io::Input::Cancel));
    }
}
