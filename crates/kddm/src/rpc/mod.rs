//! Calls between nodes: a small internal RPC beside the shared objects.
//!
//! A service is registered by name; any member may call it, one node at a time or several at once.
//! Calls have connections of their own, so that a large answer never holds up the protocol.
//!
//! - Every call has a limit; it travels with the call. An answer that comes later is dropped.
//! - [`Pending`](crate::Pending) as everywhere: `wait()` or `.await`; dropping it cancels the call, and
//!   the handler can see that ([`Request::is_cancelled`]).
//! - A node that goes away ends the calls to it with an error that names it, and so does a service
//!   that is not registered there, after a second in which it may be.
//! - [`Rpc::cast`] asks for no answer, [`Request::forward`] leaves a call to somebody else, and [`Rpc::open_stream`] is for
//!   items in both directions, as many as there are.
//! - Two kinds of handlers. A *quick* one ([`Rpc::register`]) runs on the thread that reads all calls, which may be one that
//!   waits for an answer of its own: no hand-off, but it must not take long, and waiting in it answers `WouldBlock`. Do
//!   not hold a lock that it takes while you wait for a call. A *blocking* one
//!   ([`Rpc::register_blocking`]) runs on threads of its service (at most 16, none while nothing is to
//!   be done) and may wait for objects and for other calls; a slow one holds up nobody else.
//! - A program that is attached to a node ([`Node::attach`]) calls through it, and what it serves is called by the
//!   node's number: [`Request::from`] is the node's number, too.
//! - All queues are bounded; what does not fit is refused with `Overloaded`, and no handler ran.
//!
//! ```
//! use std::time::Duration;
//!
//! let nodes = kddm::Node::local_cluster(3)?;
//! let limit = Duration::from_secs(5);
//! let mut services = Vec::new(); // a service is there until its handle is dropped
//! for node in &nodes {
//!     services.push(node.rpc().register("greet", |request| {
//!         let name = String::from_utf8_lossy(request.body());
//!         Ok(format!("hello {name}, this is node {}", request.node().id()).into_bytes())
//!     })?);
//! }
//! let answer = nodes[0].rpc().call(2, "greet", b"Ada", limit).wait()?;
//! assert_eq!(answer, b"hello Ada, this is node 2");
//!
//! // Several nodes at once: an answer or an error from each.
//! for (node, answer) in nodes[0].rpc().call_all(&[2, 3, 9], "greet", b"all", limit).wait()? {
//!     assert_eq!(answer.is_ok(), node != 9, "{answer:?}"); // there is no node 9
//! }
//! # Ok::<(), kddm::Error>(())
//! ```

/// The page for users, whose example is tried.
#[cfg(doctest)]
#[doc = include_str!("../../../../docs/rpc.md")]
struct Page;

mod arrival;
mod calling;
mod connection;
mod dialling;
mod early;
mod engine;
mod error;
mod forward;
pub(crate) mod frame;
mod reading;
mod relay;
mod reply;
mod seat;
mod service;
mod splice;
mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde::{Serialize, de::DeserializeOwned};

pub use error::RpcError;
pub use state::CallCounts;
pub use stream::{StreamReceiver, StreamSender};

pub(crate) use calling::answered_here;
pub(crate) use engine::{Engine, STREAMS_LIMIT};
pub(crate) use reply::Answers;
pub(crate) use seat::Seat;
pub(crate) use service::{Incoming, ReplyTo};

use service::{Handler, Place, Registered};

use crate::error::Error;
use crate::node::Node;
use crate::runtime::Runtime;

/// The longest that a call waits.
const LONGEST: Duration = Duration::from_secs(86_400);

/// What a handler that fails has to say; its text travels to the caller.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// An answer or an error from each node that was called, in the order in which they were named.
pub type Replies<A> = Vec<(u16, Result<A, Error>)>;

/// Whether a service is one that each node has by itself.
fn is_ours(service: &str) -> bool {
    let ours =
        [crate::invoke::SERVICE, crate::scan::SERVICE, crate::linker::SERVICE, crate::runtime::changes::WATCH_SERVICE];
    ours.contains(&service)
}

/// A call, as its handler sees it.
pub struct Request {
    node: Node,
    from: u16,
    body: Vec<u8>,
    deadline: Instant,
    cancelled: Arc<AtomicBool>,
}

impl Request {
    /// The node whose service is called. A handler takes it from here instead of keeping one, which
    /// would keep the node alive.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The node that calls; that of an attached program, if one does.
    pub fn from(&self) -> u16 {
        self.from
    }

    /// What it says.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// When the caller stops waiting, by this node's clock.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether nobody waits for the answer any more: it was cancelled, its limit is over, or the
    /// caller is gone. Something that takes long looks from time to time.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) || Instant::now() >= self.deadline
    }
}

/// A registered service. Dropping it unregisters it, and waits for handlers that run.
#[must_use = "a service is unregistered when its handle is dropped"]
pub struct Service {
    engine: Arc<Engine>,
    registered: Arc<Registered>,
    runtime: Weak<Runtime>,
}

impl Service {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.registered.name
    }

    /// Takes no more calls, and returns when no handler runs (called by one of its handlers: at
    /// once). Calls that wait for a thread end with `NoService`.
    pub fn unregister(self) {}
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.upgrade() {
            runtime.withdraw(&self.registered.name);
        }
        self.engine.unregister(&self.registered);
    }
}

/// The calls of one node; made by [`Node::rpc`]. See the [module](self).
#[derive(Clone)]
pub struct Rpc {
    node: Node,
    at_once: bool,
}

impl Node {
    /// Services of this node, and calls to those of other nodes.
    pub fn rpc(&self) -> Rpc {
        Rpc { node: self.clone(), at_once: false }
    }
}

impl Rpc {
    /// The same, for calls that do not wait for a service that is not registered yet: `NoService` comes at once.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(2)?;
    /// # let limit = std::time::Duration::from_secs(5);
    /// let early = nodes[0].rpc().call(2, "soon", b"", limit); // it waits there
    /// assert!(nodes[0].rpc().at_once().call(2, "soon", b"", limit).wait().is_err());
    /// let _service = nodes[1].rpc().register("soon", |_| Ok(Vec::new()))?;
    /// early.wait()?;
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn at_once(self) -> Rpc {
        Rpc { at_once: true, ..self }
    }

    /// What this node has counted of calls since it began.
    pub fn counts(&self) -> CallCounts {
        self.node.runtime().rpc.counted()
    }

    /// Registers a *quick* service. Its handler runs on the thread that reads the calls to this node:
    /// it must not take long, and `wait()` in it answers `WouldBlock`.
    ///
    /// # Errors
    /// `AlreadyRegistered`, `BadName`, `Stopped`; in an attached program also `Reattaching` while its node is gone, and
    /// `Overloaded` beyond 1,024 services.
    pub fn register(
        &self,
        name: &str,
        handler: impl Fn(&Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
    ) -> Result<Service, Error> {
        self.add(name, Place::Reader, Handler::Call(Box::new(handler)))
    }

    /// Registers a *blocking* service. Its handlers run on threads of their own, 16 at most, and may
    /// wait for objects and for calls.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(2)?;
    /// # let limit = std::time::Duration::from_secs(5);
    /// let service = nodes[1].rpc().register_blocking("count", |request| {
    ///     let counts: kddm::Set<u64> = request.node().set("counts").open().wait()?;
    ///     let count = counts.update(1, |count| { *count += 1; Ok(*count) }).wait()?;
    ///     Ok(count.to_string().into_bytes())
    /// })?;
    /// assert_eq!(nodes[0].rpc().call(2, "count", b"", limit).wait()?, b"1");
    /// service.unregister();
    /// let error = nodes[0].rpc().call(2, "count", b"", limit).wait().unwrap_err();
    /// assert!(error.to_string().contains("node 2 has no service \"count\""));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `AlreadyRegistered`, `BadName`, `Stopped`.
    pub fn register_blocking(
        &self,
        name: &str,
        handler: impl Fn(&Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
    ) -> Result<Service, Error> {
        self.add(name, Place::Workers, Handler::Call(Box::new(handler)))
    }

    /// As [`register_blocking`](Rpc::register_blocking), with a question and an answer of any type.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(2)?;
    /// # let limit = std::time::Duration::from_secs(5);
    /// let _service = nodes[1].rpc().register_blocking_typed("sum", |_, terms: Vec<u64>| {
    ///     Ok(terms.iter().sum::<u64>())
    /// })?;
    /// let sum: u64 = nodes[0].rpc().call_typed(2, "sum", &[1u64, 2, 3][..], limit).wait()?;
    /// assert_eq!(sum, 6);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `AlreadyRegistered`, `BadName`, `Stopped`.
    pub fn register_blocking_typed<Q: DeserializeOwned, A: Serialize>(
        &self,
        name: &str,
        handler: impl Fn(&Request, Q) -> Result<A, HandlerError> + Send + Sync + 'static,
    ) -> Result<Service, Error> {
        self.register_blocking(name, typed(handler))
    }

    /// As [`register`](Rpc::register), with a question and an answer of any type.
    ///
    /// # Errors
    /// `AlreadyRegistered`, `BadName`, `Stopped`.
    pub fn register_typed<Q: DeserializeOwned, A: Serialize>(
        &self,
        name: &str,
        handler: impl Fn(&Request, Q) -> Result<A, HandlerError> + Send + Sync + 'static,
    ) -> Result<Service, Error> {
        self.register(name, typed(handler))
    }

    fn add(&self, name: &str, place: Place, handler: Handler) -> Result<Service, Error> {
        if !frame::is_name(name) {
            return Err(RpcError::BadName { service: name.into() }.into());
        }
        let engine = Arc::clone(&self.node.runtime().rpc);
        let registered = Arc::new(Registered::new(name, place, Arc::downgrade(&self.node.0), handler));
        engine.register(&registered)?;
        let service = Service { engine, registered, runtime: Arc::downgrade(self.node.runtime()) };
        // Dropped if it cannot be, and gone then.
        self.node.runtime().offer(name)?;
        Ok(service)
    }
}

fn typed<Q: DeserializeOwned, A: Serialize>(
    handler: impl Fn(&Request, Q) -> Result<A, HandlerError> + Send + Sync + 'static,
) -> impl Fn(&Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static {
    move |request| {
        let question = postcard::from_bytes(request.body())
            .map_err(|error| format!("the question is not of the type that this service takes: {error}"))?;
        Ok(postcard::to_stdvec(&handler(request, question)?)?)
    }
}
