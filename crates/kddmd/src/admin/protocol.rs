//! What is asked and answered, for both sides. One request a connection; a stream of answers for those
//! that watch, each with `"more": true` but the last.

use std::io::{BufRead, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Version of this protocol. A daemon answers requests of its own version only.
pub const VERSION: u32 = 1;

/// Longest request, 4 MiB: the largest value that the admin tool may put, in hex, with room around it.
pub const REQUEST_LIMIT_BYTES: u64 = 4 << 20;

/// Longest answer, 256 MiB: a list of a million sets.
pub const ANSWER_LIMIT_BYTES: u64 = 256 << 20;

/// Largest value that goes through the admin tool, 1 MiB: it is for people, programs use the library.
pub const VALUE_LIMIT_BYTES: usize = 1 << 20;

/// A line that a client sends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// See [`VERSION`].
    pub version: u32,
    /// What is asked.
    #[serde(flatten)]
    pub command: Command,
}

/// What can be asked of a daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// The members and their states.
    Status,
    /// A node, or all that are online, begins to share objects.
    Start {
        /// Which; all if it is missing.
        node: Option<u16>,
    },
    /// A node, or all, shares objects no more: they are handed over first.
    Stop {
        /// Which; all if it is missing.
        node: Option<u16>,
    },
    /// What would end with all daemons; if that is meant, all end.
    End {
        /// Do it.
        is_meant: bool,
    },
    /// Answers when that many members are possible.
    Wait {
        /// How many.
        members: usize,
        /// The limit.
        limit_ms: u64,
    },
    /// All sets, with what this daemon keeps of them.
    Sets,
    /// One set.
    Set {
        /// Its name.
        name: String,
    },
    /// Objects of a set, and where each is.
    Objects {
        /// The set.
        set: String,
        /// Those behind that place; from the first on if it is missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        /// How many at most.
        limit: u32,
    },
    /// Reads, writes, removes one object.
    Object {
        /// Its set.
        set: String,
        /// The object.
        id: u64,
        /// How values are written in requests and answers.
        form: Option<Form>,
        /// How many replicas the set has, if it is made; one that exists must have so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replicas: Option<u8>,
        /// What to do.
        action: Action,
    },
    /// One object, of a set of any type: where it is, who has it, who waits.
    ObjectShow {
        /// Its set.
        set: String,
        /// The object.
        id: u64,
    },
    /// What is remembered of an object.
    ObjectHistory {
        /// Its set.
        set: String,
        /// The object.
        id: u64,
    },
    /// Accepts that an object, or all that is lost of a set, is gone.
    AcceptLoss {
        /// The set.
        set: String,
        /// The object; all that is lost of the set if it is missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
    },
    /// Freezes a set for so many minutes at most.
    Freeze {
        /// The set.
        set: String,
        /// How long.
        minutes: u32,
    },
    /// Thaws a set that this daemon has frozen.
    Thaw {
        /// The set.
        set: String,
    },
    /// What would end with a set; if that is meant, it is destroyed in the whole cluster.
    Destroy {
        /// The set.
        set: String,
        /// How long whoever holds one of its objects may take to put it.
        limit_ms: u64,
        /// Do it, if that is its number still: the name may have gone to another one since what would end was said.
        meant: Option<u64>,
    },
    /// What is wrong with the cluster, why, and what to do.
    Doctor,
    /// All barriers: who has to come, and who waits.
    Barriers,
    /// All latches, and what remains to be counted down.
    Latches,
    /// All sources of unique ids.
    Ids,
    /// Names that are in use, and by whom.
    Names {
        /// Of one class; of all if it is missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class: Option<String>,
        /// How many at most.
        limit: u32,
    },
    /// What stands behind sets, as each node has it.
    Linkers,
    /// Who holds and who waits, on this daemon.
    Holders,
    /// What this daemon counts.
    Stats,
    /// Measures the cluster from this daemon's node. Ends when nobody listens any more.
    Bench {
        /// Operations of each case.
        operations: usize,
        /// A case ends after so long.
        case_limit_ms: u64,
    },
    /// What changes in a set from now on, an answer an event.
    Events {
        /// The set.
        set: String,
        /// One object; all if it is missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        object: Option<u64>,
        /// Where another watch had come to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// How many events; without an end if it is missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
    },
    /// The same again and again.
    Watch {
        /// Pause between answers.
        interval_ms: u64,
        /// How many answers; without an end if it is missing.
        count: Option<u64>,
    },
}

/// How a value is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// As text.
    Text,
    /// As JSON.
    Json,
    /// As pairs of hexadecimal digits.
    Hex,
}

/// What to do with an object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Read it.
    Get,
    /// Write it.
    Put {
        /// The value, in the given form.
        value: String,
    },
    /// Add to the number that it is.
    Incr {
        /// How much.
        by: i64,
    },
    /// Remove it everywhere.
    Remove,
}

/// A line that a daemon sends.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Response {
    /// See [`VERSION`].
    pub version: u32,
    /// The answer, if it worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<Json>,
    /// Why not, if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Another line follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// Why a request did not work.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// A sentence that says what to do.
    pub message: String,
    /// The number of the library's error; 0 if it is none of those.
    pub code: u16,
    /// What became of the object: `nothing_happened`, `happened` or `unknown`.
    pub fate: String,
}

impl Failure {
    /// A failure that has changed nothing.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: 0, fate: "nothing_happened".into() }
    }
}

impl From<kddm::Error> for Failure {
    fn from(error: kddm::Error) -> Failure {
        let fate = match error.fate() {
            kddm::Fate::NothingHappened => "nothing_happened",
            kddm::Fate::Happened => "happened",
            kddm::Fate::Unknown => "unknown",
        };
        Failure { message: error.to_string(), code: error.code(), fate: fate.into() }
    }
}

impl Response {
    /// The last line, with an answer or a reason.
    pub fn last(result: Result<Json, Failure>) -> Response {
        let (ok, error) = match result {
            Ok(answer) => (Some(answer), None),
            Err(failure) => (None, Some(failure)),
        };
        Response { version: VERSION, ok, error, more: false }
    }

    /// A line with others behind it.
    pub fn one_of_many(answer: Json) -> Response {
        Response { version: VERSION, ok: Some(answer), error: None, more: true }
    }
}

/// Why no line came.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The connection broke, or the time was over.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It ended before a whole line.
    #[error("the connection ended before a whole line")]
    Ended,
    /// Too long.
    #[error("a line is longer than {0} bytes")]
    TooLong(u64),
    /// Not what is spoken here.
    #[error("a line is not what was expected: {0}")]
    Malformed(String),
}

/// Reads one line, up to `limit` bytes: memory grows only as bytes come.
///
/// # Errors
/// See [`LineError`].
pub fn read_line<T: DeserializeOwned>(input: &mut impl BufRead, limit: u64) -> Result<T, LineError> {
    let mut line = Vec::new();
    input.by_ref().take(limit).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(if line.len() as u64 >= limit { LineError::TooLong(limit) } else { LineError::Ended });
    }
    serde_json::from_slice(&line).map_err(|error| LineError::Malformed(error.to_string()))
}

/// Writes one line.
///
/// # Errors
/// The stream's.
pub fn write_line(mut output: impl Write, value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    output.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_they_are_documented_to_be() {
        let text = r#"{"version":1,"command":"object","set":"s","id":7,"form":null,"action":{"incr":{"by":2}}}"#;
        let request: Request = read_line(&mut format!("{text}\n").as_bytes(), 1000).expect("good");
        let action = Action::Incr { by: 2 };
        let command = Command::Object { set: "s".into(), id: 7, form: None, replicas: None, action };
        assert_eq!(request, Request { version: 1, command });
        let mut bytes = Vec::new();
        write_line(&mut bytes, &request).expect("written");
        assert_eq!(String::from_utf8_lossy(&bytes).trim(), text);
    }

    #[test]
    fn bad_lines_are_told_apart() {
        let read = |bytes: &[u8]| read_line::<Request>(&mut &bytes[..], REQUEST_LIMIT_BYTES).expect_err("bad");
        assert!(matches!(read(b"{\"version\":1,\"command\":\"status\"}"), LineError::Ended));
        assert!(matches!(read(b"\xff\n"), LineError::Malformed(_)));
        assert!(matches!(read(b"{\"version\":1,\"command\":\"burn\"}\n"), LineError::Malformed(_)));
        assert!(matches!(read(&vec![b'['; REQUEST_LIMIT_BYTES as usize + 10]), LineError::TooLong(_)));
        // Deep nesting must not cost the stack.
        let mut deep = vec![b'['; 1 << 20];
        deep.push(b'\n');
        assert!(matches!(read(&deep), LineError::Malformed(_)));
    }
}
