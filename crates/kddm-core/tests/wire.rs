//! The wire format is a promise: its bytes stand in `golden/frames.txt` and change only with `FORMAT`.
//! `UPDATE=1 cargo test -p kddm-core --test wire` writes them anew.

use std::fmt::Write as _;

use kddm_core::frame::{self, BodySeal, Decoded, Envelope, HEADER_BYTES, Numbers};
use kddm_core::home::EntryState;
use kddm_core::id::{Epoch, Incarnation, NodeId, ObjectId, Placement, RequestId, SetId, ShardIndex, Tenure, Version};
use kddm_core::message::{
    CopyKind, Have, Knew, Loss, MESSAGE_KINDS, Message, ReadCopy, Request, RequestKind, Role, Since,
};
use kddm_core::nodeset::NodeSet;
use kddm_core::replicas::ReplicaSet;

const ENVELOPE: Envelope = Envelope {
    epoch: Epoch(0x0102_0304),
    placement: Placement(0x1112_1314),
    from: NodeId(0x2122),
    incarnation: Incarnation(0x3132_3334),
    set: SetId(0x0041_4243_4445_4647),
    object: ObjectId(0x5152_5354_5556_5758),
};
const NUMBERS: Numbers = Numbers { sequence: 0x61, acknowledged: 0x62 };
const ID: RequestId = RequestId { node: NodeId(0x7172), incarnation: Incarnation(0x8182_8384), counter: 0x91 };
const TENURE: Tenure = Tenure(0xa1a2);
const VERSION: Version = Version(0xb1b2);

fn nodes(of: &[u16]) -> NodeSet {
    of.iter().copied().map(NodeId).collect()
}

fn replicas(of: &[u16]) -> ReplicaSet {
    of.iter().copied().map(NodeId).collect()
}

fn requests() -> Vec<Message> {
    let kinds = [
        RequestKind::Get { existing: false },
        RequestKind::Get { existing: true },
        RequestKind::Grab { existing: false },
        RequestKind::Grab { existing: true },
        RequestKind::TryGrab,
        RequestKind::Remove,
    ];
    let request =
        |kind| Request { id: ID, kind, tau: TENURE, forwards: 3, inherited: true, first: false, to_home: false };
    let mut all: Vec<Message> = kinds.into_iter().map(|kind| Message::Request(request(kind))).collect();
    let first = Request { inherited: false, first: true, ..request(RequestKind::Get { existing: false }) };
    all.push(Message::Request(first));
    all.push(Message::Request(Request { inherited: false, to_home: true, ..request(RequestKind::Remove) }));
    all
}

fn all_messages() -> Vec<Message> {
    let (tenure, version, id) = (TENURE, VERSION, ID);
    let transfer = |sharers, replicas, has_value| Message::Transfer {
        tenure,
        version,
        born: Tenure(7),
        sharers,
        replicas,
        has_value,
        id,
    };
    let mut all = requests();
    all.extend([
        Message::Create { tenure, id },
        Message::Data { tenure, version, id },
        transfer(nodes(&[]), replicas(&[]), false),
        transfer(nodes(&[1, 2, 65_535]), replicas(&[9]), true),
        Message::Invalidate { tenure, version, owner: NodeId(5), remove: false },
        Message::Invalidate { tenure, version, owner: NodeId(5), remove: true },
        Message::Ack { tenure, version },
        Message::Confirm { tenure },
        Message::OwnerIs { owner: NodeId(6), tenure },
        Message::Removing { tenure, forwarded: false },
        Message::Removing { tenure, forwarded: true },
        Message::Removed { tenure },
        Message::RemoveDone { id },
        Message::NotFound { id },
        Message::Busy { id },
        Message::Lost { id },
        Message::TryInvalidate { tenure, version, id },
        Message::TryAnswer { id, held: true },
        Message::TryAnswer { id, held: false },
        Message::Flushed { id },
        Message::Entry { tenure, owner: NodeId(6), state: EntryState::Predicted, lost: false },
        Message::Entry { tenure, owner: NodeId(6), state: EntryState::Fact, lost: false },
        Message::Entry { tenure, owner: NodeId::NOBODY, state: EntryState::Removing, lost: false },
        Message::Entry { tenure, owner: NodeId(6), state: EntryState::Promoted, lost: false },
        Message::Entry { tenure, owner: NodeId::NOBODY, state: EntryState::Unknown, lost: true },
        Message::Entry { tenure, owner: NodeId::NOBODY, state: EntryState::Absent, lost: false },
        Message::ShardIsYours { shard: ShardIndex(1023), floor: tenure, in_doubt: false, unbroken: Epoch(0) },
        Message::ShardIsYours { shard: ShardIndex(1023), floor: tenure, in_doubt: true, unbroken: Epoch(0x8182) },
        Message::Placed { placement: Placement(77) },
    ]);
    all.extend(of_a_new_epoch());
    all
}

/// Replicas, and what is said when members were lost.
fn of_a_new_epoch() -> Vec<Message> {
    let (tenure, version) = (TENURE, VERSION);
    let have = Have {
        role: Role::Ghost,
        tenure,
        version,
        seen: Tenure(0xc1c2),
        removed: false,
        sent: Tenure(0xd1d2),
        to: NodeId(6),
        has_value: true,
        replicas: replicas(&[]),
    };
    let have_of = |role, removed| Message::Have(Have { role, removed, has_value: false, ..have });
    let copy = |object| ReadCopy { object: ObjectId(object), tenure, version };
    let promote = |copy, sharers, replicas| Message::Promote { tenure, version, copy, sharers, replicas };
    vec![
        Message::Push { tenure, version },
        Message::PushAck { tenure, version },
        Message::DropReplica { tenure },
        Message::Have(have),
        have_of(Role::None, true),
        have_of(Role::Owner, false),
        have_of(Role::Sharer, false),
        have_of(Role::Tombstone, true),
        Message::HaveReplica { tenure, version },
        Message::Reported { shard: ShardIndex(1023), forgotten: tenure },
        Message::AllReported,
        Message::Returned { left: Epoch(7) },
        Message::Knew(Knew {
            tenure,
            owner: NodeId(0x7172),
            life: Incarnation(0x8182_8384),
            state: EntryState::Promoted,
            lost: true,
            since: Since { unbroken: Epoch(0x9192), left: Epoch(0xa1a2) },
        }),
        Message::KnewAll {
            shard: ShardIndex(1023),
            floor: tenure,
            in_doubt: true,
            since: Since { unbroken: Epoch(0), left: Epoch(u32::MAX) },
        },
        Message::Wanted { shard: ShardIndex(1023) },
        promote(CopyKind::Sharer, nodes(&[1, 2, 65_535]), replicas(&[3, 4, 5, 6, 7, 8, 9])),
        promote(CopyKind::Replica, nodes(&[]), replicas(&[])),
        promote(CopyKind::Ghost, nodes(&[7]), replicas(&[9])),
        Message::Decline { tenure, copy: CopyKind::Sharer },
        Message::Decline { tenure, copy: CopyKind::Replica },
        Message::Decline { tenure, copy: CopyKind::Ghost },
        Message::Have(Have { role: Role::Owner, replicas: replicas(&[3, 9]), ..have }),
        Message::Orphan { tenure, version },
        Message::Loss(Loss {
            epoch: Epoch(0x5152),
            placement: Placement(0x6162),
            failures: 2,
            fewest_homes: 3,
            before: nodes(&[1, 2, 65_535]),
            after: nodes(&[2]),
            forgotten: false,
        }),
        Message::Loss(Loss { epoch: Epoch(7), failures: 1, forgotten: true, ..Loss::default() }),
        Message::ReplicaGone { tenure },
        Message::HaveOffer { tenure, version, left: Epoch(0x9192) },
        promote(CopyKind::Offer, nodes(&[]), replicas(&[3])),
        Message::Decline { tenure, copy: CopyKind::Offer },
        Message::AcceptLoss { set_until: None },
        Message::AcceptLoss { set_until: Some(Epoch(0x7172)) },
        Message::Revalidate { id: ID, copies: vec![copy(1), copy(0x5152)] },
        Message::Revalidate { id: ID, copies: vec![] },
        Message::Revalidated { id: ID, valid: vec![ObjectId(1), ObjectId(u64::MAX)] },
        Message::Revalidated { id: ID, valid: vec![] },
    ]
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(&ENVELOPE, message, NUMBERS, BodySeal::default(), &mut bytes).expect("there is memory");
    bytes
}

fn as_text() -> String {
    let mut text = String::new();
    for message in all_messages() {
        writeln!(text, "{message:?}").expect("a string takes all");
        for line in encoded(&message).chunks(32) {
            let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "  {hex}").expect("a string takes all");
        }
    }
    text
}

#[test]
fn the_bytes_are_those_of_the_golden_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/frames.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, as_text()).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(path).expect("the golden file is there");
    assert_eq!(as_text(), golden, "the wire format changed: raise FORMAT, then run with UPDATE=1");
}

#[test]
fn every_kind_has_its_golden_bytes() {
    let mut kinds: Vec<u8> = all_messages().iter().map(Message::kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, (0..MESSAGE_KINDS as u8).collect::<Vec<u8>>());
}

#[test]
fn every_message_comes_back_as_it_went() {
    for message in all_messages() {
        let bytes = encoded(&message);
        let Ok(Decoded::Frame(frame, length)) = frame::decode(&bytes) else { panic!("{message:?} does not decode") };
        assert_eq!((frame.message.as_ref(), frame.envelope, frame.numbers), (Some(&message), ENVELOPE, NUMBERS));
        assert_eq!(length, bytes.len());
    }
}

#[test]
fn no_flipped_bit_is_believed() {
    for message in all_messages() {
        let bytes = encoded(&message);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let believed = matches!(frame::decode(&flipped), Ok(Decoded::Frame(..)));
            assert!(!believed, "{message:?} with bit {bit} flipped was taken for a frame");
        }
    }
}

#[test]
fn a_part_of_a_frame_asks_for_the_rest() {
    for message in all_messages() {
        let bytes = encoded(&message);
        for length in 0..bytes.len() {
            match frame::decode(&bytes[..length]) {
                Ok(Decoded::Needs(needed)) => assert!(needed > length && needed <= bytes.len()),
                other => panic!("{length} bytes of {message:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_bare_acknowledgement_is_a_header_alone() {
    let mut bytes = Vec::new();
    frame::encode_ack(NodeId(3), 77, &mut bytes).expect("there is memory");
    assert_eq!(bytes.len(), HEADER_BYTES);
    let Ok(Decoded::Frame(frame, _)) = frame::decode(&bytes) else { panic!("it does not decode") };
    assert_eq!((frame.message, frame.numbers.acknowledged, frame.envelope.from), (None, 77, NodeId(3)));
}
