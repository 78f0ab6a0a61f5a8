//! What the logs of voters and of those who follow them say to each other.

use kddm_core::id::NodeId;
use serde::{Deserialize, Serialize};

use crate::change::{CHANGE_BYTES, Change};
use crate::log::LogError;
use crate::state_bytes::STATE_BYTES;
use crate::voters::book::{Base, Entry};

/// Longest message in bytes: a whole state, and the numbers of the proposals that are in it. All
/// others stay below the limit of the log with one voter.
pub const VOTERS_MESSAGE_BYTES: usize = STATE_BYTES + 65_536;

/// First byte of a message, of an entry and of a state on disk: another one than that of the log with one voter.
const SCHEMA: u8 = 3;

/// Entries and terms are counted no further: at a million a second that takes 146 thousand years.
pub(super) const MOST: u64 = 1 << 62;

/// The layout of [`Entry`] in postcard, in messages and on disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct WireEntry {
    term: u64,
    origin: u64,
    ticket: u64,
    change: Vec<u8>,
}

/// The layout of messages in postcard. It changes only together with [`SCHEMA`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Wire {
    /// Would you make me the leader of that term (`pre`), or: do. `asked`: its
    /// leader wants that.
    Vote { pre: bool, asked: bool, term: u64, last: u64, last_term: u64 },
    /// The answer.
    Voted { pre: bool, term: u64, granted: bool },
    /// Leader to voters: what follows that entry, and what is decided.
    Append { term: u64, previous: u64, previous_term: u64, decided: u64, entries: Vec<WireEntry> },
    /// The answer: all up to `last` is as the leader has it, or, if `refused`, go back to there. `fails`: my disk
    /// has failed, and I keep nothing.
    Appended { term: u64, refused: bool, last: u64, decided: u64, counts: bool, fails: bool },
    /// What is decided, as a whole: in the place of entries that are not kept any more.
    Whole { term: u64, base: Vec<u8> },
    /// I follow, and know what is decided up to there. `fails`: name me for no voter, my disk has failed.
    Follow { decided: u64, fails: bool },
    /// The answer, and what a leader tells by itself.
    Decided { term: u64, leader: u16, after: u64, entries: Vec<WireEntry> },
    /// Leader to a voter: lead in my place.
    LeadYou { term: u64 },
    /// I want that decided, and had not seen it among the entries up to `known`. Repeated until it is.
    Propose { known: u64, origin: u64, ticket: u64, change: Vec<u8> },
}

impl From<&Entry> for WireEntry {
    fn from(entry: &Entry) -> WireEntry {
        let change = entry.change.encode().expect("every change was checked when it came in");
        WireEntry { term: entry.term, origin: entry.origin, ticket: entry.ticket, change }
    }
}

impl WireEntry {
    /// The entry, if it is one.
    pub(super) fn read(&self) -> Result<Entry, &'static str> {
        let change = Change::decode(&self.change).map_err(|_| "an entry cannot be read")?;
        if self.term == 0 || self.term > MOST || matches!(change, Change::MoveVoter { .. }) {
            return Err("it has an entry that is never in a log of voters");
        }
        Ok(Entry { term: self.term, origin: self.origin, ticket: self.ticket, change })
    }
}

/// The bytes of an entry on disk.
pub(super) fn entry_bytes(entry: &Entry) -> Vec<u8> {
    postcard::to_extend(&WireEntry::from(entry), vec![SCHEMA])
        .expect("numbers and bytes can always be written to memory")
}

/// Reads what [`entry_bytes`] wrote.
pub(super) fn read_entry(bytes: &[u8]) -> Result<Entry, &'static str> {
    match bytes.split_first() {
        Some((&SCHEMA, _)) if bytes.len() > CHANGE_BYTES + 64 => Err("an entry is too long"),
        Some((&SCHEMA, body)) => match postcard::take_from_bytes::<WireEntry>(body) {
            Ok((entry, [])) => entry.read(),
            _ => Err("an entry cannot be read"),
        },
        Some(_) => Err("an entry was written by another version of the program"),
        None => Err("an entry is empty"),
    }
}

/// All of them, or why one is none.
pub(super) fn read_entries(entries: &[WireEntry]) -> Result<Vec<Entry>, &'static str> {
    entries.iter().map(WireEntry::read).collect()
}

impl Wire {
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![SCHEMA]).expect("numbers and bytes can always be written to memory")
    }

    pub(super) fn read(from: NodeId, message: &[u8]) -> Result<Wire, LogError> {
        let bad = |what| LogError::BadMessage { from, what };
        if message.len() > VOTERS_MESSAGE_BYTES {
            return Err(bad("it is longer than any message of a log"));
        }
        let (schema, body) = message.split_first().ok_or(bad("it is empty"))?;
        if *schema != SCHEMA {
            return Err(bad("another version of the program wrote it, run one version on all nodes"));
        }
        match postcard::take_from_bytes(body) {
            Ok((wire, [])) => Ok(wire),
            _ => Err(bad("it cannot be read")),
        }
    }
}

/// The layout of [`Base`] in postcard, in messages and on disk.
#[derive(Serialize, Deserialize)]
struct WireBase {
    taken: Vec<(u64, u64, u64)>,
    taken_after: u64,
    state: Vec<u8>,
}

impl Base {
    pub(super) fn encode(&self) -> Vec<u8> {
        let wire = WireBase {
            taken: self.taken.iter().copied().collect(),
            taken_after: self.taken_after,
            state: self.state.encode(),
        };
        postcard::to_extend(&wire, vec![SCHEMA]).expect("numbers and bytes can always be written to memory")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Base, &'static str> {
        let (schema, body) = bytes.split_first().ok_or("the state is empty")?;
        if *schema != SCHEMA {
            return Err("the state was written by another version of the program");
        }
        let Ok((wire, [])) = postcard::take_from_bytes::<WireBase>(body) else {
            return Err("the state cannot be read");
        };
        let state = crate::state::State::decode(&wire.state).map_err(|_| "the state is none")?;
        if wire.taken.len() > super::book::TAKEN || state.applied() > MOST || state.term() > MOST {
            return Err("the state has numbers that no log comes to");
        }
        Ok(Base { state, taken: wire.taken.into(), taken_after: wire.taken_after })
    }
}
