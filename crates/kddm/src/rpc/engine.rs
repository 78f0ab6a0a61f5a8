//! All calls of a node: what goes out, what comes in, and its end.
//!
//! One lock, held for short turns only; handlers run and wakers wake without it. One thread reads all
//! connections; it is started with the first of them, and sleeps while nothing comes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kddm_core::view::View;
use parking_lot::{Condvar, Mutex};

use super::connection::{Connection, Side};
use super::error::RpcError;
use super::frame::{self, Fault, Sort};
use super::relay::Whom;
use super::service::{Incoming, Outcome, Registered, ReplyTo};
use super::state::{Asks, CallCounts, Callee, Offered, Question, Sent, State, Todo, Waiting};
use super::stream::ends;
use crate::error::{Error, MembershipError};
use crate::runtime::Runtime;
use crate::transport::{Poller, Stream};
use crate::watch_all::Inbox;

/// Calls to one node that may wait for an answer: as many as it takes from one caller.
pub(crate) const OUTSTANDING_LIMIT: usize = super::connection::RUNNING_LIMIT;

/// Streams to one node, or from one, that may be open: each may have a window of bytes on its way.
pub(crate) const STREAMS_LIMIT: usize = 256;

/// What is said of that limit by who has it, and by whom he asks.
pub(super) const STREAMS_TO: &str = "256 streams to that node are open";
pub(super) const STREAMS_OF: &str = "256 streams of this caller are open";

/// Bytes that wait for a connection to come about: some of the largest calls.
const EARLY_LIMIT_BYTES: usize = super::connection::UNSENT_LIMIT_BYTES;

/// How long a stop waits for handlers that do not look whether anybody still waits.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How often a stop looks whether a thread has ended.
const STOP_CHECK: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Default)]
pub(crate) struct Engine {
    pub(super) state: Mutex<State>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pub(super) poller: OnceLock<Arc<Poller>>,
    pub(super) is_stopped: AtomicBool,
    /// Held while something is read and done, so that what came is done in that order.
    pub(super) reading: Mutex<()>,
    /// A thread that waits for an answer reads the connections, too.
    pub(super) guest: AtomicBool,
    pub(super) guest_gate: Mutex<()>,
    pub(super) guest_left: Condvar,
    /// Connections that a guest has not read to their end.
    pub(super) left_over: Mutex<Vec<(u64, bool)>>,
    /// Watches of sets, which ask whoever becomes a member.
    watches: Mutex<Vec<Weak<Inbox>>>,
}

impl Engine {
    pub fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(work)?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// What waits for it already is run.
    pub fn register(self: &Arc<Self>, service: &Arc<Registered>) -> Result<(), Error> {
        let mut state = self.state.lock();
        if state.is_stopped {
            return Err(MembershipError::Stopped.into());
        }
        if state.services.contains_key(&service.name) || super::is_ours(&service.name) {
            return Err(RpcError::AlreadyRegistered { service: service.name.to_string() }.into());
        }
        state.services.insert(Arc::clone(&service.name), Offered::Here(Arc::clone(service)));
        let todo = state.no_longer_early(&service.name);
        drop(state);
        self.perform(todo);
        Ok(())
    }

    /// Connections that ended because of what came on them.
    pub fn malformed(&self) -> u64 {
        self.state.lock().malformed
    }

    pub fn counted(&self) -> CallCounts {
        let state = self.state.lock();
        let open = state.connections.values().map(|connection| connection.flows.len()).sum::<usize>();
        CallCounts { open_streams: open as u64, ..state.counts }
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
        let streams = state.streams_to(question.whom);
        let Some(callee) = state.callees.get_mut(&question.whom) else { return Sent::NotConnected };
        let full = |what: String| {
            let (node, service) = (question.node, question.service.to_string());
            Sent::Refused(RpcError::Overloaded { node, service, what }.into())
        };
        if callee.calls.len() >= OUTSTANDING_LIMIT {
            return full(format!("{OUTSTANDING_LIMIT} calls to that node are outstanding"));
        }
        if question.manner.sort == Sort::Stream && streams >= STREAMS_LIMIT {
            return full(STREAMS_TO.into());
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
        frame::put_call(id, question.manner, limit_us, question.service, question.body, room);
        match question.asks {
            Asks::Answer(answers, index) => {
                let (answers, service) = (Arc::clone(answers), Arc::clone(question.service));
                callee.calls.insert(id, Waiting { answers, index, service, limit_ms: limit_us / 1000 });
                state.counts.called += 1;
            }
            Asks::Nobody => state.counts.cast += 1,
            Asks::Stream(flow) => {
                state.counts.streams += 1;
                flow.sent_as(id);
                match (&mut connection, callee.connection) {
                    (Some(connection), Some(number)) => connection.open(number, flow),
                    _ => callee.flows.push(Arc::clone(flow)),
                }
            }
        }
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
        state.callees.insert(node.into(), Callee::dialled(incarnation));
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
                    for flow in callee.flows.drain(..) {
                        connection.open(number, &flow);
                        todo.push(Todo::Writes(flow));
                    }
                    connection.write();
                }
            }
            Err(reason) => {
                let callee = state.callees.remove(&node.into()).filter(|callee| callee.incarnation == incarnation);
                let error = Error::from(RpcError::Unreachable { node, reason });
                todo.extend(callee.into_iter().flat_map(|callee| callee.failed(|_| error.clone())));
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
                let _the_first = self.poller.set(Arc::clone(&poller));
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

    /// Answers what came in, if somebody still waits for it.
    pub fn answer(&self, to: ReplyTo, outcome: Outcome) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(connection) = state.connections.get_mut(&to.connection) else { return };
        if matches!(outcome, Err((Fault::NoService | Fault::Overloaded, _))) {
            state.counts.refused += 1;
        }
        let Some(sort) = connection.finish(to.id) else { return };
        let Some(room) = connection.room() else {
            tracing::warn!(peer = connection.node, "a caller does not take its answers: ending its connection");
            return connection.end("it does not take its answers");
        };
        match (sort, outcome) {
            (Sort::Cast, _) | (Sort::Stream, Ok(_)) => {}
            (Sort::Call, Ok(body)) => frame::put_done(to.id, &body, room),
            (Sort::Call, Err((fault, reason))) => frame::put_failed(to.id, fault, &reason, room),
            (Sort::Stream, Err((fault, reason))) => {
                frame::put_end(to.id, Some((fault, &reason)), room);
                frame::put_stop(to.id, fault, &reason, room);
            }
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
        drop(state);
        self.watches.lock().iter().filter_map(Weak::upgrade).for_each(|inbox| inbox.tell());
    }

    /// That watch is told of each view.
    pub fn followed_by(&self, inbox: &Arc<Inbox>) {
        let mut watches = self.watches.lock();
        watches.retain(|inbox| inbox.strong_count() > 0);
        watches.push(Arc::downgrade(inbox));
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

    fn watch(self: &Arc<Self>, incoming: &Incoming) {
        let runtime = self.state.lock().runtime.upgrade();
        let ask = postcard::from_bytes(&incoming.body);
        match (runtime, ask, &incoming.flow) {
            (Some(runtime), Ok(ask), Some(flow)) => {
                let (to, from) = ends(self, &Arc::downgrade(&runtime), flow);
                runtime.asked_to_watch(ask, from, to);
            }
            _ => self.answer(incoming.reply_to, Err((Fault::NoService, String::new()))),
        }
    }

    pub(super) fn perform(self: &Arc<Self>, todo: Vec<Todo>) {
        for item in todo {
            match item {
                Todo::Complete(answers, index, result) => answers.complete(index, result),
                Todo::Serve(service, incoming) => service.take(self, incoming),
                Todo::Invoke(incoming) => self.ask_node(incoming, Runtime::asked_to_invoke),
                Todo::Scan(incoming) => self.ask_node(incoming, Runtime::asked_to_scan),
                Todo::Linkers(incoming) => self.ask_node(incoming, Runtime::asked_about_linkers),
                Todo::Watch(incoming) => self.watch(&incoming),
                Todo::Answer(to, outcome) => self.answer(to, outcome),
                Todo::Forward(forward) => self.forward(&forward),
                Todo::Forget(forwarded) => self.forget(&forwarded),
                Todo::Reads(flow) => flow.reads.tell(),
                Todo::Writes(flow) => flow.writes.tell(),
            }
        }
    }

    /// Everything ends: calls and streams with an error, connections, services. Handlers that run are told.
    pub fn close(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.is_stopped = true;
        self.is_stopped.store(true, Ordering::Release);
        let services = std::mem::take(&mut state.services);
        let callees = std::mem::take(&mut state.callees);
        let poller = state.poller.take();
        state.early.clear();
        // Their end also tells handlers that nobody waits for them any more.
        let mut connections = std::mem::take(&mut state.connections);
        drop(state);
        let stopped = || Error::from(MembershipError::Stopped);
        let mut todo: Vec<Todo> = callees.into_values().flat_map(|callee| callee.failed(|_| stopped())).collect();
        todo.extend(connections.values_mut().flat_map(|connection| connection.end_flows(|_| stopped())));
        drop(connections);
        if let Some(poller) = poller {
            poller.wake();
        }
        self.perform(todo);
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
