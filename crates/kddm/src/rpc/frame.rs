//! The bytes of calls and answers. All that comes is hostile until it is checked.
//!
//! A frame is a header of 28 bytes, little endian, then a service's name, then the body:
//! body length (4), checksum of all behind it (4), kind (1), length of the name (1), for whom a node asks its
//! program (2, else zero), id of the call (8), a number (8): the limit of a call in µs, the fault of a failure, else zero.

/// Longest name of a service, in bytes: as that of a set.
pub(crate) const NAME_LIMIT_BYTES: usize = 64;

/// Largest body, 16 MiB: as large as an object may be by default. Larger data belongs into objects.
pub(crate) const BODY_LIMIT_BYTES: usize = 16 << 20;

/// Longest reason of a failure, in bytes: some sentences.
pub(crate) const REASON_LIMIT_BYTES: usize = 4096;

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 28;

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
}

const FAULTS: [Fault; 8] = [
    Fault::NoService,
    Fault::Overloaded,
    Fault::Failed,
    Fault::Stopping,
    Fault::TooLate,
    Fault::NotAMember,
    Fault::Unreachable,
    Fault::Gone,
];

/// What one side says to the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Frame {
    Call { id: u64, from: u16, limit_us: u64, service: String, body: Vec<u8> },
    Done { id: u64, body: Vec<u8> },
    Failed { id: u64, fault: Fault, reason: String },
    Cancel { id: u64 },
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

fn put(kind: u8, from: u16, name: &str, id: u64, number: u64, body: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(HEADER_BYTES + name.len() + body.len());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[kind, name.len() as u8]);
    out.extend_from_slice(&from.to_le_bytes());
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(body);
    let checksum = crc32fast::hash(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// Writes a call behind what is in `out`. Names and bodies must be within their limits. `from` is zero, or for
/// whom a node asks its program.
pub(crate) fn put_call(id: u64, from: u16, limit_us: u64, service: &str, body: &[u8], out: &mut Vec<u8>) {
    put(0, from, service, id, limit_us, body, out);
}

/// Writes an answer.
pub(crate) fn put_done(id: u64, body: &[u8], out: &mut Vec<u8>) {
    put(1, 0, "", id, 0, body, out);
}

/// Writes a failure.
pub(crate) fn put_failed(id: u64, fault: Fault, reason: &str, out: &mut Vec<u8>) {
    let number = FAULTS.iter().position(|known| *known == fault).unwrap_or(0);
    put(2, 0, "", id, number as u64, shorten(reason).as_bytes(), out);
}

/// Writes that nobody waits for a call any more.
pub(crate) fn put_cancel(id: u64, out: &mut Vec<u8>) {
    put(3, 0, "", id, 0, &[], out);
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads the first frame of a buffer. What is wrong in the header is found before the rest is there.
pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, &'static str> {
    if bytes.len() < HEADER_BYTES {
        return Ok(Decoded::Needs(HEADER_BYTES));
    }
    let body_bytes = half(bytes, 0) as usize;
    let (kind, name_bytes) = (bytes[8], usize::from(bytes[9]));
    let (id, number) = (word(bytes, 12), word(bytes, 20));
    let body_limit = match kind {
        0 | 1 => BODY_LIMIT_BYTES,
        2 => REASON_LIMIT_BYTES,
        3 => 0,
        _ => return Err("a frame of an unknown kind"),
    };
    if body_bytes > body_limit {
        return Err("a body beyond its limit");
    }
    let from = u16::from_le_bytes([bytes[10], bytes[11]]);
    if name_bytes > NAME_LIMIT_BYTES || (kind == 0) != (name_bytes > 0) || (kind != 0 && from != 0) {
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
    let frame = match kind {
        0 => match std::str::from_utf8(name) {
            Ok(name) if is_name(name) => {
                Frame::Call { id, from, limit_us: number, service: name.into(), body: body.to_vec() }
            }
            _ => return Err("a name that no service can have"),
        },
        1 => Frame::Done { id, body: body.to_vec() },
        2 => {
            let fault = usize::try_from(number).ok().and_then(|number| FAULTS.get(number));
            let fault = *fault.ok_or("an unknown fault")?;
            Frame::Failed { id, fault, reason: String::from_utf8_lossy(body).into_owned() }
        }
        _ => Frame::Cancel { id },
    };
    Ok(Decoded::Frame(frame, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> (Vec<Frame>, Vec<u8>) {
        let mut bytes = Vec::new();
        put_call(7, 0, 1_000_000, "a/service", b"question", &mut bytes);
        put_done(u64::MAX, b"answer", &mut bytes);
        put_failed(8, Fault::TooLate, "späte Ursache", &mut bytes);
        put_cancel(9, &mut bytes);
        put_call(10, 77, 1, "s", b"", &mut bytes);
        put_failed(11, Fault::Gone, "", &mut bytes);
        let frames = vec![
            Frame::Call {
                id: 7,
                from: 0,
                limit_us: 1_000_000,
                service: "a/service".into(),
                body: b"question".to_vec(),
            },
            Frame::Done { id: u64::MAX, body: b"answer".to_vec() },
            Frame::Failed { id: 8, fault: Fault::TooLate, reason: "späte Ursache".into() },
            Frame::Cancel { id: 9 },
            Frame::Call { id: 10, from: 77, limit_us: 1, service: "s".into(), body: Vec::new() },
            Frame::Failed { id: 11, fault: Fault::Gone, reason: String::new() },
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
        put_call(1, 0, 2, "name", b"body", &mut bytes);
        for length in 0..bytes.len() {
            let needs = if length < HEADER_BYTES { HEADER_BYTES } else { bytes.len() };
            assert_eq!(decode(&bytes[..length]), Ok(Decoded::Needs(needs)));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut bytes = Vec::new();
        put_call(1, 0, 2, "name", b"body", &mut bytes);
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
        for (body, kind, name) in
            [(u32::MAX, 0, 4), (17 << 20, 1, 0), (5000, 2, 0), (1, 3, 0), (0, 4, 0), (0, 0, 0), (0, 0, 65), (0, 1, 1)]
        {
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
}
