//! What clients do next, and when.

use kddm_core::id::ObjectId;

use super::{Engine, Event};
use crate::agent::{ClientNumber, Wish};
use crate::fault::Fault;
use crate::scenario::{Ending, Timed};
use crate::world::{Action, Doing};

impl<'a> Engine<'a> {
    /// The next operation of a client begins after its pause.
    pub(super) fn think(&mut self, client: ClientNumber) {
        let clock = &mut self.clocks[usize::from(client)];
        clock.token += 1;
        clock.is_idle = false;
        let token = clock.token;
        if let Some(timed) = self.timed(client) {
            let pause = if self.world.clients[usize::from(client)].kept.is_empty() { timed.think_ns } else { 0 };
            self.schedule(self.now + pause, Event::Wake(client, token));
        }
    }

    /// Number in the program of what the client does, or does next.
    pub(super) fn position(&self, client: ClientNumber) -> usize {
        let all = self.scenario.programs[usize::from(client)].operations.len();
        all - self.world.clients[usize::from(client)].plan.len().min(all)
    }

    pub(super) fn timed(&self, client: ClientNumber) -> Option<&'a Timed> {
        self.scenario.programs[usize::from(client)].operations.get(self.position(client))
    }

    pub(super) fn wish_of_last(&self, client: ClientNumber, object: ObjectId) -> Option<Wish> {
        let last = self.position(client).checked_sub(1)?;
        let timed = self.scenario.programs[usize::from(client)].operations.get(last)?;
        (timed.object.0 == object.0 & ((1 << 48) - 1)).then_some(timed.wish)
    }

    pub(super) fn wake(&mut self, client: ClientNumber) {
        let Some(timed) = self.timed(client) else { return };
        let of = &self.world.clients[usize::from(client)];
        match of.doing {
            Doing::Waiting | Doing::Putting => {}
            Doing::Nothing if self.world.shares(of.node) => self.apply(Action::Begin(client)),
            Doing::Nothing => self.clocks[usize::from(client)].is_idle = true,
            Doing::Reading => self.apply(Action::Finish(client)),
            Doing::Writing => {
                let is_first_touch = self.world.holds_nothing_yet(client);
                let action = match timed.ending {
                    Ending::Discard if !timed.wish.reads() => Action::Discard(client),
                    Ending::Fail if is_first_touch => Action::Abandon(client),
                    _ => Action::Finish(client),
                };
                match action {
                    Action::Discard(_) => self.faults.add(Fault::Discard),
                    Action::Abandon(_) => self.faults.add(Fault::FailedTouch),
                    _ => {}
                }
                self.apply(action);
            }
        }
    }
}
