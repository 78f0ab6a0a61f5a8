//! Who carries the messages of the view log: a thread for each member that is being told something, so
//! that one that takes them and says nothing keeps no view from the others.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::Scope;

use kddm_core::id::NodeId;
use kddm_view::Outgoing;
use parking_lot::Mutex;

use crate::runtime::Runtime;

/// Messages that may wait for one member. More are dropped, as if the network had lost them: it asks
/// for what it lacks.
const BAG: usize = 16;

/// What is on its way. A member has a bag, perhaps an empty one, as long as a thread carries it.
#[derive(Default)]
pub(crate) struct Couriers(Mutex<HashMap<NodeId, VecDeque<Outgoing>>>);

impl Couriers {
    /// Takes a message. True if nobody is on the way to that member.
    fn take(&self, message: Outgoing) -> bool {
        let mut bags = self.0.lock();
        if let Some(bag) = bags.get_mut(&message.to) {
            if bag.len() < BAG {
                bag.push_back(message);
            }
            return false;
        }
        bags.insert(message.to, VecDeque::from([message])).is_none()
    }

    /// The next message for a member; its bag goes with the last one.
    fn next(&self, to: NodeId) -> Option<Outgoing> {
        let mut bags = self.0.lock();
        let next = bags.get_mut(&to)?.pop_front();
        if next.is_none() {
            bags.remove(&to);
        }
        next
    }

    fn drop_bag(&self, to: NodeId) {
        self.0.lock().remove(&to);
    }

    /// Sees to it that a message is carried, after those for the same member.
    pub fn carry<'scope, 'all: 'scope>(
        &'all self,
        runtime: &'all Arc<Runtime>,
        scope: &'scope Scope<'scope, '_>,
        message: Outgoing,
    ) {
        let to = message.to;
        if !self.take(message) {
            return;
        }
        let courier = move || {
            crate::runtime::wait::mark_part_of_node();
            while let Some(message) = self.next(to) {
                if runtime.is_stopping() || !runtime.tell(&message) {
                    return self.drop_bag(to);
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("kddm-courier".into()).spawn_scoped(scope, courier) {
            tracing::warn!(%error, "no thread to carry a message of the view log");
            self.drop_bag(to);
        }
    }
}
