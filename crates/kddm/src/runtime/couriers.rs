//! Who carries the messages of the view log: a thread for each member that is being told something, so
//! that one that takes them and says nothing keeps no view from the others. It keeps its connection as
//! long as there is more to carry soon: a leader shows itself several times a second.

use std::collections::{HashMap, VecDeque};
use std::thread::Scope;
use std::time::{Duration, Instant};

use kddm_core::id::NodeId;
use kddm_view::Outgoing;
use parking_lot::{Condvar, Mutex};

use crate::runtime::telling::Line;

/// Messages that may wait for one member. More are dropped, as if the network had lost them: it asks
/// for what it lacks.
const BAG: usize = 16;

/// How long a courier waits for more: longer than a leader is silent, and shorter than a second, after
/// which each member that only follows asks by itself.
const LINGER: Duration = Duration::from_millis(600);

/// Who knows how to tell another node's log something.
pub(crate) trait Tells: Sync {
    /// Hands over a message, on the connection that was kept if there is one. False if that failed.
    fn tell(&self, line: &mut Option<Line>, message: &Outgoing) -> bool;

    /// Nothing is to be told any more.
    fn has_ended(&self) -> bool;
}

/// What is on its way. A member has a bag, perhaps an empty one, as long as a thread carries it.
#[derive(Default)]
pub(crate) struct Couriers {
    bags: Mutex<Bags>,
    /// A bag is not empty any more, or nobody carries anything any more.
    filled: Condvar,
}

#[derive(Default)]
struct Bags {
    of: HashMap<NodeId, VecDeque<Outgoing>>,
    is_closed: bool,
}

impl Couriers {
    /// Takes a message. True if nobody is on the way to that member.
    fn take(&self, message: Outgoing) -> bool {
        let mut bags = self.bags.lock();
        if let Some(bag) = bags.of.get_mut(&message.to) {
            if bag.len() < BAG {
                bag.push_back(message);
                self.filled.notify_all();
            }
            return false;
        }
        bags.of.insert(message.to, VecDeque::from([message])).is_none()
    }

    /// The next message for a member; its bag goes when there is none for a while.
    fn next(&self, to: NodeId) -> Option<Outgoing> {
        let deadline = Instant::now() + LINGER;
        let mut bags = self.bags.lock();
        loop {
            if let Some(next) = bags.of.get_mut(&to)?.pop_front() {
                return Some(next);
            }
            if bags.is_closed || self.filled.wait_until(&mut bags, deadline).timed_out() {
                // One may have come at the last moment.
                let next = bags.of.get_mut(&to)?.pop_front();
                if next.is_none() {
                    bags.of.remove(&to);
                }
                return next;
            }
        }
    }

    fn drop_bag(&self, to: NodeId) {
        self.bags.lock().of.remove(&to);
    }

    /// Nobody waits for more.
    pub fn close(&self) {
        self.bags.lock().is_closed = true;
        self.filled.notify_all();
    }

    /// Sees to it that a message is carried, after those for the same member.
    pub fn carry<'scope, 'all: 'scope>(
        &'all self,
        teller: &'all impl Tells,
        scope: &'scope Scope<'scope, '_>,
        message: Outgoing,
    ) {
        let to = message.to;
        if !self.take(message) {
            return;
        }
        let courier = move || {
            crate::runtime::wait::mark_part_of_node();
            let mut line = None;
            while let Some(message) = self.next(to) {
                if teller.has_ended() || !teller.tell(&mut line, &message) {
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
