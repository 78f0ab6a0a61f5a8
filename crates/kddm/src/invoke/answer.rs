//! What callers and owners say to each other. All of it is hostile until it has decoded.

use serde::{Deserialize, Serialize};

use super::error::InvokeError;
use crate::error::{AccessError, Error, Fate, MembershipError, SetError};

/// A call, as it travels.
#[derive(PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Question<'a> {
    pub set: u64,
    pub object: u64,
    pub operation: &'a str,
    pub arguments: &'a [u8],
}

/// What became of a call.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) enum Told {
    /// It ran once, and what it made is published.
    Done {
        result: Vec<u8>,
        /// Nobody but this caller has changed the object for a while.
        is_alone: bool,
    },
    /// It did not run: as far as this node knows, that one owns the object.
    NotMine { owner: u16 },
    /// It did not run: this node does not have the operation.
    NoOperation,
    /// It did not run: this node is on its way out, or fenced, or the set is frozen.
    Away,
    /// It did not run, or nothing of it was published: the set is destroyed.
    Destroyed,
    /// It ran and panicked; nothing was published.
    Panicked,
    /// It did not run: its arguments do not decode.
    Arguments { reason: String },
    /// It did not run: too many wait.
    Overloaded { waiting: u64 },
    /// Nothing was published.
    Refused { reason: String },
    /// It ran, and nobody knows whether that was published.
    Unconfirmed { reason: String },
}

impl Told {
    /// Why nothing was published, or nobody knows whether it was.
    pub fn of(error: &Error) -> Told {
        let reason = error.to_string();
        match error {
            Error::Set(SetError::Destroyed) => Told::Destroyed,
            Error::Access(AccessError::Fenced) | Error::Membership(MembershipError::Stopped) => Told::Away,
            Error::Invoke(InvokeError::Panicked { .. }) => Told::Panicked,
            Error::Invoke(InvokeError::Arguments { reason, .. }) => Told::Arguments { reason: reason.clone() },
            error if error.fate() == Fate::NothingHappened => Told::Refused { reason },
            _ => Told::Unconfirmed { reason },
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        // Writing to memory does not fail; an answer that is none says that nothing is known.
        postcard::to_stdvec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let question = Question { set: 7, object: u64::MAX, operation: "add", arguments: &[1, 2, 3] };
        let bytes = postcard::to_stdvec(&question).expect("it encodes");
        assert_eq!(postcard::from_bytes::<Question<'_>>(&bytes), Ok(question));
        for told in [
            Told::Done { result: vec![1, 200], is_alone: true },
            Told::NotMine { owner: 9 },
            Told::Unconfirmed { reason: "ä".into() },
        ] {
            assert_eq!(postcard::from_bytes::<Told>(&told.bytes()), Ok(told));
        }
    }

    #[test]
    fn no_bytes_of_a_peer_do_harm() {
        let question = Question { set: 7, object: 3, operation: "add", arguments: &[9; 20] };
        let bytes = postcard::to_stdvec(&question).expect("it encodes");
        for cut in 0..bytes.len() {
            assert!(postcard::from_bytes::<Question<'_>>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        // A length beyond the end is not taken for room to be made.
        assert!(postcard::from_bytes::<Told>(&[0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]).is_err());
        assert!(postcard::from_bytes::<Question<'_>>(&[1, 1, 2, 0xff, 0xfe, 0]).is_err(), "no text");
    }

    #[test]
    fn nothing_is_said_to_have_not_happened_that_may_have() {
        let fate = |error: &Error| matches!(Told::of(error), Told::Unconfirmed { .. });
        assert!(fate(&AccessError::CutShort.into()) && fate(&AccessError::PutUnconfirmed { limit_ms: 1 }.into()));
        assert!(!fate(&AccessError::NotFound.into()));
        assert_eq!(Told::of(&AccessError::Fenced.into()), Told::Away);
    }
}
