//! What a program and the node that lends to it say on their socket: a head of one size, then a body.
//! All bytes are hostile until [`decode`] has looked at them.

use kddm_core::id::{NodeId, ObjectId, SetId};
use kddm_core::io::Access;
use kddm_core::message::RequestKind;

/// Bytes of a head.
pub(crate) const HEAD_BYTES: usize = 48;

/// What stands before each body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub set: SetId,
    pub object: ObjectId,
    pub word: Word,
    /// Bytes of the body.
    pub body_bytes: u32,
}

/// Whether a value goes with a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bytes {
    /// The object has no value.
    NoValue,
    /// It has the one that the other side knows.
    Known,
    /// It has the one in the body.
    Here,
}

/// How a wish ends without access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    Done,
    NotFound,
    Busy,
    Lost,
    /// Why is in the body.
    Failed,
}

/// What is said. Of one object each side has at most one wish, or one question, outstanding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// Program: threads here want what I have not been lent. The answer names the number.
    Want { kind: RequestKind, number: u64 },
    /// Program: nobody waits for that any more.
    Cancel { number: u64 },
    /// Program: a new version of what I was lent to write; its value is the body.
    Put { version: u64 },
    /// Program: I use no more than this any more. The answer to `GiveBack`, and to `TryGiveBack`.
    Returned { level: Access, bytes: Bytes },
    /// Program: somebody holds it. The answer to `TryGiveBack`.
    Held,
    /// Node: you may use it up to this level, until you are asked back.
    Granted { level: Access, bytes: Bytes, number: u64, version: u64, tenure: u64 },
    /// Node: your wish ends without access.
    Answer { number: u64, ending: Ending },
    /// Node: give it back down to this level, when your holders have put.
    GiveBack { to: Access },
    /// Node: give it back at once, or say that it is held.
    TryGiveBack,
    /// Node: what you have put, up to that version, has its replicas.
    Safe { version: u64 },
    /// Node: the set is being destroyed; what you hold of it you may still put.
    SetEnding,
    /// Node: the set has been destroyed.
    SetEnded,
    /// Node: what you were lent you may use until then, by the clock of this host that deadlines have.
    Lease { until_ns: u64 },
    /// Node: it has installed the view in the body.
    View,
    /// Node: it is over; whether by a fence.
    Ended { is_fenced: bool },
}

fn access(level: u8) -> Result<Access, &'static str> {
    match level {
        0 => Ok(Access::None),
        1 => Ok(Access::Read),
        2 => Ok(Access::Write),
        _ => Err("an unknown level of access"),
    }
}

fn bytes(flags: u8) -> Result<Bytes, &'static str> {
    match flags {
        0 => Ok(Bytes::NoValue),
        1 => Ok(Bytes::Known),
        2 => Ok(Bytes::Here),
        _ => Err("unknown flags"),
    }
}

fn kind(detail: u8, flags: u8, to: u64) -> Result<RequestKind, &'static str> {
    let existing = flags == 1;
    match (detail, flags) {
        (0, 0 | 1) => Ok(RequestKind::Get { existing }),
        (1, 0 | 1) => Ok(RequestKind::Grab { existing }),
        (2, 0) => Ok(RequestKind::TryGrab),
        (3, 0) => Ok(RequestKind::Remove),
        (4, 0) => u16::try_from(to).map(|to| RequestKind::Flush { to: NodeId(to) }).map_err(|_| "no such node"),
        _ => Err("an unknown kind of wish"),
    }
}

fn kind_fields(kind: RequestKind) -> (u8, u8, u64) {
    match kind {
        RequestKind::Get { existing } => (0, existing.into(), 0),
        RequestKind::Grab { existing } => (1, existing.into(), 0),
        RequestKind::TryGrab => (2, 0, 0),
        RequestKind::Remove => (3, 0, 0),
        RequestKind::Flush { to } => (4, 0, to.0.into()),
    }
}

const ENDINGS: [Ending; 5] = [Ending::Done, Ending::NotFound, Ending::Busy, Ending::Lost, Ending::Failed];

/// The bytes of a head.
pub(crate) fn encode(head: &Head) -> [u8; HEAD_BYTES] {
    // Kind, detail, level, flags; number, version, tenure.
    let (four, numbers) = match head.word {
        Word::Want { kind, number } => {
            let (detail, flags, to) = kind_fields(kind);
            ([1, detail, 0, flags], [number, to, 0])
        }
        Word::Cancel { number } => ([2, 0, 0, 0], [number, 0, 0]),
        Word::Put { version } => ([3, 0, 0, 0], [0, version, 0]),
        Word::Returned { level, bytes } => ([4, 0, level as u8, bytes as u8], [0, 0, 0]),
        Word::Held => ([5, 0, 0, 0], [0, 0, 0]),
        Word::Granted { level, bytes, number, version, tenure } => {
            ([17, 0, level as u8, bytes as u8], [number, version, tenure])
        }
        Word::Answer { number, ending } => ([18, ending as u8, 0, 0], [number, 0, 0]),
        Word::GiveBack { to } => ([19, 0, to as u8, 0], [0, 0, 0]),
        Word::TryGiveBack => ([20, 0, 0, 0], [0, 0, 0]),
        Word::Safe { version } => ([25, 0, 0, 0], [0, version, 0]),
        Word::SetEnding => ([23, 0, 0, 0], [0, 0, 0]),
        Word::SetEnded => ([21, 0, 0, 0], [0, 0, 0]),
        Word::Lease { until_ns } => ([24, 0, 0, 0], [until_ns, 0, 0]),
        Word::View => ([26, 0, 0, 0], [0, 0, 0]),
        Word::Ended { is_fenced } => ([22, is_fenced.into(), 0, 0], [0, 0, 0]),
    };
    let mut out = [0; HEAD_BYTES];
    out[..4].copy_from_slice(&four);
    out[4..8].copy_from_slice(&head.body_bytes.to_le_bytes());
    let words = [head.set.0, head.object.0, numbers[0], numbers[1], numbers[2]];
    for (place, word) in out[8..].chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    out
}

/// The head in these bytes.
///
/// # Errors
/// What cannot be meant.
pub(crate) fn decode(from: &[u8; HEAD_BYTES]) -> Result<Head, &'static str> {
    let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| from[8 + 8 * at + byte]));
    let (set, object) = (SetId(long(0)), ObjectId(long(1)));
    let (number, version, tenure) = (long(2), long(3), long(4));
    let body_bytes = u32::from_le_bytes([from[4], from[5], from[6], from[7]]);
    let [detail, level, flags] = [from[1], from[2], from[3]];
    let word = match from[0] {
        1 => Word::Want { kind: kind(detail, flags, version)?, number },
        2 => Word::Cancel { number },
        3 => Word::Put { version },
        4 => Word::Returned { level: access(level)?, bytes: bytes(flags)? },
        5 => Word::Held,
        17 => Word::Granted { level: access(level)?, bytes: bytes(flags)?, number, version, tenure },
        18 => {
            let ending = ENDINGS.get(usize::from(detail)).copied();
            Word::Answer { number, ending: ending.ok_or("an unknown ending")? }
        }
        19 => Word::GiveBack { to: access(level)? },
        20 => Word::TryGiveBack,
        21 => Word::SetEnded,
        23 => Word::SetEnding,
        25 => Word::Safe { version },
        24 => Word::Lease { until_ns: number },
        26 => Word::View,
        22 => Word::Ended { is_fenced: detail != 0 },
        _ => return Err("an unknown word"),
    };
    let has_body = match word {
        Word::Put { .. } | Word::View | Word::Answer { ending: Ending::Failed, .. } => true,
        Word::Returned { bytes, .. } | Word::Granted { bytes, .. } => bytes == Bytes::Here,
        _ => false,
    };
    if body_bytes != 0 && !has_body {
        return Err("a body where none is meant");
    }
    Ok(Head { set, object, word, body_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let words = [
            Word::Want { kind: RequestKind::Get { existing: true }, number: 7 },
            Word::Want { kind: RequestKind::Grab { existing: false }, number: u64::MAX },
            Word::Want { kind: RequestKind::TryGrab, number: 1 },
            Word::Want { kind: RequestKind::Remove, number: 1 },
            Word::Want { kind: RequestKind::Flush { to: NodeId(9) }, number: 1 },
            Word::Cancel { number: 3 },
            Word::Put { version: 4 },
            Word::Returned { level: Access::Read, bytes: Bytes::Here },
            Word::Held,
            Word::Granted { level: Access::Write, bytes: Bytes::NoValue, number: 1, version: 2, tenure: 3 },
            Word::Answer { number: 5, ending: Ending::Failed },
            Word::GiveBack { to: Access::Read },
            Word::TryGiveBack,
            Word::Safe { version: 6 },
            Word::SetEnding,
            Word::SetEnded,
            Word::Lease { until_ns: u64::MAX },
            Word::View,
            Word::Ended { is_fenced: true },
        ];
        for word in words {
            let head = Head { set: SetId(0x0102_0304), object: ObjectId(u64::MAX - 1), word, body_bytes: 0 };
            assert_eq!(decode(&encode(&head)), Ok(head));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_an_error_and_never_a_panic() {
        let mut refused = 0;
        for kind in 0..=255u8 {
            for detail in [0, 1, 4, 5, 255] {
                for body in [0u8, 1] {
                    let mut bytes = [0xff; HEAD_BYTES];
                    bytes[..8].copy_from_slice(&[kind, detail, detail, detail, body, 0, 0, 0]);
                    refused += usize::from(decode(&bytes).is_err());
                }
            }
        }
        assert!((2_400..2_560).contains(&refused), "{refused}");
    }
}
