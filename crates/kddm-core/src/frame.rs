//! The wire format: fixed little-endian header, node lists, body. Every byte of a peer is hostile
//! until checked here. `docs/protocol.md` has the table of the fields.

use alloc::vec::Vec;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::home::EntryState;
use crate::id::{
    Epoch, Incarnation, NodeId, ObjectId, Placement, RequestId, SHARDS_PER_SET, SetId, ShardIndex, Tenure, Version,
};
use crate::io::NoMemory;
use crate::message::{
    COPIES_AT_ONCE, CopyKind, Have, Knew, Loss, Message, ReadCopy, Request, RequestKind, Role, Since,
};
use crate::nodeset::NodeSet;
use crate::replicas::{MOST_REPLICAS, ReplicaSet};

mod fields;
mod reading;

use fields::fill;
use reading::message;

/// Version of this format. Other versions are refused in the handshake; a frame repeats it, so that
/// a stream that lost its place is noticed.
pub const FORMAT: u8 = 6;

/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = size_of::<Header>();

/// Nodes in one list of a frame: there cannot be more members.
pub const MOST_NODES: usize = 65_535;

/// The largest body: the largest object that can be configured.
pub const MOST_BODY_BYTES: usize = 1 << 30;

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Object = 1,
    Ack = 2,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct Header {
    /// Of header, lists and body.
    length: U32,
    /// CRC-32 of everything behind this field up to the body.
    checksum: U32,
    format: u8,
    class: u8,
    kind: u8,
    flags: u8,
    lists: U32,
    sequence: U64,
    acknowledged: U64,
    epoch: U32,
    placement: U32,
    incarnation: U32,
    from: U16,
    /// The other node that a message names: owner, target.
    node: U16,
    set: U64,
    object: U64,
    tenure: U64,
    version: U64,
    /// A second tenure: `tau` of a request, `born` of a transfer.
    second: U64,
    counter: U64,
    request_incarnation: U32,
    request_node: U16,
    forwards: u8,
    reserved: u8,
    body: U32,
    body_checksum: U32,
}

const CHECKED_FROM: usize = 8;

mod flag {
    pub const HAS_VALUE: u8 = 1;
    pub const REMOVE: u8 = 1;
    pub const HELD: u8 = 1;
    pub const FORWARDED: u8 = 1;
    pub const IN_DOUBT: u8 = 1;
    pub const FORGOTTEN: u8 = 1;
    pub const OF_SET: u8 = 1;
    pub const LOST: u8 = 0x80;
    pub const HAVE_VALUE: u8 = 8;
    pub const HAVE_REMOVED: u8 = 16;
    pub const ROLE: u8 = 7;
    pub const EXISTING: u8 = 1;
    pub const INHERITED: u8 = 2;
    pub const FIRST: u8 = 4;
    pub const TO_HOME: u8 = 8;
    pub const KIND_SHIFT: u8 = 4;
}

/// What every frame about an object says of its sender and its object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Envelope {
    /// The sender's epoch.
    pub epoch: Epoch,
    /// The sender's placement number.
    pub placement: Placement,
    /// The sender.
    pub from: NodeId,
    /// The sender's life.
    pub incarnation: Incarnation,
    /// The set.
    pub set: SetId,
    /// The object.
    pub object: ObjectId,
}

/// Number and acknowledgement of a frame on its link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Numbers {
    /// Position among the frames of this link; zero in a bare acknowledgement.
    pub sequence: u64,
    /// The greatest position received without a gap.
    pub acknowledged: u64,
}

/// Length and checksum of a body; the home computes both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BodySeal {
    /// Bytes.
    pub length: u32,
    /// CRC-32.
    pub checksum: u32,
}

/// A decoded frame; the body is borrowed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Sender and object.
    pub envelope: Envelope,
    /// Its place on the link.
    pub numbers: Numbers,
    /// The message; none in a bare acknowledgement.
    pub message: Option<Message>,
    /// The bytes behind header and lists.
    pub body: &'a [u8],
    /// What the sender says of them.
    pub seal: BodySeal,
}

/// A frame without its body, which need not have arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// Sender and object.
    pub envelope: Envelope,
    /// Its place on the link.
    pub numbers: Numbers,
    /// The message; none in a bare acknowledgement.
    pub message: Option<Message>,
    /// What the sender says of the body.
    pub seal: BodySeal,
}

/// How much of the head of a frame is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DecodedHead {
    /// All of it, and where the body begins.
    Head(Head, usize),
    /// This many bytes in all are needed before it is worth looking again.
    Needs(usize),
}

/// Why bytes are not a frame. The connection is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// Another format, or a stream that lost its place.
    Format(u8),
    /// Header and lists do not have their checksum.
    Checksum,
    /// A length that cannot be.
    Length {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A value that no sender writes.
    Value {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// No memory for a list.
    NoMemory,
}

/// How much of a frame is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded<'a> {
    /// A whole frame, and its length in bytes.
    Frame(Frame<'a>, usize),
    /// This many bytes in all are needed before it is worth looking again.
    Needs(usize),
}

/// Appends header and lists of a message. The body follows, `seal.length` bytes of it, for which
/// room is reserved.
pub fn encode(
    envelope: &Envelope,
    message: &Message,
    numbers: Numbers,
    seal: BodySeal,
    out: &mut Vec<u8>,
) -> Result<(), NoMemory> {
    let start = out.len();
    encode_head(envelope, message, numbers, seal, out)?;
    let reserved = out.try_reserve(seal.length as usize);
    if reserved.is_err() {
        out.truncate(start);
    }
    reserved.map_err(|_| NoMemory)
}

/// As [`encode`], for a body that does not follow in the same memory. Its checksum may follow, too: by [`seal_body`].
pub fn encode_head(
    envelope: &Envelope,
    message: &Message,
    numbers: Numbers,
    seal: BodySeal,
    out: &mut Vec<u8>,
) -> Result<(), NoMemory> {
    let mut header = blank(numbers);
    header.class = Class::Object as u8;
    header.epoch = envelope.epoch.0.into();
    header.placement = envelope.placement.0.into();
    header.incarnation = envelope.incarnation.0.into();
    header.from = envelope.from.0.into();
    header.set = envelope.set.0.into();
    header.object = envelope.object.0.into();
    header.kind = message.kind();
    let lists = fill(&mut header, message);
    header.body = seal.length.into();
    header.body_checksum = seal.checksum.into();
    let list_bytes = lists.bytes();
    header.lists = (list_bytes as u32).into();
    header.length = ((HEADER_BYTES + list_bytes + seal.length as usize) as u32).into();
    out.try_reserve(HEADER_BYTES + list_bytes).map_err(|_| NoMemory)?;
    let start = out.len();
    out.extend_from_slice(header.as_bytes());
    lists.append(out);
    seal_header(out, start);
    Ok(())
}

/// Appends a bare acknowledgement: no message, no place in the order.
pub fn encode_ack(from: NodeId, acknowledged: u64, out: &mut Vec<u8>) -> Result<(), NoMemory> {
    let mut header = blank(Numbers { sequence: 0, acknowledged });
    header.class = Class::Ack as u8;
    header.from = from.0.into();
    header.length = (HEADER_BYTES as u32).into();
    out.try_reserve(HEADER_BYTES).map_err(|_| NoMemory)?;
    let start = out.len();
    out.extend_from_slice(header.as_bytes());
    seal_header(out, start);
    Ok(())
}

/// Writes the checksum of a body that is kept apart into the head of its frame.
///
/// ```
/// # use kddm_core::frame::{BodySeal, DecodedHead, Envelope, Numbers, decode_head, encode_head, seal_body};
/// # use kddm_core::{id::Tenure, message::Message};
/// let mut head = Vec::new();
/// let seal = BodySeal { length: 3, checksum: 0 };
/// encode_head(&Envelope::default(), &Message::Confirm { tenure: Tenure(1) }, Numbers::default(), seal, &mut head)?;
/// seal_body(&mut head, 0x352441c2);
/// let Ok(DecodedHead::Head(head, _)) = decode_head(&head) else { panic!("it is whole") };
/// assert_eq!(head.seal.checksum, 0x352441c2);
/// # Ok::<(), kddm_core::io::NoMemory>(())
/// ```
pub fn seal_body(head: &mut [u8], checksum: u32) {
    if let Ok((header, _)) = Header::mut_from_prefix(head) {
        header.body_checksum = checksum.into();
    }
    seal_header(head, 0);
}

fn seal_header(out: &mut [u8], start: usize) {
    let checksum = crc32fast::hash(out.get(start + CHECKED_FROM..).unwrap_or_default());
    if let Some(field) = out.get_mut(start + 4..start + CHECKED_FROM) {
        field.copy_from_slice(&checksum.to_le_bytes());
    }
}

fn blank(numbers: Numbers) -> Header {
    let mut header = Header::new_zeroed();
    header.format = FORMAT;
    header.sequence = numbers.sequence.into();
    header.acknowledged = numbers.acknowledged.into();
    header
}

/// Decodes the frame at the start of `bytes`. Looks at no byte behind it.
pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    let (head, start) = match decode_head(bytes)? {
        DecodedHead::Head(head, start) => (head, start),
        DecodedHead::Needs(needed) => return Ok(Decoded::Needs(needed)),
    };
    let length = start + head.seal.length as usize;
    let Some(body) = bytes.get(start..length) else { return Ok(Decoded::Needs(length)) };
    let Head { envelope, numbers, message, seal } = head;
    Ok(Decoded::Frame(Frame { envelope, numbers, message, body, seal }, length))
}

/// Decodes header and lists of the frame at the start of `bytes`, and says where its body begins.
/// They have been checked, the body has not: its length is at most [`MOST_BODY_BYTES`].
pub fn decode_head(bytes: &[u8]) -> Result<DecodedHead, DecodeError> {
    let Ok((header, rest)) = Header::read_from_prefix(bytes) else {
        return Ok(DecodedHead::Needs(HEADER_BYTES));
    };
    if header.format != FORMAT {
        return Err(DecodeError::Format(header.format));
    }
    let length = header.length.get() as usize;
    let (lists, body) = (header.lists.get() as usize, header.body.get() as usize);
    if lists > 4 + 4 * MOST_NODES {
        return Err(DecodeError::Length { field: "lists", value: lists as u64 });
    }
    if body > MOST_BODY_BYTES {
        return Err(DecodeError::Length { field: "body", value: body as u64 });
    }
    if length != HEADER_BYTES + lists + body {
        return Err(DecodeError::Length { field: "length", value: length as u64 });
    }
    let start = HEADER_BYTES + lists;
    let Some(list_bytes) = rest.get(..lists) else { return Ok(DecodedHead::Needs(start)) };
    let checked = bytes.get(CHECKED_FROM..start).unwrap_or_default();
    if crc32fast::hash(checked) != header.checksum.get() {
        return Err(DecodeError::Checksum);
    }
    let numbers = Numbers { sequence: header.sequence.get(), acknowledged: header.acknowledged.get() };
    let message = match header.class {
        1 => Some(message(&header, list_bytes)?),
        2 if lists == 0 && body == 0 => None,
        class => return Err(DecodeError::Value { field: "class", value: class.into() }),
    };
    let envelope = Envelope {
        epoch: Epoch(header.epoch.get()),
        placement: Placement(header.placement.get()),
        from: NodeId(header.from.get()),
        incarnation: Incarnation(header.incarnation.get()),
        set: SetId(header.set.get()),
        object: ObjectId(header.object.get()),
    };
    let seal = BodySeal { length: header.body.get(), checksum: header.body_checksum.get() };
    Ok(DecodedHead::Head(Head { envelope, numbers, message, seal }, start))
}
