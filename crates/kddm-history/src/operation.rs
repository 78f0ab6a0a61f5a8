//! One operation as its client saw it, from outside.

use std::fmt;

use serde::Serialize;

/// A value, or the name of an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(untagged)]
pub enum Word {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Number(number) => write!(f, "{number}"),
            Word::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// What an operation saw of its object before it changed anything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Seen {
    /// It did not look, or the client does not know.
    Nothing,
    /// The object did not exist.
    Absent,
    /// This value.
    Value(Word),
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Looks at the object.
    Read,
    /// Gives it a value, whatever it was.
    Write,
    /// Looks at it and gives it a value, with nothing in between.
    Update,
    /// Gives it a value if it does not exist.
    Insert,
    /// Ends its existence, if it exists.
    Remove,
}

impl Kind {
    /// All kinds, each with its word in the format.
    pub const ALL: [(Kind, &'static str); 5] = [
        (Kind::Read, "read"),
        (Kind::Write, "write"),
        (Kind::Update, "update"),
        (Kind::Insert, "insert"),
        (Kind::Remove, "remove"),
    ];
}

/// What the client was told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has happened, between its invocation and its return.
    Ok,
    /// It has changed nothing. What it saw counts, if it says so; an insert saw that the object exists.
    Failed,
    /// It may take effect at any time after its invocation, or never.
    Unknown,
}

impl Outcome {
    /// All outcomes, each with its word in the format.
    pub const ALL: [(Outcome, &'static str); 3] =
        [(Outcome::Ok, "ok"), (Outcome::Failed, "failed"), (Outcome::Unknown, "unknown")];
}

/// One operation of one client on one object.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Operation {
    /// Who did it.
    pub client: u64,
    /// On what.
    pub object: Word,
    /// When the client began it.
    pub invoke_ns: u64,
    /// When the client was told how it ended; none if never.
    pub return_ns: Option<u64>,
    /// What it did.
    pub kind: Kind,
    /// The value that it gives the object.
    pub value: Option<Word>,
    /// What it saw.
    pub seen: Seen,
    /// How it ended.
    pub outcome: Outcome,
}

impl Operation {
    /// Why nobody could judge this operation, if that is so.
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        let gives = matches!(self.kind, Kind::Write | Kind::Update | Kind::Insert);
        let is_ok = self.outcome == Outcome::Ok;
        if self.value.is_some() && !gives {
            Some("`value` belongs to a write, an update or an insert")
        } else if self.value.is_none() && gives && self.outcome != Outcome::Failed {
            Some("`value` is missing: what it gave, or may have given, to the object")
        } else if self.seen == Seen::Nothing && is_ok && matches!(self.kind, Kind::Read | Kind::Update) {
            Some("`result` is missing: what it saw; null if the object did not exist")
        } else if self.outcome != Outcome::Unknown && self.return_ns.is_none() {
            Some("`return_ns` is missing, though it has ended")
        } else if self.return_ns.is_some_and(|end| end < self.invoke_ns) {
            Some("`return_ns` is before `invoke_ns`")
        } else {
            None
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Kind::ALL.iter().find(|(kind, _)| *kind == self.kind).map_or("", |(_, name)| name);
        let end = self.return_ns.map_or_else(|| "...".into(), |end| end.to_string());
        write!(f, "client {:<4} {:>12} - {:<12} {name}", self.client, self.invoke_ns, end)?;
        match &self.seen {
            Seen::Nothing => {}
            Seen::Absent => write!(f, " saw nothing")?,
            Seen::Value(word) => write!(f, " saw {word}")?,
        }
        if let Some(value) = &self.value {
            write!(f, " gave {value}")?;
        }
        match self.outcome {
            Outcome::Ok => Ok(()),
            Outcome::Failed => write!(f, ", failed"),
            Outcome::Unknown => write!(f, ", outcome unknown"),
        }
    }
}
