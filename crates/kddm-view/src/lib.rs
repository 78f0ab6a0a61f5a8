//! Who is in: one agreed sequence of views, the same on every member (`I7`).
//!
//! Sans-IO: nothing here opens a socket or reads a clock. The node hands in messages and the time,
//! sends what [`ViewLog::take_outgoing`] gives it, and applies what was decided:
//!
//! ```text
//!  propose -> ViewLog -> decided entries -> State -> View -> events -> Notifiers
//! ```
//!
//! What is here: a log with one voter, the state machine that turns its entries into views, the
//! notifiers, and when a silent member can be expelled ([`lease`]). The loss of the node that decides
//! needs a restart of the cluster until there are several voters.
//!
//! ```
//! use kddm_core::id::NodeId;
//! use kddm_core::view::NodeState;
//! use kddm_view::{Change, ClusterId, Identity, SessionId, SingleVoter, State, ViewLog};
//!
//! let identity = Identity { cluster: ClusterId(1), session: SessionId::DEFAULT };
//! let mut state = State::new(identity, NodeId(1));
//! let mut log = SingleVoter::voter(NodeId(1), state.applied());
//! log.propose(Change::Join { node: Some(NodeId(1)), address: "127.0.0.1:7600".into(), nonce: 42, site: Default::default() })?;
//! for entry in log.decided_since(state.applied())? {
//!     state.apply(&entry)?;
//! }
//! let view = state.view();
//! assert_eq!(view.member(NodeId(1)).map(|member| member.state), Some(NodeState::Online));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod change;
pub mod detector;
mod frozen;
mod identity;
pub mod lease;
mod log;
mod node_log;
mod notifier;
mod single_voter;
mod state;
mod state_bytes;
mod voters;

pub use change::{
    ADDRESS_BYTES, CHANGE_BYTES, CHANGE_SCHEMA, Cause, Change, MalformedChange, Site, VOTERS, ZONE_BYTES,
};
pub use frozen::{FREEZES, Frozen};
pub use identity::{ClusterId, Foreign, Identity, NoSuchSession, SessionId};
pub use log::{Decided, LogError, Outgoing, ViewLog};
pub use node_log::{LogSource, News, NodeLog};
pub use notifier::{
    Call, Callback, Chain, Event, NOTIFIER_LIMIT_NS, NOTIFIER_NAME_BYTES, NOTIFIERS, Notifiers, Overrun, Registration,
    RegistryError, VIEWS_WAITING,
};
pub use single_voter::{
    ENTRIES_KEPT, ENTRIES_PER_MESSAGE, FOLLOW_INTERVAL_NS, FOLLOWER_SILENCE_NS, MESSAGE_BYTES, PROPOSALS, SingleVoter,
};
pub use state::{
    EPOCHS, Gap, LEASE_MS_DEFAULT, LEASE_MS_LEAST, LEASE_MS_LEAST_VIRTUAL, LEASE_MS_MOST, MEMBERS, MemberEntry,
    Outcome, Refused, State,
};
pub use state_bytes::{MalformedState, STATE_BYTES, STATE_SCHEMA};
pub use voters::choice::choose_voters;
pub use voters::disk::RedbDisk;
pub use voters::leading::Pace;
pub use voters::memory::{MemoryDisk, Mutation};
pub use voters::message::VOTERS_MESSAGE_BYTES;
pub use voters::storage::{Batch, Kept, Nowhere, Promise, Storage, StorageError};
pub use voters::{ELECTION_NS, HEARTBEAT_NS, PROPOSE_INTERVAL_NS, VOTERS_ENTRIES_KEPT, Voters};
