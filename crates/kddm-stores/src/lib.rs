//! Stores for what stands behind a set ([`kddm::linker::Store`]): [`Redb`], one file that one process has open, and [`Sqlite`],
//! a table in a database that several may have open. They are a crate of their own because of what they bring along. Those that
//! bring nothing are in `kddm` itself: [`Memory`](kddm::linker::Memory) and [`Directory`](kddm::linker::Directory).
//!
//! What each keeps, promises and refuses: docs/stores.md. Whoever writes another one tries it with [`promises`].

/// The page for users, whose example is tried.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/stores.md")]
struct Page;

#[cfg(any(feature = "redb", feature = "sqlite"))]
mod group;
pub mod promises;
#[cfg(any(feature = "redb", feature = "sqlite"))]
mod record;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "redb")]
pub use self::redb::Redb;
#[cfg(feature = "sqlite")]
pub use self::sqlite::{Rows, Sqlite};
/// The version that [`Rows`] takes closures of.
#[cfg(feature = "sqlite")]
pub use rusqlite;
