//! One object as the admin tool sees it: sets of codec `json` and `raw`, in text, JSON or hex.

use std::time::Duration;

use kddm::value::{DecodeError, EncodeError};
use kddm::{Error, Node, Raw, Set, SetError, Value};
use serde_json::{Value as Tree, json};

use super::protocol::{Action, Failure, Form, VALUE_LIMIT_BYTES};

/// How long each member may take that is asked to read an object through a linker: as long as a wait for an object.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// A JSON value. Programs share it with the admin tool by this type.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Json(pub Tree);

impl Value for Json {
    const CODEC: &'static str = "json";

    fn type_name() -> &'static str {
        "json"
    }

    fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
        serde_json::to_writer(bytes, &self.0).map_err(|error| EncodeError::new(error.to_string()))
    }

    fn decode(bytes: &[u8]) -> Result<Json, DecodeError> {
        serde_json::from_slice(bytes).map(Json).map_err(|error| DecodeError::new(error.to_string()))
    }

    fn encoded_len(&self, _limit_bytes: usize) -> Result<usize, EncodeError> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes).map(|()| bytes.len())
    }
}

/// Does it. What is answered names the object, its version and its value.
///
/// # Errors
/// What the library says, what does not fit the set, what is no number.
pub fn act(
    node: &Node,
    name: &str,
    id: u64,
    form: Option<Form>,
    replicas: Option<u8>,
    action: &Action,
) -> Result<Tree, Failure> {
    let info = match node.set_info(name) {
        Ok(info) => Some(info),
        Err(Error::Set(SetError::Unknown { .. })) => None,
        Err(error) => return Err(error.into()),
    };
    let creates = matches!(action, Action::Put { .. } | Action::Incr { .. });
    // The set of a first put is as the value is written; that of a first increment counts in JSON.
    let new = match (form, action) {
        (Some(Form::Text | Form::Hex), _) | (None, Action::Put { .. }) => Raw::CODEC,
        _ => Json::CODEC,
    };
    let codec = info.as_ref().map_or(new, |info| info.codec.as_str());
    if info.is_none() && !creates {
        let message = format!("there is no set {name:?}; `kddmadm object put {name} {id} VALUE` makes one");
        return Err(Failure { code: 201, ..Failure::new(message) });
    }
    let linker = info.as_ref().and_then(|info| info.linker.as_deref());
    if let Some(linker) = linker.filter(|_| !node.linkers().iter().any(|linked| linked.set == name)) {
        return act_where_linked(node, (name, linker, codec), id, form, action);
    }
    match codec {
        Json::CODEC => act_json(&open(node, name, info.is_some(), replicas)?, id, form, action),
        Raw::CODEC => act_raw(&open(node, name, info.is_some(), replicas)?, id, form, action),
        other => {
            let type_name = info.as_ref().map(|info| info.type_name.as_str()).unwrap_or_default();
            Err(Failure::new(format!(
                "set {name:?} has values of the Rust type {type_name} in codec {other}; the admin tool reads and \
                 writes sets of codec json or raw, use a program that knows the type"
            )))
        }
    }
}

/// What stands behind the set is not here: a member that has it reads.
fn act_where_linked(
    node: &Node,
    (name, linker, codec): (&str, &str, &str),
    id: u64,
    form: Option<Form>,
    action: &Action,
) -> Result<Tree, Failure> {
    if *action != Action::Get {
        return Err(Failure::new(format!(
            "set {name:?} has linker {linker:?}, which daemons lack: what is changed has to go through it; use a program \
             that opens the set with that linker (`kddmadm linkers` shows where it is). Nothing was changed"
        )));
    }
    let read = node.read_where_linked(name, id, READ_LIMIT)?;
    let (form, value) = match (codec, form) {
        (Json::CODEC, None | Some(Form::Json)) => {
            let value: Tree = serde_json::from_slice(&read.bytes).map_err(|error| Failure::new(error.to_string()))?;
            return Ok(
                json!({"id": id, "version": read.version, "as": "json", "value": value, "read_by": read.read_by}),
            );
        }
        (Raw::CODEC, form) => show(&read.bytes, form)?,
        // Of a type that only programs know: its bytes.
        (_, None | Some(Form::Hex)) => show(&read.bytes, Some(Form::Hex))?,
        (_, Some(_)) => {
            return Err(Failure::new(format!("this set has values in codec {codec}; use --as hex, or leave it out")));
        }
    };
    Ok(json!({"id": id, "version": read.version, "as": form, "value": value, "read_by": read.read_by}))
}

fn open<T: Value + Default>(node: &Node, name: &str, exists: bool, replicas: Option<u8>) -> Result<Set<T>, Failure> {
    let builder = node.set::<T>(name);
    let builder = match replicas {
        Some(replicas) => builder.replicas(replicas),
        None => builder,
    };
    if exists { builder.open_existing().wait() } else { builder.open().wait() }.map_err(Failure::from)
}

fn act_json(set: &Set<Json>, id: u64, form: Option<Form>, action: &Action) -> Result<Tree, Failure> {
    if form.is_some_and(|form| form != Form::Json) {
        return Err(Failure::new("this set holds JSON; use --as json, or leave it out"));
    }
    match action {
        Action::Get => {
            let guard = set.get_existing(id).wait()?;
            Ok(json!({"id": id, "version": guard.version(), "as": "json", "value": guard.0}))
        }
        Action::Put { value } => {
            let tree: Tree = serde_json::from_str(value).map_err(|error| {
                Failure::new(format!("the value is not JSON ({error}); text needs its quotes: '\"text\"'"))
            })?;
            put(set, id, Json(tree))
        }
        Action::Incr { by } => {
            let by = *by;
            add(set, id, move |value| {
                let old = match &value.0 {
                    Tree::Null => 0,
                    other => {
                        other.as_i64().ok_or_else(|| format!("the object is {}, no whole number", short(other)))?
                    }
                };
                let new = old.checked_add(by).ok_or_else(|| format!("{old} + {by} is beyond 64 bits"))?;
                value.0 = new.into();
                Ok(new)
            })
        }
        Action::Remove => remove(set, id),
    }
}

fn act_raw(set: &Set<Raw>, id: u64, form: Option<Form>, action: &Action) -> Result<Tree, Failure> {
    match action {
        Action::Get => {
            let guard = set.get_existing(id).wait()?;
            let (form, value) = show(&guard.0, form)?;
            Ok(json!({"id": id, "version": guard.version(), "as": form, "value": value}))
        }
        Action::Put { value } => {
            let bytes = match form {
                None | Some(Form::Text) => value.clone().into_bytes(),
                Some(Form::Hex) => from_hex(value)?,
                Some(Form::Json) => {
                    return Err(Failure::new("this set holds bytes; use --as text or --as hex, or leave it out"));
                }
            };
            put(set, id, Raw(bytes))
        }
        Action::Incr { by } => {
            let by = *by;
            add(set, id, move |value| {
                let text = std::str::from_utf8(&value.0).map_err(|_| "the object is no text".to_string())?;
                let no_number = |_| format!("the object is {:?}, no whole number", short(&text));
                let old: i64 = if text.is_empty() { 0 } else { text.trim().parse().map_err(no_number)? };
                let new = old.checked_add(by).ok_or_else(|| format!("{old} + {by} is beyond 64 bits"))?;
                value.0 = new.to_string().into_bytes();
                Ok(new)
            })
        }
        Action::Remove => remove(set, id),
    }
}

fn put<T: Value>(set: &Set<T>, id: u64, value: T) -> Result<Tree, Failure> {
    let bytes = value.encoded_len(VALUE_LIMIT_BYTES).map_err(|error| Failure::new(error.to_string()))?;
    if bytes > VALUE_LIMIT_BYTES {
        let text =
            format!("the value has {bytes} bytes; the admin tool puts at most {VALUE_LIMIT_BYTES}, use a program");
        return Err(Failure::new(text));
    }
    let mut guard = set.grab(id).wait()?;
    let version = guard.version() + 1;
    *guard = value;
    guard.put().wait()?;
    Ok(json!({"id": id, "version": version}))
}

fn add<T: Value>(set: &Set<T>, id: u64, change: impl FnOnce(&mut T) -> Result<i64, String>) -> Result<Tree, Failure> {
    let mut guard = set.grab(id).wait()?;
    let version = guard.version() + 1;
    // A guard that is dropped without a put discards its change.
    let value = change(&mut guard).map_err(|reason| Failure::new(format!("{reason}; nothing was changed")))?;
    guard.put().wait()?;
    Ok(json!({"id": id, "version": version, "value": value}))
}

fn remove<T: Value>(set: &Set<T>, id: u64) -> Result<Tree, Failure> {
    set.remove(id).wait()?;
    Ok(json!({"id": id, "removed": true}))
}

fn short(value: &impl ToString) -> String {
    value.to_string().chars().take(40).collect()
}

fn show(bytes: &[u8], form: Option<Form>) -> Result<(Form, String), Failure> {
    if bytes.len() > VALUE_LIMIT_BYTES {
        let text = format!("the object has {} bytes; the admin tool shows at most {VALUE_LIMIT_BYTES}", bytes.len());
        return Err(Failure::new(text));
    }
    let text = std::str::from_utf8(bytes);
    match (form, text) {
        (Some(Form::Hex), _) | (None, Err(_)) => Ok((Form::Hex, to_hex(bytes))),
        (Some(Form::Text) | None, Ok(text)) => Ok((Form::Text, text.into())),
        (Some(Form::Text), Err(_)) => Err(Failure::new("the object is no text in UTF-8; use --as hex")),
        (Some(Form::Json), _) => Err(Failure::new("this set holds bytes; use --as text or --as hex, or leave it out")),
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>, Failure> {
    let wrong = || Failure::new("the value is not pairs of hexadecimal digits, such as 00ff");
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| digit.try_into().ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0).ok_or_else(wrong)?;
    Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node::local_cluster(1).expect("a node").remove(0)
    }

    fn put(value: &str) -> Action {
        Action::Put { value: value.into() }
    }

    #[test]
    fn text_and_hex_are_two_forms_of_one_raw_set() {
        let node = node();
        act(&node, "notes", 1, None, None, &put("hi")).expect("put");
        act(&node, "notes", 2, Some(Form::Hex), None, &put("00fF")).expect("put");
        let get = |id, form| act(&node, "notes", id, form, None, &Action::Get);
        assert_eq!(get(1, None).expect("read")["value"], "hi");
        assert_eq!(get(1, Some(Form::Hex)).expect("read")["value"], "6869");
        assert_eq!(get(2, None).expect("read"), json!({"id": 2, "version": 1, "as": "hex", "value": "00ff"}));
        assert!(get(2, Some(Form::Text)).expect_err("no text").message.contains("--as hex"));
        assert!(get(2, Some(Form::Json)).is_err());
        assert_eq!(get(3, None).expect_err("missing").code, 101);
        for bad in ["0", "0g", "0é", "é"] {
            assert!(act(&node, "notes", 2, Some(Form::Hex), None, &put(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_is_checked_and_numbers_count() {
        let node = node();
        let incr = |set: &str, by| act(&node, set, 1, None, None, &Action::Incr { by });
        assert_eq!(incr("counter", 2).expect("counts")["value"], 2);
        assert_eq!(incr("counter", -5).expect("counts")["value"], -3);
        assert_eq!(act(&node, "counter", 1, None, None, &Action::Get).expect("read")["value"], -3);
        act(&node, "counter", 1, Some(Form::Json), None, &put("{\"a\":[1]}")).expect("put");
        assert!(incr("counter", 1).expect_err("no number").message.contains("nothing was changed"));
        assert_eq!(act(&node, "counter", 1, None, None, &Action::Get).expect("read")["value"], json!({"a": [1]}));
        assert!(act(&node, "counter", 1, None, None, &put("bare")).expect_err("no JSON").message.contains("quotes"));
        act(&node, "counter", 1, None, None, &put(&i64::MAX.to_string())).expect("put");
        assert!(incr("counter", 1).expect_err("too large").message.contains("64 bits"));
        act(&node, "counter", 1, None, None, &Action::Remove).expect("removed");
        assert_eq!(act(&node, "counter", 1, None, None, &Action::Get).expect_err("gone").code, 101);
        act(&node, "raw", 1, None, None, &put("41")).expect("put");
        assert_eq!(incr("raw", 1).expect("counts")["value"], 42);
    }

    #[test]
    fn what_stands_behind_a_set_is_read_by_a_member_that_has_it() {
        let nodes = Node::local_cluster(3).expect("nodes");
        let store = kddm::linker::Memory::new();
        let open = |node: &Node| -> Set<Json> {
            node.set("rows").linker("memory", store.clone()).open().wait().expect("a set")
        };
        let rows = open(&nodes[2]);
        let mut row = rows.grab(7).wait().expect("it is made");
        row.0 = json!({"a": 1});
        row.put().wait().expect("put");
        rows.evict(7).wait().expect("it is in the store alone");
        let read = act(&nodes[0], "rows", 7, None, None, &Action::Get).expect("it is read");
        assert_eq!((&read["value"], &read["read_by"]), (&json!({"a": 1}), &json!(3)));
        assert_eq!(act(&nodes[0], "rows", 8, None, None, &Action::Get).expect_err("it is nowhere").code, 101);
        let refused = act(&nodes[0], "rows", 7, None, None, &put("1")).expect_err("it cannot be written").message;
        assert!(refused.contains("linker \"memory\"") && refused.contains("Nothing was changed"), "{refused}");
        assert!(act(&nodes[0], "rows", 7, Some(Form::Text), None, &Action::Get).is_err());
        let read = act(&nodes[0], "rows", 7, Some(Form::Hex), None, &Action::Get).expect("its bytes");
        assert_eq!(read["value"], to_hex(b"{\"a\":1}"));
        nodes[2].stop();
        let missing = act(&nodes[0], "rows", 7, None, None, &Action::Get).expect_err("nobody has it");
        assert_eq!(missing.code / 100, 8, "{missing:?}");
    }

    #[test]
    fn what_does_not_fit_is_said_and_creates_nothing() {
        let node = node();
        assert_eq!(act(&node, "none", 1, None, None, &Action::Get).expect_err("no set").code, 201);
        assert_eq!(act(&node, "none", 1, None, None, &Action::Remove).expect_err("no set").code, 201);
        assert_eq!(node.sets().expect("listed"), []);
        let _typed: Set<u64> = node.set("typed").open().wait().expect("a set");
        let error = act(&node, "typed", 1, None, None, &Action::Get).expect_err("a program's").message;
        assert!(error.contains("u64") && error.contains("postcard"), "{error}");
        let large = "x".repeat(VALUE_LIMIT_BYTES + 1);
        assert!(act(&node, "notes", 1, None, None, &put(&large)).expect_err("too large").message.contains("at most"));
    }
}
