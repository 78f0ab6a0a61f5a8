//! Objects behind which something stands that keeps what is put: what holds of them need besides.

use std::sync::atomic::Ordering;

use super::head::{Head, LINKED, REPLICATED};
use super::hold::{Hold, WriteHold};
use super::table::Table;
use crate::value::Value;

impl Head {
    /// What is put here is done when what stands behind the set keeps it, unless the table has ended.
    fn set_linked(&self) {
        for from in [0, REPLICATED] {
            let _ended_already = self.ended.compare_exchange(from, LINKED, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

impl<T: Value> Table<T> {
    /// What is put here is done when what stands behind the set keeps it.
    pub fn set_linked(&self) {
        self.head().set_linked();
    }
}

impl Hold {
    /// Nobody is noted for it any more. A hold to read may be nothing but its note, which stays.
    fn forget_note(&mut self) {
        if let Some(slot) = self.mark.slot().filter(|_| self.is_write()) {
            slot.clear();
            self.mark = self.mark.without_slot();
        }
    }
}

impl<T: Value> WriteHold<T> {
    /// Whether something stands behind the set, which keeps what is put.
    pub fn is_linked(&self) -> bool {
        self.hold.head().ended.load(Ordering::Acquire) == LINKED
    }

    /// It is on its way to another thread: nobody is noted for it any more.
    pub fn forget_note(&mut self) {
        self.hold.forget_note();
    }
}
