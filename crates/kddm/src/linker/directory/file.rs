//! What is in a file of the directory: a header, whose fields are little-endian, and the bytes of the object behind it.
//!
//! | from | bytes | header of an object |
//! |---|---|---|
//! | 0 | 8 | `kddm obj` |
//! | 8 | 2 | format, 1 |
//! | 10 | 2 | 1: the bytes follow; 2: removed, nothing follows |
//! | 12 | 4 | CRC-32 of the bytes |
//! | 16 | 8 | the object |
//! | 24 | 24 | term, tenure, version |
//! | 48 | 8 | how many bytes follow |
//! | 56 | 4 | 0 |
//! | 60 | 4 | CRC-32 of all before |

use crate::linker::store::{MOST_STORED_BYTES, Stamp};

/// Length of the header of an object.
pub(super) const HEADER_BYTES: usize = 64;
/// Length of the file that keeps the term: `kddmterm`, format (2), 0 (6), term (8), CRC-32 of all before (4).
pub(super) const TERM_BYTES: usize = 28;

const OBJECT_MAGIC: &[u8; 8] = b"kddm obj";
const TERM_MAGIC: &[u8; 8] = b"kddmterm";
const FORMAT: u16 = 1;
const PRESENT: u16 = 1;
const REMOVED: u16 = 2;

/// What a header says that has stood all checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) stamp: Stamp,
    /// How many bytes follow; `None`: the object was removed.
    pub(super) length: Option<usize>,
    sum: u32,
}

impl Header {
    /// The header of what is to be written.
    pub(super) fn bytes(object: u64, stamp: Stamp, bytes: Option<&[u8]>) -> [u8; HEADER_BYTES] {
        let content = bytes.unwrap_or_default();
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(OBJECT_MAGIC);
        header[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        header[10..12].copy_from_slice(&if bytes.is_some() { PRESENT } else { REMOVED }.to_le_bytes());
        header[12..16].copy_from_slice(&crc32fast::hash(content).to_le_bytes());
        let numbers = [object, stamp.term, stamp.tenure, stamp.version, content.len() as u64];
        for (place, number) in header[16..56].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let sum = crc32fast::hash(&header[..60]);
        header[60..].copy_from_slice(&sum.to_le_bytes());
        header
    }

    /// What these bytes say of that object in a file of `file_bytes`, or what is wrong with them.
    pub(super) fn read(object: u64, header: &[u8], file_bytes: u64) -> Result<Header, &'static str> {
        let header: &[u8; HEADER_BYTES] = header.try_into().map_err(|_| "its file is shorter than a header")?;
        if &header[..8] != OBJECT_MAGIC {
            return Err("its file does not begin as one of an object");
        }
        if number(header, 60, 4) != u64::from(crc32fast::hash(&header[..60])) {
            return Err("its header has another checksum than it was written with");
        }
        if number(header, 8, 2) != u64::from(FORMAT) {
            return Err("another version of the program wrote it: use that one");
        }
        if number(header, 16, 8) != object {
            return Err("its file is that of another object");
        }
        let length = usize::try_from(number(header, 48, 8)).unwrap_or(usize::MAX);
        let length = match number(header, 10, 2) {
            state if state == u64::from(PRESENT) => Some(length),
            state if state == u64::from(REMOVED) && length == 0 => None,
            _ => return Err("its header contradicts itself"),
        };
        if length.is_some_and(|length| length > MOST_STORED_BYTES) {
            return Err("its header says that it is longer than any object");
        }
        if file_bytes != (HEADER_BYTES + length.unwrap_or(0)) as u64 {
            return Err("its file is not as long as its header says");
        }
        let stamp =
            Stamp { term: number(header, 24, 8), tenure: number(header, 32, 8), version: number(header, 40, 8) };
        Ok(Header { stamp, length, sum: number(header, 12, 4) as u32 })
    }

    /// Whether these bytes are the ones that this header was written for.
    pub(super) fn is_of(&self, content: &[u8]) -> bool {
        self.sum == crc32fast::hash(content)
    }
}

/// The content of the file that keeps the term.
pub(super) fn term_bytes(term: u64) -> [u8; TERM_BYTES] {
    let mut bytes = [0; TERM_BYTES];
    bytes[..8].copy_from_slice(TERM_MAGIC);
    bytes[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[16..24].copy_from_slice(&term.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..24]);
    bytes[24..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The term that such a file keeps, or what is wrong with it.
pub(super) fn term_of(bytes: &[u8]) -> Result<u64, &'static str> {
    let bytes: &[u8; TERM_BYTES] = bytes.try_into().map_err(|_| "it has another length than it was written with")?;
    if &bytes[..8] != TERM_MAGIC {
        return Err("it does not begin as one that keeps a term");
    }
    if number(bytes, 24, 4) != u64::from(crc32fast::hash(&bytes[..24])) {
        return Err("it has another checksum than it was written with");
    }
    if number(bytes, 8, 2) != u64::from(FORMAT) {
        return Err("another version of the program wrote it: use that one");
    }
    Ok(number(bytes, 16, 8))
}

/// The little-endian number at that place, which is inside.
fn number(bytes: &[u8], from: usize, length: usize) -> u64 {
    let mut number = [0; 8];
    number[..length].copy_from_slice(&bytes[from..from + length]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { term: 1, tenure: u64::MAX, version: 3 };

    #[test]
    fn a_header_reads_as_it_was_written() {
        for (bytes, length) in [(Some(&b"abc"[..]), Some(3)), (Some(&b""[..]), Some(0)), (None, None)] {
            let written = Header::bytes(u64::MAX, STAMP, bytes);
            let file_bytes = (HEADER_BYTES + length.unwrap_or(0)) as u64;
            let read = Header::read(u64::MAX, &written, file_bytes).unwrap();
            assert_eq!((read.stamp, read.length), (STAMP, length));
            assert!(read.is_of(bytes.unwrap_or_default()) && !read.is_of(b"abd"));
        }
        assert_eq!(term_of(&term_bytes(u64::MAX)), Ok(u64::MAX));
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_seen() {
        let written = Header::bytes(7, STAMP, Some(b"abc"));
        let term = term_bytes(5);
        for bit in 0..HEADER_BYTES * 8 {
            let mut other = written;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read(7, &other, 67).is_err(), "bit {bit}");
        }
        for bit in 0..TERM_BYTES * 8 {
            let mut other = term;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(term_of(&other).is_err(), "bit {bit}");
        }
        for length in 0..HEADER_BYTES {
            assert!(Header::read(7, &written[..length], length as u64).is_err(), "{length} bytes");
        }
        for length in 0..TERM_BYTES {
            assert!(term_of(&term[..length]).is_err(), "{length} bytes");
        }
        for (object, file_bytes) in [(8, 67), (7, 66), (7, 68), (7, u64::MAX)] {
            assert!(Header::read(object, &written, file_bytes).is_err(), "object {object}, {file_bytes} bytes");
        }
    }

    /// With a checksum that is right, as somebody who means it can make one.
    #[test]
    fn a_header_that_contradicts_itself_is_refused() {
        let changed = |from: usize, bytes: &[u8]| {
            let mut header = Header::bytes(7, STAMP, Some(b"abc"));
            header[from..from + bytes.len()].copy_from_slice(bytes);
            let sum = crc32fast::hash(&header[..60]);
            header[60..].copy_from_slice(&sum.to_le_bytes());
            header
        };
        assert!(Header::read(7, &changed(10, &[1]), 67).is_ok());
        let too_long = (MOST_STORED_BYTES as u64 + 1).to_le_bytes();
        for (from, bytes) in [(8, &[2, 0][..]), (10, &[2][..]), (10, &[9][..]), (16, &[8][..]), (48, &too_long[..])] {
            let length = MOST_STORED_BYTES as u64 + 1 + HEADER_BYTES as u64;
            let header = changed(from, bytes);
            assert!(Header::read(7, &header, 67).is_err() && Header::read(7, &header, length).is_err(), "{from}");
        }
    }
}
