//! How objects end: removed by whoever holds them, or with their set.

use std::sync::Arc;

use kddm_core::id::ObjectId;
use kddm_core::io::Input;
use kddm_core::message::RequestKind;

use super::{Agent, ClientNumber, Effects, Generation, Outcome, Waiter, Wish, generation, set_of};

impl Agent {
    /// The client that holds the object to write it removes it. The core hears of that before the hold
    /// ends, and whoever waits here comes after it.
    pub fn remove_held(&mut self, client: ClientNumber, object: ObjectId, effects: &mut Effects) {
        let Some(cell) = Arc::make_mut(&mut self.cells).get_mut(&object) else { return };
        // What another client has asked the core for would come between: it is asked again afterwards.
        let withdraw = std::mem::take(&mut cell.outstanding).then_some(Input::Cancel);
        cell.waiters.push_front(Waiter { client, wish: Wish::Request(RequestKind::Remove) });
        self.run(object, withdraw, None, effects);
        if let Some(cell) = Arc::make_mut(&mut self.cells).get_mut(&object).filter(|cell| cell.writer == Some(client)) {
            cell.writer = None;
        }
        self.run(object, None, None, effects);
    }

    /// This node knows that the set was destroyed.
    pub fn is_destroyed(&self, generation: Generation) -> bool {
        self.destroyed.contains(&set_of(generation))
    }

    /// Forgets a set: nobody holds or awaits anything of it here any more.
    pub fn destroy(&mut self, of: Generation, effects: &mut Effects) {
        let set = set_of(of);
        Arc::make_mut(&mut self.core).destroy(set);
        self.destroyed.push(set);
        self.forget_candidates(of);
        self.replicas.retain(|object, _| generation(*object) != of);
        let objects: Vec<ObjectId> = self.cells.keys().copied().filter(|object| generation(*object) == of).collect();
        for cell in objects.into_iter().filter_map(|object| Arc::make_mut(&mut self.cells).remove(&object)) {
            let waiting = cell.waiters.iter().map(|waiter| waiter.client);
            let holding = cell.readers.iter().copied().chain(cell.writer);
            effects.ended.extend(waiting.chain(holding).map(|client| (client, Outcome::Destroyed)));
        }
    }
}
