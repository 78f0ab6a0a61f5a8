//! Who hears that a read hold has ended while somebody waited for that.
//!
//! A read guard carries no reference to its set or node: counting it would write a line that all
//! readers write. It carries the number of its table instead; only a release that must be told, which
//! is rare, looks the number up here.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use kddm_core::id::{ObjectId, SetId};
use parking_lot::RwLock;

use super::Runtime;

static TABLES: RwLock<BTreeMap<u64, (Weak<Runtime>, SetId)>> = RwLock::new(BTreeMap::new());

/// Holds of that table belong to that set of that node. Forgets nodes that are gone.
pub(crate) fn register(table: u64, runtime: &Arc<Runtime>, set: SetId) {
    let mut tables = TABLES.write();
    tables.retain(|_, (runtime, _)| runtime.strong_count() > 0);
    tables.insert(table, (Arc::downgrade(runtime), set));
}

/// A hold of that table has ended, and its release said that somebody waits.
#[cold]
pub(crate) fn released(table: u64, object: u64) {
    let found = TABLES.read().get(&table).and_then(|(runtime, set)| Some((runtime.upgrade()?, *set)));
    if let Some((runtime, set)) = found {
        let lane = runtime.lane(set, ObjectId(object));
        let mut state = lane.lock();
        state.released(set, ObjectId(object));
        lane.finish(state);
    }
}
