//! First touches that a linker wants to have somewhere else: whoever wants the object has them made there, and gets it from
//! there as from any owner.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::elsewhere::{Question, Told, unexpected};
use super::error::LinkerError;
use super::held::{Held, Hold};
use super::here::count;
use super::linked::Linked;
use super::reading::Made;
use super::task::drive;
use crate::cell::{Slow, Table, Told as TellsLane};
use crate::error::{AccessError, Error, SetError};
use crate::operation::{Plain, Request};
use crate::pending::{Operation, Pending};
use crate::runtime::local::Wish;
use crate::runtime::told::SetHere;
use crate::runtime::wait::{Op, Outcome};
use crate::set::GRAB;
use crate::value::Value;

/// Where an object that is nowhere in the cluster gets its first value, and who owns it first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum FirstOwner {
    /// Whoever wants it.
    #[default]
    Whoever,
    /// That node; whoever wants it, if that node is not there or has not opened the set.
    Prefers(u16),
    /// That node; without it nobody gets the object ([`LinkerError::Elsewhere`]).
    Only(u16),
}

/// Objects whose first touch is here, whatever the linker says: so many ask for it.
pub(super) type OnlyHere = Mutex<HashMap<u64, usize>>;

/// While it lives the first touch of that object is here.
pub(super) struct IsHere<'a>(&'a OnlyHere, u64);

impl Drop for IsHere<'_> {
    fn drop(&mut self) {
        let mut objects = self.0.lock();
        if let Some(count) = objects.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                objects.remove(&self.1);
            }
        }
    }
}

impl<T: Value> Linked<T> {
    pub(super) fn only_here(&self, object: u64) -> IsHere<'_> {
        *self.only_here.lock().entry(object).or_default() += 1;
        IsHere(&self.only_here, object)
    }

    /// The other node that is to have the first touch, if one is, and whether it must.
    pub(super) fn first_owner(&self, here: &SetHere, object: u64) -> Result<Option<(u16, bool)>, LinkerError> {
        if self.only_here.lock().contains_key(&object) {
            return Ok(None);
        }
        let owner = match self.call(object, false, |linker| Ok(linker.default_owner(object)))? {
            FirstOwner::Whoever => None,
            FirstOwner::Prefers(node) => Some((node, false)),
            FirstOwner::Only(node) => Some((node, true)),
        };
        Ok(owner.filter(|(node, _)| *node != here.runtime.identity.id.0))
    }

    /// Has the first touch made by that node. The object is held here without a value: it is given up, and whoever wants it
    /// asks for it as for any other when that node has it.
    pub(super) fn touch_at(self: &Arc<Self>, held: &Arc<Held<T>>, (node, must): (u16, bool), made: Made<T>) {
        let Some(hold) = held.take() else { return };
        held.forget_alarm();
        drop(hold);
        count(&self.counts.elsewhere, 1);
        let (linked, held) = (Arc::clone(self), Arc::clone(held));
        drive(async move {
            let outcome = linked.touched_at(&held, (node, must), made).await;
            held.end(outcome.map_or_else(Outcome::Failed, |()| Outcome::Available));
        });
    }

    async fn touched_at(
        self: &Arc<Self>,
        held: &Held<T>,
        (node, must): (u16, bool),
        made: Made<T>,
    ) -> Result<(), Error> {
        let (here, object) = (&held.here, held.object);
        // What only this caller knows how to make is made here.
        let makes = matches!(made, Made::AsUsual(_));
        let question = Question::Touch { set: here.set.0, object, makes };
        let reason = match here.runtime.ask_about_linkers(node, question, self.limit).await {
            Ok(Told::Touched) => return Ok(()),
            Ok(Told::NotFound) => {
                return match made {
                    Made::By(_) => self.touch_here(here, object, made, true).await,
                    _ => Err(AccessError::NotFound.into()),
                };
            }
            Ok(Told::Failed { reason }) => {
                return Err(LinkerError::Elsewhere { linker: self.name(), object, node, reason }.into());
            }
            Ok(Told::NotNow { reason }) => reason,
            Ok(Told::NoLinker) => format!("it has not opened the set with linker {:?}", self.name()),
            Ok(other) => unexpected(node, &other).to_string(),
            Err(error) => error.to_string(),
        };
        if must {
            return Err(LinkerError::Elsewhere { linker: self.name(), object, node, reason }.into());
        }
        tracing::debug!(linker = self.of.name, object, node, reason, "a first touch is made here instead");
        self.touch_here(here, object, made, false).await
    }

    /// Grabs the object again, and has the first touch here; or makes what nothing stands behind.
    async fn touch_here(
        self: &Arc<Self>,
        here: &SetHere,
        object: u64,
        made: Made<T>,
        is_absent: bool,
    ) -> Result<(), Error> {
        let table = here.lane(object).lock().stores.get(&here.set).and_then(Table::<T>::from_store);
        let table = table.ok_or(SetError::Destroyed)?;
        let request = Request::new(here.clone(), object, GRAB, self.limit);
        let hold = Pending::asked(Holding { here: here.clone(), request, table }).await?;
        if hold.has_value() {
            return Ok(());
        }
        let op = self.read_here(here, *hold, made, is_absent);
        Pending::asked(Plain(Request::under_way(here.clone(), object, Wish::Fetch, op, self.limit * 2))).await
    }
}

/// A grab that ends with a hold, with a value or without.
struct Holding<T: Value> {
    here: SetHere,
    request: Request,
    table: Arc<Table<T>>,
}

impl<T: Value> Operation<Box<Hold<T>>> for Holding<T> {
    fn finish(&mut self) -> Option<Result<Box<Hold<T>>, Error>> {
        let object = self.request.object;
        match self.request.op.take()? {
            Outcome::Failed(error) => return Some(Err(error)),
            Outcome::Write(hold) => {
                let held = self.table.adopt_write(hold).map(|hold| Box::new(TellsLane::new(hold)));
                return Some(held.map_err(|error| {
                    self.here.released(object);
                    let (type_name, reason) = (T::type_name(), error.to_string());
                    AccessError::Decode { type_name, reason }.into()
                }));
            }
            _ => {}
        }
        match self.table.try_write(object) {
            Ok(hold) => Some(Ok(Box::new(TellsLane::new(hold)))),
            Err(slow) => {
                if let Slow::Interrupted(object) = slow {
                    self.here.released(object);
                }
                self.request.ask_again();
                self.finish()
            }
        }
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
