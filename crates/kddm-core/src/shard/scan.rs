//! Which objects there are, as the home of a shard knows it: a page at a time.

use super::*;
use crate::home::EntryState;
use crate::node::Held;

impl Shard {
    /// The objects that the directory names behind `after`, in ascending order, up to `most` of them: they replace what
    /// is in `found`. Whether there are more. Memory is needed for two pages, whatever the shard holds.
    pub(crate) fn page(&self, after: Option<ObjectId>, most: usize, found: &mut Vec<Entry>) -> Result<bool, NoMemory> {
        found.clear();
        found.try_reserve(2 * most.max(1)).map_err(|_| NoMemory)?;
        let mut before = None;
        for entry in self.directory.iter().filter(|entry| exists(entry) && after < Some(entry.object)) {
            if before.is_some_and(|before| before < entry.object) {
                continue;
            }
            found.push(*entry);
            if found.len() == 2 * most.max(1) {
                keep_first(found, most);
                before = found.last().map(|last| last.object).or(Some(ObjectId(0)));
            }
        }
        let has_more = before.is_some() || found.len() > most;
        keep_first(found, most);
        Ok(has_more)
    }

    /// The objects of which a value is here, each once.
    pub(crate) fn held(&self) -> impl Iterator<Item = (ObjectId, Held)> {
        let own = |packed: &Packed| match packed.main(RequestId::default()) {
            Main::Owner { .. } if packed.has_value => Some((packed.key(), Held::Owner)),
            Main::Sharer { .. } => Some((packed.key(), Held::Copy)),
            _ => None,
        };
        let is_own = move |object: ObjectId| self.objects.get(object).is_some_and(|packed| own(packed).is_some());
        let replicas = self.replicas.iter().filter(|slot| !slot.is_offer()).map(|slot| slot.object);
        let replicas = replicas.filter(move |object| !is_own(*object)).map(|object| (object, Held::Replica));
        self.objects.iter().filter_map(own).chain(replicas)
    }

    /// Whether the directory names that object.
    pub(crate) fn names(&self, object: ObjectId) -> bool {
        self.directory.get(object).is_some_and(exists)
    }

    /// How many objects the directory names, and how many of them are lost.
    pub(crate) fn census(&self) -> (usize, usize) {
        let there = self.directory.iter().filter(|entry| exists(entry));
        there.fold((0, 0), |(objects, lost), entry| (objects + 1, lost + usize::from(entry.lost)))
    }
}

fn keep_first(found: &mut Vec<Entry>, most: usize) {
    found.sort_unstable_by_key(|entry| entry.object);
    found.truncate(most);
}

/// Whether an object is there, or may be: what is being made or removed counts as there.
fn exists(entry: &Entry) -> bool {
    entry.state != EntryState::Absent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::mix;

    fn shard(objects: impl Iterator<Item = u64>) -> Shard {
        let mut shard = Shard::new();
        for object in objects {
            shard.directory.reserve_one().expect("there is memory");
            let (tenure, node) = (Tenure::NONE, NodeId(1));
            let state = if object % 10 == 9 { EntryState::Absent } else { EntryState::Fact };
            let entry = Entry { object: ObjectId(object), tenure, node, state, lost: object % 10 == 8 };
            shard.directory.put(entry);
        }
        shard
    }

    /// Whatever the order in memory, and however long a page is.
    #[test]
    fn pages_name_each_object_once_and_in_order() {
        let mut ids: Vec<u64> = (0..1_000).map(|at| mix(at) % 100_000).collect();
        let shard = shard(ids.iter().copied());
        ids.retain(|id| id % 10 != 9);
        ids.sort_unstable();
        ids.dedup();
        let lost = ids.iter().filter(|id| **id % 10 == 8).count();
        assert_eq!(shard.census(), (ids.len(), lost));
        for most in [1, 2, 7, 100, 499, 500, 999, 1_000, 5_000] {
            let (mut all, mut after, mut found) = (Vec::new(), None, Vec::new());
            loop {
                let has_more = shard.page(after, most, &mut found).expect("there is memory");
                assert!(found.len() <= most && (!has_more || found.len() == most));
                all.extend(found.iter().map(|entry| entry.object.0));
                after = found.last().map(|entry| entry.object);
                if !has_more {
                    break;
                }
            }
            assert_eq!(all, ids, "pages of {most}");
        }
    }

    #[test]
    fn the_last_object_of_all_ends_a_scan() {
        let shard = shard([0, 5, u64::MAX - 1].into_iter());
        let mut found = Vec::new();
        assert_eq!(shard.page(Some(ObjectId(5)), 4, &mut found), Ok(false));
        assert_eq!(found.iter().map(|entry| entry.object.0).collect::<Vec<_>>(), [u64::MAX - 1]);
        assert_eq!(shard.page(Some(ObjectId(u64::MAX)), 4, &mut found), Ok(false));
        assert!(found.is_empty());
        assert_eq!(shard.page(None, 2, &mut found), Ok(true));
    }
}
