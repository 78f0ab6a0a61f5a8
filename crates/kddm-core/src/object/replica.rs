//! Copies that survive their owner: pushed before a put is done, kept beside every other role.

use crate::id::{NodeId, Tenure, Version, Zone};
use crate::io::{Access, Body, Output};
use crate::message::Message;
use crate::mutation::{Mutation, mutated};
use crate::object::state::{Main, Pushing, Turn};
use crate::replicas::{MOST_REPLICAS, ReplicaSet};
use crate::shard::Place;

impl Turn<'_> {
    /// A local thread has put, and waits until the version has its replicas.
    pub fn put(&mut self, version: Version) {
        let Main::Owner { version: known, .. } = &mut self.main else {
            return self.fault("I1: a put at a node that is not the owner");
        };
        *known = version;
        let mut pushing = self.side.pushing.unwrap_or(Pushing::nothing());
        self.change_replicas(&mut pushing);
        self.has_value = true;
        self.push(self.replicas, Pushing { version, answers: true, hides: false, ..pushing });
    }

    /// Sends the object to these replicas; the rest follows when all have it.
    pub fn push(&mut self, to: ReplicaSet, pushing: Pushing) {
        let Main::Owner { version, .. } = self.main else { return };
        // While a local thread may be writing there is nothing that anybody has put, but what it puts itself.
        let is_held = !pushing.answers && self.access == Access::Write && !to.is_empty();
        self.side.pushing = Some(Pushing { version, waiting: to, is_held, ..pushing });
        if is_held { self.push_held() } else { self.send_push() }
    }

    /// Sends what was held back, as soon as no local thread writes.
    pub fn push_held(&mut self) {
        if !self.side.pushing.is_some_and(|pushing| pushing.is_held) {
            return;
        }
        if self.access < Access::Write {
            self.send_push();
        } else if self.side.revoking.is_none() {
            self.revoke(Access::Read);
        }
    }

    fn send_push(&mut self) {
        let Main::Owner { tenure, version, .. } = self.main else { return };
        let Some(pushing) = &mut self.side.pushing else { return };
        (pushing.is_held, pushing.version) = (false, version);
        let to = pushing.waiting;
        if mutated(Mutation::PutWithoutReplica) {
            pushing.waiting = ReplicaSet::new();
        }
        for node in to.iter() {
            self.dispatch(node, Message::Push { tenure, version }, Body::Object, false);
        }
        self.finish_push();
    }

    /// A replica has the version.
    pub fn push_ack(&mut self, from: NodeId, tenure: Tenure, version: Version) {
        let Main::Owner { tenure: mine, .. } = self.main else { return };
        if let Some(pushing) = self.side.pushing.as_mut().filter(|pushing| mine == tenure && pushing.version == version)
        {
            pushing.waiting.remove(from);
            self.finish_push();
            self.serve();
        }
    }

    /// A replica that was to go is gone. Before all are told, the word may be that of an earlier time: it may have got
    /// another copy since.
    pub fn replica_gone(&mut self, from: NodeId, tenure: Tenure) {
        let Main::Owner { tenure: mine, .. } = self.main else { return };
        if let Some(pushing) = self.side.pushing.as_mut().filter(|pushing| mine == tenure && pushing.is_dropping)
            && pushing.leaving.remove(from)
        {
            self.finish_push();
            self.serve();
        }
    }

    /// Who is to go is told once all others have the version, and awaited: if this node is lost, and the word with
    /// it, a copy that is still there may become the object, so it must not be older than a put that is done.
    fn awaits_who_leaves(&mut self, tenure: Tenure) -> bool {
        let Some(pushing) = &mut self.side.pushing else { return false };
        let (leaving, is_told) = (pushing.leaving, pushing.is_dropping);
        pushing.is_dropping = true;
        for node in leaving.iter().filter(|_| !is_told) {
            self.send(node, Message::DropReplica { tenure });
        }
        !leaving.is_empty() && !mutated(Mutation::ForgetLeaving)
    }

    fn finish_push(&mut self) {
        let Some(pushing) = self.side.pushing.filter(|pushing| pushing.waiting.is_empty()) else { return };
        let Main::Owner { tenure, .. } = self.main else { return };
        if self.awaits_who_leaves(tenure) {
            return;
        }
        self.side.pushing = None;
        if pushing.announces {
            let owner = self.me();
            self.send_deferred(self.place.home, Message::OwnerIs { owner, tenure });
        }
        if pushing.answers {
            self.output(Output::PutDone { object: self.id, version: pushing.version });
        }
        // Whoever looked for owners that want other replicas has passed this one by meanwhile.
        let place = self.place;
        let is_right =
            self.replicas.len() == place.replicas_wanted() && self.replicas.iter().all(|node| place.is_a_home(node));
        if !is_right {
            self.refill();
        }
    }

    /// Keeps the replicas that are to stay and adds others until there are enough: says which are new.
    /// Those that are to leave keep their copy until all others have theirs.
    pub fn change_replicas(&mut self, pushing: &mut Pushing) -> ReplicaSet {
        let place = self.place;
        let before = self.replicas;
        // None is forgotten before it is gone: those for whom there is no room stay until the others are.
        let has_room = before.len() + pushing.leaving.len() <= MOST_REPLICAS;
        self.replicas.retain(|node| place.is_a_home(node) || (!has_room && place.talks(node)));
        while self.replicas.len() < place.replicas_wanted() {
            let taken = |node| node == place.me || self.replicas.contains(node);
            let Some(node) = place.view.next_replica(place.set, place.at, taken) else { break };
            self.replicas.insert(node);
        }
        if has_room {
            self.leave_out_the_worst();
        }
        let kept = self.replicas;
        // One that shares nothing any more may have kept it when it passed the object on.
        let leaving = pushing.leaving;
        for node in before.iter().filter(|node| !kept.contains(*node) && place.talks(*node)) {
            pushing.leaving.insert(node);
        }
        pushing.leaving.retain(|node| !kept.contains(node));
        // Who has been told so has got nothing since.
        pushing.is_dropping &= pushing.leaving == leaving;
        let added: ReplicaSet = kept.iter().filter(|node| !before.contains(*node)).collect();
        // A first value is no older one that could be lost.
        pushing.fills |= self.has_value && !added.is_empty();
        added
    }

    /// More than enough: those go first that fail together with others.
    fn leave_out_the_worst(&mut self) {
        let place = self.place;
        while self.replicas.len() > place.replicas_wanted() {
            let replicas = self.replicas;
            let keeps = |node: NodeId| node == place.me || replicas.contains(node);
            let crowd = |node: &NodeId| (place.view.crowd(*node, keeps), core::cmp::Reverse(node.0));
            let Some(worst) = replicas.iter().max_by_key(crowd) else { return };
            self.replicas.remove(worst);
        }
    }

    /// Replicas that another node names: none where there are to be none, and never the owner itself, which
    /// would wait for its own word.
    pub fn others_of(&self, mut named: ReplicaSet) -> ReplicaSet {
        named.remove(self.place.me);
        if self.place.set.replicas() == 0 { ReplicaSet::new() } else { named }
    }

    /// Gives the object at rest the replicas that it is to have.
    pub fn refill(&mut self) {
        let place = self.place;
        if let Some(pushing) = self.side.pushing.as_mut().filter(|pushing| pushing.waits_for_who_left(place)) {
            // It left with the copy that was on its way to it; others get one as soon as this is over.
            pushing.waiting.retain(|node| place.shares(node));
            pushing.leaving.retain(|node| place.talks(node));
            self.finish_push();
            self.serve();
        }
        let is_at_rest = self.has_value && self.side.pushing.is_none();
        if !matches!(self.main, Main::Owner { .. }) || !is_at_rest {
            return;
        }
        let mut pushing = Pushing::nothing();
        let added = self.change_replicas(&mut pushing);
        if !added.is_empty() || !pushing.leaving.is_empty() {
            self.push(added, pushing);
        }
    }

    /// An owner's copy has arrived. It is kept beside whatever this node has.
    pub fn pushed(&mut self, from: NodeId, tenure: Tenure, version: Version) {
        if matches!(self.main, Main::Owner { .. } | Main::Tombstone { .. }) {
            return self.dropped("a replica for a node that owns the object");
        }
        let is_newer = self.replica.is_none_or(|kept| kept <= (tenure, version));
        if tenure >= self.seen.tenure && is_newer {
            self.raise_seen(tenure, from);
            (self.replica, self.replica_is_told, self.offer) = (Some((tenure, version)), false, None);
            self.output(Output::StoreReplica { object: self.id });
        }
        self.send(from, Message::PushAck { tenure, version });
    }

    /// The replica here is of no more use, if it is of that tenure or before.
    pub fn drop_replica(&mut self, tenure: Tenure) {
        if self.replica.is_some_and(|(kept, _)| kept <= tenure) {
            self.replica = None;
            self.output(Output::DropReplica { object: self.id });
        }
        self.drop_offer(tenure);
    }

    /// What this node owned in a former life is of no more use, if it is of that tenure or before.
    pub fn drop_offer(&mut self, tenure: Tenure) {
        if self.offer.is_some_and(|(kept, _)| kept <= tenure) {
            self.offer = None;
            self.output(Output::DropReplica { object: self.id });
        }
    }

    /// This node owned the object in a former life, which was expelled, and still has what it had. It is of use only
    /// while nothing else is known of the object here.
    pub fn remember(&mut self, offer: (Tenure, Version)) {
        let is_unknown = matches!(self.main, Main::None) && self.replica.is_none() && self.seen.tenure <= offer.0;
        if is_unknown && self.offer.is_none_or(|kept| kept < offer) {
            self.offer = Some(offer);
        }
    }

    /// The owner did not name this replica when it said what it has: its word that the copy is of no more use was
    /// lost. One that was made since then is another.
    pub fn drop_orphan(&mut self, copy: (Tenure, Version)) {
        if self.replica_is_told && self.replica == Some(copy) && !mutated(Mutation::KeepOrphans) {
            self.drop_own_replica();
        }
    }

    /// This node has become the owner, or the object is gone.
    pub fn drop_own_replica(&mut self) {
        let (replica, offer) = (self.replica.take(), self.offer.take());
        if replica.is_some() || offer.is_some() {
            self.output(Output::DropReplica { object: self.id });
        }
    }

    /// Ownership goes to `to`: if that is a replica, this node takes its place in the same step.
    pub fn replicas_after(&mut self, to: NodeId) -> ReplicaSet {
        let Main::Owner { tenure, version, .. } = self.main else { return ReplicaSet::new() };
        let mut replicas = core::mem::take(&mut self.replicas);
        let is_replica = replicas.remove(to);
        // It goes where one of its replicas would fail together with it, and its bytes are here already.
        let (view, me) = (self.place.view, self.place.me);
        let meets = |zone: Zone| replicas.iter().any(|node| view.zone(node).meets(zone));
        let is_better = !view.zone(me).meets(view.zone(to)) && !meets(view.zone(me)) && meets(view.zone(to));
        let has_room = replicas.len() < MOST_REPLICAS && self.place.is_a_home(me);
        let is_better = is_better && has_room;
        if (is_replica || is_better) && self.has_value && !mutated(Mutation::LeaveReplicaBehind) {
            replicas.insert(self.place.me);
            (self.replica, self.replica_is_told, self.offer) = (Some((tenure, version)), false, None);
            self.output(Output::KeepReplica { object: self.id });
        }
        replicas
    }
}

impl Pushing {
    /// A node that shares nothing any more is to have the copy, or one that is gone is to drop its own.
    pub fn waits_for_who_left(&self, place: &Place<'_>) -> bool {
        self.waiting.iter().any(|node| !place.shares(node)) || self.leaving.iter().any(|node| !place.talks(node))
    }

    /// Nobody waits for it, and nothing follows.
    pub fn nothing() -> Pushing {
        Pushing {
            version: Version(0),
            waiting: ReplicaSet::new(),
            leaving: ReplicaSet::new(),
            is_dropping: false,
            hides: false,
            answers: false,
            announces: false,
            is_held: false,
            fills: false,
        }
    }
}
