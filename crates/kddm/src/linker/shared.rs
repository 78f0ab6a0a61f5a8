//! Operations on a set behind which something stands, where they are not those of any set.

use std::sync::Arc;
use std::time::Duration;

use kddm_core::message::RequestKind;

use super::error::LinkerError;
use super::linked::Linked;
use super::reading::Made;
use crate::cell::{Table, Told, WriteHold};
use crate::error::{AccessError, Error};
use crate::guard::WriteGuard;
use crate::holder::Holder;
use crate::node::Owner;
use crate::operation::{Asked, Grab, Make, Published, Request, Update};
use crate::pending::{Late, Operation, Pending};
use crate::runtime::local::Wish;
use crate::runtime::told::SetHere;
use crate::runtime::wait::{Op, Outcome};
use crate::set::{GRAB, Set, Shared};
use crate::value::Value;

pub(crate) const REMOVE: Wish = Wish::Request(RequestKind::Remove);

impl<T: Value> Shared<T> {
    /// A guard for a write hold that was got at once, or a first touch that is to be waited for.
    #[cold]
    pub fn guard_slowly(
        self: &Arc<Self>,
        hold: WriteHold<T>,
        object: u64,
        wish: Wish,
        make: Option<&Make<T>>,
        by: Option<&Holder>,
    ) -> Late<WriteGuard<T>> {
        if self.is_to_be_read(&hold) {
            return Late::asked(Grab(Asked::reading(self, hold, wish, make, by.cloned())));
        }
        Late::settled(self.guard(hold, object, wish, make))
    }

    /// As `update`, of an object that is held.
    pub fn update_held<R: Send + 'static>(
        self: &Arc<Self>,
        hold: WriteHold<T>,
        by: Option<&Holder>,
        then: impl FnOnce(WriteGuard<T>) -> Result<Published<R>, Error> + Send + 'static,
    ) -> Pending<R> {
        if self.is_to_be_read(&hold) {
            let grab = Grab(Asked::reading(self, hold, GRAB, None, by.cloned()));
            return Pending::asked(Update::new(grab, then));
        }
        let object = hold.id();
        Published::pending(self.guard(hold, object, GRAB, None).and_then(then))
    }

    /// Whether an object that is held has its first value from behind the set.
    pub fn is_to_be_read(&self, hold: &WriteHold<T>) -> bool {
        self.linked.is_some() && !hold.has_value() && self.lease().is_valid()
    }

    /// Has it read. The answer is `Available` when it has a value.
    pub fn read(&self, hold: WriteHold<T>, is_existing: bool, make: Option<&Make<T>>) -> Arc<Op> {
        let linked = self.linked.as_ref().expect("it is asked for such sets alone");
        let made = match make {
            _ if is_existing => Made::Not,
            Some(make) => Made::By(make.clone()),
            None => Made::AsUsual(self.first_touch.clone()),
        };
        linked.read(&self.here, Told::new(hold), made)
    }

    pub fn remove(self: &Arc<Self>, object: u64) -> Pending<()> {
        if self.linked.as_ref().is_some_and(|linked| linked.is_written()) {
            return Pending::asked(Removing::new(self, object, How::Remove));
        }
        self.plain(object, REMOVE)
    }

    fn evict(self: &Arc<Self>, object: u64) -> Pending<()> {
        if !self.linked.as_ref().is_some_and(|linked| linked.is_written()) {
            return Pending::ready(Err(LinkerError::NotKept { set: self.name.clone() }.into()));
        }
        match self.conflict(object, true, None) {
            Some(error) => Pending::ready(Err(error)),
            None => Pending::asked(Removing::new(self, object, How::Evict)),
        }
    }
}

impl<T: Value> Linked<T> {
    /// A handle for work of the node itself, which does not keep the node. `None`: the set is not here, or not yet.
    pub(super) fn handle(self: &Arc<Self>, here: &SetHere, name: String, wait_limit: Duration) -> Option<Set<T>> {
        let store = here.runtime.lanes[0].lock().stores.get(&here.set).cloned()?;
        let shared = Shared {
            here: here.clone(),
            _node: Owner::guest(Arc::clone(&here.runtime)),
            name,
            table: Table::from_store(&store)?,
            first_touch: Arc::clone(&self.first_touch),
            wait_limit,
            linked: Some(Arc::clone(self)),
            lease: Arc::clone(&here.runtime.lease),
        };
        Some(Set(Arc::new(shared)))
    }
}

impl<T: Value> Set<T> {
    /// The object leaves the cluster, and what stands behind it stays: whoever wants it next has it read. Waits for its
    /// holders, as [`remove`](Set::remove). With [`Behind`](super::WritePolicy::Behind) its value is written first, whoever
    /// had put it; with [`Through`](super::WritePolicy::Through) it is there already, and a first value that was never put is
    /// made anew.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let store = kddm::linker::Memory::default();
    /// let rows: kddm::Set<u64> = nodes[0].set("rows").linker("rows", store).open().wait()?;
    /// rows.update(7, |row| { *row = 5; Ok(()) }).wait()?;
    /// rows.evict(7).wait()?;
    /// assert_eq!(rows.local_count(), 0);
    /// assert_eq!(*rows.get(7).wait()?, 5);
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotKept` in a set without a linker that keeps what is put: nothing was changed; what a put of the linker can meet,
    /// and as `remove`.
    pub fn evict(&self, object: u64) -> Pending<()> {
        self.0.evict(object)
    }
}

impl<T: Value> Asked<T> {
    /// The object is held here, and is to have its first value from behind the set.
    fn reading(
        shared: &Arc<Shared<T>>,
        hold: WriteHold<T>,
        wish: Wish,
        make: Option<&Make<T>>,
        by: Option<Holder>,
    ) -> Asked<T> {
        let (object, is_existing) = (hold.id(), wish.is_existing());
        let op = shared.read(hold, is_existing, make);
        let request = Request::under_way(shared.here.clone(), object, wish.creating(), op, shared.wait_limit);
        Asked { request, shared: Arc::clone(shared), make: make.cloned(), by, is_existing }
    }
}

/// `remove` and `evict` of a set behind which something stands: that is grabbed first, and removed there before it is here.
struct Removing<T: Value> {
    shared: Arc<Shared<T>>,
    request: Request,
    how: How,
    has_begun: bool,
}

/// What becomes of what stands behind the object.
#[derive(Clone, Copy)]
enum How {
    Remove,
    Evict,
}

impl<T: Value> Removing<T> {
    fn new(shared: &Arc<Shared<T>>, object: u64, how: How) -> Removing<T> {
        let request = Request::new(shared.here.clone(), object, GRAB, shared.wait_limit);
        Removing { shared: Arc::clone(shared), request, how, has_begun: false }
    }

    fn begin(&mut self, hold: WriteHold<T>) {
        let (here, object, limit) = (self.shared.here.clone(), self.request.object, self.shared.wait_limit);
        let linked = self.shared.linked.as_ref().expect("it is made for such sets alone");
        let op = match self.how {
            How::Remove => linked.remove(&here, Told::new(hold)),
            How::Evict => linked.evict(&here, Told::new(hold)),
        };
        self.request = Request::under_way(here, object, REMOVE, op, limit);
        self.has_begun = true;
    }
}

impl<T: Value> Operation<()> for Removing<T> {
    fn finish(&mut self) -> Option<Result<(), Error>> {
        let (object, outcome) = (self.request.object, self.request.op.take()?);
        match outcome {
            Outcome::Failed(error) => return Some(Err(error)),
            _ if self.has_begun => return Some(Ok(())),
            Outcome::Write(hold) => match self.shared.table.adopt_write(hold) {
                Ok(hold) => self.begin(hold),
                Err(error) => {
                    self.shared.undecodable(object);
                    let (type_name, reason) = (T::type_name(), error.to_string());
                    return Some(Err(AccessError::Decode { type_name, reason }.into()));
                }
            },
            _ => match self.shared.try_write(object) {
                Ok(hold) => self.begin(hold),
                Err(_) => self.request.ask_again(),
            },
        }
        self.finish()
    }

    fn op(&self) -> &Arc<Op> {
        &self.request.op
    }

    fn give_up(&mut self, limit: Duration) -> Error {
        self.request.timed_out(limit)
    }

    fn limit(&self) -> Duration {
        self.request.limit
    }
}
