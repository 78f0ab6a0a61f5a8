//! Who is writing: for those who must know that nobody does.

use super::CellNumber;
use super::notes::Notes;
use super::slots::holds_any;
use super::table::Table;
use super::word::WRITER;
use crate::value::Value;

/// See the module. As for [`Store`](super::Store), the caller holds the lane of the object.
pub trait Written {
    /// Whether somebody holds the object to write.
    fn is_written(&self, cell: CellNumber) -> bool;

    /// Whether this thread holds an object of this store, as far as that has been noted.
    fn is_used_by_this_thread(&self) -> bool;
}

impl<T: Value> Written for Table<T> {
    fn is_written(&self, cell: CellNumber) -> bool {
        self.live(cell).is_some_and(|cell| cell.word.load().has(WRITER))
    }

    fn is_used_by_this_thread(&self) -> bool {
        holds_any(|address| self.arena.contains(address))
    }
}

impl<T: Value> Table<T> {
    /// Whether a holder holds an object of this table.
    pub(crate) fn is_used_by(&self, notes: &Notes) -> bool {
        notes.holds_any(|address| self.arena.contains(address))
    }
}
