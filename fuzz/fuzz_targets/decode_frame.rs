//! Arbitrary bytes as frames. What is one says the same when it is encoded again, and the stream that
//! follows is looked at from there.
#![no_main]

use kddm_core::frame::{BodySeal, Decoded, Frame, HEADER_BYTES, Numbers, decode, encode, encode_ack};
use libfuzzer_sys::fuzz_target;

const CHECKSUM: std::ops::Range<usize> = 4..8;

fuzz_target!(|bytes: &[u8]| {
    look_at(bytes);
    let mut sealed = bytes.to_vec();
    if seal(&mut sealed).is_some() {
        look_at(&sealed);
    }
});

/// Gives the header what only chance could: its format and its checksum. A peer may lie in all the rest.
fn seal(bytes: &mut [u8]) -> Option<()> {
    *bytes.get_mut(8)? = kddm_core::frame::FORMAT;
    let lists = u32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?) as usize;
    let checksum = crc32fast::hash(bytes.get(8..HEADER_BYTES.checked_add(lists)?)?);
    bytes.get_mut(CHECKSUM)?.copy_from_slice(&checksum.to_le_bytes());
    Some(())
}

fn look_at(mut bytes: &[u8]) {
    // Each round takes at least a header.
    while let Ok(decoded) = decode(bytes) {
        match decoded {
            Decoded::Needs(needed) => {
                assert!(needed > bytes.len(), "it waits for what is there");
                return;
            }
            Decoded::Frame(frame, length) => {
                assert!(length >= HEADER_BYTES && length <= bytes.len());
                says_the_same(&frame);
                bytes = &bytes[length..];
            }
        }
    }
}

fn says_the_same(frame: &Frame<'_>) {
    let mut again = Vec::new();
    match &frame.message {
        None => encode_ack(frame.envelope.from, frame.numbers.acknowledged, &mut again).expect("there is memory"),
        Some(message) => {
            let Numbers { sequence, acknowledged } = frame.numbers;
            let numbers = Numbers { sequence, acknowledged };
            let seal = BodySeal { length: frame.body.len() as u32, checksum: frame.seal.checksum };
            encode(&frame.envelope, message, numbers, seal, &mut again).expect("there is memory");
            again.extend_from_slice(frame.body);
        }
    }
    let Ok(Decoded::Frame(back, length)) = decode(&again) else { panic!("what was encoded is no frame") };
    assert_eq!(length, again.len());
    assert_eq!(back.message, frame.message);
    assert_eq!((back.body, back.seal), (frame.body, frame.seal));
    if frame.message.is_some() {
        assert_eq!((back.envelope, back.numbers), (frame.envelope, frame.numbers));
    }
    // What is not used of a header need not be zero, so only a second encoding has the same bytes.
    let mut twice = Vec::new();
    if let Some(message) = &back.message {
        encode(&back.envelope, message, back.numbers, back.seal, &mut twice).expect("there is memory");
        twice.extend_from_slice(back.body);
        assert_eq!(again, twice);
    }
}
