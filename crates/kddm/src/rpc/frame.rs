//! The bytes of calls and answers. All that comes is hostile until it is checked.
//!
//! A frame is a header of 32 bytes, little endian, then a service's name, then the body:
//! body length (4), checksum of all behind it (4), kind (1), length of the name (1), for whom somebody else asks (2, else
//! zero), flags of a call (1), how often it was passed on (1), zero (2), id of the call or stream (8), a number (8): the
//! limit of a call in µs, the fault of a failure or of the end of a stream, the bytes of a credit, else zero.

/// Longest name of a service, in bytes: as that of a set.
pub(crate) const NAME_LIMIT_BYTES: usize = 64;

/// Largest body, 16 MiB: as large as an object may be by default. Larger data belongs into objects.
pub(crate) const BODY_LIMIT_BYTES: usize = 16 << 20;

/// Longest reason of a failure, in bytes: some sentences.
pub(crate) const REASON_LIMIT_BYTES: usize = 4096;

/// Largest item of a stream, 1 MiB: some windows. Larger data belongs into objects.
pub(crate) const ITEM_LIMIT_BYTES: usize = 1 << 20;

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 32;

/// The number of an end of a stream without a fault.
const NO_FAULT: u64 = u64::MAX;

/// The flag of a call that is not to wait for its service.
const AT_ONCE: u8 = 4;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Sort {
    /// An answer.
    #[default]
    Call,
    /// None.
    Cast,
    /// Streams in both directions.
    Stream,
}

const SORTS: [Sort; 3] = [Sort::Call, Sort::Cast, Sort::Stream];

/// How something is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Manner {
    pub sort: Sort,
    /// It does not wait for a service that is not registered yet.
    pub at_once: bool,
    /// How often it was passed on.
    pub hops: u8,
    /// For whom it is asked, if that is not whoever asks.
    pub from: u16,
}

impl Manner {
    fn flags(self) -> u8 {
        self.sort as u8 | if self.at_once { AT_ONCE } else { 0 }
    }

    fn of(flags: u8, hops: u8, from: u16) -> Option<Manner> {
        let sort = *SORTS.get(usize::from(flags & !AT_ONCE))?;
        Some(Manner { sort, at_once: flags & AT_ONCE != 0, hops, from })
    }
}

/// Why there is no answer, as it travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    NoService,
    Overloaded,
    Failed,
    /// The node is on its way down.
    Stopping,
    /// The limit was over before the handler could begin.
    TooLate,
    /// Said to a program by its node, of the one that was called.
    NotAMember,
    /// As `NotAMember`: no connection came about.
    Unreachable,
    /// As `NotAMember`, or of a program that served: it went away meanwhile.
    Gone,
    /// Somebody has dropped its end of a stream.
    Dropped,
}

const FAULTS: [Fault; 9] = [
    Fault::NoService,
    Fault::Overloaded,
    Fault::Failed,
    Fault::Stopping,
    Fault::TooLate,
    Fault::NotAMember,
    Fault::Unreachable,
    Fault::Gone,
    Fault::Dropped,
];

/// What one side says to the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Frame {
    Call {
        id: u64,
        manner: Manner,
        limit_us: u64,
        service: String,
        body: Vec<u8>,
    },
    Done {
        id: u64,
        body: Vec<u8>,
    },
    Failed {
        id: u64,
        fault: Fault,
        reason: String,
    },
    Cancel {
        id: u64,
    },
    /// The next item of a stream.
    Item {
        id: u64,
        body: Vec<u8>,
    },
    /// So many bytes more may be sent.
    Credit {
        id: u64,
        bytes: u64,
    },
    /// No item follows: all were sent, or something went wrong.
    End {
        id: u64,
        fault: Option<(Fault, String)>,
    },
    /// Nobody takes items any more, and why.
    Stop {
        id: u64,
        fault: Fault,
        reason: String,
    },
}

/// What the first bytes of a buffer are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A frame, and how many bytes it took.
    Frame(Frame, usize),
    /// The beginning of a frame of so many bytes.
    Needs(usize),
}

/// Whether a service can have that name.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_LIMIT_BYTES && !name.chars().any(char::is_control)
}

/// Cuts a reason to its limit, between two characters.
fn shorten(reason: &str) -> &str {
    let longest = reason.len().min(REASON_LIMIT_BYTES);
    let end = (0..=longest).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
    &reason[..end]
}

/// What stands in a header but for lengths and the checksum.
#[derive(Default)]
struct Head {
    kind: u8,
    manner: Manner,
    id: u64,
    number: u64,
}

fn put(head: &Head, name: &str, body: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(HEADER_BYTES + name.len() + body.len());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[head.kind, name.len() as u8]);
    out.extend_from_slice(&head.manner.from.to_le_bytes());
    out.extend_from_slice(&[head.manner.flags(), head.manner.hops, 0, 0]);
    out.extend_from_slice(&head.id.to_le_bytes());
    out.extend_from_slice(&head.number.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(body);
    let checksum = crc32fast::hash(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

fn put_of(kind: u8, id: u64, number: u64, body: &[u8], out: &mut Vec<u8>) {
    put(&Head { kind, id, number, ..Head::default() }, "", body, out);
}

fn number_of(fault: Fault) -> u64 {
    FAULTS.iter().position(|known| *known == fault).unwrap_or(0) as u64
}

/// Writes a call behind what is in `out`. Names and bodies must be within their limits.
pub(crate) fn put_call(id: u64, manner: Manner, limit_us: u64, service: &str, body: &[u8], out: &mut Vec<u8>) {
    put(&Head { kind: 0, manner, id, number: limit_us }, service, body, out);
}

/// Writes an answer.
pub(crate) fn put_done(id: u64, body: &[u8], out: &mut Vec<u8>) {
    put_of(1, id, 0, body, out);
}

/// Writes a failure.
pub(crate) fn put_failed(id: u64, fault: Fault, reason: &str, out: &mut Vec<u8>) {
    put_of(2, id, number_of(fault), shorten(reason).as_bytes(), out);
}

/// Writes that nobody waits for a call any more.
pub(crate) fn put_cancel(id: u64, out: &mut Vec<u8>) {
    put_of(3, id, 0, &[], out);
}

/// Writes an item of a stream, which must be within its limit.
pub(crate) fn put_item(id: u64, body: &[u8], out: &mut Vec<u8>) {
    put_of(4, id, 0, body, out);
}

/// Writes that so many bytes more may be sent.
pub(crate) fn put_credit(id: u64, bytes: u64, out: &mut Vec<u8>) {
    put_of(5, id, bytes, &[], out);
}

/// Writes that no item follows.
pub(crate) fn put_end(id: u64, fault: Option<(Fault, &str)>, out: &mut Vec<u8>) {
    let (number, reason) = fault.map_or((NO_FAULT, ""), |(fault, reason)| (number_of(fault), reason));
    put_of(6, id, number, shorten(reason).as_bytes(), out);
}

/// Writes that nobody takes items any more.
pub(crate) fn put_stop(id: u64, fault: Fault, reason: &str, out: &mut Vec<u8>) {
    put_of(7, id, number_of(fault), shorten(reason).as_bytes(), out);
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The largest body of a kind of frame.
fn body_limit(kind: u8) -> Option<usize> {
    match kind {
        0 | 1 => Some(BODY_LIMIT_BYTES),
        2 | 6 | 7 => Some(REASON_LIMIT_BYTES),
        3 | 5 => Some(0),
        4 => Some(ITEM_LIMIT_BYTES),
        _ => None,
    }
}

/// Reads the first frame of a buffer. What is wrong in the header is found before the rest is there.
pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, &'static str> {
    if bytes.len() < HEADER_BYTES {
        return Ok(Decoded::Needs(HEADER_BYTES));
    }
    let body_bytes = half(bytes, 0) as usize;
    let (kind, name_bytes) = (bytes[8], usize::from(bytes[9]));
    if body_bytes > body_limit(kind).ok_or("a frame of an unknown kind")? {
        return Err("a body beyond its limit");
    }
    let manner = Manner::of(bytes[12], bytes[13], u16::from_le_bytes([bytes[10], bytes[11]]));
    let manner = manner.filter(|manner| kind == 0 || *manner == Manner::default());
    let (Some(manner), [0, 0]) = (manner, [bytes[14], bytes[15]]) else { return Err("a header that cannot be meant") };
    if name_bytes > NAME_LIMIT_BYTES || (kind == 0) != (name_bytes > 0) {
        return Err("a header that cannot be meant");
    }
    let length = HEADER_BYTES + name_bytes + body_bytes;
    if bytes.len() < length {
        return Ok(Decoded::Needs(length));
    }
    if crc32fast::hash(&bytes[8..length]) != half(bytes, 4) {
        return Err("a wrong checksum");
    }
    let (name, body) = bytes[HEADER_BYTES..length].split_at(name_bytes);
    let head = Head { kind, manner, id: word(bytes, 16), number: word(bytes, 24) };
    Ok(Decoded::Frame(frame_of(&head, name, body)?, length))
}

fn frame_of(head: &Head, name: &[u8], body: &[u8]) -> Result<Frame, &'static str> {
    let Head { id, number, manner, .. } = *head;
    let reason = || String::from_utf8_lossy(body).into_owned();
    let fault = || {
        let fault = usize::try_from(number).ok().and_then(|number| FAULTS.get(number));
        fault.copied().ok_or("an unknown fault")
    };
    Ok(match head.kind {
        0 => match std::str::from_utf8(name) {
            Ok(name) if is_name(name) => {
                Frame::Call { id, manner, limit_us: number, service: name.into(), body: body.to_vec() }
            }
            _ => return Err("a name that no service can have"),
        },
        1 => Frame::Done { id, body: body.to_vec() },
        2 => Frame::Failed { id, fault: fault()?, reason: reason() },
        3 => Frame::Cancel { id },
        4 => Frame::Item { id, body: body.to_vec() },
        5 => Frame::Credit { id, bytes: number },
        6 if number == NO_FAULT => Frame::End { id, fault: None },
        6 => Frame::End { id, fault: Some((fault()?, reason())) },
        _ => Frame::Stop { id, fault: fault()?, reason: reason() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> (Vec<Frame>, Vec<u8>) {
        let mut bytes = Vec::new();
        put_call(7, Manner::default(), 1_000_000, "a/service", b"question", &mut bytes);
        put_done(u64::MAX, b"answer", &mut bytes);
        put_failed(8, Fault::TooLate, "späte Ursache", &mut bytes);
        put_cancel(9, &mut bytes);
        let manner = Manner { sort: Sort::Stream, at_once: true, hops: 8, from: 77 };
        put_call(10, manner, 1, "s", b"", &mut bytes);
        put_failed(11, Fault::Gone, "", &mut bytes);
        put_item(12, b"item", &mut bytes);
        put_credit(12, 4096, &mut bytes);
        put_end(12, None, &mut bytes);
        put_end(12, Some((Fault::Failed, "cut")), &mut bytes);
        put_stop(12, Fault::Dropped, "enough", &mut bytes);
        let frames = vec![
            Frame::Call {
                id: 7,
                manner: Manner::default(),
                limit_us: 1_000_000,
                service: "a/service".into(),
                body: b"question".to_vec(),
            },
            Frame::Done { id: u64::MAX, body: b"answer".to_vec() },
            Frame::Failed { id: 8, fault: Fault::TooLate, reason: "späte Ursache".into() },
            Frame::Cancel { id: 9 },
            Frame::Call { id: 10, manner, limit_us: 1, service: "s".into(), body: Vec::new() },
            Frame::Failed { id: 11, fault: Fault::Gone, reason: String::new() },
            Frame::Item { id: 12, body: b"item".to_vec() },
            Frame::Credit { id: 12, bytes: 4096 },
            Frame::End { id: 12, fault: None },
            Frame::End { id: 12, fault: Some((Fault::Failed, "cut".into())) },
            Frame::Stop { id: 12, fault: Fault::Dropped, reason: "enough".into() },
        ];
        (frames, bytes)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (frames, bytes) = frames();
        let mut rest = &bytes[..];
        for frame in frames {
            let Ok(Decoded::Frame(read, length)) = decode(rest) else { panic!("{frame:?} is not read") };
            assert_eq!(read, frame);
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_part_needs_more_and_says_how_much() {
        let mut bytes = Vec::new();
        put_call(1, Manner::default(), 2, "name", b"body", &mut bytes);
        for length in 0..bytes.len() {
            let needs = if length < HEADER_BYTES { HEADER_BYTES } else { bytes.len() };
            assert_eq!(decode(&bytes[..length]), Ok(Decoded::Needs(needs)));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut bytes = Vec::new();
        put_call(1, Manner::default(), 2, "name", b"body", &mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // A length may now be larger: then more is waited for, within the limits.
            assert!(!matches!(decode(&damaged), Ok(Decoded::Frame(..))), "bit {bit}");
        }
    }

    #[test]
    fn lies_are_refused_before_their_bytes_are_there() {
        let header = |body: u32, kind: u8, name: u8| {
            let mut bytes = vec![0; HEADER_BYTES];
            bytes[..4].copy_from_slice(&body.to_le_bytes());
            (bytes[8], bytes[9]) = (kind, name);
            bytes
        };
        for (body, kind, name) in [
            (u32::MAX, 0, 4),
            (17 << 20, 1, 0),
            (5000, 2, 0),
            (1, 3, 0),
            (2 << 20, 4, 0),
            (1, 5, 0),
            (5000, 6, 0),
            (5000, 7, 0),
            (0, 8, 0),
            (0, 0, 0),
            (0, 0, 65),
            (0, 1, 1),
        ] {
            assert!(decode(&header(body, kind, name)).is_err(), "{body} {kind} {name}");
        }
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let long = "ä".repeat(REASON_LIMIT_BYTES);
        let mut bytes = Vec::new();
        put_failed(1, Fault::Failed, &format!("x{long}"), &mut bytes);
        let Ok(Decoded::Frame(Frame::Failed { reason, .. }, _)) = decode(&bytes) else { panic!("not read") };
        assert_eq!(reason.len(), REASON_LIMIT_BYTES - 1);
    }

    fn put_again(frame: &Frame, out: &mut Vec<u8>) {
        match frame {
            Frame::Call { id, manner, limit_us, service, body } => {
                put_call(*id, *manner, *limit_us, service, body, out)
            }
            Frame::Done { id, body } => put_done(*id, body, out),
            Frame::Failed { id, fault, reason } => put_failed(*id, *fault, reason, out),
            Frame::Cancel { id } => put_cancel(*id, out),
            Frame::Item { id, body } => put_item(*id, body, out),
            Frame::Credit { id, bytes } => put_credit(*id, *bytes, out),
            Frame::End { id, fault } => {
                put_end(*id, fault.as_ref().map(|(fault, reason)| (*fault, &**reason)), out);
            }
            Frame::Stop { id, fault, reason } => put_stop(*id, *fault, reason, out),
        }
    }

    /// Arbitrary bytes, most with what only chance could give them: lengths and a checksum. What is a frame says the
    /// same when it is written again.
    #[test]
    fn what_is_made_up_is_refused_or_means_something() {
        let mut seed = 1u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u8
        };
        let mut meant = [0; 8];
        for round in 0..200_000 {
            let (body, name) = (random() % 16, if random() % 2 == 0 { random() % 8 } else { 0 });
            let mut bytes: Vec<u8> = (0..HEADER_BYTES + usize::from(body + name)).map(|_| random()).collect();
            if round % 10 > 0 {
                bytes[..4].copy_from_slice(&u32::from(body).to_le_bytes());
                (bytes[8], bytes[9]) = (bytes[8] % 10, name);
                for at in [10, 11, 12, 13, 14, 15, 24] {
                    bytes[at] = if random() % 8 == 0 { random() } else { 0 };
                }
                bytes[25..32].fill(if random() % 8 == 0 { u8::MAX } else { 0 });
                bytes[HEADER_BYTES..].iter_mut().for_each(|byte| *byte %= 128);
                let checksum = crc32fast::hash(&bytes[8..]);
                bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
            }
            match decode(&bytes) {
                Ok(Decoded::Frame(frame, length)) => {
                    meant[usize::from(bytes[8])] += 1;
                    let mut again = Vec::new();
                    put_again(&frame, &mut again);
                    assert_eq!(length, bytes.len());
                    assert_eq!(decode(&again), Ok(Decoded::Frame(frame, again.len())));
                }
                Ok(Decoded::Needs(more)) => assert!(more > bytes.len(), "it waits for what is there"),
                Err(_) => {}
            }
        }
        assert!(meant.iter().all(|count| *count > 10), "each kind was met: {meant:?}");
    }
}
