//! Begin and end sharing objects, for one node or all: where the admin tool's `cluster start` and
//! `cluster stop` meet the library. Every daemon serves both to the others.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use kddm::rpc::Service;
use kddm::{Error, Node, NodeState};
use serde::{Deserialize, Serialize};

use crate::admin::protocol::Failure;

/// The service's name.
const SERVICE: &str = "kddm.sharing";

/// How often whoever asked hears how far it is.
const PROGRESS: Duration = Duration::from_millis(200);

/// How much longer than the change itself an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How far a change is. Whoever asked for it sees it while it goes on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Progress {
    /// The node that changes.
    pub node: u16,
    /// Objects that are still to be handed over.
    pub objects_left: usize,
}

/// What a daemon asks another.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Order {
    Start { limit_ms: u64 },
    Stop { limit_ms: u64 },
    Left,
}

/// Lets other daemons have this node begin and end sharing, until the answer is dropped.
///
/// # Errors
/// As registering a service.
pub fn serve(node: &Node) -> Result<Service, Error> {
    node.rpc().register_blocking_typed(SERVICE, |request, order: Order| {
        let node = request.node();
        match order {
            Order::Start { limit_ms } => node.start_sharing(Duration::from_millis(limit_ms)).wait()?,
            Order::Stop { limit_ms } => node.stop_sharing(Duration::from_millis(limit_ms)).wait()?,
            Order::Left => return Ok(node.left_to_hand_over()),
        }
        Ok(0)
    })
}

/// Has `which` of the online nodes, or all of them, become possible.
///
/// # Errors
/// A sentence that says what to do.
pub fn start(node: &Node, which: Option<u16>, limit: Duration, told: &mut dyn FnMut(Progress)) -> Result<(), Failure> {
    let limit_ms = limit.as_millis() as u64;
    for id in chosen(node, which, NodeState::Online)? {
        change(node, id, Order::Start { limit_ms }, limit, told)?;
    }
    Ok(())
}

/// Has `which` node hand over what it has and step back to online.
///
/// # Errors
/// A sentence that says what to do: also if no node is named, because the last one could hand over to
/// nobody.
pub fn stop(node: &Node, which: Option<u16>, limit: Duration, told: &mut dyn FnMut(Progress)) -> Result<(), Failure> {
    if which.is_none() {
        let text = "if all nodes stopped sharing, nobody would keep the objects, and nothing was changed; \
                    name one with -n, or end the daemons one after the other";
        return Err(Failure::new(text));
    }
    let limit_ms = limit.as_millis() as u64;
    for id in chosen(node, which, NodeState::Possible)? {
        change(node, id, Order::Stop { limit_ms }, limit, told)?;
    }
    Ok(())
}

/// The named member, or all members in that state.
fn chosen(node: &Node, which: Option<u16>, state: NodeState) -> Result<Vec<u16>, Failure> {
    let members = node.members();
    match which {
        Some(id) if members.iter().any(|member| member.id == id) => Ok(vec![id]),
        Some(id) => Err(Failure::new(format!("node {id} is no member; `kddmadm nodes` shows who is"))),
        None => Ok(members.iter().filter(|member| member.state == state).map(|member| member.id).collect()),
    }
}

/// Has a node do it, and tells how far it is meanwhile.
fn change(node: &Node, id: u16, order: Order, limit: Duration, told: &mut dyn FnMut(Progress)) -> Result<(), Failure> {
    let (sender, done) = channel();
    let caller = node.clone();
    let call = move || {
        let answer = caller.rpc().call_typed::<_, usize>(id, SERVICE, &order, limit + ANSWER_LIMIT).wait();
        let _nobody_waits_any_more = sender.send(answer);
    };
    let thread = std::thread::Builder::new().name("kddmd-sharing".into()).spawn(call);
    thread.map_err(|error| Failure::new(format!("cannot start a thread: {error}")))?;
    loop {
        match done.recv_timeout(PROGRESS) {
            Ok(answer) => return answer.map(|_| ()).map_err(Failure::from),
            Err(RecvTimeoutError::Disconnected) => return Err(Failure::new("the call ended without an answer")),
            Err(RecvTimeoutError::Timeout) => {
                let left = node.rpc().call_typed::<_, usize>(id, SERVICE, &Order::Left, ANSWER_LIMIT).wait();
                if let Ok(objects_left) = left {
                    told(Progress { node: id, objects_left });
                }
            }
        }
    }
}
