//! The lives of nodes: how they begin, install views, hear each other, and end.

use kddm_core::id::{Epoch, Incarnation, NodeId, ObjectId, Placement};
use kddm_core::view::View;
use kddm_view::State;

use super::process::Life;
use super::{Event, MICRO, MILLI, Simulation, Slip};
use crate::agent::{Effects, Kept, is_known_drop};

/// Until a life goes on with its views and shards.
const STEP_NS: u64 = 200 * MICRO;
/// The same, now and then.
const SLOW_STEP_NS: u64 = 50 * MILLI;

impl Simulation {
    pub(super) fn node_of(&self, life: Incarnation) -> Option<NodeId> {
        self.births.get(&life).copied().filter(|node| self.processes[node].life_number() == Some(life))
    }

    /// There is a new view: this node's life may begin or end with it, or has to install it.
    pub(super) fn is_changed(&mut self, id: NodeId) {
        let process = self.process(id);
        let view = process.state.view();
        let entry = process.state.member(id);
        match &mut process.life {
            Some(life) if entry.is_some_and(|entry| entry.incarnation == life.number) => life.pending.push_back(view),
            Some(life) => {
                let (number, goes) = (life.number, life.leaving.is_some() && entry.is_none());
                let goes = goes && !self.truth.is_expelled(number);
                self.truth.counts.left += u64::from(goes);
                return self.end_life(id, if goes { "it has left" } else { "it was expelled" });
            }
            None => {
                let Some(entry) = entry.filter(|entry| entry.nonce == process.nonce) else { return };
                let number = entry.incarnation;
                process.life = Some(Life::new(id, number, view, std::mem::take(&mut process.kept)));
                process.keeper.live_anew();
                self.births.insert(number, id);
                self.truth.counts.rebirths += u64::from(usize::from(self.plan.nodes) < number.0 as usize);
                self.tell(|| format!("{id} lives as {number:?}"));
            }
        }
        self.goes_on(id);
    }

    /// The whole state was taken in the place of entries: a life that has slept through them ends.
    pub(super) fn take_whole(&mut self, id: NodeId, state: State) {
        self.process(id).state = state;
        self.end_life(id, "it has slept through too many views");
        self.is_changed(id);
    }

    /// A life is over: whatever it had is gone, and another one is wanted.
    pub(super) fn end_life(&mut self, id: NodeId, why: &str) {
        let process = self.process(id);
        let Some(life) = process.life.take() else { return };
        // A process that is gone has forgotten all.
        process.kept = if process.log.is_some() { life.agent.keeps() } else { Kept::default() };
        self.process(id).nonce = self.nonce(id);
        self.network.end(&mut self.rng, life.number);
        self.forsake_clients(id);
        self.tell(|| format!("{id} ends its life {:?}: {why}", life.number));
    }

    /// Whether a life may use what it holds, or handle anything. One whose lease is over ends here.
    pub(super) fn may_use(&mut self, id: NodeId) -> bool {
        let now = self.processes[&id].clock(self.now);
        let process = self.process(id);
        if process.life.is_none() {
            return false;
        }
        if process.keeper.is_over(now) {
            self.truth.counts.fenced += 1;
            self.truth.counts.refused += 1;
            self.end_life(id, "its lease is over");
            return false;
        }
        process.keeper.may_use(now)
    }

    /// A life has something to do, maybe.
    pub(super) fn goes_on(&mut self, id: NodeId) {
        let slow = self.rng.u8(0..50) == 0;
        let delay = self.rng.u64(0..=if slow { SLOW_STEP_NS } else { STEP_NS });
        let Some(life) = &mut self.process(id).life else { return };
        let epoch = life.agent.view().epoch;
        let goes_on = |view: &View| view.epoch > epoch || life.agent.awaits_leaver(view);
        let may_install = life.agent.is_settled() || life.pending.iter().any(goes_on);
        let has_work = (!life.pending.is_empty() && may_install) || life.agent.is_handing_over();
        if has_work && !std::mem::replace(&mut life.has_step, true) {
            let number = life.number;
            self.at(self.now + delay, Event::Step(id, number));
        }
    }

    pub(super) fn step(&mut self, id: NodeId, number: Incarnation) -> Result<(), String> {
        let process = self.process(id);
        let Some(life) = process.life.as_mut().filter(|life| life.number == number) else { return Ok(()) };
        life.has_step = false;
        if !self.may_use(id) {
            return Ok(());
        }
        let mut effects = Effects::default();
        let has_installed = self.install_next(id, &mut effects);
        if has_installed {
            self.dismiss(id, &mut effects);
        }
        if !has_installed
            && let Some(life) = &mut self.process(id).life
            && life.agent.is_handing_over()
        {
            life.agent.hand_over(&mut effects);
        }
        self.trace((id, number, has_installed));
        self.settle(id, None, effects)?;
        if has_installed {
            self.retry_streams(number);
        }
        self.goes_on(id);
        Ok(())
    }

    /// Installs the next view, if it may come: while the last one does not hold, only one in which members are
    /// lost does.
    fn install_next(&mut self, id: NodeId, effects: &mut Effects) -> bool {
        let Some(process) = self.processes.get_mut(&id) else { return false };
        let (Some(life), state) = (&mut process.life, &process.state) else { return false };
        for later in &life.pending {
            life.agent.await_no_leaver(later);
        }
        let epoch = life.agent.view().epoch;
        if !life.agent.is_settled() {
            let Some(at) = life.pending.iter().position(|view| view.epoch > epoch) else { return false };
            life.pending.drain(..at);
        }
        let Some(view) = life.pending.pop_front() else { return false };
        life.agent.install(&view, effects);
        life.remember(id, effects);
        // Lives have ascending numbers: one that is not known here yet has its time to come.
        let is_member = |life: Incarnation| state.members().any(|(_, entry)| entry.incarnation == life);
        self.network.forget(life.number, |from| from <= state.last_life() && !is_member(from));
        self.tell(|| format!("{id} installs {:?} {:?}", view.epoch, view.placement));
        true
    }

    /// What one life has said to another arrives, in order, as far as it may be handled.
    pub(super) fn stream(&mut self, from: Incarnation, to: Incarnation) -> Result<(), String> {
        let (Some(receiver), Some(sender)) = (self.node_of(to), self.births.get(&from).copied()) else {
            return Ok(());
        };
        loop {
            let first = self.network.streams.get(&(from, to)).and_then(|stream| stream.front());
            let Some((at, packet)) = first else { return Ok(()) };
            let (at, epoch, placement) = (*at, packet.epoch, packet.placement);
            let waits = at > self.now || self.network.is_cut(sender, receiver) || !self.may_use(receiver);
            if waits || !self.arrive((sender, from), (receiver, to), (epoch, placement))? {
                return Ok(());
            }
        }
    }

    /// Handles the first of what one life has said to another. False if it has to wait.
    fn arrive(
        &mut self,
        (sender, from): (NodeId, Incarnation),
        (receiver, to): (NodeId, Incarnation),
        (epoch, placement): (Epoch, Placement),
    ) -> Result<bool, String> {
        let accepts_old = self.is(Slip::AcceptOldEpoch);
        let Some(life) = &mut self.process(receiver).life else { return Ok(false) };
        let view = life.agent.view();
        let is_old = epoch < view.epoch && !accepts_old;
        if epoch > view.epoch {
            return Ok(false);
        }
        if !is_old && placement > view.placement {
            if life.agent.awaits(sender) {
                life.agent.is_ahead(sender);
                self.goes_on(receiver);
            }
            // It waits for its view, also where the core still awaits a report: to look again at once would never end.
            return Ok(false);
        }
        let first = self.network.streams.get_mut(&(from, to)).and_then(|stream| stream.pop_front());
        let Some((_, packet)) = first.filter(|_| !is_old) else { return Ok(true) };
        self.trace((from, to, &packet.message, packet.object));
        let object = packet.object;
        self.tell(|| format!("{sender} -> {receiver} {:x} {:?} body {:?}", object.0, packet.message, packet.body));
        self.truth.counts.revalidated += packet.revalidates();
        let mut effects = Effects::default();
        if let Some(life) = &mut self.process(receiver).life {
            life.agent.receive(sender, packet, &mut effects);
        }
        self.settle(receiver, Some(object), effects)?;
        self.goes_on(receiver);
        Ok(true)
    }

    /// What came of a step of a life.
    pub(super) fn settle(&mut self, id: NodeId, object: Option<ObjectId>, effects: Effects) -> Result<(), String> {
        let Effects { packets, ended, safe, broken } = effects;
        for what in broken {
            if !is_known_drop(&what) {
                return Err(format!("{what} (node {id})"));
            }
            self.truth.counts.known_drops += 1;
        }
        let Some(life) = &self.processes[&id].life else { return Ok(()) };
        let (number, view) = (life.number, life.agent.view().clone());
        for (to, packet) in packets {
            let Some(member) = view.member(to) else { continue };
            let lives = (number, member.incarnation);
            let at = self.network.push(&mut self.rng, self.now, lives, packet);
            self.at(at, Event::Stream(lives.0, lives.1));
        }
        if let Some(object) = object {
            self.truth.owns(&self.processes[&id], object)?;
        }
        for (object, _) in safe {
            self.is_safe(id, object)?;
        }
        for (client, outcome) in ended {
            self.ended(id, client, outcome)?;
        }
        Ok(())
    }

    pub(super) fn retry_streams(&mut self, to: Incarnation) {
        let links: Vec<_> = self.network.streams.keys().copied().filter(|(_, receiver)| *receiver == to).collect();
        for (from, to) in links {
            self.at(self.now, Event::Stream(from, to));
        }
    }

    pub(super) fn retry_all_streams(&mut self) {
        for (from, to) in self.network.streams.keys().copied().collect::<Vec<_>>() {
            self.at(self.now, Event::Stream(from, to));
        }
    }
}
