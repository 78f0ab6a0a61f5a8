//! From a table of bytes to one of values: a set is opened with a type for the first time here.

use std::any::Any;

use super::store::{RevokeResult, Store};
use super::table::Table;
use crate::value::{Raw, Value};

impl<T: Value> Table<T> {
    /// A table of `T` with all objects of `raw`, a set that nobody had opened here with a type:
    /// values as bytes, versions, access and flags. `raw` is empty of access and values afterwards.
    /// `None`, and nothing has changed, if `raw` has another type or somebody holds one of its objects.
    ///
    /// The caller holds all lanes.
    pub fn adopt(raw: &dyn Store) -> Option<Table<T>> {
        let any: &dyn Any = raw;
        let raw = any.downcast_ref::<Table<Raw>>()?;
        let cells = raw.cells();
        let mut taken = Vec::with_capacity(cells.len());
        for (id, cell) in cells {
            let (access, flags) = (raw.access(cell), raw.pending(cell));
            if raw.try_revoke(cell) == RevokeResult::Held {
                for (_, cell, access, flags) in taken {
                    raw.grant(cell, access);
                    raw.set_pending(cell, flags);
                }
                return None;
            }
            taken.push((id, cell, access, flags));
        }
        let table = Table::new();
        for (id, cell, access, flags) in taken {
            let mut bytes = Vec::new();
            let has_value = raw.encode(cell, &mut bytes).unwrap_or(false);
            let to = table.find_or_insert(id);
            // Bytes that do not fit the type stay, and whoever reads them gets the error.
            let _undecodable = table.install(to, raw.version(cell), has_value.then_some(&bytes));
            table.grant(to, access);
            table.set_pending(to, flags);
            raw.release_cell(cell);
        }
        Some(table)
    }
}
