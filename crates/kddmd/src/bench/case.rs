//! The cases of Kerrighed's benchmark: who holds an object before it is got, grabbed or removed, and
//! how many messages that may cost.

use std::collections::BTreeMap;

/// A temporary set: how large its objects are, and where their home is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetKind {
    /// Its name in reports.
    pub name: &'static str,
    /// Bytes of an object.
    pub bytes: usize,
    /// Whether the node that measures is the home.
    pub is_home_here: bool,
}

/// The three sets.
pub const SETS: [SetKind; 3] = [
    SetKind { name: "4_home_here", bytes: 4, is_home_here: true },
    SetKind { name: "4_home_elsewhere", bytes: 4, is_home_here: false },
    SetKind { name: "4096_home_elsewhere", bytes: 4096, is_home_here: false },
];

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A read copy, then its release.
    Get,
    /// The only copy, then a put of a changed value.
    Grab,
    /// The end of the object.
    Remove,
}

/// Who holds the object before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    /// Nobody: it does not exist.
    Nothing,
    /// Its home owns it.
    OwnerIsHome,
    /// Another node than this one and the home owns it.
    OwnerIsNotHome,
    /// This node alone.
    Local,
    /// So many other nodes; the first of them owns it.
    Remote(usize),
    /// This node owns it, and so many others have copies.
    LocalAndRemote(usize),
}

/// One case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    /// Its name in reports.
    pub name: &'static str,
    /// What is measured.
    pub operation: Operation,
    /// Who holds the object before.
    pub before: Before,
}

const fn case(name: &'static str, operation: Operation, before: Before) -> Case {
    Case { name, operation, before }
}

/// The 13 cases.
pub const CASES: [Case; 13] = [
    case("get_first_touch", Operation::Get, Before::Nothing),
    case("get_owner_is_home", Operation::Get, Before::OwnerIsHome),
    case("get_owner_is_not_home", Operation::Get, Before::OwnerIsNotHome),
    case("grab_first_touch", Operation::Grab, Before::Nothing),
    case("grab_1_local", Operation::Grab, Before::Local),
    case("grab_1_remote", Operation::Grab, Before::Remote(1)),
    case("grab_2_remote", Operation::Grab, Before::Remote(2)),
    case("grab_3_remote", Operation::Grab, Before::Remote(3)),
    case("grab_1_local_3_remote", Operation::Grab, Before::LocalAndRemote(3)),
    case("remove_1_local", Operation::Remove, Before::Local),
    case("remove_1_remote", Operation::Remove, Before::Remote(1)),
    case("remove_2_remote", Operation::Remove, Before::Remote(2)),
    case("remove_3_remote", Operation::Remove, Before::Remote(3)),
];

/// The nodes of a case by what they are to its objects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Roles {
    /// The node that measures.
    pub here: u16,
    /// The home of the objects.
    pub home: u16,
    /// Who owns them before.
    pub owner: Option<u16>,
    /// Who else has copies before.
    pub sharers: Vec<u16>,
}

impl Roles {
    /// Who is what, or why the cluster has too few nodes. The first of the others is the home where
    /// that is not this node.
    pub fn of(case: Case, set: SetKind, here: u16, others: &[u16]) -> Result<Roles, String> {
        let needs = |count: usize| match others.get(count - 1) {
            Some(_) => Ok(()),
            None => Err(format!("needs {} nodes, there are {}", count + 1, others.len() + 1)),
        };
        needs(1)?;
        let home = if set.is_home_here { here } else { others[0] };
        let (owner, sharers) = match case.before {
            Before::Nothing => (None, &others[..0]),
            Before::Local => (Some(here), &others[..0]),
            Before::OwnerIsHome => (Some(home), &others[..0]),
            Before::OwnerIsNotHome => {
                let owner = usize::from(!set.is_home_here);
                needs(owner + 1)?;
                (Some(others[owner]), &others[..0])
            }
            Before::Remote(count) => {
                needs(count)?;
                (Some(others[0]), &others[1..count])
            }
            Before::LocalAndRemote(count) => {
                needs(count)?;
                (Some(here), &others[..count])
            }
        };
        Ok(Roles { here, home, owner, sharers: sharers.to_vec() })
    }

    /// The messages that one operation may cost, by kind: the table in `docs/protocol.md`, for a
    /// requester without a hint. Acknowledgements of ownership off the critical path count too.
    pub fn budget(&self, operation: Operation) -> BTreeMap<&'static str, u64> {
        let mut budget = BTreeMap::new();
        let mut add = |kind, count| {
            if count > 0 {
                *budget.entry(kind).or_insert(0) += count;
            }
        };
        let is_home_here = self.home == self.here;
        let is_home_sharer = self.sharers.contains(&self.home);
        let sharers = self.sharers.len() as u64;
        let to_home = u64::from(!is_home_here);
        let Some(owner) = self.owner else {
            // A first touch: the home gives leave, and is told that it was used.
            ["request", "create", "owner_is"].into_iter().for_each(|kind| add(kind, to_home));
            return budget;
        };
        let is_owner_here = owner == self.here;
        if !is_owner_here {
            // To the home, and by the home to the owner.
            add("request", to_home + u64::from(owner != self.home));
        }
        match operation {
            Operation::Get => add("data", u64::from(!is_owner_here)),
            Operation::Grab => {
                add("invalidate", sharers);
                add("ack", sharers);
                if !is_owner_here {
                    add("transfer", 1);
                    add("confirm", 1);
                    add("owner_is", to_home);
                }
            }
            Operation::Remove => {
                // A home that shares is told and struck by one message.
                let told = sharers - u64::from(is_home_sharer);
                let is_home_told = u64::from(owner != self.home);
                add("invalidate", told);
                add("removing", is_home_told);
                add("ack", told + is_home_told);
                add("removed", is_home_told);
                add("remove_done", u64::from(!is_owner_here));
            }
        }
        budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(set: usize, case: &str, others: &[u16]) -> Option<u64> {
        let case = *CASES.iter().find(|known| known.name == case).expect("a case");
        let roles = Roles::of(case, SETS[set], 900, others).ok()?;
        Some(roles.budget(case.operation).values().sum())
    }

    /// Rows of the table in `docs/protocol.md`, as numbers.
    #[test]
    fn the_budget_is_that_of_the_protocol() {
        let others = [3, 40, 17];
        for (case, here, elsewhere) in [
            ("get_first_touch", 0, 2 + 1),
            ("get_owner_is_home", 0, 2),
            ("get_owner_is_not_home", 2, 3),
            ("grab_first_touch", 0, 2 + 1),
            ("grab_1_local", 0, 0),
            ("grab_1_remote", 2 + 1, 2 + 2),
            ("grab_2_remote", 2 + 2 + 1, 2 + 2 + 2),
            ("grab_3_remote", 2 + 4 + 1, 2 + 4 + 2),
            ("grab_1_local_3_remote", 6, 6),
            ("remove_1_local", 0, 3),
            ("remove_1_remote", 5, 2),
            ("remove_2_remote", 2 + 5, 2 + 2),
            ("remove_3_remote", 4 + 5, 4 + 2),
        ] {
            assert_eq!(total(0, case, &others), Some(here), "{case}, home here");
            assert_eq!(total(1, case, &others), Some(elsewhere), "{case}, home elsewhere");
            assert_eq!(total(2, case, &others), Some(elsewhere), "{case}, home elsewhere, large");
        }
    }

    #[test]
    fn cases_that_need_more_nodes_are_left_out() {
        for (nodes, home_here, home_elsewhere) in [(1, 0, 0), (2, 8, 7), (3, 10, 10), (4, 13, 13), (9, 13, 13)] {
            let others: Vec<u16> = (1..nodes).collect();
            let possible = |set| CASES.iter().filter(|case| Roles::of(**case, SETS[set], 900, &others).is_ok()).count();
            assert_eq!((possible(0), possible(1)), (home_here, home_elsewhere), "{nodes} nodes");
        }
    }
}
