//! What the caller asked for cannot be.

use crate::transport::Address;

/// Why a configuration cannot work.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: Address,
        /// Why.
        reason: String,
    },
    /// A value is out of its range.
    #[error("{setting} is {value}; {rule}")]
    OutOfRange {
        /// The setting.
        setting: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// The operating system refused something that a node needs.
    #[error("cannot start: {what}: {reason}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        reason: String,
    },
}

impl ConfigurationError {
    pub(super) fn number(&self) -> u16 {
        match self {
            ConfigurationError::Listen { .. } => 1,
            ConfigurationError::OutOfRange { .. } => 2,
            ConfigurationError::System { .. } => 3,
        }
    }
}
