//! Local threads and one object: who waits here, in which order, and what the core was asked.
//! The simulator's agent does the same over modelled values.

use std::collections::VecDeque;
use std::sync::Arc;

use kddm_core::io::Access;
use kddm_core::message::RequestKind;

use crate::runtime::overdue::HeldUp;
use crate::runtime::replicas::Putting;
use crate::runtime::wait::Op;

/// What a local thread wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// As the core's request; a get or grab ends with a hold if somebody waits for it.
    Request(RequestKind),
    /// Make a copy local and hold nothing.
    Fetch,
    /// Make ownership local and hold nothing.
    Acquire,
    /// As `Fetch`, of an object that exists: whether it does, or is lost.
    Look,
}

impl Wish {
    /// What the core is asked for.
    pub fn kind(self) -> RequestKind {
        match self {
            Wish::Request(kind) => kind,
            Wish::Fetch => RequestKind::Get { existing: false },
            Wish::Look => RequestKind::Get { existing: true },
            Wish::Acquire => RequestKind::Grab { existing: false },
        }
    }

    /// The access that satisfies it, for those that are satisfied by access.
    pub fn level(self) -> Option<Access> {
        match self.kind() {
            RequestKind::Get { .. } => Some(Access::Read),
            RequestKind::Grab { .. } | RequestKind::TryGrab => Some(Access::Write),
            RequestKind::Remove | RequestKind::Flush { .. } => None,
        }
    }

    pub fn is_existing(self) -> bool {
        matches!(self.kind(), RequestKind::Get { existing: true } | RequestKind::Grab { existing: true })
    }

    /// The same, but an object that does not exist is created: what stands behind the set says whether it does.
    pub fn creating(self) -> Wish {
        match self {
            Wish::Request(RequestKind::Get { .. }) => Wish::Request(RequestKind::Get { existing: false }),
            Wish::Request(RequestKind::Grab { .. }) => Wish::Request(RequestKind::Grab { existing: false }),
            other => other,
        }
    }

    /// Whoever waits for it does not hold the object then.
    pub fn holds_nothing(self) -> bool {
        matches!(self, Wish::Fetch | Wish::Acquire | Wish::Look)
    }

    pub fn is_try(self) -> bool {
        self.kind() == RequestKind::TryGrab
    }
}

/// Who waits.
#[derive(Clone)]
pub(crate) enum Asker {
    /// A thread or task of this process.
    Thread(Arc<Op>),
    /// A program that is attached to this node: its session, and its number for the wish.
    Program(u32, u64),
}

impl Asker {
    /// Whether somebody really waits: a grant may be handed over as a hold. What a program is granted
    /// it is lent, and asked back when others want it.
    pub fn is_claimed(&self) -> bool {
        match self {
            Asker::Thread(op) => op.is_claimed(),
            Asker::Program(..) => true,
        }
    }

    /// Whether nobody will take what is granted.
    pub fn is_left(&self) -> bool {
        matches!(self, Asker::Thread(op) if op.is_left())
    }

    /// The session of a program.
    pub fn session(&self) -> Option<u32> {
        match self {
            Asker::Thread(_) => None,
            Asker::Program(session, _) => Some(*session),
        }
    }

    pub fn is(&self, op: &Arc<Op>) -> bool {
        matches!(self, Asker::Thread(own) if Arc::ptr_eq(own, op))
    }
}

/// Somebody who waits here.
pub(crate) struct Waiter {
    pub wish: Wish,
    pub asker: Asker,
}

/// An object for which somebody waits here, or whose access is being taken back.
#[derive(Default)]
pub(crate) struct Local {
    pub waiters: VecDeque<Waiter>,
    /// The core has been asked, for the first waiter, and has not answered.
    pub outstanding: bool,
    /// The core wants access back to this level, and a local thread still uses more.
    pub revoking: Option<Access>,
    /// Local holders are in the way of the first waiter, or of the core.
    pub held_up: Option<HeldUp>,
    /// It wants all access back if that can be had at once.
    pub is_trying: bool,
    /// It has to be told that nobody waits for what it was asked for.
    pub is_cancelling: bool,
    /// A put waits for its replicas.
    pub putting: Option<Putting>,
    /// How often a loss was accepted for those who wait here.
    pub accepted: u8,
    /// It could not be told something for lack of memory: it is told nothing else meanwhile.
    pub waits_for_memory: bool,
}

impl Local {
    pub fn is_idle(&self) -> bool {
        let owes_nothing = self.revoking.is_none() && !self.is_trying && !self.waits_for_memory;
        self.waiters.is_empty() && !self.outstanding && owes_nothing && self.putting.is_none()
    }
}
