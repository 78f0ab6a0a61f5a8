//! Programs that are not attached any more: all lanes hear of it, and whoever waits for them at barriers and latches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;

use parking_lot::{Condvar, Mutex};

use crate::coordination::programs_have_ended;
use crate::node::{Node, Owner};
use crate::runtime::Runtime;
use crate::runtime::lane::LaneState;
use crate::transport::Poller;

/// How often it is tried: members may be lost meanwhile. After that the waits for such a program end at their limits.
const ATTEMPTS: u32 = 3;

/// The programs whose attachments have ended, of which nobody has been told yet.
#[derive(Default)]
pub(crate) struct Parted {
    kept: Mutex<Kept>,
    news: Condvar,
}

#[derive(Default)]
struct Kept {
    /// Those that are attached.
    attached: BTreeSet<u32>,
    /// Each with whether it took part in anything.
    ended: BTreeMap<u32, bool>,
    is_closed: bool,
}

impl Parted {
    /// A program is let in.
    pub fn is_attached(&self, session: u32) {
        self.kept.lock().attached.insert(session);
    }

    /// A lane has seen the end of a program: it is over for all lanes. What the first one says counts; whether it is that one.
    pub fn add(&self, session: u32, took_part: bool) -> bool {
        let mut kept = self.kept.lock();
        let is_news = kept.attached.remove(&session);
        if is_news {
            kept.ended.insert(session, took_part);
            self.news.notify_all();
        }
        is_news
    }

    /// The node stops.
    pub fn close(&self) {
        self.kept.lock().is_closed = true;
        self.news.notify_all();
    }

    /// Waits for some. `None` when the node stops.
    fn wait(&self) -> Option<BTreeMap<u32, bool>> {
        let mut kept = self.kept.lock();
        while kept.ended.is_empty() && !kept.is_closed {
            self.news.wait(&mut kept);
        }
        if kept.is_closed { None } else { Some(std::mem::take(&mut kept.ended)) }
    }
}

impl LaneState {
    /// Another lane has seen the end of a program: what it has said here before counts, and nothing more. Where all end
    /// because the node is fenced they are told so, when this turn is over.
    pub fn hear_program_out(&mut self, number: u32, poller: &Poller) {
        let Some(session) = self.desk.sessions.get(&number).filter(|_| !self.fenced) else { return };
        session.stream.shutdown();
        self.read_program(number, true, poller);
    }
}

/// The thread that tells of them.
pub(super) fn tell_of(parted: &Parted, runtime: &Weak<Runtime>) {
    while let Some(ended) = parted.wait() {
        let Some(runtime) = runtime.upgrade().filter(|runtime| !runtime.is_stopping()) else { return };
        // Whoever is told finds all that it had put, in whichever lane, though who has seen its end may not be through yet.
        for lane in &runtime.lanes {
            let mut state = lane.lock();
            ended.keys().for_each(|session| state.hear_program_out(*session, &lane.poller));
            lane.finish(state);
        }
        let sessions: BTreeSet<u32> = ended.into_iter().filter(|(_, took_part)| *took_part).map(|(it, _)| it).collect();
        if sessions.is_empty() {
            continue;
        }
        let node = Node(Owner::guest(runtime));
        for attempt in 1..=ATTEMPTS {
            match programs_have_ended(&node, &sessions) {
                Ok(()) => break,
                Err(error) => {
                    tracing::debug!(attempt, %error, "those who wait for a program that has ended are not told")
                }
            }
        }
    }
}
