//! Frames out and in again: every message survives, and no damage, cut or lie gets past the checks.
#![allow(clippy::unwrap_used)]

use kddm_core::frame::{
    BodySeal, DecodeError, Decoded, DecodedHead, Envelope, FORMAT, Frame, HEADER_BYTES, MOST_BODY_BYTES, MOST_NODES,
    Numbers, decode, decode_head, encode, encode_ack,
};
use kddm_core::home::EntryState;
use kddm_core::id::{
    Epoch, Incarnation, NodeId, ObjectId, Placement, RequestId, SHARDS_PER_SET, SetId, ShardIndex, Tenure, Version,
};
use kddm_core::message::{
    COPIES_AT_ONCE, CopyKind, Have, Knew, Loss, MESSAGE_KINDS, Message, ReadCopy, Request, RequestKind, Role, Since,
};
use kddm_core::nodeset::NodeSet;
use kddm_core::replicas::{MOST_REPLICAS, ReplicaSet};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

const LENGTH_AT: usize = 0;
const CHECKSUM_AT: usize = 4;
const CLASS_AT: usize = 9;
const KIND_AT: usize = 10;
const FLAGS_AT: usize = 11;
const LISTS_AT: usize = 12;
const COUNTER_AT: usize = 88;
const REQUEST_NODE_AT: usize = 100;
const BODY_AT: usize = 104;

fn ids() -> impl Strategy<Value = RequestId> {
    (1_u16.., any::<u32>(), any::<u64>()).prop_map(|(node, incarnation, counter)| RequestId {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        counter,
    })
}

fn node_sets() -> impl Strategy<Value = NodeSet> {
    btree_set(1_u16.., 0..20).prop_map(|nodes| nodes.into_iter().map(NodeId).collect())
}

fn replica_sets() -> impl Strategy<Value = ReplicaSet> {
    btree_set(1_u16.., 0..=MOST_REPLICAS).prop_map(|nodes| nodes.into_iter().map(NodeId).collect())
}

fn requests() -> impl Strategy<Value = Message> {
    let kind = (0..4, any::<bool>()).prop_map(|(kind, existing)| match kind {
        0 => RequestKind::Get { existing },
        1 => RequestKind::Grab { existing },
        2 => RequestKind::TryGrab,
        _ => RequestKind::Remove,
    });
    (ids(), kind, any::<u64>(), any::<u8>(), any::<[bool; 3]>()).prop_map(
        |(id, kind, tau, forwards, [inherited, first, to_home])| {
            Message::Request(Request { id, kind, tau: Tenure(tau), forwards, inherited, first, to_home })
        },
    )
}

fn transfers() -> impl Strategy<Value = Message> {
    (any::<[u64; 3]>(), node_sets(), replica_sets(), any::<bool>(), ids()).prop_map(
        |([tenure, version, born], sharers, replicas, has_value, id)| Message::Transfer {
            tenure: Tenure(tenure),
            version: Version(version),
            born: Tenure(born),
            sharers,
            replicas,
            has_value,
            id,
        },
    )
}

fn others() -> impl Strategy<Value = Message> {
    (0..27, any::<u64>(), any::<u64>(), any::<u16>(), any::<bool>(), ids()).prop_map(
        |(kind, tenure, version, node, flag, id)| {
            let (tenure, version, owner) = (Tenure(tenure), Version(version), NodeId(node));
            match kind {
                0 => Message::Create { tenure, id },
                1 => Message::Data { tenure, version, id },
                2 => Message::Invalidate { tenure, version, owner, remove: flag },
                3 => Message::Ack { tenure, version },
                4 => Message::Confirm { tenure },
                5 => Message::OwnerIs { owner, tenure },
                6 => Message::Removing { tenure, forwarded: flag },
                7 => Message::Removed { tenure },
                8 => Message::RemoveDone { id },
                9 => Message::NotFound { id },
                10 => Message::Busy { id },
                11 => Message::Lost { id },
                12 => Message::TryInvalidate { tenure, version, id },
                13 => Message::TryAnswer { id, held: flag },
                14 => {
                    let (shard, unbroken) = (ShardIndex(node % SHARDS_PER_SET), Epoch(version.0 as u32));
                    Message::ShardIsYours { shard, floor: tenure, in_doubt: flag, unbroken }
                }
                15 => Message::Placed { placement: Placement(node.into()) },
                16 => Message::Push { tenure, version },
                17 => Message::PushAck { tenure, version },
                18 => Message::DropReplica { tenure },
                19 => Message::HaveReplica { tenure, version },
                20 => Message::Reported { shard: ShardIndex(node % SHARDS_PER_SET), forgotten: tenure },
                21 => Message::AllReported,
                22 => Message::Orphan { tenure, version },
                23 => Message::Wanted { shard: ShardIndex(node % SHARDS_PER_SET) },
                24 => Message::ReplicaGone { tenure },
                26 => Message::Returned { left: Epoch(node.into()) },
                27 => {
                    let since = Since { unbroken: Epoch(version.0 as u32), left: Epoch(node.into()) };
                    let shard = ShardIndex(node % SHARDS_PER_SET);
                    Message::KnewAll { shard, floor: tenure, in_doubt: flag, since }
                }
                25 => Message::HaveOffer { tenure, version, left: Epoch(node.into()) },
                _ => Message::Flushed { id },
            }
        },
    )
}

fn entries() -> impl Strategy<Value = Message> {
    use EntryState::{Absent, Fact, Predicted, Promoted, Removing, Unknown};
    let states = prop::sample::select(vec![Predicted, Fact, Removing, Promoted, Unknown, Absent]);
    (any::<u64>(), any::<u16>(), states, any::<bool>()).prop_map(|(tenure, owner, state, lost)| Message::Entry {
        tenure: Tenure(tenure),
        owner: NodeId(owner),
        state,
        lost,
    })
}

fn knew() -> impl Strategy<Value = Message> {
    (entries(), any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(entry, life, unbroken, left)| {
        let Message::Entry { tenure, owner, state, lost } = entry else { unreachable!("it is one") };
        let since = Since { unbroken: Epoch(unbroken), left: Epoch(left) };
        Message::Knew(Knew { tenure, owner, life: Incarnation(life), state, lost, since })
    })
}

fn reports() -> impl Strategy<Value = Message> {
    let roles = prop::sample::select(vec![Role::None, Role::Owner, Role::Sharer, Role::Ghost, Role::Tombstone]);
    (roles, any::<[u64; 4]>(), any::<u16>(), any::<[bool; 2]>()).prop_map(
        |(role, [tenure, version, seen, sent], to, [removed, has_value])| {
            Message::Have(Have {
                role,
                tenure: Tenure(tenure),
                version: Version(version),
                seen: Tenure(seen),
                removed,
                sent: Tenure(sent),
                to: NodeId(to),
                has_value,
                replicas: [NodeId(to)].into_iter().filter(|node| removed && node.is_somebody()).collect(),
            })
        },
    )
}

fn copies() -> impl Strategy<Value = CopyKind> {
    prop::sample::select(vec![CopyKind::Sharer, CopyKind::Replica, CopyKind::Ghost, CopyKind::Offer])
}

fn promotes() -> impl Strategy<Value = Message> {
    (any::<[u64; 2]>(), copies(), node_sets(), replica_sets()).prop_map(
        |([tenure, version], copy, sharers, replicas)| Message::Promote {
            tenure: Tenure(tenure),
            version: Version(version),
            copy,
            sharers,
            replicas,
        },
    )
}

fn declines() -> impl Strategy<Value = Message> {
    (any::<u64>(), copies()).prop_map(|(tenure, copy)| Message::Decline { tenure: Tenure(tenure), copy })
}

fn losses() -> impl Strategy<Value = Message> {
    (any::<[u32; 3]>(), any::<u16>(), node_sets(), node_sets(), any::<bool>()).prop_map(
        |([epoch, placement, failures], fewest_homes, before, after, forgotten)| {
            let (epoch, placement) = (Epoch(epoch), Placement(placement));
            Message::Loss(Loss { epoch, placement, failures, fewest_homes, before, after, forgotten })
        },
    )
}

fn acceptances() -> impl Strategy<Value = Message> {
    any::<Option<u32>>().prop_map(|epoch| Message::AcceptLoss { set_until: epoch.map(Epoch) })
}

fn questions() -> impl Strategy<Value = Message> {
    let copies = prop::collection::btree_map(any::<u64>(), any::<[u64; 2]>(), 0..20);
    (ids(), copies, any::<bool>()).prop_map(|(id, copies, is_answer)| {
        let copy = |(object, [tenure, version]): (u64, [u64; 2])| ReadCopy {
            object: ObjectId(object),
            tenure: Tenure(tenure),
            version: Version(version),
        };
        if is_answer {
            return Message::Revalidated { id, valid: copies.into_keys().map(ObjectId).collect() };
        }
        Message::Revalidate { id, copies: copies.into_iter().map(copy).collect() }
    })
}

fn messages() -> impl Strategy<Value = Message> {
    let of_losses = prop_oneof![losses(), acceptances(), questions()];
    prop_oneof![
        requests(),
        transfers(),
        others(),
        others(),
        entries(),
        knew(),
        reports(),
        promotes(),
        declines(),
        of_losses
    ]
}

fn envelopes() -> impl Strategy<Value = Envelope> {
    (any::<[u32; 3]>(), any::<u16>(), any::<[u64; 2]>()).prop_map(|([epoch, placement, incarnation], from, ids)| {
        Envelope {
            epoch: Epoch(epoch),
            placement: Placement(placement),
            from: NodeId(from),
            incarnation: Incarnation(incarnation),
            set: SetId(ids[0]),
            object: ObjectId(ids[1]),
        }
    })
}

fn numbers() -> impl Strategy<Value = Numbers> {
    any::<[u64; 2]>().prop_map(|[sequence, acknowledged]| Numbers { sequence, acknowledged })
}

fn encoded(envelope: &Envelope, message: &Message, numbers: Numbers, body: &[u8]) -> Vec<u8> {
    let seal = BodySeal { length: body.len() as u32, checksum: crc32fast::hash(body) };
    let mut bytes = Vec::new();
    encode(envelope, message, numbers, seal, &mut bytes).unwrap();
    bytes.extend_from_slice(body);
    bytes
}

fn plain(message: &Message) -> Vec<u8> {
    encoded(&Envelope::default(), message, Numbers::default(), b"")
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Gives a changed header the checksum of one that was meant so: a peer may lie as well as err.
fn reseal(bytes: &mut [u8]) {
    let lists = u32::from_le_bytes(bytes[LISTS_AT..LISTS_AT + 4].try_into().unwrap()) as usize;
    let end = HEADER_BYTES.saturating_add(lists).min(bytes.len());
    let checksum = crc32fast::hash(&bytes[8..end]);
    put(bytes, CHECKSUM_AT, checksum);
}

fn whole(bytes: &[u8]) -> Frame<'_> {
    match decode(bytes) {
        Ok(Decoded::Frame(frame, length)) => {
            assert_eq!(length, bytes.len());
            frame
        }
        other => panic!("not a frame: {other:?}"),
    }
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(
        envelope in envelopes(),
        message in messages(),
        numbers in numbers(),
        body in vec(any::<u8>(), 0..64),
        behind in vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = encoded(&envelope, &message, numbers, &body);
        let end = bytes.len();
        bytes.extend_from_slice(&behind);
        let Ok(Decoded::Frame(frame, length)) = decode(&bytes) else { panic!("not a frame") };
        prop_assert_eq!(length, end, "it ends where it ends, whatever follows");
        prop_assert_eq!(frame.envelope, envelope);
        prop_assert_eq!(frame.numbers, numbers);
        prop_assert_eq!(frame.message.as_ref(), Some(&message));
        let start = end - body.len();
        let Ok(DecodedHead::Head(head, at)) = decode_head(&bytes[..start]) else { panic!("no head") };
        prop_assert_eq!(at, start, "the head needs no byte of the body");
        prop_assert_eq!((head.envelope, head.numbers, head.seal), (envelope, numbers, frame.seal));
        prop_assert_eq!(head.message, Some(message));
        prop_assert!(matches!(decode_head(&bytes[..start - 1]), Ok(DecodedHead::Needs(_))));
        prop_assert_eq!(frame.body, &body[..]);
        prop_assert_eq!(frame.seal.checksum, crc32fast::hash(&body));
    }

    #[test]
    fn frames_in_a_row_are_taken_apart(
        messages in vec((envelopes(), messages(), numbers(), vec(any::<u8>(), 0..20)), 0..8),
        ack in any::<u64>(),
    ) {
        let mut bytes = Vec::new();
        for (envelope, message, numbers, body) in &messages {
            encode_ack(envelope.from, ack, &mut bytes).unwrap();
            // `encode` appends: what is there already stays, and does not count for the checksum.
            let seal = BodySeal { length: body.len() as u32, checksum: crc32fast::hash(body) };
            encode(envelope, message, *numbers, seal, &mut bytes).unwrap();
            bytes.extend_from_slice(body);
        }
        let mut rest = &bytes[..];
        for (envelope, message, _, body) in &messages {
            let Ok(Decoded::Frame(bare, length)) = decode(rest) else { panic!("not a frame") };
            prop_assert_eq!((bare.message, bare.numbers.acknowledged), (None, ack));
            rest = &rest[length..];
            let Ok(Decoded::Frame(frame, length)) = decode(rest) else { panic!("not a frame") };
            prop_assert_eq!((frame.envelope, frame.body), (*envelope, &body[..]));
            prop_assert_eq!(frame.message.as_ref(), Some(message));
            rest = &rest[length..];
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn a_flipped_bit_is_noticed(
        envelope in envelopes(),
        message in messages(),
        numbers in numbers(),
        body in vec(any::<u8>(), 0..8),
    ) {
        let mut bytes = encoded(&envelope, &message, numbers, &body);
        let head = bytes.len() - body.len();
        for bit in 0..8 * bytes.len() {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if bit / 8 < head {
                prop_assert!(decode(&bytes).is_err(), "bit {} of the header is not checked", bit);
            } else {
                let frame = whole(&bytes);
                prop_assert_eq!(frame.message.as_ref(), Some(&message));
                prop_assert_ne!(frame.seal.checksum, crc32fast::hash(frame.body), "the home checks the body");
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_cut_frame_says_how_much_is_missing(
        envelope in envelopes(),
        message in messages(),
        body in vec(any::<u8>(), 0..64),
    ) {
        let bytes = encoded(&envelope, &message, Numbers::default(), &body);
        for cut in 0..bytes.len() {
            match decode(&bytes[..cut]) {
                Ok(Decoded::Needs(needed)) => prop_assert!(cut < needed && needed <= bytes.len()),
                other => panic!("cut at {cut}: {other:?}"),
            }
        }
    }

    #[test]
    fn noise_is_no_frame_and_no_panic(bytes in vec(any::<u8>(), 0..400)) {
        prop_assert!(!matches!(decode(&bytes), Ok(Decoded::Frame(..))));
    }

    /// With format and checksum right, whatever comes out is something that can be said again.
    #[test]
    fn sealed_noise_is_refused_or_means_something(
        mut bytes in vec(any::<u8>(), HEADER_BYTES..HEADER_BYTES + 60),
        class in 0_u8..4,
        kind in 0_u8..MESSAGE_KINDS as u8 + 2,
        lists in 0_u32..40,
    ) {
        bytes[8..11].copy_from_slice(&[FORMAT, class, kind]);
        let total = bytes.len() as u32;
        let lists = lists.min(total - HEADER_BYTES as u32);
        put(&mut bytes, LENGTH_AT, total);
        put(&mut bytes, LISTS_AT, lists);
        put(&mut bytes, BODY_AT, total - HEADER_BYTES as u32 - lists);
        reseal(&mut bytes);
        match decode(&bytes) {
            Ok(Decoded::Frame(Frame { message: Some(message), envelope, numbers, body, seal }, _)) => {
                let again = encoded(&envelope, &message, numbers, body);
                let frame = whole(&again);
                prop_assert_eq!(frame.message, Some(message));
                prop_assert_eq!((frame.envelope, frame.numbers, frame.body), (envelope, numbers, body));
                prop_assert_eq!(frame.seal.length, seal.length);
            }
            Ok(Decoded::Frame(frame, _)) => prop_assert!(class == 2 && frame.body.is_empty()),
            Ok(Decoded::Needs(_)) => panic!("all of it was there"),
            Err(_) => {}
        }
    }
}

#[test]
fn all_the_members_there_can_be_fit_into_the_lists() {
    let all = || (1..=u16::MAX).map(NodeId).collect::<NodeSet>();
    let message = Message::Transfer {
        tenure: Tenure(1),
        version: Version(2),
        born: Tenure(1),
        sharers: all(),
        replicas: (1..=MOST_REPLICAS as u16).map(NodeId).collect(),
        has_value: false,
        id: RequestId::default(),
    };
    let bytes = plain(&message);
    assert_eq!(bytes.len(), HEADER_BYTES + 4 + 2 * MOST_NODES + 2 * MOST_REPLICAS);
    assert_eq!(whole(&bytes).message, Some(message));
}

/// A header that claims more than there can be is refused at once: nobody waits for the rest of it.
#[test]
fn claims_beyond_the_limits_are_refused_from_the_header_alone() {
    let id = RequestId { node: NodeId(1), ..RequestId::default() };
    let honest = plain(&Message::Busy { id });
    let header = HEADER_BYTES as u64;
    let limit_lists = 4 + 4 * MOST_NODES as u64;
    let limit_body = MOST_BODY_BYTES as u64;
    let most = u64::from(u32::MAX);
    for (lists, body, length, field) in [
        (0, limit_body + 1, header + limit_body + 1, Some("body")),
        (0, most, most, Some("body")),
        (0, most, header + most, Some("body")), // The sum wraps around 32 bits.
        (limit_lists + 1, 0, header + limit_lists + 1, Some("lists")),
        (most, 0, most, Some("lists")),
        (most, most, most, Some("lists")),
        (0, 0, most, Some("length")),
        (0, 0, 0, Some("length")),
        (0, 1, header, Some("length")),
        (2, 0, header + 4, Some("length")),
        (0, limit_body, header + limit_body, None),
        (limit_lists, limit_body, header + limit_lists + limit_body, None),
    ] {
        let mut bytes = honest.clone();
        put(&mut bytes, LENGTH_AT, length as u32);
        put(&mut bytes, LISTS_AT, lists as u32);
        put(&mut bytes, BODY_AT, body as u32);
        reseal(&mut bytes);
        match (decode(&bytes), field) {
            (Err(DecodeError::Length { field, .. }), Some(expected)) => assert_eq!(field, expected),
            (Ok(Decoded::Needs(needed)), None) => assert!(needed as u64 <= header + lists + body),
            (other, _) => panic!("lists {lists}, body {body}, length {length}: {other:?}"),
        }
    }
}

#[test]
fn another_format_is_named() {
    let mut bytes = plain(&Message::Confirm { tenure: Tenure(1) });
    bytes[8] = FORMAT + 1;
    reseal(&mut bytes);
    assert_eq!(decode(&bytes), Err(DecodeError::Format(FORMAT + 1)));
}

#[test]
fn values_that_no_sender_writes_are_refused() {
    let id = RequestId { node: NodeId(9), incarnation: Incarnation(1), counter: 1 };
    let kind = RequestKind::Get { existing: false };
    let get = Request { id, kind, tau: Tenure(0), forwards: 0, inherited: false, first: false, to_home: false };
    let request = plain(&Message::Request(get));
    let changed = |bytes: &[u8], at: usize, value: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = value;
        reseal(&mut bytes);
        match decode(&bytes) {
            Err(DecodeError::Value { field, .. }) => field,
            other => panic!("byte {at} as {value}: {other:?}"),
        }
    };
    for class in (0..=u8::MAX).filter(|class| ![1, 2].contains(class)) {
        assert_eq!(changed(&request, CLASS_AT, class), "class");
    }
    for kind in MESSAGE_KINDS as u8..=u8::MAX {
        assert_eq!(changed(&request, KIND_AT, kind), "kind");
    }
    let entry = plain(&Message::Entry { tenure: Tenure(1), owner: NodeId(1), state: EntryState::Fact, lost: false });
    // The greatest bit says that it is lost.
    for state in (0..=u8::MAX).filter(|flags| flags & 0x7f > 5) {
        assert_eq!(changed(&entry, FLAGS_AT, state), "entry state");
    }
    let (floor, in_doubt, unbroken) = (Tenure(1), false, Epoch(0));
    let shard = plain(&Message::ShardIsYours { shard: ShardIndex(0), floor, in_doubt, unbroken });
    assert_eq!(changed(&shard, COUNTER_AT + 1, 4), "shard", "there are 1,024");
    let reported = plain(&Message::Reported { shard: ShardIndex(0), forgotten: Tenure(1) });
    assert_eq!(changed(&reported, COUNTER_AT + 1, 4), "shard", "there are 1,024");
    let have = plain(&Message::Have(Have::default()));
    for role in 5..8 {
        assert_eq!(changed(&have, FLAGS_AT, role), "role");
    }
    let copy = CopyKind::Sharer;
    let decline = plain(&Message::Decline { tenure: Tenure(1), copy });
    let (sharers, replicas) = (NodeSet::new(), ReplicaSet::new());
    let promote = plain(&Message::Promote { tenure: Tenure(1), version: Version(1), copy, sharers, replicas });
    for copy in 4..=u8::MAX {
        assert_eq!(changed(&decline, FLAGS_AT, copy), "copy");
        assert_eq!(changed(&promote, FLAGS_AT, copy), "copy");
    }
    let placed = plain(&Message::Placed { placement: Placement(1) });
    assert_eq!(changed(&placed, COUNTER_AT + 4, 1), "placement", "it has 32 bits");
    for kind in 4..16 {
        assert_eq!(changed(&request, FLAGS_AT, kind << 4), "request kind");
    }
    assert_eq!(changed(&request, REQUEST_NODE_AT, 0), "request node");
    let flush = plain(&Message::Request(Request { kind: RequestKind::Flush { to: NodeId(2) }, ..get }));
    assert_eq!(changed(&flush, CLASS_AT, 1), "request kind", "a flush never leaves its node");
}

#[test]
fn node_lists_are_counted_sorted_and_used_up() {
    let transfer = |lists: &[u8]| {
        let message = Message::Transfer {
            tenure: Tenure(1),
            version: Version(1),
            born: Tenure(1),
            sharers: NodeSet::new(),
            replicas: ReplicaSet::new(),
            has_value: false,
            id: RequestId::default(),
        };
        let mut bytes = plain(&message);
        bytes.truncate(HEADER_BYTES);
        bytes.extend_from_slice(lists);
        let length = bytes.len() as u32;
        put(&mut bytes, LENGTH_AT, length);
        put(&mut bytes, LISTS_AT, lists.len() as u32);
        reseal(&mut bytes);
        match decode(&bytes) {
            Ok(Decoded::Frame(frame, _)) => Ok(frame.message.unwrap()),
            Ok(needs) => panic!("{needs:?}"),
            Err(error) => Err(error),
        }
    };
    assert!(transfer(&[1, 0, 5, 0, 1, 0, 6, 0]).is_ok());
    let replicas = |count: u8| [vec![0, 0, count, 0], (1..=count).flat_map(|node| [node, 0]).collect()].concat();
    assert!(transfer(&replicas(MOST_REPLICAS as u8)).is_ok());
    let too_many = transfer(&replicas(MOST_REPLICAS as u8 + 1));
    assert!(matches!(too_many, Err(DecodeError::Value { field: "replicas", .. })), "{too_many:?}");
    let disorder = [&[2, 0, 5, 0, 4, 0, 0, 0][..], &[2, 0, 5, 0, 5, 0, 0, 0], &[1, 0, 0, 0, 0, 0]];
    for lists in disorder {
        assert!(matches!(transfer(lists), Err(DecodeError::Value { field: "node list", .. })), "{lists:?}");
    }
    let wrong_counts = [&[][..], &[0], &[0, 0], &[0, 0, 0], &[1, 0, 3, 0], &[0xff, 0xff, 1, 0, 0, 0], &[0, 0, 0, 0, 0]];
    for lists in wrong_counts {
        assert!(matches!(transfer(lists), Err(DecodeError::Length { .. })), "{lists:?}");
    }
}

#[test]
fn copies_are_whole_in_order_and_not_too_many() {
    let id = RequestId { node: NodeId(1), ..RequestId::default() };
    let copy = |object| ReadCopy { object: ObjectId(object), tenure: Tenure(1), version: Version(1) };
    let question =
        |objects: &[u64]| plain(&Message::Revalidate { id, copies: objects.iter().map(|of| copy(*of)).collect() });
    let answer =
        |objects: &[u64]| plain(&Message::Revalidated { id, valid: objects.iter().copied().map(ObjectId).collect() });
    let (most, more): (Vec<u64>, Vec<u64>) =
        ((0..COPIES_AT_ONCE as u64).collect(), (0..=COPIES_AT_ONCE as u64).collect());
    for bytes in [question(&most), answer(&most)] {
        assert!(matches!(decode(&bytes), Ok(Decoded::Frame(..))));
    }
    for bytes in [question(&more), answer(&more)] {
        assert!(matches!(decode(&bytes), Err(DecodeError::Length { field: "copies", .. })));
    }
    for bytes in [question(&[2, 1]), question(&[1, 1]), answer(&[2, 1]), answer(&[3, 3])] {
        assert!(matches!(decode(&bytes), Err(DecodeError::Value { field: "copies", .. })));
    }
    for (mut bytes, part) in [(question(&[1, 2]), 16), (answer(&[1, 2]), 4)] {
        let lists = bytes.len() - HEADER_BYTES - part;
        bytes.truncate(HEADER_BYTES + lists);
        put(&mut bytes, LENGTH_AT, (HEADER_BYTES + lists) as u32);
        put(&mut bytes, LISTS_AT, lists as u32);
        reseal(&mut bytes);
        assert!(matches!(decode(&bytes), Err(DecodeError::Length { field: "copies", .. })));
    }
}

#[test]
fn only_a_transfer_and_a_promote_have_lists_and_an_ack_has_neither_lists_nor_body() {
    let mut message = plain(&Message::Confirm { tenure: Tenure(1) });
    let mut ack = Vec::new();
    encode_ack(NodeId(1), 1, &mut ack).unwrap();
    for bytes in [&mut message, &mut ack] {
        bytes.extend_from_slice(&[0; 4]);
        put(bytes, LENGTH_AT, HEADER_BYTES as u32 + 4);
        put(bytes, LISTS_AT, 4);
        reseal(bytes);
        assert!(decode(bytes).is_err());
    }
    put(&mut ack, LISTS_AT, 0);
    put(&mut ack, BODY_AT, 4);
    reseal(&mut ack);
    assert!(matches!(decode(&ack), Err(DecodeError::Value { field: "class", .. })));
}
