//! What is kept of the names of one class that hash to one object: a plain value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::coordination::party::{Lives, Party};
use crate::coordination::{CoordinationError, PARTIES};

/// Names in one object: a hundred thousand in a class are 25 in each, and an object stays below a hundred KiB.
pub(crate) const NAMES_IN_ONE: usize = 1024;

/// Uses of all names in one object, of a few bytes each.
pub(crate) const USES_IN_ONE: usize = 32_768;

/// A name that somebody uses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub id: u64,
    /// Nodes and programs that use it, in ascending order.
    pub users: Vec<Party>,
}

/// See the module.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct NameTable {
    entries: BTreeMap<String, Entry>,
}

impl NameTable {
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// The id of a name that a party uses.
    pub fn id_used_by(&self, name: &str, party: Party) -> Option<u64> {
        let entry = self.entries.get(name)?;
        entry.users.binary_search(&party).is_ok().then_some(entry.id)
    }

    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether anybody is gone who uses something.
    pub fn has_gone(&self, lives: &Lives) -> bool {
        self.entries.values().flat_map(|entry| &entry.users).any(|party| lives.is_gone(party))
    }

    /// Frees what is used by those who are gone alone. How many uses have ended.
    pub fn settle(&mut self, lives: &Lives) -> usize {
        let mut ended = 0;
        self.entries.retain(|_, entry| {
            let before = entry.users.len();
            entry.users.retain(|party| !lives.is_gone(party));
            ended += before - entry.users.len();
            !entry.users.is_empty()
        });
        ended
    }

    /// A party uses a name from now on. The id that it has, or `fresh` if nobody used it.
    pub fn reserve(&mut self, name: &str, party: Party, fresh: u64) -> Result<u64, CoordinationError> {
        let uses: usize = self.entries.values().map(|entry| entry.users.len()).sum();
        let Some(entry) = self.entries.get_mut(name) else {
            let too_many = |what, limit| Err(CoordinationError::TooMany { what, limit });
            if self.entries.len() >= NAMES_IN_ONE {
                return too_many("names of this class that share an object with it", NAMES_IN_ONE);
            }
            if uses >= USES_IN_ONE {
                return too_many("uses of names that share an object with it", USES_IN_ONE);
            }
            self.entries.insert(name.into(), Entry { id: fresh, users: vec![party] });
            return Ok(fresh);
        };
        if let Err(at) = entry.users.binary_search(&party) {
            if entry.users.len() >= PARTIES {
                return Err(CoordinationError::TooMany { what: "parties that use the name", limit: PARTIES });
            }
            if uses >= USES_IN_ONE {
                let what = "uses of names that share an object with it";
                return Err(CoordinationError::TooMany { what, limit: USES_IN_ONE });
            }
            entry.users.insert(at, party);
        }
        Ok(entry.id)
    }

    /// A party uses a name no more; if nobody does, it is free. Whether anything has changed.
    pub fn release(&mut self, name: &str, party: Party) -> bool {
        let Some(entry) = self.entries.get_mut(name) else { return false };
        let Ok(at) = entry.users.binary_search(&party) else { return false };
        entry.users.remove(at);
        if entry.users.is_empty() {
            self.entries.remove(name);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::party::first_lives::{lives, party};

    #[test]
    fn the_first_makes_the_id_and_the_last_frees_the_name() {
        let mut table = NameTable::default();
        assert_eq!(table.reserve("a", party(1), 7).ok(), Some(7));
        assert_eq!(table.reserve("a", party(2), 8).ok(), Some(7));
        assert_eq!(table.reserve("a", party(2), 9).ok(), Some(7), "twice is once");
        assert_eq!(table.reserve("b", party(2), 10).ok(), Some(10));
        assert!(table.release("a", party(1)) && !table.release("a", party(1)));
        assert_eq!((table.id_used_by("a", party(2)), table.id_used_by("a", party(1))), (Some(7), None));
        assert!(table.release("a", party(2)));
        assert_eq!(table.find("a"), None);
        assert_eq!(table.reserve("a", party(3), 11).ok(), Some(11), "another use of the name is another id");
        assert!(table.release("a", party(3)) && table.release("b", party(2)) && table.is_empty());
    }

    #[test]
    fn who_is_gone_uses_nothing() {
        let mut table = NameTable::default();
        for (name, node) in [("shared", 1), ("shared", 2), ("own", 1), ("program", 2)] {
            let program = (name == "program").then_some(5);
            table.reserve(name, Party { program, ..party(node) }, u64::from(node)).expect("there is room");
        }
        assert!(!table.has_gone(&lives(&[1, 2])));
        assert_eq!(table.clone().settle(&lives(&[1, 2])), 0);
        let after = lives(&[2, 3]);
        assert!(table.has_gone(&after));
        assert_eq!(table.settle(&after), 2);
        assert_eq!(table.find("own"), None);
        assert_eq!(table.find("shared").map(|entry| entry.users.clone()), Some(vec![party(2)]));
        let after = after.without([Party { program: Some(5), ..party(2) }]);
        assert_eq!(table.settle(&after), 1);
        assert_eq!(table.entries().map(|(name, _)| name).collect::<Vec<_>>(), ["shared"]);
    }

    #[test]
    fn there_are_limits() {
        let mut table = NameTable::default();
        for number in 0..NAMES_IN_ONE {
            table.reserve(&format!("name-{number}"), party(1), number as u64).expect("there is room");
        }
        assert!(matches!(table.reserve("one more", party(1), 0), Err(CoordinationError::TooMany { .. })));
        assert_eq!(table.reserve("name-3", party(1), 0).ok(), Some(3), "it is there");
        for node in 2..=PARTIES as u16 {
            table.reserve("name-3", party(node), 0).expect("there is room");
        }
        assert!(matches!(table.reserve("name-3", party(9_999), 0), Err(CoordinationError::TooMany { .. })));
        // The largest object of full names with all uses is far below the limit of an object.
        let mut largest = NameTable::default();
        for number in 0..NAMES_IN_ONE {
            let name = format!("{number:064}");
            for node in 0..(USES_IN_ONE / NAMES_IN_ONE) as u16 {
                let party = Party { node: u16::MAX - node, incarnation: u32::MAX, program: Some(u32::MAX) };
                largest.reserve(&name, party, u64::MAX).expect("there is room");
            }
        }
        assert!(matches!(largest.reserve(&format!("{:064}", 1), party(1), 0), Err(CoordinationError::TooMany { .. })));
        let bytes = postcard::to_stdvec(&largest).expect("it encodes").len();
        assert!(bytes < 1 << 20, "{bytes} bytes");
    }
}
