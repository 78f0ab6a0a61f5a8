//! Programs on the nodes: what they ask for, hold and put, and what becomes of that when their node's life ends.

use kddm_core::id::{NodeId, ObjectId};
use kddm_core::io::Answer;
use kddm_core::message::RequestKind;

use super::{Event, MILLI, Plan, SECOND, Simulation};
use crate::agent::{Agent, ClientNumber, Effects, Left, Outcome, Value, Wish, generation, replicas_of};
use crate::world::Note;

/// How often a client looks whether its node has a life that may use anything.
const LOOK_AGAIN_NS: u64 = 50 * MILLI;

const GET: Wish = Wish::Request(RequestKind::Get { existing: false });
const GET_EXISTING: Wish = Wish::Request(RequestKind::Get { existing: true });
const GRAB: Wish = Wish::Request(RequestKind::Grab { existing: false });
const TRY_GRAB: Wish = Wish::Request(RequestKind::TryGrab);
const FLUSH: Wish = Wish::Request(RequestKind::Flush { to: NodeId::NOBODY });
const REMOVE: Wish = Wish::Request(RequestKind::Remove);

/// What a client is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doing {
    /// It thinks.
    Nothing,
    Waiting(ObjectId, Wish),
    Reading(ObjectId),
    Writing(ObjectId, Wish),
    /// It has put, and waits for the replicas.
    Putting(ObjectId),
}

/// A program on a node that does one thing after the other.
#[derive(Clone, Debug)]
pub struct Client {
    pub number: ClientNumber,
    pub node: NodeId,
    pub(super) doing: Doing,
    /// Events for what it did before are void.
    token: u64,
    /// Objects that it reads at the end, one after the other.
    to_look_at: Option<Vec<ObjectId>>,
}

impl Client {
    /// Those of a plan.
    pub fn all(plan: &Plan) -> Vec<Client> {
        let of = |node| (0..plan.clients).map(move |_| NodeId(node));
        let client = |(number, node): (usize, NodeId)| Client {
            number: number as ClientNumber,
            node,
            doing: Doing::Nothing,
            token: 0,
            to_look_at: None,
        };
        (1..=plan.nodes).flat_map(of).enumerate().map(client).collect()
    }

    /// It has seen everything at the end.
    pub fn is_done(&self) -> bool {
        self.doing == Doing::Nothing && self.to_look_at.as_ref().is_some_and(Vec::is_empty)
    }
}

impl Simulation {
    fn client_mut(&mut self, number: ClientNumber) -> &mut Client {
        &mut self.clients[usize::from(number)]
    }

    pub(super) fn note(&mut self, note: Note) {
        self.recorder.note(self.now, note);
    }

    /// A client does that from now on, and goes on after a time.
    fn client_goes_on(&mut self, number: ClientNumber, doing: Doing, after_ns: u64) {
        let client = self.client_mut(number);
        client.doing = doing;
        client.token += 1;
        let token = client.token;
        self.at(self.now + after_ns, Event::Client(number, token));
    }

    fn pause(&mut self) -> u64 {
        let pace = self.plan.pace_ns;
        match self.rng.u8(0..10) {
            0 => 0,
            1 => self.rng.u64(0..=10 * pace),
            _ => self.rng.u64(0..=2 * pace),
        }
    }

    pub(super) fn client(&mut self, number: ClientNumber, token: u64) -> Result<(), String> {
        let client = &self.clients[usize::from(number)];
        if client.token != token {
            return Ok(());
        }
        let (node, doing) = (client.node, client.doing);
        if !self.may_use(node) {
            // If its life has just ended, it has forsaken the client, which looks again already.
            if self.clients[usize::from(number)].token == token {
                self.truth.counts.refused += u64::from(self.processes[&node].life.is_some());
                self.client_goes_on(number, doing, LOOK_AGAIN_NS);
            }
            return Ok(());
        }
        match doing {
            Doing::Nothing => self.begin(number, node),
            Doing::Reading(object) => {
                let pause = self.pause();
                self.client_goes_on(number, Doing::Nothing, pause);
                self.at_agent(node, object, |agent, effects| agent.release(number, object, Left::Nothing, effects))
            }
            Doing::Writing(object, wish) => self.end_of_write(number, node, object, wish),
            Doing::Waiting(..) | Doing::Putting(_) => Ok(()),
        }
    }

    /// Does something with the life of a node, which may use what it holds.
    fn at_agent(
        &mut self,
        node: NodeId,
        object: ObjectId,
        step: impl FnOnce(&mut Agent, &mut Effects),
    ) -> Result<(), String> {
        let mut effects = Effects::default();
        if let Some(life) = &mut self.process(node).life {
            step(&mut life.agent, &mut effects);
        }
        self.settle(node, Some(object), effects)?;
        self.goes_on(node);
        Ok(())
    }

    fn shares(&self, node: NodeId) -> bool {
        let process = &self.processes[&node];
        let member = process.life.as_ref().and_then(|life| life.agent.view().member(node));
        let is_to_stay = process.life.as_ref().is_some_and(|life| !life.agent.is_leaving());
        process.state.is_sealed() && is_to_stay && member.is_some_and(|member| member.state.can_share())
    }

    fn begin(&mut self, number: ClientNumber, node: NodeId) -> Result<(), String> {
        if !self.shares(node) {
            self.client_goes_on(number, Doing::Nothing, LOOK_AGAIN_NS);
            return Ok(());
        }
        let is_last_look = self.clients[usize::from(number)].to_look_at.is_some();
        let (object, wish) = match &mut self.client_mut(number).to_look_at {
            Some(objects) => {
                let Some(object) = objects.pop() else { return Ok(()) };
                (object, GET_EXISTING)
            }
            None => (self.plan.objects[self.rng.usize(0..self.plan.objects.len())], self.draw_wish()),
        };
        let client = self.client_mut(number);
        client.doing = Doing::Waiting(object, wish);
        client.token += 1;
        let token = client.token;
        if !is_last_look && self.rng.u8(0..5) == 0 {
            let limit = self.rng.u64(MILLI..3 * SECOND);
            self.at(self.now + limit, Event::Limit(number, token));
        }
        self.trace((number, object, wish.name()));
        self.tell(|| format!("{node} client {number} {} {:x}", wish.name(), object.0));
        self.note(Note::Began(number, object, wish));
        self.at_agent(node, object, |agent, effects| agent.begin(number, object, wish, effects))
    }

    fn draw_wish(&mut self) -> Wish {
        match self.rng.u8(0..42) {
            0..14 => GET,
            14..17 => GET_EXISTING,
            17..32 => GRAB,
            32..35 => TRY_GRAB,
            35 => REMOVE,
            36 => Wish::Insert,
            37 => Wish::Acquire,
            38 => FLUSH,
            39 => Wish::Request(RequestKind::Flush { to: NodeId(self.rng.u16(1..=self.plan.nodes)) }),
            _ => Wish::Fetch,
        }
    }

    /// A writer ends its hold.
    fn end_of_write(&mut self, number: ClientNumber, node: NodeId, object: ObjectId, wish: Wish) -> Result<(), String> {
        let found = self.value_at(node, object);
        let left = match self.rng.u8(0..20) {
            _ if wish == Wish::Insert && found.is_some() => Left::Nothing,
            // It puts nothing; what did not exist does not exist then.
            0 => Left::Nothing,
            _ if wish.reads() => Left::First(self.value()),
            _ => Left::Put(self.value()),
        };
        self.tell(|| format!("{node} client {number} leaves {:x} {left:?}", object.0));
        self.trace((number, object, left));
        self.uses(node)?;
        if left != Left::Nothing && replicas_of(generation(object)) > 0 {
            let client = self.client_mut(number);
            client.doing = Doing::Putting(object);
            client.token += 1;
            self.note(Note::Puts(number, object, found, left));
        } else {
            let pause = self.pause();
            self.client_goes_on(number, Doing::Nothing, pause);
            self.note(Note::Released(number, object, found, left));
        }
        self.at_agent(node, object, |agent, effects| agent.release(number, object, left, effects))
    }

    fn value(&mut self) -> Value {
        self.values += 1;
        self.values
    }

    fn value_at(&self, node: NodeId, object: ObjectId) -> Option<Value> {
        let life = self.processes[&node].life.as_ref()?;
        life.agent.cell(object).and_then(|cell| cell.value)
    }

    /// The replicas have what a client has put.
    pub(super) fn is_safe(&mut self, node: NodeId, object: ObjectId) -> Result<(), String> {
        let puts = |client: &&Client| client.node == node && client.doing == Doing::Putting(object);
        let Some(number) = self.clients.iter().find(puts).map(|client| client.number) else { return Ok(()) };
        self.uses(node)?;
        let pause = self.pause();
        self.client_goes_on(number, Doing::Nothing, pause);
        self.note(Note::Safe(number, object));
        Ok(())
    }

    /// Something of a node is used.
    fn uses(&mut self, node: NodeId) -> Result<(), String> {
        self.truth.counts.while_cut += u64::from(self.network.has_cuts());
        self.processes[&node].life_number().map_or(Ok(()), |life| self.truth.used(node, life))
    }

    /// A wish has ended.
    pub(super) fn ended(&mut self, node: NodeId, number: ClientNumber, outcome: Outcome) -> Result<(), String> {
        let Some(client) = self.clients.get(usize::from(number)) else { return Ok(()) };
        let Doing::Waiting(object, wish) = client.doing else { return Ok(()) };
        self.trace((number, object, outcome));
        self.tell(|| format!("{node} client {number} {outcome:?} {:x}", object.0));
        let found = self.value_at(node, object);
        let is_lost = outcome == Outcome::Failed(Answer::Lost);
        let pause = if is_lost { LOOK_AGAIN_NS } else { self.pause() };
        let doing = match outcome {
            Outcome::Reading => Doing::Reading(object),
            Outcome::Writing => Doing::Writing(object, wish),
            Outcome::Done | Outcome::Failed(_) | Outcome::Destroyed => Doing::Nothing,
        };
        if doing == Doing::Nothing {
            self.note(Note::Ended(number, object, outcome));
        } else {
            self.uses(node)?;
            self.note(Note::Granted(number, object, outcome, found));
        }
        self.truth.counts.told_lost += u64::from(is_lost);
        let is_flush = matches!(wish, Wish::Request(RequestKind::Flush { .. }));
        self.truth.counts.flushes += u64::from(is_flush && outcome == Outcome::Done);
        if is_lost && !self.truth.may_be_lost(object) {
            return Err(format!("I4: object {:x} is lost, although there were replicas", object.0));
        }
        self.client_goes_on(number, doing, pause);
        Ok(())
    }

    /// A client has waited long enough.
    pub(super) fn limit(&mut self, number: ClientNumber, token: u64) -> Result<(), String> {
        let client = &self.clients[usize::from(number)];
        let Doing::Waiting(object, _) = client.doing else { return Ok(()) };
        let node = client.node;
        if client.token != token || !self.may_use(node) {
            return Ok(());
        }
        let pause = self.pause();
        self.client_goes_on(number, Doing::Nothing, pause);
        self.note(Note::GaveUp(number, object));
        self.at_agent(node, object, |agent, effects| agent.cancel(number, object, effects))
    }

    /// The life of their node is over: nobody knows what became of what they had under way.
    pub(super) fn forsake_clients(&mut self, node: NodeId) {
        let all: Vec<ClientNumber> =
            self.clients.iter().filter(|client| client.node == node).map(|client| client.number).collect();
        for number in all {
            let client = self.client_mut(number);
            let (Doing::Waiting(object, _)
            | Doing::Reading(object)
            | Doing::Writing(object, _)
            | Doing::Putting(object)) = client.doing
            else {
                continue;
            };
            self.note(Note::GaveUp(number, object));
            self.looks_again_at(number, object);
        }
    }

    /// What a client was to look at it looks at again.
    pub(super) fn looks_again_at(&mut self, number: ClientNumber, object: ObjectId) {
        self.client_mut(number).to_look_at.iter_mut().for_each(|objects| objects.push(object));
        self.client_goes_on(number, Doing::Nothing, LOOK_AGAIN_NS);
    }

    /// From now on all clients read everything there is, and nothing else.
    pub(super) fn look_at_all(&mut self) {
        for client in &mut self.clients {
            client.to_look_at = Some(self.plan.objects.clone());
        }
    }
}
