//! A node's part in the membership: views, shards that move, and how it leaves.

use std::sync::Arc;

use kddm_core::id::{NodeId, ObjectId, SetId};
use kddm_core::io::{Input, Outputs};
use kddm_core::message::RequestKind;
use kddm_core::node::HandedOver;
use kddm_core::shard::Main;
use kddm_core::view::View;

use super::{Agent, Effects, Generation, Todo, generation, set_of};

impl Agent {
    /// The installed view; without members before the first.
    pub fn view(&self) -> &View {
        self.core.view()
    }

    /// All shards are where the installed view wants them, as far as this node is concerned.
    pub fn is_settled(&self) -> bool {
        self.core.is_settled()
    }

    /// Whether there is something to hand over, or to say so.
    pub fn is_handing_over(&self) -> bool {
        self.core.is_handing_over()
    }

    /// In the installed view this node is to keep nothing: it is about to leave.
    pub fn is_leaving(&self) -> bool {
        self.view().member(self.me).is_some() && self.view().homes.binary_search(&self.me).is_err()
    }

    /// The home of an object in the installed view.
    pub fn home(&self, object: ObjectId) -> Option<NodeId> {
        self.core.home(set_of(generation(object)), object)
    }

    /// Whether this node waits for that one to say that it has handed over everything.
    pub fn awaits(&self, node: NodeId) -> bool {
        self.core.awaited().any(|awaited| awaited == node)
    }

    /// Installs the next view.
    pub fn install(&mut self, view: &View, effects: &mut Effects) {
        if Arc::make_mut(&mut self.core).install_view(view.clone()).is_err() {
            effects.broken.push(format!("I7: node {} could not install {view:?}", self.me));
        }
        self.ask_for_copies(effects);
    }

    /// Hands over the next shard, or says that all is handed over. False if there was nothing to do.
    pub fn hand_over(&mut self, effects: &mut Effects) -> bool {
        let mut outputs = Outputs::new();
        let done = Arc::make_mut(&mut self.core).hand_over(&mut outputs);
        let set = if let Ok(HandedOver::Shard(set)) = done { set } else { SetId::default() };
        let mut todo = Todo::new();
        for output in outputs.drain() {
            self.act(set, output, None, &mut todo, effects);
        }
        self.run_all(set, todo, None, effects);
        let objects: Vec<ObjectId> = self.cells.keys().copied().collect();
        for object in objects {
            self.run(object, None, None, effects);
        }
        done.is_ok_and(|done| done != HandedOver::Nothing)
    }

    /// Whoever is responsible accepts that the object is gone, if it is lost.
    pub fn accept_loss(&mut self, object: ObjectId, effects: &mut Effects) {
        self.run(object, Some(Input::AcceptLoss), None, effects);
    }

    /// The same of all objects of a set.
    pub fn accept_set_loss(&mut self, of: Generation, effects: &mut Effects) {
        let (set, mut outputs) = (set_of(of), Outputs::new());
        if let Err(refused) = Arc::make_mut(&mut self.core).accept_set_loss(set, &mut outputs) {
            return effects.broken.push(format!("node {} refused that a loss is accepted: {refused:?}", self.me));
        }
        let mut todo = Todo::new();
        for output in outputs.drain() {
            self.act(set, output, None, &mut todo, effects);
        }
    }

    /// The next message of that node was sent under a later placement.
    pub fn is_ahead(&mut self, from: NodeId) {
        Arc::make_mut(&mut self.core).is_ahead(from);
    }

    /// Whether a member is awaited that has left in that view.
    pub fn awaits_leaver(&self, later: &View) -> bool {
        self.core.awaited_leaver(later).is_some()
    }

    /// Such a member is not awaited any more.
    pub fn await_no_leaver(&mut self, later: &View) {
        if self.awaits_leaver(later) {
            Arc::make_mut(&mut self.core).await_no_leaver(later);
        }
    }

    /// Objects of which something is here that a leaving node has to give away, and nobody asks for now. A ghost
    /// goes when it is confirmed.
    pub fn to_drain(&self) -> impl Iterator<Item = ObjectId> {
        let is_ghost = |object: &ObjectId| matches!(self.inspect(*object).main, Main::Ghost { .. });
        let is_free = |object: &ObjectId| self.cells.get(object).is_none_or(|cell| !cell.outstanding);
        let idle = move |object: &ObjectId| is_free(object) && !is_ghost(object);
        self.core.sets().into_iter().flat_map(|set| self.core.holdings(set)).filter(idle)
    }

    /// Nothing is here that anybody could miss, and nothing is under way to this node.
    pub fn is_empty(&self) -> bool {
        self.is_at_rest()
            && self.replicas.is_empty()
            && self.core.sets().into_iter().all(|set| self.core.holdings(set).next().is_none())
    }

    /// A leaving node gives an object away.
    pub fn drain(&mut self, object: ObjectId, effects: &mut Effects) {
        Arc::make_mut(&mut self.cells).entry(object).or_default().outstanding = true;
        let kind = RequestKind::Flush { to: NodeId::NOBODY };
        self.run(object, Some(Input::Want { kind }), None, effects);
    }

    /// A leaving node serves its clients no more. What the core was asked for may still come.
    pub fn dismiss(&mut self, effects: &mut Effects) {
        let waited: Vec<ObjectId> =
            self.cells.iter().filter(|(_, cell)| !cell.waiters.is_empty()).map(|(object, _)| *object).collect();
        // All of them first: what is said of one object may take others to a new epoch, and grant them.
        for cell in Arc::make_mut(&mut self.cells).values_mut() {
            cell.waiters.clear();
        }
        for object in waited {
            let Some(cell) = Arc::make_mut(&mut self.cells).get_mut(&object) else { continue };
            let cancel = std::mem::take(&mut cell.outstanding).then_some(Input::Cancel);
            self.run(object, cancel, None, effects);
        }
    }
}
