//! One data-plane lane of a node: the shards it handles, in the view that is installed. The only
//! place that knows every layer of the core.

use alloc::vec::Vec;

use hashbrown::HashMap;

pub use self::knew::Directory;
use self::lives::Lives;
pub use self::revalidate::QUESTIONS_AT_ONCE;
use self::revalidate::Question;
pub use self::scan::{Held, Scanned};
use self::touched::{Set, Touched};
use crate::id::{Epoch, Incarnation, Mixer, NodeId, ObjectId, Placement, SHARDS_PER_SET, SetId, ShardIndex};
use crate::io::{Body, Input, NoMemory, Output, Outputs};
use crate::losses::Losses;
use crate::message::Message;
use crate::mutation::{Mutation, mutated};
use crate::placement::Moving;
use crate::recovery::Recovering;
use crate::shard::{Place, Room, Shard};
use crate::view::View;

mod acceptance;
mod epoch;
mod haste;
mod inspect;
pub(crate) mod knew;
mod lives;
pub mod memory;
mod revalidate;
mod scan;
mod touched;

/// Sets that one node can know: what a hostile peer can make us remember (a set costs 2 KiB here).
pub const SETS_PER_NODE: usize = 65_536;

/// Why an input was refused. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Memory was refused; try again.
    NoMemory,
    /// The set has been destroyed, or its number is one that no member gives out.
    UnknownSet,
    /// There are as many sets as a node keeps. Trying again does not help.
    TooManySets,
    /// The view has no home at all: this node is not a member yet.
    NoHome,
    /// The shards of the view before are still on their way: install the next one when they are there.
    Settling,
}

impl From<NoMemory> for Refused {
    fn from(_: NoMemory) -> Refused {
        Refused::NoMemory
    }
}

/// What a call of [`Node::hand_over`] has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandedOver {
    /// A shard of that set; the outputs are for it.
    Shard(SetId),
    /// That was all, and every member is told: the outputs are for the system set.
    Everything,
    /// There was nothing to do.
    Nothing,
}

/// Who answers for a shard that was never touched here.
fn untouched(me: NodeId, view: &View, moving: Option<&Moving>, set: SetId, at: ShardIndex) -> NodeId {
    let new = view.home(set, at).unwrap_or(NodeId::NOBODY);
    moving.map_or(new, |moving| moving.in_charge(me, set, at, new))
}

/// The protocol state of one lane of a node.
#[derive(Clone, Debug)]
pub struct Node {
    me: NodeId,
    incarnation: Incarnation,
    view: View,
    moving: Option<Moving>,
    losses: Losses,
    lives: Lives,
    /// Room to say which of them are too young for a shard.
    newcomers: Vec<NodeId>,
    recovering: Option<Recovering>,
    /// Where to look next for owners that want more replicas, or others.
    refilling: Option<(SetId, u16)>,
    /// Sets of which what is lost is accepted as gone, and not all has been looked at.
    accepting: Vec<SetId>,
    sets: HashMap<u64, Set, Mixer>,
    destroyed: Vec<SetId>,
    /// What this node waits to hear of read copies of a former life.
    questions: Vec<Question>,
    /// The former life of this node did nothing in that epoch or later; 0 if there was none that is remembered.
    left: Epoch,
    counter: u64,
    room: Room,
}

/// Destroyed sets whose late messages are still told apart from those of unknown sets.
const DESTROYED_REMEMBERED: usize = 4096;

impl Node {
    /// A lane of the node `me`. `lane` keeps the request numbers of several lanes apart.
    pub fn new(me: NodeId, incarnation: Incarnation, lane: u8) -> Node {
        Node {
            me,
            incarnation,
            view: View::default(),
            moving: None,
            losses: Losses::default(),
            lives: Lives::default(),
            newcomers: Vec::new(),
            recovering: None,
            refilling: None,
            accepting: Vec::new(),
            sets: HashMap::with_hasher(Mixer::default()),
            destroyed: Vec::new(),
            questions: Vec::new(),
            left: Epoch(0),
            counter: u64::from(lane) << 56,
            room: Room::default(),
        }
    }

    /// This node's number.
    pub fn id(&self) -> NodeId {
        self.me
    }

    /// This node's life.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The epoch of the installed view.
    pub fn epoch(&self) -> Epoch {
        self.view.epoch
    }

    /// The installed view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Installs a view. Views come in order (`I7`), the next one when the last one
    /// [holds](Self::is_settled); then call [`hand_over`](Self::hand_over) until nothing is left.
    ///
    /// A view of a greater epoch lacks members that are lost: it is installed whether the last one holds or
    /// not, and what was under way is forgotten.
    pub fn install_view(&mut self, view: View) -> Result<(), Refused> {
        let is_first = self.view.members.is_empty();
        if view.epoch > self.view.epoch && !is_first {
            return self.enter_epoch(view);
        }
        if !self.is_settled() {
            return Err(Refused::Settling);
        }
        let before = self.view.try_clone()?;
        let moving = Moving::between(before, &view, self.me)?;
        self.lives.note(&view)?;
        for (set, state) in &mut self.sets {
            for Touched { at, home, shard } in &mut state.touched {
                let new = view.home(SetId(*set), *at).unwrap_or(NodeId::NOBODY);
                if !home.is_somebody() && new == self.me {
                    // Nobody answered for it, since all who did were lost.
                    shard.recovery.doubt = self.losses.doubt(SetId(*set), *at, state.born, None);
                }
                let waits = moving
                    .as_ref()
                    .is_some_and(|moving| *home == self.me || (new == self.me && moving.awaited().contains(*home)));
                if !waits {
                    *home = new;
                }
            }
        }
        self.view = view;
        self.moving = moving;
        self.forget_vain_questions();
        self.look_for_replicas();
        if is_first {
            self.report_nothing();
        }
        Ok(())
    }

    /// Whether every shard is where the installed view wants it, as far as this node is concerned.
    pub fn is_settled(&self) -> bool {
        self.moving.is_none() && self.recovering.is_none()
    }

    /// Whether [`hand_over`](Self::hand_over) has something to do.
    pub fn is_handing_over(&self) -> bool {
        let recovers = self.recovering.as_ref().is_some_and(|recovering| !recovering.is_idle);
        let accepts = !self.accepting.is_empty();
        let moves = self.moving.as_ref().is_some_and(|moving| !moving.is_announced() && !moving.is_idle);
        recovers || accepts || moves || self.refilling.is_some()
    }

    /// The members that have not yet said that they have handed over all they had to.
    pub fn awaited(&self) -> impl Iterator<Item = NodeId> + '_ {
        let reports = self.recovering.iter().flat_map(|recovering| recovering.awaited.iter());
        self.moving.iter().flat_map(|moving| moving.awaited().iter()).chain(reports)
    }

    /// Hands over the next shard that this node answers for and the installed view gives to another.
    /// A shard at a time, so that nobody waits long for anything else. On an error nothing has changed.
    pub fn hand_over(&mut self, outputs: &mut Outputs) -> Result<HandedOver, NoMemory> {
        if let Some(done) = self.recover(outputs)? {
            return Ok(done);
        }
        if let Some(done) = self.accept_more(outputs)? {
            return Ok(done);
        }
        let Some(moving) = self.moving.as_ref().filter(|moving| !moving.is_announced() && !moving.is_idle) else {
            return Ok(self.refill(outputs)?.unwrap_or(HandedOver::Nothing));
        };
        let cursor = moving.cursor;
        let found = self.to_hand_over(cursor).or_else(|| self.to_hand_over((SetId(0), 0)));
        let Some((set, shard, to)) = found else {
            if self.has_to_wait() {
                if let Some(moving) = &mut self.moving {
                    moving.is_idle = true;
                }
                return Ok(self.refill(outputs)?.unwrap_or(HandedOver::Nothing));
            }
            return match self.tell_what_is_accepted(outputs)? {
                Some(told) => Ok(told),
                None => self.announce(outputs),
            };
        };
        let me = self.me;
        if let Some(state) = self.sets.get_mut(&set.0) {
            // Touched, or it would not have been found: making it cannot fail.
            let touched = state.touch(shard, || me).map_err(|_| NoMemory)?;
            touched.shard.give(me, shard, to, outputs)?;
            touched.home = to;
        }
        if let Some(moving) = &mut self.moving {
            moving.cursor = (set, shard.0);
        }
        Ok(HandedOver::Shard(set))
    }

    /// The first touched shard from there on that has to go.
    fn to_hand_over(&self, from: (SetId, u16)) -> Option<(SetId, ShardIndex, NodeId)> {
        let mut first = from;
        loop {
            let (id, set) = self.sets.iter().filter(|(id, _)| **id >= first.0.0).min_by_key(|(id, _)| **id)?;
            let id = SetId(*id);
            let start = if id == first.0 { first.1 } else { 0 };
            for shard in (start..SHARDS_PER_SET).map(ShardIndex) {
                if set.get(shard).is_some_and(|touched| touched.home == self.me && !self.must_wait(touched)) {
                    let to = self.view.home(id, shard).filter(|to| *to != self.me);
                    if let Some(to) = to {
                        return Some((id, shard, to));
                    }
                }
            }
            first = (SetId(id.0.checked_add(1)?), 0);
        }
    }

    /// A shard stays with its home as long as that may have to decide anew about one of its objects.
    fn must_wait(&self, touched: &Touched) -> bool {
        touched.home == self.me && touched.shard.recovery.may_decide_anew()
    }

    /// There is a shard to hand over that stays for now.
    fn has_to_wait(&self) -> bool {
        let goes = |set: u64, at: ShardIndex| self.view.home(SetId(set), at) != Some(self.me);
        let waits = |(set, state): (&u64, &Set)| {
            state.touched.iter().any(|touched| self.must_wait(touched) && goes(*set, touched.at))
        };
        self.sets.iter().any(waits)
    }

    /// Every touched shard is handed over. The others go with this word, which follows on each link.
    fn announce(&mut self, outputs: &mut Outputs) -> Result<HandedOver, NoMemory> {
        for told in self.losses.told()? {
            self.tell_others(&told, outputs)?;
        }
        self.tell_others(&Message::Placed { placement: self.view.placement }, outputs)?;
        let me = self.me;
        self.point_to_new_homes(me, |new| new != me);
        if let Some(moving) = &mut self.moving {
            moving.announce();
        }
        self.settle();
        Ok(HandedOver::Everything)
    }

    /// Says the same to every other member, of no object.
    fn tell_others(&self, message: &Message, outputs: &mut Outputs) -> Result<(), NoMemory> {
        outputs.reserve(self.view.members.len())?;
        for to in self.view.others_online(self.me) {
            let message = message.clone();
            outputs.push(Output::Send { to, object: ObjectId(0), message, body: Body::None, deferred: false });
        }
        Ok(())
    }

    /// A member has handed over all it had to, also what was never touched there.
    fn placed(&mut self, from: NodeId, placement: Placement) {
        let me = self.me;
        let Some(moving) = &mut self.moving else { return };
        let is_meant = placement >= self.view.placement || mutated(Mutation::AcceptOldPlacement);
        if is_meant && moving.heard(from) {
            self.point_to_new_homes(from, |new| new == me);
            self.settle();
        }
    }

    /// A member sends under a later placement: it has nothing more to say about this one. (One that
    /// begins its life there has never said anything.)
    pub fn is_ahead(&mut self, from: NodeId) {
        self.placed(from, self.view.placement);
    }

    /// A member that is awaited, and that a later view of the same epoch lacks, or has as another life: it has left.
    pub fn awaited_leaver(&self, later: &View) -> Option<NodeId> {
        let life = |view: &View, node| view.member(node).map(|member| member.incarnation);
        let has_left =
            |node: &NodeId| self.view.member(*node).is_some() && life(&self.view, *node) != life(later, *node);
        self.awaited().filter(|_| later.epoch == self.view.epoch).find(has_left)
    }

    /// Such a member is not awaited any more. It had nothing left and had said its last word to everybody when it
    /// asked to leave. If a loss came first, and it went before it had heard of that, it never reports in the new
    /// epoch: that is as if it had left before the loss. True if there was one.
    pub fn await_no_leaver(&mut self, later: &View) -> bool {
        let mut has_found = false;
        for _ in 0..self.view.members.len() {
            let Some(node) = self.awaited_leaver(later) else { break };
            self.is_ahead(node);
            if let Some(recovering) = &mut self.recovering {
                recovering.awaited.remove(node);
            }
            self.look_again();
            has_found = true;
        }
        has_found
    }

    /// Only of the shards that the old home answered for it is asked who does now: that is a look at all homes, and each
    /// member says that it is done.
    fn point_to_new_homes(&mut self, old: NodeId, goes: impl Fn(NodeId) -> bool) {
        for (set, state) in &mut self.sets {
            for Touched { at, home, shard } in state.touched.iter_mut().filter(|touched| touched.home == old) {
                let new = self.view.home(SetId(*set), *at).unwrap_or(NodeId::NOBODY);
                if goes(new) {
                    *home = new;
                    if new == self.me {
                        // The home before has never touched it. What it would have found then is so here.
                        shard.recovery.doubt = self.losses.doubt(SetId(*set), *at, state.born, None);
                        shard.recovery.unbroken = self.losses.unbroken_since(SetId(*set), *at);
                    }
                }
            }
        }
    }

    fn settle(&mut self) {
        if self.moving.as_ref().is_some_and(Moving::is_done) {
            self.moving = None;
            // What came under the view before may have come where they were looked for already.
            self.look_for_replicas();
        }
    }

    fn set(&mut self, set: SetId) -> Result<&mut Set, Refused> {
        let policy = set.policy().filter(|_| set.counter() != 0);
        let is_known = self.sets.contains_key(&set.0);
        if policy.is_none() || (!is_known && self.destroyed.contains(&set)) {
            return Err(Refused::UnknownSet);
        }
        if self.view.homes.is_empty() {
            return Err(Refused::NoHome);
        }
        if !is_known {
            if self.sets.len() >= SETS_PER_NODE {
                return Err(Refused::TooManySets);
            }
            self.sets.try_reserve(1).map_err(|_| NoMemory)?;
            self.sets.insert(set.0, Set::new()?);
        }
        self.sets.get_mut(&set.0).ok_or(Refused::UnknownSet)
    }

    /// Handles one input for one object of one set; the outputs are for that set.
    pub fn handle(&mut self, set: SetId, object: ObjectId, input: Input, outputs: &mut Outputs) -> Result<(), Refused> {
        match input {
            Input::Message { from, message: Message::Placed { placement } } => self.placed(from, placement),
            Input::Message { from, message: Message::AllReported } => self.reported(set, from, None, outputs)?,
            Input::Message { from, message: Message::Returned { left } } => self.returned(from, left),
            Input::Message { from, message: Message::Reported { shard, forgotten } } => {
                self.reported(set, from, Some((shard, forgotten)), outputs)?;
            }
            Input::Message { from, message: Message::Wanted { shard } } => self.is_wanted(set, from, shard, outputs)?,
            Input::Message { from, message: Message::ShardIsYours { shard, floor, in_doubt, unbroken } } => {
                outputs.reserve(1)?;
                if !self.take_over(set, from, (shard, floor, in_doubt, unbroken), outputs)? {
                    let what = "a shard from a node that does not answer for it";
                    outputs.push(Output::Dropped { object, what });
                }
            }
            Input::Message { from, message: message @ (Message::Knew(_) | Message::KnewAll { .. }) } => {
                self.is_told_by_a_former_home(set, (object, from), message, outputs)?;
            }
            Input::Message { message: Message::Loss(loss), .. } => self.is_told_of_a_loss(loss, outputs)?,
            Input::Message { message: Message::AcceptLoss { set_until: Some(epoch) }, .. } => {
                self.set_loss_is_accepted(set, epoch)?
            }
            Input::Message { from, message: Message::Revalidate { id, copies } } => {
                self.asked_to_revalidate(set, (from, id), (object, &copies), outputs)?;
            }
            Input::Message { from, message: Message::Revalidated { id, valid } } => {
                self.revalidated(set, (from, id), &valid, outputs)?;
            }
            input => self.handle_object(set, object, input, outputs)?,
        }
        Ok(())
    }

    fn handle_object(
        &mut self,
        set: SetId,
        object: ObjectId,
        input: Input,
        outputs: &mut Outputs,
    ) -> Result<(), Refused> {
        let at = object.shard(set.policy().unwrap_or_default());
        let epoch = self.view.epoch;
        let is_there = |touched: &Touched| touched.shard.recovery.entered == epoch;
        if self.view.homes.is_empty() || !self.sets.get(&set.0).and_then(|state| state.get(at)).is_some_and(is_there) {
            self.entered(set, at, outputs)?;
        }
        if self.recovering.is_some() || self.moving.is_some() {
            self.look_again();
        }
        if self.recovering.is_some()
            && matches!(
                input,
                Input::Want { .. } | Input::RemoveUnused { .. } | Input::Message { message: Message::Request(_), .. }
            )
        {
            self.hasten(set, at, outputs)?;
        }
        self.at_shard(set, object, |shard, place, counter, room| {
            shard.handle(place, counter, room, object, input, outputs)
        })
    }

    /// Does something with an object in its shard, as that stands.
    fn at_shard(
        &mut self,
        set: SetId,
        object: ObjectId,
        act: impl FnOnce(&mut Shard, &Place<'_>, &mut u64, &mut Room) -> Result<(), NoMemory>,
    ) -> Result<(), Refused> {
        let at = object.shard(set.policy().unwrap_or_default());
        let Node { me, incarnation, view, moving, sets, counter, room, .. } = self;
        let state = sets.get_mut(&set.0).ok_or(Refused::UnknownSet)?;
        let Touched { home, shard, .. } = state.touch(at, || untouched(*me, view, moving.as_ref(), set, at))?;
        let home = *home;
        let view_home = if moving.is_some() { view.home(set, at).unwrap_or(home) } else { home };
        let is_recovering = shard.recovery.awaits(object);
        let place = Place::at_home((*me, *incarnation), view, (set, at), home, &shard.recovery);
        let place = Place { view_home, is_recovering, ..place };
        let mut next = *counter;
        act(shard, &place, &mut next, room)?;
        *counter = next;
        Ok(())
    }

    /// Forgets a set and refuses its messages from now on. What was known of it is handed out, to be
    /// dropped where that keeps nobody waiting.
    pub fn destroy(&mut self, set: SetId) -> Option<impl Send + use<>> {
        if !self.destroyed.contains(&set) {
            if self.destroyed.len() >= DESTROYED_REMEMBERED {
                self.destroyed.remove(0);
            }
            if self.destroyed.try_reserve(1).is_ok() {
                self.destroyed.push(set);
            }
        }
        self.questions.retain(|question| question.set != set);
        self.sets.remove(&set.0)
    }

    /// The home of an object, if the view has homes.
    pub fn home(&self, set: SetId, object: ObjectId) -> Option<NodeId> {
        self.view.home(set, object.shard(set.policy()?))
    }
}
