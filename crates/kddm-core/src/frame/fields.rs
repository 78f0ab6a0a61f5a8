//! Which field of the header means what in each kind of message, both ways.

use super::*;

fn put_id(header: &mut Header, id: &RequestId) {
    header.request_node = id.node.0.into();
    header.request_incarnation = id.incarnation.0.into();
    header.counter = id.counter.into();
}

/// What stands behind the header of some messages.
pub(super) enum Lists<'m> {
    Nothing,
    /// Sharers, replicas.
    Nodes(&'m [NodeId], &'m [NodeId]),
    Copies(&'m [ReadCopy]),
    Objects(&'m [ObjectId]),
}

/// Bytes of a read copy.
const COPY_BYTES: usize = 24;

/// Bytes of the number of an object.
const OBJECT_BYTES: usize = 8;

impl Lists<'_> {
    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        match self {
            Lists::Nothing => 0,
            Lists::Nodes(sharers, replicas) => 4 + 2 * (sharers.len() + replicas.len()),
            Lists::Copies(copies) => COPY_BYTES * copies.len(),
            Lists::Objects(objects) => OBJECT_BYTES * objects.len(),
        }
    }

    /// Appends them. Room has been reserved.
    pub fn append(&self, out: &mut Vec<u8>) {
        match self {
            Lists::Nothing => {}
            Lists::Nodes(sharers, replicas) => {
                for list in [sharers, replicas] {
                    out.extend_from_slice(&(list.len() as u16).to_le_bytes());
                    list.iter().for_each(|node| out.extend_from_slice(&node.0.to_le_bytes()));
                }
            }
            Lists::Copies(copies) => {
                for ReadCopy { object, tenure, version } in *copies {
                    for word in [object.0, tenure.0, version.0] {
                        out.extend_from_slice(&word.to_le_bytes());
                    }
                }
            }
            Lists::Objects(objects) => {
                objects.iter().for_each(|object| out.extend_from_slice(&object.0.to_le_bytes()));
            }
        }
    }
}

/// Fills the fields that this kind of message has.
pub(super) fn fill<'m>(header: &mut Header, message: &'m Message) -> Lists<'m> {
    match message {
        Message::Request(request) => fill_request(header, request),
        Message::Create { tenure, id } => {
            header.tenure = tenure.0.into();
            put_id(header, id);
        }
        Message::Data { tenure, version, id } | Message::TryInvalidate { tenure, version, id } => {
            header.tenure = tenure.0.into();
            header.version = version.0.into();
            put_id(header, id);
        }
        Message::Transfer { .. }
        | Message::Promote { .. }
        | Message::Have(_)
        | Message::Loss(_)
        | Message::Revalidate { .. }
        | Message::Revalidated { .. } => return fill_with_lists(header, message),
        Message::Invalidate { tenure, version, owner, remove } => {
            header.tenure = tenure.0.into();
            header.version = version.0.into();
            header.node = owner.0.into();
            header.flags = u8::from(*remove) * flag::REMOVE;
        }
        Message::Ack { tenure, version }
        | Message::Push { tenure, version }
        | Message::PushAck { tenure, version }
        | Message::HaveReplica { tenure, version }
        | Message::HaveOffer { tenure, version, .. }
        | Message::Orphan { tenure, version } => {
            header.tenure = tenure.0.into();
            header.version = version.0.into();
            if let Message::HaveOffer { left, .. } = message {
                header.counter = u64::from(left.0).into();
            }
        }
        Message::Confirm { tenure }
        | Message::Removed { tenure }
        | Message::DropReplica { tenure }
        | Message::ReplicaGone { tenure } => {
            header.tenure = tenure.0.into();
        }
        Message::OwnerIs { owner, tenure } => {
            header.tenure = tenure.0.into();
            header.node = owner.0.into();
        }
        Message::Decline { tenure, copy } => {
            header.tenure = tenure.0.into();
            header.flags = *copy as u8;
        }
        Message::Removing { .. }
        | Message::Entry { .. }
        | Message::ShardIsYours { .. }
        | Message::Placed { .. }
        | Message::Reported { .. }
        | Message::Wanted { .. }
        | Message::Returned { .. }
        | Message::AcceptLoss { .. } => fill_placing(header, message),
        Message::AllReported => {}
        Message::RemoveDone { id }
        | Message::NotFound { id }
        | Message::Busy { id }
        | Message::Lost { id }
        | Message::Flushed { id } => put_id(header, id),
        Message::TryAnswer { id, held } => {
            header.flags = u8::from(*held) * flag::HELD;
            put_id(header, id);
        }
    }
    Lists::Nothing
}

/// The same for messages that have lists, too.
fn fill_with_lists<'m>(header: &mut Header, message: &'m Message) -> Lists<'m> {
    match message {
        Message::Transfer { tenure, version, born, sharers, replicas, has_value, id } => {
            header.tenure = tenure.0.into();
            header.version = version.0.into();
            header.second = born.0.into();
            header.flags = u8::from(*has_value) * flag::HAS_VALUE;
            put_id(header, id);
            Lists::Nodes(sharers.as_slice(), replicas.as_slice())
        }
        Message::Promote { tenure, version, copy, sharers, replicas } => {
            header.tenure = tenure.0.into();
            header.version = version.0.into();
            header.flags = *copy as u8;
            Lists::Nodes(sharers.as_slice(), replicas.as_slice())
        }
        Message::Have(have) => {
            fill_placing(header, message);
            if have.replicas.is_empty() { Lists::Nothing } else { Lists::Nodes(&[], have.replicas.as_slice()) }
        }
        Message::Loss(loss) => {
            header.tenure = (u64::from(loss.epoch.0) << 32 | u64::from(loss.placement.0)).into();
            header.version = u64::from(loss.failures).into();
            header.second = u64::from(loss.fewest_homes).into();
            header.flags = u8::from(loss.forgotten) * flag::FORGOTTEN;
            Lists::Nodes(loss.before.as_slice(), loss.after.as_slice())
        }
        Message::Revalidate { id, copies } => {
            put_id(header, id);
            Lists::Copies(copies)
        }
        Message::Revalidated { id, valid } => {
            put_id(header, id);
            Lists::Objects(valid)
        }
        _ => Lists::Nothing,
    }
}

/// The same for requests.
fn fill_request(header: &mut Header, request: &Request) {
    put_id(header, &request.id);
    header.second = request.tau.0.into();
    header.forwards = request.forwards;
    let (kind, existing) = match request.kind {
        RequestKind::Get { existing } => (0, existing),
        RequestKind::Grab { existing } => (1, existing),
        RequestKind::TryGrab => (2, false),
        RequestKind::Remove => (3, false),
        RequestKind::Flush { .. } => (4, false), // Refused by every receiver.
    };
    header.flags = (kind << flag::KIND_SHIFT)
        | (u8::from(existing) * flag::EXISTING)
        | (u8::from(request.inherited) * flag::INHERITED)
        | (u8::from(request.first) * flag::FIRST)
        | (u8::from(request.to_home) * flag::TO_HOME);
}

/// The same for what a home is told.
fn fill_placing(header: &mut Header, message: &Message) {
    match message {
        Message::Removing { tenure, forwarded } => {
            header.tenure = tenure.0.into();
            header.flags = u8::from(*forwarded) * flag::FORWARDED;
        }
        Message::Entry { tenure, owner, state, lost } => {
            header.tenure = tenure.0.into();
            header.node = owner.0.into();
            header.flags = *state as u8 | (u8::from(*lost) * flag::LOST);
        }
        Message::ShardIsYours { shard, floor, in_doubt, unbroken } => {
            header.second = u64::from(unbroken.0).into();
            header.tenure = floor.0.into();
            header.counter = u64::from(shard.0).into();
            header.flags = u8::from(*in_doubt) * flag::IN_DOUBT;
        }
        Message::Reported { shard, forgotten } => {
            header.tenure = forgotten.0.into();
            header.counter = u64::from(shard.0).into();
        }
        Message::Have(have) => {
            header.tenure = have.tenure.0.into();
            header.version = have.version.0.into();
            header.second = have.sent.0.into();
            header.counter = have.seen.0.into();
            header.node = have.to.0.into();
            header.flags = have.role as u8
                | (u8::from(have.has_value) * flag::HAVE_VALUE)
                | (u8::from(have.removed) * flag::HAVE_REMOVED);
        }
        Message::Returned { left } => header.counter = u64::from(left.0).into(),
        Message::Wanted { shard } => header.counter = u64::from(shard.0).into(),
        Message::Placed { placement } => header.counter = u64::from(placement.0).into(),
        Message::AcceptLoss { set_until: Some(epoch) } => {
            header.counter = u64::from(epoch.0).into();
            header.flags = flag::OF_SET;
        }
        _ => {}
    }
}

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
        35 => Message::Revalidate { id, copies: read_copies(lists)? },
        37 => Message::Returned { left: epoch(id.counter)? },
        36 => Message::Revalidated { id, valid: words(lists, |[object]| ObjectId(object), |object| *object)? },
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
