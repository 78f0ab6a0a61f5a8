//! What a process has of names: its classes, and counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::class::Class;

/// What a process counts of the names that it uses.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct NameCounts {
    /// Names that it uses now, of all classes.
    pub used: u64,
    /// Names that it uses no more, and of which the cluster could not be told yet.
    pub untold: u64,
    /// Uses that it has ended because their nodes, or programs, were gone.
    pub ended: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub used: AtomicU64,
    pub untold: AtomicU64,
    pub ended: AtomicU64,
}

/// See the module.
#[derive(Default)]
pub(crate) struct NamesHere {
    /// Those that no handle keeps any more are replaced, or forgotten with the next.
    classes: Mutex<BTreeMap<String, Weak<Class>>>,
    pub(super) counts: Counters,
}

impl NamesHere {
    pub(super) fn find(&self, class: &str) -> Option<Arc<Class>> {
        self.classes.lock().get(class)?.upgrade()
    }

    /// Keeps what was made, unless somebody was faster.
    pub(super) fn keep(&self, class: &str, made: Arc<Class>) -> Arc<Class> {
        let mut classes = self.classes.lock();
        if let Some(known) = classes.get(class).and_then(Weak::upgrade) {
            return known;
        }
        classes.retain(|_, kept| kept.strong_count() > 0);
        classes.insert(class.into(), Arc::downgrade(&made));
        made
    }

    pub(super) fn note_ended(&self, uses: usize) {
        self.counts.ended.fetch_add(uses as u64, Ordering::Relaxed);
    }

    pub(crate) fn counted(&self) -> NameCounts {
        let of = |what: &AtomicU64| what.load(Ordering::Relaxed);
        NameCounts { used: of(&self.counts.used), untold: of(&self.counts.untold), ended: of(&self.counts.ended) }
    }

    /// A member shares objects no more: what it used is free. Whoever tells of it is not kept waiting.
    pub(crate) fn sweep_soon(&self) {
        let classes: Vec<Weak<Class>> =
            self.classes.lock().values().filter(|of| of.strong_count() > 0).cloned().collect();
        if classes.is_empty() {
            return;
        }
        let sweep = move || classes.iter().filter_map(Weak::upgrade).for_each(|class| class.sweep());
        if let Err(error) = std::thread::Builder::new().name("kddm-names".into()).spawn(sweep) {
            tracing::warn!(%error, "no thread to free names; whoever looks at them next does");
        }
    }
}
