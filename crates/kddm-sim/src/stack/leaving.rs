//! Nodes that stop sharing, or leave, cleanly: they hand over what they have while all else goes wrong.

use kddm_core::id::NodeId;
use kddm_core::view::NodeState;
use kddm_view::{Change, MemberEntry};

use super::clients::Doing;
use super::{Process, SECOND, Simulation};
use crate::agent::{Agent, Effects};
use crate::world::Note;

/// The longest that a node tries to give away what it has before it stays.
const LONGEST_NS: u64 = 20 * SECOND;

/// A life that wants to share no more.
#[derive(Clone, Copy, Debug)]
pub struct Leaving {
    /// It stays if it has not given everything away then.
    until: u64,
    /// It goes; else it shares again, as soon as it shares no more.
    goes: bool,
    /// It has asked to step back: it cannot stay any more. Who asked twice might step back later, with what it has
    /// taken meanwhile.
    steps_back: bool,
}

impl Simulation {
    /// A member begins to leave, if it has not tried before.
    pub(super) fn leave(&mut self, id: NodeId) {
        let (until, goes) = (self.now + self.rng.u64(SECOND..LONGEST_NS), self.rng.bool());
        let Some(life) = &mut self.process(id).life else { return };
        if life.has_left || !life.agent.view().homes.contains(&id) {
            return;
        }
        life.has_left = true;
        life.leaving = Some(Leaving { until, goes, steps_back: false });
        self.tell(|| format!("{id} is to {}", if goes { "leave" } else { "share nothing" }));
    }

    /// Nobody leaves any more.
    pub(super) fn all_stay(&mut self) {
        for life in self.processes.values_mut().filter_map(|process| process.life.as_mut()) {
            life.leaving = life.leaving.filter(|leaving| leaving.steps_back);
        }
    }

    /// What a life that wants to leave asks the others for next. One that does not, and is about to, stays.
    pub(super) fn next_step_out(&mut self, id: NodeId) -> Option<Change> {
        let process = &self.processes[&id];
        let life = process.life.as_ref()?;
        let (number, now) = (life.number, self.now);
        let entry = process.state.member(id).filter(|entry| entry.incarnation == number)?.clone();
        let (shares, draining) = (entry.state.can_share(), entry.draining);
        let possible = Change::SetState { node: id, incarnation: number, state: NodeState::Possible };
        let Some(mut leaving) = life.leaving.filter(|leaving| leaving.steps_back || now < leaving.until) else {
            return (!shares || draining).then_some(possible);
        };
        let is_free = self.has_given_everything_away(process, &entry);
        let life = self.process(id).life.as_mut()?;
        if shares && !draining {
            return (!leaving.steps_back).then_some(Change::Drain { node: id, incarnation: number });
        }
        if !is_free {
            return None;
        }
        if shares {
            leaving.steps_back = true;
            life.leaving = Some(leaving);
            return Some(Change::SetState { node: id, incarnation: number, state: NodeState::Online });
        }
        if leaving.goes {
            return Some(Change::Leave { node: id, incarnation: number });
        }
        life.leaving = None;
        self.truth.counts.stopped += 1;
        Some(possible)
    }

    /// It is where the others are, has nothing, decides nothing, and all that it has said has been heard.
    fn has_given_everything_away(&self, process: &Process, entry: &MemberEntry) -> bool {
        let Some(life) = &process.life else { return false };
        let agent: &Agent = &life.agent;
        let is_where_all_are = life.pending.is_empty() && agent.is_settled() && agent.view() == &process.state.view();
        let is_idle = self.clients.iter().all(|client| client.node != process.id || client.doing == Doing::Nothing);
        let decides = process.state.voters().contains(&process.id) || process.state.voter() == process.id;
        // What was said to a life that is over nobody hears.
        let under_way = |(from, to): &(_, _)| *from == life.number && self.node_of(*to).is_some();
        let is_heard = || self.network.streams.iter().all(|(lives, said)| !under_way(lives) || said.is_empty());
        is_where_all_are && agent.is_empty() && is_idle && !decides && (entry.state.can_share() || is_heard())
    }

    /// A life that is to keep nothing gives away what it has.
    pub(super) fn give_away(&mut self, id: NodeId) -> Result<(), String> {
        let Some(life) = &mut self.process(id).life else { return Ok(()) };
        if !life.agent.is_leaving() {
            return Ok(());
        }
        let mut objects: Vec<_> = life.agent.to_drain().collect();
        objects.sort_unstable();
        for object in objects {
            if !self.may_use(id) {
                return Ok(());
            }
            let mut effects = Effects::default();
            if let Some(life) = &mut self.process(id).life {
                life.agent.drain(object, &mut effects);
            }
            self.settle(id, Some(object), effects)?;
        }
        self.goes_on(id);
        Ok(())
    }

    /// A life has installed the view from which it is to keep nothing: its clients wait for nothing any more.
    pub(super) fn dismiss(&mut self, id: NodeId, effects: &mut Effects) {
        let Some(life) = &mut self.process(id).life else { return };
        let is_sharer = life.agent.view().member(id).is_some_and(|member| member.state.can_share());
        if !life.agent.is_leaving() || !is_sharer {
            return;
        }
        life.agent.dismiss(effects);
        let waits = |doing| if let Doing::Waiting(object, _) = doing { Some(object) } else { None };
        let of_node = self.clients.iter().filter(|client| client.node == id);
        let waiting: Vec<_> =
            of_node.filter_map(|client| waits(client.doing).map(|object| (client.number, object))).collect();
        for (number, object) in waiting {
            self.looks_again_at(number, object);
            self.note(Note::GaveUp(number, object));
        }
    }
}
