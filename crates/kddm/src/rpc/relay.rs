//! Calls of programs that are attached to this node, and calls to those that serve. This node passes them on,
//! and their answers back; a limit travels along, and a call that nobody waits for is forgotten everywhere.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::arrival::HOP_LIMIT;
use super::connection::{Connection, Side};
use super::engine::Engine;
use super::error::RpcError;
use super::frame::{Fault, Manner, Sort};
use super::reply::{Answers, CallResult};
use super::service::{Incoming, Outcome, ReplyTo};
use super::splice::Splice;
use super::state::{Asks, Callee, Offered, Question, Sent};
use super::stream::flow::Flow;
use crate::error::{AccessError, Error, MembershipError};
use crate::runtime::Runtime;
use crate::transport::Stream;

/// Who is called: nodes by their numbers, programs by their sessions above these.
pub(crate) type Whom = u64;

/// The program of that session.
pub(crate) fn program(session: u32) -> Whom {
    1 << 32 | u64::from(session)
}

/// Connections of one program for its calls: as many nodes as it may call at one time.
const CONNECTIONS: usize = 1024;

/// Services that one program may offer.
const SERVICES: usize = 1024;

/// A call that is to be passed on.
pub(super) struct Forward {
    pub incoming: Incoming,
    pub service: Arc<str>,
    /// Who serves, if that is a program; else the node.
    pub program: Option<u32>,
    pub node: u16,
    /// The node whose handler leaves it to somebody else, if one does.
    pub passed: Option<Arc<Runtime>>,
}

/// A call that was passed on.
pub(super) struct Forwarded {
    whom: Whom,
    id: u64,
    answers: Arc<Answers>,
}

/// Passes an answer back when it is there.
struct Relay {
    engine: Weak<Engine>,
    to: ReplyTo,
    /// By a handler: the errors are those of another call than the one that was made.
    passed: bool,
    answers: Arc<Answers>,
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        let Some(engine) = self.engine.upgrade() else { return };
        engine.state.lock().forwarded.remove(&self.to);
        if let Some(Some(result)) = self.answers.take().pop() {
            engine.answer(self.to, if self.passed { outcome_of_passed(result) } else { outcome_of(result) });
        }
    }
}

/// A result, as it travels to whoever called.
fn outcome_of(result: CallResult) -> Outcome {
    result.map_err(fault_of)
}

/// An error, as it travels to whoever called.
pub(super) fn fault_of(error: Error) -> (Fault, String) {
    match error {
        Error::Rpc(RpcError::NotAMember { .. }) => (Fault::NotAMember, String::new()),
        Error::Rpc(RpcError::NoService { .. }) => (Fault::NoService, String::new()),
        Error::Rpc(RpcError::Unreachable { reason, .. }) => (Fault::Unreachable, reason),
        Error::Rpc(RpcError::Gone { reason, .. }) => (Fault::Gone, reason),
        Error::Rpc(RpcError::TimedOut { .. }) => (Fault::TooLate, String::new()),
        Error::Rpc(RpcError::Overloaded { what, .. }) => (Fault::Overloaded, what),
        Error::Rpc(RpcError::Failed { reason, .. }) => (Fault::Failed, reason),
        Error::Rpc(RpcError::Dropped { .. }) => (Fault::Dropped, String::new()),
        Error::Membership(MembershipError::Stopped) => (Fault::Stopping, String::new()),
        other => (Fault::Failed, other.to_string()),
    }
}

/// As [`outcome_of`], of a call that a handler has passed on. It has run, whatever became of the call behind it.
fn outcome_of_passed(result: CallResult) -> Outcome {
    result.map_err(|error| match error {
        Error::Rpc(RpcError::TimedOut { .. }) => (Fault::TooLate, String::new()),
        other => (Fault::Failed, format!("passed on: {other}")),
    })
}

impl Engine {
    /// A program has connected for calls to that node.
    pub fn program_calls(self: &Arc<Self>, session: u32, node: u16, stream: Stream) -> std::io::Result<()> {
        let mut state = self.state.lock();
        let of_it = state.connections.values().filter(|connection| connection.side == Side::CallsOf(session));
        if of_it.count() >= CONNECTIONS {
            return Err(std::io::Error::other("a program has too many connections for its calls"));
        }
        let number = self.attach(&mut state, Connection::new(stream, node, 0, Side::CallsOf(session)))?;
        let old = state.callers.insert((session, node), number);
        if let Some(old) = old.and_then(|old| state.connections.get_mut(&old)) {
            old.end("it has connected anew");
        }
        Ok(())
    }

    /// A program has connected to be called. It hears that it is `let_in` when that is so: its next word offers a
    /// service, over another connection.
    pub fn program_serves(
        self: &Arc<Self>,
        here: u16,
        session: u32,
        stream: Stream,
        let_in: &[u8],
    ) -> std::io::Result<()> {
        let mut state = self.state.lock();
        if state.callees.contains_key(&program(session)) {
            return Err(std::io::Error::other("a program has connected twice to be called"));
        }
        let number = self.attach(&mut state, Connection::new(stream, here, 0, Side::Served(session)))?;
        state.callees.insert(program(session), Callee::connected(number));
        if let Some(connection) = state.connections.get_mut(&number) {
            connection.room().into_iter().for_each(|room| room.extend_from_slice(let_in));
            connection.write();
        }
        Ok(())
    }

    /// A program offers a service. Again and again is once.
    pub fn offer(self: &Arc<Self>, session: u32, service: &str) -> Result<(), Error> {
        let mut state = self.state.lock();
        if !super::frame::is_name(service) {
            return Err(RpcError::BadName { service: service.into() }.into());
        }
        if !state.callees.contains_key(&program(session)) {
            return Err(MembershipError::Detached.into());
        }
        match state.services.get(service) {
            Some(Offered::By(by)) if *by == session => return Ok(()),
            _ if super::is_ours(service) => {
                return Err(RpcError::AlreadyRegistered { service: service.into() }.into());
            }
            Some(_) => return Err(RpcError::AlreadyRegistered { service: service.into() }.into()),
            None => {}
        }
        let by_it = state.services.values().filter(|offered| matches!(offered, Offered::By(by) if *by == session));
        let outstanding = by_it.count();
        if outstanding >= SERVICES {
            return Err(AccessError::Overloaded { outstanding, limit: SERVICES }.into());
        }
        state.services.insert(service.into(), Offered::By(session));
        let todo = state.no_longer_early(service);
        drop(state);
        self.perform(todo);
        Ok(())
    }

    /// A program offers a service no more.
    pub fn take_offer_back(&self, session: u32, service: &str) {
        let mut state = self.state.lock();
        if matches!(state.services.get(service), Some(Offered::By(by)) if *by == session) {
            state.services.remove(service);
        }
    }

    /// The node of this program is connected to call services here.
    pub fn lender_calls(self: &Arc<Self>, node: u16, stream: Stream) -> std::io::Result<()> {
        let mut state = self.state.lock();
        let number = self.attach(&mut state, Connection::new(stream, node, 0, Side::Lender))?;
        state.callers.insert((0, node), number);
        Ok(())
    }

    /// Whether the node of this program can call services here.
    pub fn is_served(&self, node: u16) -> bool {
        self.state.lock().callers.contains_key(&(0, node))
    }

    /// The services that are registered here.
    pub fn service_names(&self) -> Vec<Arc<str>> {
        self.state.lock().services.keys().cloned().collect()
    }

    /// All connections end, and what waits for answers.
    pub fn end_connections(&self, why: &'static str) {
        self.state.lock().connections.values_mut().for_each(|connection| connection.end(why));
    }

    pub(super) fn forward(self: &Arc<Self>, forward: &Forward) {
        let Forward { incoming, passed, .. } = forward;
        let sort = incoming.manner.sort;
        if sort == Sort::Stream {
            return self.splice(forward);
        }
        let answers = Arc::new(Answers::new(1));
        let (engine, to) = (Arc::downgrade(self), incoming.reply_to);
        let relay = Relay { engine, to, passed: passed.is_some(), answers: Arc::clone(&answers) };
        answers.wake_by(&Waker::from(Arc::new(relay)));
        let limit = incoming.deadline.saturating_duration_since(Instant::now());
        let asks = if sort == Sort::Cast { Asks::Nobody } else { Asks::Answer(&answers, 0) };
        match self.ask_onward(forward, limit, asks) {
            // Nobody answers it, and here it has ended.
            Ok(_) if sort == Sort::Cast => answers.complete(0, Ok(Vec::new())),
            Ok((whom, id)) => {
                let mut state = self.state.lock();
                let forwarded = Forwarded { whom, id, answers };
                if incoming.cancelled.load(Ordering::Acquire) {
                    let ReplyTo { connection, id } = incoming.reply_to;
                    if let Some(connection) = state.connections.get_mut(&connection) {
                        connection.finish(id);
                    }
                    drop(state);
                    self.forget(&forwarded);
                } else if !forwarded.answers.are_there() {
                    state.forwarded.insert(incoming.reply_to, forwarded);
                }
            }
            Err(error) => answers.complete(0, Err(error)),
        }
    }

    /// Puts the question to whom it is passed on: who that is, and its number there.
    fn ask_onward(&self, forward: &Forward, limit: Duration, asks: Asks<'_>) -> Result<(Whom, u64), Error> {
        let Forward { incoming, service, program: by, node, passed } = forward;
        let Manner { sort, at_once, hops, .. } = incoming.manner;
        let runtime = passed.clone().or_else(|| self.state.lock().runtime.upgrade());
        let whom = by.map_or(u64::from(*node), program);
        // A program is believed nothing of others, so its node asks for it in its own name.
        let is_node = runtime.as_ref().is_some_and(|runtime| runtime.lender.is_none());
        let from = if by.is_some() || (passed.is_some() && is_node) { incoming.from } else { 0 };
        let manner = Manner { sort, at_once, hops: hops + u8::from(passed.is_some()), from };
        let question = Question { node: *node, whom, manner, service, body: &incoming.body, limit, asks };
        let sent = match by {
            Some(_) => match self.send(&question) {
                Sent::As(id) => Ok(id),
                Sent::Refused(error) => Err(error),
                Sent::NotConnected => Err(RpcError::NoService { node: *node, service: service.to_string() }.into()),
            },
            None => runtime.ok_or(MembershipError::Stopped.into()).and_then(|runtime| runtime.put_question(&question)),
        };
        sent.map(|id| (whom, id))
    }

    /// Opens a stream for one that has come, and passes on what comes on either.
    fn splice(self: &Arc<Self>, forward: &Forward) {
        let Forward { incoming, service, node, .. } = forward;
        let Some(flow) = &incoming.flow else { return };
        let onward = Arc::new(Flow::opened(*node, service, flow.limit));
        match self.ask_onward(forward, flow.limit, Asks::Stream(&onward)) {
            Ok(_) => Splice::begin(self, flow, &onward),
            Err(error) => self.answer(incoming.reply_to, Err(fault_of(error))),
        }
    }

    /// A handler leaves a call to somebody else.
    pub(super) fn pass_on(self: &Arc<Self>, forward: &Forward) {
        let hops = forward.incoming.manner.hops;
        if hops >= HOP_LIMIT {
            let what = format!("passed on {hops} times, which is a circle");
            return self.answer(forward.incoming.reply_to, Err((Fault::Failed, what)));
        }
        self.state.lock().counts.forwarded += 1;
        self.forward(forward);
    }

    pub(super) fn forget(&self, forwarded: &Forwarded) {
        forwarded.answers.forget();
        self.cancel(forwarded.whom, forwarded.id);
    }
}

impl Runtime {
    /// A service was registered. In a program its node is told, which passes calls on.
    ///
    /// # Errors
    /// That one has a service of that name, or is gone.
    pub(crate) fn offer(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        let Some(lender) = &self.lender else { return Ok(()) };
        let _one_connection = lender.serving.lock();
        if !self.rpc.is_served(self.identity.id.0) {
            let stream = lender.connect_serving()?;
            let served = self.rpc.lender_calls(self.identity.id.0, stream);
            served.map_err(|_ended| Error::from(MembershipError::Detached))?;
        }
        lender.offer(name)
    }

    /// A service is not registered any more. If the node does not hear of it, its calls find nobody.
    pub(super) fn withdraw(&self, name: &str) {
        if let Some(lender) = self.lender.as_ref().filter(|_| !self.is_stopping()) {
            lender.withdraw(name);
        }
    }
}
