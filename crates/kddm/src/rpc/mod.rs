//! Calls between nodes: a small internal RPC beside the shared objects.
//!
//! A service is registered by name; any member may call it, one node at a time or several at once.
//! Calls have connections of their own, so that a large answer never holds up the protocol.
//!
//! - Every call has a limit; it travels with the call. An answer that comes later is dropped.
//! - [`Pending`] as everywhere: `wait()` or `.await`; dropping it cancels the call, and
//!   the handler can see that ([`Request::is_cancelled`]).
//! - A node that goes away ends the calls to it with an error that names it, and so does a service
//!   that is not registered there.
//! - Two kinds of handlers. A *quick* one ([`Rpc::register`]) runs on the thread that reads all calls:
//!   no hand-off, but it must not take long, and waiting in it answers `WouldBlock`. A *blocking* one
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

mod arrival;
mod connection;
mod engine;
mod error;
pub(crate) mod frame;
mod relay;
mod reply;
mod service;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kddm_core::id::NodeId;
use serde::{Serialize, de::DeserializeOwned};

pub use error::RpcError;

pub(crate) use engine::Engine;
pub(crate) use reply::Answers;
pub(crate) use service::{Incoming, ReplyTo};

use engine::{Question, Sent};
use error::{ANSWER, QUESTION};
use frame::BODY_LIMIT_BYTES;
use reply::{Call, CallResult, Called, Finish};
use service::{Handler, Place, Registered};

use crate::error::Error;
use crate::node::Node;
use crate::pending::Pending;
use crate::runtime::Runtime;
use crate::runtime::control::CONTROL_LIMIT;
use crate::transport::greeting::{Purpose, greet};
use crate::transport::{Address, Stream};

/// What a handler that fails has to say; its text travels to the caller.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// An answer or an error from each node that was called, in the order in which they were named.
pub type Replies<A> = Vec<(u16, Result<A, Error>)>;

/// Connections that are tried for one call: one that is there may end just when it is used.
const ATTEMPTS: usize = 4;

/// Whether a service is one that each node has by itself.
fn is_ours(service: &str) -> bool {
    [crate::invoke::SERVICE, crate::scan::SERVICE].contains(&service)
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
pub struct Rpc(Node);

impl Node {
    /// Services of this node, and calls to those of other nodes.
    pub fn rpc(&self) -> Rpc {
        Rpc(self.clone())
    }
}

impl Rpc {
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
        self.add(name, Place::Reader, Box::new(handler))
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
        self.add(name, Place::Workers, Box::new(handler))
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
        let engine = Arc::clone(&self.0.runtime().rpc);
        let registered = Arc::new(Registered::new(name, place, Arc::downgrade(&self.0.0), handler));
        engine.register(&registered)?;
        let service = Service { engine, registered, runtime: Arc::downgrade(self.0.runtime()) };
        // Dropped if it cannot be, and gone then.
        self.0.runtime().offer(name)?;
        Ok(service)
    }

    /// Calls a service of one node, which may be this one.
    ///
    /// # Errors
    /// [`RpcError`] says why there is no answer, and whether the handler may have run.
    pub fn call(&self, node: u16, service: &str, body: &[u8], limit: Duration) -> Pending<Vec<u8>> {
        self.start(&[node], service, body, limit, Box::new(|results| only(results).1))
    }

    /// Calls a service of several nodes at once: an answer or an error from each, in the order in
    /// which they are named.
    ///
    /// # Errors
    /// `WouldBlock` only; that a node has not answered is said in its place.
    pub fn call_all(&self, nodes: &[u16], service: &str, body: &[u8], limit: Duration) -> Pending<Replies<Vec<u8>>> {
        self.start(nodes, service, body, limit, Box::new(Ok))
    }

    /// As [`call`](Rpc::call), for a service that was registered with types.
    ///
    /// # Errors
    /// As `call`, and `Codec` for what does not encode or decode.
    pub fn call_typed<Q: Serialize + ?Sized, A: DeserializeOwned + 'static>(
        &self,
        node: u16,
        service: &str,
        question: &Q,
        limit: Duration,
    ) -> Pending<A> {
        let name = service.to_string();
        match encode(node, service, question) {
            Err(error) => Pending::ready(Err(error)),
            Ok(body) => {
                self.start(&[node], service, &body, limit, Box::new(move |results| decode(only(results), &name)))
            }
        }
    }

    /// As [`call_all`](Rpc::call_all), for a service that was registered with types.
    ///
    /// # Errors
    /// As `call_all`, and `Codec` if the question does not encode.
    pub fn call_all_typed<Q: Serialize + ?Sized, A: DeserializeOwned + 'static>(
        &self,
        nodes: &[u16],
        service: &str,
        question: &Q,
        limit: Duration,
    ) -> Pending<Replies<A>> {
        let name = service.to_string();
        let finish = move |results: Replies<Vec<u8>>| {
            Ok(results.into_iter().map(|(node, result)| (node, decode((node, result), &name))).collect())
        };
        match encode(self.0.id(), service, question) {
            Err(error) => Pending::ready(Err(error)),
            Ok(body) => self.start(nodes, service, &body, limit, Box::new(finish)),
        }
    }

    fn start<O: 'static>(
        &self,
        nodes: &[u16],
        service: &str,
        body: &[u8],
        limit: Duration,
        finish: Finish<O>,
    ) -> Pending<O> {
        let runtime = Arc::clone(self.0.runtime());
        let (service, answers): (Arc<str>, _) = (service.into(), Arc::new(Answers::new(nodes.len())));
        let mut called = Vec::with_capacity(nodes.len());
        for (index, &node) in nodes.iter().enumerate() {
            let question =
                Question { node, whom: node.into(), from: 0, service: &service, body, limit, answers: &answers, index };
            let id = match runtime.put_question(&question) {
                Ok(id) => Some(id),
                Err(error) => {
                    answers.complete(index, Err(error));
                    None
                }
            };
            called.push(Called { node, id });
        }
        // A limit beyond what the clock can say is as good as the longest that it can.
        let deadline = Instant::now().checked_add(limit).unwrap_or_else(|| Instant::now() + LONGEST);
        let (alarm, finish) = (None, Some(finish));
        Pending::called(Call { runtime, answers, service, called, limit, deadline, alarm, finish })
    }
}

/// An answer that does not come over a connection, and where it is to be left.
pub(crate) fn answered_here(
    runtime: &Arc<Runtime>,
    node: u16,
    service: &str,
    limit: Duration,
) -> (Arc<Answers>, Pending<Vec<u8>>) {
    let (service, answers): (Arc<str>, _) = (service.into(), Arc::new(Answers::new(1)));
    let (runtime, called, kept) = (Arc::clone(runtime), vec![Called { node, id: None }], Arc::clone(&answers));
    let deadline = crate::runtime::wait::deadline_in(limit);
    let finish: Finish<Vec<u8>> = Box::new(|results| only(results).1);
    let (alarm, finish) = (None, Some(finish));
    (answers, Pending::called(Call { runtime, answers: kept, service, called, limit, deadline, alarm, finish }))
}

/// The longest that a call waits.
const LONGEST: Duration = Duration::from_secs(86_400);

impl Runtime {
    pub(super) fn put_question(self: &Arc<Self>, question: &Question<'_>) -> Result<u64, Error> {
        let (node, bytes) = (question.node, question.body.len());
        if !frame::is_name(question.service) {
            return Err(RpcError::BadName { service: question.service.to_string() }.into());
        }
        if bytes > BODY_LIMIT_BYTES {
            return Err(RpcError::TooLarge { bytes, limit_bytes: BODY_LIMIT_BYTES }.into());
        }
        for _ in 0..ATTEMPTS {
            match self.rpc.send(question) {
                Sent::As(id) => return Ok(id),
                Sent::Refused(error) => return Err(error),
                Sent::NotConnected => self.dial(node)?,
            }
        }
        Err(RpcError::Unreachable { node, reason: "its connections end as soon as they are made".into() }.into())
    }

    /// Has another thread dial a member: a call is on its way at once, and waits for nobody.
    fn dial(self: &Arc<Self>, node: u16) -> Result<(), Error> {
        let (incarnation, address) = match &self.lender {
            // That one knows who is a member, and passes calls on.
            Some(_) => (0, String::new()),
            None => {
                let member = self.membership.lock().state.member(NodeId(node)).cloned();
                let Some(member) = member else { return Err(RpcError::NotAMember { node }.into()) };
                (member.incarnation.0, member.address)
            }
        };
        if !self.rpc.begin_dialling(node, incarnation) {
            return Ok(());
        }
        let runtime = Arc::clone(self);
        let dialled = std::thread::Builder::new().name("kddm-rpc-dial".into()).spawn(move || {
            let stream = match &runtime.lender {
                Some(lender) => lender.connect_calls(node).map_err(|error| error.to_string()),
                None => runtime.connect_rpc(node, incarnation, &address),
            };
            runtime.rpc.dialled(node, incarnation, stream);
        });
        if let Err(error) = dialled {
            self.rpc.dialled(node, incarnation, Err(error.to_string()));
            return Err(RpcError::Unreachable { node, reason: error.to_string() }.into());
        }
        Ok(())
    }

    fn connect_rpc(&self, node: u16, incarnation: u32, address: &str) -> Result<Stream, String> {
        let address: Address = address.parse().map_err(|error| format!("{error}"))?;
        let greeted = greet(&address, &self.hello(Purpose::Rpc), CONTROL_LIMIT).map_err(|error| error.to_string())?;
        let (stream, who, life) = greeted;
        if (who, life) != (node, u64::from(incarnation)) {
            return Err(format!("node {who} in life {life} answers at {address}"));
        }
        Ok(stream)
    }
}

fn only(results: Replies<Vec<u8>>) -> (u16, CallResult) {
    results.into_iter().next().expect("one node was called")
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

fn encode<Q: Serialize + ?Sized>(node: u16, service: &str, question: &Q) -> Result<Vec<u8>, Error> {
    let codec = |error: postcard::Error| RpcError::Codec {
        node,
        service: service.into(),
        what: QUESTION,
        reason: error.to_string(),
    };
    Ok(postcard::to_stdvec(question).map_err(codec)?)
}

fn decode<A: DeserializeOwned>((node, result): (u16, CallResult), service: &str) -> Result<A, Error> {
    let codec = |error: postcard::Error| RpcError::Codec {
        node,
        service: service.into(),
        what: ANSWER,
        reason: error.to_string(),
    };
    Ok(postcard::from_bytes(&result?).map_err(codec)?)
}
