//! The names of the cluster, for people; and what a program that has ended used.

use std::collections::BTreeMap;

use super::class::put_back;
use super::{NameTable, PREFIX};
use crate::coordination::party::Party;
use crate::error::{AccessError, Error, SetError};
use crate::guard::ReadGuard;
use crate::node::Node;
use crate::scan::ObjectState;
use crate::set::Set;

/// A name that somebody uses.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct NameInfo {
    /// Its class.
    pub class: String,
    /// The name.
    pub name: String,
    /// What it means.
    pub id: u64,
    /// Nodes and programs that use it.
    pub users: Vec<Party>,
    /// Those of them that are gone: their uses end when somebody reserves or releases a name that is kept with it.
    pub gone: Vec<Party>,
}

/// What [`Node::names_in_use`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct NameList {
    /// The first of them, by class and name.
    pub names: Vec<NameInfo>,
    /// How many there are.
    pub total: usize,
}

impl Node {
    /// The names that are in use, of one class or of all: up to `limit` of them, and how many there are. Each object of
    /// names is read, one after the other: it is no picture of one moment. Blocks.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let _held = nodes[0].names("port").wait()?.reserve("door").wait()?;
    /// let list = nodes[1].names_in_use(Some("port"), 10)?;
    /// assert_eq!((list.total, list.names[0].name.as_str(), list.names[0].users[0].node), (1, "door", nodes[0].id()));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// What a get can meet.
    pub fn names_in_use(&self, class: Option<&str>, limit: usize) -> Result<NameList, Error> {
        let lives = self.lives()?.lock().clone();
        let mut found: BTreeMap<(String, String), NameInfo> = BTreeMap::new();
        let mut total = 0;
        for (of, set) in classes(self, class)? {
            for_each_table(&set, |_, table| {
                for (name, entry) in table.entries() {
                    total += 1;
                    let gone = entry.users.iter().copied().filter(|party| lives.is_gone(party)).collect();
                    let (id, users) = (entry.id, entry.users.clone());
                    let info = NameInfo { class: of.clone(), name: name.into(), id, users, gone };
                    found.insert((of.clone(), name.into()), info);
                    if found.len() > limit {
                        found.pop_last();
                    }
                }
                Ok(())
            })?;
        }
        Ok(NameList { names: found.into_values().collect(), total })
    }
}

/// The sets of all classes, or of one.
fn classes(node: &Node, class: Option<&str>) -> Result<Vec<(String, Set<NameTable>)>, Error> {
    let names: Vec<String> = match class {
        Some(class) => vec![class.into()],
        None => node.sets()?.iter().filter_map(|set| Some(set.name.strip_prefix(PREFIX)?.to_string())).collect(),
    };
    let mut found = Vec::new();
    for class in names {
        match node.set(&format!("{PREFIX}{class}")).open_existing().wait() {
            Ok(set) => found.push((class, set)),
            Err(Error::Set(SetError::Unknown { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Looks at each object of a class.
fn for_each_table(
    set: &Set<NameTable>,
    mut look: impl FnMut(u64, ReadGuard<NameTable>) -> Result<(), Error>,
) -> Result<(), Error> {
    for found in set.scan() {
        let bucket = match found {
            Ok(found) if found.state != ObjectState::Lost => found.id,
            // What was lost is made anew by whoever reserves next.
            Ok(_) | Err(Error::Set(SetError::InDoubt { .. })) => continue,
            Err(error) => return Err(error),
        };
        match set.get_existing(bucket).wait() {
            Ok(table) => look(bucket, table)?,
            Err(Error::Access(AccessError::NotFound)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Programs that were attached to this node are not any more: what they used is free. Blocks.
pub(crate) fn programs_have_ended(node: &Node, ended: &[Party]) -> Result<(), Error> {
    let sets = classes(node, None)?;
    if sets.is_empty() {
        return Ok(());
    }
    let lives = node.lives()?.lock().without(ended.iter().copied());
    for (_, set) in sets {
        for_each_table(&set, |bucket, table| {
            if !table.has_gone(&lives) {
                return Ok(());
            }
            drop(table);
            let mut table = set.grab_existing(bucket).wait()?;
            let freed = table.settle(&lives);
            node.runtime().coordination.names.note_ended(freed);
            if freed > 0 { put_back(table) } else { Ok(()) }
        })?;
    }
    Ok(())
}
