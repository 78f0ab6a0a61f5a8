//! What is read from the fields of a header, and from the lists behind it. All of it may be a lie.

use super::*;

fn request_id(header: &Header) -> RequestId {
    RequestId {
        node: NodeId(header.request_node.get()),
        incarnation: Incarnation(header.request_incarnation.get()),
        counter: header.counter.get(),
    }
}

/// The kinds that have lists.
fn has_lists(kind: u8) -> bool {
    matches!(kind, 3 | 23 | 27 | 30 | 35 | 36)
}

pub(super) fn message(header: &Header, lists: &[u8]) -> Result<Message, DecodeError> {
    let tenure = Tenure(header.tenure.get());
    let version = Version(header.version.get());
    let second = Tenure(header.second.get());
    let node = NodeId(header.node.get());
    let id = request_id(header);
    if !lists.is_empty() && !has_lists(header.kind) {
        return Err(DecodeError::Length { field: "lists", value: lists.len() as u64 });
    }
    Ok(match header.kind {
        0 => Message::Request(request(header, id, second)?),
        1 => Message::Create { tenure, id },
        2 => Message::Data { tenure, version, id },
        3 => {
            let (sharers, replicas) = both_lists(lists)?;
            let has_value = header.flags & flag::HAS_VALUE != 0;
            Message::Transfer { tenure, version, born: second, sharers, replicas, has_value, id }
        }
        4 => Message::Invalidate { tenure, version, owner: node, remove: header.flags & flag::REMOVE != 0 },
        5 => Message::Ack { tenure, version },
        6 => Message::Confirm { tenure },
        7 => Message::OwnerIs { owner: node, tenure },
        8 => Message::Removing { tenure, forwarded: header.flags & flag::FORWARDED != 0 },
        9 => Message::Removed { tenure },
        10 => Message::RemoveDone { id },
        11 => Message::NotFound { id },
        12 => Message::Busy { id },
        13 => Message::Lost { id },
        14 => Message::TryInvalidate { tenure, version, id },
        15 => Message::TryAnswer { id, held: header.flags & flag::HELD != 0 },
        16 => Message::Flushed { id },
        17 => Message::Entry {
            tenure,
            owner: node,
            state: entry_state(header.flags & !flag::LOST)?,
            lost: header.flags & flag::LOST != 0,
        },
        18 => Message::ShardIsYours {
            shard: shard(id.counter)?,
            floor: tenure,
            in_doubt: header.flags & flag::IN_DOUBT != 0,
            unbroken: epoch(second.0)?,
        },
        19 => Message::Placed { placement: placement(id.counter)? },
        20 => Message::Push { tenure, version },
        21 => Message::PushAck { tenure, version },
        22 => Message::DropReplica { tenure },
        23 => Message::Have(have(header, lists)?),
        24 => Message::HaveReplica { tenure, version },
        25 => Message::Reported { shard: shard(id.counter)?, forgotten: tenure },
        26 => Message::AllReported,
        27 => {
            let (sharers, replicas) = both_lists(lists)?;
            Message::Promote { tenure, version, copy: copy_kind(header.flags)?, sharers, replicas }
        }
        28 => Message::Decline { tenure, copy: copy_kind(header.flags)? },
        29 => Message::Orphan { tenure, version },
        30 => Message::Loss(loss(header, lists)?),
        31 if header.flags & flag::OF_SET == 0 => Message::AcceptLoss { set_until: None },
        31 => Message::AcceptLoss { set_until: Some(epoch(id.counter)?) },
        32 => Message::Wanted { shard: shard(id.counter)? },
        33 => Message::ReplicaGone { tenure },
        34 => Message::HaveOffer { tenure, version, left: epoch(id.counter)? },
        36 => Message::Revalidated { id, valid: words(lists, |[object]| ObjectId(object), |object| *object)? },
        35 => Message::Revalidate { id, copies: read_copies(lists)? },
        _ => of_former_homes(header)?,
    })
}

/// The same for what those say who are back.
fn of_former_homes(header: &Header) -> Result<Message, DecodeError> {
    let (tenure, node, counter) = (Tenure(header.tenure.get()), NodeId(header.node.get()), header.counter.get());
    let (unbroken, left) = ((header.second.get() >> 32) as u32, header.second.get() as u32);
    let since = Since { unbroken: Epoch(unbroken), left: Epoch(left) };
    Ok(match header.kind {
        37 => Message::Returned { left: epoch(counter)? },
        38 => Message::Knew(Knew {
            tenure,
            owner: node,
            life: life(counter)?,
            state: entry_state(header.flags & !flag::LOST)?,
            lost: header.flags & flag::LOST != 0,
            since,
        }),
        39 => Message::KnewAll {
            shard: shard(counter)?,
            floor: tenure,
            in_doubt: header.flags & flag::IN_DOUBT != 0,
            since,
        },
        kind => return Err(DecodeError::Value { field: "kind", value: kind.into() }),
    })
}

fn entry_state(flags: u8) -> Result<EntryState, DecodeError> {
    match flags {
        0 => Ok(EntryState::Predicted),
        1 => Ok(EntryState::Fact),
        2 => Ok(EntryState::Removing),
        3 => Ok(EntryState::Promoted),
        4 => Ok(EntryState::Unknown),
        5 => Ok(EntryState::Absent),
        flags => Err(DecodeError::Value { field: "entry state", value: flags.into() }),
    }
}

fn role(flags: u8) -> Result<Role, DecodeError> {
    match flags {
        0 => Ok(Role::None),
        1 => Ok(Role::Owner),
        2 => Ok(Role::Sharer),
        3 => Ok(Role::Ghost),
        4 => Ok(Role::Tombstone),
        flags => Err(DecodeError::Value { field: "role", value: flags.into() }),
    }
}

fn copy_kind(flags: u8) -> Result<CopyKind, DecodeError> {
    match flags {
        0 => Ok(CopyKind::Sharer),
        1 => Ok(CopyKind::Replica),
        2 => Ok(CopyKind::Ghost),
        3 => Ok(CopyKind::Offer),
        flags => Err(DecodeError::Value { field: "copy", value: flags.into() }),
    }
}

/// Sharers and replicas, and nothing behind them.
fn both_lists(lists: &[u8]) -> Result<(NodeSet, ReplicaSet), DecodeError> {
    let (sharers, rest) = list(lists)?;
    let (replicas, rest) = list(rest)?;
    if !rest.is_empty() {
        return Err(DecodeError::Length { field: "lists", value: lists.len() as u64 });
    }
    if replicas.len() > MOST_REPLICAS {
        return Err(DecodeError::Value { field: "replicas", value: replicas.len() as u64 });
    }
    Ok((sharers, replicas.iter().collect()))
}

fn have(header: &Header, lists: &[u8]) -> Result<Have, DecodeError> {
    Ok(Have {
        role: role(header.flags & flag::ROLE)?,
        tenure: Tenure(header.tenure.get()),
        version: Version(header.version.get()),
        seen: Tenure(header.counter.get()),
        removed: header.flags & flag::HAVE_REMOVED != 0,
        sent: Tenure(header.second.get()),
        to: NodeId(header.node.get()),
        has_value: header.flags & flag::HAVE_VALUE != 0,
        replicas: if lists.is_empty() { ReplicaSet::new() } else { both_lists(lists)?.1 },
    })
}

fn loss(header: &Header, lists: &[u8]) -> Result<Loss, DecodeError> {
    let (before, rest) = list(lists)?;
    let (after, rest) = list(rest)?;
    if !rest.is_empty() {
        return Err(DecodeError::Length { field: "lists", value: lists.len() as u64 });
    }
    let (version, second, both) = (header.version.get(), header.second.get(), header.tenure.get());
    Ok(Loss {
        epoch: Epoch((both >> 32) as u32),
        placement: Placement(both as u32),
        failures: number("failures", version)?,
        fewest_homes: number("fewest homes", second)?,
        before,
        after,
        forgotten: header.flags & flag::FORGOTTEN != 0,
    })
}

fn number<N: TryFrom<u64>>(field: &'static str, value: u64) -> Result<N, DecodeError> {
    N::try_from(value).map_err(|_| DecodeError::Value { field, value })
}

fn epoch(value: u64) -> Result<Epoch, DecodeError> {
    number("epoch", value).map(Epoch)
}

fn life(value: u64) -> Result<Incarnation, DecodeError> {
    number("life", value).map(Incarnation)
}

fn shard(number: u64) -> Result<ShardIndex, DecodeError> {
    let shard = u16::try_from(number).ok().filter(|shard| *shard < SHARDS_PER_SET);
    shard.map(ShardIndex).ok_or(DecodeError::Value { field: "shard", value: number })
}

fn placement(value: u64) -> Result<Placement, DecodeError> {
    number("placement", value).map(Placement)
}

fn request(header: &Header, id: RequestId, tau: Tenure) -> Result<Request, DecodeError> {
    let existing = header.flags & flag::EXISTING != 0;
    let kind = match header.flags >> flag::KIND_SHIFT {
        0 => RequestKind::Get { existing },
        1 => RequestKind::Grab { existing },
        2 => RequestKind::TryGrab,
        3 => RequestKind::Remove,
        kind => return Err(DecodeError::Value { field: "request kind", value: kind.into() }),
    };
    if !id.node.is_somebody() {
        return Err(DecodeError::Value { field: "request node", value: 0 });
    }
    let inherited = header.flags & flag::INHERITED != 0;
    let first = header.flags & flag::FIRST != 0;
    let to_home = header.flags & flag::TO_HOME != 0;
    Ok(Request { id, kind, tau, forwards: header.forwards, inherited, first, to_home })
}

fn read_copies(bytes: &[u8]) -> Result<Vec<ReadCopy>, DecodeError> {
    let copy = |[object, tenure, version]: [u64; 3]| ReadCopy {
        object: ObjectId(object),
        tenure: Tenure(tenure),
        version: Version(version),
    };
    words(bytes, copy, |copy| copy.object)
}

/// Things of `N` words each, by ascending object, as many as there are bytes for.
fn words<const N: usize, E>(
    bytes: &[u8],
    of: impl Fn([u64; N]) -> E,
    object: impl Fn(&E) -> ObjectId,
) -> Result<Vec<E>, DecodeError> {
    let length = bytes.len();
    if !length.is_multiple_of(8 * N) || length > 8 * N * COPIES_AT_ONCE {
        return Err(DecodeError::Length { field: "copies", value: length as u64 });
    }
    let mut found: Vec<E> = Vec::new();
    found.try_reserve_exact(length / (8 * N)).map_err(|_| DecodeError::NoMemory)?;
    for bytes in bytes.chunks_exact(8 * N) {
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let next = of(words);
        if found.last().is_some_and(|last| object(last) >= object(&next)) {
            return Err(DecodeError::Value { field: "copies", value: object(&next).0 });
        }
        found.push(next);
    }
    Ok(found)
}

/// A counted list of nodes in ascending order.
fn list(bytes: &[u8]) -> Result<(NodeSet, &[u8]), DecodeError> {
    let short = DecodeError::Length { field: "node list", value: bytes.len() as u64 };
    let (count, rest) = U16::read_from_prefix(bytes).map_err(|_| short)?;
    let count = usize::from(count.get());
    let (nodes, rest) = rest.split_at_checked(2 * count).ok_or(short)?;
    let mut set = NodeSet::new();
    set.reserve(count).map_err(|_| DecodeError::NoMemory)?;
    let mut last = NodeId::NOBODY;
    for pair in nodes.chunks_exact(2) {
        let node = NodeId(u16::from_le_bytes([pair[0], pair[1]]));
        if node <= last {
            return Err(DecodeError::Value { field: "node list", value: node.0.into() });
        }
        set.insert(node);
        last = node;
    }
    Ok((set, rest))
}
