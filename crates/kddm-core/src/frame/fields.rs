//! Which field of the header means what in each kind of message, both ways.

use super::*;

fn put_id(header: &mut Header, id: &RequestId) {
    header.request_node = id.node.0.into();
    header.request_incarnation = id.incarnation.0.into();
    header.counter = id.counter.into();
}

/// The two lists of nodes behind the header of some messages: sharers, replicas.
pub(super) type Lists<'m> = (&'m [NodeId], &'m [NodeId]);

/// Fills the fields that this kind of message has.
pub(super) fn fill<'m>(header: &mut Header, message: &'m Message) -> Option<Lists<'m>> {
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
        Message::Transfer { .. } | Message::Promote { .. } | Message::Have(_) | Message::Loss(_) => {
            return fill_with_lists(header, message);
        }
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
        | Message::Orphan { tenure, version } => {
            header.tenure = tenure.0.into();
            header.version = version.0.into();
        }
        Message::HaveOffer { tenure, version, left } => {
            header.tenure = tenure.0.into();
            header.version = version.0.into();
            header.counter = u64::from(left.0).into();
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
        | Message::AllReported
        | Message::Wanted { .. }
        | Message::AcceptLoss { .. } => fill_placing(header, message),
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
    None
}

/// The same for messages that have lists of nodes, too.
fn fill_with_lists<'m>(header: &mut Header, message: &'m Message) -> Option<Lists<'m>> {
    match message {
        Message::Transfer { tenure, version, born, sharers, replicas, has_value, id } => {
            header.tenure = tenure.0.into();
            header.version = version.0.into();
            header.second = born.0.into();
            header.flags = u8::from(*has_value) * flag::HAS_VALUE;
            put_id(header, id);
            Some((sharers.as_slice(), replicas.as_slice()))
        }
        Message::Promote { tenure, version, copy, sharers, replicas } => {
            header.tenure = tenure.0.into();
            header.version = version.0.into();
            header.flags = *copy as u8;
            Some((sharers.as_slice(), replicas.as_slice()))
        }
        Message::Have(have) => {
            fill_placing(header, message);
            let any = !have.replicas.is_empty();
            any.then_some((&[], have.replicas.as_slice()))
        }
        Message::Loss(loss) => {
            header.tenure = (u64::from(loss.epoch.0) << 32 | u64::from(loss.placement.0)).into();
            header.version = u64::from(loss.failures).into();
            header.second = u64::from(loss.fewest_homes).into();
            header.flags = u8::from(loss.forgotten) * flag::FORGOTTEN;
            Some((loss.before.as_slice(), loss.after.as_slice()))
        }
        _ => None,
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
        Message::Wanted { shard } => header.counter = u64::from(shard.0).into(),
        Message::Placed { placement } => header.counter = u64::from(placement.0).into(),
        Message::AcceptLoss { set_until: Some(epoch) } => {
            header.counter = u64::from(epoch.0).into();
            header.flags = flag::OF_SET;
        }
        _ => {}
    }
}

pub(super) fn message(header: &Header, lists: &[u8]) -> Result<Message, DecodeError> {
    let tenure = Tenure(header.tenure.get());
    let version = Version(header.version.get());
    let second = Tenure(header.second.get());
    let node = NodeId(header.node.get());
    let id = RequestId {
        node: NodeId(header.request_node.get()),
        incarnation: Incarnation(header.request_incarnation.get()),
        counter: header.counter.get(),
    };
    if !matches!(header.kind, 3 | 23 | 27 | 30) && !lists.is_empty() {
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
