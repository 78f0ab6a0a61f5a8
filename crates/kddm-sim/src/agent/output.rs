//! What the core asks a node to do.

use std::sync::Arc;

use kddm_core::id::{ObjectId, SetId};
use kddm_core::io::{Access, Answer, Body, Input, Output};
use kddm_core::message::Message;

use super::{Agent, Effects, Outcome, Packet, Todo, Value};

/// Two homes that have passed over different views, because members were lost meanwhile, may differ in who answered
/// for a shard before: then what the one hands over is dropped by the other, which has reports of all members
/// instead. It is counted, and what becomes of it is judged like all else.
const KNOWN_DROPS: [&str; 2] = [
    "an entry of the directory from a node that is not the old home",
    "a shard from a node that does not answer for it",
];

/// Whether that is what a new home may drop after a loss, see `KNOWN_DROPS`.
pub fn is_known_drop(broken: &str) -> bool {
    KNOWN_DROPS.iter().any(|known| broken.ends_with(known))
}

impl Agent {
    pub(super) fn act(
        &mut self,
        set: SetId,
        output: Output,
        arrived: Option<Value>,
        todo: &mut Todo,
        effects: &mut Effects,
    ) {
        match output {
            Output::Send { to, object, message, body, deferred } => {
                let body = if body == Body::Object { self.value_to_send(object, effects) } else { None };
                if body.is_none() && carries_object(&message) {
                    effects.broken.push(format!("node {} sends an object's value that it does not have", self.me));
                }
                let (epoch, placement) = (self.core.epoch(), self.core.view().placement);
                effects.packets.push((to, Packet { epoch, placement, set, object, message, body, deferred }));
            }
            Output::Install { object, version, has_value } => {
                let cell = Arc::make_mut(&mut self.cells).entry(object).or_default();
                let same = has_value && cell.value.is_some() && cell.version == version;
                if same && cell.value != arrived {
                    effects.broken.push(format!("I2: two values of version {} met at node {}", version.0, self.me));
                }
                if !same && cell.is_held() {
                    effects.broken.push(format!("I1: a value was replaced under a holder at node {}", self.me));
                }
                cell.version = version;
                cell.value = if has_value { arrived } else { None };
            }
            Output::Granted { object, access, answers, .. } => {
                let cell = Arc::make_mut(&mut self.cells).entry(object).or_default();
                cell.access = cell.access.max(access);
                if answers {
                    cell.outstanding = false;
                }
                self.serve(object, todo, effects);
            }
            Output::Revoke { object, to } => {
                Arc::make_mut(&mut self.cells).entry(object).or_default().revoking = Some(to);
                self.try_to_lower(object, todo);
            }
            Output::TryRevoke { object } => {
                let cell = Arc::make_mut(&mut self.cells).entry(object).or_default();
                let input = if cell.is_held() {
                    Input::Held
                } else {
                    cell.access = Access::None;
                    Input::Revoked { version: cell.version, has_value: cell.value.is_some() }
                };
                todo.push_back((object, input));
            }
            Output::Answer { object, answer } => self.answered(object, answer, effects),
            Output::PutDone { object, .. } => {
                let Some(cell) = Arc::make_mut(&mut self.cells).get_mut(&object) else { return };
                (cell.writer, cell.is_putting) = (None, false);
                effects.safe.push((object, cell.value));
            }
            Output::StoreReplica { .. }
            | Output::KeepReplica { .. }
            | Output::DropReplica { .. }
            | Output::UseReplica { .. } => self.act_on_replica(output, arrived, effects),
            Output::UseCopy { object, version, question } => self.use_copy(object, version, question, effects),
            Output::RolledBack { .. } => effects.broken.push("a set rolled back that is not to".into()),
            Output::Discard { object } => self.discard(object, effects),
            // Nobody lies here: what the core drops as impossible, a bug has made.
            Output::Dropped { what, .. } => {
                effects.broken.push(format!("node {} dropped what an honest node said: {what}", self.me));
            }
            Output::Fault { what, .. } => effects.broken.push(format!("fault at node {}: {what}", self.me)),
        }
    }

    fn act_on_replica(&mut self, output: Output, arrived: Option<Value>, effects: &mut Effects) {
        match output {
            Output::StoreReplica { object } => {
                let Some(value) = arrived else { return effects.broken.push("a replica without a value".into()) };
                self.replicas.insert(object, value);
            }
            Output::KeepReplica { object } => {
                let Some(value) = self.cells.get(&object).and_then(|cell| cell.value) else {
                    return effects.broken.push("a replica of a value that is not here".into());
                };
                self.replicas.insert(object, value);
            }
            Output::DropReplica { object } => {
                self.replicas.remove(&object);
            }
            Output::UseReplica { object, version } => {
                let Some(value) = self.replicas.get(&object).copied() else {
                    return effects.broken.push("a replica is used that is not here".into());
                };
                let cell = Arc::make_mut(&mut self.cells).entry(object).or_default();
                if cell.is_held() {
                    effects.broken.push(format!("I1: a replica replaced a value in use at node {}", self.me));
                }
                (cell.value, cell.version) = (Some(value), version);
            }
            _ => {}
        }
    }

    fn discard(&mut self, object: ObjectId, effects: &mut Effects) {
        let Some(cell) = Arc::make_mut(&mut self.cells).get_mut(&object) else { return };
        if cell.is_held() || cell.access != Access::None {
            effects.broken.push(format!("I1: a value in use was discarded at node {}", self.me));
        }
        cell.value = None;
    }

    pub(super) fn try_to_lower(&mut self, object: ObjectId, todo: &mut Todo) {
        let Some(cell) = Arc::make_mut(&mut self.cells).get_mut(&object) else { return };
        let Some(to) = cell.revoking else { return };
        if cell.lower(to) {
            cell.revoking = None;
            todo.push_back((object, Input::Revoked { version: cell.version, has_value: cell.value.is_some() }));
        }
    }

    fn answered(&mut self, object: ObjectId, answer: Answer, effects: &mut Effects) {
        let cell = Arc::make_mut(&mut self.cells).entry(object).or_default();
        cell.outstanding = false;
        let Some(waiter) = cell.waiters.pop_front() else { return };
        let outcome = match answer {
            Answer::Removed | Answer::Flushed => Outcome::Done,
            failed => Outcome::Failed(failed),
        };
        effects.ended.push((waiter.client, outcome));
    }

    /// The value as it was put. While a client changes it there is none, until it has put.
    fn value_to_send(&self, object: ObjectId, effects: &mut Effects) -> Option<Value> {
        let cell = self.cells.get(&object)?;
        if cell.writer.is_some() && !cell.is_putting {
            effects.broken.push(format!("I1: node {} sends what a client is writing", self.me));
        }
        cell.value
    }
}

fn carries_object(message: &Message) -> bool {
    matches!(message, Message::Data { .. } | Message::Push { .. } | Message::Transfer { has_value: true, .. })
}
