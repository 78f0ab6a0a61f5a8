//! The home of a shard: it answers for objects that nobody points to.

use crate::id::{NodeId, ObjectId, Tenure, Version};
use crate::message::{Have, Message, Request, RequestKind, Role};
use crate::mutation::{Mutation, mutated};
use crate::object::state::{LateAck, Turn};
use crate::recovery::Report;
use crate::table::Keyed;

/// What the home knows of an object that exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// The object.
    pub object: ObjectId,
    /// The owner's tenure, or that of the removal.
    pub tenure: Tenure,
    /// The owner; nobody during a removal.
    pub node: NodeId,
    /// How sure the home is.
    pub state: EntryState,
    /// The newest version could not be proven present (`I5`). The rest of the entry is kept: a later view
    /// decides again.
    pub lost: bool,
}

/// How an entry of the directory came about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EntryState {
    /// The home told the node to create the object; it has not announced itself yet.
    Predicted,
    /// The owner has announced itself.
    Fact,
    /// A removal is in progress: requests are parked.
    Removing,
    /// The home made a node with a copy the owner; it has not announced itself yet.
    Promoted,
    /// It existed, or may have: nobody is known to have it.
    Unknown,
    /// It does not exist, and that is certain, in a shard of which others may exist that have no entry.
    Absent,
}

impl Keyed for Entry {
    fn key(&self) -> ObjectId {
        self.object
    }
}

impl Turn<'_> {
    /// A request that no hint leads further: create, forward to a newer owner, or park.
    pub fn ask_home(&mut self, request: Request) {
        if self.place.is_recovering {
            return self.parked.push_back(Request { to_home: true, ..request });
        }
        match self.entry {
            None if self.place.in_doubt => self.send(request.id.node, Message::Lost { id: request.id }),
            Some(entry) if entry.lost => self.send(request.id.node, Message::Lost { id: request.id }),
            None | Some(Entry { state: EntryState::Absent, .. }) => self.ask_about_nothing(request),
            Some(Entry { state: EntryState::Removing, .. }) if mutated(Mutation::CreateDuringRemoval) => {
                self.ask_about_nothing(request);
            }
            Some(entry) => {
                let newer = entry.tenure > request.tau && entry.node != self.me();
                // An owner that does not share any more has passed the object on: its news is coming.
                if entry.state == EntryState::Removing || !newer || !self.place.shares(entry.node) {
                    self.parked.push_back(Request { to_home: true, ..request });
                } else {
                    self.forward(entry.node, Request { tau: entry.tenure, to_home: false, ..request });
                }
            }
        }
    }

    /// The object does not exist: the requester is made its owner, unless it wanted what exists.
    fn ask_about_nothing(&mut self, request: Request) {
        let id = request.id;
        match request.kind {
            RequestKind::Remove => self.send(id.node, Message::RemoveDone { id }),
            RequestKind::Get { existing: true } | RequestKind::Grab { existing: true } => {
                self.send(id.node, Message::NotFound { id });
            }
            RequestKind::Get { .. } | RequestKind::Grab { .. } | RequestKind::TryGrab => {
                let Some(tenure) = self.floor.next(self.place.epoch()) else {
                    return self.dropped("I3: the tenures of this shard are used up");
                };
                let state = EntryState::Predicted;
                if request.kind != RequestKind::TryGrab || !mutated(Mutation::CreateTwice) {
                    self.entry = Some(Entry { object: self.id, tenure, node: id.node, state, lost: false });
                }
                self.send(id.node, Message::Create { tenure, id });
            }
            RequestKind::Flush { .. } => self.dropped("a flush never leaves its node"),
        }
    }

    /// An owner announces itself: the greatest tenure counts, and parked requests follow it.
    pub fn owner_is(&mut self, owner: NodeId, tenure: Tenure) {
        if !self.is_home() {
            return self.send_deferred(self.place.home, Message::OwnerIs { owner, tenure });
        }
        if self.place.view.member(owner).is_none() {
            return self.dropped("an owner that is no member");
        }
        let known = self.entry.map_or(*self.floor, |entry| entry.tenure);
        let over = match self.entry {
            Some(Entry { state: EntryState::Absent, .. }) => tenure <= known,
            Some(entry) => tenure < known || entry.state == EntryState::Removing,
            None => tenure <= known,
        };
        if (over && !mutated(Mutation::BelieveOlderOwner)) || mutated(Mutation::ForgetOwner) {
            return; // Overtaken by a newer owner or a removal.
        }
        self.entry = Some(Entry { object: self.id, tenure, node: owner, state: EntryState::Fact, lost: false });
        if self.place.is_recovering {
            // Who waits hears when all have reported.
            let have = Have { role: Role::Owner, tenure, seen: tenure, ..Have::default() };
            return self.amend(Report { from: owner, have, ..Report::default() });
        }
        if !self.to_free.is_empty() {
            let reports = core::mem::take(&mut self.to_free);
            self.free_ghosts(&reports, owner, tenure);
        }
        self.parked_follow(owner, tenure);
    }

    /// What is parked for at most that tenure follows its owner. Even one that has followed that very tenure already:
    /// whom it met had not got the ownership yet.
    pub fn parked_follow(&mut self, owner: NodeId, tenure: Tenure) {
        for _ in 0..self.parked.len() {
            let Some(request) = self.parked.pop_front() else { break };
            if request.tau > tenure || !self.place.shares(owner) {
                self.parked.push_back(request);
            } else if !mutated(Mutation::LoseParkedRequest) {
                self.forward(owner, Request { tau: tenure, to_home: false, ..request });
            }
        }
    }

    /// What was reported of the object has changed meanwhile. Of each node the last word counts.
    fn amend(&mut self, report: Report) {
        self.to_free.retain(|known| known.from != report.from && known.have.role != Role::Owner);
        self.to_free.push(report);
    }

    /// The old home hands over what it knows of an object.
    pub fn handed(&mut self, from: NodeId, entry: Entry) {
        let moves = from == self.place.home && self.place.view_home == self.me();
        // Who answered for the shard when the others were lost knows that alone.
        let recovers = self.place.is_recovering && self.place.in_doubt && self.is_home();
        let names_somebody = matches!(entry.state, EntryState::Removing | EntryState::Unknown | EntryState::Absent);
        if !(moves || recovers) || (!entry.node.is_somebody() && !names_somebody) {
            return self.dropped("an entry of the directory from a node that is not the old home");
        }
        // What has been said in this epoch meanwhile is newer.
        if self.entry.is_none_or(|known| known.tenure < entry.tenure) {
            self.entry = Some(entry);
        }
    }

    /// What a former home knew, until it was frozen. What has been decided here since then is newer.
    pub fn knew(&mut self, entry: Entry) {
        if self.entry.is_none_or(|known| known.lost && known.tenure < entry.tenure) {
            self.entry = Some(entry);
        }
    }

    /// A removal begins: requests are parked, and a copy that is here goes like any other.
    pub fn removing(&mut self, from: NodeId, tenure: Tenure, forwarded: bool) {
        if !self.is_home() {
            self.send(self.place.home, Message::Removing { tenure, forwarded: true });
        } else if tenure > self.entry.map_or(*self.floor, |entry| entry.tenure) {
            let state = EntryState::Removing;
            self.entry = Some(Entry { object: self.id, tenure, node: NodeId::NOBODY, state, lost: false });
        }
        if forwarded && !mutated(Mutation::AckRemovalTwice) {
            return; // It is acked where the owner sent it: two acks of one node could not be told apart.
        }
        if from == self.me() || mutated(Mutation::KeepHomesCopy) {
            self.send(from, Message::Ack { tenure, version: Version(0) });
        } else {
            // For the same reason one message closes the home and strikes its copy.
            self.invalidate(from, LateAck { tenure, version: Version(0), owner: from, remove: true });
        }
    }

    /// A removal is done: the object does not exist, and what was parked starts anew. While a shard
    /// moves this may overtake the news that the removal began, or that its owner was the owner.
    pub fn removed(&mut self, tenure: Tenure) {
        if !self.is_home() {
            return self.send(self.place.home, Message::Removed { tenure });
        }
        let ends = |entry: Entry| match entry.state {
            EntryState::Removing | EntryState::Absent => entry.tenure <= tenure,
            EntryState::Predicted | EntryState::Fact | EntryState::Promoted | EntryState::Unknown => {
                entry.tenure < tenure
            }
        };
        if !self.entry.is_none_or(ends) {
            return; // It exists again, or another removal of it has begun.
        }
        if !mutated(Mutation::ForgetFloor) {
            *self.floor = (*self.floor).max(tenure);
        }
        self.entry = self.absent(tenure);
        if !self.place.is_recovering && !self.to_free.is_empty() {
            // It had an owner before that: what others kept in case that one was lost is of no more use.
            let reports = core::mem::take(&mut self.to_free);
            self.free_ghosts(&reports, NodeId::NOBODY, tenure);
        }
        if self.place.is_recovering {
            let have = Have { removed: true, seen: tenure, ..Have::default() };
            return self.amend(Report { from: NodeId::NOBODY, have, ..Report::default() });
        }
        self.restart_parked();
    }

    /// What the directory says of an object that does not exist: nothing, unless that would be no proof.
    pub fn absent(&self, tenure: Tenure) -> Option<Entry> {
        let state = EntryState::Absent;
        let entry = Entry { object: self.id, tenure, node: NodeId::NOBODY, state, lost: false };
        self.place.in_doubt.then_some(entry)
    }

    /// Whoever is responsible accepts that the object is gone. If it is lost it has never existed from now on, and
    /// what might have decided it is of no more use. Its tenure is above everything that anybody has of it.
    pub fn accept_loss(&mut self) {
        if !self.is_home() {
            return self.send(self.place.home, Message::AcceptLoss { set_until: None });
        }
        if let Some(Entry { state: EntryState::Absent, tenure, .. }) = self.entry {
            self.entry = self.absent(tenure);
            return;
        }
        let is_lost = self.entry.map_or(self.place.in_doubt, |entry| entry.lost);
        if self.place.is_recovering || (!is_lost && !mutated(Mutation::AcceptWhatIsThere)) {
            return; // It is there, or it is not decided yet whether it is.
        }
        let known = self.entry.map_or(Tenure::NONE, |entry| entry.tenure);
        let known = known.max(self.seen.tenure).max(*self.floor);
        let Some(tenure) = known.next(self.place.epoch()) else {
            return self.dropped("I3: the tenures of this object are used up");
        };
        *self.floor = tenure;
        // Any member may have something of it, as far as this one knows.
        let may_have = Have { role: Role::Ghost, ..Have::default() };
        let all = self.place.view.others_online(self.place.me);
        self.to_free.clear();
        self.to_free.extend(all.map(|from| Report { from, have: may_have, ..Report::default() }));
        self.end(tenure);
    }
}
