//! The end of a set, and of its name.

use std::time::Duration;

use kddm_core::id::SetId;

use super::{SystemObject, bucket, check_name, find_described, page, unknown};
use crate::error::{AccessError, Error, SetError};
use crate::freeze::FreezeError;
use crate::node::Node;
use crate::pending::Pending;
use crate::promise::promise;

impl Node {
    /// Destroys a set: every node refuses new operations at once, waits for holders up to `limit`,
    /// and forgets all objects. Holders that are left get `Destroyed` at their next operation. Goes on if
    /// the answer is dropped.
    ///
    /// # Errors
    /// `Unknown` if there is no such set; `DestroyUnconfirmed` names a node that could not be told; `Frozen` if somebody has
    /// [frozen](crate::Freeze) it.
    pub fn destroy_set(&self, name: &str, limit: Duration) -> Pending<()> {
        if let Err(error) = check_name(name) {
            return Pending::ready(Err(error));
        }
        let (node, named, me) = (self.clone(), name.to_string(), self.id());
        let destroy = move || match &node.runtime().lender {
            Some(lender) => lender.destroy(&named, limit),
            None => node.destroy_set_now(&named, limit),
        };
        let named = name.to_string();
        let late = move |limit| {
            let reason = format!("it was still under way after {limit:?}");
            SetError::DestroyUnconfirmed { name: named.clone(), node: me, reason }.into()
        };
        promise("kddm-destroy", destroy, late)
    }

    fn destroy_set_now(&self, name: &str, limit: Duration) -> Result<(), Error> {
        let set = self.begin_destroy(name)?;
        self.runtime().destroy_everywhere(set, name, limit)?;
        self.end_destroy(set, name)
    }

    /// Says to all who open it from now on that the set ends.
    pub(crate) fn begin_destroy(&self, name: &str) -> Result<SetId, Error> {
        check_name(name).and_then(|()| crate::coordination::check_may_go(name))?;
        if let Some(set) = crate::expiry::is_beside(name)
            && self.has_set(set)?
        {
            return Err(crate::expiry::goes_with_its_set(name));
        }
        self.begin_destroy_any(name)
    }

    /// Whether there is a set of that number. One that is just being made is waited for.
    fn has_set(&self, set: SetId) -> Result<bool, Error> {
        let system = self.system()?;
        let listed = match system.get_existing(page(set.counter())).wait() {
            Ok(page) => page.sets.iter().find(|listed| listed.set == set.0).map(|listed| listed.name.clone()),
            Err(Error::Access(AccessError::NotFound)) => None,
            Err(error) => return Err(error),
        };
        match listed.map(|name| find_described(&system, &name)) {
            Some(Ok(found)) => Ok(found.set == set.0),
            None | Some(Err(Error::Set(SetError::Unknown { .. }))) => Ok(false),
            Some(Err(error)) => Err(error),
        }
    }

    fn begin_destroy_any(&self, name: &str) -> Result<SetId, Error> {
        let system = self.system()?;
        let found = system.grab_existing(bucket(name)).wait();
        let mut names = found.map_err(|error| match error {
            Error::Access(AccessError::NotFound) => unknown(name),
            other => other,
        })?;
        let Some(found) = names.sets.iter_mut().find(|d| d.name == name) else { return Err(unknown(name)) };
        let set = SetId(found.set);
        // One that has begun goes on.
        let by = if found.destroying { None } else { self.runtime().frozen_by(set) };
        if let Some(node) = by {
            return Err(FreezeError::Frozen { set: name.into(), node }.into());
        }
        found.destroying = true;
        names.put().wait()?;
        Ok(set)
    }

    /// The set is no more: its name is free.
    pub(crate) fn end_destroy(&self, set: SetId, name: &str) -> Result<(), Error> {
        if let Some(beside) = crate::expiry::beside(set) {
            // It keeps the times of the objects, which are gone. Before the name: whoever is cut short here goes on.
            match self.begin_destroy_any(&beside) {
                Ok(times) => {
                    self.runtime().destroy_everywhere(times, &beside, self.runtime().config.wait_limit)?;
                    self.end_destroy(times, &beside)?;
                }
                Err(Error::Set(SetError::Unknown { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        let system = self.system()?;
        let mut names = system.grab(bucket(name)).wait()?;
        names.sets.retain(|d| d.name != name);
        let unlist = move |page: &mut SystemObject| {
            page.sets.retain(|d| d.set != set.0);
            Ok(())
        };
        system.update(page(set.counter()), unlist).wait()?;
        names.put().wait()
    }
}
