//! What a lane has to have done in all lanes of its node. The thread whose turn it came from does that as soon as it has given
//! its lane up, one lane after the other: nobody takes a lane who has one, and no thread has to be woken for it.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Wake, Waker};

use kddm_core::id::SetId;
use parking_lot::Mutex;

use crate::runtime::lane::{Lane, LaneState};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// That program is in the middle of something with a set: what else it wants of it does not wait for the thaw any more.
    LetIn { program: u32, set: SetId },
    /// That program has ended: what it has said before counts, and nothing more.
    ///
    /// Where the node stops, one lane after the other, it comes from the first of them to those that have not been stopped yet.
    /// These let the program go then as where it has ended by itself, and a moment later are stopped without it. To the program
    /// that is the same: it has heard in one lane that it is over, which counts for all of them, and takes the end of a
    /// connection as that word (`LaneState::lender_says`). A wish that gets no answer any more is taken as one that was answered
    /// with a node that has stopped: it may have been done, and waits for the node where it can be asked for again.
    HearOut { program: u32 },
}

/// Those of a node.
#[derive(Default)]
pub(crate) struct Errands {
    lanes: OnceLock<Vec<Weak<Lane>>>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    waiting: VecDeque<Errand>,
    /// A thread does them, those too that come meanwhile.
    are_run: bool,
}

impl Errands {
    /// Has that done in all lanes. By whoever has none.
    pub fn send(self: Arc<Errands>, errand: Errand) {
        self.kept.lock().waiting.push_back(errand);
        self.wake();
    }

    /// Those are the lanes of the node.
    pub fn are_of(&self, lanes: &[Arc<Lane>]) {
        let _said_before = self.lanes.set(lanes.iter().map(Arc::downgrade).collect());
    }

    /// The next one, for the thread that does them. `None`: it does them no more.
    fn next(&self) -> Option<Errand> {
        let mut kept = self.kept.lock();
        let next = kept.waiting.pop_front();
        kept.are_run = next.is_some();
        next
    }
}

/// What a turn wants woken is woken when its lane has been given up.
impl Wake for Errands {
    fn wake(self: Arc<Errands>) {
        // Also by the turns that follow from these: they only add to them.
        if std::mem::replace(&mut self.kept.lock().are_run, true) {
            return;
        }
        // A turn that panics has fenced the node, which ends its programs in each lane: those that are left are of no use.
        let _ends = Ends(&self);
        while let Some(errand) = self.next() {
            for lane in self.lanes.get().into_iter().flatten().filter_map(Weak::upgrade) {
                let mut state = lane.lock();
                match errand {
                    Errand::LetIn { program, set } => state.let_program_in(program, set),
                    Errand::HearOut { program } => state.hear_program_out(program, &lane.poller),
                }
                lane.finish(state);
            }
        }
    }
}

/// Whoever does them stops.
struct Ends<'a>(&'a Errands);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.kept.lock().are_run = false;
        }
    }
}

impl LaneState {
    /// Has that done in all lanes, this one too, when this turn is over.
    pub fn send_on(&mut self, errand: Errand) {
        let errands = Arc::clone(&self.signals.errands);
        errands.kept.lock().waiting.push_back(errand);
        // Before those who wait: nobody knows what their code does.
        self.to_wake.add_sender(&Waker::from(errands), usize::MAX);
    }
}
