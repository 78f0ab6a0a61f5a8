//! The end of a set, and of its name.

use std::time::Duration;

use kddm_core::id::SetId;

use super::{SYSTEM_NAME, SystemObject, bucket, check_name, find_described, page, unknown};
use crate::error::{AccessError, ConfigurationError, Error, SetError};
use crate::freeze::FreezeError;
use crate::inspect::SetInfo;
use crate::node::Node;
use crate::pending::Pending;
use crate::promise::promise;

/// An error for whoever would destroy what all need, and for names that no set has.
fn check_may_go(name: &str) -> Result<(), Error> {
    if name == SYSTEM_NAME {
        let rule = "it is the list of all sets, which ends with its cluster; destroy single ones of them";
        return Err(ConfigurationError::OutOfRange { setting: "set", value: name.into(), rule }.into());
    }
    check_name(name).and_then(|()| crate::coordination::check_may_go(name))
}

impl Node {
    /// Destroys a set, which need not be open here: every node refuses new operations at once, waits for holders up to
    /// `limit`, and forgets all objects. Holders that are left get `Destroyed` at their next operation. Goes on if
    /// the answer is dropped. One that was cut short is ended by the next.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let set: kddm::Set<u64> = nodes[0].set("ends").open().wait()?;
    /// set.grab(1).wait()?.put().wait()?;
    /// nodes[1].destroy_set("ends", std::time::Duration::from_secs(1)).wait()?;
    /// assert!(matches!(set.get(1).wait().map(drop), Err(kddm::Error::Set(kddm::SetError::Destroyed))));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Unknown` if there is no such set; `DestroyUnconfirmed` names a node that could not be told; `Frozen` if somebody has
    /// [frozen](crate::Freeze) it; `OutOfRange` if it is one that KDDM keeps for itself: of barriers, latches, ids or names, or
    /// one that keeps the times of the objects of another set, with which it goes; `BadName` of a name that no set has.
    pub fn destroy_set(&self, name: &str, limit: Duration) -> Pending<()> {
        self.destroy(name, None, limit)
    }

    /// As [`destroy_set`](Node::destroy_set), of the very set that was found, for instance by
    /// [`check_may_destroy`](Node::check_may_destroy), and of no other one that has its name by now.
    ///
    /// ```
    /// let node = kddm::Node::local_cluster(1)?.remove(0);
    /// let _set: kddm::Set<u64> = node.set("ends").open().wait()?;
    /// let found = node.check_may_destroy("ends")?;
    /// node.destroy_set("ends", std::time::Duration::from_secs(1)).wait()?;
    /// let _next: kddm::Set<u64> = node.set("ends").open().wait()?;
    /// assert!(node.destroy_found(&found, std::time::Duration::from_secs(1)).wait().is_err());
    /// assert!(node.check_may_destroy("ends").is_ok());
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As there, `Unknown` also if another one has its name; `Attached` in a program.
    pub fn destroy_found(&self, found: &SetInfo, limit: Duration) -> Pending<()> {
        match self.is_no_program("destroy a set that was found", "`destroy_set` does, by its name") {
            Ok(()) => self.destroy(&found.name, Some(SetId(found.id)), limit),
            Err(error) => Pending::ready(Err(error)),
        }
    }

    fn destroy(&self, name: &str, meant: Option<SetId>, limit: Duration) -> Pending<()> {
        if let Err(error) = check_may_go(name) {
            return Pending::ready(Err(error));
        }
        let (node, named, me) = (self.clone(), name.to_string(), self.id());
        let destroy = move || match &node.runtime().lender {
            Some(lender) => lender.destroy(&named, limit),
            None => node.destroy_set_now(&named, meant, limit),
        };
        let named = name.to_string();
        let late = move |limit| {
            let reason = format!("it was still under way after {limit:?}");
            SetError::DestroyUnconfirmed { name: named.clone(), node: me, reason }.into()
        };
        promise("kddm-destroy", destroy, late)
    }

    /// The set that [`destroy_set`](Node::destroy_set) would end, for whoever asks somebody first whether that is meant. Changes
    /// nothing. Blocks.
    ///
    /// ```
    /// let node = kddm::Node::local_cluster(1)?.remove(0);
    /// let _set: kddm::Set<u64> = node.set("ends").open().wait()?;
    /// assert!(!node.check_may_destroy("ends")?.is_ending);
    /// assert!(node.check_may_destroy("other").is_err());
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `destroy_set` before it has begun; `Attached` in a program.
    pub fn check_may_destroy(&self, name: &str) -> Result<SetInfo, Error> {
        self.is_no_program("ask whether a set may be destroyed", "`kddmadm set destroy` does")?;
        check_may_go(name)?;
        let info = self.set_info(name)?;
        self.check_goes_alone(name)?;
        match info.frozen_by.first() {
            // A destroy that has begun goes on.
            Some(node) if !info.is_ending => Err(FreezeError::Frozen { set: name.into(), node: *node }.into()),
            _ => Ok(info),
        }
    }

    fn destroy_set_now(&self, name: &str, meant: Option<SetId>, limit: Duration) -> Result<(), Error> {
        let set = self.begin_destroy(name, meant)?;
        self.runtime().destroy_everywhere(set, name, limit)?;
        self.end_destroy(set, name)
    }

    /// Says to all who open it from now on that the set ends, if it is the one that is meant.
    pub(crate) fn begin_destroy(&self, name: &str, meant: Option<SetId>) -> Result<SetId, Error> {
        check_may_go(name)?;
        self.check_goes_alone(name)?;
        self.begin_destroy_any(name, meant)
    }

    /// An error for whoever would destroy what another set needs.
    fn check_goes_alone(&self, name: &str) -> Result<(), Error> {
        match crate::expiry::is_beside(name) {
            Some(set) if self.has_set(set)? => Err(crate::expiry::goes_with_its_set(name)),
            _ => Ok(()),
        }
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

    fn begin_destroy_any(&self, name: &str, meant: Option<SetId>) -> Result<SetId, Error> {
        let system = self.system()?;
        let found = system.grab_existing(bucket(name)).wait();
        let mut names = found.map_err(|error| match error {
            Error::Access(AccessError::NotFound) => unknown(name),
            other => other,
        })?;
        let mut named = names.sets.iter_mut().filter(|d| d.name == name);
        let found = named.find(|d| meant.is_none_or(|meant| meant.0 == d.set)).ok_or_else(|| unknown(name))?;
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
            match self.begin_destroy_any(&beside, None) {
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
        // By its number: another destroy may have ended it already, and its name may be that of the next.
        names.sets.retain(|d| d.set != set.0);
        let unlist = move |page: &mut SystemObject| {
            page.sets.retain(|d| d.set != set.0);
            Ok(())
        };
        system.update(page(set.counter()), unlist).wait()?;
        names.put().wait()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{Node, Set};

    const LIMIT: Duration = Duration::from_secs(60);

    fn open(node: &Node) -> Set<u64> {
        node.set("again").open().wait_for(LIMIT).expect("it opens")
    }

    #[test]
    fn who_ends_a_set_that_has_ended_leaves_the_next_of_its_name_alone() {
        let nodes = Node::local_cluster(2).expect("two nodes");
        let former = open(&nodes[0]);
        let late = nodes[1].begin_destroy("again", None).expect("it begins");
        assert!(nodes[0].check_may_destroy("again").expect("one that has begun goes on").is_ending);
        nodes[0].destroy_set("again", LIMIT).wait_for(LIMIT).expect("it ends");
        let next = open(&nodes[0]);
        next.grab(1).wait_for(LIMIT).expect("it is made").put().wait_for(LIMIT).expect("it is put");
        nodes[1].end_destroy(late, "again").expect("it has ended");
        assert_ne!(nodes[1].set_info("again").expect("the next one is there").id, late.0);
        drop(open(&nodes[1]).get(1).wait_for(LIMIT).expect("it is the same for all"));
        assert!(former.get(1).wait_for(LIMIT).is_err(), "it has ended");
    }
}
