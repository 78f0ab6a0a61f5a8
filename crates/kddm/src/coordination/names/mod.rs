//! Names that mean one id in the whole cluster, as long as anybody uses them.

mod class;
mod here;
mod list;
mod table;

use std::sync::Arc;

use super::party::Party;
use super::{CoordinationError, opens_late};
use crate::chain::chain;
use crate::error::{AccessError, Error};
use crate::node::Node;
use crate::pending::Pending;
use crate::promise::promise;
use crate::system::{NAME_LIMIT_BYTES, bucket};

use class::Class;
pub use here::NameCounts;
pub(crate) use here::NamesHere;
pub(crate) use list::programs_have_ended;
pub use list::{NameInfo, NameList};
pub(crate) use table::NameTable;

/// Each class has a set of its own, which is called so and by the class.
pub(crate) const PREFIX: &str = "kddm/names/";

/// Longest name of a class, in bytes: its set has a name, too.
const CLASS_LIMIT_BYTES: usize = NAME_LIMIT_BYTES - PREFIX.len();

/// Objects over which the names of a class are spread: a hundred thousand names are 25 in each.
const BUCKETS: u64 = 4096;

/// The object of a name.
fn bucket_of(name: &str) -> u64 {
    (bucket(name) >> 32) % BUCKETS
}

/// The names of one class: [`Node::names`]. Clones are the same.
#[derive(Clone)]
pub struct Names(Arc<Class>);

/// A use of a name. It ends soon after this is dropped, and at once with [`release`](NameHold::release).
#[must_use = "the name is given back when this is dropped"]
pub struct NameHold {
    class: Arc<Class>,
    name: Arc<str>,
    id: u64,
    is_over: bool,
}

impl Node {
    /// The names of that class: what is reserved under a name has one id in the whole cluster, from the first who
    /// uses it to the last. Names of different classes have nothing to do with each other.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let here = nodes[0].names("port").wait()?;
    /// let there = nodes[1].names("port").wait()?;
    /// let mine = here.reserve("door").wait()?;
    /// let theirs = there.reserve("door").wait()?;
    /// assert_eq!(mine.id(), theirs.id());
    /// let id = mine.id();
    /// mine.release().wait()?; // the other one uses it still
    /// assert_eq!(here.find("door").wait()?, Some(id));
    /// theirs.release().wait()?;
    /// assert_eq!(here.find("door").wait()?, None);
    /// assert_ne!(here.reserve("door").wait()?.id(), id); // an id never means anything else
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `BadName` for a class of none or more than 53 bytes, or with an empty part between slashes; what opening a set
    /// can meet.
    pub fn names(&self, class: &str) -> Pending<Names> {
        let (node, class) = (self.clone(), class.to_string());
        promise("kddm-names", move || Class::open(&node, &class).map(Names), opens_late)
    }
}

impl Names {
    /// The class.
    pub fn class(&self) -> &str {
        &self.0.name
    }

    /// Uses a name: its id, which is made if nobody uses it. Of a name that this process uses already, in nanoseconds and
    /// without a message.
    ///
    /// # Errors
    /// `BadName` for none or more than 64 bytes; `TooMany` names that share an object, users, or names of this
    /// process; what an update can meet. If the [fate](Error::fate) is unknown it is given back by itself.
    pub fn reserve(&self, name: &str) -> Pending<NameHold> {
        if let Err(error) = check_bytes(name, "name", NAME_LIMIT_BYTES) {
            return Pending::ready(Err(error));
        }
        if let Some(hold) = self.0.reserve_again(name) {
            return Pending::ready(Ok(hold));
        }
        let (class, name) = (Arc::clone(&self.0), name.to_string());
        promise("kddm-names", move || class.reserve(&name), opens_late)
    }

    /// The id of a name that anybody uses, without using it: it may be free a moment later. A user that is gone counts
    /// until somebody has looked, as everywhere.
    ///
    /// # Errors
    /// What a get can meet.
    pub fn find(&self, name: &str) -> Pending<Option<u64>> {
        let (class, name) = (Arc::clone(&self.0), name.to_string());
        let steps = async move {
            match class.set.get_existing(bucket_of(&name)).await {
                Ok(table) => Ok(table.find(&name).map(|entry| entry.id)),
                Err(Error::Access(AccessError::NotFound)) => Ok(None),
                Err(error) => Err(error),
            }
        };
        chain(steps, opens_late)
    }

    /// Gives back one use of a name by this process, of which no [`NameHold`] is kept: see [`NameHold::into_id`].
    ///
    /// # Errors
    /// `NotReserved` if this process does not use it; what an update can meet: the use has ended all the same, and the
    /// cluster is told later.
    pub fn release(&self, name: &str) -> Pending<()> {
        let (class, name) = (Arc::clone(&self.0), name.to_string());
        let release = move || if class.release(&name, None)? { Ok(()) } else { Err(class.not_reserved(&name)) };
        promise("kddm-names", release, opens_late)
    }
}

impl NameHold {
    /// What the name means: a number above zero that no other name of any class has, or has had.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the name is used here still: it is not any more if this node, or program, was taken for gone, or if more
    /// nodes were lost than the books survive. Costs nothing while nobody else reserves or releases.
    ///
    /// # Errors
    /// `NotReserved`; what a get can meet.
    pub fn check(&self) -> Pending<()> {
        let (class, name, id) = (Arc::clone(&self.class), Arc::clone(&self.name), self.id);
        let steps = async move {
            let used = match class.set.get_existing(bucket_of(&name)).await {
                Ok(table) => table.id_used_by(&name, Party::of(&class.node)),
                Err(Error::Access(AccessError::NotFound)) => None,
                Err(error) => return Err(error),
            };
            if used == Some(id) { Ok(()) } else { Err(class.not_reserved(&name)) }
        };
        chain(steps, opens_late)
    }

    /// Keeps the use until this node, or program, ends, or until [`Names::release`] ends it. Keep a handle of the [`Names`] as
    /// long: what this process uses of the class is counted there.
    pub fn into_id(mut self) -> u64 {
        self.is_over = true;
        self.id
    }

    /// Gives the use back. If it was the last one, the name is free when this is answered.
    ///
    /// # Errors
    /// What an update can meet: the use has ended all the same, and the cluster is told later.
    pub fn release(mut self) -> Pending<()> {
        self.is_over = true;
        let (class, name, id) = (Arc::clone(&self.class), Arc::clone(&self.name), self.id);
        if class.release_one_of_many(&name, id) {
            return Pending::ready(Ok(()));
        }
        promise("kddm-names", move || class.release(&name, Some(id)).map(|_| ()), opens_late)
    }
}

impl Drop for NameHold {
    fn drop(&mut self) {
        if !self.is_over && !self.class.release_one_of_many(&self.name, self.id) {
            self.class.release_soon(&self.name, self.id);
        }
    }
}

impl std::fmt::Debug for NameHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NameHold")
            .field("class", &self.class.name)
            .field("name", &self.name)
            .field("id", &self.id)
            .finish()
    }
}

fn check_bytes(name: &str, what: &'static str, limit_bytes: usize) -> Result<(), Error> {
    if (1..=limit_bytes).contains(&name.len()) {
        return Ok(());
    }
    Err(CoordinationError::BadName { name: name.into(), what, limit_bytes }.into())
}
