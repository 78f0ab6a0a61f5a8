//! What can go wrong, in nine families, and what became of the object each time.

mod configuration;
mod waiting;

use std::fmt;

pub use configuration::ConfigurationError;
pub use waiting::WaitingFor;

use crate::coordination::CoordinationError;
use crate::freeze::FreezeError;
use crate::invoke::InvokeError;
use crate::linker::LinkerError;
use crate::rpc::RpcError;

/// What an operation that ended with an error has done to the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Nothing: it is as it was before the call.
    NothingHappened,
    /// The change is in force; only the answer went wrong.
    Happened,
    /// Not known here: look again before you repeat it.
    Unknown,
}

/// The one error of this library.
///
/// ```
/// let error = kddm::Error::from(kddm::AccessError::NotFound);
/// assert_eq!(error.fate(), kddm::Fate::NothingHappened);
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Getting, grabbing or putting one object.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Opening, finding or destroying a set.
    #[error(transparent)]
    Set(#[from] SetError),
    /// Joining, being a member, leaving.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// What the caller asked for cannot be, whatever the cluster does.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// Waiting for others at a barrier or latch, or for an id.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// Calling another node.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// Having the owner of an object run an operation.
    #[error(transparent)]
    Invoke(#[from] InvokeError),
    /// Reading or writing what stands behind a set.
    #[error(transparent)]
    Linker(#[from] LinkerError),
    /// Freezing a set.
    #[error(transparent)]
    Freeze(#[from] FreezeError),
}

impl Error {
    /// What became of the object.
    pub fn fate(&self) -> Fate {
        match self {
            Error::Access(AccessError::RemoveUnconfirmed { .. }) => Fate::Unknown,
            Error::Access(AccessError::PutUnconfirmed { .. } | AccessError::CutShort) => Fate::Unknown,
            Error::Set(SetError::DestroyUnconfirmed { .. } | SetError::AcceptanceUnconfirmed { .. }) => Fate::Unknown,
            Error::Membership(MembershipError::Detached) => Fate::Unknown,
            Error::Rpc(error) => error.fate(),
            Error::Invoke(error) => error.fate(),
            Error::Linker(error) => error.fate(),
            _ => Fate::NothingHappened,
        }
    }

    /// A stable number for bindings: families in hundreds.
    pub fn code(&self) -> u16 {
        match self {
            Error::Access(error) => 100 + error.number(),
            Error::Set(error) => 200 + error.number(),
            Error::Membership(error) => 300 + error.number(),
            Error::Configuration(error) => 400 + error.number(),
            Error::Rpc(error) => 500 + error.number(),
            Error::Coordination(error) => 600 + error.number(),
            Error::Invoke(error) => 700 + error.number(),
            Error::Linker(error) => 800 + error.number(),
            Error::Freeze(error) => 900 + error.number(),
        }
    }
}

/// Why one object could not be had. The object is as it was, unless a variant says otherwise.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// An *existing* operation on an object that does not exist. Nothing was created.
    #[error("the object does not exist")]
    NotFound,
    /// `try_grab` of an object that somebody holds. It left no trace.
    #[error("somebody holds the object")]
    Busy,
    /// The limit of this wait is over. The object stays where it is; a grant that still arrives is
    /// kept by this node and held by nobody.
    #[error("no access after {limit_ms} ms; {waiting_for}")]
    TimedOut {
        /// The limit that was in force.
        limit_ms: u64,
        /// Who was waited for, as far as this node knows.
        waiting_for: WaitingFor,
    },
    /// As `TimedOut`, and the node that was waited for cannot be reached. A wait for one that is expelled before
    /// that goes on by itself, with whoever has what it had.
    #[error("no access after {limit_ms} ms: node {node} is unreachable{why}")]
    Unreachable {
        /// The node that does not answer.
        node: u16,
        /// The limit that was in force; zero if nothing was waited for.
        limit_ms: u64,
        /// What is known of it.
        why: WhyUnreachable,
    },
    /// A remove was under way when its limit ended: it may still take effect.
    #[error("the remove was not confirmed within {limit_ms} ms and may still happen; {waiting_for}")]
    RemoveUnconfirmed {
        /// The limit that was in force.
        limit_ms: u64,
        /// Who was waited for, as far as this node knows.
        waiting_for: WaitingFor,
    },
    /// The daemon that this program is attached to had not taken a put when its limit ended, or a replica had
    /// not: it may still take effect.
    #[error("the put was not confirmed within {limit_ms} ms; it may still happen")]
    PutUnconfirmed {
        /// The limit that was in force.
        limit_ms: u64,
    },
    /// A member failed, or this node lost its lease, while an object was put or removed.
    #[error("it was cut short when a member failed or this node lost its lease; it may have happened, or not")]
    CutShort,
    /// This thread holds the object already in a way that excludes what it asked for. A guard that it has
    /// passed on to another thread counts as its own: use a [`Holder`](crate::Holder) for such.
    #[error("this thread already holds object {object} ({hold}); put that guard back first")]
    HeldByThisThread {
        /// The object.
        object: u64,
        /// "read" or "write".
        hold: &'static str,
    },
    /// This holder holds the object already in a way that excludes what it asked for.
    #[error("holder {holder} already holds object {object} ({hold}); put that guard back first")]
    HeldByThisHolder {
        /// The name of the holder.
        holder: String,
        /// The object.
        object: u64,
        /// "read" or "write".
        hold: &'static str,
    },
    /// The bytes of the object do not decode as the set's type. They stay as they are.
    #[error("the value does not decode as {type_name}: {reason}")]
    Decode {
        /// The Rust type of the set here.
        type_name: &'static str,
        /// What the codec says.
        reason: String,
    },
    /// The new value cannot be encoded; the old one stays.
    #[error("the value does not encode: {reason}")]
    Encode {
        /// What the codec says.
        reason: String,
    },
    /// The new value is larger than the limit; the old one stays.
    #[error("the value has {bytes} bytes, the limit is {limit_bytes}; raise `object_limit_bytes`, or split it")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// The limit of this node.
        limit_bytes: usize,
    },
    /// Too much is outstanding here: nothing was sent. Wait for some of it, then try again.
    #[error("{outstanding} requests are outstanding on this node, the limit is {limit}; wait for some of them first")]
    Overloaded {
        /// Requests that wait for an answer.
        outstanding: usize,
        /// The limit.
        limit: usize,
    },
    /// The node that would be asked takes nothing any more: nothing was sent.
    #[error("node {node} has yet to take {bytes} bytes from this node, the limit is {limit_bytes}; is it alive?")]
    PeerFull {
        /// The node.
        node: u16,
        /// What waits for it here.
        bytes: usize,
        /// From where on more is refused.
        limit_bytes: usize,
    },
    /// `wait()` where waiting would stop the node itself.
    #[error("waiting here would block the node; use `.await` or another thread")]
    WouldBlock,
    /// Its newest version cannot be proven present: its only copies may have gone with lost members. It stays so until
    /// a member comes back that has it, or somebody accepts that it is gone: [`Node::accept_loss`](crate::Node::accept_loss).
    #[error(
        "object {object} of set {set:?} is lost: its newest version cannot be proven present; to go on without it, \
         accept that: `kddmadm object accept-loss {set} {object} --yes`"
    )]
    Lost {
        /// The name of the set; its number after `#`, if this node has not opened it.
        set: String,
        /// The object.
        object: u64,
    },
    /// Its loss was to be accepted, and it is there, or nobody has made it yet. It is as it was.
    #[error("object {object} of set {set:?} is not lost, so there is nothing to accept; nothing was changed")]
    NotLost {
        /// The name of the set.
        set: String,
        /// The object.
        object: u64,
    },
    /// This node may not use what it holds any more.
    #[error("this node has lost its membership; nothing was changed")]
    Fenced,
    /// The object did not change while it was waited for.
    #[error("nobody has changed the object within {limit_ms} ms")]
    Unchanged {
        /// The limit that was in force.
        limit_ms: u64,
    },
    /// Twice the budget of the set is on this node, and nothing of it can go: it is held, lent to programs, or not kept
    /// behind the set yet. Nothing was sent.
    #[error("set {set:?} has {bytes} bytes here, its budget is {limit_bytes}, and none can go; let go of some guards")]
    OverBudget {
        /// The name of the set.
        set: String,
        /// What is here.
        bytes: usize,
        /// Its [budget](crate::SetBuilder::memory_budget).
        limit_bytes: usize,
    },
    /// A `get_many` or `grab_many` named one object twice.
    #[error("object {object} is named twice")]
    NamedTwice {
        /// The object.
        object: u64,
    },
}

/// What is known of a node that cannot be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WhyUnreachable {
    /// It is not connected, or says nothing.
    Silent,
    /// The guardian of its host says that its process has ended.
    ProcessEnded,
}

impl fmt::Display for WhyUnreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyUnreachable::Silent => Ok(()),
            WhyUnreachable::ProcessEnded => f.write_str(", its process has ended"),
        }
    }
}

impl AccessError {
    fn number(&self) -> u16 {
        match self {
            AccessError::NotFound => 1,
            AccessError::Busy => 2,
            AccessError::TimedOut { .. } => 3,
            AccessError::Unreachable { .. } => 4,
            AccessError::RemoveUnconfirmed { .. } => 5,
            AccessError::HeldByThisThread { .. } => 6,
            AccessError::Decode { .. } => 7,
            AccessError::Encode { .. } => 8,
            AccessError::TooLarge { .. } => 9,
            AccessError::Overloaded { .. } => 10,
            AccessError::WouldBlock => 11,
            AccessError::Lost { .. } => 12,
            AccessError::Fenced => 13,
            AccessError::NamedTwice { .. } => 14,
            AccessError::PeerFull { .. } => 15,
            AccessError::HeldByThisHolder { .. } => 16,
            AccessError::PutUnconfirmed { .. } => 17,
            AccessError::CutShort => 18,
            AccessError::NotLost { .. } => 19,
            AccessError::Unchanged { .. } => 20,
            AccessError::OverBudget { .. } => 21,
        }
    }
}

/// Why a set could not be had.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetError {
    /// No set of that name exists. Nothing was created.
    #[error("there is no set {name:?}; create it with `node.set({name:?}).open()`")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The set exists with another setting. Nothing was changed.
    #[error("set {name:?} has {setting} {has}, not {wanted}")]
    SettingsDiffer {
        /// The set.
        name: String,
        /// Which setting.
        setting: &'static str,
        /// What it has.
        has: String,
        /// What was asked for.
        wanted: String,
    },
    /// The set has been destroyed; its objects do not exist any more.
    #[error("the set has been destroyed")]
    Destroyed,
    /// Not every node has confirmed the destroy: the set refuses new operations already.
    #[error(
        "node {node} has not confirmed the destroy of {name:?}: {reason}; the set is ending, destroy it again when that node \
         answers, or is expelled"
    )]
    DestroyUnconfirmed {
        /// The set.
        name: String,
        /// Who is missing.
        node: u16,
        /// Why.
        reason: String,
    },
    /// The losses of a set were to be accepted, and no members were lost with more than it survives.
    #[error("nothing of set {name:?} is lost, so there is nothing to accept; nothing was changed")]
    NothingLost {
        /// The set.
        name: String,
    },
    /// Not every node has confirmed that it gave up what was lost. Those that did have; accept it again.
    #[error("node {node} has not confirmed that what is lost of {name:?} is accepted: {reason}; accept it again")]
    AcceptanceUnconfirmed {
        /// The set.
        name: String,
        /// Who is missing.
        node: u16,
        /// Why.
        reason: String,
    },
    /// Members were lost with directories of a set, and more of them than it survives: of so many of its 1,024 shards nobody
    /// can say any more which objects they had. What was found is there.
    #[error(
        "what {shards} of the 1,024 shards of set {name:?} had was lost with members; to go on without it, accept that: \
         `kddmadm sets accept-loss {name} --yes`"
    )]
    InDoubt {
        /// The set.
        name: String,
        /// How many shards.
        shards: u64,
    },
    /// A name is 1 to 64 bytes, with `/` between name spaces.
    #[error("a set's name has 1 to 64 bytes and no empty part between slashes, {name:?} has not")]
    BadName {
        /// The name.
        name: String,
    },
}

impl SetError {
    fn number(&self) -> u16 {
        match self {
            SetError::Unknown { .. } => 1,
            SetError::SettingsDiffer { .. } => 2,
            SetError::Destroyed => 3,
            SetError::DestroyUnconfirmed { .. } => 4,
            SetError::BadName { .. } => 5,
            SetError::NothingLost { .. } => 6,
            SetError::AcceptanceUnconfirmed { .. } => 7,
            SetError::InDoubt { .. } => 8,
        }
    }
}

/// Why this node is not, or not any more, a member.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// Nobody could be contacted.
    #[error("no contact answered: {reason}")]
    NoContact {
        /// What each contact said.
        reason: String,
    },
    /// The cluster refused this node.
    #[error("the cluster refused this node: {reason}")]
    Refused {
        /// Its reason.
        reason: String,
    },
    /// The members could not all be reached in time.
    #[error("not a full member after {limit_ms} ms: {reason}")]
    JoinTimedOut {
        /// The limit.
        limit_ms: u64,
        /// What is missing.
        reason: String,
    },
    /// The node has been stopped.
    #[error("the node has been stopped")]
    Stopped,
    /// No daemon could be attached to.
    #[error("cannot attach to the daemon at {socket}: {reason}")]
    NotAttached {
        /// Its socket.
        socket: String,
        /// Why, and what to do.
        reason: String,
    },
    /// This program is attached to a daemon, whose business that is.
    #[error("a program that is attached to a daemon cannot {what}; {instead}")]
    Attached {
        /// What was asked for.
        what: &'static str,
        /// How it is done.
        instead: &'static str,
    },
    /// The daemon that this program was attached to has ended the connection, or is gone: that of a guard, of
    /// an operation under way, or for good. A put that was under way may have happened.
    #[error("the daemon that this program was attached to has stopped or is gone; attach again once it is back")]
    Detached,
    /// The daemon that this program is attached to is gone, or is starting again. The program attaches again
    /// by itself, for some minutes: nothing was begun, and may be tried again.
    #[error("the daemon is gone or starts again, and this program attaches again as soon as it can: try again then")]
    Reattaching,
    /// The daemon that this program is attached to has refused what was asked for, or has not answered.
    #[error("the daemon does not serve this program: {reason}")]
    Unserved {
        /// Its reason.
        reason: String,
    },
    /// The node shares no objects now: it has not become possible yet, or was told to stop sharing.
    #[error("node {node} does not share objects now: start it with `kddmadm cluster start -n {node}`, or use another")]
    NotSharing {
        /// The node.
        node: u16,
    },
    /// What a node holds could not be handed over in time. It shares objects as before.
    #[error("not all could be handed over within {limit_ms} ms: {missing}")]
    DrainTimedOut {
        /// The limit.
        limit_ms: u64,
        /// What is missing.
        missing: String,
    },
}

impl MembershipError {
    fn number(&self) -> u16 {
        match self {
            MembershipError::NoContact { .. } => 1,
            MembershipError::Refused { .. } => 2,
            MembershipError::JoinTimedOut { .. } => 3,
            MembershipError::Stopped => 4,
            MembershipError::NotSharing { .. } => 5,
            MembershipError::DrainTimedOut { .. } => 6,
            MembershipError::NotAttached { .. } => 7,
            MembershipError::Attached { .. } => 8,
            MembershipError::Detached => 9,
            MembershipError::Reattaching => 10,
            MembershipError::Unserved { .. } => 11,
        }
    }
}
