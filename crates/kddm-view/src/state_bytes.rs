//! The bytes of a whole state: what a joining node is given, and one that is far behind.

use std::collections::BTreeMap;

use kddm_core::id::{Epoch, Incarnation, NodeId, Placement};
use kddm_core::view::NodeState;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::change::{Site, WireState, check_address, check_site, check_voters};
use crate::frozen::{Frozen, WireFrozen};
use crate::identity::{ClusterId, Identity, SessionId};
use crate::state::{EPOCHS, LEASE_MS_LEAST, LEASE_MS_MOST, MEMBERS, MemberEntry, State};

/// Longest encoded state in bytes: [`MEMBERS`] with the longest addresses, at most 360 bytes each,
/// and their homes.
pub const STATE_BYTES: usize = MEMBERS * 370;

/// First byte of an encoded state.
pub const STATE_SCHEMA: u8 = 6;

/// The same of one in which sets are frozen: their freezes stand behind all else.
const STATE_SCHEMA_FROZEN: u8 = 7;

const WRITTEN: &str = "numbers and text can always be written to memory";

/// Why bytes are no state.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum MalformedState {
    /// Written by another version of the program.
    #[error("a state of schema {found} cannot be read, only schema {STATE_SCHEMA}: run one version on all nodes")]
    Schema {
        /// The first byte.
        found: u8,
    },
    /// Not a state at all.
    #[error("these bytes are no state of a cluster: they were damaged, or their sender is no KDDM node")]
    Bytes,
    /// It can be read, and no sequence of changes leads to it.
    #[error("this state of a cluster cannot be: {what}")]
    Impossible {
        /// What contradicts itself.
        what: &'static str,
    },
}

/// The layout of [`State`] in postcard. It changes only together with [`STATE_SCHEMA`].
#[derive(Serialize, Deserialize)]
struct Wire {
    cluster: u64,
    session: u16,
    voter: u16,
    voters: Vec<u16>,
    voters_at: u64,
    term: u64,
    applied: u64,
    epoch: u32,
    placement: u32,
    lives: u32,
    sealed: bool,
    members: Vec<WireMember>,
    homes: Vec<u16>,
    failures: u32,
    fewest_homes: u16,
    anew: u32,
    lease_ms: u32,
}

#[derive(Serialize, Deserialize)]
struct WireMember {
    node: u16,
    incarnation: u32,
    state: WireState,
    address: String,
    nonce: u64,
    draining: bool,
    zone: Option<String>,
    witness: bool,
    preferred: bool,
}

impl State {
    /// The bytes of this state: the schema, then postcard.
    pub fn encode(&self) -> Vec<u8> {
        let member = |(node, entry): (NodeId, &MemberEntry)| WireMember {
            node: node.0,
            incarnation: entry.incarnation.0,
            state: entry.state.into(),
            address: entry.address.clone(),
            nonce: entry.nonce,
            draining: entry.draining,
            zone: entry.site.zone.clone(),
            witness: entry.site.witness,
            preferred: entry.site.preferred,
        };
        let wire = Wire {
            cluster: self.identity.cluster.0,
            session: self.identity.session.number(),
            voter: self.voter.0,
            voters: self.voters.iter().map(|node| node.0).collect(),
            voters_at: self.voters_at,
            term: self.term,
            applied: self.applied,
            epoch: self.epoch.0,
            placement: self.placement.0,
            lives: self.lives,
            sealed: self.sealed,
            members: self.members().map(member).collect(),
            homes: self.homes.iter().map(|node| node.0).collect(),
            failures: self.failures,
            fewest_homes: self.fewest_homes,
            anew: self.anew.0,
            lease_ms: self.lease_ms,
        };
        if self.frozen.is_empty() {
            return postcard::to_extend(&wire, vec![STATE_SCHEMA]).expect(WRITTEN);
        }
        let frozen: Vec<WireFrozen> = self.frozen.iter().map(WireFrozen::from).collect();
        postcard::to_extend(&(wire, frozen), vec![STATE_SCHEMA_FROZEN]).expect(WRITTEN)
    }

    /// Reads what [`State::encode`] wrote. Other bytes are an error, whoever made them.
    pub fn decode(bytes: &[u8]) -> Result<State, MalformedState> {
        let (&found, body) = bytes.split_first().ok_or(MalformedState::Bytes)?;
        if found != STATE_SCHEMA && found != STATE_SCHEMA_FROZEN {
            return Err(MalformedState::Schema { found });
        }
        if bytes.len() > STATE_BYTES {
            return Err(MalformedState::Bytes);
        }
        let read = if found == STATE_SCHEMA {
            postcard::take_from_bytes::<Wire>(body).map(|(wire, rest)| (wire, Vec::new(), rest))
        } else {
            postcard::take_from_bytes::<(Wire, Vec<WireFrozen>)>(body)
                .map(|((wire, frozen), rest)| (wire, frozen, rest))
        };
        match read {
            Ok((wire, frozen, [])) => possible_state(wire, frozen),
            _ => Err(MalformedState::Bytes),
        }
    }
}

/// Checks what the rest of the program relies on.
fn possible_state(wire: Wire, frozen: Vec<WireFrozen>) -> Result<State, MalformedState> {
    let unless = |right: bool, what| if right { Ok(()) } else { Err(MalformedState::Impossible { what }) };
    let session = SessionId::new(wire.session);
    let session = session.map_err(|_| MalformedState::Impossible { what: "its session number" })?;
    unless(wire.epoch != 0 && wire.epoch < EPOCHS, "its epoch")?;
    unless(wire.voter != 0, "nobody decides")?;
    let voters: Vec<NodeId> = wire.voters.into_iter().map(NodeId).collect();
    unless(check_voters(&voters).is_ok() && wire.voters_at <= wire.applied, "its voters")?;
    unless(wire.members.len() <= MEMBERS, "too many members")?;
    let mut members = BTreeMap::new();
    for member in wire.members {
        let (node, state) = (NodeId(member.node), NodeState::from(member.state));
        unless(node.is_somebody() && state.can_talk(), "a member that is none")?;
        unless((1..=wire.lives).contains(&member.incarnation), "a life that was never given out")?;
        unless(check_address(&member.address).is_ok(), "an address")?;
        let incarnation = Incarnation(member.incarnation);
        let WireMember { address, nonce, draining, zone, witness, preferred, .. } = member;
        let site = Site { zone, witness, preferred };
        unless(check_site(&site).is_ok(), "what it says of itself")?;
        unless(!witness || !state.can_share(), "a witness that shares")?;
        unless(!draining || state.can_share(), "a member that hands over what it cannot have")?;
        let entry = MemberEntry { incarnation, state, address, nonce, draining, site };
        unless(members.insert(node, entry).is_none(), "two members with one number")?;
    }
    let homes: Vec<NodeId> = wire.homes.into_iter().map(NodeId).collect();
    unless(homes.is_sorted_by(|a, b| a < b), "homes out of order")?;
    let shares = |node: &NodeId| members.get(node).is_some_and(|entry| entry.state.can_share() && !entry.draining);
    unless(homes.iter().all(shares), "a home that shares nothing")?;
    // With failures all that shared objects may be gone.
    unless(!wire.sealed || !homes.is_empty() || wire.failures > 0, "sets without a home")?;
    unless(usize::from(wire.fewest_homes) <= MEMBERS, "more homes than there can be")?;
    unless(wire.anew <= wire.epoch, "a beginning that is still to come")?;
    unless((LEASE_MS_LEAST..=LEASE_MS_MOST).contains(&wire.lease_ms), "its lease")?;
    unless(wire.failures < wire.epoch, "more failures than epochs")?;
    let state = State {
        identity: Identity { cluster: ClusterId(wire.cluster), session },
        voter: NodeId(wire.voter),
        voters,
        voters_at: wire.voters_at,
        term: wire.term,
        applied: wire.applied,
        epoch: Epoch(wire.epoch),
        placement: Placement(wire.placement),
        lives: wire.lives,
        sealed: wire.sealed,
        members,
        homes,
        failures: wire.failures,
        fewest_homes: wire.fewest_homes,
        anew: Epoch(wire.anew),
        lease_ms: wire.lease_ms,
        frozen: frozen.into_iter().map(Frozen::from).collect(),
    };
    unless(state.may_be_frozen(), "its freezes")?;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::change::{ADDRESS_BYTES, Cause, Change, ZONE_BYTES};
    use crate::frozen::FREEZES;
    use crate::log::Decided;

    fn site() -> Site {
        Site { zone: Some("z".repeat(ZONE_BYTES)), witness: false, preferred: true }
    }

    fn filled(members: u16, address: &str) -> State {
        let identity = Identity { cluster: ClusterId(u64::MAX), session: SessionId::DEFAULT };
        let mut state = State::new(identity, NodeId(1)).with_lease_ms(LEASE_MS_MOST);
        for nonce in 1..=u64::from(members) {
            let change = Change::Join { node: None, address: address.into(), nonce: u64::MAX - nonce, site: site() };
            state.apply(&Decided { index: 2 * nonce - 1, change }).unwrap();
            let (node, entry) = state.members().last().unwrap();
            let change = Change::SetState { node, incarnation: entry.incarnation, state: NodeState::Possible };
            state.apply(&Decided { index: 2 * nonce, change }).unwrap();
        }
        state
    }

    #[test]
    fn the_largest_state_fits_and_comes_back() {
        let mut state = filled(MEMBERS as u16, &"x".repeat(ADDRESS_BYTES));
        let (node, incarnation) = state.members().last().map(|(node, entry)| (node, entry.incarnation)).unwrap();
        state.frozen = (0..FREEZES as u64).map(|at| Frozen { set: !at, node, incarnation, number: !at }).collect();
        let bytes = state.encode();
        assert!(bytes.len() <= STATE_BYTES, "{} bytes", bytes.len());
        assert_eq!(State::decode(&bytes), Ok(state));
    }

    #[test]
    fn the_bytes_of_a_state_are_fixed() {
        let identity = Identity { cluster: ClusterId(300), session: SessionId::DEFAULT };
        let site = Site { zone: Some("z".into()), witness: false, preferred: true };
        let (incarnation, state, nonce) = (Incarnation(6), NodeState::Possible, 8);
        let member = MemberEntry { incarnation, state, address: "a:1".into(), nonce, draining: false, site };
        let mut state = State {
            voters: vec![NodeId(1), NodeId(2), NodeId(4)],
            voters_at: 3,
            term: 4,
            applied: 5,
            epoch: Epoch(9),
            placement: Placement(10),
            lives: 11,
            sealed: true,
            members: BTreeMap::from([(NodeId(2), member)]),
            homes: vec![NodeId(2)],
            failures: 7,
            fewest_homes: 1,
            anew: Epoch(8),
            ..State::new(identity, NodeId(1)).with_lease_ms(500)
        };
        let member = [2, 6, 2, 3, b'a', b':', b'1', 8, 0, 1, 1, b'z', 0, 1];
        let numbers = [0xac, 2, 0xe7, 0x24, 1, 3, 1, 2, 4, 3, 4, 5, 9, 10, 11, 1];
        let homes = [1, 2, 7, 1, 8, 0xf4, 3];
        let bytes = [&[6][..], &numbers, &[1], &member, &homes].concat();
        assert_eq!(state.encode(), bytes);
        assert_eq!(State::decode(&bytes), Ok(state.clone()));
        state.frozen = vec![Frozen { set: 300, node: NodeId(2), incarnation, number: 12 }];
        let bytes = [&[7], &bytes[1..], &[1, 0xac, 2, 2, 6, 12]].concat();
        assert_eq!(state.encode(), bytes);
        assert_eq!(State::decode(&bytes), Ok(state));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let broken = |change: fn(&mut State)| {
            let mut state = filled(2, "a:1");
            change(&mut state);
            State::decode(&state.encode()).map(|_| ())
        };
        let impossible = |what| Err(MalformedState::Impossible { what });
        assert_eq!(broken(|_| {}), Ok(()));
        assert_eq!(broken(|state| state.voter = NodeId(0)), impossible("nobody decides"));
        assert_eq!(broken(|state| state.epoch = Epoch(EPOCHS)), impossible("its epoch"));
        assert_eq!(broken(|state| state.voters.clear()), impossible("its voters"));
        assert_eq!(broken(|state| state.voters = vec![NodeId(2), NodeId(1)]), impossible("its voters"));
        assert_eq!(broken(|state| state.lives = 1), impossible("a life that was never given out"));
        assert_eq!(broken(|state| state.homes.push(NodeId(1))), impossible("homes out of order"));
        assert_eq!(broken(|state| state.homes.push(NodeId(9))), impossible("a home that shares nothing"));
        assert_eq!(broken(|state| state.lease_ms = LEASE_MS_LEAST - 1), impossible("its lease"));
        assert_eq!(broken(|state| state.lease_ms = LEASE_MS_MOST + 1), impossible("its lease"));
        let is_to_come = |state: &mut State| state.anew = Epoch(state.epoch.0 + 1);
        assert_eq!(broken(is_to_come), impossible("a beginning that is still to come"));
        assert_eq!(broken(|state| state.failures = state.epoch.0), impossible("more failures than epochs"));
        let no_set_has_a_home = |state: &mut State| {
            state.homes.clear();
            state.sealed = true;
        };
        assert_eq!(broken(no_set_has_a_home), impossible("sets without a home"));
    }

    #[test]
    fn what_was_lost_is_known_to_who_takes_the_whole_state() {
        let mut state = filled(3, "a:1");
        for node in [2, 3] {
            let entry = state.member(NodeId(node)).unwrap();
            let expel = Change::Expel { node: NodeId(node), incarnation: entry.incarnation, cause: Cause::Lease };
            state.apply(&Decided { index: state.applied() + 1, change: expel }).unwrap();
        }
        let read = State::decode(&state.encode()).unwrap();
        assert_eq!((read.failures(), read.lease_ms()), (2, LEASE_MS_MOST));
        assert_eq!(read, state);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let mut bytes = filled(3, "a:1").encode();
        bytes.push(0);
        assert_eq!(State::decode(&bytes), Err(MalformedState::Bytes));
        assert_eq!(State::decode(&[]), Err(MalformedState::Bytes));
        assert_eq!(State::decode(&[9]), Err(MalformedState::Schema { found: 9 }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            bytes[0] = STATE_SCHEMA + bytes[0] % 2;
            let _read_or_refused = State::decode(&bytes);
        }
    }
}
