//! What each message of another node does, apart from requests.

use crate::home::Entry;
use crate::id::{NodeId, RequestId, Tenure, Version};
use crate::io::{Access, Answer, Output};
use crate::message::{Message, Request, RequestKind};
use crate::mutation::{Mutation, mutated};
use crate::nodeset::NodeSet;
use crate::object::state::{LateAck, Main, Seen, Turn, Want};
use crate::replicas::ReplicaSet;

impl Turn<'_> {
    /// Handles one message. Impossible ones are dropped, counted, and change nothing.
    pub fn receive(&mut self, from: NodeId, message: Message) {
        match message {
            Message::Request(request) => self.asked(request),
            Message::Create { tenure, .. } => self.create(tenure),
            Message::Data { tenure, version, id } => self.data(from, tenure, version, id),
            Message::Transfer { tenure, version, born, sharers, has_value, id, replicas } => {
                let main = Main::Owner { tenure, version, born };
                self.transferred(from, main, (sharers, replicas), has_value, id);
            }
            Message::Invalidate { tenure, version, owner, remove } => {
                let expects_ack = if remove { owner == from } else { owner.is_somebody() && owner != self.me() };
                if !expects_ack {
                    return self.dropped("invalidated for an owner that cannot be meant");
                }
                self.invalidate(from, LateAck { tenure, version, owner, remove });
            }
            Message::Ack { tenure, .. } => self.ack(from, tenure),
            Message::Confirm { tenure } => self.confirm(tenure),
            Message::OwnerIs { owner, tenure } => self.owner_is(owner, tenure),
            Message::Removing { tenure, forwarded } => self.removing(from, tenure, forwarded),
            Message::Removed { tenure } => self.removed(tenure),
            Message::RemoveDone { id } => self.answered(id, Answer::Removed),
            Message::NotFound { id } => self.answered(id, Answer::NotFound),
            Message::Busy { id } => self.answered(id, Answer::Busy),
            Message::Lost { id } => self.answered(id, Answer::Lost),
            Message::TryInvalidate { id, .. } => self.try_invalidate(from, id),
            Message::TryAnswer { id, held } => self.try_answer(from, id, held),
            Message::Flushed { id } => self.flushed(from, id),
            Message::Entry { tenure, owner, state, lost } => {
                self.handed(from, Entry { object: self.id, tenure, node: owner, state, lost });
            }
            Message::Push { tenure, version } => self.pushed(from, tenure, version),
            Message::PushAck { tenure, version } => self.push_ack(from, tenure, version),
            Message::DropReplica { tenure } => {
                self.drop_replica(tenure);
                self.send(from, Message::ReplicaGone { tenure });
            }
            Message::ReplicaGone { tenure } => self.replica_gone(from, tenure),
            Message::Orphan { tenure, version } => self.drop_orphan((tenure, version)),
            Message::Promote { tenure, version, copy, sharers, replicas } => {
                self.promoted(from, tenure, (copy, version), (sharers, replicas));
            }
            // The shard takes these before they come here; an own answer to an own `Promote` cannot be.
            Message::Have(_) | Message::HaveReplica { .. } | Message::HaveOffer { .. } | Message::Reported { .. } => {
                self.dropped("a report to a node that is not waiting for one");
            }
            Message::Decline { .. } => self.fault("the home's own copy left while it decided"),
            Message::AcceptLoss { set_until: None } => self.accept_loss(),
            Message::ShardIsYours { .. }
            | Message::Placed { .. }
            | Message::AllReported
            | Message::Returned { .. }
            | Message::Knew(_)
            | Message::KnewAll { .. }
            | Message::Loss(_)
            | Message::Wanted { .. }
            | Message::Revalidate { .. }
            | Message::Revalidated { .. }
            | Message::AcceptLoss { .. } => {
                self.dropped("not about an object");
            }
        }
    }

    /// A request of another node, or an own one that came back.
    fn asked(&mut self, request: Request) {
        let kind = request.kind;
        let of_another_kind = |want: Want| want.id == request.id && want.kind != kind;
        if !request.id.node.is_somebody() || matches!(kind, RequestKind::Flush { .. }) {
            return self.dropped("a request that nobody sends");
        }
        if self.side.want.is_some_and(of_another_kind) {
            return self.dropped("an own request came back as another");
        }
        self.request(request);
    }

    /// Whoever answers must have been asked for what can end so.
    fn answered(&mut self, id: RequestId, answer: Answer) {
        let is_meant = |want: &Want| want.id == id || mutated(Mutation::TrustOlderRefusal);
        let Some(want) = self.side.want.filter(is_meant) else { return };
        let fits = match (want.kind, answer) {
            (RequestKind::Get { existing } | RequestKind::Grab { existing }, Answer::NotFound) => existing,
            (RequestKind::TryGrab, Answer::Busy) | (RequestKind::Remove, Answer::Removed) => true,
            (kind, Answer::Lost) => !matches!(kind, RequestKind::Flush { .. }),
            _ => false,
        };
        if !fits {
            return self.dropped("an answer to what was not asked");
        }
        self.withdraw(id); // Whoever lies may answer what waits here.
        self.answer(answer);
    }

    /// The home says: it did not exist, you own it.
    fn create(&mut self, tenure: Tenure) {
        if !matches!(self.main, Main::None | Main::Ghost { .. }) || tenure <= self.seen.tenure {
            return self.dropped("created what this node has already");
        }
        self.lay_ghost();
        self.drop_own_replica();
        self.has_value = false;
        self.become_owner(Main::Owner { tenure, version: Version(0), born: tenure }, tenure, RequestId::default());
    }

    fn transferred(&mut self, from: NodeId, main: Main, others: (NodeSet, ReplicaSet), has_value: bool, id: RequestId) {
        let (sharers, replicas) = others;
        let Main::Owner { tenure, version, .. } = main else { return };
        if matches!(self.main, Main::Owner { .. } | Main::Tombstone { .. }) || tenure < self.seen.tenure {
            return self.dropped("transferred to a node that owns it, or of an older tenure");
        }
        if self.side.late_ack.is_some() {
            return self.dropped("transferred to a node that owes an ack");
        }
        if self.would_replace_a_copy(version, has_value) {
            return self.dropped("I2: a copy in use here is of another version");
        }
        self.lay_ghost();
        self.output(Output::Install { object: self.id, version, has_value });
        self.has_value = has_value;
        self.drop_own_replica();
        self.replicas = self.others_of(replicas);
        // Where there is nobody to await, its memory stays.
        self.side.owed.clear();
        if !sharers.is_empty() {
            self.side.owed = sharers;
        }
        self.side.owed.remove(self.place.me);
        // One that does not share any more had given its copy back before.
        let place = self.place;
        self.side.owed.retain(|node| place.shares(node) || mutated(Mutation::AwaitWhoLeft));
        if self.side.early_tenure == tenure && !mutated(Mutation::IgnoreEarlyAcks) {
            self.side.owed.subtract(&self.side.early);
        }
        self.send_deferred(from, Message::Confirm { tenure });
        self.become_owner(main, tenure, id);
        if self.place.set.replicas() > 0 {
            self.refill(); // Who gave it away may be about to leave, with the replica that it keeps.
        }
    }

    /// Local threads may be reading the copy that is here. A valid one is of the owner's version.
    fn would_replace_a_copy(&self, arriving: Version, has_value: bool) -> bool {
        matches!(self.main, Main::Sharer { version, .. } if version != arriving || !has_value)
    }

    /// The bytes of a ghost may be of an earlier life of the object, where versions mean other
    /// values: they go before anything else comes in their place.
    fn lay_ghost(&mut self) {
        if matches!(self.main, Main::Ghost { .. }) && !mutated(Mutation::TrustGhost) {
            self.discard();
        }
    }

    fn become_owner(&mut self, main: Main, tenure: Tenure, answers: RequestId) {
        self.main = main;
        let owner = self.me();
        self.note_own_tenure(tenure);
        self.send_deferred(self.place.home, Message::OwnerIs { owner, tenure });
        self.head_with_own_wish(tenure, answers);
        self.serve();
    }

    /// The home has made this node the owner. It tells the home when the object is safe.
    pub fn owner_from_now_on(&mut self, tenure: Tenure) {
        self.note_own_tenure(tenure);
        self.head_with_own_wish(tenure, RequestId::default());
        self.serve();
    }

    fn note_own_tenure(&mut self, tenure: Tenure) {
        self.seen = Seen { tenure, node: self.place.me };
        if self.side.early_tenure <= tenure {
            self.side.early.clear();
            self.side.early_tenure = Tenure::NONE;
        }
    }

    /// What local threads wait for is served first.
    fn head_with_own_wish(&mut self, tenure: Tenure, answers: RequestId) {
        if let Some(want) = self.side.want {
            let heads = match want.kind {
                RequestKind::Get { .. } | RequestKind::Grab { .. } => true,
                RequestKind::TryGrab => want.id == answers || answers == RequestId::default(),
                RequestKind::Remove => mutated(Mutation::RemoveTwice),
                RequestKind::Flush { .. } => false,
            };
            if heads {
                let (id, kind) = (want.id, want.kind);
                let request =
                    Request { id, kind, tau: tenure, forwards: 0, inherited: true, first: false, to_home: false };
                self.side.queue.push_front(request);
            }
        }
    }

    fn data(&mut self, from: NodeId, tenure: Tenure, version: Version, id: RequestId) {
        let wanted = self.side.want.is_some_and(|w| w.id == id && matches!(w.kind, RequestKind::Get { .. }));
        let possible = matches!(self.main, Main::None | Main::Ghost { .. } | Main::Sharer { .. });
        if !wanted || !possible || self.side.late_ack.is_some() || self.side.revoking.is_some() {
            return; // Nobody waits for it any more; the copy set stays too large.
        }
        // A newer owner may have pushed its replica already. It waits for the ack of this copy, and the word that
        // asks for that follows on the same link.
        let is_older = tenure < self.seen.tenure;
        if is_older && self.place.set.replicas() == 0 {
            return self.dropped("I2: a newer owner was known before this copy arrived");
        }
        if self.would_replace_a_copy(version, true) {
            return self.dropped("I2: a copy in use here is of another version");
        }
        self.lay_ghost();
        self.main = Main::Sharer { tenure, version, counter: id.counter };
        self.has_value = true;
        if !is_older {
            self.seen = Seen { tenure, node: from };
        }
        self.output(Output::Install { object: self.id, version, has_value: true });
        self.side.want = None;
        self.grant(Access::Read, true);
    }

    pub fn invalidate(&mut self, from: NodeId, late: LateAck) {
        match self.main {
            Main::Sharer { tenure, version, .. } if (tenure, version) <= (late.tenure, late.version) => {
                if self.access == Access::None && self.side.revoking.is_none() {
                    return self.drop_copy(late);
                }
                self.side.late_ack = Some(late);
                if mutated(Mutation::AckBeforeReadersLeave) {
                    self.send(late.owner, Message::Ack { tenure: late.tenure, version: late.version });
                }
                if self.side.revoking.is_none() {
                    self.revoke(Access::None);
                }
            }
            Main::Owner { tenure, .. } | Main::Tombstone { tenure, .. } if tenure <= late.tenure => {
                self.dropped("invalidated at its owner");
            }
            _ => {
                if late.remove && matches!(self.main, Main::Ghost { sent, .. } if sent < late.tenure) {
                    self.discard();
                }
                if late.remove {
                    self.drop_replica(late.tenure);
                }
                let node = if late.remove { NodeId::NOBODY } else { late.owner };
                self.raise_seen(late.tenure, node);
                let to = if late.remove { from } else { late.owner };
                self.send(to, Message::Ack { tenure: late.tenure, version: late.version });
            }
        }
    }

    fn ack(&mut self, from: NodeId, tenure: Tenure) {
        match self.main {
            Main::Owner { tenure: mine, .. } if mine == tenure => {
                if self.side.owed.remove(from) && self.side.owed.is_empty() {
                    self.serve();
                }
            }
            Main::Tombstone { tenure: mine, .. } if mine == tenure => {
                self.side.owed.remove(from);
                self.finish_remove();
            }
            // One that does not share any more acks what it had given back before; nobody waits for it.
            _ if !self.place.shares(from) => {}
            Main::Owner { .. } | Main::Tombstone { .. } => self.dropped("an ack for another tenure"),
            _ if tenure >= self.seen.tenure && tenure >= self.side.early_tenure => {
                if tenure > self.side.early_tenure {
                    self.side.early.clear();
                    self.side.early_tenure = tenure;
                }
                self.side.early.insert(from);
            }
            _ => self.dropped("an ack for a tenure that is over"),
        }
    }

    pub fn confirm(&mut self, tenure: Tenure) {
        if matches!(self.main, Main::Ghost { sent, .. } if sent <= tenure) && !mutated(Mutation::KeepGhost) {
            self.discard();
        }
        self.drop_offer(tenure);
    }

    fn flushed(&mut self, from: NodeId, id: RequestId) {
        if matches!(self.main, Main::Owner { .. }) {
            let strikes = |counter| counter == id.counter || mutated(Mutation::LateFlushStrikes);
            self.side.sharers.retain(|sharing| sharing.node != from || !strikes(sharing.counter));
        }
    }
}
