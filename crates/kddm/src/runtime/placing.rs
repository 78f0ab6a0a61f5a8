//! From one view to the next in a running node: a view is installed when the one before it holds
//! everywhere as far as this node is concerned; then shards go to their new homes, one at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kddm_core::id::{ObjectId, SetId};
use kddm_core::io::{Input, NoMemory, Output};
use kddm_core::node::{HandedOver, Refused};

use parking_lot::{Condvar, Mutex};

use crate::runtime::Runtime;
use crate::runtime::acceptance::Names;
use crate::runtime::errands::Errands;
use crate::runtime::incidents::Judged;
use crate::runtime::lane::LaneState;
use crate::runtime::lending::{Parted, Uses};
use crate::runtime::membership::Guard;
use crate::runtime::objects::changes_what_is_here;
use crate::runtime::peer::Peer;

/// While a peer has more to take first, handing over waits this long before it looks again: short
/// beside the time in which such a peer's buffer empties.
const PEER_PAUSE: Duration = Duration::from_millis(1);

/// What is on its way to a peer before more is reported to it, after members were lost: some milliseconds of its
/// time, so that what somebody waits for does not come late. Far above what it takes before it acknowledges.
const REPORTED_AT_ONCE_BYTES: usize = 128 << 10;

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
    /// A log that no members keep may have something new.
    pub news: Arc<Signal>,
    /// This node is about to leave, and hands over what it has.
    pub is_leaving: Arc<AtomicBool>,
    /// What lanes call sets when they speak of them.
    pub names: Arc<Names>,
    /// Programs that are not attached any more.
    pub parted: Arc<Parted>,
    /// What programs use.
    pub uses: Arc<Uses>,
    /// What one has to have done in the others.
    pub errands: Arc<Errands>,
    /// Sets whose objects leave by themselves.
    pub expiries: Arc<crate::expiry::Expiries>,
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

/// What follows from the outputs of a step that was about many objects: of each it comes when all has been done,
/// as for an input of its own.
#[derive(Default)]
pub(crate) struct Follows {
    /// In the order of the outputs, which come object by object.
    of: Vec<(ObjectId, VecDeque<Input>)>,
}

impl Follows {
    /// Does what one output says.
    pub fn act(&mut self, lane: &mut LaneState, set: SetId, output: Output) {
        let (object, is_at_hand) = (output.object(), changes_what_is_here(&output));
        let mut todo = VecDeque::new();
        lane.act(set, output, &mut None, &mut todo);
        match self.of.last_mut().filter(|(last, _)| *last == object) {
            Some((_, follows)) => follows.extend(todo),
            None if is_at_hand => self.of.push((object, todo)),
            None => {}
        }
    }

    /// Does what follows.
    pub fn go_on(self, lane: &mut LaneState, set: SetId) {
        for (object, mut todo) in self.of {
            if lane.go_on(set, object, &mut None, &mut todo).is_err() {
                lane.refused(set, object, Refused::NoMemory);
            }
        }
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
        let mut follows = Follows::default();
        for output in outputs.drain() {
            follows.act(self, set, output);
        }
        self.outputs = outputs;
        follows.go_on(self, set);
        if worked {
            self.look_whether_settled();
        }
        worked
    }

    /// A view was installed: if members were lost, what somebody waits for here comes first.
    pub fn begin_view(&mut self) {
        if self.core.is_recovering() {
            let waited_for: Vec<(SetId, ObjectId)> = self.locals.keys().copied().collect();
            for (set, object) in waited_for {
                self.enter_first(set, object);
            }
        }
        self.ask_for_copies();
        self.look_whether_settled();
    }

    fn enter_first(&mut self, set: SetId, object: ObjectId) {
        let mut outputs = std::mem::take(&mut self.outputs);
        let entered = self.core.enter_first(set, object, &mut outputs);
        let mut follows = Follows::default();
        for output in outputs.drain() {
            follows.act(self, set, output);
        }
        self.outputs = outputs;
        follows.go_on(self, set);
        if let Err(refused) = entered {
            tracing::debug!(?set, ?object, ?refused, "it is entered with all others");
        }
    }

    /// Whether so much is on its way to a peer, after a loss, that what somebody waits for would come late.
    fn reports_too_fast(&self) -> bool {
        let waits = |peer: &Peer| peer.is_connected() && peer.session.unacknowledged_bytes() > REPORTED_AT_ONCE_BYTES;
        self.core.is_recovering() && self.peers.values().any(waits)
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
        let mut judged = Judged::default();
        while !self.is_stopping() {
            let is_held_up = self.hand_over();
            self.look_for_incidents(&mut judged);
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
                if state.is_a_peer_full() || state.reports_too_fast() {
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
        while !membership.pending.is_empty() {
            for (later, lane) in
                membership.pending.iter().flat_map(|view| self.lanes.iter().map(move |lane| (view, lane)))
            {
                if lane.lock().core.await_no_leaver(later) {
                    self.signals.settled.raise();
                }
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
