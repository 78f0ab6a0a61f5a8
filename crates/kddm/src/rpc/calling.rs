//! Calls and casts, as a program makes them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Serialize, de::DeserializeOwned};

use super::error::{ANSWER, QUESTION, RpcError};
use super::frame::{Manner, Sort};
use super::reply::{Answers, Call, CallResult, Called, Finish};
use super::state::{Asks, Question};
use super::{LONGEST, Replies, Rpc};
use crate::error::Error;
use crate::pending::Pending;
use crate::runtime::Runtime;

/// How long a cast may take to be begun.
const CAST_LIMIT: Duration = Duration::from_secs(30);

impl Rpc {
    /// Calls a service of one node, which may be this one.
    ///
    /// # Errors
    /// [`RpcError`] says why there is no answer, and whether the handler may have run.
    pub fn call(&self, node: u16, service: &str, body: &[u8], limit: Duration) -> Pending<Vec<u8>> {
        self.start(&[node], service, body, limit, Box::new(|results| only(results).1))
    }

    /// Calls a service of several nodes at once: an answer or an error from each, in the order in
    /// which they are named.
    ///
    /// # Errors
    /// `WouldBlock` only; that a node has not answered is said in its place.
    pub fn call_all(&self, nodes: &[u16], service: &str, body: &[u8], limit: Duration) -> Pending<Replies<Vec<u8>>> {
        self.start(nodes, service, body, limit, Box::new(Ok))
    }

    /// As [`call`](Rpc::call), for a service that was registered with types.
    ///
    /// # Errors
    /// As `call`, and `Codec` for what does not encode or decode.
    pub fn call_typed<Q: Serialize + ?Sized, A: DeserializeOwned + 'static>(
        &self,
        node: u16,
        service: &str,
        question: &Q,
        limit: Duration,
    ) -> Pending<A> {
        let name = service.to_string();
        match encode(node, service, question) {
            Err(error) => Pending::ready(Err(error)),
            Ok(body) => {
                self.start(&[node], service, &body, limit, Box::new(move |results| decode(only(results), &name)))
            }
        }
    }

    /// As [`call_all`](Rpc::call_all), for a service that was registered with types.
    ///
    /// # Errors
    /// As `call_all`, and `Codec` if the question does not encode.
    pub fn call_all_typed<Q: Serialize + ?Sized, A: DeserializeOwned + 'static>(
        &self,
        nodes: &[u16],
        service: &str,
        question: &Q,
        limit: Duration,
    ) -> Pending<Replies<A>> {
        let name = service.to_string();
        let finish = move |results: Replies<Vec<u8>>| {
            Ok(results.into_iter().map(|(node, result)| (node, decode((node, result), &name))).collect())
        };
        match encode(self.node.id(), service, question) {
            Err(error) => Pending::ready(Err(error)),
            Ok(body) => self.start(nodes, service, &body, limit, Box::new(finish)),
        }
    }

    /// Asks for no answer: the question is on its way when this returns, or will be once the node is connected. Best
    /// effort: it arrives once, or not at all, and nothing tells. A *quick* service has those of one node in the order in
    /// which they were sent, as long as their connection lasts. One that is not begun within 30 s is not begun any more.
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(2)?;
    /// let (sender, told) = std::sync::mpsc::channel();
    /// let _service = nodes[1].rpc().register("hear", move |request| {
    ///     sender.send(request.body().to_vec())?;
    ///     Ok(Vec::new()) // nobody asks for it
    /// })?;
    /// nodes[0].rpc().cast(2, "hear", b"news")?;
    /// assert_eq!(told.recv()?, b"news");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What is known here: `NotAMember`, `BadName`, `TooLarge`, `Overloaded`, `Stopped`. Nothing was sent then.
    pub fn cast(&self, node: u16, service: &str, body: &[u8]) -> Result<(), Error> {
        let manner = Manner { sort: Sort::Cast, at_once: self.at_once, ..Manner::default() };
        let (service, limit) = (Arc::from(service), CAST_LIMIT);
        let question = Question { node, whom: node.into(), manner, service: &service, body, limit, asks: Asks::Nobody };
        self.node.runtime().put_question(&question).map(|_number| ())
    }

    /// As [`cast`](Rpc::cast), to several nodes: what became of each, in the order in which they are named.
    pub fn cast_all(&self, nodes: &[u16], service: &str, body: &[u8]) -> Replies<()> {
        nodes.iter().map(|node| (*node, self.cast(*node, service, body))).collect()
    }

    /// As [`cast`](Rpc::cast), for a service that was registered with types.
    ///
    /// # Errors
    /// As `cast`, and `Codec` for what does not encode.
    pub fn cast_typed<Q: Serialize + ?Sized>(&self, node: u16, service: &str, question: &Q) -> Result<(), Error> {
        self.cast(node, service, &encode(node, service, question)?)
    }

    fn start<O: 'static>(
        &self,
        nodes: &[u16],
        service: &str,
        body: &[u8],
        limit: Duration,
        finish: Finish<O>,
    ) -> Pending<O> {
        let runtime = Arc::clone(self.node.runtime());
        let (service, answers): (Arc<str>, _) = (service.into(), Arc::new(Answers::new(nodes.len())));
        let mut called = Vec::with_capacity(nodes.len());
        for (index, &node) in nodes.iter().enumerate() {
            let manner = Manner { at_once: self.at_once, ..Manner::default() };
            let asks = Asks::Answer(&answers, index);
            let question = Question { node, whom: node.into(), manner, service: &service, body, limit, asks };
            let id = match runtime.put_question(&question) {
                Ok(id) => Some(id),
                Err(error) => {
                    answers.complete(index, Err(error));
                    None
                }
            };
            called.push(Called { node, id });
        }
        // A limit beyond what the clock can say is as good as the longest that it can.
        let deadline = Instant::now().checked_add(limit).unwrap_or_else(|| Instant::now() + LONGEST);
        let (alarm, finish) = (None, Some(finish));
        Pending::called(Call { runtime, answers, service, called, limit, deadline, alarm, finish })
    }
}

/// An answer that does not come over a connection, and where it is to be left.
pub(crate) fn answered_here(
    runtime: &Arc<Runtime>,
    node: u16,
    service: &str,
    limit: Duration,
) -> (Arc<Answers>, Pending<Vec<u8>>) {
    let (service, answers): (Arc<str>, _) = (service.into(), Arc::new(Answers::new(1)));
    let (runtime, called, kept) = (Arc::clone(runtime), vec![Called { node, id: None }], Arc::clone(&answers));
    let deadline = crate::runtime::wait::deadline_in(limit);
    let finish: Finish<Vec<u8>> = Box::new(|results| only(results).1);
    let (alarm, finish) = (None, Some(finish));
    (answers, Pending::called(Call { runtime, answers: kept, service, called, limit, deadline, alarm, finish }))
}

fn only(results: Replies<Vec<u8>>) -> (u16, CallResult) {
    results.into_iter().next().expect("one node was called")
}

fn encode<Q: Serialize + ?Sized>(node: u16, service: &str, question: &Q) -> Result<Vec<u8>, Error> {
    let codec = |error: postcard::Error| RpcError::Codec {
        node,
        service: service.into(),
        what: QUESTION,
        reason: error.to_string(),
    };
    Ok(postcard::to_stdvec(question).map_err(codec)?)
}

fn decode<A: DeserializeOwned>((node, result): (u16, CallResult), service: &str) -> Result<A, Error> {
    let codec = |error: postcard::Error| RpcError::Codec {
        node,
        service: service.into(),
        what: ANSWER,
        reason: error.to_string(),
    };
    Ok(postcard::from_bytes(&result?).map_err(codec)?)
}
