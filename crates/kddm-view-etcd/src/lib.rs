//! The view log of a KDDM cluster, kept by an etcd cluster (v3, from 3.4 on) that a site runs already.
//!
//! [`EtcdLog`] is a [`ViewLog`](kddm_view::ViewLog): one agreed sequence of changes. Below `/kddm/<cluster>/<session>/`
//!
//! | key | value |
//! |---|---|
//! | `log/<index>` | an entry; made by a transaction "if it is not there, and the one before is" |
//! | `leader` | who leads; goes with an etcd lease; the revision at which it was written is the *term* |
//! | `base` | the state that the first entry follows |
//! | `heir` | who is to lead next, while one that hands over lives |
//!
//! - **Anybody writes a proposal**, at the first index that it has not seen. Whoever loses reads who has won, and tries the
//!   next one; so an entry is there once, also if the answer was lost and the question is put again.
//! - **What only a leader may judge** is written by a transaction that also compares the revision of `leader`: in its
//!   term, or not at all.
//! - **The lease of the leader** ([`EtcdLog::confirmed`]) counts from before it asked etcd, by a read that a majority of
//!   the servers answers for, whether the key is still its own. The clock of etcd has no part in it: a later leader was
//!   elected after that moment, and waits for a whole lease of the cluster. The etcd lease says only how soon another
//!   one can be elected.
//! - **Etcd notices late** that a leader is gone: two seconds at its default pace, so the leases of the cluster have to be
//!   long ([`Settings::least_lease_ms`]), unless a guardian proves the death ([`EtcdLog::is_dead`]).
//!
//! It speaks to the JSON gateway of etcd by HTTP: three small requests do all of it, and neither a compiler for protocol
//! buffers nor an asynchronous runtime is needed. Requests are not encrypted: etcd has to be on this host, on a
//! network that is trusted, or behind a proxy (`etcd grpc-proxy`, stunnel).
//!
//! A node of a program finds it by [`Etcd`], a [`LogSource`](kddm_view::LogSource):
//!
//! ```no_run
//! use kddm::{Config, Node};
//! use kddm_view_etcd::Etcd;
//!
//! let etcd = Etcd::new(["http://127.0.0.1:2379"]);
//! let config = Config::new().node_id(1).lease(etcd.least_lease()).view_log_in(etcd);
//! let node = Node::join(config).wait()?; // with no contacts: it finds the others there
//! # Ok::<(), kddm::Error>(())
//! ```
//!
//! The log by itself:
//!
//! ```no_run
//! use kddm_core::id::NodeId;
//! use kddm_view::{Change, ClusterId, Identity, SessionId, State, ViewLog};
//! use kddm_view_etcd::{EtcdLog, Settings};
//!
//! let identity = Identity { cluster: ClusterId(1), session: SessionId::DEFAULT };
//! let settings = Settings::new(["http://127.0.0.1:2379"], identity);
//! let state = State::new(identity, NodeId(1)).with_lease_ms(settings.least_lease_ms());
//! let mut log = EtcdLog::found(&settings, NodeId(1), 42, state)?;
//! log.on_news(|| println!("there are entries to apply"));
//! log.propose(Change::Seal)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod book;
mod client;
mod keys;
mod leading;
mod log;
mod shared;
mod source;

pub use client::EtcdError;
pub use log::EtcdLog;
pub use shared::Settings;
pub use source::Etcd;
