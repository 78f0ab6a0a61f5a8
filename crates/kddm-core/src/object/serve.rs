//! What an owner does with the head of its queue.

use crate::id::{NodeId, RequestId, Tenure};
use crate::io::{Access, Answer, Body};
use crate::message::{Message, Request, RequestKind};
use crate::mutation::{Mutation, mutated};
use crate::object::state::{Main, Seen, Sharing, Turn};

impl Turn<'_> {
    /// Serves waiting requests in order until one must wait: for local holders, for acks, or because
    /// the ownership left with it. An owner with acks outstanding serves nobody.
    pub fn serve(&mut self) {
        while let Main::Owner { .. } = self.main {
            let owes = !self.side.owed.is_empty() && !mutated(Mutation::ServeWithAcksOwed);
            let asks = self.side.asking.is_some() && !mutated(Mutation::ServeWhileAsking);
            let hides = self.side.pushing.is_some_and(|pushing| pushing.hides);
            if self.side.revoking.is_some() || owes || asks || hides {
                return;
            }
            let Some(head) = self.side.queue.front().copied() else { return };
            let own = head.id.node == self.me();
            let goes_on = match head.kind {
                _ if own && !self.wants(head.id) => self.pop(),
                _ if !self.place.is_served(head.id) => self.pop(),
                RequestKind::Flush { to } => self.serve_flush(to),
                RequestKind::Remove => self.serve_remove(head.id),
                RequestKind::Get { existing } | RequestKind::Grab { existing } if existing && !self.has_value => {
                    self.serve_absent(head.id)
                }
                RequestKind::Get { .. } if own => self.serve_own_get(),
                RequestKind::Get { .. } => self.serve_get(head.id),
                RequestKind::Grab { .. } | RequestKind::TryGrab if own => self.serve_own_grab(),
                RequestKind::Grab { .. } | RequestKind::TryGrab => self.serve_grab(head.id),
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Replicas are being made: until all have their copy the object stays where it is. An object that has
    /// fewer than it is to have gets them before it moves on, behind whoever looks for such objects.
    fn must_stay(&mut self) -> bool {
        if self.place.set.replicas() > 0 {
            self.refill();
        }
        self.side.pushing.is_some() && !mutated(Mutation::MoveUnsettled)
    }

    fn pop(&mut self) -> bool {
        self.side.queue.pop_front();
        true
    }

    /// Local threads use no more than `level`: true, or ask for it and go on when it is so.
    fn lowered_to(&mut self, level: Access) -> bool {
        if self.access > level {
            self.revoke(level);
            return false;
        }
        true
    }

    /// An *existing* request at an owner without a value. A first touch may be under way here: its
    /// outcome decides, so it is awaited.
    fn serve_absent(&mut self, id: RequestId) -> bool {
        if !self.knows_value() {
            return false;
        }
        if self.has_value {
            return true; // Looked at again, as a request for what exists.
        }
        if !self.lowered_to(Access::None) {
            return false;
        }
        self.pop();
        if id.node == self.me() {
            self.answer(Answer::NotFound);
        } else {
            self.send(id.node, Message::NotFound { id });
        }
        true
    }

    fn serve_own_get(&mut self) -> bool {
        self.pop();
        self.side.want = None;
        let shared = !self.side.sharers.is_empty() && !mutated(Mutation::WriteBesideCopies);
        let alone = !shared && self.side.queue.is_empty();
        let access = if alone || !self.has_value { Access::Write } else { Access::Read };
        self.grant(access.max(self.access), true);
        true
    }

    fn serve_own_grab(&mut self) -> bool {
        if !self.side.sharers.is_empty() {
            self.invalidate_sharers();
        }
        if !self.side.owed.is_empty() && !mutated(Mutation::WriteWithAcksOwed) {
            return false;
        }
        // Local readers leave first, so that a granted write can be taken at once.
        if self.access == Access::Read && !self.lowered_to(Access::None) {
            return false;
        }
        self.pop();
        self.side.want = None;
        self.grant(Access::Write, true);
        true
    }

    /// The owner upgrades: every sharer drops its copy and acks to this node.
    fn invalidate_sharers(&mut self) {
        let Main::Owner { tenure, version, .. } = self.main else { return };
        let owner = self.me();
        while let Some(sharing) = self.pop_sharer() {
            if mutated(Mutation::SkipInvalidation) {
                continue;
            }
            self.side.owed.insert(sharing.node);
            self.send(sharing.node, Message::Invalidate { tenure, version, owner, remove: false });
        }
    }

    /// The next sharer to be told. One that has left had given its copy back before.
    fn pop_sharer(&mut self) -> Option<Sharing> {
        loop {
            let sharing = self.side.sharers.pop()?;
            if self.place.shares(sharing.node) {
                return Some(sharing);
            }
        }
    }

    /// Whether the first touch of this node has succeeded is known once write access is back: then
    /// true. Local readers may stay, so that a get held here never keeps remote readers waiting.
    fn knows_value(&mut self) -> bool {
        (self.access == Access::Write && mutated(Mutation::DataUnderWriter)) || self.lowered_to(Access::Read)
    }

    fn serve_get(&mut self, id: RequestId) -> bool {
        if !self.knows_value() {
            return false;
        }
        if !self.has_value {
            return self.serve_grab(id); // The first touch runs where it is wanted.
        }
        let Main::Owner { tenure, version, .. } = self.main else { return false };
        self.pop();
        match self.side.sharers.iter_mut().find(|sharing| sharing.node == id.node) {
            Some(sharing) => sharing.counter = id.counter,
            None if mutated(Mutation::ForgetSharer) => {}
            None => self.side.sharers.push(Sharing { node: id.node, counter: id.counter }),
        }
        self.dispatch(id.node, Message::Data { tenure, version, id }, Body::Object, false);
        true
    }

    fn serve_grab(&mut self, id: RequestId) -> bool {
        let in_use = match self.access {
            Access::None => false,
            Access::Read => !mutated(Mutation::TransferUnderReaders),
            Access::Write => !mutated(Mutation::TransferUnderWriter),
        };
        if in_use && !self.lowered_to(Access::None) {
            return false;
        }
        if !self.has_value && self.head_is_existing() {
            return true; // Looked at again: there is still no value.
        }
        if self.must_stay() {
            return false;
        }
        self.pop();
        self.transfer(id.node, id);
        false
    }

    fn head_is_existing(&self) -> bool {
        let existing = |request: &Request| {
            matches!(request.kind, RequestKind::Get { existing: true } | RequestKind::Grab { existing: true })
        };
        self.side.queue.front().is_some_and(existing)
    }

    /// Ownership moves, in one step: bytes and copy set to the new owner, invalidations to all other
    /// sharers, who ack to the new owner, and the rest of the queue behind.
    pub fn transfer(&mut self, to: NodeId, id: RequestId) {
        let Main::Owner { tenure, version, born } = self.main else { return };
        let Some(next) = tenure.next(self.place.epoch()) else {
            return self.dropped("I3: the tenures of this object are used up");
        };
        let next = if mutated(Mutation::ReuseTenure) { tenure } else { next };
        let mut sharers = core::mem::take(&mut self.side.owed);
        for sharing in &self.side.sharers {
            if sharing.node != to && self.place.shares(sharing.node) && !mutated(Mutation::ForgetCopySet) {
                sharers.insert(sharing.node);
            }
        }
        if sharers.is_empty() {
            // An empty set needs no memory; this object's next one does.
            core::mem::swap(&mut sharers, &mut self.side.owed);
        }
        let has_value = self.has_value;
        let body = if has_value { Body::Object } else { Body::None };
        let replicas = self.replicas_after(to);
        let message = Message::Transfer { tenure: next, version, born, sharers, replicas, has_value, id };
        self.dispatch(to, message, body, false);
        while let Some(sharing) = self.pop_sharer() {
            if sharing.node != to {
                let message = Message::Invalidate { tenure: next, version, owner: to, remove: false };
                self.send(sharing.node, message);
            }
        }
        self.main = Main::Ghost { tenure, version, sent: next, to };
        self.seen = Seen { tenure: next, node: to };
        if self.side.queue.is_empty() || !mutated(Mutation::LeaveQueueBehind) {
            self.send_queue(to, next, true);
        }
    }

    fn serve_remove(&mut self, id: RequestId) -> bool {
        if !self.lowered_to(Access::None) || self.must_stay() {
            return false;
        }
        let Main::Owner { tenure, version, .. } = self.main else { return false };
        self.pop();
        let Some(tenure) = tenure.next(self.place.epoch()) else {
            self.dropped("I3: the tenures of this object are used up");
            return true;
        };
        let (owner, home) = (self.me(), self.place.home);
        self.discard();
        self.main = Main::Tombstone { tenure, requester: id };
        self.seen = Seen { tenure, node: NodeId::NOBODY };
        self.side.owed.insert(home);
        self.send(home, Message::Removing { tenure, forwarded: false });
        for node in core::mem::take(&mut self.replicas).iter().filter(|node| *node != home) {
            if self.side.owed.insert(node) {
                self.send(node, Message::Invalidate { tenure, version, owner, remove: true });
            }
        }
        while let Some(sharing) = self.pop_sharer() {
            if self.side.owed.insert(sharing.node) {
                self.send(sharing.node, Message::Invalidate { tenure, version, owner, remove: true });
            }
        }
        false
    }

    /// The last ack of a removal is in: the home opens, the requester hears, the others start anew.
    pub fn finish_remove(&mut self) {
        let Main::Tombstone { tenure, requester } = self.main else { return };
        if !self.side.owed.is_empty() && !mutated(Mutation::RemoveWithoutAcks) {
            return;
        }
        self.main = Main::None;
        let home = self.place.home;
        self.send(home, Message::Removed { tenure });
        self.send(requester.node, Message::RemoveDone { id: requester });
        self.send_queue(home, Tenure::NONE, false);
    }

    fn serve_flush(&mut self, to: NodeId) -> bool {
        if !self.lowered_to(Access::None) || self.must_stay() {
            return false;
        }
        let to = self.place_to_flush_to(to);
        self.pop();
        if to == self.me() {
            self.answer(Answer::Flushed); // The only copy, and it is at its home: it stays.
            return true;
        }
        self.transfer(to, RequestId::default());
        false
    }

    /// Where the last copy goes: as asked, else to the lowest sharer that is to stay, else to the home.
    fn place_to_flush_to(&self, wanted: NodeId) -> NodeId {
        if self.place.shares(wanted) {
            return wanted;
        }
        let is_to_stay = |node: NodeId| self.place.is_a_home(node) || mutated(Mutation::FlushToLeaving);
        let stays = |node: &NodeId| *node != self.place.me && is_to_stay(*node);
        let sharer = self.side.sharers.iter().map(|sharing| sharing.node).filter(stays).min();
        sharer.unwrap_or(self.place.view_home)
    }
}
