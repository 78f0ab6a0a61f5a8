//! Who holds, where that is not a thread.

use std::fmt;
use std::sync::Arc;

use kddm_core::message::RequestKind;

use crate::cell::Notes;
use crate::error::{AccessError, Error};
use crate::guard::{ReadGuard, WriteGuard};
use crate::operation::{Asked, Get, Grab, Make, Then, Update};
use crate::pending::{Late, Pending};
use crate::runtime::local::Wish;
use crate::set::{GRAB, Set, Shared, publishing};
use crate::value::Value;

/// Whoever holds objects and is not one thread: a task that moves between threads, a request that many
/// threads work on. Without one, holds are those of the thread that takes them.
///
/// What a holder holds already in a way that excludes what it asks for is an error that says so, in
/// whichever thread or task, instead of a wait for itself. Operators see its name at what it holds.
/// Clones are the same holder.
///
/// ```
/// # let nodes = kddm::Node::local_cluster(1)?;
/// # let set: kddm::Set<u64> = nodes[0].set("carts").open().wait()?;
/// let checkout = kddm::Holder::new("checkout 17");
/// let mut cart = set.by(&checkout).grab(7).wait()?;
/// let again = set.by(&checkout).get(7).wait(); // by the same thread or by another one
/// assert!(again.unwrap_err().to_string().contains("checkout 17"));
/// *cart += 1;
/// cart.put().wait()?;
/// # Ok::<(), kddm::Error>(())
/// ```
#[derive(Clone)]
pub struct Holder(Arc<Notes>);

impl Holder {
    /// A holder of that name. The name is for people: two holders may have the same one.
    pub fn new(name: &str) -> Holder {
        Holder(Arc::new(Notes::of(name.into())))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.owner()
    }

    pub(crate) fn notes(&self) -> &Notes {
        &self.0
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Holder").field(&self.name()).finish()
    }
}

/// The operations of a set, by a [`Holder`]. Made by [`Set::by`].
pub struct By<T: Value> {
    shared: Arc<Shared<T>>,
    holder: Holder,
}

impl<T: Value> Set<T> {
    /// The same set, held by `holder` and not by the thread that asks.
    pub fn by(&self, holder: &Holder) -> By<T> {
        By { shared: Arc::clone(&self.0), holder: holder.clone() }
    }
}

impl<T: Value> By<T> {
    /// As [`Set::get`].
    pub fn get(&self, object: u64) -> Pending<ReadGuard<T>> {
        self.get_kind(object, false)
    }

    /// As [`Set::get_existing`].
    pub fn get_existing(&self, object: u64) -> Pending<ReadGuard<T>> {
        self.get_kind(object, true)
    }

    /// As [`Set::snapshot`].
    pub fn snapshot(&self, object: u64) -> Pending<Arc<T>> {
        if let Some(guard) = self.at_once(object) {
            return Pending::hit(guard.snapshot());
        }
        match self.conflict(object, false) {
            Some(error) => Pending::ready(Err(error)),
            None => {
                let operation = Get(self.asked(object, Wish::Request(RequestKind::Get { existing: false }), None));
                Pending::asked(Then { operation, then: Some(|guard: ReadGuard<T>| Ok(guard.snapshot())) })
            }
        }
    }

    /// As [`Set::grab`].
    pub fn grab(&self, object: u64) -> Pending<WriteGuard<T>> {
        self.grab_wish(object, GRAB, None)
    }

    /// As [`Set::grab_existing`].
    pub fn grab_existing(&self, object: u64) -> Pending<WriteGuard<T>> {
        self.grab_wish(object, Wish::Request(RequestKind::Grab { existing: true }), None)
    }

    /// As [`Set::grab_or_insert_with`].
    pub fn grab_or_insert_with(
        &self,
        object: u64,
        make: impl Fn() -> T + Send + Sync + 'static,
    ) -> Pending<WriteGuard<T>> {
        self.grab_wish(object, GRAB, Some(Arc::new(move |_| make())))
    }

    /// As [`Set::try_grab`].
    pub fn try_grab(&self, object: u64) -> Pending<WriteGuard<T>> {
        self.grab_wish(object, Wish::Request(RequestKind::TryGrab), None)
    }

    /// As [`Set::update`].
    pub fn update<R: Send + 'static>(
        &self,
        object: u64,
        change: impl FnOnce(&mut T) -> Result<R, Error> + Send + 'static,
    ) -> Pending<R> {
        let then = publishing(change);
        if let Ok(hold) = self.shared.try_write_by(object, Some(&self.holder)) {
            return self.shared.update_held(hold, Some(&self.holder), then);
        }
        match self.conflict(object, true) {
            Some(error) => Pending::ready(Err(error)),
            None => Pending::asked(Update::new(Grab(self.asked(object, GRAB, None)), then)),
        }
    }

    /// As [`Set::remove`].
    pub fn remove(&self, object: u64) -> Pending<()> {
        match self.conflict(object, true) {
            Some(error) => Pending::ready(Err(error)),
            None => self.shared.remove(object),
        }
    }

    fn get_kind(&self, object: u64, existing: bool) -> Pending<ReadGuard<T>> {
        if let Some(guard) = self.at_once(object) {
            return Pending::hit(guard);
        }
        match self.conflict(object, false) {
            Some(error) => Pending::ready(Err(error)),
            None => Pending::asked(Get(self.asked(object, Wish::Request(RequestKind::Get { existing }), None))),
        }
    }

    fn at_once(&self, object: u64) -> Option<ReadGuard<T>> {
        let hold = self.shared.try_read_by(object, Some(&self.holder)).ok()?;
        self.shared.read_guard(hold).ok()
    }

    fn grab_wish(&self, object: u64, wish: Wish, make: Option<Make<T>>) -> Pending<WriteGuard<T>> {
        if let Ok(hold) = self.shared.try_write_by(object, Some(&self.holder)) {
            return self.shared.pending(hold, object, wish, make.as_ref(), Some(&self.holder));
        }
        match self.conflict(object, true) {
            Some(_) if wish.is_try() => Pending::late(Late::failed(AccessError::Busy)),
            Some(error) => Pending::ready(Err(error)),
            None => Pending::asked(Grab(self.asked(object, wish, make))),
        }
    }

    fn conflict(&self, object: u64, wants_write: bool) -> Option<Error> {
        self.shared.conflict(object, wants_write, Some(&self.holder))
    }

    fn asked(&self, object: u64, wish: Wish, make: Option<Make<T>>) -> Asked<T> {
        Asked::new(&self.shared, object, wish, make, Some(self.holder.clone()))
    }

    pub(crate) fn parts(&self) -> (&Arc<Shared<T>>, &Holder) {
        (&self.shared, &self.holder)
    }
}
