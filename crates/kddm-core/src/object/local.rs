//! What local threads cause: wishes, cancels, and access that comes back.

use crate::id::{NodeId, RequestId, Tenure, Version};
use crate::io::{Access, Answer};
use crate::message::{Message, Request, RequestKind};
use crate::mutation::{Mutation, mutated};
use crate::object::state::{LateAck, Main, Revoking, Seen, Turn, Want};

impl Turn<'_> {
    /// Local threads want what the granted access does not allow.
    pub fn want(&mut self, kind: RequestKind) {
        if self.side.want.is_some() {
            return self.fault("the home asked for an object for which a wish is outstanding");
        }
        *self.counter += 1;
        let id = RequestId { node: self.me(), incarnation: self.place.incarnation, counter: *self.counter };
        self.side.want = Some(Want { kind, id, asked: self.me() });
        let request =
            Request { id, kind, tau: Tenure::NONE, forwards: 0, inherited: false, first: false, to_home: false };
        match (self.main, kind) {
            (Main::Owner { .. }, _) => self.accept(request),
            (Main::Sharer { .. }, RequestKind::Flush { .. }) => self.flush_copy(),
            (_, RequestKind::Flush { .. }) => {} // `finish_flush` answers as soon as nothing is here.
            (Main::Tombstone { .. }, _) => self.wait_for_the_end(request),
            (Main::Sharer { .. }, RequestKind::Get { .. }) if self.copy_is_usable() => {
                self.side.want = None;
                self.grant(Access::Read, true);
            }
            _ => self.route(request),
        }
    }

    /// Local threads want it removed, and use nothing of it any more: nothing need be asked back for that.
    pub fn remove_unused(&mut self, version: Version, has_value: bool) {
        if self.side.revoking.is_some() && mutated(Mutation::RemoveWhileAskedBack) {
            self.side.revoking = None;
        }
        if let Main::Sharer { .. } = self.main
            && self.copy_is_usable()
            && mutated(Mutation::RemoveUnowned)
        {
            self.give_up_copy();
            return self.answer(Answer::Removed);
        }
        if let Main::Owner { version: known, .. } = &mut self.main
            && self.side.revoking.is_none()
        {
            *known = version;
            (self.has_value, self.access) = (has_value, Access::None);
            if !self.side.owed.is_empty() && mutated(Mutation::RemoveWithAcksOwed) {
                self.side.owed.clear();
            }
            if !self.side.sharers.is_empty() && mutated(Mutation::RemoveBesideCopies) {
                self.side.sharers.clear();
            }
            self.look_after_replicas();
        }
        self.want(RequestKind::Remove);
    }

    fn copy_is_usable(&self) -> bool {
        (self.side.late_ack.is_none() && self.side.revoking.is_none()) || mutated(Mutation::ReadBesideLateAck)
    }

    fn flush_copy(&mut self) {
        if self.side.late_ack.is_some() || self.side.revoking.is_some() {
            return; // On its way out already.
        }
        if self.access == Access::None { self.give_up_copy() } else { self.revoke(Access::None) }
    }

    /// A read copy leaves by our own wish; the owner may take us off the copy set.
    fn give_up_copy(&mut self) {
        let Main::Sharer { counter, .. } = self.main else { return };
        let id = RequestId { node: self.me(), incarnation: self.place.incarnation, counter };
        let owner = self.seen.node;
        self.discard();
        if owner.is_somebody() && owner != self.me() {
            self.send(owner, Message::Flushed { id });
        }
    }

    /// The last local thread that waited has given up. Nothing else changes: an answer under way
    /// still makes this node a correct owner.
    pub fn cancel(&mut self) {
        if let Some(want) = self.side.want.take() {
            self.withdraw(want.id);
        }
    }

    /// An own request is over. The head of an upgrade whose acks are out may go too: the acks are still
    /// awaited.
    pub fn withdraw(&mut self, id: RequestId) {
        self.side.queue.retain(|request| request.id != id);
        self.parked.retain(|request| request.id != id);
    }

    /// The access asked back is back.
    pub fn revoked(&mut self, version: Version, has_value: bool) {
        let Some(revoking) = self.side.revoking.take() else {
            return self.fault("the home gave access back that nobody asked for");
        };
        if let Main::Owner { version: known, .. } = &mut self.main {
            *known = version;
            self.has_value = has_value;
        }
        match revoking {
            Revoking::Lower(to) => {
                self.access = self.access.min(to);
                self.look_after_replicas();
                if let Some(late) = self.side.late_ack.take() {
                    if mutated(Mutation::AckBeforeReadersLeave) { self.discard() } else { self.drop_copy(late) }
                } else if self.wants_flush() {
                    self.give_up_copy();
                } else {
                    self.read_own_copy_again();
                }
                self.serve();
            }
            Revoking::TryAsOwner(request) => {
                self.access = Access::None;
                self.look_after_replicas();
                self.ask_sharers(request);
            }
            Revoking::TryForNobody => {
                self.access = Access::None;
                self.look_after_replicas();
                self.serve();
            }
            Revoking::TryAsSharer { id, owner } => {
                self.access = Access::None;
                self.discard();
                self.send(owner, Message::TryAnswer { id, held: false });
            }
        }
    }

    /// No local thread writes: what was held back goes now. And a first value that nobody has put leaves this
    /// node with its replicas only.
    fn look_after_replicas(&mut self) {
        if self.place.set.replicas() > 0 {
            self.push_held();
            self.refill();
        }
    }

    /// The copy was asked back in an epoch that is over: it is valid, and whoever waits may read it.
    fn read_own_copy_again(&mut self) {
        let waits = self.side.want.is_some_and(|want| matches!(want.kind, RequestKind::Get { .. }));
        if waits && matches!(self.main, Main::Sharer { .. }) {
            self.side.want = None;
            self.grant(Access::Read, true);
        }
    }

    /// A local thread holds what a try_grab of another node wanted.
    pub fn held(&mut self) {
        match self.side.revoking.take() {
            Some(Revoking::TryAsOwner(request)) => {
                self.busy(request.id);
                self.push_held();
                self.serve();
            }
            Some(Revoking::TryAsSharer { id, owner }) => self.send(owner, Message::TryAnswer { id, held: true }),
            Some(Revoking::TryForNobody) => {
                self.push_held();
                self.serve();
            }
            _ => self.fault("the home refused what it was not free to refuse"),
        }
    }

    /// Drops the copy that an `Invalidate` struck, and acks.
    pub fn drop_copy(&mut self, late: LateAck) {
        if !mutated(Mutation::KeepInvalidatedCopy) {
            self.discard();
        }
        if late.remove {
            self.drop_replica(late.tenure);
        }
        let node = if late.remove { NodeId::NOBODY } else { late.owner };
        if late.tenure >= self.seen.tenure {
            self.seen = Seen { tenure: late.tenure, node };
        }
        self.send(late.owner, Message::Ack { tenure: late.tenure, version: late.version });
    }

    fn wants_flush(&self) -> bool {
        self.side.want.is_some_and(|want| matches!(want.kind, RequestKind::Flush { .. }))
    }

    /// A flush is done when nothing of the object is here that could still leave.
    pub fn finish_flush(&mut self) {
        let Some(want) = self.side.want else { return };
        let waits = match self.main {
            Main::Owner { .. } => self.side.queue.iter().any(|request| request.id == want.id),
            // A ghost of an epoch before is kept for as long as the home may need it, and is no copy that anybody
            // could use.
            Main::Ghost { sent, .. } => sent.epoch() == self.place.epoch(),
            Main::None => false,
            _ => true,
        };
        if self.wants_flush() && !waits {
            self.answer(Answer::Flushed);
        }
    }
}
