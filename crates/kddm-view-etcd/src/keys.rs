//! What is asked of etcd, and what its answers say, whoever wrote them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kddm_core::id::NodeId;
use kddm_view::{Change, ClusterId, Identity, SessionId, State};
use serde_json::{Value, json};

/// First byte of an entry and of the other values below the prefix.
const SCHEMA: u8 = 1;

/// Bytes before the change of an entry.
const ENTRY_HEAD: usize = 17;

/// Entries in one answer.
pub(crate) const PAGE: usize = 256;

/// The keys of one log.
pub(crate) struct Keys {
    /// All are below it.
    pub prefix: String,
}

/// One entry as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Names the life of the node that wanted it.
    pub origin: u64,
    /// Counts what that life has wanted.
    pub ticket: u64,
    pub change: Change,
}

/// Who leads, as etcd has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Leadership {
    pub node: NodeId,
    pub origin: u64,
    /// The revision at which the key was written: later leaders have greater ones.
    pub term: u64,
    /// The etcd lease with which it goes.
    pub lease: i64,
}

/// A key with what etcd says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    pub key: String,
    pub value: Vec<u8>,
    pub revision: u64,
    pub lease: i64,
}

impl Keys {
    /// The place of a cluster's log: `/kddm/<cluster>/<session>/`.
    pub fn of(identity: Identity) -> Keys {
        Keys { prefix: format!("/kddm/{}/{}/", identity.cluster, identity.session) }
    }

    /// Which cluster a session's log is of.
    pub fn session(session: SessionId) -> String {
        format!("/kddm/session/{session}")
    }

    pub fn base(&self) -> String {
        format!("{}base", self.prefix)
    }

    pub fn leader(&self) -> String {
        format!("{}leader", self.prefix)
    }

    pub fn heir(&self) -> String {
        format!("{}heir", self.prefix)
    }

    /// Digits for every number, so that the order of the keys is that of the entries.
    pub fn entry(&self, index: u64) -> String {
        format!("{}log/{index:020}", self.prefix)
    }

    /// Behind the last entry that there can be.
    pub fn entries_end(&self) -> String {
        format!("{}log0", self.prefix)
    }

    /// The entry of a key, if it is one.
    pub fn index_of(&self, key: &str) -> Option<u64> {
        let digits = key.strip_prefix(&self.prefix)?.strip_prefix("log/")?;
        if digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
    }

    /// Everything below the prefix, from that revision on.
    pub fn watch(&self, revision: u64) -> Value {
        let end = format!("{}0", self.prefix.strip_suffix('/').unwrap_or(&self.prefix));
        json!({"create_request": {
            "key": text(&self.prefix), "range_end": text(&end), "start_revision": revision.to_string(),
        }})
    }
}

fn text(key: &str) -> String {
    STANDARD.encode(key)
}

/// One key.
pub(crate) fn get(key: &str) -> Value {
    json!({"request_range": {"key": text(key)}})
}

/// A page of keys.
pub(crate) fn page(from: &str, end: &str, limit: usize, keys_only: bool) -> Value {
    json!({"request_range": {
        "key": text(from), "range_end": text(end), "limit": limit.to_string(), "keys_only": keys_only,
    }})
}

pub(crate) fn put(key: &str, value: &[u8], lease: i64) -> Value {
    json!({"request_put": {"key": text(key), "value": STANDARD.encode(value), "lease": lease.to_string()}})
}

pub(crate) fn delete(key: &str) -> Value {
    json!({"request_delete_range": {"key": text(key)}})
}

pub(crate) fn delete_up_to(key: &str, end: &str) -> Value {
    json!({"request_delete_range": {"key": text(key), "range_end": text(end)}})
}

pub(crate) fn is_absent(key: &str) -> Value {
    json!({"target": "CREATE", "result": "EQUAL", "key": text(key), "create_revision": "0"})
}

pub(crate) fn is_there(key: &str) -> Value {
    json!({"target": "CREATE", "result": "GREATER", "key": text(key), "create_revision": "0"})
}

/// It has been written once, and never again.
pub(crate) fn is_first(key: &str) -> Value {
    json!({"target": "VERSION", "result": "EQUAL", "key": text(key), "version": "1"})
}

/// It is as it was written at that revision.
pub(crate) fn is_of(key: &str, revision: u64) -> Value {
    json!({"target": "MOD", "result": "EQUAL", "key": text(key), "mod_revision": revision.to_string()})
}

/// It has just that value.
pub(crate) fn says(key: &str, value: &[u8]) -> Value {
    json!({"target": "VALUE", "result": "EQUAL", "key": text(key), "value": STANDARD.encode(value)})
}

/// A number, which the gateway writes as a string, and leaves out where it is 0.
pub(crate) fn number(value: &Value) -> u64 {
    value.as_str().and_then(|digits| digits.parse().ok()).or(value.as_u64()).unwrap_or(0)
}

/// The same for a lease, which has all 64 bits.
pub(crate) fn lease_number(value: &Value) -> i64 {
    value.as_str().and_then(|digits| digits.parse().ok()).or(value.as_i64()).unwrap_or(0)
}

/// The revision of the store when an answer was made.
pub(crate) fn revision(answer: &Value) -> u64 {
    number(&answer["header"]["revision"])
}

/// A key and its value. None for what is none.
pub(crate) fn kept(value: &Value) -> Option<Kept> {
    let bytes = |field: &Value| STANDARD.decode(field.as_str().unwrap_or_default()).ok();
    Some(Kept {
        key: String::from_utf8(bytes(&value["key"])?).ok()?,
        value: bytes(&value["value"])?,
        revision: number(&value["mod_revision"]),
        lease: lease_number(&value["lease"]),
    })
}

/// The keys in the answer to one request of a transaction.
pub(crate) fn range(answer: &Value, at: usize) -> Vec<Kept> {
    let kvs = &answer["responses"][at]["response_range"]["kvs"];
    kvs.as_array().map(|kvs| kvs.iter().filter_map(kept).collect()).unwrap_or_default()
}

impl Entry {
    /// Its bytes.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![SCHEMA];
        bytes.extend_from_slice(&self.origin.to_le_bytes());
        bytes.extend_from_slice(&self.ticket.to_le_bytes());
        bytes.extend_from_slice(&self.change.encode().ok()?);
        Some(bytes)
    }

    /// Reads what [`Self::encode`] wrote: what is wrong with other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Entry, String> {
        let (head, change) = bytes.split_at_checked(ENTRY_HEAD).ok_or("it is too short")?;
        let number = |at: usize| {
            let bytes = head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u64::from_le_bytes).ok_or("it is too short")
        };
        if head.first() != Some(&SCHEMA) {
            return Err("another version of the program wrote it".into());
        }
        let change = Change::decode(change).map_err(|error| error.to_string())?;
        Ok(Entry { origin: number(1)?, ticket: number(9)?, change })
    }
}

impl Leadership {
    /// The value of the key.
    pub fn encode(node: NodeId, origin: u64) -> Vec<u8> {
        let mut bytes = vec![SCHEMA];
        bytes.extend_from_slice(&node.0.to_le_bytes());
        bytes.extend_from_slice(&origin.to_le_bytes());
        bytes
    }

    /// Reads the key. A key that says nothing names nobody, and is there all the same.
    pub fn read(kept: &Kept) -> Leadership {
        let (node, origin) = match *kept.value.as_slice() {
            [SCHEMA, a, b, ref origin @ ..] => {
                (u16::from_le_bytes([a, b]), <[u8; 8]>::try_from(origin).map_or(0, u64::from_le_bytes))
            }
            _ => (0, 0),
        };
        Leadership { node: NodeId(node), origin, term: kept.revision, lease: kept.lease }
    }
}

/// The value of the key that says which cluster is meant.
pub(crate) fn cluster_bytes(ClusterId(cluster): ClusterId) -> Vec<u8> {
    let mut bytes = vec![SCHEMA];
    bytes.extend_from_slice(&cluster.to_le_bytes());
    bytes
}

/// Reads what [`cluster_bytes`] wrote.
pub(crate) fn cluster(kept: &Kept) -> Result<ClusterId, String> {
    match *kept.value.as_slice() {
        [SCHEMA, ref cluster @ ..] => {
            <[u8; 8]>::try_from(cluster).map(|bytes| ClusterId(u64::from_le_bytes(bytes))).ok()
        }
        _ => None,
    }
    .ok_or_else(|| "it does not say of which cluster the log is".into())
}

/// The state in a base.
pub(crate) fn state(kept: &Kept) -> Result<State, String> {
    State::decode(&kept.value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn the_keys_of_entries_have_their_order() {
        let keys = Keys::of(Identity { cluster: ClusterId(7), session: SessionId::DEFAULT });
        let numbers = [1, 9, 10, 99, 1 << 40, u64::MAX];
        let names = numbers.map(|index| keys.entry(index));
        assert!(names.is_sorted());
        assert_eq!(names.each_ref().map(|name| keys.index_of(name).unwrap_or(0)), numbers);
        assert!(names.iter().all(|name| *name < keys.entries_end()));
        for other in ["log/1", "/log/00000000000000000001", "base"] {
            assert_eq!(keys.index_of(&format!("{}{other}", keys.prefix)), None, "{other}");
        }
    }

    #[test]
    fn other_bytes_are_no_entry() {
        let entry = Entry { origin: 3, ticket: 4, change: Change::Seal };
        let bytes = entry.encode().expect("it can be meant");
        assert_eq!(Entry::decode(&bytes), Ok(entry));
        for cut in 0..bytes.len() {
            assert!(Entry::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        let mut other = bytes;
        other[0] = 2;
        assert!(Entry::decode(&other).is_err());
    }

    #[test]
    fn answers_that_say_nothing_name_nobody() {
        let kept = |value: &[u8]| Kept { key: "leader".into(), value: value.into(), revision: 5, lease: 6 };
        assert_eq!(cluster(&kept(&cluster_bytes(ClusterId(77)))), Ok(ClusterId(77)));
        assert!(
            [&b""[..], b"\x01\x02", b"\x02\x01\x00\x00\x00\x00\x00\x00\x00"]
                .iter()
                .all(|other| cluster(&kept(other)).is_err())
        );
        let node = Leadership::read(&kept(&Leadership::encode(NodeId(300), 9)));
        assert_eq!(node, Leadership { node: NodeId(300), origin: 9, term: 5, lease: 6 });
        for strange in [&b""[..], b"\x01", b"\x02\x01\x00\x09\x00\x00\x00\x00\x00\x00\x00"] {
            assert_eq!(Leadership::read(&kept(strange)).node, NodeId::NOBODY);
        }
        assert_eq!((range(&Value::Null, 3), revision(&Value::Null)), (Vec::new(), 0));
        assert_eq!(super::kept(&json!({"key": "!", "value": ""})), None);
    }
}
