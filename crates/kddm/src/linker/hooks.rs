//! Linkers that want to hear of the copies that this node has: a thread of the linker tells them, one thing after the other.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use kddm_core::id::{ObjectId, SetId};
use kddm_core::io::Access;
use parking_lot::Mutex;

use super::copies::{Copies, Lowered, Step};
use super::error::LinkerError;
use super::here::count;
use super::linked::Linked;
use crate::cell::{CellNumber, HeldBy, Store, Table};
use crate::error::Error;
use crate::incident::Incident;
use crate::runtime::Runtime;
use crate::runtime::hooked::Hooks;
use crate::runtime::turn::Alarmed;
use crate::runtime::wait::mark_part_of_node;
use crate::value::Value;

/// What a linker hears of the copies that its node has: see [`Linker::hears`](super::Linker::hears).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Hears {
    /// Nothing, which costs nothing.
    #[default]
    Nothing,
    /// That a copy is here, and that it goes.
    Copies,
    /// The same, and what this node may do with it.
    Access,
}

/// How often watchers of incidents are told of hooks that fail.
const INCIDENT_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// What one linker is told on one node.
pub(super) struct Telling<T> {
    pub hears: Hears,
    pub copies: Copies<T>,
    place: OnceLock<Place>,
    unsaid: Mutex<Unsaid>,
}

struct Place {
    runtime: Weak<Runtime>,
    set: SetId,
    name: String,
}

/// Failures of which no watcher has heard yet.
#[derive(Default)]
struct Unsaid {
    objects: usize,
    said_at: Option<Instant>,
}

impl<T> Telling<T> {
    pub fn new(hears: Hears) -> Telling<T> {
        Telling { hears, copies: Copies::new(), place: OnceLock::new(), unsaid: Mutex::default() }
    }

    /// As far as the linker hears of it.
    fn heard(&self, access: Access) -> Access {
        if self.hears == Hears::Access { access } else { access.min(Access::Read) }
    }
}

impl<T: Value> Linked<T> {
    /// Has the linker told of what is here, and of what becomes of it, if it wants to hear of that.
    ///
    /// # Errors
    /// The system has no thread.
    pub fn begin_to_tell(self: &Arc<Self>, runtime: &Arc<Runtime>, set: SetId, name: &str) -> Result<(), Error> {
        self.telling.place.get_or_init(|| Place { runtime: Arc::downgrade(runtime), set, name: name.into() });
        if self.telling.hears == Hears::Nothing {
            return Ok(());
        }
        if self.telling.copies.begin() {
            let linked = Arc::clone(self);
            let started = std::thread::Builder::new().name("kddm-hooks".into()).spawn(move || linked.tell_all());
            if let Err(error) = started {
                self.telling.copies.has_ended();
                return Err(LinkerError::NoThread { linker: self.name(), reason: error.to_string() }.into());
            }
        }
        runtime.hook(set, Arc::clone(self) as Arc<dyn Hooks>);
        Ok(())
    }

    /// A first value was made, and is held to write still.
    pub(super) fn made(&self, object: u64, version: u64, value: Option<Arc<T>>) {
        if let Some(value) = value {
            self.telling.copies.came(object, self.telling.heard(Access::Write), || Some((version, value)));
        }
    }

    /// What a linker is to be told of a first value, if it hears of copies.
    pub(super) fn to_tell(&self, value: &T) -> Option<Arc<T>> {
        (self.telling.hears != Hears::Nothing).then(|| Arc::new(value.clone()))
    }

    fn tell_all(&self) {
        mark_part_of_node();
        while let Some((object, step)) = self.telling.copies.next() {
            self.tell(object, &step);
            if self.telling.copies.told(object, &step) {
                self.goes_on(object);
            }
        }
        self.telling.copies.has_ended();
    }

    fn tell(&self, object: u64, step: &Step<T>) {
        let changes = |from, to| {
            if self.telling.hears == Hears::Access {
                self.hook(object, "change_state", |linker| linker.change_state(object, from, to));
            }
        };
        match step {
            Step::Came { version, value, to } => {
                self.hook(object, "insert", |linker| linker.insert(object, *version, value));
                changes(Access::None, *to);
            }
            Step::Changed { from, to } => changes(*from, *to),
            Step::Gone { from } => {
                changes(*from, Access::None);
                self.hook(object, "invalidate", |linker| linker.invalidate(object));
            }
        }
    }

    fn hook(
        &self,
        object: u64,
        hook: &'static str,
        method: impl FnOnce(&dyn super::Linker<T>) -> Result<(), LinkerError>,
    ) {
        count(&self.counts.hooks, 1);
        let Err(error) = self.call(object, false, method) else { return };
        count(&self.counts.hooks_failed, 1);
        tracing::warn!(linker = self.of.name, object, hook, %error, "a hook of a linker has failed; what it was told of stays so");
        let Some(place) = self.telling.place.get() else { return };
        let mut unsaid = self.telling.unsaid.lock();
        unsaid.objects += 1;
        if unsaid.said_at.is_some_and(|at| at.elapsed() < INCIDENT_EVERY) {
            return;
        }
        unsaid.said_at = Some(Instant::now());
        let failures = std::mem::take(&mut unsaid.objects);
        drop(unsaid);
        if let Some(runtime) = place.runtime.upgrade() {
            let (set, linker, reason) = (place.name.clone(), self.name(), error.to_string());
            runtime.notify.happened(Incident::HookFailed { set, linker, object, hook, reason, failures });
        }
    }

    /// Has it looked then what is late, as long as the node runs.
    pub(super) fn ring_at(&self, at: Instant) {
        let Some(runtime) = self.telling.place.get().and_then(|place| place.runtime.upgrade()) else { return };
        if !runtime.is_stopping() {
            let me: Weak<dyn Alarmed> = Weak::clone(&self.me) as _;
            runtime.lanes[0].wake_at(at, me);
        }
    }

    /// Whoever has waited for the linker to hear of an object goes on.
    fn goes_on(&self, object: u64) {
        let Some(place) = self.telling.place.get() else { return };
        let Some(runtime) = place.runtime.upgrade() else { return };
        let (set, object) = (place.set, ObjectId(object));
        let lane = runtime.lane(set, object);
        let mut state = lane.lock();
        state.released(set, object);
        lane.finish(state);
    }
}

impl<T: Value> Hooks for Linked<T> {
    fn came(&self, store: &Arc<dyn Store>, cell: CellNumber, object: u64, access: Access) {
        let look = || {
            let table = Table::<T>::from_store(store)?;
            let hold = table.adopt_read(store.take_read(cell)?).ok()?;
            let copy = (hold.version(), hold.snapshot());
            // The lane is here, and sees to whoever waits.
            let _tells_the_lane = hold.release();
            Some(copy)
        };
        // What cannot be seen does not decode, and whoever reads it hears of that; or somebody writes it, who has made it.
        let _unseen = self.telling.copies.came(object, self.telling.heard(access), look);
    }

    fn lowers(&self, object: u64, to: Access) -> Lowered {
        self.telling.copies.lowers(object, self.telling.heard(to), self.limit)
    }

    fn is_less(&self, object: u64, access: Access) {
        self.telling.copies.is_less(object, self.telling.heard(access));
    }

    fn awaited(&self, object: u64) -> Option<(HeldBy, Instant)> {
        let (awaited, believes) = self.telling.copies.awaited(object)?;
        let who = format!("linker {}, which is still to hear that it goes", self.of.name).into();
        Some((HeldBy { who, is_write: believes == Access::Write }, awaited.since))
    }

    fn end(&self) {
        self.telling.copies.end();
    }
}

impl<T: Value> Alarmed for Linked<T> {
    /// Looks for those who have waited for a hook for too long, and for a thread that could not be started.
    fn ring(&self) {
        if let Some(me) = self.me.upgrade() {
            me.begin_to_write();
        }
        let (late, again) = self.telling.copies.late(Instant::now());
        if !late.is_empty() {
            count(&self.counts.hooks_late, late.len() as u64);
            let (linker, object, objects) = (&self.of.name, late[0], late.len());
            tracing::warn!(
                linker,
                object,
                objects,
                "a hook takes too long: others go on before it has heard that copies go"
            );
        }
        for object in late {
            self.goes_on(object);
        }
        if let Some(at) = again {
            self.ring_at(at);
        }
    }
}
