//! Errors on their way from a node to a program.

use serde::{Deserialize, Serialize};

use crate::error::{AccessError, ConfigurationError, Error, MembershipError, SetError, WhyUnreachable};
use crate::linker::LinkerError;
use crate::rpc::RpcError;
use crate::runtime::not_a_member;

/// An error, as it travels.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    Overloaded {
        outstanding: u64,
        limit: u64,
    },
    PeerFull {
        node: u16,
        bytes: u64,
        limit_bytes: u64,
    },
    Unreachable {
        node: u16,
        limit_ms: u64,
        has_ended: bool,
    },
    /// A node that is named is not one that shares objects.
    NoSuchNode {
        node: u16,
    },
    Fenced,
    NotFound,
    Lost {
        set: String,
        object: u64,
    },
    NotLost {
        set: String,
        object: u64,
    },
    NothingLost {
        name: String,
    },
    AcceptanceUnconfirmed {
        name: String,
        node: u16,
        reason: String,
    },
    CutShort,
    Destroyed,
    Unknown {
        name: String,
    },
    LinkerMissing {
        set: String,
        linker: String,
    },
    BadName {
        name: String,
    },
    SettingsDiffer {
        name: String,
        setting: String,
        has: String,
        wanted: String,
    },
    DestroyUnconfirmed {
        name: String,
        node: u16,
        reason: String,
    },
    AlreadyRegistered {
        service: String,
    },
    Stopped,
    NotSharing {
        node: u16,
    },
    JoinTimedOut {
        limit_ms: u64,
        reason: String,
    },
    /// The node is about to leave, and has not begun what was asked for.
    Leaving,
    /// One that has no form of its own: its text.
    Other(String),
}

/// The settings of a set that can differ.
const SETTINGS: [&str; 8] = ["codec", "type", "placement", "replicas", "on_loss", "linker", "write_policy", "setting"];

impl Failure {
    pub fn of(error: &Error) -> Failure {
        match error.clone() {
            Error::Access(AccessError::Overloaded { outstanding, limit }) => {
                Failure::Overloaded { outstanding: outstanding as u64, limit: limit as u64 }
            }
            Error::Access(AccessError::PeerFull { node, bytes, limit_bytes }) => {
                Failure::PeerFull { node, bytes: bytes as u64, limit_bytes: limit_bytes as u64 }
            }
            Error::Access(AccessError::Unreachable { node, limit_ms, why }) => {
                Failure::Unreachable { node, limit_ms, has_ended: why == WhyUnreachable::ProcessEnded }
            }
            Error::Configuration(ConfigurationError::OutOfRange { setting: "to", value, .. }) => {
                Failure::NoSuchNode { node: value.parse().unwrap_or_default() }
            }
            Error::Access(AccessError::Fenced) => Failure::Fenced,
            Error::Access(AccessError::NotFound) => Failure::NotFound,
            Error::Access(AccessError::Lost { set, object }) => Failure::Lost { set, object },
            Error::Access(AccessError::NotLost { set, object }) => Failure::NotLost { set, object },
            Error::Access(AccessError::CutShort) => Failure::CutShort,
            Error::Set(SetError::NothingLost { name }) => Failure::NothingLost { name },
            Error::Set(SetError::AcceptanceUnconfirmed { name, node, reason }) => {
                Failure::AcceptanceUnconfirmed { name, node, reason }
            }
            Error::Set(SetError::Destroyed) => Failure::Destroyed,
            Error::Set(SetError::Unknown { name }) => Failure::Unknown { name },
            Error::Set(SetError::BadName { name }) => Failure::BadName { name },
            Error::Linker(LinkerError::Missing { set, linker }) => Failure::LinkerMissing { set, linker },
            Error::Set(SetError::SettingsDiffer { name, setting, has, wanted }) => {
                Failure::SettingsDiffer { name, setting: setting.into(), has, wanted }
            }
            Error::Set(SetError::DestroyUnconfirmed { name, node, reason }) => {
                Failure::DestroyUnconfirmed { name, node, reason }
            }
            Error::Rpc(RpcError::AlreadyRegistered { service }) => Failure::AlreadyRegistered { service },
            Error::Membership(MembershipError::Stopped) => Failure::Stopped,
            Error::Membership(MembershipError::Reattaching) => Failure::Leaving,
            Error::Membership(MembershipError::NotSharing { node }) => Failure::NotSharing { node },
            Error::Membership(MembershipError::JoinTimedOut { limit_ms, reason }) => {
                Failure::JoinTimedOut { limit_ms, reason }
            }
            other => Failure::Other(other.to_string()),
        }
    }

    pub fn error(self) -> Error {
        match self {
            Failure::Overloaded { outstanding, limit } => {
                AccessError::Overloaded { outstanding: outstanding as usize, limit: limit as usize }.into()
            }
            Failure::PeerFull { node, bytes, limit_bytes } => {
                AccessError::PeerFull { node, bytes: bytes as usize, limit_bytes: limit_bytes as usize }.into()
            }
            Failure::Unreachable { node, limit_ms, has_ended } => {
                let why = if has_ended { WhyUnreachable::ProcessEnded } else { WhyUnreachable::Silent };
                AccessError::Unreachable { node, limit_ms, why }.into()
            }
            Failure::NoSuchNode { node } => not_a_member(node),
            Failure::Fenced => AccessError::Fenced.into(),
            Failure::NotFound => AccessError::NotFound.into(),
            Failure::Lost { set, object } => AccessError::Lost { set, object }.into(),
            Failure::NotLost { set, object } => AccessError::NotLost { set, object }.into(),
            Failure::CutShort => AccessError::CutShort.into(),
            Failure::NothingLost { name } => SetError::NothingLost { name }.into(),
            Failure::AcceptanceUnconfirmed { name, node, reason } => {
                SetError::AcceptanceUnconfirmed { name, node, reason }.into()
            }
            Failure::Destroyed => SetError::Destroyed.into(),
            Failure::Unknown { name } => SetError::Unknown { name }.into(),
            Failure::BadName { name } => SetError::BadName { name }.into(),
            Failure::LinkerMissing { set, linker } => LinkerError::Missing { set, linker }.into(),
            Failure::SettingsDiffer { name, setting, has, wanted } => {
                let setting = SETTINGS.into_iter().find(|known| *known == setting).unwrap_or("setting");
                SetError::SettingsDiffer { name, setting, has, wanted }.into()
            }
            Failure::DestroyUnconfirmed { name, node, reason } => {
                SetError::DestroyUnconfirmed { name, node, reason }.into()
            }
            Failure::AlreadyRegistered { service } => RpcError::AlreadyRegistered { service }.into(),
            // The node's own stop is the end of the attachment.
            Failure::Stopped => MembershipError::Detached.into(),
            Failure::Leaving => MembershipError::Reattaching.into(),
            Failure::NotSharing { node } => MembershipError::NotSharing { node }.into(),
            Failure::JoinTimedOut { limit_ms, reason } => MembershipError::JoinTimedOut { limit_ms, reason }.into(),
            Failure::Other(reason) => MembershipError::Unserved { reason }.into(),
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// The failure in these bytes; what cannot be meant is one too.
    pub fn decode(bytes: &[u8]) -> Failure {
        postcard::from_bytes(bytes).unwrap_or_else(|error| Failure::Other(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_kind_and_its_text() {
        let differs =
            SetError::SettingsDiffer { name: "a".into(), setting: "type", has: "x".into(), wanted: "y".into() };
        for error in [
            Error::from(differs),
            AccessError::Overloaded { outstanding: 3, limit: 2 }.into(),
            SetError::Destroyed.into(),
            AccessError::Lost { set: "a".into(), object: 7 }.into(),
            AccessError::NotLost { set: "a".into(), object: 7 }.into(),
            AccessError::CutShort.into(),
            SetError::NothingLost { name: "a".into() }.into(),
            LinkerError::Missing { set: "a".into(), linker: "b".into() }.into(),
            SetError::AcceptanceUnconfirmed { name: "a".into(), node: 2, reason: "r".into() }.into(),
            RpcError::AlreadyRegistered { service: "s".into() }.into(),
            MembershipError::NotSharing { node: 7 }.into(),
            AccessError::Unreachable { node: 3, limit_ms: 0, why: WhyUnreachable::ProcessEnded }.into(),
        ] {
            let after = Failure::decode(&Failure::of(&error).encode()).error();
            assert_eq!((after.code(), after.to_string()), (error.code(), error.to_string()));
        }
        assert!(matches!(Failure::decode(&[250, 1]), Failure::Other(_)));
    }
}
