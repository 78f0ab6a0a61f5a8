//! The caller's side: whom to ask, and what is made of the answer.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::answer::{Question, Told};
use super::error::InvokeError;
use super::here::count;
use super::operations::{Item, Whom};
use super::{ARGUMENTS_LIMIT_BYTES, Operation, SERVICE, decode, small_enough};
use crate::error::{AccessError, Error, Fate, MembershipError, SetError};
use crate::pending::{Late, Pending, Reply, wait_at_most};
use crate::rpc::{RpcError, answered_here};
use crate::runtime::wait::{deadline_in, may_block};
use crate::value::Value;

/// Nodes that are asked one after the other because the object has moved on. After that the caller grabs it.
const HOPS: u8 = 4;

/// A call on its way.
struct Invocation<T: Value, A, R> {
    operation: Operation<T, A, R>,
    object: u64,
    arguments: Vec<u8>,
    /// Who was asked last.
    node: u16,
    hops_left: u8,
    deadline: Instant,
    stage: Stage<R>,
}

enum Stage<R> {
    /// Somebody was asked.
    Asked(Late<Vec<u8>>),
    /// The object is being grabbed.
    Here(Late<R>),
    Ended,
}

impl<T: Value, A, R> Operation<T, A, R>
where
    A: Serialize + DeserializeOwned + Send + 'static,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    /// The object is not free here.
    pub(super) fn send(&self, object: u64, arguments: A, moves: bool) -> Pending<R> {
        let shared = &self.0.operations.set.0;
        let (here, me) = (&shared.here, shared.here.runtime.identity.id.0);
        let invoking = &here.runtime.invoking;
        let is_attached = here.runtime.lender.is_some();
        // What this node owns by now needs no message, whatever was known before.
        let owner = if is_attached { Some(me) } else { here.owner_but(object, 0) };
        let Some(owner) = owner else {
            // Those that wait for one put are published together with the next.
            return if here.has_replicas() {
                self.start(object, &arguments, me)
            } else {
                self.run_here(object, arguments)
            };
        };
        match invoking.last_owner(here.set, object) {
            Some(last) if last.is_alone && moves => {
                invoking.forget_owner(here.set, object);
                self.run_here(object, arguments)
            }
            Some(last) if last.node != me => self.start(object, &arguments, last.node),
            _ => self.start(object, &arguments, owner),
        }
    }

    fn start(&self, object: u64, arguments: &A, node: u16) -> Pending<R> {
        let name = self.name();
        let arguments = postcard::to_stdvec(arguments)
            .map_err(|error| InvokeError::Arguments { operation: name.into(), reason: error.to_string() });
        let small =
            |bytes: Vec<u8>| small_enough(name, "the arguments", bytes.len(), ARGUMENTS_LIMIT_BYTES).map(|()| bytes);
        let arguments = match arguments.and_then(small) {
            Ok(arguments) => arguments,
            Err(error) => return Pending::ready(Err(error.into())),
        };
        let mut invocation = Invocation {
            operation: self.clone(),
            object,
            arguments,
            node,
            hops_left: HOPS,
            deadline: deadline_in(self.0.operations.set.0.wait_limit),
            stage: Stage::Ended,
        };
        invocation.ask(node);
        Pending::called(invocation)
    }
}

impl<T: Value, A, R> Invocation<T, A, R>
where
    A: Serialize + DeserializeOwned + Send + 'static,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    fn ask(&mut self, node: u16) {
        self.node = node;
        let inner = &self.operation.0;
        let here = &inner.operations.set.0.here;
        let left = self.deadline.saturating_duration_since(Instant::now());
        if node == here.runtime.identity.id.0 && here.runtime.lender.is_none() {
            let (answers, pending) = answered_here(&here.runtime, node, SERVICE, left);
            let item = Item {
                object: self.object,
                operation: Arc::clone(&inner.name),
                arguments: self.arguments.clone(),
                from: node,
                deadline: self.deadline,
                cancelled: None,
                whom: Whom::Thread(answers),
            };
            inner.operations.enqueue(item);
            self.stage = Stage::Asked(Late::of(pending));
            return;
        }
        count(&here.runtime.invoking.counts.delegated, 1);
        let (set, object, arguments) = (here.set.0, self.object, &self.arguments[..]);
        let question = Question { set, object, operation: &inner.name, arguments };
        // Writing to memory does not fail.
        let body = postcard::to_stdvec(&question).unwrap_or_default();
        let node_here = crate::node::Node(Arc::clone(&inner.operations.set.0._node));
        self.stage = Stage::Asked(Late::of(node_here.rpc().call(node, SERVICE, &body, left)));
    }

    /// What the answer is, unless somebody else is asked now.
    fn heard(&mut self, heard: Result<Vec<u8>, Error>) -> Option<Result<R, Error>> {
        let told = match heard {
            Ok(bytes) => decode(&bytes).unwrap_or_else(|reason| Told::Unconfirmed { reason }),
            Err(error) => return self.not_heard(error),
        };
        let (operation, node) = (self.operation.name().to_string(), self.node);
        let error: Error = match told {
            Told::Done { result, is_alone } => {
                let here = &self.operation.0.operations.set.0.here;
                if node != here.runtime.identity.id.0 {
                    here.runtime.invoking.note_owner(here.set, self.object, node, is_alone);
                }
                let wrong = |reason| InvokeError::Result { operation, node, reason }.into();
                return Some(decode(&result).map_err(wrong));
            }
            Told::NotMine { owner } => return self.ask_on(owner),
            Told::NoOperation | Told::Away => return self.fall_back(),
            Told::Destroyed => SetError::Destroyed.into(),
            Told::Panicked => InvokeError::Panicked { operation, node }.into(),
            Told::Arguments { reason } => InvokeError::Arguments { operation, reason }.into(),
            Told::Overloaded { waiting } => InvokeError::Overloaded { operation, node, waiting }.into(),
            Told::Refused { reason } => InvokeError::Refused { operation, node, reason }.into(),
            Told::Unconfirmed { reason } => InvokeError::Unconfirmed { operation, node, reason }.into(),
        };
        Some(Err(error))
    }

    /// There is no answer. It runs here only if it is certain that it ran nowhere else.
    fn not_heard(&mut self, error: Error) -> Option<Result<R, Error>> {
        match &error {
            Error::Access(AccessError::WouldBlock) | Error::Membership(MembershipError::Stopped) => Some(Err(error)),
            Error::Rpc(RpcError::Overloaded { .. }) => Some(Err(error)),
            _ if error.fate() == Fate::NothingHappened => self.fall_back(),
            _ => {
                self.forget();
                let (operation, reason) = (self.operation.name().to_string(), error.to_string());
                Some(Err(InvokeError::Unconfirmed { operation, node: self.node, reason }.into()))
            }
        }
    }

    fn forget(&self) {
        let here = &self.operation.0.operations.set.0.here;
        here.runtime.invoking.forget_owner(here.set, self.object);
    }

    fn ask_on(&mut self, owner: u16) -> Option<Result<R, Error>> {
        let me = self.operation.0.operations.set.0.here.runtime.identity.id.0;
        if self.hops_left == 0 || owner == me || owner == self.node {
            return self.fall_back();
        }
        self.hops_left -= 1;
        self.ask(owner);
        None
    }

    /// Nobody has run it: the object comes here.
    fn fall_back(&mut self) -> Option<Result<R, Error>> {
        self.forget();
        let operation = &self.operation;
        count(&operation.0.operations.set.0.here.runtime.invoking.counts.fallbacks, 1);
        let arguments = match decode(&self.arguments) {
            Ok(arguments) => arguments,
            // A type that does not read what it has written itself.
            Err(reason) => {
                return Some(Err(InvokeError::Arguments { operation: operation.name().into(), reason }.into()));
            }
        };
        self.stage = Stage::Here(Late::of(operation.run_here(self.object, arguments)));
        None
    }
}

const ENDED: &str = "a call is finished once";

impl<T: Value, A, R> Reply<R> for Invocation<T, A, R>
where
    A: Serialize + DeserializeOwned + Send + 'static,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    fn is_ready(&self) -> bool {
        match &self.stage {
            Stage::Asked(late) => late.is_ready(),
            Stage::Here(late) => late.is_ready(),
            Stage::Ended => true,
        }
    }

    fn wait(&mut self, limit: Option<Duration>) -> Result<R, Error> {
        if !may_block() {
            return Err(AccessError::WouldBlock.into());
        }
        let deadline = limit.map_or(self.deadline, |limit| deadline_in(limit).min(self.deadline));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match std::mem::replace(&mut self.stage, Stage::Ended) {
                Stage::Asked(late) => {
                    let heard = *wait_at_most(late, Some(left));
                    if let Some(result) = self.heard(heard) {
                        return result;
                    }
                }
                Stage::Here(late) => return *wait_at_most(late, Some(left)),
                Stage::Ended => unreachable!("{ENDED}"),
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<R, Error>> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Ended) {
                Stage::Asked(late) => match late.polled(context) {
                    Err(late) => {
                        self.stage = Stage::Asked(late);
                        return Poll::Pending;
                    }
                    Ok(heard) => {
                        if let Some(result) = self.heard(*heard) {
                            return Poll::Ready(result);
                        }
                    }
                },
                Stage::Here(late) => match late.polled(context) {
                    Err(late) => {
                        self.stage = Stage::Here(late);
                        return Poll::Pending;
                    }
                    Ok(result) => return Poll::Ready(*result),
                },
                Stage::Ended => unreachable!("{ENDED}"),
            }
        }
    }
}
