//! Who reads the connections: a thread of their own, and beside it one of those that wait for an answer, which the
//! system wakes first. What came is done by whoever has read it, one at a time, in the order in which it came.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::connection::{Progress, RUNNING_LIMIT};
use super::engine::Engine;
use super::state::{State, Todo};
use crate::runtime::wait::{as_part_of_node, mark_part_of_node};
use crate::transport::Poller;
use crate::transport::poll::{TIMER, WAKE};

/// How long the thread of the connections leaves them to a guest that was woken: longer than any guest needs to leave,
/// short enough that one that is not scheduled does not stop the calls.
const GUEST_LIMIT: Duration = Duration::from_millis(1);

/// Frames of one read that are done before the next are looked at: what a quick handler has done is in work no more, and
/// many small calls or casts that arrive together are not refused for their number.
const FRAMES_AT_ONCE: usize = RUNNING_LIMIT / 4;

/// A connection with something to read, and whether its end was told.
type Ready = (u64, bool);

impl Engine {
    /// One thread at a time may read beside the thread of the connections.
    pub(super) fn enter_poll(&self) -> Option<Arc<Poller>> {
        let poller = self.poller.get()?;
        let is_free = !self.is_stopped.load(Ordering::Acquire) && !self.guest.swap(true, Ordering::Acquire);
        is_free.then(|| Arc::clone(poller))
    }

    pub(super) fn leave_poll(&self, poller: &Poller) {
        self.guest.store(false, Ordering::Release);
        drop(self.guest_gate.lock());
        self.guest_left.notify_one();
        if self.is_stopped.load(Ordering::Acquire) {
            // The last wake-up was meant for the thread of the connections.
            poller.wake();
        }
    }

    /// Reads until that is so, or the time has come.
    pub(super) fn poll_until(self: &Arc<Self>, poller: &Poller, deadline: Instant, is_so: &impl Fn() -> bool) {
        let mut ready = Vec::new();
        while !is_so() && !self.is_stopped.load(Ordering::Acquire) {
            let is_over = Instant::now() >= deadline;
            if is_over || as_part_of_node(|| self.poll(poller, Some(deadline), &mut ready)).is_err() {
                break;
            }
            ready.append(&mut self.left_over.lock());
        }
        if !ready.is_empty() {
            // Nobody is told again of what there is to read.
            self.left_over.lock().append(&mut ready);
            poller.wake();
        }
    }

    /// The thread of the connections.
    pub(super) fn read_all(self: &Arc<Self>, poller: &Poller) {
        mark_part_of_node();
        let mut ready = Vec::new();
        loop {
            let woken = match self.poll(poller, None, &mut ready) {
                Ok(woken) => woken,
                Err(error) => {
                    tracing::error!(%error, "polling failed: this node neither calls nor is called any more");
                    return;
                }
            };
            if self.is_stopped.load(Ordering::Acquire) {
                // A guest may be left, and the last wake-up was meant for it.
                return poller.wake();
            }
            ready.append(&mut self.left_over.lock());
            if woken && self.guest.load(Ordering::Acquire) {
                // The wake-up was meant for the guest: it is passed on, and does not come here again, also where there is
                // more to read here: a guest that slept on would do so until its limit.
                let mut gate = self.guest_gate.lock();
                poller.wake();
                if self.guest.load(Ordering::Acquire) {
                    self.guest_left.wait_for(&mut gate, GUEST_LIMIT);
                }
            }
        }
    }

    /// Waits for events, at most until then, and does what came. Whether somebody was to be woken.
    fn poll(
        self: &Arc<Self>,
        poller: &Poller,
        deadline: Option<Instant>,
        ready: &mut Vec<Ready>,
    ) -> std::io::Result<bool> {
        // Edge-triggered: one that was not read to its end has its turn again without an event.
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let limit = if ready.is_empty() { left } else { Some(Duration::ZERO) };
        let (mut woken, mut is_time) = (false, false);
        poller.wait(limit, |event| match event.token {
            WAKE => woken = true,
            TIMER => is_time = true,
            token => {
                if event.writable {
                    self.write(token);
                }
                match ready.iter_mut().find(|(known, _)| *known == token) {
                    Some((_, ended)) => *ended |= event.ended,
                    None if event.readable => ready.push((token, event.ended)),
                    None => {}
                }
            }
        })?;
        if is_time {
            self.end_waits_for_services();
        }
        ready.retain(|(token, ended)| self.read(*token, *ended, deadline));
        Ok(woken)
    }

    fn write(&self, number: u64) {
        let mut state = self.state.lock();
        let Some(connection) = state.connections.get_mut(&number) else { return };
        connection.write();
        let relieved: Vec<_> =
            if connection.is_relieved() { connection.flows.values().cloned().collect() } else { Vec::new() };
        // That may be code of whoever waits.
        drop(state);
        relieved.iter().for_each(|flow| flow.writes.tell());
    }

    /// Reads a connection and does what came. True if there is more to read.
    fn read(self: &Arc<Self>, number: u64, ended: bool, deadline: Option<Instant>) -> bool {
        // Somebody else may be at a handler that takes long; a guest does not wait for that for ever.
        let in_order = match deadline {
            Some(deadline) => self.reading.try_lock_until(deadline),
            None => Some(self.reading.lock()),
        };
        if in_order.is_none() {
            return true;
        }
        let (mut frames, mut todo) = (Vec::new(), Vec::new());
        let mut state = self.state.lock();
        let Some(connection) = state.connections.get_mut(&number) else { return false };
        let progress = connection.read(&mut frames, ended);
        let mut frames = frames.into_iter();
        loop {
            for frame in frames.by_ref().take(FRAMES_AT_ONCE) {
                state.take(number, frame, &mut todo);
            }
            if frames.len() == 0 {
                break;
            }
            drop(state);
            self.perform(std::mem::take(&mut todo));
            state = self.state.lock();
        }
        let more = matches!(progress, Progress::More);
        state.progress(number, progress, &mut todo);
        drop(state);
        self.perform(todo);
        more
    }
}

impl State {
    fn progress(&mut self, number: u64, progress: Progress, todo: &mut Vec<Todo>) {
        match progress {
            Progress::Waits | Progress::More => {}
            Progress::Ended(reason) => self.ended(number, &reason, todo),
            Progress::Malformed(what) => {
                self.malformed += 1;
                tracing::warn!(what, "ending a connection for calls");
                self.ended(number, &format!("it sent {what}"), todo);
            }
        }
    }
}
