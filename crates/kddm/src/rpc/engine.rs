//! All calls of a node: who is connected, what is outstanding, which services there are.
//!
//! One lock, held for short turns only; handlers run and wakers wake without it. One thread reads all
//! connections; it is started with the first of them, and sleeps while nothing comes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kddm_core::view::View;
use parking_lot::Mutex;

use super::connection::{Connection, Progress, Side};
use super::error::RpcError;
use super::frame::{self, Fault};
use super::relay::{Forward, Forwarded, Whom};
use super::reply::{Answers, CallResult};
use super::service::{Incoming, Outcome, Registered, ReplyTo};
use crate::error::{Error, MembershipError};
use crate::runtime::Runtime;
use crate::runtime::wait::mark_part_of_node;
use crate::transport::poll::{TIMER, WAKE};
use crate::transport::{Poller, Stream};

/// Calls to one node that may wait for an answer: as many as it takes from one caller.
pub(crate) const OUTSTANDING_LIMIT: usize = super::connection::RUNNING_LIMIT;

/// Bytes that wait for a connection to come about: some of the largest calls.
const EARLY_LIMIT_BYTES: usize = super::connection::UNSENT_LIMIT_BYTES;

/// How long a stop waits for handlers that do not look whether anybody still waits.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How often a stop looks whether a thread has ended.
const STOP_CHECK: Duration = Duration::from_millis(1);

/// A call that waits for its answer.
pub(super) struct Waiting {
    pub answers: Arc<Answers>,
    pub index: usize,
    pub service: Arc<str>,
    limit_ms: u64,
}

impl Waiting {
    pub fn failed(&self, node: u16, fault: Fault, reason: String) -> Error {
        let service = self.service.to_string();
        match fault {
            Fault::NoService => RpcError::NoService { node, service }.into(),
            Fault::Overloaded => RpcError::Overloaded { node, service, what: reason }.into(),
            Fault::Failed => RpcError::Failed { node, service, reason }.into(),
            Fault::Stopping => RpcError::Gone { node, service, reason: "it stops".into() }.into(),
            Fault::TooLate => RpcError::TimedOut { node, service, limit_ms: self.limit_ms }.into(),
            Fault::NotAMember => RpcError::NotAMember { node }.into(),
            Fault::Unreachable => RpcError::Unreachable { node, reason }.into(),
            Fault::Gone => RpcError::Gone { node, service, reason }.into(),
        }
    }
}

/// A node that was called.
pub(super) struct Callee {
    incarnation: u32,
    /// None while it is being dialled.
    pub connection: Option<u64>,
    /// What goes out once it is connected.
    early: Vec<u8>,
    pub calls: HashMap<u64, Waiting>,
}

impl Callee {
    /// One that has connected by itself.
    pub fn connected(connection: u64) -> Callee {
        Callee { incarnation: 0, connection: Some(connection), early: Vec::new(), calls: HashMap::new() }
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
    Answer(ReplyTo, Outcome),
    /// To another node for a program, or to a program.
    Forward(Forward),
    /// Nobody waits for that any more.
    Forget(Forwarded),
}

#[derive(Default)]
pub(super) struct State {
    pub is_stopped: bool,
    /// The last number given to a connection or call.
    last: u64,
    pub poller: Option<Arc<Poller>>,
    pub connections: HashMap<u64, Connection>,
    pub callees: HashMap<Whom, Callee>,
    /// By program, zero for none, and node.
    pub callers: HashMap<(u32, u16), u64>,
    pub services: HashMap<Arc<str>, Offered>,
    /// Calls that were passed on, by where their answers go.
    pub forwarded: HashMap<ReplyTo, Forwarded>,
    /// The node, if it is one.
    pub runtime: Weak<Runtime>,
    pub malformed: u64,
}

/// A question that is to go out.
pub(crate) struct Question<'a> {
    pub node: u16,
    /// Who answers: the node, or a program.
    pub whom: Whom,
    /// For whom it is asked, if not for this node.
    pub from: u16,
    pub service: &'a Arc<str>,
    pub body: &'a [u8],
    pub limit: Duration,
    pub answers: &'a Arc<Answers>,
    pub index: usize,
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

/// See the module.
#[derive(Default)]
pub(crate) struct Engine {
    pub(super) state: Mutex<State>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    pub fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(work)?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    pub fn register(&self, service: &Arc<Registered>) -> Result<(), Error> {
        let mut state = self.state.lock();
        if state.is_stopped {
            return Err(MembershipError::Stopped.into());
        }
        if state.services.contains_key(&service.name) || super::is_ours(&service.name) {
            return Err(RpcError::AlreadyRegistered { service: service.name.to_string() }.into());
        }
        state.services.insert(Arc::clone(&service.name), Offered::Here(Arc::clone(service)));
        Ok(())
    }

    /// Connections that ended because of what came on them.
    pub fn malformed(&self) -> u64 {
        self.state.lock().malformed
    }

    /// The service takes no more calls; returns when none runs.
    pub fn unregister(self: &Arc<Self>, service: &Arc<Registered>) {
        let mut state = self.state.lock();
        let known = state.services.get(&service.name);
        if known.is_some_and(|known| matches!(known, Offered::Here(known) if Arc::ptr_eq(known, service))) {
            state.services.remove(&service.name);
        }
        drop(state);
        service.close(self, Fault::NoService);
        service.wait_for_handlers();
    }

    /// Sends a question, or keeps it for a connection that is on its way.
    pub fn send(&self, question: &Question<'_>) -> Sent {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.is_stopped {
            return Sent::Refused(MembershipError::Stopped.into());
        }
        let Some(callee) = state.callees.get_mut(&question.whom) else { return Sent::NotConnected };
        let full = |what: String| {
            let (node, service) = (question.node, question.service.to_string());
            Sent::Refused(RpcError::Overloaded { node, service, what }.into())
        };
        if callee.calls.len() >= OUTSTANDING_LIMIT {
            return full(format!("{OUTSTANDING_LIMIT} calls to that node are outstanding"));
        }
        let connection = callee.connection.and_then(|number| state.connections.get_mut(&number));
        let mut connection = match (callee.connection, connection) {
            (Some(_), None) => return Sent::NotConnected,
            (_, connection) => connection,
        };
        let room = match &mut connection {
            Some(connection) => connection.room(),
            None => (callee.early.len() <= EARLY_LIMIT_BYTES).then_some(&mut callee.early),
        };
        let Some(room) = room else { return full("that node has yet to take what was sent before".into()) };
        state.last += 1;
        let id = state.last;
        let limit_us = u64::try_from(question.limit.as_micros()).unwrap_or(u64::MAX);
        frame::put_call(id, question.from, limit_us, question.service, question.body, room);
        let (answers, service) = (Arc::clone(question.answers), Arc::clone(question.service));
        callee.calls.insert(id, Waiting { answers, index: question.index, service, limit_ms: limit_us / 1000 });
        if let Some(connection) = connection {
            connection.write();
        }
        Sent::As(id)
    }

    /// From now on questions to that node are kept until it is connected. False if it was dialled
    /// by somebody else meanwhile.
    pub fn begin_dialling(&self, node: u16, incarnation: u32) -> bool {
        let mut state = self.state.lock();
        if state.is_stopped || state.callees.contains_key(&node.into()) {
            return false;
        }
        let (connection, early, calls) = Default::default();
        state.callees.insert(node.into(), Callee { incarnation, connection, early, calls });
        true
    }

    /// Dialling has come to an end: what was kept goes out, or fails.
    pub fn dialled(self: &Arc<Self>, node: u16, incarnation: u32, dialled: Result<Stream, String>) {
        let mut todo = Vec::new();
        let mut state = self.state.lock();
        let attached = dialled.and_then(|stream| {
            let connection = Connection::new(stream, node, incarnation, Side::Callee);
            self.attach(&mut state, connection).map_err(|error| error.to_string())
        });
        match attached {
            Ok(number) => {
                let State { callees, connections, .. } = &mut *state;
                if let (Some(callee), Some(connection)) = (callees.get_mut(&node.into()), connections.get_mut(&number))
                {
                    callee.connection = Some(number);
                    if let Some(room) = connection.room() {
                        room.append(&mut callee.early);
                    }
                    connection.write();
                }
            }
            Err(reason) => {
                let callee = state.callees.remove(&node.into()).filter(|callee| callee.incarnation == incarnation);
                for waiting in callee.into_iter().flat_map(|callee| callee.calls.into_values()) {
                    let error = RpcError::Unreachable { node, reason: reason.clone() };
                    todo.push(Todo::Complete(waiting.answers, waiting.index, Err(error.into())));
                }
            }
        }
        drop(state);
        self.perform(todo);
    }

    /// A member has connected, to call services here. A new connection of it replaces an old one.
    pub fn accepted(self: &Arc<Self>, node: u16, incarnation: u32, stream: Stream) -> std::io::Result<()> {
        let mut state = self.state.lock();
        let number = self.attach(&mut state, Connection::new(stream, node, incarnation, Side::Caller))?;
        let old = state.callers.insert((0, node), number);
        if let Some(old) = old.and_then(|old| state.connections.get_mut(&old)) {
            old.end("it has connected anew");
        }
        Ok(())
    }

    pub(super) fn attach(self: &Arc<Self>, state: &mut State, connection: Connection) -> std::io::Result<u64> {
        if state.is_stopped {
            return Err(std::io::Error::other("this node stops"));
        }
        let poller = match &state.poller {
            Some(poller) => Arc::clone(poller),
            None => {
                let poller = Arc::new(Poller::new()?);
                let (engine, polled) = (Arc::clone(self), Arc::clone(&poller));
                self.spawn("kddm-rpc", move || engine.read_all(&polled))?;
                state.poller = Some(Arc::clone(&poller));
                poller
            }
        };
        connection.stream().set_limit(None)?;
        connection.stream().set_nonblocking(true)?;
        state.last += 1;
        poller.add(connection.stream(), state.last)?;
        state.connections.insert(state.last, connection);
        Ok(state.last)
    }

    /// Nobody waits for a call any more.
    pub fn cancel(&self, whom: Whom, id: u64) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(callee) = state.callees.get_mut(&whom) else { return };
        if callee.calls.remove(&id).is_none() {
            return;
        }
        match callee.connection {
            Some(number) => {
                if let Some(connection) = state.connections.get_mut(&number)
                    && let Some(room) = connection.room()
                {
                    frame::put_cancel(id, room);
                    connection.write();
                }
            }
            None => frame::put_cancel(id, &mut callee.early),
        }
    }

    /// Answers a call that came in, if somebody still waits for it.
    pub fn answer(&self, to: ReplyTo, outcome: Outcome) {
        let mut state = self.state.lock();
        let Some(connection) = state.connections.get_mut(&to.connection) else { return };
        if !connection.finish(to.id) {
            return;
        }
        let Some(room) = connection.room() else {
            tracing::warn!(peer = connection.node, "a caller does not take its answers: ending its connection");
            return connection.end("it does not take its answers");
        };
        match outcome {
            Ok(body) => frame::put_done(to.id, &body, room),
            Err((fault, reason)) => frame::put_failed(to.id, fault, &reason, room),
        }
        connection.write();
    }

    /// Ends the connections of those that are not members any more. Their calls end with an error
    /// once the thread that reads sees it: nothing is woken under the caller's locks.
    pub fn installed(&self, view: &View) {
        let mut state = self.state.lock();
        for connection in state.connections.values_mut().filter(|connection| connection.side.is_of_node()) {
            let life = view.members.iter().find(|member| member.id.0 == connection.node);
            if life.is_none_or(|member| member.incarnation.0 != connection.incarnation) {
                connection.end("it is not a member any more");
            }
        }
    }

    /// From now on operations on objects are run for others.
    pub fn serves_objects_of(&self, runtime: &Arc<Runtime>) {
        self.state.lock().runtime = Arc::downgrade(runtime);
    }

    /// What the node itself answers.
    fn ask_node(&self, incoming: Incoming, ask: impl FnOnce(&Arc<Runtime>, Incoming)) {
        let runtime = self.state.lock().runtime.upgrade();
        match runtime {
            Some(runtime) => ask(&runtime, incoming),
            None => self.answer(incoming.reply_to, Err((Fault::NoService, String::new()))),
        }
    }

    fn read_all(self: &Arc<Self>, poller: &Poller) {
        mark_part_of_node();
        let mut ready: Vec<u64> = Vec::new();
        loop {
            // Edge-triggered: one that was not read to its end has its turn again without an event.
            let limit = (!ready.is_empty()).then_some(Duration::ZERO);
            let polled = poller.wait(limit, |event| match event.token {
                WAKE | TIMER => {}
                token => {
                    if event.writable {
                        self.write(token);
                    }
                    if event.readable && !ready.contains(&token) {
                        ready.push(token);
                    }
                }
            });
            if let Err(error) = polled {
                tracing::error!(%error, "polling failed: this node neither calls nor is called any more");
                return;
            }
            if self.state.lock().is_stopped {
                return;
            }
            ready.retain(|token| self.read(*token));
        }
    }

    fn write(&self, number: u64) {
        if let Some(connection) = self.state.lock().connections.get_mut(&number) {
            connection.write();
        }
    }

    /// Reads a connection and does what came. True if there is more to read.
    fn read(self: &Arc<Self>, number: u64) -> bool {
        let (mut frames, mut todo) = (Vec::new(), Vec::new());
        let mut state = self.state.lock();
        let Some(connection) = state.connections.get_mut(&number) else { return false };
        let progress = connection.read(&mut frames);
        for frame in frames {
            state.take(number, frame, &mut todo);
        }
        let more = matches!(progress, Progress::More);
        match progress {
            Progress::Waits | Progress::More => {}
            Progress::Ended(reason) => state.ended(number, &reason, &mut todo),
            Progress::Malformed(what) => {
                state.malformed += 1;
                tracing::warn!(what, "ending a connection for calls");
                state.ended(number, &format!("it sent {what}"), &mut todo);
            }
        }
        drop(state);
        self.perform(todo);
        more
    }

    pub(super) fn perform(self: &Arc<Self>, todo: Vec<Todo>) {
        for item in todo {
            match item {
                Todo::Complete(answers, index, result) => answers.complete(index, result),
                Todo::Serve(service, incoming) => service.take(self, incoming),
                Todo::Invoke(incoming) => self.ask_node(incoming, Runtime::asked_to_invoke),
                Todo::Scan(incoming) => self.ask_node(incoming, Runtime::asked_to_scan),
                Todo::Answer(to, outcome) => self.answer(to, outcome),
                Todo::Forward(forward) => self.forward(&forward),
                Todo::Forget(forwarded) => self.forget(&forwarded),
            }
        }
    }

    /// Everything ends: calls with an error, connections, services. Handlers that run are told.
    pub fn close(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.is_stopped = true;
        let services = std::mem::take(&mut state.services);
        let callees = std::mem::take(&mut state.callees);
        let poller = state.poller.take();
        // Their end also tells handlers that nobody waits for them any more.
        let connections = std::mem::take(&mut state.connections);
        drop(state);
        drop(connections);
        if let Some(poller) = poller {
            poller.wake();
        }
        for waiting in callees.into_values().flat_map(|callee| callee.calls.into_values()) {
            waiting.answers.complete(waiting.index, Err(MembershipError::Stopped.into()));
        }
        for offered in services.into_values() {
            if let Offered::Here(service) = offered {
                service.close(self, Fault::Stopping);
            }
        }
    }

    /// Waits for the threads, after [`close`](Engine::close). A handler that does not end is left.
    pub fn join(&self) {
        let deadline = Instant::now() + STOP_LIMIT;
        let threads = std::mem::take(&mut *self.threads.lock());
        let current = std::thread::current().id();
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != current) {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::park_timeout(STOP_CHECK);
            }
            if thread.is_finished() {
                let _ended = thread.join();
            } else {
                tracing::error!(limit = ?STOP_LIMIT, "a handler of a service still runs: this node stops without it");
            }
        }
    }
}
