//! Runs the notifiers of a node, on a thread of their own.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kddm_core::id::{Incarnation, NodeId, Time};
use kddm_core::view::{NodeState, View};
use kddm_view::{Notifiers, Registration, RegistryError};
use parking_lot::{Condvar, Mutex};

use crate::error::Error;
use crate::incident::{Incident, WATCHERS, Watcher};
use crate::notifier::{MemberEvent, Wanted, refused};
use crate::runtime::Runtime;

/// How long a stop waits for notifiers: what a clean leave may take at all.
pub(crate) const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// Incidents that wait while a watcher runs: one each for many sets.
const INCIDENTS_WAITING: usize = 1024;

struct Queue {
    notifiers: Notifiers,
    /// What has become of objects, and those who hear of that.
    incidents: VecDeque<Incident>,
    watchers: Vec<Watcher>,
    /// The last view was queued: the thread ends when all have heard.
    is_closed: bool,
}

/// The notifiers of a node, and those who wait for them.
pub(crate) struct Notify {
    queue: Mutex<Queue>,
    /// Told when a view is queued, and when a call is done.
    news: Condvar,
    overruns: AtomicU64,
    panics: AtomicU64,
}

impl Notify {
    /// With the notifiers that are to hear of everything from the beginning.
    pub fn new(limit: Duration, here: u16, wanted: &[Wanted]) -> Result<Notify, Error> {
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let queue = Mutex::new(Queue {
            notifiers: Notifiers::new(limit_ns),
            incidents: VecDeque::new(),
            watchers: Vec::new(),
            is_closed: false,
        });
        let (overruns, panics) = Default::default();
        let notify = Notify { queue, news: Condvar::new(), overruns, panics };
        for wanted in wanted {
            notify.register(here, wanted).map_err(|error| refused(&wanted.name, &error))?;
        }
        Ok(notify)
    }

    /// What there is already, of which nobody is told.
    pub fn begin_with(&self, view: View) {
        let mut queue = self.queue.lock();
        queue.notifiers.installed(view);
        let _nobody_is_registered = queue.notifiers.next_call(Time(0));
    }

    pub fn register(&self, here: u16, wanted: &Wanted) -> Result<Registration, RegistryError> {
        let function = Arc::clone(&wanted.function);
        let callback = Arc::new(move |event: &kddm_view::Event| function(&MemberEvent::new(event, here)));
        self.queue.lock().notifiers.register(wanted.chain, wanted.priority, &wanted.name, callback)
    }

    /// Takes a notifier out and waits until it does not run, except on the thread that runs it.
    pub fn unregister(&self, registration: Registration) {
        let mut queue = self.queue.lock();
        queue.notifiers.unregister(registration);
        while super::wait::may_block() && queue.notifiers.is_running(registration) {
            self.news.wait(&mut queue);
        }
    }

    /// Has `watcher` told of incidents. False if there are as many as there may be.
    pub fn watch(&self, watcher: Watcher) -> bool {
        let mut queue = self.queue.lock();
        let has_room = queue.watchers.len() < WATCHERS;
        if has_room {
            queue.watchers.push(watcher);
        }
        has_room
    }

    /// Tells those who watch, if there are any.
    pub fn happened(&self, incident: Incident) {
        let mut queue = self.queue.lock();
        if queue.watchers.is_empty() || queue.is_closed {
            return;
        }
        if queue.incidents.len() >= INCIDENTS_WAITING {
            tracing::warn!(?incident, "too many incidents wait for a watcher: nobody is told of this one");
            return;
        }
        queue.incidents.push_back(incident);
        self.news.notify_all();
    }

    pub fn installed(&self, view: View) {
        let mut queue = self.queue.lock();
        if !queue.is_closed {
            queue.notifiers.installed(view);
            self.news.notify_all();
        }
    }

    /// The last view: nothing comes after it.
    pub fn close(&self, view: View) {
        let mut queue = self.queue.lock();
        if !queue.is_closed {
            queue.notifiers.installed(view);
            queue.is_closed = true;
            self.news.notify_all();
        }
    }

    /// Nothing comes any more.
    pub fn end(&self) {
        self.queue.lock().is_closed = true;
        self.news.notify_all();
    }

    /// Waits until all have heard of everything. False at the deadline.
    pub fn drain(&self, deadline: Instant) -> bool {
        let mut queue = self.queue.lock();
        while !queue.notifiers.is_idle() {
            if self.news.wait_until(&mut queue, deadline).timed_out() {
                return queue.notifiers.is_idle();
            }
        }
        true
    }

    /// The state of that life of a node that all notifiers here have heard of.
    pub fn told(&self, node: NodeId, incarnation: Incarnation) -> NodeState {
        self.queue.lock().notifiers.told(node, incarnation)
    }

    pub fn running(&self) -> Option<Arc<str>> {
        self.queue.lock().notifiers.running()
    }

    pub fn overrun_at(&self) -> Option<Time> {
        self.queue.lock().notifiers.overrun_at()
    }

    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }

    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }
}

impl Runtime {
    /// The thread of the notifiers. They must not wait for this node: views would stop.
    pub fn run_notifiers(self: &Arc<Self>) {
        super::wait::mark_part_of_node();
        loop {
            let mut queue = self.notify.queue.lock();
            if let Some(call) = queue.notifiers.next_call(self.now()) {
                drop(queue);
                if catch_unwind(AssertUnwindSafe(|| (call.callback)(&call.event))).is_err() {
                    self.notify.panics.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(notifier = &*call.name, event = ?call.event, "a notifier panicked; the next goes on");
                }
                // It may have overrun its limit where nobody was looking.
                self.report_overrun();
                self.notify.queue.lock().notifiers.done();
                self.notify.news.notify_all();
                continue;
            }
            if let Some(incident) = queue.incidents.pop_front() {
                let watchers = queue.watchers.clone();
                drop(queue);
                self.tell_watchers(&watchers, &incident);
                continue;
            }
            if queue.is_closed {
                self.notify.news.notify_all();
                return;
            }
            drop(queue);
            // Whoever joins waits for what has been told, under the lock of the membership.
            drop(self.membership.lock());
            self.changed.notify_all();
            self.notify.news.notify_all();
            let mut queue = self.notify.queue.lock();
            if queue.notifiers.is_idle() && queue.incidents.is_empty() && !queue.is_closed {
                self.notify.news.wait(&mut queue);
            }
        }
    }

    fn tell_watchers(&self, watchers: &[Watcher], incident: &Incident) {
        for watcher in watchers {
            if catch_unwind(AssertUnwindSafe(|| watcher(incident))).is_err() {
                self.notify.panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!(?incident, "a watcher of incidents panicked; the next goes on");
            }
        }
    }

    /// Says once of each notifier that overruns its limit that it does.
    pub fn report_overrun(&self) {
        let overrun = self.notify.queue.lock().notifiers.overrun(self.now());
        if let Some(overrun) = overrun {
            self.notify.overruns.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("{overrun}");
        }
    }

    /// The way down of this node, as its own notifiers see it, and the end of all notifications.
    pub fn close_notifiers(&self, limit: Duration) {
        if self.lender.is_some() {
            // That a program goes is no change of the membership.
            self.notify.end();
        } else {
            let mut view = self.view();
            view.members.retain(|member| member.id != self.identity.id);
            self.notify.close(view);
        }
        if super::wait::may_block() && !self.notify.drain(super::wait::deadline_in(limit)) {
            let name = self.notify.running();
            tracing::error!(?name, ?limit, "this node stops although a notifier still runs");
        }
    }
}
