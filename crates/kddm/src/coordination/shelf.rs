//! Where what has a name is kept: objects of a set of their own for each kind, which survive the loss of a node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm_core::id::Tenure;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{CoordinationError, Lives, LivesHere};
use crate::error::{AccessError, Error, SetError};
use crate::guard::WriteGuard;
use crate::node::Node;
use crate::pending::Pending;
use crate::set::Set;
use crate::system::{DEFAULT_REPLICAS, bucket, check_name};
use crate::value::Value;
use crate::watch::Seen;

/// Names of one kind: their list is one object, of some hundred KiB at most.
pub(crate) const NAMES: usize = 4096;

/// The object that lists all names. Names hash to other objects.
const LIST: u64 = 0;

/// What is kept under names.
pub(crate) trait Kept: Clone + Send + Sync + Unpin + Serialize + DeserializeOwned + 'static {
    /// The set that is for it.
    const SET: &str;
    /// What there may be too many of.
    const WHAT: &str;

    /// Does what follows from who is gone. Whether anything has changed.
    fn settle(&mut self, lives: &Lives) -> bool;
}

/// An object of such a set: what has a name that hashes to it, or the list of all names.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Shelf<S> {
    names: Vec<String>,
    items: Vec<(String, S)>,
}

impl<S> Default for Shelf<S> {
    fn default() -> Shelf<S> {
        Shelf { names: Vec::new(), items: Vec::new() }
    }
}

impl<S> Shelf<S> {
    fn find(&self, name: &str) -> Option<&S> {
        self.items.iter().find(|(of, _)| of == name).map(|(_, item)| item)
    }

    fn find_mut(&mut self, name: &str) -> Option<&mut S> {
        self.items.iter_mut().find(|(of, _)| of == name).map(|(_, item)| item)
    }
}

/// What is kept under one name.
pub(crate) struct Named<S: Kept> {
    pub node: Node,
    pub name: Arc<str>,
    pub lives: LivesHere,
    set: Set<Shelf<S>>,
    object: u64,
}

impl<S: Kept> Clone for Named<S> {
    fn clone(&self) -> Named<S> {
        let Named { node, name, lives, set, object } = self;
        let (node, name, lives) = (node.clone(), Arc::clone(name), Arc::clone(lives));
        Named { node, name, lives, set: set.clone(), object: *object }
    }
}

impl<S: Kept> Named<S> {
    /// What is kept under that name, which `make` makes if there is nothing. Blocks.
    pub fn open(node: &Node, name: &str, make: impl Fn() -> S) -> Result<Named<S>, Error> {
        check_name(name)?;
        let lives = node.lives()?;
        let set: Set<Shelf<S>> = node.set(S::SET).replicas(DEFAULT_REPLICAS).open().wait()?;
        let object = bucket(name);
        // Listed before it exists, so that none is missing from the list.
        again_if_lost(&set, LIST, || list_name(&set, name))?;
        let is_made = std::cell::Cell::new(false);
        again_if_lost(&set, object, || {
            if set.get(object).wait()?.find(name).is_some() {
                return Ok(());
            }
            let mut shelf = set.grab(object).wait()?;
            if shelf.find(name).is_none() {
                is_made.set(true);
                shelf.items.push((name.into(), make()));
                return shelf.put().wait();
            }
            Ok(())
        })?;
        if is_made.get() {
            // Somebody may have removed the one before, and unlisted it, since it was looked for in the list.
            again_if_lost(&set, LIST, || list_name(&set, name))?;
        }
        Ok(Named { node: node.clone(), name: name.into(), lives, set, object })
    }

    /// It is no more: who waits is told. Blocks.
    pub fn remove(&self) -> Result<(), Error> {
        // The list is held meanwhile: whoever makes it again lists it after this, or is removed with it.
        let mut list = self.set.grab(LIST).wait()?;
        let mut shelf = self.set.grab(self.object).wait()?;
        shelf.items.retain(|(of, _)| **of != *self.name);
        shelf.put().wait()?;
        list.names.retain(|listed| **listed != *self.name);
        list.put().wait()
    }

    fn removed(&self) -> Error {
        CoordinationError::Removed { name: self.name.to_string() }.into()
    }

    /// Looks at it.
    pub async fn look<R>(&self, look: impl FnOnce(&S) -> R) -> Result<(Seen, R), Error> {
        let shelf = self.set.get_existing(self.object).await.map_err(|error| self.not_there(error))?;
        let found = look(shelf.find(&self.name).ok_or_else(|| self.removed())?);
        Ok((shelf.seen(), found))
    }

    /// Changes it; `change` says also whether it has changed anything.
    pub async fn change<R>(&self, change: impl FnOnce(&mut S) -> (bool, R)) -> Result<R, Error> {
        let shelf = self.set.grab_existing(self.object).await.map_err(|error| self.not_there(error))?;
        let (put, result) = self.changed(shelf, change)?;
        if let Some(put) = put {
            put.await?;
        }
        Ok(result)
    }

    /// As [`Self::change`]. Blocks.
    pub fn change_now<R>(&self, change: impl FnOnce(&mut S) -> (bool, R)) -> Result<R, Error> {
        self.change_in_tenure(|state, _| change(state))
    }

    /// As [`Self::change_now`]; `change` hears under which tenure it is done.
    pub fn change_in_tenure<R>(&self, change: impl FnOnce(&mut S, Tenure) -> (bool, R)) -> Result<R, Error> {
        let shelf = self.set.grab_existing(self.object).wait().map_err(|error| self.not_there(error))?;
        let tenure = Tenure(shelf.tenure());
        let (put, result) = self.changed(shelf, |state| change(state, tenure))?;
        if let Some(put) = put {
            put.wait()?;
        }
        Ok(result)
    }

    fn changed<R>(
        &self,
        shelf: WriteGuard<Shelf<S>>,
        change: impl FnOnce(&mut S) -> (bool, R),
    ) -> Result<(Option<Pending<()>>, R), Error> {
        let mut item = shelf.find(&self.name).ok_or_else(|| self.removed())?.clone();
        let (has_changed, result) = change(&mut item);
        // What has not changed is not put: that would wake all who wait for a change.
        Ok((has_changed.then(|| self.replaced(shelf, item).put()), result))
    }

    fn replaced(&self, mut shelf: WriteGuard<Shelf<S>>, item: S) -> WriteGuard<Shelf<S>> {
        if let Some(place) = shelf.find_mut(&self.name) {
            *place = item;
        }
        shelf
    }

    fn not_there(&self, error: Error) -> Error {
        match error {
            Error::Access(AccessError::NotFound) => self.removed(),
            other => other,
        }
    }

    /// Waits until `judge` has an answer: it looks again after each change, and after each change of the membership, of
    /// which what follows is done first. `None` at the deadline.
    pub async fn until<R>(
        &self,
        deadline: Instant,
        judge: impl Fn(&S) -> Option<Result<R, Error>>,
    ) -> Result<Option<R>, Error> {
        loop {
            // First, so that what comes while it is looked at is not missed.
            let heard = self.set.0.here.members_heard(self.object);
            let lives = self.lives.lock().clone();
            let (seen, (answer, is_settled)) = self.look(|state| (judge(state), !state.clone().settle(&lives))).await?;
            if let Some(answer) = answer {
                return answer.map(Some);
            }
            if !is_settled {
                self.change(|state| (state.settle(&lives), ())).await?;
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match self.set.changed_or_members(self.object, seen, heard, left).await {
                Ok(_) => {}
                Err(Error::Access(AccessError::Unchanged { .. })) => return Ok(None),
                Err(error) => return Err(self.not_there(error)),
            }
        }
    }
}

/// Puts a name on the list, if it is not there. Blocks.
fn list_name<S: Kept>(set: &Set<Shelf<S>>, name: &str) -> Result<(), Error> {
    if set.get(LIST).wait()?.names.iter().any(|listed| listed == name) {
        return Ok(());
    }
    let name = name.to_string();
    let list = set.update(LIST, move |list| {
        if list.names.contains(&name) {
            return Ok(());
        }
        if list.names.len() >= NAMES {
            return Err(CoordinationError::TooMany { what: S::WHAT, limit: NAMES }.into());
        }
        list.names.push(name);
        Ok(())
    });
    list.wait()
}

/// Does something with an object that may be lost: then that is accepted, and it is done with a new one.
pub(super) fn again_if_lost<T: Value, R>(
    set: &Set<T>,
    object: u64,
    does: impl Fn() -> Result<R, Error>,
) -> Result<R, Error> {
    match does() {
        Err(Error::Access(AccessError::Lost { .. })) => {
            tracing::warn!(set = set.name(), object, "it was lost with members and is made anew");
            match set.accept_loss(object).wait() {
                // Another one has just done so.
                Ok(()) | Err(Error::Access(AccessError::NotLost { .. })) => does(),
                Err(error) => Err(error),
            }
        }
        other => other,
    }
}

/// All names of a kind with what is kept under them. Creates nothing. Blocks.
pub(super) fn all<S: Kept>(node: &Node) -> Result<Vec<Named<S>>, Error> {
    let set: Set<Shelf<S>> = match node.set(S::SET).open_existing().wait() {
        Ok(set) => set,
        Err(Error::Set(SetError::Unknown { .. })) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = match set.get_existing(LIST).wait() {
        Ok(list) => list.names.clone(),
        Err(Error::Access(AccessError::NotFound)) => Vec::new(),
        Err(error) => return Err(error),
    };
    names.sort();
    let lives = node.lives()?;
    let named = |name: String| {
        let (node, lives, object) = (node.clone(), Arc::clone(&lives), bucket(&name));
        Named { node, name: name.into(), lives, set: set.clone(), object }
    };
    Ok(names.into_iter().map(named).collect())
}

impl<S: Kept> Named<S> {
    /// Looks at it. `None` if it is gone. Blocks.
    pub fn look_now<R>(&self, look: impl FnOnce(&S) -> R) -> Result<Option<R>, Error> {
        match self.set.get_existing(self.object).wait() {
            Ok(shelf) => Ok(shelf.find(&self.name).map(look)),
            Err(Error::Access(AccessError::NotFound)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// If it was lost, it is made anew. Blocks.
    pub fn renew_if_lost(&self, make: impl Fn() -> S) -> Result<(), Error> {
        Named::open(&self.node, &self.name, make).map(|_| ())
    }
}

/// Milliseconds, as errors say them.
pub(super) fn milliseconds(limit: Duration) -> u64 {
    limit.as_millis().try_into().unwrap_or(u64::MAX)
}
