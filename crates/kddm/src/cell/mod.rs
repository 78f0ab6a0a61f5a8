//! The memory of one set on one node: cells of objects, and the path of a hit, which takes no lock.
//!
//! Two parties use a cell. **Application threads** come by the fast path: [`Table::try_read`],
//! [`Table::try_write`], [`Table::pod_read`], at any time. **The driver** is whoever holds the lock
//! of the object's lane: one thread at a time for each cell; it comes by [`Store`]. Whatever the
//! fast path cannot do it leaves to the driver ([`Slow`]); whatever the driver must wait for, the
//! fast path tells it at the end of a hold (`release` returns true).
//!
//! Rules on which memory safety rests, besides those of each file:
//! - `Store` is called by one thread at a time for each cell.
//! - A value changes only under the write hold, or by the driver while the granted access is none
//!   and no revocation is pending: then nobody holds the object, and nobody can begin to.

mod account;
mod adopt;
mod aged;
mod arena;
mod changed;
mod cold;
mod content;
mod handle;
mod head;
mod hold;
mod index;
mod lease;
mod lent;
mod linked;
mod notes;
mod shared;
mod slots;
mod store;
mod sync;
mod table;
mod told;
mod word;
mod written;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod stress_tests;
#[cfg(all(test, not(loom)))]
mod tests;

pub use account::Account;
pub(crate) use account::SAMPLED;
pub use aged::{Aged, Looked, Marks};
pub use cold::Swept;
pub(crate) use content::encoded_len;
pub use handle::Handle;
pub use head::Ended;
pub use hold::{Hold, ReadHold, WriteHold};
pub use lease::Lease;
pub(crate) use notes::Notes;
pub use shared::SharedBytes;
pub use store::{HeldBy, InstallError, RevokeResult, Store};
pub use table::Table;
pub use told::{Release, Teller, Told};
pub use word::Slow;
pub use written::Written;

/// The number of a cell in its table. It may come to stand for another object: whoever keeps one
/// says which object is meant.
pub type CellNumber = u32;
