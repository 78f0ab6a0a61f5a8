//! The other nodes of a benchmark: a service that does what the measuring node says.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kddm::rpc::{HandlerError, Request, Service};
use kddm::{Node, Raw, Set};
use serde::{Deserialize, Serialize};

/// The service's name.
pub(super) const SERVICE: &str = "kddm.bench";

/// Sets that a participant keeps open: those of a few benchmarks at one time.
const OPEN_SETS: usize = 12;

/// Connections that a participant echoes on: those of a few benchmarks at one time.
const ECHOES: usize = 4;

/// How long a participant tries to connect to the node that measures.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// An echo without a request for so long ends: the node that measures is gone without a word.
const SILENCE_LIMIT: Duration = Duration::from_secs(600);

/// Bytes of a request to echo: the first eight say how long the answer is.
pub(super) const PING_BYTES: usize = 64;

/// Longest answer of an echo.
const PONG_LIMIT_BYTES: u64 = 1 << 20;

/// Objects that are prepared at once: well below what a node may have outstanding.
pub(super) const BATCH_LIMIT: u64 = 10_000;

/// A set of a benchmark.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct SetName {
    pub name: String,
    pub object_bytes: u32,
}

/// What a participant is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Own these objects.
    Own { set: SetName, from: u64, count: u64 },
    /// Have copies of these objects.
    Copy { set: SetName, from: u64, count: u64 },
    /// How many messages of each kind have you sent?
    Count,
    /// Connect there, begin with the token, and echo.
    Echo { address: SocketAddr, token: u64 },
    /// An echo on the connection of the calls: for where no other comes about.
    Ping { request: Vec<u8>, answer_bytes: u32 },
    /// These sets are gone.
    Forget { sets: Vec<String> },
}

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Sent(Vec<u64>),
    Pong(Vec<u8>),
}

#[derive(Default)]
struct State {
    sets: VecDeque<(SetName, Set<Raw>)>,
    echoes: VecDeque<TcpStream>,
}

/// As long as it lives, benchmarks of other nodes may use this one.
#[must_use = "benchmarks cannot use this node once this is dropped"]
pub struct Guard {
    state: Arc<Mutex<State>>,
    service: Option<Service>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // First, so that no order opens anything anew.
        drop(self.service.take());
        for echo in lock(&self.state).echoes.drain(..) {
            let _already_ended = echo.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Lets benchmarks of other nodes use this one.
///
/// # Errors
/// `AlreadyRegistered` if it does so already, `Stopped`.
pub fn serve(node: &Node) -> Result<Guard, kddm::Error> {
    let state: Arc<Mutex<State>> = Arc::default();
    let served = Arc::clone(&state);
    let service = node.rpc().register_blocking_typed(SERVICE, move |request, order| obey(&served, request, order))?;
    Ok(Guard { state, service: Some(service) })
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Each change is one call on one queue: a panic leaves nothing half done.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn obey(state: &Mutex<State>, request: &Request, order: Order) -> Result<Answer, HandlerError> {
    match order {
        Order::Own { set, from, count } => own(&open(state, request.node(), &set)?, objects(from, count)?)?,
        Order::Copy { set, from, count } => copy(&open(state, request.node(), &set)?, objects(from, count)?)?,
        Order::Count => return Ok(Answer::Sent(request.node().statistics().sent.to_vec())),
        Order::Echo { address, token } => {
            let mut stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(SILENCE_LIMIT))?;
            stream.write_all(&token.to_le_bytes())?;
            let mut state = lock(state);
            state.echoes.push_back(stream.try_clone()?);
            if state.echoes.len() > ECHOES
                && let Some(oldest) = state.echoes.pop_front()
            {
                let _already_ended = oldest.shutdown(std::net::Shutdown::Both);
            }
            drop(state);
            std::thread::Builder::new().name("kddm-echo".into()).spawn(move || echo(stream))?;
        }
        Order::Ping { answer_bytes, .. } => return Ok(Answer::Pong(pong(u64::from(answer_bytes)))),
        Order::Forget { sets } => lock(state).sets.retain(|(set, _)| !sets.contains(&set.name)),
    }
    Ok(Answer::Done)
}

fn objects(from: u64, count: u64) -> Result<Range<u64>, HandlerError> {
    let end = from.checked_add(count).filter(|_| count <= BATCH_LIMIT);
    end.map(|end| from..end).ok_or_else(|| format!("{count} objects from {from}; at most {BATCH_LIMIT} at once").into())
}

fn pong(bytes: u64) -> Vec<u8> {
    vec![7; bytes.min(PONG_LIMIT_BYTES) as usize]
}

/// The floor of what two processes can do: for each request an answer of the size that it names.
fn echo(mut stream: TcpStream) {
    let mut request = [0; PING_BYTES];
    let mut answer = Vec::new();
    while stream.read_exact(&mut request).is_ok() {
        let bytes = u64::from_le_bytes(request[..8].try_into().expect("eight bytes"));
        if answer.len() as u64 != bytes {
            answer = pong(bytes);
        }
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

fn open(state: &Mutex<State>, node: &Node, name: &SetName) -> Result<Set<Raw>, kddm::Error> {
    if let Some((_, set)) = lock(state).sets.iter().find(|(open, _)| open == name) {
        return Ok(set.clone());
    }
    let bytes = name.object_bytes as usize;
    let set: Set<Raw> = node.set(&name.name).first_touch(move |_| Raw(vec![0; bytes])).open_existing().wait()?;
    let mut state = lock(state);
    state.sets.push_back((name.clone(), set.clone()));
    if state.sets.len() > OPEN_SETS {
        state.sets.pop_front();
    }
    Ok(set)
}

/// Owns objects that did not exist. All requests are on their way before the first is waited for.
pub(super) fn own(set: &Set<Raw>, objects: Range<u64>) -> Result<(), kddm::Error> {
    let asked: Vec<_> = objects.clone().map(|object| set.acquire(object)).collect();
    asked.into_iter().try_for_each(kddm::Pending::wait)?;
    for object in objects {
        set.grab(object).wait()?.put().wait()?;
    }
    Ok(())
}

fn copy(set: &Set<Raw>, objects: Range<u64>) -> Result<(), kddm::Error> {
    set.prefetch(objects).into_iter().try_for_each(kddm::Pending::wait)
}
