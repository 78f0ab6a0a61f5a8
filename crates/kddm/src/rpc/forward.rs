//! A handler that leaves a call to another node.

use std::sync::Arc;

use serde::Serialize;

use super::{HandlerError, Request};

/// What such a handler ends with: no failure, though it travels in the place of one.
#[derive(Debug, thiserror::Error)]
#[error("the call is passed on to {service:?} at node {node}")]
pub(super) struct PassOn {
    pub node: u16,
    pub service: Arc<str>,
    pub body: Vec<u8>,
}

impl Request {
    /// Leaves the call to a service of another node, or of this one: the handler returns this as its error, and has
    /// ended. Whoever called has the answer from there; no thread waits for it here. The limit goes on to run, and a
    /// call that is cancelled is so there, too. There, [`from`](Request::from) is still the node that called.
    ///
    /// Whatever goes wrong there is [`Failed`](crate::RpcError::Failed) to whoever called, with a reason that names the
    /// other node. A call that was passed on 8 times is passed on no more.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(3)?;
    /// # let limit = std::time::Duration::from_secs(5);
    /// let _front = nodes[1].rpc().register("front", |request| Err(request.forward(3, "back", request.body())))?;
    /// let _back = nodes[2].rpc().register("back", |request| Ok(format!("to {}", request.from()).into_bytes()))?;
    /// assert_eq!(nodes[0].rpc().call(2, "front", b"", limit).wait()?, b"to 1");
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn forward(&self, node: u16, service: &str, body: &[u8]) -> HandlerError {
        Box::new(PassOn { node, service: service.into(), body: body.to_vec() })
    }

    /// As [`forward`](Request::forward), with a question of any type. One that does not encode is a failure here.
    pub fn forward_typed<Q: Serialize + ?Sized>(&self, node: u16, service: &str, question: &Q) -> HandlerError {
        match postcard::to_stdvec(question) {
            Ok(body) => Box::new(PassOn { node, service: service.into(), body }),
            Err(error) => error.into(),
        }
    }
}
