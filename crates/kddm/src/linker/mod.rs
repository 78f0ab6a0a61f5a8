//! What may stand behind a set: an object can be a page of a file, a row, something that only this machine has.

mod error;
mod store;

pub use error::LinkerError;
pub use store::{Stamp, Store, Stored, Written};
