//! A look at many cells that takes no lane: which objects are here, and whether they have changed, or were used.

use std::sync::Arc;

use super::CellNumber;
use super::account::{Account, Hand};
use super::sync::Ordering;
use super::table::Table;
use super::word::{COLD, LIVE, USED, WRITER};
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
    /// Whether somebody held it to write: **its version may be that of a put which is not done yet**.
    pub is_written: bool,
    /// Whether it was used since the last look that marked it.
    pub is_used: bool,
}

/// Whether a look leaves a mark, which whoever reads an object next takes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marks {
    Yes,
    No,
}

/// See the module. **Nothing rests on what is seen**: it may be another by now, and the caller need not have the lanes.
pub trait Aged {
    /// The objects with a value in the `most` cells from that number on, and where the rest begins, if there is one.
    fn look(&self, first: CellNumber, most: u32, marks: Marks) -> (Vec<Looked>, Option<CellNumber>);

    /// Whether an object was read since it was marked last.
    fn is_used(&self, cell: CellNumber) -> bool;

    /// It is being read by somebody who has waited for it, which its word does not say.
    fn uses(&self, cell: CellNumber);
}

impl<T: Value> Aged for Table<T> {
    fn look(&self, first: CellNumber, most: u32, marks: Marks) -> (Vec<Looked>, Option<CellNumber>) {
        let count = self.arena.count();
        let end = first.saturating_add(most).min(count);
        let looked = self.live_cells(first..end).filter_map(|(object, number, cell)| {
            let (version, seen) = (cell.version.load(Ordering::Acquire), cell.word.load());
            // The cell may be another object's by now: that one is looked at the next time.
            let is_same = seen.has(LIVE) && cell.id.load(Ordering::Acquire) == object;
            (is_same && super::store::has_value(cell)).then(|| {
                let is_written = seen.has(WRITER);
                let is_held = is_written || seen.has_counted_readers();
                let is_used = marks == Marks::Yes && self.mark(number, cell);
                Looked { object, version, access: seen.access(), is_held, is_written, is_used }
            })
        });
        (looked.collect(), (end < count).then_some(end))
    }

    fn is_used(&self, number: CellNumber) -> bool {
        self.live(number).is_some_and(|cell| {
            let seen = cell.word.load();
            let is_said = |account: &Arc<Account>| account.has_word(number, Hand::OfAges);
            !seen.has(COLD) || seen.has(USED) || self.account().is_some_and(is_said)
        })
    }

    fn uses(&self, number: CellNumber) {
        if let Some(cell) = self.live(number).filter(|cell| cell.word.load().has(COLD)) {
            self.is_in_use(number, cell.id.load(Ordering::Acquire));
        }
    }
}
