//! Whom a question goes to, and how a connection to it comes about.

use std::sync::Arc;

use kddm_core::id::NodeId;

use super::error::RpcError;
use super::frame::{self, BODY_LIMIT_BYTES};
use super::state::{Question, Sent};
use crate::error::Error;
use crate::runtime::Runtime;
use crate::runtime::control::CONTROL_LIMIT;
use crate::transport::greeting::{Purpose, greet};
use crate::transport::{Address, Stream};

/// Connections that are tried for one call: one that is there may end just when it is used.
const ATTEMPTS: usize = 4;

impl Runtime {
    pub(in crate::rpc) fn put_question(self: &Arc<Self>, question: &Question<'_>) -> Result<u64, Error> {
        let (node, bytes) = (question.node, question.body.len());
        if !frame::is_name(question.service) {
            return Err(RpcError::BadName { service: question.service.to_string() }.into());
        }
        if bytes > BODY_LIMIT_BYTES {
            return Err(RpcError::TooLarge { bytes, limit_bytes: BODY_LIMIT_BYTES }.into());
        }
        for _ in 0..ATTEMPTS {
            match self.rpc.send(question) {
                Sent::As(id) => return Ok(id),
                Sent::Refused(error) => return Err(error),
                Sent::NotConnected => self.dial(node)?,
            }
        }
        Err(RpcError::Unreachable { node, reason: "its connections end as soon as they are made".into() }.into())
    }

    /// Has another thread dial a member: a call is on its way at once, and waits for nobody.
    fn dial(self: &Arc<Self>, node: u16) -> Result<(), Error> {
        let (incarnation, address) = match &self.lender {
            // That one knows who is a member, and passes calls on.
            Some(_) => (0, String::new()),
            None => {
                let member = self.membership.lock().state.member(NodeId(node)).cloned();
                let Some(member) = member else { return Err(RpcError::NotAMember { node }.into()) };
                (member.incarnation.0, member.address)
            }
        };
        if !self.rpc.begin_dialling(node, incarnation) {
            return Ok(());
        }
        let runtime = Arc::clone(self);
        let dialled = std::thread::Builder::new().name("kddm-rpc-dial".into()).spawn(move || {
            let stream = match &runtime.lender {
                Some(lender) => lender.connect_calls(node).map_err(|error| error.to_string()),
                None => runtime.connect_rpc(node, incarnation, &address),
            };
            runtime.rpc.dialled(node, incarnation, stream);
        });
        if let Err(error) = dialled {
            self.rpc.dialled(node, incarnation, Err(error.to_string()));
            return Err(RpcError::Unreachable { node, reason: error.to_string() }.into());
        }
        Ok(())
    }

    pub(super) fn connect_rpc(&self, node: u16, incarnation: u32, address: &str) -> Result<Stream, String> {
        let address: Address = address.parse().map_err(|error| format!("{error}"))?;
        let greeted = greet(&address, &self.hello(Purpose::Rpc), CONTROL_LIMIT).map_err(|error| error.to_string())?;
        let (stream, who, life) = greeted;
        if (who, life) != (node, u64::from(incarnation)) {
            return Err(format!("node {who} in life {life} answers at {address}"));
        }
        Ok(stream)
    }
}
