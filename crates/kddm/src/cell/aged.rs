//! A look at many cells that takes no lane: which objects are here, and whether they have changed.

use super::CellNumber;
use super::sync::Ordering;
use super::table::Table;
use super::word::{LIVE, WRITER};
use crate::value::Value;
use kddm_core::io::Access;

/// An object with a value, as it was a moment ago.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Looked {
    /// The object.
    pub object: u64,
    /// Puts that the value had seen.
    pub version: u64,
    /// What this node's threads might do with it.
    pub access: Access,
    /// Whether somebody held it, but for readers in slots.
    pub is_held: bool,
}

/// See the module. **Nothing rests on what is seen**: it may be another by now, and the caller need not have the lanes.
pub trait Aged {
    /// The objects with a value in the `most` cells from that number on, and where the rest begins, if there is one.
    fn look(&self, first: CellNumber, most: u32) -> (Vec<Looked>, Option<CellNumber>);
}

impl<T: Value> Aged for Table<T> {
    fn look(&self, first: CellNumber, most: u32) -> (Vec<Looked>, Option<CellNumber>) {
        let count = self.arena.count();
        let end = first.saturating_add(most).min(count);
        let looked = self.live_cells(first..end).filter_map(|(object, _, cell)| {
            let (version, seen) = (cell.version.load(Ordering::Acquire), cell.word.load());
            // The cell may be another object's by now: that one is looked at the next time.
            let is_same = seen.has(LIVE) && cell.id.load(Ordering::Acquire) == object;
            (is_same && super::store::has_value(cell)).then(|| {
                let is_held = seen.has(WRITER) || seen.has_counted_readers();
                Looked { object, version, access: seen.access(), is_held }
            })
        });
        (looked.collect(), (end < count).then_some(end))
    }
}
