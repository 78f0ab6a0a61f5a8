//! One object in a new epoch: what is forgotten, what is sent again, what the home hears.

use crate::id::{NodeId, Tenure, Version};
use crate::io::Answer;
use crate::message::{Message, Request, RequestKind};
use crate::mutation::{Mutation, mutated};
use crate::object::state::{Main, Revoking, Turn, Want};

impl Turn<'_> {
    /// Members are lost. Whatever was under way between any two nodes may be lost with them, so all of it
    /// is forgotten, and what this node still waits for is asked for again.
    pub fn enter(&mut self) {
        self.forget_what_was_under_way();
        self.forget_the_lost();
        match self.main {
            Main::Owner { .. } => self.enter_as_owner(),
            Main::Ghost { tenure, version, sent, to } if !self.is_member(to) => {
                // Never a target again, also if a later life of it has its number.
                self.main = Main::Ghost { tenure, version, sent, to: NodeId::NOBODY };
            }
            Main::Tombstone { tenure, .. } => self.enter_as_tombstone(tenure),
            _ => {}
        }
        self.ask_again();
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.place.still_talks(node)
    }

    fn forget_what_was_under_way(&mut self) {
        let me = self.me();
        self.side.early.clear();
        self.side.early_tenure = Tenure::NONE;
        self.side.queue.retain(|request| request.id.node == me || mutated(Mutation::KeepForeignQueue));
        self.parked.clear();
        // Nobody waits for the ack: the copy is valid again.
        if !mutated(Mutation::TrustDeferredAck) {
            self.side.late_ack = None;
        }
        self.side.asking = None;
        if matches!(self.side.revoking, Some(Revoking::TryAsOwner(_) | Revoking::TryAsSharer { .. })) {
            self.side.revoking = Some(Revoking::TryForNobody);
        }
    }

    fn forget_the_lost(&mut self) {
        let place = self.place;
        let shares = |node| place.shares(node) && place.still_talks(node);
        self.side.sharers.retain(|sharing| shares(sharing.node));
        self.side.owed.retain(shares);
        // One that shares nothing any more may still have its copy.
        self.replicas.retain(|node| place.still_talks(node));
        if let Some(pushing) = &mut self.side.pushing {
            pushing.leaving.retain(|node| place.still_talks(node));
            pushing.is_dropping = false; // That may be lost, too.
        }
    }

    /// Its own Invalidates and Pushes may be lost; and a replica may have been.
    fn enter_as_owner(&mut self) {
        let Main::Owner { tenure, version, .. } = self.main else { return };
        let owner = self.me();
        let owed = core::mem::take(&mut self.side.owed);
        for node in owed.iter().filter(|_| !mutated(Mutation::ForgetToAskAgain)) {
            self.send(node, Message::Invalidate { tenure, version, owner, remove: false });
        }
        self.side.owed = owed;
        if !self.has_value {
            return;
        }
        match self.side.pushing {
            Some(mut pushing) => {
                self.change_replicas(&mut pushing);
                self.push(self.replicas, pushing);
            }
            None => self.refill(),
        }
    }

    fn enter_as_tombstone(&mut self, tenure: Tenure) {
        let owner = self.me();
        let home = self.place.home;
        let mut owed = core::mem::take(&mut self.side.owed);
        owed.insert(home);
        for node in owed.iter().filter(|node| *node != home) {
            self.send(node, Message::Invalidate { tenure, version: Version(0), owner, remove: true });
        }
        self.side.owed = owed;
        self.send(home, Message::Removing { tenure, forwarded: false });
    }

    /// What local threads wait for goes to the home, with the same number.
    fn ask_again(&mut self) {
        let me = self.me();
        let Some(Want { kind, id, asked }) = &mut self.side.want else { return };
        let (kind, id) = (*kind, *id);
        if self.place.home == me {
            *asked = me; // Whom it was sent to may be lost.
        }
        match kind {
            RequestKind::TryGrab => {
                self.withdraw(id);
                self.answer(Answer::Busy);
            }
            // It may be done already, and is never done twice.
            RequestKind::Remove if !mutated(Mutation::RemoveAgain) => {
                self.withdraw(id);
                self.answer(Answer::Unknown);
            }
            RequestKind::Flush { .. } => {}
            _ if matches!(self.main, Main::Owner { .. } | Main::Tombstone { .. }) => {}
            // It reads its own copy as soon as the access is back that somebody had asked for.
            RequestKind::Get { .. } if matches!(self.main, Main::Sharer { .. }) && self.side.revoking.is_some() => {}
            _ => {
                let (tau, forwards) = (Tenure::NONE, 0);
                let request = Request { id, kind, tau, forwards, inherited: false, first: false, to_home: true };
                if self.is_home() { self.ask_home(request) } else { self.forward(self.place.home, request) }
            }
        }
    }
}
