//! One node: the real core, and as much beside it as it needs to go on: which version of an object is here, and what
//! this node wants next.

use std::collections::{BTreeMap, VecDeque};

use kddm_core::frame::{self, BodySeal, Envelope, Numbers};
use kddm_core::id::{Epoch, Incarnation, NodeId, ObjectId, Placement, SetId, Version};
use kddm_core::io::{Access, Body, Input, Output, Outputs};
use kddm_core::message::{Message, RequestKind};
use kddm_core::node::{HandedOver, Node};
use kddm_core::shard::Main;
use kddm_core::view::View;

use super::{OBJECT_BYTES, Wrong};

/// A message under way.
pub(super) struct Packet {
    pub epoch: Epoch,
    pub placement: Placement,
    pub set: SetId,
    pub object: ObjectId,
    pub message: Message,
    pub bytes: u32,
}

/// What is here of an object beside what the core knows.
#[derive(Default)]
struct Thing {
    version: Version,
    has_value: bool,
    access: Access,
    /// Its replicas are not there yet: nobody takes it away before.
    is_putting: bool,
    revoking: Option<Access>,
}

/// What a packet that has arrived comes to.
pub(super) enum Taken {
    Done,
    /// It came under a view that is not installed here yet.
    Waits(NodeId, Packet),
}

pub(super) struct Host {
    pub core: Node,
    set: SetId,
    things: BTreeMap<ObjectId, Thing>,
    /// What it wants, one after the other; the first one is under way if `asks`.
    pub wants: VecDeque<(ObjectId, RequestKind)>,
    pub asks: bool,
    pub views: VecDeque<View>,
    pub inbox: VecDeque<(u64, NodeId, Packet)>,
    /// By sender: what came under a later view, in order.
    waiting: BTreeMap<NodeId, VecDeque<Packet>>,
    /// Sent by the last step.
    pub sent: Vec<(NodeId, Packet)>,
    buffer: Vec<u8>,
    outputs: Outputs,
    pub is_there: bool,
}

impl Host {
    pub fn new(me: NodeId, life: Incarnation, set: SetId) -> Host {
        Host {
            core: Node::new(me, life, 0),
            set,
            things: BTreeMap::new(),
            wants: VecDeque::new(),
            asks: false,
            views: VecDeque::new(),
            inbox: VecDeque::new(),
            waiting: BTreeMap::new(),
            sent: Vec::new(),
            buffer: Vec::new(),
            outputs: Outputs::new(),
            is_there: true,
        }
    }

    /// Whether there is anything to do but to wait.
    pub fn has_work(&self) -> bool {
        let may_ask = !self.asks && !self.wants.is_empty();
        self.is_there
            && (!self.inbox.is_empty() || self.next_view().is_some() || self.core.is_handing_over() || may_ask)
    }

    /// Nothing is on its way from one placement to the next, nor from one epoch to the next.
    pub fn is_settled(&self) -> bool {
        !self.is_there || (self.views.is_empty() && self.core.is_settled())
    }

    /// A view of a greater epoch comes before the last one holds.
    fn next_view(&self) -> Option<usize> {
        let may_come = |view: &View| self.core.is_settled() || view.epoch > self.core.epoch();
        self.views.iter().position(may_come)
    }

    /// Takes in the next message. A step of the rest is done between two of them, as in a running node.
    pub fn take(&mut self) -> Result<Taken, Wrong> {
        let Some((_, from, packet)) = self.inbox.pop_front() else { return Ok(Taken::Done) };
        if let Some(before) = self.waiting.get_mut(&from) {
            before.push_back(packet);
            return Ok(Taken::Done);
        }
        let (epoch, placement) = (self.core.epoch(), self.core.view().placement);
        if packet.epoch < epoch {
            return Ok(Taken::Done);
        }
        if packet.epoch > epoch || packet.placement > placement {
            if packet.epoch == epoch {
                self.core.is_ahead(from);
            }
            return Ok(Taken::Waits(from, packet));
        }
        let Packet { set, object, message, .. } = packet;
        self.handle(set, VecDeque::from([(object, Input::Message { from, message })]))?;
        Ok(Taken::Done)
    }

    pub fn wait(&mut self, from: NodeId, packet: Packet) {
        self.waiting.entry(from).or_default().push_back(packet);
    }

    /// Does one step of what is not a message: a view, a shard, a wish.
    pub fn go_on(&mut self, now: u64) -> Result<(), Wrong> {
        if let Some(at) = self.next_view() {
            let view = self.views.drain(..=at).next_back().expect("it was found there");
            self.core.install_view(view).map_err(|refused| format!("a view was refused: {refused:?}"))?;
            // Before what comes next from the same nodes.
            for (from, packets) in std::mem::take(&mut self.waiting).into_iter().rev() {
                packets.into_iter().rev().for_each(|packet| self.inbox.push_front((now, from, packet)));
            }
            return Ok(());
        }
        if self.core.is_handing_over() {
            return self.hand_over();
        }
        if !self.asks
            && let Some(&(object, kind)) = self.wants.front()
        {
            return self.want(object, kind);
        }
        Ok(())
    }

    fn want(&mut self, object: ObjectId, kind: RequestKind) -> Result<(), Wrong> {
        let access = self.things.get(&object).map(|thing| thing.access).unwrap_or_default();
        let is_hit = match kind {
            RequestKind::Get { .. } => access >= Access::Read,
            RequestKind::Grab { .. } => access == Access::Write,
            _ => false,
        };
        if is_hit {
            self.wants.pop_front();
            return Ok(());
        }
        self.asks = true;
        self.handle(self.set, VecDeque::from([(object, Input::Want { kind })]))
    }

    fn hand_over(&mut self) -> Result<(), Wrong> {
        let mut outputs = std::mem::take(&mut self.outputs);
        let done = self.core.hand_over(&mut outputs).map_err(|refused| format!("{refused:?}"))?;
        let set = if let HandedOver::Shard(set) = done { set } else { SetId::SYSTEM };
        let mut todo = VecDeque::new();
        for output in outputs.drain() {
            self.act(set, output, &mut todo)?;
        }
        self.outputs = outputs;
        self.handle(set, todo)
    }

    fn handle(&mut self, set: SetId, mut todo: VecDeque<(ObjectId, Input)>) -> Result<(), Wrong> {
        while let Some((object, input)) = todo.pop_front() {
            let mut outputs = std::mem::take(&mut self.outputs);
            let handled = self.core.handle(set, object, input, &mut outputs);
            handled.map_err(|refused| format!("node {} refused an input: {refused:?}", self.core.id()))?;
            for output in outputs.drain() {
                self.act(set, output, &mut todo)?;
            }
            self.outputs = outputs;
        }
        Ok(())
    }

    fn act(&mut self, set: SetId, output: Output, todo: &mut VecDeque<(ObjectId, Input)>) -> Result<(), Wrong> {
        match output {
            Output::Send { to, object, message, body, .. } => self.send(set, to, (object, message), body)?,
            Output::Install { object, version, has_value } => {
                let thing = self.things.entry(object).or_default();
                (thing.version, thing.has_value) = (version, has_value);
            }
            Output::UseReplica { object, version } => {
                let thing = self.things.entry(object).or_default();
                (thing.version, thing.has_value) = (version, true);
            }
            Output::Granted { object, access, answers, .. } => self.granted(object, access, answers, todo),
            Output::Revoke { object, to } => {
                self.things.entry(object).or_default().revoking = Some(to);
                self.lower(object, todo);
            }
            Output::PutDone { object, .. } => {
                self.things.entry(object).or_default().is_putting = false;
                self.ended(object);
                self.lower(object, todo);
            }
            Output::Answer { object, .. } => self.ended(object),
            Output::Discard { object } => {
                self.things.remove(&object);
            }
            Output::UseCopy { .. } => return Err("no node here has a former life".into()),
            Output::RolledBack { .. } => return Err("no set here rolls back".into()),
            Output::StoreReplica { .. } | Output::KeepReplica { .. } | Output::DropReplica { .. } => {}
            Output::TryRevoke { .. } => return Err("nobody tries to grab here".into()),
            Output::Dropped { what, .. } | Output::Fault { what, .. } => {
                return Err(format!("node {}: {what}", self.core.id()));
            }
        }
        Ok(())
    }

    fn send(&mut self, set: SetId, to: NodeId, of: (ObjectId, Message), body: Body) -> Result<(), Wrong> {
        let (object, message) = of;
        let (epoch, placement) = (self.core.epoch(), self.core.view().placement);
        let (from, incarnation) = (self.core.id(), self.core.incarnation());
        let envelope = Envelope { epoch, placement, from, incarnation, set, object };
        let seal = BodySeal { length: if body == Body::Object { OBJECT_BYTES } else { 0 }, checksum: 0 };
        self.buffer.clear();
        let written = frame::encode_head(&envelope, &message, Numbers::default(), seal, &mut self.buffer);
        written.map_err(|refused| format!("{refused:?}"))?;
        let bytes = self.buffer.len() as u32 + seal.length;
        self.sent.push((to, Packet { epoch, placement, set, object, message, bytes }));
        Ok(())
    }

    fn granted(&mut self, object: ObjectId, access: Access, answers: bool, todo: &mut VecDeque<(ObjectId, Input)>) {
        let thing = self.things.entry(object).or_default();
        thing.access = thing.access.max(access);
        if !answers {
            return;
        }
        if access < Access::Write {
            return self.ended(object);
        }
        // Whoever may write puts once.
        thing.version = if thing.has_value { thing.version.next() } else { thing.version };
        (thing.has_value, thing.is_putting) = (true, true);
        todo.push_back((object, Input::Put { version: thing.version }));
    }

    fn lower(&mut self, object: ObjectId, todo: &mut VecDeque<(ObjectId, Input)>) {
        let Some(thing) = self.things.get_mut(&object).filter(|thing| !thing.is_putting) else { return };
        let Some(to) = thing.revoking.take() else { return };
        thing.access = thing.access.min(to);
        todo.push_back((object, Input::Revoked { version: thing.version, has_value: thing.has_value }));
    }

    /// What was asked for has ended.
    fn ended(&mut self, object: ObjectId) {
        if self.asks && self.wants.front().is_some_and(|(first, _)| *first == object) {
            self.wants.pop_front();
            self.asks = false;
        }
    }

    /// A node that leaves gives all away. False if nothing is left.
    pub fn drain(&mut self) -> bool {
        let is_ghost = |object: &ObjectId| {
            matches!(self.core.inspect(self.set, *object).unwrap_or_default().main, Main::Ghost { .. })
        };
        let mut objects: Vec<ObjectId> = self.core.holdings(self.set).filter(|object| !is_ghost(object)).collect();
        objects.sort_unstable();
        let flush = RequestKind::Flush { to: NodeId::NOBODY };
        self.wants.extend(objects.iter().map(|object| (*object, flush)));
        !objects.is_empty()
    }

    /// What the core keeps of the set, and of who is a member.
    pub fn memory_bytes(&self) -> (usize, usize) {
        let view = self.core.view();
        let of_view = size_of_val(view.members.as_slice()) + size_of_val(view.homes.as_slice());
        (self.core.sets().into_iter().map(|set| self.core.memory_bytes(set)).sum(), of_view)
    }
}
