//! What came on a connection, and its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::Side;
use super::engine::{STREAMS_LIMIT, STREAMS_OF};
use super::error::RpcError;
use super::frame::{self, Fault, Frame, Manner, Sort};
use super::relay::Forward;
use super::service::{Incoming, ReplyTo};
use super::state::{Offered, State, Todo, error_of};
use super::stream::flow::Flow;
use crate::error::Error;
use crate::runtime::changes;
use crate::{invoke, linker, scan};

/// No deadline is further away than a day, whatever a caller says.
const MOST_LIMIT_US: u64 = 86_400_000_000;

/// How often a call may be passed on: more is a circle.
pub(crate) const HOP_LIMIT: u8 = 8;

/// A call, cast or opened stream, as it came.
struct Asked {
    manner: Manner,
    limit_us: u64,
    service: String,
    body: Vec<u8>,
}

impl State {
    /// One frame of a connection.
    pub(super) fn take(&mut self, number: u64, frame: Frame, todo: &mut Vec<Todo>) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let (node, side) = (connection.node, connection.side);
        let (id, result) = match frame {
            Frame::Call { id, manner, limit_us, service, body } => {
                let asked = Asked { manner, limit_us, service, body };
                return self.asked(ReplyTo { connection: number, id }, asked, todo);
            }
            Frame::Cancel { id } => {
                connection.cancel(id);
                let to = ReplyTo { connection: number, id };
                let forwarded = self.forwarded.remove(&to);
                // Nothing else ends it here: nobody answers what was forgotten.
                if (self.forget_early(|early| *early == to) || forwarded.is_some())
                    && let Some(connection) = self.connections.get_mut(&number)
                {
                    connection.finish(id);
                }
                return todo.extend(forwarded.map(Todo::Forget));
            }
            Frame::Done { id, body } => (id, Ok(body)),
            Frame::Failed { id, fault, reason } => (id, Err((fault, reason))),
            Frame::Item { .. } | Frame::Credit { .. } | Frame::End { .. } | Frame::Stop { .. } => {
                return self.streamed(number, frame, todo);
            }
        };
        let callee = self.callees.get_mut(&side.whom(node)).filter(|callee| callee.connection == Some(number));
        // An answer that comes late finds nobody, and is dropped.
        if let Some(waiting) = callee.and_then(|callee| callee.calls.remove(&id)) {
            let result = result.map_err(|(fault, reason)| waiting.failed(node, fault, reason));
            todo.push(Todo::Complete(waiting.answers, waiting.index, result));
        }
    }

    fn asked(&mut self, reply_to: ReplyTo, asked: Asked, todo: &mut Vec<Todo>) {
        let Asked { manner, limit_us, service, body } = asked;
        let Some(connection) = self.connections.get_mut(&reply_to.connection) else { return };
        let (node, side) = (connection.node, connection.side);
        // Only a node asks for others: for its programs, and for whose calls it passes on.
        let may_name = side == Side::Lender || (side == Side::Caller && manner.hops > 0);
        if (manner.from != 0 && !may_name) || manner.hops > HOP_LIMIT {
            self.malformed += 1;
            return connection.end("it calls in the name of another");
        }
        self.counts.asked += 1;
        let cancelled = match connection.begin(reply_to.id, manner.sort, body.len()) {
            Ok(cancelled) => cancelled,
            // It is not in work, so nothing but this answers it.
            Err(what) => return self.refuse(reply_to, manner.sort, &what),
        };
        let refused = match manner.sort {
            // What is the node's own business its programs do not ask others in its name.
            Sort::Stream if matches!(side, Side::CallsOf(_)) && super::is_ours(&service) => {
                Some((Fault::NoService, String::new()))
            }
            Sort::Stream if connection.flows.len() >= STREAMS_LIMIT => {
                Some((Fault::Overloaded, STREAMS_OF.to_string()))
            }
            Sort::Stream if *service == *changes::WATCH_SERVICE => None,
            Sort::Stream | Sort::Cast if super::is_ours(&service) => Some((Fault::NoService, String::new())),
            Sort::Call if *service == *changes::WATCH_SERVICE => Some((Fault::NoService, String::new())),
            _ => None,
        };
        if let Some(refused) = refused {
            return todo.push(Todo::Answer(reply_to, Err(refused)));
        }
        let deadline = Instant::now() + Duration::from_micros(limit_us.min(MOST_LIMIT_US));
        let from = if manner.from != 0 { manner.from } else { node };
        let service: Arc<str> = service.into();
        let flow = (manner.sort == Sort::Stream).then(|| {
            self.counts.streams += 1;
            let limit = Duration::from_micros(limit_us.min(MOST_LIMIT_US));
            let flow = Arc::new(Flow::accepted(reply_to, node, &service, limit, &cancelled));
            connection.open(reply_to.connection, &flow);
            flow
        });
        let incoming = Incoming { reply_to, manner, from, body, deadline, cancelled, flow };
        if let Side::CallsOf(_) = side {
            let forward = Forward { incoming, service, program: None, node, passed: None };
            return todo.push(Todo::Forward(forward));
        }
        match &*service {
            invoke::SERVICE => return todo.push(Todo::Invoke(incoming)),
            scan::SERVICE => return todo.push(Todo::Scan(incoming)),
            linker::SERVICE => return todo.push(Todo::Linkers(incoming)),
            changes::WATCH_SERVICE => return todo.push(Todo::Watch(incoming)),
            _ => {}
        }
        match self.services.get(&*service) {
            Some(Offered::Here(service)) => todo.push(Todo::Serve(Arc::clone(service), incoming)),
            Some(Offered::By(session)) => {
                let program = Some(*session);
                todo.push(Todo::Forward(Forward { incoming, service, program, node, passed: None }));
            }
            None => self.take_early(service, incoming, node, todo),
        }
    }

    /// Something of a stream. One that is not there any more has ended here, and the other side is told so, or was.
    fn streamed(&mut self, number: u64, frame: Frame, todo: &mut Vec<Todo>) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let (Frame::Item { id, .. } | Frame::Credit { id, .. } | Frame::End { id, .. } | Frame::Stop { id, .. }) =
            &frame
        else {
            return;
        };
        let (id, node) = (*id, connection.node);
        let Some(flow) = connection.flows.get(&id).cloned() else { return };
        let error = |fault, reason| error_of(node, flow.service(), fault, reason, flow.limit_ms());
        match frame {
            Frame::Item { body, .. } => {
                if flow.take(body) {
                    return todo.push(Todo::Reads(flow));
                }
                // Whoever sends more than it may is told so, and nothing else has to do with it.
                self.malformed += 1;
                flow.ended(&RpcError::Dropped { node, service: flow.service().to_string() }.into());
                if let Some(room) = connection.room() {
                    let what = "more was sent than there was room for";
                    frame::put_end(id, Some((Fault::Failed, what)), room);
                    frame::put_stop(id, Fault::Failed, what, room);
                    connection.write();
                }
                todo.extend([Todo::Reads(Arc::clone(&flow)), Todo::Writes(Arc::clone(&flow))]);
            }
            Frame::Credit { bytes, .. } => {
                flow.may_send(bytes);
                todo.push(Todo::Writes(Arc::clone(&flow)));
            }
            Frame::End { fault, .. } => {
                flow.no_more(match fault {
                    None => Ok(()),
                    Some((fault, reason)) => Err(error(fault, reason)),
                });
                todo.push(Todo::Reads(Arc::clone(&flow)));
            }
            Frame::Stop { fault, reason, .. } => {
                flow.nobody_takes(&error(fault, reason));
                todo.push(Todo::Writes(Arc::clone(&flow)));
            }
            Frame::Call { .. } | Frame::Done { .. } | Frame::Failed { .. } | Frame::Cancel { .. } => {}
        }
        connection.forget_if_over(id, &flow);
    }

    fn refuse(&mut self, to: ReplyTo, sort: Sort, what: &str) {
        self.counts.refused += 1;
        let Some(connection) = self.connections.get_mut(&to.connection) else { return };
        let Some(room) = connection.room() else { return connection.end("it does not take its answers") };
        match sort {
            Sort::Cast => return,
            Sort::Call => frame::put_failed(to.id, Fault::Overloaded, what, room),
            Sort::Stream => {
                frame::put_end(to.id, Some((Fault::Overloaded, what)), room);
                frame::put_stop(to.id, Fault::Overloaded, what, room);
            }
        }
        connection.write();
    }

    /// A connection has ended: its calls and streams end with it, in both directions.
    pub(super) fn ended(&mut self, number: u64, reason: &str, todo: &mut Vec<Todo>) {
        let Some(mut connection) = self.connections.remove(&number) else { return };
        if let Some(poller) = &self.poller {
            poller.remove(connection.stream());
        }
        let (node, whom) = (connection.node, connection.side.whom(connection.node));
        let caller = (connection.side.session(), node);
        if self.callers.get(&caller) == Some(&number) {
            self.callers.remove(&caller);
        }
        let gone = |service: &Arc<str>| -> Error {
            RpcError::Gone { node, service: service.to_string(), reason: reason.into() }.into()
        };
        self.forget_early(|early| early.connection == number);
        let forwarded = self.forwarded.extract_if(|to, _| to.connection == number);
        todo.extend(forwarded.map(|(_, forwarded)| Todo::Forget(forwarded)));
        todo.extend(connection.end_flows(gone));
        if self.callees.get(&whom).is_some_and(|callee| callee.connection == Some(number)) {
            let callee = self.callees.remove(&whom);
            if let Side::Served(session) = connection.side {
                self.services.retain(|_, offered| !matches!(offered, Offered::By(by) if *by == session));
            }
            todo.extend(callee.into_iter().flat_map(|callee| callee.failed(gone)));
        }
    }
}
