//! The first words on a connection: who are you, may we talk. All bytes are hostile until checked.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::address::Address;
use super::stream::{DialError, Stream, dial};

/// Version of the protocol above streams: greeting, frames and rules.
pub const PROTOCOL: u16 = 4;

/// "KDDM", then the length of what follows.
const MAGIC: [u8; 4] = *b"KDDM";

/// Longest word of a greeting or control exchange: a view of the largest cluster fits.
const MOST_BYTES: u32 = 1 << 20;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Purpose {
    /// One question, one answer.
    Control,
    /// Frames of one lane.
    Link {
        /// Which.
        lane: u8,
        /// How many there are.
        lanes: u8,
        /// Greatest sequence received from the other side.
        received: u64,
    },
    /// Calls of services; the answer to the greeting says which life was reached.
    Rpc,
}

/// What the caller says first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the protocol.
    pub protocol: u16,
    /// Session id.
    pub session: u16,
    /// Cluster id; zero if it is not known yet.
    pub cluster: u64,
    /// The caller; zero if it has no number yet.
    pub node: u16,
    /// Its life.
    pub incarnation: u32,
    /// Its process.
    pub nonce: u64,
    /// What for.
    pub purpose: Purpose,
}

/// What the called side answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Go on.
    Welcome {
        /// Who answers.
        node: u16,
        /// Greatest sequence received from the caller, on a link; the life of who answers, for calls.
        received: u64,
    },
    /// No, and why.
    Refused(String),
}

/// Why an exchange failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GreetError {
    /// Nobody was reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The other side said no.
    #[error("{0}")]
    Refused(String),
    /// The connection ended or the time was over.
    #[error("{address} did not answer: {reason}")]
    Broken {
        /// Whom.
        address: String,
        /// What happened.
        reason: String,
    },
    /// What came is not what this program speaks.
    #[error("{address} does not speak this protocol: {reason}")]
    Garbage {
        /// Whom.
        address: String,
        /// What is wrong.
        reason: String,
    },
}

/// The bytes of one word.
///
/// # Errors
/// It does not encode, which no word of this program does.
pub fn bytes_of<W: Serialize>(word: &W) -> std::io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(word).map_err(|error| std::io::Error::other(error.to_string()))?;
    let mut bytes = Vec::with_capacity(8 + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Writes one word.
///
/// # Errors
/// The stream's.
pub fn send<W: Serialize>(mut stream: &Stream, word: &W) -> std::io::Result<()> {
    stream.write_all(&bytes_of(word)?)
}

/// Reads one word.
///
/// # Errors
/// The stream's, or `InvalidData` with what is wrong.
pub fn receive<W: DeserializeOwned>(stream: &Stream) -> std::io::Result<W> {
    receive_at_most(stream, MOST_BYTES)
}

/// As [`receive`], with a limit of its own for the length.
///
/// # Errors
/// The stream's, or `InvalidData` with what is wrong.
pub fn receive_at_most<W: DeserializeOwned>(mut stream: &Stream, most_bytes: u32) -> std::io::Result<W> {
    let invalid = |reason: String| std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
    let mut head = [0u8; 8];
    stream.read_exact(&mut head)?;
    if head[..4] != MAGIC {
        return Err(invalid("it does not begin with KDDM".into()));
    }
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    if length > most_bytes {
        return Err(invalid(format!("a word of {length} bytes, at most {most_bytes} are allowed")));
    }
    let mut body = vec![0u8; length as usize];
    stream.read_exact(&mut body)?;
    let (word, rest) = postcard::take_from_bytes(&body).map_err(|error| invalid(error.to_string()))?;
    if rest.is_empty() { Ok(word) } else { Err(invalid("bytes behind the end".into())) }
}

fn explain(address: &Address, error: &std::io::Error) -> GreetError {
    let address = address.to_string();
    match error.kind() {
        std::io::ErrorKind::InvalidData => GreetError::Garbage { address, reason: error.to_string() },
        std::io::ErrorKind::WouldBlock => GreetError::Broken { address, reason: "no answer in time".into() },
        _ => GreetError::Broken { address, reason: error.to_string() },
    }
}

/// Dials and greets. The stream is blocking, with the limit still set.
///
/// # Errors
/// Says who did what.
pub fn greet(address: &Address, hello: &Hello, limit: Duration) -> Result<(Stream, u16, u64), GreetError> {
    let stream = dial(address, limit)?;
    let exchange = || {
        stream.set_limit(Some(limit))?;
        send(&stream, hello)?;
        receive(&stream)
    };
    match exchange().map_err(|error| explain(address, &error))? {
        Reply::Welcome { node, received } => Ok((stream, node, received)),
        Reply::Refused(reason) => Err(GreetError::Refused(reason)),
    }
}

/// One question and its answer.
///
/// # Errors
/// Says who did what.
pub fn call<Q: Serialize, A: DeserializeOwned>(
    address: &Address,
    hello: &Hello,
    question: &Q,
    limit: Duration,
) -> Result<A, GreetError> {
    call_timed(address, hello, question, limit).map(|(answer, _)| answer)
}

/// As [`call`]; and from when on the answer may count: the question was sent after that, and the connection was there, which may take
/// longer than a lease.
///
/// # Errors
/// As [`call`].
pub fn call_timed<Q: Serialize, A: DeserializeOwned>(
    address: &Address,
    hello: &Hello,
    question: &Q,
    limit: Duration,
) -> Result<(A, Instant), GreetError> {
    let (stream, ..) = greet(address, hello, limit)?;
    let asked = Instant::now();
    let exchange = || {
        send(&stream, question)?;
        receive(&stream)
    };
    exchange().map(|answer| (answer, asked)).map_err(|error| explain(address, &error))
}
