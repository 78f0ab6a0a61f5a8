//! Which cluster, and which of several sessions on one network.

use std::fmt;

use thiserror::Error;

/// Separates the clusters of one network by hand. From [`SessionId::MIN`] to [`SessionId::MAX`].
///
/// ```
/// use kddm_view::SessionId;
///
/// assert_eq!(SessionId::default().number(), 4711);
/// assert!(SessionId::new(0).is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(u16);

/// A session number outside the range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("session {0} does not exist: give a number from {min} to {max}", min = SessionId::MIN, max = SessionId::MAX)]
pub struct NoSuchSession(pub u16);

impl SessionId {
    /// The lowest session.
    pub const MIN: u16 = 1;
    /// The highest session: four digits are easy to type and to read out.
    pub const MAX: u16 = 9_999;
    /// The session of those who give none.
    pub const DEFAULT: SessionId = SessionId(4_711);

    /// The session of that number.
    pub const fn new(number: u16) -> Result<SessionId, NoSuchSession> {
        if number < Self::MIN || number > Self::MAX {
            return Err(NoSuchSession(number));
        }
        Ok(SessionId(number))
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl Default for SessionId {
    fn default() -> SessionId {
        SessionId::DEFAULT
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Names one cluster for ever: a random number drawn by its first node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What two nodes must have in common before they exchange anything else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The session.
    pub session: SessionId,
}

/// Why a node is refused before it can ask for anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Foreign {
    /// It belongs to another session of this network.
    #[error(
        "this node is in session {ours} and the other one in session {theirs}: \
         give both the same session number, or contact a node of session {theirs}"
    )]
    Session {
        /// Ours.
        ours: SessionId,
        /// That of the other node.
        theirs: SessionId,
    },
    /// It belongs to another cluster of the same session.
    #[error(
        "this node belongs to cluster {ours} and the other one to cluster {theirs}: \
         stop one cluster, or give it another session number"
    )]
    Cluster {
        /// Ours.
        ours: ClusterId,
        /// That of the other node.
        theirs: ClusterId,
    },
}

impl Identity {
    /// Whether a node of the identity `other` may talk to a node of this one.
    pub fn admits(self, other: Identity) -> Result<(), Foreign> {
        self.admits_session(other.session)?;
        if self.cluster != other.cluster {
            return Err(Foreign::Cluster { ours: self.cluster, theirs: other.cluster });
        }
        Ok(())
    }

    /// The same for a node that has no cluster yet and wants to join this one.
    pub fn admits_session(self, other: SessionId) -> Result<(), Foreign> {
        if self.session != other {
            return Err(Foreign::Session { ours: self.session, theirs: other });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_from_1_to_9999() {
        assert_eq!(SessionId::new(0), Err(NoSuchSession(0)));
        assert_eq!(SessionId::new(10_000), Err(NoSuchSession(10_000)));
        assert_eq!(SessionId::new(1).unwrap().number(), 1);
        assert_eq!(SessionId::new(9_999).unwrap().number(), 9_999);
        let text = NoSuchSession(0).to_string();
        assert_eq!(text, "session 0 does not exist: give a number from 1 to 9999");
    }

    #[test]
    fn only_the_same_cluster_in_the_same_session_is_admitted() {
        let ours = Identity { cluster: ClusterId(7), session: SessionId::DEFAULT };
        let theirs = SessionId::new(12).unwrap();
        assert_eq!(ours.admits(ours), Ok(()));
        assert_eq!(
            ours.admits(Identity { session: theirs, ..ours }),
            Err(Foreign::Session { ours: SessionId::DEFAULT, theirs })
        );
        assert_eq!(
            ours.admits(Identity { cluster: ClusterId(8), ..ours }),
            Err(Foreign::Cluster { ours: ClusterId(7), theirs: ClusterId(8) })
        );
    }
}
