//! KDDM: programs on many machines share objects as if they were local.
//!
//! Put a variable into a *set*, [`get`](Set::get) it to read, [`grab`](Set::grab) it to write,
//! [`put`](WriteGuard::put) it back. A read of a valid copy costs nanoseconds and touches no network;
//! a write invalidates all copies first; ownership moves to whoever writes.
//!
//! ```
//! let nodes = kddm::Node::local_cluster(2)?; // or Node::join(Config::new().contact(..))
//!
//! let notes: kddm::Set<String> = nodes[0].set("notes").open().wait()?;
//! let mut note = notes.grab(7).wait()?; // the only copy in the cluster is here now
//! note.push_str("hello"); //               an ordinary &mut String
//! note.put().wait()?; //                   others may have it
//!
//! let elsewhere: kddm::Set<String> = nodes[1].set("notes").open().wait()?;
//! let note = elsewhere.get(7).wait()?; //  a read copy: keeps writers out until dropped
//! assert_eq!(*note, "hello");
//! # Ok::<(), kddm::Error>(())
//! ```

pub mod budget;
#[doc(hidden)]
pub mod cell;
mod chain;
mod coordination;
mod cow;
pub mod error;
#[cfg(test)]
mod eventually;
pub mod expiry;
mod freeze;
mod guard;
#[doc(hidden)]
pub mod guardian;
mod health;
mod holder;
mod incident;
mod inspect;
pub mod invoke;
pub mod linker;
mod node;
mod notifier;
mod object_ref;
mod on_loss;
mod operation;
mod options;
mod outcome;
mod pages;
mod pending;
mod place;
mod placed_by;
mod promise;
pub mod rpc;
mod runtime;
mod scan;
mod set;
mod spare;
mod sync;
mod system;
mod together;
#[doc(hidden)]
pub mod transport;
pub mod value;
mod watch;
mod watch_all;

pub use budget::BudgetInfo;
pub use cell::HeldBy;
pub use coordination::{
    Barrier, BarrierInfo, CoordinationError, IdsInfo, Latch, LatchInfo, NameCounts, NameHold, NameInfo, NameList,
    Names, Parties, Party, Passed, UniqueIds, WhyBroken,
};
pub use error::{AccessError, ConfigurationError, Error, Fate, MembershipError, SetError, WaitingFor, WhyUnreachable};
pub use expiry::{Expire, ExpiryInfo, OnExpiry};
pub use freeze::{Freeze, FreezeError};
pub use guard::{ReadGuard, WriteGuard};
pub use health::{Health, SetHealth};
pub use holder::{By, Holder};
pub use incident::Incident;
pub use inspect::{Holding, Holdings, ProgramInfo, RecoveryInfo, SetInfo, SetUsage, ShardUsage};
pub use invoke::{InvokeError, Operation};
pub use kddm_view::LogSource;
pub use linker::LinkerError;
pub use node::{MemberInfo, Node, NodeState};
pub use notifier::{Chain, MemberEvent, Notifier, Priority};
pub use object_ref::ObjectRef;
pub use on_loss::OnLoss;
pub use options::{Config, least_lease};
pub use pending::Pending;
pub use place::{attach_socket, default_data_dir, default_guardian};
pub use placed_by::PlacedBy;
pub use rpc::RpcError;
pub use runtime::deciding::VotingInfo;
pub use runtime::leasing::{LeaseCounts, LeaseInfo};
pub use runtime::per_kind::PerKind;
pub use runtime::statistics::Statistics;
pub use scan::{AtOwner, ObjectDetail, ObjectEvent, ObjectFate, ObjectHistory};
pub use scan::{
    BadCursor, Cursor, Found, HeldAs, Local, LocalObject, ObjectInfo, ObjectPage, ObjectState, Scan, ScanPage,
    ScanValues,
};
pub use set::Set;
pub use system::{DEFAULT_REPLICAS, SetBuilder};
pub use together::{Wanted, Wishes, together};
pub use transport::Address;
pub use value::{Pod, Raw, Value};
pub use watch::{BadSeen, Seen};
pub use watch_all::{BadPosition, Change, Position, WatchAll, WatchCounts};
