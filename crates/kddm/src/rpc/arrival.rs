//! What came on a connection, and its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::Side;
use super::engine::{Offered, State, Todo};
use super::error::RpcError;
use super::frame::{self, Fault, Frame};
use super::relay::Forward;
use super::service::{Incoming, ReplyTo};
use crate::{invoke, scan};

/// No deadline is further away than a day, whatever a caller says.
const MOST_LIMIT_US: u64 = 86_400_000_000;

impl State {
    /// One frame of a connection.
    pub(super) fn take(&mut self, number: u64, frame: Frame, todo: &mut Vec<Todo>) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let (node, side) = (connection.node, connection.side);
        let (id, result) = match frame {
            Frame::Call { id, from, limit_us, service, body } => {
                let reply_to = ReplyTo { connection: number, id };
                // Only a node asks for others, and only its programs.
                if from != 0 && side != Side::Lender {
                    self.malformed += 1;
                    return connection.end("it calls in the name of another");
                }
                let cancelled = match connection.begin(id, body.len()) {
                    Ok(cancelled) => cancelled,
                    // It is not in work, so nothing but this answers it.
                    Err(what) => return self.refuse(reply_to, &what),
                };
                let deadline = Instant::now() + Duration::from_micros(limit_us.min(MOST_LIMIT_US));
                let from = if side == Side::Lender { from } else { node };
                let incoming = Incoming { reply_to, from, body, deadline, cancelled };
                if let Side::CallsOf(_) = side {
                    let forward = Forward { incoming, service: service.into(), program: None, node };
                    return todo.push(Todo::Forward(forward));
                }
                match &*service {
                    invoke::SERVICE => return todo.push(Todo::Invoke(incoming)),
                    scan::SERVICE => return todo.push(Todo::Scan(incoming)),
                    _ => {}
                }
                todo.push(match self.services.get(&*service) {
                    Some(Offered::Here(service)) => Todo::Serve(Arc::clone(service), incoming),
                    Some(Offered::By(session)) => {
                        let program = Some(*session);
                        Todo::Forward(Forward { incoming, service: service.into(), program, node })
                    }
                    None => Todo::Answer(reply_to, Err((Fault::NoService, String::new()))),
                });
                return;
            }
            Frame::Cancel { id } => {
                connection.cancel(id);
                return todo.extend(self.forwarded.remove(&ReplyTo { connection: number, id }).map(Todo::Forget));
            }
            Frame::Done { id, body } => (id, Ok(body)),
            Frame::Failed { id, fault, reason } => (id, Err((fault, reason))),
        };
        let callee = self.callees.get_mut(&side.whom(node)).filter(|callee| callee.connection == Some(number));
        // An answer that comes late finds nobody, and is dropped.
        if let Some(waiting) = callee.and_then(|callee| callee.calls.remove(&id)) {
            let result = result.map_err(|(fault, reason)| waiting.failed(node, fault, reason));
            todo.push(Todo::Complete(waiting.answers, waiting.index, result));
        }
    }

    fn refuse(&mut self, to: ReplyTo, what: &str) {
        let Some(connection) = self.connections.get_mut(&to.connection) else { return };
        match connection.room() {
            Some(room) => frame::put_failed(to.id, Fault::Overloaded, what, room),
            None => connection.end("it does not take its answers"),
        }
        connection.write();
    }

    /// A connection has ended: its calls end with it, in both directions.
    pub(super) fn ended(&mut self, number: u64, reason: &str, todo: &mut Vec<Todo>) {
        let Some(connection) = self.connections.remove(&number) else { return };
        if let Some(poller) = &self.poller {
            poller.remove(connection.stream());
        }
        let (node, whom) = (connection.node, connection.side.whom(connection.node));
        let caller = (connection.side.session(), node);
        if self.callers.get(&caller) == Some(&number) {
            self.callers.remove(&caller);
        }
        let forwarded = self.forwarded.extract_if(|to, _| to.connection == number);
        todo.extend(forwarded.map(|(_, forwarded)| Todo::Forget(forwarded)));
        if self.callees.get(&whom).is_some_and(|callee| callee.connection == Some(number)) {
            let callee = self.callees.remove(&whom);
            if let Side::Served(session) = connection.side {
                self.services.retain(|_, offered| !matches!(offered, Offered::By(by) if *by == session));
            }
            for waiting in callee.into_iter().flat_map(|callee| callee.calls.into_values()) {
                let service = waiting.service.to_string();
                let error = RpcError::Gone { node, service, reason: reason.into() };
                todo.push(Todo::Complete(waiting.answers, waiting.index, Err(error.into())));
            }
        }
    }
}
