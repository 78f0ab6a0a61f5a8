//! What a client may ask for, and what that is to the core.

use kddm_core::id::NodeId;
use kddm_core::io::Access;
use kddm_core::message::RequestKind;

/// What a client may ask of its node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Wish {
    /// As the core's request; a get or grab ends with a hold.
    Request(RequestKind),
    /// Make a copy local and hold nothing.
    Fetch,
    /// Make ownership local and hold nothing.
    Acquire,
    /// As `Fetch`, and go on at once.
    FetchAhead,
    /// As `Acquire`, and go on at once.
    AcquireAhead,
    /// A grab that is kept while the client goes on with its plan; the next one that is no `Also` ends
    /// all of them.
    Also,
    /// A grab that puts a value only if there is none.
    Insert,
    /// A grab that ends in the object's removal.
    RemoveHeld,
}

impl Wish {
    /// What the core is asked for.
    pub fn kind(self) -> RequestKind {
        match self {
            Wish::Request(kind) => kind,
            Wish::Fetch | Wish::FetchAhead => RequestKind::Get { existing: false },
            Wish::Acquire | Wish::AcquireAhead | Wish::Also | Wish::Insert | Wish::RemoveHeld => {
                RequestKind::Grab { existing: false }
            }
        }
    }

    /// Nothing is held at its end, and nobody need wait for it.
    pub(super) fn holds_nothing(self) -> bool {
        matches!(self, Wish::Fetch | Wish::Acquire | Wish::FetchAhead | Wish::AcquireAhead)
    }

    /// What it is called in reports.
    pub fn name(self) -> &'static str {
        match self {
            Wish::Request(RequestKind::Get { existing: false }) => "get",
            Wish::Request(RequestKind::Get { existing: true }) => "get_existing",
            Wish::Request(RequestKind::Grab { existing: false }) => "grab",
            Wish::Request(RequestKind::Grab { existing: true }) => "grab_existing",
            Wish::Request(RequestKind::TryGrab) => "try_grab",
            Wish::Request(RequestKind::Remove) => "remove",
            Wish::Request(RequestKind::Flush { to: NodeId::NOBODY }) => "flush",
            Wish::Request(RequestKind::Flush { .. }) => "flush_to",
            Wish::Fetch => "fetch",
            Wish::Acquire => "acquire",
            Wish::FetchAhead => "prefetch",
            Wish::AcquireAhead => "acquire_ahead",
            Wish::Also => "grab_many",
            Wish::Insert => "insert",
            Wish::RemoveHeld => "remove_held",
        }
    }

    /// The client goes on at once.
    pub fn is_ahead(self) -> bool {
        matches!(self, Wish::FetchAhead | Wish::AcquireAhead)
    }

    /// The access that satisfies it, for those that access satisfies.
    pub fn level(self) -> Option<Access> {
        match self.kind() {
            RequestKind::Get { .. } => Some(Access::Read),
            RequestKind::Grab { .. } | RequestKind::TryGrab => Some(Access::Write),
            RequestKind::Remove | RequestKind::Flush { .. } => None,
        }
    }

    /// It wants to look, not to change.
    pub fn reads(self) -> bool {
        matches!(self.kind(), RequestKind::Get { .. })
    }

    /// It asks for what exists, and is refused where nothing does.
    pub fn is_existing(self) -> bool {
        matches!(self.kind(), RequestKind::Get { existing: true } | RequestKind::Grab { existing: true })
    }
}
