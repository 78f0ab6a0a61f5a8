//! A request on its way: where it waits, where it goes next.

use crate::id::{NodeId, RequestId, Tenure};
use crate::message::{FORWARDS_BEFORE_FIRST, Message, Request, RequestKind};
use crate::mutation::{Mutation, mutated};
use crate::object::state::{Main, Turn};

impl Turn<'_> {
    /// A request has arrived, of this node itself or of another.
    pub fn request(&mut self, request: Request) {
        if request.id.node == self.me() && !self.wants(request.id) {
            return; // Cancelled meanwhile: nobody waits for it any more.
        }
        if !self.place.is_served(request.id) {
            return; // Its node has left, or does not share any more: it waits for nothing.
        }
        if self.is_superseded(request.id) {
            return;
        }
        match self.main {
            Main::Owner { .. } => self.accept(request),
            Main::Tombstone { .. } => self.wait_for_the_end(request),
            _ => self.route(request),
        }
    }

    /// A node has one wish at a time for an object, so of its requests only the newest is still
    /// meant. Older ones leave, and no peer can make a queue longer than there are nodes.
    fn is_superseded(&mut self, id: RequestId) -> bool {
        let at_least = |waiting: &Request| waiting.id.node == id.node && waiting.id >= id;
        if self.side.queue.iter().any(at_least) || self.parked.iter().any(at_least) {
            return true;
        }
        self.side.queue.retain(|waiting| waiting.id.node != id.node);
        self.parked.retain(|waiting| waiting.id.node != id.node);
        false
    }

    /// The object is being removed: the request starts anew once it is. A try_grab waits for nothing.
    pub fn wait_for_the_end(&mut self, request: Request) {
        if matches!(request.kind, crate::message::RequestKind::TryGrab) {
            return self.busy(request.id);
        }
        if mutated(Mutation::LoseRequestAtRemoval) {
            return;
        }
        self.side.queue.push_back(request);
    }

    /// This node is not the owner: on along its own hint if that is newer than the one the request
    /// followed, else to the home. So every forward is caused by a new change of ownership.
    pub fn route(&mut self, mut request: Request) {
        let hint = self.seen;
        let is_newer = |tau| hint.tenure > tau || mutated(Mutation::ForwardByOlderHint);
        if request.to_home && !self.is_home() {
            // The shard has gone on. What the request has learnt on its way may come to the new home
            // later than the request itself, so it begins anew there; a new home that waits for its
            // shard only passes it on.
            if self.place.view_home != self.me() {
                request.tau = Tenure::NONE;
            }
            self.forward(self.place.home, request);
        } else if hint.node != self.me() && self.place.shares(hint.node) && is_newer(request.tau) {
            self.forward(hint.node, Request { tau: hint.tenure, to_home: false, ..request });
        } else if self.is_home() {
            self.ask_home(request);
        } else {
            self.forward(self.place.home, Request { to_home: true, ..request });
        }
    }

    /// Sends a request on, and remembers whom we asked if it is our own.
    pub fn forward(&mut self, to: NodeId, mut request: Request) {
        match &mut self.side.want {
            Some(want) if want.id == request.id => want.asked = to,
            _ => {
                request.forwards = request.forwards.saturating_add(1);
                request.first |= self.is_home() && request.forwards > FORWARDS_BEFORE_FIRST;
            }
        }
        self.send(to, Message::Request(request));
    }

    /// The owner takes a request into its queue: one that travelled behind the `Transfer` after the
    /// others that did, one that chased the object too long right behind those, any other last. An own
    /// remove comes first: a thread that holds the object may have decided on it, and nobody is to put
    /// a value in between that would go with it.
    pub fn accept(&mut self, request: Request) {
        if matches!(request.kind, crate::message::RequestKind::TryGrab) {
            return self.try_grab(request);
        }
        let own_remove = request.id.node == self.me() && matches!(request.kind, RequestKind::Remove);
        let at = if own_remove {
            0
        } else if request.inherited {
            self.side.queue.iter().take_while(|waiting| waiting.inherited).count()
        } else if request.first {
            self.side.queue.iter().take_while(|waiting| waiting.inherited || waiting.first).count()
        } else {
            self.side.queue.len()
        };
        // An own grab whose acks are out is being served: nothing goes ahead of it. Nor of an own remove that waits
        // for the replicas of what is there.
        let me = self.me();
        let removes = |head: &Request| head.id.node == me && matches!(head.kind, RequestKind::Remove);
        let is_first = self.side.queue.front().is_some_and(|head| removes(head) || !self.side.owed.is_empty());
        self.side.queue.insert(at.max(usize::from(is_first)), request);
        self.serve();
    }

    /// All that waits here goes to another node, in order.
    pub fn send_queue(&mut self, to: NodeId, tau: Tenure, inherited: bool) {
        let to_home = !inherited;
        while let Some(mut request) = self.side.queue.pop_front() {
            if matches!(request.kind, crate::message::RequestKind::Flush { .. }) {
                continue; // The copy leaves anyway: `finish_flush` answers.
            }
            request.tau = tau;
            request.inherited = inherited;
            request.first = false;
            request.to_home = to_home;
            self.forward(to, request);
        }
    }
}
