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
        Message::RemoveDone { id }
        | Message::NotFound { id }
        | Message::Busy { id }
        | Message::Lost { id }
        | Message::Flushed { id } => put_id(header, id),
        Message::TryAnswer { id, held } => {
            header.flags = u8::from(*held) * flag::HELD;
            put_id(header, id);
        }
        placing => fill_placing(header, placing),
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
        Message::Knew(Knew { tenure, owner, life, state, lost, since }) => {
            header.tenure = tenure.0.into();
            header.node = owner.0.into();
            header.counter = u64::from(life.0).into();
            header.flags = *state as u8 | (u8::from(*lost) * flag::LOST);
            header.second = both_epochs(*since).into();
        }
        Message::KnewAll { shard, floor, in_doubt, since } => {
            header.tenure = floor.0.into();
            header.counter = u64::from(shard.0).into();
            header.flags = u8::from(*in_doubt) * flag::IN_DOUBT;
            header.second = both_epochs(*since).into();
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

fn both_epochs(since: Since) -> u64 {
    u64::from(since.unbroken.0) << 32 | u64::from(since.left.0)
}
