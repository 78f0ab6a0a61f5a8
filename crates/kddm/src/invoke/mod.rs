//! Operations that go to the object, instead of the object to them.
//!
//! An object that many nodes change in turn travels all the time. A small operation on it may travel instead: it is
//! registered by name at each node, and [`Operation::invoke`] has the owner run it. See `docs/invoke.md`.

/// The page for users, whose example is tried.
#[cfg(doctest)]
#[doc = include_str!("../../../../docs/invoke.md")]
struct Page;

mod answer;
mod call;
mod error;
mod here;
mod operations;
mod workers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::InvokeError;
pub use here::InvokeCounts;
pub(crate) use here::Invoking;

use here::count;
use operations::{Code, Operations};

use crate::error::Error;
use crate::pending::Pending;
use crate::set::{Set, publishing};
use crate::value::Value;

/// The name under which nodes call each other for operations. No service may have it.
pub(crate) const SERVICE: &str = "kddm.invoke";

/// Bytes of the arguments of a call: an operation is small, or the object had better be grabbed.
pub const ARGUMENTS_LIMIT_BYTES: usize = 64 << 10;

/// Bytes of the result of a call.
pub const RESULT_LIMIT_BYTES: usize = 1 << 20;

/// An operation on the objects of a set, which goes to where they are; made by [`Set::operation`].
///
/// Clones are handles to the same operation. When the last is dropped, this node does not run it for others any more.
#[must_use = "this node runs the operation as long as its handle lives"]
pub struct Operation<T: Value, A, R>(Arc<Inner<T, A, R>>);

/// An operation as its own node runs it.
type Typed<T, A, R> = dyn Fn(&mut T, A) -> R + Send + Sync;

struct Inner<T: Value, A, R> {
    operations: Arc<Operations<T>>,
    name: Arc<str>,
    code: Arc<Typed<T, A, R>>,
}

impl<T: Value, A, R> Clone for Operation<T, A, R> {
    fn clone(&self) -> Operation<T, A, R> {
        Operation(Arc::clone(&self.0))
    }
}

impl<T: Value, A, R> Drop for Inner<T, A, R> {
    fn drop(&mut self) {
        self.operations.remove(&self.name);
    }
}

impl<T: Value, A, R> std::fmt::Debug for Operation<T, A, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operation").field("set", &self.0.operations.set.name()).field("name", &self.0.name).finish()
    }
}

impl<T: Value> Set<T> {
    /// Registers an operation on objects of this set, under a name that means the same on each node. It is small, waits for
    /// nothing, and has no effect but on the value: it may run on the thread that reads all calls.
    ///
    /// Nodes that do not have it, as daemons, are no hindrance: what these own moves to the caller, which runs it itself.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let mut add = Vec::new();
    /// for node in &nodes {
    ///     let counts: kddm::Set<u64> = node.set("counts").open().wait()?;
    ///     add.push(counts.operation("add", |count: &mut u64, by: u64| {
    ///         *count += by;
    ///         *count
    ///     })?);
    /// }
    /// assert_eq!(add[0].invoke(7, 5).wait()?, 5); // wherever the object is
    /// assert_eq!(add[1].invoke(7, 1).wait()?, 6);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `AlreadyRegistered`, `BadName`, `TooMany`.
    pub fn operation<A, R>(
        &self,
        name: &str,
        code: impl Fn(&mut T, A) -> R + Send + Sync + 'static,
    ) -> Result<Operation<T, A, R>, Error>
    where
        A: Serialize + DeserializeOwned + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        if !crate::rpc::frame::is_name(name) {
            return Err(InvokeError::BadName { operation: name.into() }.into());
        }
        let here = &self.0.here;
        let known = here.runtime.invoking.of_or(here.set, || Arc::new(Operations::new(self.clone())));
        // A set has one type in a process; whoever sees another has the name of somebody else.
        let taken = |_| InvokeError::AlreadyRegistered { operation: name.into() };
        let operations = known.as_any().downcast::<Operations<T>>().map_err(taken)?;
        let (name, code): (Arc<str>, Arc<Typed<T, A, R>>) = (name.into(), Arc::new(code));
        operations.add(&name, by_bytes(&name, &code))?;
        Ok(Operation(Arc::new(Inner { operations, name, code })))
    }
}

/// What the owner runs for others.
fn by_bytes<T: Value, A: DeserializeOwned + 'static, R: Serialize + 'static>(
    name: &Arc<str>,
    code: &Arc<Typed<T, A, R>>,
) -> Arc<Code<T>> {
    let (name, code) = (Arc::clone(name), Arc::clone(code));
    Arc::new(move |value, arguments| {
        let arguments =
            decode(arguments).map_err(|reason| InvokeError::Arguments { operation: name.to_string(), reason })?;
        let result = postcard::to_stdvec(&code(value, arguments))
            .map_err(|error| InvokeError::ResultEncode { operation: name.to_string(), reason: error.to_string() })?;
        small_enough(&name, "the result", result.len(), RESULT_LIMIT_BYTES)?;
        Ok(result)
    })
}

/// Makes something of all the bytes, or says why not.
fn decode<A: DeserializeOwned>(bytes: &[u8]) -> Result<A, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} bytes are left over", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}

fn small_enough(name: &str, what: &'static str, bytes: usize, limit_bytes: usize) -> Result<(), InvokeError> {
    if bytes <= limit_bytes {
        return Ok(());
    }
    Err(InvokeError::TooLarge { operation: name.into(), what, bytes, limit_bytes })
}

impl<T: Value, A, R> Operation<T, A, R>
where
    A: Serialize + DeserializeOwned + Send + 'static,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Has the operation run on an object, by its owner, once: here if that is this node, without any message. An object
    /// that does not exist is created. Waits at most for the limit of the set; dropped, it may run or not.
    ///
    /// # Errors
    /// `Unconfirmed` (its [fate](Error::fate) is unknown) if the owner went away or did not answer in time; `Panicked`,
    /// `Refused`, `Arguments`, `TooLarge` and `Overloaded`, which have changed nothing; and what an update can meet.
    pub fn invoke(&self, object: u64, arguments: A) -> Pending<R> {
        self.call(object, arguments, false)
    }

    /// As [`invoke`](Operation::invoke), but an object that nobody else has changed for a while, as its owner sees it,
    /// moves to this node, where the operation runs without messages from then on. The choice for objects of which it is
    /// not known whether many nodes change them.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(2)?;
    /// # let counts: kddm::Set<u64> = nodes[0].set("counts").open().wait()?;
    /// let add = counts.operation("add", |count: &mut u64, by: u64| *count += by)?;
    /// add.update(7, 5).wait()?;
    /// assert_eq!(*counts.get(7).wait()?, 5);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `invoke`.
    pub fn update(&self, object: u64, arguments: A) -> Pending<R> {
        self.call(object, arguments, true)
    }

    fn call(&self, object: u64, arguments: A, moves: bool) -> Pending<R> {
        let shared = &self.0.operations.set.0;
        count(&shared.here.runtime.invoking.counts.invoked, 1);
        match shared.try_write(object) {
            Ok(hold) => shared.update_held(hold, None, publishing(self.change(arguments))),
            Err(_) => match shared.conflict(object, true, None) {
                Some(conflict) => Pending::ready(Err(conflict)),
                None => self.send(object, arguments, moves),
            },
        }
    }

    /// Runs it where the object is grabbed.
    fn run_here(&self, object: u64, arguments: A) -> Pending<R> {
        self.0.operations.set.update(object, self.change(arguments))
    }

    fn change(&self, arguments: A) -> impl FnOnce(&mut T) -> Result<R, Error> + Send + 'static {
        let (code, name) = (Arc::clone(&self.0.code), Arc::clone(&self.0.name));
        let node = self.0.operations.set.0.here.runtime.identity.id.0;
        move |value| {
            let ran = catch_unwind(AssertUnwindSafe(|| code(value, arguments)));
            ran.map_err(|_panic| {
                tracing::error!(operation = &*name, "an operation panicked");
                InvokeError::Panicked { operation: name.to_string(), node }.into()
            })
        }
    }
}
