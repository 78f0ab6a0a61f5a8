//! Access to objects is granted and taken back here, and linkers that want to hear of it are told: that there is less
//! before anybody else hears of it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Instant;

use kddm_core::id::{ObjectId, SetId, Version};
use kddm_core::io::{Access, Input};

use crate::cell::{CellNumber, HeldBy, RevokeResult, Store};
use crate::linker::Lowered;
use crate::runtime::Runtime;
use crate::runtime::lane::LaneState;
use crate::runtime::turn::Alarmed;
use crate::sync::{Slip, slips};

/// Cells looked at before the lane is free for others: some hundred microseconds.
const SLICE: u32 = 1024;

/// Whoever hears of the copies that this node has of a set.
pub(crate) trait Hooks: Alarmed {
    /// There is one with a value, to be used up to that access; it may be read already, and nobody writes it.
    fn came(&self, store: &Arc<dyn Store>, cell: CellNumber, object: u64, access: Access);
    /// Access to one is being taken back to that level.
    fn lowers(&self, object: u64, to: Access) -> Lowered;
    /// It may be used up to that access at most, whoever knows of that already.
    fn is_less(&self, object: u64, access: Access);
    /// Who is to hear that access to one has been taken back, and since when somebody waits for that.
    fn awaited(&self, object: u64) -> Option<(HeldBy, Instant)>;
    /// There are none any more.
    fn end(&self);
}

impl LaneState {
    /// Local threads may use an object up to that access.
    pub fn grant(&mut self, set: SetId, object: ObjectId, access: Access) {
        let store = self.store(set);
        let cell = store.find_or_insert(object.0);
        if !self.hooked.is_empty() && store.has_value(cell) {
            // Of a frozen set it hears of more when it is granted.
            let access = if self.is_frozen(set) { access.min(Access::Read) } else { access };
            self.tell_of_copy(set, object, access, (&store, cell));
        }
        self.grant_here(set, object, cell, access);
    }

    #[cold]
    fn tell_of_copy(&self, set: SetId, object: ObjectId, access: Access, (store, cell): (&Arc<dyn Store>, CellNumber)) {
        if let Some(hooks) = self.hooked.get(&set) {
            // To read first: nobody writes it while it is looked at.
            store.grant(cell, Access::Read);
            hooks.came(store, cell, object.0, access);
        }
    }

    /// Whether all who hear of it have heard that there is less: else this goes on when they have.
    fn has_heard_of_less(&mut self, set: SetId, object: ObjectId, to: Access) -> bool {
        let Some(hooks) = self.hooked.get(&set) else { return true };
        let Lowered::Later(looks_at) = hooks.lowers(object.0, to) else { return true };
        if let Some(at) = looks_at {
            let hooks: Arc<dyn Alarmed> = Arc::clone(hooks) as _;
            let whom: Weak<dyn Alarmed> = Arc::downgrade(&hooks);
            self.alarms.set(at, whom);
        }
        false
    }

    /// Takes all access back if no local thread holds the object. `None`: it has been, and somebody hears of it first.
    pub fn try_to_take_back(&mut self, set: SetId, object: ObjectId) -> Option<Input> {
        let store = self.store(set);
        let cell = store.find_or_insert(object.0);
        match store.try_revoke(cell) {
            RevokeResult::Done { version, has_value } => {
                if self.hooked.is_empty() || self.has_heard_of_less(set, object, Access::None) {
                    return Some(Input::Revoked { version: Version(version), has_value });
                }
                // From here on it is as if it had been asked to take it back, which is said by the same word.
                let local = self.local(set, object);
                (local.is_trying, local.revoking) = (false, Some(Access::None));
                None
            }
            RevokeResult::Held => Some(Input::Held),
        }
    }

    /// Takes access back if no local thread uses more; else the last release comes here again.
    pub fn try_to_lower(&mut self, set: SetId, object: ObjectId, todo: &mut VecDeque<Input>) {
        let store = self.store(set);
        let cell = store.find_or_insert(object.0);
        let local = self.local(set, object);
        let Some(to) = local.revoking else { return };
        match store.revoke(cell, to) {
            RevokeResult::Held if slips(Slip::TakeFromHolders) => {
                let (version, has_value) = (Version(store.version(cell)), store.has_value(cell));
                todo.push_back(Input::Revoked { version, has_value });
            }
            RevokeResult::Held => {
                self.is_held_up(set, object);
                self.ask_back(set, object, to, None);
            }
            RevokeResult::Done { version, has_value } => {
                self.goes_on(set, object);
                if self.hooked.is_empty() || self.has_heard_of_less(set, object, store.access(cell)) {
                    todo.push_back(Input::Revoked { version: Version(version), has_value });
                }
            }
        }
    }

    /// Whoever hears of copies hears of that of an object, however it has come to what it is.
    #[cold]
    pub fn look_at_hooks(&mut self, set: SetId, object: ObjectId) {
        let (Some(hooks), Some(store)) = (self.hooked.get(&set), self.stores.get(&set)) else { return };
        // What is being taken back is told by whoever takes it.
        let is_going = |local: &super::local::Local| local.revoking.is_some() || local.is_trying;
        if self.locals.get(&(set, object)).is_some_and(is_going) {
            return;
        }
        let cell = store.find(object.0);
        let with_value = cell.filter(|cell| store.has_value(*cell));
        let access = with_value.map_or(Access::None, |cell| store.access(cell));
        hooks.is_less(object.0, access);
        if let Some(cell) = with_value.filter(|_| access > Access::None) {
            hooks.came(store, cell, object.0, access);
        }
    }

    /// Who is to hear that there is less of an object before it goes on, and since when.
    pub fn awaited_hook(&self, set: SetId, object: ObjectId) -> Option<(HeldBy, Instant)> {
        // Without the first nobody waits, for hooks either.
        let is_going = self.locals.get(&(set, object)).is_some_and(|local| local.revoking.is_some());
        is_going.then(|| self.hooked.get(&set)?.awaited(object.0))?
    }

    /// Nothing that is here is of any use any more.
    pub fn end_hooks(&self) {
        self.hooked.values().for_each(|hooks| hooks.end());
    }
}

impl Runtime {
    /// From now on somebody hears of the copies of a set that this node has, and of those that are here.
    pub fn hook(&self, set: SetId, hooks: Arc<dyn Hooks>) {
        for lane in &self.lanes {
            let mut state = lane.lock();
            if state.destroyed.contains(set) {
                lane.finish(state);
                hooks.end();
                continue; // Meanwhile: nobody would take it out again.
            }
            let is_new = state.hooked.insert(set, Arc::clone(&hooks)).is_none();
            lane.finish(state);
            if is_new {
                lane.in_slices(|state, first| {
                    let (cells, next) = state.own_cells_from(set, first, SLICE);
                    cells.into_iter().for_each(|(object, _)| state.look_at_hooks(set, ObjectId(object)));
                    next
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use kddm_core::id::{ObjectId, SetId};
    use kddm_core::io::Access;

    use crate::linker::{Hears, Linker, LinkerError};
    use crate::{Node, Set};

    const LIMIT: Duration = Duration::from_secs(30);

    struct Says(Mutex<Sender<(u64, u64, String)>>);

    impl Linker<String> for Says {
        fn first_touch(&self, _: u64) -> Result<Option<String>, LinkerError> {
            Ok(None)
        }

        fn hears(&self) -> Hears {
            Hears::Copies
        }

        fn insert(&self, object: u64, version: u64, value: &String) -> Result<(), LinkerError> {
            self.0.lock().expect("no panic").send((object, version, value.clone())).expect("the test listens");
            Ok(())
        }
    }

    /// As when a node is back, has found that its copies are the newest still, and opens their set again.
    #[test]
    fn copies_that_were_here_before_the_set_was_opened_are_told() {
        let nodes = Node::local_cluster(2).expect("two nodes");
        let (sender, _others) = channel();
        let first = nodes[0].set("says").linker("says", Says(Mutex::new(sender)));
        let _first: Set<String> = first.open().wait_for(LIMIT).expect("a set");
        let set = SetId(nodes[1].set_info("says").expect("it is there").id);
        for object in 0..100 {
            let lane = nodes[1].runtime().lane(set, ObjectId(object));
            let mut state = lane.lock();
            let store = state.store(set);
            let cell = store.find_or_insert(object);
            store.install(cell, 3, Some(&[1, b'a'])).expect("nobody holds it");
            state.grant(set, ObjectId(object), Access::Read);
            lane.finish(state);
        }
        let (sender, told) = channel();
        let second = nodes[1].set("says").linker("says", Says(Mutex::new(sender)));
        let _second: Set<String> = second.open().wait_for(LIMIT).expect("a set");
        let mut heard: Vec<_> = (0..100).map(|_| told.recv_timeout(LIMIT).expect("each is told")).collect();
        heard.sort();
        assert_eq!(heard, (0..100).map(|object| (object, 3, "a".to_string())).collect::<Vec<_>>());
    }
}
