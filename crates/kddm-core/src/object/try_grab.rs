//! try_grab: ownership if nobody holds the object, else `Busy`, without a trace.

use crate::id::{NodeId, RequestId};
use crate::io::{Access, Output};
use crate::message::{Message, Request};
use crate::mutation::{Mutation, mutated};
use crate::object::state::{Asking, Main, Revoking, Turn};

impl Turn<'_> {
    /// At the owner: whatever would have to wait makes it busy.
    pub fn try_grab(&mut self, request: Request) {
        let side = &self.side;
        let waits = !side.queue.is_empty()
            || !side.owed.is_empty()
            || side.asking.is_some()
            || side.revoking.is_some()
            || side.pushing.is_some();
        if waits {
            return self.busy(request.id);
        }
        if request.id.node != self.me() && self.access != Access::None {
            self.side.revoking = Some(Revoking::TryAsOwner(request));
            return self.output(Output::TryRevoke { object: self.id });
        }
        self.ask_sharers(request);
    }

    pub fn busy(&mut self, id: RequestId) {
        self.send(id.node, Message::Busy { id });
    }

    /// No local thread holds it; now the sharers. They drop their copies only if nobody reads them.
    pub fn ask_sharers(&mut self, request: Request) {
        let Main::Owner { tenure, version, .. } = self.main else { return };
        let mut waiting = core::mem::take(&mut self.side.owed);
        for sharing in &self.side.sharers {
            if sharing.node != request.id.node && self.place.shares(sharing.node) {
                waiting.insert(sharing.node);
            }
        }
        if waiting.is_empty() {
            self.side.owed = waiting;
            return self.try_succeeded(request);
        }
        let id = request.id;
        for node in waiting.iter() {
            let message = Message::TryInvalidate { tenure, version, id };
            self.outputs.push(Output::Send {
                to: node,
                object: self.id,
                message,
                body: crate::io::Body::None,
                deferred: false,
            });
        }
        self.side.asking = Some(Asking { request, waiting, held: false });
    }

    /// A sharer has answered; all must have before anything else happens.
    pub fn try_answer(&mut self, from: NodeId, id: RequestId, held: bool) {
        let Some(asking) = &mut self.side.asking else { return self.dropped("nobody asked for this try answer") };
        if asking.request.id != id || !asking.waiting.remove(from) {
            return self.dropped("this try answer is not awaited");
        }
        asking.held |= held;
        let (done, request, any_held) = (asking.waiting.is_empty(), asking.request, asking.held);
        if !held {
            self.side.sharers.retain(|sharing| sharing.node != from);
        }
        if !done {
            return;
        }
        self.side.asking = None;
        if any_held && !mutated(Mutation::TryGrabHeld) {
            self.busy(request.id);
        } else {
            self.try_succeeded(request);
        }
        self.serve();
    }

    /// Nobody holds it: as a grab at the head of the queue.
    fn try_succeeded(&mut self, request: Request) {
        self.side.queue.push_front(request);
        self.serve();
    }

    /// At a sharer: give the copy up unless a local thread reads it.
    pub fn try_invalidate(&mut self, owner: NodeId, id: RequestId) {
        match self.main {
            Main::Sharer { .. } if self.side.late_ack.is_some() || self.side.revoking.is_some() => {
                self.send(owner, Message::TryAnswer { id, held: true });
            }
            Main::Sharer { .. } if self.access != Access::None && !mutated(Mutation::DropHeldCopy) => {
                self.side.revoking = Some(Revoking::TryAsSharer { id, owner });
                self.output(Output::TryRevoke { object: self.id });
            }
            Main::Sharer { .. } => {
                self.discard();
                self.send(owner, Message::TryAnswer { id, held: false });
            }
            _ => self.send(owner, Message::TryAnswer { id, held: false }),
        }
    }
}
