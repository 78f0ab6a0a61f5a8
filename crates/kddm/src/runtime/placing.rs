//! From one view to the next in a running node: a view is installed when the one before it holds
//! everywhere as far as this node is concerned; then shards go to their new homes, one at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kddm_core::id::{ObjectId, SetId};
use kddm_core::io::{Input, NoMemory};
use kddm_core::node::HandedOver;

use parking_lot::{Condvar, Mutex};

use crate::runtime::Runtime;
use crate::runtime::lane::LaneState;
use crate::runtime::membership::Guard;
use crate::runtime::objects::changes_what_is_here;

/// While a peer has more to take first, handing over waits this long before it looks again: short
/// beside the time in which such a peer's buffer empties.
const PEER_PAUSE: Duration = Duration::from_millis(1);

/// Something to do: raised by many, taken by one.
#[derive(Default)]
pub(crate) struct Signal {
    raised: Mutex<bool>,
    news: Condvar,
}

/// What lanes have to say to other threads of their node.
#[derive(Clone, Default)]
pub(crate) struct Signals {
    /// All shards are where the installed view wants them, or the next view may be installed.
    pub settled: Arc<Signal>,
    /// A connection has ended, or there is somebody to connect to.
    pub links: Arc<Signal>,
}

impl Signal {
    pub fn raise(&self) {
        *self.raised.lock() = true;
        self.news.notify_all();
    }

    pub fn wait(&self) {
        let mut raised = self.raised.lock();
        while !*raised {
            self.news.wait(&mut raised);
        }
        *raised = false;
    }

    pub fn wait_for(&self, limit: Duration) {
        let mut raised = self.raised.lock();
        if !*raised {
            self.news.wait_for(&mut raised, limit);
        }
        *raised = false;
    }
}

impl LaneState {
    /// Does the next step of the installed view: takes a shard to its epoch, opens it, hands it over, makes
    /// replicas. False if there was none.
    pub fn hand_over_next(&mut self) -> bool {
        if self.fenced {
            return false;
        }
        let mut outputs = std::mem::take(&mut self.outputs);
        let (set, worked) = match self.core.hand_over(&mut outputs) {
            Ok(HandedOver::Shard(set)) => (set, true),
            Ok(HandedOver::Everything) => (SetId::SYSTEM, true),
            Ok(HandedOver::Nothing) | Err(NoMemory) => (SetId::SYSTEM, false),
        };
        // Of each object what follows comes when all has been done, as for an input of its own.
        let mut touched: Vec<(ObjectId, VecDeque<Input>)> = Vec::new();
        for output in outputs.drain() {
            let (object, is_at_hand) = (output.object(), changes_what_is_here(&output));
            let mut todo = VecDeque::new();
            self.act(set, output, &mut None, &mut todo);
            match touched.last_mut().filter(|(last, _)| *last == object) {
                Some((_, follows)) => follows.extend(todo),
                None if is_at_hand => touched.push((object, todo)),
                None => {}
            }
        }
        self.outputs = outputs;
        for (object, mut todo) in touched {
            let _no_message_that_could_be_refused = self.go_on(set, object, &mut None, &mut todo);
        }
        if worked {
            self.look_whether_settled();
        }
        worked
    }

    /// Takes all that is here to the epoch that was just installed, if it is a new one, before anything else
    /// happens here.
    pub fn enter_epoch(&mut self) {
        while !self.core.has_entered() && self.hand_over_next() {}
        self.look_whether_settled();
    }

    /// Tells whoever installs views that there is something to do, or that the next one may come.
    pub fn look_whether_settled(&self) {
        if self.core.is_settled() || self.core.is_handing_over() {
            self.signals.settled.raise();
        }
    }
}

impl Runtime {
    /// The thread that leads from view to view.
    pub fn keep_placement(self: &Arc<Self>) {
        crate::runtime::wait::mark_part_of_node();
        while !self.is_stopping() {
            let is_held_up = self.hand_over();
            if self.install_pending(&mut self.membership.lock()) {
                continue;
            }
            if is_held_up { self.signals.settled.wait_for(PEER_PAUSE) } else { self.signals.settled.wait() }
        }
    }

    /// Hands over all shards that have to go. True if a peer has more to take first.
    fn hand_over(&self) -> bool {
        let mut is_held_up = false;
        for lane in &self.lanes {
            loop {
                let mut state = lane.lock();
                if state.is_a_peer_full() {
                    is_held_up = true;
                    break;
                }
                let has_worked = state.hand_over_next();
                lane.finish_fair(state);
                if !has_worked {
                    break;
                }
            }
        }
        is_held_up
    }

    /// Whether every shard is where the installed view wants it, as far as this node is concerned.
    pub fn is_settled(&self) -> bool {
        self.lanes.iter().all(|lane| lane.lock().core.is_settled())
    }

    /// Installs the decided views that may be installed by now. True if there was one.
    pub fn install_pending(&self, membership: &mut Guard<'_>) -> bool {
        let mut has_installed = false;
        while let Some(next) = membership.pending.front() {
            for lane in &self.lanes {
                // Nothing more will be said by one that this view does not have any more.
                let mut state = lane.lock();
                let gone: Vec<_> = state.core.awaited().filter(|node| next.member(*node).is_none()).collect();
                gone.into_iter().for_each(|node| state.core.is_ahead(node));
            }
            if !self.is_settled() {
                // Only a view in which members are lost comes between, and then those before it are passed over.
                let installed = self.lanes[0].lock().core.epoch();
                let Some(at) = membership.pending.iter().position(|view| view.epoch > installed) else { break };
                for passed in membership.pending.drain(..at) {
                    self.rpc.installed(&passed);
                    self.tell_of_view(passed);
                }
            }
            if let Some(view) = membership.pending.pop_front() {
                self.install(&view);
                has_installed = true;
            }
        }
        if has_installed {
            self.signals.settled.raise();
        }
        // Whoever waits for a view, or for its shards, looks again.
        self.changed.notify_all();
        self.signals.links.raise();
        has_installed
    }
}
