//! The boundary of the core on one screen: what goes in, what comes out.
//!
//! The core moves no data and holds none. It tells its home *which* bytes go where, and *who* may
//! touch them; the home (user-space runtime, simulator, kernel module) has the bytes and does it,
//! in the order of the outputs, before it hands in the next input.

use alloc::vec::Vec;

use crate::id::{NodeId, ObjectId, Version};
use crate::message::{Message, RequestKind};

/// Memory was refused; the operation changed nothing and may be tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;

/// What the local threads of this node may do with an object. Levels: each includes those before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Access {
    /// Nothing.
    #[default]
    None,
    /// Read the copy that is here.
    Read,
    /// Read it and change it; no other node has access.
    Write,
}

/// What happened at home, for one object of a shard.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    /// Local threads want something that the granted access does not allow. At most one such
    /// wish is outstanding for each object: it ends with [`Output::Granted`], [`Output::Answer`]
    /// or [`Input::Cancel`].
    Want {
        /// What is asked for.
        kind: RequestKind,
    },
    /// A wish to remove, and with it, unasked, all access to what this node owns: no local thread uses it. As `Want`, whatever
    /// it says, where this node does not own it, or access is being asked back already: that is to be answered still.
    RemoveUnused {
        /// The newest version that local threads have put.
        version: Version,
        /// Whether the object has a value.
        has_value: bool,
    },
    /// The last local thread that waited for the outstanding wish gave up.
    Cancel,
    /// The answer to [`Output::Revoke`]: no local thread uses more than the level asked for.
    Revoked {
        /// The newest version that local threads have put.
        version: Version,
        /// Whether the object has a value (a first touch may have failed or been cancelled).
        has_value: bool,
    },
    /// The answer to [`Output::TryRevoke`] when a local thread holds the object: nothing changed.
    Held,
    /// A local thread has put a new version, or made the first one, in a set with replicas. It still holds
    /// the object, and goes on with [`Output::PutDone`].
    Put {
        /// The version it made.
        version: Version,
    },
    /// Whoever is responsible accepts that the object is gone: if it is lost it has never existed from now on.
    AcceptLoss,
    /// A message of another node has arrived, in the order in which that node sent it.
    Message {
        /// The sender.
        from: NodeId,
        /// What it says. Its body, if it has one, stays with the home.
        message: Message,
    },
}

/// What an outgoing message carries besides its fields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Body {
    /// Nothing.
    None,
    /// The bytes of this object as they are at this moment.
    Object,
}

/// Why a wish ended without access.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// `get_existing`, `grab_existing`: the object does not exist.
    NotFound,
    /// `try_grab`: somebody holds the object.
    Busy,
    /// `remove`: no node holds the object any more.
    Removed,
    /// `flush`: this node holds no copy any more, or the only one and there is nowhere to move it.
    Flushed,
    /// The newest version cannot be proven present (`I5`).
    Lost,
    /// A removal that a lost member has cut short: it may have been done, or not.
    Unknown,
}

/// What the home must do, in this order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Output {
    /// Send a message. All messages from here to one node arrive in the order of these outputs.
    Send {
        /// The receiver; never this node.
        to: NodeId,
        /// The object concerned.
        object: ObjectId,
        /// What to say.
        message: Message,
        /// Which bytes go with it.
        body: Body,
        /// May wait for the next message to that node, for at most [`DEFERRED_NS`].
        deferred: bool,
    },
    /// Take the body of the message just handed in as this object's bytes, of that version. A home
    /// that has a value of just that version keeps it: local threads may be reading it.
    Install {
        /// The object concerned.
        object: ObjectId,
        /// The version of those bytes.
        version: Version,
        /// Whether there are bytes: an object whose first touch failed travels without.
        has_value: bool,
    },
    /// Local threads may now use the object up to `access`; whoever waits for it gets it *before*
    /// the next output is looked at.
    Granted {
        /// The object concerned.
        object: ObjectId,
        /// Read or Write.
        access: Access,
        /// The object has no value yet: the thread that gets it first makes one (first touch).
        needs_value: bool,
        /// The outstanding wish is answered by this.
        answers: bool,
    },
    /// Take access back down to `to` and answer with [`Input::Revoked`] as soon as no local thread
    /// uses more. New users beyond `to` wait from now on.
    Revoke {
        /// The object concerned.
        object: ObjectId,
        /// The level that remains.
        to: Access,
    },
    /// As `Revoke` to nothing, but answer at once: `Revoked`, or `Held` and leave all as it was.
    TryRevoke {
        /// The object concerned.
        object: ObjectId,
    },
    /// The outstanding wish ends without access.
    Answer {
        /// The object concerned.
        object: ObjectId,
        /// Why.
        answer: Answer,
    },
    /// That version has its replicas: the thread that has put it may go on.
    PutDone {
        /// The object concerned.
        object: ObjectId,
        /// The version that was put.
        version: Version,
    },
    /// Keep the body of the message just handed in as this node's replica, beside whatever else is here.
    StoreReplica {
        /// The object concerned.
        object: ObjectId,
    },
    /// Keep a copy of this object's bytes, as they are, as this node's replica.
    KeepReplica {
        /// The object concerned.
        object: ObjectId,
    },
    /// Free the replica.
    DropReplica {
        /// The object concerned.
        object: ObjectId,
    },
    /// Take the replica as this object's bytes, of that version, as `Install` would.
    UseReplica {
        /// The object concerned.
        object: ObjectId,
        /// Their version.
        version: Version,
    },
    /// Take the bytes of a candidate of that question as this object's bytes, of that version: what this node had
    /// in a former life is the newest. Local threads may read it now; none waits for it. All other candidates of
    /// the question are of no more use once it is answered.
    UseCopy {
        /// The object concerned.
        object: ObjectId,
        /// Their version.
        version: Version,
        /// The number of the question, see [`Node::revalidate`](crate::node::Node::revalidate).
        question: u64,
    },
    /// The newest version of this object is lost, and the home has had an older one take its place, or one of which
    /// nobody can tell: the set is to be so ([`SetId::rolls_back`](crate::id::SetId::rolls_back)). Tell whoever watches.
    RolledBack {
        /// The object concerned.
        object: ObjectId,
    },
    /// The bytes of this object are of no more use to the protocol: free them.
    Discard {
        /// The object concerned.
        object: ObjectId,
    },
    /// A peer's message could not be meant: it was dropped and changed nothing. Count it.
    Dropped {
        /// The object concerned.
        object: ObjectId,
        /// What was wrong with it.
        what: &'static str,
    },
    /// Something happened that only a bug can cause: fence the node and say so. The text names the
    /// broken invariant.
    Fault {
        /// The object concerned.
        object: ObjectId,
        /// What is broken.
        what: &'static str,
    },
}

impl Output {
    /// The object concerned.
    pub fn object(&self) -> ObjectId {
        match *self {
            Output::Send { object, .. }
            | Output::Install { object, .. }
            | Output::Granted { object, .. }
            | Output::Revoke { object, .. }
            | Output::TryRevoke { object }
            | Output::Answer { object, .. }
            | Output::PutDone { object, .. }
            | Output::StoreReplica { object }
            | Output::KeepReplica { object }
            | Output::DropReplica { object }
            | Output::UseReplica { object, .. }
            | Output::UseCopy { object, .. }
            | Output::RolledBack { object }
            | Output::Discard { object }
            | Output::Dropped { object, .. }
            | Output::Fault { object, .. } => object,
        }
    }
}

/// How long a deferred message may wait for company: 1 ms.
pub const DEFERRED_NS: u64 = 1_000_000;

/// The outputs of one input, in order. Reserved before any state changes, so that a refused
/// allocation leaves everything as it was.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outputs(Vec<Output>);

impl Outputs {
    /// No outputs, no memory.
    pub const fn new() -> Outputs {
        Outputs(Vec::new())
    }

    /// Makes room for `more` outputs.
    pub fn reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        self.0.try_reserve(more).map_err(|_| NoMemory)
    }

    pub(crate) fn push(&mut self, output: Output) {
        self.0.push(output);
    }

    /// Takes the outputs out, first one first, and keeps the memory.
    pub fn drain(&mut self) -> impl Iterator<Item = Output> + '_ {
        self.0.drain(..)
    }

    /// The outputs so far.
    pub fn as_slice(&self) -> &[Output] {
        &self.0
    }

    /// Whether all has been taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
