//! The format: a line that names it, then one JSON object a line for each operation, in any order.
//! `docs/testing.md` describes it.

use std::io::{self, BufRead, Read, Write};

use serde_json::{Map, Value as Json, json};

use crate::operation::{Kind, Operation, Outcome, Seen, Word};

/// A line that is longer is not one of ours.
pub const MOST_LINE_BYTES: usize = 1 << 20;

/// Operations in one history: a limit for the memory of whoever reads it.
pub const MOST_OPERATIONS: usize = 8 << 20;

const NAME: &str = "kddm-history";
const VERSION: u64 = 1;

const FIELDS: &[&str] = &["client", "object", "invoke_ns", "return_ns", "operation", "value", "result", "outcome"];

/// Why a text is no history.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It could not be read.
    #[error("cannot read the history: {0}")]
    Io(#[from] io::Error),
    /// A line is wrong.
    #[error("line {line}: {what}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// Reads a history. Empty lines count for nothing.
pub fn read(input: impl Read) -> Result<Vec<Operation>, ReadError> {
    let mut input = io::BufReader::new(input);
    let mut operations = Vec::new();
    let mut bytes = Vec::new();
    let mut is_first = true;
    for line in 1.. {
        bytes.clear();
        let limit = MOST_LINE_BYTES as u64 + 1;
        if (&mut input).take(limit).read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        let wrong = |what: String| ReadError::Line { line, what };
        if bytes.len() > MOST_LINE_BYTES {
            return Err(wrong(format!("longer than {MOST_LINE_BYTES} bytes")));
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let json: Json = serde_json::from_slice(&bytes).map_err(|error| wrong(format!("is not JSON: {error}")))?;
        let Json::Object(fields) = json else { return Err(wrong("is not a JSON object".into())) };
        if is_first {
            header(&fields).map_err(wrong)?;
            is_first = false;
            continue;
        }
        if operations.len() >= MOST_OPERATIONS {
            return Err(wrong(format!("more than {MOST_OPERATIONS} operations")));
        }
        operations.push(operation(&fields).map_err(wrong)?);
    }
    if is_first {
        return Err(ReadError::Line { line: 1, what: format!("the header is missing: {}", first_line()) });
    }
    Ok(operations)
}

/// Writes a history that [`read`] reads.
pub fn write<'a>(operations: impl IntoIterator<Item = &'a Operation>, mut out: impl Write) -> io::Result<()> {
    writeln!(out, "{}", first_line())?;
    for operation in operations {
        writeln!(out, "{}", to_json(operation))?;
    }
    out.flush()
}

fn first_line() -> Json {
    json!({ "format": NAME, "version": VERSION })
}

fn header(fields: &Map<String, Json>) -> Result<(), String> {
    if fields.get("format").and_then(Json::as_str) != Some(NAME) {
        return Err(format!("the header is missing: {}", first_line()));
    }
    match fields.get("version").and_then(Json::as_u64) {
        Some(VERSION) => Ok(()),
        _ => Err(format!("this program reads version {VERSION} of the format")),
    }
}

/// An operation as it stands in a line.
pub(crate) fn to_json(operation: &Operation) -> Json {
    let mut json = json!({
        "client": operation.client,
        "object": operation.object,
        "invoke_ns": operation.invoke_ns,
        "return_ns": operation.return_ns,
        "operation": operation.kind,
        "outcome": operation.outcome,
    });
    if let Some(value) = &operation.value {
        json["value"] = json!(value);
    }
    match &operation.seen {
        Seen::Nothing => {}
        Seen::Absent => json["result"] = Json::Null,
        Seen::Value(word) => json["result"] = json!(word),
    }
    json
}

fn operation(fields: &Map<String, Json>) -> Result<Operation, String> {
    if let Some(unknown) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(format!("there is no field `{unknown}`; an operation has {}", FIELDS.join(", ")));
    }
    let operation = Operation {
        client: number(fields, "client")?,
        object: word(fields, "object")?.ok_or("`object` is missing: a number or a text")?,
        invoke_ns: number(fields, "invoke_ns")?,
        return_ns: match fields.get("return_ns") {
            None | Some(Json::Null) => None,
            Some(_) => Some(number(fields, "return_ns")?),
        },
        kind: one_of(fields, "operation", &Kind::ALL)?,
        value: word(fields, "value")?,
        seen: match fields.get("result") {
            Some(Json::Null) => Seen::Absent,
            _ => word(fields, "result")?.map_or(Seen::Nothing, Seen::Value),
        },
        outcome: one_of(fields, "outcome", &Outcome::ALL)?,
    };
    match operation.flaw() {
        Some(flaw) => Err(flaw.into()),
        None => Ok(operation),
    }
}

fn number(fields: &Map<String, Json>, name: &str) -> Result<u64, String> {
    let field = fields.get(name).ok_or_else(|| format!("`{name}` is missing: a number"))?;
    field.as_u64().ok_or_else(|| format!("`{name}` is {field}, not a whole number from 0 to 2^64-1"))
}

fn word(fields: &Map<String, Json>, name: &str) -> Result<Option<Word>, String> {
    match fields.get(name) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(Word::Text(text.clone()))),
        Some(Json::Number(number)) if number.is_u64() => Ok(number.as_u64().map(Word::Number)),
        Some(other) => Err(format!("`{name}` is {other}, neither a whole number from 0 to 2^64-1 nor a text")),
    }
}

fn one_of<T: Copy>(fields: &Map<String, Json>, name: &str, known: &[(T, &str)]) -> Result<T, String> {
    let words = || known.iter().map(|(_, word)| *word).collect::<Vec<_>>().join(", ");
    let field = fields.get(name).ok_or_else(|| format!("`{name}` is missing: one of {}", words()))?;
    let found = known.iter().find(|(_, word)| field.as_str() == Some(word));
    found.map(|(value, _)| *value).ok_or_else(|| format!("`{name}` is {field}, not one of {}", words()))
}
