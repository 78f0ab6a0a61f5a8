//! What may stand behind a set: an object can be a page of a file, a row, something that only this machine has.

mod directory;
mod error;
mod memory;
mod store;
mod verdict;

pub use directory::Directory;
pub use error::LinkerError;
pub use memory::Memory;
pub use store::{Durability, MOST_STORED_BYTES, Stamp, Store, Stored, Written};
pub use verdict::Verdict;
