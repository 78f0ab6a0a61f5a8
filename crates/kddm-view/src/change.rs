//! What the view log decides, and its bytes.

use kddm_core::id::{Epoch, Incarnation, NodeId, Placement};
use kddm_core::view::NodeState;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::frozen::{Frozen, WireFrozen};

/// Longest address of a member in bytes: the longest DNS name has 253, and in 255 there is room for
/// a port behind every name that is met in practice.
pub const ADDRESS_BYTES: usize = 255;

/// Longest encoded change in bytes: an address, a zone and some 30 bytes of numbers, rounded up.
pub const CHANGE_BYTES: usize = 512;

/// Most voters: two of five may fail, and more would only make each decision slower.
pub const VOTERS: usize = 5;

/// Longest name of a zone in bytes: people write it in a column beside others.
pub const ZONE_BYTES: usize = 64;

/// First byte of an encoded change. A node that meets another one says so and changes nothing.
pub const CHANGE_SCHEMA: u8 = 1;

/// One entry of the view log.
///
/// ```
/// use kddm_view::Change;
///
/// let join = Change::Join { node: None, address: "10.0.0.7:7600".into(), nonce: 99, site: Default::default() };
/// assert_eq!(Change::decode(&join.encode()?)?, join);
/// # Ok::<(), kddm_view::MalformedChange>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    /// A node comes in, as online.
    Join {
        /// The id that it asks for, or `None` to be given the lowest that no member has.
        node: Option<NodeId>,
        /// Where the others reach it, as people write it. Shown to whoever asks for the same id.
        address: String,
        /// Names this life of the node: drawn at random at its start, and the same in repetitions.
        nonce: u64,
        /// Where it stands, and whether it shares.
        site: Site,
    },
    /// A member becomes online or possible.
    SetState {
        /// The member.
        node: NodeId,
        /// Its life: a change meant for an earlier one is refused.
        incarnation: Incarnation,
        /// The state that it is to have.
        state: NodeState,
    },
    /// A member goes offline.
    Leave {
        /// The member.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// Sets exist from now on: who shares objects leaves only after it has handed them over.
    Seal,
    /// A member is to stop sharing: it is no home any more, and hands over what it has. Asking it to be
    /// possible takes this back.
    Drain {
        /// The member.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// Another member decides from the next entry on.
    MoveVoter {
        /// Which one.
        to: NodeId,
    },
    /// A member goes offline that did not say so itself. The epoch grows, so that nothing of its life
    /// counts any more.
    Expel {
        /// The member.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
        /// How it is known that it cannot use what it held.
        cause: Cause,
    },
    /// All that was in doubt after members were lost is settled.
    Healed {
        /// The placement in which that was judged: refused in any other.
        placement: Placement,
    },
    /// Other members decide from the next entry on.
    Voters {
        /// Which ones, by ascending id: at most [`VOTERS`].
        voters: Vec<NodeId>,
    },
    /// The voters have chosen who leads them. Each leader begins with this entry.
    Lead {
        /// Which one.
        node: NodeId,
        /// The number of its leadership, greater than all before: the entries up to the next leader's are its.
        term: u64,
    },
    /// A member was expelled in a former life, and remembers what it owned. The epoch grows, so that all members say
    /// again what they have, and it says what it remembers.
    Recall {
        /// The member.
        node: NodeId,
        /// The life that it is in now.
        incarnation: Incarnation,
        /// The epoch in which it began to remember: in a later one it has said so already, and nothing changes.
        epoch: Epoch,
    },
    /// Nobody is to write an object of a set, until that member thaws it or is one no more.
    Freeze(Frozen),
    /// That freeze is over.
    Thaw(Frozen),
}

/// What a node says of itself when it comes in.
///
/// ```
/// use kddm_view::Site;
///
/// let site = Site { zone: Some("rack-7".into()), ..Site::default() };
/// assert_ne!(site, Site::default());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Site {
    /// What fails together with it: voters are spread over zones. At most [`ZONE_BYTES`].
    pub zone: Option<String>,
    /// It votes and shares nothing.
    pub witness: bool,
    /// Of two nodes it is the one that decides. A witness shares nothing, and is none.
    pub preferred: bool,
}

/// How it is known that a member which is expelled cannot use any more what it held.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// It has handed over all it had: nothing is lost with it.
    Clean,
    /// The kernel of its host said that its process is gone.
    Proof,
    /// Its lease, and the drift that clocks are allowed, ran out.
    Lease,
}

/// Why a change, or its bytes, cannot be meant.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum MalformedChange {
    /// Node id 0 names nobody.
    #[error("0 is not a node id: give one from 1 to 65535, or none to be given one")]
    Nobody,
    /// The cluster itself needs it.
    #[error("set {set} is one of the cluster itself, and is not frozen")]
    SetOfTheSystem {
        /// Its number.
        set: u64,
    },
    /// No member is set offline.
    #[error("a member is not set offline: it leaves")]
    Offline,
    /// The address is empty, too long, or would upset a terminal.
    #[error(
        "an address of {bytes} bytes is refused: give 1 to {max} bytes without control characters",
        max = ADDRESS_BYTES
    )]
    Address {
        /// Its length.
        bytes: usize,
    },
    /// The zone is empty, too long, or would upset a terminal.
    #[error("a zone of {bytes} bytes is refused: give 1 to {max} bytes without control characters", max = ZONE_BYTES)]
    Zone {
        /// Its length.
        bytes: usize,
    },
    /// It shares nothing, so that it is none of two.
    #[error("a witness cannot be the preferred node of two: prefer one of those that share objects")]
    PreferredWitness,
    /// These cannot be the voters.
    #[error("{count} voters are refused: name 1 to {max} different nodes by ascending id", max = VOTERS)]
    Voters {
        /// How many.
        count: usize,
    },
    /// More bytes than any change has.
    #[error("a change of {bytes} bytes is refused: none has more than {max}", max = CHANGE_BYTES)]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// Written by another version of the program.
    #[error("a change of schema {found} cannot be read, only schema {CHANGE_SCHEMA}: run one version on all nodes")]
    Schema {
        /// The first byte.
        found: u8,
    },
    /// Not a change at all.
    #[error("these bytes are no change of a view: they were damaged, or their sender is no KDDM node")]
    Bytes,
}

impl Change {
    /// Whether this can be meant at all, whatever the state of the cluster.
    pub fn check(&self) -> Result<(), MalformedChange> {
        match self {
            Change::Join { node, address, site, .. } => {
                check_node(node.unwrap_or(NodeId(1)))?;
                check_address(address)?;
                check_site(site)
            }
            Change::SetState { state: NodeState::Offline, .. } => Err(MalformedChange::Offline),
            Change::SetState { node, .. } | Change::Leave { node, .. } => check_node(*node),
            Change::Drain { node, .. }
            | Change::MoveVoter { to: node }
            | Change::Expel { node, .. }
            | Change::Recall { node, .. } => check_node(*node),
            Change::Seal | Change::Healed { .. } => Ok(()),
            Change::Voters { voters } => check_voters(voters),
            Change::Lead { node, .. } => check_node(*node),
            Change::Freeze(frozen) | Change::Thaw(frozen) => frozen.check(),
        }
    }

    /// The bytes of this change, for messages and for disks: the schema, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, MalformedChange> {
        self.check()?;
        let bytes = vec![CHANGE_SCHEMA];
        postcard::to_extend(&Wire::from(self), bytes).map_err(|_| MalformedChange::Bytes)
    }

    /// Reads what [`Change::encode`] wrote. Other bytes are an error, whoever made them.
    pub fn decode(bytes: &[u8]) -> Result<Change, MalformedChange> {
        if bytes.len() > CHANGE_BYTES {
            return Err(MalformedChange::TooLong { bytes: bytes.len() });
        }
        let (&found, body) = bytes.split_first().ok_or(MalformedChange::Bytes)?;
        if found != CHANGE_SCHEMA {
            return Err(MalformedChange::Schema { found });
        }
        let (wire, rest) = postcard::take_from_bytes::<Wire>(body).map_err(|_| MalformedChange::Bytes)?;
        if !rest.is_empty() {
            return Err(MalformedChange::Bytes);
        }
        let change = Change::from(wire);
        change.check()?;
        Ok(change)
    }
}

pub(crate) fn check_node(node: NodeId) -> Result<(), MalformedChange> {
    if node.is_somebody() { Ok(()) } else { Err(MalformedChange::Nobody) }
}

pub(crate) fn check_address(address: &str) -> Result<(), MalformedChange> {
    let length_is_right = (1..=ADDRESS_BYTES).contains(&address.len());
    if length_is_right && !address.chars().any(char::is_control) {
        return Ok(());
    }
    Err(MalformedChange::Address { bytes: address.len() })
}

pub(crate) fn check_site(site: &Site) -> Result<(), MalformedChange> {
    if site.witness && site.preferred {
        return Err(MalformedChange::PreferredWitness);
    }
    let Some(zone) = &site.zone else { return Ok(()) };
    let length_is_right = (1..=ZONE_BYTES).contains(&zone.len());
    if length_is_right && !zone.chars().any(char::is_control) {
        return Ok(());
    }
    Err(MalformedChange::Zone { bytes: zone.len() })
}

pub(crate) fn check_voters(voters: &[NodeId]) -> Result<(), MalformedChange> {
    let count_is_right = (1..=VOTERS).contains(&voters.len());
    if count_is_right && voters.is_sorted_by(|a, b| a < b) && voters.iter().all(|voter| voter.is_somebody()) {
        return Ok(());
    }
    Err(MalformedChange::Voters { count: voters.len() })
}

/// The layout of [`Change`] in postcard. It changes only together with [`CHANGE_SCHEMA`].
#[derive(Serialize, Deserialize)]
enum Wire {
    Join {
        node: Option<u16>,
        address: String,
        nonce: u64,
    },
    SetState {
        node: u16,
        incarnation: u32,
        state: WireState,
    },
    Leave {
        node: u16,
        incarnation: u32,
    },
    Seal,
    Drain {
        node: u16,
        incarnation: u32,
    },
    MoveVoter {
        to: u16,
    },
    Expel {
        node: u16,
        incarnation: u32,
        cause: WireCause,
    },
    Healed {
        placement: u32,
    },
    Voters {
        voters: Vec<u16>,
    },
    Lead {
        node: u16,
        term: u64,
    },
    /// A join of one that says more of itself. The rest is written as ever.
    JoinAt {
        node: Option<u16>,
        address: String,
        nonce: u64,
        zone: Option<String>,
        witness: bool,
    },
    /// The same of one that is preferred.
    JoinPreferred {
        node: Option<u16>,
        address: String,
        nonce: u64,
        zone: Option<String>,
    },
    Recall {
        node: u16,
        incarnation: u32,
        epoch: u32,
    },
    Freeze(WireFrozen),
    Thaw(WireFrozen),
}

/// The layout of [`Cause`].
#[derive(Clone, Copy, Serialize, Deserialize)]
enum WireCause {
    Clean,
    Proof,
    Lease,
}

/// The layout of [`NodeState`], in changes and in states.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum WireState {
    Offline,
    Online,
    Possible,
}

impl From<NodeState> for WireState {
    fn from(state: NodeState) -> WireState {
        match state {
            NodeState::Offline => WireState::Offline,
            NodeState::Online => WireState::Online,
            NodeState::Possible => WireState::Possible,
        }
    }
}

impl From<WireState> for NodeState {
    fn from(state: WireState) -> NodeState {
        match state {
            WireState::Offline => NodeState::Offline,
            WireState::Online => NodeState::Online,
            WireState::Possible => NodeState::Possible,
        }
    }
}

impl From<Cause> for WireCause {
    fn from(cause: Cause) -> WireCause {
        match cause {
            Cause::Clean => WireCause::Clean,
            Cause::Proof => WireCause::Proof,
            Cause::Lease => WireCause::Lease,
        }
    }
}

impl From<WireCause> for Cause {
    fn from(cause: WireCause) -> Cause {
        match cause {
            WireCause::Clean => Cause::Clean,
            WireCause::Proof => Cause::Proof,
            WireCause::Lease => Cause::Lease,
        }
    }
}

impl From<&Change> for Wire {
    fn from(change: &Change) -> Wire {
        match change {
            Change::Join { node, address, nonce, site } => {
                let (node, address, nonce) = (node.map(|node| node.0), address.clone(), *nonce);
                if *site == Site::default() {
                    return Wire::Join { node, address, nonce };
                }
                let zone = site.zone.clone();
                match site.preferred {
                    true => Wire::JoinPreferred { node, address, nonce, zone },
                    false => Wire::JoinAt { node, address, nonce, zone, witness: site.witness },
                }
            }
            Change::SetState { node, incarnation, state } => {
                Wire::SetState { node: node.0, incarnation: incarnation.0, state: (*state).into() }
            }
            Change::Leave { node, incarnation } => Wire::Leave { node: node.0, incarnation: incarnation.0 },
            Change::Seal => Wire::Seal,
            Change::Drain { node, incarnation } => Wire::Drain { node: node.0, incarnation: incarnation.0 },
            Change::MoveVoter { to } => Wire::MoveVoter { to: to.0 },
            Change::Expel { node, incarnation, cause } => {
                Wire::Expel { node: node.0, incarnation: incarnation.0, cause: (*cause).into() }
            }
            Change::Healed { placement } => Wire::Healed { placement: placement.0 },
            Change::Voters { voters } => Wire::Voters { voters: voters.iter().map(|voter| voter.0).collect() },
            Change::Lead { node, term } => Wire::Lead { node: node.0, term: *term },
            Change::Freeze(frozen) => Wire::Freeze(frozen.into()),
            Change::Thaw(frozen) => Wire::Thaw(frozen.into()),
            Change::Recall { node, incarnation, epoch } => {
                Wire::Recall { node: node.0, incarnation: incarnation.0, epoch: epoch.0 }
            }
        }
    }
}

impl From<Wire> for Change {
    fn from(wire: Wire) -> Change {
        match wire {
            Wire::Join { node, address, nonce } => {
                Change::Join { node: node.map(NodeId), address, nonce, site: Site::default() }
            }
            Wire::JoinAt { node, address, nonce, zone, witness } => {
                let site = Site { zone, witness, preferred: false };
                Change::Join { node: node.map(NodeId), address, nonce, site }
            }
            Wire::JoinPreferred { node, address, nonce, zone } => {
                let site = Site { zone, witness: false, preferred: true };
                Change::Join { node: node.map(NodeId), address, nonce, site }
            }
            Wire::SetState { node, incarnation, state } => {
                Change::SetState { node: NodeId(node), incarnation: Incarnation(incarnation), state: state.into() }
            }
            Wire::Leave { node, incarnation } => {
                Change::Leave { node: NodeId(node), incarnation: Incarnation(incarnation) }
            }
            Wire::Seal => Change::Seal,
            Wire::Drain { node, incarnation } => {
                Change::Drain { node: NodeId(node), incarnation: Incarnation(incarnation) }
            }
            Wire::MoveVoter { to } => Change::MoveVoter { to: NodeId(to) },
            Wire::Expel { node, incarnation, cause } => {
                Change::Expel { node: NodeId(node), incarnation: Incarnation(incarnation), cause: cause.into() }
            }
            Wire::Healed { placement } => Change::Healed { placement: Placement(placement) },
            Wire::Voters { voters } => Change::Voters { voters: voters.into_iter().map(NodeId).collect() },
            Wire::Lead { node, term } => Change::Lead { node: NodeId(node), term },
            Wire::Freeze(frozen) => Change::Freeze(frozen.into()),
            Wire::Thaw(frozen) => Change::Thaw(frozen.into()),
            Wire::Recall { node, incarnation, epoch } => {
                let (node, incarnation) = (NodeId(node), Incarnation(incarnation));
                Change::Recall { node, incarnation, epoch: Epoch(epoch) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(address: &str) -> Change {
        Change::Join { node: None, address: address.into(), nonce: 5, site: Site::default() }
    }

    #[test]
    fn the_bytes_of_a_change_are_fixed() {
        let change = Change::SetState { node: NodeId(300), incarnation: Incarnation(2), state: NodeState::Possible };
        assert_eq!(change.encode().unwrap(), [1, 1, 0xac, 2, 2, 2]);
        assert_eq!(join("a:1").encode().unwrap(), [1, 0, 0, 3, b'a', b':', b'1', 5]);
        assert_eq!(Change::Seal.encode().unwrap(), [1, 3]);
        let drain = Change::Drain { node: NodeId(5), incarnation: Incarnation(6) };
        assert_eq!(drain.encode().unwrap(), [1, 4, 5, 6]);
        assert_eq!(Change::MoveVoter { to: NodeId(7) }.encode().unwrap(), [1, 5, 7]);
        for (cause, byte) in [(Cause::Clean, 0), (Cause::Proof, 1), (Cause::Lease, 2)] {
            let expel = Change::Expel { node: NodeId(5), incarnation: Incarnation(6), cause };
            assert_eq!(expel.encode().unwrap(), [1, 6, 5, 6, byte]);
            assert_eq!(Change::decode(&[1, 6, 5, 6, byte]), Ok(expel));
        }
        let healed = Change::Healed { placement: Placement(9) };
        assert_eq!(healed.encode().unwrap(), [1, 7, 9]);
        assert_eq!(Change::decode(&[1, 7, 9]), Ok(healed));
        let voters = Change::Voters { voters: vec![NodeId(3), NodeId(5), NodeId(8)] };
        assert_eq!(voters.encode().unwrap(), [1, 8, 3, 3, 5, 8]);
        assert_eq!(Change::decode(&[1, 8, 3, 3, 5, 8]), Ok(voters));
        assert_eq!(Change::Lead { node: NodeId(5), term: 3 }.encode().unwrap(), [1, 9, 5, 3]);
        let site = Site { zone: Some("z".into()), witness: true, preferred: false };
        let join = Change::Join { node: None, address: "a:1".into(), nonce: 5, site };
        let bytes = [1, 10, 0, 3, b'a', b':', b'1', 5, 1, 1, b'z', 1];
        assert_eq!(join.encode().unwrap(), bytes);
        assert_eq!(Change::decode(&bytes), Ok(join));
        let site = Site { preferred: true, ..Site::default() };
        let join = Change::Join { node: None, address: "a:1".into(), nonce: 5, site };
        assert_eq!(join.encode().unwrap(), [1, 11, 0, 3, b'a', b':', b'1', 5, 0]);
        assert_eq!(Change::decode(&[1, 11, 0, 3, b'a', b':', b'1', 5, 0]), Ok(join));
        let recall = Change::Recall { node: NodeId(5), incarnation: Incarnation(6), epoch: Epoch(7) };
        assert_eq!(recall.encode().unwrap(), [1, 12, 5, 6, 7]);
        assert_eq!(Change::decode(&[1, 12, 5, 6, 7]), Ok(recall));
        let frozen = Frozen { set: 300, node: NodeId(5), incarnation: Incarnation(6), number: 7 };
        for (change, byte) in [(Change::Freeze(frozen), 13), (Change::Thaw(frozen), 14)] {
            assert_eq!(change.encode().unwrap(), [1, byte, 0xac, 2, 5, 6, 7]);
            assert_eq!(Change::decode(&[1, byte, 0xac, 2, 5, 6, 7]), Ok(change));
        }
    }

    #[test]
    fn the_longest_change_fits() {
        let address = "x".repeat(ADDRESS_BYTES);
        let site = Site { zone: Some("z".repeat(ZONE_BYTES)), witness: true, preferred: false };
        let change = Change::Join { node: Some(NodeId(u16::MAX)), address, nonce: u64::MAX, site };
        let bytes = change.encode().unwrap();
        assert!(bytes.len() <= CHANGE_BYTES);
        assert_eq!(Change::decode(&bytes), Ok(change));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_both_ways() {
        let both = Site { witness: true, preferred: true, ..Site::default() };
        let both = Change::Join { node: None, address: "a:1".into(), nonce: 5, site: both };
        assert_eq!(both.encode(), Err(MalformedChange::PreferredWitness));
        assert_eq!(join("").encode(), Err(MalformedChange::Address { bytes: 0 }));
        assert_eq!(join(&"x".repeat(256)).encode(), Err(MalformedChange::Address { bytes: 256 }));
        assert_eq!(join("a\u{1b}[2J").encode(), Err(MalformedChange::Address { bytes: 5 }));
        assert_eq!(Change::decode(&[]), Err(MalformedChange::Bytes));
        assert_eq!(Change::decode(&[9, 3]), Err(MalformedChange::Schema { found: 9 }));
        assert_eq!(Change::decode(&[1, 3, 0]), Err(MalformedChange::Bytes));
        assert_eq!(Change::decode(&[1, 1, 0, 2, 2]), Err(MalformedChange::Nobody));
        assert_eq!(Change::decode(&[1, 1, 1, 2, 0]), Err(MalformedChange::Offline));
        assert_eq!(Change::decode(&[1, 6, 0, 2, 2]), Err(MalformedChange::Nobody));
        assert_eq!(Change::decode(&[1, 6, 1, 2, 3]), Err(MalformedChange::Bytes));
        assert_eq!(Change::decode(&[1, 8, 0]), Err(MalformedChange::Voters { count: 0 }));
        assert_eq!(Change::decode(&[1, 8, 2, 3, 3]), Err(MalformedChange::Voters { count: 2 }));
        assert_eq!(Change::decode(&[1, 8, 6, 1, 2, 3, 4, 5, 6]), Err(MalformedChange::Voters { count: 6 }));
        assert_eq!(Change::decode(&[1, 10, 0, 1, b'a', 5, 1, 0, 0]), Err(MalformedChange::Zone { bytes: 0 }));
        assert_eq!(Change::decode(&[1; CHANGE_BYTES + 1]), Err(MalformedChange::TooLong { bytes: 513 }));
    }
}
