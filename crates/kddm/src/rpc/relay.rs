//! Calls of programs that are attached to this node, and calls to those that serve. This node passes them on,
//! and their answers back; a limit travels along, and a call that nobody waits for is forgotten everywhere.

use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::Instant;

use super::connection::{Connection, Side};
use super::engine::{Callee, Engine, Offered, Question, Sent};
use super::error::RpcError;
use super::frame::Fault;
use super::reply::{Answers, CallResult};
use super::service::{Incoming, Outcome, ReplyTo};
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
    answers: Arc<Answers>,
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        let Some(engine) = self.engine.upgrade() else { return };
        engine.state.lock().forwarded.remove(&self.to);
        if let Some(Some(result)) = self.answers.take().pop() {
            engine.answer(self.to, outcome_of(result));
        }
    }
}

/// A result, as it travels to whoever called.
fn outcome_of(result: CallResult) -> Outcome {
    let error = match result {
        Ok(body) => return Ok(body),
        Err(error) => error,
    };
    Err(match error {
        Error::Rpc(RpcError::NotAMember { .. }) => (Fault::NotAMember, String::new()),
        Error::Rpc(RpcError::NoService { .. }) => (Fault::NoService, String::new()),
        Error::Rpc(RpcError::Unreachable { reason, .. }) => (Fault::Unreachable, reason),
        Error::Rpc(RpcError::Gone { reason, .. }) => (Fault::Gone, reason),
        Error::Rpc(RpcError::TimedOut { .. }) => (Fault::TooLate, String::new()),
        Error::Rpc(RpcError::Overloaded { what, .. }) => (Fault::Overloaded, what),
        Error::Rpc(RpcError::Failed { reason, .. }) => (Fault::Failed, reason),
        Error::Membership(MembershipError::Stopped) => (Fault::Stopping, String::new()),
        other => (Fault::Failed, other.to_string()),
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
    pub fn offer(&self, session: u32, service: &str) -> Result<(), Error> {
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
        let Forward { incoming, service, program: by, node } = forward;
        let answers = Arc::new(Answers::new(1));
        let relay = Relay { engine: Arc::downgrade(self), to: incoming.reply_to, answers: Arc::clone(&answers) };
        let _not_there_yet = answers.wake_by(&Waker::from(Arc::new(relay)));
        let whom = by.map_or(u64::from(*node), program);
        let limit = incoming.deadline.saturating_duration_since(Instant::now());
        let from = if by.is_some() { incoming.from } else { 0 };
        let body = &incoming.body;
        let question = Question { node: *node, whom, from, service, body, limit, answers: &answers, index: 0 };
        let sent = match by {
            Some(_) => match self.send(&question) {
                Sent::As(id) => Ok(id),
                Sent::Refused(error) => Err(error),
                Sent::NotConnected => Err(RpcError::NoService { node: *node, service: service.to_string() }.into()),
            },
            None => {
                let runtime = self.state.lock().runtime.upgrade();
                runtime.ok_or(MembershipError::Stopped.into()).and_then(|runtime| runtime.put_question(&question))
            }
        };
        match sent {
            Ok(id) => {
                let mut state = self.state.lock();
                if !answers.are_there() {
                    state.forwarded.insert(incoming.reply_to, Forwarded { whom, id, answers });
                }
            }
            Err(error) => answers.complete(0, Err(error)),
        }
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
