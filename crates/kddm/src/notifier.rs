//! Being told who comes and goes: notifiers of an application.

use std::fmt;
use std::sync::{Arc, Weak};

use kddm_view::{Event, NOTIFIER_NAME_BYTES, NOTIFIERS, Registration, RegistryError};

pub use kddm_core::membership::Priority;
pub use kddm_core::view::NodeState;
pub use kddm_view::Chain;

use crate::error::{ConfigurationError, Error};
use crate::runtime::Runtime;

/// What a notifier is told: one member has gone up or down by one level.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MemberEvent {
    /// Its number.
    pub node: u16,
    /// Its life.
    pub incarnation: u32,
    /// The state that it leaves.
    pub from: NodeState,
    /// The state that it enters: one level above or below `from`.
    pub to: NodeState,
    /// The epoch of the view that says so.
    pub epoch: u32,
    /// Whether it is the node that tells this.
    pub is_this_node: bool,
}

/// What a notifier runs.
pub(crate) type Function = Arc<dyn Fn(&MemberEvent) + Send + Sync>;

/// A notifier that is to be registered before the node joins.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub chain: Chain,
    pub priority: Priority,
    pub name: String,
    pub function: Function,
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in chain {} at {:?}", self.name, self.chain, self.priority)
    }
}

impl MemberEvent {
    pub(crate) fn new(event: &Event, here: u16) -> MemberEvent {
        let node = event.step.node.0;
        MemberEvent {
            node,
            incarnation: event.incarnation.0,
            from: event.step.from,
            to: event.step.to,
            epoch: event.epoch.0,
            is_this_node: node == here,
        }
    }
}

/// A notifier that was registered with [`Node::notifier`](crate::Node::notifier). It stays registered
/// when this is dropped.
#[derive(Clone, Debug)]
pub struct Notifier {
    pub(crate) runtime: Weak<Runtime>,
    pub(crate) registration: Registration,
}

impl Notifier {
    /// Unregisters it. When this returns it does not run and never will, except if it was called by
    /// a notifier.
    pub fn remove(self) {
        if let Some(runtime) = self.runtime.upgrade() {
            runtime.notify.unregister(self.registration);
        }
    }
}

/// What a refused registration is to the caller.
pub(crate) fn refused(name: &str, error: &RegistryError) -> Error {
    const { assert!(NOTIFIER_NAME_BYTES == 64 && NOTIFIERS == 256, "the rules below name these limits") };
    let rule = match error {
        RegistryError::Name => "a name of a notifier has 1 to 64 bytes without control characters",
        RegistryError::TooMany => "a node has at most 256 notifiers; remove one",
        _ => "there is no memory for one more notifier",
    };
    ConfigurationError::OutOfRange { setting: "notifier", value: name.escape_debug().to_string(), rule }.into()
}
