//! From a table of bytes to one of values: a set is opened with a type for the first time here.

use std::any::Any;

use super::CellNumber;
use super::store::{RevokeResult, Store};
use super::table::Table;
use super::word::{COLD, REVOKE, WAITERS, WATCHED};
use crate::value::{Raw, Value};

/// What waits, who is told, and that a hand has passed.
const MOVED: u64 = REVOKE | WAITERS | WATCHED | COLD;

impl<T: Value> Table<T> {
    /// A table of `T` with all objects of `raw`, a set that nobody had opened here with a type:
    /// values as bytes, versions, access and marks, each in the cell of the same number, so that who
    /// is just walking through the cells goes on. `raw` is empty of access and values afterwards.
    /// `None`, and nothing has changed, if `raw` has another type or somebody holds one of its objects.
    ///
    /// The caller holds all lanes.
    pub fn adopt(raw: &dyn Store) -> Option<Table<T>> {
        let any: &dyn Any = raw;
        let raw = any.downcast_ref::<Table<Raw>>()?;
        let cells = raw.cells();
        let mut taken = Vec::with_capacity(cells.len());
        for (id, cell) in cells {
            let (access, flags) = (raw.access(cell), raw.moved_flags(cell));
            if raw.try_revoke(cell) == RevokeResult::Held {
                for (_, cell, access, flags) in taken {
                    raw.grant(cell, access);
                    raw.set_moved_flags(cell, flags);
                }
                return None;
            }
            taken.push((id, cell, access, flags));
        }
        let table = Table::new();
        for (id, cell, access, flags) in taken {
            let mut bytes = Vec::new();
            let has_value = raw.encode(cell, &mut bytes).unwrap_or(false);
            let to = table.insert_at(id, cell);
            // Bytes that do not fit the type stay, and whoever reads them gets the error.
            let _undecodable = table.install(to, raw.version(cell), has_value.then_some(&bytes));
            table.grant(to, access);
            table.set_moved_flags(to, flags);
            raw.release_cell(cell);
        }
        Some(table)
    }
}

impl<T: Value> Table<T> {
    /// What a cell keeps when it moves to another table.
    fn moved_flags(&self, cell: CellNumber) -> u64 {
        self.live(cell).map_or(0, |cell| cell.word.load().0 & MOVED)
    }

    /// Sets what [`Self::moved_flags`] said.
    fn set_moved_flags(&self, cell: CellNumber, flags: u64) {
        if let Some(cell) = self.live(cell) {
            cell.word.change(|word| word | (flags & MOVED));
        }
    }

    /// The cell of a new object, of that number, in a table that has none of that or a higher one in use.
    fn insert_at(&self, id: u64, number: CellNumber) -> CellNumber {
        {
            let mut writer = self.writer.lock();
            while self.arena.count() < number {
                let unused = self.arena.grow();
                writer.free.push(unused);
            }
            if self.arena.count() == number {
                let next = self.arena.grow();
                writer.free.push(next);
            }
        }
        // The one that was made last is taken first.
        self.find_or_insert(id)
    }
}
