//! Where a thread or a task waits for what a connection brings. A thread reads the connections itself when no other
//! one that waits does: what it waits for costs no hand-off then.

use std::sync::Arc;
use std::task::Waker;
use std::thread::ThreadId;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::engine::Engine;
use crate::runtime::turn::{Alarmed, wake};
use crate::transport::Poller;

#[derive(Default)]
struct Inside {
    /// How often it was told that there is news.
    told: u64,
    waker: Option<Waker>,
    /// The thread that waits reads the connections, and has to be woken there.
    polling: Option<(ThreadId, Arc<Poller>)>,
}

/// See the module. One thread or task waits at a time.
#[derive(Default)]
pub(crate) struct Seat {
    inside: Mutex<Inside>,
    news: Condvar,
}

impl Seat {
    /// There is news. Wakes whoever waits, so no lock may be held.
    pub fn tell(&self) {
        let mut inside = self.inside.lock();
        inside.told += 1;
        let waker = inside.waker.take();
        let polling = inside.polling.as_ref().filter(|(thread, _)| *thread != std::thread::current().id());
        let poller = polling.map(|(_, poller)| Arc::clone(poller));
        drop(inside);
        self.news.notify_all();
        if let Some(poller) = poller {
            poller.wake();
        }
        waker.into_iter().for_each(wake);
    }

    /// Waits until that is so, at most until then.
    pub fn wait(&self, engine: &Arc<Engine>, deadline: Instant, is_so: impl Fn() -> bool) {
        loop {
            let told = self.inside.lock().told;
            if is_so() || Instant::now() >= deadline {
                return;
            }
            if let Some(poller) = engine.enter_poll() {
                self.inside.lock().polling = Some((std::thread::current().id(), Arc::clone(&poller)));
                engine.poll_until(&poller, deadline, &is_so);
                self.inside.lock().polling = None;
                engine.leave_poll(&poller);
                continue;
            }
            let mut inside = self.inside.lock();
            if inside.told == told {
                self.news.wait_until(&mut inside, deadline);
            }
        }
    }

    /// Leaves a waker behind, in the place of an earlier one. What it waits for is to be looked at again behind this.
    pub fn wake_by(&self, waker: &Waker) {
        // Neither copied nor dropped under the lock: that is code of whoever waits.
        let mut waker = Some(waker.clone());
        std::mem::swap(&mut self.inside.lock().waker, &mut waker);
    }

    /// Nobody is woken any more.
    pub fn forget(&self) {
        let waker = self.inside.lock().waker.take();
        drop(waker);
    }
}

impl Alarmed for Seat {
    fn ring(&self) {
        let waker = self.inside.lock().waker.take();
        waker.into_iter().for_each(wake);
    }
}
