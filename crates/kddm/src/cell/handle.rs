//! The shortest way to one object: where its cell is, found once.

use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use super::arena::Cell;
use super::hold::{ReadHold, WriteHold};
use super::sync::Ordering;
use super::table::Table;
use super::word::Slow;
use crate::value::Value;

/// Remembers the cell of an object of a table. Cells never move, and the handle keeps their table, so
/// that nothing is looked up again; a cell that has come to stand for another object is noticed by its
/// id.
pub struct Handle<T: Value> {
    table: Arc<Table<T>>,
    id: u64,
    /// Null is "not known". Otherwise from this table's arena.
    cell: std::sync::atomic::AtomicPtr<Cell>,
}

impl<T: Value> Handle<T> {
    /// A handle to the object of that id, whether it has a cell by now or not.
    pub fn new(table: Arc<Table<T>>, id: u64) -> Handle<T> {
        let handle = Handle { table, id, cell: null_mut::<Cell>().into() };
        handle.look_up();
        handle
    }

    /// The object's id.
    #[inline(always)]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Finds the cell anew, after the answer was that the object is not in it.
    pub fn look_up(&self) {
        let cell = self.table.find_pointer(self.id).map_or(null_mut(), NonNull::as_ptr);
        // `Release`: whoever takes the pointer from here sees the cell as it was made.
        self.cell.store(cell, Ordering::Release);
    }

    #[inline(always)]
    fn pointer(&self) -> Option<NonNull<Cell>> {
        NonNull::new(self.cell.load(Ordering::Acquire))
    }

    /// As [`Table::try_read`].
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn try_read(&self) -> Result<ReadHold<T>, Slow> {
        let pointer = self.pointer().ok_or(Slow::NoAccess)?;
        // SAFETY: it was found in this table.
        unsafe { self.table.read_at(pointer, self.id) }
    }

    /// As [`Table::try_write`].
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn try_write(&self) -> Result<WriteHold<T>, Slow> {
        let pointer = self.pointer().ok_or(Slow::NoAccess)?;
        // SAFETY: it was found in this table.
        unsafe { self.table.write_at(pointer, self.id) }
    }

    /// As [`Table::pod_glance`].
    #[inline(always)]
    pub fn pod_glance(&self) -> Option<T> {
        let pointer = self.pointer()?;
        // SAFETY: it was found in this table.
        unsafe { self.table.pod_glance_at(pointer, self.id) }
    }

    /// As [`Table::pod_read`].
    pub fn pod_read(&self) -> Option<T> {
        let pointer = self.pointer()?;
        // SAFETY: it was found in this table.
        unsafe { self.table.pod_at(pointer, self.id) }
    }
}

impl<T: Value> Clone for Handle<T> {
    fn clone(&self) -> Handle<T> {
        let cell = self.cell.load(Ordering::Acquire).into();
        Handle { table: Arc::clone(&self.table), id: self.id, cell }
    }
}
