//! What the lock of an engine protects: who is connected, what is outstanding, which services there are.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::connection::Connection;
use super::early::Early;
use super::error::RpcError;
use super::frame::{Fault, Manner};
use super::relay::{Forward, Forwarded, Whom};
use super::reply::{Answers, CallResult};
use super::service::{Incoming, Outcome, Registered, ReplyTo};
use super::stream::flow::Flow;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::transport::Poller;

/// What a node counts of calls.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CallCounts {
    /// Calls that were sent from here, those of programs and those that were passed on, too.
    pub called: u64,
    /// Casts that were sent from here.
    pub cast: u64,
    /// Calls, casts and streams that came in.
    pub asked: u64,
    /// Such that waited for their service.
    pub queued: u64,
    /// Such that were refused: nobody serves, or too much is in work.
    pub refused: u64,
    /// Calls that handlers have passed on.
    pub forwarded: u64,
    /// Streams that were opened from here, or came in.
    pub streams: u64,
    /// Streams that are open now.
    pub open_streams: u64,
}

/// A call that waits for its answer.
pub(super) struct Waiting {
    pub answers: Arc<Answers>,
    pub index: usize,
    pub service: Arc<str>,
    pub limit_ms: u64,
}

impl Waiting {
    pub fn failed(&self, node: u16, fault: Fault, reason: String) -> Error {
        error_of(node, &self.service, fault, reason, self.limit_ms)
    }
}

/// A fault, as whoever asked is told.
pub(super) fn error_of(node: u16, service: &str, fault: Fault, reason: String, limit_ms: u64) -> Error {
    let service = service.to_string();
    match fault {
        Fault::NoService => RpcError::NoService { node, service }.into(),
        Fault::Overloaded => RpcError::Overloaded { node, service, what: reason }.into(),
        Fault::Failed => RpcError::Failed { node, service, reason }.into(),
        Fault::Stopping => RpcError::Gone { node, service, reason: "it stops".into() }.into(),
        Fault::TooLate => RpcError::TimedOut { node, service, limit_ms }.into(),
        Fault::NotAMember => RpcError::NotAMember { node }.into(),
        Fault::Unreachable => RpcError::Unreachable { node, reason }.into(),
        Fault::Gone => RpcError::Gone { node, service, reason }.into(),
        Fault::Dropped => RpcError::Dropped { node, service }.into(),
    }
}

/// A node that was called.
pub(super) struct Callee {
    pub incarnation: u32,
    /// None while it is being dialled.
    pub connection: Option<u64>,
    /// What goes out once it is connected.
    pub early: Vec<u8>,
    pub calls: HashMap<u64, Waiting>,
    /// Streams that wait for the connection.
    pub flows: Vec<Arc<Flow>>,
}

impl Callee {
    /// One that is being dialled.
    pub fn dialled(incarnation: u32) -> Callee {
        let (connection, early, calls, flows) = Default::default();
        Callee { incarnation, connection, early, calls, flows }
    }

    /// All that waits for it ends with an error, which is made of the service.
    pub fn failed(self, error: impl Fn(&Arc<str>) -> Error) -> Vec<Todo> {
        let mut todo = Vec::new();
        for waiting in self.calls.into_values() {
            let error = error(&waiting.service);
            todo.push(Todo::Complete(waiting.answers, waiting.index, Err(error)));
        }
        for flow in self.flows {
            flow.ended(&error(flow.service()));
            todo.extend([Todo::Reads(Arc::clone(&flow)), Todo::Writes(flow)]);
        }
        todo
    }

    /// One that has connected by itself.
    pub fn connected(connection: u64) -> Callee {
        Callee { connection: Some(connection), ..Callee::dialled(0) }
    }
}

/// Who serves.
pub(super) enum Offered {
    Here(Arc<Registered>),
    /// The program of that session.
    By(u32),
}

/// What is done after the lock was given back.
pub(super) enum Todo {
    Complete(Arc<Answers>, usize, CallResult),
    Serve(Arc<Registered>, Incoming),
    /// An operation on an object.
    Invoke(Incoming),
    /// Which objects there are.
    Scan(Incoming),
    /// What the linkers here are to do, or to say.
    Linkers(Incoming),
    /// A watch of a set.
    Watch(Incoming),
    Answer(ReplyTo, Outcome),
    /// To another node for a program, or to a program.
    Forward(Forward),
    /// Nobody waits for that any more.
    Forget(Forwarded),
    /// There is something to read in a stream, or its end.
    Reads(Arc<Flow>),
    /// There is room to write in a stream, or nobody takes anything.
    Writes(Arc<Flow>),
}

#[derive(Default)]
pub(super) struct State {
    pub is_stopped: bool,
    /// The last number given to a connection or call.
    pub last: u64,
    pub poller: Option<Arc<Poller>>,
    pub connections: HashMap<u64, Connection>,
    pub callees: HashMap<Whom, Callee>,
    /// By program, zero for none, and node.
    pub callers: HashMap<(u32, u16), u64>,
    pub services: HashMap<Arc<str>, Offered>,
    /// What waits for services that are not registered yet.
    pub early: VecDeque<Early>,
    /// Calls that were passed on, by where their answers go.
    pub forwarded: HashMap<ReplyTo, Forwarded>,
    /// The node, if it is one.
    pub runtime: Weak<Runtime>,
    pub malformed: u64,
    pub counts: CallCounts,
}

impl State {
    /// Streams to that node, or program, that are open or wait for a connection.
    pub fn streams_to(&self, whom: Whom) -> usize {
        let Some(callee) = self.callees.get(&whom) else { return 0 };
        let connection = callee.connection.and_then(|number| self.connections.get(&number));
        callee.flows.len() + connection.map_or(0, |connection| connection.flows.len())
    }
}

/// A question that is to go out.
pub(crate) struct Question<'a> {
    pub node: u16,
    /// Who answers: the node, or a program.
    pub whom: Whom,
    pub manner: Manner,
    pub service: &'a Arc<str>,
    pub body: &'a [u8],
    pub limit: Duration,
    pub asks: Asks<'a>,
}

/// Who is told of what a question comes to.
pub(crate) enum Asks<'a> {
    /// Whoever waits for an answer, of one or several.
    Answer(&'a Arc<Answers>, usize),
    Nobody,
    /// Whoever has that stream; it is given its number when it is sent.
    Stream(&'a Arc<Flow>),
}

/// What became of a question.
pub(crate) enum Sent {
    /// It has that number.
    As(u64),
    /// The node is not connected: it must be dialled, then ask again.
    NotConnected,
    /// No, and why.
    Refused(Error),
}
